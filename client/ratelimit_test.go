package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestRateLimits sends as fast as the client allows. A client without limits is slowed
// down by the hub. If the hub has a FloodTimeout, it closes that client.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	const all = 30_000
	flood := func(o client.Options, timeout time.Duration, test func(*server, *client.Client, *recorder, time.Duration)) {
		inBubble(t, o, func(s *server) { s.config.FloodTimeout = timeout }, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			began := time.Now()
			for range all {
				if err := c.Send(t.Context(), &websocket.Message{Type: "t", Data: make([]byte, 100)}); err != nil {
					break
				}
			}
			_ = c.Publish(t.Context(), "ch", nil)
			test(s, c, rec, time.Since(began))
		})
	}
	flood(client.Options{}, 10*time.Second, func(s *server, c *client.Client, _ *recorder, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(all+2), s.hub.Stats().MessagesReceived)
		require.InDelta(t, all/900, took.Seconds(), 2)
	})
	flood(client.Options{ByteRate: 50_000, MessageRate: -1}, 0, func(s *server, c *client.Client, _ *recorder, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Greater(t, took, 100*all/50_000*time.Second)
	})
	flood(client.Options{ByteRate: -1, MessageRate: -1}, 0, func(s *server, c *client.Client, _ *recorder, _ time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(all+2), s.hub.Stats().MessagesReceived)
	})
	flood(client.Options{ByteRate: -1, MessageRate: -1}, 10*time.Second, func(_ *server, _ *client.Client, rec *recorder, _ time.Duration) {
		require.Equal(t, websocket.ClosePolicyViolation, closeErrorOf(t, rec.waitState(t, client.Closed).Err).Code)
	})
}
