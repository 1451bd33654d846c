package websocket

import (
	"slices"
	"sync"
	"time"
)

// shard is one hub goroutine with the clients whose IDs hash to it. It walks its
// entries of the log in order, which moves references to messages to the clients
// concerned, and then writes each of those clients once for all of them. While it
// sleeps, a reader may do that in its place.
type shard struct {
	hub   *Hub
	log   *hubLog
	index int
	wake  chan struct{} // capacity 1; appenders and the timer send, the shard receives; never closed

	counters counters

	// Guarded by the log's lock.
	queue      []entry
	sleeping   bool
	lazily     *time.Timer // wakes the shard for entries that were put lazily
	population int         // clients, as of the last entry appended

	turn sync.Mutex // held by the hub goroutine while it is awake, or by a reader that assists

	// Guarded by turn.
	current  []entry // being walked
	next     int     // index in current
	walked   int64   // cost of what was walked, to be given back to the log
	clients  []*Client
	roots    []step   // by form
	rounds   []*round // with clients still to write, oldest first
	closing  *CloseError
	stopped  bool
	watch    deadlines
	timer    *time.Timer
	timerSet int64

	// Free lists and scratch space.
	freeSteps   []*step
	freeRounds  []*round
	freeBatches []*batch
	path        []*publication
	scratch     *batch
	single      batch // one frame, not copied
}

// step is one run of messages behind others that are to be written together. The
// steps of a walk form trees, one for each form: clients that get the same
// messages in the same form stand on the same step, and share the bytes that are
// composed for it.
type step struct {
	parent *step
	run    []*publication
	child  *step  // latest
	next   uint64 // what child's run begins with: its place in the log
	users  int    // clients standing here
	length int    // messages from the root to here
	cost   int64  // of them

	batches []*batch // composed bytes, once two clients need them
}

// round is what one walk brought: the clients that it made dirty, and what to
// let go of when no client can refer to it any more, which is when this round's
// clients and those of all rounds before are written.
type round struct {
	pubs  []*publication
	steps []*step
	few   writeList // clients of messages that went to few: they come first
	many  writeList
}

// writeList is clients to write, in order.
type writeList struct {
	clients []*Client
	next    int
}

func (t *writeList) left() int { return len(t.clients) - t.next }

// Bounds of one walk and one turn of writing: they keep a large channel from
// holding up a small one. A turn is so many writes to clients of a message that
// went to no more than fewClients of the shard's, and as many to others. A walk
// that writes, because a client has had enough, counts that as many pushes.
const (
	walkPushes  = 64 << 10
	walkBytes   = 1 << 20
	turnWrites  = 256
	fewClients  = 16
	writePushes = 64
)

// A reader that assists does no more than this.
const (
	assistPushes = 512
	assistWrites = 32
)

func newShard(h *Hub, index int) *shard {
	s := &shard{
		hub: h, log: h.log, index: index,
		wake:    make(chan struct{}, 1),
		roots:   make([]step, len(h.codecs)*int(formsPerCodec)),
		scratch: &batch{b: make([]byte, 0, joinSize)},
	}
	s.lazily = time.AfterFunc(time.Hour, s.wakeUp)
	s.lazily.Stop()
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
	defer s.lazily.Stop()
	for s.work() {
		<-s.wake
	}
}

