package websocket

import (
	"container/heap"
	"container/list"
	"crypto/rand"
	"encoding/hex"
	"hash/maphash"
	"math"
	"slices"
	"sync/atomic"
	"time"
)

// TopicOptions are the properties of a channel or room. Config.TopicOptions decides about
// them when the topic comes into being.
type TopicOptions struct {
	// History says which publications are kept for members that come back or are slow.
	// The zero value keeps nothing.
	History HistoryOptions
	// Presence tells members about joins and leaves of others, and answers their
	// hub:presence requests with the list of members. Defaults to false.
	Presence bool
	// Conflate is for values that change, such as prices and positions. Message.Key names
	// the value, and a publication replaces the one before with the same Key, whoever has
	// published it: in the history, and for each member that is slow or comes back. Such a
	// member gets the newest publication of each Key and all without a Key, and no gap for
	// those that it skips. Key does not make a publication unique. History bounds what is
	// kept: without bounds, up to 10,000 publications.
	Conflate bool
}

// conflatedMessages is the HistoryOptions.Messages of a topic with Conflate whose history
// has no bounds.
const conflatedMessages = 10_000

// history returns the bounds of the topic's history.
func (o TopicOptions) history() HistoryOptions {
	if o.Conflate && !o.History.keeps() {
		return HistoryOptions{Messages: conflatedMessages}
	}
	return o.History
}

// HistoryOptions are the bounds of a topic's history. A publication is removed when it
// exceeds any of them, oldest first. A bound that is not positive does not limit; if none
// is positive, nothing is kept. Config.HistoryBudget bounds all histories together.
type HistoryOptions struct {
	// Messages is the maximum number of publications.
	Messages int
	// Bytes is the maximum size of the publications. One counts as the length of its
	// strings and Data, and 128 bytes.
	Bytes int64
	// Age is how long a publication is kept. A topic without members is forgotten when
	// its last publication is older. Without an Age it lives until Config.HistoryBudget
	// takes its history.
	Age time.Duration
}

func (o HistoryOptions) keeps() bool { return o.Messages > 0 || o.Bytes > 0 || o.Age > 0 }

// Position is a place in a topic's history: that behind the publication with the Offset.
// Offsets grow with each publication, and stay below 2^53. They belong to an Epoch, which
// changes when the history starts anew. The zero Position stands before every publication.
type Position struct {
	Epoch  string `json:"epoch"`
	Offset uint64 `json:"offset"`
}

// history has the latest publications of a topic. The log's lock guards it.
type history struct {
	topic    *topic
	options  HistoryOptions
	conflate bool
	epoch    string
	head     uint64 // offset of the latest publication
	lost     uint64 // offset of the latest publication that a bound has removed
	records  recordList
	bytes    int64
	keys     map[keyHash]*record // by Message.Key
	own      map[string][]uint64 // offsets of the publications that a client is not sent, by its ID
	used     *list.Element       // in histories.order, while there are publications
	due      int64               // hub clock of the next look at the oldest; see histories.expiring
	heapAt   int                 // in histories.expiring; -1 if it is not there
	active   int64               // hub clock of the latest publication, or of the end of the last membership
	replica  *replica            // nil without a HistoryBroker
	idle     bool                // it has neither members nor publications, and waits for the end of its Age
}

// keyHash stands for a Message.Key and its scope: the user of the publishing client, or
// the server. Two keys have the same hash with a probability of 2^-64, which no client can
// raise.
type keyHash uint64

// hashKey returns the hash of a key that a client publishes with, or the server if from is
// nil.
func (s *histories) hashKey(key string, from *Client) keyHash {
	if key == "" || s.options == nil {
		return 0
	}
	return s.hashScoped(keyScope(key, from))
}

// scopedKey is a Message.Key with its scope.
type scopedKey struct {
	server    bool
	user, key string
}

func keyScope(key string, from *Client) scopedKey {
	if from == nil {
		return scopedKey{server: true, key: key}
	}
	return scopedKey{user: from.User(), key: key}
}

func (s *histories) hashScoped(key scopedKey) keyHash {
	return keyHash(maphash.Comparable(s.seed, key))
}

