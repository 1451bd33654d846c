// Package scaling measures the cost of clustering. docs/scaling.md has the
// results. Hubs, clients and the NATS server run in the test process; only
// redis-server is a process of its own. A figure covers the whole test process.
package scaling

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/nats-io/nats-server/v2/server"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// engines are the engines to measure. start starts an engine and returns a function
// that makes brokers for it.
var engines = []struct {
	name  string
	start func(b *testing.B) func() websocket.Broker
}{
	{"none", func(*testing.B) func() websocket.Broker { return func() websocket.Broker { return nil } }},
	{"memory", func(*testing.B) func() websocket.Broker { return brokertest.NewMemory(0).Broker }},
	{"nats", startNATS},
	{"redis", startRedis},
}

func startNATS(b *testing.B) func() websocket.Broker {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	require.NoError(b, err)
	s.Start()
	b.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	require.True(b, s.ReadyForConnections(10*time.Second))
	return func() websocket.Broker { return nats.New(nats.Options{URL: s.ClientURL()}) }
}

func startRedis(b *testing.B) func() websocket.Broker {
	if _, err := exec.LookPath("redis-server"); err != nil {
		b.Skip("redis-server is not installed (Debian package redis-server)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	addr := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(addr)
	cmd := exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", b.TempDir(), "--logfile", "log")
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	defer client.Close()
	require.Eventually(b, func() bool { return client.Ping(context.Background()).Err() == nil }, 10*time.Second, 10*time.Millisecond)
	return func() websocket.Broker {
		return redis.New(redis.Options{Connect: &goredis.UniversalOptions{Addrs: []string{addr}}})
	}
}

// quiet is a Logger that discards everything.
type quiet struct{}

func (quiet) Debugf(string, ...any)   {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Errorf(string, ...any)   {}

// startHub runs a hub whose clients subscribe to "news".
func startHub(b *testing.B, broker websocket.Broker) (*websocket.Hub, string) {
	config := websocket.DefaultConfig
	config.Broker = broker
	config.EnableCompression = false
	config.ClientBacklog = 256 << 20 // the reading client shares the processors with all other goroutines
	hub := websocket.NewHub(quiet{}, config)
	hub.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe("news") }, nil, nil)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // returns after Shutdown
	server := httptest.NewServer(hub.Handler())
	b.Cleanup(func() {
		_ = hub.Shutdown(context.Background())
		if err := <-ran; err != nil {
			b.Error(err)
		}
		server.Close()
	})
	return hub, strings.TrimPrefix(server.URL, "http://")
}

// connect performs the WebSocket handshake without a library, so that the client
// adds little to the memory that is measured.
func connect(b *testing.B, addr string) net.Conn {
	c, err := net.Dial("tcp", addr)
	require.NoError(b, err)
	r, err := http.NewRequest(http.MethodGet, "http://"+addr+"/", nil)
	require.NoError(b, err)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	require.NoError(b, r.Write(c))
	var response []byte
	one := make([]byte, 1)
	for !strings.HasSuffix(string(response), "\r\n\r\n") {
		_, err := c.Read(one)
		require.NoError(b, err)
		response = append(response, one[0])
	}
	require.Contains(b, string(response), " 101 ")
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// connectMember connects a client and waits until it is a member of "news". The
// handshake response alone does not mean that: onConnect runs after it.
func connectMember(b *testing.B, hub *websocket.Hub, addr string) net.Conn {
	c := connect(b, addr)
	require.Eventually(b, func() bool { return hub.Stats().TotalChannels > 0 }, 20*time.Second, time.Millisecond)
	return c
}

// cpu returns the user and system time of this process.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// heap returns the bytes of heap and stacks in use after a garbage collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkConnection reports the memory of an idle subscribed connection. It
// includes the client's net.Conn and, with NATS, the memory of the server.
func BenchmarkConnection(b *testing.B) {
	const clients = 2000
	for _, e := range engines {
		b.Run("engine="+e.name, func(b *testing.B) {
			broker := e.start(b)
			hub, addr := startHub(b, broker())
			connect(b, addr)
			require.NoError(b, hub.BrokerReady(context.Background()))
			before, connected := heap(), 0
			for b.Loop() { // run with -benchtime 1x, so that the loop runs once
				for range clients {
					connect(b, addr)
				}
				connected += clients
				require.NoError(b, hub.BrokerReady(context.Background()))
			}
			b.ReportMetric(float64(heap()-before)/float64(connected), "B/conn")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkForward publishes 128 bytes on one node for a member on another node,
// or on the same node with engine=none. The publisher is never more than 5,000
// messages ahead of the member.
func BenchmarkForward(b *testing.B) {
	for _, e := range engines {
		b.Run("engine="+e.name, func(b *testing.B) {
			broker := e.start(b)
			from, addr := startHub(b, broker())
			to := from
			if e.name != "none" {
				to, addr = startHub(b, broker())
			}
			c := connectMember(b, to, addr)
			require.NoError(b, to.BrokerReady(context.Background()))
			require.NoError(b, from.BrokerReady(context.Background()))
			var received atomic.Int64
			go func() { // returns when the connection ends
				n, err := io.Copy(&byteCounter{&received}, c)
				if err != nil && !errors.Is(err, net.ErrClosed) {
					b.Logf("after %d bytes: %v", n, err)
				}
			}()
			m := &websocket.Message{Data: []byte(`"` + strings.Repeat("x", 126) + `"`), Timestamp: 1}
			b.ReportAllocs()
			before, count := cpu(), 0
			for b.Loop() {
				if err := from.PublishToChannelContext(context.Background(), "news", m); err != nil {
					b.Fatal(err)
				}
				if count++; count%1000 == 0 {
					arrived(b, from, to, count-4000)
				}
			}
			arrived(b, from, to, count)
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(count)/1000, "cpu-µs/publication")
		})
	}
}

// arrived waits until the hub to has sent count messages.
func arrived(b *testing.B, from, to *websocket.Hub, count int) {
	for deadline := time.Now().Add(20 * time.Second); int(to.Stats().MessagesSent) < count; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			b.Fatalf("only %d of %d messages were sent; brokers: %+v %+v", to.Stats().MessagesSent, count, from.Stats().Broker, to.Stats().Broker)
		}
	}
}

type byteCounter struct{ n *atomic.Int64 }

func (r *byteCounter) Write(p []byte) (int, error) { r.n.Add(int64(len(p))); return len(p), nil }

// BenchmarkSubscribe subscribes a client to channels without other members, and
// unsubscribes it. Each channel costs the engine a subscription.
func BenchmarkSubscribe(b *testing.B) {
	for _, e := range engines {
		b.Run("engine="+e.name, func(b *testing.B) {
			broker := e.start(b)
			hub, addr := startHub(b, broker())
			connectMember(b, hub, addr)
			var member *websocket.Client
			for c := range hub.Clients() {
				member = c
			}
			require.NotNil(b, member)
			const channels = 900
			count := 0
			before := cpu()
			for b.Loop() {
				for i := range channels {
					require.NoError(b, member.Subscribe(fmt.Sprint("c", i)))
				}
				require.NoError(b, hub.BrokerReady(context.Background()))
				for i := range channels {
					require.NoError(b, member.Unsubscribe(fmt.Sprint("c", i)))
				}
				require.NoError(b, hub.BrokerReady(context.Background()))
				count += channels
			}
			b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(count)/1000, "cpu-µs/channel")
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(count), "µs/channel")
		})
	}
}
