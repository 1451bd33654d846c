package websocket

import (
	"context"
	"errors"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/flate"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// Hub holds clients, channels and rooms, and delivers messages to them. NewHub makes
// a Hub and Run runs it.
//
// All methods may be called from any goroutine, before, during and after Run.
// Callbacks may call all of them too, except that a callback must not wait for
// Shutdown: shutdown waits for callbacks.
type Hub struct {
	config     Config
	logger     *guardedLogger
	logLimit   logLimiter
	codecs     []*guardedCodec
	keys       *pipeline // the hub's keys, or nil
	deflaters  *flate.Deflater
	events     *eventLog
	node       *node // this hub's node in the cluster; nil without a broker
	shards     []*shard
	ids        registry
	seed       maphash.Seed
	epoch      time.Time
	connected  atomic.Uint64
	handshakes atomic.Int64 // handshakes under way
	refused    refusals
	runMissed  atomic.Bool // the warning about a missing Run is logged
	upgrader   upgrader
	proxies    []netip.Prefix // of Config.TrustedProxies
	budget     budget
	watch      callbackWatch
	watcher    transport.Watcher // of hibernating connections
	pumps      pumps
	drops      dropReports
	unsent     unsentReports

	handlers     atomic.Pointer[map[string]handlerEntry] // by type; replaced under mu
	onConnect    func(*Client)
	onDisconnect func(*Client)
	onMessage    func(*Client, *Message)

	started chan struct{}  // closed by Run
	stop    chan struct{}  // closed when shutdown begins
	done    chan struct{}  // closed when shutdown has ended
	running sync.WaitGroup // hub goroutines

	mu        sync.Mutex // guards the fields below
	phase     hubPhase
	served    bool   // there was a connection: SetCallbacks is no longer allowed
	cut       bool   // DrainTimeout has passed: new connections are aborted at once
	abandoned bool   // CallbackTimeout has passed: handshakes that finish now are rejected
	draining  *drain // of Drain, from its beginning on; nil before
	live      peakMap[*Client, struct{}]
	conns     int                                // handshakes and connections
	addresses peakMap[netip.Addr, *addressCount] // of conns; empty without MaxClientsPerAddress
	drained   chan struct{}                      // closed when the hub is stopping and conns is 0
	result    error                              // of Run
}

type hubPhase uint8

const (
	hubNew hubPhase = iota
	hubRunning
	hubStopping
	hubStopped
)

// NewHub returns a Hub that is not running yet. It copies config. A nil logger means
// slog.Default(). NewHub panics with the error of Config.Validate if config is
// invalid, because a hub that ignored an invalid setting could, for example, run
// without encryption.
func NewHub(logger Logger, config Config) *Hub {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		panic(err)
	}
	if logger == nil {
		logger = SlogLogger(nil)
	}
	guarded := newGuardedLogger(logger)
	h := &Hub{
		config:    config,
		logger:    guarded,
		codecs:    guardCodecs(config.Codecs, guarded),
		deflaters: flate.NewDeflater(config.Compression.Level),
		budget:    budget{limit: config.MemoryBudget, wake: make(chan struct{}, 1)},
		seed:      maphash.MakeSeed(),
		epoch:     time.Now(),
		started:   make(chan struct{}),
		stop:      make(chan struct{}),
		done:      make(chan struct{}),
		drained:   make(chan struct{}),
		drops:     dropReports{wake: make(chan struct{}, 1)},
		unsent:    unsentReports{wake: make(chan struct{}, 1)},
		pumps:     newPumps(),
	}
	h.events = newEventLog(&h.config, &h.budget)
	switch s := config.Security; {
	case s == nil:
	case !s.hasKeys():
		guarded.Warningf("websocket: Config.Security has neither AESKey nor HMACKey: only messages of clients with their own keys are sealed")
	default:
		keys, err := s.newPipeline()
		if err != nil {
			panic(err)
		}
		h.keys = keys
	}
	h.events.histories = histories{hub: h, options: h.topicOptions(), clock: h.clock, seed: h.seed, limit: config.HistoryBudget, timerAt: math.MaxInt64}
	h.events.presences = presences{
		hub: h, interval: int64(config.PresenceInterval),
		size: int(min(maxPresenceMessage, config.ClientBacklog/backlogShare)),
	}
	h.upgrader.init(&h.config)
	h.proxies, _, _ = parseProxies(config.TrustedProxies) // validate has checked them
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

// Run runs the hub until ctx is done or Shutdown is called, then shuts it down and
// returns. Handshakes that arrive before Run wait for it, at most
// Config.HandshakeTimeout.
//
// Shutdown refuses new handshakes with status 503. It sends every client its queued
// messages and a Close frame with CloseGoingAway. If there are more than 256 clients, the
// Close frames are spread evenly over a millisecond for each client, and at most over half
// of Config.DrainTimeout. Connections that are still open after DrainTimeout are aborted.
// It then waits for running callbacks, at most Config.CallbackTimeout. Call Drain first to
// spread the clients over a longer time.
//
// Run returns nil when all connections and goroutines of the hub have ended. It
// returns a *CallbackTimeoutError if callbacks were still running, and the error of
// Broker.Open if that failed. It returns ErrHubRunning at once if the hub is already
// running, and ErrHubClosed if it is shutting down or has shut down. A Hub cannot be
// run again.
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
		go s.run() // ends when it applies entryStop
	}
	stopReports := make(chan struct{})                                        // closed below, received by runReports and runReclaim
	dropsReported, unsentReported := make(chan struct{}), make(chan struct{}) // closed by runReports, received below
	go runReports(h.drops.wake, h.reportNextDrop, stopReports, dropsReported) // ends after the last report
	if h.config.OnUnsent != nil {
		go runReports(h.unsent.wake, h.reportNextUnsent, stopReports, unsentReported) // ends after the last report
	} else {
		close(unsentReported)
	}
	go h.runReclaim(stopReports) // ends when stopReports is closed
	h.events.start()
	var err error
	if h.node != nil {
		if err = h.node.start(); err != nil {
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
	stuck := h.endAll()
	close(stopReports)
	if !waitFor(dropsReported, h.config.CallbackTimeout) {
		stuck = append(stuck, "OnDrop")
	}
	if !waitFor(unsentReported, h.config.CallbackTimeout) {
		stuck = append(stuck, "OnUnsent")
	}
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

// clock returns the nanoseconds since NewHub. It is monotonic and never 0.
func (h *Hub) clock() int64 { return int64(time.Since(h.epoch)) + 1 }

// clockAt is clock at a time of time.Now.
func (h *Hub) clockAt(t time.Time) int64 { return int64(t.Sub(h.epoch)) + 1 }

// now returns the current time as a Message.Timestamp.
func (h *Hub) now() int64 { return time.Now().UnixNano() }

// shardOf returns the shard of a client ID.
func (h *Hub) shardOf(id string) *shard {
	return h.shards[maphash.String(h.seed, id)%uint64(len(h.shards))]
}
