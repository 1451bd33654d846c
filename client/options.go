package client

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Options configures a Client. Dial copies and checks it; later changes have no
// effect. Zero fields get their defaults, so Options{} is ready for use.
//
// All handlers and callbacks of a client run on one goroutine, one at a time, in
// the order of the events that they report. Only NetDial, Proxy, TokenSource and
// Reconnect run on another goroutine, the one that connects.
type Options struct {
	// Codec is "json", "protobuf", "flatbuffers" or "msgpack". Defaults to "json".
	Codec string
	// Security holds the keys that seal and open all messages. The hub must have the
	// same keys for this client. The client ends with code 1008 when a message from
	// the hub does not open. Defaults to nil: messages are not sealed.
	Security *websocket.SecurityConfig
	// TLS configures wss:// connections. Defaults to the zero tls.Config. NextProtos
	// is overwritten, because the handshake needs HTTP/1.1.
	TLS *tls.Config
	// Header is added to the handshake's request. It may set Host, but none of the
	// WebSocket headers. Defaults to no headers.
	Header http.Header
	// Proxy returns the proxy for the handshake's request. Defaults to
	// http.ProxyFromEnvironment, or to no proxy if NetDial is set.
	Proxy func(*http.Request) (*url.URL, error)
	// NetDial opens the network connection, for tests and unusual networks. For
	// wss:// URLs the client adds TLS on top. Defaults to the DialContext method of
	// a zero net.Dialer.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
	// EnableCompression offers permessage-deflate in the handshake. With Security
	// it is not offered. Defaults to false.
	EnableCompression bool

	// TokenSource supplies the token of each handshake. Defaults to nil: no token.
	TokenSource TokenSource
	// TokenAsSubprotocol sends the token as browsers have to: as an offered
	// subprotocol "bearer.<base64url of the token>" instead of the header
	// "Authorization: Bearer <token>". Defaults to false.
	TokenAsSubprotocol bool

	// RetryDial makes Dial retry after a failed attempt until its context ends or an
	// attempt fails in a way that a retry cannot change. Defaults to false: Dial
	// returns the error of the first attempt.
	RetryDial bool
	// BackoffMin and BackoffMax determine the delay before the next attempt. After
	// n failures in a row it is random between 0 and BackoffMin * 2^n, at most
	// BackoffMax (full jitter). The hub's Retry-After, at most BackoffMax, is added.
	// They default to 500 ms and 30 s. BackoffMax is at least 1 ms.
	BackoffMin time.Duration
	BackoffMax time.Duration
	// BackoffReset is the duration after which a connection counts as a success
	// that resets the number of failures. Defaults to 10 s.
	BackoffReset time.Duration
	// Reconnect replaces Reconnectable: it reports whether the client reconnects
	// after a connection has ended. It must not block and must not call the client.
	// Defaults to Reconnectable of the error's Code, and for code 3000 to whether
	// there is a TokenSource.
	Reconnect func(*websocket.CloseError) bool

	// HandshakeTimeout bounds one attempt to connect, including the TokenSource.
	// Defaults to 10 s.
	HandshakeTimeout time.Duration
	// RestoreTimeout bounds the time from the handshake to Connected: the hub's
	// onConnect and its replies for all channels and rooms. Defaults to 30 s.
	RestoreTimeout time.Duration
	// WriteTimeout bounds the write of one frame. Defaults to 10 s.
	WriteTimeout time.Duration
	// Heartbeat is the time without a received byte after which the client sends a
	// ping. If the hub again sends nothing for that time, the connection counts as
	// broken, with code 3008. A call whose context reaches its deadline while the hub
	// sends nothing makes the client send the ping at once. Defaults to the hub's
	// figure, and to 15 s if the hub tells none. Negative means that the client sends no pings and never gives up a
	// silent connection.
	Heartbeat time.Duration
	// CloseTimeout bounds Close. Defaults to 5 s.
	CloseTimeout time.Duration

	// MaxSendSize is the maximum size in bytes of an encoded and sealed message.
	// Calls return websocket.ErrMessageTooLarge for larger ones. It must not exceed
	// the hub's Config.MaxMessageSize, because the hub closes with code 1009, after
	// which the client does not reconnect. Defaults to the limit that the hub tells, and
	// before that to 512 KiB, the hub's default.
	MaxSendSize int
	// MessageRate is the maximum number of messages per second, and of messages in
	// one burst. Further messages wait in the queue. Above its Config.MessageRate the
	// hub reads more slowly. If it has a Config.FloodTimeout, MessageRate must be less:
	// the hub then closes a faster client with code 1008, after which the client does
	// not reconnect. Defaults to nine tenths of the rate that the hub tells, and before
	// that to 900, nine tenths of the hub's default. Negative means no limit.
	MessageRate int64
	// ByteRate is like MessageRate but limits bytes of encoded and sealed messages.
	// Defaults to nine tenths of the rate that the hub tells, and before that of 4 MiB.
	// Negative means no limit.
	ByteRate int64
	// MaxReceiveSize is the maximum size in bytes of a received message, before and
	// after decompression. The client ends with code 1009 when one is larger.
	// Defaults to 2 MiB, enough for every message that the hub's default
	// Config.ClientBacklog admits.
	MaxReceiveSize int64
	// OutboundLimit is the maximum number of queued bytes that wait to be written.
	// Calls wait while it is exceeded. Defaults to 1 MiB.
	OutboundLimit int
	// InboundLimit is the maximum number of queued bytes that wait for handlers and
	// callbacks. Messages received above it are dropped and reported to OnGap with
	// ReasonSlowHandler. Defaults to 4 MiB.
	InboundLimit int64

	// Handlers answer requests of the hub by type, from the first message on. See
	// Client.Handle, which registers further ones. Defaults to none.
	Handlers map[string]RequestHandler
	// OnState reports every change of the state. Of the changes that wait for a slow
	// callback only the latest 32 are kept. Defaults to nil: changes are not
	// reported.
	OnState func(StateChange)
	// OnMessage gets the messages that have no handler: those with an application's
	// own type, broadcasts, messages to this client alone, those of channels and
	// rooms that the hub added it to, and those of subscriptions without a handler of
	// their own. Defaults to nil: they are ignored.
	OnMessage Handler
	// OnGap reports messages that were missed or may have been, before the next
	// message of that channel or room. The Gap's Reason is one of the hub's or one of
	// the Reason constants. After a reconnect the hub's reason is "history", and Count is 0
	// if the hub has forgotten the history. A loss is reported again if the
	// connection breaks before the next message of the channel or room. Defaults to nil: OnError gets an error that wraps
	// ErrMissed if messages were certainly missed.
	OnGap func(websocket.Gap)
	// OnError reports the errors that no call returns: panics of handlers and of the
	// other On callbacks (*PanicError), after which the client goes on; channels and
	// rooms that could not be restored (*RestoreError); and the hub's refusals of
	// messages sent with Send (*Error); and failures of handlers of requests. Defaults to
	// slog.Error.
	OnError func(error)
}

