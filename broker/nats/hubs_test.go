package nats_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/stretchr/testify/require"
)

// quiet is a logger that drops everything.
type quiet struct{}

func (quiet) Debugf(string, ...any)   {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Errorf(string, ...any)   {}

// startHub starts a hub whose topics have a history, and returns it and its URL.
func startHub(t *testing.T, b websocket.Broker) (*websocket.Hub, string) {
	t.Helper()
	config := websocket.DefaultConfig
	config.Broker = b
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 5000, Age: time.Hour}}
	}
	hub := websocket.NewHub(quiet{}, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	server := httptest.NewServer(hub.Handler())
	t.Cleanup(func() {
		require.NoError(t, hub.Shutdown(context.Background()))
		require.NoError(t, <-ran)
		server.Close()
	})
	return hub, "ws" + strings.TrimPrefix(server.URL, "http")
}

// TestHubsWithHistory kills the server while two hubs publish. Members on both must get all
// publications once, in one order, without a gap.
func TestHubsWithHistory(t *testing.T) {
	p := startProcess(t, keeping)
	const count = 300
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	var hubs []*websocket.Hub
	var mu sync.Mutex
	got := make([][]string, 2)
	done := make(chan struct{}, 2)
	for i := range 2 {
		hub, url := startHub(t, p.broker())
		hubs = append(hubs, hub)
		require.NoError(t, hub.BrokerReady(ctx))
		c, err := client.Dial(ctx, url, client.Options{OnGap: func(g websocket.Gap) {
			if g.Channel != "" { // others are for broadcasts, which have no history
				t.Errorf("gap at member %d: %+v", i, g)
			}
		}})
		require.NoError(t, err)
		t.Cleanup(func() { _ = c.Close() })
		_, err = c.Subscribe(ctx, "news", func(m *websocket.Message) {
			mu.Lock()
			defer mu.Unlock()
			if got[i] = append(got[i], string(m.Data)); len(got[i]) == 2*count {
				done <- struct{}{}
			}
		})
		require.NoError(t, err)
	}
	var wg sync.WaitGroup
	half := make(chan struct{}, 2)
	for i, hub := range hubs {
		wg.Go(func() { // ends with the last publication
			for n := range count {
				if n == count/2 {
					half <- struct{}{}
				}
				m := &websocket.Message{Data: fmt.Appendf(nil, `"%d %d"`, i, n), Key: fmt.Sprint(i, " ", n)}
				for hub.PublishToChannelContext(ctx, "news", m) != nil && ctx.Err() == nil {
				}
			}
		})
	}
	receive(t, half)
	p.kill()
	p.start()
	wg.Wait()
	for range 2 {
		receive(t, done)
	}
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, got[0], got[1])
	unique := map[string]bool{}
	for _, s := range got[0] {
		unique[s] = true
	}
	require.Len(t, unique, 2*count)
}
