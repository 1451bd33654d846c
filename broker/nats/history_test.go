package nats_test

import (
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// keeping makes an engine keep histories in files.
func keeping(e *engine) { e.store, e.history = e.t.TempDir(), &nats.History{} }

func TestContractOfHistory(t *testing.T) {
	e := startEngine(t, keeping)
	brokertest.Run(t, brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start, Durable: true})
}

func TestContractOfKilledHistory(t *testing.T) {
	p := startProcess(t, keeping)
	brokertest.Run(t, brokertest.Engine{
		Broker: p.broker, Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume, Durable: true,
	})
}

func TestContractOfHistoryInCluster(t *testing.T) {
	c := startCluster(t, &nats.History{Replicas: 3})
	brokertest.Run(t, brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start, Durable: true, Patience: 2 * patience})
}
