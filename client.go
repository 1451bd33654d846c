package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Client is one connection. The hub creates it in the handshake and never reuses it:
// after the connection has ended, methods that need it return ErrClientClosed for ever.
// Methods may be called from any goroutine, callbacks included.
type Client struct {
	// ID identifies the client. No two clients of a hub have the same ID, except
	// while ReplaceDuplicate closes the older one. It is set before OnConnect and must
	// not be changed.
	ID string

	// Guarded by shard.mu. A delivery reads and writes these fields and the first ones
	// of conn: two cache lines.
	pending     *batch      // messages that the next flush writes, or nil
	shardIndex  int32       // in shard.clients; -1 if it is not there
	heapIndex   int32       // in shard.deadlines; -1 if it is not there
	inSmall     bool        // in round.small, for the messages in pending
	feeding     bool        // in shard.feeding
	deflates    bool        // permessage-deflate was agreed; set before the client is registered
	pingMarked  bool        // pingMark belongs to conn.pingSent
	pingMark    uint32      // transport.Conn.Progress; see checkSilence
	stallMark   uint32      // transport.Conn.Progress at stallMarkAt; see stalled
	replaced    atomic.Bool // a newer client took over the ID; needs no lock
	stallMarkAt int64       // conn.progressAt that stallMark belongs to
	checkAt     int64       // hub clock when the shard checks the client next

	shard *shard
	conn  conn
	hub   *Hub
	codec *guardedCodec

	kept         keptRequest
	frameworkCtx atomic.Pointer[Context] // set until onConnect has returned
	expires      atomic.Int64            // hub clock, or 0
	closeErr     atomic.Pointer[CloseError]
	charged      atomic.Int64 // bytes of the hub's budget that are held for this client alone

	// Owned by the readPump. The shard reads handling, shutdown reads calling.
	handling atomic.Bool   // the readPump handles a message and does not read
	calling  atomic.Uint32 // the running callback
	// requestCharge is the part of charged for the request, until endRequest.
	requestCharge atomic.Uint32
	dropped       atomic.Uint32            // messages that were not delivered to the client; any goroutine
	connectedAt   int64                    // hub clock at the end of the handshake; set before the client is registered
	visible       atomic.Bool              // between register and unregister
	takesGoaway   atomic.Bool              // its hub:hello has the feature; read by a drain
	user          atomic.Pointer[string]   // nil means ""
	openKeys      atomic.Pointer[pipeline] // opens the client's messages, or nil

	// Guarded by the log's lock. members passes to the shard in unregister.
	registered bool
	hasLeft    bool // its connection ended before it was registered, or it was unregistered
	gotClose   bool // the peer's Close frame has been read; owned by the readPump
	members    membershipSet
	info       json.RawMessage
	lastTopics *[]*topic // its topics from unregister until onDisconnect has returned; a pointer keeps Client small

	hooks *membershipHooks // nil without OnJoin and OnLeave

	mu       sync.Mutex // guards the fields below
	ownKeys  *ownKeys   // nil if it has none
	metadata map[string]any
	requests *requestState // nil before the first that it holds something for

	addressCount *addressCount // that the connection is part of; read by connectionDone
}

// ownKeys are keys of a client that replace the hub's. They are not changed.
type ownKeys struct{ aes, hmac []byte } // nil means the hub's key

// Codec returns the codec that was agreed in the handshake. It may be called at any
// time, also after the connection has ended.
func (c *Client) Codec() Codec { return c.codec.Codec }

