package redis_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// jump is the least distance of offsets after a restart or a failover.
const jump = 1 << 20

// history is an open Broker. Its methods fail the test on errors.
type history struct {
	*recorder
	websocket.HistoryBroker
}

func keep(t testing.TB, b websocket.Broker) history {
	t.Helper()
	h := history{listen(t, b), b.(websocket.HistoryBroker)}
	require.NoError(t, h.next())
	return h
}

func entry(topic, payload string) websocket.BrokerRecord {
	return websocket.BrokerRecord{Topic: topic, Payload: []byte(payload), Keep: websocket.HistoryOptions{Messages: 10_000, Age: time.Hour}}
}

func (h history) append(batch ...websocket.BrokerRecord) []websocket.AppendResult {
	h.t.Helper()
	results := h.Append(h.t.Context(), batch)
	for _, r := range results {
		require.NoError(h.t, r.Err)
	}
	return results
}

// read reads a topic page by page.
func (h history) read(topic string) websocket.BrokerPage {
	h.t.Helper()
	var all []websocket.BrokerRecord
	for after := uint64(0); ; after = all[len(all)-1].Position.Offset {
		page, err := h.Read(h.t.Context(), topic, after, 1000)
		require.NoError(h.t, err)
		all = append(all, page.Records...)
		if len(page.Records) == 0 {
			page.Records = all
			return page
		}
	}
}

func texts(page websocket.BrokerPage) (list []string) {
	for _, r := range page.Records {
		list = append(list, string(r.Payload))
	}
	return list
}

// durable are the arguments of a server that loses nothing.
var durable = []string{"--appendonly", "yes", "--appendfsync", "always"}

func TestContractOfDurableServer(t *testing.T) {
	onOne(t, func(t *testing.T, server string) {
		faults := startEngine(t, server, durable...).faults()
		faults.Durable = true
		brokertest.Run(t, faults)
	})
}

// TestRestart kills a server that keeps its records.
func TestRestart(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server, durable...)
		a := keep(t, e.broker())
		before := a.append(entry("c.x", "1"), entry("c.x", "2"))[1]
		e.stop()
		require.Error(t, a.next())
		e.start()
		require.NoError(t, a.next())
		after := a.append(entry("c.x", "3"), entry("c.x", "4"))
		require.Equal(t, before.Position.Epoch, after[0].Position.Epoch)
		require.GreaterOrEqual(t, after[0].Position.Offset, before.Position.Offset+jump)
		require.Equal(t, before.Position.Offset, after[0].Previous)
		require.Equal(t, after[0].Position.Offset+1, after[1].Position.Offset)
		require.Equal(t, after[1].Position.Offset+1, a.append(entry("c.x", "5"))[0].Position.Offset)
		require.Equal(t, []string{"1", "2", "3", "4", "5"}, texts(a.read("c.x")))
	})
}

// switching is a dialer for the connections of a Broker: they go to one server until the
// test names another.
type switching struct{ target atomic.Pointer[engine] }

func (s *switching) broker() websocket.Broker {
	return open(goredis.UniversalOptions{
		Addrs: []string{"server"},
		Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.target.Load().addr())
		},
	})
}

// promote makes a replica the master, and the master its replica.
func (s *switching) promote(t *testing.T, h history, from, to *engine) {
	t.Helper()
	ctx := context.Background()
	require.NoError(t, to.client.ReplicaOf(ctx, "NO", "ONE").Err())
	s.target.Store(to)
	require.NoError(t, from.client.ReplicaOf(ctx, "127.0.0.1", fmt.Sprint(to.port)).Err())
	from.inSync()
	for _, kind := range []string{"normal", "pubsub"} {
		_ = from.client.ClientKillByFilter(ctx, "TYPE", kind, "SKIPME", "yes").Err()
	}
	require.Error(t, h.next())
	require.NoError(t, h.next())
}

// TestFailoverLosesRecords has a replica become the master that has not got the latest
// records. Their offsets must not be given again, also if there is a second failover before
// the next append.
func TestFailoverLosesRecords(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		for _, failovers := range []int{1, 2} {
			t.Run(fmt.Sprint(failovers), func(t *testing.T) {
				one := startEngine(t, server)
				two := startEngine(t, server, replicaOf(one)...)
				two.inSync()
				var link switching
				link.target.Store(one)
				a := keep(t, link.broker())
				before := a.append(entry("c.x", "kept"))[0]
				one.replicated()
				require.NoError(t, two.client.ReplicaOf(context.Background(), "NO", "ONE").Err())
				lost := a.append(entry("c.x", "lost"), entry("c.x", "lost"))[1]
				link.promote(t, a, one, two)
				if failovers == 2 {
					link.promote(t, a, two, one)
				}
				page := a.read("c.x")
				require.Equal(t, []string{"kept"}, texts(page))
				require.Equal(t, before.Position, page.Position, "the head falls behind")
				after := a.append(entry("c.x", "after"))[0]
				require.Greater(t, after.Position.Offset, lost.Position.Offset)
				require.Equal(t, before.Position.Offset, after.Previous)
				require.Equal(t, []string{"kept", "after"}, texts(a.read("c.x")))
			})
		}
	})
}

