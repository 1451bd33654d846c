package websocket_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// distantBroker is a Broker whose subscriptions need a time to get in force.
type distantBroker struct {
	websocket.Broker
	mu    sync.Mutex
	delay time.Duration
}

func (b *distantBroker) setDelay(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.delay = d
}

func (b *distantBroker) Subscribe(ctx context.Context, topics []string) error {
	b.mu.Lock()
	delay := b.delay
	b.mu.Unlock()
	select {
	case <-time.After(delay):
		return b.Broker.Subscribe(ctx, topics)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// nodesAtDistance starts two hubs. Subscriptions of the second one take a second.
func nodesAtDistance(t *testing.T, engine *brokertest.Memory, onConnect func(*websocket.Client)) ([]*fakeHub, *distantBroker) {
	broker := &distantBroker{Broker: engine.Broker(), delay: time.Second}
	hubs := nodes(t, engine, 1, nil)
	hubs = append(hubs, nodes(t, engine, 1, onConnect, func(c *websocket.Config) {
		c.NodeName, c.Broker = "distant", broker
		c.ClientID = queryID
	})...)
	ready(t, hubs...)
	return hubs, broker
}

func send(t *testing.T, p *fakePeer, messages ...string) {
	t.Helper()
	for _, m := range messages {
		require.NoError(t, p.WriteMessage(gorilla.TextMessage, []byte(m)))
	}
}

// TestAcksWaitForTheEngine publishes on another node at the moment when a client gets
// the ack of a subscription.
func TestAcksWaitForTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _ := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		const topics = 40
		start := time.Now()
		for i := range topics {
			send(t, p, fmt.Sprintf(`{"type":"subscribe","data":{"channel":"c%d"},"id":"%[1]d"}`, i),
				fmt.Sprintf(`{"type":"join_room","data":{"room_id":"r%d"},"id":"r%[1]d"}`, i))
		}
		var acks, want []string
		missing := map[string]bool{}
		for i := range topics {
			want = append(want, fmt.Sprint(i), fmt.Sprint("r", i))
			missing[fmt.Sprintf("message c%d 1", i)], missing[fmt.Sprintf("room_message r%d 1", i)] = true, true
		}
		for len(acks) < len(want) || len(missing) > 0 {
			m := readJSON(t, p)
			if m["type"] != "ack" {
				delete(missing, fmt.Sprint(m["type"], " ", m["channel"], " ", m["data"]))
				continue
			}
			name := m["channel"].(string)
			acks = append(acks, m["id"].(string))
			if name[0] == 'c' {
				require.NoError(t, hubs[0].PublishToChannelRaw(name, []byte(`1`)))
			} else {
				require.NoError(t, hubs[0].PublishToRoom(name, &websocket.Message{Data: []byte(`1`)}))
			}
		}
		require.Equal(t, want, acks, "replies come in the order of the requests")
		require.Less(t, time.Since(start), 2100*time.Millisecond, "all subscriptions share round trips")
	})
}

// TestHelloWaitsForTheEngine sends to a client, broadcasts, and publishes to a channel
// that the hub has subscribed it to, when it gets the ack of its hello.
func TestHelloWaitsForTheEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _ := nodesAtDistance(t, brokertest.NewMemory(0), func(c *websocket.Client) { _ = c.Subscribe("news") })
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		send(t, p, `{"type":"hub:hello","id":"1"}`)
		require.Equal(t, "1", readJSON(t, p)["id"])
		require.NoError(t, hubs[0].SendToClient("p", &websocket.Message{Data: []byte(`1`)}))
		require.NoError(t, hubs[0].Broadcast([]byte(`2`)))
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`3`)))
		require.Equal(t, []string{"message  1", "broadcast  2", "message news 3"}, types(t, p, 3))
	})
}

// TestRequestsStayInOrder sends requests behind a subscription that waits.
func TestRequestsStayInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _ := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		send(t, p, `{"type":"subscribe","data":{"channel":"news"},"id":"1"}`,
			`{"type":"publish","channel":"news","data":"mine","id":"2"}`,
			`{"type":"unsubscribe","data":{"channel":"news"},"id":"3"}`,
			`{"type":"subscribe","data":{"channel":"news"},"id":"4"}`,
			`{"type":"subscribe","data":{"channel":"other"}}`,
			`{"type":"publish","channel":"other","data":"too","id":"5"}`)
		var got []string
		for range 6 {
			m := readJSON(t, p)
			got = append(got, fmt.Sprint(m["type"], " ", m["id"]))
		}
		require.Equal(t, []string{"ack 1", "message <nil>", "ack 2", "ack 3", "ack 4", "message <nil>"}, got[:6])
		require.Equal(t, "5", readJSON(t, p)["id"])
	})
}

