package websocket

// These bounds keep a large channel from holding up a small one. One call of route adds
// at most about maxRoutePushes messages to pending batches. One sweep writes up to
// writesPerSweep recipients of messages with a small audience, at most smallAudience of
// the shard's clients, and as many other recipients. A flush within route counts as
// pushesPerFlush pushes.
const (
	maxRoutePushes = 64 << 10
	maxRouteBytes  = 1 << 20
	writesPerSweep = 256
	smallAudience  = 16
	pushesPerFlush = 64
)

// route handles entries in order until a bound is reached.
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

// takeRun takes the message entries from nextEntry on that have the same recipients as
// the first one.
func (s *shard) takeRun(r *round) (run []*publication, cost int64) {
	first := &s.entries[s.nextEntry]
	except := first.pub.except
	start := len(r.pubs)
	for ; s.nextEntry < len(s.entries) && cost < joinSize; s.nextEntry++ {
		e := &s.entries[s.nextEntry]
		if e.kind != first.kind || e.part != first.part || e.client != first.client || e.pub.except != except {
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

// deliver adds a run to the pending batches of its recipients.
func (s *shard) deliver(e *entry, run []*publication, r *round) (pushes int) {
	seq, except := run[0].seq, run[0].except
	switch e.kind {
	case entryPublish:
		small := len(e.part.members) <= smallAudience
		for _, m := range e.part.members {
			if except == "" || m.client.ID != except {
				pushes += s.push(m.client, run, seq, r, small)
			}
		}
		return pushes
	case entryBroadcast:
		small := len(s.clients) <= smallAudience
		for _, c := range s.clients {
			if except == "" || c.ID != except {
				pushes += s.push(c, run, seq, r, small)
			}
		}
		return pushes
	default:
		if e.client.shardIndex >= 0 {
			return s.push(e.client, run, seq, r, true)
		}
		s.dropAll(e.client, run)
		return 1
	}
}

// push adds run to c's pending batch and schedules c for writing. A recipient of a message
// with a small audience is scheduled among the small ones, even if it is among the large
// ones already. A client whose pending batch reaches a quarter of its backlog is flushed
// first: a long queue of other clients' writes does not make a fast client look slow.
func (s *shard) push(c *Client, run []*publication, seq uint64, r *round, small bool) (pushes int) {
	pushes = 1
	if at := c.pending; at != nil && at.cost >= s.hub.config.ClientBacklog/4 {
		s.flush(c)
		pushes = pushesPerFlush
	}
	at := c.pending
	if small && !c.inSmall {
		c.inSmall = true
		r.small.clients = append(r.small.clients, c)
	} else if at == nil {
		r.large.clients = append(r.large.clients, c)
	}
	if at == nil {
		at = &s.roots[c.conn.form]
	}
	next := at.lastChild
	if at.childSeq != seq {
		next = s.newBatch(r)
		next.parent, next.run, next.messages, next.cost = at, run, at.messages+len(run), at.cost
		for _, p := range run {
			next.cost += p.cost
		}
		at.lastChild, at.childSeq = next, seq
	}
	at.recipients--
	next.recipients++
	c.pending = next
	return pushes
}

// apply carries out an entry that is not a message.
func (s *shard) apply(e *entry, r *round) {
	c := e.client
	switch e.kind {
	case entryRegister:
		c.shardIndex = int32(len(s.clients))
		s.clients = append(s.clients, c)
		s.deadlines.add(c, c.conn.lastRead.Load()+int64(s.hub.config.PingPeriod))
		s.reschedule(c)
		if s.shutdownErr != nil {
			c.conn.close(s.shutdownErr)
		}
	case entryUnhold:
		s.flush(c)
		c.conn.unhold()
		s.startFeeding(c)
		s.reschedule(c)
	case entryUnregister:
		s.removeClient(c)
	case entryForget:
		s.deadlines.remove(c)
	case entryJoin:
		s.routedCost += entryCost
		e.arg.(*membership).add()
	case entryLeave:
		s.routedCost += entryCost
		e.arg.(*membership).remove()
	case entryCursor:
		s.routedCost += entryCost
		if c.shardIndex >= 0 {
			s.flush(c)
			c.conn.setCursor(*e.arg.(*cursor))
		}
	case entryCursorEnd:
		if c.shardIndex >= 0 {
			s.flush(c)
			s.endCursor(c, e.arg.(*cursorEnd))
			s.reschedule(c)
		}
	case entryFeed:
		s.startFeeding(c)
	case entryKeys:
		if c.shardIndex >= 0 {
			s.flush(c)
			own := e.arg.(*pipeline)
			c.conn.setOutbound(c.formFor(own), own)
		}
	case entryClose:
		s.flush(c)
		c.conn.close(e.arg.(*CloseError))
		s.removeClient(c)
		s.reschedule(c)
	case entryReschedule:
		s.reschedule(c)
	case entryQuery:
		e.arg.(*memberQuery).collect(e.part)
	case entryGap:
		s.routedCost += entryCost
		s.routeGap(e, r)
	case entryShutdown:
		s.shutdownErr = newShutdownError()
		for _, c := range s.clients {
			s.flush(c)
			c.conn.close(s.shutdownErr)
		}
	case entryStop:
		s.stopped = true
	}
}

// removeClient removes a client that has left from the shard, except for the checks of
// its connection, which may have bytes to write.
func (s *shard) removeClient(c *Client) {
	for _, m := range c.members.list {
		m.remove()
	}
	c.members = membershipSet{}
	c.conn.dropCursors()
	last := len(s.clients) - 1
	s.clients[c.shardIndex] = s.clients[last]
	s.clients[c.shardIndex].shardIndex = c.shardIndex
	s.clients[last] = nil
	s.clients = s.clients[:last]
	c.shardIndex = -1
	if at := c.pending; at != nil {
		c.pending, c.inSmall = nil, false
		s.dropAll(c, s.messagesTo(at))
		s.detach(at)
	}
}

// dropAll drops messages for a client that has ended.
func (s *shard) dropAll(c *Client, pubs []*publication) {
	for _, p := range pubs {
		c.conn.drop(p, dropDisconnected)
	}
}
