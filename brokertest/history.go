package brokertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// kept are bounds that no test reaches.
var kept = websocket.HistoryOptions{Messages: 10_000, Age: time.Hour}

// history returns the Broker as a HistoryBroker.
func (st *recorder) history() websocket.HistoryBroker {
	st.Helper()
	h, ok := st.Broker.(websocket.HistoryBroker)
	require.True(st, ok, "the Broker is no HistoryBroker")
	return h
}

// keeper is like open. It skips the test if the engine keeps no histories: if the Broker is
// no HistoryBroker, or Read returns errors.ErrUnsupported.
func (s *suite) keeper() *recorder {
	s.Helper()
	st := s.open()
	h, ok := st.Broker.(websocket.HistoryBroker)
	if !ok {
		s.Skip("the Broker is no HistoryBroker")
	}
	if _, err := h.Read(s.context(), s.topic("supported"), 0, 1); errors.Is(err, errors.ErrUnsupported) {
		s.Skip("the engine keeps no histories: ", err)
	}
	return st
}

// record returns a record with the usual bounds.
func record(topic, payload, key string) websocket.BrokerRecord {
	return websocket.BrokerRecord{Topic: topic, Payload: []byte(payload), Key: key, Keep: kept}
}

// mustAppend appends a batch, and requires that all of its records are taken.
func (st *recorder) mustAppend(batch ...websocket.BrokerRecord) []websocket.AppendResult {
	st.Helper()
	results := st.history().Append(st.context(), batch)
	require.Len(st, results, len(batch))
	for i, r := range results {
		require.NoError(st, r.Err, "record %d", i)
		require.NotEmpty(st, r.Position.Epoch)
		require.Less(st, r.Position.Offset, uint64(1)<<53)
	}
	return results
}

// retryAppend appends one record until the engine takes it. It must have a key.
func (st *recorder) retryAppend(r websocket.BrokerRecord) websocket.AppendResult {
	st.Helper()
	var result websocket.AppendResult
	st.poll("the engine takes a record", func() bool {
		ctx, cancel := context.WithTimeout(st.context(), time.Second)
		defer cancel()
		result = st.history().Append(ctx, []websocket.BrokerRecord{r})[0]
		return result.Err == nil
	})
	return result
}

func (st *recorder) read(topic string, after uint64, limit int) websocket.BrokerPage {
	st.Helper()
	page, err := st.history().Read(st.context(), topic, after, limit)
	require.NoError(st, err)
	require.NotEmpty(st, page.Position.Epoch)
	require.LessOrEqual(st, len(page.Records), limit)
	previous := after
	for i, r := range page.Records {
		require.Greater(st, r.Position.Offset, previous)
		require.LessOrEqual(st, r.Position.Offset, page.Position.Offset)
		require.Equal(st, topic, r.Topic)
		require.GreaterOrEqual(st, r.Age, time.Duration(0))
		if i > 0 {
			require.Equal(st, previous, r.Previous)
		}
		previous = r.Position.Offset
	}
	return page
}

// readAll reads a topic page by page.
func (st *recorder) readAll(topic string, limit int) (page websocket.BrokerPage) {
	st.Helper()
	after := uint64(0)
	var all []websocket.BrokerRecord
	for {
		page = st.read(topic, after, limit)
		all = append(all, page.Records...)
		if len(page.Records) == 0 {
			page.Records = all
			return page
		}
		after = page.Records[len(page.Records)-1].Position.Offset
	}
}

// poll calls done until it reports true.
func (s *suite) poll(event string, done func() bool) {
	s.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(s.engine.Patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			require.FailNow(s.T, "timeout: waiting until "+event)
		}
	}
}

func texts(records []websocket.BrokerRecord) []string {
	list := make([]string, len(records))
	for i, r := range records {
		list[i] = string(r.Payload)
	}
	return list
}

// chained requires that records follow one another without a gap.
func (s *suite) chained(records []websocket.BrokerRecord) {
	s.Helper()
	for i := 1; i < len(records); i++ {
		before, r := records[i-1], records[i]
		require.Greater(s, r.Position.Offset, before.Position.Offset)
		require.Equal(s, before.Position.Offset, r.Previous, "record %d of %d", i, len(records))
	}
}

