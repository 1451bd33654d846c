package brokertest_test

import (
	"runtime"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

func TestMemory(t *testing.T) {
	engine := brokertest.NewMemory(100_000)
	brokertest.Run(t, brokertest.Engine{
		Broker: engine.Broker,
		Stop:   engine.Stop, Start: engine.Start, Durable: true,
		Pause: engine.Pause, Resume: engine.Resume,
	})
}

func TestHubs(t *testing.T) {
	engine := brokertest.NewMemory(0)
	brokertest.RunHubs(t, brokertest.Engine{
		Broker: engine.Broker,
		Stop:   engine.Stop, Start: engine.Start,
		Pause: engine.Pause, Resume: engine.Resume,
		Upset: func() {
			_, before := engine.Traffic()
			for now := before; now < before+1000; _, now = engine.Traffic() {
				engine.Lose() // of payloads under way; there may be none at this moment
				runtime.Gosched()
			}
		},
	})
}

func TestTraffic(t *testing.T) {
	engine := brokertest.NewMemory(0)
	brokertest.RunTraffic(t, brokertest.Engine{Broker: engine.Broker}, engine.Traffic, true)
}

func TestHistories(t *testing.T) {
	engine := brokertest.NewMemory(0)
	brokertest.RunHistories(t, brokertest.Engine{
		Broker: engine.Broker,
		Stop:   engine.Stop, Start: engine.Start, Durable: true,
		Pause: engine.Pause, Resume: engine.Resume,
		Upset: engine.Lose,
	})
}
