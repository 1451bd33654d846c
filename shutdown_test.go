package websocket_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestRunAndShutdown(t *testing.T) {
	t.Parallel()
	t.Run("second Run", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, _ := b.connect(t, dialing{}) // Run has begun
		require.ErrorIs(t, b.hub.Run(t.Context()), websocket.ErrHubRunning)
		p.do(t, wire{Type: "broadcast"})
		require.NoError(t, p.Conn.Close())
		require.NoError(t, b.hub.Shutdown(t.Context()))
		require.ErrorIs(t, b.hub.Run(t.Context()), websocket.ErrHubClosed)
		require.NoError(t, b.hub.Shutdown(t.Context()), "a second Shutdown")
	})
	t.Run("Shutdown before Run", func(t *testing.T) {
		t.Parallel()
		hub := websocket.NewHub(&logCapture{}, websocket.DefaultConfig)
		require.NoError(t, hub.Shutdown(t.Context()))
		require.ErrorIs(t, hub.Run(t.Context()), websocket.ErrHubClosed)
		requireHubClosed(t, hub)
	})
	t.Run("end of Run's context", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{notRun: true})
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- b.hub.Run(ctx) }() // ends with ctx
		p, c := b.connect(t, dialing{codec: "protobuf"})
		for i := range 100 {
			require.NoError(t, c.Send(&websocket.Message{Type: fmt.Sprint(i)}))
		}
		cancel()
		for i := range 100 {
			require.Equal(t, fmt.Sprint(i), p.read(t).Type) // was queued before the end, so it is delivered
		}
		require.NotEmpty(t, p.requireClosed(t, websocket.CloseGoingAway))
		require.NoError(t, p.Conn.Close())
		require.NoError(t, await(t, ran))
		require.Equal(t, websocket.CloseGoingAway, closeErrorOf(c).Code)
		requireHubClosed(t, b.hub)
		requireClientEnded(t, c)
	})
	t.Run("Shutdown's context ends", func(t *testing.T) {
		t.Parallel()
		entered, release := make(chan struct{}), make(chan struct{})
		b := setup(t, websocket.DefaultConfig, options{onConnect: func(*websocket.Client) { close(entered); <-release }})
		b.dial(t, dialing{})
		<-entered
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, b.hub.Shutdown(ctx), context.Canceled)
		close(release)
	})
	t.Run("a callback does not return", func(t *testing.T) {
		t.Parallel()
		config := websocket.DefaultConfig
		config.DrainTimeout, config.CallbackTimeout = 20*time.Millisecond, time.Second
		release := make(chan struct{})
		b := setup(t, withQueryID(config), options{runError: true, onMessage: func(*websocket.Client, *websocket.Message) { <-release }})
		p, _ := b.connect(t, dialing{query: "id=alice"})
		p.send(t, wire{Type: "own"})
		b.messages.take(t)
		err := b.hub.Shutdown(t.Context())
		var timeout *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, []string{`onMessage of client "alice"`}, timeout.Callbacks)
		require.Contains(t, err.Error(), "alice")
		require.Equal(t, err, await(t, b.ran), "Run and Shutdown return the same error")
		close(release)
		b.disconnected.take(t)
	})
	t.Run("hub is closed in onDisconnect", func(t *testing.T) {
		t.Parallel()
		var seen error
		var b *bundle
		b = setup(t, websocket.DefaultConfig, options{onDisconnect: func(c *websocket.Client) {
			seen = b.hub.Broadcast(nil)
		}})
		p, _ := b.connect(t, dialing{})
		shut := make(chan error, 1)
		go func() { shut <- b.hub.Shutdown(context.Background()) }() // ends with the hub
		p.requireClosed(t, websocket.CloseGoingAway)
		require.NoError(t, p.Conn.Close())
		require.NoError(t, await(t, shut))
		require.ErrorIs(t, seen, websocket.ErrHubClosed)
	})
}

