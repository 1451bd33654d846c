package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// leavings are the ways in which a connection leaves its open state. The peer neither
// reads nor answers afterwards.
var leavings = []struct {
	name string
	code int
	end  func(t *testing.T, hub *fakeHub, c *websocket.Client, peer *fakePeer)
}{
	{"Client.Close", 4000, func(t *testing.T, _ *fakeHub, c *websocket.Client, _ *fakePeer) {
		require.NoError(t, c.Close(4000, "bye"))
	}},
	{"Client.Close with a backlog", 4000, func(t *testing.T, hub *fakeHub, c *websocket.Client, peer *fakePeer) {
		peer.server.SetWindow(1)
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(1, 2000)))
		require.NoError(t, c.Close(4000, "bye"))
	}},
	{"expiry", websocket.CloseUnauthorized, func(t *testing.T, _ *fakeHub, c *websocket.Client, _ *fakePeer) {
		require.NoError(t, c.SetExpiry(time.Now()))
	}},
	{"eviction", websocket.CloseTryAgainLater, func(t *testing.T, hub *fakeHub, _ *websocket.Client, peer *fakePeer) {
		peer.server.SetWindow(1)
		for i := range 20 {
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 1000)))
		}
	}},
	{"silence", websocket.CloseTimeout, func(*testing.T, *fakeHub, *websocket.Client, *fakePeer) {
		time.Sleep(2 * time.Minute)
	}},
	{"no progress", websocket.CloseAbnormalClosure, func(t *testing.T, hub *fakeHub, _ *websocket.Client, peer *fakePeer) {
		peer.server.SetWindow(0)
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(1, 1000)))
		time.Sleep(20 * time.Second)
	}},
	{"broken rule", websocket.CloseProtocolError, func(t *testing.T, _ *fakeHub, _ *websocket.Client, peer *fakePeer) {
		_, err := peer.client.Write([]byte{0xff, 0xff})
		require.NoError(t, err)
	}},
	{"bad key", websocket.ClosePolicyViolation, func(t *testing.T, _ *fakeHub, c *websocket.Client, _ *fakePeer) {
		err := c.SetEncryptionKey([]byte("short"))
		require.ErrorIs(t, err, websocket.ErrInvalidKey)
		require.EqualError(t, err, "websocket: invalid key: AES key is 5 bytes, want 32")
	}},
	{"write error", websocket.CloseAbnormalClosure, func(t *testing.T, hub *fakeHub, _ *websocket.Client, peer *fakePeer) {
		peer.server.Faults().Fail(context.DeadlineExceeded)
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(1, 10)))
	}},
	{"peer's Close frame", 1000, func(t *testing.T, _ *fakeHub, _ *websocket.Client, peer *fakePeer) {
		require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{}))
	}},
	{"peer's end", websocket.CloseAbnormalClosure, func(_ *testing.T, _ *fakeHub, _ *websocket.Client, peer *fakePeer) {
		_ = peer.client.Close()
	}},
}

// A connection that leaves its open state has left the hub at that moment, whatever
// the socket still has to do.
func TestAnEndingConnectionHasLeft(t *testing.T) {
	for _, leaving := range leavings {
		t.Run(leaving.name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.ClientID = func(r *http.Request) (string, error) { return r.Header.Get("X-Id"), nil }
					config.ClientBacklog, config.MaxMessageSize = 5000, 4000
					left := map[string]int{}
					config.OnConnect = func(c *websocket.Client) { _ = c.Subscribe("news"); _ = c.JoinRoom("lobby") }
					config.OnLeave = func(_ *websocket.Client, topic websocket.Topic) { left[topic.Name]++ }
					disconnected := false
					config.OnDisconnect = func(c *websocket.Client) {
						require.Equal(t, []string{"news"}, c.Channels())
						require.Equal(t, []string{"lobby"}, c.Rooms())
						disconnected = true
					}
					hub := startFake(t, p, config, nil, func(*websocket.Hub) {})
					peer := hub.connect(1<<16, http.Header{"X-Id": {"alice"}})
					c := onlyClient(t, hub)
					if leaving.code != websocket.CloseTimeout { // keep the scene short
						synctest.Wait()
					}
					leaving.end(t, hub, c, peer)
					synctest.Wait() // no time passes

					require.Equal(t, leaving.code, websocket.CloseStatus(c.CloseError()), "%v", c.CloseError())
					require.ErrorIs(t, c.Context().Err(), context.Canceled)
					require.ErrorIs(t, c.Send(&websocket.Message{}), websocket.ErrClientClosed)
					require.ErrorIs(t, c.Subscribe("x"), websocket.ErrClientClosed)
					require.ErrorIs(t, c.JoinRoom("x"), websocket.ErrClientClosed)
					require.ErrorIs(t, c.Unsubscribe("news"), websocket.ErrClientClosed)
					require.ErrorIs(t, c.Close(0, ""), websocket.ErrClientClosed)
					require.Empty(t, channelsOf(hub.Hub))
					require.Empty(t, roomsOf(hub.Hub))
					require.Equal(t, map[string]int{"news": 1, "lobby": 1}, left)
					require.Zero(t, hub.Stats().ActiveConnections)
					_, found := hub.Client(c.ID)
					require.False(t, found)
					for range hub.Clients() {
						require.Fail(t, "a client that has left is listed")
					}
					second := hub.connect(1<<16, http.Header{"X-Id": {"alice"}})
					_ = second.Close()

					time.Sleep(time.Minute)
					synctest.Wait()
					require.True(t, disconnected)
					st := requireSums(t, hub.Hub)
					require.Zero(t, st.HeldBytes)
					hub.stop()
				})
			})
		})
	}
}

