package websocket

import (
	"context"
	"errors"
	"hash/maphash"
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

// clock is nanoseconds since NewHub, monotonic and never 0.
func (h *Hub) clock() int64 { return int64(time.Since(h.epoch)) + 1 }

// now is a Message's Timestamp.
func (h *Hub) now() int64 { return time.Now().UnixNano() }

func (h *Hub) overBudget() bool { return h.budget.used.Load() > h.config.MemoryBudget }

func (h *Hub) shardOf(id string) *shard {
	return h.shards[maphash.String(h.seed, id)%uint64(len(h.shards))]
}