// A handshake hook never returns. Run ends all the same, and its error counts the
// handshake.
func TestStuckHandshakeHookIsReported(t *testing.T) {
	tests := []struct {
		name string
		set  func(c *websocket.Config, block func())
	}{
		{"ClientID", func(c *websocket.Config, block func()) {
			c.ClientID = func(*http.Request) (string, error) { block(); return "late", nil }
		}},
		{"CheckOrigin", func(c *websocket.Config, block func()) {
			c.CheckOrigin = func(*http.Request) bool { block(); return true }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, l := make(chan struct{}), newLives()
				config := websocket.DefaultConfig
				tt.set(&config, func() { <-gate })
				hub := startFake(t, paths[0], config, gate, l.watch)
				server, client := testnet.Pair(1 << 16)
				served := hub.accept(server)
				_, err := client.Write([]byte(handshakeRequest))
				require.NoError(t, err)
				synctest.Wait()
				start := time.Now()
				err = hub.Shutdown(context.Background())
				require.Equal(t, 35*time.Second, time.Since(start))
				var stuck *websocket.CallbackTimeoutError
				require.ErrorAs(t, err, &stuck)
				close(gate)
				<-served
				_ = client.Close()
				synctest.Wait()
				l.requireComplete(t, len(l.all()))
				require.NotEmpty(t, stuck.Callbacks, "%v", stuck)
			})
		})
	}
}

// A callback calls Shutdown and so waits for its own return. Shutdown returns when
// CallbackTimeout has passed or its context ends.
func TestShutdownCalledFromCallback(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook+"/without a deadline", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got := make(chan error, 1)
					v := startVictim(t, p, hook, nil, func(h *websocket.Hub, _ *websocket.Client) {
						got <- h.Shutdown(context.Background())
					})
					go keepAlive(v.bystander)
					v.provoke()
					v.victim.server.SetWindow(1 << 16)
					go keepAlive(v.victim)
					err := <-v.ran
					var stuck *websocket.CallbackTimeoutError
					require.ErrorAs(t, err, &stuck)
					require.Len(t, stuck.Callbacks, 1)
					require.Contains(t, stuck.Callbacks[0], hook)
					require.Equal(t, err, <-got)
					v.requireAllEnded(v.lives, 2, websocket.ErrHubClosed)
				})
			})
			t.Run(hook+"/with a deadline", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got := make(chan error, 1)
					v := startVictim(t, p, hook, nil, func(h *websocket.Hub, _ *websocket.Client) {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						got <- h.Shutdown(ctx)
					})
					go keepAlive(v.bystander)
					v.provoke()
					v.victim.server.SetWindow(1 << 16)
					go keepAlive(v.victim)
					require.NoError(t, <-v.ran)
					require.ErrorIs(t, <-got, context.DeadlineExceeded)
					v.requireAllEnded(v.lives, 2, websocket.ErrHubClosed)
				})
			})
		}
	})
}

func TestStoppedHubRefusesEveryCall(t *testing.T) {
	stops := []struct {
		name string
		stop func(t *testing.T, h *websocket.Hub)
	}{
		{"Shutdown before Run", func(t *testing.T, h *websocket.Hub) {
			require.NoError(t, h.Shutdown(context.Background()))
		}},
		{"Shutdown", func(t *testing.T, h *websocket.Hub) {
			ran := make(chan error, 1)
			go func() { ran <- h.Run(context.Background()) }()
			synctest.Wait()
			require.NoError(t, h.Shutdown(context.Background()))
			require.NoError(t, <-ran)
		}},
		{"end of Run's context", func(t *testing.T, h *websocket.Hub) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.NoError(t, h.Run(ctx))
		}},
		{"two Shutdowns and the end of Run's context", func(t *testing.T, h *websocket.Hub) {
			ctx, cancel := context.WithCancel(context.Background())
			results := make(chan error, 3)
			go func() { results <- h.Run(ctx) }()
			synctest.Wait()
			go func() { results <- h.Shutdown(context.Background()) }()
			go func() { results <- h.Shutdown(context.Background()) }()
			cancel()
			for range 3 {
				require.NoError(t, <-results)
			}
			require.NoError(t, h.Shutdown(context.Background()), "a Shutdown after the end")
		}},
	}
	for _, tt := range stops {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
				tt.stop(t, h)
				requireHubStopped(t, h)
				requireSums(t, h)
			})
		})
	}
}

// Each of several Shutdowns waits until the hub has ended or its context ends.
func TestConcurrentShutdownsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := startFake(t, paths[0], websocket.DefaultConfig, nil, subscribeAll("news"))
		peer := hub.connect(300, nil)
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(0, 2000)))
		start := time.Now()
		results := make(chan error, 2)
		for range 2 {
			go func() { results <- hub.Shutdown(context.Background()) }()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, hub.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.ErrorIs(t, hub.Broadcast(nil), websocket.ErrHubClosed)
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		require.NoError(t, <-hub.ran)
		require.Equal(t, 5*time.Second, time.Since(start))
		_ = peer.Close()
	})
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

