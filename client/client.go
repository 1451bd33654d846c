// Package client is the Go client of a hub. It keeps itself connected, keeps its
// channels and rooms over reconnects, and says what was or may have been missed.
//
//	c, err := client.Dial(ctx, "wss://example.com/ws", client.Options{Codec: "protobuf"})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	err = c.Subscribe(ctx, "news", func(m *websocket.Message) { fmt.Println(string(m.Data)) })
//
// What it guarantees:
//
//  1. A call that returns nil was acknowledged by the hub: a subscription holds
//     from then on, a publication has its place in the hub's order. Send is the
//     exception. A call that returns an error has had no effect, unless the error
//     is ErrOutcomeUnknown.
//  2. Handlers and callbacks run on one goroutine, one at a time, in the order in
//     which the hub sent. They may call every method. The answers to calls never
//     wait for them.
//  3. Every message of a channel or room reaches its handler at most once, and
//     what does not reach it between Subscribe and Unsubscribe is told to OnGap
//     first: what the hub dropped, what was dropped here because handlers were too
//     slow, and what may have been published while there was no connection.
//  4. A connection that breaks, or is closed with a code for which Reconnectable
//     says so, is made again after a random wait that grows. Channels and rooms
//     are restored before Connected is told.
//  5. Everything that waits is bounded: see Options.
//  6. After Close nothing is sent and no handler begins. When Done is closed, no
//     goroutine of the client is left.
//
// Rule 3 knows nothing of a message that the application publishes with a type
// of its own to a room that has the name of a channel: the wire does not tell
// them apart, and it reaches the channel's handler if both are there.
package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Client is connected to one hub. Dial makes it. Its methods may be called from
// anywhere, handlers and callbacks included.
type Client struct {
	url       string
	options   Options
	codec     websocket.Codec
	control   controlData
	frameType int
	keys      *seal.Pipeline // nil without Options.Security
	inbox     *inbox

	idPrefix string
	lastID   atomic.Uint64

	ctx           context.Context // ends with Close
	cancel        context.CancelFunc
	connectedOnce sync.Once
	connected     chan struct{} // closed when the first connection stands
	stopped       chan struct{} // closed by run: no connection, and none will come
	done          chan struct{} // closed by the dispatcher: no callback runs any more
	lastFailure   atomic.Pointer[error]

	mu       sync.Mutex // guards what follows; conn.mu may be locked inside it
	state    State
	err      error
	conn     *conn         // nil while there is none
	changed  chan struct{} // closed, and replaced, when conn is set or stopped is closed
	topics   map[topicKey]*topic
	lastSeen int64 // Timestamp of the latest message of the hub's
	unclean  error // of the connection that Close ended
}

// Dial connects to a hub's ws:// or wss:// URL and returns when the connection
// stands. ctx bounds only that; its values are passed on to NetDial and
// TokenSource for as long as the client lives. See Options.RetryDial for what
// happens when the first attempt fails.
func Dial(ctx context.Context, url string, options Options) (*Client, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	if err := checkURL(url); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Client{
		url:       url,
		options:   options,
		codec:     options.codec(),
		control:   controlData{protobuf: options.Codec == websocket.ProtobufCodec{}.Name()},
		inbox:     newInbox(options.InboundLimit),
		idPrefix:  rand.Text()[:8] + "-",
		connected: make(chan struct{}),
		stopped:   make(chan struct{}),
		done:      make(chan struct{}),
		changed:   make(chan struct{}),
		topics:    make(map[topicKey]*topic),
	}
	c.frameType = c.codec.WebSocketMessageType()
	if s := options.Security; s != nil {
		c.frameType = websocket.BinaryMessage // sealed bytes are not text
		keys, err := seal.New(s.AESKey, s.HMACKey, s.SignThenEncrypt)
		if err != nil {
			return nil, err
		}
		c.keys = keys
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go c.dispatch() // ends after it has told Closed, and closes done
	go c.run()      // ends with Close or when the connection ended for good, and closes stopped
	select {
	case <-c.connected:
		return c, nil
	case <-c.stopped:
		return nil, c.Err()
	case <-ctx.Done():
		_ = c.Close() // there is nothing that it could not send
		if failure := c.lastFailure.Load(); failure != nil {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), *failure)
		}
		return nil, ctx.Err()
	}
}