// histories holds what the histories of a hub share. The log's lock guards all fields but
// the atomic ones.
type histories struct {
	hub                 *Hub
	options             func(TopicKind, string) TopicOptions // guarded against panics; nil without Config.TopicOptions
	clock               func() int64
	seed                maphash.Seed // of keyHash
	limit               int64
	bytes               atomic.Int64  // of the publications that histories hold, with their encodings
	evicted             atomic.Uint64 // publications removed for limit; Stats reads it
	resumed, resumedGap atomic.Uint64 // joins with a position after which nothing, or something, is missing
	order               list.List     // of *history, least recently used first
	epoch               string        // of new histories, or empty
	used                recordQueue   // records with publications
	expiring            expiring
	timer               *time.Timer // calls eventLog.expireHistories
	timerAt             int64       // hub clock, or math.MaxInt64
}

func newEpoch() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func (s *histories) newHistory(t *topic, options TopicOptions) *history {
	if n := s.hub.node; n != nil && n.histories != nil {
		return &history{topic: t, options: options.history(), conflate: options.Conflate, replica: newReplica(), heapAt: -1}
	}
	if s.epoch == "" {
		s.epoch = newEpoch()
	}
	return &history{topic: t, options: options.history(), conflate: options.Conflate, epoch: s.epoch, heapAt: -1}
}

// keepIdle reports whether the history of a topic without members and publications must
// not be forgotten yet: a member that comes back within its Age has missed nothing. If it
// is forgotten, later histories get another epoch. A history that never had a publication
// is forgotten at once and keeps the epoch, because a position in it stays true. The log
// is locked.
func (l *eventLog) keepIdle(h *history) bool {
	s := &l.histories
	if h.head == 0 || h.replica != nil {
		return false
	}
	if end := h.active + int64(h.options.Age); h.options.Age > 0 && s.clock() < end && !l.closed {
		if !h.idle {
			h.idle = true
			h.used = s.order.PushBack(h) // so that the budget can take it
			l.scheduleExpiry(h, end)
		}
		return true
	}
	s.epoch = ""
	return false
}

// wakeHistory ends the idle time of a history, when a member joins or a publication comes.
func (l *eventLog) wakeHistory(h *history) {
	h.active = l.histories.clock()
	if h.idle {
		h.idle = false
		l.unlistHistory(h)
	}
}

// unlistHistory removes a history without publications from the lists by use and by age.
func (l *eventLog) unlistHistory(h *history) {
	if h.used != nil {
		l.histories.order.Remove(h.used)
		h.used = nil
	}
	if h.heapAt >= 0 {
		heap.Remove(&l.histories.expiring, h.heapAt)
	}
}

func (h *history) len() int { return h.records.len() }

// position returns the place behind the latest publication.
func (h *history) position() Position { return Position{h.epoch, h.head} }

// oldest returns the offset from which on no bound has removed a publication.
func (h *history) oldest() uint64 { return h.lost + 1 }

// countFrom returns the number of publications from an offset on that a client is sent.
func (h *history) countFrom(offset uint64, clientID string) int {
	own := h.own[clientID]
	i, _ := slices.BinarySearch(own, offset)
	return h.len() - h.records.rank(h.records.seek(offset)) - (len(own) - i)
}

func (h *history) addOwn(r *record) {
	if h.own == nil {
		h.own = make(map[string][]uint64)
	}
	h.own[r.clientID] = append(h.own[r.clientID], r.offset)
}

func (h *history) removeOwn(r *record) {
	own := h.own[r.clientID]
	switch i, _ := slices.BinarySearch(own, r.offset); {
	case len(own) == 1:
		delete(h.own, r.clientID)
	case i == 0:
		h.own[r.clientID] = own[1:]
	default:
		h.own[r.clientID] = slices.Delete(own, i, i+1)
	}
}

// published returns the position of an earlier publication with a key.
func (h *history) published(key string, hash keyHash, now int64) (Position, bool) {
	if key == "" || h.conflate {
		return Position{}, false
	}
	r := h.keys[hash]
	if r == nil || r.key != key || h.options.Age > 0 && now-r.at >= int64(h.options.Age) {
		return Position{}, false
	}
	return Position{h.epoch, r.offset}, true
}

