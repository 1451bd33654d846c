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
	pending *step // what the next write brings, or nil
	slot    int   // in shard.clients, -1 when not there
	inFew   bool  // it stands in a round's few since it has something pending
	due     int64 // on the hub's clock, when to look at it again
	place   int   // in shard.watch

	shard  *shard
	conn   conn
	hub    *Hub
	codec  Codec
	slotOf int // of codec in the hub's list
	ws     *websocket.Conn

	request    *http.Request
	endRequest context.CancelFunc
	deflates   bool // permessage-deflate was agreed
	httpCtx    atomic.Pointer[Context]
	visible    atomic.Bool  // between register and unregister
	replaced   atomic.Bool  // its ID was taken over
	expires    atomic.Int64 // on the hub's clock, or 0
	ending     atomic.Pointer[CloseError]

	// Used by the readPump; the shard looks at busy and calling.
	peerEnded bool                     // the peer's Close frame has been read
	busy      atomic.Bool              // not being read from: a message is being handled
	calling   atomic.Uint32            // callback that runs
	opensWith atomic.Pointer[pipeline] // opens what the client sends, or nil

	// Guarded by the log's lock; members passes to the shard at unregister.
	registered bool
	members    membershipSet

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

// Context returns what was given to ServeHTTP until onConnect has returned, and
// nil after that, since frameworks recycle their contexts then. It is always nil
// for clients that came through Handler.
func (c *Client) Context() Context {
	if p := c.httpCtx.Load(); p != nil {
		return *p
	}
	return nil
}

// Send sends m to this client in its own codec, sealed as its keys say. Nil
// means that the hub has accepted it into its log. It waits while the log is
// full. An empty Type becomes "message", a zero Timestamp the current time.
func (c *Client) Send(m *Message) error {
	return c.SendContext(context.Background(), m)
}

// SendContext is Send with an end to the waiting.
func (c *Client) SendContext(ctx context.Context, m *Message) error {
	p, err := c.hub.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return err
	}
	return c.hub.log.send(ctx, c, p)
}

// Subscribe adds the client to a channel. What is published after it returns
// reaches the client. Subscribing twice is not an error. It waits while the
// hub's log is full.
func (c *Client) Subscribe(channel string) error {
	return c.hub.log.join(context.Background(), c, channelTopic, channel, nil)
}

// Unsubscribe takes the client out of a channel. What is published after it
// returns does not reach the client. Not being subscribed is not an error.
func (c *Client) Unsubscribe(channel string) error {
	return c.hub.log.leave(context.Background(), c, channelTopic, channel, nil)
}

// JoinRoom is Subscribe for a room.
func (c *Client) JoinRoom(roomID string) error {
	return c.hub.log.join(context.Background(), c, roomTopic, roomID, nil)
}

// LeaveRoom is Unsubscribe for a room.
func (c *Client) LeaveRoom(roomID string) error {
	return c.hub.log.leave(context.Background(), c, roomTopic, roomID, nil)
}

// Close sends what was queued for the client before this call, then a Close
// frame with code and reason, and ends the connection when the peer has answered
// or a second has passed. It does not wait for that. Code 0 means 1000; other
// codes must be sendable (RFC 6455 section 7.4). A reason over 123 bytes is cut.
func (c *Client) Close(code int, reason string) error {
	code, err := closeCode(code)
	if err != nil {
		return err
	}
	return c.hub.log.tell(entryClose, c, &CloseError{Code: code, Reason: trimReason(reason)})
}

func closeCode(code int) (int, error) {
	if code == 0 {
		code = CloseNormalClosure
	}
	if !sendableCloseCode(code) {
		return 0, fmt.Errorf("%w: %d", ErrInvalidCloseCode, code)
	}
	return code, nil
}

// SetExpiry closes the client with CloseUnauthorized at t, which tells it to
// authenticate again; call it with the expiry of its credentials, and again when
// they are renewed. The zero time takes it back.
func (c *Client) SetExpiry(t time.Time) error {
	var at int64
	if !t.IsZero() {
		at = max(c.hub.clock()+int64(time.Until(t)), 1)
	}
	c.expires.Store(at)
	return c.hub.log.tell(entryWatch, c, nil)
}

// CloseError returns how the connection ended, or nil while it has not. In
// onDisconnect it is set.
func (c *Client) CloseError() *CloseError { return c.ending.Load() }

// SetUser says whose client this is, for Cluster.CloseUser; call it in onConnect
// with what the handshake was authenticated as. A user may have any number of
// clients.
func (c *Client) SetUser(user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.user = user
}

// User returns what SetUser was given.
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
		c.conn.fail(ClosePolicyViolation, "no usable key")
		return err
	}
	if keys != nil {
		c.opensWith.Store(keys)
	} else {
		c.opensWith.Store(c.hub.keys)
	}
	return c.hub.log.tell(entryKeys, c, keys)
}

// formWith returns the form that a client gets messages in: own are its own keys,
// or nil.
func (c *Client) formWith(own *pipeline) form {
	variant := plain
	switch {
	case own != nil: // sealed one by one, from the plain form
	case c.hub.keys != nil:
		variant = sealed
	case c.deflates:
		variant = deflated
	}
	return formOf(c.slotOf, variant)
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
	errNotTaken      = errors.New("websocket: connection did not take what was still to be written in time")
	errReadPumpEnded = errors.New("websocket: a callback ended the goroutine that reads")
	errCut           = errors.New("websocket: hub closed before the connection had taken what was queued")
)
