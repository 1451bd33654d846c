package websocket_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// startFake is like runFake. If the test fails, it also opens the gate that
// callbacks wait for and shuts the hub down. Otherwise synctest would report the
// goroutines that are left and hide the failure.
func startFake(t *testing.T, p path, config websocket.Config, gate chan struct{}, set func(h *websocket.Hub)) *fakeHub {
	t.Helper()
	f := runFake(t, p, config, set)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		if gate != nil {
			select {
			case <-gate:
			default:
				close(gate)
			}
		}
		_ = f.Shutdown(context.Background())
	})
	return f
}

// dial connects without waiting for onConnect to return.
func (f *fakeHub) dial(end hubEnd, client *testnet.Conn, header http.Header) (*gorilla.Conn, *http.Response, error) {
	f.accept(end)
	return dialOver(client, header)
}

// cutPeer connects a peer. The test can make the hub's writes to it fail.
func (f *fakeHub) cutPeer(window int, header http.Header) (*fakePeer, *testnet.CutConn) {
	f.t.Helper()
	server, client := testnet.Pair(window)
	cut := testnet.NewCutConn(server)
	ws, _, err := f.dial(cut, client, header)
	require.NoError(f.t, err)
	return &fakePeer{ws, server, client}, cut
}

// requireClientClosed checks every method of a client after its connection ended.
func requireClientClosed(t *testing.T, c *websocket.Client, want error) {
	t.Helper()
	require.Error(t, c.CloseError())
	require.Error(t, c.Request().Context().Err(), "the request's context must end with the connection")
	require.Error(t, c.Context().Err())
	require.Nil(t, c.FrameworkContext())
	for name, err := range map[string]error{
		"Send":        c.Send(&websocket.Message{}),
		"Subscribe":   c.Subscribe("late"),
		"Unsubscribe": c.Unsubscribe("news"),
		"JoinRoom":    c.JoinRoom("late"),
		"LeaveRoom":   c.LeaveRoom("room"),
	} {
		require.ErrorIs(t, err, want, name)
	}
	for name, err := range map[string]error{
		"Close":            c.Close(0, ""),
		"SetEncryptionKey": c.SetEncryptionKey(make([]byte, 32)),
		"SetHMACKey":       c.SetHMACKey([]byte("k")),
		"SetExpiry":        c.SetExpiry(time.Now()),
	} {
		require.ErrorIs(t, err, websocket.ErrClientClosed, name)
	}
}

// requireSums checks the Stats of a hub without pending messages.
func requireSums(t *testing.T, h *websocket.Hub) websocket.Stats {
	t.Helper()
	st := h.Stats()
	require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total(), "addressed = sent + dropped: %+v", st)
	require.Zero(t, h.HeldByMessages(), "%+v", st)
	return st
}

// requireAllEnded checks that n connections have existed, and that all have ended
// and released everything. Methods of their clients must return want.
func (f *fakeHub) requireAllEnded(l *callbackLog, n int, want error) {
	f.t.Helper()
	synctest.Wait()
	l.requireComplete(f.t, n)
	st := requireSums(f.t, f.Hub)
	require.EqualValues(f.t, n, st.TotalConnections)
	require.Zero(f.t, st.ActiveConnections)
	require.Zero(f.t, st.TotalChannels)
	require.Zero(f.t, st.TotalRooms)
	for range f.Clients() {
		require.Fail(f.t, "a client is still registered")
	}
	for _, c := range l.all() {
		requireClientClosed(f.t, c, want)
	}
}

// reception records the messages that a peer read before its connection ended.
type reception struct {
	numbers []int // payloads of messages
	bytes   int
	code    int // of the Close frame, or 0 if there was none
	err     error
}

