package websocket

import (
	"sync"
	"time"
)

// shard is one hub goroutine with the clients whose IDs hash to it. It walks its
// entries of the log in order, which moves references to messages to the clients
// concerned, and then writes each of those clients once for all of them. While it
// sleeps, a reader may do that in its place.
type shard struct {
	hub    *Hub
	events *eventLog
	index  int
	wake   chan struct{} // capacity 1; appenders and the timer send, the shard receives; never closed

	counters counters

	// Guarded by the log's lock.
	queue      []entry
	sleeping   bool
	lazyTimer  *time.Timer // wakes the shard for entries that were put lazily
	population int         // clients, as of the last entry appended

	mu sync.Mutex // held by the hub goroutine while it is awake, or by a reader that assists

	// Guarded by turn.
	entries     []entry // being walked
	nextEntry   int     // index in current
	routedCost  int64   // cost of what was walked, to be given back to the log
	clients     []*Client
	roots       []batch  // by form
	rounds      []*round // with clients still to write, oldest first
	shutdownErr *CloseError
	stopped     bool
	deadlines   deadlines
	timer       *time.Timer
	timerAt     int64

	// Free lists and scratch space.
	freeBatches []*batch
	freeRounds  []*round
	freeBuffers []*frameBuffer
	path        []*publication
	scratch     *frameBuffer
	single      frameBuffer // one frame, not copied
}

// A reader that assists does no more than this.
const (
	assistPushes = 512
	assistWrites = 32
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
	default: // awake or about to be
	}
}

// run is the hub goroutine. It ends when it has walked entryStop and let go of
// everything.
func (s *shard) run() {
	defer s.hub.running.Done()
	s.timer = time.AfterFunc(time.Hour, s.wakeUp)
	defer s.timer.Stop()
	defer s.lazyTimer.Stop()
	for s.work() {
		<-s.wake
	}
}

// work sweeps until there is nothing left to do, and reports whether there will
// be.
func (s *shard) work() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.sweep(maxRoutePushes, writesPerSweep) {
		s.checkDeadlines()
	}
	s.checkDeadlines()
	s.setTimer()
	return !s.stopped
}

// sweep walks what has been appended and writes some of it. When nothing is left
// it reports false, and the shard counts as sleeping.
func (s *shard) sweep(pushes, writes int) bool {
	quiet := len(s.rounds) == 0
	if s.nextEntry < len(s.entries) || s.events.takeQueue(s, quiet) {
		s.route(pushes)
	} else if quiet {
		return false
	}
	s.writeRounds(writes)
	return true
}

// assist is one short sweep on a reader's goroutine, behind an append that found
// the shard asleep. The hub goroutine does what is left.
func (s *shard) assist() {
	if s.mu.TryLock() {
		s.sweep(assistPushes, assistWrites)
		left := s.stopped || len(s.rounds) > 0 || s.nextEntry < len(s.entries) || s.events.takeQueue(s, true)
		s.setTimer()
		s.mu.Unlock()
		if !left {
			return
		}
	}
	s.wakeUp()
}

// setTimer wakes the shard at the next deadline. The timer wakes like an appender
// does: waiting for one channel costs half of what waiting for two does.
func (s *shard) setTimer() {
	if due := s.deadlines.next(); due < s.timerAt || s.timerAt <= s.hub.clock() {
		s.timerAt = due
		s.timer.Reset(time.Duration(max(due-s.hub.clock(), 0)))
	}
}
