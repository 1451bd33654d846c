package redis_test

import (
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// watched is a Broker that records the calls of Up and Down.
type watched struct {
	websocket.Broker
	websocket.BrokerHandler
	up    atomic.Bool
	downs atomic.Int64
}

func (b *watched) Open(h websocket.BrokerHandler) error {
	b.BrokerHandler = h
	return b.Broker.Open(b)
}

func (b *watched) Up() {
	b.up.Store(true)
	b.BrokerHandler.Up()
}

func (b *watched) Down(err error) {
	b.up.Store(false)
	b.downs.Add(1)
	b.BrokerHandler.Down(err)
}

// nodes holds the brokers of a test.
type nodes struct {
	t       testing.TB
	brokers []*watched
}

func (n *nodes) add(b websocket.Broker) websocket.Broker {
	w := &watched{Broker: b}
	n.brokers = append(n.brokers, w)
	return w
}

// notice calls f when every broker is up, and waits until each has called Down.
func (n *nodes) notice(f func()) {
	n.t.Helper()
	before := make([]int64, len(n.brokers))
	for i, b := range n.brokers {
		eventually(n.t, "every node is up", b.up.Load)
		before[i] = b.downs.Load()
	}
	f()
	for i, b := range n.brokers {
		eventually(n.t, "every node notices", func() bool { return b.downs.Load() > before[i] })
	}
}

// inTurn returns a function that calls the next of fs each time.
func inTurn(fs ...func()) func() {
	return func() {
		f := fs[0]
		fs = append(fs[1:], f)
		f()
	}
}

// sentinels is a primary, its replica and three sentinels.
type sentinels struct {
	t                testing.TB
	primary, replica *engine // as of the latest call of wait
	watchers         []*engine
}

const masterName = "hub"

func startSentinels(t testing.TB, binary string) *sentinels {
	t.Helper()
	s := &sentinels{t: t, primary: startEngine(t, binary)}
	s.replica = startEngine(t, binary, replicaOf(s.primary)...)
	for range 3 {
		w := newEngine(t, binary)
		config := filepath.Join(w.dir, "sentinel.conf")
		require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `port %d
bind 127.0.0.1
dir %s
logfile %s
sentinel monitor %s 127.0.0.1 %d 2
sentinel down-after-milliseconds %[4]s 1500
sentinel failover-timeout %[4]s 2000
`, w.port, w.dir, filepath.Join(w.dir, "log"), masterName, s.primary.port), 0o600))
		w.run(config, "--sentinel")
		t.Cleanup(w.stop)
		s.watchers = append(s.watchers, w)
		// Shorter periods make the tests faster. A sentinel trusts its knowledge of a
		// replica for five ping periods and asks once a second, which sets a lower
		// limit for PING-PERIOD.
		err := w.client.Do(context.Background(), "SENTINEL", "DEBUG",
			"PING-PERIOD", 400, "INFO-PERIOD", 200, "PUBLISH-PERIOD", 200, "ASK-PERIOD", 200).Err()
		require.NoError(t, err)
	}
	s.wait()
	return s
}

func replicaOf(e *engine) []string { return []string{"--replicaof", "127.0.0.1", fmt.Sprint(e.port)} }

// wait waits until every sentinel knows the same primary, the other sentinels, and a
// replica that is ready for a failover.
func (s *sentinels) wait() {
	s.t.Helper()
	eventually(s.t, "the sentinels agree", func() bool {
		if s.primary.role() != "master" {
			s.primary, s.replica = s.replica, s.primary
		}
		for _, w := range s.watchers {
			if !s.agrees(w) {
				return false
			}
		}
		return true
	})
}

func (s *sentinels) agrees(w *engine) bool {
	ctx, client := context.Background(), goredis.NewSentinelClient(&goredis.Options{Addr: w.addr()})
	defer client.Close()
	master, _ := client.Master(ctx, masterName).Result()
	replicas, _ := client.Replicas(ctx, masterName).Result()
	return master["port"] == strconv.Itoa(s.primary.port) && master["flags"] == "master" &&
		master["num-other-sentinels"] == strconv.Itoa(len(s.watchers)-1) &&
		len(replicas) == 1 && replicas[0]["flags"] == "slave" && replicas[0]["master-link-status"] == "ok"
}