// readToEnd reads numbered messages until the connection ends, and closes it.
func readToEnd(p *fakePeer) reception {
	var r reception
	for {
		_, b, err := p.ReadMessage()
		if err != nil {
			var ce *gorilla.CloseError
			if errors.As(err, &ce) && ce.Code != gorilla.CloseAbnormalClosure {
				r.code = ce.Code
			}
			r.err = err
			_ = p.Close()
			return r
		}
		r.bytes += len(b)
		var m struct {
			Type string
			Data struct{ N int }
		}
		err = json.Unmarshal(b, &m)
		if m.Type == "gap" {
			continue
		}
		if err != nil || m.Type != "message" {
			r.err = fmt.Errorf("read %q: %v", b, err)
			_ = p.Close()
			return r
		}
		r.numbers = append(r.numbers, m.Data.N)
	}
}

// numbered returns a payload of about size bytes.
func numbered(n, size int) []byte {
	return fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, strings.Repeat("x", size))
}

// clientFrame returns a masked frame as a client sends it.
func clientFrame(first byte, payload string) []byte {
	b := []byte{first, 0x80 | byte(len(payload)), 1, 2, 3, 4}
	if len(payload) > 125 {
		b = []byte{first, 0x80 | 126, byte(len(payload) >> 8), byte(len(payload)), 1, 2, 3, 4}
	}
	mask := b[len(b)-4:]
	for i := range len(payload) {
		b = append(b, payload[i]^mask[i%4])
	}
	return b
}

// byID is a Config.ClientID that reads the ID from a header.
func byID(r *http.Request) (string, error) {
	if id := r.Header.Get("X-Test-ID"); id != "" {
		return id, nil
	}
	return "anonymous", nil
}

func withID(id string) http.Header { return http.Header{"X-Test-ID": {id}} }

// cuts are the ways to end a connection without a Close frame.
var cuts = []struct {
	name string
	end  func(p *testnet.Conn)
}{
	{"end", func(c *testnet.Conn) { _ = c.Close() }},
	{"reset", (*testnet.Conn).Reset},
}

