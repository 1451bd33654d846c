package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// topicKey identifies a topic: a channel or a room.
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

// topic is a channel or room that the client is in, or that a call is about to
// join or leave. It is removed from Client.topics when neither is the case.
//
// While there is a connection, the last subscription is removed only by a call that
// holds lock, or by the hub's refusal to restore it. So the hub's membership never
// outlives the subscriptions.
type topic struct {
	key  topicKey
	lock chan struct{} // capacity 1: a call that joins or leaves sends to lock it and receives to unlock it; never closed

	// Guarded by Client.mu:
	calls    int             // calls that hold lock or wait for it
	subs     []*Subscription // if not empty, messages are handled and the topic is restored after a reconnect; elements are appended and never changed, because the inbox has copies of the slice
	lastSeen int64           // Timestamp of the latest message of the topic, or of the reply to joining it
	leaving  *conn           // where leaveAfterCancel waits for a reply; nil if it does not

	epoch     string             // of the history, by the latest reply to joining; "" if there is none
	presence  *presence          // its members; nil if no subscription follows it
	behindGap websocket.Position // end of an incomplete resume that replays nothing, until its gap has arrived; or zero
}

// Subscribe subscribes to a channel and returns when the hub has acknowledged it.
// handler gets the channel's messages; if it is nil, Options.OnMessage does. Any number
// of subscriptions to a channel may exist, each with its own handler. Their handlers run
// in the order of the subscriptions. The client leaves the channel when the last one
// has ended.
//
// In a channel with a history the options say which earlier publications the handler gets
// first. By default it gets none.
//
// The subscription is restored after reconnects. It ends with Subscription.Unsubscribe,
// with Client.Unsubscribe, when the client ends, or when the hub refuses to restore it.
//
// Subscribe waits for a connection and for the hub's reply until ctx ends. If it
// returns an error, there is no new subscription, and others are as they were before.
// While the hub refuses with CodeUnavailable, because it cannot read the channel's history,
// Subscribe asks again after random delays (Options.BackoffMin).
// Errors: *Error, ErrClosed, websocket.ErrInvalidName and ctx's error.
func (c *Client) Subscribe(ctx context.Context, channel string, handler Handler, options ...SubscribeOption) (*Subscription, error) {
	return c.join(ctx, topicKey{name: channel}, handler, options)
}

// Unsubscribe ends all subscriptions to a channel. Like Subscription.Unsubscribe it
// returns when the hub has acknowledged it, or at once if there is no connection. It is
// no error if there is no subscription. It also makes the client leave a channel that the
// hub itself has added it to.
//
// Unsubscribe waits for the hub's reply until ctx ends. If it returns an *Error or
// websocket.ErrInvalidName, the subscriptions are as they were before. If it returns
// ctx's error, either they have ended all the same, or another call about
// the same channel was still waiting and they are as they were before.
func (c *Client) Unsubscribe(ctx context.Context, channel string) error {
	return c.leave(ctx, topicKey{name: channel}, nil)
}

// JoinRoom is like Subscribe but joins a room.
func (c *Client) JoinRoom(ctx context.Context, roomID string, handler Handler, options ...SubscribeOption) (*Subscription, error) {
	return c.join(ctx, topicKey{room: true, name: roomID}, handler, options)
}

// LeaveRoom is like Unsubscribe but leaves a room.
func (c *Client) LeaveRoom(ctx context.Context, roomID string) error {
	return c.leave(ctx, topicKey{room: true, name: roomID}, nil)
}

// checkName rejects names that an encoder would change silently. The hub checks
// their length.
func checkName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: empty", websocket.ErrInvalidName)
	case !utf8.ValidString(name):
		return fmt.Errorf("%w: not UTF-8", websocket.ErrInvalidName)
	}
	return nil
}

func (c *Client) join(ctx context.Context, key topicKey, handler Handler, options []SubscribeOption) (*Subscription, error) {
	sub := &Subscription{client: c, handler: handler, done: make(chan struct{})}
	for _, o := range options {
		if o.set != nil {
			o.set(sub)
		}
	}
	m, t, err := c.lockTopic(ctx, key, key.join(), sub.from)
	if err != nil {
		return nil, err
	}
	defer c.unlockTopic(t)
	sub.topic = t
	onReply := func(r reply) {
		if r.refusal == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			resumed, told := decodeResumed(sub.from, r.message.Data)
			if sub.from.since != nil {
				sub.at = *sub.from.since
				if !told {
					c.inbox.putGap(true, key, websocket.Gap{Last: r.message.Timestamp, Reason: ReasonReconnect}, nil)
				}
			}
			sub.joined(sub.from, resumed)
			sub.handled = sub.at
			c.learnHistory(key, resumed)
			t.rejoined(resumed.Resumed)
			t.subs = append(t.subs, sub)
			t.lastSeen, t.leaving = r.message.Timestamp, nil
			c.follow(t, sub)
		}
	}
	onCancel := func(cn *conn) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(t.subs) == 0 {
			c.leaveAfterCancel(cn, t)
		}
	}
	if _, err := c.call(ctx, call{message: m, resend: true, patient: true, onReply: onReply, onCancel: onCancel}); err != nil {
		return nil, withoutUnknown(err)
	}
	return sub, nil
}

