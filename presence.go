package websocket

import (
	"bytes"
	"encoding/json"
	"strconv"
	"sync/atomic"
	"time"
)

// maxPresenceMessage is the size from which on a presence_diff takes no further change, if
// the backlog of a client allows that much. The rest is sent an interval later.
const maxPresenceMessage = 64 << 10

// backlogShare is the part of Config.ClientBacklog that one presence message may take, so
// that it does not evict a client which reads.
const backlogShare = 8

// presenceCost is what a member costs the budget besides its membership.
const presenceCost = 192

// presence has the members of a topic, and the changes that they have not been told yet.
// The log's lock guards it.
type presence struct {
	topic   *topic
	members map[*Client]*presentMember
	users   map[string]int   // number of connections by user, as the members have been told
	changes []*presentMember // members with a change to tell, in the order of the first change
	next    int64            // hub clock from which on a message may be sent at once
	waiting bool             // in presences.waiting
	shared  sharedPresence   // with other nodes
	// snapshot is the list of members as they have been told, in JSON, or nil.
	snapshot []byte
}

// presentMember is one client in a topic, or one that has left and of which the members
// have not been told that.
type presentMember struct {
	id, user string
	node     string // name of its node; empty without a Broker
	remote   bool   // it is on another node
	info     json.RawMessage
	since    int64 // milliseconds of Unix time
	told     bool  // the members know it
	left     bool
	changed  bool // in presence.changes
	again    bool // the members must be told again that it is here
}

// presences holds what the topics of a hub share. The log's lock guards it, but Stats reads
// members and messages.
type presences struct {
	members  atomic.Int64  // in all topics
	messages atomic.Uint64 // appended
	hub      *Hub
	interval int64
	size     int         // from which on a message takes no further change
	waiting  []*presence // with changes to tell at due, soonest first
	timer    *time.Timer // calls eventLog.tellWaiting; nil before the first use
	due      []int64     // hub clock, for each of waiting
}

func newPresence(t *topic) *presence {
	return &presence{topic: t, members: make(map[*Client]*presentMember), users: make(map[string]int)}
}

// presenceJoined records that c has joined a topic. The log is locked.
func (l *eventLog) presenceJoined(c *Client, t *topic) {
	if p := t.presence; p != nil {
		m := &presentMember{id: c.ID, user: c.User(), info: c.info, since: time.Now().UnixMilli()}
		c.charge(presenceCost)
		if l.node != nil {
			m.node = l.node.name
			if len(p.members) == 0 {
				l.node.syncPresence(t)
			}
		}
		p.members[c] = m
		l.presences.members.Add(1)
		p.change(m)
	}
}

// presenceLeft records that c has left a topic. The log is locked.
func (l *eventLog) presenceLeft(c *Client, t *topic) {
	if p := t.presence; p != nil {
		m := p.members[c]
		delete(p.members, c)
		l.presences.members.Add(-1)
		c.charge(-presenceCost)
		l.budget.add(presenceCost) // until the others have been told
		m.left = true
		p.change(m)
	}
}

// change remembers that there is something to tell about m.
func (p *presence) change(m *presentMember) {
	if !m.changed {
		m.changed = true
		p.changes = append(p.changes, m)
	}
}

// endPresence forgets all changes when the last member has left.
func (l *eventLog) endPresence(t *topic) {
	if p := t.presence; p != nil {
		l.unsharePresence(p)
		for _, m := range p.changes {
			if m.left {
				l.budget.add(-presenceCost)
			}
		}
		p.changes = nil
		p.members, p.users = make(map[*Client]*presentMember), make(map[string]int) // large maps stay large
		p.dropSnapshot(l.budget)
	}
}

func (p *presence) dropSnapshot(b *budget) {
	b.add(-int64(cap(p.snapshot)))
	p.snapshot = nil
}

// tellPresence tells the members of a topic about its changes, at once or when the
// interval since the first change has passed. The entries of the changes must be appended
// to the log first, so that a client that has left is not told.
func (l *eventLog) tellPresence(t *topic) (wake uint64) {
	p := t.presence
	if p == nil || len(p.changes) == 0 || p.waiting || l.closed {
		return 0
	}
	s := &l.presences
	now := s.hub.clock()
	if now >= p.next {
		wake = l.sendPresence(p, now)
	}
	if len(p.changes) > 0 {
		l.waitToTell(p, now+s.interval)
	}
	return wake
}