// TestReadCutAtEveryByte ends the connection after each byte of a fragmented
// client message.
func TestReadCutAtEveryByte(t *testing.T) {
	var wire []byte
	wire = append(wire, clientFrame(0x01, `{"type":"publish","channel":"news",`)...) // first fragment
	wire = append(wire, clientFrame(0x89, "ping")...)
	wire = append(wire, clientFrame(0x80, `"data":{"n":0},"id":"1"}`)...) // last fragment
	onBothPaths(t, func(t *testing.T, p path) {
		for _, cut := range cuts {
			t.Run(cut.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
						h.SetCallbacks(func(c *websocket.Client) {
							l.connect(c)
							_ = c.Subscribe("news")
							_ = c.JoinRoom("room")
						}, l.disconnect, l.message)
					})
					for n := range len(wire) + 1 {
						peer := hub.connect(1<<16, nil)
						_, err := peer.client.Write(wire[:n])
						require.NoError(t, err)
						synctest.Wait()
						cut.end(peer.client)
						synctest.Wait()
						c := l.all()[n]
						require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
						require.Equal(t, n == len(wire), l.clients[c].messages == 1, "after %d bytes", n)
						_ = peer.Close()
					}
					hub.requireAllEnded(l, len(wire)+1, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
	})
}

// gateCodec is JSON, but Marshal blocks on messages of type "gate". This stops the
// hub goroutine, so that publications accumulate in the event log.
type gateCodec struct {
	entered chan struct{} // Marshal sends, the test receives
	open    chan struct{} // closed by the test; Marshal then continues
}

func newGateCodec() *gateCodec {
	return &gateCodec{entered: make(chan struct{}, 1), open: make(chan struct{})}
}

func (g *gateCodec) Name() string { return "json" }
func (g *gateCodec) Index() int   { return 0 }
func (g *gateCodec) Marshal(m *websocket.Message) ([]byte, error) {
	if m.Type == "gate" {
		g.entered <- struct{}{}
		<-g.open
	}
	return websocket.JSONCodec{}.Marshal(m)
}
func (g *gateCodec) Unmarshal(b []byte, m *websocket.Message) error {
	return websocket.JSONCodec{}.Unmarshal(b, m)
}
func (g *gateCodec) WebSocketMessageType() int { return websocket.TextMessage }

// config returns a configuration with one shard and only this codec.
func (g *gateCodec) config() websocket.Config {
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{g}
	config.Subprotocols = nil
	config.Shards = 1
	config.ClientID = byID
	return config
}

// shut stops the hub goroutine in Marshal.
func (g *gateCodec) shut(t *testing.T, h *fakeHub) {
	t.Helper()
	require.NoError(t, h.SendToClient("gatekeeper", &websocket.Message{Type: "gate"}))
	<-g.entered
}

// TestWriteCutAtEveryByte makes a write of three messages fail after each byte. The
// batch belongs to one client or is shared with another.
func TestWriteCutAtEveryByte(t *testing.T) {
	const messages = 3
	payload := numbered(7, 60)
	frame := 0 // size of each message's frame
	failures := []struct {
		name string
		cut  func(c *testnet.CutConn, n int)
	}{
		{"reset", (*testnet.CutConn).ResetAfter},
		{"write error", func(c *testnet.CutConn, n int) { c.FailAfter(n, syscall.EPIPE) }},
	}
	run := func(t *testing.T, p path, cut func(c *testnet.CutConn, n int), others, at int) {
		synctest.Test(t, func(t *testing.T) {
			gate, l := newGateCodec(), newLives()
			hub := startFake(t, p, gate.config(), gate.open, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) {
					l.connect(c)
					if c.ID != "gatekeeper" {
						_ = c.Subscribe("news")
					}
					if c.ID == "victim" && p.plain {
						<-gate.open // the writePump encodes; holding the messages makes it one write
					}
				}, l.disconnect, l.message)
			})
			keeper := hub.connect(1<<16, withID("gatekeeper"))
			victim, conn := hub.cutPeer(1<<16, withID("victim"))
			peers := []*fakePeer{keeper, victim}
			for i := range others {
				peers = append(peers, hub.connect(1<<16, withID(fmt.Sprint("other", i))))
			}
			synctest.Wait()
			gate.shut(t, hub)
			for range messages {
				require.NoError(t, hub.PublishToChannel("news", &websocket.Message{Data: payload, Timestamp: 1}))
			}
			if at >= 0 {
				cut(conn, at)
			}
			close(gate.open)
			synctest.Wait()
			if frame == 0 {
				frame = (int(hub.Stats().BytesSent) - keeperFrame(t, keeper)) / messages
			}
			// The hub notices the error in its next write, at the latest a ping.
			time.Sleep(55 * time.Second)
			st := hub.Stats()
			if at >= 0 {
				require.EqualValues(t, 1+messages*others+at/frame, st.MessagesSent, "cut after %d bytes", at)
				require.EqualValues(t, messages-at/frame, st.Dropped.Disconnected, "cut after %d bytes", at)
				require.Equal(t, 1+others, st.ActiveConnections)
			}
			for _, peer := range peers {
				_ = peer.Close()
			}
			hub.requireAllEnded(l, 2+others, websocket.ErrClientClosed)
			hub.stop()
		})
	}
	run(t, paths[0], nil, 0, -1) // measures the frame
	require.Positive(t, frame)
	onBothPaths(t, func(t *testing.T, p path) {
		for _, failure := range failures {
			for others, name := range []string{"alone", "shared"} {
				t.Run(failure.name+"/"+name, func(t *testing.T) {
					for at := range messages*frame + 1 {
						run(t, p, failure.cut, others, at)
					}
				})
			}
		}
	})
}

// keeperFrame reads the gatekeeper's message and returns the size of its frame.
func keeperFrame(t *testing.T, p *fakePeer) int {
	t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(t, err)
	return 2 + len(b)
}

const handshakeRequest = "GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Test-ID: alice\r\n\r\n"

