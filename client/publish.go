package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// PublishOption changes how Publish, PublishRoom and Broadcast publish. See ExceptSelf,
// Key, Trace and Result.
type PublishOption struct {
	set    func(*websocket.Message)
	result *PublishResult
}

// PublishResult is what the hub tells about a publication; see Result.
type PublishResult struct {
	// Local means that the publication reached only the clients of the hub that this client is
	// connected to: the hub is one of several nodes, and its broker was not available. False
	// means that this was not so, or that the hub does not know yet. In topics with history
	// it is always false.
	Local bool
}

// ExceptSelf publishes to all recipients except this client. An older hub ignores it.
func ExceptSelf() PublishOption {
	return PublishOption{set: func(m *websocket.Message) { m.ExceptSelf = true }}
}

// Key gives a publication to a channel or room with history a key of the application's own.
// The hub does not publish a second publication of the same user with the same key while
// the history has the first, so a program may publish it again after a restart. Users
// without a name share their keys: choose one that cannot be guessed. It must be UTF-8, or
// Publish returns an error that wraps websocket.ErrMalformed. Without this option
// the client chooses a random key. It has no meaning for broadcasts.
func Key(key string) PublishOption {
	return PublishOption{set: func(m *websocket.Message) { m.Key = key }}
}

// Trace gives a publication a W3C trace context, see websocket.Message.Trace. A hub ignores
// one of another form, and an older hub any.
func Trace(trace string) PublishOption {
	return PublishOption{set: func(m *websocket.Message) { m.Trace = trace }}
}

// Result stores what the hub tells about the publication in r, before the call returns nil.
func Result(r *PublishResult) PublishOption { return PublishOption{result: r} }

// Publish publishes data to the subscribers of a channel, including this client if
// it is one of them and ExceptSelf is not given. It waits for a connection and for the
// hub's reply until ctx ends. data may be reused after Publish has returned. Errors:
// *Error, ErrOutcomeUnknown, ErrClosed, websocket.ErrMessageTooLarge,
// websocket.ErrInvalidName and ctx's error.
//
// If the connection is lost before the reply, the client asks the hub over the next
// connection whether it has published data, and publishes again if it certainly has not.
// So the hub publishes data once. This needs a channel with a history and without
// TopicOptions.Conflate, which an earlier reply about the channel has told, and a history
// that still has everything since then. Otherwise, and if the hub now has another name for
// this user, Publish returns ErrOutcomeUnknown.
//
// If the hub refuses with CodeUnavailable in such a channel, because its engine is away,
// Publish publishes again with the same Key, after random delays as between connections
// (Options.BackoffMin). When ctx ends, the error wraps the refusal too.
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
	var results []*PublishResult
	for _, o := range options {
		if o.set != nil {
			o.set(m)
		}
		if o.result != nil {
			results = append(results, o.result)
		}
	}
	reply, err := c.publishMessage(ctx, action, m)
	if err == nil {
		result := resultOf(reply)
		for _, r := range results {
			*r = result
		}
	}
	return err
}

// resultOf returns what a reply tells, which may be nil.
func resultOf(reply *websocket.Message) PublishResult {
	var told struct {
		Local bool `json:"local"`
	}
	if reply != nil {
		_ = json.Unmarshal(reply.Data, &told) // there may be no data
	}
	return PublishResult{Local: told.Local}
}

func (c *Client) publishMessage(ctx context.Context, action websocket.Action, m *websocket.Message) (*websocket.Message, error) {
	if action == websocket.ActionBroadcast {
		m.Key = ""
		return c.call(ctx, call{message: m})
	}
	key := topicKey{room: action == websocket.ActionPublishRoom, name: m.Channel}
	if m.Key == "" && c.hasFeature(featureHistory) {
		m.Key = rand.Text()
	}
	if m.ExceptSelf && m.Key != "" {
		c.exclude(m.Key)
	}
	reply, err := c.call(ctx, call{message: m, once: &key, onReply: func(r reply) {
		if r.refusal == nil {
			c.published(key, r.message, m.ExceptSelf)
		}
	}})
	if m.ExceptSelf && m.Key != "" {
		c.include(m.Key, err == nil && reply == nil)
	}
	return reply, err
}

// maxReplayed is the maximum number of keys that stay excluded after their calls.
const maxReplayed = 256

// exclude makes route drop a publication with this key until include is called. After a
// lost connection the hub does not know that it has come from this client.
func (c *Client) exclude(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.excluded[key]++
}

