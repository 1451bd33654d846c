package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// limitedBroker takes payloads of a length that changes, and nothing at all while
// it refuses.
type limitedBroker struct {
	websocket.Broker
	refuses atomic.Bool
	limit   atomic.Int64
	asked   atomic.Int64 // for the limit while there was one
}

func (b *limitedBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.refuses.Load() {
		return errors.New("not now")
	}
	return b.Broker.Publish(ctx, batch)
}

// MaxPayload gives in when it is asked for ever, so that the test can tell.
func (b *limitedBroker) MaxPayload() int {
	limit := int(b.limit.Load())
	if limit > 0 && b.asked.Add(1) > 1000 {
		return 0
	}
	return limit
}

// gapOn says where a gap notice of the broker's is, or fails.
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

// TestLossNoticesTheEngineDoesNotTake has an engine come to take less than the
// notice that a publication is lost. All is then said to be lost, once.
func TestLossNoticesTheEngineDoesNotTake(t *testing.T) {
	long := strings.Repeat("long ", 50)
	tests := []struct {
		name    string
		publish func(ctx context.Context, h *fakeHub) error
	}{
		{"channel", func(ctx context.Context, h *fakeHub) error { return h.PublishToChannelRawContext(ctx, long, nil) }},
		{"room", func(ctx context.Context, h *fakeHub) error {
			return h.PublishToRoomContext(ctx, long, &websocket.Message{})
		}},
		{"client", func(ctx context.Context, h *fakeHub) error {
			return h.SendToClientContext(ctx, long, &websocket.Message{})
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				engine := brokertest.NewMemory(0)
				broker := &limitedBroker{Broker: engine.Broker()}
				hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
				hubs = append(hubs, nodes(t, engine, 1, func(c *websocket.Client) {
					joinBoth(c)
					_ = c.Subscribe(long)
					_ = c.JoinRoom(long)
				}, func(c *websocket.Config) { c.NodeName = "other" })...)
				defer stopAll(hubs)
				member := hubs[1].connect(1<<20, idHeader(long))
				defer member.Close()
				ready(t, hubs...)
				synctest.Wait()

				broker.refuses.Store(true)
				require.NoError(t, tt.publish(t.Context(), hubs[0]), "it is on its way")
				synctest.Wait()
				require.Equal(t, websocket.BrokerStalled, hubs[0].Health().Broker)
				broker.limit.Store(200)
				broker.refuses.Store(false)
				time.Sleep(3 * time.Second) // it tries the engine
				require.Equal(t, websocket.BrokerUp, hubs[0].Health().Broker)
				require.Less(t, broker.asked.Load(), int64(100), "the notice comes back for ever")
				require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))
				var told []string
				for m := readJSON(t, member); m["data"] != "end"; m = readJSON(t, member) {
					told = append(told, gapOn(t, m))
				}
				require.ElementsMatch(t, []string{"channel news", "room lobby", "channel " + long, "room " + long, "clients"}, told)

				time.Sleep(30 * time.Second)
				require.Zero(t, hubs[0].Stats().Broker.QueuedBytes)
				require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`1`)))
				require.Equal(t, []string{"message news 1"}, types(t, member, 1), "nothing is said twice")
			})
		})
	}
}

// TestSendingToIDsThatNobodyHas answers at once for IDs that no hub gives.
func TestSendingToIDsThatNobodyHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, nil)
		defer stopAll(hubs)
		longest := strings.Repeat("x", 255)
		peer := hubs[1].connect(1<<16, idHeader(longest))
		defer peer.Close()
		ready(t, hubs...)
		synctest.Wait()
		before, _ := engine.Traffic()
		for _, id := range []string{"", longest + "x", strings.Repeat("x", 1<<20), "\xff", "a\nb", "\x00", "\u0085"} {
			require.ErrorIs(t, hubs[0].SendToClient(id, &websocket.Message{}), websocket.ErrClientNotFound, "%.300q", id)
			require.ErrorIs(t, hubs[0].SendToClientContext(t.Context(), id, &websocket.Message{}), websocket.ErrClientNotFound, "%.300q", id)
		}
		require.ErrorIs(t, hubs[0].SendToClient("x", nil), websocket.ErrNilMessage)
		synctest.Wait()
		after, _ := engine.Traffic()
		require.Equal(t, before, after, "nothing of it goes to the engine")
		require.NoError(t, hubs[0].SendToClientContext(t.Context(), longest, &websocket.Message{Data: []byte(`1`)}))
		require.Equal(t, []string{"message  1"}, types(t, peer, 1))
	})
}

