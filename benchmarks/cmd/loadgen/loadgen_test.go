package main

import (
	"bytes"
	"compress/flate"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

const size = 128

// peer is a server built with gorilla/websocket, so that the tests do not depend
// on the systems that are measured.
type peer struct {
	*httptest.Server
	mu    sync.Mutex
	conns []*websocket.Conn
}

func newPeer(t *testing.T, up websocket.Upgrader, serve func(*websocket.Conn)) *peer {
	p := &peer{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := up.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns = append(p.conns, ws)
		p.mu.Unlock()
		serve(ws)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *peer) Close() {
	p.mu.Lock()
	for _, ws := range p.conns {
		ws.Close()
	}
	p.mu.Unlock()
	p.Server.Close()
}

func (p *peer) addr() string { return p.Listener.Addr().String() }

// sends returns a handler that sends msgs and then discards all input.
func sends(op int, msgs ...[]byte) func(*websocket.Conn) {
	return func(ws *websocket.Conn) {
		if write(ws, op, msgs...) == nil {
			discard(ws)
		}
	}
}

func write(ws *websocket.Conn, op int, msgs ...[]byte) error {
	for _, m := range msgs {
		if err := ws.WriteMessage(op, m); err != nil {
			return err
		}
	}
	return nil
}

func discard(ws *websocket.Conn) {
	for {
		if _, _, err := ws.NextReader(); err != nil {
			return
		}
	}
}

func connected(t *testing.T, opt api.Connect) *fleet {
	f, err := newFleet()
	require.NoError(t, err)
	f.reset(true)
	if opt.Clients == 0 {
		opt.Clients = 3
	}
	opt.Targets, opt.Size = 1, size
	n, err := f.connect(opt)
	require.NoError(t, err)
	require.Equal(t, opt.Clients, n)
	return f
}

func msg(seq uint32) []byte { return payload.Append(nil, seq, time.Now().UnixNano(), size) }

func envelope(seq uint32) []byte {
	return append(append([]byte(`{"type":"message","channel":"t0","data":`), msg(seq)...), `,"timestamp":1}`...)
}

func TestCounts(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		msgs [][]byte
		want api.Stats // of one client
	}{
		{"in order", [][]byte{msg(1), msg(2), msg(3)}, api.Stats{Received: 3}},
		{"in an envelope", [][]byte{envelope(1), envelope(2)}, api.Stats{Received: 2}},
		{"gap", [][]byte{msg(1), msg(4)}, api.Stats{Received: 2, Skipped: 2}},
		{"twice", [][]byte{msg(1), msg(1)}, api.Stats{Received: 2, Disorder: 1}},
		{"late", [][]byte{msg(2), msg(1)}, api.Stats{Received: 2, Skipped: 1, Disorder: 1}},
		{"damaged", [][]byte{msg(1), bytes.Replace(msg(2), []byte(`"}`), []byte(`"]`), 1), msg(3)},
			api.Stats{Received: 2, Skipped: 1, Bad: 1}},
		{"message without a payload", [][]byte{[]byte(`{"type":"hello"}`), msg(1)}, api.Stats{Received: 1}},
		{"several in a frame", [][]byte{bytes.Join([][]byte{envelope(1), envelope(2), envelope(3)}, []byte("\n")), envelope(4)},
			api.Stats{Received: 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newPeer(t, websocket.Upgrader{}, sends(websocket.TextMessage, tt.msgs...))
			f := connected(t, api.Connect{Addr: p.addr()})
			f.wait(3*tt.want.Received, time.Second)
			s := f.stats()
			require.Equal(t, 3*tt.want.Received, s.Received)
			require.Equal(t, 3*tt.want.Skipped, s.Skipped)
			require.Equal(t, 3*tt.want.Disorder, s.Disorder)
			require.Equal(t, 3*tt.want.Bad, s.Bad)
			require.Zero(t, s.Disconnected, s.Error)
			require.Positive(t, s.Max)
			require.LessOrEqual(t, s.P50, s.P99)
			require.LessOrEqual(t, s.P99, s.Max)
		})
	}
}

// TestGoroutineReader reads plain connections with the reader of TLS connections.
func TestGoroutineReader(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, sends(websocket.TextMessage, msg(1), msg(2), msg(4)))
	f := &fleet{reached: make(chan struct{}, 1)}
	f.reader = goroutineReader{f}
	_, err := f.connect(api.Connect{Addr: p.addr(), Clients: 5, Targets: 1, Size: size})
	require.NoError(t, err)
	f.wait(15, time.Second)
	s := f.stats()
	require.Equal(t, uint64(15), s.Received)
	require.Equal(t, uint64(5), s.Skipped)
}