// waitToTell makes tellWaiting tell the changes of p. due must not be earlier than those
// of earlier calls.
func (l *eventLog) waitToTell(p *presence, due int64) {
	s := &l.presences
	p.waiting = true
	s.waiting, s.due = append(s.waiting, p), append(s.due, due)
	if len(s.waiting) == 1 {
		l.setPresenceTimer()
	}
}

func (l *eventLog) setPresenceTimer() {
	s := &l.presences
	wait := time.Duration(max(s.due[0]-s.hub.clock(), 0))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, l.tellWaiting) // stopped by closePresences
	} else {
		s.timer.Reset(wait)
	}
}

// maxPresenceRun is the size of the messages that tellWaiting makes while publishing waits.
const maxPresenceRun = 4 * maxPresenceMessage

// tellWaiting tells the changes of topics whose interval has passed. The timer calls it.
func (l *eventLog) tellWaiting() {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return
	}
	s := &l.presences
	now := s.hub.clock()
	var wake uint64
	used := l.used.Load()
	for len(s.waiting) > 0 && s.due[0] <= now && l.used.Load()-used < maxPresenceRun {
		p := s.waiting[0]
		s.waiting[0] = nil
		s.waiting, s.due = s.waiting[1:], s.due[1:]
		p.waiting = false
		wake |= l.sendPresence(p, now)
		if len(p.changes) > 0 {
			l.waitToTell(p, now+s.interval)
		}
	}
	if len(s.waiting) == 0 {
		s.waiting, s.due = nil, nil
	} else {
		l.setPresenceTimer()
	}
	l.unlockAndWake(wake)
}

// closePresences ends the timer. The hub has stopped.
func (l *eventLog) closePresences() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.presences.timer != nil {
		l.presences.timer.Stop()
	}
}

// sendPresence appends one message with as many of the changes as it has room for. It does
// not wait for room in the log: there is at most one such message per topic and interval.
func (l *eventLog) sendPresence(p *presence, now int64) (wake uint64) {
	t, h := p.topic, l.presences.hub
	if t.members == 0 {
		return 0
	}
	told := p.take(l.presences.size, l.budget)
	if told.empty() {
		return 0
	}
	p.next = now + l.presences.interval
	p.dropSnapshot(l.budget)
	l.sharePresence(p, &told)
	m := told.message(t.kind)
	m.Channel, m.Timestamp = t.name, h.now()
	pub := h.newPublication(m, t.kind.audience())
	l.used.Add(pub.cost)
	l.presences.messages.Add(1)
	l.stamp(pub, len(t.parts), t.members)
	for _, part := range t.parts {
		wake |= l.append(part.shard, entry{kind: entryPublish, part: part, pub: pub})
	}
	return wake
}

// presenceDiff has the changes of one message.
type presenceDiff struct {
	leaves, joins, updates []*presentMember
	moved                  []*presentMember // that have left, but have another connection with their ID
	before, after          map[string]int   // connections by user
}

func (d *presenceDiff) empty() bool { return len(d.leaves)+len(d.joins)+len(d.updates) == 0 }

// take removes changes from p, as many as fit into a message, and counts them as told.
func (p *presence) take(most int, b *budget) presenceDiff {
	d := presenceDiff{before: make(map[string]int), after: p.users}
	size, n := 0, 0
	for ; n < len(p.changes) && size < most; n++ {
		m := p.changes[n]
		m.changed = false
		if m.left {
			b.add(-presenceCost)
		}
		if m.left && !m.told {
			continue // nobody has noticed
		}
		size += presenceCost + len(m.id) + len(m.user)
		if _, ok := d.before[m.user]; !ok {
			d.before[m.user] = p.users[m.user]
		}
		switch {
		case m.left:
			if other := p.same(m); other == nil {
				d.leaves = append(d.leaves, m)
			} else { // the client is on another node already
				other.again = true
				p.change(other)
				d.moved = append(d.moved, m)
			}
			if p.users[m.user]--; p.users[m.user] == 0 {
				delete(p.users, m.user)
			}
		case !m.told || m.again:
			size += len(m.info)
			d.joins = append(d.joins, m)
			if !m.told {
				p.users[m.user]++
			}
			m.told, m.again = true, false
		default:
			size += len(m.info)
			d.updates = append(d.updates, m)
		}
	}
	clear(p.changes[:n])
	if p.changes = p.changes[n:]; len(p.changes) == 0 {
		p.changes = nil
	}
	return d
}