// shortestBackoff is the smallest BackoffMax. Less would be a busy loop.
const shortestBackoff = time.Millisecond

// defaultMaxSendSize is the limit until the hub has told its own.
const defaultMaxSendSize = 512 << 10

// Handler handles the messages of a channel or room. It owns the Message and its
// Data and may keep them. Each handler of a channel gets a Message of its own.
type Handler func(*websocket.Message)

// TokenSource returns the token for a handshake. The client calls it for every
// attempt. renew reports that the hub has refused the latest token, so that a cached
// one must not be returned. After an error the client retries, unless the error
// wraps ErrNoToken. With an empty token the handshake has none. docs/clients.md has a
// table of the reactions to a refused token. A TokenSource must return when ctx ends, and must not call the
// client.
type TokenSource func(ctx context.Context, renew bool) (token string, err error)

// StaticToken returns a TokenSource that always returns token, and ErrNoToken when
// renew is true.
func StaticToken(token string) TokenSource {
	return func(_ context.Context, renew bool) (string, error) {
		if renew {
			return "", ErrNoToken
		}
		return token, nil
	}
}

// Reasons of a websocket.Gap that the client itself sets. The hub's reasons are
// passed on unchanged.
const (
	// ReasonReconnect means that the connection was lost and re-established, and that
	// the channel or room has no history:
	// messages published from First to Last may be missing. First is the Timestamp
	// of the latest message of this channel or room, or of the subscription. Last is
	// the hub's time when the subscription was restored. Count is 0, because the
	// number is unknown.
	ReasonReconnect = "reconnect"
	// ReasonSlowHandler means that messages were dropped because
	// Options.InboundLimit was reached.
	ReasonSlowHandler = "slow_handler"
)

var codecs = []websocket.Codec{
	websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{},
}