// keys returns all keys of a server.
func (e *engine) keys() []string {
	e.t.Helper()
	keys, err := e.client.Keys(context.Background(), "*").Result()
	require.NoError(e.t, err)
	return keys
}

func TestEveryKeyExpires(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		a := keep(t, e.broker())
		seen := map[string]bool{}
		check := func() {
			for _, key := range e.keys() {
				seen[strings.SplitAfterN(key, ":", 2)[1][:1]] = true
				ttl, err := e.client.PTTL(context.Background(), key).Result()
				require.NoError(t, err)
				require.NotEqual(t, time.Duration(-1), ttl, "key %q lives for ever", key)
				require.LessOrEqual(t, ttl, 28*time.Hour) // a stream may outlive its topic by an eighth
			}
		}
		for i, options := range []websocket.HistoryOptions{
			{Messages: 3}, {Bytes: 10}, {Bytes: 1}, {Age: time.Minute}, {Age: time.Nanosecond}, {Messages: 3, Bytes: 4, Age: time.Hour}, {},
		} {
			topic := fmt.Sprint("c.", i)
			_ = a.read("r." + topic)
			check()
			for j := range 5 {
				r := websocket.BrokerRecord{Topic: topic, Payload: []byte("xxx"), Key: fmt.Sprint("k", j/2), Keep: options}
				result := a.append(r)[0]
				check()
				require.NoError(t, a.Renew(t.Context(), topic, result.Position.Epoch))
				check()
				_ = a.read(topic)
				check()
			}
		}
		require.Equal(t, map[string]bool{"h": true, "s": true, "k": true}, seen)

		for _, age := range []time.Duration{time.Minute, 2 * time.Hour} {
			a.append(websocket.BrokerRecord{Topic: "c.longer", Payload: []byte("x"), Keep: websocket.HistoryOptions{Age: age}})
		}
		require.Greater(t, e.client.PTTL(t.Context(), "hub:sc.longer").Val(), time.Hour, "the age of the latest append counts")
	})
}

// TestEvictedKeys removes keys, as a server without memory does.
func TestEvictedKeys(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		a := keep(t, e.broker())
		r := entry("c.x", "1")
		r.Key = "key"
		first := a.append(r)[0]
		require.NoError(t, e.client.Del(t.Context(), "hub:sc.x").Err())
		page := a.read("c.x")
		require.Empty(t, page.Records)
		require.Equal(t, first.Position, page.Position)
		require.Equal(t, first.Position.Offset, page.Removed)
		second := a.append(r)[0]
		require.False(t, second.Repeated, "the record of the key is gone")
		require.Equal(t, first.Position.Offset+1, second.Position.Offset)
		require.Equal(t, first.Position.Offset, second.Previous)
		require.True(t, a.append(r)[0].Repeated)
		require.Positive(t, e.client.PTTL(t.Context(), "hub:sc.x").Val())

		require.NoError(t, e.client.Del(t.Context(), "hub:hc.x").Err())
		page = a.read("c.x")
		require.Empty(t, page.Records)
		require.NotEqual(t, second.Position.Epoch, page.Position.Epoch)
		third := a.append(r)[0]
		require.False(t, third.Repeated)
		require.Equal(t, page.Position.Epoch, third.Position.Epoch)
		require.Greater(t, third.Position.Offset, second.Position.Offset)
		require.Equal(t, []string{"1"}, texts(a.read("c.x")))
	})
}

