package brokertest

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Memory is an engine in memory, for tests of hubs that share an engine. Its methods
// simulate the faults of real engines. They may be called from any goroutine.
type Memory struct {
	maxPayload int

	mu        sync.Mutex
	change    chan struct{} // closed at the next change of the faults
	stopped   bool
	paused    bool
	repeat    bool
	brokers   []*memoryBroker
	published int
	delivered int
	topics    map[string]*memoryTopic
	epochs    int // given so far
}

// NewMemory returns a running engine that takes payloads of up to maxPayload bytes;
// 0 means no limit.
func NewMemory(maxPayload int) *Memory {
	return &Memory{maxPayload: maxPayload, change: make(chan struct{})}
}

var errStopped = errors.New("brokertest: the engine is stopped")

// Broker returns a new Broker of the engine, for one hub. It is a websocket.HistoryBroker.
func (e *Memory) Broker() websocket.Broker {
	return &memoryBroker{engine: e, topics: make(map[string]bool), stop: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// set changes a fault, wakes all calls that wait and makes each broker check the
// state of the engine.
func (e *Memory) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
	close(e.change)
	e.change = make(chan struct{})
	for _, b := range e.brokers {
		b.push(event{health: true})
	}
}

// Stop ends all connections. Payloads under way are lost.
func (e *Memory) Stop() {
	e.set(func() {
		e.stopped = true
		for _, b := range e.brokers {
			b.queue = nil
		}
	})
}

// Start ends Stop: brokers connect again.
func (e *Memory) Start() { e.set(func() { e.stopped = false }) }

// Pause makes the engine hold all payloads and calls, like a process stopped by
// SIGSTOP.
func (e *Memory) Pause() { e.set(func() { e.paused = true }) }

// Resume ends Pause. Held payloads are delivered and held calls return.
func (e *Memory) Resume() { e.set(func() { e.paused = false }) }

// Repeat makes the engine deliver every payload twice while on is true.
func (e *Memory) Repeat(on bool) { e.set(func() { e.repeat = on }) }

// Lose drops the payloads under way to all brokers without ending their
// connections. The brokers report Lost.
func (e *Memory) Lose() {
	e.set(func() {
		for _, b := range e.brokers {
			b.queue = []event{{lost: true}}
		}
	})
}

// Traffic returns how many payloads the engine has taken and how many it has
// delivered. A payload counts once for each broker that it is delivered to.
func (e *Memory) Traffic() (published, delivered int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.published, e.delivered
}

// Subscriptions returns the number of subscriptions, over all brokers, to topics for
// which keep returns true.
func (e *Memory) Subscriptions(keep func(topic string) bool) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range e.brokers {
		for topic := range b.topics {
			if keep(topic) {
				n++
			}
		}
	}
	return n
}

// wait blocks while the engine is paused. It returns an error if the engine is
// stopped or ctx ends.
func (e *Memory) wait(ctx context.Context) error {
	for {
		e.mu.Lock()
		change, stopped, paused := e.change, e.stopped, e.paused
		e.mu.Unlock()
		switch {
		case stopped:
			return errors.Join(websocket.ErrBrokerUnavailable, errStopped)
		case ctx.Err() != nil:
			return ctx.Err()
		case !paused:
			return nil
		}
		select {
		case <-change:
		case <-ctx.Done():
		}
	}
}

// event is an entry of a broker's queue: a payload, a record, a loss, or a change of the
// engine's state.
type event struct {
	payload      []byte
	record       *websocket.BrokerRecord
	lost, health bool
}

type memoryBroker struct {
	engine *Memory
	topics map[string]bool // guarded by the engine's lock, like the queue
	queue  []event
	wake   chan struct{} // capacity 1; push sends, run receives; never closed
	stop   chan struct{} // closed by Close
	once   sync.Once
	ended  sync.WaitGroup
}

func (b *memoryBroker) push(e event) {
	b.queue = append(b.queue, e)
	select {
	case b.wake <- struct{}{}:
	default: // run is already due
	}
}

func (b *memoryBroker) Open(h websocket.BrokerHandler) error {
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	b.engine.brokers = append(b.engine.brokers, b)
	b.push(event{health: true})
	b.ended.Add(1)
	go b.run(h) // ends with Close
	return nil
}

// next takes an event from the queue, unless the engine is paused.
func (b *memoryBroker) next() (e event, stopped, ok bool) {
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	if len(b.queue) == 0 || b.engine.paused && !b.engine.stopped {
		return event{}, false, false
	}
	e = b.queue[0]
	b.queue = b.queue[1:]
	return e, b.engine.stopped, true
}

func (b *memoryBroker) run(h websocket.BrokerHandler) {
	defer b.ended.Done()
	up, reported := false, false // reported: Up or Down has been called
	for {
		select {
		case <-b.stop:
			return
		case <-b.wake:
		}
		for e, stopped, ok := b.next(); ok; e, stopped, ok = b.next() {
			switch {
			case e.health && stopped && (up || !reported):
				up, reported = false, true
				h.Down(errStopped)
			case e.health && !stopped && !up:
				up, reported = true, true
				h.Up()
			case e.lost:
				h.Lost()
			case e.record != nil:
				h.Record(*e.record)
			case !e.health:
				h.Receive(e.payload)
			}
			select {
			case <-b.stop:
				return
			default:
			}
		}
	}
}

// wait is like Memory.wait. It returns an error after Close.
func (b *memoryBroker) wait(ctx context.Context) error {
	select {
	case <-b.stop:
		return websocket.ErrBrokerUnavailable
	default:
		return b.engine.wait(ctx)
	}
}

func (b *memoryBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	e := b.engine
	if err := b.wait(ctx); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	var err error
	for _, m := range batch {
		if tooLarge := e.tooLarge(m.Payload); tooLarge != nil {
			err = tooLarge
			continue
		}
		e.published++
		for _, to := range e.brokers {
			if !to.topics[m.Topic] {
				continue
			}
			for range 1 + map[bool]int{true: 1}[e.repeat] {
				e.delivered++
				to.push(event{payload: slices.Clone(m.Payload)})
			}
		}
	}
	return err
}

func (e *Memory) tooLarge(payload []byte) error {
	if e.maxPayload <= 0 || len(payload) <= e.maxPayload {
		return nil
	}
	return &websocket.MessageTooLargeError{Size: int64(len(payload)), Limit: int64(e.maxPayload), LimitedBy: "Broker.MaxPayload"}
}

func (b *memoryBroker) change(topics []string, on bool) {
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	for _, topic := range topics {
		if on {
			b.topics[topic] = true
		} else {
			delete(b.topics, topic)
		}
	}
}

func (b *memoryBroker) Subscribe(ctx context.Context, topics []string) error {
	err := b.engine.wait(ctx)
	b.change(topics, true)
	return err
}

func (b *memoryBroker) Unsubscribe(ctx context.Context, topics []string) error {
	err := b.engine.wait(ctx)
	b.change(topics, false)
	return err
}

func (b *memoryBroker) MaxPayload() int { return b.engine.maxPayload }

func (b *memoryBroker) Close() error {
	b.once.Do(func() { close(b.stop) })
	b.ended.Wait()
	b.engine.mu.Lock()
	defer b.engine.mu.Unlock()
	b.engine.brokers = slices.DeleteFunc(b.engine.brokers, func(other *memoryBroker) bool { return other == b })
	return nil
}
