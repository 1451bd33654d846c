package websocket_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// The event log is full because the hub goroutine is blocked in a codec. Publishers
// wait until there is space again, their context ends or the hub shuts down.
func TestPublishersWaitWhileLogIsFull(t *testing.T) {
	ends := []struct {
		name string
		end  func(h *fakeHub, gate *gateCodec, cancel func())
		err  error
	}{
		{"space", func(_ *fakeHub, gate *gateCodec, _ func()) { close(gate.open) }, nil},
		{"context", func(_ *fakeHub, _ *gateCodec, cancel func()) { cancel() }, context.Canceled},
		{"shutdown", func(h *fakeHub, _ *gateCodec, _ func()) { go func() { _ = h.Shutdown(context.Background()) }() }, websocket.ErrHubClosed},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, l := newGateCodec(), newLives()
				config := gate.config()
				config.MaxMessageSize, config.LogSize = 1000, 10_000
				hub := startFake(t, paths[0], config, gate.open, func(h *websocket.Hub) {
					h.SetCallbacks(func(c *websocket.Client) {
						l.connect(c)
						if c.ID != "gatekeeper" {
							_ = c.Subscribe("news")
						}
					}, l.disconnect, l.message)
				})
				keeper := hub.connect(1<<16, withID("gatekeeper"))
				peer := hub.connect(1<<16, withID("reader"))
				gate.shut(t, hub)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				const n = 40
				published := 0
				var last error
				done := make(chan struct{})
				go func() { // ends when the log has accepted all messages or returned an error
					defer close(done)
					for ; published < n && last == nil; published++ {
						last = hub.PublishToChannelContext(ctx, "news", &websocket.Message{Data: numbered(published, 1000)})
					}
				}()
				synctest.Wait()
				others := make(chan error, 2) // results of other verbs that wait for the log
				c := l.all()[1]
				for _, call := range []func() error{
					func() error { return c.SendContext(ctx, &websocket.Message{Data: numbered(1000, 3000)}) },
					func() error { return hub.BroadcastContext(ctx, numbered(1001, 3000)) },
				} {
					go func() { others <- call() }()
				}
				synctest.Wait()
				time.Sleep(30 * time.Second) // waiting has no time limit of its own
				require.Less(t, published, n)
				require.Empty(t, others)
				tt.end(hub, gate, cancel)
				<-done
				require.ErrorIs(t, last, tt.err)
				for range 2 {
					require.ErrorIs(t, <-others, tt.err)
				}
				if tt.name != "space" {
					require.Less(t, published, n)
					close(gate.open)
				} else {
					require.Equal(t, n, published)
				}
				_ = keeper.Close()
				go keepAlive(peer)
				synctest.Wait()
				_ = c.Close(1000, "")
				synctest.Wait()
				want := websocket.ErrClientClosed
				if tt.name == "shutdown" {
					require.NoError(t, <-hub.ran)
					want = websocket.ErrHubClosed
				}
				hub.requireAllEnded(l, 2, want)
				if tt.name != "shutdown" {
					hub.stop()
				}
			})
		})
	}
}
