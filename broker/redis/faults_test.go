package redis_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// recorder is a Broker and its handler, which records calls in order.
type recorder struct {
	t testing.TB
	websocket.Broker
	events   chan error // nil for Up, the reason for Down
	payloads chan string
	records  chan websocket.BrokerRecord
	losses   chan []string
}

func listen(t testing.TB, b websocket.Broker) *recorder {
	s := &recorder{t: t, Broker: b, events: make(chan error, 1000), payloads: make(chan string, 1000)}
	s.records, s.losses = make(chan websocket.BrokerRecord, 10_000), make(chan []string, 1000)
	require.NoError(t, b.Open(s))
	t.Cleanup(func() { _ = b.Close() })
	return s
}

func (s *recorder) Up()                    { s.events <- nil }
func (s *recorder) Down(err error)         { s.events <- err }
func (s *recorder) Lost(topics ...string)  { s.losses <- topics }
func (s *recorder) Receive(payload []byte) { s.payloads <- string(payload) }

func (s *recorder) Record(r websocket.BrokerRecord) {
	r.Payload = bytes.Clone(r.Payload)
	s.records <- r
}

// next waits for the next call of Up or Down.
func (s *recorder) next() error {
	s.t.Helper()
	return receive(s.t, s.events)
}

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

// exchange checks that a payload published by a arrives at b.
func exchange(t testing.TB, a, b *recorder) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, b.Subscribe(ctx, []string{"c.x"}))
	require.NoError(t, a.Publish(ctx, []websocket.BrokerMessage{{Topic: "c.x", Payload: []byte("hello")}}))
	require.Equal(t, "hello", receive(t, b.payloads))
}

// TestProbesDetectDeadSubscriptions moves the publishing connections of a broker to
// another server but not its subscriptions, as after a failover that the former server
// does not know of.
func TestProbesDetectDeadSubscriptions(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		former, present := startEngine(t, server), startEngine(t, server)
		var target atomic.Pointer[engine]
		target.Store(former)
		a := listen(t, open(goredis.UniversalOptions{
			Addrs: []string{"server"},
			Dialer: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, target.Load().addr())
			},
		}))
		require.NoError(t, a.next())
		exchange(t, a, a)
		target.Store(present)
		require.NoError(t, former.client.ClientKillByFilter(context.Background(), "TYPE", "normal").Err())
		require.ErrorContains(t, a.next(), "publications do not reach the subscriptions")
		require.NoError(t, a.next())
		b := listen(t, present.broker())
		require.NoError(t, b.next())
		exchange(t, b, a)
	})
}

// TestDownIsReportedBeforeReconnecting has dialing block after the loss of a
// connection. Down must be called all the same.
func TestDownIsReportedBeforeReconnecting(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		var waits atomic.Bool
		a := listen(t, open(goredis.UniversalOptions{
			Addrs: []string{e.addr()},
			Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
				if waits.Load() {
					<-ctx.Done()
				}
				return new(net.Dialer).DialContext(ctx, network, addr)
			},
		}))
		require.NoError(t, a.next())
		waits.Store(true)
		require.NoError(t, e.client.ClientKillByFilter(context.Background(), "TYPE", "pubsub").Err())
		require.Error(t, a.next())
	})
}

// TestSentinelNamesReplica has a sentinel name a server that has become a replica.
func TestSentinelNamesReplica(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		primary := startEngine(t, server)
		replica := startEngine(t, server, replicaOf(primary)...)
		w := newEngine(t, server)
		config := filepath.Join(w.dir, "sentinel.conf")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `port %d
bind 127.0.0.1
dir %s
logfile %s
sentinel monitor %s 127.0.0.1 %d 1
sentinel down-after-milliseconds %[4]s 3600000
`, w.port, w.dir, filepath.Join(w.dir, "log"), masterName, replica.port), 0o600))
		w.run(config, "--sentinel")
		t.Cleanup(w.stop)
		a := listen(t, open(goredis.UniversalOptions{Addrs: []string{w.addr()}, MasterName: masterName}))
		require.ErrorContains(t, a.next(), "replica")
		require.NoError(t, replica.client.ReplicaOf(context.Background(), "NO", "ONE").Err())
		require.NoError(t, a.next())
		exchange(t, a, a)
	})
}

// TestCloseWithSilentServer closes a broker whose server accepts connections and never
// responds.
func TestCloseWithSilentServer(t *testing.T) {
	const never = time.Hour
	for name, options := range map[string]goredis.UniversalOptions{
		"Single":   {},
		"TLS":      {TLSConfig: &tls.Config{ServerName: "localhost"}},
		"Sentinel": {MasterName: masterName},
		"Cluster":  {IsClusterMode: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			options.Addrs = []string{l.Addr().String()}
			options.DialTimeout, options.ReadTimeout, options.PoolTimeout = never, never, never
			b := redis.New(redis.Options{Connect: &options})
			require.NoError(t, b.Open(&recorder{t: t}))
			conn, err := l.Accept()
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1)) // the broker has sent a command and waits for the response
			require.NoError(t, err)
			closed := make(chan error, 1)
			go func() { closed <- b.Close() }()
			require.NoError(t, receive(t, closed))
		})
	}
}

// heldConn is a connection to a server whose responses are held back, from the first
// subscribe command on, until release is closed.
type heldConn struct {
	net.Conn
	held    atomic.Bool
	reached chan<- struct{} // gets a value when a response is held back
	release <-chan struct{}
}

func (c *heldConn) Write(b []byte) (int, error) {
	if bytes.Contains(bytes.ToLower(b), []byte("subscribe\r\n")) {
		c.held.Store(true)
	}
	return c.Conn.Write(b)
}