// TestHandshakeCutAtEveryByte ends the connection after each byte of the request
// and of the response.
func TestHandshakeCutAtEveryByte(t *testing.T) {
	config := websocket.DefaultConfig
	config.ClientID = byID
	start := func(t *testing.T, p path) (*fakeHub, *callbackLog) {
		l := newLives()
		return startFake(t, p, config, nil, func(h *websocket.Hub) {
			h.SetCallbacks(l.connect, l.disconnect, l.message)
		}), l
	}
	onBothPaths(t, func(t *testing.T, p path) {
		for _, cut := range cuts {
			t.Run("request/"+cut.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub, l := start(t, p)
					for n := range len(handshakeRequest) {
						server, client := testnet.Pair(1 << 16)
						served := hub.accept(server)
						_, err := client.Write([]byte(handshakeRequest[:n]))
						require.NoError(t, err)
						synctest.Wait()
						cut.end(client)
						<-served
					}
					hub.requireAllEnded(l, 0, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
		response := 0 // bytes
		for n := 0; n == 0 || n <= response; n++ {
			synctest.Test(t, func(t *testing.T) {
				hub, l := start(t, p)
				handshake := func(cut int) int64 {
					server, client := testnet.Pair(1 << 16)
					end := testnet.NewCutConn(server)
					if cut >= 0 {
						end.ResetAfter(cut)
					}
					_, _ = client.Write([]byte(handshakeRequest)) // fails if cut is 0
					<-hub.accept(end)
					synctest.Wait()
					_ = client.Close()
					synctest.Wait()
					return server.Faults().Written.Load()
				}
				handshake(n)
				cut := hub.Stats().TotalConnections
				size := int(handshake(-1)) // the same ID, which must be free again
				if response == 0 {
					response = size
				}
				require.Equal(t, n >= response, cut == 1, "cut after %d bytes of %d", n, response)
				hub.requireAllEnded(l, int(cut)+1, websocket.ErrClientClosed)
				hub.stop()
			})
		}
		require.Greater(t, response, 100)
	})
}

// TestHandshakeResponseTimesOut has peers that do not read the whole response.
func TestHandshakeResponseTimesOut(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			l := newLives()
			config := websocket.DefaultConfig
			config.ClientID = byID
			hub := startFake(t, p, config, nil, func(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) })
			for _, window := range []int{1, 50, 100} {
				server, client := testnet.Pair(1 << 16)
				server.SetWindow(window)
				start := time.Now()
				served := hub.accept(server)
				_, err := client.Write([]byte(handshakeRequest))
				require.NoError(t, err)
				<-served
				require.Equal(t, 10*time.Second, time.Since(start))
				_ = client.Close()
			}
			hub.requireAllEnded(l, 0, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// TestShortWritesOfEveryLength has connections that accept at most n bytes in one
// write, for all n up to the size of the whole output.
func TestShortWritesOfEveryLength(t *testing.T) {
	const messages = 6
	onBothPaths(t, func(t *testing.T, p path) {
		total := 1000
		for n := 1; n <= total; n++ {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
					h.SetCallbacks(func(c *websocket.Client) { l.connect(c); _ = c.Subscribe("news") }, l.disconnect, l.message)
				})
				peer := hub.connect(4096, nil)
				before := hub.Stats().BytesSent
				pongs := 0
				peer.SetPongHandler(func(string) error { pongs++; return nil })
				peer.server.Faults().Short(n)
				for i := range messages {
					require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 10*i)))
					if i == 3 {
						require.NoError(t, peer.WriteControl(gorilla.PingMessage, []byte("ping"), time.Time{}))
					}
				}
				synctest.Wait()
				require.NoError(t, l.all()[0].Close(4001, "enough"))
				r := readToEnd(peer)
				require.Equal(t, []int{0, 1, 2, 3, 4, 5}, r.numbers, "%d bytes per write: %v", n, r.err)
				require.Equal(t, 4001, r.code, "%d bytes per write: %v", n, r.err)
				require.Equal(t, 1, pongs)
				hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
				total = min(total, int(hub.Stats().BytesSent-before))
				hub.stop()
			})
		}
	})
}

