package client_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestRateLimits sends as fast as the client allows. The hub closes a client that has
// no limits.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	const all = 30_000
	flood := func(o client.Options, test func(*server, *client.Client, *recorder, time.Duration)) {
		inBubble(t, o, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
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
	flood(client.Options{}, func(s *server, c *client.Client, _ *recorder, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(all+1), s.hub.Stats().MessagesReceived)
		require.InDelta(t, all/900, took.Seconds(), 2)
	})
	flood(client.Options{ByteRate: 50_000, MessageRate: -1}, func(s *server, c *client.Client, _ *recorder, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Greater(t, took, 100*all/50_000*time.Second)
	})
	flood(client.Options{ByteRate: -1, MessageRate: -1}, func(_ *server, _ *client.Client, rec *recorder, _ time.Duration) {
		require.Equal(t, websocket.ClosePolicyViolation, closeErrorOf(t, rec.waitState(t, client.Closed).Err).Code)
	})
}