// work sweeps until there is nothing left to do, and reports whether there will
// be.
func (s *shard) work() bool {
	s.turn.Lock()
	defer s.turn.Unlock()
	for s.sweep(walkPushes, turnWrites) {
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
	if s.next < len(s.current) || s.log.take(s, quiet) {
		s.walk(pushes)
	} else if quiet {
		return false
	}
	s.writeTurn(writes)
	return true
}

// assist is one short sweep on a reader's goroutine, behind an append that found
// the shard asleep. The hub goroutine does what is left.
func (s *shard) assist() {
	if s.turn.TryLock() {
		s.sweep(assistPushes, assistWrites)
		left := s.stopped || len(s.rounds) > 0 || s.next < len(s.current) || s.log.take(s, true)
		s.setTimer()
		s.turn.Unlock()
		if !left {
			return
		}
	}
	s.wakeUp()
}

// setTimer wakes the shard at the next deadline. The timer wakes like an appender
// does: waiting for one channel costs half of what waiting for two does.
func (s *shard) setTimer() {
	if due := s.watch.next(); due < s.timerSet || s.timerSet <= s.hub.clock() {
		s.timerSet = due
		s.timer.Reset(time.Duration(max(due-s.hub.clock(), 0)))
	}
}

// walk takes entries in order until a bound is reached.
func (s *shard) walk(most int) {
	r := s.newRound()
	pushes, bytes := 0, int64(0)
	for s.next < len(s.current) && pushes < most && bytes < walkBytes {
		e := &s.current[s.next]
		if e.pub == nil {
			s.apply(e, r)
			s.next++
			continue
		}
		run, cost := s.takeRun(r)
		bytes += cost
		pushes += s.deliver(e, run, r)
	}
	if s.next == len(s.current) {
		clear(s.current)
		if cap(s.current) > 1<<14 {
			s.current = nil
		} else {
			s.current = s.current[:0]
		}
		s.next = 0
	}
	s.rounds = append(s.rounds, r)
	s.endRounds()
}

// takeRun takes the message entries from s.next on that go to the same clients.
func (s *shard) takeRun(r *round) (run []*publication, cost int64) {
	first := &s.current[s.next]
	start := len(r.pubs)
	for ; s.next < len(s.current) && cost < joinSize; s.next++ {
		e := &s.current[s.next]
		if e.kind != first.kind || e.part != first.part || e.client != first.client {
			break
		}
		r.pubs = append(r.pubs, e.pub)
		cost += e.pub.cost
		if e.pub.unwalked.Add(-1) == 0 {
			s.walked += e.pub.cost
		}
	}
	return r.pubs[start:len(r.pubs):len(r.pubs)], cost
}

// deliver moves the clients that a run is for one step on.
func (s *shard) deliver(e *entry, run []*publication, r *round) (pushes int) {
	order := run[0].order
	switch e.kind {
	case entryPublish:
		few := len(e.part.members) <= fewClients
		for _, m := range e.part.members {
			pushes += s.push(m.client, run, order, r, few)
		}
		return pushes
	case entryBroadcast:
		few := len(s.clients) <= fewClients
		for _, c := range s.clients {
			pushes += s.push(c, run, order, r, few)
		}
		return pushes
	default:
		if e.client.slot >= 0 {
			return s.push(e.client, run, order, r, true)
		}
		s.dropAll(e.client, run)
		return 1
	}
}

// push moves c on by a run. It gives c a turn, unless c has one; one among the
// few even then. A client's turn must not come so late that what it would get at
// once is what only a slow one would leave waiting: it is written before.
func (s *shard) push(c *Client, run []*publication, order uint64, r *round, few bool) (pushes int) {
	pushes = 1
	if at := c.pending; at != nil && at.cost >= s.hub.config.ClientBacklog/4 {
		s.flush(c)
		pushes = writePushes
	}
	at := c.pending
	if few && !c.inFew {
		c.inFew = true
		r.few.clients = append(r.few.clients, c)
	} else if at == nil {
		r.many.clients = append(r.many.clients, c)
	}
	if at == nil {
		at = &s.roots[c.conn.form]
	}
	next := at.child
	if at.next != order {
		next = s.newStep(r)
		next.parent, next.run, next.length, next.cost = at, run, at.length+len(run), at.cost
		for _, p := range run {
			next.cost += p.cost
		}
		at.child, at.next = next, order
	}
	at.users--
	next.users++
	c.pending = next
	return pushes
}

// apply walks an entry that is not a message.
func (s *shard) apply(e *entry, r *round) {
	c := e.client
	switch e.kind {
	case entryRegister:
		c.slot = len(s.clients)
		s.clients = append(s.clients, c)
		s.watch.add(c, c.conn.lastRead.Load()+int64(s.hub.config.PingPeriod))
		s.minds(c)
		if s.closing != nil {
			c.conn.close(s.closing)
		}
	case entryRelease:
		if c.slot >= 0 {
			s.flush(c)
			c.conn.release()
			s.minds(c)
		}
	case entryUnregister:
		s.forget(c)
	case entryJoin:
		s.walked += entryCost
		e.arg.(*membership).add()
	case entryLeave:
		s.walked += entryCost
		e.arg.(*membership).remove()
	case entryKeys:
		if c.slot >= 0 {
			s.flush(c)
			own := e.arg.(*pipeline)
			c.conn.setOutbound(c.formWith(own), own)
		}
	case entryClose:
		if c.slot >= 0 {
			s.flush(c)
			c.conn.close(e.arg.(*CloseError))
		}
	case entryWatch:
		s.minds(c)
	case entryQuery:
		e.arg.(*memberQuery).answer(e.part)
	case entryGap:
		s.walked += entryCost
		s.routeGap(e, r)
	case entryShutdown:
		s.closing = &CloseError{Code: CloseGoingAway, Reason: "server is shutting down"}
		for _, c := range s.clients {
			s.flush(c)
			c.conn.close(s.closing)
		}
	case entryStop:
		s.stopped = true
	}
}

// forget takes a client out of everything the shard owns.
func (s *shard) forget(c *Client) {
	for _, m := range c.members.list {
		m.remove()
	}
	c.members = membershipSet{}
	last := len(s.clients) - 1
	s.clients[c.slot] = s.clients[last]
	s.clients[c.slot].slot = c.slot
	s.clients[last] = nil
	s.clients = s.clients[:last]
	c.slot = -1
	s.watch.remove(c)
	if at := c.pending; at != nil {
		c.pending, c.inFew = nil, false
		s.dropAll(c, s.pathTo(at))
		s.leave(at)
	}
}

// dropAll counts messages for a client that is gone.
func (s *shard) dropAll(c *Client, pubs []*publication) {
	for _, p := range pubs {
		c.conn.drop(p, dropDisconnected)
	}
}

// writeTurn writes some of the clients of the few, half of them of the latest
// rounds, and then some of the many.
func (s *shard) writeTurn(most int) {
	left := most / 2
	for _, r := range slices.Backward(s.rounds) {
		left -= s.writeSome(&r.few, left)
	}
	left += most - most/2
	for _, r := range s.rounds {
		left -= s.writeSome(&r.few, left)
	}
	left = most
	for _, r := range s.rounds {
		left -= s.writeSome(&r.many, left)
	}
	s.endRounds()
}

func (s *shard) writeSome(t *writeList, most int) int {
	n := min(t.left(), most)
	for _, c := range t.clients[t.next : t.next+n] {
		s.flush(c)
	}
	t.next += n
	return n
}

// endRounds lets go of the oldest rounds that are written.
func (s *shard) endRounds() {
	n := 0
	for n < len(s.rounds) && s.rounds[n].few.left()+s.rounds[n].many.left() == 0 {
		s.freeRound(s.rounds[n])
		n++
	}
	if n > 0 {
		s.rounds = slices.Delete(s.rounds, 0, n)
	}
}

// flush writes what is pending for c, or queues it where the connection does not
// take it now.
func (s *shard) flush(c *Client) {
	at := c.pending
	if at == nil {
		return
	}
	c.pending, c.inFew = nil, false
	c.conn.mu.Lock()
	if c.conn.state == connOpen && c.conn.idle() {
		s.write(c, at)
	} else {
		s.queueAll(c, at)
	}
	watch := c.conn.pumping
	c.conn.mu.Unlock()
	if watch {
		s.minds(c)
	}
	s.leave(at)
}

// write puts on the wire what the socket takes at once. The connection is idle
// and its lock is held.
func (s *shard) write(c *Client, at *step) {
	var sent int
	var whole bool
	if c.conn.keys != nil || at.length == 1 || at.users == 1 && len(at.batches) == 0 {
		sent, whole = s.writeAlone(c, at)
	} else {
		sent, whole = s.writeShared(c, at)
	}
	if !whole || sent < at.length {
		s.settle(c, at, sent)
	}
}

// writeShared writes what is composed once for all that stand on a step. It
// returns how many messages are out, and whether the socket took everything.
func (s *shard) writeShared(c *Client, at *step) (sent int, whole bool) {
	s.compose(at, c.conn.form)
	for _, b := range at.batches {
		n, whole := s.writeBatch(c, b)
		sent += n
		if !whole {
			return sent, false
		}
	}
	return sent, true
}

// writeAlone composes for one client, or writes a single frame as it is. Like
// compose it stops where a message cannot be encoded: what comes after waits
// behind the notice of it.
func (s *shard) writeAlone(c *Client, at *step) (sent int, whole bool) {
	keys, f := c.conn.keys, c.conn.form
	if at.length == 1 && keys == nil {
		wire := at.run[0].frame(f).wire
		if len(wire) == 0 {
			return 0, true
		}
		s.single.b, s.single.ends = wire, append(s.single.ends[:0], len(wire))
		sent, whole = s.writeBatch(c, &s.single)
		s.single.b = nil
		return sent, whole
	}
	out := s.scratch
	out.reset()
	for _, p := range s.pathTo(at) {
		fr := p.frame(f)
		if len(fr.wire) == 0 {
			break
		}
		if len(out.ends) > 0 && len(out.b)+len(fr.wire) > joinSize {
			n, whole := s.writeBatch(c, out)
			sent += n
			if !whole {
				return sent, false
			}
			out.reset()
		}
		if keys != nil {
			out.addSealed(fr.payload(), keys)
		} else {
			out.add(fr.wire)
		}
	}
	if len(out.ends) == 0 {
		return sent, true
	}
	n, whole := s.writeBatch(c, out)
	return sent + n, whole
}

// writeBatch returns how many frames of b are out, and whether all are. Of one
// that is partly out the rest is kept; settle finds its message.
func (s *shard) writeBatch(c *Client, b *batch) (sent int, whole bool) {
	n, err := c.conn.socket.TryWrite(b.b)
	s.counters.bytesSent.Add(uint64(n))
	if n == len(b.b) {
		s.counters.messagesSent.Add(uint64(len(b.ends)))
		return len(b.ends), true
	}
	sent = b.whole(n)
	s.counters.messagesSent.Add(uint64(sent))
	if err != nil {
		c.conn.die(err)
		return sent, false
	}
	begin := 0
	if sent > 0 {
		begin = b.ends[sent-1]
	}
	if n > begin {
		c.conn.rest = append([]byte(nil), b.b[n:b.ends[sent]]...)
	}
	return sent, false
}

// settle accounts for the messages on the path to at that are not out: the first
// sent are. The next one may be partly out; it and those behind it wait. What
// cannot be encoded is lost as soon as nothing waits before it.
func (s *shard) settle(c *Client, at *step, sent int) {
	for _, p := range s.pathTo(at) {
		switch {
		case sent > 0:
			sent--
		case c.conn.queue.len() == 0 && len(c.conn.rest) == 0 && len(p.frame(c.conn.form).wire) == 0:
			c.conn.lose(p, dropCodec)
		case len(c.conn.rest) > 0 && c.conn.restOf == nil:
			c.conn.keepRest(c.conn.rest, p)
		default:
			c.conn.push(p)
		}
	}
	c.conn.wake()
}

// queueAll queues all messages on the path to at. The connection's lock is held.
func (s *shard) queueAll(c *Client, at *step) {
	for _, p := range s.pathTo(at) {
		c.conn.push(p)
	}
	c.conn.wake()
}

// pathTo lists the messages from the root to at. The slice is good until the
// next call.
func (s *shard) pathTo(at *step) []*publication {
	if cap(s.path) < at.length {
		s.path = make([]*publication, at.length, 2*at.length)
	}
	path := s.path[:at.length]
	for ; at.parent != nil; at = at.parent {
		copy(path[at.parent.length:], at.run)
	}
	return path
}

// compose joins the messages on the path to at for all its clients, up to one
// that cannot be encoded.
func (s *shard) compose(at *step, f form) {
	if len(at.batches) > 0 {
		return
	}
	b := s.newBatch()
	at.batches = append(at.batches, b)
	for _, p := range s.pathTo(at) {
		fr := p.frame(f)
		if len(fr.wire) == 0 {
			break
		}
		if len(b.ends) > 0 && len(b.b)+len(fr.wire) > joinSize {
			b = s.newBatch()
			at.batches = append(at.batches, b)
		}
		b.add(fr.wire)
	}
}

// leave takes one client off a step; the last one gives its bytes back.
func (s *shard) leave(at *step) {
	at.users--
	if at.users == 0 {
		s.freeBatchesOf(at)
	}
}

func (s *shard) freeBatchesOf(at *step) {
	for i, b := range at.batches {
		if cap(b.b) <= 2*joinSize && len(s.freeBatches) < 64 {
			b.reset()
			s.freeBatches = append(s.freeBatches, b)
		}
		at.batches[i] = nil
	}
	at.batches = at.batches[:0]
}

func (s *shard) newBatch() *batch {
	if n := len(s.freeBatches); n > 0 {
		b := s.freeBatches[n-1]
		s.freeBatches = s.freeBatches[:n-1]
		return b
	}
	return &batch{}
}

func (s *shard) newStep(r *round) *step {
	var st *step
	if n := len(s.freeSteps); n > 0 {
		st = s.freeSteps[n-1]
		s.freeSteps = s.freeSteps[:n-1]
	} else {
		st = new(step)
	}
	r.steps = append(r.steps, st)
	return st
}

func (s *shard) newRound() *round {
	if n := len(s.freeRounds); n > 0 {
		r := s.freeRounds[n-1]
		s.freeRounds = s.freeRounds[:n-1]
		return r
	}
	return new(round)
}

const maxFreeSteps = 1 << 14

func (s *shard) freeRound(r *round) {
	for _, p := range r.pubs {
		p.release()
	}
	for _, st := range r.steps {
		s.freeBatchesOf(st)
		if len(s.freeSteps) < maxFreeSteps {
			*st = step{batches: st.batches}
			s.freeSteps = append(s.freeSteps, st)
		}
	}
	clear(r.pubs)
	clear(r.steps)
	clear(r.few.clients)
	clear(r.many.clients)
	if cap(r.few.clients)+cap(r.many.clients)+cap(r.pubs) > 1<<16 {
		return
	}
	*r = round{pubs: r.pubs[:0], steps: r.steps[:0], few: writeList{clients: r.few.clients[:0]}, many: writeList{clients: r.many.clients[:0]}}
	s.freeRounds = append(s.freeRounds, r)
}
