package websocket

import "time"

// enqueue adds a message that could not be written directly to the queue, within the
// client's backlog. The caller holds mu and the shard's lock, and calls startPump after
// the last message.
func (c *conn) enqueue(p *publication) {
	if c.state != connOpen {
		c.drop(p, dropDisconnected)
		return
	}
	if p.history != nil && c.leaveToCursor(p) {
		return
	}
	if c.exceedsBacklog(p) {
		switch c.client.hub.config.SlowConsumer {
		case EvictSlow:
			c.evict("slow consumer: backlog limit reached")
		case DropOldest:
			for c.queue.len() > 0 && c.exceedsBacklog(p) {
				c.dropOldest()
			}
		}
		if c.state != connOpen {
			c.drop(p, dropSlowConsumer)
			return
		}
		if p.history != nil && c.leaveToCursor(p) { // dropOldest may have made the cursor
			return
		}
		if c.exceedsBacklog(p) {
			c.dropAndAnnounce(p, dropSlowConsumer)
			return
		}
	}
	c.separateDrops()
	p.retain()
	c.addQueued(p)
	c.client.charge(c.queue.push(item{pub: p, form: c.form, keys: c.keys}))
}

// separateDrops makes later drops start new losses, because queued messages lie between
// them and the earlier ones. Under DropOldest all drops come before the queue.
func (c *conn) separateDrops() {
	if c.client.hub.config.SlowConsumer != DropOldest {
		c.losses.split()
	}
}

// dropOldest drops the first message of the queue, and records it for a gap notice. A
// message that is kept in a history is fed from there later.
func (c *conn) dropOldest() {
	if first := c.queue.at(0); first.pub.history != nil && !first.left && c.state == connOpen {
		c.dequeueToCursor(first.pub)
		return
	}
	oldest := c.dequeue()
	c.dropAndAnnounce(oldest.pub, dropSlowConsumer)
	oldest.pub.release()
}

// Bounds of a client's backlog. While its connection accepts bytes, no message counts as
// more than 1/largeShare of Config.ClientBacklog, and the real cost may be up to
// readingFactor times ClientBacklog: a burst of large messages arrives faster than any
// network takes it. A connection that has accepted nothing for stallTime has the exact
// bound.
const (
	largeShare    = 8
	readingFactor = 4
	stallTime     = 2 * time.Second // blocking connections may report progress a second late
)

// exceedsBacklog reports whether p would exceed the client's bound.
func (c *conn) exceedsBacklog(p *publication) bool {
	bound, cost := c.client.hub.config.ClientBacklog, c.queued+p.cost
	switch {
	case cost <= bound:
		return false
	case (cost-1)/readingFactor >= bound || cost-c.excess-c.excessOf(p) > bound:
		return true
	default:
		since := c.progressAt.Load()
		return since != 0 && c.client.hub.clock()-since > int64(stallTime)
	}
}

// excessOf returns the part of p's cost that does not count while the connection accepts
// bytes.
func (c *conn) excessOf(p *publication) int64 {
	return max(0, p.cost-c.client.hub.config.ClientBacklog/largeShare)
}

// addQueued counts p against the backlog.
func (c *conn) addQueued(p *publication) {
	c.queued += p.cost
	c.client.shard.counters.queuedBytes.Add(p.cost)
	c.excess += c.excessOf(p)
}

// subQueued undoes addQueued.
func (c *conn) subQueued(p *publication) {
	c.queued -= p.cost
	c.client.shard.counters.queuedBytes.Add(-p.cost)
	c.excess -= c.excessOf(p)
}

// dequeue takes the first message off the queue, together with its reference to the
// publication.
func (c *conn) dequeue() item {
	it := c.queue.pop()
	c.subQueued(it.pub)
	return it
}

// dropAndAnnounce drops a message and records it for a gap notice, because the client
// stays connected. The caller holds mu and calls startPump.
func (c *conn) dropAndAnnounce(p *publication, reason dropReason) {
	c.drop(p, reason)
	if p.announces > 0 {
		return
	}
	if c.losses == nil {
		c.losses = new(losses)
	}
	if c.losses.add(p, reason) {
		c.queued += lossCost
		c.client.charge(lossCost)
	}
}

// drop counts a message that the client does not get. A gap notice is not counted: the
// messages that it announces are counted already.
func (c *conn) drop(p *publication, reason dropReason) {
	if p.announces == 0 {
		c.client.shard.counters.drops[reason].Add(1)
		c.client.dropped.Add(1)
		c.client.hub.reportDrop(c.client, p, reason)
		c.noteDrop(p, reason)
	}
}

