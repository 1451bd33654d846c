package websocket

import (
	"compress/flate"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Config configures a Hub. NewHub copies and checks it once; later changes have no
// effect. A zero field means its default, except for the booleans, whose value counts
// as it is. A negative value is an error unless the field's comment allows it, and so is
// a positive duration of less than a millisecond, such as 60 for 60 * time.Second. Sizes
// are in bytes.
type Config struct {
	// Messages and connections.
	//
	// ReadBufferSize is the size of the read buffer that each connection has while it is
	// awake (see HibernateAfter). Messages may be larger. Less than 288 means 288. Defaults
	// to 512.
	ReadBufferSize int
	// WriteBufferSize is not used; the field exists for compatibility with HypGo.
	// Defaults to 512.
	WriteBufferSize int
	// MaxMessageSize is the maximum size of a message from a client, with its
	// envelope and sealing, after decompression. On the wire a message may be larger by
	// 1/1,024 and 256 bytes, for data that does not compress. A larger message closes the connection with 1009. A client can make
	// the hub hold one unfinished message of this size. The hub must be able to publish
	// every message that it accepts, so the defaults of LogSize, ClientBacklog and
	// MemoryBudget follow large values, and Validate refuses values of theirs that are
	// too small. A limit of the broker cannot be checked before it is known: while it is
	// smaller, the hub logs a warning. Defaults to 512 KiB.
	MaxMessageSize int64
	// WriteWait is the maximum time in which a connection with bytes to write must
	// accept at least one of them, or it is aborted. A connection whose peer acknowledges
	// bytes or empties its receive buffer meanwhile is not aborted, where the operating
	// system tells (TCP on Linux, also beneath TLS). With TLS, a write of up to 16 KiB is
	// accepted as a whole. Defaults to 10 s.
	WriteWait time.Duration
	// PongWait is the maximum time in which a client may send nothing, after which it
	// is closed with 3008. Every received byte ends that time, not only a pong, and so
	// does every byte that the connection accepts while messages are queued. The time
	// in which OnMessage or Authorize runs does not count. No client is closed without a
	// ping that it had PongWait minus PingPeriod to answer; a peer that acknowledges
	// bytes in that time gets it again. Defaults to 60 s.
	PongWait time.Duration
	// PingPeriod is the time in which a client may send nothing before the hub pings
	// it. It must be shorter than PongWait. Defaults to nine tenths of PongWait. The 54 s
	// of DefaultConfig mean the default too if PongWait is not longer.
	PingPeriod time.Duration
	// WriteTimeout, PongTimeout and PingInterval are HypGo's names of WriteWait, PongWait
	// and PingPeriod. A value that is not zero takes the place of a zero or default value
	// under the other name. It is an error if both names have values that are not the
	// default and differ. Default to 0.
	WriteTimeout time.Duration
	PongTimeout  time.Duration
	PingInterval time.Duration
	// HibernateAfter is the time of silence after which a connection hibernates: its
	// goroutine and buffers, except those of TLS, are freed until the client sends something.
	// The hub adds up to a quarter at random, and rounds up to 1/32. A client that has sent nothing since its
	// handshake hibernates after a fifth of that, and one that sends something after a longer
	// silence as soon as that is handled. Nothing else changes: messages to the client, pings,
	// expiry and all calls work as before. A connection hibernates only between two messages, and only if the operating system can watch it: TCP and TLS on Linux, without
	// a wrapper of the application's around it. A ping or pong wakes it for a moment. That
	// the application itself has closed the net.Conn is noticed at the next write to it.
	// Defaults to 5 s; negative means never.
	HibernateAfter time.Duration

	// Codecs, compression and security.
	//
	// EnableCompression accepts permessage-deflate (RFC 7692) if a client offers it.
	// Ignored if Compression is not nil. Defaults to false; DefaultConfig has true.
	EnableCompression bool
	// Compression has the settings of permessage-deflate. Defaults to nil, which means
	// EnableCompression with the defaults of CompressionConfig.
	Compression *CompressionConfig
	// Subprotocols lists the names of the codecs that clients may choose. A client
	// that offers no subprotocol gets JSON, or the first of this list if JSON is not in
	// it. A client that offers only others is refused with 400. Defaults to the names
	// of all Codecs. DefaultConfig lists the four codecs of this package; this list in
	// its order means the default too, so that a copy of DefaultConfig with other Codecs
	// offers these.
	Subprotocols []string
	// Codecs lists the codecs of the hub. Their names and indexes must be unique.
	// Subprotocols can restrict the codecs that clients may choose. Defaults to JSON,
	// Protobuf, FlatBuffers and MessagePack.
	Codecs []Codec
	// IgnoreMalformed ignores messages from clients that their codec cannot decode,
	// such as the text "ping" from a JSON client, as HypGo does. They are counted in
	// Stats.MessagesIgnored. Frames of the other kind, text that is not UTF-8 and
	// messages that do not open still close the connection. Defaults to false: a
	// message that cannot be decoded closes the connection with 1007.
	IgnoreMalformed bool
	// Security has the keys that seal every message. Defaults to nil: only clients
	// with their own keys have sealed messages (Client.SetEncryptionKey). A
	// SecurityConfig without keys sets the order for those clients.
	Security *SecurityConfig
	// TLS has the certificate for ListenAndServeTLS and Serve. ListenAndServe returns an
	// error if it is set. One that has no certificate is an error. Defaults to nil, no TLS.
	TLS *TLSConfig

	// Handshakes.
	//
	// MaxHeaderBytes is the maximum size of a handshake's request line and header. A
	// larger request, or one with more than 100 fields, is refused with 431. For the
	// servers of ListenAndServe it is http.Server.MaxHeaderBytes too, so it also applies
	// to requests that are no handshakes. Defaults to 16 KiB.
	MaxHeaderBytes int
	// HandshakeTimeout is the maximum time for writing the response to a handshake,
	// and the maximum time that a handshake waits for Run. Defaults to 10 s.
	HandshakeTimeout time.Duration
	// AllowedOrigins lists the origins from which browsers may connect, besides the
	// host of the request itself. Each is a pattern of path.Match for the host and port
	// of the Origin header, such as "*.example.com", or for scheme, host and port, such
	// as "https://app.example.com". Case does not matter, and the default port of http
	// and https may be written or left out. A pattern that no Origin header can match is
	// an error, such as one with a path. "null" allows pages without an origin, such as
	// local files and sandboxed frames; any site can make such a page. Defaults to nil.
	AllowedOrigins []string
	// CheckOrigin reports whether a handshake is allowed; false refuses it with 403.
	// It replaces AllowedOrigins. Defaults to nil, which allows requests without an
	// Origin header, from the host and port of the request itself, and from
	// AllowedOrigins. If the hub's server ends TLS, a page of the same host without TLS
	// has another port.
	CheckOrigin func(r *http.Request) bool
	// ClientID returns the ID of a new client, for example from an authenticated
	// session. An ID is valid UTF-8 of 1 to 255 bytes without control characters. An
	// error or an invalid ID refuses the handshake with 401, and a *HandshakeError with
	// its own status, header and text. The client does not get the text of other errors.
	// An empty ID without an error means a random one, so a hook that authenticates must
	// return an error to refuse a client. ClientChosenID is a hook for IDs that clients
	// choose. Defaults to nil, which means 128 random bits in hexadecimal.
	ClientID func(r *http.Request) (string, error)
	// TrustedProxies lists the addresses of the reverse proxies in front of the hub, as IP
	// addresses and prefixes such as "10.0.0.0/8". If the peer of a connection is one of
	// them, the client's address is the last one in X-Forwarded-For that is not one of
	// them. Forwarded (RFC 7239) is read instead if the request has no X-Forwarded-For. A
	// client can write these fields too, so every listed proxy must add the address of its
	// peer to X-Forwarded-For, or else add it to Forwarded and remove X-Forwarded-For; and
	// no client may connect from a listed address. Client.RemoteAddr, Refusal.RemoteAddr,
	// the log and MaxClientsPerAddress use the result. A proxy that connects through a Unix
	// socket has no address and is never trusted. Defaults to nil: the address is that of
	// the connection's peer.
	TrustedProxies []string
	// OnRefuse is called for every handshake that is refused, before the response is
	// written and on the goroutine of the handler. It may be called at any time, also
	// before Run and after shutdown. It must not write a response, and should return
	// soon. Defaults to nil.
	OnRefuse func(r Refusal)
	// DuplicateID says what happens if the ID of a new client is in use. An ID is free as
	// soon as its connection begins to end, which is before OnDisconnect. Defaults to
	// RefuseDuplicate.
	DuplicateID DuplicatePolicy

	// Callbacks. A callback that panics is logged and its client is closed with 1011;
	// in CheckOrigin and ClientID the handshake is refused with 500, and in OnRefuse it
	// is refused as it would have been.
	//
	// Authorize decides about every control message of a client. It runs after
	// OnMessage, on the goroutine that reads from the client, with the message that
	// OnMessage left. Nil allows the message. An error that wraps ErrForbidden refuses
	// it: the client gets an "error" message with code "forbidden" and the error's
	// text. A *RequestError refuses it with its own code and text. Any other error is a
	// failure: the client gets code "internal" and the text "internal error", and the
	// error is logged. AllowSubscribe and AllowMembers are hooks for this field.
	// Defaults to nil, which allows everything, as HypGo does.
	Authorize func(c *Client, r AuthorizeRequest) error
	// OnConnect is called for each new client, before its first message is read.
	// Messages for the client are held until OnConnect returns, so keys that it sets
	// apply to the first message.
	//
	// The OnConnect, OnMessage, Authorize and OnDisconnect calls of one client run one
	// after the other. Those of different clients run at the same time. They do not
	// delay the delivery of messages to other clients. They may call any method of the
	// hub, but must not wait for Hub.Shutdown. Their goroutines serve other clients later,
	// so a callback undoes runtime.LockOSThread and labels of profiles. Defaults to nil.
	OnConnect func(c *Client)
	// OnDisconnect is called once for each client, after its connection and its
	// memberships have ended and its last OnMessage has returned. Client.CloseError
	// says why the connection ended, and Client.Channels and Client.Rooms return the
	// topics that it was in.
	//
	// The ID of the client is free before that, as soon as its connection begins to end:
	// OnConnect of a new client with the same ID may run first. So remove state by the
	// client and not by its ID: if online[c.ID] == c { delete(online, c.ID) }. Hub.Client
	// returns the newer client. Defaults to nil.
	OnDisconnect func(c *Client)
	// OnMessage is called for every message of a client, control messages included,
	// one at a time and in the order of arrival. The hub does not read from the client
	// while OnMessage runs. The Message is valid until OnMessage returns.
	//
	// The hub carries out the control message that OnMessage leaves. OnMessage may
	// change its Type, Channel, ID and Data, also the bytes of Data; the hub sets
	// ClientID and Timestamp again. If OnMessage releases the message or makes its Type
	// empty, the hub does nothing and sends no reply. Authorize sees the changed
	// message, and refuses one with a reply. Defaults to nil.
	//
	// A callback may run for long, for example to send the lines of a log until
	// Client.Context is done: the hub notices within about half a second that the peer
	// has closed the connection, as long as the peer has not sent more than 4 KiB that
	// are not read. Messages that a client has sent before its end are still handled.
	OnMessage func(c *Client, m *Message)
	// OnJoin is called when a client has joined a channel or room, by a control message
	// or by a method of Client or Cluster. Messages that are published from then on are sent to
	// the client, so a snapshot that OnJoin sends misses none.
	//
	// The OnJoin and OnLeave calls of one client run one after the other, in the order
	// of the changes and before its OnDisconnect. They run on the goroutine that made a
	// change, and after Cluster.Join and Leave on a goroutine of their own. If the application changes memberships from other goroutines, they may
	// run at the same time as the client's other callbacks. They may call any method of
	// the hub, but must not wait for another callback of the same client or for
	// Hub.Shutdown. Defaults to nil.
	//
	// When a connection ends while another callback of the client runs, OnLeave is
	// called after that callback. So a callback that runs for long should return when
	// Client.Context is done.
	OnJoin func(c *Client, t Topic)
	// OnLeave is called when a membership has ended, also by the end of the connection.
	// The rules of OnJoin apply. Defaults to nil.
	OnLeave func(c *Client, t Topic)
	// OnDrop is called for messages that a client did not get, added up for each
	// client, channel or room, and reason. It runs on its own goroutine and may call any
	// method of the hub, but must not wait for Hub.Shutdown. Messages that are dropped
	// while it runs are reported by later calls. If 8,192 reports are waiting, further
	// messages are added up for each client and reason, with Gap.All set. If 16,384 are
	// waiting, further messages are counted only in Stats.Unreported, and a warning is
	// logged. Defaults to nil.
	OnDrop func(c *Client, lost Gap)
	// OnUnsent is called for publications of this node, by the server or by clients, that did
	// not reach the other nodes because the broker was down, stalled or too slow, or refused
	// them. They are added up for each channel, room or client, and error. Recipients on this
	// node have got them, except in topics with history, and those on other nodes get a gap.
	// After an outage the application can publish its newest state again, for example.
	//
	// OnUnsent runs on its own goroutine and may call any method of the hub, but must not wait
	// for Hub.Shutdown. What fails while it runs is reported by later calls. If 4,096 reports
	// are waiting, further ones are added up with Unsent.All set. It is not called without a
	// Broker. Defaults to nil.
	OnUnsent func(lost Unsent)

	// Limits for clients.
	//
	// MaxClients is the maximum number of connections, handshakes included. A further
	// handshake is refused with 503. Defaults to 100,000; negative means no limit.
	MaxClients int
	// MaxClientsPerAddress is the maximum number of connections of one address, handshakes
	// included; for IPv6, of one /64, which is what a client usually has. A further
	// handshake is refused with 429, and not with 503, which makes some proxies take the
	// whole hub for broken. Behind a proxy it needs TrustedProxies, without which all
	// clients have the proxy's address. Clients without an address are not limited, for
	// example on a Unix socket. Many people may share an address, so it should be
	// generous. Defaults to 0; 0 and less mean no limit.
	MaxClientsPerAddress int
	// MaxHandshakes is the maximum number of handshakes at the same time. A further
	// one is refused with 503. Defaults to 1,024; negative means no limit.
	MaxHandshakes int
	// MaxSubscriptions is the maximum number of channels and rooms, together, that one
	// client may be in. Defaults to 1,000; negative means no limit.
	MaxSubscriptions int
	// MaxNameLength is the maximum length of channel names and room IDs, in bytes of
	// UTF-8. Defaults to 255.
	MaxNameLength int
	// MaxRequests is the maximum number of requests of one client that handlers of
	// Hub.HandleConcurrent work on at the same time, and also that of the requests to one
	// client that wait for its answer (Client.SendRequest). Defaults to 64; negative
	// means no limit.
	MaxRequests int
	// MessageRate is the number of frames, of all kinds, that the hub reads from a
	// client per second on average, and twice as many at once. It reads more slowly
	// from a client that sends more, so that the client's writes block; nothing is
	// lost. The default is the highest of the measured rates at which one client does
	// not noticeably delay others; docs/configuration.md has the figures. Defaults to
	// 1,000; negative means no limit.
	MessageRate int64
	// ByteRate is like MessageRate, for bytes on the wire. A compressed message counts
	// as its bytes on the wire and those after decompression. Defaults to 4 MiB; negative
	// means no limit.
	ByteRate int64
	// FloodTimeout is the time after which a client is closed with 1008 because
	// MessageRate or ByteRate has delayed it without a break of a second. A client that
	// sends each message after the reply to the last one is delayed too, if it is
	// faster than MessageRate. Defaults to 0: a client is delayed, and never closed for
	// it.
	FloodTimeout time.Duration
	// MessageTimeout limits the time that a client may take to send one message. From its
	// first byte to its last a message may take MessageTimeout, and one second more for
	// each KiB of it that has arrived. A client that takes longer is closed with 1008. The
	// time in which the hub delays a client because of its rates does not count. Defaults
	// to 60 s; negative means no limit.
	MessageTimeout time.Duration

	// Topics.
	//
	// TopicOptions returns the options of a channel or room. It is called when the topic
	// comes into being: when the first client joins it, or when a message is published
	// to it. Without members and history a topic is forgotten at once, so it may be
	// called for every publication to a topic without members. It must return soon and
	// must not call the hub. If it panics, the topic has no options. With a Broker it must
	// return the same on all nodes, and the Broker must be a HistoryBroker. Defaults to
	// nil, no options.
	TopicOptions func(kind TopicKind, name string) TopicOptions
	// HistoryBudget is the maximum size of the histories of all topics, with the encoded
	// forms of their messages. It is separate from MemoryBudget. When it is exceeded,
	// publications are removed from the history that was used least recently, oldest
	// first. Defaults to 256 MiB.
	HistoryBudget int64
	// PresenceInterval is the minimum time between two messages that tell the members of a
	// topic with TopicOptions.Presence about joins and leaves. Changes in that time are
	// told together. Defaults to 200 ms.
	PresenceInterval time.Duration

	// Queues and memory. A message counts as the length of its strings and Data, and
	// 128 bytes.
	//
	// Shards is the number of goroutines that deliver messages, at most 64. Defaults to
	// GOMAXPROCS.
	Shards int
	// LogSize is the maximum size of the messages that are accepted but not yet routed
	// to their recipients. Publishing waits while it is used up. A larger message
	// cannot be published. Defaults to 64 MiB, or to MaxMessageSize and 512 bytes if
	// that is more, and must not be less than the latter.
	LogSize int64
	// ClientBacklog is the maximum size of the messages that are queued for one client
	// because its connection did not accept them. A larger message cannot be
	// published. A message of more than an eighth of ClientBacklog counts as an eighth
	// while the connection accepts bytes, so that a few large messages at once do not
	// make a client that reads look slow. At most four times ClientBacklog are queued
	// then. A connection that has accepted nothing for two seconds has the exact bound.
	// Defaults to 1 MiB, or to MaxMessageSize and 512 bytes if that is more, and must
	// not be less than the latter.
	ClientBacklog int64
	// SlowConsumer says what happens if a message would exceed ClientBacklog. Defaults
	// to EvictSlow.
	SlowConsumer SlowConsumerPolicy
	// MemoryBudget is the maximum size of everything that clients make the hub hold:
	// messages with their encoded forms, where a message for many clients counts once,
	// messages that have arrived in part, memberships and the names of channels and rooms,
	// the requests of handshakes, and buffers for slow clients. A connection itself does
	// not count; MaxClients limits their number.
	//
	// While the budget is exceeded, new handshakes are refused with 503, and SlowConsumer
	// applies to the clients that hold the most, until an eighth of the budget is free.
	// Under DropOldest and DropNewest their oldest queued messages are dropped. A client
	// that holds mostly other things is closed with 1013 in any case. Clients that hold
	// less than 4 KiB are left alone. Defaults to 1 GiB, or to
	// four times MaxMessageSize and 2 KiB if that is more, and must not be less than the
	// latter.
	MemoryBudget int64

	// Cluster.
	//
	// Broker connects this hub with the hubs of other processes. The hub opens and
	// closes it. Defaults to nil, no other hubs.
	Broker Broker
	// NodeName is the name of this hub in the cluster, in results of Cluster and in
	// logs. It should be unique among the nodes, and has at most 255 bytes. Defaults to
	// 64 random bits in hexadecimal.
	NodeName string
	// BrokerQueue is the maximum size of the messages that wait for the broker.
	// Publishing waits while it is used up and the broker is up. Defaults to 16 MiB.
	BrokerQueue int64
	// BrokerTimeout is the maximum time for one operation of the broker; after it the
	// broker counts as stalled. It is also the maximum time that the methods of Cluster
	// wait for other nodes. Defaults to 3 s.
	BrokerTimeout time.Duration
	// AnnounceInterval is the time between two announcements of this node to the
	// others. A node counts as gone when it has missed three announcements. Defaults
	// to 2 s.
	AnnounceInterval time.Duration

	// Shutdown.
	//
	// DrainTimeout is the maximum time that shutdown, and Drain after its last slot, wait
	// for clients to accept their queued messages. Defaults to 5 s.
	DrainTimeout time.Duration
	// CallbackTimeout is the maximum time that shutdown waits for running callbacks
	// after that. Defaults to 30 s.
	CallbackTimeout time.Duration
}

// CompressionConfig has the settings of permessage-deflate (RFC 7692). The hub
// compresses each message by itself, without context takeover.
type CompressionConfig struct {
	// Enabled accepts compression if a client offers it. Defaults to false.
	Enabled bool
	// Level is a level of compress/flate from 1 (fastest) to 9 (smallest). Defaults to
	// 0, which means the default level of compress/flate.
	Level int
	// MinSize is the size in bytes of an encoded message from which on it is
	// compressed. Smaller messages are sent uncompressed. Defaults to 256.
	MinSize int
}

// TLSConfig has the certificate of a TLS server, as files, as a tls.Config, or both.
type TLSConfig struct {
	// CertFile and KeyFile are the names of PEM files. They are loaded when the server
	// starts, and again when they have changed, for the connections after that. The
	// files are checked at most once a second. If they cannot be loaded, an error is
	// logged and the older certificate stays in use. Both must be set, or neither if
	// TLSConfig has a certificate.
	CertFile string
	KeyFile  string
	// TLSConfig has further settings. The hub uses a copy, in which the minimum version
	// is at least TLS 1.2 and NextProtos has no version of HTTP but "http/1.1". Other
	// protocols stay, such as "acme-tls/1" of autocert. The same holds for results of
	// GetConfigForClient. Defaults to nil.
	TLSConfig *tls.Config
}

// DuplicatePolicy says what happens when a client connects with an ID that is in use.
type DuplicatePolicy int

const (
	// RefuseDuplicate refuses the new client's handshake with 409.
	RefuseDuplicate DuplicatePolicy = iota
	// ReplaceDuplicate accepts the new client and closes the older one with
	// CloseReplaced.
	ReplaceDuplicate
)

// SlowConsumerPolicy says what happens when a message would exceed a client's
// backlog, because its connection does not accept messages as fast as they are
// published.
type SlowConsumerPolicy int

const (
	// EvictSlow drops the client's queue and closes the client with
	// CloseTryAgainLater.
	EvictSlow SlowConsumerPolicy = iota
	// DropOldest drops the oldest queued messages. A message of type "gap" tells the
	// client about them.
	DropOldest
	// DropNewest drops the new message. A message of type "gap" in its place tells the
	// client about it.
	DropNewest
)

// DefaultConfig is a Config with the usual settings, to be copied and changed. Unlike a
// zero Config it enables compression and lists the subprotocols. The hub does not read
// it.
//
//	config := websocket.DefaultConfig
//	config.Subprotocols = []string{"json"}
var DefaultConfig = Config{
	ReadBufferSize:    512,
	WriteBufferSize:   512,
	MaxMessageSize:    512 << 10,
	WriteWait:         10 * time.Second,
	PongWait:          60 * time.Second,
	PingPeriod:        54 * time.Second,
	HandshakeTimeout:  10 * time.Second,
	EnableCompression: true,
	Subprotocols:      []string{"json", "protobuf", "flatbuffers", "msgpack"},
}

const (
	defaultBufferSize      = 512
	defaultMaxMessageSize  = 512 << 10
	defaultWriteWait       = 10 * time.Second
	defaultPongWait        = 60 * time.Second
	defaultPingPeriod      = defaultPongWait / 10 * 9
	defaultHandshake       = 10 * time.Second
	defaultMinCompress     = 256
	defaultLogSize         = 64 << 20
	defaultClientBacklog   = 1 << 20
	defaultMemoryBudget    = 1 << 30
	defaultHistoryBudget   = 256 << 20
	defaultPresence        = 200 * time.Millisecond
	defaultBrokerQueue     = 16 << 20
	defaultBrokerTimeout   = 3 * time.Second
	defaultAnnounce        = 2 * time.Second
	defaultDrainTimeout    = 5 * time.Second
	defaultCallbackTimeout = 30 * time.Second
	defaultMaxClients      = 100_000
	defaultMaxHandshakes   = 1024
	defaultSubscriptions   = 1000
	defaultNameLength      = 255
	defaultRequests        = 64
	defaultMessageRate     = 1000
	defaultByteRate        = 4 << 20
	defaultHeaderBytes     = 16 << 10
	defaultMessageTimeout  = 60 * time.Second
	defaultHibernate       = 5 * time.Second
	maxNodeName            = 255
	minDuration            = time.Millisecond
	maxShards              = 64 // the log marks the shards to wake in a uint64
)

// usualHibernateAfter is the default of Config.HibernateAfter. Tests change it.
var usualHibernateAfter = defaultHibernate

// Validate returns an error that names the first invalid field, or nil. NewHub panics
// with the same error.
func (c *Config) Validate() error {
	d := c.withDefaults()
	return d.validate()
}

// withDefaults returns a copy of c with its defaults. The copy shares no slices or keys
// with c.
func (c *Config) withDefaults() Config {
	d := *c
	setDefault(&d.ReadBufferSize, defaultBufferSize)
	setDefault(&d.WriteBufferSize, defaultBufferSize)
	setDefault(&d.MaxMessageSize, defaultMaxMessageSize)
	for _, f := range d.secondNames() {
		if *f.second != 0 && (*f.first == 0 || *f.first == f.usual) {
			*f.first = *f.second
		}
	}
	setDefault(&d.WriteWait, defaultWriteWait)
	setDefault(&d.PongWait, defaultPongWait)
	if d.PingInterval == 0 && d.PingPeriod == defaultPingPeriod && d.PingPeriod >= d.PongWait {
		d.PingPeriod = 0 // from DefaultConfig, and does not fit
	}
	setDefault(&d.PingPeriod, d.PongWait/10*9)
	setDefault(&d.HandshakeTimeout, defaultHandshake)
	setDefault(&d.MaxHeaderBytes, defaultHeaderBytes)
	setDefault(&d.Shards, min(runtime.GOMAXPROCS(0), maxShards))
	setDefault(&d.LogSize, max(defaultLogSize, d.largestCost()))
	setDefault(&d.ClientBacklog, max(defaultClientBacklog, d.largestCost()))
	setDefault(&d.MaxClients, defaultMaxClients)
	setDefault(&d.MaxHandshakes, defaultMaxHandshakes)
	setDefault(&d.MaxSubscriptions, defaultSubscriptions)
	setDefault(&d.MaxNameLength, defaultNameLength)
	setDefault(&d.MaxRequests, defaultRequests)
	setDefault(&d.MessageRate, defaultMessageRate)
	setDefault(&d.ByteRate, defaultByteRate)
	setDefault(&d.MessageTimeout, defaultMessageTimeout)
	setDefault(&d.HibernateAfter, usualHibernateAfter)
	d.AllowedOrigins = slices.Clone(d.AllowedOrigins)
	d.TrustedProxies = slices.Clone(d.TrustedProxies)
	setDefault(&d.MemoryBudget, max(defaultMemoryBudget, d.leastBudget()))
	setDefault(&d.HistoryBudget, defaultHistoryBudget)
	setDefault(&d.PresenceInterval, defaultPresence)
	setDefault(&d.BrokerQueue, defaultBrokerQueue)
	setDefault(&d.BrokerTimeout, defaultBrokerTimeout)
	setDefault(&d.AnnounceInterval, defaultAnnounce)
	setDefault(&d.DrainTimeout, defaultDrainTimeout)
	setDefault(&d.CallbackTimeout, defaultCallbackTimeout)

	compression := CompressionConfig{Enabled: d.EnableCompression}
	if d.Compression != nil {
		compression = *d.Compression
	}
	setDefault(&compression.Level, flate.DefaultCompression)
	setDefault(&compression.MinSize, defaultMinCompress)
	d.Compression = &compression

	d.setCodecs()
	if d.TLS != nil {
		t := *d.TLS
		d.TLS = &t
	}
	if d.Security != nil {
		security := *d.Security
		security.AESKey = slices.Clone(security.AESKey)
		security.HMACKey = slices.Clone(security.HMACKey)
		d.Security = &security
	}
	return d
}

// setCodecs sets the defaults of Codecs and Subprotocols. Subprotocols as in DefaultConfig
// count as not set, so that they follow the Codecs of a copy of it.
func (c *Config) setCodecs() {
	builtIn := []Codec{JSONCodec{}, ProtobufCodec{}, FlatBuffersCodec{}, MsgpackCodec{}}
	c.Codecs = slices.Clone(c.Codecs)
	if len(c.Codecs) == 0 {
		c.Codecs = builtIn
	}
	c.Subprotocols = slices.Clone(c.Subprotocols)
	if len(c.Subprotocols) == 0 || slices.Equal(c.Subprotocols, codecNames(builtIn)) {
		c.Subprotocols = codecNames(c.Codecs)
	}
}

// codecNames returns the names of codecs. It leaves out nil codecs, which Validate reports.
func codecNames(codecs []Codec) []string {
	var names []string
	for _, codec := range codecs {
		if codec != nil {
			names = append(names, codec.Name())
		}
	}
	return names
}

// secondName is a field that has a second name.
type secondName struct {
	firstName, secondName string
	first, second         *time.Duration
	usual                 time.Duration // the default, which DefaultConfig has
}

// secondNames returns the fields of c that have a second name.
func (c *Config) secondNames() []secondName {
	return []secondName{
		{"WriteWait", "WriteTimeout", &c.WriteWait, &c.WriteTimeout, defaultWriteWait},
		{"PongWait", "PongTimeout", &c.PongWait, &c.PongTimeout, defaultPongWait},
		{"PingPeriod", "PingInterval", &c.PingPeriod, &c.PingInterval, defaultPingPeriod},
	}
}

// maxOverhead is at least the difference between the cost of a client's message, when it
// is published, and its size: the cost of the envelope, the client's ID and the longest
// type that the hub sets. Names and data are part of the size.
const maxOverhead = 512

// largestCost returns the largest cost of a message from a client.
func (c *Config) largestCost() int64 {
	return min(max(c.MaxMessageSize, 0), math.MaxInt64-maxOverhead) + maxOverhead
}

// leastBudget returns the smallest MemoryBudget with which the largest message does not
// make all clients count as slow: room for it, a JSON form in base64 and another form.
func (c *Config) leastBudget() int64 { return 4 * min(c.largestCost(), math.MaxInt64/4) }

// setDefault sets a zero field to value.
func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validateSigns returns an error for a field that must not be negative but is.
func (c *Config) validateSigns() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"ReadBufferSize", int64(c.ReadBufferSize)},
		{"WriteBufferSize", int64(c.WriteBufferSize)},
		{"MaxMessageSize", c.MaxMessageSize},
		{"WriteTimeout", int64(c.WriteTimeout)},
		{"PongTimeout", int64(c.PongTimeout)},
		{"PingInterval", int64(c.PingInterval)},
		{"WriteWait", int64(c.WriteWait)},
		{"PongWait", int64(c.PongWait)},
		{"PingPeriod", int64(c.PingPeriod)},
		{"HandshakeTimeout", int64(c.HandshakeTimeout)},
		{"MaxHeaderBytes", int64(c.MaxHeaderBytes)},
		{"Shards", int64(c.Shards)},
		{"LogSize", c.LogSize},
		{"ClientBacklog", c.ClientBacklog},
		{"MemoryBudget", c.MemoryBudget},
		{"HistoryBudget", c.HistoryBudget},
		{"MaxNameLength", int64(c.MaxNameLength)},
		{"FloodTimeout", int64(c.FloodTimeout)},
		{"PresenceInterval", int64(c.PresenceInterval)},
		{"BrokerQueue", c.BrokerQueue},
		{"BrokerTimeout", int64(c.BrokerTimeout)},
		{"AnnounceInterval", int64(c.AnnounceInterval)},
		{"DrainTimeout", int64(c.DrainTimeout)},
		{"CallbackTimeout", int64(c.CallbackTimeout)},
		{"Compression.MinSize", int64(c.Compression.MinSize)},
	} {
		if f.value < 0 {
			return configError(f.name, "is negative")
		}
	}
	return nil
}

