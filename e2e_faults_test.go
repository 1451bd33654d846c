package websocket_test

import (
	"bufio"
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
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// startFake is runFake for tests whose failure must not hide behind the
// goroutines that they then leave: it ends the hub after opening the gates that
// callbacks wait for.
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

// hubEnd is a fake connection as the hub gets it.
type hubEnd interface {
	net.Conn
	Plain() net.Conn
}

// serveOn serves one handshake on nc as net/http does, panics of handlers
// included. The channel is closed when the handler has returned.
func (f *fakeHub) serveOn(end hubEnd) <-chan struct{} {
	served := make(chan struct{})
	go func() { // ends with the handler
		defer close(served)
		var nc net.Conn = end
		if f.path.plain {
			nc = end.Plain()
		}
		br := bufio.NewReader(nc)
		r, err := http.ReadRequest(br)
		if err != nil {
			_ = nc.Close()
			return
		}
		r.RemoteAddr = "peer.test:1"
		w := &fakeWriter{nc: nc, br: br, header: http.Header{}}
		defer func() {
			if !w.hijacked {
				if recover() == nil {
					w.WriteHeader(http.StatusOK)
				}
				_ = nc.Close()
			}
		}()
		f.Handler().ServeHTTP(w, r)
	}()
	return served
}

// dial shakes hands without waiting for onConnect to return.
func (f *fakeHub) dial(end hubEnd, client *testnet.Conn, header http.Header) (*gorilla.Conn, *http.Response, error) {
	f.serveOn(end)
	return dialOver(client, header)
}

// cutPeer connects a peer whose connection can be cut at the hub's end.
func (f *fakeHub) cutPeer(window int, header http.Header) (*fakePeer, *testnet.CutConn) {
	f.t.Helper()
	server, client := testnet.Pair(window)
	cut := testnet.NewCutConn(server)
	ws, _, err := f.dial(cut, client, header)
	require.NoError(f.t, err)
	return &fakePeer{ws, server, client}, cut
}

// requireClientClosed tries every method of a client whose connection has ended.
func requireClientClosed(t *testing.T, c *websocket.Client, want error) {
	t.Helper()
	require.Error(t, c.CloseError())
	require.Error(t, c.Request().Context().Err(), "the request's context ends with the connection")
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

// requireSums checks the figures of a hub in which nothing waits.
func requireSums(t *testing.T, h *websocket.Hub) websocket.Stats {
	t.Helper()
	st := h.Stats()
	require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total(), "addressed = sent + dropped: %+v", st)
	require.Zero(t, st.HeldBytes, "%+v", st)
	return st
}

// requireSettled checks what must hold when all of n connections have ended.
func (f *fakeHub) requireSettled(l *lives, n int, want error) {
	f.t.Helper()
	synctest.Wait()
	l.requireComplete(f.t, n)
	st := requireSums(f.t, f.Hub)
	require.EqualValues(f.t, n, st.TotalConnections)
	require.Zero(f.t, st.ActiveConnections)
	require.Zero(f.t, st.TotalChannels)
	require.Zero(f.t, st.TotalRooms)
	for range f.Clients() {
		require.Fail(f.t, "a client is left")
	}
	for _, c := range l.all() {
		requireClientClosed(f.t, c, want)
	}
}

// reception is what a peer has read until the end.
type reception struct {
	numbers []int // payloads of messages
	bytes   int
	code    int // of the Close frame, or 0
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

// numbered is a payload of about size bytes.
func numbered(n, size int) []byte {
	return fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, strings.Repeat("x", size))
}

// clientFrame is a masked frame as a client sends it.
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

// byID takes a client's ID from the query.
func byID(r *http.Request) (string, error) {
	if id := r.Header.Get("X-Test-ID"); id != "" {
		return id, nil
	}
	return "anonymous", nil
}

func withID(id string) http.Header { return http.Header{"X-Test-ID": {id}} }

// breaks are the ways in which a peer's connection ends without a Close frame.
var breaks = []struct {
	name string
	end  func(p *testnet.Conn)
}{
	{"end", func(c *testnet.Conn) { _ = c.Close() }},
	{"reset", (*testnet.Conn).Reset},
}

func TestInboundCutAtEveryByte(t *testing.T) {
	var wire []byte
	wire = append(wire, clientFrame(0x01, `{"type":"publish","channel":"news",`)...) // first fragment
	wire = append(wire, clientFrame(0x89, "ping")...)
	wire = append(wire, clientFrame(0x80, `"data":{"n":0},"id":"1"}`)...) // last fragment
	onBothPaths(t, func(t *testing.T, p path) {
		for _, how := range breaks {
			t.Run(how.name, func(t *testing.T) {
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
						how.end(peer.client)
						synctest.Wait()
						c := l.all()[n]
						require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
						require.Equal(t, n == len(wire), l.clients[c].messages == 1, "after %d bytes", n)
						_ = peer.Close()
					}
					hub.requireSettled(l, len(wire)+1, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
	})
}

// gateCodec is JSON that blocks in messages of type "gate", and with them the
// hub goroutine: what is published meanwhile gathers in the log.
type gateCodec struct {
	entered chan struct{} // Marshal sends, the test receives
	open    chan struct{} // closed by the test
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

// config has one shard and only this codec.
func (g *gateCodec) config() websocket.Config {
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{g}
	config.Subprotocols = nil
	config.Shards = 1
	config.ClientID = byID
	return config
}

// shut makes the hub goroutine wait in the codec.
func (g *gateCodec) shut(t *testing.T, h *fakeHub) {
	t.Helper()
	require.NoError(t, h.SendToClient("gatekeeper", &websocket.Message{Type: "gate"}))
	<-g.entered
}

// TestOutboundCutAtEveryByte cuts a write of three messages: one that is made
// for one client alone, and one that is shared.
func TestOutboundCutAtEveryByte(t *testing.T) {
	const messages = 3
	payload := numbered(7, 60)
	frame := 0 // bytes of each
	cuts := []struct {
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
						<-gate.open // its writePump encodes, so this is what makes it one write
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
			// A write error shows in the next write, at the latest in that of a ping.
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
			hub.requireSettled(l, 2+others, websocket.ErrClientClosed)
			hub.stop()
		})
	}
	run(t, paths[0], nil, 0, -1) // to learn the frame's size
	require.Positive(t, frame)
	onBothPaths(t, func(t *testing.T, p path) {
		for _, how := range cuts {
			for others, name := range []string{"alone", "shared"} {
				t.Run(how.name+"/"+name, func(t *testing.T) {
					for at := range messages*frame + 1 {
						run(t, p, how.cut, others, at)
					}
				})
			}
		}
	})
}

// keeperFrame returns the size of the frame that the gatekeeper was sent.
func keeperFrame(t *testing.T, p *fakePeer) int {
	t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(t, err)
	return 2 + len(b)
}

const handshakeRequest = "GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Test-ID: alice\r\n\r\n"

func TestHandshakeCutAtEveryByte(t *testing.T) {
	config := websocket.DefaultConfig
	config.ClientID = byID
	start := func(t *testing.T, p path) (*fakeHub, *lives) {
		l := newLives()
		return startFake(t, p, config, nil, func(h *websocket.Hub) {
			h.SetCallbacks(l.connect, l.disconnect, l.message)
		}), l
	}
	onBothPaths(t, func(t *testing.T, p path) {
		for _, how := range breaks {
			t.Run("request/"+how.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub, l := start(t, p)
					for n := range len(handshakeRequest) {
						server, client := testnet.Pair(1 << 16)
						served := hub.serveOn(server)
						_, err := client.Write([]byte(handshakeRequest[:n]))
						require.NoError(t, err)
						synctest.Wait()
						how.end(client)
						<-served
					}
					hub.requireSettled(l, 0, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
		answer := 0 // bytes
		for n := 0; n == 0 || n <= answer; n++ {
			synctest.Test(t, func(t *testing.T) {
				hub, l := start(t, p)
				shake := func(cut int) int64 {
					server, client := testnet.Pair(1 << 16)
					end := testnet.NewCutConn(server)
					if cut >= 0 {
						end.ResetAfter(cut)
					}
					_, _ = client.Write([]byte(handshakeRequest)) // reset already, with 0
					<-hub.serveOn(end)
					synctest.Wait()
					_ = client.Close()
					synctest.Wait()
					return server.Faults().Written.Load()
				}
				shake(n)
				cut := hub.Stats().TotalConnections
				size := int(shake(-1)) // the ID is free again
				if answer == 0 {
					answer = size
				}
				require.Equal(t, n >= answer, cut == 1, "cut after %d bytes of %d", n, answer)
				hub.requireSettled(l, int(cut)+1, websocket.ErrClientClosed)
				hub.stop()
			})
		}
		require.Greater(t, answer, 100)
	})
}

// TestHandshakeIsBounded has peers that do not read the handshake's answer.
func TestHandshakeIsBounded(t *testing.T) {
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
				served := hub.serveOn(server)
				_, err := client.Write([]byte(handshakeRequest))
				require.NoError(t, err)
				<-served
				require.Equal(t, 10*time.Second, time.Since(start))
				_ = client.Close()
			}
			hub.requireSettled(l, 0, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

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
						require.NoError(t, peer.WriteControl(gorilla.PingMessage, []byte("are you there"), time.Time{}))
					}
				}
				synctest.Wait()
				require.NoError(t, l.all()[0].Close(4001, "enough"))
				r := readToEnd(peer)
				require.Equal(t, []int{0, 1, 2, 3, 4, 5}, r.numbers, "%d bytes a write: %v", n, r.err)
				require.Equal(t, 4001, r.code, "%d bytes a write: %v", n, r.err)
				require.Equal(t, 1, pongs)
				hub.requireSettled(l, 1, websocket.ErrClientClosed)
				total = min(total, int(hub.Stats().BytesSent-before))
				hub.stop()
			})
		}
	})
}

