package websocket

import (
	"context"
	"errors"
	"strings"
)

// Message types that the hub sends.
const (
	typeMessage     = "message"
	typeRoomMessage = "room_message"
	typeBroadcast   = "broadcast"
	typeAck         = "ack"
	typeError       = "error"
	typeGap         = "gap"
	typeJoin        = "join"
	typeLeave       = "leave"
	typeUpdate      = "update"
	typeDiff        = "presence_diff"
	typeHello       = "hub:hello" // from clients only, as the next
	typePing        = "hub:ping"
	typeHistory     = "hub:history"
	typePresence    = "hub:presence"
	typePublished   = "hub:published"
	typeGoaway      = "hub:goaway" // from the hub only
)

// channel returns m.Channel, or "" for a nil m, which prepare refuses.
func (m *Message) channel() string {
	if m == nil {
		return ""
	}
	return m.Channel
}

// checkSize returns an error for a message of a cost that no client could receive.
func (h *Hub) checkSize(cost int64) error {
	switch {
	case cost > h.config.ClientBacklog:
		return &MessageTooLargeError{Size: cost, Limit: h.config.ClientBacklog, LimitedBy: "Config.ClientBacklog"}
	case cost > h.config.LogSize:
		return &MessageTooLargeError{Size: cost, Limit: h.config.LogSize, LimitedBy: limitedByLog}
	default:
		return nil
	}
}

// prepare copies m into a publication with name as its Channel. It returns a
// *MessageTooLargeError for a message that no client could receive.
func (h *Hub) prepare(m *Message, defaultType, name string, to audience) (*publication, error) {
	if m == nil {
		return nil, ErrNilMessage
	}
	if h.node != nil {
		if err := h.node.checkSize(m, name); err != nil {
			return nil, err
		}
	}
	out := *m
	out.Channel = name
	out.Trace = validTrace(out.Trace)
	if strings.HasPrefix(out.ID, hubPrefix) {
		out.ID = "" // an application that passes a client's message on must not make it a request of the hub's
	}
	if strings.HasPrefix(out.Type, hubPrefix) {
		out.Type = "" // the same for messages of the hub, such as hub:goaway
	}
	if to != toClients {
		if err := checkKey(out.Key); err != nil {
			return nil, err
		}
	}
	if out.Type == "" {
		out.Type = defaultType
	}
	if out.Timestamp == 0 {
		out.Timestamp = h.now()
	}
	if err := h.checkSize(messageCost(&out)); err != nil {
		return nil, err
	}
	return h.newPublication(&out, to), nil
}

// PublishToChannel publishes m to the subscribers of a channel, with a broker to those
// on all nodes. Each of them receives m in its own codec. m.Channel is ignored. An
// empty Type becomes "message", and a zero Timestamp the current time. m may be changed
// and released as soon as the call returns.
//
// Nil means that the hub has accepted m: every subscriber on this node receives it
// after all messages accepted before, unless it is dropped (see Config.SlowConsumer). A
// channel without subscribers is no error. The call waits while Config.LogSize or
// Config.BrokerQueue is used up.
//
// Errors: ErrHubClosed after shutdown has begun, a *MessageTooLargeError, which wraps
// ErrMessageTooLarge, ErrInvalidName, ErrNilMessage, one that wraps ErrMalformed if m.Key
// is not UTF-8, ErrHubNotRunning if the call would have to wait before Run, and with a
// broker ErrBrokerUnavailable if m reaches only the subscribers on this node. It may be
// called from any goroutine, callbacks included.
func (h *Hub) PublishToChannel(channel string, m *Message) error {
	return h.PublishToChannelContext(context.Background(), channel, m)
}

// PublishToChannelContext is like PublishToChannel but stops waiting when ctx is
// done. If m is not published by then, it returns ctx's error. If m is published and
// the call only waits for room in Config.BrokerQueue, it returns nil.
func (h *Hub) PublishToChannelContext(ctx context.Context, channel string, m *Message) error {
	return h.publish(ctx, ChannelTopic, typeMessage, channel, m)
}

// PublishToChannelRaw is like PublishToChannel for a message of type "message" with the
// given Data. data may be reused as soon as the call returns.
func (h *Hub) PublishToChannelRaw(channel string, data []byte) error {
	return h.PublishToChannelRawContext(context.Background(), channel, data)
}

// PublishToChannelRawContext is like PublishToChannelContext for a message of type
// "message" with the given Data.
func (h *Hub) PublishToChannelRawContext(ctx context.Context, channel string, data []byte) error {
	return h.PublishToChannelContext(ctx, channel, &Message{Data: data})
}

// PublishToRoom is like PublishToChannel, for the members of a room. An empty Type
// becomes "room_message".
func (h *Hub) PublishToRoom(roomID string, m *Message) error {
	return h.PublishToRoomContext(context.Background(), roomID, m)
}

// PublishToRoomContext is like PublishToChannelContext, for the members of a room. An
// empty Type becomes "room_message".
func (h *Hub) PublishToRoomContext(ctx context.Context, roomID string, m *Message) error {
	return h.publish(ctx, RoomTopic, typeRoomMessage, roomID, m)
}

func (h *Hub) publish(ctx context.Context, kind TopicKind, defaultType, name string, m *Message) error {
	if err := checkName(name, h.config.MaxNameLength); err != nil {
		return err
	}
	p, err := h.prepare(m, defaultType, name, kind.audience())
	if err != nil {
		return err
	}
	return h.events.publish(ctx, kind, name, p, nil, nil)
}

// Broadcast is like PublishToChannelRaw but publishes to every client, with type
// "broadcast".
func (h *Hub) Broadcast(data []byte) error {
	return h.BroadcastContext(context.Background(), data)
}

// BroadcastContext is like Broadcast but stops waiting when ctx is done, as
// PublishToChannelContext does.
func (h *Hub) BroadcastContext(ctx context.Context, data []byte) error {
	return h.BroadcastMessageContext(ctx, &Message{Data: data})
}

// BroadcastMessage is like PublishToChannel but publishes to every client. m.Channel is
// kept. An empty Type becomes "broadcast".
func (h *Hub) BroadcastMessage(m *Message) error {
	return h.BroadcastMessageContext(context.Background(), m)
}

// BroadcastMessageContext is like BroadcastMessage but stops waiting when ctx is done,
// as PublishToChannelContext does.
func (h *Hub) BroadcastMessageContext(ctx context.Context, m *Message) error {
	p, err := h.prepare(m, typeBroadcast, m.channel(), toClients)
	if err != nil {
		return err
	}
	return h.events.broadcast(ctx, p, nil, nil)
}

// SendToClient sends m to the client with that ID; see Client.Send for the details and
// errors. It returns ErrClientNotFound if no such client is connected. With a broker it
// publishes a message for a client that is not on this node to the other nodes; nil
// then does not mean that one of them has the client, and ErrBrokerUnavailable means
// that m cannot reach them. It may be called from any goroutine.
func (h *Hub) SendToClient(id string, m *Message) error {
	return h.SendToClientContext(context.Background(), id, m)
}

// SendToClientContext is like SendToClient but stops waiting when ctx is done, as
// PublishToChannelContext does.
func (h *Hub) SendToClientContext(ctx context.Context, id string, m *Message) error {
	if h.stopping() {
		return ErrHubClosed
	}
	if c, ok := h.Client(id); ok {
		if err := c.SendContext(ctx, m); !errors.Is(err, ErrClientClosed) {
			return err
		}
	}
	if h.node == nil {
		return ErrClientNotFound
	}
	return h.node.send(ctx, id, m)
}
