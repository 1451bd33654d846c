package nats_test

import (
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// cluster is three servers in this process with routes between them.
type cluster struct {
	t       testing.TB
	options []*server.Options
	servers []*server.Server
	brokers int // number of brokers made so far
	history *nats.History
}

// startCluster starts the servers. They have JetStream if history is not nil.
func startCluster(t testing.TB, history *nats.History) *cluster {
	c := &cluster{t: t, history: history}
	var routes []*url.URL
	for range 3 {
		port := freePort(t)
		routes = append(routes, &url.URL{Scheme: "nats", Host: fmt.Sprintf("127.0.0.1:%d", port)})
		c.options = append(c.options, &server.Options{
			Host: "127.0.0.1", Port: freePort(t), NoSigs: true, NoLog: true,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
		})
	}
	for i, o := range c.options {
		o.Routes = routes
		if history != nil {
			o.JetStream, o.StoreDir, o.ServerName = true, t.TempDir(), fmt.Sprint("s", i)
		}
	}
	c.servers = make([]*server.Server, len(c.options))
	c.start()
	t.Cleanup(c.stop)
	return c
}

func (c *cluster) startOne(i int) {
	c.t.Helper()
	s, err := server.NewServer(c.options[i].Clone())
	require.NoError(c.t, err)
	s.Start()
	c.servers[i] = s
	require.True(c.t, s.ReadyForConnections(patience))
}

func (c *cluster) start() {
	c.t.Helper()
	for i := range c.options {
		c.startOne(i)
	}
	c.joined()
}

// joined waits until every server has a route to every other.
func (c *cluster) joined() {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		for _, s := range c.servers {
			others := map[string]bool{}
			if r, err := s.Routez(nil); err == nil {
				for _, route := range r.Routes {
					others[route.RemoteID] = true
				}
			}
			if len(others) < len(c.servers)-1 {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond)
}

func (c *cluster) stopOne(i int) {
	c.servers[i].Shutdown()
	c.servers[i].WaitForShutdown()
}

func (c *cluster) stop() {
	for i := range c.servers {
		c.stopOne(i)
	}
}

// broker returns a Broker. Each Broker prefers the next server in turn.
func (c *cluster) broker() websocket.Broker {
	var urls []string
	for i := range c.options {
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", c.options[(c.brokers+i)%len(c.options)].Port))
	}
	c.brokers++
	return nats.New(nats.Options{
		URL: strings.Join(urls, ","), MaxDelay: 200 * time.Millisecond, Connect: []natsgo.Option{natsgo.DontRandomize()},
		History: c.history,
	})
}

func TestContractOfCluster(t *testing.T) {
	c := startCluster(t, nil)
	brokertest.Run(t, brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start, Patience: patience})
}

// watched is a Broker that counts the calls of Down.
type watched struct {
	websocket.Broker
	websocket.BrokerHandler
	downs atomic.Int64
}

func (b *watched) Open(h websocket.BrokerHandler) error {
	b.BrokerHandler = h
	return b.Broker.Open(b)
}

func (b *watched) Down(err error) {
	b.downs.Add(1)
	b.BrokerHandler.Down(err)
}

// TestHubsOnCluster connects each of three hubs to a server of its own. It stops all
// servers, and then one at a time.
func TestHubsOnCluster(t *testing.T) {
	c := startCluster(t, nil)
	var brokers []*watched
	brokertest.RunHubs(t, brokertest.Engine{
		Broker: func() websocket.Broker {
			b := &watched{Broker: c.broker()}
			brokers = append(brokers, b)
			return b
		},
		Stop: c.stop, Start: c.start,
		Patience: patience,
		Upset: func() {
			before := make([]int64, len(brokers))
			for i, b := range brokers {
				before[i] = b.downs.Load()
			}
			used := slices.IndexFunc(c.servers, func(s *server.Server) bool { return s.NumClients() > 0 })
			require.GreaterOrEqual(t, used, 0)
			c.stopOne(used)
			require.Eventually(t, func() bool {
				for i, b := range brokers {
					if b.downs.Load() > before[i] {
						return true
					}
				}
				return false
			}, patience, time.Millisecond, "no node noticed the loss of its server")
			for i, s := range c.servers {
				if i != used {
					require.True(t, s.Running())
				}
			}
			c.startOne(used)
			c.joined()
		},
	})
}

// recorder is a handler that records its calls.
type recorder struct {
	ups, losses chan struct{}
	downs       chan error
	payloads    chan string
	records     chan websocket.BrokerRecord
}

func newRecorder() *recorder {
	return &recorder{
		make(chan struct{}, 10), make(chan struct{}, 10), make(chan error, 10), make(chan string, 10), make(chan websocket.BrokerRecord, 10),
	}
}

func (h *recorder) Up()                    { h.ups <- struct{}{} }
func (h *recorder) Down(err error)         { h.downs <- err }
func (h *recorder) Lost(...string)         { h.losses <- struct{}{} }
func (h *recorder) Receive(payload []byte) { h.payloads <- string(payload) }

func (h *recorder) Record(r websocket.BrokerRecord) { h.records <- r }

func receive[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case v = <-c:
	case <-timeout.C:
		require.FailNow(t, "timeout")
	}
	return v
}

// TestLateMessagesAreDropped has messages of a former connection arrive after
// messages of the next one.
func TestLateMessagesAreDropped(t *testing.T) {
	e := startEngine(t)
	h := newRecorder()
	b := e.broker()
	require.NoError(t, b.Open(h))
	t.Cleanup(func() { _ = b.Close() })
	receive(t, h.ups)
	require.NoError(t, b.Subscribe(t.Context(), []string{"c.x"}))
	conn, err := natsgo.Connect(e.server.ClientURL())
	require.NoError(t, err)
	t.Cleanup(conn.Close)
	publish := func(origin, payload string) {
		t.Helper()
		subject := "hub." + base64.RawURLEncoding.EncodeToString([]byte("c.x"))
		require.NoError(t, conn.PublishRequest(subject, origin, []byte(payload)))
	}
	publish("_HUB.a.0", "one")
	publish("_HUB.b.7", "of b")
	publish("_HUB.a.1", "two")
	publish("x.y._HUB.a.0", "late")
	publish("_HUB.b.7", "in order")
	publish("_HUB.a.1", "three")
	for _, want := range []string{"one", "of b", "two", "in order", "three"} {
		require.Equal(t, want, receive(t, h.payloads))
	}
	receive(t, h.losses)
}