// Request returns the request of the handshake, without its body, its multipart form and
// the header fields that only the handshake needs: Connection, Upgrade and
// Sec-WebSocket-Key, -Version and -Extensions. Its context is that
// of Client.Context. It may be called and used at any time, also after the connection
// has ended. It must not be changed. The hub keeps a compact form, and most calls outside
// OnConnect and OnMessage make a new Request, which costs about a microsecond: a program that
// parses a form, for example, keeps the result of one call.
//
// PathValue works for patterns of net/http, and of chi from 5.0.12 on. After OnConnect
// has returned, the context of a router such as chi's cannot be reached through the
// request, because the router reuses it: chi.URLParam then returns "". Copy what is
// needed later in OnConnect, for example with SetMetadata. That also holds for values
// that refer to such a context.
func (c *Client) Request() *http.Request {
	if r := c.kept.recent.Load(); r != nil {
		return r
	}
	r := c.kept.request()
	if c.handling.Load() {
		c.cacheRequest(r)
	}
	return r
}

// Context returns a context for work that is done for this client. It has the values
// that middleware stored in the context of the handshake's request, except for the
// contexts of routers, see Request. It is cancelled as soon as the hub begins to close
// the connection or notices that the peer has closed it, also while a callback of the
// client runs. It may be called at any time.
func (c *Client) Context() context.Context { return c.kept.context() }

// FrameworkContext returns the context that was passed to Hub.ServeHTTP, such as gin's.
// After OnConnect has returned it returns nil, because frameworks reuse their contexts.
// It is always nil for clients that connected through Hub.Handler.
func (c *Client) FrameworkContext() Context {
	if p := c.frameworkCtx.Load(); p != nil {
		return *p
	}
	return nil
}

// Send sends m to this client, encoded with its codec and sealed with its keys. An
// empty Type becomes "message", and a zero Timestamp the current time. m may be changed
// and released as soon as Send returns.
//
// Nil means that the hub has accepted m. It does not mean that m is written: the
// connection may end before that, and Config.SlowConsumer applies. Send waits while
// Config.LogSize is used up. Errors: ErrClientClosed after the connection has ended,
// ErrHubClosed after shutdown has begun, ErrMessageTooLarge, ErrNilMessage, and
// ErrHubNotRunning if it would have to wait before Run.
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
// returns are sent to the client. Subscribing twice is no error. It does not ask
// Config.Authorize. It waits while Config.LogSize is used up. Errors: ErrClientClosed,
// ErrHubClosed, ErrInvalidName, ErrTooManySubscriptions, and ErrHubNotRunning if it
// would have to wait before Run. When the connection ends, all subscriptions end.
func (c *Client) Subscribe(channel string) error {
	return c.SubscribeContext(context.Background(), channel)
}

// SubscribeContext is like Subscribe but stops waiting when ctx is done. It then
// returns ctx's error, and the client is not subscribed.
func (c *Client) SubscribeContext(ctx context.Context, channel string) error {
	_, err := c.join(ctx, ChannelTopic, channel, resume{})
	return err
}

// Unsubscribe removes the client from a channel. Messages that are published after
// it returns are not sent to the client. It is no error if the client was not
// subscribed. It waits while Config.LogSize is used up. Errors: ErrClientClosed,
// ErrHubClosed, ErrInvalidName, and ErrHubNotRunning if it would have to wait before
// Run.
func (c *Client) Unsubscribe(channel string) error {
	return c.UnsubscribeContext(context.Background(), channel)
}

// UnsubscribeContext is like Unsubscribe but stops waiting when ctx is done. It then
// returns ctx's error, and the client stays subscribed.
func (c *Client) UnsubscribeContext(ctx context.Context, channel string) error {
	return c.leave(ctx, ChannelTopic, channel)
}

// JoinRoom is like Subscribe, for a room. Channels and rooms have separate names.
func (c *Client) JoinRoom(roomID string) error {
	return c.JoinRoomContext(context.Background(), roomID)
}

// JoinRoomContext is like SubscribeContext, for a room.
func (c *Client) JoinRoomContext(ctx context.Context, roomID string) error {
	_, err := c.join(ctx, RoomTopic, roomID, resume{})
	return err
}

