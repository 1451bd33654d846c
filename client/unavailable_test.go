package client_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// withEngine runs test with a client of a hub whose engine keeps the histories of topics whose
// names begin with h or c. Those with c conflate. The client has published to "h" and "c".
func withEngine(t *testing.T, test func(*testing.T, *brokertest.Memory, *server, *client.Client, *recorder)) {
	engine := brokertest.NewMemory(0)
	configure := func(s *server) {
		s.config.Broker = engine.Broker()
		s.config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
			if name[0] != 'h' && name[0] != 'c' {
				return websocket.TopicOptions{}
			}
			return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 1000, Age: time.Hour}, Conflate: name[0] == 'c'}
		}
	}
	inBubble(t, client.Options{BackoffMin: 500 * time.Millisecond, BackoffMax: 2 * time.Second}, configure, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		require.NoError(t, s.hub.BrokerReady(t.Context()))
		require.NoError(t, c.Publish(t.Context(), "h", []byte(`"first"`)))
		require.NoError(t, c.Publish(t.Context(), "c", []byte(`"first"`)))
		synctest.Wait()
		test(t, engine, s, c, rec)
	})
}

// within returns a context that ends after d.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	var refusal *client.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, client.CodeUnavailable, refusal.Code)
	require.NotErrorIs(t, err, client.ErrOutcomeUnknown)
}

// TestPublishDuringEngineOutage publishes while the engine is away.
func TestPublishDuringEngineOutage(t *testing.T) {
	withEngine(t, func(t *testing.T, engine *brokertest.Memory, s *server, c *client.Client, rec *recorder) {
		got, handler := newHandler()
		require.NoError(t, errOf(c.Subscribe(t.Context(), "h", handler)))
		engine.Stop()
		synctest.Wait()
		before := s.hub.Stats().MessagesReceived
		results := make(chan error, 3)
		start := time.Now()
		go func() { results <- c.Publish(within(t, time.Minute), "h", []byte(`1`)) }() // ends with the reply
		time.Sleep(20 * time.Second)
		require.Empty(t, results)
		require.Less(t, s.hub.Stats().MessagesReceived-before, uint64(200), "it waits between the attempts")
		require.Greater(t, s.hub.Stats().MessagesReceived-before, uint64(2))
		engine.Start()
		require.NoError(t, <-results)
		require.Less(t, time.Since(start), time.Minute)
		requireNumbers(t, got, 1, 1)

		engine.Stop()
		synctest.Wait()
		start = time.Now()
		err := c.Publish(within(t, 10*time.Second), "h", []byte(`2`))
		requireUnavailable(t, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 10*time.Second, time.Since(start))
		for _, channel := range []string{"c", "h never published to"} {
			err = c.Publish(within(t, 10*time.Second), channel, []byte(`3`))
			requireUnavailable(t, err)
			require.NotErrorIs(t, err, context.DeadlineExceeded, "the hub may publish it twice")
		}
		require.Equal(t, 10*time.Second, time.Since(start))
		go func() { results <- c.Publish(t.Context(), "h", []byte(`4`)) }() // ends with the client
		time.Sleep(5 * time.Second)
		_ = c.Close()
		require.ErrorIs(t, <-results, client.ErrClosed)
		require.Empty(t, rec.errors)
	})
}