// TestSendingWhatTheEngineDoesNotTake tries lengths around the engine's limit:
// what is accepted arrives.
func TestSendingWhatTheEngineDoesNotTake(t *testing.T) {
	const limit = 2000
	for _, channel := range []string{"", strings.Repeat("c", 200)} {
		for _, id := range []string{"a", strings.Repeat("a", 255)} {
			synctest.Test(t, func(t *testing.T) {
				engine := brokertest.NewMemory(limit)
				hubs := nodes(t, engine, 2, nil)
				defer stopAll(hubs)
				peer := hubs[1].connect(1<<20, idHeader(id))
				defer peer.Close()
				ready(t, hubs...)
				accepted, refused := 0, 0
				for size := limit - 1000; size < limit+1000; size += 7 {
					text := strings.Repeat("x", size)
					m := &websocket.Message{Channel: channel, Data: fmt.Appendf(nil, "%q", text)}
					if err := hubs[0].SendToClientContext(t.Context(), id, m); err != nil {
						require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
						require.ErrorIs(t, hubs[0].SendToClient(id, m), websocket.ErrMessageTooLarge)
						refused++
						continue
					}
					require.Zero(t, refused, "%d bytes are taken, fewer were not", size)
					require.Equal(t, text, readJSON(t, peer)["data"], "%d bytes were accepted", size)
					accepted++
				}
				require.Positive(t, accepted)
				require.Positive(t, refused)
				require.Zero(t, hubs[0].Stats().Broker.Unsent)
			})
		}
	}
}

// busyBroker takes a while for everything, and as soon as it has taken something
// there is more.
type busyBroker struct {
	websocket.Broker
	more atomic.Pointer[func()]
}

func (b *busyBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	time.Sleep(100 * time.Millisecond)
	if more := b.more.Load(); more != nil {
		(*more)()
	}
	return b.Broker.Publish(ctx, batch)
}

// TestBusyNodesAnnounceThemselves has a node that always has more to send, of
// which the others need nothing. They go on knowing it, and it forgets who has
// gone.
func TestBusyNodesAnnounceThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &busyBroker{Broker: engine.Broker()}
		busy := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.NodeName, c.Broker = "busy", broker })
		mute, silence := muteNode(t, engine)
		hubs := append(append(nodes(t, engine, 1, nil), busy...), mute...)
		defer stopAll(hubs)
		ready(t, hubs...)
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{"busy", "mute", "node0"}, hubs[0].Cluster().Nodes())
		require.Equal(t, []string{"busy", "mute", "node0"}, busy[0].Cluster().Nodes())

		published := 0
		more := func() {
			published++
			if err := busy[0].PublishToChannelRaw("nobody", nil); err != nil {
				t.Error(err)
			}
		}
		broker.more.Store(&more)
		defer broker.more.Store(nil)
		require.NoError(t, busy[0].PublishToChannelRaw("nobody", nil))
		silence()
		for range 6 {
			time.Sleep(10 * time.Second)
			require.Equal(t, []string{"busy", "node0"}, hubs[0].Cluster().Nodes())
			require.Equal(t, []string{"busy", "node0"}, busy[0].Cluster().Nodes())
		}
		broker.more.Store(nil)
		synctest.Wait()
		require.Greater(t, published, 500)
	})
}

