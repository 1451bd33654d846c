package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestGoaway(t *testing.T) {
	t.Parallel()
	o := client.Options{BackoffMin: time.Second, BackoffMax: time.Hour}
	inBubble(t, o, nil, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		require.NoError(t, errOf(c.Subscribe(t.Context(), "kept", nil)))
		time.Sleep(time.Minute)
		begin := time.Now()
		send := p.goaway
		send(`{"delay":90000}`)
		send(`"not an object"`)
		send(`{"delay":5000}`) // replaces the first
		time.Sleep(4999 * time.Millisecond)
		require.Equal(t, client.Connected, c.State())
		require.NoError(t, c.Publish(t.Context(), "kept", nil))
		synctest.Wait()
		require.Len(t, rec.messages, 1)
		down := rec.waitState(t, client.Disconnected)
		require.Equal(t, 5*time.Second, time.Since(begin))
		require.True(t, down.WillRetry)
		require.Zero(t, down.RetryIn)
		require.Equal(t, websocket.CloseGoingAway, closeErrorOf(t, down.Err).Code)
		rec.waitState(t, client.Connected)
		require.Equal(t, 5*time.Second, time.Since(begin), "without a delay of its own")
		require.NoError(t, c.Publish(t.Context(), "kept", nil))
		require.EqualValues(t, 2, s.hub.Stats().TotalConnections)

		// A hub that sends every client away at once does not make it reconnect in a loop.
		send(`{"delay":0}`)
		down = rec.waitState(t, client.Disconnected)
		require.NotZero(t, down.RetryIn)
		rec.waitState(t, client.Connected)
		require.Empty(t, rec.errors)
		time.Sleep(2 * time.Minute)
		require.EqualValues(t, 3, s.hub.Stats().TotalConnections, "the first delay has no effect any more")
	})
}

// A client that reconnects never does not reconnect after hub:goaway either.
func TestGoawayAsksReconnect(t *testing.T) {
	t.Parallel()
	o := client.Options{Reconnect: func(*websocket.CloseError) bool { return false }}
	inBubble(t, o, nil, func(t *testing.T, _ *server, p *pipeListener, c *client.Client, _ *recorder) {
		p.goaway(`{"delay":1000}`)
		<-c.Done()
		require.Equal(t, websocket.CloseGoingAway, closeErrorOf(t, c.Err()).Code)
	})
}

// Calls that wait for a reply in the moment of the slot get it, and calls that are made then
// wait for the next connection.
func TestGoawayLosesNoCall(t *testing.T) {
	t.Parallel()
	release := make(chan struct{}) // the test closes, the hub's handler receives
	configure := func(s *server) {
		s.onMsg = func(_ *websocket.Client, m *websocket.Message) {
			if m.Type == "slow" {
				<-release
			}
		}
	}
	inBubble(t, client.Options{}, configure, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		release = make(chan struct{})
		rec.waitState(t, client.Connected)
		time.Sleep(time.Minute)
		p.goaway(`{"delay":1000}`)
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "slow"})) // the hub reads nothing behind it
		results := make(chan error, 2)
		go func() { results <- c.Publish(t.Context(), "before", nil) }()
		time.Sleep(1500 * time.Millisecond)
		require.Equal(t, client.Connected, c.State(), "a reply is awaited")
		go func() { results <- c.Publish(t.Context(), "after", nil) }()
		synctest.Wait()
		require.Empty(t, results)
		close(release)
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		rec.waitState(t, client.Disconnected)
		rec.waitState(t, client.Connected)
		require.EqualValues(t, 2, s.hub.Stats().TotalConnections)
		require.Empty(t, rec.errors)

		// A reply that does not come within a second is not awaited.
		release = make(chan struct{})
		time.Sleep(time.Minute)
		begin := time.Now()
		p.goaway(`{"delay":1000}`)
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "slow"}))
		require.ErrorIs(t, c.Publish(t.Context(), "lost", nil), client.ErrOutcomeUnknown)
		rec.waitState(t, client.Connected)
		require.LessOrEqual(t, time.Since(begin), 4*time.Second, "a second for the reply, and some for the end of a hub that does not read")
		close(release)
	})
}