// LeaveRoom is like Unsubscribe, for a room.
func (c *Client) LeaveRoom(roomID string) error {
	return c.LeaveRoomContext(context.Background(), roomID)
}

// LeaveRoomContext is like UnsubscribeContext, for a room.
func (c *Client) LeaveRoomContext(ctx context.Context, roomID string) error {
	return c.leave(ctx, RoomTopic, roomID)
}

func (c *Client) join(ctx context.Context, kind TopicKind, name string, from resume) (Resumed, error) {
	outcome, err := c.joinTopic(ctx, kind, name, from)
	c.noteRefused(err)
	c.hooks.run(c)
	return outcome, err
}

// joinTopic is join without the hooks.
func (c *Client) joinTopic(ctx context.Context, kind TopicKind, name string, from resume) (Resumed, error) {
	if n := c.hub.node; n != nil && kind >= 0 && kind < topicKinds && checkName(name, c.hub.config.MaxNameLength) == nil && n.hub.events.mustOpen(kind, name, from.since) {
		release, err := n.openHistory(ctx, kind, name, from.since)
		if err != nil {
			return Resumed{}, err
		}
		defer release()
	}
	return c.hub.events.join(ctx, c, kind, name, from, nil)
}

func (c *Client) leave(ctx context.Context, kind TopicKind, name string) error {
	err := c.hub.events.leave(ctx, c, kind, name, nil)
	c.hooks.run(c)
	return err
}

// Channels returns the names of the channels that the client is subscribed to, in no
// particular order. During OnDisconnect it returns the channels that the client was in
// when its connection ended, and after that none. It may be called at any time.
func (c *Client) Channels() []string { return c.hub.events.topicNames(c, ChannelTopic) }

// Rooms is like Channels, for the IDs of rooms.
func (c *Client) Rooms() []string { return c.hub.events.topicNames(c, RoomTopic) }

// Close writes the messages that were queued for the client before this call, then a
// Close frame with code and reason (RFC 6455 section 7.1.2). The connection ends when
// the peer has replied with its Close frame, or after a second (5 seconds for codes
// 1013 and 3008), but not before a running callback of the client has returned. Close
// does not wait for that.
//
// Code 0 means CloseNormalClosure. Close returns ErrInvalidCloseCode for a code that
// may not be sent (section 7.4), and ErrClientClosed if the connection is ending already.
// A reason longer than 123 bytes is cut.
//
// The client leaves the hub at once: its Context is cancelled, its memberships end, its
// ID is free, and later calls for it return ErrClientClosed.
func (c *Client) Close(code int, reason string) error {
	code, err := closeCode(code)
	if err != nil {
		return err
	}
	err = c.hub.events.closeClient(c, &CloseError{Code: code, Reason: wsproto.TrimReason(reason)})
	if err == nil {
		c.left()
	}
	return err
}

// left frees everything that a client loses when it leaves the hub, except for what
// the event log keeps. It does not block.
func (c *Client) left() {
	c.hub.ids.free(c)
	c.endRequest()
	c.hooks.start(c)
}

// SetExpiry sets the time at which the hub closes the client with CloseUnauthorized,
// which asks it to authenticate again. Pass the expiry of the client's credentials, and
// call it again when they are renewed. A time in the past closes the client at once;
// the zero time removes the expiry. By default there is none. SetExpiry returns
// ErrClientClosed after the connection has ended.
func (c *Client) SetExpiry(t time.Time) error {
	var at int64
	if !t.IsZero() {
		at = max(c.hub.clock()+int64(time.Until(t)), 1)
	}
	c.expires.Store(at)
	return c.hub.events.appendFor(entryReschedule, c, nil)
}

// CloseError returns a *CloseError that says how the connection ended, or nil while it
// has not ended. It is set during OnDisconnect and stays set. CloseStatus returns its
// code. It may be called at any time.
func (c *Client) CloseError() error {
	if e := c.closeErr.Load(); e != nil {
		return e
	}
	return nil
}

