package websocket

// Gap describes messages that one client did not receive: the argument of
// Config.OnDrop, and the data of a "gap" message to a client. Without Channel, RoomID
// and All they were broadcasts or messages to this client alone.
type Gap struct {
	// Channel is the channel of the lost messages, or "" if All is set or they
	// were not published to a channel.
	Channel string
	// RoomID is the room of the lost messages, or "" if All is set or they were
	// not published to a room.
	RoomID string
	// All means that the lost messages may belong to any channel or room, or be
	// broadcasts or messages to one client. The hub sets it once it holds the
	// maximum number of separate gaps.
	All bool
	// Count is the number of lost messages, or 0 if it is not known: for the
	// reason "broker".
	Count uint64
	// First is the Timestamp of the first lost message in Unix nanoseconds, or 0
	// for the reason "broker".
	First int64
	// Last is the Timestamp of the last lost message in Unix nanoseconds, or the
	// time of the notice for the reason "broker".
	Last int64
	// Reason is "slow_consumer" (the client was too slow), "disconnected" (the
	// connection ended before the message was sent; only in OnDrop), "codec" (the
	// message could not be encoded) or "broker" (messages of other nodes were
	// lost; only in "gap" messages).
	Reason string
}

// gap returns l in the form for the application and for clients.
func (l *loss) gap() Gap {
	g := Gap{All: l.topic.all, Count: l.count, First: l.first, Last: l.last, Reason: dropNames[l.reason]}
	switch l.topic.to {
	case toChannel:
		g.Channel = l.topic.name
	case toRoom:
		g.RoomID = l.topic.name
	}
	return g
}

// gapNotice returns the message that announces l to the client.
func (c *Client) gapNotice(l *loss) *publication {
	p := c.hub.newPublication(&Message{
		Type: typeGap, Channel: l.topic.name, Timestamp: c.hub.now(),
		Data: c.codec.encodeGap(l.gap()),
	}, l.topic.to)
	p.announces = max(l.count, 1)
	return p
}
