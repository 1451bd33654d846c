package websocket

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"iter"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Logger is where the hub reports what nobody else is told. HypGo's
// *logger.Logger satisfies it; SlogLogger adapts log/slog. The hub calls it from
// many goroutines, which may hold up others: it must not wait for the hub.
type Logger interface {
	Debugf(format string, args ...any)
	Infof(format string, args ...any)
	Warningf(format string, args ...any)
	Errorf(format string, args ...any)
}

// SlogLogger adapts a slog.Logger; nil means slog.Default.
func SlogLogger(l *slog.Logger) Logger {
	if l == nil {
		l = slog.Default()
	}
	return slogLogger{l}
}

type slogLogger struct{ l *slog.Logger }

func (s slogLogger) Debugf(format string, args ...any)   { s.logf(slog.LevelDebug, format, args) }
func (s slogLogger) Infof(format string, args ...any)    { s.logf(slog.LevelInfo, format, args) }
func (s slogLogger) Warningf(format string, args ...any) { s.logf(slog.LevelWarn, format, args) }
func (s slogLogger) Errorf(format string, args ...any)   { s.logf(slog.LevelError, format, args) }

func (s slogLogger) logf(level slog.Level, format string, args []any) {
	if s.l.Enabled(context.Background(), level) {
		s.l.Log(context.Background(), level, fmt.Sprintf(format, args...))
	}
}

// Hub holds clients, channels and rooms, and carries messages to them. NewHub
// makes it, Run gives it life. Its methods may be called from anywhere, callbacks
// included, before, during and after Run.
type Hub struct {
	config     Config
	logger     Logger
	codecs     []Codec
	keys       *pipeline // hub keys, or nil
	deflaters  *deflaterPool
	log        *hubLog
	node       *node // among others; nil without a broker
	shards     []*shard
	ids        registry
	seed       maphash.Seed
	epoch      time.Time
	connected  atomic.Uint64
	handshakes atomic.Int64 // under way
	upgrader   upgrader
	budget     struct{ used atomic.Int64 } // bytes of messages that anybody still holds
	drops      dropReports

	onConnect    func(*Client)
	onDisconnect func(*Client)
	onMessage    func(*Client, *Message)

	started chan struct{}  // closed by Run
	stop    chan struct{}  // closed by Shutdown, or by Run when its context ends
	done    chan struct{}  // closed when nothing of the hub runs any more
	running sync.WaitGroup // hub goroutines

	mu     sync.Mutex // guards what follows
	phase  hubPhase
	served bool // a connection has come: callbacks are fixed
	cut    bool // shutdown has cut off what was left: so it does with what comes
	over   bool // shutdown waits for nobody any more: who comes now is no client
	live   map[*Client]struct{}
	conns  int           // handshakes and connections
	empty  chan struct{} // closed when stopping and conns is 0
	result error         // of Run
}

type hubPhase uint8

const (
	hubNew hubPhase = iota
	hubRunning
	hubStopping
	hubStopped
)

// NewHub makes a hub. A nil logger means slog.Default. It panics with the error
// of config.Validate if there is one: running without the encryption that was
// asked for, say, would be worse.
func NewHub(logger Logger, config Config) *Hub {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		panic(err)
	}
	if logger == nil {
		logger = SlogLogger(nil)
	}
	h := &Hub{
		config:    config,
		logger:    logger,
		codecs:    config.Codecs,
		deflaters: &deflaterPool{level: config.Compression.Level},
		log:       newHubLog(&config),
		seed:      maphash.MakeSeed(),
		epoch:     time.Now(),
		started:   make(chan struct{}),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
		empty:     make(chan struct{}),
		live:      make(map[*Client]struct{}),
		drops:     dropReports{wake: make(chan struct{}, 1)},
	}
	if s := config.Security; s != nil {
		keys, err := s.newPipeline()
		if err != nil {
			panic(err)
		}
		h.keys = keys
	}
	h.upgrader.init(&h.config)
	h.shards = make([]*shard, config.Shards)
	for i := range h.shards {
		h.shards[i] = newShard(h, i)
	}
	h.log.shards = h.shards
	if config.Broker != nil {
		h.node = newNode(h)
		h.log.node = h.node
	}
	return h
}

// SetCallbacks sets what the hub calls, each of which may be nil:
//
//   - onConnect before the handler of the handshake returns and before the first
//     message is read. What is sent to the client meanwhile waits until it
//     returns, so keys set in it hold for the very first frame.
//   - onMessage for every message of a client, control messages included, one at
//     a time, in the order they came. While it runs the client is not read from.
//     The Message is valid until it returns. Of a control message Data must not be
//     changed in place: it is published next.
//   - onDisconnect once, after the last onMessage has returned and the client's
//     memberships have ended.
//
// All of one client's callbacks run one after the other, those of different
// clients at the same time, never on a hub goroutine; they may call anything. A
// callback that panics is logged and closes its client with 1011.
//
// SetCallbacks must be called before the first connection; after it, it panics.
func (h *Hub) SetCallbacks(onConnect, onDisconnect func(*Client), onMessage func(*Client, *Message)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.served {
		panic("websocket: SetCallbacks after the first connection")
	}
	h.onConnect, h.onDisconnect, h.onMessage = onConnect, onDisconnect, onMessage
}

