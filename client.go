package websocket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Client is one connection. The hub makes it and never reuses it: a pointer kept
// after the end answers ErrClientClosed for ever and never becomes another user.
// Its methods may be called from anywhere, callbacks included.
type Client struct {
	// ID is unique among the hub's clients. It is set before onConnect and must
	// not be changed.
	ID string

	// Guarded by the shard's turn. With the head of conn it is what a delivery
	// touches: two cache lines.
	pending    *batch // what the next write brings, or nil
	shardIndex int    // in shard.clients, -1 when not there
	inSmall    bool   // it stands in a round's few since it has something pending
	checkAt    int64  // on the hub's clock, when to look at it again
	heapIndex  int    // in shard.watch

	shard      *shard
	conn       conn
	hub        *Hub
	codec      Codec
	codecIndex int // of codec in the hub's list
	ws         *websocket.Conn

	request    *http.Request
	endRequest context.CancelFunc
	deflates   bool // permessage-deflate was agreed
	httpCtx    atomic.Pointer[Context]
	visible    atomic.Bool  // between register and unregister
	replaced   atomic.Bool  // its ID was taken over
	expires    atomic.Int64 // on the hub's clock, or 0
	closeErr   atomic.Pointer[CloseError]

	// Used by the readPump; the shard looks at busy and calling.
	gotClose bool                     // the peer's Close frame has been read
	handling atomic.Bool              // not being read from: a message is being handled
	calling  atomic.Uint32            // callback that runs
	openKeys atomic.Pointer[pipeline] // opens what the client sends, or nil

	// Guarded by the log's lock; members passes to the shard at unregister.
	registered bool
	members    membershipSet
	lastTopics []*topic // of its memberships, from unregister until onDisconnect has returned

	hooks *membershipHooks // nil without OnJoin and OnLeave

	mu       sync.Mutex // guards what follows
	aesKey   []byte
	hmacKey  []byte
	user     string
	metadata map[string]any
}

// Codec returns the codec agreed in the handshake. It works after close too.
func (c *Client) Codec() Codec { return c.codec }

// Request returns the handshake's request without its body. Its context carries
// the values that middleware put there, and ends with the connection. It is safe
// to use for as long as the Client is.
func (c *Client) Request() *http.Request { return c.request }

// Context returns the context of the handshake's request. It carries the values
// that middleware stored there and is cancelled when the connection has ended. Use
// it for work that is done for this client. It may be called by anybody at any time.
func (c *Client) Context() context.Context { return c.request.Context() }

// FrameworkContext returns the context that ServeHTTP got, such as HypGo's or gin's,
// until onConnect has returned. After that it returns nil, because frameworks reuse
// their contexts. It is always nil for clients that came through Handler.
func (c *Client) FrameworkContext() Context {
	if p := c.httpCtx.Load(); p != nil {
		return *p
	}
	return nil
}

// Send sends m to this client in its own codec, sealed with its keys. An empty Type
// becomes "message", and a zero Timestamp the current time. m may be changed and
// released as soon as the call returns.
//
// Nil means that the hub has accepted m: it has its place in the client's order of
// messages. Send waits while the event log is full. Errors: ErrClientClosed when the
// connection has ended, ErrHubClosed, ErrMessageTooLarge, ErrNilMessage, and
// ErrHubNotRunning where it would have to wait before Run.
func (c *Client) Send(m *Message) error {
	return c.SendContext(context.Background(), m)
}

// SendContext is like Send but stops waiting when ctx is done. It then returns
// ctx's error, and m is not sent.
func (c *Client) SendContext(ctx context.Context, m *Message) error {
	p, err := c.hub.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return err
	}
	return c.hub.events.send(ctx, c, p)
}

// Subscribe adds the client to a channel. Messages that are published after it
// returns reach the client. Subscribing twice is no error. It waits while the event
// log is full. Errors: ErrClientClosed, ErrHubClosed, ErrInvalidName,
// ErrTooManySubscriptions, and ErrHubNotRunning where it would have to wait before
// Run.
func (c *Client) Subscribe(channel string) error {
	return c.SubscribeContext(context.Background(), channel)
}