// TestSlowReaderIsNotCut has a peer that takes a few bytes every few seconds:
// WriteWait is about connections that accept nothing, however long a batch of
// messages takes.
func TestSlowReaderIsNotCut(t *testing.T) {
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
			slow := &fakePeer{Conn: gorillaOn(slowConn{peer.client, 700, 8 * time.Second}), client: peer.client}
			r := reception{}
			for range messages {
				_, b, err := slow.ReadMessage()
				if err != nil {
					r.err = err
					break
				}
				r.numbers = append(r.numbers, len(b))
			}
			require.Len(t, r.numbers, messages, "cut although it read all the time: %v; %v", r.err, closeErrorOf(l.all()[0]))
			_ = peer.Close()
			hub.requireSettled(l, 1, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// slowConn reads at most n bytes every pause.
type slowConn struct {
	net.Conn
	n     int
	pause time.Duration
}

func (c slowConn) Read(b []byte) (int, error) {
	time.Sleep(c.pause)
	return c.Conn.Read(b[:min(len(b), c.n)])
}

// gorillaOn is a client on a connection whose handshake is over.
func gorillaOn(nc net.Conn) *gorilla.Conn {
	ours, theirs := net.Pipe()
	go func() { // ends with the answer
		br := bufio.NewReader(theirs)
		r, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		w := &fakeWriter{nc: theirs, br: br, header: http.Header{}}
		_, _ = (&gorilla.Upgrader{}).Upgrade(w, r, nil)
	}()
	both := &switchConn{Conn: ours}
	ws, _, err := dialOver(both, nil)
	if err != nil {
		panic(err)
	}
	_ = ours.Close()
	_ = theirs.Close()
	both.Conn = nc
	return ws
}

type switchConn struct{ net.Conn }

// TestSlowWriterIsNotCut has a peer whose message takes an hour.
func TestSlowWriterIsNotCut(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			l := newLives()
			hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
				h.SetCallbacks(l.connect, l.disconnect, l.message)
			})
			peer := hub.connect(1<<16, nil)
			for _, b := range clientFrame(0x81, `{"type":"hello","data":"and there it goes, byte by byte, for the better part of an hour"}`) {
				time.Sleep(50 * time.Second)
				_, err := peer.client.Write([]byte{b})
				require.NoError(t, err)
			}
			synctest.Wait()
			require.EqualValues(t, 1, hub.Stats().MessagesReceived)
			_ = peer.Close()
			hub.requireSettled(l, 1, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// scene is one client at one moment of its life, to which something happens.
type scene struct {
	t         *testing.T
	hub       *fakeHub
	lives     *lives
	peer      *fakePeer
	client    *websocket.Client
	gate      chan struct{} // closed by the test: callbacks that wait go on
	published int
	newcomer  chan reception // who took the ID over, if anybody did
	stopped   bool           // the hub
}

func (s *scene) publish(n, size int) {
	s.t.Helper()
	for range n {
		require.NoError(s.t, s.hub.PublishToChannelRaw("news", numbered(s.published, size)))
		s.published++
	}
	synctest.Wait()
}

// moments are where in its life a client is when something happens to it.
var moments = []struct {
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
		synctest.Wait()
	}},
	{"with a short write", 1 << 16, func(s *scene) {
		s.peer.server.Faults().Short(1)
		s.publish(5, 50)
	}},
}

