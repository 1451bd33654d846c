package websocket_test

import (
	"context"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/stretchr/testify/require"
)

// hibernating is a Config whose connections hibernate after ten seconds of silence, at most
// 12.9, and are not pinged meanwhile.
func hibernating() websocket.Config {
	config := rawConfig()
	config.HibernateAfter = 10 * time.Second
	config.MessageRate, config.ByteRate = -1, -1 // a client has no debt
	config.PongWait = time.Hour
	config.PingPeriod = 0
	return config
}

// longSilence is a silence after which a connection of hibernating hibernates.
const longSilence = 13 * time.Second

// requireHibernating requires that many of the hub's connections hibernate.
func requireHibernating(t *testing.T, h *websocket.Hub, n int) {
	t.Helper()
	synctest.Wait()
	require.EqualValues(t, n, h.Stats().Hibernating)
}

func TestHibernation(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runEcho(t, p, hibernating())
			peer := hub.connect(1<<16, codecHeader(rawText.name))
			awake := runtime.NumGoroutine()
			time.Sleep(1900 * time.Millisecond)
			requireHibernating(t, hub.Hub, 0)
			time.Sleep(1100 * time.Millisecond) // a fifth of 12.5 s, rounded up
			requireHibernating(t, hub.Hub, 1)
			time.Sleep(2 * time.Second) // idle goroutines end
			require.Less(t, runtime.NumGoroutine(), awake)

			require.NoError(t, hub.Broadcast([]byte("to all")))
			_, b, err := peer.ReadMessage()
			require.NoError(t, err)
			require.Equal(t, "to all", string(b))
			requireHibernating(t, hub.Hub, 1)

			send := func(text string) {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(text)))
				_, b, err := peer.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, text, string(b))
			}
			time.Sleep(longSilence)
			for _, text := range []string{"a", strings.Repeat("b", 10_000)} {
				send(text)
				requireHibernating(t, hub.Hub, 1) // again, because the silence was long
				send(text)
				time.Sleep(9 * time.Second)
				requireHibernating(t, hub.Hub, 0)
				time.Sleep(4 * time.Second)
				requireHibernating(t, hub.Hub, 1)
			}
			hub.stop()
			require.Zero(t, hub.Stats().Hibernating)
		})
	})
}

// TestPongsDoNotKeepAwake checks that control frames wake a connection for a moment only.
func TestPongsDoNotKeepAwake(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runEcho(t, p, hibernating())
			peer := hub.connect(1<<16, codecHeader(rawText.name))
			pongs := make(chan string, 1)
			peer.SetPongHandler(func(text string) error { pongs <- text; return nil })
			go keepAlive(peer)
			time.Sleep(longSilence)
			requireHibernating(t, hub.Hub, 1)
			for range 3 {
				require.NoError(t, peer.WriteControl(gorilla.PingMessage, []byte("still there?"), time.Time{}))
				require.Equal(t, "still there?", <-pongs)
				time.Sleep(100 * time.Millisecond) // until the frame is paid for, with the message rate
				requireHibernating(t, hub.Hub, 1)
				time.Sleep(time.Minute)
			}
			hub.stop()
		})
	})
}

// TestUnfinishedInputStaysAwake checks that no connection hibernates in a message.
func TestUnfinishedInputStaysAwake(t *testing.T) {
	message := frameOf(textOp, "he") + pingFrame("") + frameOf(fin, "llo")
	onBothPaths(t, func(t *testing.T, p path) {
		for n := 1; n < len(message); n++ {
			synctest.Test(t, func(t *testing.T) {
				config := hibernating()
				config.MessageTimeout = -1
				hub := runEcho(t, p, config)
				peer := hub.connect(1<<16, codecHeader(rawText.name))
				time.Sleep(longSilence)
				requireHibernating(t, hub.Hub, 1)
				_, err := peer.client.Write([]byte(message[:n]))
				require.NoError(t, err)
				time.Sleep(time.Minute)
				requireHibernating(t, hub.Hub, 0)
				_, err = peer.client.Write([]byte(message[n:]))
				require.NoError(t, err)
				_, b, err := peer.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, "hello", string(b))
				time.Sleep(longSilence)
				requireHibernating(t, hub.Hub, 1)
				hub.stop()
			})
		}
	})
}

func TestHibernationCanBeTurnedOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := hibernating()
		config.HibernateAfter = -1
		hub := runEcho(t, paths[0], config)
		hub.connect(1<<16, nil)
		time.Sleep(30 * time.Minute)
		requireHibernating(t, hub.Hub, 0)
		hub.stop()
	})
	config := websocket.DefaultConfig
	config.HibernateAfter = 5
	require.ErrorContains(t, config.Validate(), "HibernateAfter")
}

