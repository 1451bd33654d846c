package nats_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// keeping makes an engine keep histories in files.
func keeping(e *engine) { e.store, e.history = e.t.TempDir(), &nats.History{} }

func TestContractOfHistory(t *testing.T) {
	e := startEngine(t, keeping)
	brokertest.Run(t, brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start, Durable: true})
}

func TestContractOfKilledHistory(t *testing.T) {
	p := startProcess(t, keeping)
	brokertest.Run(t, brokertest.Engine{
		Broker: p.broker, Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume, Durable: true,
	})
}

// TestMemoryAfterRestart restarts servers that keep histories in memory: nothing is left.
func TestMemoryAfterRestart(t *testing.T) {
	memory := func(replicas int) *nats.History {
		return &nats.History{Storage: jetstream.MemoryStorage, Replicas: replicas}
	}
	e := startEngine(t, keeping)
	e.history = memory(1)
	for name, engine := range map[string]func() brokertest.Engine{
		"OneServer": func() brokertest.Engine { return brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start} },
		"R1": func() brokertest.Engine {
			c := startCluster(t, memory(1))
			return brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start}
		},
		"R3": func() brokertest.Engine {
			c := startCluster(t, memory(3))
			return brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start}
		},
	} {
		t.Run(name, func(t *testing.T) {
			engine := engine()
			afterLoss(t, engine)
			a := open(t, engine.Broker())
			lost := a.append("c.x", "lost", "lost", "lost")[2].Position
			require.NoError(t, a.Close())
			engine.Stop()
			engine.Start()
			next := open(t, engine.Broker()).append("c.x", "new")[0].Position // no Broker has seen the lost records
			require.NotEqual(t, lost.Epoch, next.Epoch)
			require.Greater(t, next.Offset, lost.Offset)
		})
	}
}

// afterLoss restarts an engine which loses the latest records then. No offset may be given
// twice, and the epoch must change, for Brokers that have seen the records and those that
// have not.
func afterLoss(t *testing.T, engine brokertest.Engine) {
	a := open(t, engine.Broker())
	lost := a.append("c.x", "one", "two", "three")[2].Position
	engine.Stop()
	require.Error(t, receive(t, a.downs))
	engine.Start()
	receive(t, a.ups)
	b := open(t, engine.Broker())
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.x"}))
	next := a.append("c.x", "four")[0].Position
	require.NotEqual(t, lost.Epoch, next.Epoch)
	require.Greater(t, next.Offset, lost.Offset)
	require.Equal(t, next, receive(t, b.records).Position)
	page, err := b.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Equal(t, next, page.Position)
	again, err := a.Read(t.Context(), "c.x", lost.Offset, 10)
	require.NoError(t, err)
	require.Equal(t, next, again.Position)
	require.Equal(t, "four", string(again.Records[len(again.Records)-1].Payload))
	require.NoError(t, errors.Join(a.Close(), b.Close()))
}

// TestPowerFailure gives a server the folder as it was some records ago.
func TestPowerFailure(t *testing.T) {
	e := startEngine(t, keeping)
	backup := filepath.Join(t.TempDir(), "backup")
	a := open(t, e.broker())
	a.append("c.x", "kept")
	save := func() {
		e.stop()
		require.NoError(t, os.RemoveAll(backup))
		require.NoError(t, os.CopyFS(backup, os.DirFS(e.store)))
		e.start()
	}
	save()
	require.Error(t, receive(t, a.downs))
	receive(t, a.ups)
	fail := func() {
		e.stop()
		require.NoError(t, os.RemoveAll(e.store))
		require.NoError(t, os.CopyFS(e.store, os.DirFS(backup)))
		e.start()
	}
	require.NoError(t, a.Close())
	afterLoss(t, brokertest.Engine{Broker: e.broker, Stop: fail, Start: func() {}})

	// Nobody has seen the records that are lost now.
	b := e.broker()
	c := open(t, b)
	kept := c.append("c.x", "kept")[0].Position
	save()
	require.Error(t, receive(t, c.downs))
	receive(t, c.ups)
	lost := c.append("c.x", "lost", "lost", "lost")[2].Position
	require.NoError(t, b.Close())
	// Offsets are a second ahead after each restart.
	require.Eventually(t, func() bool { return uint64(time.Now().UnixMilli())*1024 > lost.Offset }, patience, 10*time.Millisecond)
	fail()
	d := open(t, e.broker())
	next := d.append("c.y", "new")[0].Position
	require.Greater(t, next.Offset, lost.Offset)
	page, err := d.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Equal(t, kept.Offset, page.Position.Offset, "the head falls behind")
}

// keeper is a Broker and its handler, which signals the calls.
type keeper struct {
	*recorder
	websocket.HistoryBroker
	t testing.TB
}

// open opens a Broker and waits until it is up.
func open(t testing.TB, b websocket.Broker) *keeper {
	t.Helper()
	k := &keeper{newRecorder(), b.(websocket.HistoryBroker), t}
	require.NoError(t, b.Open(k.recorder))
	t.Cleanup(func() { _ = b.Close() })
	receive(t, k.ups)
	return k
}

