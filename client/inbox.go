package client

import (
	"container/list"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// inbox holds what the callbacks are still to be told, in order. Putting
// something in never waits: that is why callbacks may wait for the hub's
// answers, which the reader hands out while they do. It stays bounded because
// messages over the limit become part of a gap, gaps of one place are merged,
// and only so many changes of state are kept.
type inbox struct {
	limit int64

	mu     sync.Mutex
	filled sync.Cond // signals that items or closed changed; only the dispatcher waits
	items  list.List // of *item
	bytes  int64
	gaps   map[topicKey]*item // waiting, with nothing of the same place behind
	states list.List          // of *list.Element in items
	closed bool
}

// item is one thing to be told: exactly one of message, gap, state and err is set.
type item struct {
	message *websocket.Message
	topic   *topic // whose handler message is for, or nil
	gap     *websocket.Gap
	place   topicKey // of gap
	state   *StateChange
	err     error
	cost    int64
}

// itemCost is what an item counts beside its strings and payload: about what the
// structures around it take.
const itemCost = 192

// maxStates bounds the changes of state that wait.
const maxStates = 32

func newInbox(limit int64) *inbox {
	b := &inbox{limit: limit, gaps: make(map[topicKey]*item)}
	b.filled.L = &b.mu
	return b
}

// anywhere is the place of gaps that may be of every place.
var anywhere = topicKey{room: true}

// putMessage queues a message, or counts it as missed.
func (b *inbox) putMessage(t *topic, place topicKey, m *websocket.Message) {
	cost := int64(itemCost + len(m.Type) + len(m.Channel) + len(m.Data) + len(m.ClientID) + len(m.ID))
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+cost > b.limit {
		b.merge(t != nil, place, websocket.Gap{Count: 1, First: m.Timestamp, Last: m.Timestamp, Reason: ReasonSlowHandler})
		return
	}
	delete(b.gaps, place)
	delete(b.gaps, anywhere)
	b.put(&item{message: m, topic: t, cost: cost})
}

// putError queues an error, or counts it as missed.
func (b *inbox) putError(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes+itemCost > b.limit {
		b.merge(false, topicKey{}, websocket.Gap{Count: 1, Reason: ReasonSlowHandler})
		return
	}
	b.put(&item{err: err, cost: itemCost})
}

// putGap queues a gap. known says that place is one of the client's own topics.
func (b *inbox) putGap(known bool, place topicKey, gap websocket.Gap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.merge(known, place, gap)
}

// merge adds gap to the one that waits for the same place. When the inbox is full
// it does so whatever the reasons, and channels and rooms that are not the client's
// own count as anywhere. The inbox is locked.
func (b *inbox) merge(known bool, place topicKey, gap websocket.Gap) {
	full := b.bytes+itemCost > b.limit
	if full && !known && place != (topicKey{}) {
		place = anywhere
	}
	if it := b.gaps[place]; it != nil && (full || it.gap.Reason == gap.Reason) {
		it.gap.Count += gap.Count
		it.gap.First = earlier(it.gap.First, gap.First)
		it.gap.Last = max(it.gap.Last, gap.Last)
		return
	}
	gap.Channel, gap.RoomID = place.split()
	gap.All = place == anywhere
	it := &item{gap: &gap, place: place, cost: int64(itemCost + len(place.name) + len(gap.Reason))}
	b.gaps[place] = it
	b.put(it)
}

// earlier ignores times that are not known.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// putState queues a change of state; the oldest of too many is left out.
func (b *inbox) putState(s StateChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.states.Len() == maxStates {
		b.items.Remove(b.states.Remove(b.states.Front()).(*list.Element))
	}
	b.states.PushBack(b.put(&item{state: &s}))
}

func (b *inbox) put(it *item) *list.Element {
	b.bytes += it.cost
	b.filled.Signal()
	return b.items.PushBack(it)
}

// finish queues the last thing that is told. Nothing may be put in afterwards.
// discard lets go of what waits.
func (b *inbox) finish(discard bool, last StateChange) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if discard {
		b.items.Init()
		b.states.Init()
		clear(b.gaps)
		b.bytes = 0
	}
	b.put(&item{state: &last})
	b.closed = true
}

// take waits for the next item. It returns nil after the last one.
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
	if it.gap != nil && b.gaps[it.place] == it {
		delete(b.gaps, it.place)
	}
	return it
}
