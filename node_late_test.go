package websocket_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// delayingBroker is a Broker whose connection can be delayed: batches that are published
// meanwhile reach the engine when deliver is called. Publish then uses another
// connection.
type delayingBroker struct {
	websocket.Broker
	mu       sync.Mutex
	delaying bool
	late     [][]websocket.BrokerMessage
}

func (b *delayingBroker) delay(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delaying = on
}

func (b *delayingBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	b.mu.Lock()
	delaying := b.delaying
	if delaying {
		kept := slices.Clone(batch)
		for i := range kept {
			kept[i].Payload = slices.Clone(kept[i].Payload)
		}
		b.late = append(b.late, kept)
	}
	b.mu.Unlock()
	if delaying {
		<-ctx.Done()
		return ctx.Err()
	}
	return b.Broker.Publish(ctx, batch)
}

func (b *delayingBroker) deliver(t *testing.T) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, batch := range b.late {
		require.NoError(t, b.Broker.Publish(t.Context(), batch))
	}
	b.late = nil
}

// TestLatePublicationsAreDropped has publications arrive after later ones of the same
// node: Publish has failed, and the engine gets the batch all the same.
func TestLatePublicationsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &delayingBroker{Broker: engine.Broker()}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker = broker })
		hubs = append(hubs, nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) { c.NodeName = "other" })...)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		synctest.Wait()
		publish := func(numbers ...int) {
			for _, i := range numbers {
				_ = hubs[0].PublishToChannelRaw("news", []byte(fmt.Sprint(i)))
			}
		}
		publish(1, 2)
		synctest.Wait()
		broker.delay(true)
		publish(3, 4, 5)
		time.Sleep(4 * time.Second)
		broker.delay(false)
		time.Sleep(3 * time.Second)
		require.True(t, hubs[0].Health().OK())
		publish(6, 7, 8)
		synctest.Wait()
		broker.deliver(t)
		publish(9)
		synctest.Wait()
		require.NoError(t, hubs[1].PublishToChannelRaw("news", []byte(`"end"`)))
		var got []string
		for m := readJSON(t, p); m["data"] != "end"; m = readJSON(t, p) {
			if m["type"] == "gap" {
				require.Equal(t, "channel news", gapOn(t, m))
				got = append(got, "gap")
			} else {
				got = append(got, fmt.Sprint(m["data"]))
			}
		}
		require.Equal(t, []string{"1", "2", "gap", "6", "7", "8", "9"}, slices.CompactFunc(withoutLateGaps(got), func(a, b string) bool { return a == b }))
		require.NotZero(t, hubs[1].Stats().Broker.Late)
	})
}

// withoutLateGaps removes the gaps behind the first one.
func withoutLateGaps(list []string) []string {
	first := slices.Index(list, "gap")
	return append(slices.Clone(list[:first+1]), slices.DeleteFunc(slices.Clone(list[first+1:]), func(s string) bool { return s == "gap" })...)
}
