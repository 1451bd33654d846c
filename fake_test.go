package websocket_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// path is one of the two ways out of the hub.
type path struct {
	name  string
	plain bool // only a writePump can write
}

var paths = []path{{"direct", false}, {"pump", true}}

// onBothPaths runs a test on fake connections of both kinds.
func onBothPaths(t *testing.T, f func(t *testing.T, p path)) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) { f(t, p) })
	}
}

// fakeHub is a running hub whose connections are in memory.
type fakeHub struct {
	*websocket.Hub
	t    *testing.T
	path path
	ran  chan error
}

// runFake starts a hub; stop ends it.
func runFake(t *testing.T, p path, config websocket.Config, callbacks ...func(h *websocket.Hub)) *fakeHub {
	t.Helper()
	f := &fakeHub{Hub: websocket.NewHub(quietLogger{}, config), t: t, path: p, ran: make(chan error, 1)}
	for _, set := range callbacks {
		set(f.Hub)
	}
	go func() { f.ran <- f.Run(context.Background()) }()
	return f
}

// stop shuts the hub down and checks that Run ends well.
func (f *fakeHub) stop() {
	f.t.Helper()
	require.NoError(f.t, f.Shutdown(context.Background()))
	require.NoError(f.t, <-f.ran)
}

// fakePeer is a client on an in-memory connection.
type fakePeer struct {
	*gorilla.Conn
	server *testnet.Conn // the hub's end
	client *testnet.Conn
}

// connect shakes hands as a client with these headers, on a connection that
// buffers window bytes each way.
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

// dialOver shakes hands on a connection that is there already.
func dialOver(nc net.Conn, header http.Header) (*gorilla.Conn, *http.Response, error) {
	d := gorilla.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return nc, nil }}
	return d.Dial("ws://hub.test/", header)
}

// accept serves one handshake on the hub's end of a connection. The channel is
// closed when the handler has returned.
func (f *fakeHub) accept(server *testnet.Conn) <-chan struct{} {
	served := make(chan struct{})
	go func() {
		defer close(served)
		var nc net.Conn = server
		if f.path.plain {
			nc = server.Plain()
		}
		br := bufio.NewReader(nc)
		r, err := http.ReadRequest(br)
		if err != nil {
			_ = nc.Close()
			return
		}
		r.RemoteAddr = "peer.test:1"
		w := &fakeWriter{nc: nc, br: br, header: http.Header{}}
		f.Handler().ServeHTTP(w, r)
		if !w.hijacked {
			w.WriteHeader(http.StatusOK)
			_ = nc.Close()
		}
	}()
	return served
}

// fakeWriter is a http.ResponseWriter that can be hijacked.
type fakeWriter struct {
	nc       net.Conn
	br       *bufio.Reader
	header   http.Header
	wrote    bool
	hijacked bool
}

func (w *fakeWriter) Header() http.Header { return w.header }

func (w *fakeWriter) WriteHeader(code int) {
	if !w.wrote {
		w.wrote = true
		fmt.Fprintf(w.nc, "HTTP/1.1 %d %s\r\n", code, http.StatusText(code))
		_ = w.header.Write(w.nc)
		fmt.Fprint(w.nc, "Connection: close\r\n\r\n")
	}
}

func (w *fakeWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.nc.Write(b)
}

func (w *fakeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked = true
	return w.nc, bufio.NewReadWriter(w.br, bufio.NewWriter(w.nc)), nil
}

// quietLogger drops what tests provoke.
type quietLogger struct{}

func (quietLogger) Debugf(string, ...any)   {}
func (quietLogger) Infof(string, ...any)    {}
func (quietLogger) Warningf(string, ...any) {}
func (quietLogger) Errorf(string, ...any)   {}

// codecHeader asks for a codec.
func codecHeader(name string) http.Header {
	return http.Header{"Sec-WebSocket-Protocol": {name}}
}

// answerPings reads until the connection ends.
func answerPings(p *fakePeer) {
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

// readJSON reads one message of a JSON client.
func readJSON(t *testing.T, p *fakePeer) map[string]any {
	t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

// closeCode reads to the end and returns the code and reason of the Close frame.
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

func subscribeAll(channel string) func(*websocket.Hub) {
	return func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe(channel) }, nil, nil)
	}
}
