package websocket_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// path selects the goroutine that writes to a fake connection. On a "direct" path
// the hub goroutine writes and a writePump starts only for a backlog. On a "pump"
// path every write needs a writePump, as with TLS.
type path struct {
	name  string
	plain bool // the socket supports no direct writes
}

var paths = []path{{"direct", false}, {"pump", true}}

// onBothPaths runs a test once for each path.
func onBothPaths(t *testing.T, f func(t *testing.T, p path)) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
}

// fakeHub is a running hub with in-memory connections.
type fakeHub struct {
	*websocket.Hub
	t    *testing.T
	path path
	ran  chan error // the result of Run

	served sync.Once // for server
	server *hubtest.Hub
}

// runFake starts a hub. The test must call stop, or end the hub in another way.
func runFake(t *testing.T, p path, config websocket.Config, callbacks ...func(h *websocket.Hub)) *fakeHub {
	t.Helper()
	return runFakeWithLogger(t, p, quietLogger{}, config, callbacks...)
}

// runFakeWithLogger is runFake with a Logger.
func runFakeWithLogger(t *testing.T, p path, logger websocket.Logger, config websocket.Config, callbacks ...func(h *websocket.Hub)) *fakeHub {
	t.Helper()
	f := &fakeHub{Hub: websocket.NewHub(logger, config), t: t, path: p, ran: make(chan error, 1)}
	for _, set := range callbacks {
		set(f.Hub)
	}
	go func() { f.ran <- f.Run(context.Background()) }() // ends with the hub
	<-f.Started()
	return f
}

// stop shuts the hub down. Shutdown and Run must return nil.
func (f *fakeHub) stop() {
	f.t.Helper()
	require.NoError(f.t, f.Shutdown(context.Background()))
	require.NoError(f.t, <-f.ran)
}

// fakePeer is a client on an in-memory connection.
type fakePeer struct {
	*gorilla.Conn
	server *testnet.Conn // the hub's end
	client *testnet.Conn // the peer's end
}

// connect does a handshake with these headers, on a connection that buffers window
// bytes in each direction, and waits until onConnect has returned.
func (f *fakeHub) connect(window int, header http.Header) *fakePeer {
	f.t.Helper()
	server, client := testnet.Pair(window)
	served := f.accept(server)
	ws, response, err := dialOver(client, header)
	if err != nil {
		f.t.Fatalf("handshake: %v %+v", err, response)
	}
	<-served
	return &fakePeer{ws, server, client}
}

// dialOver does a handshake on an existing connection.
func dialOver(nc net.Conn, header http.Header) (*gorilla.Conn, *http.Response, error) {
	d := gorilla.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil }}
	return d.Dial("ws://hub.test/", header)
}

// accept serves one handshake on the hub's end of a connection. The returned
// channel is closed when the handler has returned.
func (f *fakeHub) accept(server hubEnd) <-chan struct{} {
	if f.path.plain {
		return f.acceptOn(server.Plain())
	}
	return f.acceptOn(server)
}

// hubEnd is the hub's end of an in-memory connection.
type hubEnd interface {
	net.Conn
	Plain() net.Conn
}

// acceptOn is accept for a connection of any type.
func (f *fakeHub) acceptOn(nc net.Conn) <-chan struct{} {
	f.served.Do(func() { f.server = hubtest.Serve(f.t, f.Hub, nil) })
	return f.server.ServeConn(nc)
}

// quietLogger discards the log.
type quietLogger struct{}

func (quietLogger) Debugf(string, ...any)   {}
func (quietLogger) Infof(string, ...any)    {}
func (quietLogger) Warningf(string, ...any) {}
func (quietLogger) Errorf(string, ...any)   {}

// codecHeader returns headers that offer a codec.
func codecHeader(name string) http.Header {
	return http.Header{"Sec-WebSocket-Protocol": {name}}
}

// keepAlive reads, and so replies to pings, until the connection ends.
func keepAlive(p *fakePeer) {
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			_ = p.Close()
			return
		}
	}
}

// recorder is a http.ResponseWriter that cannot be hijacked.
type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// handshake returns an upgrade request.
func handshake(t *testing.T, ctx context.Context) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hub.test/", nil)
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	return r
}

// readJSON reads one message of a peer that speaks JSON.
func readJSON(t *testing.T, p *fakePeer) map[string]any {
	t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

// closeCode reads until the Close frame and returns its code and reason.
func closeCode(t *testing.T, p *fakePeer) (int, string) {
	t.Helper()
	for {
		_, _, err := p.ReadMessage()
		var ce *gorilla.CloseError
		if errors.As(err, &ce) {
			return ce.Code, ce.Text
		}
		require.NoError(t, err)
	}
}

// subscribeAll sets callbacks that subscribe every client to channel.
func subscribeAll(channel string) func(*websocket.Hub) {
	return func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe(channel) }, nil, nil)
	}
}

// onlyClient returns the one client of a hub.
func onlyClient(t *testing.T, h *fakeHub) *websocket.Client {
	t.Helper()
	var clients []*websocket.Client
	for c := range h.Clients() {
		clients = append(clients, c)
	}
	require.Len(t, clients, 1)
	return clients[0]
}

// watch sets callbacks that record in l.
func (l *callbackLog) watch(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) }
