package websocket

import (
	"context"
	"errors"
	"log/slog"
)

// Action is the operation that a client requests with a control message.
type Action string

// Actions have the names of the message types that request them.
const (
	ActionSubscribe   Action = "subscribe"
	ActionUnsubscribe Action = "unsubscribe"
	ActionPublish     Action = "publish"
	ActionBroadcast   Action = "broadcast"
	ActionJoinRoom    Action = "join_room"
	ActionLeaveRoom   Action = "leave_room"
	ActionPublishRoom Action = "publish_room"
)

// AuthorizeRequest describes a control message to Config.Authorize.
type AuthorizeRequest struct {
	// Action is the requested operation.
	Action Action
	// Target is the channel's name or the room's ID. It is empty for
	// ActionBroadcast.
	Target string
	// Message is the control message, with ClientID and Timestamp set by the hub.
	// It is a copy that is valid until the hook returns. The bytes of its Data must
	// not be changed, because the hub publishes them next.
	Message *Message
}

// AllowSubscribe is a hook for Config.Authorize. Clients may subscribe to every channel
// and join every room, but only the server may publish. It refuses other actions with
// ErrForbidden.
func AllowSubscribe(_ *Client, r AuthorizeRequest) error {
	switch r.Action {
	case ActionSubscribe, ActionUnsubscribe, ActionJoinRoom, ActionLeaveRoom:
		return nil
	default:
		return ErrForbidden
	}
}

// AllowMembers is a hook for Config.Authorize. Clients may subscribe to every channel
// and join every room, and may publish to the channels and rooms that they are in. They
// may not broadcast. It refuses other actions with ErrForbidden.
func AllowMembers(c *Client, r AuthorizeRequest) error {
	kind := ChannelTopic
	switch r.Action {
	case ActionPublish:
	case ActionPublishRoom:
		kind = RoomTopic
	default:
		return AllowSubscribe(c, r)
	}
	l := c.hub.events
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.registered || l.membership(c, kind, r.Target) == nil {
		return ErrForbidden
	}
	return nil
}

// Codes in messages of type "error".
const (
	codeBadRequest  = "bad_request"
	codeForbidden   = "forbidden"
	codeInternal    = "internal"
	codeLimit       = "limit"
	codeTooLarge    = "too_large"
	codeUnavailable = "unavailable"
)

// control carries out a control message. Messages of other types belong to the
// application. It runs on the readPump.
func (c *Client) control(m *Message) {
	action := Action(m.Type)
	var target string
	var err error
	switch action {
	case ActionSubscribe, ActionUnsubscribe:
		target, err = controlChannel(c.codec, m.Data)
	case ActionJoinRoom, ActionLeaveRoom:
		target, err = controlRoom(c.codec, m.Data)
	case ActionPublish, ActionPublishRoom:
		target = m.Channel
	case ActionBroadcast:
	default:
		return
	}
	if err == nil && action != ActionBroadcast {
		err = checkName(target, c.hub.config.MaxNameLength)
	}
	if err != nil {
		c.replyError(m, target, codeBadRequest, err.Error())
		return
	}
	if !c.authorize(m, action, target) {
		return
	}
	for again := true; again; {
		if c.joinsLater(action, target, m) {
			return
		}
		again = c.carryOut(action, target, m)
	}
	c.hooks.finishWatched(c)
}

// joinsLater queues a request to join a topic until the engine has confirmed this
// node's subscription. It reports false if that is not needed.
func (c *Client) joinsLater(action Action, target string, m *Message) bool {
	if c.hub.node == nil || !joins(m.Type) {
		return false
	}
	kind := ChannelTopic
	if action == ActionJoinRoom {
		kind = RoomTopic
	}
	return c.hub.node.queueJoin(c, kind, target, m, func(m *Message, err error) {
		if err == nil && c.carryOut(action, target, m) {
			err = errNotAvailable
		}
		if err != nil {
			c.replyError(m, target, errorCode(err), err.Error())
		}
		c.hooks.start(c) // other callbacks of the client may run, and wait for them
	})
}

// joins reports whether messages of a type make a client join a topic.
func joins(typ string) bool {
	return typ == string(ActionSubscribe) || typ == string(ActionJoinRoom)
}

// carryOut performs a control message and replies to it. It reports true if a topic's
// history has to be read first.
func (c *Client) carryOut(action Action, target string, m *Message) (again bool) {
	err := c.perform(action, target, m)
	if errors.Is(err, errNotAvailable) {
		return true
	}
	if err != nil {
		c.replyError(m, target, errorCode(err), err.Error())
	}
	return false
}

