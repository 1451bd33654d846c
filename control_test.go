package websocket_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// contendedHub runs a hub in which other goroutines hold the event log's lock again and
// again. Under this contention the lock is passed on in order, so goroutines that
// append to the log take turns.
func contendedHub(t *testing.T, p path, onConnect func(*websocket.Client)) *fakeHub {
	t.Helper()
	config := websocket.DefaultConfig
	config.Shards = 2
	config.MessageRate = -1
	config.MaxSubscriptions = -1
	config.ClientID = byID
	hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) {
			if c.ID != "idle" {
				onConnect(c)
				return
			}
			for i := range 5000 {
				_ = c.Subscribe(fmt.Sprint("channel ", i))
			}
		}, nil, nil)
	})
	idle := hub.connect(1<<20, withID("idle"))
	c, ok := hub.Client("idle")
	require.True(t, ok)
	done := make(chan struct{}) // closed below
	var holding sync.WaitGroup
	holding.Go(func() { // ends with done
		for {
			select {
			case <-done:
				return
			default:
				c.Channels() // copies 5000 names while it holds the log's lock
			}
		}
	})
	t.Cleanup(func() {
		close(done)
		holding.Wait()
		_ = idle.Close()
		if !t.Failed() {
			hub.stop()
		}
	})
	return hub
}

// Many members publish at the same time. Each publisher receives its own message and,
// directly after it, the ack.
func TestAckFollowsItsMessage(t *testing.T) {
	const members, each = 5, 8
	tests := []struct{ name, request string }{
		{"channel", `{"type":"publish","channel":"news","data":%q,"id":%q}`},
		{"room", `{"type":"publish_room","channel":"lobby","data":%q,"id":%q}`},
		{"broadcast", `{"type":"broadcast","data":%q,"id":%q}`},
	}
	onBothPaths(t, func(t *testing.T, p path) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := contendedHub(t, p, joinNewsAndLobby)
					peers := make([]*fakePeer, members)
					for i := range peers {
						peers[i] = hub.connect(1<<20, withID(fmt.Sprint("member", i)))
						defer peers[i].Close()
					}
					var publishing sync.WaitGroup
					for i, peer := range peers {
						publishing.Go(func() { // ends when all requests are written
							for k := range each {
								id := fmt.Sprint(i, "/", k)
								if err := peer.WriteMessage(gorilla.TextMessage, fmt.Appendf(nil, tt.request, id, id)); err != nil {
									t.Errorf("member %d: %v", i, err)
								}
							}
						})
					}
					publishing.Wait()
					for i, peer := range peers {
						own, acked := "", 0
						for range members*each + each {
							m := readJSON(t, peer)
							data, _ := m["data"].(string)
							switch {
							case own != "":
								require.Equal(t, "ack", m["type"], "member %d: %v is between %s and its ack", i, m, own)
								require.Equal(t, own, m["id"])
								own = ""
								acked++
							case m["type"] == "ack":
								require.Fail(t, "an ack arrived before its message", "member %d: %v", i, m)
							case strings.HasPrefix(data, fmt.Sprint(i, "/")):
								require.Equal(t, fmt.Sprint(i, "/", acked), data)
								own = data
							}
						}
						require.Equal(t, each, acked)
					}
				})
			})
		}
	})
}

// Members subscribe and unsubscribe while others publish. The ack of a subscription
// arrives before the first message of the channel.
func TestSubscribeAckPrecedesMessages(t *testing.T) {
	const members, publishers, each, rounds = 3, 3, 3, 8
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := contendedHub(t, p, func(*websocket.Client) {})
			peers := make([]*fakePeer, members)
			for i := range peers {
				peers[i] = hub.connect(1<<20, withID(fmt.Sprint("member", i)))
				defer peers[i].Close()
			}
			var publishing sync.WaitGroup
			defer publishing.Wait()
			for range rounds {
				for range publishers {
					publishing.Go(func() { // ends when all is published
						for range each {
							if err := hub.PublishToChannelRaw("news", []byte(`1`)); err != nil {
								t.Error(err)
							}
						}
					})
				}
				for _, peer := range peers {
					require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"news"},"id":"in"}`)))
				}
				for i, peer := range peers {
					m := readJSON(t, peer)
					require.Equal(t, "ack", m["type"], "member %d: %v arrived before the ack", i, m)
					require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"unsubscribe","data":{"channel":"news"},"id":"out"}`)))
					for m["id"] != "out" {
						m = readJSON(t, peer)
					}
				}
				publishing.Wait()
			}
		})
	})
}

// The text of an error says what the data of a control message must be.
func TestControlDataErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	const malformed = "websocket: malformed message: "
	tests := []struct {
		codec string
		ask   wire
		want  string
	}{
		{"json", wire{Type: "subscribe", Channel: "news"}, `data is missing, want {"channel":"news"}`},
		{"json", wire{Type: "unsubscribe", Data: []byte(`{"room_id":"101"}`)}, `data has no valid channel, want {"channel":"news"}`},
		{"json", wire{Type: "subscribe", Data: []byte(`"news"`)}, `json: string instead of an object at byte 6, want {"channel":"news"}`},
		{"msgpack", wire{Type: "join_room", Channel: "101"}, `data is missing, want {"room_id":"101"}`},
		{"flatbuffers", wire{Type: "leave_room", Data: []byte(`{"room_id":""}`)}, `data has no valid room_id, want {"room_id":"101"}`},
		{"protobuf", wire{Type: "subscribe", Channel: "news"}, "data is missing, want a ChannelRequest"},
		{"protobuf", wire{Type: "join_room", Data: []byte(`{"room_id":"101"}`)}, "data has no valid room_id, want a RoomRequest"},
	}
	for _, tt := range tests {
		p, _ := b.connect(t, dialing{codec: tt.codec})
		tt.ask.ID = "1"
		p.send(t, tt.ask)
		require.Equal(t, malformed+tt.want, p.requireError(t, "1", "", "bad_request"))
	}
}

// A publisher waits because the engine is paused. Its message and the ack are delivered
// on this node meanwhile.
func TestAckDoesNotWaitForEngine(t *testing.T) {
	requests := []string{
		`{"type":"publish","channel":"news","data":"first","id":"q"}`,
		`{"type":"publish_room","channel":"lobby","data":"first","id":"q"}`,
		`{"type":"broadcast","data":"first","id":"q"}`,
	}
	for _, request := range requests {
		synctest.Test(t, func(t *testing.T) {
			engine := brokertest.NewMemory(0)
			hubs := nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.BrokerQueue = 1 })
			defer stopAll(hubs)
			peer := hubs[0].connect(1<<16, idHeader("a"))
			defer peer.Close()
			ready(t, hubs...)
			synctest.Wait()
			engine.Pause()
			defer engine.Resume()
			start := time.Now()
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(request)))
			require.Equal(t, "first", readJSON(t, peer)["data"])
			other := make(chan error, 1) // another publisher sends, the test receives
			go func() { other <- hubs[0].PublishToChannelRaw("news", []byte(`"another"`)) }()
			require.Equal(t, "ack", readJSON(t, peer)["type"], request)
			require.Equal(t, "another", readJSON(t, peer)["data"])
			require.Zero(t, time.Since(start))
			require.ErrorIs(t, <-other, websocket.ErrBrokerUnavailable, "its queue is full")
		})
	}
}
