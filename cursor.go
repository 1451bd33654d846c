package websocket

import "slices"

// A cursor is the place from which a member of a topic with history is fed. A member
// gets one when it comes back and has missed publications, and when its connection does
// not accept what is published. Meanwhile live publications of the topic pass it by. When
// it has caught up, live publications are written again, from next on.
//
// So a slow member costs the hub no backlog for the topic, and the history bounds what it
// can fall behind. Feeding keeps the order within the topic, but not with other topics.
type cursor struct {
	history *history
	next    uint64 // offset of the next publication for the client
	routed  uint64 // offset of the latest publication that the shard has routed; later ones are not fed, so that they do not overtake a reply or another entry
	live    bool   // it has caught up: live publications before next have been sent already
	joined  uint64 // the membership began before this entry of the log
	ended   bool   // the client has left the topic; entryCursorEnd follows
}

func (at cursor) behind() bool { return !at.live && !at.ended }

// cursorEnd is the place at which a client leaves a topic.
type cursorEnd struct {
	history *history
	next    uint64 // offset of the next publication, which is not for the client
	seq     uint64 // of the last entry of the log before it
}

// A client's backlog holds publications of topics with history up to this share of
// Config.ClientBacklog. A cursor takes over from there.
const historyShare = 4

// cursorSet is a conn's cursors. A pointer to it keeps Client small.
type cursorSet []cursor

// cursor returns the cursor in h, or nil. The caller holds mu.
func (c *conn) cursor(h *history) *cursor {
	if c.cursors == nil {
		return nil
	}
	for i := range *c.cursors {
		if at := &(*c.cursors)[i]; at.history == h {
			return at
		}
	}
	return nil
}

// addCursor adds a cursor in a history in which there is none.
func (c *conn) addCursor(at cursor) {
	if c.cursors == nil {
		c.cursors = new(cursorSet)
	}
	*c.cursors = append(*c.cursors, at)
}

// setCursor adds a cursor, or moves the one in the same history back. A client that asks for
// less than it is being sent still gets all of that.
func (c *conn) setCursor(to cursor) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at := c.cursor(to.history); at != nil {
		if at.behind() {
			to.next = min(to.next, at.next)
		}
		to.routed = max(to.routed, at.routed)
		*at = to
	} else {
		c.addCursor(to)
	}
}

// endCursor removes a client's cursor when it leaves the topic at the place end. A gap
// notice tells what the client has not been sent until there.
func (s *shard) endCursor(c *Client, end *cursorEnd) {
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	for i := range c.conn.queue.len() {
		if it := c.conn.queue.at(i); it.pub.history == end.history {
			it.left = true
		}
	}
	at := c.conn.cursor(end.history)
	if at == nil {
		return
	}
	if c.conn.state == connOpen && !at.live && at.next < end.next {
		if missing, some := s.events.missedUntil(c, *at, end.next); some {
			c.conn.announceMissing(end.history, missing, dropSlowConsumer, end.seq)
		}
	}
	c.conn.deleteCursor(end.history)
}

func (c *conn) deleteCursor(h *history) {
	if c.cursors == nil {
		return
	}
	*c.cursors = slices.DeleteFunc(*c.cursors, func(at cursor) bool { return at.history == h })
	if len(*c.cursors) == 0 {
		c.cursors = nil
	}
}

func (c *conn) dropCursors() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cursors = nil
}

// feedable reports whether there is a cursor that has not caught up.
func (c *conn) feedable() bool {
	return c.cursors != nil && slices.ContainsFunc(*c.cursors, cursor.behind)
}

// passesCursor reports whether a pending batch has a publication that a cursor may have
// sent or will send. The caller holds mu.
func (s *shard) passesCursor(c *Client, at *batch) bool {
	return slices.ContainsFunc(s.messagesTo(at), func(p *publication) bool {
		return p.history != nil && c.conn.cursor(p.history) != nil
	})
}

// leaveToCursor reports whether a cursor has sent or will send p, which belongs to a topic
// with history. It makes a cursor if the backlog has no room for p. The caller holds mu.
func (c *conn) leaveToCursor(p *publication) bool {
	at := c.cursor(p.history)
	if at != nil && at.live && p.msg.Offset >= at.next {
		c.deleteCursor(p.history)
		at = nil
	}
	if at == nil {
		// The end of the writePump, or of onConnect, makes the shard feed the cursor.
		waits := c.queue.len() > 0 || c.pumping
		fits := (c.queued+p.cost)*historyShare <= c.client.hub.config.ClientBacklog
		if !waits || fits && !p.history.conflate {
			return false
		}
		c.addCursor(cursor{history: p.history, next: p.msg.Offset, joined: p.seq})
		at = c.cursor(p.history)
	}
	at.routed = max(at.routed, p.msg.Offset)
	c.client.shard.counters.deferred.Add(1)
	return true
}

