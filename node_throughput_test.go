package websocket_test

import (
	"context"
	"sync"
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