func (k *keeper) append(topic string, payloads ...string) []websocket.AppendResult {
	k.t.Helper()
	var batch []websocket.BrokerRecord
	for _, p := range payloads {
		batch = append(batch, websocket.BrokerRecord{Topic: topic, Payload: []byte(p), Keep: websocket.HistoryOptions{Messages: 100}})
	}
	results := k.Append(k.t.Context(), batch)
	for _, r := range results {
		require.NoError(k.t, r.Err)
	}
	return results
}

func TestBoundsOfStream(t *testing.T) {
	e := startEngine(t, keeping)
	e.history = &nats.History{Messages: 3, Age: time.Hour, Bytes: 1 << 20}
	a := open(t, e.broker())
	for _, tt := range []struct {
		keep websocket.HistoryOptions
		want string
	}{
		{websocket.HistoryOptions{Messages: 4}, "nats: HistoryOptions.Messages is 4, and History.Messages of the stream is 3"},
		{websocket.HistoryOptions{Bytes: 2 << 20}, "nats: HistoryOptions.Bytes is 2097152, and History.Bytes of the stream is 1048576"},
		{websocket.HistoryOptions{Age: 2 * time.Hour}, "nats: HistoryOptions.Age is 2h0m0s, and History.Age of the stream is 1h0m0s"},
	} {
		require.EqualError(t, a.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x", Keep: tt.keep}})[0].Err, tt.want)
	}
	var offsets []uint64
	for range 5 {
		r := a.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x"}})[0]
		require.NoError(t, r.Err)
		offsets = append(offsets, r.Position.Offset)
	}
	page, err := a.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 3)
	require.Equal(t, offsets[1], page.Removed)
	require.Zero(t, page.Records[0].Previous)

	// With larger bounds it is not known any more that records were removed.
	e.history = &nats.History{Messages: 10}
	b := open(t, e.broker())
	page, err = b.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 3)
	require.GreaterOrEqual(t, page.Removed, offsets[1])
}

// TestRenew has other Brokers learn of a new epoch.
func TestRenew(t *testing.T) {
	e := startEngine(t, keeping)
	a, b := open(t, e.broker()), open(t, e.broker())
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.x"}))
	old := a.append("c.x", "old")[0].Position
	require.Equal(t, old, receive(t, b.records).Position)
	require.NoError(t, a.Renew(t.Context(), "c.x", old.Epoch))
	receive(t, b.losses)
	result := b.append("c.x", "new")[0]
	require.Equal(t, old.Offset, result.Previous)
	now := result.Position
	require.NotEqual(t, old.Epoch, now.Epoch)
	require.Greater(t, now.Offset, old.Offset)
	require.Equal(t, now, receive(t, b.records).Position)
	page, err := a.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Equal(t, now, page.Position)
}

func TestWithoutHistory(t *testing.T) {
	e := startEngine(t)
	a := open(t, e.broker())
	require.ErrorIs(t, a.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x"}})[0].Err, errors.ErrUnsupported)
	_, err := a.Read(t.Context(), "c.x", 0, 1)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	require.ErrorIs(t, a.Renew(t.Context(), "c.x", ""), errors.ErrUnsupported)
}

// TestWithoutJetStream is not up before the server has JetStream.
func TestWithoutJetStream(t *testing.T) {
	e := startEngine(t)
	e.history = &nats.History{}
	h := newRecorder()
	b := e.broker()
	require.NoError(t, b.Open(h))
	t.Cleanup(func() { _ = b.Close() })
	require.ErrorContains(t, receive(t, h.downs), "JetStream")
	e.stop()
	e.store = t.TempDir()
	e.start()
	receive(t, h.ups)
}

func TestContractOfHistoryInCluster(t *testing.T) {
	c := startCluster(t, &nats.History{Replicas: 3})
	brokertest.Run(t, brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start, Durable: true, Patience: 2 * patience})
}

