package websocket

import (
	"compress/flate"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"path"
	"runtime"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Config configures a Hub. NewHub copies and checks it once; later changes have
// no effect. Zero fields mean defaults, except for the booleans, whose literal
// value counts.
type Config struct {
	// ReadBufferSize is each connection's read buffer in bytes. Messages may be
	// larger than it. Defaults to 512.
	ReadBufferSize int
	// WriteBufferSize is the size in bytes of gorilla's buffer for messages. The hub
	// writes frames of its own, joined as it sees fit, so nothing uses it. Defaults
	// to 512.
	WriteBufferSize int
	// MaxMessageSize is the largest message in bytes that a client may send,
	// counted on the wire and again after inflating. A larger one closes the
	// connection with 1009. Defaults to 64 KiB.
	MaxMessageSize int64
	// WriteWait is the longest time that a connection with something to write
	// may go without accepting a byte. On TLS a write of up to 16 KiB is
	// accepted as a whole. Defaults to 10 s.
	WriteWait time.Duration
	// PongWait is the longest silence of a client before its connection is
	// closed with 3008. Every byte received counts as a sign of life. Defaults
	// to 60 s.
	PongWait time.Duration
	// PingPeriod is the silence after which a client is pinged. It must be
	// shorter than PongWait. Defaults to nine tenths of PongWait.
	PingPeriod time.Duration
	// HandshakeTimeout bounds the writing of the handshake's answer, and how
	// long a handshake waits for Run. Defaults to 10 s.
	HandshakeTimeout time.Duration

	// EnableCompression offers permessage-deflate (RFC 7692). Compression
	// overrides it when not nil.
	EnableCompression bool
	// Compression tunes permessage-deflate.
	Compression *CompressionConfig
	// Subprotocols names the codecs that clients may ask for. Defaults to all of
	// Codecs.
	Subprotocols []string
	// Codecs lists the codecs that the hub speaks. Names and indexes must be
	// unique. Defaults to JSON, Protobuf, FlatBuffers and MessagePack.
	Codecs []Codec
	// Security seals every message with keys for the whole hub. Nil leaves
	// sealing to keys set per client.
	Security *SecurityConfig
	// TLS is used by ListenAndServeTLS.
	TLS *TLSConfig

	// AllowedOrigins lists what browsers may come from beside the request's own
	// host: patterns of path.Match for the Origin's host and port, such as
	// "*.example.com", or with a scheme, such as "https://app.example.com".
	AllowedOrigins []string
	// CheckOrigin, when not nil, decides alone whether a handshake may go on;
	// false answers 403. Nil allows requests without an Origin, those whose Origin
	// is the request's own host, and AllowedOrigins.
	CheckOrigin func(r *http.Request) bool
	// ClientID supplies the client's ID, for example from a session that was
	// authenticated before. An error answers 401. Defaults to 128 random bits in
	// hexadecimal.
	ClientID func(r *http.Request) (string, error)
	// DuplicateID says what happens when the ID is in use. Defaults to
	// RefuseDuplicate.
	DuplicateID DuplicatePolicy
	// Authorize decides on every control message of a client. Nil allows it. An error
	// that wraps ErrForbidden refuses it: the client gets an "error" message with code
	// "forbidden" and the error's text. A *RequestError refuses it with a code and text
	// of its own. Any other error is a failure: the client gets code "internal" without
	// the text, which goes to the Logger. Authorize runs on the goroutine that reads
	// from the client, after OnMessage. Defaults to allowing everything, as HypGo does.
	Authorize func(c *Client, r AuthorizeRequest) error

	// OnConnect is called for each new client, before the handler of its handshake
	// returns and before its first message is read. Messages for the client are held
	// until OnConnect returns, so keys that it sets apply to the very first frame.
	//
	// All of one client's OnConnect, OnMessage, Authorize and OnDisconnect calls run
	// one after the other, those of different clients at the same time, never on a hub
	// goroutine. They may call any method of the hub. A callback that panics is logged,
	// and its client is closed with 1011.
	OnConnect func(c *Client)
	// OnDisconnect is called once for each client, after its last OnMessage has
	// returned and its memberships have ended.
	OnDisconnect func(c *Client)
	// OnMessage is called for every message of a client, control messages included,
	// one at a time and in the order of their arrival. While it runs the client is not
	// read from. The Message is valid until it returns. The Data of a control message
	// must not be changed in place: it is published next.
	OnMessage func(c *Client, m *Message)
	// OnJoin is called when a client has become a member of a channel or room, by a
	// control message or by Client.Subscribe and Client.JoinRoom: messages that are
	// published from then on reach the client, so a snapshot that OnJoin sends misses
	// none. OnLeave is called when a membership has ended, also by the end of the
	// connection.
	//
	// One client's OnJoin and OnLeave calls run one after the other, in the order of
	// the changes, and before its OnDisconnect. They run on the goroutine that made a
	// change, so they may run beside the client's other callbacks if the application
	// changes memberships from elsewhere. They may call any method of the hub but must
	// not wait for another callback of the same client. A panic is treated as in
	// OnConnect.
	OnJoin func(c *Client, t Topic)
	// OnLeave is described at OnJoin.
	OnLeave func(c *Client, t Topic)

	// MaxClients bounds the connections; a newcomer over it gets 503. Defaults to
	// 100,000; negative means no limit.
	MaxClients int
	// MaxHandshakes bounds the handshakes under way at once; one over it gets
	// 503. Defaults to 1,024; negative means no limit.
	MaxHandshakes int
	// MaxSubscriptions bounds the channels and rooms together that one client is
	// in. Defaults to 1,000; negative means no limit.
	MaxSubscriptions int
	// MaxNameLength bounds channel names and room IDs, in bytes of UTF-8. Control
	// characters are never allowed. Defaults to 255.
	MaxNameLength int
	// MessageRate is how many frames, of data or control, a client may send a
	// second, and twice as many at once. Beyond it the client is not read from
	// for a while; ten seconds of that without a break close it with 1008.
	// Defaults to 1,000; negative means no limit.
	MessageRate int64
	// ByteRate is MessageRate for bytes on the wire. Defaults to 4 MiB; negative
	// means no limit.
	ByteRate int64

	// Shards is the number of hub goroutines, 64 at most. Defaults to GOMAXPROCS.
	Shards int
	// LogSize bounds the messages, in bytes, that have been accepted but not yet
	// been looked up the receivers of. Publishing waits while it is full. Those
	// that wait for their receivers' turn count against MemoryBudget. Defaults
	// to 64 MiB.
	LogSize int64
	// ClientBacklog bounds the bytes that wait for one client whose connection
	// does not take them. Defaults to 1 MiB.
	ClientBacklog int64
	// SlowConsumer says what happens when a message would exceed ClientBacklog.
	// Defaults to EvictSlow.
	SlowConsumer SlowConsumerPolicy
	// MemoryBudget bounds the bytes of all messages that the hub holds, whoever
	// they wait for, each shared byte counted once. Over it newcomers get 503,
	// and every client that something waits for counts as over its bound.
	// Defaults to 1 GiB.
	MemoryBudget int64
	// OnDrop, when not nil, is told of messages that a client did not get, added
	// up per client, channel or room, and reason. It runs on a goroutine of its
	// own and may call anything; what is dropped while it runs is reported next.
	// Where 8,192 reports wait for it, more drops are added up per client and
	// reason, with Gap.All set; where 16,384 do, the rest is only counted, in
	// Stats.Unreported, and the hook's next call logs a warning that says how many.
	OnDrop func(c *Client, lost Gap)
	// Broker carries publications to and from the hubs of other processes. The
	// hub opens and closes it. Nil, the default, means that everything is in this
	// process.
	Broker Broker
	// NodeName is what other nodes know this one by, in answers and logs; it
	// should be unique among them, and takes 255 bytes at most. Defaults to 64
	// random bits in hexadecimal.
	NodeName string
	// BrokerQueue bounds the bytes of publications that wait for the engine.
	// Publishing waits while it is full and the engine takes something. Defaults
	// to 16 MiB.
	BrokerQueue int64
	// BrokerTimeout is how long the engine may take over anything before it
	// counts as stalled, and how long questions to other nodes wait where their
	// context sets no earlier end. Defaults to 3 s.
	BrokerTimeout time.Duration
	// AnnounceInterval is how often a node tells the others that it is there; it
	// counts as gone after three of them in silence. Defaults to 2 s.
	AnnounceInterval time.Duration
	// DrainTimeout is how long shutdown waits for clients to take what was
	// queued for them. Defaults to 5 s.
	DrainTimeout time.Duration
	// CallbackTimeout is how long shutdown waits for callbacks that still run.
	// Defaults to 30 s.
	CallbackTimeout time.Duration
}

// CompressionConfig tunes permessage-deflate (RFC 7692).
type CompressionConfig struct {
	// Enabled switches compression on for clients that offer it.
	Enabled bool
	// Level is a compress/flate level from 1 (fastest) to 9 (best); 0 is Go's
	// default level.
	Level int
	// MinSize is the encoded size in bytes from which messages are deflated;
	// smaller ones are sent as they are. Defaults to 256.
	MinSize int
}

// TLSConfig is what ListenAndServeTLS serves with: a certificate in files, or a
// ready tls.Config.
type TLSConfig struct {
	// CertFile and KeyFile are PEM files.
	CertFile string
	KeyFile  string
	// TLSConfig, when not nil, is cloned and used; CertFile and KeyFile may then
	// be empty if it has certificates. TLS 1.2 is the least that is spoken.
	TLSConfig *tls.Config
}

// DuplicatePolicy says what happens when a client connects with an ID that is in use.
type DuplicatePolicy int

const (
	// RefuseDuplicate answers the newcomer's handshake with 409.
	RefuseDuplicate DuplicatePolicy = iota
	// ReplaceDuplicate lets the newcomer in and closes the older connection with
	// CloseReplaced.
	ReplaceDuplicate
)

// SlowConsumerPolicy says what happens to a client that does not take what is
// sent to it as fast as it comes.
type SlowConsumerPolicy int

const (
	// EvictSlow closes the client with CloseTryAgainLater.
	EvictSlow SlowConsumerPolicy = iota
	// DropOldest drops what has waited longest, and tells the client with a
	// message of type "gap".
	DropOldest
	// DropNewest drops what comes, and tells the client with a message of type
	// "gap" where it would have stood.
	DropNewest
)

// DefaultConfig holds the defaults. The hub never reads it; it is a variable
// only so that callers can copy and change it:
//
//	config := websocket.DefaultConfig
//	config.Subprotocols = []string{"json"}
var DefaultConfig = Config{
	ReadBufferSize:    512,
	WriteBufferSize:   512,
	MaxMessageSize:    64 << 10,
	WriteWait:         10 * time.Second,
	PongWait:          60 * time.Second,
	PingPeriod:        54 * time.Second,
	HandshakeTimeout:  10 * time.Second,
	EnableCompression: true,
	Subprotocols:      []string{"json", "protobuf", "flatbuffers", "msgpack"},
}

const (
	defaultBufferSize      = 512
	defaultMaxMessageSize  = 64 << 10
	defaultWriteWait       = 10 * time.Second
	defaultPongWait        = 60 * time.Second
	defaultHandshake       = 10 * time.Second
	defaultMinCompress     = 256
	defaultLogSize         = 64 << 20
	defaultClientBacklog   = 1 << 20
	defaultMemoryBudget    = 1 << 30
	defaultBrokerQueue     = 16 << 20
	defaultBrokerTimeout   = 3 * time.Second
	defaultAnnounce        = 2 * time.Second
	defaultDrainTimeout    = 5 * time.Second
	defaultCallbackTimeout = 30 * time.Second
	defaultMaxClients      = 100_000
	defaultMaxHandshakes   = 1024
	defaultSubscriptions   = 1000
	defaultNameLength      = 255
	defaultMessageRate     = 1000
	defaultByteRate        = 4 << 20
	maxNodeName            = 255
	maxShards              = 64 // one bit each in a wake mask
)

// Validate reports the first setting that cannot work, by name. NewHub panics
// with the same error.
func (c *Config) Validate() error {
	d := c.withDefaults()
	return d.validate()
}

// withDefaults returns a copy that shares nothing mutable with c.
func (c *Config) withDefaults() Config {
	d := *c
	setDefault(&d.ReadBufferSize, defaultBufferSize)
	setDefault(&d.WriteBufferSize, defaultBufferSize)
	setDefault(&d.MaxMessageSize, defaultMaxMessageSize)
	setDefault(&d.WriteWait, defaultWriteWait)
	setDefault(&d.PongWait, defaultPongWait)
	setDefault(&d.PingPeriod, d.PongWait/10*9)
	setDefault(&d.HandshakeTimeout, defaultHandshake)
	setDefault(&d.Shards, min(runtime.GOMAXPROCS(0), maxShards))
	setDefault(&d.LogSize, defaultLogSize)
	setDefault(&d.ClientBacklog, defaultClientBacklog)
	setDefault(&d.MaxClients, defaultMaxClients)
	setDefault(&d.MaxHandshakes, defaultMaxHandshakes)
	setDefault(&d.MaxSubscriptions, defaultSubscriptions)
	setDefault(&d.MaxNameLength, defaultNameLength)
	setDefault(&d.MessageRate, defaultMessageRate)
	setDefault(&d.ByteRate, defaultByteRate)
	d.AllowedOrigins = slices.Clone(d.AllowedOrigins)
	setDefault(&d.MemoryBudget, defaultMemoryBudget)
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

	d.Codecs = slices.Clone(d.Codecs)
	if len(d.Codecs) == 0 {
		d.Codecs = []Codec{JSONCodec{}, ProtobufCodec{}, FlatBuffersCodec{}, MsgpackCodec{}}
	}
	d.Subprotocols = slices.Clone(d.Subprotocols)
	if len(d.Subprotocols) == 0 {
		for _, codec := range d.Codecs {
			if codec != nil {
				d.Subprotocols = append(d.Subprotocols, codec.Name())
			}
		}
	}
	if d.Security != nil {
		security := *d.Security
		security.AESKey = slices.Clone(security.AESKey)
		security.HMACKey = slices.Clone(security.HMACKey)
		d.Security = &security
	}
	return d
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate checks a Config that has its defaults.
func (c *Config) validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"ReadBufferSize", int64(c.ReadBufferSize)},
		{"WriteBufferSize", int64(c.WriteBufferSize)},
		{"MaxMessageSize", c.MaxMessageSize},
		{"WriteWait", int64(c.WriteWait)},
		{"PongWait", int64(c.PongWait)},
		{"PingPeriod", int64(c.PingPeriod)},
		{"HandshakeTimeout", int64(c.HandshakeTimeout)},
		{"Shards", int64(c.Shards)},
		{"LogSize", c.LogSize},
		{"ClientBacklog", c.ClientBacklog},
		{"MemoryBudget", c.MemoryBudget},
		{"MaxNameLength", int64(c.MaxNameLength)},
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
	switch {
	case c.PingPeriod >= c.PongWait:
		return configError("PingPeriod", "%v is not shorter than PongWait %v, so every client would time out before its ping", c.PingPeriod, c.PongWait)
	case c.Shards > maxShards:
		return configError("Shards", "is %d, at most %d", c.Shards, maxShards)
	case c.DuplicateID < RefuseDuplicate || c.DuplicateID > ReplaceDuplicate:
		return configError("DuplicateID", "%d is no DuplicatePolicy", c.DuplicateID)
	case c.SlowConsumer < EvictSlow || c.SlowConsumer > DropNewest:
		return configError("SlowConsumer", "%d is no SlowConsumerPolicy", c.SlowConsumer)
	case c.Compression.Level < flate.DefaultCompression || c.Compression.Level > flate.BestCompression:
		return configError("Compression.Level", "is %d, want 1 to 9, or 0 for the default", c.Compression.Level)
	}
	for _, pattern := range c.AllowedOrigins {
		if _, err := path.Match(pattern, ""); err != nil {
			return configError("AllowedOrigins", "has the pattern %q: %v", pattern, err)
		}
	}
	if err := c.validateCodecs(); err != nil {
		return err
	}
	if c.NodeName != "" {
		if err := checkName(c.NodeName, maxNodeName); err != nil {
			return configError("NodeName", "%v", err)
		}
	}
	if c.Security != nil {
		return c.Security.validate()
	}
	return nil
}

