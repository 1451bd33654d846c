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

// step is one run of messages behind others that are to be written together. The
// steps of a walk form trees, one for each form: clients that get the same
// messages in the same form stand on the same step, and share the bytes that are
// composed for it.
type batch struct {
	parent     *batch
	run        []*publication
	lastChild  *batch // latest
	childSeq   uint64 // what child's run begins with: its place in the log
	recipients int    // clients standing here
	messages   int    // messages from the root to here
	cost       int64  // of them

	buffers []*frameBuffer // composed bytes, once two clients need them
}

// round is what one walk brought: the clients that it made dirty, and what to
// let go of when no client can refer to it any more, which is when this round's
// clients and those of all rounds before are written.
type round struct {
	pubs    []*publication
	batches []*batch
	small   writeList // clients of messages that went to few: they come first
	large   writeList
}

// writeList is clients to write, in order.
type writeList struct {
	clients []*Client
	next    int
}

func (t *writeList) remaining() int { return len(t.clients) - t.next }

// Bounds of one walk and one turn of writing: they keep a large channel from
// holding up a small one. A turn is so many writes to clients of a message that
// went to no more than fewClients of the shard's, and as many to others. A walk
// that writes, because a client has had enough, counts that as many pushes.
const (
	maxRoutePushes = 64 << 10
	maxRouteBytes  = 1 << 20
	writesPerSweep = 256
	smallAudience  = 16
	pushesPerFlush = 64
)

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

// walk takes entries in order until a bound is reached.
func (s *shard) route(most int) {
	r := s.newRound()
	pushes, bytes := 0, int64(0)
	for s.nextEntry < len(s.entries) && pushes < most && bytes < maxRouteBytes {
		e := &s.entries[s.nextEntry]
		if e.pub == nil {
			s.apply(e, r)
			s.nextEntry++
			continue
		}
		run, cost := s.takeRun(r)
		bytes += cost
		pushes += s.deliver(e, run, r)
	}
	if s.nextEntry == len(s.entries) {
		clear(s.entries)
		if cap(s.entries) > 1<<14 {
			s.entries = nil
		} else {
			s.entries = s.entries[:0]
		}
		s.nextEntry = 0
	}
	s.rounds = append(s.rounds, r)
	s.freeWrittenRounds()
}

// takeRun takes the message entries from s.next on that go to the same clients.
func (s *shard) takeRun(r *round) (run []*publication, cost int64) {
	first := &s.entries[s.nextEntry]
	start := len(r.pubs)
	for ; s.nextEntry < len(s.entries) && cost < joinSize; s.nextEntry++ {
		e := &s.entries[s.nextEntry]
		if e.kind != first.kind || e.part != first.part || e.client != first.client {
			break
		}
		r.pubs = append(r.pubs, e.pub)
		cost += e.pub.cost
		if e.pub.unrouted.Add(-1) == 0 {
			s.routedCost += e.pub.cost
		}
	}
	return r.pubs[start:len(r.pubs):len(r.pubs)], cost
}