// TestRollingRestart drains and replaces the two nodes of a cluster one after the other,
// while clients publish to a channel with history. No client may miss a message or get one
// twice, no call may fail, and the reconnects must be spread evenly.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const clients, window, bucket = 60, 10 * time.Second, time.Second
		memory := brokertest.NewMemory(1 << 20)
		nodes := []*restartNode{startNode(t, memory), startNode(t, memory)}
		var balance atomic.Uint64
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			for range nodes { // as a balancer does that asks for readiness
				n := nodes[balance.Add(1)%2]
				if hub := n.hub.Load(); hub.Health().Running && !hub.Health().Draining {
					return n.pipes.Load().dial(ctx, "", "")
				}
			}
			return nil, errors.New("no node is ready")
		}

		var mu sync.Mutex // guards the variables below
		var reconnects []time.Time
		var members []*restartMember
		for range clients {
			m := &restartMember{}
			o := client.Options{NetDial: dial, OnState: func(s client.StateChange) {
				mu.Lock()
				defer mu.Unlock()
				if s.State != client.Connected {
					return
				}
				if m.connected {
					reconnects = append(reconnects, time.Now())
				}
				m.connected = true
			}}
			o.OnGap = func(g websocket.Gap) { m.fail("gap %+v", g) }
			o.OnError = func(err error) { m.fail("error %v", err) }
			var err error
			m.client, err = client.Dial(t.Context(), "ws://hub/", o)
			require.NoError(t, err)
			require.NoError(t, errOf(m.client.Subscribe(t.Context(), "news", m.take)))
			members = append(members, m)
		}

		time.Sleep(time.Minute)
		stop := make(chan struct{})
		var publishing sync.WaitGroup
		var published atomic.Uint64
		for _, m := range members[:2] {
			publishing.Go(func() { // ends with stop
				for {
					select {
					case <-stop:
						return
					case <-time.After(200 * time.Millisecond):
					}
					data := strconv.AppendUint(nil, published.Add(1), 10)
					if err := m.client.Publish(t.Context(), "news", data); err != nil {
						m.fail("publish: %v", err)
					}
				}
			})
		}
		for i, n := range nodes {
			begin := time.Now()
			old := n.hub.Load()
			held := old.Stats().ActiveConnections
			result, err := old.Drain(t.Context(), websocket.DrainOptions{Window: window})
			require.NoError(t, err)
			require.Equal(t, websocket.DrainResult{Clients: held, Left: held}, result, "all clients left by themselves")
			require.NoError(t, old.Shutdown(t.Context()))
			time.Sleep(time.Second) // the last client reconnects
			mu.Lock()
			in, count := map[int64]int{}, len(reconnects)
			for _, at := range reconnects {
				in[int64(at.Sub(begin)/bucket)]++
			}
			reconnects = nil
			mu.Unlock()
			require.Equal(t, held, count)
			even := float64(held) / float64(window/bucket)
			for b, count := range in {
				require.LessOrEqual(t, float64(count), 1.5*even, "node %d, second %d", i, b)
			}
			n.restart(t, memory)
		}
		close(stop)
		publishing.Wait()
		time.Sleep(time.Minute)
		synctest.Wait() // also for the race detector
		total := published.Load()
		require.Greater(t, total, uint64(200))
		for _, m := range members {
			require.Empty(t, m.failures)
			require.NotEmpty(t, m.got)
			slices.Sort(m.got)
			for i, number := range m.got { // none is missing, and none came twice
				require.Equal(t, uint64(i)+1, number)
			}
			require.Equal(t, total, m.got[len(m.got)-1])
		}
		for _, m := range members {
			require.NoError(t, m.client.Close())
			<-m.client.Done()
		}
		for _, n := range nodes {
			require.NoError(t, n.hub.Load().Shutdown(t.Context()))
		}
		for _, n := range nodes {
			n.running.Wait()
		}
	})
}

// restartMember is a client of a cluster whose nodes restart.
type restartMember struct {
	client    *client.Client
	connected bool // it was Connected before; guarded by the test

	mu       sync.Mutex // guards the fields below
	got      []uint64
	failures []string
}

func (m *restartMember) take(msg *websocket.Message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	number, err := strconv.ParseUint(string(msg.Data), 10, 64)
	if err != nil {
		m.failures = append(m.failures, err.Error())
	}
	m.got = append(m.got, number)
}

func (m *restartMember) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failures = append(m.failures, fmt.Sprintf(format, args...))
}

// restartNode is a node of a cluster.
type restartNode struct {
	hub     atomic.Pointer[websocket.Hub]
	pipes   atomic.Pointer[pipeListener]
	running sync.WaitGroup
}

func startNode(t *testing.T, memory *brokertest.Memory) *restartNode {
	n := &restartNode{}
	n.restart(t, memory)
	return n
}

// restart replaces the hub, which has shut down.
func (n *restartNode) restart(t *testing.T, memory *brokertest.Memory) {
	config := websocket.DefaultConfig
	config.Broker = memory.Broker()
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 10_000}}
	}
	hub, pipes := websocket.NewHub(noLogger{}, config), newPipeListener(t)
	n.running.Go(func() { _ = hub.Run(context.Background()) }) // ends with Shutdown
	pipes.serve(hub.Handler(), hub)
	require.NoError(t, hub.BrokerReady(t.Context()))
	n.hub.Store(hub)
	n.pipes.Store(pipes)
}