// include ends exclude. If the publication may still come in a replay, the key stays
// excluded until maxReplayed others have followed it.
func (c *Client) include(key string, replayed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if replayed {
		c.replayed = append(c.replayed, key)
		if len(c.replayed) <= maxReplayed {
			return
		}
		key, c.replayed = c.replayed[0], c.replayed[1:]
	}
	if c.excluded[key]--; c.excluded[key] == 0 {
		delete(c.excluded, key)
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
// hub:ping, hub:history, hub:presence and hub:published return ErrReserved.
func (c *Client) Send(ctx context.Context, m *websocket.Message) error {
	if m == nil {
		return websocket.ErrNilMessage
	}
	switch websocket.Action(m.Type) {
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom, typeHello, typePing, typeHistory, typePresence, typePublished:
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
	patient  bool        // it is sent again if the hub refuses it with CodeUnavailable
	once     *topicKey   // not nil: it is a publication to this topic. With a Key and a history the hub publishes it once
	onReply  func(reply) // not nil: runs on the read loop when the reply arrives
	onCancel func(*conn) // not nil: runs when ctx ends after the message was sent and before the reply arrives
}

// call sends a message with an ID and returns the hub's reply. If the connection is lost
// before the reply arrives, call sends the message again on the next one if the hub has not
// received it, or if sending it twice does no harm. It returns no reply if the hub tells that
// a publication has reached it on an earlier connection. A patient call, and a publication
// that the hub publishes once, are repeated while the hub refuses them with CodeUnavailable.
func (c *Client) call(ctx context.Context, k call) (*websocket.Message, error) {
	m := k.message
	m.ID = c.newID()
	frame, err := c.encode(m)
	if err != nil {
		return nil, err
	}
	keyed := k.once != nil && m.Key != ""
	var first scope    // of the attempt with an unknown outcome, or of the first one
	var unknown error  // of an earlier connection; then the outcome stays unknown until an ack
	var refusal *Error // the latest one with CodeUnavailable
	refusals := 0
	fail := func(err error) error {
		if refusal != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = fmt.Errorf("%w: %w", err, refusal)
		}
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
		switch {
		case unknown != nil && k.once != nil:
			published, err := c.wasPublished(ctx, *k.once, m.Key, first)
			if err != nil {
				return nil, &unknownError{err}
			}
			if published {
				return nil, nil
			}
		case keyed && refusal == nil: // otherwise the hub may have taken it all the same
			first = c.scopeOf(*k.once)
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
		case result.refusal != nil && result.refusal.Code == CodeUnavailable && (k.patient || first.behind.Epoch != ""):
			refusal = result.refusal
			cn.pause(ctx, backoff(refusals, c.options.BackoffMin, c.options.BackoffMax))
			refusals++
		case result.refusal != nil:
			return nil, fail(result.refusal)
		case result.connErr == nil:
			return result.message, nil
		case result.sent && !k.resend:
			unknown = &unknownError{result.connErr}
			if first.behind.Epoch == "" {
				return nil, unknown
			}
		}
	}
}

// pause waits for d. It returns early if ctx or the connection ends.
func (cn *conn) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	case <-cn.ended:
	}
}

// scope is where the hub makes the Key of a publication unique.
type scope struct {
	user   string
	behind websocket.Position // publications of this client that have not been sent come later; zero if the topic has no history
}

// scopeOf returns the scope of a publication to a topic.
func (c *Client) scopeOf(topic topicKey) scope {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.hello.has(featureHistory) {
		return scope{}
	}
	behind := c.positions[topic]
	if t := c.topics[topic]; t != nil {
		for _, s := range t.subs {
			if s.at.Epoch == behind.Epoch {
				behind.Offset = max(behind.Offset, s.at.Offset)
			}
		}
	}
	return scope{c.hello.User, behind}
}

// errForgotten is why it is not known whether a publication has been published.
var errForgotten = errors.New("the history does not have everything since then")

// wasPublished asks the hub whether it has the publication with a key, which was sent over
// an earlier connection. The error says why that is not known.
func (c *Client) wasPublished(ctx context.Context, topic topicKey, key string, sent scope) (bool, error) {
	c.mu.Lock()
	user, able := c.hello.User, c.hello.has(featureHistory)
	c.mu.Unlock()
	if !able || user != sent.user {
		return false, errors.New("the hub has another name for the user, or no histories")
	}
	request := topicRequest{Key: key, Since: &sent.behind}
	request.Channel, request.RoomID = topic.split()
	data, err := json.Marshal(request)
	if err != nil {
		return false, err
	}
	m, err := c.call(ctx, call{message: &websocket.Message{Type: typePublished, Data: data}, resend: true, patient: true})
	if err != nil {
		return false, withoutUnknown(err)
	}
	var told struct {
		Published bool `json:"published"`
		Complete  bool `json:"complete"` // it is certain
	}
	if err := json.Unmarshal(m.Data, &told); err != nil {
		return false, err
	}
	if !told.Published && !told.Complete {
		return false, errForgotten
	}
	return told.Published, nil
}

// maxPositions is the maximum number of topics whose positions the client remembers.
const maxPositions = 1024

// learnHistory records the position that a reply tells, if the hub publishes a Key once in
// the topic. c.mu is locked.
func (c *Client) learnHistory(topic topicKey, told positionReply) {
	if told.Epoch == "" || told.Conflate {
		delete(c.positions, topic)
		return
	}
	if _, known := c.positions[topic]; !known && len(c.positions) >= maxPositions {
		for other := range c.positions {
			delete(c.positions, other)
			break
		}
	}
	c.positions[topic] = told.Position
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