// A handshake hook returns during or after shutdown. The handshake is refused.
func TestHandshakeHookThatReturnsDuringShutdownIsRefused(t *testing.T) {
	hooks := []struct {
		name string
		set  func(c *websocket.Config, wait func())
	}{
		{"ClientID", func(c *websocket.Config, wait func()) {
			c.ClientID = func(*http.Request) (string, error) { wait(); return "late", nil }
		}},
		{"CheckOrigin", func(c *websocket.Config, wait func()) {
			c.CheckOrigin = func(*http.Request) bool { wait(); return true }
		}},
	}
	ends := []struct {
		name     string
		after    time.Duration // from the start of shutdown until the hook returns
		returned time.Duration // from the start of shutdown until Run returns
		stuck    bool
	}{
		{"before DrainTimeout", 3 * time.Second, 3 * time.Second, false},
		{"after DrainTimeout", 20 * time.Second, 20 * time.Second, false},
		{"after Run", time.Minute, 35 * time.Second, true},
	}
	for _, hook := range hooks {
		for _, tt := range ends {
			onBothPaths(t, func(t *testing.T, p path) {
				t.Run(hook.name+" "+tt.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						l := newLives()
						config := websocket.DefaultConfig
						delay := time.Second + tt.after
						hook.set(&config, func() { time.Sleep(delay) })
						hub := startFake(t, p, config, nil, l.watch)
						connected := make(chan *rawPeer, 1) // the dialing goroutine sends, the test receives
						go func() { connected <- hub.raw(handshakeOf()) }()
						time.Sleep(time.Second)
						start := time.Now()
						err := hub.Shutdown(context.Background())
						require.Equal(t, tt.returned, time.Since(start))
						require.Equal(t, err, <-hub.ran)
						if tt.stuck {
							var stuck *websocket.CallbackTimeoutError
							require.ErrorAs(t, err, &stuck)
							require.Len(t, stuck.Callbacks, 1)
						} else {
							require.NoError(t, err)
						}
						peer := <-connected
						require.Equal(t, tt.after, time.Since(start))
						defer peer.nc.Close()
						peer.requireBusy("hub closed")
						require.Empty(t, l.all(), "onConnect was called")
						require.Zero(t, hub.Stats().TotalConnections)
					})
				})
			})
		}
	}
}

// A peer reads the handshake response only after DrainTimeout or after Run has
// returned. Its connection is aborted at once.
func TestHandshakeResponseReadDuringShutdownAbortsClient(t *testing.T) {
	tests := []struct {
		name     string
		callback time.Duration // CallbackTimeout
		returned time.Duration // from the start of shutdown until Run returns
	}{
		{"before CallbackTimeout", time.Minute, 5 * time.Second},
		{"after Run", time.Second, 2 * time.Second},
	}
	for _, tt := range tests {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					config := websocket.DefaultConfig
					config.DrainTimeout, config.CallbackTimeout = time.Second, tt.callback
					hub := startFake(t, p, config, nil, l.watch)
					server, client := testnet.Pair(1 << 16)
					defer client.Close()
					server.SetWindow(20) // less than the response
					served := hub.accept(server)
					_, err := client.Write([]byte(handshakeRequest))
					require.NoError(t, err)
					synctest.Wait()
					start := time.Now()
					go func() { // ends when the peer reads the response
						time.Sleep(5 * time.Second)
						server.SetWindow(1 << 16)
					}()
					err = hub.Shutdown(context.Background())
					require.Equal(t, tt.returned, time.Since(start))
					require.Equal(t, err, <-hub.ran)
					if tt.returned < 5*time.Second {
						var stuck *websocket.CallbackTimeoutError
						require.ErrorAs(t, err, &stuck)
						require.Len(t, stuck.Callbacks, 1)
						require.Contains(t, stuck.Callbacks[0], "1 handshake")
					} else {
						require.NoError(t, err)
					}
					<-served
					synctest.Wait()
					require.Equal(t, 5*time.Second, time.Since(start))
					if tt.returned < 5*time.Second {
						require.Empty(t, l.all(), "a callback ran after Run")
						require.Zero(t, hub.Stats().TotalConnections)
					} else {
						require.Len(t, l.all(), 1)
						c := l.all()[0]
						require.Error(t, c.CloseError(), "the connection is open")
						require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
						require.Contains(t, closeErrorOf(c).Reason, "hub closed")
						hub.requireAllEnded(l, 1, websocket.ErrHubClosed)
					}

					reader := bufio.NewReader(client)
					response, err := http.ReadResponse(reader, nil)
					require.NoError(t, err)
					require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
					_, err = reader.ReadByte()
					require.Error(t, err, "no byte follows the response")
				})
			})
		})
	}
}
