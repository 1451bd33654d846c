package websocket_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestClose(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		code   int
		reason string
		want   websocket.CloseError
	}{
		{"zero means normal", 0, "", websocket.CloseError{Code: 1000}},
		{"with a reason", 1012, "back in a moment", websocket.CloseError{Code: 1012, Reason: "back in a moment"}},
		{"code of the application", 4001, "", websocket.CloseError{Code: 4001}},
		{"long reason", 1000, strings.Repeat("é", 100), websocket.CloseError{Code: 1000, Reason: strings.Repeat("é", 61)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{})
			p, c := b.connect(t, dialing{codec: "protobuf"})
			for i := range 50 {
				require.NoError(t, c.Send(&websocket.Message{Type: fmt.Sprint(i)}))
			}
			require.NoError(t, c.Close(tt.code, tt.reason))
			_ = c.Send(&websocket.Message{Type: "after Close"}) // not delivered, even if it is accepted
			for i := range 50 {
				require.Equal(t, fmt.Sprint(i), p.read(t).Type)
			}
			require.Equal(t, tt.want.Reason, p.requireClosed(t, tt.want.Code))
			require.Same(t, c, b.disconnected.take(t)) // the peer has sent its Close frame
			require.Equal(t, &tt.want, closeErrorOf(c))
			requireClientEnded(t, c)
		})
	}
	t.Run("codes that may not be sent", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		for _, code := range []int{-1, 1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536 + 1000} {
			require.ErrorIs(t, c.Close(code, ""), websocket.ErrInvalidCloseCode, code)
		}
		p.do(t, wire{Type: "broadcast"})
	})
	t.Run("by the peer", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		p.closeCleanly(t)
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, &websocket.CloseError{Code: 1000, Reason: "bye", ByPeer: true}, closeErrorOf(c))
		require.Contains(t, closeErrorOf(c).Error(), "peer")
	})
	t.Run("by the peer without a code", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		require.NoError(t, p.WriteControl(gorilla.CloseMessage, nil, time.Now().Add(patience)))
		p.requireClosed(t, gorilla.CloseNoStatusReceived)
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, &websocket.CloseError{Code: websocket.CloseNoStatusReceived, ByPeer: true}, closeErrorOf(c))
	})
	t.Run("connection lost", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		require.NoError(t, p.Conn.Close())
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
		requireClientEnded(t, c)
		require.ErrorIs(t, b.hub.SendToClient(c.ID, &websocket.Message{}), websocket.ErrClientNotFound)
		_, ok := b.hub.Client(c.ID)
		require.False(t, ok)
	})
	t.Run("in onConnect", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{onConnect: func(c *websocket.Client) {
			_ = c.Send(&websocket.Message{Type: "sorry"})
			_ = c.Close(websocket.CloseForbidden, "not allowed")
		}})
		p, c := b.connect(t, dialing{})
		require.Equal(t, "sorry", p.read(t).Type)
		require.Equal(t, "not allowed", p.requireClosed(t, websocket.CloseForbidden))
		require.Same(t, c, b.disconnected.take(t))
	})
	t.Run("with unread input", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			_ = c.Close(4000, "enough")
		}})
		p, _ := b.connect(t, dialing{})
		for range 200 { // closing a socket with unread input resets it, which would lose the Close frame
			p.send(t, wire{Type: "flood", Data: []byte(`"` + strings.Repeat("x", 1000) + `"`)})
		}
		require.Equal(t, "enough", p.requireClosed(t, 4000))
	})
}

// gate is a codec whose encoder waits, which blocks a hub goroutine. The encoder sends
// on enter and receives from leave; the test closes leave.
type gate struct {
	websocket.JSONCodec
	enter, leave chan struct{}
}

func (*gate) Name() string { return "gate" }
func (*gate) Index() int   { return 99 }

func (g *gate) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	g.enter <- struct{}{}
	<-g.leave
	return g.JSONCodec.AppendMarshal(dst, m)
}

// A peer closes while the hub goroutine is blocked and has not yet ended the hold of
// onConnect. The peer still receives the hub's Close frame.
func TestPeerClosesWhileHubIsBusy(t *testing.T) {
	t.Parallel()
	g := &gate{enter: make(chan struct{}), leave: make(chan struct{})}
	config := websocket.DefaultConfig
	config.Shards = 1
	config.Codecs = []websocket.Codec{websocket.JSONCodec{}, g}
	config.Subprotocols = nil
	b := setup(t, config, options{})
	slow := b.handshake(t, "", http.Header{"Sec-Websocket-Protocol": {"gate"}})
	require.Equal(t, 101, slow.StatusCode)
	require.NoError(t, b.connected.take(t).Send(&websocket.Message{}))
	await(t, g.enter)

	p, c := b.connect(t, dialing{})
	closeFrame := gorilla.FormatCloseMessage(4321, "")
	before := b.hub.Stats().BytesReceived
	require.NoError(t, p.WriteControl(gorilla.CloseMessage, closeFrame, time.Now().Add(patience)))
	require.Eventually(t, func() bool { return b.hub.Stats().BytesReceived > before }, patience, time.Millisecond)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	<-tick.C // gives the hub time to close without a Close frame
	close(g.leave)
	p.requireClosed(t, 4321)
	for b.disconnected.take(t) != c {
		runtime.Gosched()
	}
	require.Equal(t, &websocket.CloseError{Code: 4321, ByPeer: true}, closeErrorOf(c))
}