// validateDurations returns an error for a duration that is positive but less than
// minDuration: most often a number without its unit.
func (c *Config) validateDurations() error {
	for _, f := range []struct {
		name  string
		value time.Duration
	}{
		{"WriteTimeout", c.WriteTimeout},
		{"PongTimeout", c.PongTimeout},
		{"PingInterval", c.PingInterval},
		{"WriteWait", c.WriteWait},
		{"PongWait", c.PongWait},
		{"PingPeriod", c.PingPeriod},
		{"HandshakeTimeout", c.HandshakeTimeout},
		{"FloodTimeout", c.FloodTimeout},
		{"MessageTimeout", c.MessageTimeout},
		{"HibernateAfter", c.HibernateAfter},
		{"PresenceInterval", c.PresenceInterval},
		{"BrokerTimeout", c.BrokerTimeout},
		{"AnnounceInterval", c.AnnounceInterval},
		{"DrainTimeout", c.DrainTimeout},
		{"CallbackTimeout", c.CallbackTimeout},
	} {
		derived := f.name == "PingPeriod" && f.value == c.PongWait/10*9
		if f.value > 0 && f.value < minDuration && !derived {
			return configError(f.name, "is %v, but the minimum is %v: give it a unit, such as 10*time.Second", f.value, minDuration)
		}
	}
	return nil
}

