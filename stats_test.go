package websocket_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestStats(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{codec: "protobuf"})
	p.subscribe(t, "news")
	p.joinRoom(t, "room")
	for range 10 {
		p.send(t, wire{Type: "publish", Channel: "news"})
		p.read(t)
	}
	sent := uint64(0)
	for _, f := range p.tap.frames(t) {
		sent += uint64(len(f.payload)) + 2
	}
	st := b.hub.Stats()
	require.EqualValues(t, 1, st.TotalConnections)
	require.Equal(t, 1, st.ActiveConnections)
	require.Equal(t, 1, st.TotalChannels)
	require.Equal(t, 1, st.TotalRooms)
	require.Equal(t, map[string]int{"news": 1}, channelsOf(b.hub))
	require.Equal(t, map[string]int{"room": 1}, roomsOf(b.hub))
	require.EqualValues(t, 12, st.MessagesReceived)
	require.Greater(t, st.BytesReceived, uint64(12*6))
	require.Zero(t, st.Evicted)
	b.requireNoDrops(t)
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	st = b.hub.Stats() // the connection has ended, so the counters are final
	require.EqualValues(t, 12, st.MessagesSent)
	require.Equal(t, sent, st.BytesSent)
	require.Zero(t, st.ActiveConnections)
	require.Zero(t, st.TotalChannels)
	require.Error(t, c.CloseError())
}

// TestDurationsInStats lets every callback take a time of its own.
func TestDurationsInStats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		config := websocket.DefaultConfig
		config.ClientID = func(*http.Request) (string, error) { time.Sleep(3 * time.Second); return "c", nil }
		config.OnConnect = func(*websocket.Client) { time.Sleep(time.Millisecond) }
		config.OnMessage = func(*websocket.Client, *websocket.Message) { time.Sleep(2 * time.Millisecond) }
		config.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error {
			time.Sleep(3 * time.Millisecond)
			return nil
		}
		config.OnDisconnect = func(*websocket.Client) { time.Sleep(4 * time.Millisecond) }
		config.OnJoin = func(*websocket.Client, websocket.Topic) { time.Sleep(5 * time.Millisecond) }
		config.OnLeave = func(*websocket.Client, websocket.Topic) { time.Sleep(6 * time.Millisecond) }
		hub := runFake(t, paths[0], config)
		handler := func(context.Context, *websocket.Client, *websocket.Message) (any, error) {
			time.Sleep(7 * time.Millisecond)
			return nil, errors.New("failed")
		}
		hub.Handle("one", handler)
		hub.HandleConcurrent("two", handler)
		peer := hub.connect(10_000, nil)
		for _, m := range []string{`{"type":"subscribe","data":{"channel":"news"}}`, `{"type":"one","id":"1"}`, `{"type":"two","id":"2"}`} {
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(m)))
		}
		time.Sleep(time.Second)
		require.NoError(t, peer.Close())
		time.Sleep(time.Second)
		hub.stop()
		st := hub.Stats()
		require.WithinRange(t, st.Since, began, began)
		require.EqualValues(t, 1, st.Handshakes.Count)
		require.Equal(t, 3*time.Second, st.Handshakes.Sum)
		require.EqualValues(t, 1, st.Handshakes.Buckets[websocket.BucketOf(3*time.Second)])
		counts, sums := map[string]uint64{}, map[string]time.Duration{}
		for name, h := range st.Callbacks.All() {
			counts[name], sums[name] = h.Count, h.Sum
		}
		require.Equal(t, map[string]uint64{"on_connect": 1, "on_message": 1, "authorize": 1, "on_disconnect": 1, "membership": 2, "handler": 2}, counts)
		require.Equal(t, map[string]time.Duration{
			"on_connect": time.Millisecond, "on_message": 2 * time.Millisecond, "authorize": 3 * time.Millisecond,
			"on_disconnect": 4 * time.Millisecond, "membership": 11 * time.Millisecond, "handler": 14 * time.Millisecond,
		}, sums)
	})
}

// TestQueuesInStats checks the figures of a queue while a peer does not read, and after it has
// read everything.
func TestQueuesInStats(t *testing.T) {
	t.Parallel()
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				hub := runFake(t, p, websocket.DefaultConfig)
				peer := hub.connect(100, nil)
				for range 10 {
					require.NoError(t, hub.Broadcast(make([]byte, 1000)))
				}
				synctest.Wait()
				st := hub.Stats()
				require.EqualValues(t, 10, st.QueuedMessages)
				require.Greater(t, st.QueuedBytes, int64(9000))
				require.Less(t, st.QueuedBytes, int64(20_000))
				for range 10 {
					_, _, err := peer.ReadMessage()
					require.NoError(t, err)
				}
				synctest.Wait()
				st = hub.Stats()
				require.Zero(t, st.QueuedMessages)
				require.Zero(t, st.QueuedBytes)
				require.Zero(t, st.LogBytes)
				_ = peer.Close()
				hub.stop()
			})
		})
	}
}

// TestResumesAndPresenceInStats joins with and without positions.
func TestResumesAndPresenceInStats(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
			if name == "plain" {
				return websocket.TopicOptions{}
			}
			return websocket.TopicOptions{Presence: true, History: websocket.HistoryOptions{Messages: 2}}
		}
		var clients []*websocket.Client
		config.OnConnect = func(c *websocket.Client) { clients = append(clients, c) }
		hub := runFake(t, paths[0], config)
		peers := []*fakePeer{hub.connect(100_000, nil), hub.connect(100_000, nil), hub.connect(100_000, nil)}
		for range 3 {
			require.NoError(t, hub.PublishToChannelRaw("news", []byte("1")))
		}
		require.NoError(t, clients[0].Subscribe("news"))
		require.Zero(t, hub.Stats().Resumes, "no position was given")
		page, err := hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		_, err = clients[1].SubscribeSince(t.Context(), "news", page.Position)
		require.NoError(t, err)
		require.Equal(t, websocket.ResumeStats{Complete: 1}, hub.Stats().Resumes)
		_, err = clients[2].SubscribeSince(t.Context(), "news", websocket.Position{})
		require.NoError(t, err)
		_, err = clients[2].SubscribeSince(t.Context(), "plain", page.Position)
		require.NoError(t, err)
		require.Equal(t, websocket.ResumeStats{Complete: 1, Gap: 2}, hub.Stats().Resumes)
		time.Sleep(5 * time.Second)
		st := hub.Stats()
		require.EqualValues(t, 3, st.PresenceMembers)
		require.EqualValues(t, 2, st.PresenceMessages, "one for the first member, and one for the others an interval later")
		for _, peer := range peers {
			_ = peer.Close()
		}
		time.Sleep(time.Minute)
		require.Zero(t, hub.Stats().PresenceMembers)
		hub.stop()
	})
}

// Stats must not take the lock that publishing waits for.
func TestStatsTakesNoLock(t *testing.T) {
	t.Parallel()
	hub := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
	defer websocket.LockLog(hub)()
	done := make(chan websocket.Stats, 1) // the goroutine sends, the test receives
	go func() { done <- hub.Stats() }()   // ends at once
	require.Zero(t, await(t, done).MessagesSent)
}
