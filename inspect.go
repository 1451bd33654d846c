package websocket

import (
	"cmp"
	"slices"
	"time"
)

// ClientInfo describes a client for operators: its connection, not its messages. It has no
// keys, payloads or header fields. It marshals to JSON.
type ClientInfo struct {
	ID string `json:"id"`
	// User is the name that Client.SetUser set, or "".
	User string `json:"user,omitempty"`
	// RemoteAddr is the address of the client.
	RemoteAddr string `json:"remote_addr"`
	// Codec is the name of the codec that was agreed in the handshake.
	Codec string `json:"codec"`
	// Compression means that permessage-deflate was agreed.
	Compression bool `json:"compression"`
	// Sealed means that messages are encrypted, signed or both, with the hub's keys or the
	// client's own.
	Sealed bool `json:"sealed"`
	// ConnectedAt is the end of the handshake.
	ConnectedAt time.Time `json:"connected_at"`
	// RoundTrip is the time between the hub's latest ping and its pong, and SmoothedRoundTrip
	// a moving average as in TCP. The hub pings clients that have sent nothing for
	// Config.PingPeriod. Both are 0 before the first pong. They include the time that data
	// before the ping takes.
	RoundTrip         time.Duration `json:"round_trip_ns"`
	SmoothedRoundTrip time.Duration `json:"smoothed_round_trip_ns"`
	// Backlog has the messages that the connection has not accepted.
	Backlog BacklogInfo `json:"backlog"`
	// TopicCount is the number of channels and rooms that the client is in, and Topics the
	// first 1,000 of them, sorted by kind and name.
	TopicCount int         `json:"topic_count"`
	Topics     []TopicInfo `json:"topics"`
	// Losses has the latest losses, at most 5, oldest first: successive ones in one topic
	// and for one reason are one.
	Losses []LossInfo `json:"losses"`
	// Limits has the limits that the client has reached.
	Limits LimitInfo `json:"limits"`
}

// BacklogInfo is the backlog of a client.
type BacklogInfo struct {
	// Messages is the number of messages in the queue, without those that are being written.
	Messages int `json:"messages"`
	// Bytes is the size that counts against Config.ClientBacklog. It includes messages that
	// are being written and gaps that are not announced yet.
	Bytes int64 `json:"bytes"`
	// BlockedSince is when the connection last accepted a byte; zero while nothing waits.
	BlockedSince time.Time `json:"blocked_since,omitzero"`
}

// TopicInfo is a channel or room that a client is in.
type TopicInfo struct {
	// Kind is "channel" or "room".
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Members is the number of members on this node.
	Members int `json:"members"`
	// Position is the latest publication in the topic's history; nil without a history.
	Position *Position `json:"position,omitempty"`
	// Behind is the number of publications that wait in the history until the client's
	// connection accepts them.
	Behind uint64 `json:"behind"`
}

// LossInfo is a number of messages that a client did not receive. Without Channel and RoomID
// they were broadcasts or messages to the client alone.
type LossInfo struct {
	Channel string `json:"channel,omitempty"`
	RoomID  string `json:"room_id,omitempty"`
	// Count is the number of messages, or 0 if it is not known: for the reason "broker".
	Count uint64 `json:"count"`
	// Reason is that of Gap.Reason.
	Reason string `json:"reason"`
	// At is the time of the latest loss.
	At time.Time `json:"at"`
}

// LimitInfo has the limits that a client has reached since it connected.
type LimitInfo struct {
	// RateDelay is the time for which the hub did not read from the client, because it
	// exceeded Config.MessageRate or Config.ByteRate, and RateDelayedAt the latest time.
	RateDelay     time.Duration `json:"rate_delay_ns"`
	RateDelayedAt time.Time     `json:"rate_delayed_at,omitzero"`
	// RefusedJoins counts the channels and rooms that the client could not join because of
	// Config.MaxSubscriptions.
	RefusedJoins uint64 `json:"refused_joins"`
	// RefusedRequests counts the requests from and to the client that Config.MaxRequests did
	// not allow.
	RefusedRequests uint64 `json:"refused_requests"`
}

// maxInspectedTopics bounds the time for which Inspect holds the log's lock.
const maxInspectedTopics = 1000

// Inspect describes the client with that ID, for operators. It finds only clients of this
// hub, and returns ErrClientNotFound if there is none. It may be called from any goroutine at
// any time. Its cost grows with the number of the client's topics, up to 1,000.
func (h *Hub) Inspect(clientID string) (ClientInfo, error) {
	c, ok := h.Client(clientID)
	if !ok {
		return ClientInfo{}, ErrClientNotFound
	}
	info := ClientInfo{
		ID: c.ID, User: c.User(), RemoteAddr: c.hub.addressText(c.addressed()), Codec: c.codec.name,
		Compression: c.deflates, Sealed: c.openKeys.Load() != nil, ConnectedAt: h.timeOf(c.connectedAt),
		Topics: []TopicInfo{}, Losses: []LossInfo{}, // not null in JSON
	}
	behind := c.conn.inspect(&info)
	h.events.inspectTopics(c, &info, behind)
	slices.SortFunc(info.Topics, func(a, b TopicInfo) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return info, nil
}

// timeOf returns the time at which the hub clock was at.
func (h *Hub) timeOf(at int64) time.Time {
	return time.Now().Add(time.Duration(at - h.clock())).Round(0)
}

// inspect sets what the connection's lock guards. It returns the offsets of the next
// publications for the client in the histories in which it is behind.
func (c *conn) inspect(info *ClientInfo) map[*history]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	info.Backlog = c.backlogInfo()
	if n := c.notes; n != nil {
		info.RoundTrip, info.SmoothedRoundTrip = n.roundTrip, n.smoothed
		if n.faults != nil {
			info.Losses, info.Limits = append(info.Losses, n.faults.losses...), n.faults.limits
		}
	}
	if c.cursors == nil {
		return nil
	}
	behind := make(map[*history]uint64, len(*c.cursors))
	for _, at := range *c.cursors {
		if at.behind() {
			behind[at.history] = at.next
		}
	}
	return behind
}

// backlogInfo returns the connection's backlog. The caller holds mu.
func (c *conn) backlogInfo() BacklogInfo {
	info := BacklogInfo{Messages: c.queue.len(), Bytes: c.queued}
	if since := c.progressAt.Load(); since != 0 {
		info.BlockedSince = c.client.hub.timeOf(since)
	}
	return info
}

func (l *eventLog) inspectTopics(c *Client, info *ClientInfo, behind map[*history]uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.registered {
		return // the shard owns members
	}
	list := c.members.list
	info.TopicCount = len(list)
	for _, m := range list[:min(len(list), maxInspectedTopics)] {
		t := m.part.topic
		topic := TopicInfo{Kind: t.kind.String(), Name: t.name, Members: t.members}
		if h := t.history; h != nil {
			position := h.position()
			topic.Position = &position
			if next, ok := behind[h]; ok && next <= h.head {
				topic.Behind = h.head - next + 1
			}
		}
		info.Topics = append(info.Topics, topic)
	}
}
