package nats_test

import (
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// TestHistories kills the server while hubs publish to a topic with history.
func TestHistories(t *testing.T) {
	p := startProcess(t, func(e *engine) {
		e.store, e.history = e.t.TempDir(), &nats.History{Messages: 50_000, Age: time.Hour}
	})
	brokertest.RunHistories(t, brokertest.Engine{
		Broker: p.broker, Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume, Durable: true, Patience: patience,
	})
}
