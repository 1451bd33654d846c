package redis_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for an event of an engine.
const patience = 40 * time.Second

// installed returns the names of the server binaries to test with: those listed in
// BROKER_SERVERS, or those of Redis and Valkey that are installed. The Debian
// packages have the same names.
func installed(t *testing.T) (servers []string, named bool) {
	t.Helper()
	names := strings.Fields(os.Getenv("BROKER_SERVERS"))
	for _, name := range names {
		_, err := exec.LookPath(name)
		require.NoError(t, err, "BROKER_SERVERS")
	}
	if len(names) > 0 {
		return names, true
	}
	for _, name := range []string{"redis-server", "valkey-server"} {
		if _, err := exec.LookPath(name); err == nil {
			servers = append(servers, name)
		}
	}
	if len(servers) == 0 {
		t.Skip("neither redis-server nor valkey-server is installed")
	}
	return servers, false
}

// onEach runs a test with each server.
func onEach(t *testing.T, test func(t *testing.T, server string)) {
	servers, _ := installed(t)
	for _, server := range servers {
		t.Run(server, func(t *testing.T) { test(t, server) })
	}
}

// onOne runs a slow test with one server, or with each server in BROKER_SERVERS.
func onOne(t *testing.T, test func(t *testing.T, server string)) {
	servers, named := installed(t)
	if !named {
		servers = servers[:1]
	}
	for _, server := range servers {
		t.Run(server, func(t *testing.T) { test(t, server) })
	}
}

// engine is a server process on a free port of the loopback interface.
type engine struct {
	t      testing.TB
	binary string
	port   int
	dir    string
	args   []string
	cmd    *exec.Cmd
	ended  chan struct{} // closed when cmd has ended

	password  string      // of the tests' own client
	tlsConfig *tls.Config // if the server accepts TLS only
	client    *goredis.Client
}

func startEngine(t testing.TB, binary string, args ...string) *engine {
	t.Helper()
	e := newEngine(t, binary, args...)
	e.start()
	t.Cleanup(e.stop)
	return e
}

func newEngine(t testing.TB, binary string, args ...string) *engine {
	return &engine{t: t, binary: binary, port: freePort(t), dir: t.TempDir(), args: args}
}

// freePort returns a port below the ephemeral range. A port in that range could be
// taken by an outgoing connection while the server is stopped, even by a connection
// to itself.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10_000 + rand.N(22_000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	require.FailNow(t, "no free port")
	return 0
}

func freePortText(t testing.TB) string { return fmt.Sprint(freePort(t)) }

func (e *engine) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.port) }

func (e *engine) start() {
	e.t.Helper()
	port := "--port"
	if e.tlsConfig != nil {
		port = "--tls-port"
	}
	e.run(append([]string{
		"--port", "0", port, fmt.Sprint(e.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", e.dir,
		"--logfile", filepath.Join(e.dir, "log"), "--daemonize", "no", "--repl-ping-replica-period", "1", "--repl-diskless-sync-delay", "0",
	}, e.args...)...)
}

// run starts the process and waits until it responds.
func (e *engine) run(args ...string) {
	e.t.Helper()
	e.cmd = exec.Command(e.binary, args...)
	require.NoError(e.t, e.cmd.Start())
	e.ended = make(chan struct{})
	go func(cmd *exec.Cmd, ended chan struct{}) { // ends with the process
		defer close(ended)
		_ = cmd.Wait()
	}(e.cmd, e.ended)
	if e.client == nil {
		e.client = goredis.NewClient(&goredis.Options{Addr: e.addr(), Password: e.password, TLSConfig: e.tlsConfig})
		e.t.Cleanup(func() { _ = e.client.Close() })
	}
	eventually(e.t, "the server responds", func() bool {
		select {
		case <-e.ended:
			log, _ := os.ReadFile(filepath.Join(e.dir, "log"))
			require.FailNow(e.t, "the server has ended", "%v\n%s", args, log)
		default:
		}
		return e.client.Ping(context.Background()).Err() == nil
	})
}

func (e *engine) stop() {
	_ = e.cmd.Process.Signal(syscall.SIGCONT)
	_ = e.cmd.Process.Kill()
	<-e.ended
}

// pause stops the process and waits until all of its threads are stopped.
func (e *engine) pause() {
	require.NoError(e.t, e.cmd.Process.Signal(syscall.SIGSTOP))
	_, err := syscall.Wait4(e.cmd.Process.Pid, nil, syscall.WUNTRACED, nil)
	require.NoError(e.t, err)
}

func (e *engine) resume() { require.NoError(e.t, e.cmd.Process.Signal(syscall.SIGCONT)) }

func (e *engine) broker() websocket.Broker {
	return open(goredis.UniversalOptions{Addrs: []string{e.addr()}})
}

// open returns a Broker with short intervals, so that tests are fast.
func open(connect goredis.UniversalOptions) websocket.Broker {
	return redis.New(redis.Options{
		Connect: &connect, MaxDelay: 200 * time.Millisecond, PingInterval: 500 * time.Millisecond,
	})
}

func eventually(t testing.TB, condition string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			require.FailNow(t, "timeout: waiting until "+condition)
		}
	}
}