// appendHistory gives p its offset and keeps it. p is not in any queue yet, and was
// published at the hub clock's time at.
func (l *eventLog) appendHistory(h *history, p *publication, key keyHash, offset uint64, at int64) {
	h.head = offset
	p.msg.Offset, p.msg.Room = h.head, h.topic.kind == RoomTopic
	p.history, p.kept = h, true
	l.seq++
	p.seq = l.seq
	p.retain()
	l.wakeHistory(h)
	now := h.active
	if h.conflate && p.msg.Key != "" {
		key = keyHash(maphash.String(l.histories.seed, p.msg.Key))
		if old := h.keys[key]; old != nil && old.key == p.msg.Key {
			h.records.remove(old)
			l.dropRecord(h, old)
		}
	}
	r := newRecord(p, key, at)
	p.countIn(true, publicationCost)
	l.histories.bytes.Add(r.held(h))
	l.addUsed(r)
	h.records.append(r)
	if r.except {
		h.addOwn(r)
	}
	h.bytes += p.cost
	if r.key != "" {
		if h.keys == nil {
			h.keys = make(map[keyHash]*record)
		}
		h.keys[key] = r
	}
	l.trimHistory(h, now)
	l.touchHistory(h)
	if h.len() == 0 { // p alone exceeds a bound
		return
	}
	if h.heapAt < 0 && h.options.Age > 0 {
		l.scheduleExpiry(h, at+int64(h.options.Age))
	}
	for n := l.histories.used.len(); n > 0 && l.histories.bytes.Load() > l.histories.limit; n-- {
		l.compactOldest()
	}
	for l.histories.bytes.Load() > l.histories.limit && l.histories.order.Len() > 0 {
		oldest := l.histories.order.Front().Value.(*history)
		if oldest.idle {
			oldest.active = math.MinInt64 // finishTrim forgets it
		}
		for oldest.len() > 0 && l.histories.bytes.Load() > l.histories.limit {
			l.removeOldest(oldest)
			l.histories.evicted.Add(1)
		}
		l.finishTrim(oldest)
	}
}

// touchHistory makes h the most recently used.
func (l *eventLog) touchHistory(h *history) {
	switch {
	case h.used != nil:
		l.histories.order.MoveToBack(h.used)
	case h.len() > 0:
		h.used = l.histories.order.PushBack(h)
	}
}

// trimHistory removes what exceeds the history's own bounds.
func (l *eventLog) trimHistory(h *history, now int64) {
	o := &h.options
	for h.len() > 0 {
		tooMany := o.Messages > 0 && h.len() > o.Messages
		tooLarge := o.Bytes > 0 && h.bytes > o.Bytes
		tooOld := o.Age > 0 && now-h.records.oldest().at >= int64(o.Age)
		if !tooMany && !tooLarge && !tooOld {
			break
		}
		l.removeOldest(h)
	}
	l.finishTrim(h)
}

func (l *eventLog) removeOldest(h *history) {
	r := h.records.removeOldest()
	h.lost = r.offset
	l.dropRecord(h, r)
}

// dropRecord gives up a record that has been removed from its history.
func (l *eventLog) dropRecord(h *history, r *record) {
	h.bytes -= r.cost(h)
	if r.except {
		h.removeOwn(r)
	}
	if r.key != "" && h.keys[r.keyHash] == r {
		delete(h.keys, r.keyHash)
	}
	l.histories.bytes.Add(-r.held(h))
	if p := r.pub; p != nil {
		r.pub, p.kept = nil, false
		p.countIn(false, r.frameBytes()-publicationCost)
		p.release()
	}
}

// finishTrim forgets a topic without members and publications.
func (l *eventLog) finishTrim(h *history) {
	if h.len() > 0 {
		return
	}
	h.keys = nil
	if !h.idle || !l.keepIdle(h) {
		l.unlistHistory(h)
		l.dropTopicIfEmpty(h.topic)
	}
}

