package websocket_test

import (
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// gapOn returns the target of a gap notice with the reason "broker". It fails for
// any other message.
func gapOn(t *testing.T, m map[string]any) string {
	t.Helper()
	require.Equal(t, "gap", m["type"], "%.200v", m)
	data := m["data"].(map[string]any)
	require.Equal(t, "broker", data["reason"])
	require.EqualValues(t, 0, data["count"])
	channel, _ := data["channel"].(string)
	room, _ := data["room_id"].(string)
	switch {
	case channel != "":
		return "channel " + channel
	case room != "":
		return "room " + room
	default:
		return "clients"
	}
}

func TestLostMakesGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		engine.Lose()
		for range 3 {
			m := readJSON(t, b)
			require.Equal(t, "gap", m["type"])
		}
		_ = b.Close()
	})
}

// TestNodesWithDifferentLimits checks that a publication over the receiving node's
// limit becomes a gap.
func TestNodesWithDifferentLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		large := nodes(t, engine, 1, joinNewsAndLobby)
		small := nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.MaxMessageSize, c.ClientBacklog = 1000, 5000 })
		defer stopAll(append(large, small...))
		b := small[0].connect(1<<20, idHeader("b"))
		ready(t, append(large, small...)...)
		require.NoError(t, large[0].PublishToChannelRaw("news", make([]byte, 10_000)))
		m := readJSON(t, b)
		require.Equal(t, "gap", m["type"])
		require.Equal(t, "news", m["data"].(map[string]any)["channel"])
		require.EqualValues(t, 1, small[0].Stats().Broker.Oversized)
		_ = b.Close()
	})
}

// TestOversizedPublicationsMakeGaps checks that exactly the recipients of an
// oversized publication get a gap. The Channel of the message must not matter.
func TestOversizedPublicationsMakeGaps(t *testing.T) {
	payload := make([]byte, 10_000)
	of := func(channel string) *websocket.Message { return &websocket.Message{Channel: channel, Data: payload} }
	tests := []struct {
		name    string
		publish func(h *fakeHub) error
		gap     string
		told    []string
	}{
		{"channel", func(h *fakeHub) error { return h.PublishToChannel("news", of("a")) }, "channel news", []string{"a", "both"}},
		{"another channel", func(h *fakeHub) error { return h.PublishToChannel("a", of("news")) }, "channel a", []string{"b"}},
		{"channel without members", func(h *fakeHub) error { return h.PublishToChannel("nobody", of("")) }, "", nil},
		{"room", func(h *fakeHub) error { return h.PublishToRoom("lobby", of("news")) }, "room lobby", []string{"b", "both"}},
		{"client", func(h *fakeHub) error { return h.SendToClient("a", of("")) }, "clients", []string{"a"}},
		{"client, named like another", func(h *fakeHub) error { return h.SendToClient("a", of("b")) }, "clients", []string{"a"}},
		{"client, named like a channel", func(h *fakeHub) error { return h.SendToClient("b", of("news")) }, "clients", []string{"b"}},
		{"broadcast", func(h *fakeHub) error { return h.Broadcast(payload) }, "clients", []string{"a", "b", "both", "none"}},
		{"broadcast, named like a client", func(h *fakeHub) error { return h.BroadcastMessage(of("b")) }, "clients", []string{"a", "b", "both", "none"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := brokertest.NewMemory(0)
				hubs := nodes(t, engine, 1, nil)
				hubs = append(hubs, nodes(t, engine, 1, func(c *websocket.Client) {
					switch c.ID {
					case "a":
						_ = c.Subscribe("news")
					case "b":
						_ = c.Subscribe("a") // named like a client
						_ = c.JoinRoom("lobby")
					case "both":
						joinNewsAndLobby(c)
					}
				}, func(c *websocket.Config) { c.NodeName, c.MaxMessageSize, c.ClientBacklog = "small", 1000, 5000 })...)
				defer stopAll(hubs)
				peers := map[string]*fakePeer{}
				for _, id := range []string{"a", "b", "both", "none"} {
					peers[id] = hubs[1].connect(1<<16, idHeader(id))
					defer peers[id].Close()
				}
				ready(t, hubs...)
				require.NoError(t, tt.publish(hubs[0]))
				synctest.Wait()
				require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))
				var told []string
				for _, id := range []string{"a", "b", "both", "none"} {
					for m := readJSON(t, peers[id]); m["data"] != "end"; m = readJSON(t, peers[id]) {
						require.Equal(t, tt.gap, gapOn(t, m), "client %s", id)
						told = append(told, id)
					}
				}
				require.Equal(t, tt.told, told)
				want := uint64(1)
				if tt.told == nil {
					want = 0 // the node is not subscribed to it
				}
				require.Equal(t, want, hubs[1].Stats().Broker.Oversized)
			})
		})
	}
}

// TestGapsStandBeforeTheNextMessage has losses follow each other closely, with publications
// right behind each. A gap must stand before them, in each stream.
func TestGapsStandBeforeTheNextMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<20, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		synctest.Wait()
		for i := range 20 {
			engine.Lose()
			time.Sleep(10 * time.Millisecond)
			for range 2 {
				require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)))
				require.NoError(t, hubs[0].PublishToRoom("lobby", &websocket.Message{Data: []byte(`1`)}))
				require.NoError(t, hubs[0].SendToClient("p", &websocket.Message{Data: []byte(`1`)}))
				require.NoError(t, hubs[0].Broadcast([]byte(`1`)))
			}
			synctest.Wait()
			require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))
			messages, gaps := 0, map[string]int{}
			for m := readJSON(t, p); m["data"] != "end"; m = readJSON(t, p) {
				stream := "clients"
				switch {
				case m["type"] == "gap":
					gaps[gapOn(t, m)]++
					continue
				case m["type"] == "room_message":
					stream = "room lobby"
				case m["channel"] != nil:
					stream = "channel news"
				}
				messages++
				require.Equal(t, 1, gaps[stream], "round %d: before %v", i, m)
			}
			require.Equal(t, 8, messages)
			require.Equal(t, map[string]int{"channel news": 1, "room lobby": 1, "clients": 1}, gaps)
		}
	})
}