// leave ends one subscription, or all of a topic if only is nil.
func (c *Client) leave(ctx context.Context, key topicKey, only *Subscription) error {
	if c.leaveLocally(key, only) {
		return nil
	}
	m, t, err := c.lockTopic(ctx, key, key.leave(), resume{})
	if err != nil {
		return err
	}
	defer c.unlockTopic(t)
	if c.leaveLocally(key, only) { // the call that held the lock has changed something
		return nil
	}
	onReply := func(r reply) {
		if r.refusal == nil {
			c.mu.Lock()
			c.endSubscriptions(t, nil)
			c.mu.Unlock()
		}
	}
	_, err = c.call(ctx, call{message: m, resend: true, onReply: onReply})
	if err != nil && !errors.As(err, new(*Error)) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.endSubscriptions(t, nil)
		if c.conn != nil {
			c.leaveAfterCancel(c.conn, t)
		}
	}
	return withoutUnknown(err)
}

// leaveLocally does the work of leave if the hub need not be asked: only has ended or is
// not the last subscription of its topic, or there is no connection, with which the hub
// has ended all memberships. It reports whether that was so.
func (c *Client) leaveLocally(key topicKey, only *Subscription) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[key]
	switch {
	case only != nil && only.ended:
		return true
	case only != nil && (c.conn == nil || len(t.subs) > 1):
		only.end(nil)
		t.subs = slices.DeleteFunc(slices.Clone(t.subs), func(s *Subscription) bool { return s == only })
		t.unfollow()
	case only == nil && c.conn == nil && checkName(key.name) == nil:
		if t == nil {
			return true
		}
		c.endSubscriptions(t, nil)
	default:
		return false
	}
	c.removeIfUnused(t)
	return true
}

// endSubscriptions ends all subscriptions of t with err, which is nil if the application
// has ended them. c.mu is locked.
func (c *Client) endSubscriptions(t *topic, err error) {
	for _, s := range t.subs {
		s.end(err)
	}
	t.subs, t.presence = nil, nil
}

// withoutUnknown removes ErrOutcomeUnknown from the error of a canceled join or
// leave: leaveAfterCancel makes the outcome known.
func withoutUnknown(err error) error {
	if unknown := new(unknownError); errors.As(err, &unknown) {
		return unknown.cause
	}
	return err
}

// lockTopic locks the topic for a call that joins or leaves, and returns it with the
// control message for action. Calls about the same topic run one after the other.
func (c *Client) lockTopic(ctx context.Context, key topicKey, action websocket.Action, from resume) (*websocket.Message, *topic, error) {
	if err := checkName(key.name); err != nil {
		return nil, nil, err
	}
	m, err := c.controlMessage(key, action, from)
	if err != nil {
		return nil, nil, err
	}
	c.mu.Lock()
	t := c.topics[key]
	if t == nil {
		t = &topic{key: key, lock: make(chan struct{}, 1)}
		c.topics[key] = t
	}
	t.calls++
	c.mu.Unlock()
	select {
	case t.lock <- struct{}{}:
		return m, t, nil
	case <-ctx.Done():
		c.mu.Lock()
		defer c.mu.Unlock()
		t.calls--
		c.removeIfUnused(t)
		return nil, nil, ctx.Err()
	}
}

func (c *Client) unlockTopic(t *topic) {
	<-t.lock
	c.mu.Lock()
	defer c.mu.Unlock()
	t.calls--
	c.removeIfUnused(t)
}

// removeIfUnused needs c.mu locked.
func (c *Client) removeIfUnused(t *topic) {
	if len(t.subs) == 0 && t.calls == 0 && t.leaving == nil && c.topics[t.key] == t {
		delete(c.topics, t.key)
	}
}

func (c *Client) controlMessage(key topicKey, action websocket.Action, from resume) (*websocket.Message, error) {
	data, err := c.control.encode(key, from)
	return &websocket.Message{Type: string(action), Data: data}, err
}

