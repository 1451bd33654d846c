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

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// limitedBroker has a payload limit that the test may change. While refuses is set,
// Publish fails.
type limitedBroker struct {
	websocket.Broker
	refuses atomic.Bool
	limit   atomic.Int64
	asked   atomic.Int64 // calls of MaxPayload while there was a limit
}

func (b *limitedBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.refuses.Load() {
		return errors.New("not now")
	}
	return b.Broker.Publish(ctx, batch)
}

// MaxPayload lifts the limit after 1,000 calls, so that an endless loop of the hub
// ends and the test can fail.
func (b *limitedBroker) MaxPayload() int {
	limit := int(b.limit.Load())
	if limit > 0 && b.asked.Add(1) > 1000 {
		return 0
	}
	return limit
}

// TestOversizedLossNotices lowers the payload limit below the size of a loss
// notice. The node then announces a loss for all targets, once.
func TestOversizedLossNotices(t *testing.T) {
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
					joinNewsAndLobby(c)
					_ = c.Subscribe(long)
					_ = c.JoinRoom(long)
				}, func(c *websocket.Config) { c.NodeName = "other" })...)
				defer stopAll(hubs)
				member := hubs[1].connect(1<<20, idHeader(long))
				defer member.Close()
				ready(t, hubs...)
				synctest.Wait()

				broker.refuses.Store(true)
				require.NoError(t, tt.publish(t.Context(), hubs[0]), "the publication is queued")
				synctest.Wait()
				require.Equal(t, websocket.BrokerStalled, hubs[0].Health().Broker)
				broker.limit.Store(200)
				broker.refuses.Store(false)
				time.Sleep(3 * time.Second) // the next announcement finds the engine usable
				require.Equal(t, websocket.BrokerUp, hubs[0].Health().Broker)
				require.Less(t, broker.asked.Load(), int64(100), "the notice is retried in a loop")
				require.NoError(t, hubs[1].Broadcast([]byte(`"end"`)))
				var told []string
				for m := readJSON(t, member); m["data"] != "end"; m = readJSON(t, member) {
					told = append(told, gapOn(t, m))
				}
				require.ElementsMatch(t, []string{"channel news", "room lobby", "channel " + long, "room " + long, "clients"}, told)

				time.Sleep(30 * time.Second)
				require.Zero(t, hubs[0].Stats().Broker.QueuedBytes)
				require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`1`)))
				require.Equal(t, []string{"message news 1"}, types(t, member, 1), "the loss is announced once")
			})
		})
	}
}

// TestSendToInvalidIDs sends to IDs that no hub accepts.
func TestSendToInvalidIDs(t *testing.T) {
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
		require.Equal(t, before, after, "nothing was published to the engine")
		require.NoError(t, hubs[0].SendToClientContext(t.Context(), longest, &websocket.Message{Data: []byte(`1`)}))
		require.Equal(t, []string{"message  1"}, types(t, peer, 1))
	})
}

// TestSendAroundPayloadLimit sends messages of lengths around the engine's limit.
// Every accepted message must arrive.
func TestSendAroundPayloadLimit(t *testing.T) {
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
					require.Zero(t, refused, "%d bytes were accepted after a shorter message was rejected", size)
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

// busyBroker needs 100 ms for each batch and calls more each time, so that the
// queue of its node is never empty.
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

// TestBusyNodesAnnounceThemselves has a node whose queue is never empty and whose
// publications have no members on other nodes. It must still announce itself and
// forget nodes that are gone.
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
		silence(true)
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

// hiddenLimitBroker has a payload limit that MaxPayload does not report. Publish
// sends the payloads that fit and returns ErrMessageTooLarge for the others.
type hiddenLimitBroker struct{ limitedBroker }

func (b *hiddenLimitBroker) MaxPayload() int { return 0 }

func (b *hiddenLimitBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
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

// TestLossNoticesRejectedByPublish is TestOversizedLossNotices with a limit that
// shows only when publishing. Members get one gap for a loss.
func TestLossNoticesRejectedByPublish(t *testing.T) {
	long := strings.Repeat("long ", 50)
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &hiddenLimitBroker{limitedBroker{Broker: engine.Broker()}}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.NodeName = "other" })...)
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
		time.Sleep(10 * time.Second) // all notices have arrived
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

