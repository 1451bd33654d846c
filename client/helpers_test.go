package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

// TestMain fails if the tests leave goroutines running.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && !goroutinesEnded() {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

// goroutinesEnded waits for all other goroutines to end. It returns false after 5 s.
func goroutinesEnded() bool {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > 1 {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// timeout bounds the wait for events that happen immediately in a passing test.
const timeout = 10 * time.Second

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	return ctx
}

// receive receives a value and fails the test after timeout.
func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(timeout):
		require.FailNow(t, "nothing received")
		panic("unreachable")
	}
}

// server is a hub that can be restarted on the same address.
type server struct {
	t       *testing.T
	config  websocket.Config
	handler func(http.Handler) http.Handler
	onConn  func(*websocket.Client)
	onMsg   func(*websocket.Client, *websocket.Message)
	addr    string

	hub        *websocket.Hub
	pipes      *pipeListener // of serveIn
	goroutines sync.WaitGroup
}

func newServer(t *testing.T, configure func(*server)) *server {
	s := &server{t: t, config: websocket.DefaultConfig, addr: "127.0.0.1:0"}
	if configure != nil {
		configure(s)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) start() {
	l, err := net.Listen("tcp", s.addr)
	require.NoError(s.t, err)
	s.addr = l.Addr().String()
	s.serve(l)
}

func (s *server) serve(l net.Listener) {
	handler := s.run()
	s.goroutines.Go(func() { _ = s.hub.Serve(l, handler) }) // ends with stop
}

// serveIn serves in-memory connections.
func (s *server) serveIn(p *pipeListener) {
	p.serve(s.run(), s.hub)
	s.pipes = p
}

// run runs a new hub and returns its handler.
func (s *server) run() http.Handler {
	hub := websocket.NewHub(noLogger{}, s.config)
	hub.SetCallbacks(s.onConn, nil, s.onMsg)
	handler := hub.Handler()
	if s.handler != nil {
		handler = s.handler(handler)
	}
	s.hub = hub
	s.goroutines.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	return handler
}

func (s *server) stop() {
	_ = s.hub.Shutdown(context.Background())
	if s.pipes != nil {
		s.pipes.hub.Load().Stop()
	}
	s.goroutines.Wait()
}

func (s *server) url() string {
	if s.config.TLS != nil {
		return "wss://" + s.addr + "/ws"
	}
	return "ws://" + s.addr + "/ws"
}

// onlyClient waits until the hub has exactly one client and returns it.
func (s *server) onlyClient() *websocket.Client {
	for range 10_000 {
		if clients := slices.Collect(s.hub.Clients()); len(clients) == 1 {
			return clients[0]
		}
		<-time.After(time.Millisecond)
	}
	require.FailNow(s.t, "hub does not have exactly one client")
	return nil
}

type noLogger struct{}

func (noLogger) Debugf(string, ...any)   {}
func (noLogger) Infof(string, ...any)    {}
func (noLogger) Warningf(string, ...any) {}
func (noLogger) Errorf(string, ...any)   {}

// recorder records the arguments of a client's callbacks.
type recorder struct {
	states   chan client.StateChange
	gaps     chan websocket.Gap
	errors   chan error
	messages chan *websocket.Message

	timeout time.Duration
}

const bufferSize = 4096

func newRecorder() *recorder {
	return &recorder{
		states:   make(chan client.StateChange, bufferSize),
		gaps:     make(chan websocket.Gap, bufferSize),
		errors:   make(chan error, bufferSize),
		messages: make(chan *websocket.Message, bufferSize),
		timeout:  timeout,
	}
}

// options returns o with callbacks that record into rec, and short delays between
// attempts.
func (rec *recorder) options(o client.Options) client.Options {
	o.OnState = func(s client.StateChange) { rec.states <- s }
	o.OnGap = func(g websocket.Gap) { rec.gaps <- g }
	o.OnError = func(err error) { rec.errors <- err }
	o.OnMessage = func(m *websocket.Message) { rec.messages <- m }
	if o.BackoffMin == 0 {
		o.BackoffMin = time.Millisecond
		o.BackoffMax = 50 * time.Millisecond
	}
	return o
}

// waitState discards changes of state until the one to state, and returns it.
func (rec *recorder) waitState(t *testing.T, state client.State) client.StateChange {
	t.Helper()
	for {
		select {
		case s := <-rec.states:
			if s.State == state {
				return s
			}
		case <-time.After(rec.timeout):
			require.FailNow(t, "state not reported", state)
		}
	}
}

// closeErrorOf returns the *websocket.CloseError in err's tree.
func closeErrorOf(t *testing.T, err error) *websocket.CloseError {
	t.Helper()
	var e *websocket.CloseError
	require.ErrorAs(t, err, &e)
	return e
}

func dial(t *testing.T, url string, o client.Options) (*client.Client, *recorder) {
	t.Helper()
	rec := newRecorder()
	c, err := client.Dial(testContext(t), url, rec.options(o))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close()
		receive(t, c.Done())
	})
	return c, rec
}

