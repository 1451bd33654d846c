package websocket

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// TopicKind tells channels and rooms apart.
type TopicKind int

const (
	// ChannelTopic is the kind of channels.
	ChannelTopic TopicKind = iota
	// RoomTopic is the kind of rooms.
	RoomTopic
	topicKinds
)

// String returns "channel" or "room".
func (k TopicKind) String() string {
	switch k {
	case ChannelTopic:
		return "channel"
	case RoomTopic:
		return "room"
	default:
		return fmt.Sprintf("TopicKind(%d)", int(k))
	}
}

func (k TopicKind) audience() audience {
	if k == RoomTopic {
		return toRoom
	}
	return toChannel
}

// Topic names a channel or a room.
type Topic struct {
	Kind TopicKind
	Name string
}

// topic is the directory's entry for a channel or room. It exists while the topic has
// members, as of the last entry appended, or a history. Guarded by the log's lock.
type topic struct {
	kind    TopicKind
	name    string
	members int
	parts   []*part
	history *history // nil if nothing is kept

	presence *presence // nil without TopicOptions.Presence

	created    uint64 // grows from topic to topic of a kind
	prev, next *topic // neighbours in topicOrder
}

// part is the share of a topic whose members belong to one shard.
type part struct {
	topic *topic
	shard *shard
	count int // number of members, as of the last entry appended; guarded by the log's lock

	members []member // guarded by the shard's lock
}

// member is an element of a part's list. Its client pointer saves route a load.
type member struct {
	client     *Client
	membership *membership
}

// membership is the membership of one client in a part.
type membership struct {
	client *Client
	part   *part
	index  int32  // in part.members; guarded by the shard's lock
	joined uint64 // seq of the last entry of the log before it began
	paid   int32  // bytes of Client.charged: those of the membership, and of the part and topic that it made
}

// membershipSet holds a client's memberships: a list, and an index if the list is long.
// Most clients have few memberships.
type membershipSet struct {
	list  []*membership
	index map[*part]int // in list, or nil
}

const longList = 32

// at returns the index in list of the membership in p, or -1.
func (s *membershipSet) at(p *part) int {
	if s.index != nil {
		if i, ok := s.index[p]; ok {
			return i
		}
		return -1
	}
	return slices.IndexFunc(s.list, func(m *membership) bool { return m.part == p })
}

// in returns the membership in p, or nil.
func (s *membershipSet) in(p *part) *membership {
	if i := s.at(p); i >= 0 {
		return s.list[i]
	}
	return nil
}

func (s *membershipSet) add(m *membership) {
	s.list = append(s.list, m)
	switch {
	case s.index != nil:
		s.index[m.part] = len(s.list) - 1
	case len(s.list) > longList:
		s.index = make(map[*part]int, 2*longList)
		for i, m := range s.list {
			s.index[m.part] = i
		}
	}
}

func (s *membershipSet) remove(m *membership) {
	i, last := s.at(m.part), len(s.list)-1
	s.list[i] = s.list[last]
	s.list[last] = nil
	s.list = s.list[:last]
	if s.index != nil {
		if i < last {
			s.index[s.list[i].part] = i
		}
		delete(s.index, m.part)
	}
	if len(s.list) < cap(s.list)/4 && cap(s.list) > longList {
		s.list = append(make([]*membership, 0, 2*len(s.list)), s.list...)
		if len(s.list) <= longList/2 {
			s.index = nil
		}
	}
}

func (s *membershipSet) topics() []*topic {
	topics := make([]*topic, len(s.list))
	for i, m := range s.list {
		topics[i] = m.part.topic
	}
	return topics
}

// topicNames returns the names of the topics of a kind that c is in. After unregister they
// are those of that moment, until onDisconnect has returned.
func (l *eventLog) topicNames(c *Client, kind TopicKind) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var topics []*topic
	switch {
	case c.registered:
		topics = c.members.topics()
	case c.lastTopics != nil:
		topics = *c.lastTopics
	}
	var names []string
	for _, t := range topics {
		if t.kind == kind {
			names = append(names, t.name)
		}
	}
	return names
}

// forgetTopics makes topicNames return nothing. The readPump calls it after unregister.
func (l *eventLog) forgetTopics(c *Client) {
	l.mu.Lock()
	c.lastTopics = nil
	l.mu.Unlock()
}

// beginChange locks the log for a change of c's memberships, with entryCost reserved.
// On error the log is not locked and reply is released.
func (l *eventLog) beginChange(ctx context.Context, c *Client, name string, reply *publication) error {
	err := checkName(name, l.nameLimit)
	if err == nil {
		err = l.reserve(ctx, entryCost)
	}
	if err == nil && !c.registered {
		l.unreserve(entryCost)
		l.mu.Unlock()
		err = ErrClientClosed
	}
	if err != nil {
		reply.releaseIfAny()
	}
	return err
}