// SubscribeContext is like Subscribe but stops waiting when ctx is done. It then
// returns ctx's error, and the client is not subscribed.
func (c *Client) SubscribeContext(ctx context.Context, channel string) error {
	return c.join(ctx, ChannelTopic, channel)
}

// Unsubscribe removes the client from a channel. Messages that are published after
// it returns do not reach the client. It is no error if the client was not
// subscribed. It waits while the event log is full. Errors: ErrClientClosed,
// ErrHubClosed, ErrInvalidName, and ErrHubNotRunning where it would have to wait
// before Run.
func (c *Client) Unsubscribe(channel string) error {
	return c.UnsubscribeContext(context.Background(), channel)
}

// UnsubscribeContext is like Unsubscribe but stops waiting when ctx is done. It then
// returns ctx's error, and the client stays subscribed.
func (c *Client) UnsubscribeContext(ctx context.Context, channel string) error {
	return c.leave(ctx, ChannelTopic, channel)
}

// JoinRoom is like Subscribe, for a room.
func (c *Client) JoinRoom(roomID string) error {
	return c.JoinRoomContext(context.Background(), roomID)
}

// JoinRoomContext is like SubscribeContext, for a room.
func (c *Client) JoinRoomContext(ctx context.Context, roomID string) error {
	return c.join(ctx, RoomTopic, roomID)
}

// LeaveRoom is like Unsubscribe, for a room.
func (c *Client) LeaveRoom(roomID string) error {
	return c.LeaveRoomContext(context.Background(), roomID)
}

// LeaveRoomContext is like UnsubscribeContext, for a room.
func (c *Client) LeaveRoomContext(ctx context.Context, roomID string) error {
	return c.leave(ctx, RoomTopic, roomID)
}

func (c *Client) join(ctx context.Context, kind TopicKind, name string) error {
	err := c.hub.events.join(ctx, c, kind, name, nil)
	c.hooks.run(c)
	return err
}

func (c *Client) leave(ctx context.Context, kind TopicKind, name string) error {
	err := c.hub.events.leave(ctx, c, kind, name, nil)
	c.hooks.run(c)
	return err
}

// Channels returns the names of the channels that the client is subscribed to, in no
// particular order. In onDisconnect they are those that it was in when its connection
// ended; after onDisconnect there are none. It may be called by anybody at any time.
func (c *Client) Channels() []string { return c.hub.events.topicNames(c, ChannelTopic) }

// Rooms is like Channels, for the IDs of rooms.
func (c *Client) Rooms() []string { return c.hub.events.topicNames(c, RoomTopic) }

// Close sends the messages that were queued for the client before this call, then a
// Close frame with code and reason (RFC 6455 section 7.1.2). The connection ends when
// the peer has answered, or after a second. Close does not wait for that. Code 0
// means 1000; other codes must be sendable (section 7.4), else ErrInvalidCloseCode is
// returned. A reason is cut to 123 bytes. A client that has ended is ErrClientClosed.
func (c *Client) Close(code int, reason string) error {
	code, err := closeCode(code)
	if err != nil {
		return err
	}
	return c.hub.events.appendFor(entryClose, c, &CloseError{Code: code, Reason: wsproto.TrimReason(reason)})
}

func closeCode(code int) (int, error) {
	if code == 0 {
		code = CloseNormalClosure
	}
	if !wsproto.SendableCode(code) {
		return 0, fmt.Errorf("%w: %d", ErrInvalidCloseCode, code)
	}
	return code, nil
}

// SetExpiry closes the client with CloseUnauthorized at t, which tells it to
// authenticate again. Call it with the expiry of the client's credentials, and again
// when they are renewed. The zero time removes the expiry. A client that has ended is
// ErrClientClosed.
func (c *Client) SetExpiry(t time.Time) error {
	var at int64
	if !t.IsZero() {
		at = max(c.hub.clock()+int64(time.Until(t)), 1)
	}
	c.expires.Store(at)
	return c.hub.events.appendFor(entryReschedule, c, nil)
}

