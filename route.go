package websocket

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
