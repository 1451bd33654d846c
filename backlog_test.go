package websocket_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

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
			require.LessOrEqual(t, st.MessagesAddressed, uint64(n), "an evicted client is no member any more")
			require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.SlowConsumer+st.Dropped.Disconnected)
			require.Positive(t, st.Dropped.SlowConsumer)
			require.Zero(t, st.ActiveConnections)
			require.Zero(t, st.HeldBytes)
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
					require.EqualValues(t, seen+lost, m["data"], "a message is missing without a gap notice")
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
