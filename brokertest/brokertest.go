// Package brokertest tests implementations of websocket.Broker against the contract
// documented there. It also has an engine in memory, Memory, for tests of hubs that
// share an engine.
//
//	func TestBroker(t *testing.T) {
//		brokertest.Run(t, brokertest.Engine{Broker: func() websocket.Broker { return mine.New(url) }})
//	}
package brokertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// Engine is the engine under test. All tests of the suite share it; each uses
// topics of its own.
type Engine struct {
	// Broker returns a new, unopened Broker of the engine.
	Broker func() websocket.Broker
	// Stop ends the engine, and Start starts it again at the same address. If
	// they are nil, the tests of outages are skipped.
	Stop, Start func()
	// Durable says that the engine keeps all records it has acknowledged over Stop and
	// Start.
	Durable bool
	// Pause makes the engine stall without ending its connections, and Resume
	// ends that. If they are nil, the tests of stalls are skipped.
	Pause, Resume func()
	// Upset causes a failure that the engine recovers from by itself, such as the
	// loss of one of several servers. RunHubs calls it twice if it is not nil.
	Upset func()
	// Patience is how long a test waits for an event before it fails. Defaults to
	// 20 s in Run and 30 s in RunHubs and RunTraffic.
	Patience time.Duration
}

// Run tests the engine's Broker against the contract. Each part is a subtest of t. The
// parts whose names begin with History are skipped if the Broker is no
// websocket.HistoryBroker, or if Read returns errors.ErrUnsupported.
func Run(t *testing.T, engine Engine) {
	if engine.Patience == 0 {
		engine.Patience = 20 * time.Second
	}
	for _, tt := range []struct {
		name string
		test func(*suite)
		runs bool
	}{
		{"Delivery", (*suite).delivery, true},
		{"Names", (*suite).names, true},
		{"Payloads", (*suite).payloads, true},
		{"Order", (*suite).order, true},
		{"Subscriptions", (*suite).subscriptions, true},
		{"SlowReceiver", (*suite).slowReceiver, true},
		{"Close", (*suite).close, true},
		{"Outage", (*suite).outage, engine.Stop != nil},
		{"StartWithout", (*suite).startWithout, engine.Stop != nil},
		{"CloseWhileDown", (*suite).closeWhileDown, engine.Stop != nil},
		{"NothingGrowsWhileDown", (*suite).nothingGrows, engine.Stop != nil},
		{"Pause", (*suite).pause, engine.Pause != nil},
		{"HistoryOrder", (*suite).historyOrder, true},
		{"HistoryKeys", (*suite).historyKeys, true},
		{"HistoryBounds", (*suite).historyBounds, true},
		{"HistoryAge", (*suite).historyAge, true},
		{"HistoryPages", (*suite).historyPages, true},
		{"HistoryEpochs", (*suite).historyEpochs, true},
		{"HistoryTooLarge", (*suite).historyTooLarge, true},
		{"HistoryClose", (*suite).historyClose, true},
		{"HistoryOutage", (*suite).historyOutage, engine.Stop != nil},
		{"HistoryRetries", (*suite).historyRetries, engine.Pause != nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.runs {
				t.Skip("the Engine has no functions for this failure")
			}
			tt.test(&suite{T: t, engine: engine, mark: fmt.Sprintf("%s-%08x", t.Name(), rand.Uint32())})
		})
	}
}

type suite struct {
	*testing.T
	engine Engine
	mark   string // makes the topics of this test unique
}

// topic returns a topic that no other test uses.
func (s *suite) topic(name string) string { return "c." + s.mark + " " + name }

func (s *suite) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), s.engine.Patience)
	s.Cleanup(cancel)
	return ctx
}

// open returns a Broker that is up.
func (s *suite) open() *recorder {
	s.Helper()
	st := s.openAny()
	st.wait("Up", func() bool { return st.up })
	return st
}

// openAny returns an open Broker in any state.
func (s *suite) openAny() *recorder {
	s.Helper()
	st := &recorder{suite: s, Broker: s.engine.Broker(), change: make(chan struct{})}
	require.NoError(s, st.Open(st))
	s.Cleanup(func() { _ = st.Close() })
	return st
}

