package redis_test

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// engine is a redis-server process on a free port of the loopback interface.
type engine struct {
	t    testing.TB
	port int
	dir  string
	args []string
	cmd  *exec.Cmd
}

func startEngine(t testing.TB, args ...string) *engine {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Skip("redis-server is not installed (Debian package redis-server)")
	}
	e := &engine{t: t, port: freePort(t), dir: t.TempDir(), args: args}
	e.start()
	t.Cleanup(e.stop)
	return e
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (e *engine) addr() string { return fmt.Sprintf("127.0.0.1:%d", e.port) }

func (e *engine) start() {
	e.t.Helper()
	args := append([]string{
		"--port", fmt.Sprint(e.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", e.dir,
		"--logfile", filepath.Join(e.dir, "log"), "--daemonize", "no",
	}, e.args...)
	e.cmd = exec.Command("redis-server", args...)
	require.NoError(e.t, e.cmd.Start())
	client := goredis.NewClient(&goredis.Options{Addr: e.addr()})
	defer client.Close()
	require.Eventually(e.t, func() bool { return client.Ping(context.Background()).Err() == nil }, 20*time.Second, 10*time.Millisecond)
}

func (e *engine) stop() {
	_ = e.cmd.Process.Signal(syscall.SIGCONT)
	_ = e.cmd.Process.Kill()
	_ = e.cmd.Wait()
}

func (e *engine) pause()  { require.NoError(e.t, e.cmd.Process.Signal(syscall.SIGSTOP)) }
func (e *engine) resume() { require.NoError(e.t, e.cmd.Process.Signal(syscall.SIGCONT)) }

func (e *engine) broker() websocket.Broker {
	return redis.New(redis.Options{
		Connect:  &goredis.UniversalOptions{Addrs: []string{e.addr()}},
		MaxDelay: 200 * time.Millisecond, PingInterval: 500 * time.Millisecond,
	})
}

func TestContract(t *testing.T) {
	e := startEngine(t)
	brokertest.Run(t, brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start, Pause: e.pause, Resume: e.resume})
}

// cluster is three masters that share the slots.
type cluster []*engine

func startCluster(t testing.TB) cluster {
	t.Helper()
	var c cluster
	for range 3 {
		c = append(c, startEngine(t, "--cluster-enabled", "yes", "--cluster-port", fmt.Sprint(freePort(t)),
			"--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"))
	}
	ctx := context.Background()
	const slots = 16384
	for i, e := range c {
		client := goredis.NewClient(&goredis.Options{Addr: e.addr()})
		require.NoError(t, client.ClusterAddSlotsRange(ctx, i*slots/3, (i+1)*slots/3-1).Err())
		for _, other := range c[:i] {
			port := other.args[slices.Index(other.args, "--cluster-port")+1]
			require.NoError(t, client.Do(ctx, "CLUSTER", "MEET", "127.0.0.1", other.port, port).Err())
		}
		require.NoError(t, client.Close())
	}
	for _, e := range c {
		e.waitForCluster(slots)
	}
	return c
}

func (e *engine) waitForCluster(slots int) {
	e.t.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: e.addr()})
	defer client.Close()
	require.Eventually(e.t, func() bool {
		shards, err := client.ClusterShards(context.Background()).Result()
		covered := 0
		for _, shard := range shards {
			for _, r := range shard.Slots {
				covered += int(r.End - r.Start + 1)
			}
		}
		info := client.ClusterInfo(context.Background()).Val()
		return err == nil && covered == slots && len(info) > 0 && info[:len("cluster_state:ok")] == "cluster_state:ok"
	}, 30*time.Second, 50*time.Millisecond)
}

func (c cluster) broker() websocket.Broker {
	var addrs []string
	for _, e := range c {
		addrs = append(addrs, e.addr())
	}
	return redis.New(redis.Options{
		Connect:  &goredis.UniversalOptions{Addrs: addrs, IsClusterMode: true},
		MaxDelay: 200 * time.Millisecond, PingInterval: 500 * time.Millisecond,
	})
}

func (c cluster) stop() {
	for _, e := range c {
		e.stop()
	}
}

func (c cluster) start() {
	for _, e := range c {
		e.start()
	}
	for _, e := range c {
		e.waitForCluster(16384)
	}
}

func (c cluster) pause() {
	for _, e := range c {
		e.pause()
	}
}

func (c cluster) resume() {
	for _, e := range c {
		e.resume()
	}
}

func TestContractOfACluster(t *testing.T) {
	c := startCluster(t)
	brokertest.Run(t, brokertest.Engine{
		Broker: c.broker, Stop: c.stop, Start: c.start, Pause: c.pause, Resume: c.resume, Patience: 40 * time.Second,
	})
}

func TestOptionsThatCannotWork(t *testing.T) {
	require.ErrorContains(t, redis.New(redis.Options{Prefix: "{x}"}).Open(nil), "braces")
}

func TestHubs(t *testing.T) {
	e := startEngine(t)
	brokertest.RunHubs(t, brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start, Pause: e.pause, Resume: e.resume})
}

func TestHubsOnACluster(t *testing.T) {
	c := startCluster(t)
	brokertest.RunHubs(t, brokertest.Engine{Broker: c.broker, Stop: c.stop, Start: c.start, Pause: c.pause, Resume: c.resume})
}

func TestTraffic(t *testing.T) {
	e := startEngine(t)
	client := goredis.NewClient(&goredis.Options{Addr: e.addr()})
	t.Cleanup(func() { _ = client.Close() })
	brokertest.RunTraffic(t, brokertest.Engine{Broker: e.broker}, func() (in, out int) {
		info, err := client.Info(context.Background(), "commandstats").Result()
		require.NoError(t, err)
		_, rest, _ := strings.Cut(info, "cmdstat_publish:calls=")
		_, err = fmt.Sscanf(rest, "%d", &in)
		require.NoError(t, err)
		return in, -1 // Redis does not count what it hands on
	}, true)
}