func (c *Config) validateCodecs() error {
	if len(c.Codecs) > maxCodecs {
		return configError("Codecs", "has %d codecs, at most %d", len(c.Codecs), maxCodecs)
	}
	names, indexes := map[string]bool{}, map[int]bool{}
	for i, codec := range c.Codecs {
		switch {
		case codec == nil:
			return configError("Codecs", "[%d] is nil", i)
		case !wsproto.IsToken(codec.Name()):
			return configError("Codecs", "[%d] has the name %q, which is no HTTP token and so no subprotocol (RFC 6455 section 4.1)", i, codec.Name())
		case names[codec.Name()]:
			return configError("Codecs", "has two codecs named %q", codec.Name())
		case indexes[codec.Index()]:
			return configError("Codecs", "has two codecs with index %d", codec.Index())
		case codec.WebSocketMessageType() != TextMessage && codec.WebSocketMessageType() != BinaryMessage:
			return configError("Codecs", "%q has message type %d, want TextMessage or BinaryMessage", codec.Name(), codec.WebSocketMessageType())
		}
		names[codec.Name()], indexes[codec.Index()] = true, true
	}
	for _, name := range c.Subprotocols {
		if !names[name] {
			return configError("Subprotocols", "names %q, but no codec of that name is in Codecs", name)
		}
	}
	return nil
}

func configError(field, format string, args ...any) error {
	return errors.New("websocket: Config." + field + " " + fmt.Sprintf(format, args...))
}
