package client

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Options configures a Client. Dial copies and checks it once; later changes
// have no effect. Zero fields mean defaults, so Options{} is ready for use.
//
// All callbacks and handlers of a client run on one goroutine of their own, one
// at a time, in the order of what they tell.
type Options struct {
	// Codec is "json", "protobuf", "flatbuffers" or "msgpack". Defaults to "json".
	Codec string
	// Security seals every message, with the keys that the hub has for this
	// client. A message of the hub's that does not open ends the client with 1008.
	// Defaults to nil, no sealing.
	Security *websocket.SecurityConfig
	// TLS is used for wss:// URLs. Defaults to Go's defaults.
	TLS *tls.Config
	// Header is added to the handshake's request. It may name a Host, but none of
	// the WebSocket headers. Defaults to nothing.
	Header http.Header
	// Proxy chooses the proxy for the handshake's request. Defaults to
	// http.ProxyFromEnvironment, or to none where NetDial is set.
	Proxy func(*http.Request) (*url.URL, error)
	// NetDial makes the network connection, for tests and unusual networks; TLS
	// is put on top of it where the URL says so. Defaults to a net.Dialer's.
	NetDial func(ctx context.Context, network, addr string) (net.Conn, error)
	// EnableCompression offers permessage-deflate. Sealed messages are never
	// deflated. Defaults to false.
	EnableCompression bool

	// TokenSource supplies the token of each handshake. Defaults to nil, no token.
	TokenSource TokenSource
	// TokenAsSubprotocol sends the token as the subprotocol offer
	// "bearer.<base64url of it>", as browsers have to, in place of the header
	// "Authorization: Bearer <token>". Defaults to false.
	TokenAsSubprotocol bool

	// RetryDial makes Dial try again until its context ends where a later attempt
	// may succeed. Defaults to false: Dial returns the first failure.
	RetryDial bool
	// BackoffMin and BackoffMax bound the waiting between attempts: after n
	// failures in a row it is random between 0 and BackoffMin times 2 to the n, at
	// most BackoffMax (full jitter). A Retry-After of the hub's, at most
	// BackoffMax too, is added. Default to 500 ms and 30 s.
	BackoffMin time.Duration
	BackoffMax time.Duration
	// BackoffReset is how long a connection has to last to end a row of failures.
	// Defaults to 10 s.
	BackoffReset time.Duration
	// Reconnect decides in place of Reconnectable whether a connection that ended
	// is made again. It must neither block nor call the client. Defaults to Reconnectable, and true for
	// 3000 where there is a TokenSource.
	Reconnect func(*websocket.CloseError) bool

	// HandshakeTimeout bounds one attempt to connect, the TokenSource included.
	// Defaults to 10 s.
	HandshakeTimeout time.Duration
	// RestoreTimeout bounds the time from the handshake to Connected: the hub's
	// onConnect, and its answers for all channels and rooms. Defaults to 30 s.
	RestoreTimeout time.Duration
	// WriteTimeout bounds the writing of one frame. Defaults to 10 s.
	WriteTimeout time.Duration
	// ReadTimeout is the longest silence of the hub before the connection counts
	// as broken. Every byte received counts as a sign of life. Defaults to 75 s.
	ReadTimeout time.Duration
	// PingPeriod is the hub's silence after which it is pinged. It must be shorter
	// than ReadTimeout. Defaults to four fifths of ReadTimeout, which with the
	// defaults on both sides is longer than the period of the hub's own pings.
	PingPeriod time.Duration
	// CloseTimeout bounds Close. Defaults to 5 s.
	CloseTimeout time.Duration

	// MaxSendSize is the largest message in bytes, encoded and sealed, that may be
	// sent; larger ones are websocket.ErrMessageTooLarge. It must not be larger
	// than the hub's Config.MaxMessageSize, because a hub closes with 1009 for
	// good. Defaults to 64 KiB, the hub's default.
	MaxSendSize int
	// MessageRate is how many messages a second are sent, and how many at once
	// after a pause; calls wait beyond that. It must be less than the hub's
	// Config.MessageRate, because a hub closes with 1008 for good where that is
	// exceeded for long. Defaults to 900, nine tenths of the hub's default;
	// negative means no limit.
	MessageRate int64
	// ByteRate is MessageRate for bytes, encoded and sealed. Defaults to nine
	// tenths of 4 MiB; negative means no limit.
	ByteRate int64
	// MaxReceiveSize is the largest message in bytes that is taken in, counted on
	// the wire and again after inflating. A larger one ends the client with 1009.
	// Defaults to 2 MiB, for what the hub's default Config.ClientBacklog lets pass.
	MaxReceiveSize int64
	// OutboundLimit bounds the bytes that wait to be written; calls wait while it
	// is full. Defaults to 1 MiB.
	OutboundLimit int
	// InboundLimit bounds the bytes that wait for handlers. What comes while it is
	// full is dropped and told to OnGap with ReasonSlowHandler. Defaults to 4 MiB.
	InboundLimit int64

	// OnState is told of every change of the connection. Of changes that wait for
	// a slow callback only the latest 32 are kept. Defaults to nothing.
	OnState func(StateChange)
	// OnMessage gets the messages that no handler is for: the application's own
	// types, broadcasts, messages to this client alone, and those of channels and
	// rooms that the hub put it in. Defaults to ignoring them.
	OnMessage Handler
	// OnGap is told what was or may have been missed, before the next message of
	// that channel or room; see the Reason constants. Defaults to telling OnError,
	// with an error that wraps ErrMissed, of what was missed for certain.
	OnGap func(websocket.Gap)
	// OnError is told of errors that no call returns: panics of handlers and of the
	// other On callbacks (*PanicError), after which the client goes on, channels and rooms that could not be restored
	// (*RestoreError), and the hub's refusals of messages that asked for no answer
	// (*Error). Defaults to logging them with slog.Default.
	OnError func(error)
}