// TestOversizedPublicationsLeaveTheirGap checks who is told of what a node does
// not take, whatever the message says of its channel.
func TestOversizedPublicationsLeaveTheirGap(t *testing.T) {
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
		{"channel of nobody", func(h *fakeHub) error { return h.PublishToChannel("nobody", of("")) }, "", nil},
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
						joinBoth(c)
					}
				}, func(c *websocket.Config) { c.NodeName, c.ClientBacklog = "small", 5000 })...)
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
					want = 0 // it does not come here
				}
				require.Equal(t, want, hubs[1].Stats().Broker.Oversized)
			})
		})
	}
}

// unknowingBroker has a limit that only Publish knows. What fits goes out.
type unknowingBroker struct{ limitedBroker }

func (b *unknowingBroker) MaxPayload() int { return 0 }

func (b *unknowingBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.refuses.Load() {
		return errors.New("not now")
	}
	var fit []websocket.BrokerMessage
	for _, m := range batch {
		if limit := b.limit.Load(); limit == 0 || int64(len(m.Payload)) <= limit {
			fit = append(fit, m)
		}
	}
	if err := b.Broker.Publish(ctx, fit); err != nil {
		return err
	}
	if len(fit) < len(batch) {
		return websocket.ErrMessageTooLarge
	}
	return nil
}

// TestLossNoticesThatPublishRefuses has an engine whose limit shows only when
// publishing. Members are told of a loss once all the same.
func TestLossNoticesThatPublishRefuses(t *testing.T) {
	long := strings.Repeat("long ", 50)
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &unknowingBroker{limitedBroker{Broker: engine.Broker()}}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinBoth, func(c *websocket.Config) { c.NodeName = "other" })...)
		defer stopAll(hubs)
		member := hubs[1].connect(1<<20, idHeader("m"))
		defer member.Close()
		ready(t, hubs...)
		synctest.Wait()
		broker.refuses.Store(true)
		_ = hubs[0].PublishToChannelRawContext(t.Context(), "news", nil)
		_ = hubs[0].PublishToChannelRawContext(t.Context(), long, nil)
		synctest.Wait()
		broker.limit.Store(200)
		broker.refuses.Store(false)
		time.Sleep(10 * time.Second) // all has been said
		require.NoError(t, hubs[1].Broadcast([]byte(`"now"`)))
		time.Sleep(10 * time.Second)
		require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))
		for m := readJSON(t, member); m["data"] != "now"; m = readJSON(t, member) {
		}
		again := 0
		for m := readJSON(t, member); m["data"] != "end"; m = readJSON(t, member) {
			again++
		}
		require.Zero(t, again, "gap notices of the same loss")
	})
}

// TestOnePayloadThatPublishRefuses has an engine find one of a batch too large.
// Nothing else of the batch is lost, said to be lost, or delivered twice.
func TestOnePayloadThatPublishRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &gatedBroker{unknowingBroker: unknowingBroker{limitedBroker{Broker: engine.Broker()}}, gate: make(chan struct{})}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinBoth, func(c *websocket.Config) { c.NodeName = "other" })...)
		defer stopAll(hubs)
		member := hubs[1].connect(1<<20, idHeader("m"))
		defer member.Close()
		ready(t, hubs...)
		synctest.Wait()
		before := hubs[0].Stats().Broker
		broker.limit.Store(400)
		broker.shut.Store(true)
		const messages = 20
		for i := range messages {
			data := fmt.Appendf(nil, "%d", i)
			if i == messages/2 {
				data = []byte(`"` + strings.Repeat("x", 500) + `"`)
			}
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", data))
		}
		require.NoError(t, hubs[0].PublishToRoomContext(t.Context(), "lobby", &websocket.Message{Data: []byte(`"end"`)}))
		synctest.Wait()
		broker.shut.Store(false)
		close(broker.gate)
		time.Sleep(10 * time.Second)
		require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))

		var got []string
		for m := readJSON(t, member); m["type"] != "broadcast"; m = readJSON(t, member) {
			if m["type"] == "gap" {
				got = append(got, "gap on "+gapOn(t, m))
			} else {
				got = append(got, fmt.Sprint(m["type"], " ", m["data"]))
			}
		}
		var want []string
		for i := range messages {
			if i != messages/2 {
				want = append(want, fmt.Sprint("message ", i))
			}
		}
		require.Equal(t, append(want, "room_message end", "gap on channel news"), got)
		after := hubs[0].Stats().Broker
		require.EqualValues(t, messages, after.Published-before.Published)
		require.EqualValues(t, 1, after.Unsent)
		require.Zero(t, after.QueuedBytes)
		require.Equal(t, websocket.BrokerUp, after.State)
		require.Zero(t, after.Outages)
	})
}

