package client

import (
	"container/list"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// inbox is the queue of callbacks that dispatch has not run yet, in order. Putting
// an item never blocks the read loop, so callbacks may wait for replies from the
// hub. The queue is bounded: messages above the limit are counted in a gap, gaps of
// the same topic are merged, and only the latest maxStates changes of state are
// kept.
type inbox struct {
	limit int64 // of bytes

	mu     sync.Mutex         // guards the fields below
	filled sync.Cond          // signaled when an item is put; only dispatch waits
	items  list.List          // of *item
	bytes  int64              // sum of the items' costs
	gaps   map[topicKey]*item // queued gaps that a later gap of the same topic may be merged into
	states list.List          // of *list.Element: the items that are changes of state
	closed bool

	discarded bool // closed, and queued items were discarded
}

// item is the argument of one callback: exactly one of message, gap, state, err and
// presence is set.
type item struct {
	message *websocket.Message
	subs    []*Subscription // whose handlers get message; nil for Options.OnMessage
	epoch   string          // of message, if it belongs to a history
	gap     *websocket.Gap
	key     topicKey // of gap
	ends    []gapEnd // of gap, if nothing of the history follows it
	certain bool     // of gap: messages were certainly missed, although Count may be 0
	state   *StateChange
	err     error
	cost    int64 // bytes counted against the limit

	presence *Subscription // whose onPresence is called
	from     *conn         // where message is a request of the hub, over this connection; or nil

	toOnMessage bool // OnMessage has got the message; used by dispatch
}

// itemCost is the approximate size of an item without its strings and payload.
const itemCost = 192

// maxStates is the maximum number of queued changes of state.
const maxStates = 32

// Keys of gaps that do not belong to one channel or room. They are distinct from
// all others, because names of channels and rooms are not empty.
var (
	noTopic  = topicKey{}           // messages that name no channel or room, and errors
	anyTopic = topicKey{room: true} // Gap.All: any channel or room
)

func newInbox(limit int64) *inbox {
	b := &inbox{limit: limit, gaps: make(map[topicKey]*item)}
	b.filled.L = &b.mu
	return b
}

// putMessage queues a message, or counts it in a gap if the inbox is full.
func (b *inbox) putMessage(to recipients, m *websocket.Message) {
	cost := messageCost(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+cost > b.limit {
		b.putOrMergeGap(len(to.subs) > 0, to.key, websocket.Gap{Count: 1, First: m.Timestamp, Last: m.Timestamp, Reason: ReasonSlowHandler})
		return
	}
	// A later gap belongs behind this message: it must not be merged into an earlier one.
	delete(b.gaps, to.key)
	delete(b.gaps, anyTopic)
	b.put(&item{message: m, subs: to.subs, epoch: to.epoch, cost: cost})
}

// messageCost is the approximate size of an item with a message.
func messageCost(m *websocket.Message) int64 {
	return int64(itemCost + len(m.Type) + len(m.Channel) + len(m.Data) + len(m.ClientID) + len(m.ID) + len(m.Key))
}

// putRequest queues a request that came over cn. It returns false if the inbox is full.
func (b *inbox) putRequest(cn *conn, m *websocket.Message) bool {
	cost := messageCost(m)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+cost > b.limit {
		return false
	}
	b.put(&item{message: m, from: cn, cost: cost})
	return true
}

// putPresence queues a call of s.onPresence. There is at most one for each subscription.
func (b *inbox) putPresence(s *Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.put(&item{presence: s, cost: itemCost})
}

// putError queues an error, or counts it in a gap if the inbox is full.
func (b *inbox) putError(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+itemCost > b.limit {
		b.putOrMergeGap(false, noTopic, websocket.Gap{Count: 1, Reason: ReasonSlowHandler})
		return
	}
	b.put(&item{err: err, cost: itemCost})
}

// putGap queues a gap. member reports whether the client itself joined the topic.
func (b *inbox) putGap(member bool, key topicKey, gap websocket.Gap, ends []gapEnd) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if it := b.putOrMergeGap(member, key, gap); len(ends) > 0 {
		it.ends = ends
	}
}

// putOrMergeGap merges gap into a queued gap of the same topic and reason, or queues
// it, and returns the item. When the inbox is full, gaps of different reasons are merged
// too, and gaps of topics that the client itself did not join are merged into one of any
// topic: the number of queued gaps is then limited by the number of joined topics. b.mu is
// locked.
func (b *inbox) putOrMergeGap(member bool, key topicKey, gap websocket.Gap) *item {
	full := b.bytes+itemCost > b.limit
	if full && !member && key != noTopic {
		key = anyTopic
	}
	if it := b.gaps[key]; it != nil && (full || it.gap.Reason == gap.Reason) {
		it.certain = it.certain || gap.Count > 0
		if it.gap.Count == 0 || gap.Count == 0 { // an unknown number remains unknown
			it.gap.Count = 0
		} else {
			it.gap.Count += gap.Count
		}
		it.gap.First = earlier(it.gap.First, gap.First)
		it.gap.Last = max(it.gap.Last, gap.Last)
		return it
	}
	gap.Channel, gap.RoomID = key.split()
	gap.All = key == anyTopic
	it := &item{gap: &gap, key: key, certain: gap.Count > 0, cost: int64(itemCost + len(key.name) + len(gap.Reason))}
	b.gaps[key] = it
	b.put(it)
	return it
}

// earlier returns the earlier of two times. 0 means an unknown time.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// putState queues a change of state. If maxStates are queued, it removes the oldest.
func (b *inbox) putState(s StateChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.states.Len() == maxStates {
		b.items.Remove(b.states.Remove(b.states.Front()).(*list.Element))
	}
	b.states.PushBack(b.put(&item{state: &s}))
}

// put needs b.mu locked.
func (b *inbox) put(it *item) *list.Element {
	b.bytes += it.cost
	b.filled.Signal()
	return b.items.PushBack(it)
}

// close queues the last item. Nothing may be put afterwards. With discard the items
// queued before it are removed.
func (b *inbox) close(discard bool, last StateChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.discarded = discard
	if discard {
		b.items.Init()
		b.states.Init()
		clear(b.gaps)
		b.bytes = 0
	}
	b.put(&item{state: &last})
	b.closed = true
}

// wasDiscarded reports whether close has discarded the queued items.
func (b *inbox) wasDiscarded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.discarded
}

// take waits for the next item and removes it. It returns nil after the last one.
func (b *inbox) take() *item {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.items.Len() == 0 {
		if b.closed {
			return nil
		}
		b.filled.Wait()
	}
	front := b.items.Front()
	it := b.items.Remove(front).(*item)
	b.bytes -= it.cost
	if first := b.states.Front(); first != nil && first.Value == front {
		b.states.Remove(first)
	}
	if it.gap != nil && b.gaps[it.key] == it {
		delete(b.gaps, it.key)
	}
	return it
}