// expiring is a heap of histories by the time of the next look at their oldest
// publication.
type expiring []*history

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (x expiring) Len() int           { return len(x) }
func (x expiring) Less(i, j int) bool { return x[i].due < x[j].due }
func (x expiring) Swap(i, j int) {
	x[i], x[j] = x[j], x[i]
	x[i].heapAt, x[j].heapAt = i, j
}

func (x *expiring) Push(v any) {
	h := v.(*history)
	h.heapAt = len(*x)
	*x = append(*x, h)
}

func (x *expiring) Pop() any {
	last := len(*x) - 1
	h := (*x)[last]
	(*x)[last] = nil
	*x = (*x)[:last]
	h.heapAt = -1
	return h
}

func (l *eventLog) scheduleExpiry(h *history, due int64) {
	h.due = due
	heap.Push(&l.histories.expiring, h)
	l.setExpiryTimer()
}

func (l *eventLog) setExpiryTimer() {
	s := &l.histories
	if len(s.expiring) == 0 || l.closed || s.timerAt <= s.expiring[0].due {
		return
	}
	s.timerAt = s.expiring[0].due
	wait := time.Duration(max(s.timerAt-s.clock(), 0))
	if s.timer == nil {
		s.timer = time.AfterFunc(wait, l.expireHistories) // stopped by close
	} else {
		s.timer.Reset(wait)
	}
}

// expiryChunk is the number of histories that expireHistories looks at while publishing
// waits.
const expiryChunk = 64

// expireHistories removes publications that are too old. The timer calls it.
func (l *eventLog) expireHistories() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	s := &l.histories
	s.timerAt = math.MaxInt64
	now := s.clock()
	for n := 0; n < expiryChunk && len(s.expiring) > 0 && s.expiring[0].due <= now; n++ {
		h := heap.Pop(&s.expiring).(*history)
		l.trimHistory(h, now)
		if h.len() > 0 {
			// At most 16 looks in an Age: until then reading passes over what is too old.
			age := int64(h.options.Age)
			h.due = max(h.records.oldest().at+age, now+age/16)
			heap.Push(&s.expiring, h)
		}
	}
	l.setExpiryTimer()
}

// closeHistories releases all histories. The hub has stopped.
func (l *eventLog) closeHistories() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.histories.timer != nil {
		l.histories.timer.Stop()
	}
	for front := l.histories.order.Front(); front != nil; front = l.histories.order.Front() {
		h := front.Value.(*history)
		for h.len() > 0 {
			l.removeOldest(h)
		}
		l.finishTrim(h)
	}
}

// historyRead is a part of a history.
type historyRead struct {
	pubs    []*publication // each with a reference for the reader
	lost    bool           // bounds have removed publications before them
	missing uint64         // the number of these, or 0 if it is not known
	first   uint64         // offset behind the missing ones
	next    uint64         // offset behind the last of pubs
	atHead  bool           // there are no later ones up to the last that was asked for
	seq     uint64         // of the last entry of the log
}

// readFrom appends to dst the publications from an offset on, up to the offset last, until
// their cost exceeds most. The log is locked.
func (l *eventLog) readFrom(h *history, offset, last uint64, most int64, dst []*publication) historyRead {
	l.trimHistory(h, l.histories.clock())
	l.touchHistory(h)
	read := historyRead{pubs: dst, first: offset, next: max(offset, last+1), atHead: true, seq: l.seq}
	if first := min(h.oldest(), last+1); offset < first {
		read.lost, read.first = true, first
		if !h.conflate {
			read.missing = first - offset
		}
	}
	for r := range h.records.from(h.records.seek(offset)) {
		if r.offset > last {
			break
		}
		if most -= r.cost(h); most < 0 && len(read.pubs) > len(dst) {
			read.next, read.atHead = r.offset, false
			break
		}
		read.pubs = append(read.pubs, l.use(h, r))
	}
	return read
}

// missing returns the number of publications from an offset on that bounds have removed,
// or 0 if it is not known: with Conflate some of them may have been replaced since.
func (h *history) missing(offset uint64) uint64 {
	switch {
	case h.conflate:
		return 0
	case h.replica != nil:
		return h.replica.missed(offset-1, h.lost)
	}
	return h.oldest() - offset
}