// leaveAfterCancel asks the hub to end a membership that a canceled call may have
// left behind on cn. Messages of the topic are discarded until the hub replies. c.mu
// is locked.
func (c *Client) leaveAfterCancel(cn *conn, t *topic) {
	if c.conn != cn {
		return // the membership ended with its connection
	}
	m, err := c.controlMessage(t.key, t.key.leave(), resume{})
	if err == nil {
		m.ID = c.newID()
		var frame []byte
		if frame, err = c.encode(m); err == nil {
			t.leaving = cn
			cn.sendUnbounded(&request{id: m.ID, frame: frame, onReply: func(reply) { c.left(cn, t) }})
		}
	}
	if err != nil {
		cn.abort(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: err.Error()}) // ends the membership too
	}
}

// left handles the reply to leaveAfterCancel's request.
func (c *Client) left(cn *conn, t *topic) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.leaving == cn {
		t.leaving = nil
		c.removeIfUnused(t)
	}
}

// attach makes cn, which has not been started, the connection that calls use. It
// queues hub:hello and requests to restore every topic ahead of theirs. ready is closed
// when the hub has replied to all of them and to a ping: a hub responds to the
// handshake before onConnect, but to pings only afterwards. An older hub does not reply
// to hub:hello, so that its reply is awaited only until a second ping is answered.
// missedSince is the time of StateChange.MissedSince.
func (c *Client) attach(cn *conn) (ready <-chan struct{}, missedSince time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lastSeen != 0 {
		missedSince = time.Unix(0, c.lastSeen)
	} else {
		c.lastSeen = time.Now().UnixNano()
	}
	restored := make(chan struct{})
	remaining := 1 // replies to wait for, first those to pings and hub:hello; guarded by c.mu
	replied := func() {
		if remaining--; remaining == 0 {
			close(restored)
		}
	}
	c.greet(cn, replied)
	for _, t := range c.topics {
		if len(t.subs) == 0 {
			continue
		}
		remaining++
		c.restore(cn, t, 0, replied)
	}
	c.takeReconnect() // it was for the attempt that has led to cn
	cn.ready = restored
	c.conn = cn
	close(c.connChanged)
	c.connChanged = make(chan struct{})
	return restored, missedSince
}

// restore asks the hub on cn for the membership in t, after a number of refusals with
// CodeUnavailable. It calls replied once, with c.mu locked, unless cn ends before. c.mu is
// locked.
func (c *Client) restore(cn *conn, t *topic, refusals int, replied func()) {
	from := resume{since: t.since()}
	m, err := c.controlMessage(t.key, t.key.join(), from)
	m.ID = c.newID()
	var frame []byte
	if err == nil {
		frame, err = c.encode(m)
	}
	if err != nil { // never happens: the same message was encoded before
		c.restoreFailed(t, &Error{Code: CodeBadRequest, Message: err.Error(), Target: t.key.name})
		replied()
		return
	}
	again := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.conn != cn:
		case len(t.subs) == 0:
			replied()
		default:
			c.restore(cn, t, refusals+1, replied)
		}
	}
	cn.sendUnbounded(&request{id: m.ID, frame: frame, onReply: func(r reply) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.handleRestoreReply(t, from, r) {
			replied()
		} else {
			time.AfterFunc(backoff(refusals, c.options.BackoffMin, c.options.BackoffMax), again) // does nothing after the end of cn
		}
	}})
}

// greet makes cn begin with hub:hello and a ping. It calls replied once, with c.mu
// locked. c.mu is locked.
func (c *Client) greet(cn *conn, replied func()) {
	cn.configure(c.pacing())
	told, pongs := false, 0
	check := func() {
		if told && pongs == 1 || !told && pongs == 2 {
			replied()
			pongs = 3 // once only
		}
	}
	hello, err := c.helloRequest(cn, func() {
		told = true
		check()
	})
	if err == nil {
		cn.sendFirst(hello)
	} else {
		told = true // MaxSendSize is too small for it
	}
	cn.onPong = func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if pongs++; !told && pongs == 1 {
			cn.sendPing()
		}
		check()
	}
}

