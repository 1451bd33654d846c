package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// Callbacks in Config do what those of SetCallbacks do, which replaces them.
func TestCallbacksInConfig(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprint("replaced ", replaced), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls []string
				config := websocket.DefaultConfig
				config.OnConnect = func(*websocket.Client) { calls = append(calls, "connect") }
				config.OnDisconnect = func(*websocket.Client) { calls = append(calls, "disconnect") }
				config.OnMessage = func(_ *websocket.Client, m *websocket.Message) { calls = append(calls, m.Type) }
				want := []string{"connect", "hello", "disconnect"}
				hub := runFake(t, paths[0], config, func(h *websocket.Hub) {
					if replaced {
						h.SetCallbacks(nil, func(*websocket.Client) { calls = append(calls, "replaced") }, nil)
						want = []string{"replaced"}
					}
				})
				defer hub.stop()
				peer := hub.connect(1<<16, nil)
				require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"hello"}`)))
				require.NoError(t, peer.Close())
				synctest.Wait()
				require.Equal(t, want, calls)
			})
		})
	}
}

// Verbs that change memberships stop waiting for a full log when their context ends,
// and then change nothing.
func TestMembershipVerbsStopWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		defer peer.Close()
		var c *websocket.Client
		for client := range hub.Clients() {
			c = client
		}
		require.NoError(t, c.Subscribe("in"))
		require.NoError(t, c.JoinRoom("in"))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, c.SubscribeContext(ctx, "x"), context.Canceled)
		require.ErrorIs(t, c.JoinRoomContext(ctx, "x"), context.Canceled)
		require.ErrorIs(t, c.UnsubscribeContext(ctx, "in"), context.Canceled)
		require.ErrorIs(t, c.LeaveRoomContext(ctx, "in"), context.Canceled)
		require.Equal(t, []string{"in"}, c.Channels())
		require.Equal(t, []string{"in"}, c.Rooms())
	})
}

func TestCloseStatus(t *testing.T) {
	require.Equal(t, -1, websocket.CloseStatus(nil))
	require.Equal(t, -1, websocket.CloseStatus(errors.New("other")))
	require.Equal(t, 1013, websocket.CloseStatus(fmt.Errorf("wrapped: %w", &websocket.CloseError{Code: 1013})))
}