// Close sends what is queued and a Close frame with 1000, waits for the hub's
// answer no longer than Options.CloseTimeout, and ends the client: calls that
// wait return ErrClosed, or ErrOutcomeUnknown where they were sent. Handlers are
// not called any more for what has come already; OnState is told Closed.
//
// Close does not wait for a callback that is running, so it may be called from
// one, or with a lock held that one needs; Done is closed when it has returned.
// The error says that what was queued may not have reached the hub. Closing again
// waits likewise and returns the same.
func (c *Client) Close() error {
	c.cancel()
	<-c.stopped
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.unclean
}

// Done is closed when the client has ended for good and its last callback has
// returned.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil while the client lives, ErrClosed after Close, and otherwise
// why it has ended: a *websocket.CloseError, a *DialError or an error of the
// TokenSource.
func (c *Client) Err() error {
	select {
	case <-c.stopped:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return ErrClosed
	}
	return c.err
}

// State returns what the connection is doing now, which OnState may be told
// later.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Client) setState(s StateChange) {
	c.mu.Lock()
	c.state = s.State
	c.mu.Unlock()
	if c.options.OnState != nil {
		c.inbox.putState(s)
	}
}

func (c *Client) closing() bool { return c.ctx.Err() != nil }

// finish is the end of run.
func (c *Client) finish(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.err = Closed, why
	c.inbox.finish(why == nil, StateChange{State: Closed, Err: why}) // before Close can return
	close(c.changed)
	close(c.stopped)
	c.cancel()
}

// closedError is what calls return once the client has ended. The client is
// locked.
func (c *Client) closedError() error {
	if c.err == nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// dispatch runs handlers and callbacks.
func (c *Client) dispatch() {
	finished := false
	defer func() {
		if finished {
			close(c.done)
		} else { // a callback has ended the goroutine
			go c.dispatch() // ends as the one that it replaces
		}
	}()
	for it := c.inbox.take(); it != nil; it = c.inbox.take() {
		c.tell(it)
	}
	finished = true
}

// tell runs the one callback that an item is for. This is the one place where
// panics of callbacks end; those of OnError do not.
func (c *Client) tell(it *item) {
	returned := false
	defer func() {
		if !returned {
			c.options.OnError(&PanicError{Value: recover(), Stack: debug.Stack()})
		}
	}()
	switch o := &c.options; {
	case it.state != nil:
		if o.OnState != nil {
			o.OnState(*it.state)
		}
	case it.err != nil:
		o.OnError(it.err)
	case it.gap != nil:
		switch g := *it.gap; {
		case o.OnGap != nil:
			o.OnGap(g)
		case g.Count > 0 && g.All:
			o.OnError(fmt.Errorf("%w: %d of any channel or room: %s", ErrMissed, g.Count, g.Reason))
		case g.Count > 0:
			o.OnError(fmt.Errorf("%w: %d of channel %q room %q: %s", ErrMissed, g.Count, g.Channel, g.RoomID, g.Reason))
		}
	default:
		if handler := c.handlerOf(it.topic); handler != nil {
			handler(it.message)
		}
	}
	returned = true
}

// receive takes one message of the hub's. It runs on the reader.
func (c *Client) receive(cn *conn, m *websocket.Message) {
	switch m.Type {
	case typeAck:
		if c.isOurs(m.ID) {
			c.seen(nil, m.Timestamp)
			cn.settle(m.ID, answer{timestamp: m.Timestamp})
			return
		}
	case typeError:
		switch e := c.control.decodeError(m); {
		case c.isOurs(m.ID):
			cn.settle(m.ID, answer{refusal: e, timestamp: m.Timestamp})
		default:
			c.inbox.putError(e)
		}
		return
	case typeGap:
		gap, err := c.control.decodeGap(m.Data)
		if err != nil {
			cn.fail(websocket.CloseInvalidPayloadData, "gap cannot be read: %v", err)
			return
		}
		place := topicKey{name: gap.Channel}
		switch {
		case gap.All:
			place = anywhere
		case gap.RoomID != "":
			place = topicKey{room: true, name: gap.RoomID}
		}
		c.inbox.putGap(c.has(place), place, gap)
		return
	}
	t, place, wanted := c.route(m)
	c.seen(t, m.Timestamp)
	if wanted {
		c.inbox.putMessage(t, place, m)
	}
}

// newID names a request. The prefix keeps it apart from the IDs that the
// application chooses.
func (c *Client) newID() string {
	return c.idPrefix + fmt.Sprint(c.lastID.Add(1))
}

func (c *Client) isOurs(id string) bool {
	return len(id) > len(c.idPrefix) && id[:len(c.idPrefix)] == c.idPrefix
}

// encode makes the frame's payload.
func (c *Client) encode(m *websocket.Message) ([]byte, error) {
	b, err := c.codec.Marshal(m)
	if err != nil {
		return nil, err
	}
	if c.keys != nil {
		b = c.keys.AppendSeal(nil, b)
	}
	if len(b) > c.options.MaxSendSize {
		return nil, fmt.Errorf("%w: %d bytes, at most Options.MaxSendSize %d", websocket.ErrMessageTooLarge, len(b), c.options.MaxSendSize)
	}
	return b, nil
}

// current waits for a connection.
func (c *Client) current(ctx context.Context) (*conn, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		cn, changed := c.conn, c.changed
		if c.closing() || c.state == Closed {
			err := c.closedError()
			c.mu.Unlock()
			return nil, err
		}
		c.mu.Unlock()
		if cn != nil {
			return cn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
	}
}

// ask sends m with an ID and waits for the answer. Without repeat it does not
// send m again once the hub may have got it. gaveUp, if not nil, is told when
// ctx ends in between.
func (c *Client) ask(ctx context.Context, m *websocket.Message, repeat bool, answered func(answer), gaveUp func(*conn)) error {
	m.ID = c.newID()
	frame, err := c.encode(m)
	if err != nil {
		return err
	}
	for {
		cn, err := c.current(ctx)
		if err != nil {
			return err
		}
		r := &request{id: m.ID, frame: frame, answered: answered, done: make(chan answer, 1)}
		if err := cn.send(ctx, r); err == errLost {
			continue
		} else if err != nil {
			return err
		}
		var a answer
		select {
		case a = <-r.done:
		case <-ctx.Done():
			abandoned, sent := cn.abandon(r)
			switch {
			case abandoned && sent:
				if gaveUp != nil {
					gaveUp(cn)
				}
				return &unknownError{ctx.Err()}
			case abandoned:
				return ctx.Err()
			}
			a = <-r.done
		}
		switch {
		case a.refusal != nil:
			return a.refusal
		case a.lost == nil:
			return nil
		case a.sent && !repeat:
			return &unknownError{a.lost}
		}
	}
}

// Publish publishes data to a channel's subscribers, this client included if it
// is one of them. It waits for a connection and for the hub's answer until ctx
// ends. data may be reused as soon as it returns. Errors: *Error,
// ErrOutcomeUnknown, ErrClosed, websocket.ErrMessageTooLarge,
// websocket.ErrInvalidName and ctx's.
func (c *Client) Publish(ctx context.Context, channel string, data []byte) error {
	if err := checkName(channel); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublish, channel, data)
}

