package websocket

import (
	"iter"
	"slices"
)

// topicOrder lists the topics of one kind in the order of their creation, for
// iterations that unlock the log between chunks. The log's lock guards it.
type topicOrder struct {
	first, last *topic
	created     uint64 // of the latest topic
	cursors     []*topicCursor
}

// topicCursor is the position of one iteration. When its topic is removed, it moves to
// the next one.
type topicCursor struct{ next *topic }

func (o *topicOrder) add(t *topic) {
	o.created++
	t.created = o.created
	t.prev = o.last
	if o.last == nil {
		o.first = t
	} else {
		o.last.next = t
	}
	o.last = t
}

func (o *topicOrder) remove(t *topic) {
	for _, c := range o.cursors {
		if c.next == t {
			c.next = t.next
		}
	}
	if t.prev == nil {
		o.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		o.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.prev, t.next = nil, nil
}

// topicChunk is the number of topics that an iteration copies each time it locks the
// log.
const topicChunk = 256

type topicCount struct {
	name    string
	members int
}

// eachTopic iterates over the topics of one kind that exist when it starts. A topic
// that exists during the whole iteration is visited exactly once. Publishing waits for
// the copying of at most one chunk.
func (l *eventLog) eachTopic(kind TopicKind) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		o := &l.topicOrder[kind]
		l.mu.Lock()
		end := o.created
		cursor := &topicCursor{next: o.first}
		o.cursors = append(o.cursors, cursor)
		l.mu.Unlock()
		defer func() {
			l.mu.Lock()
			o.drop(cursor)
			l.mu.Unlock()
		}()
		chunk := make([]topicCount, 0, topicChunk)
		for {
			chunk = chunk[:0]
			l.mu.Lock()
			seen := 0
			for t := cursor.next; t != nil && t.created <= end && seen < topicChunk; t = t.next {
				cursor.next = t.next
				seen++
				if t.members > 0 {
					chunk = append(chunk, topicCount{t.name, t.members})
				}
			}
			l.mu.Unlock()
			if seen == 0 {
				return
			}
			for _, t := range chunk {
				if !yield(t.name, t.members) {
					return
				}
			}
		}
	}
}

func (o *topicOrder) drop(cursor *topicCursor) {
	o.cursors = slices.DeleteFunc(o.cursors, func(c *topicCursor) bool { return c == cursor })
}

// Channels iterates over the channels that have subscribers on this node, with the
// number of subscribers of each, in no particular order. A channel that exists during
// the whole iteration is visited once. A channel that is created during the iteration
// is not visited. Publishing does not wait for the iteration. The loop body
// may call any method of the hub. Channels may be called from any goroutine at any
// time. After shutdown there are no channels.
func (h *Hub) Channels() iter.Seq2[string, int] { return h.events.eachTopic(ChannelTopic) }

// Rooms is like Channels, for rooms and their members.
func (h *Hub) Rooms() iter.Seq2[string, int] { return h.events.eachTopic(RoomTopic) }