func TestManyAndLarge(t *testing.T) {
	t.Parallel()
	const n = 5000 // several read buffers
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
		for i := range uint32(n) {
			if ws.WriteMessage(websocket.TextMessage, envelope(i+1)) != nil {
				return
			}
		}
		discard(ws)
	})
	f := connected(t, api.Connect{Addr: p.addr()})
	f.wait(3*n, 5*time.Second)
	s := f.stats()
	require.Equal(t, uint64(3*n), s.Received)
	require.Zero(t, s.Skipped+s.Disorder+s.Bad+s.Disconnected)
}

func TestDeflate(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{EnableCompression: true}, func(ws *websocket.Conn) {
		if ws.SetCompressionLevel(flate.BestSpeed) != nil {
			return
		}
		sends(websocket.TextMessage, envelope(1), envelope(2), envelope(3))(ws)
	})
	f := connected(t, api.Connect{Addr: p.addr(), Deflate: true})
	f.wait(9, time.Second)
	s := f.stats()
	require.Equal(t, uint64(9), s.Received, s.Error)
	require.Zero(t, s.Skipped+s.Bad)
}

func TestDeflateMustBeAgreed(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, discard)
	f, err := newFleet()
	require.NoError(t, err)
	_, err = f.connect(api.Connect{Addr: p.addr(), Clients: 1, Targets: 1, Size: size, Deflate: true})
	require.ErrorContains(t, err, "did not accept permessage-deflate")
}

func TestSealed(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{api.SealHub, api.SealClient} {
		aes := seal.AESKey
		if mode == api.SealClient {
			aes = seal.ClientKey(0)
		}
		k, err := seal.New(aes, seal.HMACKey)
		require.NoError(t, err)
		p := newPeer(t, websocket.Upgrader{}, sends(websocket.BinaryMessage, k.Seal(nil, envelope(1)), k.Seal(nil, envelope(2))))
		f := connected(t, api.Connect{Addr: p.addr(), Clients: 1, Sealed: mode})
		f.wait(2, time.Second)
		require.Equal(t, uint64(2), f.stats().Received, mode)
	}
}

func TestSealedWithAnotherKey(t *testing.T) {
	t.Parallel()
	k, err := seal.New(seal.ClientKey(77), seal.HMACKey)
	require.NoError(t, err)
	p := newPeer(t, websocket.Upgrader{}, sends(websocket.BinaryMessage, k.Seal(nil, envelope(1))))
	f := connected(t, api.Connect{Addr: p.addr(), Clients: 1, Sealed: api.SealHub})
	f.wait(1, 200*time.Millisecond)
	s := f.stats()
	require.Zero(t, s.Received)
	require.Equal(t, uint64(1), s.Bad)
}

func TestDisconnectionIsCounted(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
		if write(ws, websocket.TextMessage, msg(1)) != nil ||
			write(ws, websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseTryAgainLater, "slow")) != nil {
			return
		}
		discard(ws)
	})
	f := connected(t, api.Connect{Addr: p.addr()})
	f.wait(4, 300*time.Millisecond)
	s := f.stats()
	require.Equal(t, uint64(3), s.Received)
	require.Equal(t, uint64(3), s.Disconnected)
	require.Contains(t, s.Error, `closed with 1013 "slow"`)
}

func TestPingIsAnswered(t *testing.T) {
	t.Parallel()
	pong := make(chan string, 1)
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
		ws.SetPongHandler(func(s string) error { pong <- s; return nil })
		if write(ws, websocket.PingMessage, []byte("are you there")) == nil {
			discard(ws)
		}
	})
	connected(t, api.Connect{Addr: p.addr(), Clients: 1})
	select {
	case s := <-pong:
		require.Equal(t, "are you there", s)
	case <-time.After(5 * time.Second):
		t.Fatal("no pong")
	}
}

func TestStalledClientsDoNotRead(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, sends(websocket.TextMessage, msg(1)))
	f := connected(t, api.Connect{Addr: p.addr(), Stalled: 1})
	f.wait(3, 300*time.Millisecond)
	require.Equal(t, uint64(2), f.stats().Received)
}

