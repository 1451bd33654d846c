package websocket_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// readJSON reads one message of a JSON client.
func readJSON(t *testing.T, p *fakePeer) map[string]any {
	t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

// closeCode reads to the end and returns the code and reason of the Close frame.
func closeCode(t *testing.T, p *fakePeer) (int, string) {
	t.Helper()
	for {
		_, _, err := p.ReadMessage()
		var ce *gorilla.CloseError
		if errors.As(err, &ce) {
			return ce.Code, ce.Text
		}
		require.NoError(t, err)
	}
}

func subscribeAll(channel string) func(*websocket.Hub) {
	return func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe(channel) }, nil, nil)
	}
}

func TestHeartbeat(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig)
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			start := time.Now()
			var pings []time.Duration
			peer.SetPingHandler(func(string) error {
				pings = append(pings, time.Since(start))
				if len(pings) < 3 {
					return peer.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second))
				}
				return nil // silent from here on
			})
			code, reason := closeCode(t, peer)
			require.Equal(t, websocket.CloseTimeout, code)
			require.Contains(t, reason, "no sign of life for 1m")
			require.Equal(t, []time.Duration{54 * time.Second, 108 * time.Second, 162 * time.Second}, pings)
			require.Equal(t, (108+60)*time.Second, time.Since(start))
			_ = peer.Close()
		})
	})
}

func TestAnyByteIsASignOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		peer.SetPingHandler(func(string) error { t.Error("pinged though not silent"); return nil })
		go func() {
			for range 20 {
				time.Sleep(50 * time.Second)
				_ = peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`))
			}
			_ = peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "bye"), time.Time{})
		}()
		code, _ := closeCode(t, peer)
		require.Equal(t, 1000, code)
		_ = peer.Close()
	})
}

func TestStalledReaderIsCutAfterWriteWait(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan *websocket.CloseError, 1)
			hub := runFake(t, p, websocket.DefaultConfig, func(h *websocket.Hub) {
				h.SetCallbacks(nil, func(c *websocket.Client) { ended <- closeErrorOf(c) }, nil)
			})
			defer hub.stop()
			peer := hub.connect(1000, nil)
			start := time.Now()
			require.NoError(t, hub.Broadcast(bytes.Repeat([]byte("1"), 5000)))
			ce := <-ended
			require.Equal(t, websocket.CloseAbnormalClosure, ce.Code)
			require.Contains(t, ce.Reason, "WriteWait")
			cut := time.Since(start)
			require.GreaterOrEqual(t, cut, 10*time.Second)
			require.LessOrEqual(t, cut, 11*time.Second, "the pump looks for progress every second")
			require.EqualValues(t, 1, hub.Stats().Dropped.Disconnected)
			_ = peer.Close()
		})
	})
}

func TestSlowReaderGetsEverythingInOrder(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, window := range []int{1, 2, 7, 100, 4096} {
			synctest.Test(t, func(t *testing.T) {
				hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
				defer hub.stop()
				peer := hub.connect(4096, nil)
				peer.server.SetWindow(window)
				const n = 50
				go func() {
					for i := range n {
						_ = hub.PublishToChannelRaw("news", []byte(fmt.Sprintf(`{"i":%d,"x":"%s"}`, i, strings.Repeat("y", i*3))))
					}
				}()
				for i := range n {
					m := readJSON(t, peer)
					require.EqualValues(t, i, m["data"].(map[string]any)["i"])
				}
				require.EqualValues(t, n, waitSent(hub, n))
				_ = peer.Close()
			})
		}
	})
}

// waitSent lets the hub finish counting and returns messages_sent.
func waitSent(h *fakeHub, n uint64) uint64 {
	synctest.Wait()
	return h.Stats().MessagesSent
}

func TestShutdownDeliversWhatWasQueued(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
			peer := hub.connect(300, nil)
			for i := range 20 {
				require.NoError(t, hub.PublishToChannelRaw("news", []byte(fmt.Sprint(i))))
			}
			go hub.stop()
			for i := range 20 {
				require.EqualValues(t, i, readJSON(t, peer)["data"])
			}
			code, reason := closeCode(t, peer)
			require.Equal(t, websocket.CloseGoingAway, code)
			require.Equal(t, "server is shutting down", reason)
			_ = peer.Close()
			synctest.Wait()
			require.ErrorIs(t, hub.Broadcast(nil), websocket.ErrHubClosed)
		})
	})
}

func TestShutdownCutsThoseWhoDoNotRead(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
			peer := hub.connect(300, nil)
			require.NoError(t, hub.PublishToChannelRaw("news", bytes.Repeat([]byte("1"), 2000)))
			start := time.Now()
			hub.stop()
			require.Equal(t, 5*time.Second, time.Since(start))
			_ = peer.Close()
		})
	})
}

func TestKeysSetInOnConnectHoldForTheFirstFrame(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) {
					_ = h.Broadcast([]byte("1"))
					time.Sleep(time.Second) // the hub goroutine has long walked it
					_ = c.SetEncryptionKey(key)
					_ = h.Broadcast([]byte("2"))
				}, nil, nil)
			})
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			for i := 1; i <= 2; i++ {
				mt, b, err := peer.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, gorilla.BinaryMessage, mt)
				plain, err := websocket.Decrypt(b, key)
				require.NoError(t, err)
				require.Contains(t, string(plain), fmt.Sprintf(`"data":%d`, i))
			}
			_ = peer.Close()
		})
	})
}

func TestEvictionSaysWhy(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.ClientBacklog = 10_000
			hub := runFake(t, p, config, subscribeAll("news"))
			defer hub.stop()
			peer := hub.connect(500, nil)
			const n = 100
			for i := range n {
				require.NoError(t, hub.PublishToChannelRaw("news", []byte(fmt.Sprint(i))))
			}
			synctest.Wait()
			st := hub.Stats()
			require.EqualValues(t, 1, st.Evicted)
			code, reason := closeCode(t, peer)
			require.Equal(t, websocket.CloseTryAgainLater, code)
			require.Contains(t, reason, "slow consumer")
			_ = peer.Close()
			synctest.Wait()
			st = hub.Stats()
			require.EqualValues(t, n, st.MessagesSent+st.Dropped.SlowConsumer+st.Dropped.Disconnected)
			require.Zero(t, st.ActiveConnections)
			require.Zero(t, st.HeldBytes)
		})
	})
}

// A Close frame that could not be written is told of at the hub's end too.
func TestCloseErrorTellsOfAnUnwrittenCloseFrame(t *testing.T) {
	config := websocket.DefaultConfig
	config.ClientBacklog = 10_000
	run := func(t *testing.T, p path, window int, end func(*fakeHub, *fakePeer)) *websocket.CloseError {
		var ce *websocket.CloseError
		synctest.Test(t, func(t *testing.T) {
			ended := map[string]chan *websocket.CloseError{"it": make(chan *websocket.CloseError, 1), "other": make(chan *websocket.CloseError, 1)}
			hub := runFake(t, p, config, func(h *websocket.Hub) {
				h.SetCallbacks(nil, func(c *websocket.Client) { ended[c.Request().Header.Get("X-Who")] <- closeErrorOf(c) }, nil)
			})
			peer := hub.connect(window, http.Header{"X-Who": {"it"}})
			other := hub.connect(1<<20, http.Header{"X-Who": {"other"}})
			for range 100 {
				require.NoError(t, hub.Broadcast(bytes.Repeat([]byte("1"), 200)))
				synctest.Wait()
			}
			end(hub, peer)
			ce = <-ended["it"]
			hub.stop()
			require.Equal(t, &websocket.CloseError{Code: websocket.CloseGoingAway, Reason: "server is shutting down"}, <-ended["other"])
			_ = peer.Close()
			_ = other.Close()
		})
		return ce
	}
	onBothPaths(t, func(t *testing.T, p path) {
		t.Run("evicted, takes nothing", func(t *testing.T) {
			ce := run(t, p, 500, func(*fakeHub, *fakePeer) {})
			require.Equal(t, websocket.CloseTryAgainLater, ce.Code)
			require.ErrorContains(t, ce.Err, "WriteWait")
			require.ErrorContains(t, ce, ce.Err.Error())
		})
		t.Run("evicted, takes the rest", func(t *testing.T) {
			ce := run(t, p, 500, func(_ *fakeHub, peer *fakePeer) { peer.server.SetWindow(1 << 20) })
			require.Equal(t, websocket.CloseTryAgainLater, ce.Code)
			require.NoError(t, ce.Err)
		})
		t.Run("shutdown, takes nothing", func(t *testing.T) {
			ce := run(t, p, 20_000, func(hub *fakeHub, _ *fakePeer) {
				require.NoError(t, hub.Shutdown(context.Background()))
			})
			require.Equal(t, websocket.CloseGoingAway, ce.Code)
			require.ErrorContains(t, ce.Err, "hub closed before")
		})
		t.Run("closed by the peer, which takes nothing", func(t *testing.T) {
			ce := run(t, p, 20_000, func(_ *fakeHub, peer *fakePeer) {
				require.NoError(t, peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "bye"), time.Time{}))
			})
			require.Equal(t, 1000, ce.Code)
			require.ErrorContains(t, ce.Err, "did not accept")
			require.ErrorContains(t, ce, "closed by peer: 1000 bye; not answered: ")
		})
		t.Run("broken off", func(t *testing.T) {
			ce := run(t, p, 1<<20, func(_ *fakeHub, peer *fakePeer) { _ = peer.Close() })
			require.Equal(t, websocket.CloseAbnormalClosure, ce.Code)
			require.ErrorIs(t, ce, io.ErrUnexpectedEOF)
			require.Equal(t, io.ErrUnexpectedEOF.Error(), ce.Reason)
		})
	})
}

func TestDropsAreAnnouncedInPlace(t *testing.T) {
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		onBothPaths(t, func(t *testing.T, p path) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.ClientBacklog = 4_000
				config.SlowConsumer = policy
				var reported uint64
				config.OnDrop = func(_ *websocket.Client, lost websocket.Gap) { reported += lost.Count }
				hub := runFake(t, p, config, subscribeAll("news"))
				peer := hub.connect(300, nil)
				const n = 200
				next := 0
				publish := func(k int) {
					for range k {
						require.NoError(t, hub.PublishToChannelRaw("news", []byte(fmt.Sprint(next))))
						next++
					}
				}
				publish(n / 2)
				synctest.Wait()
				seen, lost := 0, 0
				for seen+lost < n {
					if seen+lost > 10 && next < n {
						publish(n - next)
						synctest.Wait()
					}
					m := readJSON(t, peer)
					if m["type"] == "gap" {
						lost += int(m["data"].(map[string]any)["count"].(float64))
						require.Equal(t, "news", m["data"].(map[string]any)["channel"])
						continue
					}
					require.EqualValues(t, seen+lost, m["data"], "nothing is missing that was not announced")
					seen++
				}
				require.NotZero(t, lost)
				_ = peer.Close()
				synctest.Wait()
				st := hub.Stats()
				require.EqualValues(t, lost, st.Dropped.SlowConsumer)
				require.EqualValues(t, lost, st.Announced)
				require.Zero(t, st.HeldBytes)
				hub.stop()
				require.EqualValues(t, lost, reported)
			})
		})
	}
}
