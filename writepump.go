package websocket

import (
	"math"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// joinSize is the size in bytes at which joined writes end: a large write costs the
// kernel little more than a small one.
const joinSize = transport.JoinSize

// flight is what a writePump is writing.
type pumpWrite struct {
	out           frameBuffer
	controlFrames int          // frames in out that are not messages of items, and stand first
	tailOf        *publication // what the first of them ends, or nil
	items         []item       // messages that follow
	endsWithClose bool         // the Close frame ends it
	failed        []item       // those of items that could not be encoded
	sent          int          // those of items that the socket has accepted
}

var pumpWritePool = sync.Pool{New: func() any { return &pumpWrite{out: frameBuffer{b: make([]byte, 0, joinSize)}} }}

// giveBack recycles f unless a huge frame made it grow. Nothing flies any more.
func (f *pumpWrite) recycle() {
	if cap(f.out.b) <= 4*joinSize {
		f.clear()
		pumpWritePool.Put(f)
	}
}

func (f *pumpWrite) clear() {
	f.out.reset()
	*f = pumpWrite{out: f.out, items: f.items[:0], failed: f.failed[:0]}
}

func (f *pumpWrite) empty() bool {
	return f.controlFrames == 0 && len(f.items) == 0 && !f.endsWithClose
}

// writePump writes what waits, as much as possible at a time, until nothing
// waits or the connection is over. There is at most one per connection.
func (c *conn) writePump() {
	f := pumpWritePool.Get().(*pumpWrite)
	c.mu.Lock()
	defer c.pumpEnded()
	for c.collect(f); !f.empty(); c.collect(f) {
		err := c.writeCollected(f)
		c.account(f)
		switch {
		case err != nil:
			c.abortLocked(err)
		case f.endsWithClose && c.state == connClosing:
			c.closeSent()
		}
	}
	f.recycle() // not if a codec has ended the goroutine: f may hold messages then
}

// landed ends a writePump, also one that a codec has ended, and gives up mu.
func (c *conn) pumpEnded() {
	defer c.mu.Unlock()
	c.pumping = false
	c.progressAt.Store(0)
	c.queue.shrink()
	if c.pumpDone != nil {
		c.pumpDone.Signal()
	}
}

// gather takes what goes out next: the end of a partly written frame, control
// frames, messages with gap notices where some were lost, and at last the Close
// frame. What it takes still counts against the client's bound. The caller has
// mu.
func (c *conn) collect(f *pumpWrite) {
	f.clear()
	if c.state > connClosing {
		return
	}
	if len(c.tail) > 0 {
		f.out.add(c.tail)
		f.tailOf = c.tailOf
		c.tail, c.tailOf = nil, nil
	}
	if c.queuedPong != nil {
		f.out.add(c.queuedPong)
		c.queuedPong = nil
	}
	if c.pingQueued {
		f.out.add(pingFrame)
		c.pingQueued = false
	}
	f.controlFrames = len(f.out.ends)
	foreign := isCustom(c.client.codec)
	for size := len(f.out.b); ; {
		if foreign && len(f.items) > 0 && (c.nextMayFail() || !f.items[len(f.items)-1].encoded()) {
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

// mayFail reports whether it is not known that the next message can be encoded.
// Such a one goes out by itself, so that nothing overtakes the notice of its loss.
func (c *conn) nextMayFail() bool { return c.queue.len() > 0 && !c.queue.at(0).encoded() }

// nextItem takes the next message, which is a gap notice where messages before
// it were lost.
func (c *conn) nextItem() (item, bool) {
	next := item{form: c.form, keys: c.keys}
	order := uint64(math.MaxUint64)
	if c.queue.len() > 0 {
		next = *c.queue.at(0)
		order = next.pub.seq
	}
	if l, lost := c.losses.takeBefore(order); lost {
		next.pub = c.client.gapNotice(&l)
		c.queued += next.pub.cost - lossCost
		return next, true
	}
	if next.pub == nil {
		return item{}, false
	}
	return c.queue.pop(), true
}

// fly encodes and writes all of f. It gives up mu meanwhile.
func (c *conn) writeCollected(f *pumpWrite) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	encoded := f.items[:0]
	for _, it := range f.items {
		if f.out.addItem(it) {
			encoded = append(encoded, it)
		} else {
			f.failed = append(f.failed, it)
		}
	}
	clear(f.items[len(encoded):]) // their publications may be recycled before f is
	f.items = encoded
	if f.endsWithClose {
		f.out.add(c.closeFrame)
	}
	n, err := c.socket.WriteAll(f.out.b, &c.progressAt, c.hub.clock)
	c.shard.counters.bytesSent.Add(uint64(n))
	whole := f.out.whole(n)
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

// accepted counts a message that the socket has taken whole.
func (c *conn) countSent(p *publication) {
	if p.announces > 0 {
		c.shard.counters.announced.Add(p.announces)
	} else {
		c.shard.counters.messagesSent.Add(1)
	}
}

// land settles the accounts of f. The caller has mu.
func (c *conn) account(f *pumpWrite) {
	if p := f.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	for i, it := range f.items {
		if i >= f.sent {
			c.drop(it.pub, dropDisconnected)
		}
		c.queued -= it.pub.cost
		it.pub.release()
	}
	for _, it := range f.failed {
		c.dropAndAnnounce(it.pub, dropCodec)
		c.queued -= it.pub.cost
		it.pub.release()
	}
	clear(f.items)
	clear(f.failed)
}