// TestCallbacksOfWaitingJoins joins topics whose hooks take time. The callbacks of a client
// run one at a time all the same.
func TestCallbacksOfWaitingJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		var running atomic.Int32
		callback := func() {
			assert.EqualValues(t, 1, running.Add(1))
			time.Sleep(5 * time.Second)
			running.Add(-1)
		}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) {
			c.Broker = &distantBroker{Broker: engine.Broker(), delay: time.Second}
			c.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error { callback(); return nil }
			c.OnJoin = func(*websocket.Client, websocket.Topic) { callback() }
			c.OnMessage = func(*websocket.Client, *websocket.Message) { callback() }
		})
		defer stopAll(hubs)
		ready(t, hubs...)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		for i := range 5 {
			send(t, p, fmt.Sprintf(`{"type":"subscribe","data":{"channel":"%d"},"id":"%d"}`, i, i))
		}
		send(t, p, `{"type":"publish","channel":"news","id":"last"}`)
		for readJSON(t, p)["id"] != "last" {
		}
	})
}

// TestUnconfirmedSubscriptionsMakeGaps has the engine take longer than BrokerTimeout for
// a subscription.
func TestUnconfirmedSubscriptionsMakeGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, broker := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		send(t, p, `{"type":"hub:hello","id":"1"}`)
		require.Equal(t, "1", readJSON(t, p)["id"])
		broker.setDelay(time.Hour)
		start := time.Now()
		send(t, p, `{"type":"subscribe","data":{"channel":"news"},"id":"2"}`, `{"type":"join_room","data":{"room_id":"lobby"},"id":"3"}`)
		require.Equal(t, "2", readJSON(t, p)["id"])
		require.Equal(t, "3", readJSON(t, p)["id"])
		require.Equal(t, 3*time.Second, time.Since(start))
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"lost"`)))
		broker.setDelay(0)
		require.ElementsMatch(t, []string{"channel news", "room lobby"}, []string{gapOn(t, readJSON(t, p)), gapOn(t, readJSON(t, p))})
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)))
		require.Equal(t, []string{"message news 1"}, types(t, p, 1))
	})
}

// TestWaitingClientsEnd ends clients and a hub while subscriptions wait.
func TestWaitingClientsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, broker := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs)
		broker.setDelay(time.Hour)
		p, q := hubs[1].connect(1<<16, idHeader("p")), hubs[1].connect(1<<16, idHeader("q"))
		defer q.Close()
		for _, peer := range []*fakePeer{p, q} {
			for i := range 260 {
				send(t, peer, fmt.Sprintf(`{"type":"subscribe","data":{"channel":"c%d"},"id":"%[1]d"}`, i))
			}
		}
		synctest.Wait()
		start := time.Now()
		_ = p.Close()
		time.Sleep(600 * time.Millisecond) // the peers of waiting clients are watched
		require.Equal(t, 1, hubs[1].Stats().ActiveConnections)
		require.NoError(t, hubs[1].Cluster().CloseClient(t.Context(), "q", 4000, ""))
		synctest.Wait()
		require.Zero(t, hubs[1].Stats().ActiveConnections)
		require.Less(t, time.Since(start), time.Second)
	})
}

// lateBroker is a Broker that connects when release is closed.
type lateBroker struct {
	websocket.Broker
	release chan struct{}
}

func (b *lateBroker) Open(h websocket.BrokerHandler) error {
	go func() { // ends with the test
		<-b.release
		_ = b.Broker.Open(h)
	}()
	return nil
}

func (b *lateBroker) Subscribe(ctx context.Context, topics []string) error {
	_ = b.Broker.Subscribe(ctx, topics) // they stay requested
	select {
	case <-b.release:
		return nil
	default:
		return websocket.ErrBrokerUnavailable
	}
}

// TestMembersBeforeTheBrokerIsUp has clients join before the broker is up for the first
// time. Those that were subscribed without waiting get a gap.
func TestMembersBeforeTheBrokerIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		broker := &lateBroker{engine.Broker(), make(chan struct{})}
		hubs := nodes(t, engine, 1, nil)
		hubs = append(hubs, nodes(t, engine, 1, func(c *websocket.Client) {
			if c.ID == "early" {
				joinNewsAndLobby(c)
			}
		}, func(c *websocket.Config) { c.NodeName, c.Broker = "late", broker })...)
		defer stopAll(hubs)
		early := hubs[1].connect(1<<16, idHeader("early"))
		defer early.Close()
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		synctest.Wait()
		require.Equal(t, websocket.BrokerStarting, hubs[1].Health().Broker)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"lost"`)))
		send(t, p, `{"type":"subscribe","data":{"channel":"later"},"id":"1"}`)
		time.Sleep(time.Second)
		close(broker.release)
		var gaps []string
		for range 3 {
			gaps = append(gaps, gapOn(t, readJSON(t, early)))
		}
		require.ElementsMatch(t, []string{"channel news", "room lobby", "clients"}, gaps)
		synctest.Wait()
		acks := 0
		for range 2 { // in any order
			if m := readJSON(t, p); m["id"] == "1" {
				acks++
			} else {
				require.Equal(t, "clients", gapOn(t, m))
			}
		}
		require.Equal(t, 1, acks)
		require.NoError(t, hubs[0].PublishToChannelRaw("later", []byte(`1`)))
		require.Equal(t, []string{"message later 1"}, types(t, p, 1))
	})
}

