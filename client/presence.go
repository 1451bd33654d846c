package client

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Types of the messages that tell members about each other.
const (
	typeJoin         = "join"
	typeLeave        = "leave"
	typeUpdate       = "update"
	typePresenceDiff = "presence_diff"
)

// PresenceChange is the argument of the function that is given to OnPresence.
type PresenceChange struct {
	// Joined, Left and Updated have the members that are new, those that are not there any
	// more, and those of which the user or Info is another. Those that joined first are
	// first. A user with several clients is several members.
	Joined, Left, Updated []websocket.Member
}

// OnPresence makes the client follow the members of the channel or room. The hub's
// application must have given it TopicOptions.Presence. Subscription.Members has the members.
// onChange, if not nil, is called after each change, as the other callbacks are: at first with
// all members as Joined, this client among them, and after a reconnect with all that has
// changed meanwhile. If it is slow, several changes become one call. OnError gets an *Error
// if the hub does not tell the members.
//
// While a subscription with OnPresence exists, messages of the types join, leave, update and
// presence_diff that have no Offset do not reach the handlers of the channel or room.
func OnPresence(onChange func(PresenceChange)) SubscribeOption {
	return SubscribeOption{func(s *Subscription) { s.follows, s.onPresence = true, onChange }}
}

// Members returns the members of the channel or room, those that joined first first. They are
// known some time after Subscribe with OnPresence has returned, and while there is no
// connection they are those from before. A hub leaves out members if the list is larger than
// its Config.MaxMessageSize. Members returns nil without OnPresence, and after the
// subscription has ended.
func (s *Subscription) Members() []websocket.Member {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if p := s.topic.presence; p != nil && !s.ended {
		return sortedMembers(slices.Collect(maps.Values(p.members)))
	}
	return nil
}

// presence has the members of a topic. Client.mu guards it.
type presence struct {
	members map[string]*websocket.Member // by ClientID; a changed member gets a new element
	asked   *request                     // the hub:presence whose reply counts; nil if none is awaited
}

// toldMember is a member in messages of the hub.
type toldMember struct {
	ClientID string          `json:"client_id"`
	User     string          `json:"user"`
	Info     json.RawMessage `json:"info"`
	Since    int64           `json:"since"` // milliseconds of Unix time
	Node     string          `json:"node"`
}

func (m toldMember) member() *websocket.Member {
	return &websocket.Member{ClientID: m.ClientID, User: m.User, Info: m.Info, Since: time.UnixMilli(m.Since), Node: m.Node}
}

// follow makes the client follow the members of a topic, for a new subscription. c.mu is locked.
func (c *Client) follow(t *topic, s *Subscription) {
	switch {
	case !s.follows:
	case t.presence == nil:
		t.presence = &presence{members: make(map[string]*websocket.Member)}
		c.askPresence(t)
	default:
		c.putPresence(s)
	}
}

// unfollow forgets the members of a topic if no subscription needs them any more. Client.mu
// is locked.
func (t *topic) unfollow() {
	if !slices.ContainsFunc(t.subs, func(s *Subscription) bool { return s.follows }) {
		t.presence = nil
	}
}

// lostBy reports whether the hub must be asked again after a gap of a topic, because a
// message about members of the topic own, or the reply, may have been lost. A reply that is
// still to come is newer than the gap.
func (p *presence) lostBy(own, gap topicKey) bool {
	switch gap {
	case anyTopic:
		return true
	case noTopic: // may have been the reply
		return p.asked != nil
	default:
		return gap == own && p.asked == nil
	}
}

// askPresence asks the hub for the members of a topic. c.mu is locked.
func (c *Client) askPresence(t *topic) {
	if t.presence == nil || c.conn == nil {
		return
	}
	if !c.hello.has(featurePresence) {
		c.inbox.putError(&Error{Code: CodeUnsupported, Message: "the hub does not tell members", Target: t.key.name})
		return
	}
	channel, roomID := t.key.split()
	data, err := json.Marshal(topicRequest{Channel: channel, RoomID: roomID})
	m := &websocket.Message{Type: typePresence, ID: c.newID(), Data: data}
	var frame []byte
	if err == nil {
		frame, err = c.encode(m)
	}
	if err != nil {
		c.inbox.putError(err) // MaxSendSize is too small
		return
	}
	r := &request{id: m.ID, frame: frame}
	r.onReply = func(reply reply) { c.setPresence(t, r, reply) }
	t.presence.asked = r
	c.conn.sendUnbounded(r)
}