// errOf returns the error of a call with two results.
func errOf[T any](_ T, err error) error { return err }

// newHandler returns a handler and the channel that it sends its messages to.
func newHandler() (chan *websocket.Message, client.Handler) {
	got := make(chan *websocket.Message, bufferSize)
	return got, func(m *websocket.Message) { got <- m }
}

var (
	aesKey  = bytes.Repeat([]byte{7}, 32)
	hmacKey = []byte("signing key of the tests")
)

// certificate returns a certificate for 127.0.0.1 and a pool that trusts it.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

// scriptedServer calls a function of the test for each handshake. If the function
// is nil or returns false, scriptedServer upgrades, replies to the client's greeting and
// sends the connection to conns. It does not reply to Close frames by itself.
type scriptedServer struct {
	*httptest.Server
	requests chan *http.Request
	conns    chan *gorilla.Conn
	told     atomic.Pointer[string] // data of the reply to hub:hello, as JSON; nil means {}
}

func newScriptedServer(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request) bool) *scriptedServer {
	s := &scriptedServer{requests: make(chan *http.Request, bufferSize), conns: make(chan *gorilla.Conn, bufferSize)}
	var n atomic.Int64
	upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}, EnableCompression: true}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests <- r.Clone(context.Background())
		if answer != nil && answer(int(n.Add(1)), w, r) {
			return
		}
		if ws, err := upgrader.Upgrade(w, r, nil); err == nil && s.greet(ws) {
			s.conns <- ws
		}
	}))
	t.Cleanup(func() {
		s.Close()
		for len(s.conns) > 0 {
			_ = (<-s.conns).Close()
		}
	})
	return s
}

func (s *scriptedServer) greet(ws *gorilla.Conn) bool {
	if told := s.told.Load(); told != nil {
		return tell(ws, *told)
	}
	return replyToGreeting(ws)
}

// replyToGreeting reads the hub:hello and the ping with which a connection begins, and
// replies to both.
func replyToGreeting(ws *gorilla.Conn) bool { return tell(ws, "{}") }

// tell is replyToGreeting with this data in the reply to hub:hello.
func tell(ws *gorilla.Conn, data string) bool {
	first, hello, err := readFrame(ws.NetConn())
	var m websocket.Message
	if err == nil && first == 0x81 {
		err = websocket.JSONCodec{}.Unmarshal(hello, &m)
	}
	if err == nil {
		first, _, err = readFrame(ws.NetConn())
	}
	if err != nil || m.Type != "hub:hello" || first != 0x89 {
		_ = ws.Close()
		return false
	}
	if ws.WriteMessage(gorilla.TextMessage, fmt.Appendf(nil, `{"type":"ack","data":%s,"id":%q}`, data, m.ID)) != nil {
		return false
	}
	_, err = ws.NetConn().Write([]byte{0x8a, 0})
	return err == nil
}

// readFrame reads a masked frame with less than 126 bytes of payload.
func readFrame(r io.Reader) (first byte, payload []byte, err error) {
	var head [6]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= head[2+i%4]
	}
	return head[0], payload, err
}

func (s *scriptedServer) url() string { return "ws" + strings.TrimPrefix(s.URL, "http") }

// shortCloseTimeout is the CloseTimeout of clients of a scriptedServer, which does not
// reply to Close frames.
const shortCloseTimeout = 50 * time.Millisecond

// jsonPeer is the hub's end of a connection, on which the test itself reads and
// writes JSON messages.
type jsonPeer struct {
	t *testing.T
	*gorilla.Conn
}