// TestBrokerReadyMeansAsOfTheCall subscribes to new topics all the time.
func TestBrokerReadyMeansAsOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, _ := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		c, _ := hubs[1].Client("p")
		stop := make(chan struct{})
		var ended sync.WaitGroup
		defer ended.Wait()
		defer close(stop)
		require.NoError(t, c.Subscribe("first"))
		ended.Go(func() { // ends when stop is closed
			for i := 0; ; i++ {
				select {
				case <-time.After(10 * time.Millisecond):
				case <-stop:
					return
				}
				if i%2 == 0 {
					_ = c.Subscribe(fmt.Sprint("c", i))
				} else {
					_ = c.Unsubscribe(fmt.Sprint("c", i-1))
				}
			}
		})
		for range 5 {
			start := time.Now()
			require.NoError(t, hubs[1].BrokerReady(t.Context()))
			require.Less(t, time.Since(start), 2100*time.Millisecond)
		}
		require.NoError(t, hubs[0].PublishToChannelRaw("first", []byte(`1`)))
		require.Equal(t, []string{"message first 1"}, types(t, p, 1))
	})
}

// TestConnectedAfterMoving moves the Go client to another node, as in a rolling restart,
// and publishes when it reports Connected.
func TestConnectedAfterMoving(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, broker := nodesAtDistance(t, brokertest.NewMemory(0), nil)
		defer stopAll(hubs[:1])
		broker.setDelay(150 * time.Millisecond)
		const channels = 50
		var target atomic.Pointer[fakeHub]
		target.Store(hubs[0])
		connected := make(chan struct{}, 10)
		received := make(chan string, 10*channels)
		c, err := client.Dial(t.Context(), "ws://hub.test/", client.Options{
			Header: idHeader("p"),
			NetDial: func(context.Context, string, string) (net.Conn, error) {
				server, peer := testnet.Pair(1 << 16)
				target.Load().accept(server)
				return peer, nil
			},
			OnState: func(s client.StateChange) {
				if s.State == client.Connected {
					connected <- struct{}{}
				}
			},
			OnMessage: func(m *websocket.Message) { received <- m.Channel },
			OnGap:     func(websocket.Gap) {},
		})
		require.NoError(t, err)
		<-connected
		for i := range channels {
			_, err := c.Subscribe(t.Context(), fmt.Sprint("c", i), nil)
			require.NoError(t, err)
		}
		target.Store(hubs[1])
		c.Reconnect()
		<-connected
		for i := range channels {
			require.NoError(t, hubs[0].PublishToChannelRaw(fmt.Sprint("c", i), []byte(`1`)))
		}
		require.NoError(t, hubs[0].SendToClient(c.ID(), &websocket.Message{Data: []byte(`1`)}))
		time.Sleep(10 * time.Second)
		require.Len(t, received, channels+1, "publications after Connected are lost")
		require.NoError(t, c.Close())
		hubs[1].stop()
	})
}

// gatedSubscriber is a Broker whose calls of Subscribe wait while its gate is closed.
type gatedSubscriber struct {
	websocket.Broker
	mu   sync.Mutex
	gate chan struct{} // closed when calls may go on
}

func (b *gatedSubscriber) Subscribe(ctx context.Context, topics []string) error {
	b.mu.Lock()
	gate := b.gate
	b.mu.Unlock()
	<-gate
	return b.Broker.Subscribe(ctx, topics)
}

// TestSubscriptionsUnderWayAtUp lets a client join while the broker is down. The broker is up
// before it has the subscription.
func TestSubscriptionsUnderWayAtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		open := make(chan struct{})
		close(open)
		late := &gatedSubscriber{Broker: engine.Broker(), gate: open}
		hubs := nodes(t, engine, 1, nil)
		hubs = append(hubs, nodes(t, engine, 1, nil, func(c *websocket.Config) { c.NodeName, c.Broker, c.ClientID = "late", late, queryID })...)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		engine.Stop()
		synctest.Wait()
		gate := make(chan struct{})
		late.mu.Lock()
		late.gate = gate
		late.mu.Unlock()
		send(t, p, `{"type":"subscribe","data":{"channel":"news"},"id":"1"}`)
		require.Equal(t, "ack", readJSON(t, p)["type"], "no engine to wait for")
		synctest.Wait()
		engine.Start()
		time.Sleep(time.Second)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"lost"`)))
		time.Sleep(time.Second)
		close(gate)
		time.Sleep(time.Second)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"seen"`)))
		got := types(t, p, 4) // the first two gaps are those of the outage
		require.Contains(t, got[2], "gap news ")
		require.Equal(t, "message news seen", got[3])
	})
}