// SetUser sets the name of the user that this client belongs to, for Cluster.CloseUser, as
// the scope of Message.Key, and for presence, which shows the name that a client had when it
// joined. Call it in OnConnect with the identity that the handshake was authenticated for.
// A user may have any number of clients. It may be called at any time.
func (c *Client) SetUser(user string) { c.user.Store(&user) }

// User returns the name that SetUser set, or "". It may be called at any time.
func (c *Client) User() string {
	if user := c.user.Load(); user != nil {
		return *user
	}
	return ""
}

// SetMetadata stores a value of the application with the client, in place of an
// earlier value for the same key. The hub does not use it. It may be called at any
// time, also after the connection has ended.
func (c *Client) SetMetadata(key string, value any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.metadata == nil {
		c.metadata = make(map[string]any)
	}
	c.metadata[key] = value
}

// GetMetadata returns the value that SetMetadata stored for key, and whether there is
// one. It may be called at any time.
func (c *Client) GetMetadata(key string) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.metadata[key]
	return v, ok
}

// SetEncryptionKey sets the client's own AES-256 key in place of the key in
// Config.Security. The key must be 32 bytes and is copied. Nil removes it, so that the
// hub's key applies again.
//
// Messages that were accepted before the call are sealed with the old key. Received
// messages are opened with the new key from the next message on. A key that is set in
// OnConnect applies to the first message in both directions.
//
// For another length SetEncryptionKey returns ErrInvalidKey and closes the client with
// ClosePolicyViolation, so that a caller that ignores the error does not continue
// without encryption. It returns ErrClientClosed after the connection has ended.
func (c *Client) SetEncryptionKey(key []byte) error {
	return c.setKeys(func(k *ownKeys) { k.aes = slices.Clone(key) })
}

// SetHMACKey is like SetEncryptionKey, for the client's own signing key. The key may
// have any length except 0.
func (c *Client) SetHMACKey(key []byte) error {
	return c.setKeys(func(k *ownKeys) { k.hmac = slices.Clone(key) })
}

// setKeys changes keys with set, and appends an entry that makes them apply.
func (c *Client) setKeys(set func(*ownKeys)) error {
	c.mu.Lock()
	defer c.mu.Unlock() // held until the entry is appended, so that entries have the order of the calls
	var own ownKeys
	if c.ownKeys != nil {
		own = *c.ownKeys
	}
	set(&own)
	keys, err := c.hub.clientKeys(own.aes, own.hmac)
	if err != nil {
		c.conn.closeNow(ClosePolicyViolation, "no usable key")
		return err
	}
	c.ownKeys = &own
	if keys != nil {
		c.openKeys.Store(keys)
	} else {
		c.openKeys.Store(c.hub.keys)
	}
	return c.hub.events.appendFor(entryKeys, c, keys)
}

// formFor returns the form of messages to c. own are the client's own keys, or nil.
func (c *Client) formFor(own *pipeline) form {
	variant := plain
	switch {
	case own != nil: // each message is sealed for this client, from the plain form
	case c.hub.keys != nil:
		variant = sealed
	case c.deflates:
		variant = deflated
	}
	return formOf(c.codec.at, variant)
}

// clientKeys returns the pipeline of a client with its own keys, or nil if both are nil.
// A nil key is replaced by the hub's key.
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
	return seal.New(aesKey, hmacKey, signThenEncrypt)
}

// Values of CloseError.Err.
var (
	errWriteTimeout   = errors.New("websocket: connection accepted nothing for WriteWait")
	errFlushTimeout   = errors.New("websocket: connection did not accept the remaining bytes in time")
	errReadPumpEnded  = errors.New("websocket: a callback ended the goroutine that reads from the client")
	errWritePumpEnded = errors.New("websocket: a codec ended the goroutine that writes to the client")
	errDrainTimeout   = errors.New("websocket: hub closed before the connection accepted the queued messages")
)
