package websocket_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

func inspect(t testing.TB, h *websocket.Hub, id string) websocket.ClientInfo {
	t.Helper()
	info, err := h.Inspect(id)
	require.NoError(t, err)
	return info
}

func TestInspect(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.ClientID = byID
			config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
				return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: len(name)}}
			}
			config.Security = &websocket.SecurityConfig{HMACKey: []byte("key")}
			hub := runFake(t, p, config)
			defer hub.stop()
			_, err := hub.Inspect("a")
			require.ErrorIs(t, err, websocket.ErrClientNotFound)
			header := withID("a")
			header.Set("Sec-WebSocket-Protocol", "msgpack")
			connected := time.Now()
			peer := hub.connect(1<<16, header)
			defer peer.Close()
			c := onlyClient(t, hub)
			c.SetUser("zoë")
			require.NoError(t, c.Subscribe("news"))
			require.NoError(t, c.JoinRoom("lobby"))
			require.NoError(t, hub.PublishToChannelRaw("news", []byte(`1`)))
			time.Sleep(time.Second)
			info := inspect(t, hub.Hub, "a")
			for i := range info.Topics {
				require.NotEmpty(t, info.Topics[i].Position.Epoch)
				info.Topics[i].Position.Epoch = ""
			}
			require.WithinDuration(t, connected, info.ConnectedAt, 0)
			info.ConnectedAt = time.Time{}
			require.Equal(t, websocket.ClientInfo{
				ID: "a", User: "zoë", RemoteAddr: "127.0.0.1", Codec: "msgpack", Sealed: true,
				TopicCount: 2, Topics: []websocket.TopicInfo{
					{Kind: "channel", Name: "news", Members: 1, Position: &websocket.Position{Offset: 1}},
					{Kind: "room", Name: "lobby", Members: 1, Position: &websocket.Position{}},
				},
				Losses: []websocket.LossInfo{},
			}, info)
			require.NoError(t, c.Close(0, ""))
			_, err = hub.Inspect("a")
			require.ErrorIs(t, err, websocket.ErrClientNotFound)
		})
	})
}

// The hub measures the time between its ping and the pong. Pongs that answer no ping do not
// count.
func TestInspectRoundTrip(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig)
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			defer peer.Close()
			id := onlyClient(t, hub).ID
			delay := 32 * time.Millisecond
			peer.SetPingHandler(func(string) error {
				require.NoError(t, peer.WriteControl(gorilla.PongMessage, []byte("unasked"), time.Now().Add(time.Second)))
				time.Sleep(delay)
				return peer.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second))
			})
			go keepAlive(peer) // ends with the connection
			unasked := func() {
				require.NoError(t, peer.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second)))
				synctest.Wait()
			}
			unasked()
			require.Zero(t, inspect(t, hub.Hub, id).RoundTrip)
			time.Sleep(websocket.DefaultConfig.PingPeriod + time.Second)
			require.Equal(t, delay, inspect(t, hub.Hub, id).RoundTrip)
			require.Equal(t, delay, inspect(t, hub.Hub, id).SmoothedRoundTrip)
			delay = 112 * time.Millisecond
			unasked()
			time.Sleep(websocket.DefaultConfig.PingPeriod + time.Second)
			require.Equal(t, delay, inspect(t, hub.Hub, id).RoundTrip)
			require.Equal(t, 42*time.Millisecond, inspect(t, hub.Hub, id).SmoothedRoundTrip)
		})
	})
}

// A connection that accepts nothing has a backlog. Losses are bounded: the latest of each
// topic are one.
func TestInspectBacklogAndLosses(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.MaxMessageSize, config.ClientBacklog, config.SlowConsumer = 1000, 300_000, websocket.DropNewest
			hub := runFake(t, p, config)
			defer hub.stop()
			peer := hub.connect(1, nil)
			defer peer.Close()
			c := onlyClient(t, hub)
			blocked := time.Now()
			for i := range 8 {
				name := fmt.Sprintf("topic %d", i)
				require.NoError(t, c.Subscribe(name))
				require.NoError(t, c.JoinRoom(name))
			}
			for range 5000 {
				require.NoError(t, hub.PublishToChannelRaw("topic 0", []byte(`"123456789"`)))
			}
			for i := range 7 {
				name := fmt.Sprintf("topic %d", i)
				for range 100 / (i + 1) {
					require.NoError(t, hub.PublishToChannelRaw(name, []byte(`"123456789"`)))
				}
			}
			require.NoError(t, hub.PublishToRoom("topic 7", &websocket.Message{}))
			require.NoError(t, hub.PublishToRoom("topic 7", &websocket.Message{}))
			require.NoError(t, hub.Broadcast(nil))
			synctest.Wait()
			time.Sleep(time.Second)
			info := inspect(t, hub.Hub, c.ID)
			require.Positive(t, info.Backlog.Messages)
			require.Greater(t, info.Backlog.Bytes, config.ClientBacklog-2000)
			require.WithinRange(t, info.Backlog.BlockedSince, blocked, blocked.Add(time.Second))
			require.Len(t, info.Losses, 5)
			for i, want := range []websocket.LossInfo{
				{Channel: "topic 4", Count: 20}, {Channel: "topic 5", Count: 16}, {Channel: "topic 6", Count: 14},
				{RoomID: "topic 7", Count: 2}, {Count: 1},
			} {
				want.Reason, want.At = "slow_consumer", info.Losses[i].At
				require.Equal(t, want, info.Losses[i])
				require.WithinDuration(t, blocked, info.Losses[i].At, 0)
			}
		})
	})
}

