package websocket

import (
	"context"
	"math"
)

// A history of a hub with a HistoryBroker is a replica of the engine's, on each node that
// has members in the topic. The engine gives the order: a record is delivered when all
// records before it are, and what is missing is read from the engine. So all nodes deliver
// the same records in the same order, with the same offsets.
//
//	load      the topic comes into being on this node: joins wait until the history
//	   |      has been read
//	   v
//	current   records follow each other: each is delivered as it arrives
//	   |  ^
//	   v  |   a record does not follow, or the broker was down or has lost something
//	behind    records are dropped until those from the head on have been read
//	   |
//	   v      the engine has another epoch
//	load      members are told by a gap; what they have had is not delivered again

// replica is the part of a history that follows the engine's. The log's lock guards it.
type replica struct {
	loaded  chan struct{} // closed when the history has been read; then head is its latest record
	began   bool          // a part of it has been read
	told    uint64        // while it is read: the members have the records up to this offset, or know
	record  bool          // the engine has, or had, a record at head
	wanted  uint64        // offset of the latest record that has arrived
	renew   bool          // the engine has lost records that members have
	sparse  bool          // offsets do not count records
	healing bool          // node.heal has the topic
	round   chan struct{} // closed at the end of this healing, or of the next one
	pins    int           // calls of node.openHistory that use the topic
}

func newReplica() *replica {
	return &replica{loaded: make(chan struct{}), round: make(chan struct{}), told: math.MaxUint64}
}

func (r *replica) isLoaded() bool {
	select {
	case <-r.loaded:
		return true
	default:
		return false
	}
}

// arrival is a record of the engine.
type arrival struct {
	at       Position
	previous uint64 // see BrokerRecord.Previous
	time     int64  // hub clock of its appending
	key      keyHash
	pub      *publication // nil if this node cannot deliver it: members get a gap
}

func (a *arrival) cost() int64 {
	if a.pub == nil {
		return entryCost
	}
	return a.pub.cost
}

// uncountable is the distance of offsets from which on the engine may have left some out.
const uncountable = 1 << 20

// missed returns the number of records behind one offset, up to another one, or 0 if it is
// not known.
func (r *replica) missed(after, to uint64) uint64 {
	if r.sparse || to-after >= uncountable {
		return 0
	}
	return to - after
}

// lockReplica reserves cost and locks the log. It returns the history of a topic, or nil if
// it has no replica; then the log is not locked.
func (l *eventLog) lockReplica(to target, cost int64) *history {
	if l.reserve(context.Background(), cost) != nil {
		return nil
	}
	if h := l.replicaOf(to); h != nil {
		return h
	}
	l.unreserve(cost)
	l.mu.Unlock()
	return nil
}

// replicaOf returns the history of a topic, or nil if it has no replica. The log is locked.
func (l *eventLog) replicaOf(to target) *history {
	kind := ChannelTopic
	if to.Audience == toRoom {
		kind = RoomTopic
	}
	if t := l.topics[kind].m[to.Name]; t != nil && t.history != nil && t.history.replica != nil {
		return t.history
	}
	return nil
}

// arrive takes a record that has been appended. It delivers the record if it is the next
// one. It blocks while the log is full.
func (l *eventLog) arrive(to target, a *arrival) {
	h := l.lockReplica(to, a.cost())
	if h == nil {
		a.pub.releaseIfAny()
		return
	}
	r := h.replica
	if r.isLoaded() {
		if a.at.Epoch == h.epoch && a.at.Offset <= h.head {
			l.discard(a)
			return
		}
		l.trimHistory(h, l.histories.clock())
		first := a.previous == 0 && h.len() == 0 && a.at.Offset > h.head // earlier records would be too old by now
		if first || a.at.Epoch == h.epoch && a.previous == h.head {
			h.epoch = a.at.Epoch
			l.deliver(h, a, true)
			return
		}
		r.renew = r.renew || r.record && a.at.Epoch == h.epoch && a.previous != 0 && a.previous < h.head
	}
	r.wanted = max(r.wanted, a.at.Offset)
	l.heal(h)
	l.discard(a)
}

// discard drops a record, and unlocks the log.
func (l *eventLog) discard(a *arrival) {
	l.unreserve(a.cost())
	l.mu.Unlock()
	a.pub.releaseIfAny()
}