// TestFailover stops each server in turn while two Brokers append. Nothing that was
// acknowledged may be missing, change its place or come twice.
func TestFailover(t *testing.T) {
	c := startCluster(t, &nats.History{Replicas: 3})
	a, b := open(t, c.broker()), open(t, c.broker())
	stop := make(chan struct{})
	var results [2][]websocket.Position
	var wg sync.WaitGroup
	for i, k := range []*keeper{a, b} {
		go drain(t, k.recorder) // ends with the test
		wg.Go(func() {          // ends when stop is closed, after the record under way
			for n := 0; ; {
				key := fmt.Sprint(i, " ", n)
				ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
				r := k.Append(ctx, []websocket.BrokerRecord{{Topic: "c.x", Payload: []byte(key), Key: key}})[0]
				cancel()
				if r.Err == nil {
					results[i] = append(results[i], r.Position)
					n++
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range c.servers {
		c.stopOne(i)
		c.startOne(i)
		c.joined()
		reader := open(t, c.broker())
		mark := fmt.Sprint("mark ", i)
		require.Eventually(t, func() bool {
			return reader.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x", Payload: []byte(mark), Key: mark}})[0].Err == nil
		}, patience, 10*time.Millisecond)
		require.NoError(t, reader.Close())
	}
	close(stop)
	wg.Wait()
	places := map[websocket.Position]string{}
	texts := map[string]bool{}
	reader := open(t, c.broker())
	after := uint64(0)
	for {
		page, err := reader.Read(t.Context(), "c.x", after, 1000)
		require.NoError(t, err)
		for _, r := range page.Records {
			require.Equal(t, after, r.Previous)
			after = r.Position.Offset
			places[r.Position] = string(r.Payload)
			require.False(t, texts[string(r.Payload)], "twice: %s", r.Payload)
			texts[string(r.Payload)] = true
		}
		if len(page.Records) == 0 {
			break
		}
	}
	t.Log(len(places), "records")
	for i, list := range results {
		require.NotEmpty(t, list)
		for n, p := range list {
			require.Equal(t, fmt.Sprint(i, " ", n), places[p])
		}
	}
}

// drain takes the signals of a recorder.
func drain(t testing.TB, h *recorder) {
	for {
		select {
		case <-h.ups:
		case <-h.downs:
		case <-h.losses:
		case <-t.Context().Done():
			return
		}
	}
}

// BenchmarkAppend appends batches of 256 records of 100 bytes to a topic to which another
// Broker is subscribed. One operation is one record.
func BenchmarkAppend(b *testing.B) {
	for name, storage := range map[string]jetstream.StorageType{"file": jetstream.FileStorage, "memory": jetstream.MemoryStorage} {
		b.Run(name, func(b *testing.B) {
			e := startEngine(b, keeping)
			e.history = &nats.History{Storage: storage}
			from, to := open(b, e.broker()), open(b, e.broker())
			require.NoError(b, to.Subscribe(b.Context(), []string{"c.x"}))
			batch := make([]websocket.BrokerRecord, 256)
			for i := range batch {
				batch[i] = websocket.BrokerRecord{Topic: "c.x", Payload: make([]byte, 100), Keep: websocket.HistoryOptions{Messages: 1000}}
			}
			b.ReportAllocs()
			done := make(chan struct{})
			go func() { // ends with the last record
				for range (b.N + 255) / 256 * 256 {
					<-to.records
				}
				close(done)
			}()
			b.ResetTimer()
			for range (b.N + 255) / 256 {
				for _, r := range from.Append(b.Context(), batch) {
					require.NoError(b, r.Err)
				}
			}
			<-done
		})
	}
}

// TestEmptyTopics reads a topic without records. Its position stays, also when the stream
// removes records of other topics, and all Brokers read the same.
func TestEmptyTopics(t *testing.T) {
	e := startEngine(t, keeping)
	e.history = &nats.History{Bytes: 10_000}
	a, b := open(t, e.broker()), open(t, e.broker())
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.empty"}))
	first := a.append("c.x", strings.Repeat("x", 3000))[0]
	read := func(k *keeper, after uint64) websocket.BrokerPage {
		page, err := k.Read(t.Context(), "c.empty", after, 10)
		require.NoError(t, err)
		return page
	}
	empty := read(a, 0)
	a.append("c.x", strings.Repeat("x", 3000), strings.Repeat("x", 3000), strings.Repeat("x", 3000))
	page, err := a.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.GreaterOrEqual(t, page.Removed, first.Position.Offset)
	for _, after := range []uint64{0, empty.Position.Offset} {
		page := read(b, after)
		require.Equal(t, empty.Position, page.Position)
		require.LessOrEqual(t, page.Removed, empty.Position.Offset)
		require.Empty(t, page.Records)
	}
	p := a.append("c.empty", "one")[0].Position
	r := receive(t, b.records)
	require.Equal(t, p, r.Position)
	require.Equal(t, empty.Position.Offset, r.Previous)
	require.Equal(t, empty.Position.Offset, read(b, 0).Records[0].Previous)
}

// TestPermissionsForHistory has only the permissions that the documentation names.
func TestPermissionsForHistory(t *testing.T) {
	s := startSecured(t, &server.Options{
		JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{{Username: "hub", Password: "secret", Permissions: &server.Permissions{
			Publish:   &server.SubjectPermission{Allow: []string{"hub.>", "$JS.API.>"}},
			Subscribe: &server.SubjectPermission{Allow: []string{"hub.>", "_INBOX.>"}},
		}}},
	})
	b := open(t, nats.New(nats.Options{URL: s.ClientURL(), Connect: []natsgo.Option{natsgo.UserInfo("hub", "secret")}, History: &nats.History{}}))
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.x"}))
	p := b.append("c.x", "one")[0].Position
	require.Equal(t, p, receive(t, b.records).Position)
	page, err := b.Read(t.Context(), "c.x", 0, 10)
	require.NoError(t, err)
	require.Len(t, page.Records, 1)
	require.NoError(t, b.Renew(t.Context(), "c.x", p.Epoch))
}
