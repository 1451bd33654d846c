package client

import (
	"context"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// topicKey names a channel or a room.
type topicKey struct {
	room bool
	name string
}

func (k topicKey) split() (channel, roomID string) {
	if k.room {
		return "", k.name
	}
	return k.name, ""
}

func (k topicKey) join() websocket.Action {
	if k.room {
		return websocket.ActionJoinRoom
	}
	return websocket.ActionSubscribe
}

func (k topicKey) leave() websocket.Action {
	if k.room {
		return websocket.ActionLeaveRoom
	}
	return websocket.ActionUnsubscribe
}

// topic is a channel or room that the client is in, or that a call is about.
// It is guarded by the client's lock.
type topic struct {
	key   topicKey
	turn  chan struct{} // capacity 1; whoever changes the subscription has sent into it; never closed
	users int           // calls that have the turn or wait for it

	wanted  bool // subscribed, and restored after a reconnect
	handler Handler
	since   int64 // Timestamp of what came last
	leaving *conn // where the hub has been asked to end what nobody wants
}

// Subscribe subscribes to a channel, whose messages go to handler, or to
// Options.OnMessage where it is nil. It returns when the hub has acknowledged it.
// A subscription outlives connections: it ends with Unsubscribe, with Close, or
// when the hub refuses to restore it. Subscribing again replaces the handler.
//
// It waits for a connection and for the hub's answer until ctx ends. If it
// returns an error the subscription is as it was before. Errors: *Error,
// ErrClosed, websocket.ErrInvalidName and ctx's.
func (c *Client) Subscribe(ctx context.Context, channel string, handler Handler) error {
	return c.join(ctx, topicKey{name: channel}, handler)
}

// Unsubscribe ends a subscription and returns when the hub has acknowledged it,
// or there is no connection. After that its handler is not called any more,
// although one call of it may still be running. Not being subscribed is no error.
//
// It waits for the hub's answer until ctx ends; the subscription has ended then
// too. After an *Error it has not.
func (c *Client) Unsubscribe(ctx context.Context, channel string) error {
	return c.leave(ctx, topicKey{name: channel})
}

// JoinRoom is Subscribe for a room.
func (c *Client) JoinRoom(ctx context.Context, roomID string, handler Handler) error {
	return c.join(ctx, topicKey{room: true, name: roomID}, handler)
}

// LeaveRoom is Unsubscribe for a room.
func (c *Client) LeaveRoom(ctx context.Context, roomID string) error {
	return c.leave(ctx, topicKey{room: true, name: roomID})
}

// checkName refuses what an encoder would silently change. How long a name may
// be is for the hub to say.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", websocket.ErrInvalidName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not UTF-8", websocket.ErrInvalidName)
	}
	return nil
}

func (c *Client) join(ctx context.Context, key topicKey, handler Handler) error {
	m, t, err := c.begin(ctx, key, key.join())
	if err != nil {
		return err
	}
	defer c.giveTurn(t)
	subscribed := func(a answer) {
		if a.refusal == nil {
			c.mu.Lock()
			t.wanted, t.handler, t.since, t.leaving = true, handler, a.timestamp, nil
			c.mu.Unlock()
		}
	}
	gaveUp := func(cn *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !t.wanted {
			c.drop(cn, t)
		}
	}
	return undone(c.ask(ctx, m, true, subscribed, gaveUp))
}

func (c *Client) leave(ctx context.Context, key topicKey) error {
	m, t, err := c.begin(ctx, key, key.leave())
	if err != nil {
		return err
	}
	defer c.giveTurn(t)
	c.mu.Lock()
	if c.conn == nil { // no hub knows of it
		t.wanted, t.handler = false, nil
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	unsubscribed := func(a answer) {
		if a.refusal == nil {
			c.mu.Lock()
			t.wanted, t.handler = false, nil
			c.mu.Unlock()
		}
	}
	err = c.ask(ctx, m, true, unsubscribed, nil)
	if err != nil && !errors.As(err, new(*Error)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.wanted, t.handler = false, nil
		if c.conn != nil {
			c.drop(c.conn, t)
		}
	}
	return undone(err)
}

// undone is the error of a call whose effect is undone where its outcome is
// unknown.
func undone(err error) error {
	if unknown := new(unknownError); errors.As(err, &unknown) {
		return unknown.cause
	}
	return err
}

// begin makes the request and takes the turn on a topic: calls about the same
// one go one after the other.
func (c *Client) begin(ctx context.Context, key topicKey, action websocket.Action) (*websocket.Message, *topic, error) {
	if err := checkName(key.name); err != nil {
		return nil, nil, err
	}
	m, err := c.controlMessage(key, action)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	t := c.topics[key]
	if t == nil {
		t = &topic{key: key, turn: make(chan struct{}, 1)}
		c.topics[key] = t
	}
	t.users++
	c.mu.Unlock()
	select {
	case t.turn <- struct{}{}:
		return m, t, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		t.users--
		c.forget(t)
		return nil, nil, ctx.Err()
	}
}

func (c *Client) giveTurn(t *topic) {
	<-t.turn
	c.mu.Lock()
	defer c.mu.Unlock()
	t.users--
	c.forget(t)
}

// forget lets go of a topic that nothing is known about. The client is locked.
func (c *Client) forget(t *topic) {
	if !t.wanted && t.users == 0 && t.leaving == nil {
		delete(c.topics, t.key)
	}
}

func (c *Client) controlMessage(key topicKey, action websocket.Action) (*websocket.Message, error) {
	data, err := c.control.encode(key)
	return &websocket.Message{Type: string(action), Data: data}, err
}

// drop asks the hub to end a subscription that it may have made. What still
// comes of it is discarded. The client is locked.
func (c *Client) drop(cn *conn, t *topic) {
	if c.conn != cn {
		return // ended with its connection
	}
	m, err := c.controlMessage(t.key, t.key.leave())
	if err == nil {
		m.ID = c.newID()
		var frame []byte
		if frame, err = c.encode(m); err == nil {
			t.leaving = cn
			cn.push(&request{id: m.ID, frame: frame, answered: func(answer) { c.dropped(cn, t) }})
		}
	}
	if err != nil {
		cn.kill(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: err.Error()}) // a new one begins without it
	}
}