// Shutdown cancels the context of a callback that runs. It does not wait for
// DrainTimeout and CallbackTimeout.
func TestShutdownCancelsCallbacks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.OnMessage = func(c *websocket.Client, _ *websocket.Message) { <-c.Context().Done() }
		hub := startFake(t, paths[0], config, nil, func(*websocket.Hub) {})
		peer := hub.connect(1<<16, nil)
		require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"tokens"}`)))
		synctest.Wait()
		start := time.Now()
		go func() { _, _, _ = peer.ReadMessage(); _ = peer.Close() }() // ends with the Close frame
		require.NoError(t, hub.Shutdown(context.Background()))
		require.Less(t, time.Since(start), 2*time.Second)
		require.NoError(t, <-hub.ran)
	})
}

// A callback that sends until its client has gone ends soon after the client has gone,
// although the hub does not read from the client meanwhile.
func TestPeerEndsDuringCallback(t *testing.T) {
	ends := map[string]func(t *testing.T, peer *fakePeer){
		"FIN":   func(_ *testing.T, peer *fakePeer) { _ = peer.client.Close() },
		"reset": func(_ *testing.T, peer *fakePeer) { peer.client.Reset() },
		"Close frame": func(t *testing.T, peer *fakePeer) {
			require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(4002, "enough"), time.Time{}))
		},
		"messages and a Close frame": func(t *testing.T, peer *fakePeer) {
			for i := range 3 {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(fmt.Sprintf(`{"type":"later %d"}`, i))))
			}
			require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(4002, "enough"), time.Time{}))
		},
		"messages and a FIN": func(t *testing.T, peer *fakePeer) {
			for i := range 3 {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(fmt.Sprintf(`{"type":"later %d"}`, i))))
			}
			_ = peer.client.Close()
		},
		"a lot and a FIN": func(t *testing.T, peer *fakePeer) {
			for range 60 {
				require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(fmt.Sprintf(`{"type":"later","data":"%01000d"}`, 0))))
			}
			_ = peer.client.Close()
		},
	}
	for name, end := range ends {
		for _, when := range []string{"at once", "later"} {
			t.Run(name+" "+when, func(t *testing.T) {
				onBothPaths(t, func(t *testing.T, p path) {
					synctest.Test(t, func(t *testing.T) {
						var types []string
						var sent int
						var ended time.Time
						config := websocket.DefaultConfig
						config.OnMessage = func(c *websocket.Client, m *websocket.Message) {
							types = append(types, m.Type)
							if m.Type != "tokens" {
								return
							}
							for c.Context().Err() == nil && c.Send(&websocket.Message{}) == nil {
								sent++
								time.Sleep(50 * time.Millisecond)
							}
							ended = time.Now()
						}
						hub := startFake(t, p, config, nil, func(*websocket.Hub) {})
						peer := hub.connect(1<<17, nil)
						c := onlyClient(t, hub)
						require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"tokens"}`)))
						if when == "later" {
							time.Sleep(10*time.Second + 25*time.Millisecond) // between two writes
						}
						start := time.Now()
						end(t, peer)
						time.Sleep(3 * time.Second)
						synctest.Wait()
						if len(types) == 0 {
							require.Equal(t, "reset", name, "only a reset may discard the first message")
							ended = start
						}
						require.False(t, ended.IsZero(), "the callback goes on")
						require.LessOrEqual(t, ended.Sub(start), 2*time.Second)
						require.Error(t, c.CloseError())
						if when == "later" {
							require.Greater(t, sent, 100)
						}
						if name == "messages and a Close frame" || name == "messages and a FIN" && when == "later" {
							require.Equal(t, []string{"tokens", "later 0", "later 1", "later 2"}, types, "messages before the end are handled")
						}
						if name == "Close frame" {
							require.Equal(t, &websocket.CloseError{Code: 4002, Reason: "enough", ByPeer: true}, closeErrorOf(c))
						}
						_ = peer.Close()
						time.Sleep(time.Minute)
						hub.stop()
						requireSums(t, hub.Hub)
					})
				})
			})
		}
	}
}

// Clients that flood the hub and leave are no members any more, although their input
// has not been read.
func TestNoGhostsAfterAFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients = 20
		hub := startFake(t, paths[0], websocket.DefaultConfig, nil, func(*websocket.Hub) {})
		var peers []*fakePeer
		for range clients {
			peers = append(peers, hub.connect(1<<20, nil))
		}
		start := time.Now()
		for time.Since(start) < 5*time.Second {
			for _, peer := range peers {
				if peer.server.Pending() > 1<<19 {
					continue
				}
				for range 500 {
					_ = peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"a"}}`))
					_ = peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"unsubscribe","data":{"channel":"a"}}`))
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		for _, peer := range peers {
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"a"}}`)))
			_ = peer.client.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, hub.Stats().ActiveConnections)
		require.Empty(t, channelsOf(hub.Hub))
		hub.stop()
	})
}
