package websocket_test

import (
	"context"
	"encoding/json"
	"net/http"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// statusOf asks a health handler. It returns the status and the hub's health in the body.
func statusOf(t *testing.T, h http.Handler) (int, websocket.Health) {
	t.Helper()
	w := newRecorder()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hub.test/", nil)
	require.NoError(t, err)
	h.ServeHTTP(w, r)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var health websocket.Health
	require.NoError(t, json.Unmarshal([]byte(w.body.String()), &health))
	return max(w.status, http.StatusOK), health
}

func TestHealthHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
		requireStatus := func(live, ready int, draining bool) {
			t.Helper()
			status, health := statusOf(t, hub.LiveHandler())
			require.Equal(t, live, status)
			require.Equal(t, hub.Health(), health)
			status, health = statusOf(t, hub.ReadyHandler())
			require.Equal(t, ready, status)
			require.Equal(t, draining, health.Draining)
			require.Equal(t, ready == http.StatusOK, health.OK())
		}
		requireStatus(200, 503, false)
		ran := make(chan error, 1)
		go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
		<-hub.Started()
		requireStatus(200, 200, false)

		fake := &fakeHub{Hub: hub, t: t, path: paths[0], ran: ran}
		peer := fake.connect(1<<16, nil) // does not answer the Close frame
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := hub.Drain(ctx, websocket.DrainOptions{})
		require.ErrorIs(t, err, context.Canceled)
		requireStatus(200, 503, true)
		shut := make(chan error, 1)
		go func() { shut <- hub.Shutdown(context.Background()) }() // ends with the hub
		synctest.Wait()
		require.Empty(t, shut, "shutdown waits for the peer")
		requireStatus(200, 503, true)
		require.NoError(t, <-shut)
		require.NoError(t, <-ran)
		requireStatus(503, 503, true)
		_ = peer.Close()
	})
}

// A node whose engine is away is ready, unless the application wants otherwise. One whose
// broker has not connected yet is not.
func TestReadyWithoutBroker(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := brokertest.NewMemory(1 << 20)
		config := websocket.DefaultConfig
		broker := &lateBroker{memory.Broker(), make(chan struct{})}
		config.Broker = broker
		hub := runFake(t, paths[0], config)
		requireReady := func(without, with int) {
			t.Helper()
			synctest.Wait()
			status, _ := statusOf(t, hub.ReadyHandler())
			require.Equal(t, without, status)
			status, _ = statusOf(t, hub.ReadyHandler(websocket.RequireBroker()))
			require.Equal(t, with, status)
			status, _ = statusOf(t, hub.LiveHandler())
			require.Equal(t, 200, status)
		}
		requireReady(503, 503) // the first clients would miss messages
		close(broker.release)
		require.NoError(t, hub.BrokerReady(t.Context()))
		requireReady(200, 200)
		memory.Stop()
		requireReady(200, 503)
		memory.Start()
		require.NoError(t, hub.BrokerReady(t.Context()))
		requireReady(200, 200)
		hub.stop()
		status, _ := statusOf(t, hub.ReadyHandler(websocket.RequireBroker()))
		require.Equal(t, 503, status)
	})
}