func (s *sentinels) broker() websocket.Broker {
	var addrs []string
	for _, w := range s.watchers {
		addrs = append(addrs, w.addr())
	}
	return open(goredis.UniversalOptions{Addrs: addrs, MasterName: masterName})
}

// succeed waits until all sentinels name the replica as the primary.
func (s *sentinels) succeed() {
	s.t.Helper()
	for _, w := range s.watchers {
		eventually(s.t, "the replica has become the primary", func() bool {
			addr, _ := w.client.Do(context.Background(), "SENTINEL", "GET-MASTER-ADDR-BY-NAME", masterName).StringSlice()
			return len(addr) == 2 && addr[1] == strconv.Itoa(s.replica.port)
		})
	}
}

// TestSentinel kills the primary, and later pauses it until it is replaced.
func TestSentinel(t *testing.T) {
	onOne(t, func(t *testing.T, server string) {
		s := startSentinels(t, server)
		t.Run("Contract", func(t *testing.T) {
			brokertest.Run(t, brokertest.Engine{Broker: s.broker, Patience: patience})
		})
		t.Run("Hubs", func(t *testing.T) {
			n := nodes{t: t}
			killed := func() {
				n.notice(s.primary.stop)
				s.succeed()
				s.primary.args = replicaOf(s.replica)
				s.primary.start()
				s.wait()
			}
			paused := func() { // the primary does not know of the failover when it resumes
				n.notice(func() { s.primary.pause(); s.succeed() })
				s.primary.resume()
				s.wait()
			}
			brokertest.RunHubs(t, brokertest.Engine{
				Broker:   func() websocket.Broker { return n.add(s.broker()) },
				Patience: patience,
				Upset:    inTurn(killed, paused),
			})
		})
	})
}

// loadSlot returns the hash slot of the channel that brokertest.RunHubs publishes to.
func (c *cluster) loadSlot() int {
	h := fnv.New32a()
	_, _ = h.Write([]byte("c.load"))
	slot, err := c.engines[0].client.ClusterKeySlot(context.Background(), fmt.Sprintf("{%d}", h.Sum32()%16)).Result()
	require.NoError(c.t, err)
	return int(slot)
}

// TestHubsOnCluster kills and pauses the masters of a Cluster, makes them fail over and
// moves slots.
func TestHubsOnCluster(t *testing.T) {
	onOne(t, func(t *testing.T, server string) {
		c := startCluster(t, server, time.Second)
		slot := c.loadSlot()
		master := c.owner(slot, c.engines[0])
		replica := c.replicate(master)
		n := nodes{t: t}
		killed := func() {
			n.notice(master.stop)
			eventually(t, "the replica has become a master", func() bool { return c.owner(slot, replica) == replica })
			master.start()
			c.wait()
		}
		moved := func() {
			n.notice(func() { // the former master continues as a replica
				require.NoError(t, master.client.ClusterFailover(context.Background()).Err())
			})
			eventually(t, "the replica has become a master", func() bool { return c.owner(slot, replica) == master })
			c.wait()
			n.notice(func() { c.move(slot) })
		}
		engine := c.faults()
		engine.Broker = func() websocket.Broker { return n.add(c.broker()) }
		engine.Upset = inTurn(killed, moved)
		brokertest.RunHubs(t, engine)
	})
}

// agreed waits until all servers know the same master of a slot, and returns it. After
// a failover this takes some time.
func (c *cluster) agreed(slot int) (master *engine) {
	c.t.Helper()
	eventually(c.t, "all servers know the slot's master", func() bool {
		master = c.owner(slot, c.engines[0])
		for _, e := range c.engines {
			if c.owner(slot, e) != master {
				return false
			}
		}
		return master != nil
	})
	return master
}

// move moves a slot without keys to another master.
func (c *cluster) move(slot int) {
	c.t.Helper()
	from, to := c.agreed(slot), c.agreed((slot+slots/2)%slots)
	ctx := context.Background()
	set := func(e *engine, args ...any) {
		c.t.Helper()
		require.NoError(c.t, e.client.Do(ctx, append([]any{"CLUSTER", "SETSLOT", slot}, args...)...).Err())
	}
	set(to, "IMPORTING", from.id())
	set(from, "MIGRATING", to.id())
	set(to, "NODE", to.id())
	set(from, "NODE", to.id())
	for _, e := range c.engines {
		eventually(c.t, "the slot has moved", func() bool { return c.owner(slot, e) == to })
	}
}
