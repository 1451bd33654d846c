package brokertest

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// memoryTopic is a topic's history. The engine's lock guards it.
type memoryTopic struct {
	epoch   string
	head    uint64
	top     uint64 // the latest offset, also of a lost record: none is given twice
	removed uint64
	jump    bool // the next offset jumps: the engine has failed since the latest one
	records []memoryRecord
	keep    websocket.HistoryOptions
}

type memoryRecord struct {
	websocket.BrokerRecord
	at time.Time
}

// jump is the least distance of offsets between which records may have been lost.
const jump = 1 << 20

// defaultAge is how long a history without an Age is kept.
const defaultAge = 24 * time.Hour

// LoseRecords removes the latest n records of each topic, as a failover to a replica that
// is behind does. Deliveries that are under way are lost too. It ends Stop.
func (e *Memory) LoseRecords(n int) {
	e.set(func() {
		e.stopped = false
		for _, b := range e.brokers {
			b.queue = slices.DeleteFunc(b.queue, func(e event) bool { return !e.health })
		}
		for _, t := range e.topics {
			t.jump = true
			for i := 0; i < n && len(t.records) > 0; i++ {
				last := t.records[len(t.records)-1]
				t.records = t.records[:len(t.records)-1]
				if t.head = last.Previous; t.head == 0 {
					t.head = last.Position.Offset - 1
				}
			}
		}
	})
}

// Forget removes all histories.
func (e *Memory) Forget() { e.set(func() { e.topics = nil }) }

// trim removes what exceeds the bounds of the topic. It reports false if the history has
// ended.
func (t *memoryTopic) trim(now time.Time) bool {
	age := t.keep.Age
	if age <= 0 {
		age = defaultAge
	}
	var size int64
	for i := range t.records {
		size += int64(len(t.records[i].Payload))
	}
	for len(t.records) > 0 {
		r := &t.records[0]
		old := now.Sub(r.at) >= age
		if old && len(t.records) == 1 {
			return false
		}
		many := t.keep.Messages > 0 && len(t.records) > t.keep.Messages
		large := t.keep.Bytes > 0 && size > t.keep.Bytes
		if !old && !many && !large {
			break
		}
		size -= int64(len(r.Payload))
		t.removed = r.Position.Offset
		t.records = t.records[1:]
	}
	return true
}

// topic returns a topic's history, or nil.
func (e *Memory) topic(name string) *memoryTopic {
	t := e.topics[name]
	if t != nil && !t.trim(time.Now()) {
		delete(e.topics, name)
		return nil
	}
	return t
}

// makeTopic returns a topic's history, which it makes if there is none.
func (e *Memory) makeTopic(name string) *memoryTopic {
	t := e.topic(name)
	if t == nil {
		e.epochs++
		first := uint64(time.Now().UnixMilli()) * 1024
		t = &memoryTopic{epoch: "memory-" + strconv.Itoa(e.epochs), head: first - 1}
		if e.topics == nil {
			e.topics = make(map[string]*memoryTopic)
		}
		e.topics[name] = t
	}
	return t
}

// Append implements websocket.HistoryBroker.
func (b *memoryBroker) Append(ctx context.Context, batch []websocket.BrokerRecord) []websocket.AppendResult {
	results := make([]websocket.AppendResult, len(batch))
	err := b.wait(ctx)
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	for i := range batch {
		if err != nil {
			results[i].Err = err
			continue
		}
		results[i] = b.engine.append(&batch[i])
	}
	return results
}

func (e *Memory) append(r *websocket.BrokerRecord) (result websocket.AppendResult) {
	if err := e.tooLarge(r.Payload); err != nil {
		result.Err = err
		return result
	}
	t := e.makeTopic(r.Topic)
	for i := range t.records {
		if r.Key != "" && t.records[i].Key == r.Key {
			return websocket.AppendResult{Position: t.records[i].Position, Repeated: true}
		}
	}
	kept := memoryRecord{BrokerRecord: *r, at: time.Now()}
	kept.Payload = slices.Clone(r.Payload)
	if t.removed > 0 || len(t.records) > 0 {
		kept.Previous = t.head
	}
	t.head++
	if t.jump {
		t.head, t.jump = t.top+jump, false
	}
	t.top = t.head
	kept.Position = websocket.Position{Epoch: t.epoch, Offset: t.head}
	t.keep = r.Keep
	t.records = append(t.records, kept)
	t.trim(time.Now())
	e.published++
	for _, to := range e.brokers {
		if to.topics[r.Topic] {
			e.delivered++
			to.push(event{record: &kept.BrokerRecord})
		}
	}
	return websocket.AppendResult{Position: kept.Position, Previous: kept.Previous}
}

// Read implements websocket.HistoryBroker.
func (b *memoryBroker) Read(ctx context.Context, topic string, after uint64, limit int) (websocket.BrokerPage, error) {
	if err := b.wait(ctx); err != nil {
		return websocket.BrokerPage{}, err
	}
	e := b.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.makeTopic(topic)
	page := websocket.BrokerPage{Position: websocket.Position{Epoch: t.epoch, Offset: t.head}, Removed: t.removed}
	now := time.Now()
	for _, r := range t.records {
		if r.Position.Offset > after && len(page.Records) < max(limit, 1) {
			r.Age = now.Sub(r.at)
			r.Payload = slices.Clone(r.Payload)
			page.Records = append(page.Records, r.BrokerRecord)
		}
	}
	return page, nil
}

// Renew implements websocket.HistoryBroker.
func (b *memoryBroker) Renew(ctx context.Context, topic, epoch string) error {
	if err := b.wait(ctx); err != nil {
		return err
	}
	e := b.engine
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.topic(topic); t != nil && t.epoch == epoch {
		e.epochs++
		t.epoch = "memory-" + strconv.Itoa(e.epochs)
	}
	return nil
}