// validate checks a Config that withDefaults returned.
func (c *Config) validate() error {
	if err := c.validateSigns(); err != nil {
		return err
	}
	if err := c.validateDurations(); err != nil {
		return err
	}
	for _, f := range c.secondNames() {
		if *f.second != 0 && *f.second != *f.first {
			return configError(f.secondName, "is %v, but %s, another name of it, is %v: set one of them", *f.second, f.firstName, *f.first)
		}
	}
	switch {
	case c.PingPeriod >= c.PongWait:
		ping, pong := "PingPeriod", "PongWait"
		if c.PingInterval != 0 {
			ping = "PingInterval"
		}
		if c.PongTimeout != 0 {
			pong = "PongTimeout"
		}
		return configError(ping, "is %v, which is not shorter than %s %v, so every client would be closed before it is pinged: set it to 0 for nine tenths of %s", c.PingPeriod, pong, c.PongWait, pong)
	case c.TopicOptions != nil && c.Broker != nil && !keepsHistories(c.Broker):
		return configError("TopicOptions", "needs a Broker that is a HistoryBroker, because nodes would keep different histories")
	case c.Shards > maxShards:
		return configError("Shards", "is %d, but the maximum is %d", c.Shards, maxShards)
	case c.DuplicateID < RefuseDuplicate || c.DuplicateID > ReplaceDuplicate:
		return configError("DuplicateID", "is %d, which is no DuplicatePolicy", c.DuplicateID)
	case c.SlowConsumer < EvictSlow || c.SlowConsumer > DropNewest:
		return configError("SlowConsumer", "is %d, which is no SlowConsumerPolicy", c.SlowConsumer)
	case c.Compression.Level < flate.DefaultCompression || c.Compression.Level > flate.BestCompression:
		return configError("Compression.Level", "is %d, want 1 to 9, or 0 for the default", c.Compression.Level)
	}
	if err := c.validateSizes(); err != nil {
		return err
	}
	for _, pattern := range c.AllowedOrigins {
		if _, err := originPattern(pattern); err != nil {
			return configError("AllowedOrigins", "has the pattern %q, which matches no origin: %v", pattern, err)
		}
	}
	if _, entry, err := parseProxies(c.TrustedProxies); err != nil {
		return configError("TrustedProxies", "has %q: %v", entry, err)
	}
	if err := c.validateCodecs(); err != nil {
		return err
	}
	if c.NodeName != "" {
		if problem := nameProblem(c.NodeName, maxNodeName); problem != "" {
			return configError("NodeName", "%.40q is invalid: %s", c.NodeName, problem)
		}
	}
	if c.TLS != nil {
		if err := c.TLS.validate(); err != nil {
			return err
		}
	}
	if c.Security != nil {
		return c.Security.validate()
	}
	return nil
}