// recorder is a Broker and its handler, which records all calls.
type recorder struct {
	*suite
	websocket.Broker

	mu       sync.Mutex
	change   chan struct{} // closed at the next change
	payloads []string
	records  []websocket.BrokerRecord
	up       bool
	ups      int
	downs    int
	losses   int
	closed   bool
	late     int           // calls of the handler after Close
	hold     chan struct{} // if not nil, Receive blocks until it is closed
}

// record runs f under the lock and signals the change.
func (st *recorder) record(f func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed {
		st.late++
	}
	f()
	close(st.change)
	st.change = make(chan struct{})
}

func (st *recorder) Receive(payload []byte) {
	st.mu.Lock()
	hold := st.hold
	st.mu.Unlock()
	if hold != nil {
		<-hold
	}
	st.record(func() { st.payloads = append(st.payloads, string(payload)) })
}

func (st *recorder) Record(r websocket.BrokerRecord) {
	r.Payload = slices.Clone(r.Payload)
	st.record(func() { st.records = append(st.records, r) })
}

func (st *recorder) Up() {
	st.record(func() {
		if st.up {
			st.Errorf("Up twice without Down")
		}
		st.up = true
		st.ups++
	})
}

func (st *recorder) Down(err error) {
	st.record(func() {
		if !st.up && st.downs > 0 {
			st.Errorf("Down twice without Up: %v", err)
		}
		if err == nil {
			st.Errorf("Down without a reason")
		}
		st.up = false
		st.downs++
	})
}

func (st *recorder) Lost(...string) { st.record(func() { st.losses++ }) }

// wait waits until done reports true. It calls done after each call of the handler,
// with the lock held. event names the awaited event in the failure message.
func (st *recorder) wait(event string, done func() bool) {
	st.Helper()
	timeout := time.NewTimer(st.engine.Patience)
	defer timeout.Stop()
	for {
		st.mu.Lock()
		ok, change := done(), st.change
		st.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-timeout.C:
			st.mu.Lock()
			defer st.mu.Unlock()
			require.FailNow(st.T, "timeout: waiting for "+event, "up %v, %d calls of Up, %d payloads, the latest %q", st.up, st.ups, len(st.payloads), last(st.payloads))
		}
	}
}

func last(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1][:min(len(list[len(list)-1]), 40)]
}

func (st *recorder) received() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	return append([]string(nil), st.payloads...)
}

func (st *recorder) publish(topic string, payloads ...string) {
	st.Helper()
	require.NoError(st, st.tryPublish(st.context(), topic, payloads...))
}

func (st *recorder) tryPublish(ctx context.Context, topic string, payloads ...string) error {
	batch := make([]websocket.BrokerMessage, len(payloads))
	for i, payload := range payloads {
		batch[i] = websocket.BrokerMessage{Topic: topic, Payload: []byte(payload)}
	}
	return st.Publish(ctx, batch)
}

func (st *recorder) subscribe(topics ...string) {
	st.Helper()
	require.NoError(st, st.Subscribe(st.context(), topics))
}

func (st *recorder) has(payload string) func() bool {
	return func() bool { return slices.Contains(st.payloads, payload) }
}

// sync waits until all earlier publications of a have arrived at b, which must be
// subscribed to topic.
func (s *suite) sync(a, b *recorder, topic string) {
	s.Helper()
	mark := fmt.Sprintf("mark %08x", rand.Uint32())
	a.publish(topic, mark)
	b.wait(mark, b.has(mark))
}

func (s *suite) delivery() {
	a, b, c := s.open(), s.open(), s.open()
	one, two := s.topic("one"), s.topic("two")
	b.subscribe(one)
	c.subscribe(one, two)
	a.publish(one, "to one")
	a.publish(two, "to two")
	a.publish(s.topic("three"), "to nobody")
	b.publish(two, "from b")
	b.wait("a payload", b.has("to one"))
	c.wait("payloads", func() bool { return len(c.payloads) >= 3 })
	s.sync(a, b, one)
	require.NotContains(s, b.received(), "to two")
	require.ElementsMatch(s, []string{"to one", "to two", "from b"}, c.received()[:3])
	require.NotContains(s, c.received(), "to nobody")
	require.Empty(s, a.received())
}

