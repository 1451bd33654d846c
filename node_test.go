package websocket_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// nodes starts n hubs that share an engine. Each calls onConnect for its clients.
func nodes(t *testing.T, engine *brokertest.Memory, n int, onConnect func(*websocket.Client), change ...func(*websocket.Config)) []*fakeHub {
	t.Helper()
	hubs := make([]*fakeHub, n)
	for i := range hubs {
		config := websocket.DefaultConfig
		config.Broker = engine.Broker()
		config.NodeName = fmt.Sprint("node", i)
		config.ClientID = queryID
		for _, f := range change {
			f(&config)
		}
		hubs[i] = runFake(t, paths[i%2], config, func(h *websocket.Hub) { h.SetCallbacks(onConnect, nil, nil) })
		if _, late := config.Broker.(*lateBroker); !late {
			started(hubs[i])
		}
	}
	return hubs
}

// started waits until a hub's broker is up or down: clients that connect earlier get gaps.
func started(h *fakeHub) {
	for h.Health().Broker == websocket.BrokerStarting {
		runtime.Gosched()
	}
}

func stopAll(hubs []*fakeHub) {
	for _, h := range hubs {
		h.stop()
	}
}

func joinNewsAndLobby(c *websocket.Client) {
	_ = c.Subscribe("news")
	_ = c.JoinRoom("lobby")
}

func ready(t *testing.T, hubs ...*fakeHub) {
	t.Helper()
	for _, h := range hubs {
		require.NoError(t, h.BrokerReady(t.Context()))
	}
}

// types reads n messages and returns the "type channel data" of each.
func types(t *testing.T, p *fakePeer, n int) []string {
	t.Helper()
	var list []string
	for range n {
		m := readJSON(t, p)
		channel, _ := m["channel"].(string)
		list = append(list, fmt.Sprint(m["type"], " ", channel, " ", m["data"]))
	}
	return list
}

func TestPublicationsReachMembersOnAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 3, joinNewsAndLobby)
		defer stopAll(hubs)
		a, b := hubs[0].connect(1<<16, idHeader("a")), hubs[1].connect(1<<16, idHeader("b"))
		ready(t, hubs...)
		synctest.Wait()
		_, before := engine.Traffic()
		ctx := t.Context()
		require.NoError(t, hubs[0].PublishToChannelRawContext(ctx, "news", []byte(`1`)))
		require.NoError(t, hubs[0].PublishToRoomContext(ctx, "lobby", &websocket.Message{Type: "own", ClientID: "x", Data: []byte(`2`)}))
		require.NoError(t, hubs[0].BroadcastContext(ctx, []byte(`3`)))
		want := []string{"message news 1", "own lobby 2", "broadcast  3"}
		require.Equal(t, want, types(t, a, 3), "publications arrive in the order of the event log")
		require.Equal(t, want, types(t, b, 3))
		_, after := engine.Traffic()
		require.Equal(t, 3*2, after-before, "the engine delivers each publication once to both nodes with members, including the publisher, and not to the third")
		_ = a.Close()
		_ = b.Close()
	})
}

func TestDirectMessagesFindTheirNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 3, nil)
		defer stopAll(hubs)
		peer := hubs[2].connect(1<<16, idHeader("odd id.*> 😀"))
		ready(t, hubs...)
		require.NoError(t, hubs[0].SendToClient("odd id.*> 😀", &websocket.Message{Data: []byte(`1`)}))
		require.Equal(t, []string{"message  1"}, types(t, peer, 1))
		require.NoError(t, hubs[0].SendToClient("nobody", &websocket.Message{}))
		require.ErrorIs(t, hubs[0].SendToClient("", &websocket.Message{}), websocket.ErrClientNotFound)
		_ = peer.Close()
	})
}

func TestEngineFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		a := hubs[0].connect(1<<16, idHeader("a"))
		b := hubs[1].connect(1<<16, idHeader("b"))
		ready(t, hubs...)
		engine.Stop()
		synctest.Wait()

		health := hubs[0].Health()
		require.Equal(t, websocket.BrokerDown, health.Broker)
		require.False(t, health.OK())
		require.NotEmpty(t, health.Reason)
		require.ErrorIs(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, hubs[0].SendToClient("b", &websocket.Message{}), websocket.ErrBrokerUnavailable)
		ctx := t.Context()
		require.ErrorIs(t, hubs[0].PublishToChannelRawContext(ctx, "news", []byte(`2`)), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, hubs[0].PublishToRoomContext(ctx, "lobby", &websocket.Message{Data: []byte(`3`)}), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, hubs[0].BroadcastContext(ctx, []byte(`4`)), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, hubs[0].SendToClientContext(ctx, "b", &websocket.Message{}), websocket.ErrBrokerUnavailable)
		require.NoError(t, a.WriteMessage(gorilla.TextMessage, []byte(`{"type":"publish","channel":"news","data":5,"id":"q"}`)))
		require.Equal(t, []string{"message news 1", "message news 2", "room_message lobby 3", "broadcast  4", "message news 5", "ack news map[local:true]"}, types(t, a, 6),
			"local members still receive everything")
		require.EqualValues(t, 7, hubs[0].Stats().Broker.Unsent)

		engine.Start()
		for i, p := range []*fakePeer{a, b} {
			gaps := map[string]int{}
			for range 3 {
				m := readJSON(t, p)
				require.Equal(t, "gap", m["type"])
				data := m["data"].(map[string]any)
				require.Equal(t, "broker", data["reason"])
				require.EqualValues(t, 0, data["count"])
				gaps[fmt.Sprint(data["channel"], " ", data["room_id"])]++
			}
			require.Equal(t, map[string]int{"news <nil>": 1, "<nil> lobby": 1, "<nil> <nil>": 1}, gaps, "client %d", i)
		}
		synctest.Wait()
		require.True(t, hubs[0].Health().OK())
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`6`)))
		last := func(p *fakePeer) string { // gap notices for losses of the other node may come first
			for {
				if m := readJSON(t, p); m["type"] != "gap" {
					return fmt.Sprint(m["data"])
				}
			}
		}
		require.Equal(t, "6", last(a))
		require.Equal(t, "6", last(b))
		synctest.Wait()
		st := hubs[0].Stats()
		require.EqualValues(t, 1, st.Broker.Outages)
		require.Equal(t, st.MessagesAddressed, st.MessagesSent)
		_ = a.Close()
		_ = b.Close()
	})
}

func TestEngineStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby, func(c *websocket.Config) { c.BrokerQueue = 10_000 })
		defer stopAll(hubs)
		a := hubs[0].connect(1<<20, idHeader("a"))
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		engine.Pause()
		start := time.Now()
		const n = 500
		for i := range n {
			if err := hubs[0].PublishToChannelRaw("news", []byte(fmt.Sprint(i))); err != nil {
				require.ErrorIs(t, err, websocket.ErrBrokerUnavailable, "the engine counts as stalled")
			}
		}
		require.Equal(t, 3*time.Second, time.Since(start), "publishing blocks until the engine counts as stalled, and not again")
		require.Equal(t, websocket.BrokerStalled, hubs[0].Health().Broker)
		for i := range n {
			require.EqualValues(t, i, readJSON(t, a)["data"])
		}
		require.ErrorIs(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`1`)), websocket.ErrBrokerUnavailable)
		require.Less(t, hubs[0].Stats().Broker.QueuedBytes, int64(1000), "only announcements are queued")
		engine.Resume()
		time.Sleep(5 * time.Second)
		require.True(t, hubs[0].Health().OK())
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"end"`)))
		gaps := 0
		for {
			m := readJSON(t, b)
			if m["data"] == "end" {
				break
			}
			if m["type"] == "gap" {
				gaps++
				require.Equal(t, "news", m["data"].(map[string]any)["channel"])
			}
		}
		require.Equal(t, 1, gaps, "the other node announces the publisher's losses")
		_ = a.Close()
		_ = b.Close()
	})
}

func TestPublishingWaitsForEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby, func(c *websocket.Config) { c.BrokerQueue = 5_000 })
		defer stopAll(hubs)
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		const n = 2000
		for i := range n {
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(fmt.Sprint(i))))
			require.LessOrEqual(t, hubs[0].Stats().Broker.QueuedBytes, int64(6_000))
		}
		for i := range n {
			require.EqualValues(t, i, readJSON(t, b)["data"], "publications arrive in the publisher's order")
		}
		require.Zero(t, hubs[0].Stats().Broker.Unsent)
		_ = b.Close()
	})
}

func TestRepetitionsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		engine.Repeat(true)
		for i := range 100 {
			require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(fmt.Sprint(i))))
		}
		for i := range 100 {
			require.EqualValues(t, i, readJSON(t, b)["data"])
		}
		synctest.Wait()
		require.GreaterOrEqual(t, hubs[1].Stats().Broker.Repeated, uint64(100))
		_ = b.Close()
	})
}

func TestEngineUnreachableAtStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		engine.Stop()
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		a := hubs[0].connect(1<<16, idHeader("a"))
		b := hubs[1].connect(1<<16, idHeader("b"))
		synctest.Wait()
		require.Equal(t, websocket.BrokerDown, hubs[0].Health().Broker)
		require.ErrorIs(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)), websocket.ErrBrokerUnavailable)
		require.Equal(t, []string{"message news 1"}, types(t, a, 1))
		engine.Start()
		ready(t, hubs...)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`2`)))
		for {
			if m := readJSON(t, b); m["type"] == "message" {
				require.EqualValues(t, 2, m["data"])
				break
			}
		}
		_ = a.Close()
		_ = b.Close()
	})
}

func TestMemoryIsBoundedDuringOutage(t *testing.T) {
	engine := brokertest.NewMemory(0)
	hubs := nodes(t, engine, 1, joinNewsAndLobby)
	defer stopAll(hubs)
	ready(t, hubs...)
	engine.Stop()
	require.Eventually(t, func() bool { return hubs[0].Health().Broker == websocket.BrokerDown }, 5*time.Second, time.Millisecond)
	data := []byte(`"` + strings.Repeat("x", 1000) + `"`)
	var m [2]runtime.MemStats
	var goroutines [2]int
	for i, n := range []int{5000, 20_000} {
		for k := range n {
			require.ErrorIs(t, hubs[0].PublishToChannelRaw(fmt.Sprint("c", k), data), websocket.ErrBrokerUnavailable)
		}
		runtime.GC()
		runtime.ReadMemStats(&m[i])
		goroutines[i] = runtime.NumGoroutine()
	}
	require.Less(t, int64(m[1].HeapAlloc)-int64(m[0].HeapAlloc), int64(3<<20), "20 MB were published, none of it may be kept")
	require.LessOrEqual(t, goroutines[1], goroutines[0]+2)
	require.Zero(t, hubs[0].Stats().HeldBytes)
}

func TestEnginePayloadLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(70_000)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		require.ErrorIs(t, hubs[0].PublishToChannelRaw("news", make([]byte, 70_000)), websocket.ErrMessageTooLarge)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"`+strings.Repeat("x", 65_000)+`"`)))
		require.Len(t, readJSON(t, b)["data"], 65_000)
		_ = b.Close()
	})
}

func TestBrokerOpenFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.Broker = brokenBroker{brokertest.NewMemory(0).Broker()}
		hub := websocket.NewHub(quietLogger{}, config)
		require.ErrorContains(t, hub.Run(t.Context()), "no such file")
		require.ErrorIs(t, hub.Broadcast(nil), websocket.ErrHubClosed)
	})
}

type brokenBroker struct{ websocket.Broker }

func (brokenBroker) Open(websocket.BrokerHandler) error { return fmt.Errorf("no such file") }

func TestShutdownPublishesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		b := hubs[1].connect(1<<20, idHeader("b"))
		ready(t, hubs...)
		const n = 1000
		for i := range n {
			require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(fmt.Sprint(i))))
		}
		hubs[0].stop()
		for i := range n {
			require.EqualValues(t, i, readJSON(t, b)["data"])
		}
		require.ErrorIs(t, hubs[0].BrokerReady(t.Context()), websocket.ErrHubClosed)
		require.Zero(t, hubs[0].Stats().HeldBytes)
		_ = b.Close()
		synctest.Wait()
		engine.Pause()
		start := time.Now()
		hubs[1].stop()
		require.LessOrEqual(t, time.Since(start), 10*time.Second, "a stalled engine must not block shutdown for long")
		require.False(t, hubs[1].Health().OK())
	})
}
