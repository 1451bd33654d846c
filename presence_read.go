package websocket

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"
)

// Member is a client that is in a topic with TopicOptions.Presence.
type Member struct {
	// ClientID is the client's ID.
	ClientID string
	// User is the name that Client.SetUser had set when the client joined, or "".
	User string
	// Info is the value that Client.SetInfo has set, in JSON, or nil.
	Info json.RawMessage
	// Since is when the client joined.
	Since time.Time
	// Node is the name of the client's node in a cluster, or "".
	Node string
}

// Presence returns the members of a channel or room with TopicOptions.Presence, those that
// joined first first. With a Broker it asks all nodes. A topic without that option, or
// without members, is no error and has none. Errors: ErrInvalidName, ErrHubClosed after
// shutdown has begun, ctx's error, and a *UnansweredError, with the members on the other
// nodes, if some nodes have not answered. It may be called from any goroutine, callbacks
// included.
func (h *Hub) Presence(ctx context.Context, kind TopicKind, name string) ([]Member, error) {
	if err := checkName(name, h.config.MaxNameLength); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l := h.events
	l.mu.Lock()
	var members []Member
	closed := l.closed
	if t := l.topicOf(kind, name); t != nil && t.presence != nil && !closed {
		members = make([]Member, 0, len(t.presence.members))
		for _, m := range t.presence.members {
			members = append(members, m.member())
		}
	}
	l.mu.Unlock()
	if closed {
		return nil, ErrHubClosed
	}
	for i := range members {
		members[i].Info = slices.Clone(members[i].Info)
	}
	var err error
	if h.node != nil {
		var remote []Member
		remote, err = h.node.askPresence(ctx, kind, name)
		members = append(members, remote...)
	}
	slices.SortFunc(members, func(a, b Member) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ClientID, b.ClientID))
	})
	return members, err
}

func (m *presentMember) member() Member {
	return Member{ClientID: m.id, User: m.user, Info: m.info, Since: time.UnixMilli(m.since), Node: m.node}
}

// topicRequest is the data of hub:presence. It is JSON in every codec.
type topicRequest struct {
	Channel string `json:"channel"`
	RoomID  string `json:"room_id"`
}

// topic returns the topic that is requested, or false if there is not exactly one name.
func (r topicRequest) topic() (TopicKind, string, bool) {
	if r.RoomID != "" {
		return RoomTopic, r.RoomID, r.Channel == ""
	}
	return ChannelTopic, r.Channel, r.Channel != ""
}

var (
	errPresenceRequest = errors.New("websocket: hub:presence needs either channel or room_id")
	errNoPresence      = errors.New("websocket: the channel or room has no presence")
)

// replyToPresence answers a hub:presence request of a member. Changes that the reply does not
// have yet are told behind it.
func (c *Client) replyToPresence(m *Message) {
	var request topicRequest
	err := json.Unmarshal(m.Data, &request)
	kind, name, ok := request.topic()
	if err != nil || !ok {
		c.replyError(m, "", codeBadRequest, errPresenceRequest.Error())
		return
	}
	reply := c.hub.newPublication(&Message{Type: typeAck, Channel: name, ID: m.ID, Timestamp: m.Timestamp}, toClients)
	l := c.hub.events
	if l.reserve(context.Background(), 0) != nil { // waits for room
		reply.release()
		return // the hub is closing
	}
	member := l.membership(c, kind, name)
	if !c.registered || member == nil || member.part.topic.presence == nil {
		l.mu.Unlock()
		reply.release()
		if member == nil {
			c.replyError(m, name, codeForbidden, ErrForbidden.Error())
		} else {
			c.replyError(m, name, codeBadRequest, errNoPresence.Error())
		}
		return
	}
	data := l.presenceSnapshot(member.part.topic.presence)
	if c.hub.node != nil {
		data = appendUnanswered(data, c.hub.node.peers.Gone())
	}
	reply.setData(data)
	size := len(reply.msg.Data)
	l.unlockAndAssist(l.appendReply(c, reply), 1)
	c.conn.in.bytes.spend(size) // a small request must not cost more than ByteRate allows
}

// appendUnanswered adds to a reply the nodes whose members are not known, because they are
// cut off.
func appendUnanswered(reply []byte, nodes []string) []byte {
	if len(nodes) == 0 {
		return reply
	}
	slices.Sort(nodes)
	names, err := json.Marshal(nodes)
	if err != nil {
		panic(err) // strings always have an encoding
	}
	return slices.Concat(reply[:len(reply)-1], []byte(`,"unanswered":`), names, []byte{'}'})
}

// presenceSnapshot returns the members as they have been told, in JSON. The list is cut at
// MaxMessageSize.
func (l *eventLog) presenceSnapshot(p *presence) []byte {
	if p.snapshot != nil {
		return p.snapshot
	}
	members := make([]*presentMember, 0, len(p.members))
	for m := range p.all() {
		if m.told {
			members = append(members, m)
		}
	}
	for _, m := range p.changes {
		if m.left && m.told {
			members = append(members, m)
		}
	}
	const overhead = 512 // for the rest of the reply
	limit := int(l.presences.hub.config.MaxMessageSize) - overhead
	b := jsonObject(`{"members":[`)
	for i, m := range members {
		end := len(b)
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		b.text("client_id", m.id)
		b.text("user", m.user)
		b.raw("info", string(m.info))
		b.raw("since", strconv.FormatInt(m.since, 10))
		b.text("node", m.node)
		b = append(b, '}')
		if len(b) > limit {
			b = b[:end]
			break
		}
	}
	b = append(b, `],"count":`...)
	b = strconv.AppendInt(b, int64(len(members)), 10)
	b = append(b, '}')
	p.snapshot = b
	l.budget.add(int64(cap(p.snapshot)))
	return p.snapshot
}