// TestEndOfHibernatingConnection ends connections that hibernate in all ways.
func TestEndOfHibernatingConnection(t *testing.T) {
	ends := []struct {
		name string
		end  func(h *fakeHub, c *websocket.Client, p *fakePeer)
		code int
	}{
		{"peer's Close frame", func(_ *fakeHub, _ *websocket.Client, p *fakePeer) {
			_ = p.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(4000, "bye"))
		}, 4000},
		{"peer's end of input", func(_ *fakeHub, _ *websocket.Client, p *fakePeer) { _ = p.Close() }, websocket.CloseAbnormalClosure},
		{"reset", func(_ *fakeHub, _ *websocket.Client, p *fakePeer) { p.client.Reset() }, websocket.CloseAbnormalClosure},
		{"Close", func(_ *fakeHub, c *websocket.Client, _ *fakePeer) { _ = c.Close(4001, "go") }, 4001},
		{"expiry", func(_ *fakeHub, c *websocket.Client, _ *fakePeer) {
			_ = c.SetExpiry(time.Now().Add(time.Minute))
			time.Sleep(time.Minute)
		}, websocket.CloseUnauthorized},
		{"silence", func(_ *fakeHub, _ *websocket.Client, p *fakePeer) {
			p.server.Silence()
			time.Sleep(2 * time.Hour)
		}, websocket.CloseTimeout},
		{"a protocol error", func(_ *fakeHub, _ *websocket.Client, p *fakePeer) { _, _ = p.client.Write([]byte{0x81, 0}) }, websocket.CloseProtocolError},
		{"shutdown", func(h *fakeHub, _ *websocket.Client, _ *fakePeer) { _ = h.Shutdown(context.Background()) }, websocket.CloseGoingAway},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					hub := startFake(t, p, hibernating(), nil, func(h *websocket.Hub) { l.watch(h) })
					peer := hub.connect(1<<16, codecHeader(rawText.name))
					c := onlyClient(t, hub)
					time.Sleep(longSilence)
					requireHibernating(t, hub.Hub, 1)
					if tt.name != "silence" {
						go keepAlive(peer)
					}
					tt.end(hub, c, peer)
					time.Sleep(10 * time.Second)
					requireHibernating(t, hub.Hub, 0)
					require.Equal(t, tt.code, websocket.CloseStatus(c.CloseError()))
					require.Error(t, c.Context().Err())
					l.requireComplete(t, 1)
					hub.stop()
				})
			})
		})
	}
}

// TestHibernationOnSockets sends messages of all sizes on real sockets, with pauses in
// which the connection hibernates, and with pauses between parts of a message.
func TestHibernationOnSockets(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux connections on sockets hibernate")
	}
	for _, tls := range []bool{false, true} {
		t.Run(map[bool]string{false: "TCP", true: "TLS"}[tls], func(t *testing.T) {
			config := websocket.DefaultConfig
			config.HibernateAfter = time.Millisecond
			b := setup(t, config, options{tls: tls})
			p, _ := b.connect(t, dialing{})
			slept := 0
			for i := range 60 {
				for range i % 3 {
					p.send(t, wire{Type: "own", Data: []byte(strings.Repeat("x", 1000*i))}) // TLS puts 16 KiB into a record
				}
				for range i % 3 {
					require.Len(t, b.messages.take(t).message.Data, 1000*i)
				}
				if i%4 == 0 {
					require.Eventually(t, func() bool { return b.hub.Stats().Hibernating == 1 }, patience, time.Millisecond)
					slept++
				}
			}
			require.Positive(t, slept)
			p.closeCleanly(t)
			b.disconnected.take(t)
		})
	}
}

// TestSlowCodecDelaysNoOtherClient has a codec that does not return while it encodes for a
// hibernating client, which sends a message. Another client must wake all the same.
func TestSlowCodecDelaysNoOtherClient(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux connections on sockets hibernate")
	}
	gate := newGateCodec()
	config := gate.config()
	config.HibernateAfter = 10 * time.Millisecond
	b := setup(t, config, options{})
	slow, c := b.connect(t, dialing{header: http.Header{"X-Test-ID": {"slow"}}})
	other, _ := b.connect(t, dialing{header: http.Header{"X-Test-ID": {"other"}}})
	require.Eventually(t, func() bool { return b.hub.Stats().Hibernating == 2 }, patience, time.Millisecond)
	require.NoError(t, c.Send(&websocket.Message{Type: "gate"}))
	await(t, gate.entered)
	slow.send(t, wire{Type: "own"})
	require.Eventually(t, func() bool { return b.hub.Stats().Hibernating == 1 }, patience, time.Millisecond)
	other.send(t, wire{Type: "own"})
	require.Equal(t, "other", b.messages.take(t).client.ID)
	close(gate.open)
	require.Equal(t, "slow", b.messages.take(t).client.ID)
}