// TestSlowReaderIsNotDisconnected has a peer that reads a few bytes every few
// seconds. WriteWait ends only connections that accept no bytes at all. It does not
// limit the time that a batch takes.
func TestSlowReaderIsNotDisconnected(t *testing.T) {
	const messages = 4
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			l := newLives()
			hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) { l.connect(c); _ = c.Subscribe("news") }, l.disconnect, l.message)
			})
			peer := hub.connect(700, nil)
			for i := range messages {
				require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 1000)))
			}
			slow := gorillaOn(t, slowConn{peer.client, 700, 8 * time.Second})
			r := reception{}
			for range messages {
				_, b, err := slow.ReadMessage()
				if err != nil {
					r.err = err
					break
				}
				r.numbers = append(r.numbers, len(b))
			}
			require.Len(t, r.numbers, messages, "disconnected although it was reading: %v; %v", r.err, closeErrorOf(l.all()[0]))
			_ = peer.Close()
			hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// slowConn reads at most n bytes after each pause.
type slowConn struct {
	net.Conn
	n     int
	pause time.Duration
}

func (c slowConn) Read(b []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(b[:min(len(b), c.n)])
}

// gorillaOn returns a client for a connection whose handshake is complete. It does
// a handshake on a pipe and then replaces the pipe by nc.
func gorillaOn(t *testing.T, nc net.Conn) *gorilla.Conn {
	ours, theirs := net.Pipe()
	h := hubtest.Serve(t, websocket.NewHub(quietLogger{}, websocket.DefaultConfig), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = (&gorilla.Upgrader{}).Upgrade(w, r, nil)
	}))
	h.ServeConn(theirs)
	both := &switchConn{Conn: ours}
	ws, _, err := dialOver(both, nil)
	require.NoError(t, err)
	_ = ours.Close()
	_ = theirs.Close()
	both.Conn = nc
	return ws
}

type switchConn struct{ net.Conn }

// TestSlowWriterIsNotDisconnected has a peer that needs more than an hour for one
// message.
func TestSlowWriterIsNotDisconnected(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			l := newLives()
			config := websocket.DefaultConfig
			config.MessageTimeout = -1
			hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
				h.SetCallbacks(l.connect, l.disconnect, l.message)
			})
			peer := hub.connect(1<<16, nil)
			for _, b := range clientFrame(0x81, `{"type":"hello","data":"this message is sent byte by byte, with a long pause between them"}`) {
				time.Sleep(50 * time.Second)
				_, err := peer.client.Write([]byte{b})
				require.NoError(t, err)
			}
			synctest.Wait()
			require.EqualValues(t, 1, hub.Stats().MessagesReceived)
			_ = peer.Close()
			hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// scene is a hub with one client. The client is in one of several states when its
// connection ends.
type scene struct {
	t         *testing.T
	hub       *fakeHub
	lives     *callbackLog
	peer      *fakePeer
	client    *websocket.Client
	gate      chan struct{} // callbacks wait for it; closed by the test
	published int
	successor chan reception // of the client that took over the ID, or nil
	stopped   bool           // the hub was shut down
	left      bool           // Client.Close was called
}

// require checks the result of a call for the client.
func (s *scene) require(err error) {
	s.t.Helper()
	if s.left {
		require.ErrorIs(s.t, err, websocket.ErrClientClosed)
	} else {
		require.NoError(s.t, err)
	}
}

func (s *scene) publish(n, size int) {
	s.t.Helper()
	for range n {
		require.NoError(s.t, s.hub.PublishToChannelRaw("news", numbered(s.published, size)))
		s.published++
	}
	synctest.Wait()
}