func (p jsonPeer) read() (m websocket.Message) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(timeout))
	_, b, err := p.ReadMessage()
	require.NoError(p.t, err)
	require.NoError(p.t, websocket.JSONCodec{}.Unmarshal(b, &m))
	return m
}

func (p jsonPeer) write(m websocket.Message) {
	p.t.Helper()
	b, err := websocket.JSONCodec{}.Marshal(&m)
	require.NoError(p.t, err)
	require.NoError(p.t, p.WriteMessage(gorilla.TextMessage, b))
}

// pipeListener passes the in-memory connections that dial makes to a handler. It works in
// synctest bubbles.
type pipeListener struct {
	t    *testing.T
	wrap func(net.Conn) net.Conn // wraps the client's end of a connection
	held <-chan struct{}         // dial waits until it is closed; nil does not wait
	hub  atomic.Pointer[hubtest.Hub]

	theirs atomic.Pointer[net.Conn] // the hub's end of the latest connection
}

func newPipeListener(t *testing.T) *pipeListener {
	return &pipeListener{t: t, wrap: func(c net.Conn) net.Conn { return c }}
}

// serve serves later connections with handler until the test ends.
func (p *pipeListener) serve(handler http.Handler, hub *websocket.Hub) {
	p.hub.Store(hubtest.Serve(p.t, hub, handler))
}

// serveHandler is serve for a handler without a hub.
func (p *pipeListener) serveHandler(handler http.HandlerFunc) {
	p.serve(handler, websocket.NewHub(noLogger{}, websocket.DefaultConfig))
}

func (p *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if p.held != nil {
		select {
		case <-p.held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ours, theirs := net.Pipe()
	p.theirs.Store(&theirs)
	p.hub.Load().ServeConn(theirs)
	return p.wrap(ours), nil
}

// goaway sends hub:goaway in JSON as a hub does that drains, while the hub sends nothing.
func (p *pipeListener) goaway(data string) {
	text := `{"type":"hub:goaway","data":` + data + `,"timestamp":1}`
	_, err := (*p.theirs.Load()).Write(append([]byte{0x81, byte(len(text))}, text...)) // a text frame (RFC 6455 section 5.2)
	require.NoError(p.t, err)
}

// inBubble runs test with a hub and a client in fake time.
func inBubble(t *testing.T, o client.Options, configure func(*server), test func(*testing.T, *server, *pipeListener, *client.Client, *recorder)) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, config: websocket.DefaultConfig, addr: "hub"}
		if configure != nil {
			configure(s)
		}
		p := newPipeListener(t)
		s.serveIn(p)
		rec := newRecorder()
		rec.timeout = 1000 * time.Hour
		o := rec.options(o)
		o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) { return p.dial(ctx, network, addr) }
		c, err := client.Dial(t.Context(), "ws://hub/", o)
		require.NoError(t, err)
		defer func() {
			_ = c.Close()
			<-c.Done()
			s.stop()
		}()
		test(t, s, p, c, rec)
	})
}

// withSilentHub runs test with a client whose hub replies to the greeting and then
// neither reads nor writes, in fake time.
func withSilentHub(t *testing.T, o client.Options, test func(*testing.T, *client.Client, *recorder)) {
	withHubThatTells(t, "{}", o, test)
}

// withHubThatTells is withSilentHub with this data in the reply to hub:hello.
func withHubThatTells(t *testing.T, data string, o client.Options, test func(*testing.T, *client.Client, *recorder)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipeListener(t)
		conns := make(chan *gorilla.Conn, bufferSize)
		p.serveHandler(func(w http.ResponseWriter, r *http.Request) {
			upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}}
			if ws, err := upgrader.Upgrade(w, r, nil); err == nil && tell(ws, data) {
				conns <- ws
			}
		})
		rec := newRecorder()
		rec.timeout = 1000 * time.Hour
		o = rec.options(o)
		o.NetDial = p.dial
		c, err := client.Dial(t.Context(), "ws://hub", o)
		require.NoError(t, err)
		defer func() {
			_ = c.Close()
			<-c.Done()
			for len(conns) > 0 {
				_ = (<-conns).Close()
			}
		}()
		test(t, c, rec)
	})
}
