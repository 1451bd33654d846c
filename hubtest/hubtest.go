// Package hubtest helps to test applications that build on the hub. Hub and clients are
// connected in memory, without sockets, so a test can run in fake time, in a bubble of
// testing/synctest:
//
//	func TestSlowClientIsTold(t *testing.T) {
//		synctest.Test(t, func(t *testing.T) {
//			config := websocket.DefaultConfig
//			config.SlowConsumer = websocket.DropOldest
//			config.ClientBacklog, config.MaxMessageSize = 4000, 1000
//			h := hubtest.Start(t, config)
//			ann := h.Connect(hubtest.Options{ID: "ann", Window: 1000})
//			ann.Subscribe("prices")
//			ann.SetReadRate(0) // a phone in a tunnel
//			var published []string
//			for n := range 1000 {
//				published = append(published, fmt.Sprint(n))
//				if err := h.PublishToChannelRaw("prices", fmt.Append(nil, n)); err != nil {
//					t.Fatal(err)
//				}
//			}
//			ann.SetReadRate(-1)
//			ann.Sync()
//			ann.Complete(hubtest.Channel("prices"), published)
//		})
//	}
//
// Start runs a hub with a Config, and Serve connects to one that the application has made
// itself, behind the application's own http.Handler. Connect returns a Peer, which speaks
// the wire format and does nothing by itself but answer pings. Dial returns a Client of
// package client. Both stand on a Link, which injects faults into the network, and on a
// Recorder, which keeps all that arrives and checks it.
//
// Everything ends with the test: the package registers t.Cleanup functions, which run inside
// the bubble. No goroutine is left then. Hub.Stop ends a hub earlier.
//
// Methods that find a fault call Errorf or Fatalf of the test. Those that wait call Fatalf
// when nothing has come for 30 seconds. So they must be called from the test's goroutine.
package hubtest

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// TB is the part of testing.TB that this package uses. *testing.T, *testing.B and *testing.F
// implement it, and so can the test contexts of other frameworks. The examples of this package
// implement it in a few lines, because an Example function has no *testing.T.
type TB interface {
	// Helper marks the caller as a helper of the test.
	Helper()
	// Cleanup registers a function that runs when the test ends.
	Cleanup(f func())
	// Logf logs a text.
	Logf(format string, args ...any)
	// Errorf logs a text and marks the test as failed.
	Errorf(format string, args ...any)
	// Fatalf is like Errorf and ends the test. It does not return.
	Fatalf(format string, args ...any)
}

// patience is how long a method waits for an event before the test fails. No test that
// passes waits for it.
const patience = 30 * time.Second

// Channel returns the topic of a channel.
func Channel(name string) websocket.Topic {
	return websocket.Topic{Kind: websocket.ChannelTopic, Name: name}
}

// Room returns the topic of a room.
func Room(id string) websocket.Topic { return websocket.Topic{Kind: websocket.RoomTopic, Name: id} }

// Hub is a hub to which clients connect in memory. Its methods may be called from any
// goroutine, except for those that fail the test.
type Hub struct {
	*websocket.Hub
	// Path is the path, and the query if there is one, that clients request unless they
	// name another. It defaults to "/". Set it before clients connect.
	Path string

	t        TB
	security *websocket.SecurityConfig // of Start's config
	log      *testLog
	server   *http.Server
	conns    listener
	ran      chan error    // the result of Run; nil after Serve
	served   chan struct{} // closed when server has ended
	stopOnce sync.Once

	mu       sync.Mutex // guards the fields below
	stopped  bool
	arrivals map[net.Conn]*arrival // connections that the handler has not taken over
	links    []*Link
	ends     []func() // of peers and clients
	idPrefix string   // of the IDs that nextID returns
	ids      int
}

// Start runs a hub until the test ends. It fails the test if config is not valid, and if the
// hub logs an error, such as a panic in a callback: see Hub.AllowErrors. Warnings go to the
// log of the test.
//
// If config has no ClientID, clients have the IDs "client-1", "client-2" and so on, or that of
// their Options.
func Start(t TB, config websocket.Config) *Hub {
	t.Helper()
	if err := config.Validate(); err != nil {
		t.Fatalf("hubtest: the config is not valid: %v", err)
	}
	if config.ClientID == nil {
		config.ClientID = assignedID
	}
	logger := &testLog{t: t}
	h := Serve(t, websocket.NewHub(logger, config), nil)
	h.log, h.security = logger, config.Security
	if config.NodeName != "" {
		h.idPrefix = config.NodeName + "-"
	}
	h.ran = make(chan error, 1)
	go func() { h.ran <- h.Run(context.Background()) }() // ends with Stop
	for !h.Health().Running {                            // a moment
		runtime.Gosched()
	}
	return h
}

