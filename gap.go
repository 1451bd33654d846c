package websocket

// Gap says which messages a client did not get.
type Gap struct {
	// Channel is where the lost messages were published. It is empty for
	// messages to a room, to one client or to all, and where All is set.
	Channel string
	// RoomID is the room that the lost messages were published to. It is empty
	// for all others, and where All is set.
	RoomID string
	// All says that the lost messages may be of any channel or room, and
	// broadcasts and direct messages among them: more was lost in more places
	// than there are notices for.
	All bool
	// Count is how many messages were lost.
	Count uint64
	// First is the Timestamp of the first lost message, in Unix nanoseconds.
	First int64
	// Last is the Timestamp of the last lost message, in Unix nanoseconds.
	Last int64
	// Reason is the name of the drop reason.
	Reason string
}

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

// notice makes the message that announces l to a client.
func (c *Client) gapNotice(l *loss) *publication {
	p := c.hub.newPublication(&Message{
		Type: typeGap, Channel: l.topic.name, Timestamp: c.hub.now(),
		Data: encodeGap(c.codec, l.gap()),
	}, l.topic.to)
	p.announces = l.count
	return p
}