// join adds c to a topic, and appends reply, which may be nil. It is no error if c is in it
// already.
func (l *eventLog) join(ctx context.Context, c *Client, kind TopicKind, name string, from resume, reply *publication) (Resumed, error) {
	if err := l.beginChange(ctx, c, name, reply); err != nil {
		return Resumed{}, err
	}
	options, err := l.optionsForJoin(c, kind, name)
	if err != nil {
		reply.releaseIfAny()
		return Resumed{}, err
	}
	p, made := l.partFor(c.shard, kind, name, options)
	if h := p.topic.history; h != nil && h.replica != nil && !h.replica.isLoaded() {
		l.unreserve(entryCost)
		l.dropIfEmpty(p)
		l.mu.Unlock()
		reply.releaseIfAny()
		return Resumed{}, errNotAvailable
	}
	if c.members.in(p) != nil {
		l.unreserve(entryCost)
		return l.finishJoin(0, c, p.topic, from, reply), nil
	}
	if l.maxMemberships > 0 && len(c.members.list) >= l.maxMemberships {
		l.unreserve(entryCost)
		l.dropIfEmpty(p)
		l.mu.Unlock()
		reply.releaseIfAny()
		return Resumed{}, ErrTooManySubscriptions
	}
	m := &membership{client: c, part: p, joined: l.seq, paid: int32(membershipCost + made)}
	c.members.add(m)
	c.hooks.add(p.topic, false)
	p.count++
	p.topic.members++
	c.charged.Add(int64(m.paid))
	l.budget.add(membershipCost)
	l.presenceJoined(c, p.topic)
	wake := l.appendLazy(c.shard, entry{kind: entryJoin, arg: m})
	return l.finishJoin(wake, c, p.topic, from, reply), nil
}

// leave removes c from a topic, and appends reply, which may be nil. It is no error if c is
// not in it.
func (l *eventLog) leave(ctx context.Context, c *Client, kind TopicKind, name string, reply *publication) error {
	if err := l.beginChange(ctx, c, name, reply); err != nil {
		return err
	}
	var wake uint64
	m := l.membership(c, kind, name)
	if m == nil {
		l.unreserve(entryCost)
	} else {
		c.members.remove(m)
		c.hooks.add(m.part.topic, true)
		if h := m.part.topic.history; h != nil {
			wake = l.append(c.shard, entry{kind: entryCursorEnd, client: c, arg: &cursorEnd{h, h.head + 1, l.seq}})
		}
		wake |= l.appendLazy(c.shard, entry{kind: entryLeave, arg: m})
		l.removeMember(c, m)
		wake |= l.tellPresence(m.part.topic)
	}
	l.finishReply(wake, c, reply)
	return nil
}

// topicOf returns a topic, or nil. The log is locked.
func (l *eventLog) topicOf(kind TopicKind, name string) *topic {
	if kind < 0 || kind >= topicKinds {
		return nil
	}
	return l.topics[kind].m[name]
}

// membership returns c's membership in a topic as of the last entry appended, or nil. The
// log is locked.
func (l *eventLog) membership(c *Client, kind TopicKind, name string) *membership {
	if t := l.topics[kind].m[name]; t != nil {
		for _, p := range t.parts {
			if p.shard == c.shard {
				return c.members.in(p)
			}
		}
	}
	return nil
}

// partFor finds or makes a shard's part of a topic. It returns the cost of what it has
// made. A new part must get a member, or be removed by dropIfEmpty, before the log is
// unlocked.
func (l *eventLog) partFor(s *shard, kind TopicKind, name string, options TopicOptions) (_ *part, made int64) {
	t := l.topics[kind].m[name]
	if t == nil {
		t, made = l.newTopic(kind, name, options)
	}
	if len(t.parts) == 0 {
		if made == 0 { // its history has kept it
			made = l.topicCost(t)
			l.countTopic(t, made)
			l.wakeHistory(t.history)
		}
		l.populated[kind].Add(1)
		if l.node != nil {
			l.node.setInterest(target{Audience: kind.audience(), Name: t.name}.Topic(), true)
		}
	}
	for _, p := range t.parts {
		if p.shard == s {
			return p, 0
		}
	}
	p := &part{topic: t, shard: s}
	t.parts = append(t.parts, p)
	l.budget.add(partCost)
	return p, made + partCost
}

// newTopic adds a topic to the directory, and returns what it costs.
func (l *eventLog) newTopic(kind TopicKind, name string, options TopicOptions) (*topic, int64) {
	name = strings.Clone(name) // it may be a part of a larger string
	t := &topic{kind: kind, name: name}
	if options.history().keeps() {
		t.history = l.histories.newHistory(t, options)
	}
	if options.Presence {
		t.presence = newPresence(t)
	}
	l.topics[kind].put(name, t)
	l.topicOrder[kind].add(t)
	cost := l.topicCost(t)
	l.budget.add(cost)
	return t, cost
}