// states are the states of a client when its connection ends.
var states = []struct {
	name   string
	window int
	reach  func(s *scene)
}{
	{"idle", 1 << 16, func(*scene) {}},
	{"held in onConnect", 1 << 16, func(s *scene) { s.publish(5, 50) }},
	{"in onMessage", 1 << 16, func(s *scene) {
		require.NoError(s.t, s.peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"block"}`)))
		s.publish(5, 50)
	}},
	{"backlogged", 300, func(s *scene) { s.publish(20, 100) }},
	{"backlogged and closing", 300, func(s *scene) {
		s.publish(20, 100)
		require.NoError(s.t, s.client.Close(4000, "first"))
		s.left = true
		synctest.Wait()
	}},
	{"with a short write", 1 << 16, func(s *scene) {
		s.peer.server.Faults().Short(1)
		s.publish(5, 50)
	}},
}

// endings are the ways to end a connection.
var endings = []struct {
	name   string
	end    func(s *scene)
	whole  bool  // the peer must get all earlier publications
	codes  []int // allowed codes of the hub's Close frame; 0 is none
	silent bool  // the peer neither reads nor writes any more
}{
	{name: "Close", end: func(s *scene) { s.require(s.client.Close(4001, "bye")) }, whole: true, codes: []int{4001}},
	{name: "Close twice", end: func(s *scene) {
		s.require(s.client.Close(4001, "bye"))
		require.ErrorIs(s.t, s.client.Close(4002, "bye again"), websocket.ErrClientClosed)
	}, whole: true, codes: []int{4001}},
	{name: "Close from many goroutines", end: func(s *scene) {
		for range 20 {
			go func() { _ = s.client.Close(4001, "bye") }()
		}
	}, whole: true, codes: []int{4001}},
	{name: "Close from both sides", end: func(s *scene) {
		go func() {
			_ = s.peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{})
		}()
		if err := s.client.Close(4001, "bye"); err != nil { // the peer may have been first
			require.ErrorIs(s.t, err, websocket.ErrClientClosed)
		}
	}, codes: []int{4001, 1000}},
	{name: "peer closes", end: func(s *scene) {
		require.NoError(s.t, s.peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{}))
	}, codes: []int{1000}},
	{name: "peer ends", end: func(s *scene) { _ = s.peer.client.Close() }, codes: []int{0}},
	{name: "reset", end: func(s *scene) { s.peer.client.Reset() }, codes: []int{0}},
	{name: "write error", end: func(s *scene) {
		s.peer.server.Faults().Fail(syscall.EPIPE)
		s.publish(1, 1)
	}, codes: []int{0}},
	{name: "eviction", end: func(s *scene) {
		s.peer.server.SetWindow(1)
		s.publish(20, 2000)
	}, codes: []int{websocket.CloseTryAgainLater}},
	{name: "shutdown", end: func(s *scene) {
		s.stopped = true
		go func() { _ = s.hub.Shutdown(context.Background()) }()
	}, whole: true, codes: []int{websocket.CloseGoingAway}},
	{name: "takeover", end: func(s *scene) {
		s.successor = make(chan reception, 1)
		peer := s.hub.connect(1<<16, withID("alice"))
		go func() { s.successor <- readToEnd(peer) }()
	}, whole: true, codes: []int{websocket.CloseReplaced}},
	{name: "bad key", end: func(s *scene) {
		require.ErrorIs(s.t, s.client.SetEncryptionKey([]byte("short")), websocket.ErrInvalidKey)
	}, codes: []int{websocket.ClosePolicyViolation}},
	{name: "expiry", end: func(s *scene) { s.require(s.client.SetExpiry(time.Now())) }, whole: true, codes: []int{websocket.CloseUnauthorized}},
	{name: "silence", end: func(*scene) {}, silent: true},
}

// TestEveryEndingInEveryState ends connections in every way and in every state.
// Callbacks must run once and in order, all losses must be counted, and no resource
// may be left.
func TestEveryEndingInEveryState(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, state := range states {
			for _, ending := range endings {
				t.Run(state.name+"/"+ending.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newScene(t, p, state.name == "held in onConnect", state.window)
						state.reach(s)
						before := s.published
						ending.end(s)
						whole, codes := ending.whole, ending.codes
						if state.name == "backlogged and closing" && codes != nil && codes[0] != 0 {
							codes = []int{4000} // the first Close decides
						}
						s.finish(ending.silent, func(r reception) {
							require.Contains(t, codes, r.code, "%v", r.err)
							if whole {
								require.Len(t, r.numbers, before, "%v", r.err)
							}
						})
					})
				})
			}
		}
	})
}

func newScene(t *testing.T, p path, hold bool, window int) *scene {
	s := &scene{t: t, lives: newLives(), gate: make(chan struct{})}
	config := websocket.DefaultConfig
	config.ClientID = byID
	config.DuplicateID = websocket.ReplaceDuplicate
	config.MaxMessageSize, config.ClientBacklog = 1000, 20_000
	var held atomic.Bool
	s.hub = startFake(t, p, config, s.gate, func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) {
			s.lives.connect(c)
			_ = c.Subscribe("news")
			_ = c.JoinRoom("room")
			if hold && !held.Swap(true) {
				<-s.gate
			}
		}, func(c *websocket.Client) {
			s.lives.disconnect(c)
			if err := c.Subscribe("late"); !errors.Is(err, websocket.ErrClientClosed) && !errors.Is(err, websocket.ErrHubClosed) {
				t.Errorf("Subscribe in onDisconnect: %v, want an error", err)
			}
			if c.CloseError() == nil {
				t.Error("CloseError is nil in onDisconnect")
			}
		}, func(c *websocket.Client, m *websocket.Message) {
			s.lives.message(c, m)
			if m.Type == "block" {
				<-s.gate
			}
		})
	})
	server, client := testnet.Pair(window)
	ws, _, err := s.hub.dial(server, client, withID("alice"))
	require.NoError(t, err)
	s.peer = &fakePeer{ws, server, client}
	synctest.Wait()
	s.client = s.lives.all()[0]
	return s
}

// finish waits until the connection has ended. It checks that nothing is left, and
// calls check unless the peer is silent.
func (s *scene) finish(silent bool, check func(reception)) {
	s.t.Helper()
	synctest.Wait()
	received := make(chan reception, 1)
	if !silent {
		time.Sleep(500 * time.Millisecond)
		go func() { received <- readToEnd(s.peer) }()
	}
	time.Sleep(3 * time.Second)
	close(s.gate)
	time.Sleep(2 * time.Minute)
	n := 1
	if s.successor != nil {
		n++
		for c := range s.hub.Clients() {
			require.NotSame(s.t, s.client, c)
			_ = c.Close(1000, "")
		}
		synctest.Wait()
		require.Equal(s.t, 1000, (<-s.successor).code)
	}
	want := websocket.ErrClientClosed
	if s.stopped {
		want = websocket.ErrHubClosed
	}
	s.hub.requireAllEnded(s.lives, n, want)
	if !silent {
		r := <-received
		for i, n := range r.numbers {
			require.Equal(s.t, i, n, "a message is missing, repeated or out of order")
		}
		check(r)
	}
	if s.stopped {
		require.NoError(s.t, <-s.hub.ran)
	} else {
		s.hub.stop()
	}
	_ = s.peer.Close()
}

// TestClosingPeerThatDoesNotReadIsDisconnected has a peer that sends a Close frame
// while the hub's write to it is incomplete. If the peer does not read the rest, its
// connection ends after CloseLinger.
func TestClosingPeerThatDoesNotReadIsDisconnected(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan time.Time, 1)
			hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe("news") }, func(*websocket.Client) { ended <- time.Now() }, nil)
			})
			peer := hub.connect(300, nil)
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(0, 1000)))
			synctest.Wait()
			time.Sleep(1500 * time.Millisecond)
			start := time.Now()
			require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{}))
			require.Equal(t, websocket.CloseLinger, (<-ended).Sub(start))
			_ = peer.Close()
			synctest.Wait()
			requireSums(t, hub.Hub)
			hub.stop()
		})
	})
}

// TestKeyChangeDoesNotAffectBacklog changes keys while messages wait. The hub must
// seal these with the old key, and only later messages with the new key.
func TestKeyChangeDoesNotAffectBacklog(t *testing.T) {
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	onBothPaths(t, func(t *testing.T, p path) {
		for _, window := range []int{200, 300, 1000} {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
					h.SetCallbacks(func(c *websocket.Client) {
						l.connect(c)
						_ = c.SetEncryptionKey(key(0))
						_ = c.Subscribe("news")
					}, l.disconnect, l.message)
				})
				peer := hub.connect(window, nil)
				const each, keys = 7, 4
				for k := range byte(keys) {
					if k > 0 {
						require.NoError(t, l.all()[0].SetEncryptionKey(key(k)))
					}
					for i := range each {
						require.NoError(t, hub.PublishToChannelRaw("news", numbered(int(k)*each+i, 20*i)))
					}
					if k%2 == 0 {
						synctest.Wait()
					}
				}
				require.NoError(t, l.all()[0].SetEncryptionKey(nil))
				require.NoError(t, hub.PublishToChannelRaw("news", numbered(keys*each, 0)))
				for i := range keys*each + 1 {
					opcode, b, err := peer.ReadMessage()
					require.NoError(t, err)
					if i < keys*each {
						require.Equal(t, gorilla.BinaryMessage, opcode)
						b, err = websocket.Decrypt(b, key(byte(i/each)))
						require.NoError(t, err, "message %d", i)
					}
					require.Contains(t, string(b), fmt.Sprintf(`"n":%d,`, i))
				}
				_ = peer.Close()
				hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
				hub.stop()
			})
		}
	})
}

// tinyBuffers gives accepted connections the smallest send buffer of the kernel, so
// that most writes are short or accept nothing.
type tinyBuffers struct{ net.Listener }

func (l tinyBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(1)
	}
	return c, err
}

// TestTinySocketBuffers sends large messages over TCP connections with small
// buffers while signals interrupt the system calls.
func TestTinySocketBuffers(t *testing.T) {
	const (
		messages = 200
		clients  = 4
	)
	stopSignals := interruptions(t)
	defer stopSignals()
	l := newLives()
	hub := websocket.NewHub(quietLogger{}, websocket.Config{ClientBacklog: 64 << 20})
	subscribed := make(chan error, clients)
	hub.SetCallbacks(func(c *websocket.Client) { l.connect(c); subscribed <- c.Subscribe("news") }, l.disconnect, l.message)
	ran, served := make(chan error, 1), make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	go func() { served <- hub.Serve(tinyBuffers{listener}, hub.Handler()) }()

	dialer := gorilla.Dialer{NetDial: func(network, addr string) (net.Conn, error) {
		c, err := net.Dial(network, addr)
		if err == nil {
			_ = c.(*net.TCPConn).SetReadBuffer(8 << 10)
		}
		return c, err
	}}
	var readers sync.WaitGroup
	got := make([]reception, clients)
	for i := range clients {
		ws, _, err := dialer.Dial("ws://"+listener.Addr().String(), nil)
		require.NoError(t, err)
		readers.Go(func() { got[i] = readToEnd(&fakePeer{Conn: ws}) })
	}
	for range clients {
		require.NoError(t, <-subscribed)
	}
	for i := range messages {
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, i*37%8_000)))
	}
	for _, c := range l.all() {
		require.NoError(t, c.Close(4001, "all"))
	}
	readers.Wait()
	for _, r := range got {
		require.Len(t, r.numbers, messages, "%v", r.err)
		for i, n := range r.numbers {
			require.Equal(t, i, n)
		}
		require.Equal(t, 4001, r.code)
	}
	require.NoError(t, hub.Shutdown(context.Background()))
	require.NoError(t, <-ran)
	require.ErrorIs(t, <-served, http.ErrServerClosed)
	l.requireComplete(t, clients)
	requireSums(t, hub)
}

// TestResetOnTCP resets TCP connections while the hub writes to them.
func TestResetOnTCP(t *testing.T) {
	b := setup(t, websocket.DefaultConfig, options{onConnect: func(c *websocket.Client) { _ = c.Subscribe("news") }})
	for i := range 20 {
		p, c := b.connect(t, dialing{})
		for range 30 {
			require.NoError(t, b.hub.PublishToChannelRaw("news", numbered(0, 20_000)))
		}
		if i%2 == 0 {
			_, _, _ = p.ReadMessage()
		}
		require.NoError(t, p.tap.Conn.(*net.TCPConn).SetLinger(0))
		require.NoError(t, p.Close())
		require.Same(t, c, b.disconnected.take(t))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, b.hub.Shutdown(ctx))
	requireSums(t, b.hub)
}
