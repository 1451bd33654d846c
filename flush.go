package websocket

import "slices"

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
