package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// PublishOption changes how Publish, PublishRoom and Broadcast publish. See ExceptSelf and
// Key.
type PublishOption struct {
	set func(*websocket.Message)
}

// ExceptSelf publishes to all recipients except this client. An older hub ignores it.
func ExceptSelf() PublishOption {
	return PublishOption{func(m *websocket.Message) { m.ExceptSelf = true }}
}

// Key gives a publication to a channel or room with history a key of the application's own.
// The hub does not publish a second publication of the same user with the same key while
// the history has the first, so a program may publish it again after a restart. Users
// without a name share their keys: choose one that cannot be guessed. Without this option
// the client chooses a random key. It has no meaning for broadcasts.
func Key(key string) PublishOption {
	return PublishOption{func(m *websocket.Message) { m.Key = key }}
}

// Publish publishes data to the subscribers of a channel, including this client if
// it is one of them and ExceptSelf is not given. It waits for a connection and for the
// hub's reply until ctx ends. data may be reused after Publish has returned. Errors:
// *Error, ErrOutcomeUnknown, ErrClosed, websocket.ErrMessageTooLarge,
// websocket.ErrInvalidName and ctx's error.
//
// If the connection is lost before the reply, and the channel is known to have a history
// without TopicOptions.Conflate, the client publishes again over the next connection, with the same key, so that the hub
// publishes data once. A channel is known to have one after an earlier reply about it.
// Otherwise, and if the hub now has another name for this user or has forgotten the history,
// Publish returns ErrOutcomeUnknown.
func (c *Client) Publish(ctx context.Context, channel string, data []byte, options ...PublishOption) error {
	if err := checkName(channel); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublish, channel, data, options)
}

// PublishRoom is like Publish but publishes to the members of a room. The client
// need not be a member.
func (c *Client) PublishRoom(ctx context.Context, roomID string, data []byte, options ...PublishOption) error {
	if err := checkName(roomID); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublishRoom, roomID, data, options)
}

// Broadcast is like Publish but publishes to every client of the hub.
func (c *Client) Broadcast(ctx context.Context, data []byte, options ...PublishOption) error {
	return c.publish(ctx, websocket.ActionBroadcast, "", data, options)
}

func (c *Client) publish(ctx context.Context, action websocket.Action, target string, data []byte, options []PublishOption) error {
	m := &websocket.Message{Type: string(action), Channel: target, Data: data}
	for _, o := range options {
		if o.set != nil {
			o.set(m)
		}
	}
	if action == websocket.ActionBroadcast {
		m.Key = ""
		_, err := c.call(ctx, call{message: m})
		return err
	}
	key := topicKey{room: action == websocket.ActionPublishRoom, name: target}
	if m.Key == "" && c.hasFeature(featureHistory) {
		m.Key = rand.Text()
	}
	if m.ExceptSelf && m.Key != "" {
		defer c.exclude(m.Key)()
	}
	_, err := c.call(ctx, call{message: m, once: &key, onReply: func(r reply) {
		if r.refusal == nil {
			c.published(key, r.message, m.ExceptSelf)
		}
	}})
	return err
}

// exclude makes route drop a publication with this key until end is called. After a lost
// connection the hub does not know that it has come from this client.
func (c *Client) exclude(key string) (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.excluded[key]++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.excluded[key]--; c.excluded[key] == 0 {
			delete(c.excluded, key)
		}
	}
}

// published records the reply to a publication. Subscriptions that have everything before
// it have it too if the hub does not send it to this client. It runs on the read loop.
func (c *Client) published(key topicKey, ack *websocket.Message, exceptSelf bool) {
	var told positionReply
	_ = json.Unmarshal(ack.Data, &told) // without a history there is no data
	at := told.Position
	c.mu.Lock()
	defer c.mu.Unlock()
	c.learnHistory(key, told)
	if t := c.topics[key]; t != nil && exceptSelf && at.Epoch != "" {
		for _, s := range t.subs {
			if s.at.Epoch == at.Epoch && s.at.Offset+1 == at.Offset {
				s.at = at
			}
		}
	}
}

// Send sends a message with an application's own type to the hub's onMessage. It
// waits for a connection and for space in the queue until ctx ends. The hub does
// not acknowledge the message: nil means that it is queued. It is lost without
// notice if the connection breaks before the message has reached the hub. m is not
// retained. Errors: ErrReserved, ErrClosed, websocket.ErrNilMessage,
// websocket.ErrMessageTooLarge, an error of the codec and ctx's error.
//
// The types publish, publish_room and broadcast may be sent too; OnError then
// reports a refusal. The types subscribe, unsubscribe, join_room, leave_room, hub:hello,
// hub:ping and hub:history return ErrReserved.
func (c *Client) Send(ctx context.Context, m *websocket.Message) error {
	if m == nil {
		return websocket.ErrNilMessage
	}
	switch websocket.Action(m.Type) {
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom, typeHello, typePing, typeHistory:
		return fmt.Errorf("%w: %q", ErrReserved, m.Type)
	}
	frame, err := c.encode(m)
	if err != nil {
		return err
	}
	for {
		cn, err := c.waitConn(ctx, false)
		if err != nil {
			return err
		}
		if err := cn.send(ctx, &request{frame: frame}); !errors.Is(err, errConnClosed) {
			return err
		}
	}
}