const slots = 16384

// cluster is a Cluster. The first three servers start with the slots, the others are
// replicas.
type cluster struct {
	t           testing.TB
	nodeTimeout time.Duration
	engines     []*engine
}

// startCluster starts a Cluster whose servers count one another as failed after
// nodeTimeout. It must be longer than a busy machine keeps a server from running, unless
// the test waits for a failover.
func startCluster(t testing.TB, binary string, nodeTimeout time.Duration) *cluster {
	t.Helper()
	c := &cluster{t: t, nodeTimeout: nodeTimeout}
	ctx := context.Background()
	for i := range 3 {
		require.NoError(t, c.add(binary).client.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err())
	}
	c.wait()
	return c
}

// add starts a server and introduces it to the others.
func (c *cluster) add(binary string) *engine {
	c.t.Helper()
	e := startEngine(c.t, binary, "--cluster-enabled", "yes", "--cluster-port", freePortText(c.t),
		"--cluster-node-timeout", fmt.Sprint(c.nodeTimeout.Milliseconds()), "--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0")
	for _, other := range c.engines {
		port := other.args[slices.Index(other.args, "--cluster-port")+1]
		require.NoError(c.t, e.client.Do(context.Background(), "CLUSTER", "MEET", "127.0.0.1", other.port, port).Err())
	}
	c.engines = append(c.engines, e)
	return e
}

// replicate starts a replica of master.
func (c *cluster) replicate(master *engine) *engine {
	c.t.Helper()
	replica := c.add(master.binary)
	eventually(c.t, "the replica knows its master", func() bool {
		return replica.client.ClusterReplicate(context.Background(), master.id()).Err() == nil
	})
	c.wait()
	replica.inSync()
	return replica
}

func (e *engine) id() string {
	id, err := e.client.ClusterMyID(context.Background()).Result()
	require.NoError(e.t, err)
	return id
}

// inSync waits until a replica has its master's data.
func (e *engine) inSync() {
	e.t.Helper()
	eventually(e.t, "the replica is in sync", func() bool {
		return strings.Contains(e.client.Info(context.Background(), "replication").Val(), "master_link_status:up")
	})
}

// replicated waits until a replica has all that clients have written so far. WAIT is about the
// writes of its own connection.
func (e *engine) replicated() {
	e.t.Helper()
	ctx := context.Background()
	conn := e.client.Conn()
	defer func() { _ = conn.Close() }()
	require.NoError(e.t, conn.Set(ctx, "replicated", 1, time.Minute).Err())
	n, err := conn.Wait(ctx, 1, patience).Result()
	require.NoError(e.t, err)
	require.NotZero(e.t, n)
}

// role returns "master", "slave", or nothing if the server does not respond.
func (e *engine) role() string {
	role, _ := e.client.Do(context.Background(), "ROLE").Slice()
	if len(role) == 0 {
		return ""
	}
	return fmt.Sprint(role[0])
}

// wait waits until every server sees a master for each slot, and all other servers as
// replicas that are ready for a failover.
func (c *cluster) wait() {
	c.t.Helper()
	for _, e := range c.engines {
		eventually(c.t, "the cluster agrees", func() bool {
			ctx := context.Background()
			shards, err := e.client.ClusterShards(ctx).Result()
			covered, ready := 0, 0
			for _, s := range shards {
				for _, r := range s.Slots {
					covered += int(r.End - r.Start + 1)
				}
				for _, n := range s.Nodes {
					if n.Health == "online" && (n.Role == "master" && len(s.Slots) > 0 || n.Role == "replica" && n.ReplicationOffset > 0) {
						ready++
					}
				}
			}
			return err == nil && covered == slots && ready == len(c.engines) &&
				strings.HasPrefix(e.client.ClusterInfo(ctx).Val(), "cluster_state:ok")
		})
	}
}

// owner returns the master of a slot according to e, or nil.
func (c *cluster) owner(slot int, e *engine) *engine {
	shards, _ := e.client.ClusterShards(context.Background()).Result()
	for _, s := range shards {
		has := slices.ContainsFunc(s.Slots, func(r goredis.SlotRange) bool { return int(r.Start) <= slot && slot <= int(r.End) })
		for _, n := range s.Nodes {
			for _, e := range c.engines {
				if has && n.Role == "master" && n.Health == "online" && int(n.Port) == e.port {
					return e
				}
			}
		}
	}
	return nil
}

func (c *cluster) broker() websocket.Broker { return open(c.options()) }

func (c *cluster) options() goredis.UniversalOptions {
	var addrs []string
	for _, e := range c.engines[:3] {
		addrs = append(addrs, e.addr())
	}
	return goredis.UniversalOptions{Addrs: addrs, IsClusterMode: true}
}

func (c *cluster) each(f func(*engine)) {
	for _, e := range c.engines {
		f(e)
	}
}

func (c *cluster) stop()   { c.each((*engine).stop) }
func (c *cluster) start()  { c.each((*engine).start); c.wait() }
func (c *cluster) pause()  { c.each((*engine).pause) }
func (c *cluster) resume() { c.each((*engine).resume) }