// TestSubscribeDuringEngineOutage subscribes, and restores a subscription, while the engine is
// away.
func TestSubscribeDuringEngineOutage(t *testing.T) {
	withEngine(t, func(t *testing.T, engine *brokertest.Memory, s *server, c *client.Client, rec *recorder) {
		engine.Stop()
		synctest.Wait()
		requireUnavailable(t, errOf(c.Subscribe(within(t, 20*time.Second), "h", nil)))
		type joined struct {
			sub *client.Subscription
			err error
		}
		results := make(chan joined, 1)
		got, handler := newHandler()
		go func() { // ends with the reply
			sub, err := c.JoinRoom(within(t, time.Minute), "h", handler)
			results <- joined{sub, err}
		}()
		time.Sleep(15 * time.Second)
		engine.Start()
		require.NoError(t, (<-results).err)
		require.NoError(t, s.hub.PublishToRoom("h", &websocket.Message{Data: []byte(`1`)}))
		requireNumbers(t, got, 1, 1)

		engine.Stop()
		synctest.Wait()
		for len(rec.states) > 0 {
			<-rec.states
		}
		c.Reconnect()
		time.Sleep(15 * time.Second)
		require.NotEqual(t, client.Connected, c.State())
		engine.Start()
		for connections := 0; ; {
			state := (<-rec.states).State
			if state == client.Connected {
				require.Equal(t, 1, connections, "the first connection was enough")
				break
			}
			if state == client.Connecting {
				connections++
			}
		}
		require.NoError(t, s.hub.PublishToRoom("h", &websocket.Message{Data: []byte(`2`)}))
		requireNumbers(t, got, 2, 2)

		engine.Stop()
		synctest.Wait()
		c.Reconnect()
		time.Sleep(5 * time.Second)
		require.NoError(t, c.LeaveRoom(within(t, time.Second), "h"))
		time.Sleep(10 * time.Second) // less than RestoreTimeout
		require.Equal(t, client.Connected, c.State(), "there is nothing to restore")
		require.Empty(t, rec.errors)
	})
}

// TestResultOfPublications tells whether a publication stayed on the client's node.
func TestResultOfPublications(t *testing.T) {
	withEngine(t, func(t *testing.T, engine *brokertest.Memory, _ *server, c *client.Client, _ *recorder) {
		for _, local := range []bool{false, true} {
			var first, second client.PublishResult
			require.NoError(t, c.Publish(t.Context(), "news", []byte(`1`), client.Result(&first), client.Result(&second)))
			require.Equal(t, client.PublishResult{Local: local}, first)
			require.Equal(t, first, second)
			require.NoError(t, c.Broadcast(t.Context(), []byte(`1`), client.Result(&first)))
			require.Equal(t, local, first.Local)
			engine.Stop()
			synctest.Wait()
		}
	})
}

// TestRefusedPublicationKeepsItsQuestion loses the connection after a refusal: the hub may have
// published it at the first attempt.
func TestRefusedPublicationKeepsItsQuestion(t *testing.T) {
	t.Parallel()
	s := withScript(t, historyFeature)
	ctx := testContext(t)
	hub := s.connect()
	refuse := func(m websocket.Message) {
		hub.write(websocket.Message{Type: "error", ID: m.ID, Data: []byte(`{"code":"unavailable"}`)})
	}
	result := s.publishing(ctx, `1`)
	hub.reply(`{"epoch":"e","offset":1}`)
	require.NoError(t, receive(t, result))
	refused := s.publishing(ctx, `2`)
	refuse(hub.read())
	other := s.publishing(ctx, `3`)
	for answered := false; !answered; {
		if m := hub.read(); string(m.Data) == `3` {
			hub.write(websocket.Message{Type: "ack", ID: m.ID, Data: []byte(`{"epoch":"e","offset":9}`)})
			answered = true
		} else {
			refuse(m)
		}
	}
	require.NoError(t, receive(t, other))
	refuse(hub.read())
	require.Equal(t, `2`, string(hub.read().Data))
	_ = hub.NetConn().Close()
	hub = s.connect()
	asked := hub.reply(`{"published":true,"complete":true}`)
	require.Contains(t, string(asked.Data), `{"epoch":"e","offset":1}`)
	require.NoError(t, receive(t, refused))
}

// TestLatestOverAJump asks for the latest publications of a history whose offsets have jumped
// after a failure of the engine.
func TestLatestOverAJump(t *testing.T) {
	withEngine(t, func(t *testing.T, engine *brokertest.Memory, s *server, c *client.Client, rec *recorder) {
		for i := range 3 {
			require.NoError(t, c.Publish(t.Context(), "h2", fmt.Append(nil, i)))
		}
		engine.Stop()
		synctest.Wait()
		engine.LoseRecords(0)
		require.NoError(t, s.hub.BrokerReady(t.Context()))
		require.NoError(t, c.Publish(t.Context(), "h2", []byte(`3`)))
		got, handler := newHandler()
		require.NoError(t, errOf(c.Subscribe(t.Context(), "h2", handler, client.Last(3))))
		requireNumbers(t, got, 1, 3)
		require.Empty(t, rec.errors)
	})
}