// PublishRoom is Publish for a room's members. The client need not be one of them.
func (c *Client) PublishRoom(ctx context.Context, roomID string, data []byte) error {
	if err := checkName(roomID); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublishRoom, roomID, data)
}

// Broadcast is Publish for every client of the hub.
func (c *Client) Broadcast(ctx context.Context, data []byte) error {
	return c.publish(ctx, websocket.ActionBroadcast, "", data)
}

func (c *Client) publish(ctx context.Context, action websocket.Action, target string, data []byte) error {
	return c.ask(ctx, &websocket.Message{Type: string(action), Channel: target, Data: data}, false, nil, nil)
}

// Send sends a message of the application's own type to the hub's onMessage. It
// waits for a connection and for room in the queue until ctx ends. Nobody
// acknowledges it: nil means that it is queued, and it is lost without a word if
// the connection breaks before it is written. The types publish, publish_room and
// broadcast may be sent too, where the answer does not matter; subscribe,
// unsubscribe, join_room and leave_room are ErrReserved. m is not kept.
func (c *Client) Send(ctx context.Context, m *websocket.Message) error {
	if m == nil {
		return websocket.ErrNilMessage
	}
	switch websocket.Action(m.Type) {
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom:
		return fmt.Errorf("%w: %q", ErrReserved, m.Type)
	}
	frame, err := c.encode(m)
	if err != nil {
		return err
	}
	for {
		cn, err := c.current(ctx)
		if err != nil {
			return err
		}
		if err := cn.send(ctx, &request{frame: frame}); err != errLost {
			return err
		}
	}
}