// Serve connects clients to the hub of an application, which makes and runs it itself. The
// handler gets all requests, as from an http.Server; nil means hub.Handler. When the test ends
// the hub is shut down, see Hub.Stop. Serve does not see the hub's log.
func Serve(t TB, hub *websocket.Hub, handler http.Handler) *Hub {
	t.Helper()
	if handler == nil {
		handler = hub.Handler()
	}
	h := &Hub{
		Hub: hub, Path: "/", t: t, served: make(chan struct{}),
		conns:    listener{conns: make(chan net.Conn), closed: make(chan struct{})},
		arrivals: make(map[net.Conn]*arrival),
	}
	h.server = &http.Server{
		Handler:  h.accept(handler),
		ErrorLog: log.New(io.Discard, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			h.mu.Lock()
			defer h.mu.Unlock()
			return context.WithValue(ctx, arrivalKey{}, h.arrivals[c])
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateHijacked: // accept has it
				h.take(c)
			case http.StateClosed:
				h.arrived(c)
			}
		},
	}
	h.server.SetKeepAlivesEnabled(false) // a refused handshake ends its connection
	go func() {                          // ends with Stop
		defer close(h.served)
		_ = h.server.Serve(&h.conns) // always http.ErrServerClosed
	}()
	t.Cleanup(h.Stop)
	return h
}

// Cluster starts n hubs that share an engine, and waits until all are ready. Their names are
// "node-0", "node-1" and so on, with which the IDs of their clients begin. The engine injects
// faults between the nodes:
//
//	engine := brokertest.NewMemory(0)
//	nodes := hubtest.Cluster(t, engine, 2, websocket.DefaultConfig)
//	engine.Stop()
func Cluster(t TB, engine *brokertest.Memory, n int, config websocket.Config) []*Hub {
	t.Helper()
	hubs := make([]*Hub, n)
	for i := range hubs {
		config.Broker = engine.Broker()
		config.NodeName = fmt.Sprint("node-", i)
		hubs[i] = Start(t, config)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, h := range hubs {
		if err := h.BrokerReady(ctx); err != nil {
			t.Fatalf("hubtest: node-%d is not ready: %v", i, err)
		}
	}
	return hubs
}

// AllowErrors makes errors that the hub logs from now on go to the log of the test, instead of
// failing it. It has no effect on a hub of Serve.
func (h *Hub) AllowErrors() {
	if h.log != nil {
		h.log.mu.Lock()
		defer h.log.mu.Unlock()
		h.log.allow = true
	}
}

// Stop ends all clients and the hub, and returns when their goroutines have ended. It fails
// the test if the hub does not end cleanly: with an error, such as a callback that does not
// return, with a channel or room that has members left, or with messages that were neither
// sent nor counted as dropped. Stop is called when the test ends; further calls do nothing.
func (h *Hub) Stop() {
	h.t.Helper()
	h.stopOnce.Do(h.stop)
}

func (h *Hub) stop() {
	h.t.Helper()
	h.mu.Lock()
	h.stopped = true
	links, ends := h.links, h.ends
	h.mu.Unlock()
	for _, l := range links {
		l.cutAll()
	}
	for _, end := range ends {
		end()
	}
	running := h.Health().Running
	err := h.Shutdown(context.Background())
	_ = h.server.Close() // closes only h.conns and connections in memory
	<-h.served
	if h.ran != nil {
		<-h.ran
	}
	if h.log != nil {
		h.log.end()
	}
	switch {
	case err == nil:
		h.checkEmpty()
	case running: // otherwise the test has ended the hub and knows the error
		h.t.Errorf("hubtest: the hub does not end cleanly: %v", err)
	}
}

// checkEmpty fails the test if a hub that has ended has anything left.
func (h *Hub) checkEmpty() {
	h.t.Helper()
	st := h.Stats()
	if st.ActiveConnections > 0 {
		h.t.Errorf("hubtest: %d clients are left after the end of the hub", st.ActiveConnections)
	}
	if sum := st.MessagesSent + st.Dropped.Total(); st.MessagesAddressed != sum {
		h.t.Errorf("hubtest: the hub had %d messages to send, but has sent or counted as dropped %d", st.MessagesAddressed, sum)
	}
	for name, members := range h.Channels() {
		h.t.Errorf("hubtest: channel %q has %d members after the end of the hub", name, members)
	}
	for id, members := range h.Rooms() {
		h.t.Errorf("hubtest: room %q has %d members after the end of the hub", id, members)
	}
}

// arrival is a connection on its way to the handler.
type arrival struct {
	link   *Link // nil after ServeConn
	id     string
	served chan struct{} // closed when the handler has returned
	once   sync.Once
}

func (a *arrival) done() { a.once.Do(func() { close(a.served) }) }

type arrivalKey struct{}

func arrivalOf(ctx context.Context) *arrival {
	a, _ := ctx.Value(arrivalKey{}).(*arrival)
	return a
}

// assignedID is the ClientID hook of hubs that have none.
func assignedID(r *http.Request) (string, error) {
	if a := arrivalOf(r.Context()); a != nil {
		return a.id, nil
	}
	return "", nil // the hub chooses one
}

// accept wraps the handler of all requests.
func (h *Hub) accept(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := arrivalOf(r.Context())
		defer a.done()
		if a.link != nil {
			if status := a.link.refusal(); status != 0 {
				http.Error(w, http.StatusText(status), status)
				return
			}
		}
		handler.ServeHTTP(w, r)
	})
}