func (c *Client) dropped(cn *conn, t *topic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.leaving == cn {
		t.leaving = nil
		c.forget(t)
	}
}

// attach makes cn the connection that calls use, and queues the restoring of
// every topic ahead of them. ready is closed when the hub has answered all of it
// and a ping, which says that it has taken the client in: a hub answers the
// handshake before. since is when the connection before was last heard of. cn
// has not been started.
func (c *Client) attach(cn *conn) (ready <-chan struct{}, since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastSeen != 0 {
		since = time.Unix(0, c.lastSeen)
	} else {
		c.lastSeen = time.Now().UnixNano()
	}
	restored := make(chan struct{})
	left := 1 // the ping; guarded by the client's lock
	answered := func() {
		if left--; left == 0 {
			close(restored)
		}
	}
	for _, t := range c.topics {
		if !t.wanted {
			continue
		}
		m, err := c.controlMessage(t.key, t.key.join())
		m.ID = c.newID()
		var frame []byte
		if err == nil {
			frame, err = c.encode(m)
		}
		if err != nil { // cannot be: it could be encoded before
			c.lostTopic(t, &Error{Code: CodeBadRequest, Message: err.Error(), Target: t.key.name})
			continue
		}
		left++
		cn.push(&request{id: m.ID, frame: frame, answered: func(a answer) {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.restored(t, a) {
				answered()
			}
		}})
	}
	cn.hailed = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		answered()
	}
	c.conn = cn
	close(c.changed)
	c.changed = make(chan struct{})
	return restored, since
}

// restored takes the answer to one topic's restoring. It returns false if
// another connection has to try again. It runs on the reader; the client is
// locked.
func (c *Client) restored(t *topic, a answer) bool {
	switch {
	case a.refusal != nil && a.refusal.Code == CodeUnavailable:
		return false
	case a.refusal != nil:
		c.lostTopic(t, a.refusal)
	case t.wanted:
		c.inbox.putGap(true, t.key, websocket.Gap{First: t.since, Last: a.timestamp, Reason: ReasonReconnect})
		t.since = a.timestamp
	}
	return true
}

func (c *Client) lostTopic(t *topic, refusal *Error) {
	t.wanted, t.handler = false, nil
	c.forget(t)
	channel, roomID := t.key.split()
	c.inbox.putError(&RestoreError{Channel: channel, RoomID: roomID, Err: refusal})
}

// detach ends the use of cn, whose goroutines have ended.
func (c *Client) detach(cn *conn, why *websocket.CloseError) {
	c.mu.Lock()
	c.conn = nil
	for _, t := range c.topics {
		t.leaving = nil
		c.forget(t)
	}
	lost := error(why)
	if c.closing() {
		lost = ErrClosed
		if !cn.clean {
			c.unclean = fmt.Errorf("websocket: not closed cleanly: %w", why)
		}
	}
	c.mu.Unlock()
	cn.lose(lost)
}

// route finds the topic of a message. wanted is false for messages of a topic
// that is being left.
func (c *Client) route(m *websocket.Message) (t *topic, place topicKey, wanted bool) {
	channel, room := topicKey{name: m.Channel}, topicKey{room: true, name: m.Channel}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Type == typeRoomMessage {
		place = room
	} else {
		place = channel
		// A type of the publisher's own may have gone to either.
		if m.Type != typeMessage && !c.isIn(channel) && c.isIn(room) {
			place = room
		}
	}
	t = c.topics[place]
	switch {
	case t == nil:
		return nil, place, true
	case t.wanted:
		return t, place, true
	default:
		return nil, place, t.leaving == nil
	}
}

// isIn needs the client locked.
func (c *Client) isIn(key topicKey) bool {
	t := c.topics[key]
	return t != nil && (t.wanted || t.leaving != nil)
}

func (c *Client) has(key topicKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isIn(key)
}

// seen notes the hub's time.
func (c *Client) seen(t *topic, timestamp int64) {
	if timestamp == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lastSeen = timestamp
	if t != nil {
		t.since = timestamp
	}
}

// handlerOf returns who handles a message now, or nil where nobody does any more.
func (c *Client) handlerOf(t *topic) Handler {
	if t == nil {
		return c.options.OnMessage
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !t.wanted:
		return nil
	case t.handler != nil:
		return t.handler
	default:
		return c.options.OnMessage
	}
}