func (s *suite) names() {
	a, b := s.open(), s.open()
	topics := []string{
		"b", "c.", "c.*", "c.>", "c.a b", "c.a.b", "c.a..b", "c..", "c.ä€😀", "c.{x}", "c.}{", "c.?", "c.[a]", "c.$SYS",
		"c.A", "c.a", "c.a\\b", "c./", "c.%20", "c.\x7f", "c." + strings.Repeat("x", 500), "r.a", "u.a",
	}
	for i := range topics {
		topics[i] += s.mark[len(s.mark)-8:]
		b.subscribe(topics[i])
	}
	for i, topic := range topics {
		a.publish(topic, fmt.Sprint(i))
	}
	b.wait("all names", func() bool { return len(b.payloads) >= len(topics) })
	s.sync(a, b, topics[0])
	seen := map[string]int{}
	for _, p := range b.received()[:len(topics)] {
		seen[p]++
	}
	for i, topic := range topics {
		require.Equal(s, 1, seen[fmt.Sprint(i)], "topic %q", topic)
	}
}

func (s *suite) payloads() {
	a, b := s.open(), s.open()
	topic := s.topic("x")
	b.subscribe(topic)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	payloads := []string{"x", string(all), "\r\n", "+OK\r\n", strings.Repeat("x", 64<<10)}
	if limit := a.MaxPayload(); limit > 0 {
		require.GreaterOrEqual(s, limit, 64<<10)
		payloads = append(payloads, strings.Repeat("y", limit))
		err := a.tryPublish(s.context(), topic, strings.Repeat("z", limit+1))
		require.ErrorIs(s, err, websocket.ErrMessageTooLarge)
	}
	a.publish(topic, payloads...)
	b.wait("all payloads", func() bool { return len(b.payloads) >= len(payloads) })
	for i, p := range b.received() {
		if p != payloads[i] {
			require.FailNow(s, "payload differs", "%d of %d bytes", i, len(p))
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Equal(s, 1, a.ups, "an oversized payload does not break the connection")
}

func (s *suite) order() {
	const publishers, topics, rounds, batch = 3, 4, 40, 25
	b := s.open()
	for i := range topics {
		b.subscribe(s.topic(fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for p := range publishers {
		a := s.open()
		wg.Go(func() { // ends after the last round
			for i := range rounds {
				var list []websocket.BrokerMessage
				for j := range batch {
					topic := (i + j) % topics
					list = append(list, websocket.BrokerMessage{
						Topic: s.topic(fmt.Sprint(topic)), Payload: []byte(fmt.Sprintf("%d %d %d", p, topic, i*batch+j)),
					})
				}
				if err := a.Publish(s.context(), list); err != nil {
					s.Errorf("publish: %v", err)
				}
			}
		})
	}
	wg.Wait()
	b.wait("all payloads", func() bool { return len(b.payloads) == publishers*rounds*batch })
	latest := map[[2]int]int{}
	for _, payload := range b.received() {
		var p, topic, i int
		_, err := fmt.Sscan(payload, &p, &topic, &i)
		require.NoError(s, err)
		key := [2]int{p, topic}
		before, seen := latest[key]
		require.True(s, !seen || i > before, "publisher %d, topic %d: %d after %d", p, topic, i, before)
		latest[key] = i
	}
}

func (s *suite) subscriptions() {
	a, b := s.open(), s.open()
	keep, drop := s.topic("keep"), s.topic("drop")
	b.subscribe(keep, drop)
	b.subscribe(keep, keep) // twice is not an error
	require.NoError(s, b.Unsubscribe(s.context(), []string{drop, s.topic("never")}))
	s.sync(b, b.other(keep), keep)
	a.publish(drop, "dropped")
	a.publish(keep, "kept")
	s.sync(a, b, keep)
	require.NotContains(s, b.received(), "dropped")
	count := 0
	for _, p := range b.received() {
		if p == "kept" {
			count++
		}
	}
	require.Equal(s, 1, count, "subscribing twice does not deliver twice")
	b.subscribe(drop)
	a.publish(drop, "again")
	b.wait("payload", b.has("again"))

	many := make([]string, 3000)
	for i := range many {
		many[i] = s.topic(fmt.Sprint("many ", i))
	}
	b.subscribe(many...)
	a.publish(many[len(many)-1], "last of many")
	b.wait("payload", b.has("last of many"))
	require.NoError(s, b.Unsubscribe(s.context(), many))
	a.publish(keep, "still there")
	b.wait("payload", b.has("still there"))
}

// other opens another Broker, subscribed to topic.
func (st *recorder) other(topic string) *recorder {
	st.Helper()
	other := st.open()
	other.subscribe(topic)
	return other
}

func (s *suite) slowReceiver() {
	a, b := s.open(), s.open()
	topic := s.topic("x")
	b.subscribe(topic)
	hold := make(chan struct{})
	b.mu.Lock()
	b.hold = hold
	b.mu.Unlock()
	const rounds, batch = 20, 50
	for i := range rounds {
		var list []string
		for j := range batch {
			list = append(list, fmt.Sprintf("%d %s", i*batch+j, strings.Repeat("x", 1000)))
		}
		a.publish(topic, list...)
	}
	b.mu.Lock()
	b.hold = nil
	close(hold)
	b.mu.Unlock()
	b.wait("all payloads, or a report of a loss", func() bool { return len(b.payloads) == rounds*batch || b.losses+b.downs > 0 })
}

func (s *suite) close() {
	before := runtime.NumGoroutine()
	a, b := s.open(), s.open()
	topic := s.topic("x")
	b.subscribe(topic)
	a.publish(topic, "1")
	b.wait("payload", b.has("1"))
	b.mu.Lock()
	b.hold = make(chan struct{})
	hold := b.hold
	b.mu.Unlock()
	a.publish(topic, "2", "3", "4")
	time.AfterFunc(50*time.Millisecond, func() { close(hold) })
	require.NoError(s, b.Close())
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	require.NoError(s, b.Close(), "a second time")
	require.Error(s, b.tryPublish(s.context(), topic, "5"))
	_ = b.Subscribe(s.context(), []string{topic}) // must not block
	a.publish(topic, "6")
	require.NoError(s, a.Close())
	s.waitGoroutines(before)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Zero(s, b.late, "the handler is not called after Close")
}

// waitGoroutines waits until at most limit goroutines are running.
func (s *suite) waitGoroutines(limit int) {
	s.Helper()
	deadline := time.Now().Add(s.engine.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > limit {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			require.FailNow(s.T, "goroutines have leaked", "%d, want at most %d\n%s", runtime.NumGoroutine(), limit, stacks[:runtime.Stack(stacks, true)])
		}
		<-tick.C
	}
}

// down stops the engine. The returned function starts it again; the end of the test
// does so if the test has not.
func (s *suite) down() (start func()) {
	s.engine.Stop()
	var once sync.Once
	start = func() { once.Do(s.engine.Start) }
	s.Cleanup(start)
	return start
}

func (s *suite) outage() {
	a, b := s.open(), s.open()
	before, during, gone := s.topic("before"), s.topic("during"), s.topic("gone")
	b.subscribe(before, gone)
	s.sync(a, b, before)
	for round := 1; round <= 2; round++ {
		start := s.down()
		a.wait("Down", func() bool { return !a.up })
		b.wait("Down", func() bool { return !b.up })
		begun := time.Now()
		err := a.tryPublish(s.context(), before, "lost")
		require.ErrorIs(s, err, websocket.ErrBrokerUnavailable)
		_ = b.Subscribe(s.context(), []string{during})
		_ = b.Unsubscribe(s.context(), []string{gone})
		require.Less(s, time.Since(begun), s.engine.Patience/2, "calls return at once during an outage")
		start()
		a.wait("Up", func() bool { return a.up })
		b.wait("Up", func() bool { return b.up })
		a.publish(gone, fmt.Sprint("gone ", round))
		a.publish(before, fmt.Sprint("before ", round))
		a.publish(during, fmt.Sprint("during ", round))
		b.wait("payload", b.has(fmt.Sprint("before ", round)))
		b.wait("payload", b.has(fmt.Sprint("during ", round)))
		require.NotContains(s, b.received(), fmt.Sprint("gone ", round))
		require.NotContains(s, b.received(), "lost", "payloads must not be stored during an outage")
	}
}

func (s *suite) startWithout() {
	start := s.down()
	a := s.openAny()
	a.wait("Down", func() bool { return a.downs == 1 })
	topic := s.topic("x")
	_ = a.Subscribe(s.context(), []string{topic})
	start()
	a.wait("Up", func() bool { return a.up })
	s.open().publish(topic, "hello")
	a.wait("payload", a.has("hello"))
}

func (s *suite) closeWhileDown() {
	before := runtime.NumGoroutine()
	a := s.open()
	start := s.down()
	a.wait("Down", func() bool { return !a.up })
	b := s.openAny()
	begun := time.Now()
	require.NoError(s, a.Close())
	require.NoError(s, b.Close())
	require.Less(s, time.Since(begun), s.engine.Patience/2)
	start()
	s.waitGoroutines(before)
}

func (s *suite) nothingGrows() {
	a := s.open()
	topics := make([]string, 200)
	for i := range topics {
		topics[i] = s.topic(fmt.Sprint(i))
	}
	a.subscribe(topics...)
	before := runtime.NumGoroutine()
	s.down()
	a.wait("Down", func() bool { return !a.up })
	var memory [2]runtime.MemStats
	payload := strings.Repeat("x", 1000)
	ctx := s.context()
	burst := func(n int) {
		for range n {
			err := a.tryPublish(ctx, topics[0], payload)
			require.ErrorIs(s, err, websocket.ErrBrokerUnavailable)
		}
		_ = a.Subscribe(s.context(), topics[:10])
		runtime.GC()
	}
	burst(100)
	runtime.ReadMemStats(&memory[0])
	burst(20_000)
	runtime.ReadMemStats(&memory[1])
	require.Less(s, int64(memory[1].HeapAlloc)-int64(memory[0].HeapAlloc), int64(4<<20), "20 MB were published during the outage, none of it may be kept")
	s.waitGoroutines(before + 4)
}

func (s *suite) pause() {
	a, b := s.open(), s.open()
	topic := s.topic("x")
	b.subscribe(topic)
	s.sync(a, b, topic)
	s.engine.Pause()
	var once sync.Once
	resume := func() { once.Do(s.engine.Resume) }
	s.Cleanup(resume)
	for range 3 {
		ctx, cancel := context.WithTimeout(s.context(), 500*time.Millisecond)
		begun := time.Now()
		err := a.tryPublish(ctx, topic, "paused")
		cancel()
		require.Error(s, err, "a stalled engine takes nothing")
		require.NotErrorIs(s, err, websocket.ErrMessageTooLarge)
		require.Less(s, time.Since(begun), s.engine.Patience/2)
	}
	resume()
	deadline := time.Now().Add(s.engine.Patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ { // Publish may fail at first: Down and Up may be called in between
		ctx, cancel := context.WithTimeout(s.context(), time.Second)
		err := a.tryPublish(ctx, topic, fmt.Sprint("resumed ", i))
		cancel()
		b.mu.Lock()
		arrived := false
		for j := 0; j <= i && !arrived; j++ { // delivery takes time, so an earlier payload counts too
			arrived = b.has(fmt.Sprint("resumed ", j))()
		}
		b.mu.Unlock()
		if arrived {
			return
		}
		require.False(s, time.Now().After(deadline), "no payload arrives after the pause: %v", err)
		<-tick.C
	}
}