// dequeueToCursor takes p, the first message of the queue, and all later ones of the same
// history off the queue, and makes a cursor for them.
func (c *conn) dequeueToCursor(p *publication) {
	h := p.history
	routed := p.msg.Offset
	at := c.cursor(h)
	if at != nil {
		routed = max(routed, at.routed)
	}
	if at == nil || at.next > p.msg.Offset {
		c.deleteCursor(h)
		c.addCursor(cursor{history: h, next: p.msg.Offset, joined: p.seq})
		at = c.cursor(h)
	}
	for range c.queue.len() {
		it := c.queue.pop()
		if it.pub.history != h || it.left {
			c.queue.push(it) // there is room
			continue
		}
		routed = max(routed, it.pub.msg.Offset)
		c.subQueued(it.pub)
		it.pub.release()
		c.client.shard.counters.deferred.Add(1)
	}
	at.routed = routed
}

// startFeeding makes the shard feed c in the next sweeps.
func (s *shard) startFeeding(c *Client) {
	if !c.feeding && c.shardIndex >= 0 {
		c.feeding = true
		s.feeding = append(s.feeding, c)
	}
}

// Bounds of one call of feed.
const feedsPerSweep = 32

// feed writes to some of the clients with cursors.
func (s *shard) feed() {
	for range min(len(s.feeding), feedsPerSweep) {
		c := s.feeding[0]
		s.feeding[0] = nil
		s.feeding = s.feeding[1:]
		c.feeding = false
		if s.feedClient(c) {
			s.startFeeding(c)
		}
	}
	if len(s.feeding) == 0 {
		s.feeding = nil
	}
}

// feedClient writes publications of one cursor to c. It reports whether there is more to
// do at once. If not, the end of a writePump or of onConnect continues.
func (s *shard) feedClient(c *Client) (more bool) {
	if c.shardIndex < 0 {
		return false
	}
	s.flush(c)
	c.conn.mu.Lock()
	more = s.feedLocked(c, nil)
	watch := c.conn.pumping
	c.conn.mu.Unlock()
	if watch {
		s.reschedule(c)
	}
	return more
}

// feedBehind writes a pending batch and publications of a cursor in one write: a client
// that comes back gets the reply and its replay together. It reports false if it has done
// nothing. The caller holds the connection's lock, and mayWrite is true.
func (s *shard) feedBehind(c *Client, at *batch) bool {
	if !c.feeding || c.conn.state != connOpen || at.cost > joinSize || c.conn.hasPending() || !c.conn.feedable() {
		return false
	}
	s.scratch.reset()
	for _, p := range s.messagesTo(at) {
		if !s.scratch.addItem(item{pub: p, form: c.conn.form, keys: c.conn.keys}) {
			return false
		}
	}
	s.feedLocked(c, at)
	return true
}

// feedLocked is feedClient with the connection's lock held. If pending is not nil, scratch
// has its frames, which are written first.
func (s *shard) feedLocked(c *Client, pending *batch) (more bool) {
	conn := &c.conn
	if conn.state != connOpen || conn.held || conn.pumping || conn.hasPending() {
		conn.startPump()
		return false
	}
	if !conn.feedable() {
		return false
	}
	i := slices.IndexFunc(*conn.cursors, cursor.behind)
	at := (*conn.cursors)[i]
	*conn.cursors = append(slices.Delete(*conn.cursors, i, i+1), at) // the others are next
	cur := &(*conn.cursors)[len(*conn.cursors)-1]

	read, ok := s.events.feedFrom(c, at, min(joinSize, s.hub.config.ClientBacklog/historyShare), s.fed[:0])
	if pending != nil && (!ok || read.lost) {
		s.writePending(c, pending)
		cur = conn.cursor(at.history) // there may be more cursors now
	}
	if !ok {
		cur.ended = true
		return conn.feedable()
	}
	defer func() {
		for _, p := range read.pubs {
			p.release()
		}
		clear(read.pubs)
		s.fed = read.pubs[:0]
	}()
	if read.lost {
		cur.next = read.first
		conn.announceMissing(at.history, read.missing, dropHistory, read.seq)
		s.counters.deferred.Add(uint64(len(read.pubs))) // they are read again behind the notice
		return false
	}
	cur.next, cur.live = read.next, read.atHead
	sent := 0
	if conn.socket.Direct() {
		sent = s.writeFed(c, pending, read.pubs)
	}
	if conn.state != connOpen {
		s.counters.deferred.Add(uint64(len(read.pubs) - sent))
		return false
	}
	switch rest := read.pubs[sent:]; {
	case len(rest) == 0:
	case conn.socket.Direct(): // the writePump waits with one message until the socket accepts more
		if len(conn.tail) == 0 && conn.losses.len() == 0 {
			conn.queueFed(rest[0])
			rest = rest[1:]
		}
		if len(rest) > 0 {
			cur = conn.cursor(at.history) // there may be more cursors now
			cur.next, cur.live = rest[0].msg.Offset, false
			s.counters.deferred.Add(uint64(len(rest)))
		}
	default:
		for _, p := range rest {
			conn.queueFed(p)
		}
	}
	conn.startPump()
	return !conn.pumping && conn.feedable()
}