// restore takes a record that has been read. It reports false if the topic has changed
// meanwhile. It blocks while the log is full.
func (l *eventLog) restore(to target, of *replica, a *arrival) bool {
	h := l.lockReplica(to, a.cost())
	if h == nil {
		a.pub.releaseIfAny()
		return false
	}
	r := h.replica
	switch {
	case r != of || h.epoch != a.at.Epoch:
		l.discard(a)
		return false
	case a.at.Offset <= h.head:
		l.discard(a)
	default:
		l.deliver(h, a, r.isLoaded() || a.at.Offset > r.told)
	}
	return true
}

// deliver appends a record to a history, and sends it to the members unless they have it
// or must not have it. It unlocks the log, which has room for the record.
func (l *eventLog) deliver(h *history, a *arrival, send bool) {
	pub, t := a.pub, h.topic
	if pub == nil {
		l.unreserve(a.cost())
		l.unlockAndWake(l.miss(h, a.at.Offset, 1))
		return
	}
	l.appendHistory(h, pub, a.key, a.at.Offset, a.time)
	h.replica.record = true
	recipients := 0
	if send {
		recipients = t.members
		if pub.except != "" {
			if c := l.histories.hub.ids.get(pub.except); c != nil && c.registered && l.membership(c, t.kind, t.name) != nil {
				recipients--
			}
		}
	}
	var wake uint64
	if recipients > 0 {
		l.stamp(pub, len(t.parts), recipients)
		for _, p := range t.parts {
			wake |= l.append(p.shard, entry{kind: entryPublish, part: p, pub: pub})
		}
	} else {
		l.unreserve(pub.cost)
	}
	l.unlockAndWake(wake)
	if recipients == 0 {
		pub.release()
	}
}

// miss tells the members that records up to an offset are missing, and gives up what the
// history has before it, so that clients that come back are told too. The log is locked.
func (l *eventLog) miss(h *history, to uint64, count uint64) (wake uint64) {
	l.emptyHistory(h)
	h.head, h.lost = to, to
	h.replica.record = false
	return l.appendMissingForAll(h.topic, count)
}

// appendMissingForAll appends gap notices for all members of a topic. It does not wait for
// room, as a reply.
func (l *eventLog) appendMissingForAll(t *topic, count uint64) (wake uint64) {
	if t.members == 0 {
		return 0
	}
	l.seq++
	gap := l.missingGap(t, count)
	for _, p := range t.parts {
		l.addressed.Add(uint64(p.count))
		l.used.Add(entryCost)
		wake |= l.append(p.shard, entry{kind: entryGap, part: p, arg: gap})
	}
	return wake
}

// heal makes the node read what a history misses. The log is locked.
func (l *eventLog) heal(h *history) {
	if !h.replica.healing {
		h.replica.healing = true
		l.node.heal(target{Audience: h.topic.kind.audience(), Name: h.topic.name})
	}
}

// healing is what to read of a history.
type healing struct {
	replica *replica
	loaded  bool
	epoch   string
	head    uint64
	wanted  uint64
	record  bool
	renew   bool
}

// after returns the offset behind which to read: of the latest record itself, to see
// whether the engine still has it.
func (h *healing) after() uint64 {
	if h.loaded && h.record {
		return h.head - 1
	}
	return h.head
}

// isBehind reports whether the engine may know a position that a replica does not.
func (h *history) isBehind(since *Position) bool {
	return since != nil && *since != (Position{}) && (since.Epoch != h.epoch || since.Offset > h.head)
}

// hasRecord reports whether a topic's replica has the record at a position, or none is
// needed.
func (l *eventLog) hasRecord(to target, at Position) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.replicaOf(to)
	return h == nil || h.replica.isLoaded() && h.epoch == at.Epoch && at.Offset <= h.head
}

// beginHealing returns what to read of a topic's history, or false if there is no replica.
func (l *eventLog) beginHealing(to target) (healing, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.replicaOf(to)
	if h == nil || l.closed {
		return healing{}, false
	}
	r := h.replica
	return healing{r, r.isLoaded(), h.epoch, h.head, r.wanted, r.record, r.renew}, true
}

// beginPage takes the head of a page. It reports false if its records must not be
// restored.
func (l *eventLog) beginPage(to target, was *healing, page *BrokerPage) bool {
	l.mu.Lock()
	h := l.replicaOf(to)
	if h == nil || h.replica != was.replica || h.epoch != was.epoch {
		l.mu.Unlock()
		return false
	}
	var wake uint64
	r, valid := h.replica, true
	r.sparse = page.Sparse
	switch {
	case !r.isLoaded() && !r.began:
		r.began = true
		h.epoch, h.head, h.lost = page.Position.Epoch, page.Removed, page.Removed
	case page.Position.Epoch != h.epoch:
		wake, valid = l.restart(h), false
	case was.loaded && was.hasLost(page):
		r.renew, valid = true, false
		if r.wanted == was.wanted {
			r.wanted = 0
		}
	case page.Removed > h.head:
		wake = l.miss(h, page.Removed, r.missed(h.head, page.Removed))
	}
	l.unlockAndWake(wake)
	return valid
}