// withDefaults returns a copy of o with defaults for the zero fields. The copy
// shares no keys, TLS configuration or headers with o.
func (o *Options) withDefaults() Options {
	d := *o
	if d.Proxy == nil && d.NetDial == nil {
		d.Proxy = http.ProxyFromEnvironment
	}
	if d.NetDial == nil {
		d.NetDial = (&net.Dialer{}).DialContext
	}
	if d.OnError == nil {
		d.OnError = func(err error) { slog.Error(err.Error()) }
	}
	setDefault(&d.Codec, "json")
	setDefault(&d.BackoffMin, 500*time.Millisecond)
	setDefault(&d.BackoffMax, max(30*time.Second, d.BackoffMin))
	setDefault(&d.BackoffReset, 10*time.Second)
	setDefault(&d.HandshakeTimeout, 10*time.Second)
	setDefault(&d.RestoreTimeout, 30*time.Second)
	setDefault(&d.WriteTimeout, 10*time.Second)
	setDefault(&d.CloseTimeout, 5*time.Second)
	setDefault(&d.MaxReceiveSize, 2<<20)
	setDefault(&d.OutboundLimit, max(1<<20, d.MaxSendSize))
	setDefault(&d.InboundLimit, 4<<20)
	if d.Security != nil {
		security := *d.Security
		security.AESKey = slices.Clone(security.AESKey)
		security.HMACKey = slices.Clone(security.HMACKey)
		d.Security = &security
	}
	d.Handlers = maps.Clone(d.Handlers)
	if d.Handlers == nil {
		d.Handlers = make(map[string]RequestHandler)
	}
	d.TLS = d.TLS.Clone()
	if d.TLS == nil {
		d.TLS = &tls.Config{}
	}
	d.TLS.NextProtos = []string{"http/1.1"} // HTTP/2 has no Upgrade header
	header := make(http.Header, len(d.Header))
	for key, values := range d.Header {
		for _, value := range values {
			header.Add(key, value)
		}
	}
	d.Header = header
	return d
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// validate checks o, which withDefaults returned.
func (o *Options) validate() error {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"BackoffMin", int64(o.BackoffMin)},
		{"BackoffMax", int64(o.BackoffMax)},
		{"BackoffReset", int64(o.BackoffReset)},
		{"HandshakeTimeout", int64(o.HandshakeTimeout)},
		{"RestoreTimeout", int64(o.RestoreTimeout)},
		{"WriteTimeout", int64(o.WriteTimeout)},
		{"CloseTimeout", int64(o.CloseTimeout)},
		{"MaxSendSize", int64(o.MaxSendSize)},
		{"MaxReceiveSize", o.MaxReceiveSize},
		{"OutboundLimit", int64(o.OutboundLimit)},
		{"InboundLimit", o.InboundLimit},
	} {
		if f.value < 0 {
			return optionError(f.name, "is negative")
		}
	}
	switch {
	case o.codec() == nil:
		return optionError("Codec", "%q is unknown", o.Codec)
	case o.BackoffMin > o.BackoffMax:
		return optionError("BackoffMin", "%v is longer than BackoffMax %v", o.BackoffMin, o.BackoffMax)
	case o.BackoffMax < shortestBackoff:
		return optionError("BackoffMax", "%v is shorter than %v", o.BackoffMax, shortestBackoff)
	case o.MaxSendSize > o.OutboundLimit:
		return optionError("MaxSendSize", "%d is more than OutboundLimit %d", o.MaxSendSize, o.OutboundLimit)
	}
	for typ, handler := range o.Handlers {
		if isReserved(typ) || handler == nil {
			return optionError("Handlers", "has none for %q, or the type is reserved", typ)
		}
	}
	for key := range o.Header {
		if key == "Upgrade" || key == "Connection" || strings.HasPrefix(key, "Sec-Websocket-") {
			return optionError("Header", "contains %q, which the client sets itself", key)
		}
	}
	if o.Security != nil {
		return checkKeys(o.Security)
	}
	return nil
}

func checkKeys(s *websocket.SecurityConfig) error {
	if s.AESKey == nil && s.HMACKey == nil {
		return fmt.Errorf("%w: Options.Security has neither AESKey nor HMACKey", websocket.ErrInvalidKey)
	}
	if s.AESKey != nil {
		if err := seal.CheckAESKey("Options.Security.AESKey", s.AESKey); err != nil {
			return err
		}
	}
	if s.HMACKey != nil {
		return seal.CheckHMACKey("Options.Security.HMACKey", s.HMACKey)
	}
	return nil
}

func checkURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return fmt.Errorf("websocket: URL: %w", err)
	case u.Scheme != "ws" && u.Scheme != "wss":
		return fmt.Errorf("websocket: URL: scheme %q, want ws or wss", u.Scheme)
	case u.Host == "":
		return errors.New("websocket: URL: no host")
	case u.User != nil:
		return errors.New("websocket: URL: contains a user name; use Options.Header or Options.TokenSource")
	}
	return nil
}

func optionError(field, format string, args ...any) error {
	return errors.New("websocket: Options." + field + " " + fmt.Sprintf(format, args...))
}

func (o *Options) codec() websocket.Codec {
	for _, codec := range codecs {
		if codec.Name() == o.Codec {
			return codec
		}
	}
	return nil
}

// bearerOffer returns the subprotocol that offers token to the hub.
func bearerOffer(token string) string {
	return "bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
}
