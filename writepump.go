package websocket

import (
	"math"
	"slices"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// joinSize is the size in bytes at which the joining of frames into one write stops. A
// write of that size costs the kernel little more than a small one.
const joinSize = transport.JoinSize

// pumpWrite is one write of a writePump.
type pumpWrite struct {
	out           frameBuffer
	controlFrames int          // number of frames at the start of out that are not items
	tailOf        *publication // the message that the first of them ends, or nil
	items         []item       // messages behind the control frames
	pings         bool         // the last of the control frames is a ping
	endsWithClose bool         // the Close frame is the last
	failed        []item       // items that could not be encoded
	sent          int          // number of items that the socket has accepted
	done          bool         // the writePump has returned: f holds no messages and may be recycled
}

var pumpWritePool = sync.Pool{New: func() any { return &pumpWrite{out: frameBuffer{b: make([]byte, 0, joinSize)}} }}

// maxPooledItems is the largest capacity for items that is pooled.
const maxPooledItems = 512

// recycle returns f to the pool, unless a large frame or many small ones made it grow: the
// next client would be charged for that, and perhaps be closed when memory is scarce.
func (f *pumpWrite) recycle() {
	if cap(f.out.b) <= joinSize && cap(f.items) <= maxPooledItems && cap(f.failed) <= maxPooledItems {
		f.clear()
		pumpWritePool.Put(f)
	}
}

func (f *pumpWrite) clear() {
	f.out.reset()
	*f = pumpWrite{out: f.out, items: f.items[:0], failed: f.failed[:0]}
}

// size returns the bytes of f's buffers.
func (f *pumpWrite) size() uint32 {
	size := int64(cap(f.out.b)+8*cap(f.out.ends)) + int64(cap(f.items)+cap(f.failed))*itemSize
	return uint32(min(size, math.MaxUint32))
}

func (f *pumpWrite) empty() bool {
	return f.controlFrames == 0 && len(f.items) == 0 && !f.endsWithClose
}

// writePump writes what is queued, as much as possible at a time, until nothing is
// queued or the connection has ended. A connection has at most one.
func (c *conn) writePump() {
	f := pumpWritePool.Get().(*pumpWrite)
	c.mu.Lock()
	defer c.pumpEnded(f)
	for c.collect(f); !f.empty(); c.collect(f) {
		c.chargePump(f.size())
		err := c.writeCollected(f)
		c.account(f)
		switch {
		case err != nil:
			c.abortLocked(err)
		case f.endsWithClose && c.state == connClosing:
			c.startLinger()
		}
	}
	f.done = true
}

// pumpEnded records the end of a writePump and unlocks mu. It is deferred, because a
// codec may end the goroutine. Then it also ends the connection, on which part of f may
// be written.
func (c *conn) pumpEnded(f *pumpWrite) {
	defer c.mu.Unlock()
	if !f.done {
		c.account(f)
		c.abortLocked(errWritePumpEnded)
	}
	c.chargePump(0)
	if f.done {
		f.recycle()
	}
	c.pumping = false
	c.progressAt.Store(0)
	c.shrinkQueue()
	if c.state == connOpen && c.feedable() {
		c.client.hub.events.feed(c.client)
	}
	if c.pumpDone != nil {
		c.pumpDone.Signal()
	}
}

// chargePump charges the client for the buffers of its writePump, which have this size
// now. The caller holds mu.
func (c *conn) chargePump(size uint32) {
	c.client.charge(int64(size) - int64(c.pumpCharged))
	c.pumpCharged = size
}

// collect fills f with what is written next: the rest of a partly written frame, control
// frames, messages, with gap notices where messages were dropped, and at last the Close
// frame. It counts against the client's backlog until account is called. The caller holds
// mu.
func (c *conn) collect(f *pumpWrite) {
	f.clear()
	if c.state > connClosing {
		return
	}
	if len(c.tail) > 0 {
		f.out.add(c.tail)
		f.tailOf = c.tailOf
		c.clearTail()
	}
	if c.hasPong() {
		f.out.add(c.notes.queuedPong)
		c.notes.queuedPong = nil
	}
	if c.pingQueued {
		f.out.add(pingFrame)
		c.pingQueued, f.pings = false, true
		c.notePing(c.client.hub.clock()) // before the write, during which the pong may arrive
	}
	f.controlFrames = len(f.out.ends)
	custom := c.client.codec.custom
	for size := len(f.out.b); ; {
		if custom && len(f.items) > 0 && (c.nextMayFail() || !f.items[len(f.items)-1].encoded()) {
			return
		}
		next, ok := c.nextItem()
		if !ok {
			break
		}
		f.items = append(f.items, next)
		if size += int(next.pub.cost); size > joinSize {
			return
		}
	}
	f.endsWithClose = c.state == connClosing
}

// nextMayFail reports whether the next message may turn out not to be encodable. Such a
// message is written alone, so that no later message overtakes the gap notice for it.
func (c *conn) nextMayFail() bool { return c.queue.len() > 0 && !c.queue.at(0).encoded() }

// nextItem takes the next message, or a gap notice if messages before it were dropped.
func (c *conn) nextItem() (item, bool) {
	next := item{form: c.form, keys: c.keys}
	seq := uint64(math.MaxUint64)
	if c.queue.len() > 0 {
		next = *c.queue.at(0)
		seq = next.pub.seq
	}
	if l, ok := c.losses.takeBefore(seq); ok {
		c.queued -= lossCost
		c.client.charge(-lossCost)
		next.pub = c.client.gapNotice(&l) // the codec may end the goroutine here
		c.addQueued(next.pub)
		return next, true
	}
	if next.pub == nil {
		return item{}, false
	}
	return c.queue.pop(), true
}

// writeCollected encodes and writes f. It unlocks mu meanwhile.
func (c *conn) writeCollected(f *pumpWrite) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	for i := 0; i < len(f.items); { // addItem may end the goroutine: f stays consistent
		if f.out.addItem(f.items[i]) {
			i++
			continue
		}
		f.failed = append(f.failed, f.items[i])
		f.items = slices.Delete(f.items, i, i+1)
	}
	if f.endsWithClose {
		f.out.add(c.closeFrame)
	}
	if size := f.size(); size != c.pumpCharged { // only the writePump changes pumpCharged
		c.mu.Lock()
		c.chargePump(size)
		c.mu.Unlock()
	}
	if f.pings {
		c.pingSent.Store(writingPing)
	}
	n, err := c.socket.WriteAll(f.out.b, &c.progressAt, c.client.hub.clock)
	c.client.shard.counters.bytesSent.Add(uint64(n))
	whole := f.out.whole(n)
	if f.pings && whole >= f.controlFrames {
		c.pingSent.CompareAndSwap(writingPing, c.client.hub.clock())
	}
	f.sent = min(max(whole-f.controlFrames, 0), len(f.items))
	if p := f.tailOf; p != nil && whole > 0 {
		c.countSent(p)
		p.release()
		f.tailOf = nil
	}
	for _, it := range f.items[:f.sent] {
		c.countSent(it.pub)
	}
	return err
}

// countSent counts a message that the socket has accepted as a whole.
func (c *conn) countSent(p *publication) {
	if p.announces > 0 {
		c.client.shard.counters.announced.Add(p.announces)
	} else {
		c.client.shard.counters.messagesSent.Add(1)
	}
}

// account drops the messages of f that were not written, and returns their cost. The
// caller holds mu.
func (c *conn) account(f *pumpWrite) {
	if p := f.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	for i, it := range f.items {
		if i >= f.sent {
			c.drop(it.pub, dropDisconnected)
		}
		c.subQueued(it.pub)
		it.pub.release()
	}
	for _, it := range f.failed {
		c.dropAndAnnounce(it.pub, dropCodec)
		c.subQueued(it.pub)
		it.pub.release()
	}
	clear(f.items)
	clear(f.failed)
}
