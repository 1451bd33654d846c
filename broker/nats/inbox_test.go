package nats_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/stretchr/testify/require"
)

// gate is a handler that records its calls in order. The test holds Receive with mu.
type gate struct {
	ups, entered chan struct{}
	calls        chan string
	mu           sync.Mutex
}

func (h *gate) Up()            { h.ups <- struct{}{} }
func (h *gate) Down(error)     {}
func (h *gate) Lost(...string) { h.calls <- "lost" }

func (h *gate) Record(websocket.BrokerRecord) {}

func (h *gate) Receive(payload []byte) {
	h.entered <- struct{}{}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls <- string(payload)
}

// TestEveryLossIsTold has a slow handler lose the messages of a subscription several times,
// without a message of it that arrives in between.
func TestEveryLossIsTold(t *testing.T) {
	const pending = 16
	e := startEngine(t)
	h := &gate{ups: make(chan struct{}, 1), entered: make(chan struct{}, 10_000), calls: make(chan string, 10_000)}
	b := nats.New(nats.Options{URL: fmt.Sprintf("nats://127.0.0.1:%d", e.port), Pending: pending})
	require.NoError(t, b.Open(h))
	t.Cleanup(func() { _ = b.Close() })
	receive(t, h.ups)
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.many", "c.few"}))
	sender := e.broker()
	up := newRecorder()
	require.NoError(t, sender.Open(up))
	t.Cleanup(func() { _ = sender.Close() })
	receive(t, up.ups)
	publish := func(messages ...websocket.BrokerMessage) {
		require.NoError(t, sender.Publish(t.Context(), messages))
		require.NoError(t, b.Subscribe(t.Context(), []string{"c.sync"})) // they arrive before the reply to it
	}
	many := func(payload string) websocket.BrokerMessage {
		return websocket.BrokerMessage{Topic: "c.many", Payload: []byte(payload)}
	}
	for round := range 5 {
		for len(h.entered) > 0 {
			<-h.entered
		}
		h.mu.Lock()
		publish(many("first"))
		receive(t, h.entered)
		var batch []websocket.BrokerMessage
		for i := range pending {
			batch = append(batch, many(fmt.Sprint(i)))
		}
		publish(append(batch, websocket.BrokerMessage{Topic: "c.few", Payload: []byte("few")})...)
		h.mu.Unlock()
		require.Equal(t, "first", receive(t, h.calls))
		for i := range pending {
			require.Equal(t, fmt.Sprint(i), receive(t, h.calls))
		}
		publish(many("last"))
		require.Contains(t, []string{"lost", "few"}, receive(t, h.calls), "round %d", round)
		require.Equal(t, "last", receive(t, h.calls))
	}
}