// handleRestoreReply handles the reply to the request that restores a topic. It
// returns false if the hub is closing or cannot read the topic's history now, so that the
// topic has to be restored later. It runs on the read loop. c.mu is locked.
func (c *Client) handleRestoreReply(t *topic, from resume, r reply) bool {
	switch {
	case r.refusal != nil && r.refusal.Code == CodeUnavailable:
		return false
	case r.refusal != nil:
		c.restoreFailed(t, r.refusal)
	case len(t.subs) > 0:
		resumed, told := decodeResumed(from, r.message.Data)
		if from.since == nil || !told { // otherwise the hub itself reports a loss
			resumed.Complete, resumed.Reason = false, reasonNone
			// The clock of the hub of the latest message may have been ahead.
			c.inbox.putGap(true, t.key, websocket.Gap{First: min(t.lastSeen, r.message.Timestamp), Last: r.message.Timestamp, Reason: ReasonReconnect}, nil)
		}
		for _, s := range t.subs {
			s.joined(from, resumed)
		}
		c.learnHistory(t.key, resumed)
		t.rejoined(resumed.Resumed)
		t.lastSeen = r.message.Timestamp
		c.askPresence(t)
	}
	return true
}

// restoreFailed needs c.mu locked.
func (c *Client) restoreFailed(t *topic, refusal *Error) {
	channel, roomID := t.key.split()
	err := &RestoreError{Channel: channel, RoomID: roomID, Err: refusal}
	c.endSubscriptions(t, err)
	c.removeIfUnused(t)
	c.inbox.putError(err)
}

// detach stops the use of cn, whose loops have returned, and ends it.
func (c *Client) detach(cn *conn, cause *websocket.CloseError) {
	c.mu.Lock()
	c.conn = nil
	for _, t := range c.topics {
		t.leaving = nil
		c.removeIfUnused(t)
	}
	connErr := error(cause)
	if c.closing() {
		connErr = ErrClosed
		if !cn.peerClosed {
			c.closeErr = fmt.Errorf("websocket: not closed cleanly: %w", cause)
		}
	}
	c.mu.Unlock()
	cn.end(connErr)
}

// recipients says which handlers get a message.
type recipients struct {
	key   topicKey        // of the topic that it was published to, also if the client has not joined it
	subs  []*Subscription // nil for Options.OnMessage
	epoch string          // of the history that it belongs to, or ""
}

// route records a message from the hub and returns its recipients. wanted is false if the
// client is leaving the topic, and if all subscriptions have received the message before.
func (c *Client) route(m *websocket.Message) (to recipients, wanted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := c.topicOf(m)
	to.key = key
	t := c.topics[key]
	if m.Timestamp != 0 {
		c.lastSeen = m.Timestamp
		if t != nil {
			t.lastSeen = m.Timestamp
		}
	}
	switch {
	case t == nil:
		return to, true
	case len(t.subs) == 0:
		return to, t.leaving == nil
	}
	to.subs = t.subs
	if m.Offset > 0 && t.epoch != "" {
		to.epoch = t.epoch
		to.subs = t.pass(websocket.Position{Epoch: t.epoch, Offset: m.Offset})
	}
	return to, len(to.subs) > 0 && c.excluded[m.Key] == 0
}

// topicOf returns the topic that a message was published to. A message without an offset
// and with an application's own type may be of a channel or of a room: if the client is in
// both, it is of the one that has no history. If neither has one, it counts as the
// channel's. c.mu is locked.
func (c *Client) topicOf(m *websocket.Message) topicKey {
	channel, room := topicKey{name: m.Channel}, topicKey{room: true, name: m.Channel}
	switch {
	case m.Offset > 0:
		return topicKey{room: m.Room, name: m.Channel}
	case m.Type == typeRoomMessage:
		return room
	case m.Type == typeMessage || !c.isMember(room):
		return channel
	case !c.isMember(channel) || c.topics[channel].epoch != "" && c.topics[room].epoch == "":
		return room
	}
	return channel
}

// isMember reports whether the client has joined a topic and has not left it completely.
// c.mu is locked.
func (c *Client) isMember(key topicKey) bool {
	t := c.topics[key]
	return t != nil && (len(t.subs) > 0 || t.leaving != nil)
}

// passGap records that the hub has told about lost messages. It reports whether the client
// has joined the topic, and returns the ends of the gap that are known. Messages about
// members, and replies, may be among the lost.
func (c *Client) passGap(key topicKey) (member bool, ends []gapEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, t := range c.topics {
		if key == k || key == anyTopic {
			ends = append(ends, t.passGap()...)
		}
		if t.presence != nil && t.presence.lostBy(k, key) {
			c.askPresence(t)
		}
	}
	return c.isMember(key), ends
}

// recordTime records the Timestamp of a message from the hub that belongs to no topic.
func (c *Client) recordTime(timestamp int64) {
	if timestamp != 0 {
		c.mu.Lock()
		c.lastSeen = timestamp
		c.mu.Unlock()
	}
}