// setPresence handles the reply to hub:presence. It runs on the read loop.
func (c *Client) setPresence(t *topic, r *request, reply reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := t.presence
	if p == nil || p.asked != r {
		return
	}
	p.asked = nil
	var told struct {
		Members []toldMember `json:"members"`
	}
	switch {
	case reply.refusal != nil && reply.refusal.Code == CodeUnavailable:
		return // the next connection asks again
	case reply.refusal != nil:
		c.inbox.putError(reply.refusal)
	default:
		_ = json.Unmarshal(reply.message.Data, &told) // the members that can be read
	}
	members := make(map[string]*websocket.Member, len(told.Members))
	for _, m := range told.Members {
		members[m.ClientID] = p.newer(m.member())
	}
	p.members = members
	c.presenceChanged(t)
}

// newer returns m, or the member as it is known if that is equal.
func (p *presence) newer(m *websocket.Member) *websocket.Member {
	if known := p.members[m.ClientID]; known != nil && known.User == m.User && bytes.Equal(known.Info, m.Info) && known.Since.Equal(m.Since) {
		return known
	}
	return m
}

// receivePresence handles a message about the members of a topic. It reports false if m is no
// such message, or if no subscription follows them.
func (c *Client) receivePresence(m *websocket.Message) bool {
	switch m.Type {
	case typeJoin, typeLeave, typeUpdate, typePresenceDiff:
	default:
		return false
	}
	var told struct {
		toldMember
		Room    bool         `json:"room"`
		Leaves  []toldMember `json:"leaves"`
		Joins   []toldMember `json:"joins"`
		Updates []toldMember `json:"updates"`
	}
	if m.Offset != 0 || json.Unmarshal(m.Data, &told) != nil {
		return false
	}
	one := []toldMember{told.toldMember}
	one[0].ClientID = m.ClientID
	switch m.Type {
	case typeJoin:
		told.Joins = one
	case typeLeave:
		told.Leaves = one
	case typeUpdate:
		told.Updates = one
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[topicKey{room: told.Room, name: m.Channel}]
	if t == nil || t.presence == nil {
		return false
	}
	if m.Timestamp != 0 {
		c.lastSeen = m.Timestamp
	}
	members := t.presence.members
	for _, m := range told.Leaves {
		delete(members, m.ClientID)
	}
	for _, m := range told.Joins {
		members[m.ClientID] = t.presence.newer(m.member())
	}
	for _, m := range told.Updates {
		if known := members[m.ClientID]; known != nil {
			updated := *known
			updated.User, updated.Info = m.User, m.Info
			members[m.ClientID] = &updated
		}
	}
	c.presenceChanged(t)
	return true
}

// presenceChanged makes dispatch call the functions of the subscriptions that follow a topic.
// c.mu is locked.
func (c *Client) presenceChanged(t *topic) {
	for _, s := range t.subs {
		if s.follows {
			c.putPresence(s)
		}
	}
}

// putPresence queues a call of s.onPresence, unless one is queued. c.mu is locked.
func (c *Client) putPresence(s *Subscription) {
	if s.onPresence != nil && !s.presenceQueued {
		s.presenceQueued = true
		c.inbox.putPresence(s)
	}
}

// reportPresence calls onPresence with the changes since the last call. Only dispatch
// calls it.
func (s *Subscription) reportPresence() {
	c := s.client
	c.mu.Lock()
	s.presenceQueued = false
	p := s.topic.presence
	if p == nil || s.ended {
		c.mu.Unlock()
		return
	}
	members := maps.Clone(p.members)
	c.mu.Unlock()
	var joined, left, updated []*websocket.Member
	for id, m := range members {
		switch known := s.reported[id]; known {
		case m:
		case nil:
			joined = append(joined, m)
		default:
			updated = append(updated, m)
		}
	}
	for id, m := range s.reported {
		if members[id] == nil {
			left = append(left, m)
		}
	}
	s.reported = members
	if len(joined)+len(left)+len(updated) > 0 {
		change := PresenceChange{Joined: sortedMembers(joined), Left: sortedMembers(left), Updated: sortedMembers(updated)}
		c.protect(func() { s.onPresence(change) })
	}
}

// sortedMembers returns copies, in the order of joining.
func sortedMembers(members []*websocket.Member) []websocket.Member {
	var sorted []websocket.Member
	for _, m := range members {
		sorted = append(sorted, *m)
		sorted[len(sorted)-1].Info = slices.Clone(m.Info)
	}
	slices.SortFunc(sorted, func(a, b websocket.Member) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ClientID, b.ClientID))
	})
	return sorted
}