// A slow member of a topic with history is behind.
func TestInspectBehind(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.MaxMessageSize, config.ClientBacklog = 1000, 2000
			config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
				return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 1000}}
			}
			hub := runFake(t, p, config)
			defer hub.stop()
			peer := hub.connect(1, nil)
			defer peer.Close()
			c := onlyClient(t, hub)
			require.NoError(t, c.Subscribe("news"))
			for range 500 {
				require.NoError(t, hub.PublishToChannelRaw("news", []byte(`1`)))
			}
			synctest.Wait()
			topic := inspect(t, hub.Hub, c.ID).Topics[0]
			require.EqualValues(t, 500, topic.Position.Offset)
			require.Greater(t, topic.Behind, uint64(450))
			require.Less(t, topic.Behind, uint64(500))
			go keepAlive(peer) // ends with the connection
			time.Sleep(time.Second)
			require.Zero(t, inspect(t, hub.Hub, c.ID).Topics[0].Behind)
		})
	})
}

func TestInspectLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxSubscriptions, config.MaxRequests, config.MessageRate = 1, 1, 10
		hub := runFake(t, path{}, config, func(h *websocket.Hub) {
			h.HandleConcurrent("wait", func(ctx context.Context, _ *websocket.Client, _ *websocket.Message) (any, error) {
				<-ctx.Done()
				return nil, nil
			})
		})
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		defer peer.Close()
		c := onlyClient(t, hub)
		for _, m := range []string{
			`{"type":"subscribe","data":{"channel":"a"}}`, `{"type":"subscribe","data":{"channel":"b"}}`, `{"type":"join_room","data":{"room_id":"a"}}`,
			`{"type":"wait","id":"1"}`, `{"type":"wait","id":"2"}`,
		} {
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(m)))
		}
		synctest.Wait()
		require.ErrorIs(t, c.Subscribe("c"), websocket.ErrTooManySubscriptions)
		require.Equal(t, websocket.LimitInfo{RefusedJoins: 3, RefusedRequests: 1}, inspect(t, hub.Hub, c.ID).Limits)

		go keepAlive(peer) // ends with the connection
		for range 30 {
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`)))
		}
		time.Sleep(10 * time.Second)
		limits := inspect(t, hub.Hub, c.ID).Limits
		require.Greater(t, limits.RateDelay, time.Second)
		require.Less(t, limits.RateDelay, 3*time.Second)
		require.False(t, limits.RateDelayedAt.IsZero())
	})
}

// Losses of publications on another node are noted too.
func TestInspectGapsOfBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		peer := hubs[1].connect(1<<16, idHeader("b"))
		ready(t, hubs...)
		synctest.Wait()
		engine.Stop()
		synctest.Wait()
		engine.Start()
		time.Sleep(10 * time.Second)
		lost := map[string]bool{}
		for _, l := range inspect(t, hubs[1].Hub, "b").Losses {
			require.Equal(t, "broker", l.Reason)
			lost[l.Channel+" "+l.RoomID] = true
		}
		require.Equal(t, map[string]bool{"news ": true, " lobby": true, " ": true}, lost)
		_ = peer.Close()
	})
}

// Topics beyond the bound are counted, not listed.
func TestInspectManyTopics(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.MaxSubscriptions = -1
	b := setup(t, config, options{})
	_, c := b.connect(t, dialing{compress: true})
	for i := range 1003 {
		require.NoError(t, c.Subscribe(fmt.Sprint(i)))
	}
	info := inspect(t, b.hub, c.ID)
	require.True(t, info.Compression)
	require.False(t, info.Sealed)
	require.Len(t, info.Topics, 1000)
	require.Equal(t, 1003, info.TopicCount)
	require.Less(t, info.Topics[0].Name, info.Topics[1].Name)
}