func (c *heldConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.held.Load() && err == nil {
		select {
		case c.reached <- struct{}{}:
		default:
		}
		<-c.release
	}
	return n, err
}

// TestTopicsOfAReconnect subscribes and unsubscribes while the broker reconnects: after it
// has subscribed to its topics again and before the server has confirmed that. It must come
// up, with the new topics, and the subscription that waited must be in force.
func TestTopicsOfAReconnect(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		var hold atomic.Bool
		reached, release := make(chan struct{}, 1), make(chan struct{})
		a := listen(t, redis.New(redis.Options{
			MaxDelay: 200 * time.Millisecond, PingInterval: patience, // a silent server is not noticed
			Connect: &goredis.UniversalOptions{
				Addrs: []string{e.addr()},
				Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
					conn, err := new(net.Dialer).DialContext(ctx, network, addr)
					if err == nil && hold.Load() {
						conn = &heldConn{Conn: conn, reached: reached, release: release}
					}
					return conn, err
				},
			},
		}))
		require.NoError(t, a.next())
		require.NoError(t, a.Subscribe(t.Context(), []string{"c.old", "c.gone"}))
		hold.Store(true)
		require.NoError(t, e.client.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
		require.Error(t, a.next())
		receive(t, reached)
		waiting := make(chan error, 1)
		go func() { waiting <- a.Subscribe(t.Context(), []string{"c.new"}) }() // waits for the confirmation
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		require.Error(t, a.Subscribe(ended, []string{"c.later"}))
		require.NoError(t, a.Unsubscribe(t.Context(), []string{"c.gone"}))
		close(release)
		require.NoError(t, a.next(), "the broker comes up")
		require.NoError(t, receive(t, waiting))
		for _, topic := range []string{"c.old", "c.new", "c.later"} {
			require.NoError(t, a.Publish(t.Context(), []websocket.BrokerMessage{{Topic: topic, Payload: []byte(topic)}}))
			require.Equal(t, topic, receive(t, a.payloads))
		}
	})
}

// slowLink makes connections whose publish commands can be delayed. Closing a connection
// does not take back the bytes that are under way.
type slowLink struct {
	mu      sync.Mutex
	slow    bool
	conns   []*slowConn // with delayed bytes
	closed  int         // those of conns that the client has closed
	written int         // publish commands written without delay since slow was unset
}

type slowConn struct {
	net.Conn
	link    *slowLink
	delayed []byte // guarded by link.mu
	closed  bool
}

func (l *slowLink) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &slowConn{Conn: conn, link: l}, nil
}

func (c *slowConn) Write(b []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	publishes := bytes.Contains(bytes.ToLower(b), []byte("\npublish\r\n"))
	switch {
	case len(c.delayed) > 0:
	case c.link.slow && publishes:
		c.link.conns = append(c.link.conns, c)
	default:
		if publishes {
			c.link.written++
		}
		return c.Conn.Write(b)
	}
	c.delayed = append(c.delayed, b...)
	return len(b), nil
}

func (c *slowConn) Close() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if len(c.delayed) == 0 {
		return c.Conn.Close()
	}
	if !c.closed {
		c.closed = true
		c.link.closed++
	}
	return nil
}

// upset delays publications until the broker has given a connection up and uses another.
func (l *slowLink) upset(t *testing.T) {
	check := func(f func() bool) func() bool {
		return func() bool { l.mu.Lock(); defer l.mu.Unlock(); return f() }
	}
	l.mu.Lock()
	l.slow, l.closed = true, 0
	l.mu.Unlock()
	eventually(t, "publishing has failed", check(func() bool { return l.closed > 0 }))
	l.mu.Lock()
	l.slow, l.written = false, 0
	l.mu.Unlock()
	eventually(t, "publishing goes on", check(func() bool { return l.written > 200 }))
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.conns {
		require.NoError(t, c.Conn.SetDeadline(time.Time{})) // that of the client has passed
		_, err := c.Conn.Write(c.delayed)
		require.NoError(t, err)
		c.delayed = nil
		if c.closed {
			_ = c.Conn.Close()
		}
	}
	l.conns = nil
}

// TestHubsOnSlowLink delays the publications of one hub, so that they arrive after later
// ones.
func TestHubsOnSlowLink(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e, link := startEngine(t, server), &slowLink{}
		made := 0
		brokertest.RunHubs(t, brokertest.Engine{
			Patience: patience,
			Broker: func() websocket.Broker {
				options := goredis.UniversalOptions{Addrs: []string{e.addr()}}
				if made++; made == 1 {
					options.Dialer = link.dial
				}
				return open(options)
			},
			Upset: func() { link.upset(t) },
		})
	})
}

// TestHubsFarAway puts 10 ms between the hubs and the server. The link of the first hub falls
// silent, so that the other hubs cannot tell it from one whose process has died.
func TestHubsFarAway(t *testing.T) {
	onEach(t, func(t *testing.T, server string) {
		e := startEngine(t, server)
		engine, n := e.faults(), nodes{t: t}
		var first *testnet.Link
		engine.Broker = func() websocket.Broker {
			link, err := testnet.NewLink(e.addr())
			require.NoError(t, err)
			t.Cleanup(link.Close)
			link.SetDelay(10 * time.Millisecond)
			b := open(goredis.UniversalOptions{Addrs: []string{link.Addr()}})
			if first == nil {
				first = link
				return n.add(b)
			}
			return b
		}
		engine.Upset = func() {
			n.notice(func() { first.Cut(true) })
			first.Restore()
		}
		brokertest.RunHubs(t, engine)
	})
}
