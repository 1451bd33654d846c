package nats

import (
	"sync"

	"github.com/nats-io/nats.go"
)

// handoff is the capacity of Broker.incoming. nats.go drops messages while it is full,
// and tells so only for the first of several messages of a subscription. So collectLoop
// empties it without waiting for the hub, and messages are dropped in the inbox, which
// knows their place.
const handoff = 8192

// inbox holds the messages that wait for the hub, and the places of those that were
// dropped.
type inbox struct {
	limit int
	wake  chan struct{} // capacity 1; put and lost send, receiveLoop receives; never closed

	mu       sync.Mutex
	items    []*nats.Msg // nil is the place of a loss
	dropping bool        // messages behind items were dropped
}

func newInbox(limit int) inbox { return inbox{limit: limit, wake: make(chan struct{}, 1)} }

// put appends a message, or drops it if the inbox is full. Then all messages are dropped
// until take is called, so that losses are told at most once for each limit of messages.
func (q *inbox) put(m *nats.Msg) {
	q.mu.Lock()
	if q.dropping || len(q.items) >= q.limit {
		q.dropping = true
	} else {
		q.items = append(q.items, m)
	}
	q.mu.Unlock()
	signal(q.wake)
}

// lost appends the place of a loss.
func (q *inbox) lost() {
	q.mu.Lock()
	if n := len(q.items); n == 0 || q.items[n-1] != nil {
		q.items = append(q.items, nil)
	}
	q.mu.Unlock()
	signal(q.wake)
}

// take returns the contents. The caller gives back the slice of the previous call.
func (q *inbox) take(spare []*nats.Msg) []*nats.Msg {
	clear(spare)
	q.mu.Lock()
	defer q.mu.Unlock()
	items := q.items
	q.items = spare[:0]
	if q.dropping {
		q.dropping = false
		items = append(items, nil)
	}
	return items
}

// signal makes the receiver from c run once more.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is already due
	}
}

// collectLoop moves messages from nats.go to the inbox.
func (b *Broker) collectLoop() {
	defer b.loops.Done()
	for {
		select {
		case <-b.stop:
			return
		case <-b.slow:
			b.checkDropped()
			b.inbox.lost()
		case m := <-b.incoming:
			if len(b.incoming) >= handoff-1 && b.checkDropped() { // it was full
				b.inbox.lost()
			}
			b.collect(m)
		case done := <-b.append.settle:
			for range len(b.incoming) {
				b.collect(<-b.incoming)
			}
			close(done)
		}
	}
}

// collect puts a message into the inbox.
func (b *Broker) collect(m *nats.Msg) {
	if b.options.History != nil && m.Subject == b.noticeSubject() {
		b.checkStream()
		return
	}
	b.append.note(m)
	b.inbox.put(m)
}

// checkDropped reports whether nats.go has dropped messages of the subscriptions for
// which it would not tell that again.
func (b *Broker) checkDropped() (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, before := range b.dropped {
		if n, err := s.Dropped(); err == nil && n != before {
			b.dropped[s] = n
			more = true
		}
	}
	return more
}

// isRecord reports whether a message comes from a stream.
func isRecord(m *nats.Msg) bool { return m.Header[headerStream] != nil }

// deliver passes a message to the handler. latest is the sequence of the latest record.
func (b *Broker) deliver(m *nats.Msg, latest *uint64) {
	if !isRecord(m) {
		b.handler.Receive(m.Data)
		return
	}
	r, sequence, ok := b.record(b.history.Load(), m)
	if !ok {
		return // of another stream, or made by another program
	}
	b.reached(latest, sequence)
	if m.Header[headerBegin] == nil {
		b.handler.Record(r)
	}
}

// receiveLoop passes messages to the handler.
func (b *Broker) receiveLoop() {
	defer b.loops.Done()
	var batch []*nats.Msg
	var latest uint64 // sequence of the latest record
	for {
		select {
		case <-b.stop:
			return
		case <-b.inbox.wake:
		}
		batch = b.inbox.take(batch)
		lost := false // a loss before the next message
		for _, m := range batch {
			if m == nil || !b.origins.inOrder(m.Reply) || isRecord(m) && b.history.Load() == nil {
				lost = true
				continue
			}
			if lost {
				b.handler.Lost()
				lost = false
			}
			b.deliver(m, &latest)
			select {
			case <-b.stop:
				return
			default:
			}
		}
		if lost {
			b.handler.Lost()
		}
	}
}
