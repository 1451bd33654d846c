package websocket

// push queues a message that could not be written directly, if the client's bound
// allows it. The caller has mu and calls wake when it has pushed all.
func (c *conn) enqueue(p *publication) {
	if c.state != connOpen {
		c.drop(p, dropDisconnected)
		return
	}
	if c.exceedsBacklog(p) {
		switch c.hub.config.SlowConsumer {
		case EvictSlow:
			c.evict()
		case DropOldest:
			for c.queue.len() > 0 && c.exceedsBacklog(p) {
				oldest := c.dequeue()
				c.dropAndAnnounce(oldest.pub, dropSlowConsumer)
				oldest.pub.release()
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
	if c.hub.config.SlowConsumer != DropOldest { // which drops only what comes before all that waits
		c.losses.split() // p stands between what was dropped before and after it
	}
	p.retain(1)
	c.queued += p.cost
	c.queue.push(item{pub: p, form: c.form, keys: c.keys})
}

// over reports whether p would exceed the client's bound.
func (c *conn) exceedsBacklog(p *publication) bool {
	return c.queued+p.cost > c.hub.config.ClientBacklog || c.queued > 0 && c.hub.overBudget()
}

// pop takes the first message off the queue, with its hold on the publication.
func (c *conn) dequeue() item {
	it := c.queue.pop()
	c.queued -= it.pub.cost
	return it
}

// lose drops a message for a client that stays and will be told. The caller has
// mu and calls wake.
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
	}
}

// drop counts a message that the client will not get. That of a gap notice is
// no loss: what it told of is counted already.
func (c *conn) drop(p *publication, reason dropReason) {
	if p.announces == 0 {
		c.shard.counters.drops[reason].Add(1)
		c.hub.reportDrop(c.client, p, reason)
	}
}

// discard counts and lets go of every message that waits.
func (c *conn) dropQueue(reason dropReason) {
	for c.queue.len() > 0 {
		it := c.dequeue()
		c.drop(it.pub, reason)
		it.pub.release()
	}
	c.queue.shrink()
	c.queued -= int64(c.losses.len()) * lossCost
	c.losses = nil
}

// keepRest holds on to the end of a frame whose beginning is out. p is its
// message, or nil.
func (c *conn) keepTail(rest []byte, p *publication) {
	c.tail, c.tailOf = rest, p
	if p != nil {
		p.retain(1)
	}
}

// discardRest is discard for the end of a partly written frame, which is of use
// as long as anything is to be written.
func (c *conn) dropTail() {
	if p := c.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	c.tail, c.tailOf = nil, nil
}

// release ends the hold: what waited takes the form and keys that hold now.
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

// anythingWaits reports whether a release would write anything.
func (c *conn) anyPending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasPending()
}

func (c *conn) hasPending() bool {
	return c.queue.len() > 0 || c.losses.len() > 0 || len(c.tail) > 0 || c.queuedPong != nil || c.pingQueued || c.state == connClosing
}

// item refers to a message that waits for one client.
type item struct {
	pub  *publication
	keys *pipeline // the client's own, or nil
	form form
}

func (it *item) encoded() bool {
	s := it.pub.find(it.form)
	return s != nil && len(s.bytes) > 0
}

// ring is a queue in a circular slice that grows as needed.
type ring struct {
	items []item
	head  int
	n     int
}

// shrink lets go of an empty ring's slice unless it is small.
func (r *ring) shrink() {
	if r.n == 0 && len(r.items) > minRing {
		*r = ring{}
	}
}

const minRing = 8

func (r *ring) len() int { return r.n }

func (r *ring) at(i int) *item { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *ring) push(it item) {
	if r.n == len(r.items) {
		grown := make([]item, max(minRing, 2*len(r.items)))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.items, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = it
}

func (r *ring) pop() item {
	it := *r.at(0)
	*r.at(0) = item{}
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.n--
	return it
}