// countTopic counts a topic in the budget instead of its history, or the other way round
// if cost is negative: no client holds a topic without members. It does nothing for a topic
// without history.
func (l *eventLog) countTopic(t *topic, cost int64) {
	if t.history != nil {
		l.budget.add(cost)
		l.histories.bytes.Add(-cost)
	}
}

// topicCost returns the bytes that a topic without parts counts.
func (l *eventLog) topicCost(t *topic) int64 {
	cost := int64(topicCost + len(t.name))
	if l.node != nil {
		cost += int64(interestCost + len(t.name))
	}
	return cost
}

// removeMember counts a member out. Its client gives back what it has paid, also if the
// topic that it made lives on.
func (l *eventLog) removeMember(c *Client, m *membership) {
	p := m.part
	p.count--
	p.topic.members--
	l.presenceLeft(c, p.topic)
	c.charged.Add(-int64(m.paid))
	l.budget.add(-membershipCost)
	l.dropIfEmpty(p)
}

// dropIfEmpty removes a part without members from the directory, and a topic without
// parts. Entries that were appended earlier still refer to the part.
func (l *eventLog) dropIfEmpty(p *part) {
	if p.count > 0 {
		return
	}
	t := p.topic
	i := slices.Index(t.parts, p)
	t.parts = slices.Delete(t.parts, i, i+1)
	l.budget.add(-partCost)
	if len(t.parts) == 0 {
		l.countTopic(t, -l.topicCost(t))
		l.populated[t.kind].Add(-1)
		l.endPresence(t)
		if t.history != nil {
			t.history.active = l.histories.clock()
		}
		if l.node != nil {
			l.node.setInterest(target{Audience: t.kind.audience(), Name: t.name}.Topic(), false)
		}
		if t.history != nil && t.history.replica != nil {
			l.dropReplica(t.history)
		} else {
			l.dropTopicIfEmpty(t)
		}
	}
}

// dropTopicIfEmpty removes a topic that has neither members nor publications, unless its
// history is kept for its Age.
func (l *eventLog) dropTopicIfEmpty(t *topic) {
	h := t.history
	if h != nil && h.replica != nil && h.replica.pins > 0 {
		return
	}
	if len(t.parts) > 0 || h != nil && h.len() > 0 || l.topics[t.kind].m[t.name] != t || h != nil && l.keepIdle(h) {
		return
	}
	l.countTopic(t, l.topicCost(t))
	l.budget.add(-l.topicCost(t))
	l.topics[t.kind].remove(t.name)
	l.topicOrder[t.kind].remove(t)
}

// add adds m to its part. It runs in the shard.
func (m *membership) add() {
	m.index = int32(len(m.part.members))
	m.part.members = append(m.part.members, member{m.client, m})
}

// remove removes m from its part. It runs in the shard.
func (m *membership) remove() {
	p := m.part
	last := len(p.members) - 1
	p.members[m.index] = p.members[last]
	p.members[m.index].membership.index = m.index
	p.members[last] = member{}
	p.members = p.members[:last]
	if last < cap(p.members)/4 && cap(p.members) > longList {
		p.members = append(make([]member, 0, 2*last), p.members...) // the array may have been large
	}
}

// memberQuery collects the IDs of a topic's members at one point of the log.
type memberQuery struct {
	mu      sync.Mutex
	ids     []string
	pending int
	done    chan struct{} // closed by the last shard
}

func (q *memberQuery) collect(p *part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range p.members {
		q.ids = append(q.ids, m.client.ID)
	}
	if q.pending--; q.pending == 0 {
		close(q.done)
	}
}

// RoomMembers returns the IDs of the clients that are in a room at the moment of the call,
// in no particular order. It waits for the hub goroutines until ctx is done. A room without
// members is no error. Errors: ErrInvalidName, ErrHubNotRunning before Run, ErrHubClosed
// after shutdown has begun, and ctx's error. It may be called by anybody, callbacks
// included. It covers this node only; see Cluster.RoomMembers.
func (h *Hub) RoomMembers(ctx context.Context, roomID string) ([]string, error) {
	if err := checkName(roomID, h.config.MaxNameLength); err != nil {
		return nil, err
	}
	l := h.events
	if err := l.reserve(ctx, 0); err != nil {
		return nil, err
	}
	t := l.topics[RoomTopic].m[roomID]
	if !l.running || t == nil || t.members == 0 {
		running := l.running
		l.mu.Unlock()
		if !running {
			return nil, ErrHubNotRunning
		}
		return nil, nil
	}
	q := &memberQuery{pending: len(t.parts), done: make(chan struct{})}
	var wake uint64
	for _, p := range t.parts {
		wake |= l.append(p.shard, entry{kind: entryQuery, part: p, arg: q})
	}
	l.unlockAndWake(wake)
	select {
	case <-q.done:
		return q.ids, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.done:
		return nil, ErrHubClosed
	}
}