func TestEcho(t *testing.T) {
	t.Parallel()
	for _, dialect := range []string{api.DialectRaw, api.DialectEnvelope} {
		p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
			for {
				op, b, err := ws.ReadMessage()
				if err != nil || ws.WriteMessage(op, b) != nil {
					return
				}
			}
		})
		f := connected(t, api.Connect{Addr: p.addr(), Clients: 1, Dialect: dialect})
		for range 2 { // the second echo continues the sequence numbers
			res := f.echo(t.Context(), api.Echo{Rate: 1000, Duration: 50 * time.Millisecond, PerSend: 1, Stall: time.Second})
			require.Equal(t, uint64(50), res.Sent)
			require.Equal(t, res.Sent, res.Received)
			s := f.stats()
			require.Zero(t, s.Skipped+s.Disorder+s.Bad)
		}
	}
}

func TestCentrifugeDialect(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 3)
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return
		}
		asked <- string(b)
		line := func(seq uint32) string { return `{"push":{"channel":"t0","pub":{"data":` + string(msg(seq)) + `}}}` }
		if write(ws, websocket.TextMessage, []byte(`{"id":1,"connect":{"client":"c","subs":{"t0":{}}}}`),
			[]byte(line(1)+"\n"+line(2)), []byte(`{}`)) != nil {
			return
		}
		if _, b, err = ws.ReadMessage(); err != nil {
			return
		}
		asked <- string(b)
		if write(ws, websocket.TextMessage, []byte(line(3)+"\n{}\n"+line(4))) != nil {
			return
		}
		if _, b, err = ws.ReadMessage(); err != nil {
			return
		}
		asked <- string(b)
		if write(ws, websocket.TextMessage, []byte(line(5))) == nil {
			discard(ws)
		}
	})
	f := connected(t, api.Connect{Addr: p.addr(), Clients: 1, Dialect: api.DialectCentrifuge})
	f.wait(5, 5*time.Second)
	s := f.stats()
	require.Equal(t, uint64(5), s.Received)
	require.Zero(t, s.Skipped+s.Disorder+s.Bad+s.Disconnected)
	require.JSONEq(t, `{"id":1,"connect":{}}`, <-asked)
	require.Equal(t, `{}`, <-asked)
	require.Equal(t, `{}`, <-asked, "a ping between messages")
}

func TestWaitEndsWhenNothingArrives(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, sends(websocket.TextMessage, msg(1)))
	f := connected(t, api.Connect{Addr: p.addr()})
	began := time.Now()
	got := f.handleSync(api.SyncWait, 1000, uint64(100*time.Millisecond))
	require.Equal(t, uint64(3), got.Received)
	require.Less(t, time.Since(began), 5*time.Second)
}

func TestChurn(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) { discard(ws); ws.Close() })
	req := api.Churn{
		Connect: api.Connect{Addr: p.addr(), Clients: 1, Targets: 1, Size: size},
		Cycles:  50, Concurrency: 4, Limit: 20 * time.Second,
	}
	res, err := churn(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 50, res.Cycles, res.First)
	require.Zero(t, res.Errors)
}

func TestChurnCountsFailures(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) { ws.Close() })
	req := api.Churn{Connect: api.Connect{Addr: p.addr(), Targets: 1}, Cycles: 5, Concurrency: 1, Limit: 20 * time.Second}
	res, err := churn(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, 5, res.Errors)
	require.NotEmpty(t, res.First)
}

func TestBadFrameEndsTheClient(t *testing.T) {
	t.Parallel()
	p := newPeer(t, websocket.Upgrader{}, func(ws *websocket.Conn) {
		if _, err := ws.NetConn().Write(wire.AppendClient(nil, wire.Text, []byte("masked"), [4]byte{1})); err == nil {
			discard(ws)
		}
	})
	f := connected(t, api.Connect{Addr: p.addr(), Clients: 1})
	f.wait(1, 300*time.Millisecond)
	s := f.stats()
	require.Equal(t, uint64(1), s.Disconnected)
	require.Contains(t, s.Error, "bad frame")
}

func TestProbe(t *testing.T) {
	t.Parallel()
	var requests atomic.Uint64
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(http.ResponseWriter, *http.Request) { requests.Add(1) })
	server := httptest.NewServer(mux)
	defer server.Close()
	p := api.Probe{URL: server.URL + "/ok", Interval: time.Millisecond, Duration: 20 * time.Millisecond}
	res, err := probe(t.Context(), p)
	require.NoError(t, err)
	require.Equal(t, requests.Load(), res.Requests+1, "all but the first request are measured")
	require.Positive(t, res.P50)
	require.LessOrEqual(t, res.P50, res.P90)
	require.LessOrEqual(t, res.P90, res.P99)

	p.URL = server.URL + "/missing"
	_, err = probe(t.Context(), p)
	require.ErrorContains(t, err, "404")
	_, err = probe(t.Context(), api.Probe{URL: p.URL})
	require.ErrorContains(t, err, "positive interval")
}