// Handler handles the messages of a channel or room. The Message and its Data
// belong to it and may be kept.
type Handler func(*websocket.Message)

// TokenSource supplies the token for a handshake. It is called for every
// attempt; renew says that the hub has refused the last token, so that one kept
// from before will not do. An error makes the attempt fail and is followed by
// another one, unless it wraps ErrNoToken. It must return when ctx ends, and must
// not call the client.
type TokenSource func(ctx context.Context, renew bool) (token string, err error)

// StaticToken returns a TokenSource that knows only one token.
func StaticToken(token string) TokenSource {
	return func(_ context.Context, renew bool) (string, error) {
		if renew {
			return "", ErrNoToken
		}
		return token, nil
	}
}

// Reasons in a websocket.Gap that are the client's own. The hub's own come as it
// gives them.
const (
	// ReasonReconnect says that the connection was lost and made again: what was
	// published from First to Last may be missing. First is the Timestamp of the
	// last message that came from this channel or room, or of the subscription;
	// Last is the hub's time when the subscription was restored. Count is 0, which
	// means that nobody knows.
	ReasonReconnect = "reconnect"
	// ReasonSlowHandler says that Options.InboundLimit was reached.
	ReasonSlowHandler = "slow_handler"
)

var codecs = []websocket.Codec{
	websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{},
}

// withDefaults returns a copy that shares nothing mutable with o.
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
	setDefault(&d.ReadTimeout, 75*time.Second)
	setDefault(&d.PingPeriod, d.ReadTimeout/5*4)
	setDefault(&d.CloseTimeout, 5*time.Second)
	setDefault(&d.MaxSendSize, 64<<10)
	setDefault(&d.MessageRate, 900)
	setDefault(&d.ByteRate, 4<<20/10*9)
	setDefault(&d.MaxReceiveSize, 2<<20)
	setDefault(&d.OutboundLimit, max(1<<20, d.MaxSendSize))
	setDefault(&d.InboundLimit, 4<<20)
	if d.Security != nil {
		security := *d.Security
		security.AESKey = slices.Clone(security.AESKey)
		security.HMACKey = slices.Clone(security.HMACKey)
		d.Security = &security
	}
	d.TLS = d.TLS.Clone()
	if d.TLS == nil {
		d.TLS = &tls.Config{}
	}
	d.TLS.NextProtos = []string{"http/1.1"} // an upgrade needs HTTP/1.1
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

// validate checks Options that have their defaults.
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
		{"ReadTimeout", int64(o.ReadTimeout)},
		{"PingPeriod", int64(o.PingPeriod)},
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
		return optionError("Codec", "%q is not known", o.Codec)
	case o.BackoffMin > o.BackoffMax:
		return optionError("BackoffMin", "%v is longer than BackoffMax %v", o.BackoffMin, o.BackoffMax)
	case o.PingPeriod >= o.ReadTimeout:
		return optionError("PingPeriod", "%v is not shorter than ReadTimeout %v", o.PingPeriod, o.ReadTimeout)
	case o.MaxSendSize > o.OutboundLimit:
		return optionError("MaxSendSize", "%d is more than OutboundLimit %d", o.MaxSendSize, o.OutboundLimit)
	}
	for key := range o.Header {
		if key == "Upgrade" || key == "Connection" || strings.HasPrefix(key, "Sec-Websocket-") {
			return optionError("Header", "names %q, which the client sets itself", key)
		}
	}
	if o.Security != nil {
		config := websocket.Config{Security: o.Security}
		if err := config.Validate(); err != nil {
			return fmt.Errorf("websocket: Options.Security: %w", err)
		}
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
		return errors.New("websocket: URL: has a user name; use Options.Header or Options.TokenSource")
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

// bearerOffer is the subprotocol offer that carries a token.
func bearerOffer(token string) string {
	return "bearer." + base64.RawURLEncoding.EncodeToString([]byte(token))
}