// Run works until ctx ends or Shutdown is called, and then closes: newcomers get
// 503, every client gets what was queued for it and Close 1001, and after
// Config.DrainTimeout what is left is cut off. It returns nil when nothing of the
// hub runs any more, or a *CallbackTimeoutError that names the callbacks which
// did not end. A second Run returns ErrHubRunning, or ErrHubClosed after the end.
func (h *Hub) Run(ctx context.Context) error {
	h.mu.Lock()
	if h.phase != hubNew {
		err := ErrHubRunning
		if h.phase != hubRunning {
			err = ErrHubClosed
		}
		h.mu.Unlock()
		return err
	}
	h.phase = hubRunning
	h.mu.Unlock()

	h.running.Add(len(h.shards))
	for _, s := range h.shards {
		go s.run() // ends when it walks entryStop
	}
	stopReports := make(chan struct{})     // closed below, received by the reporter
	reported := make(chan struct{})        // closed by the reporter, received below
	go h.runReports(stopReports, reported) // ends after the last report
	h.log.start()
	var failed error
	if h.node != nil {
		if failed = h.node.start(); failed != nil {
			h.mu.Lock()
			h.beginStop()
			h.mu.Unlock()
		}
	}
	close(h.started)
	select {
	case <-ctx.Done():
	case <-h.stop:
	}
	stuck := h.drain()
	close(stopReports)
	if !waitFor(reported, h.config.CallbackTimeout) {
		stuck = append(stuck, "OnDrop")
	}
	err := failed
	if len(stuck) > 0 {
		slices.Sort(stuck)
		err = errors.Join(err, &CallbackTimeoutError{Callbacks: stuck})
	}
	h.mu.Lock()
	h.phase = hubStopped
	h.result = err
	h.mu.Unlock()
	close(h.done)
	return err
}

// Shutdown begins what the end of Run's context begins, and waits for Run to
// return or for ctx to end. It returns what Run returns, or ctx's error. Before
// Run it closes the hub for good. It may be called more than once.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.beginStop()
	if h.phase == hubNew {
		h.phase = hubStopped
		close(h.done)
	}
	h.mu.Unlock()
	h.log.close()
	select {
	case <-h.done:
		return h.result
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginStop closes stop once. The hub is locked.
func (h *Hub) beginStop() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
}

// drain ends every connection and every hub goroutine. It returns the callbacks
// that did not end.
func (h *Hub) drain() (stuck []string) {
	h.mu.Lock()
	h.phase = hubStopping
	h.beginStop()
	if h.conns == 0 {
		close(h.empty)
	}
	h.mu.Unlock()
	h.log.close()
	h.log.tellAll(entryShutdown)

	if !waitFor(h.empty, h.config.DrainTimeout) {
		h.mu.Lock()
		h.cut = true
		h.mu.Unlock()
		for _, c := range h.liveClients() {
			c.conn.kill(errCut)
		}
		if !waitFor(h.empty, h.config.CallbackTimeout) {
			stuck = h.giveUp()
		}
	}
	h.log.tellAll(entryStop)
	h.running.Wait()
	if h.node != nil && !h.node.stop() {
		stuck = append(stuck, "Broker")
	}
	return stuck
}

// waitFor reports whether done was closed within d.
func waitFor(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (h *Hub) liveClients() []*Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	clients := make([]*Client, 0, len(h.live))
	for c := range h.live {
		clients = append(clients, c)
	}
	return clients
}

// giveUp lets nobody in any more, and names what shutdown has waited for.
func (h *Hub) giveUp() (callbacks []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for c := range h.live {
		callbacks = append(callbacks, fmt.Sprintf("%s of client %q", callbackNames[c.calling.Load()], c.ID))
	}
	if n := h.handshakes.Load(); n > 0 {
		callbacks = append(callbacks, fmt.Sprintf("%d handshakes (in CheckOrigin or ClientID, or with an answer that is not taken)", n))
	}
	return callbacks
}

// enter counts a handshake in; leave counts it, or its connection, out.
func (h *Hub) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.phase >= hubStopping || h.stopping():
		return refuse(http.StatusServiceUnavailable, "hub closed")
	case h.config.MaxClients > 0 && h.conns >= h.config.MaxClients:
		return refuse(http.StatusServiceUnavailable, "hub is full")
	case h.config.MaxHandshakes > 0 && h.handshakes.Load() >= int64(h.config.MaxHandshakes):
		return refuse(http.StatusServiceUnavailable, "too many handshakes at once")
	}
	h.conns++
	h.handshakes.Add(1)
	return nil
}

