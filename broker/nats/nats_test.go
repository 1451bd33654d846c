package nats_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// asServer is an environment variable. If it is set, the test binary is a NATS server
// on that port, so that tests can stop the server with a signal.
const asServer = "NATS_TEST_SERVER_PORT"

// storeOf is an environment variable with the server's folder for JetStream.
const storeOf = "NATS_TEST_SERVER_STORE"

func TestMain(m *testing.M) {
	if port := os.Getenv(asServer); port != "" {
		n, _ := strconv.Atoi(port)
		if _, err := runServer(n, os.Getenv(storeOf)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_, _ = os.Stdin.Read(make([]byte, 1)) // returns when the test closes the pipe
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runServer starts a server. It has JetStream if store is not "".
func runServer(port int, store string) (*server.Server, error) {
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, JetStream: store != "", StoreDir: store,
	})
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, fmt.Errorf("nats-server is not ready on port %d", port)
	}
	return s, nil
}

// patience is how long a test waits for an event of a server.
const patience = 30 * time.Second

// engine is a server in this process.
type engine struct {
	t       testing.TB
	port    int
	server  *server.Server
	store   string        // see runServer
	history *nats.History // of brokers
}

func startEngine(t testing.TB, change ...func(*engine)) *engine {
	e := &engine{t: t, port: freePort(t)}
	for _, f := range change {
		f(e)
	}
	e.start()
	t.Cleanup(e.stop)
	return e
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

func (e *engine) start() {
	s, err := runServer(e.port, e.store)
	require.NoError(e.t, err)
	e.server = s
}

func (e *engine) stop() {
	e.server.Shutdown()
	e.server.WaitForShutdown()
}

func (e *engine) broker() websocket.Broker {
	return nats.New(nats.Options{URL: fmt.Sprintf("nats://127.0.0.1:%d", e.port), MaxDelay: 200 * time.Millisecond, History: e.history})
}

func TestContract(t *testing.T) {
	e := startEngine(t)
	brokertest.Run(t, brokertest.Engine{Broker: e.broker, Stop: e.stop, Start: e.start})
}

// process is a server in a process of its own, which can be stopped by SIGSTOP.
type process struct {
	*engine
	cmd   *exec.Cmd
	stdin interface{ Close() error }
}

func startProcess(t testing.TB, change ...func(*engine)) *process {
	p := &process{engine: &engine{t: t, port: freePort(t)}}
	for _, f := range change {
		f(p.engine)
	}
	p.start()
	t.Cleanup(p.kill)
	return p
}

func (p *process) start() {
	p.cmd = exec.Command(os.Args[0], "-test.run=^$")
	p.cmd.Env = append(os.Environ(), fmt.Sprint(asServer, "=", p.port), storeOf+"="+p.store)
	p.cmd.Stderr = os.Stderr
	in, err := p.cmd.StdinPipe()
	require.NoError(p.t, err)
	p.stdin = in
	require.NoError(p.t, p.cmd.Start())
	require.Eventually(p.t, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p.port))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 20*time.Second, 10*time.Millisecond)
}

func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
	_ = p.stdin.Close()
}

// pause stops the process and waits until all of its threads are stopped.
func (p *process) pause() {
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGSTOP))
	_, err := syscall.Wait4(p.cmd.Process.Pid, nil, syscall.WUNTRACED, nil)
	require.NoError(p.t, err)
}

func (p *process) resume() { require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGCONT)) }

func TestContractOfPausedServer(t *testing.T) {
	p := startProcess(t)
	brokertest.Run(t, brokertest.Engine{
		Broker: p.broker, Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume,
	})
}

func TestOpenFails(t *testing.T) {
	broken := func(*natsgo.Options) error { return errors.New("no such file") }
	b := nats.New(nats.Options{Connect: []natsgo.Option{broken}})
	err := b.Open(nil)
	require.Error(t, err)
	require.True(t, strings.HasPrefix(err.Error(), "nats: "))
}

func TestHubs(t *testing.T) {
	p := startProcess(t)
	brokertest.RunHubs(t, brokertest.Engine{
		Broker: p.broker, Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume,
	})
}

// TestHubsFarAway puts 10 ms between the hubs and the server. The link of the first hub breaks
// while its messages are on their way.
func TestHubsFarAway(t *testing.T) {
	p := startProcess(t)
	var first *testnet.Link
	brokertest.RunHubs(t, brokertest.Engine{
		Broker: func() websocket.Broker {
			link, err := testnet.NewLink(fmt.Sprintf("127.0.0.1:%d", p.port))
			require.NoError(t, err)
			t.Cleanup(link.Close)
			link.SetDelay(10 * time.Millisecond)
			if first == nil {
				first = link
			}
			return nats.New(nats.Options{URL: "nats://" + link.Addr(), MaxDelay: 200 * time.Millisecond})
		},
		Stop: p.kill, Start: p.start, Pause: p.pause, Resume: p.resume,
		Upset: func() {
			first.Cut(false)
			first.Restore()
		},
	})
}

func TestTraffic(t *testing.T) {
	e := startEngine(t)
	brokertest.RunTraffic(t, brokertest.Engine{Broker: e.broker}, func() (in, out int) {
		v, err := e.server.Varz(nil)
		require.NoError(t, err)
		return int(v.InMsgs), int(v.OutMsgs)
	}, false)
}
