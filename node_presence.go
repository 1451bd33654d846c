package websocket

import (
	"bytes"
	"context"
	"encoding/json"
	"iter"
	"maps"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// Each node tells the others about its own members of topics with presence, in the order in
// which it has told its members. A state has a clock, and a change names the clock of the
// state that it changes, so that a node notices what it has missed and asks for the whole
// state. A node's members leave with the node.

// sharedPresence is what presence shares with other nodes. The log's lock guards it.
type sharedPresence struct {
	clock     uint64 // of the state of this node's members
	announced bool   // the others have been sent that state
	nodes     map[uint64]*remoteMembers
}

// remoteMembers are the members of a topic on another node.
type remoteMembers struct {
	clock   uint64
	known   bool   // members is the state with the clock
	wanted  uint64 // clock of the latest state of which a change has arrived
	asked   int64  // hub clock of the latest request for the whole state
	members map[string]*presentMember
	parts   []memberState // of a state that arrives in several payloads
}

// presenceState is the body of a nodewire.KindPresence.
type presenceState struct {
	Room  bool   `json:"room,omitempty"`
	Name  string `json:"name"`
	Clock uint64 `json:"clock"`
	// Base is the clock of the state that this one changes, or 0 for a whole state.
	Base uint64 `json:"base,omitempty"`
	// Ask asks for the receiver's whole state.
	Ask bool `json:"ask,omitempty"`
	// First is the number of members of a whole state in earlier payloads.
	First int `json:"first,omitempty"`
	// More says that further payloads of the state follow.
	More bool `json:"more,omitempty"`
	// Only says that there is no state, only a request for one.
	Only bool `json:"only,omitempty"`
	// Again says that states of any topics may not have arrived: the receiver asks for
	// them. It has no other fields.
	Again  bool          `json:"again,omitempty"`
	Leaves []string      `json:"leaves,omitempty"`
	Joins  []memberState `json:"joins,omitempty"` // new or changed
}

// memberState is a member in a presenceState.
type memberState struct {
	ID    string          `json:"id"`
	User  string          `json:"user,omitempty"`
	Info  json.RawMessage `json:"info,omitempty"`
	Since int64           `json:"since"`
	Node  string          `json:"node"`
}

func (m *presentMember) state() memberState {
	return memberState{m.id, m.user, m.info, m.since, m.node}
}

// presencePart is the size from which on a payload takes no further member.
const presencePart = 32 << 10

// repeatAsking is how long a node waits for a state before it asks again.
const repeatAsking = int64(time.Second)

// all returns the members on all nodes. The log is locked.
func (p *presence) all() iter.Seq[*presentMember] {
	return func(yield func(*presentMember) bool) {
		for _, m := range p.members {
			if !yield(m) {
				return
			}
		}
		for _, r := range p.shared.nodes {
			for _, m := range r.members {
				if !yield(m) {
					return
				}
			}
		}
	}
}

// same returns a member on another node than m with the same client ID, or nil.
func (p *presence) same(m *presentMember) *presentMember {
	if p.shared.nodes == nil {
		return nil
	}
	for _, r := range p.shared.nodes {
		if other := r.members[m.id]; other != nil && other.told {
			return other
		}
	}
	if m.remote {
		for _, other := range p.members {
			if other.id == m.id && other.told {
				return other
			}
		}
	}
	return nil
}

func (p *presence) topicName() target {
	return target{Audience: p.topic.kind.audience(), Name: p.topic.name}
}

// newState returns a state of p with a new clock.
func (l *eventLog) newState(p *presence) *presenceState {
	l.node.presenceClock++
	s := &presenceState{Room: p.topic.kind == RoomTopic, Name: p.topic.name, Clock: l.node.presenceClock, Base: p.shared.clock}
	p.shared.clock = s.Clock
	return s
}

// sharePresence tells the other nodes what the members have been told of this node's members.
// The log is locked.
func (l *eventLog) sharePresence(p *presence, told *presenceDiff) {
	if l.node == nil || !p.shared.announced {
		return
	}
	var s presenceState
	for _, m := range append(told.leaves, told.moved...) {
		if !m.remote {
			s.Leaves = append(s.Leaves, m.id)
		}
	}
	for _, list := range [][]*presentMember{told.joins, told.updates} {
		for _, m := range list {
			if !m.remote && !m.left {
				s.Joins = append(s.Joins, m.state())
			}
		}
	}
	if len(s.Leaves)+len(s.Joins) == 0 {
		return
	}
	out := l.newState(p)
	out.Leaves, out.Joins = s.Leaves, s.Joins
	p.shared.announced = l.node.sendPresence(p.topicName().Topic(), out)
}

// unsharePresence tells the other nodes that this node has no members any more, and forgets
// theirs. The log is locked.
func (l *eventLog) unsharePresence(p *presence) {
	if l.node == nil {
		return
	}
	if p.shared.announced {
		s := l.newState(p)
		s.Base = 0
		l.node.sendPresence(p.topicName().Topic(), s)
	}
	for _, r := range p.shared.nodes {
		l.budget.add(-presenceCost * int64(len(r.members)))
	}
	p.shared = sharedPresence{}
}

// announcePresence sends the whole state of this node's members to a topic of the engine:
// that of p or that of a node. The log is locked.
func (l *eventLog) announcePresence(p *presence, topic string, ask bool) {
	s := l.newState(p)
	s.Base, s.Ask = 0, ask
	size := 0
	for _, m := range p.members {
		if !m.told {
			continue // it will be told as a change
		}
		if size >= presencePart {
			s.More = true
			if !l.node.sendPresence(topic, s) {
				return
			}
			s.First, s.More, s.Ask, s.Joins, size = s.First+len(s.Joins), false, false, nil, 0
		}
		s.Joins = append(s.Joins, m.state())
		size += presenceCost + len(m.id) + len(m.user) + len(m.info)
	}
	if l.node.sendPresence(topic, s) && topic == p.topicName().Topic() {
		p.shared.announced = true
	}
}

// sendPresence queues a state. It reports false if the broker is not up.
func (n *node) sendPresence(topic string, s *presenceState) bool {
	body, err := json.Marshal(s)
	if err != nil {
		panic(err) // all parts have been encoded already
	}
	return n.sendControl(nodewire.KindPresence, topic, body)
}

// syncPresence makes presenceLoop announce this node's members of a topic and ask for those
// of others. The log is locked.
func (n *node) syncPresence(t *topic) {
	n.mu.Lock()
	n.presenceSyncs[target{Audience: t.kind.audience(), Name: t.name}] = struct{}{}
	n.mu.Unlock()
	wake(n.presenceWake)
}

// syncAllPresence is syncPresence for all topics. The node is locked.
func (n *node) syncAllPresence() {
	n.presenceSyncAll, n.presenceUnsent = true, false
	wake(n.presenceWake)
}

// presenceLoop announces members, and removes those of nodes that are gone.
func (n *node) presenceLoop() {
	for {
		select {
		case <-n.presenceWake:
		case <-n.stopping:
			return
		}
		n.mu.Lock()
		all, some, gone := n.presenceSyncAll, n.presenceSyncs, n.presenceGone
		n.presenceSyncAll, n.presenceSyncs, n.presenceGone = false, make(map[target]struct{}), nil
		n.mu.Unlock()
		l := n.hub.events
		if all {
			n.sendPresence(nodewire.TopicNodes, &presenceState{Again: true})
			some = make(map[target]struct{})
			for _, to := range l.gapTargets() {
				if to.Audience != toClients {
					some[to] = struct{}{}
				}
			}
		}
		for to := range some {
			n.announceTopic(to)
		}
		for _, id := range gone {
			l.removeNode(id)
		}
	}
}

// announceTopic announces this node's members of a topic that is in force. If it is not,
// inForce calls syncPresence again.
func (n *node) announceTopic(to target) {
	l := n.hub.events
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.presenceOf(to)
	if p == nil {
		return
	}
	n.mu.Lock()
	inForce := n.isInForce(to.Topic())
	n.mu.Unlock()
	if inForce {
		l.announcePresence(p, to.Topic(), true)
		for id := range p.shared.nodes { // it may have no members any more
			n.askForPresence(p, id)
		}
	}
}

// askForPresence asks another node for its members of a topic. The log is locked.
func (n *node) askForPresence(p *presence, id uint64) {
	n.sendPresence(nodewire.NodeTopic(id), &presenceState{Room: p.topic.kind == RoomTopic, Name: p.topic.name, Ask: true, Only: true})
}

// askAgain asks another node for its members of all topics.
func (n *node) askAgain(id uint64) {
	l := n.hub.events
	for _, to := range l.gapTargets() {
		l.mu.Lock()
		if p := l.presenceOf(to); p != nil && p.shared.nodes[id] != nil {
			n.askForPresence(p, id)
		}
		l.mu.Unlock()
	}
}

// presenceOf returns the presence of a topic with members on this node, or nil. The log is
// locked.
func (l *eventLog) presenceOf(to target) *presence {
	kind := ChannelTopic
	if to.Audience == toRoom {
		kind = RoomTopic
	}
	if t := l.topics[kind].m[to.Name]; t != nil && t.members > 0 && !l.closed {
		return t.presence
	}
	return nil
}

// peerEnded removes the members of a node that has ended or fallen silent.
func (n *node) peerEnded(ids ...uint64) {
	n.mu.Lock()
	n.presenceGone = append(n.presenceGone, ids...)
	n.mu.Unlock()
	wake(n.presenceWake)
}

// removeNode removes the members of another node from all topics.
func (l *eventLog) removeNode(id uint64) {
	for _, to := range l.gapTargets() {
		l.mu.Lock()
		var wake uint64
		if p := l.presenceOf(to); p != nil {
			if r := p.shared.nodes[id]; r != nil {
				p.replace(r, nil, l.budget)
				delete(p.shared.nodes, id)
				wake = l.tellPresence(p.topic)
			}
		}
		l.unlockAndWake(wake)
	}
}

// receivePresence takes another node's state.
func (n *node) receivePresence(from uint64, body []byte) {
	var s presenceState
	if err := json.Unmarshal(body, &s); err != nil {
		n.dropMalformed(err)
		return
	}
	if s.Again {
		n.askAgain(from)
		return
	}
	to := target{Audience: toChannel, Name: s.Name}
	if s.Room {
		to.Audience = toRoom
	}
	l := n.hub.events
	if l.reserve(context.Background(), 0) != nil { // waits for room, so that peers cannot flood the log
		return
	}
	p := l.presenceOf(to)
	if p == nil {
		if s.Only {
			l.node.presenceClock++
			n.sendPresence(nodewire.NodeTopic(from), &presenceState{Room: s.Room, Name: s.Name, Clock: l.node.presenceClock})
		}
		l.mu.Unlock()
		return
	}
	if !s.Only && !p.apply(from, &s, l.budget) {
		r := p.shared.nodes[from]
		if now := n.hub.clock(); r.asked == 0 || now-r.asked >= repeatAsking {
			r.asked = now
			n.askForPresence(p, from)
		}
	}
	if s.Ask {
		l.announcePresence(p, nodewire.NodeTopic(from), false)
	}
	l.unlockAndWake(l.tellPresence(p.topic))
}

// apply takes a state of another node. It reports false if the whole state is needed.
func (p *presence) apply(from uint64, s *presenceState, b *budget) bool {
	r := p.shared.nodes[from]
	if r == nil {
		if p.shared.nodes == nil {
			p.shared.nodes = make(map[uint64]*remoteMembers)
		}
		r = &remoteMembers{members: make(map[string]*presentMember)}
		p.shared.nodes[from] = r
	}
	if r.known && s.Clock <= r.clock {
		return true // it is older
	}
	if s.Base == 0 {
		if s.First == 0 {
			r.parts = nil
		}
		if s.First != len(r.parts) {
			return false
		}
		r.parts = append(r.parts, s.Joins...)
		if s.More {
			return true
		}
		p.replace(r, r.parts, b)
		r.parts, r.clock, r.known, r.asked = nil, s.Clock, true, 0
		if len(r.members) == 0 && r.wanted <= r.clock {
			delete(p.shared.nodes, from)
		}
		return r.wanted <= r.clock
	}
	if !r.known || s.Base != r.clock {
		r.wanted = max(r.wanted, s.Clock)
		return false
	}
	for _, id := range s.Leaves {
		if m := r.members[id]; m != nil {
			r.remove(p, m)
		}
	}
	for i := range s.Joins {
		r.put(p, &s.Joins[i], b)
	}
	r.clock = s.Clock
	return true
}

// replace makes members the members of r.
func (p *presence) replace(r *remoteMembers, members []memberState, b *budget) {
	left := maps.Clone(r.members)
	for i := range members {
		delete(left, members[i].ID)
		r.put(p, &members[i], b)
	}
	for _, m := range left {
		r.remove(p, m)
	}
}

// put adds a member of another node, or changes it.
func (r *remoteMembers) put(p *presence, s *memberState, b *budget) {
	m := r.members[s.ID]
	if m != nil && (m.user != s.User || m.since != s.Since) { // another connection
		r.remove(p, m)
		m = nil
	}
	switch {
	case m == nil:
		m = &presentMember{id: s.ID, user: s.User, info: s.Info, since: s.Since, node: s.Node, remote: true}
		r.members[s.ID] = m
		b.add(presenceCost)
		p.change(m)
	case !bytes.Equal(m.info, s.Info):
		m.info = s.Info
		p.change(m)
	}
}

// remove removes a member of another node. Its cost is given back when that has been told.
func (r *remoteMembers) remove(p *presence, m *presentMember) {
	delete(r.members, m.id)
	m.left = true
	p.change(m)
}

// askPresence returns the members of a topic on other nodes.
func (n *node) askPresence(ctx context.Context, kind TopicKind, name string) ([]Member, error) {
	r, err := n.askPeers(ctx, question{Op: askPresence, Name: name, Room: kind == RoomTopic}, clusterResult{})
	members := make([]Member, 0, len(r.ids))
	for _, text := range r.ids {
		var s memberState
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			n.dropMalformed(err)
			continue
		}
		members = append(members, Member{ClientID: s.ID, User: s.User, Info: s.Info, Since: time.UnixMilli(s.Since), Node: s.Node})
	}
	return members, err
}

// memberStates returns the members of a topic on this node, each in JSON.
func (l *eventLog) memberStates(q *question) []string {
	to := target{Audience: toChannel, Name: q.Name}
	if q.Room {
		to.Audience = toRoom
	}
	l.mu.Lock()
	var states []memberState
	if p := l.presenceOf(to); p != nil {
		for _, m := range p.members {
			states = append(states, m.state())
		}
	}
	l.mu.Unlock()
	list := make([]string, len(states))
	for i := range states {
		b, err := json.Marshal(&states[i])
		if err != nil {
			panic(err) // the info is valid JSON
		}
		list[i] = string(b)
	}
	return list
}