// welcome makes c one of those that shutdown ends, if shutdown still ends any.
func (h *Hub) welcome(c *Client) bool {
	h.mu.Lock()
	over, cut := h.over, h.cut
	if !over {
		h.served = true
		h.live[c] = struct{}{}
	}
	h.mu.Unlock()
	if cut && !over {
		c.conn.kill(errCut) // too late for shutdown to find it
	}
	return !over
}

func (h *Hub) leave(c *Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, c)
	h.conns--
	if h.phase == hubStopping && h.conns == 0 {
		close(h.empty)
	}
}

func (h *Hub) stopping() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}

// Callbacks by the number in Client.calling.
const (
	callingNothing uint32 = iota
	callingConnect
	callingMessage
	callingAuthorize
	callingDisconnect
)

var callbackNames = [...]string{"readPump", "onConnect", "onMessage", "Authorize", "onDisconnect"}

// call runs one of a client's callbacks. If it fails, that costs the client its
// connection.
func (h *Hub) call(c *Client, which uint32, f func()) bool {
	c.calling.Store(which)
	defer c.calling.Store(callingNothing)
	return h.protect(callbackNames[which], "client", c.ID, f, c)
}

// protect runs the user's code. This is the one place where its panics end: they
// are logged, and closed is failed, if there is one. Code that ends its goroutine
// (runtime.Goexit, or FailNow in a test) is treated alike, as far as it can be.
func (h *Hub) protect(what, whose, id string, f func(), closed *Client) (ok bool) {
	defer func() {
		if ok {
			return
		}
		h.logger.Errorf("websocket: %s of %s %q panicked: %v\n%s", what, whose, id, recover(), debug.Stack())
		if closed != nil {
			closed.conn.fail(CloseInternalError, "internal error")
		}
	}()
	f()
	return true
}

// clock is nanoseconds since NewHub, monotonic and never 0.
func (h *Hub) clock() int64 { return int64(time.Since(h.epoch)) + 1 }

// now is a Message's Timestamp.
func (h *Hub) now() int64 { return time.Now().UnixNano() }

func (h *Hub) overBudget() bool { return h.budget.used.Load() > h.config.MemoryBudget }

func (h *Hub) shardOf(id string) *shard {
	return h.shards[maphash.String(h.seed, id)%uint64(len(h.shards))]
}

// Client returns the client with that ID, if it is connected.
func (h *Hub) Client(id string) (*Client, bool) {
	c := h.ids.get(id)
	if c == nil || !c.visible.Load() {
		return nil, false
	}
	return c, true
}

// Clients iterates over the clients, in no order. Those that connect or
// disconnect meanwhile may be missing or included. The loop may call anything.
func (h *Hub) Clients() iter.Seq[*Client] {
	return func(yield func(*Client) bool) {
		for i := range h.ids.stripes {
			for _, c := range h.ids.snapshot(i) {
				if c.visible.Load() && !yield(c) {
					return
				}
			}
		}
	}
}

// registry finds clients by ID. IDs are reserved before the handshake is
// answered and freed after unregister, so that no two connections ever share one.
type registry struct {
	stripes [64]struct {
		sync.RWMutex
		clients map[string]*Client
	}
	seed maphash.Seed
	once sync.Once
}

func (r *registry) stripe(id string) int {
	r.once.Do(func() { r.seed = maphash.MakeSeed() })
	return int(maphash.String(r.seed, id) % uint64(len(r.stripes)))
}

// put stores c under its ID. If the ID is in use it returns who has it, and
// stores c only if replace says so.
func (r *registry) put(c *Client, replace bool) *Client {
	s := &r.stripes[r.stripe(c.ID)]
	s.Lock()
	defer s.Unlock()
	old := s.clients[c.ID]
	if old == nil || replace {
		if s.clients == nil {
			s.clients = make(map[string]*Client)
		}
		s.clients[c.ID] = c
	}
	return old
}

func (r *registry) get(id string) *Client {
	s := &r.stripes[r.stripe(id)]
	s.RLock()
	defer s.RUnlock()
	return s.clients[id]
}

// free removes c, unless another has taken its ID over.
func (r *registry) free(c *Client) {
	s := &r.stripes[r.stripe(c.ID)]
	s.Lock()
	defer s.Unlock()
	if s.clients[c.ID] == c {
		delete(s.clients, c.ID)
	}
}

func (r *registry) snapshot(stripe int) []*Client {
	s := &r.stripes[stripe]
	s.RLock()
	defer s.RUnlock()
	clients := make([]*Client, 0, len(s.clients))
	for _, c := range s.clients {
		clients = append(clients, c)
	}
	return clients
}