// happenings are what may end a connection. After one the peer gets all that was
// published before it, if it says so, and then the code; 0 stands for none.
var happenings = []struct {
	name   string
	happen func(s *scene)
	whole  bool
	codes  []int
	silent bool // the peer does nothing any more
}{
	{name: "Close", happen: func(s *scene) { require.NoError(s.t, s.client.Close(4001, "bye")) }, whole: true, codes: []int{4001}},
	{name: "Close twice", happen: func(s *scene) {
		require.NoError(s.t, s.client.Close(4001, "bye"))
		require.NoError(s.t, s.client.Close(4002, "bye again"))
	}, whole: true, codes: []int{4001}},
	{name: "Close from many goroutines", happen: func(s *scene) {
		for range 20 {
			go func() { _ = s.client.Close(4001, "bye") }()
		}
	}, whole: true, codes: []int{4001}},
	{name: "Close from both sides", happen: func(s *scene) {
		go func() {
			_ = s.peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{})
		}()
		if err := s.client.Close(4001, "bye"); err != nil { // the peer's may have come first
			require.ErrorIs(s.t, err, websocket.ErrClientClosed)
		}
	}, codes: []int{4001, 1000}},
	{name: "peer closes", happen: func(s *scene) {
		require.NoError(s.t, s.peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{}))
	}, codes: []int{1000}},
	{name: "peer ends", happen: func(s *scene) { _ = s.peer.client.Close() }, codes: []int{0}},
	{name: "reset", happen: func(s *scene) { s.peer.client.Reset() }, codes: []int{0}},
	{name: "write error", happen: func(s *scene) {
		s.peer.server.Faults().Fail(syscall.EPIPE)
		s.publish(1, 1)
	}, codes: []int{0}},
	{name: "eviction", happen: func(s *scene) {
		s.peer.server.SetWindow(1)
		s.publish(20, 2000)
	}, codes: []int{websocket.CloseTryAgainLater}},
	{name: "shutdown", happen: func(s *scene) {
		s.stopped = true
		go func() { _ = s.hub.Shutdown(context.Background()) }()
	}, whole: true, codes: []int{websocket.CloseGoingAway}},
	{name: "takeover", happen: func(s *scene) {
		s.newcomer = make(chan reception, 1)
		peer := s.hub.connect(1<<16, withID("alice"))
		go func() { s.newcomer <- readToEnd(peer) }()
	}, whole: true, codes: []int{websocket.CloseReplaced}},
	{name: "bad key", happen: func(s *scene) {
		require.ErrorIs(s.t, s.client.SetEncryptionKey([]byte("short")), websocket.ErrInvalidKey)
	}, codes: []int{websocket.ClosePolicyViolation}},
	{name: "expiry", happen: func(s *scene) { require.NoError(s.t, s.client.SetExpiry(time.Now())) }, whole: true, codes: []int{websocket.CloseUnauthorized}},
	{name: "silence", happen: func(*scene) {}, silent: true},
}