// TestOnePayloadRejectedByPublish has Publish reject one payload of a batch. No
// other payload of the batch may be lost, announced as lost, or delivered twice.
func TestOnePayloadRejectedByPublish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &gatedBroker{hiddenLimitBroker: hiddenLimitBroker{limitedBroker{Broker: engine.Broker()}}, gate: make(chan struct{})}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.NodeName = "other" })...)
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

		var got, gaps []string // the node that publishes tells the gap on its own
		for m := readJSON(t, member); m["type"] != "broadcast"; m = readJSON(t, member) {
			if m["type"] == "gap" {
				gaps = append(gaps, gapOn(t, m))
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
		require.Equal(t, append(want, "room_message end"), got)
		require.Equal(t, []string{"channel news"}, gaps)
		after := hubs[0].Stats().Broker
		require.EqualValues(t, messages, after.Published-before.Published)
		require.EqualValues(t, 1, after.Unsent)
		require.Zero(t, after.QueuedBytes)
		require.Equal(t, websocket.BrokerUp, after.State)
		require.Zero(t, after.Outages)
	})
}

// gatedBroker blocks Publish while shut is set, until gate is closed. Each call
// takes some time.
type gatedBroker struct {
	hiddenLimitBroker
	shut  atomic.Bool
	gate  chan struct{} // closed by the test
	takes time.Duration // added to each call
}

func (b *gatedBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.shut.Load() {
		<-b.gate
	}
	time.Sleep(b.takes)
	return b.hiddenLimitBroker.Publish(ctx, batch)
}

// TestSlowEngineRejectsOnePayload has an engine with 20 ms per call reject one
// payload of a large batch, so that the batch is published in many parts. The
// other node must get its one message once, and must not expire the busy node.
func TestSlowEngineRejectsOnePayload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &gatedBroker{hiddenLimitBroker: hiddenLimitBroker{limitedBroker{Broker: engine.Broker()}}, gate: make(chan struct{}), takes: 20 * time.Millisecond}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.NodeName = "other" })...)
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
		synctest.Wait() // a batch of its own is blocked at the gate
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
		require.Equal(t, 2, least, "lowest number of nodes that the other knew")
	})
}

// TestTinyPayloadLimits lowers the payload limit below the size of a hello and of
// the shortest loss notice. The node must not retry in a loop.
func TestTinyPayloadLimits(t *testing.T) {
	for _, limit := range []int64{1, 19, 24, 40} {
		synctest.Test(t, func(t *testing.T) {
			engine := brokertest.NewMemory(0)
			broker := &limitedBroker{Broker: engine.Broker()}
			hubs := nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.Broker = broker })
			defer stopAll(hubs)
			member := hubs[0].connect(1<<20, idHeader("m"))
			defer member.Close()
			ready(t, hubs...)
			synctest.Wait() // the node's hellos are published
			broker.refuses.Store(true)
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`1`)), "the publication is queued")
			synctest.Wait()
			require.Equal(t, websocket.BrokerStalled, hubs[0].Health().Broker)
			broker.limit.Store(limit)
			broker.refuses.Store(false)
			time.Sleep(10 * time.Second)
			err := hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`2`))
			require.ErrorIs(t, err, websocket.ErrMessageTooLarge, "limit %d", limit)
			time.Sleep(10 * time.Second)
			require.Less(t, broker.asked.Load(), int64(200), "limit %d: it retries in a loop", limit)
			require.Zero(t, hubs[0].Stats().Broker.QueuedBytes, "limit %d", limit)
			broker.limit.Store(0)
			time.Sleep(10 * time.Second)
			require.Equal(t, websocket.BrokerUp, hubs[0].Health().Broker, "limit %d", limit)
			require.NoError(t, hubs[0].PublishToChannelRawContext(t.Context(), "news", []byte(`3`)))
			require.Equal(t, []string{"message news 1", "message news 3"}, types(t, member, 2))
		})
	}
}