// queueFed adds a publication to the queue.
func (c *conn) queueFed(p *publication) {
	p.retain()
	c.addQueued(p)
	c.client.charge(c.queue.push(item{pub: p, form: c.form, keys: c.keys}))
}

// writeFed writes publications in one write, as many as the socket accepts, behind the
// pending batch that scratch has, if any. It returns the number of publications that were
// written, at least in part, or could not be encoded.
func (s *shard) writeFed(c *Client, pending *batch, pubs []*publication) int {
	out := s.scratch
	ahead := 0
	if pending == nil {
		out.reset()
	} else {
		ahead = len(out.ends)
	}
	for _, p := range pubs {
		if !out.addItem(item{pub: p, form: c.conn.form, keys: c.conn.keys}) {
			break // its gap notice stands before the next message
		}
	}
	encoded := len(out.ends) - ahead
	sent, whole := 0, true
	if len(out.ends) > 0 {
		sent, whole = s.writeBuffer(c, out)
	}
	if sent < ahead {
		s.keepUnsent(c, pending, sent)
		return 0
	}
	sent -= ahead
	switch {
	case whole && encoded < len(pubs):
		c.conn.dropAndAnnounce(pubs[encoded], dropCodec)
		sent++
	case len(c.conn.tail) > 0:
		c.conn.keepTail(c.conn.tail, pubs[sent])
		sent++
	}
	return sent
}

// announceMissing counts publications that the client is not sent from a history, and
// records them for a gap notice, behind the queued messages up to seq. If their number is
// not known, it is 0, and they count as one. The caller holds mu.
func (c *conn) announceMissing(h *history, missing uint64, reason dropReason, seq uint64) {
	now := c.client.hub.now() // their times are not known any more
	lost := loss{
		topic: lossTopic{to: h.topic.kind.audience(), name: h.topic.name},
		count: missing, first: now, last: now, seq: seq, reason: reason,
	}
	c.client.shard.counters.drops[reason].Add(max(missing, 1))
	c.client.dropped.Add(uint32(max(missing, 1)))
	c.client.hub.reportLoss(c.client, lost)
	c.noteLoss(lost.gap())
	if c.losses == nil {
		c.losses = new(losses)
	}
	if c.losses.insert(lost) {
		c.queued += lossCost
		c.client.charge(lossCost)
	}
	c.startPump()
}

// missedUntil returns the number of publications that a client which leaves a topic has not
// been sent, and whether there are any. The number is 0 if it is not known. They count as
// addressed to the client.
func (l *eventLog) missedUntil(c *Client, at cursor, end uint64) (missing uint64, some bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := at.history
	if h.conflate {
		some = at.next < h.oldest() || h.countFrom(at.next, c.ID) > 0
	} else {
		own := h.own[c.ID]
		from, _ := slices.BinarySearch(own, at.next)
		to, _ := slices.BinarySearch(own, end)
		missing = end - at.next - uint64(to-from)
		some = missing > 0
	}
	if some {
		l.addressed.Add(max(missing, 1))
	}
	return missing, some
}

// feedFrom reads at most size bytes for a client's cursor, or one publication. It reports
// false if the client is not a member of the topic any more. What it returns counts as
// addressed to the client.
func (l *eventLog) feedFrom(c *Client, at cursor, size int64, dst []*publication) (historyRead, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := at.history.topic
	if m := l.membership(c, t.kind, t.name); !c.registered || m == nil || m.part.topic != t || m.joined > at.joined {
		return historyRead{}, false
	}
	read := l.readFrom(at.history, at.next, at.routed, size, dst)
	read.pubs = slices.DeleteFunc(read.pubs, func(p *publication) bool {
		own := p.except == c.ID
		if own {
			p.release()
		}
		return own
	})
	l.addressed.Add(uint64(len(read.pubs)))
	if read.lost {
		l.addressed.Add(max(read.missing, 1))
	}
	return read, true
}
