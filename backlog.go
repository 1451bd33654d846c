package websocket

// enqueue adds a message that could not be written directly to the queue, within the
// client's backlog. The caller holds mu and the shard's lock, and calls startPump after
// the last message.
func (c *conn) enqueue(p *publication) {
	if c.state != connOpen {
		c.drop(p, dropDisconnected)
		return
	}
	if c.exceedsBacklog(p) {
		switch c.hub.config.SlowConsumer {
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
		if c.exceedsBacklog(p) {
			c.dropAndAnnounce(p, dropSlowConsumer)
			return
		}
	}
	if c.hub.config.SlowConsumer != DropOldest { // its drops all come before the queue
		c.losses.split() // p separates earlier drops from later ones
	}
	p.retain(1)
	c.queued += p.cost
	c.client.charge(c.queue.push(item{pub: p, form: c.form, keys: c.keys}))
}

// dropOldest drops the first message of the queue, and records it for a gap notice.
func (c *conn) dropOldest() {
	oldest := c.dequeue()
	c.dropAndAnnounce(oldest.pub, dropSlowConsumer)
	oldest.pub.release()
}

// exceedsBacklog reports whether p would exceed the client's bound.
func (c *conn) exceedsBacklog(p *publication) bool {
	return c.queued+p.cost > c.hub.config.ClientBacklog
}

// dequeue takes the first message off the queue, together with its reference to the
// publication.
func (c *conn) dequeue() item {
	it := c.queue.pop()
	c.queued -= it.pub.cost
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
		c.shard.counters.drops[reason].Add(1)
		c.hub.reportDrop(c.client, p, reason)
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
	if p != nil {
		p.retain(1)
	}
}

// dropTail drops the rest of a partly written frame. Only a connection on which nothing
// is written any more may drop it.
func (c *conn) dropTail() {
	if p := c.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	c.tail, c.tailOf = nil, nil
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
	return c.queue.len() > 0 || c.losses.len() > 0 || len(c.tail) > 0 || c.queuedPong != nil || c.pingQueued || c.state == connClosing
}

// item is a queued message. It holds a reference to its publication.
type item struct {
	pub  *publication
	keys *pipeline // the client's own, or nil
	form form
}

// encoded reports whether the message is known to be encodable.
func (it *item) encoded() bool {
	s := it.pub.find(it.form)
	return s != nil && len(s.bytes) > 0
}

// ring is a queue in a circular slice, which grows to powers of two.
type ring struct {
	items []item
	head  int
	n     int
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

func (r *ring) len() int { return r.n }

func (r *ring) at(i int) *item { return &r.items[(r.head+i)&(len(r.items)-1)] }

// push returns the bytes by which the slice has grown.
func (r *ring) push(it item) (grown int64) {
	if r.n == len(r.items) {
		before := r.charged()
		items := make([]item, max(minRing, 2*len(r.items)))
		for i := range r.n {
			items[i] = *r.at(i)
		}
		r.items, r.head = items, 0
		grown = r.charged() - before
	}
	r.n++
	*r.at(r.n - 1) = it
	return grown
}

func (r *ring) pop() item {
	it := *r.at(0)
	*r.at(0) = item{}
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.n--
	return it
}