// TestInputReadAheadIsNoticed has a callback that runs for so long that the hub reads ahead. The
// next messages must be handled, although the client was silent before.
func TestInputReadAheadIsNoticed(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			returned := 0
			hub := runFake(t, p, hibernating(), func(h *websocket.Hub) {
				h.SetCallbacks(nil, nil, func(*websocket.Client, *websocket.Message) {
					time.Sleep(time.Second) // four times the interval of the callbackWatch
					returned++
				})
			})
			peer := hub.connect(1<<16, codecHeader(rawText.name))
			time.Sleep(longSilence)
			requireHibernating(t, hub.Hub, 1)
			for i := range 3 {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte("x")))
				time.Sleep(2 * time.Second)
				synctest.Wait()
				require.Equal(t, i+1, returned)
			}
			hub.stop()
		})
	})
}

// TestSilentPeerAfterMessage has a peer that falls silent for ever behind a message that has
// woken its connection.
func TestSilentPeerAfterMessage(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runEcho(t, p, hibernating())
			peer := hub.connect(1<<16, codecHeader(rawText.name))
			c := onlyClient(t, hub.fakeHub)
			time.Sleep(longSilence)
			requireHibernating(t, hub.Hub, 1)
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte("x")))
			_, _, err := peer.ReadMessage()
			require.NoError(t, err)
			requireHibernating(t, hub.Hub, 1)
			peer.server.Silence()
			time.Sleep(2 * time.Hour) // PongWait is one hour
			require.Equal(t, websocket.CloseTimeout, websocket.CloseStatus(c.CloseError()))
			hub.stop()
		})
	})
}

// unwatched is a connection that the operating system cannot watch, for example because the
// process has no more descriptors.
type unwatched struct{ *testnet.Conn }

func (unwatched) Watch(*transport.Watcher, transport.Waker) bool { return false }

func TestConnectionThatCannotBeWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runEcho(t, paths[0], hibernating())
		server, client := testnet.Pair(1 << 16)
		served := hub.acceptOn(unwatched{server})
		ws, _, err := dialOver(client, codecHeader(rawText.name))
		require.NoError(t, err)
		<-served
		for range 3 {
			time.Sleep(longSilence)
			requireHibernating(t, hub.Hub, 0)
			require.NoError(t, ws.WriteMessage(gorilla.TextMessage, []byte("x")))
			_, _, err := ws.ReadMessage()
			require.NoError(t, err)
		}
		hub.stop()
	})
}

// TestHibernationAfterLongCallback has a callback that runs for longer than HibernateAfter,
// so that the hub reads ahead past the read deadline.
func TestHibernationAfterLongCallback(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, hibernating(), func(h *websocket.Hub) {
				h.SetCallbacks(nil, nil, func(c *websocket.Client, m *websocket.Message) {
					if string(m.Data) == "slow" {
						time.Sleep(20 * time.Second)
					}
					_ = c.Send(&websocket.Message{Data: m.Data})
				})
			})
			peer := hub.connect(1<<16, codecHeader(rawText.name))
			for _, text := range []string{"slow", "a", "slow", "b"} {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(text)))
				_, _, err := peer.ReadMessage()
				require.NoError(t, err)
				time.Sleep(30 * time.Minute)
				requireHibernating(t, hub.Hub, 1)
			}
			hub.stop()
		})
	})
}

// TestPeerDoesNotAnswerCloseInCallback closes a client while its callback runs for long. The
// peer does not answer. The end of the wait for it comes while the hub reads ahead.
func TestPeerDoesNotAnswerCloseInCallback(t *testing.T) {
	for _, after := range []time.Duration{-1, 10 * time.Second} {
		onBothPaths(t, func(t *testing.T, p path) {
			synctest.Test(t, func(t *testing.T) {
				config := hibernating()
				config.HibernateAfter = after
				ended := make(chan struct{})
				hub := runFake(t, p, config, func(h *websocket.Hub) {
					h.SetCallbacks(nil, func(*websocket.Client) { close(ended) }, func(*websocket.Client, *websocket.Message) { time.Sleep(10 * time.Second) })
				})
				peer := hub.connect(1<<16, codecHeader(rawText.name))
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte("x")))
				time.Sleep(time.Second)
				require.NoError(t, onlyClient(t, hub).Close(4000, ""))
				time.Sleep(20 * time.Second)
				select {
				case <-ended:
				default:
					require.Fail(t, "the connection has not ended")
				}
				hub.stop()
			})
		})
	}
}
