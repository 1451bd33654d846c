package embedded_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats/embedded"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// handler signals the calls of a Broker.
type handler struct {
	ups     chan struct{}
	records chan websocket.BrokerRecord
}

func (h *handler) Receive([]byte)                  {}
func (h *handler) Record(r websocket.BrokerRecord) { h.records <- r }
func (h *handler) Up()                             { h.ups <- struct{}{} }
func (h *handler) Down(error)                      {}
func (h *handler) Lost(...string)                  {}

const patience = 30 * time.Second

func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case v = <-c:
	case <-timeout.C:
		require.FailNow(t, "timeout")
	}
	return v
}

func start(t testing.TB, dir string, options embedded.Options) *embedded.Server {
	t.Helper()
	s, err := embedded.Start(dir, options)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func open(t testing.TB, b *nats.Broker) *handler {
	t.Helper()
	h := &handler{make(chan struct{}, 10), make(chan websocket.BrokerRecord, 10)}
	require.NoError(t, b.Open(h))
	t.Cleanup(func() { _ = b.Close() })
	receive(t, h.ups)
	return h
}

func TestContract(t *testing.T) {
	dir := t.TempDir()
	s := start(t, dir, embedded.Options{Listen: "127.0.0.1:0"})
	brokertest.Run(t, brokertest.Engine{Broker: func() websocket.Broker { return s.Broker() }})
}

// TestRestart keeps a history over a restart, and lets another process join.
func TestRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	var before []websocket.AppendResult
	for run := range 3 {
		s := start(t, dir, embedded.Options{Listen: "127.0.0.1:0", SyncAlways: run == 0})
		b, other := s.Broker(), nats.New(nats.Options{URL: s.URL(), History: &nats.History{}})
		open(t, b)
		h := open(t, other)
		require.NoError(t, other.Subscribe(t.Context(), []string{"c.x"}))
		keep := websocket.HistoryOptions{Messages: 100}
		r := b.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x", Payload: fmt.Append(nil, run), Key: fmt.Sprint(run), Keep: keep}})[0]
		require.NoError(t, r.Err)
		require.Equal(t, r.Position, receive(t, h.records).Position)
		before = append(before, r)
		page, err := other.Read(t.Context(), "c.x", 0, 10)
		require.NoError(t, err)
		require.Len(t, page.Records, run+1)
		require.Less(t, page.Removed, before[0].Position.Offset)
		for i, r := range page.Records {
			require.Equal(t, before[i].Position, r.Position)
			if i > 0 {
				require.Equal(t, before[i-1].Position.Offset, r.Previous)
				require.Greater(t, r.Position.Offset-r.Previous, uint64(1)<<20, "a restart may have lost records")
			}
		}
		again := b.Append(t.Context(), []websocket.BrokerRecord{{Topic: "c.x", Key: "0", Keep: keep}})[0]
		require.NoError(t, again.Err)
		require.True(t, again.Repeated)
		require.Equal(t, before[0].Position, again.Position)
		require.NoError(t, b.Close())
		require.NoError(t, other.Close())
		s.Close()
	}
}

func TestWithoutListening(t *testing.T) {
	s := start(t, t.TempDir(), embedded.Options{})
	require.Empty(t, s.URL())
	open(t, s.Broker())
}

func TestStartFails(t *testing.T) {
	_, err := embedded.Start("", embedded.Options{})
	require.Error(t, err)
	_, err = embedded.Start(t.TempDir(), embedded.Options{Listen: "nowhere"})
	require.ErrorContains(t, err, "Listen")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = embedded.Start(file, embedded.Options{})
	require.ErrorContains(t, err, "mkdir "+file)
}