// deliver moves the clients that a run is for one step on.
func (s *shard) deliver(e *entry, run []*publication, r *round) (pushes int) {
	order := run[0].seq
	switch e.kind {
	case entryPublish:
		few := len(e.part.members) <= smallAudience
		for _, m := range e.part.members {
			pushes += s.push(m.client, run, order, r, few)
		}
		return pushes
	case entryBroadcast:
		few := len(s.clients) <= smallAudience
		for _, c := range s.clients {
			pushes += s.push(c, run, order, r, few)
		}
		return pushes
	default:
		if e.client.shardIndex >= 0 {
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
		pushes = pushesPerFlush
	}
	at := c.pending
	if few && !c.inSmall {
		c.inSmall = true
		r.small.clients = append(r.small.clients, c)
	} else if at == nil {
		r.large.clients = append(r.large.clients, c)
	}
	if at == nil {
		at = &s.roots[c.conn.form]
	}
	next := at.lastChild
	if at.childSeq != order {
		next = s.newBatch(r)
		next.parent, next.run, next.messages, next.cost = at, run, at.messages+len(run), at.cost
		for _, p := range run {
			next.cost += p.cost
		}
		at.lastChild, at.childSeq = next, order
	}
	at.recipients--
	next.recipients++
	c.pending = next
	return pushes
}

// apply walks an entry that is not a message.
func (s *shard) apply(e *entry, r *round) {
	c := e.client
	switch e.kind {
	case entryRegister:
		c.shardIndex = len(s.clients)
		s.clients = append(s.clients, c)
		s.deadlines.add(c, c.conn.lastRead.Load()+int64(s.hub.config.PingPeriod))
		s.reschedule(c)
		if s.shutdownErr != nil {
			c.conn.close(s.shutdownErr)
		}
	case entryUnhold:
		if c.shardIndex >= 0 {
			s.flush(c)
			c.conn.unhold()
			s.reschedule(c)
		}
	case entryUnregister:
		s.removeClient(c)
	case entryJoin:
		s.routedCost += entryCost
		e.arg.(*membership).add()
	case entryLeave:
		s.routedCost += entryCost
		e.arg.(*membership).remove()
	case entryKeys:
		if c.shardIndex >= 0 {
			s.flush(c)
			own := e.arg.(*pipeline)
			c.conn.setOutbound(c.formFor(own), own)
		}
	case entryClose:
		if c.shardIndex >= 0 {
			s.flush(c)
			c.conn.close(e.arg.(*CloseError))
		}
	case entryReschedule:
		s.reschedule(c)
	case entryQuery:
		e.arg.(*memberQuery).collect(e.part)
	case entryGap:
		s.routedCost += entryCost
		s.routeGap(e, r)
	case entryShutdown:
		s.shutdownErr = &CloseError{Code: CloseGoingAway, Reason: "server is shutting down"}
		for _, c := range s.clients {
			s.flush(c)
			c.conn.close(s.shutdownErr)
		}
	case entryStop:
		s.stopped = true
	}
}

// forget takes a client out of everything the shard owns.
func (s *shard) removeClient(c *Client) {
	for _, m := range c.members.list {
		m.remove()
	}
	c.members = membershipSet{}
	last := len(s.clients) - 1
	s.clients[c.shardIndex] = s.clients[last]
	s.clients[c.shardIndex].shardIndex = c.shardIndex
	s.clients[last] = nil
	s.clients = s.clients[:last]
	c.shardIndex = -1
	s.deadlines.remove(c)
	if at := c.pending; at != nil {
		c.pending, c.inSmall = nil, false
		s.dropAll(c, s.messagesTo(at))
		s.detach(at)
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
func (s *shard) writeRounds(most int) {
	left := most / 2
	for _, r := range slices.Backward(s.rounds) {
		left -= s.writeFrom(&r.small, left)
	}
	left += most - most/2
	for _, r := range s.rounds {
		left -= s.writeFrom(&r.small, left)
	}
	left = most
	for _, r := range s.rounds {
		left -= s.writeFrom(&r.large, left)
	}
	s.freeWrittenRounds()
}

func (s *shard) writeFrom(t *writeList, most int) int {
	n := min(t.remaining(), most)
	for _, c := range t.clients[t.next : t.next+n] {
		s.flush(c)
	}
	t.next += n
	return n
}

// endRounds lets go of the oldest rounds that are written.
func (s *shard) freeWrittenRounds() {
	n := 0
	for n < len(s.rounds) && s.rounds[n].small.remaining()+s.rounds[n].large.remaining() == 0 {
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
	c.pending, c.inSmall = nil, false
	c.conn.mu.Lock()
	if c.conn.state == connOpen && c.conn.mayWrite() {
		s.writePending(c, at)
	} else {
		s.enqueueAll(c, at)
	}
	watch := c.conn.pumping
	c.conn.mu.Unlock()
	if watch {
		s.reschedule(c)
	}
	s.detach(at)
}

// write puts on the wire what the socket takes at once. The connection is idle
// and its lock is held.
func (s *shard) writePending(c *Client, at *batch) {
	var sent int
	var whole bool
	if c.conn.keys != nil || at.messages == 1 || at.recipients == 1 && len(at.buffers) == 0 {
		sent, whole = s.writeAlone(c, at)
	} else {
		sent, whole = s.writeShared(c, at)
	}
	if !whole || sent < at.messages {
		s.keepUnsent(c, at, sent)
	}
}

// writeShared writes what is composed once for all that stand on a step. It
// returns how many messages are out, and whether the socket took everything.
func (s *shard) writeShared(c *Client, at *batch) (sent int, whole bool) {
	s.compose(at, c.conn.form)
	for _, b := range at.buffers {
		n, whole := s.writeBuffer(c, b)
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
func (s *shard) writeAlone(c *Client, at *batch) (sent int, whole bool) {
	keys, f := c.conn.keys, c.conn.form
	if at.messages == 1 && keys == nil {
		wire := at.run[0].frame(f).bytes
		if len(wire) == 0 {
			return 0, true
		}
		s.single.b, s.single.ends = wire, append(s.single.ends[:0], len(wire))
		sent, whole = s.writeBuffer(c, &s.single)
		s.single.b = nil
		return sent, whole
	}
	out := s.scratch
	out.reset()
	for _, p := range s.messagesTo(at) {
		fr := p.frame(f)
		if len(fr.bytes) == 0 {
			break
		}
		if len(out.ends) > 0 && len(out.b)+len(fr.bytes) > joinSize {
			n, whole := s.writeBuffer(c, out)
			sent += n
			if !whole {
				return sent, false
			}
			out.reset()
		}
		if keys != nil {
			out.addSealed(fr.payload(), keys)
		} else {
			out.add(fr.bytes)
		}
	}
	if len(out.ends) == 0 {
		return sent, true
	}
	n, whole := s.writeBuffer(c, out)
	return sent + n, whole
}

// writeBatch returns how many frames of b are out, and whether all are. Of one
// that is partly out the rest is kept; settle finds its message.
func (s *shard) writeBuffer(c *Client, b *frameBuffer) (sent int, whole bool) {
	n, err := c.conn.socket.TryWrite(b.b)
	s.counters.bytesSent.Add(uint64(n))
	if n == len(b.b) {
		s.counters.messagesSent.Add(uint64(len(b.ends)))
		return len(b.ends), true
	}
	sent = b.whole(n)
	s.counters.messagesSent.Add(uint64(sent))
	if err != nil {
		c.conn.abortLocked(err)
		return sent, false
	}
	begin := 0
	if sent > 0 {
		begin = b.ends[sent-1]
	}
	if n > begin {
		c.conn.tail = append([]byte(nil), b.b[n:b.ends[sent]]...)
	}
	return sent, false
}

// settle accounts for the messages on the path to at that are not out: the first
// sent are. The next one may be partly out; it and those behind it wait. What
// cannot be encoded is lost as soon as nothing waits before it.
func (s *shard) keepUnsent(c *Client, at *batch, sent int) {
	for _, p := range s.messagesTo(at) {
		switch {
		case sent > 0:
			sent--
		case c.conn.queue.len() == 0 && len(c.conn.tail) == 0 && len(p.frame(c.conn.form).bytes) == 0:
			c.conn.dropAndAnnounce(p, dropCodec)
		case len(c.conn.tail) > 0 && c.conn.tailOf == nil:
			c.conn.keepTail(c.conn.tail, p)
		default:
			c.conn.enqueue(p)
		}
	}
	c.conn.startPump()
}

// queueAll queues all messages on the path to at. The connection's lock is held.
func (s *shard) enqueueAll(c *Client, at *batch) {
	for _, p := range s.messagesTo(at) {
		c.conn.enqueue(p)
	}
	c.conn.startPump()
}

// pathTo lists the messages from the root to at. The slice is good until the
// next call.
func (s *shard) messagesTo(at *batch) []*publication {
	if cap(s.path) < at.messages {
		s.path = make([]*publication, at.messages, 2*at.messages)
	}
	path := s.path[:at.messages]
	for ; at.parent != nil; at = at.parent {
		copy(path[at.parent.messages:], at.run)
	}
	return path
}

// compose joins the messages on the path to at for all its clients, up to one
// that cannot be encoded.
func (s *shard) compose(at *batch, f form) {
	if len(at.buffers) > 0 {
		return
	}
	b := s.newBuffer()
	at.buffers = append(at.buffers, b)
	for _, p := range s.messagesTo(at) {
		fr := p.frame(f)
		if len(fr.bytes) == 0 {
			break
		}
		if len(b.ends) > 0 && len(b.b)+len(fr.bytes) > joinSize {
			b = s.newBuffer()
			at.buffers = append(at.buffers, b)
		}
		b.add(fr.bytes)
	}
}

// leave takes one client off a step; the last one gives its bytes back.
func (s *shard) detach(at *batch) {
	at.recipients--
	if at.recipients == 0 {
		s.freeBuffersOf(at)
	}
}

func (s *shard) freeBuffersOf(at *batch) {
	for i, b := range at.buffers {
		if cap(b.b) <= 2*joinSize && len(s.freeBuffers) < 64 {
			b.reset()
			s.freeBuffers = append(s.freeBuffers, b)
		}
		at.buffers[i] = nil
	}
	at.buffers = at.buffers[:0]
}

func (s *shard) newBuffer() *frameBuffer {
	if n := len(s.freeBuffers); n > 0 {
		b := s.freeBuffers[n-1]
		s.freeBuffers = s.freeBuffers[:n-1]
		return b
	}
	return &frameBuffer{}
}

func (s *shard) newBatch(r *round) *batch {
	var st *batch
	if n := len(s.freeBatches); n > 0 {
		st = s.freeBatches[n-1]
		s.freeBatches = s.freeBatches[:n-1]
	} else {
		st = new(batch)
	}
	r.batches = append(r.batches, st)
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

const maxFreeBatches = 1 << 14

func (s *shard) freeRound(r *round) {
	for _, p := range r.pubs {
		p.release()
	}
	for _, st := range r.batches {
		s.freeBuffersOf(st)
		if len(s.freeBatches) < maxFreeBatches {
			*st = batch{buffers: st.buffers}
			s.freeBatches = append(s.freeBatches, st)
		}
	}
	clear(r.pubs)
	clear(r.batches)
	clear(r.small.clients)
	clear(r.large.clients)
	if cap(r.small.clients)+cap(r.large.clients)+cap(r.pubs) > 1<<16 {
		return
	}
	*r = round{pubs: r.pubs[:0], batches: r.batches[:0], small: writeList{clients: r.small.clients[:0]}, large: writeList{clients: r.large.clients[:0]}}
	s.freeRounds = append(s.freeRounds, r)
}