func (s *suite) historyOrder() {
	const rounds, batch = 20, 15
	a := s.keeper()
	b, c := s.open(), s.open()
	one, two := s.topic("one"), s.topic("two")
	for _, st := range []*recorder{a, b, c} {
		st.subscribe(one, two)
	}
	positions := map[string]websocket.AppendResult{} // by payload
	var mu sync.Mutex
	var wg sync.WaitGroup
	for name, st := range map[string]*recorder{"a": a, "b": b} {
		wg.Go(func() { // ends after the last round
			payloads := make([][]byte, batch)
			for i := range rounds {
				list := make([]websocket.BrokerRecord, batch)
				for j := range list {
					topic := one
					if j%3 == 2 {
						topic = two
					}
					payloads[j] = fmt.Appendf(payloads[j][:0], "%s %d", name, i*batch+j)
					list[j] = websocket.BrokerRecord{Topic: topic, Payload: payloads[j], Keep: kept}
				}
				for j, r := range st.history().Append(s.context(), list) {
					if r.Err != nil {
						s.Errorf("append: %v", r.Err)
					}
					mu.Lock()
					positions[string(payloads[j])] = r
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for topic, count := range map[string]int{one: 2 * rounds * batch * 2 / 3, two: 2 * rounds * batch / 3} {
		page := a.readAll(topic, 1000)
		require.Len(s, page.Records, count)
		s.chained(page.Records)
		require.Equal(s, page.Records[count-1].Position, page.Position)
		latest := map[string]int{}
		for _, r := range page.Records {
			var name string
			var i int
			_, err := fmt.Sscan(string(r.Payload), &name, &i)
			require.NoError(s, err)
			before, seen := latest[name]
			require.True(s, !seen || i > before, "a Broker's own records keep their order")
			latest[name] = i
			result := positions[string(r.Payload)]
			require.Equal(s, r.Position, result.Position)
			require.False(s, result.Repeated)
			if r.Previous > 0 && result.Previous > 0 {
				require.Equal(s, r.Previous, result.Previous)
			}
		}
		of := func(st *recorder) (list []websocket.BrokerRecord) { // st is locked
			for _, r := range st.records {
				if r.Topic == topic {
					list = append(list, r)
				}
			}
			return list
		}
		c.wait("all records", func() bool { return len(of(c)) >= count })
		c.mu.Lock()
		delivered := of(c)
		c.mu.Unlock()
		s.chained(delivered)
		require.Equal(s, texts(page.Records), texts(delivered))
		for i, r := range delivered {
			require.Equal(s, page.Records[i].Position, r.Position)
		}
		own := "b"
		for _, st := range []*recorder{b, a} {
			theirs := func() (list []string) { // st is locked
				for _, r := range of(st) {
					if !strings.HasPrefix(string(r.Payload), own) {
						list = append(list, string(r.Payload))
					}
				}
				return list
			}
			st.wait("records of the other Broker", func() bool { return len(theirs()) >= count/2 })
			var want []string
			for _, r := range page.Records {
				if !strings.HasPrefix(string(r.Payload), own) {
					want = append(want, string(r.Payload))
				}
			}
			st.mu.Lock()
			require.Equal(s, want, theirs())
			st.mu.Unlock()
			own = "a"
		}
	}
	a.publish(one, "no record")
	c.wait("payload", c.has("no record"))
	require.Equal(s, []string{"no record"}, c.received(), "records are not payloads")
	page := a.read(one, 0, 10_000)
	require.NotContains(s, texts(page.Records), "no record", "payloads are not records")
}

func (s *suite) historyKeys() {
	a := s.keeper()
	b := s.open()
	topic, other := s.topic("x"), s.topic("other")
	keys := []string{
		"k", "K", " ", "k ", "ä€😀", "{k}", "k.>", "k*", "\r\n", "k\x00", strings.Repeat("k", 512), strings.Repeat("k", 511) + "l",
	}
	var list []websocket.BrokerRecord
	for _, key := range keys {
		list = append(list, record(topic, "of "+key, key))
	}
	first := a.mustAppend(list...)
	for i, r := range first {
		require.False(s, r.Repeated, "key %q", keys[i])
	}
	for _, st := range []*recorder{a, b} {
		for i, r := range st.mustAppend(list...) {
			require.True(s, r.Repeated, "key %q", keys[i])
			require.Equal(s, first[i].Position, r.Position)
		}
	}
	require.False(s, b.mustAppend(record(other, "other", "k"))[0].Repeated, "keys belong to a topic")
	both := a.mustAppend(record(topic, "empty", ""), record(topic, "empty", ""), record(topic, "twice", "twice"), record(topic, "twice", "twice"))
	require.False(s, both[1].Repeated)
	require.True(s, both[3].Repeated, "also within a batch")
	require.Equal(s, both[2].Position, both[3].Position)

	// Two Brokers append the same records at once.
	const count = 50
	race := s.topic("race")
	var results [2][]websocket.AppendResult
	var wg sync.WaitGroup
	for i, st := range []*recorder{a, b} {
		wg.Go(func() { // ends after the last record
			for k := range count {
				results[i] = append(results[i], st.history().Append(s.context(), []websocket.BrokerRecord{record(race, fmt.Sprint(k), fmt.Sprint(k))})...)
			}
		})
	}
	wg.Wait()
	for k := range count {
		one, two := results[0][k], results[1][k]
		require.NoError(s, errors.Join(one.Err, two.Err))
		require.Equal(s, one.Position, two.Position)
		require.NotEqual(s, one.Repeated, two.Repeated, "record %d", k)
	}
	require.Len(s, a.read(race, 0, 1000).Records, count)
	require.Len(s, a.read(topic, 0, 1000).Records, len(keys)+3)
}

func (s *suite) historyBounds() {
	a := s.keeper()
	for name, keep := range map[string]websocket.HistoryOptions{
		"messages": {Messages: 5, Age: time.Hour},
		"bytes":    {Bytes: 550, Age: time.Hour},
	} {
		topic := s.topic(name)
		var offsets []uint64
		for i := range 20 {
			r := websocket.BrokerRecord{Topic: topic, Payload: fmt.Appendf(nil, "%2d%s", i, strings.Repeat("x", 98)), Keep: keep}
			offsets = append(offsets, a.mustAppend(r)[0].Position.Offset)
		}
		s.poll("the oldest records are removed", func() bool { return len(a.read(topic, 0, 100).Records) == 5 })
		page := a.read(topic, 0, 100)
		for i, r := range page.Records {
			require.Equal(s, offsets[15+i], r.Position.Offset)
		}
		require.GreaterOrEqual(s, page.Removed, offsets[14])
		require.Less(s, page.Removed, offsets[15])
		require.Equal(s, offsets[19], page.Position.Offset)
		// The bounds of the latest append count.
		last := a.mustAppend(websocket.BrokerRecord{Topic: topic, Payload: []byte("last"), Keep: websocket.HistoryOptions{Messages: 1, Age: time.Hour}})
		s.poll("only one record is left", func() bool { return len(a.read(topic, 0, 100).Records) == 1 })
		page = a.read(topic, 0, 100)
		require.Equal(s, last[0].Position, page.Records[0].Position)
		require.GreaterOrEqual(s, page.Removed, offsets[19])
	}
}

func (s *suite) historyAge() {
	a := s.keeper()
	topic := s.topic("x")
	keep := websocket.HistoryOptions{Age: 2 * time.Second}
	first := a.mustAppend(websocket.BrokerRecord{Topic: topic, Payload: []byte("first"), Keep: keep})[0].Position
	s.poll("half of the age has passed", func() bool {
		page := a.read(topic, 0, 10)
		return len(page.Records) == 0 || page.Records[0].Age >= keep.Age/2
	})
	second := a.mustAppend(websocket.BrokerRecord{Topic: topic, Payload: []byte("second"), Keep: keep})[0].Position
	require.Greater(s, second.Offset, first.Offset)
	s.poll("the first record is removed", func() bool {
		page := a.read(topic, 0, 10)
		return len(page.Records) == 0 || page.Records[0].Position.Offset > first.Offset
	})
	if page := a.read(topic, 0, 10); page.Position.Epoch == second.Epoch && len(page.Records) > 0 {
		require.Equal(s, []string{"second"}, texts(page.Records))
		require.GreaterOrEqual(s, page.Removed, first.Offset)
	}
	s.poll("the topic is forgotten", func() bool { // an engine that goes on with the offsets may keep the epoch
		page := a.read(topic, 0, 10)
		return page.Position.Epoch != second.Epoch || len(page.Records) == 0 && page.Removed >= second.Offset
	})
	page := a.read(topic, 0, 10)
	require.Empty(s, page.Records)
	third := a.mustAppend(record(topic, "third", ""))[0].Position
	require.Equal(s, page.Position.Epoch, third.Epoch)
	require.Greater(s, third.Offset, second.Offset, "offsets grow from one epoch to the next")
}

func (s *suite) historyPages() {
	a := s.keeper()
	b := s.open()
	topic := s.topic("x")
	var list []websocket.BrokerRecord
	for i := range 50 {
		list = append(list, record(topic, fmt.Sprint(i), ""))
	}
	results := a.mustAppend(list...)
	for _, limit := range []int{1, 7, 50, 1000} {
		page := b.readAll(topic, limit)
		require.Equal(s, texts(list), texts(page.Records))
		require.Equal(s, results[49].Position, page.Position)
		require.Zero(s, page.Removed, "the topic still has all its records")
	}
	page := b.read(topic, results[19].Position.Offset, 3)
	require.Equal(s, "20", string(page.Records[0].Payload))
	require.Equal(s, results[49].Position, page.Position, "the head, whatever the page")
	require.Empty(s, b.read(topic, results[49].Position.Offset, 10).Records)
	require.Empty(s, b.read(topic, results[49].Position.Offset+5, 10).Records)
	s.poll("the age of a record grows", func() bool { return b.read(topic, 0, 1).Records[0].Age >= 5*time.Millisecond })
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	payloads := []string{"", string(all), "\r\n", strings.Repeat("x", 64<<10)}
	binary := s.topic("binary {x} *.>")
	b.subscribe(binary)
	for _, p := range payloads {
		a.mustAppend(record(binary, p, ""))
	}
	require.Equal(s, payloads, texts(b.readAll(binary, 10).Records))
	b.wait("records", func() bool { return len(b.records) == len(payloads) })
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Equal(s, payloads, texts(b.records))
	require.Equal(s, binary, b.records[0].Topic)
}

func (s *suite) historyEpochs() {
	a := s.keeper()
	b := s.open()
	topic := s.topic("x")
	empty := a.read(topic, 0, 10)
	require.Empty(s, empty.Records)
	require.Equal(s, empty.Position.Epoch, b.read(topic, 0, 10).Position.Epoch)
	require.NotEqual(s, empty.Position.Epoch, b.read(s.topic("y"), 0, 10).Position.Epoch)
	first := b.mustAppend(record(topic, "first", "key"))[0]
	require.Equal(s, empty.Position.Epoch, first.Position.Epoch, "records get the epoch of the empty topic")
	require.Greater(s, first.Position.Offset, empty.Position.Offset)
	require.Greater(s, first.Position.Offset, uint64(time.Now().Add(-24*time.Hour).UnixMilli())*1024, "clocks differ by less than a day")

	epoch := first.Position.Epoch
	var wg sync.WaitGroup
	for _, st := range []*recorder{a, b} {
		for range 3 {
			wg.Go(func() { // ends with the call
				if err := st.history().Renew(s.context(), topic, epoch); err != nil {
					s.Errorf("renew: %v", err)
				}
			})
		}
	}
	wg.Wait()
	renewed := a.read(topic, 0, 10)
	require.NotEqual(s, epoch, renewed.Position.Epoch)
	require.Equal(s, first.Position.Offset, renewed.Position.Offset)
	require.Equal(s, []string{"first"}, texts(renewed.Records))
	require.NoError(s, b.history().Renew(s.context(), topic, epoch))
	require.Equal(s, renewed.Position, b.read(topic, 0, 10).Position, "the epoch is another one already")
	second := a.mustAppend(record(topic, "second", ""))[0]
	require.Equal(s, renewed.Position.Epoch, second.Position.Epoch)
	require.Greater(s, second.Position.Offset, first.Position.Offset)
	require.True(s, a.mustAppend(record(topic, "first", "key"))[0].Repeated, "the keys stay")
	require.NoError(s, b.history().Renew(s.context(), s.topic("unknown"), "unknown"))
	require.NotEqual(s, "unknown", b.read(s.topic("unknown"), 0, 1).Position.Epoch)
}

func (s *suite) historyTooLarge() {
	a := s.keeper()
	limit := a.MaxPayload()
	if limit <= 0 || limit > 64<<20 {
		s.Skip("the engine has no limit, or one of more than 64 MiB")
	}
	topic := s.topic("x")
	largest, larger := strings.Repeat("x", limit), strings.Repeat("x", limit+1)
	results := a.history().Append(s.context(), []websocket.BrokerRecord{
		record(topic, "before", ""), record(topic, larger, "key"), record(topic, largest, ""), record(topic, "after", "key"),
	})
	require.ErrorIs(s, results[1].Err, websocket.ErrMessageTooLarge)
	require.NoError(s, errors.Join(results[0].Err, results[2].Err, results[3].Err))
	page := a.readAll(topic, 10)
	require.Len(s, page.Records, 3)
	require.Equal(s, largest, string(page.Records[1].Payload))
	require.Equal(s, "after", string(page.Records[2].Payload))
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Equal(s, 1, a.ups, "an oversized record does not break the connection")
}

func (s *suite) historyOutage() {
	a := s.keeper()
	b := s.open()
	topic := s.topic("x")
	b.subscribe(topic)
	s.sync(a, b, topic)
	before := a.mustAppend(record(topic, "before", "before"))[0]
	start := s.down()
	a.wait("Down", func() bool { return !a.up })
	b.wait("Down", func() bool { return !b.up })
	begun := time.Now()
	for _, r := range a.history().Append(s.context(), []websocket.BrokerRecord{record(topic, "lost", ""), record(topic, "retried", "retried")}) {
		require.ErrorIs(s, r.Err, websocket.ErrBrokerUnavailable)
	}
	_, err := a.history().Read(s.context(), topic, 0, 10)
	require.Error(s, err)
	require.Error(s, a.history().Renew(s.context(), topic, before.Position.Epoch))
	require.Less(s, time.Since(begun), s.engine.Patience/2, "calls return at once during an outage")
	start()
	a.wait("Up", func() bool { return a.up })
	b.wait("Up", func() bool { return b.up })
	retried := a.retryAppend(record(topic, "retried", "retried"))
	require.Greater(s, retried.Position.Offset, before.Position.Offset, "no offset is given twice")
	b.wait("a record after the outage", func() bool {
		return len(b.records) > 0 && string(b.records[len(b.records)-1].Payload) == "retried"
	})
	page := b.readAll(topic, 10)
	require.NotContains(s, texts(page.Records), "lost")
	require.Equal(s, retried.Position, page.Position)
	if s.engine.Durable {
		require.Equal(s, []string{"before", "retried"}, texts(page.Records))
		require.Equal(s, before.Position.Epoch, page.Position.Epoch)
		again := b.mustAppend(record(topic, "before", "before"))[0]
		require.True(s, again.Repeated)
		require.Equal(s, before.Position, again.Position)
	}
}

// historyRetries pauses the engine during appends whose outcome is then unknown, and
// retries them with both Brokers.
func (s *suite) historyRetries() {
	a := s.keeper()
	b := s.open()
	topic := s.topic("x")
	a.mustAppend(record(topic, "before", ""))
	s.engine.Pause()
	var once sync.Once
	resume := func() { once.Do(s.engine.Resume) }
	s.Cleanup(resume)
	const count = 3
	for i := range count {
		ctx, cancel := context.WithTimeout(s.context(), 300*time.Millisecond)
		begun := time.Now()
		result := a.history().Append(ctx, []websocket.BrokerRecord{record(topic, fmt.Sprint(i), fmt.Sprint(i))})[0]
		cancel()
		require.Error(s, result.Err, "a stalled engine takes nothing")
		require.NotErrorIs(s, result.Err, websocket.ErrMessageTooLarge)
		require.Less(s, time.Since(begun), s.engine.Patience/2)
	}
	resume()
	positions := map[websocket.Position]bool{}
	for i := range count {
		r := record(topic, fmt.Sprint(i), fmt.Sprint(i))
		one, two := b.retryAppend(r), a.retryAppend(r)
		require.Equal(s, one.Position, two.Position)
		require.True(s, two.Repeated)
		positions[one.Position] = true
	}
	require.Len(s, positions, count)
	require.Len(s, a.readAll(topic, 100).Records, 1+count)
}

func (s *suite) historyClose() {
	a := s.keeper()
	b := s.open()
	topic := s.topic("x")
	a.subscribe(topic)
	require.NoError(s, a.Close())
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	b.mustAppend(record(topic, "after", ""))
	require.Error(s, a.history().Append(s.context(), []websocket.BrokerRecord{record(topic, "x", "")})[0].Err)
	require.Empty(s, a.history().Append(s.context(), nil))
	_, _ = a.history().Read(s.context(), topic, 0, 1) // must not block
	_ = a.history().Renew(s.context(), topic, "x")
	require.Equal(s, []string{"after"}, texts(b.readAll(topic, 10).Records))
	require.NoError(s, b.Close())
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Zero(s, a.late, "the handler is not called after Close")
}
