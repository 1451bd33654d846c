package websocket_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// unsentLog records the calls of OnUnsent.
type unsentLog struct {
	mu    sync.Mutex
	calls []websocket.Unsent
}

func (u *unsentLog) add(lost websocket.Unsent) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls = append(u.calls, lost)
}

// take returns the calls since the last take, as text, without times.
func (u *unsentLog) take() (calls []string) {
	synctest.Wait()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, l := range u.calls {
		calls = append(calls, fmt.Sprintf("%s/%s/%s/%v %d %v", l.Channel, l.RoomID, l.ClientID, l.All, l.Count, errors.Is(l.Err, websocket.ErrBrokerUnavailable)))
	}
	u.calls = nil
	return calls
}

// TestUnsentPublicationsAreReported has the server and a client publish during an outage.
func TestUnsentPublicationsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		var unsent unsentLog
		hubs := nodes(t, engine, 2, nil, withHistories, func(c *websocket.Config) {
			if c.NodeName == "node0" {
				c.OnUnsent = unsent.add
			}
		})
		defer stopAll(hubs)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)))
		send(t, p, `{"type":"publish","channel":"news","data":2,"id":"q"}`)
		require.Equal(t, []string{"ack news <nil>"}, types(t, p, 1))
		require.Empty(t, unsent.take())

		engine.Stop()
		synctest.Wait()
		require.ErrorIs(t, hubs[0].PublishToChannelRaw("news", []byte(`3`)), websocket.ErrBrokerUnavailable)
		require.Equal(t, []string{"news///false 1 true"}, unsent.take())
		for range 2 {
			send(t, p, `{"type":"publish_room","channel":"lobby","data":4,"id":"q"}`)
			require.Equal(t, []string{"ack lobby map[local:true]"}, types(t, p, 1))
		}
		require.ElementsMatch(t, []string{"/lobby//false 2 true"}, merged(unsent.take()))
		send(t, p, `{"type":"publish","channel":"hist","data":5,"id":"q"}`)
		require.Equal(t, "error", readJSON(t, p)["type"])
		require.ErrorIs(t, hubs[0].SendToClient("other", &websocket.Message{}), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, hubs[0].Broadcast([]byte(`6`)), websocket.ErrBrokerUnavailable)
		require.ElementsMatch(t, []string{"hist///false 1 true", "//other/false 1 true", "///false 1 true"}, unsent.take())
		send(t, p, `{"type":"broadcast","data":7,"id":"q","except_self":true}`)
		require.Equal(t, []string{"broadcast  6", "ack  map[local:true]"}, types(t, p, 2))
		require.EqualValues(t, 7, hubs[0].Stats().Broker.Unsent)
	})
}

// merged adds up the counts of equal reports.
func merged(calls []string) []string {
	counts := map[string]int{}
	for _, call := range calls {
		target, rest, _ := strings.Cut(call, " ")
		var n int
		_, _ = fmt.Sscan(rest, &n)
		counts[target] += n
	}
	var list []string
	for target, n := range counts {
		list = append(list, fmt.Sprint(target, " ", n, " true"))
	}
	return list
}

// TestQueuedPublicationsAreReported has publications that were accepted not reach the engine.
func TestQueuedPublicationsAreReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		var unsent unsentLog
		limited := &hiddenLimitBroker{limitedBroker{Broker: engine.Broker()}}
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.Broker, c.OnUnsent = limited, unsent.add })
		defer stopAll(hubs)
		ready(t, hubs...)
		engine.Pause()
		for range 5 {
			require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)))
		}
		time.Sleep(4 * time.Second)
		require.Equal(t, []string{"news///false 5 true"}, merged(unsent.take()))
		engine.Resume()
		time.Sleep(4 * time.Second)
		limited.limit.Store(400)
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"`+strings.Repeat("x", 2000)+`"`)))
		synctest.Wait()
		require.Equal(t, []string{"news///false 1 false"}, unsent.take(), "too large")
	})
}

// TestSlowOnUnsent has a hook that waits, panics and ends its goroutine.
func TestSlowOnUnsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		var unsent unsentLog
		release := make(chan struct{}) // closed below
		hubs := nodes(t, engine, 1, nil, func(c *websocket.Config) {
			c.OnUnsent = func(lost websocket.Unsent) {
				unsent.add(lost)
				switch lost.Channel {
				case "wait":
					<-release
				case "0":
					panic("oops")
				case "1":
					runtime.Goexit()
				}
			}
		})
		ready(t, hubs...)
		engine.Stop()
		synctest.Wait()
		publish := func(channel string) {
			require.ErrorIs(t, hubs[0].PublishToChannelRaw(channel, []byte(`1`)), websocket.ErrBrokerUnavailable)
		}
		publish("wait")
		require.Equal(t, []string{"wait///false 1 true"}, unsent.take())
		const n = 5000
		for i := range 2 * n {
			publish(fmt.Sprint(i % n))
		}
		close(release)
		calls := unsent.take()
		require.Len(t, calls, 4096+1)
		require.Equal(t, "0///false 2 true", calls[0])
		require.Equal(t, fmt.Sprintf("///true %d true", 2*(n-4096)), calls[4096])
		publish("last")
		hubs[0].stop()
		require.Equal(t, []string{"last///false 1 true"}, unsent.take(), "also during shutdown")
	})
}
