package websocket

import "slices"

// writeRounds flushes some clients of small audiences, half of them of the latest rounds
// and half of the earliest, and as many clients of large audiences.
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

// freeWrittenRounds releases the earliest rounds that are written.
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

// flush writes the pending batch of c, or queues the messages that the connection does
// not accept now.
func (s *shard) flush(c *Client) {
	at := c.pending
	if at == nil {
		return
	}
	s.brief = c.inSmall && s.briefLeft > 0
	if s.brief {
		s.briefLeft--
	}
	c.pending, c.inSmall = nil, false
	c.conn.mu.Lock()
	if c.conn.state == connOpen && c.conn.mayWrite() && (c.conn.cursors == nil || !s.passesCursor(c, at)) {
		if !s.feedBehind(c, at) {
			s.writePending(c, at)
		}
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

// writePending writes as much of a pending batch as the socket accepts. The caller holds
// the connection's lock, and mayWrite is true.
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

// writeShared writes the bytes that are composed once for all clients of the batch. It
// returns the number of messages that were written, and whether the socket accepted
// everything.
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

// writeAlone composes the batch for this client alone, or writes a single frame as it is.
// Like compose it stops before a message that cannot be encoded, because later messages
// must wait for its gap notice.
func (s *shard) writeAlone(c *Client, at *batch) (sent int, whole bool) {
	keys, f := c.conn.keys, c.conn.form
	if at.messages == 1 && keys == nil {
		frame := at.run[0].frame(f).bytes
		if len(frame) == 0 {
			return 0, true
		}
		s.single.b, s.single.ends = frame, append(s.single.ends[:0], len(frame))
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

// writeBuffer returns the number of frames of b that were written, and whether all were.
// It keeps the rest of a partly written frame in tail; keepUnsent finds its message.
func (s *shard) writeBuffer(c *Client, b *frameBuffer) (sent int, whole bool) {
	n, err := c.conn.socket.TryWrite(b.b, s.brief)
	s.brief = false // for one write of each flush
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

// keepUnsent queues the messages of the batch behind the first sent ones. The first of them
// may be written partly. A message that cannot be encoded is dropped when nothing is queued
// before it.
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

// enqueueAll queues all messages of the batch. The caller holds the connection's lock.
func (s *shard) enqueueAll(c *Client, at *batch) {
	for _, p := range s.messagesTo(at) {
		c.conn.enqueue(p)
	}
	c.conn.startPump()
}