// take removes a connection from arrivals.
func (h *Hub) take(c net.Conn) *arrival {
	h.mu.Lock()
	defer h.mu.Unlock()
	a := h.arrivals[c]
	delete(h.arrivals, c)
	return a
}

// arrived forgets a connection that has ended.
func (h *Hub) arrived(c net.Conn) {
	if a := h.take(c); a != nil {
		a.done()
	}
}

// ServeConn serves one request on the hub's end of a connection that the caller has made, for
// example of net.Pipe or with TLS. The channel is closed when the handler has returned, which
// is when OnConnect has returned, or when the connection has ended without a request. After
// Stop the connection is closed at once.
func (h *Hub) ServeConn(c net.Conn) <-chan struct{} {
	a := &arrival{served: make(chan struct{})}
	if !h.serve(c, a) {
		_ = c.Close()
		a.done()
	}
	return a.served
}

func (h *Hub) serve(c net.Conn, a *arrival) bool {
	h.mu.Lock()
	if h.stopped {
		h.mu.Unlock()
		return false
	}
	h.arrivals[c] = a
	h.mu.Unlock()
	select {
	case h.conns.conns <- c:
		return true
	case <-h.conns.closed:
		h.arrived(c)
		return false
	}
}

// connected returns the client of an arrival, or nil if it has gone already.
func (h *Hub) connected(a *arrival) *websocket.Client {
	for c := range h.Clients() {
		if arrivalOf(c.Request().Context()) == a {
			return c
		}
	}
	return nil
}

// atEnd registers a function that Stop calls.
func (h *Hub) atEnd(end func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ends = append(h.ends, end)
}

// listener accepts the connections that Hub.serve sends.
type listener struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{} // closed by Close
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: "hubtest"} }

// testLog is the Logger of a hub.
type testLog struct {
	t     TB
	mu    sync.Mutex
	allow bool // errors do not fail the test
	ended bool // the test may have ended
}

func (l *testLog) print(isError bool, format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case isError && !l.allow:
		l.t.Errorf("hubtest: the hub logs an error: "+format, args...)
	default:
		l.t.Logf(format, args...)
	}
}

func (l *testLog) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}

// Debugf implements websocket.Logger.
func (l *testLog) Debugf(string, ...any) {}

// Infof implements websocket.Logger.
func (l *testLog) Infof(string, ...any) {}

// Warningf implements websocket.Logger.
func (l *testLog) Warningf(format string, args ...any) { l.print(false, format, args) }

// Errorf implements websocket.Logger.
func (l *testLog) Errorf(format string, args ...any) { l.print(true, format, args) }
