package websocket_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// The verbs may be called before Run. A handshake waits for it.
func TestHandshakeWaitsForRun(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{notRun: true})
	require.NoError(t, b.hub.Broadcast([]byte("to nobody")))
	require.NoError(t, b.hub.PublishToChannelRaw("news", []byte("to nobody")))
	require.ErrorIs(t, b.hub.SendToClient("x", &websocket.Message{}), websocket.ErrClientNotFound)
	_, err := b.hub.RoomMembers(t.Context(), "r")
	require.ErrorIs(t, err, websocket.ErrHubNotRunning)
	require.Zero(t, b.hub.Stats().ActiveConnections)

	dialed := make(chan error, 1)
	go func() { // ends with the handshake
		p, err := b.tryDial(dialing{})
		if err == nil {
			err = p.Conn.Close()
		}
		dialed <- err
	}()
	ran := make(chan error, 1)
	go func() { ran <- b.hub.Run(context.Background()) }() // ends with Shutdown
	require.NoError(t, await(t, dialed))
	b.disconnected.take(t)
	require.NoError(t, b.hub.Shutdown(t.Context()))
	require.NoError(t, await(t, ran))
}

func TestHubBeforeRun(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		t.Run("verbs", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.Config{MaxMessageSize: 400, LogSize: 1000})
				for range 100 { // without recipients nothing fills the event log
					for name, err := range callEverything(h, nil) {
						switch name {
						case "RoomMembers":
							require.ErrorIs(t, err, websocket.ErrHubNotRunning)
						case "SendToClient", "SendToClientContext":
							require.ErrorIs(t, err, websocket.ErrClientNotFound)
						default:
							require.NoError(t, err, name)
						}
					}
				}
				requireSums(t, h)
			})
		})
		t.Run("handshake waits", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := &fakeHub{Hub: websocket.NewHub(quietLogger{}, websocket.DefaultConfig), t: t, path: p, ran: make(chan error, 1)}
				hub.SetCallbacks(l.connect, l.disconnect, l.message)
				go func() {
					time.Sleep(9 * time.Second)
					hub.ran <- hub.Run(context.Background())
				}()
				start := time.Now()
				peer := hub.connect(1<<16, nil)
				require.Equal(t, 9*time.Second, time.Since(start))
				_ = peer.Close()
				hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
				hub.stop()
			})
		})
		t.Run("handshake times out", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := &fakeHub{Hub: websocket.NewHub(quietLogger{}, websocket.DefaultConfig), t: t, path: p, ran: make(chan error, 1)}
				hub.SetCallbacks(l.connect, l.disconnect, l.message)
				start := time.Now()
				server, client := testnet.Pair(1 << 16)
				_, response, err := hub.dial(server, client, nil)
				require.Error(t, err)
				require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
				require.Equal(t, "1", response.Header.Get("Retry-After"))
				require.Equal(t, 10*time.Second, time.Since(start))
				_ = client.Close()

				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				w := newRecorder()
				hub.Handler().ServeHTTP(w, handshake(t, ctx))
				require.Equal(t, http.StatusServiceUnavailable, w.status, "the request's context ended")
				require.Equal(t, 11*time.Second, time.Since(start))
				require.NoError(t, hub.Shutdown(context.Background()))
				hub.requireAllEnded(l, 0, websocket.ErrHubClosed)
			})
		})
		t.Run("handshake waits until Shutdown", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
				start := time.Now()
				time.AfterFunc(time.Second, func() { _ = h.Shutdown(context.Background()) })
				w := newRecorder()
				h.Handler().ServeHTTP(w, handshake(t, context.Background()))
				require.Equal(t, http.StatusServiceUnavailable, w.status)
				require.Equal(t, time.Second, time.Since(start))
			})
		})
	})
}