// A callback sends, closes and sends again. The peer receives only the messages from
// before Close, and the code of the first Close.
func TestSendAfterCloseInCallbackIsNotDelivered(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range []string{"onConnect", "onMessage", "Authorize"} {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := startVictim(t, p, hook, nil, func(_ *websocket.Hub, c *websocket.Client) {
						_ = c.Send(&websocket.Message{Type: "message", Data: numbered(0, 1)})
						_ = c.Close(4001, "bye")
						_ = c.Send(&websocket.Message{Type: "message", Data: numbered(1, 1)})
						_ = c.Close(4002, "bye again")
					})
					v.provoke()
					r := readToEnd(v.victim)
					require.Equal(t, []int{0}, r.numbers)
					require.Equal(t, 4001, r.code)
					_ = v.bystander.Close()
					v.requireAllEnded(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// The connection ends after the Close frame, but not while a callback runs.
func TestCallbackDelaysEndOfConnection(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, running := range []time.Duration{0, 10 * time.Second} {
			t.Run(running.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.OnMessage = func(c *websocket.Client, _ *websocket.Message) {
						_ = c.Close(4001, "enough")
						time.Sleep(running)
					}
					hub := runFake(t, p, config)
					defer hub.stop()
					peer := hub.connect(1<<16, nil)
					peer.SetCloseHandler(func(int, string) error { return nil }) // does not answer
					require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`)))
					start := time.Now()
					code, _ := closeCode(t, peer)
					require.Equal(t, 4001, code)
					require.Zero(t, time.Since(start))
					_, err := peer.client.Read(make([]byte, 1))
					require.ErrorIs(t, err, io.EOF)
					require.Equal(t, max(running, websocket.CloseLinger), time.Since(start))
					require.NoError(t, peer.Close())
				})
			})
		}
	})
}

// CloseError.Err is set if the hub's Close frame could not be written.
func TestCloseErrorReportsUnwrittenCloseFrame(t *testing.T) {
	config := websocket.DefaultConfig
	config.MaxMessageSize, config.ClientBacklog = 1000, 10_000
	run := func(t *testing.T, p path, window int, end func(*fakeHub, *fakePeer)) *websocket.CloseError {
		var ce *websocket.CloseError
		synctest.Test(t, func(t *testing.T) {
			ended := map[string]chan *websocket.CloseError{"slow": make(chan *websocket.CloseError, 1), "other": make(chan *websocket.CloseError, 1)}
			hub := runFake(t, p, config, func(h *websocket.Hub) {
				h.SetCallbacks(nil, func(c *websocket.Client) { ended[c.Request().Header.Get("X-Role")] <- closeErrorOf(c) }, nil)
			})
			peer := hub.connect(window, http.Header{"X-Role": {"slow"}})
			other := hub.connect(1<<20, http.Header{"X-Role": {"other"}})
			for range 100 {
				require.NoError(t, hub.Broadcast(bytes.Repeat([]byte("1"), 200)))
				synctest.Wait()
			}
			end(hub, peer)
			ce = <-ended["slow"]
			hub.stop()
			require.Equal(t, &websocket.CloseError{Code: websocket.CloseGoingAway, Reason: "server is shutting down"}, <-ended["other"])
			_ = peer.Close()
			_ = other.Close()
		})
		return ce
	}
	onBothPaths(t, func(t *testing.T, p path) {
		t.Run("evicted, reads nothing", func(t *testing.T) {
			ce := run(t, p, 500, func(*fakeHub, *fakePeer) {})
			require.Equal(t, websocket.CloseTryAgainLater, ce.Code)
			require.ErrorContains(t, ce.Err, "WriteWait")
			require.ErrorContains(t, ce, ce.Err.Error())
		})
		t.Run("evicted, reads the rest", func(t *testing.T) {
			ce := run(t, p, 500, func(_ *fakeHub, peer *fakePeer) { peer.server.SetWindow(1 << 20) })
			require.Equal(t, websocket.CloseTryAgainLater, ce.Code)
			require.NoError(t, ce.Err)
		})
		t.Run("shutdown, reads nothing", func(t *testing.T) {
			ce := run(t, p, 20_000, func(hub *fakeHub, _ *fakePeer) {
				require.NoError(t, hub.Shutdown(context.Background()))
			})
			require.Equal(t, websocket.CloseGoingAway, ce.Code)
			require.ErrorContains(t, ce.Err, "hub closed before")
		})
		t.Run("closed by the peer, reads nothing", func(t *testing.T) {
			ce := run(t, p, 20_000, func(_ *fakeHub, peer *fakePeer) {
				require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "bye"), time.Time{}))
			})
			require.Equal(t, 1000, ce.Code)
			require.ErrorContains(t, ce.Err, "did not accept")
			require.ErrorContains(t, ce, "closed by peer: 1000 bye; not answered: ")
		})
		t.Run("connection lost", func(t *testing.T) {
			ce := run(t, p, 1<<20, func(_ *fakeHub, peer *fakePeer) { _ = peer.Close() })
			require.Equal(t, websocket.CloseAbnormalClosure, ce.Code)
			require.ErrorIs(t, ce, io.ErrUnexpectedEOF)
			require.Equal(t, io.ErrUnexpectedEOF.Error(), ce.Reason)
		})
	})
}