// call is a message that the hub replies to.
type call struct {
	message  *websocket.Message
	resend   bool        // the hub may carry it out twice
	once     *topicKey   // not nil: it is a publication to this topic. With a Key and a history the hub publishes it once
	onReply  func(reply) // not nil: runs on the read loop when the reply arrives
	onCancel func(*conn) // not nil: runs when ctx ends after the message was sent and before the reply arrives
}

// call sends a message with an ID and returns the hub's reply. If the connection is lost
// before the reply arrives, call sends the message again on the next one if the hub has not
// received it or if sending it twice does no harm.
func (c *Client) call(ctx context.Context, k call) (*websocket.Message, error) {
	m := k.message
	m.ID = c.newID()
	frame, err := c.encode(m)
	if err != nil {
		return nil, err
	}
	keyed := k.once != nil && m.Key != ""
	var first scope
	var unknown error // of an earlier connection; then the outcome stays unknown until an ack
	fail := func(err error) error {
		if unknown != nil {
			return &unknownError{err}
		}
		return err
	}
	for {
		cn, err := c.waitConn(ctx, keyed)
		if err != nil {
			return nil, fail(err)
		}
		if keyed {
			now := c.scopeOf(*k.once)
			if unknown != nil && now != first {
				return nil, unknown
			}
			first = now
		}
		r := &request{id: m.ID, frame: frame, onReply: k.onReply, done: make(chan reply, 1)}
		if err := cn.send(ctx, r); errors.Is(err, errConnClosed) {
			continue
		} else if err != nil {
			return nil, fail(err)
		}
		var result reply
		select {
		case result = <-r.done:
		case <-ctx.Done():
			canceled, sent := cn.cancel(r)
			if canceled && sent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				cn.probe(r.queuedAt)
			}
			switch {
			case canceled && sent:
				if k.onCancel != nil {
					k.onCancel(cn)
				}
				return nil, &unknownError{ctx.Err()}
			case canceled:
				return nil, fail(ctx.Err())
			}
			result = <-r.done
		}
		switch {
		case result.refusal != nil:
			return nil, fail(result.refusal)
		case result.connErr == nil:
			return result.message, nil
		case result.sent && !k.resend:
			unknown = &unknownError{result.connErr}
			if !first.unique {
				return nil, unknown
			}
		}
	}
}

// scope is where the hub makes the Key of a publication unique.
type scope struct {
	user   string
	epoch  string // of the topic's history
	unique bool
}

// scopeOf returns the scope of publications to a topic. It is comparable with that of an
// earlier connection.
func (c *Client) scopeOf(key topicKey) scope {
	c.mu.Lock()
	defer c.mu.Unlock()
	epoch := c.epochs[key]
	return scope{user: c.hello.User, epoch: epoch, unique: epoch != "" && c.hello.has(featureHistory)}
}

// maxEpochs is the maximum number of topics that the client remembers as having a history.
const maxEpochs = 1024

// learnHistory records the epoch of a topic in which the hub publishes a Key once. c.mu is
// locked.
func (c *Client) learnHistory(key topicKey, told positionReply) {
	if told.Epoch == "" || told.Conflate {
		delete(c.epochs, key)
		return
	}
	if _, known := c.epochs[key]; !known && len(c.epochs) >= maxEpochs {
		for other := range c.epochs {
			delete(c.epochs, other)
			break
		}
	}
	c.epochs[key] = told.Epoch
}

// waitConn waits for a connection, and with ready until the hub has told its hello and all
// topics are restored. It returns ErrClosed when the client ends.
func (c *Client) waitConn(ctx context.Context, ready bool) (*conn, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		cn, changed := c.conn, c.connChanged
		if c.closing() || c.state == Closed {
			err := c.closedError()
			c.mu.Unlock()
			return nil, err
		}
		c.mu.Unlock()
		var restored <-chan struct{}
		switch {
		case cn != nil && (!ready || cn.isReady()):
			return cn, nil
		case cn != nil:
			changed, restored = cn.ended, cn.ready
		}
		select {
		case <-changed:
		case <-restored:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
	}
}
