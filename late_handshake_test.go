package websocket_test

import (
	"bufio"
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// TestHooksThatShutdownOvertakes has a hook of the handshake come to its end when
// the hub is shutting down already, or has shut down: nobody is let in any more.
func TestHooksThatShutdownOvertakes(t *testing.T) {
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
		after    time.Duration // the begin of shutdown
		returned time.Duration // when Run has
		stuck    bool
	}{
		{"while others are drained", 3 * time.Second, 3 * time.Second, false},
		{"after others were cut", 20 * time.Second, 20 * time.Second, false},
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
						hub := startFake(t, p, config, nil, func(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) })
						answered := make(chan *rawPeer, 1) // who shakes hands sends, the test receives
						go func() { answered <- hub.raw(handshakeOf()) }()
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
						peer := <-answered
						require.Equal(t, tt.after, time.Since(start))
						defer peer.nc.Close()
						peer.requireBusy("hub closed")
						require.Empty(t, l.all(), "there was no client")
						require.Zero(t, hub.Stats().TotalConnections)
					})
				})
			})
		}
	}
}

// TestAnswersThatShutdownOvertakes has a peer that takes the handshake's answer
// when shutdown has cut off all others, or is over. It is cut off at once.
func TestAnswersThatShutdownOvertakes(t *testing.T) {
	tests := []struct {
		name     string
		callback time.Duration // CallbackTimeout
		returned time.Duration // when Run has, from the begin of shutdown
	}{
		{"while it is waited for", time.Minute, 5 * time.Second},
		{"after Run", time.Second, 2 * time.Second},
	}
	for _, tt := range tests {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					config := websocket.DefaultConfig
					config.DrainTimeout, config.CallbackTimeout = time.Second, tt.callback
					hub := startFake(t, p, config, nil, func(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) })
					server, client := testnet.Pair(1 << 16)
					defer client.Close()
					server.SetWindow(20) // less than the response
					served := hub.serveOn(server)
					_, err := client.Write([]byte(handshakeRequest))
					require.NoError(t, err)
					synctest.Wait()
					start := time.Now()
					go func() { // ends when the response can be written
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
						require.Contains(t, stuck.Callbacks[0], "response")
					} else {
						require.NoError(t, err)
					}
					<-served
					synctest.Wait()
					require.Equal(t, 5*time.Second, time.Since(start))
					if tt.returned < 5*time.Second {
						require.Empty(t, l.all(), "a callback after Run")
						require.Zero(t, hub.Stats().TotalConnections)
					} else {
						require.Len(t, l.all(), 1)
						c := l.all()[0]
						require.Error(t, c.CloseError(), "it goes on for ever")
						require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
						require.Contains(t, closeErrorOf(c).Reason, "hub closed")
						hub.requireSettled(l, 1, websocket.ErrHubClosed)
					}

					answer := bufio.NewReader(client)
					response, err := http.ReadResponse(answer, nil)
					require.NoError(t, err)
					require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
					_, err = answer.ReadByte()
					require.Error(t, err, "nothing more is said")
				})
			})
		})
	}
}
