package websocket

import (
	"context"
	"errors"
)

// Action is what a client asks for with a control message.
type Action string

// Actions, named as the message types that ask for them. The target given to
// Config.Authorize is the channel's name or room's ID, and empty for broadcasts.
const (
	ActionSubscribe   Action = "subscribe"
	ActionUnsubscribe Action = "unsubscribe"
	ActionPublish     Action = "publish"
	ActionBroadcast   Action = "broadcast"
	ActionJoinRoom    Action = "join_room"
	ActionLeaveRoom   Action = "leave_room"
	ActionPublishRoom Action = "publish_room"
)

// AllowSubscribe is an Authorize hook that lets clients listen and join, while
// only the server publishes.
func AllowSubscribe(_ *Client, action Action, _ string) error {
	switch action {
	case ActionSubscribe, ActionUnsubscribe, ActionJoinRoom, ActionLeaveRoom:
		return nil
	default:
		return ErrForbidden
	}
}

// AllowMembers is an Authorize hook that lets clients listen and join, and
// publish where they are members. They cannot broadcast.
func AllowMembers(c *Client, action Action, target string) error {
	kind := channelTopic
	switch action {
	case ActionPublish:
	case ActionPublishRoom:
		kind = roomTopic
	default:
		return AllowSubscribe(c, action, target)
	}
	l := c.hub.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.registered || l.membership(c, kind, target) == nil {
		return ErrForbidden
	}
	return nil
}

// Codes in messages of type "error".
const (
	codeBadRequest  = "bad_request"
	codeForbidden   = "forbidden"
	codeLimit       = "limit"
	codeTooLarge    = "too_large"
	codeUnavailable = "unavailable"
)

// control does what a control message asks for; other messages are the
// application's own. It runs on the readPump.
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
		c.answerError(m, target, codeBadRequest, err)
		return
	}
	if !c.authorize(m, action, target) {
		return
	}
	if err := c.perform(action, target, m); err != nil {
		c.answerError(m, target, errorCode(err), err)
	}
}

// authorize asks the hook and answers its refusal.
func (c *Client) authorize(m *Message, action Action, target string) bool {
	hook := c.hub.config.Authorize
	if hook == nil {
		return true
	}
	var refusal error
	if !c.hub.call(c, callingAuthorize, func() { refusal = hook(c, action, target) }) {
		return false
	}
	if refusal != nil {
		c.answerError(m, target, codeForbidden, refusal)
		return false
	}
	return true
}

// perform appends what was asked for. It waits while the log is full, which
// slows only this client's reading.
func (c *Client) perform(action Action, target string, m *Message) error {
	ctx, l := context.Background(), c.hub.log
	var p *publication
	var err error
	out := Message{Data: m.Data, ClientID: c.ID, Timestamp: m.Timestamp}
	switch action {
	case ActionPublish:
		p, err = c.hub.prepare(&out, typeMessage, target, toChannel)
	case ActionPublishRoom:
		p, err = c.hub.prepare(&out, typeRoomMessage, target, toRoom)
	case ActionBroadcast:
		p, err = c.hub.prepare(&out, typeBroadcast, "", toClients)
	}
	if err != nil {
		return err
	}
	answer := c.ack(m, target)
	switch action {
	case ActionSubscribe:
		return l.join(ctx, c, channelTopic, target, answer)
	case ActionJoinRoom:
		return l.join(ctx, c, roomTopic, target, answer)
	case ActionUnsubscribe:
		return l.leave(ctx, c, channelTopic, target, answer)
	case ActionLeaveRoom:
		return l.leave(ctx, c, roomTopic, target, answer)
	case ActionPublish:
		return locally(l.publish(ctx, channelTopic, target, p, c, answer))
	case ActionPublishRoom:
		return locally(l.publish(ctx, roomTopic, target, p, c, answer))
	default:
		return locally(l.broadcast(ctx, p, c, answer))
	}
}

// ack makes the answer to a message that asks for one, or nil.
func (c *Client) ack(m *Message, target string) *publication {
	if m.ID == "" {
		return nil
	}
	return c.hub.newPublication(&Message{Type: typeAck, Channel: target, ID: m.ID, Timestamp: m.Timestamp}, toClients)
}

// answerError tells the client what went wrong; errors are answered also where no
// answer was asked for.
func (c *Client) answerError(m *Message, target, code string, err error) {
	p := c.hub.newPublication(&Message{
		Type: typeError, Channel: target, ID: m.ID, Timestamp: m.Timestamp,
		Data: encodeError(c.codec, code, err.Error()),
	}, toClients)
	if err := c.hub.log.send(context.Background(), c, p); err != nil {
		c.hub.logger.Debugf("websocket: client %q was not told of an error: %v", c.ID, err)
	}
}

func errorCode(err error) string {
	switch {
	case errors.Is(err, ErrTooManySubscriptions):
		return codeLimit
	case errors.Is(err, ErrMessageTooLarge):
		return codeTooLarge
	case errors.Is(err, ErrHubClosed), errors.Is(err, ErrClientClosed):
		return codeUnavailable
	default:
		return codeBadRequest
	}
}