// TestLargeBatches appends more records than one call of the script takes, also after the
// server has forgotten the script.
func TestLargeBatches(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		a, b := keep(t, e.broker()), keep(t, e.broker())
		const topics, count = 3, 1000
		for i := range topics {
			require.NoError(t, b.recorder.Subscribe(t.Context(), []string{fmt.Sprint("c.", i)}))
		}
		received := map[string][]websocket.BrokerRecord{}
		var appended []websocket.AppendResult
		for round := range 2 {
			require.NoError(t, e.client.ScriptFlush(t.Context()).Err())
			var batch []websocket.BrokerRecord
			for i := range count {
				r := entry(fmt.Sprint("c.", i%topics), fmt.Sprint(round*count+i, strings.Repeat("x", i%10*200)))
				if i%2 == 0 {
					r.Key = fmt.Sprint(round, i)
				}
				batch = append(batch, r)
			}
			appended = a.append(batch...)
			for range count {
				r := receive(t, b.records)
				received[r.Topic] = append(received[r.Topic], r)
			}
		}
		for topic, list := range received {
			page := a.read(topic)
			require.Len(t, list, len(page.Records))
			for i, r := range page.Records {
				require.Equal(t, r.Position, list[i].Position)
				require.Equal(t, string(r.Payload), string(list[i].Payload))
				var number, before int
				_, _ = fmt.Sscanf(string(r.Payload), "%d", &number)
				if i > 0 {
					_, _ = fmt.Sscanf(string(list[i-1].Payload), "%d", &before)
					require.Greater(t, number, before)
					require.Equal(t, list[i-1].Position.Offset, list[i].Previous)
				}
				if at := number - count; at >= 0 {
					require.Equal(t, appended[at].Position, r.Position)
				}
			}
		}
		// Smaller bounds remove about 1,000 records at a time.
		small := websocket.BrokerRecord{Topic: "c.0", Payload: []byte("small"), Keep: websocket.HistoryOptions{Bytes: 10, Age: time.Hour}}
		for range 3 {
			a.append(small)
		}
		require.Equal(t, []string{"small", "small"}, texts(a.read("c.0")))
	})
}

// TestReadRemoves reads a topic that exceeds its bytes by less than append removes at once.
func TestReadRemoves(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		a := keep(t, startEngine(t, server).broker())
		for range 17 {
			a.append(websocket.BrokerRecord{Topic: "c.x", Payload: []byte("0123456789"), Keep: websocket.HistoryOptions{Bytes: 160}})
		}
		require.Len(t, a.read("c.x").Records, 16)
	})
}

// TestFailingTopic appends to a topic whose keys another program has made.
func TestFailingTopic(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		a := keep(t, e.broker())
		a.append(entry("c.bad", "1"))
		require.NoError(t, e.client.Del(t.Context(), "hub:sc.bad").Err())
		require.NoError(t, e.client.Set(t.Context(), "hub:sc.bad", "x", 0).Err())
		bad := entry("c.bad", "2")
		bad.Key = "key"
		results := a.Append(t.Context(), []websocket.BrokerRecord{entry("c.good", "1"), bad, bad, entry("c.good", "2")})
		require.NoError(t, results[0].Err)
		require.NoError(t, results[3].Err)
		for _, r := range results[1:3] {
			require.ErrorIs(t, r.Err, websocket.ErrBrokerUnavailable)
			require.ErrorContains(t, r.Err, "WRONGTYPE")
		}
		require.Equal(t, []string{"1", "2"}, texts(a.read("c.good")))
		require.NoError(t, e.client.Del(t.Context(), "hub:sc.bad").Err())
		require.False(t, a.append(bad)[0].Repeated)
	})
}

// TestMarkedPayloads publishes payloads that begin as messages with records do.
func TestMarkedPayloads(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		a := keep(t, e.broker())
		require.NoError(t, a.recorder.Subscribe(t.Context(), []string{"c.x"}))
		for _, payload := range []string{"\xfe", "\xfe\x00", "\xfe\x01", "\xfe\xfe\x00x", "\xff"} {
			require.NoError(t, a.recorder.Publish(t.Context(), []websocket.BrokerMessage{{Topic: "c.x", Payload: []byte(payload)}}))
			require.Equal(t, payload, receive(t, a.payloads))
		}
		for _, message := range []string{"\xfe\x02", "\xfe\x01x"} {
			require.NoError(t, e.client.Publish(t.Context(), "hub:c.x", message).Err())
			require.Equal(t, []string{"c.x"}, receive(t, a.losses))
		}
	})
}