// CloseError returns how the connection ended, as a *CloseError, or nil while it is
// open. In onDisconnect it is set. CloseStatus returns the code alone.
func (c *Client) CloseError() error {
	if e := c.closeErr.Load(); e != nil {
		return e
	}
	return nil
}

// SetUser names the user that this client belongs to, for Cluster.CloseUser. Call it
// in onConnect with the identity that the handshake was authenticated for. A user may
// have any number of clients.
func (c *Client) SetUser(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user = user
}

// User returns the user that SetUser set, or "".
func (c *Client) User() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// SetMetadata keeps a value of the application's with the client.
func (c *Client) SetMetadata(key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.metadata == nil {
		c.metadata = make(map[string]any)
	}
	c.metadata[key] = value
}

// GetMetadata returns a value that SetMetadata has kept.
func (c *Client) GetMetadata(key string) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.metadata[key]
	return v, ok
}

// SetEncryptionKey gives the client an AES-256 key of its own, 32 bytes, which
// is copied. Nil goes back to the hub's. What was sent before the call is sealed
// as before; what arrives is opened with the new key from the next frame on. Set
// in onConnect it holds for the very first frame in both directions.
//
// A key that is refused closes the client with 1008, so that a caller who does
// not look at the error does not go on without encryption.
func (c *Client) SetEncryptionKey(key []byte) error {
	return c.setKeys(func() { c.aesKey = slices.Clone(key) })
}

// SetHMACKey gives the client a signing key of its own, of any length but 0. All
// that is said at SetEncryptionKey holds here too.
func (c *Client) SetHMACKey(key []byte) error {
	return c.setKeys(func() { c.hmacKey = slices.Clone(key) })
}

func (c *Client) setKeys(set func()) error {
	c.mu.Lock()
	defer c.mu.Unlock() // held while appending, so that keys enter the log in the order they were set
	oldAES, oldHMAC := c.aesKey, c.hmacKey
	set()
	keys, err := c.hub.clientKeys(c.aesKey, c.hmacKey)
	if err != nil {
		c.aesKey, c.hmacKey = oldAES, oldHMAC
		c.conn.closeNow(ClosePolicyViolation, "no usable key")
		return err
	}
	if keys != nil {
		c.openKeys.Store(keys)
	} else {
		c.openKeys.Store(c.hub.keys)
	}
	return c.hub.events.appendFor(entryKeys, c, keys)
}

// formWith returns the form that a client gets messages in: own are its own keys,
// or nil.
func (c *Client) formFor(own *pipeline) form {
	variant := plain
	switch {
	case own != nil: // sealed one by one, from the plain form
	case c.hub.keys != nil:
		variant = sealed
	case c.deflates:
		variant = deflated
	}
	return formOf(c.codecIndex, variant)
}

// clientKeys returns the pipeline of a client with keys of its own, or nil. A
// key that it has not is the hub's.
func (h *Hub) clientKeys(aesKey, hmacKey []byte) (*pipeline, error) {
	if aesKey == nil && hmacKey == nil {
		return nil, nil
	}
	signThenEncrypt := true
	if s := h.config.Security; s != nil {
		signThenEncrypt = s.SignThenEncrypt
		if aesKey == nil {
			aesKey = s.AESKey
		}
		if hmacKey == nil {
			hmacKey = s.HMACKey
		}
	}
	config := SecurityConfig{AESKey: aesKey, HMACKey: hmacKey, SignThenEncrypt: signThenEncrypt}
	if err := config.validate(); err != nil {
		return nil, err
	}
	return config.newPipeline()
}

var (
	errWriteTimeout  = errors.New("websocket: connection accepted nothing for WriteWait")
	errFlushTimeout  = errors.New("websocket: connection did not take what was still to be written in time")
	errReadPumpEnded = errors.New("websocket: a callback ended the goroutine that reads")
	errDrainTimeout  = errors.New("websocket: hub closed before the connection had taken what was queued")
)