// validateSizes returns an error for a bound that a message of MaxMessageSize exceeds.
func (c *Config) validateSizes() error {
	for _, f := range []struct {
		name        string
		size, least int64
	}{
		{"LogSize", c.LogSize, c.largestCost()},
		{"ClientBacklog", c.ClientBacklog, c.largestCost()},
		{"MemoryBudget", c.MemoryBudget, c.leastBudget()},
	} {
		if f.size < f.least {
			return configError(f.name, "is %d, but MaxMessageSize %d needs at least %d: reduce MaxMessageSize, or set %s to 0 for a default that fits", f.size, c.MaxMessageSize, f.least, f.name)
		}
	}
	return nil
}

// validateCodecs checks Codecs and Subprotocols.
func (c *Config) validateCodecs() error {
	if len(c.Codecs) > maxCodecs {
		return configError("Codecs", "has %d codecs, but the maximum is %d", len(c.Codecs), maxCodecs)
	}
	names, indexes := map[string]bool{}, map[int]bool{}
	for i, codec := range c.Codecs {
		switch {
		case codec == nil:
			return configError("Codecs", "has a nil codec at index %d", i)
		case !wsproto.IsToken(codec.Name()):
			return configError("Codecs", "has a codec named %q, which is no HTTP token and so no subprotocol (RFC 6455 section 4.1)", codec.Name())
		case names[codec.Name()]:
			return configError("Codecs", "has two codecs named %q", codec.Name())
		case indexes[codec.Index()]:
			return configError("Codecs", "has two codecs with index %d", codec.Index())
		case codec.WebSocketMessageType() != TextMessage && codec.WebSocketMessageType() != BinaryMessage:
			return configError("Codecs", "has the codec %q with message type %d, want TextMessage or BinaryMessage", codec.Name(), codec.WebSocketMessageType())
		}
		names[codec.Name()], indexes[codec.Index()] = true, true
	}
	for _, name := range c.Subprotocols {
		if !names[name] {
			return configError("Subprotocols", "has %q, but Codecs has no codec of that name: add the codec, or set Subprotocols to nil for the names of all Codecs", name)
		}
	}
	return nil
}

// configError returns an error about a field; the format continues after its name.
func configError(field, format string, args ...any) error {
	return errors.New("websocket: Config." + field + " " + fmt.Sprintf(format, args...))
}
