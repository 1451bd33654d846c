package websocket_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// farBroker is a Broker whose engine needs 20 ms to take a batch.
type farBroker struct{ websocket.Broker }

func (b farBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	time.Sleep(20 * time.Millisecond)
	return b.Broker.Publish(ctx, batch)
}

// TestThroughputOverALongWay publishes 50,000 messages of 100 bytes to an engine 20 ms away, in a second.
func TestThroughputOverALongWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs := nodes(t, brokertest.NewMemory(0), 1, nil, func(c *websocket.Config) { c.Broker = farBroker{c.Broker} })
		defer stopAll(hubs)
		ready(t, hubs...)
		start := time.Now()
		const total, publishers = 50_000, 50
		data := make([]byte, 100)
		var publishing sync.WaitGroup
		for range publishers {
			publishing.Go(func() {
				for range total / publishers {
					require.NoError(t, hubs[0].PublishToChannelRaw("news", data))
				}
			})
		}
		publishing.Wait()
		for hubs[0].Stats().Broker.Published < total {
			time.Sleep(time.Millisecond)
		}
		require.LessOrEqual(t, time.Since(start), time.Second)
	})
}

// countingBroker counts batches. Its engine needs 100 µs for each.
type countingBroker struct {
	websocket.HistoryBroker
	batches atomic.Int64
}

func (b *countingBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	time.Sleep(100 * time.Microsecond)
	b.batches.Add(1)
	return b.HistoryBroker.Publish(ctx, batch)
}

func (b *countingBroker) Append(ctx context.Context, batch []websocket.BrokerRecord) []websocket.AppendResult {
	time.Sleep(100 * time.Microsecond)
	b.batches.Add(1)
	return b.HistoryBroker.Append(ctx, batch)
}

// TestBusyNodesPublishInLargerBatches publishes 20,000 messages a second, and then less.
func TestBusyNodesPublishInLargerBatches(t *testing.T) {
	for _, topic := range []string{"news", "kept"} {
		synctest.Test(t, func(t *testing.T) {
			var broker *countingBroker
			hubs := nodes(t, brokertest.NewMemory(0), 1, nil, func(c *websocket.Config) {
				broker = &countingBroker{HistoryBroker: c.Broker.(websocket.HistoryBroker)}
				c.Broker = broker
				c.TopicOptions = func(_ websocket.TopicKind, name string) (o websocket.TopicOptions) {
					if name == "kept" {
						o.History = websocket.HistoryOptions{Messages: 10, Age: time.Hour}
					}
					return o
				}
			})
			defer stopAll(hubs)
			ready(t, hubs...)
			time.Sleep(time.Minute)
			publish := func() { require.NoError(t, hubs[0].PublishToChannelRaw(topic, []byte(`1`))) }
			began := time.Now()
			before := broker.batches.Load()
			for range 1000 {
				publish()
				if topic == "news" {
					time.Sleep(100 * time.Microsecond)
				}
			}
			require.LessOrEqual(t, time.Since(began), 110*time.Millisecond, "%s: a publisher that waits is not delayed", topic)
			time.Sleep(100 * time.Millisecond)
			if topic == "news" {
				require.LessOrEqual(t, broker.batches.Load()-before, int64(120), "one batch in a millisecond, after a burst")
			}
			before = broker.batches.Load()
			var publishing sync.WaitGroup
			for range 200 {
				for range 10 {
					publishing.Go(publish)
				}
				time.Sleep(500 * time.Microsecond)
			}
			publishing.Wait()
			time.Sleep(100 * time.Millisecond)
			require.LessOrEqual(t, broker.batches.Load()-before, int64(210), "%s: at most two batches in a millisecond", topic)
		})
	}
}