// authorize calls Config.Authorize and reports whether the action is allowed. If not,
// it sends an error reply.
func (c *Client) authorize(m *Message, action Action, target string) bool {
	hook := c.hub.config.Authorize
	if hook == nil {
		return true
	}
	seen := inboundPool.Get().(*Message)
	defer func() { *seen = Message{}; inboundPool.Put(seen) }()
	*seen = *m
	var err error
	var code, text string
	if !c.hub.runCallback(c, callingAuthorize, func() {
		if err = hook(c, AuthorizeRequest{action, target, seen}); err != nil {
			code, text = c.refusal(action, target, err) // calls methods of err
		}
	}) {
		return false
	}
	if err == nil {
		return true
	}
	c.replyError(m, target, code, text)
	return false
}

// refusal returns the code and text that a client gets for an error of
// Authorize. The text of an error that is no refusal stays in the hub's log.
func (c *Client) refusal(action Action, target string, err error) (code, text string) {
	code, text, ok := requestRefusal(err)
	if !ok {
		c.hub.logFields(&c.kept.values, "Authorize failed", slog.LevelError, "Authorize failed",
			slog.String("action", string(action)), peerText("target", target), peerText("client", c.ID), peerText("error", err.Error()))
	}
	return code, text
}

// perform appends the requested operation to the event log. It waits while the
// log is full, which slows down only this client's reading.
func (c *Client) perform(action Action, target string, m *Message) error {
	ctx, l := context.Background(), c.hub.events
	var p *publication
	var from resume
	var err error
	out := Message{Data: m.Data, ClientID: c.ID, Timestamp: m.Timestamp, Key: m.Key, Trace: m.Trace}
	switch action {
	case ActionSubscribe, ActionJoinRoom:
		if from, err = c.codec.decodeResume(m.Data); c.hub.config.TopicOptions == nil {
			err = nil // without histories these may be fields of the application's own
		}
	case ActionPublish:
		p, err = c.hub.prepare(&out, typeMessage, target, toChannel)
	case ActionPublishRoom:
		p, err = c.hub.prepare(&out, typeRoomMessage, target, toRoom)
	case ActionBroadcast:
		out.Key = ""
		p, err = c.hub.prepare(&out, typeBroadcast, "", toClients)
	}
	if err != nil {
		return err
	}
	if p != nil && m.ExceptSelf {
		p.except = c.ID
	}
	ack := c.ack(m, target)
	switch action {
	case ActionSubscribe:
		_, err = l.join(ctx, c, ChannelTopic, target, from, ack)
	case ActionJoinRoom:
		_, err = l.join(ctx, c, RoomTopic, target, from, ack)
	case ActionUnsubscribe:
		err = l.leave(ctx, c, ChannelTopic, target, ack)
	case ActionLeaveRoom:
		err = l.leave(ctx, c, RoomTopic, target, ack)
	case ActionPublish:
		err = l.publish(ctx, ChannelTopic, target, p, c, ack)
	case ActionPublishRoom:
		err = l.publish(ctx, RoomTopic, target, p, c, ack)
	default:
		err = l.broadcast(ctx, p, c, ack)
	}
	c.noteRefused(err)
	if errors.Is(err, ErrBrokerUnavailable) && !errors.Is(err, errNotPublished) {
		return nil // the members on this node get the message, and the ack is appended
	}
	return err
}

// ack returns the reply to a message that asks for one, or nil.
func (c *Client) ack(m *Message, target string) *publication {
	if m.ID == "" {
		return nil
	}
	return c.hub.newPublication(&Message{Type: typeAck, Channel: target, ID: m.ID, Timestamp: m.Timestamp}, toClients)
}

// replyError sends an "error" message. Unlike an ack it is also sent for a
// control message without an ID.
func (c *Client) replyError(m *Message, target, code, text string) {
	p := c.hub.newPublication(&Message{
		Type: typeError, Channel: target, ID: m.ID, Timestamp: m.Timestamp,
		Data: c.codec.encodeError(code, text),
	}, toClients)
	if err := c.hub.events.send(context.Background(), c, p); err != nil {
		c.hub.log(&c.kept.values, slog.LevelDebug, "error reply not sent", peerText("client", c.ID), peerText("error", err.Error()))
	}
}

// errorCode returns the code of the error reply for err.
func errorCode(err error) string {
	switch {
	case errors.Is(err, ErrTooManySubscriptions):
		return codeLimit
	case errors.Is(err, ErrMessageTooLarge):
		return codeTooLarge
	case errors.Is(err, ErrHubClosed), errors.Is(err, ErrClientClosed), errors.Is(err, ErrBrokerUnavailable):
		return codeUnavailable
	default:
		return codeBadRequest
	}
}