// message returns a message of type "join", "leave" or "update" for a single change, and a
// "presence_diff" for several.
func (d *presenceDiff) message(kind TopicKind) *Message {
	b := jsonObject{'{'}
	if kind == RoomTopic {
		b.raw("room", "true")
	}
	if len(d.leaves)+len(d.joins)+len(d.updates) == 1 {
		one := func(m *presentMember, typ string) *Message {
			d.fields(&b, m, typ)
			return &Message{Type: typ, ClientID: m.id, Data: append(b, '}')}
		}
		switch {
		case len(d.leaves) == 1:
			return one(d.leaves[0], typeLeave)
		case len(d.joins) == 1:
			return one(d.joins[0], typeJoin)
		default:
			return one(d.updates[0], typeUpdate)
		}
	}
	list := func(name, typ string, members []*presentMember) {
		if len(members) == 0 {
			return
		}
		b.name(name)
		b = append(b, '[')
		for i, m := range members {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, '{')
			b.text("client_id", m.id)
			d.fields(&b, m, typ)
			b = append(b, '}')
		}
		b = append(b, ']')
	}
	list("leaves", typeLeave, d.leaves)
	list("joins", typeJoin, d.joins)
	list("updates", typeUpdate, d.updates)
	return &Message{Type: typeDiff, Data: append(b, '}')}
}

// fields appends the data about m in a message of a type. A member without a user counts as a
// user of its own.
func (d *presenceDiff) fields(b *jsonObject, m *presentMember, typ string) {
	b.text("user", m.user)
	switch typ {
	case typeLeave:
		if m.user == "" || d.after[m.user] == 0 {
			b.raw("last", "true")
		}
	case typeJoin:
		b.raw("info", string(m.info))
		b.raw("since", strconv.FormatInt(m.since, 10))
		b.text("node", m.node)
		if m.user == "" || d.before[m.user] == 0 {
			b.raw("first", "true")
		}
	default:
		b.raw("info", string(m.info))
	}
}

// jsonObject is a JSON object without its closing brace.
type jsonObject []byte

func (b *jsonObject) name(name string) {
	if last := (*b)[len(*b)-1]; last != '{' {
		*b = append(*b, ',')
	}
	*b = append(*b, '"')
	*b = append(*b, name...)
	*b = append(*b, '"', ':')
}

// text appends a member, unless value is empty.
func (b *jsonObject) text(name, value string) {
	if value != "" {
		b.name(name)
		*b = appendJSONString(*b, value)
	}
}

// raw is text for a value in JSON.
func (b *jsonObject) raw(name, value string) {
	if value != "" {
		b.name(name)
		*b = append(*b, value...)
	}
}

// maxInfo is the maximum size of a client's info, in JSON.
const maxInfo int64 = 4 << 10

// SetInfo sets data about this client, such as a name and a status, that the members of
// topics with TopicOptions.Presence see besides its ID and user. info is encoded in JSON; nil removes it. The
// members get an "update" message if the info changes. By default there is no info. It may be called at any
// time, also in OnConnect. Errors: those of json.Marshal, ErrMalformed for a json.RawMessage
// that is not UTF-8, ErrMessageTooLarge for more than 4 KiB or an eighth of
// Config.ClientBacklog, and ErrClientClosed after the connection has ended.
func (c *Client) SetInfo(info any) error {
	var b json.RawMessage
	if info != nil {
		var err error
		if b, err = json.Marshal(info); err != nil {
			return err
		}
	}
	if err := checkUTF8(b); err != nil { // a json.RawMessage may be anything
		return err
	}
	if limit := min(maxInfo, c.hub.config.ClientBacklog/backlogShare); int64(len(b)) > limit {
		return &MessageTooLargeError{Size: int64(len(b)), Limit: limit, LimitedBy: "Client.SetInfo"}
	}
	l := c.hub.events
	l.mu.Lock()
	if !c.registered {
		l.mu.Unlock()
		return ErrClientClosed
	}
	if bytes.Equal(b, c.info) {
		l.mu.Unlock()
		return nil
	}
	c.charge(int64(len(b) - len(c.info)))
	c.info = b
	var wake uint64
	for _, membership := range c.members.list {
		t := membership.part.topic
		if t.presence == nil {
			continue
		}
		m := t.presence.members[c]
		m.info = b
		t.presence.change(m)
		wake |= l.tellPresence(t)
	}
	l.unlockAndWake(wake)
	return nil
}