// TestEveryEndAtEveryMoment holds each to the same: callbacks once and in order,
// nothing lost uncounted, nothing left behind.
func TestEveryEndAtEveryMoment(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, at := range moments {
			for _, what := range happenings {
				t.Run(at.name+"/"+what.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := newScene(t, p, at.name == "held in onConnect", at.window)
						at.reach(s)
						before := s.published
						what.happen(s)
						whole, codes := what.whole, what.codes
						if at.name == "backlogged and closing" && codes != nil && codes[0] != 0 {
							codes = []int{4000} // the first reason stays
						}
						s.end(what.silent, func(r reception) {
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
	config.ClientBacklog = 20_000
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
				t.Errorf("its memberships have not ended in onDisconnect: %v", err)
			}
			if c.CloseError() == nil {
				t.Error("no CloseError in onDisconnect")
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

// end lets everything run its course and checks what is left.
func (s *scene) end(silent bool, check func(reception)) {
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
	if s.newcomer != nil {
		n++
		for c := range s.hub.Clients() {
			require.NotSame(s.t, s.client, c)
			_ = c.Close(1000, "")
		}
		synctest.Wait()
		require.Equal(s.t, 1000, (<-s.newcomer).code)
	}
	want := websocket.ErrClientClosed
	if s.stopped {
		want = websocket.ErrHubClosed
	}
	s.hub.requireSettled(s.lives, n, want)
	if !silent {
		r := <-received
		for i, n := range r.numbers {
			require.Equal(s.t, i, n, "in order, none twice and none left out")
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

// TestPeerThatSaysGoodbyeAndReadsNothing has a moment to take what is half
// written, and then its connection is over.
func TestPeerThatSaysGoodbyeAndReadsNothing(t *testing.T) {
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

// TestKeysChangeWhileBacklogged seals what was sent before with the old keys and
// what is sent after with the new ones.
func TestKeysChangeWhileBacklogged(t *testing.T) {
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
				hub.requireSettled(l, 1, websocket.ErrClientClosed)
				hub.stop()
			})
		}
	})
}

// tinyBuffers gives accepted connections the smallest buffers that the kernel
// has, so that most writes are short or take nothing.
type tinyBuffers struct{ net.Listener }

func (l tinyBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetWriteBuffer(1)
	}
	return c, err
}

// TestTinySocketBuffers sends much through little on real TCP while signals
// interrupt the process.
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
	go func() { served <- hub.Serve(tinyBuffers{listener}, nil) }()

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

// TestResetOnRealTCP resets connections in the middle of what they are sent.
func TestResetOnRealTCP(t *testing.T) {
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