// hasLost reports whether the engine has lost records that it had acknowledged.
func (h *healing) hasLost(page *BrokerPage) bool {
	at := page.Position.Offset
	if at < h.head || at < h.wanted {
		return true
	}
	return h.record && page.Removed < h.head && (len(page.Records) == 0 || page.Records[0].Position.Offset != h.head)
}

// restart makes a history load another epoch. Its members are told. The log is locked.
func (l *eventLog) restart(h *history) (wake uint64) {
	r := h.replica
	told := h.head
	if !r.isLoaded() {
		told = r.told
	}
	wake = l.miss(h, 0, 0)
	h.epoch = ""
	*r = replica{loaded: make(chan struct{}), told: told, healing: r.healing, round: r.round, pins: r.pins}
	return wake
}

// endPage takes the end of a page. It reports whether the history is current.
func (l *eventLog) endPage(to target, was *healing, page *BrokerPage) bool {
	l.mu.Lock()
	h := l.replicaOf(to)
	if h == nil || h.replica != was.replica || h.epoch != page.Position.Epoch {
		l.mu.Unlock()
		return h == nil
	}
	r, head := h.replica, page.Position.Offset
	if h.head < head {
		if n := len(page.Records); n > 0 && page.Records[n-1].Position.Offset < head {
			r.record = r.record && page.Records[n-1].Position.Offset > was.head // otherwise the next page begins behind it
			l.mu.Unlock()
			return false // there are more pages
		}
		h.head, r.record = head, false
	}
	if !r.isLoaded() {
		close(r.loaded)
	}
	current := r.wanted <= h.head
	if current {
		r.healing = false
		close(r.round)
		r.round = make(chan struct{})
	}
	l.mu.Unlock()
	return current
}

// renewed takes note that the engine has been told of its loss.
func (l *eventLog) renewed(to target) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.replicaOf(to); h != nil {
		h.replica.renew = false
	}
}

// behind makes the node read what a history may miss. The log is locked.
func (l *eventLog) behind(t *topic) bool {
	if t.history == nil || t.history.replica == nil {
		return false
	}
	l.heal(t.history)
	return true
}

// pin keeps the replica of a topic until unpin, and makes it if there is none. It returns
// nil if the topic keeps no history.
func (l *eventLog) pin(kind TopicKind, name string) (*history, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.topics[kind].m[name]
	if t == nil {
		t = l.topicWithHistory(kind, name)
	}
	switch {
	case l.closed:
		return nil, ErrHubClosed
	case t == nil || t.history == nil:
		return nil, nil
	}
	t.history.replica.pins++
	return t.history, nil
}

func (l *eventLog) unpin(h *history) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h.replica.pins--
	l.dropReplica(h)
}

// dropReplica forgets a history that nobody needs: the engine has it. The log is locked.
func (l *eventLog) dropReplica(h *history) {
	if h.replica.pins > 0 || len(h.topic.parts) > 0 {
		return
	}
	l.emptyHistory(h)
}

// emptyHistory removes all records, and the topic if it has no members.
func (l *eventLog) emptyHistory(h *history) {
	for h.len() > 0 {
		l.removeOldest(h)
	}
	l.finishTrim(h)
}

// mustOpen reports whether the history of a topic has to be read from the engine before a
// client with a position can join.
func (l *eventLog) mustOpen(kind TopicKind, name string, since *Position) bool {
	if l.node.histories == nil {
		return false
	}
	l.mu.Lock()
	t := l.topics[kind].m[name]
	if t != nil {
		defer l.mu.Unlock()
		return t.history != nil && (!t.history.replica.isLoaded() || t.history.isBehind(since))
	}
	l.mu.Unlock()
	return l.histories.options(kind, name).history().keeps()
}

// engineHistory returns the bounds of a topic's history, if the engine keeps it.
func (l *eventLog) engineHistory(kind TopicKind, name string) (_ HistoryOptions, conflate bool) {
	if l.node == nil || l.node.histories == nil {
		return HistoryOptions{}, false
	}
	l.mu.Lock()
	t := l.topics[kind].m[name]
	if t != nil {
		defer l.mu.Unlock()
		if t.history == nil {
			return HistoryOptions{}, false
		}
		return t.history.options, t.history.conflate
	}
	l.mu.Unlock()
	options := l.histories.options(kind, name)
	return options.history(), options.Conflate
}
