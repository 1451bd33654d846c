package websocket

import (
	"sync"
	"time"
)

// shard is one hub goroutine and its share of the clients: those whose IDs hash to it. It
// takes its entries of the event log in order and routes each message to the pending
// batches of its recipients. Then it writes each recipient's pending batch, all of its
// messages in one write. While the goroutine sleeps, a readPump may do the same in its
// place (see assist).
type shard struct {
	hub    *Hub
	events *eventLog
	index  int
	wake   chan struct{} // capacity 1; appenders and timers send, the hub goroutine receives; never closed

	counters counters

	// Guarded by the event log's lock.
	queue      []entry // appended and not taken yet
	sleeping   bool
	lazyTimer  *time.Timer // wakes the shard for entries of appendLazy
	population int         // number of clients, as of the last entry appended

	mu sync.Mutex // held by the hub goroutine while it is awake, or by a readPump that assists

	// Guarded by mu.
	entries     []entry // taken from queue
	nextEntry   int     // index in entries of the first that is not routed
	routedCost  int64   // cost of routed entries that the event log still counts
	clients     []*Client
	roots       []batch     // roots of the trees of pending batches, by form
	rounds      []*round    // rounds that are not written completely, oldest first
	feeding     []*Client   // clients with cursors that may have room
	shutdownErr *CloseError // set by entryShutdown; new clients are closed with it
	stopped     bool
	deadlines   deadlines
	timer       *time.Timer
	timerAt     int64 // the deadline that timer is set to
	brief       bool  // the current flush may make brief writes
	briefLeft   int   // flushes that may still make brief writes
	briefSince  int64 // when briefLeft was last set to briefWrites

	// Free lists and scratch space.
	freeBatches []*batch
	freeRounds  []*round
	freeBuffers []*frameBuffer
	path        []*publication
	fed         []*publication
	scratch     *frameBuffer
	single      frameBuffer // a single frame, which is not copied
}

// Bounds of one assist.
const (
	assistPushes = 512
	assistWrites = 32
)

// A shard makes at most briefWrites brief writes (see transport.Conn) in briefInterval, and
// in one turn of its goroutine.
const (
	briefWrites   = 32
	briefInterval = int64(time.Millisecond)
)

func newShard(h *Hub, index int) *shard {
	s := &shard{
		hub: h, events: h.events, index: index,
		wake:    make(chan struct{}, 1),
		roots:   make([]batch, len(h.codecs)*int(formsPerCodec)),
		scratch: &frameBuffer{b: make([]byte, 0, joinSize)},
	}
	s.lazyTimer = time.AfterFunc(time.Hour, s.wakeUp)
	s.lazyTimer.Stop()
	return s
}

func (s *shard) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default: // it is awake or has been woken
	}
}

// run is the hub goroutine. It ends after entryStop, when everything is written.
func (s *shard) run() {
	defer s.hub.running.Done()
	s.timer = time.AfterFunc(time.Hour, s.wakeUp)
	defer s.timer.Stop()
	defer s.lazyTimer.Stop()
	for s.work() {
		<-s.wake
	}
}

// work sweeps until nothing is left to do. It reports whether the goroutine goes on.
func (s *shard) work() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allowBrief()
	for s.sweep(maxRoutePushes, writesPerSweep) {
		s.checkDeadlines()
	}
	s.checkDeadlines()
	s.setTimer()
	return !s.stopped
}

// allowBrief is called when a goroutine begins to work for the shard.
func (s *shard) allowBrief() {
	if now := s.hub.clock(); now-s.briefSince >= briefInterval {
		s.briefLeft, s.briefSince = briefWrites, now
	}
}

// sweep routes the entries that were appended and writes some of the pending batches. If
// nothing is left it reports false, and the shard counts as sleeping.
func (s *shard) sweep(pushes, writes int) bool {
	quiet := len(s.rounds)+len(s.feeding) == 0
	if s.nextEntry < len(s.entries) || s.events.takeQueue(s, quiet) {
		s.route(pushes)
	} else if quiet {
		return false
	}
	s.writeRounds(writes)
	s.feed()
	return true
}

// assist does one short sweep on the goroutine of a readPump that has appended an entry
// while the shard was asleep. That is cheaper than waking the hub goroutine, which does
// the rest if anything is left.
func (s *shard) assist() {
	if s.mu.TryLock() {
		s.allowBrief()
		s.sweep(assistPushes, assistWrites)
		left := s.stopped || len(s.rounds)+len(s.feeding) > 0 || s.nextEntry < len(s.entries) || s.events.takeQueue(s, true)
		s.setTimer()
		s.mu.Unlock()
		if !left {
			return
		}
	}
	s.wakeUp()
}

// setTimer sets the timer to the next deadline. The timer sends on wake like an appender,
// because waiting for one channel costs half as much as a select over two.
func (s *shard) setTimer() {
	if due := s.deadlines.next(); due < s.timerAt || s.timerAt <= s.hub.clock() {
		s.timerAt = due
		s.timer.Reset(time.Duration(max(due-s.hub.clock(), 0)))
	}
}