func FuzzDecodeRecords(f *testing.F) {
	head := append([]byte{0xfe, 1}, make([]byte, 16)...)
	f.Add([]byte{})
	f.Add(append(slices.Clone(head), "epoch\x00\x00\x00\x00\x01x\x00\x00\x00\x00"...))
	f.Add(append(slices.Clone(head), "epoch\x00\xff\xff\xff\xffx"...))
	f.Fuzz(func(t *testing.T, message []byte) {
		records, ok := redis.DecodeRecords("c.x", message)
		size := 0
		for i, r := range records {
			size += 4 + len(r.Payload)
			if i > 0 && r.Previous != records[i-1].Position.Offset {
				t.Fatal("records do not follow one another")
			}
		}
		if size > len(message) || ok && len(records) > 0 && size+19+len(records[0].Position.Epoch) != len(message) {
			t.Fatalf("%d bytes of records in %d", size, len(message))
		}
		if ok && records != nil && records[0].Previous != binary.BigEndian.Uint64(message[2:]) {
			t.Fatal("another offset before the first record")
		}
	})
}

// slotOf returns the slot of a key or channel.
func (c *cluster) slotOf(key string) int {
	slot, err := c.engines[0].client.ClusterKeySlot(context.Background(), key).Result()
	require.NoError(c.t, err)
	return int(slot)
}

// TestKeysOfCluster moves a slot with histories to another server while two Brokers append.
func TestKeysOfCluster(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		c := startCluster(t, server, 10*time.Second)
		a, b := keep(t, c.broker()), keep(t, c.broker())
		all := map[int]bool{}
		for i := range 100 {
			r := entry(fmt.Sprint("c.", i), "x")
			r.Key = "key"
			a.append(r)
		}
		for _, e := range c.engines {
			for _, key := range e.keys() {
				all[c.slotOf(key)] = true
			}
		}
		require.Len(t, all, 16, "one slot for each bucket")

		topic := "c.0"
		prefix := ""
		for _, e := range c.engines {
			for _, key := range e.keys() {
				if strings.HasSuffix(key, "}s"+topic) {
					prefix = strings.TrimSuffix(key, "s"+topic)
				}
			}
		}
		slot := c.slotOf(prefix + topic)
		for _, kind := range []string{"h", "s", "k"} {
			require.Equal(t, slot, c.slotOf(prefix+kind+topic))
		}
		var stop atomic.Bool
		var wg sync.WaitGroup
		var mu sync.Mutex
		acknowledged := map[uint64]string{}
		for name, h := range map[string]history{"a": a, "b": b} {
			wg.Go(func() { // ends with stop
				for i := 0; !stop.Load(); i++ {
					r := entry(topic, fmt.Sprint(name, i))
					r.Key = string(r.Payload)
					for !stop.Load() { // retries with the same key
						result := h.Append(context.Background(), []websocket.BrokerRecord{r})[0]
						if result.Err == nil {
							mu.Lock()
							acknowledged[result.Position.Offset] = string(r.Payload)
							mu.Unlock()
							break
						}
					}
				}
			})
		}
		more := func() {
			mu.Lock()
			n := len(acknowledged)
			mu.Unlock()
			eventually(t, "records are appended", func() bool { mu.Lock(); defer mu.Unlock(); return len(acknowledged) > n+50 })
		}
		more()
		c.migrate(slot)
		more()
		stop.Store(true)
		wg.Wait()
		count := map[string]int{}
		for _, r := range a.read(topic).Records {
			count[string(r.Payload)]++
			require.Equal(t, 1, count[string(r.Payload)], "record %s", r.Payload)
			mu.Lock()
			if want, ok := acknowledged[r.Position.Offset]; ok {
				require.Equal(t, want, string(r.Payload))
				delete(acknowledged, r.Position.Offset)
			}
			mu.Unlock()
		}
		require.Empty(t, acknowledged, "acknowledged records are there")
	})
}

// migrate moves a slot and its keys to another master.
func (c *cluster) migrate(slot int) {
	c.t.Helper()
	from, to := c.agreed(slot), c.agreed((slot+slots/2)%slots)
	ctx := context.Background()
	set := func(e *engine, args ...any) {
		c.t.Helper()
		require.NoError(c.t, e.client.Do(ctx, append([]any{"CLUSTER", "SETSLOT", slot}, args...)...).Err())
	}
	set(to, "IMPORTING", from.id())
	set(from, "MIGRATING", to.id())
	for {
		keys, err := from.client.ClusterGetKeysInSlot(ctx, slot, 100).Result()
		require.NoError(c.t, err)
		if len(keys) == 0 {
			break
		}
		rand.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
		for _, key := range keys {
			require.NoError(c.t, from.client.Migrate(ctx, "127.0.0.1", fmt.Sprint(to.port), key, 0, 5*time.Second).Err())
		}
	}
	set(to, "NODE", to.id())
	set(from, "NODE", to.id())
	for _, e := range c.engines {
		eventually(c.t, "the slot has moved", func() bool { return c.owner(slot, e) == to })
	}
}
