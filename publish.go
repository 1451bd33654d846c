package websocket

import (
	"context"
	"errors"
)

// Message types that the hub sends.
const (
	typeMessage     = "message"
	typeRoomMessage = "room_message"
	typeBroadcast   = "broadcast"
	typeAck         = "ack"
	typeError       = "error"
	typeGap         = "gap"
)

// channel is m.Channel, also for a nil m, which prepare refuses.
func (m *Message) channel() string {
	if m == nil {
		return ""
	}
	return m.Channel
}

// prepare copies m for publishing under a name.
func (h *Hub) prepare(m *Message, defaultType, name string, to audience) (*publication, error) {
	if m == nil {
		return nil, ErrNilMessage
	}
	if h.node != nil && !h.node.fits(m, name) {
		return nil, ErrMessageTooLarge
	}
	out := *m
	out.Channel = name
	if out.Type == "" {
		out.Type = defaultType
	}
	if out.Timestamp == 0 {
		out.Timestamp = h.now()
	}
	if messageCost(&out) > min(h.config.ClientBacklog, h.config.LogSize) {
		return nil, ErrMessageTooLarge
	}
	return h.newPublication(&out, to), nil
}

// PublishToChannel publishes m to a channel's subscribers, each of which gets it
// in its own codec. m.Channel is ignored in favour of channel; an empty Type
// becomes "message", a zero Timestamp the current time. m may be changed and
// released as soon as the call returns.
//
// Nil means that the hub has accepted it: it has its place in the order that
// every client sees. A channel without subscribers takes it and delivers it to
// nobody. The call waits while the log is full. Errors: ErrHubClosed,
// ErrMessageTooLarge, ErrInvalidName, ErrNilMessage, and ErrHubNotRunning where
// it would have to wait before Run.
func (h *Hub) PublishToChannel(channel string, m *Message) error {
	return locally(h.PublishToChannelContext(context.Background(), channel, m))
}

// PublishToChannelContext is PublishToChannel with an end to the waiting. With a
// broker it returns ErrBrokerUnavailable for what reaches this node's members
// only, because the engine is away.
func (h *Hub) PublishToChannelContext(ctx context.Context, channel string, m *Message) error {
	return h.publish(ctx, channelTopic, typeMessage, channel, m)
}

// PublishToChannelRaw publishes data as the Data of a message of type "message"
// without a ClientID. The bytes may be reused as soon as the call returns.
func (h *Hub) PublishToChannelRaw(channel string, data []byte) error {
	return locally(h.PublishToChannelRawContext(context.Background(), channel, data))
}

// PublishToChannelRawContext is PublishToChannelRaw with an end to the waiting.
func (h *Hub) PublishToChannelRawContext(ctx context.Context, channel string, data []byte) error {
	return h.PublishToChannelContext(ctx, channel, &Message{Data: data})
}

// PublishToRoom is PublishToChannel for a room's members; an empty Type becomes
// "room_message".
func (h *Hub) PublishToRoom(roomID string, m *Message) error {
	return locally(h.PublishToRoomContext(context.Background(), roomID, m))
}

// PublishToRoomContext is PublishToRoom with an end to the waiting.
func (h *Hub) PublishToRoomContext(ctx context.Context, roomID string, m *Message) error {
	return h.publish(ctx, roomTopic, typeRoomMessage, roomID, m)
}

func (h *Hub) publish(ctx context.Context, kind topicKind, defaultType, name string, m *Message) error {
	if err := checkName(name, h.config.MaxNameLength); err != nil {
		return err
	}
	p, err := h.prepare(m, defaultType, name, kind.audience())
	if err != nil {
		return err
	}
	return h.log.publish(ctx, kind, name, p, nil, nil)
}

// Broadcast sends data to every client as the Data of a message of type
// "broadcast" without a ClientID. All that is said at PublishToChannel holds.
func (h *Hub) Broadcast(data []byte) error {
	return locally(h.BroadcastContext(context.Background(), data))
}

// BroadcastContext is Broadcast with an end to the waiting.
func (h *Hub) BroadcastContext(ctx context.Context, data []byte) error {
	return h.BroadcastMessageContext(ctx, &Message{Data: data})
}

// BroadcastMessage sends m to every client; an empty Type becomes "broadcast".
func (h *Hub) BroadcastMessage(m *Message) error {
	return locally(h.BroadcastMessageContext(context.Background(), m))
}

// BroadcastMessageContext is BroadcastMessage with an end to the waiting.
func (h *Hub) BroadcastMessageContext(ctx context.Context, m *Message) error {
	p, err := h.prepare(m, typeBroadcast, m.channel(), toClients)
	if err != nil {
		return err
	}
	return h.log.broadcast(ctx, p, nil, nil)
}

// SendToClient sends m to the client with that ID; see Client.Send. It answers
// ErrClientNotFound at once if there is none. With a broker, a client that is not
// on this node is looked for on the others: nil then says nothing of whether
// there is one.
func (h *Hub) SendToClient(id string, m *Message) error {
	return locally(h.SendToClientContext(context.Background(), id, m))
}

// SendToClientContext is SendToClient with an end to the waiting.
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

// locally is what verbs without a context return: other nodes are not their
// concern.
func locally(err error) error {
	if errors.Is(err, ErrBrokerUnavailable) {
		return nil
	}
	return err
}