// gatedBroker publishes nothing while it is shut, and is far away.
type gatedBroker struct {
	unknowingBroker
	shut  atomic.Bool
	gate  chan struct{} // closed by the test
	takes time.Duration // each call
}

func (b *gatedBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.shut.Load() {
		<-b.gate
	}
	time.Sleep(b.takes)
	return b.unknowingBroker.Publish(ctx, batch)
}

// TestFarEnginesFindOnePayloadTooLarge has a node find out for a large batch, of
// which another node needs one message. It gets that once, and goes on hearing.
func TestFarEnginesFindOnePayloadTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &gatedBroker{unknowingBroker: unknowingBroker{limitedBroker{Broker: engine.Broker()}}, gate: make(chan struct{}), takes: 20 * time.Millisecond}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinBoth, func(c *websocket.Config) { c.NodeName = "other" })...)
		defer stopAll(hubs)
		member := hubs[1].connect(1<<20, idHeader("m"))
		defer member.Close()
		ready(t, hubs...)
		time.Sleep(5 * time.Second)
		broker.limit.Store(400)
		broker.shut.Store(true)
		publish := func(channel, data string) {
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), channel, []byte(data)))
		}
		publish("elsewhere", "0")
		synctest.Wait() // it is a batch of its own
		for i := range 500 {
			if i == 250 {
				publish("elsewhere", `"`+strings.Repeat("x", 500)+`"`)
			}
			publish("elsewhere", fmt.Sprint(i))
		}
		publish("news", `"once"`)
		broker.shut.Store(false)
		close(broker.gate)
		least := 2
		for range 15 {
			time.Sleep(time.Second)
			least = min(least, hubs[1].Stats().Broker.Nodes)
		}
		publish("news", `"end"`)
		require.Equal(t, []string{"message news once", "message news end"}, types(t, member, 2))
		require.Equal(t, 2, least, "nodes that the other knows of")
	})
}

// TestEnginesThatTakeAlmostNothing has an engine come to take less than what a
// node has to say of itself and of a loss. It does not try for ever.
func TestEnginesThatTakeAlmostNothing(t *testing.T) {
	for _, limit := range []int64{1, 19, 24, 40} {
		synctest.Test(t, func(t *testing.T) {
			engine := brokertest.NewMemory(0)
			broker := &limitedBroker{Broker: engine.Broker()}
			hubs := nodes(t, engine, 1, joinBoth, func(c *websocket.Config) { c.Broker = broker })
			defer stopAll(hubs)
			member := hubs[0].connect(1<<20, idHeader("m"))
			defer member.Close()
			ready(t, hubs...)
			synctest.Wait() // what the node says of itself is out
			broker.refuses.Store(true)
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`1`)), "it is on its way")
			synctest.Wait()
			require.Equal(t, websocket.BrokerStalled, hubs[0].Health().Broker)
			broker.limit.Store(limit)
			broker.refuses.Store(false)
			time.Sleep(10 * time.Second)
			err := hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`2`))
			require.ErrorIs(t, err, websocket.ErrMessageTooLarge, "limit %d", limit)
			time.Sleep(10 * time.Second)
			require.Less(t, broker.asked.Load(), int64(200), "limit %d: it tries for ever", limit)
			require.Zero(t, hubs[0].Stats().Broker.QueuedBytes, "limit %d", limit)
			broker.limit.Store(0)
			time.Sleep(10 * time.Second)
			require.Equal(t, websocket.BrokerUp, hubs[0].Health().Broker, "limit %d", limit)
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`3`)))
			require.Equal(t, []string{"message news 1", "message news 3"}, types(t, member, 2))
		})
	}
}
