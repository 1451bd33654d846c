package websocket

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/flate"
)

// Hub holds clients, channels and rooms, and carries messages to them. NewHub
// makes it, Run gives it life. Its methods may be called from anywhere, callbacks
// included, before, during and after Run.
type Hub struct {
	config     Config
	logger     Logger
	codecs     []Codec
	keys       *pipeline // hub keys, or nil
	deflaters  *flate.Deflater
	events     *eventLog
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

	mu        sync.Mutex // guards what follows
	phase     hubPhase
	served    bool // a connection has come: callbacks are fixed
	cut       bool // shutdown has cut off what was left: so it does with what comes
	abandoned bool // shutdown waits for nobody any more: who comes now is no client
	live      map[*Client]struct{}
	conns     int           // handshakes and connections
	drained   chan struct{} // closed when stopping and conns is 0
	result    error         // of Run
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
		deflaters: flate.NewDeflater(config.Compression.Level),
		events:    newEventLog(&config),
		seed:      maphash.MakeSeed(),
		epoch:     time.Now(),
		started:   make(chan struct{}),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
		drained:   make(chan struct{}),
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
	h.events.shards = h.shards
	h.onConnect, h.onDisconnect, h.onMessage = config.OnConnect, config.OnDisconnect, config.OnMessage
	if config.Broker != nil {
		h.node = newNode(h)
		h.events.node = h.node
	}
	return h
}

// SetCallbacks replaces Config.OnConnect, Config.OnDisconnect and Config.OnMessage,
// which describe the callbacks. Each may be nil. It panics after the first connection.
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
	h.events.start()
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
	h.events.close()
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
		close(h.drained)
	}
	h.mu.Unlock()
	h.events.close()
	h.events.appendAll(entryShutdown)

	if !waitFor(h.drained, h.config.DrainTimeout) {
		h.mu.Lock()
		h.cut = true
		h.mu.Unlock()
		for _, c := range h.liveClients() {
			c.conn.abort(errDrainTimeout)
		}
		if !waitFor(h.drained, h.config.CallbackTimeout) {
			stuck = h.abandon()
		}
	}
	h.events.appendAll(entryStop)
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
func (h *Hub) abandon() (callbacks []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	for c := range h.live {
		callbacks = append(callbacks, fmt.Sprintf("%s of client %q", callbackNames[c.calling.Load()], c.ID))
	}
	if n := h.handshakes.Load(); n > 0 {
		callbacks = append(callbacks, fmt.Sprintf("%d handshakes (in CheckOrigin or ClientID, or with an answer that is not taken)", n))
	}
	return callbacks
}

// enter counts a handshake in; leave counts it, or its connection, out.
func (h *Hub) beginHandshake() error {
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
func (h *Hub) addClient(c *Client) bool {
	h.mu.Lock()
	over, cut := h.abandoned, h.cut
	if !over {
		h.served = true
		h.live[c] = struct{}{}
	}
	h.mu.Unlock()
	if cut && !over {
		c.conn.abort(errDrainTimeout) // too late for shutdown to find it
	}
	return !over
}

func (h *Hub) connectionDone(c *Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, c)
	h.conns--
	if h.phase == hubStopping && h.conns == 0 {
		close(h.drained)
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
	callingTopicHook
)

var callbackNames = [...]string{"readPump", "onConnect", "onMessage", "Authorize", "onDisconnect", "OnJoin or OnLeave"}

// call runs one of a client's callbacks. If it fails, that costs the client its
// connection.
func (h *Hub) runCallback(c *Client, which uint32, f func()) bool {
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
			closed.conn.closeNow(CloseInternalError, "internal error")
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