// dropQueue drops all queued messages.
func (c *conn) dropQueue(reason dropReason) {
	for c.queue.len() > 0 {
		it := c.dequeue()
		c.drop(it.pub, reason)
		it.pub.release()
	}
	c.shrinkQueue()
	c.queued -= int64(c.losses.len()) * lossCost
	c.client.charge(-int64(c.losses.len()) * lossCost)
	c.losses = nil
}

// keepTail keeps the rest of a partly written frame. p is the frame's message, or nil.
func (c *conn) keepTail(rest []byte, p *publication) {
	c.tail, c.tailOf = rest, p
	c.client.charge(int64(cap(rest)))
	if p != nil {
		p.retain()
	}
}

// dropTail drops the rest of a partly written frame. Only a connection on which nothing
// is written any more may drop it.
func (c *conn) dropTail() {
	if p := c.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	c.clearTail()
}

// clearTail undoes keepTail, except for the reference to the message.
func (c *conn) clearTail() {
	c.client.charge(-int64(cap(c.tail)))
	c.tail, c.tailOf = nil, nil
}

// writeBuffers returns the bytes that the client is charged for because messages are
// queued or written, besides the messages. The caller holds mu.
func (c *conn) writeBuffers() int64 {
	return c.queue.charged() + int64(cap(c.tail)) + int64(c.pumpCharged)
}

// unhold lets the client's messages be written. Those that are queued take the form and
// keys of this moment, which onConnect may have set.
func (c *conn) unhold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	for i := range c.queue.len() {
		it := c.queue.at(i)
		it.form, it.keys = c.form, c.keys
	}
	c.startPump()
}

// anyPending reports whether unhold would write anything.
func (c *conn) anyPending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasPending()
}

// hasPending is anyPending for callers that hold mu.
func (c *conn) hasPending() bool {
	return c.queue.len() > 0 || c.losses.len() > 0 || len(c.tail) > 0 || c.hasPong() || c.pingQueued || c.state == connClosing
}

// item is a queued message. It holds a reference to its publication.
type item struct {
	pub  *publication
	keys *pipeline // the client's own, or nil
	form form
	left bool // the client has left the topic since: no cursor can send the message
}

// encoded reports whether the message is known to be encodable.
func (it *item) encoded() bool {
	s := it.pub.find(it.form)
	return s != nil && len(s.bytes) > 0
}

// ring is a queue in a circular slice, which grows to powers of two.
type ring struct {
	items []item
	head  int32 // these are 32 bits long to keep Client small
	n     int32
}

// shrinkQueue frees the slice of an empty queue unless it is small.
func (c *conn) shrinkQueue() {
	if r := &c.queue; r.n == 0 && len(r.items) > minRing {
		c.client.charge(-r.charged())
		*r = ring{}
	}
}

// minRing is the length of the smallest slice, which is not counted.
const minRing = 8

// charged returns the bytes that the slice counts.
func (r *ring) charged() int64 { return max(0, int64(len(r.items))-minRing) * itemSize }

func (r *ring) len() int { return int(r.n) }

func (r *ring) at(i int) *item { return &r.items[(int(r.head)+i)&(len(r.items)-1)] }

// push returns the bytes by which the slice has grown.
func (r *ring) push(it item) (grown int64) {
	if r.len() == len(r.items) {
		before := r.charged()
		items := make([]item, max(minRing, 2*len(r.items)))
		for i := range r.len() {
			items[i] = *r.at(i)
		}
		r.items, r.head = items, 0
		grown = r.charged() - before
	}
	r.n++
	*r.at(r.len() - 1) = it
	return grown
}

func (r *ring) pop() item {
	it := *r.at(0)
	*r.at(0) = item{}
	r.head = (r.head + 1) & int32(len(r.items)-1)
	r.n--
	return it
}

// evict closes a client that is too slow or holds too much memory. The caller holds mu,
// and makes the shard watch a writePump that evict starts.
func (c *conn) evict(reason string) {
	if c.state != connOpen {
		return
	}
	c.client.shard.counters.evicted.Add(1)
	c.startClosing(&CloseError{Code: CloseTryAgainLater, Reason: reason})
	c.dropQueue(dropSlowConsumer)
	c.startPump()
}
