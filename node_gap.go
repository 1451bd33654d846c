package websocket

import (
	"context"
	"time"
)

// Limits of gap notices: one append to the log has notices for at most gapBatch
// targets, and notices for all targets are sent at most once per gapDelay.
const (
	gapBatch = 64
	gapDelay = time.Second
)

// gapLoop sends gap notices for publications that the broker lost.
func (n *node) gapLoop() {
	for {
		select {
		case <-n.gapWake:
		case <-n.stopping:
			return
		}
		n.mu.Lock()
		gaps := n.gaps
		n.gaps = targets{}
		n.mu.Unlock()
		if gaps.Empty() {
			continue
		}
		count := n.hub.events.appendGaps(n.ctx, gaps)
		n.hub.logger.Infof("websocket: publications of other nodes may be missing; sent gap notices to %d channels and rooms", count)
		if gaps.All && !sleepUnless(gapDelay, n.stopping) {
			return
		}
	}
}

// sleepUnless sleeps for d, or until stop is closed. It reports whether it slept
// for d.
func sleepUnless(d time.Duration, stop <-chan struct{}) bool {
	return !waitFor(stop, d)
}

// lostGap is the argument of a gap entry. The shard encodes its notice.
type lostGap struct {
	seq       uint64
	timestamp int64
	to        target
	count     uint64 // 0 if it is not known
	reason    string
}

// appendGaps appends gap entries for the targets and returns the number of
// channels and rooms among them that have members.
func (l *eventLog) appendGaps(ctx context.Context, gaps targets) (count int) {
	list := make([]target, 0, len(gaps.Set)+1)
	if gaps.All {
		list = append(list, target{})
		l.mu.Lock()
		for kind := range l.topics {
			for name := range l.topics[kind].m {
				list = append(list, target{Audience: TopicKind(kind).audience(), Name: name})
			}
		}
		l.mu.Unlock()
	}
	_, everybody := gaps.Set[target{}]
	for to := range gaps.Set {
		if !everybody || to.Audience != toClients || to.Name == "" {
			list = append(list, to)
		}
	}
	perTarget := int64(entryCost * len(l.shards))
	for len(list) > 0 {
		batch := min(len(list), gapBatch, max(int(l.size/4/perTarget), 1))
		n, err := l.appendGapBatch(ctx, list[:batch], int64(batch)*perTarget)
		if err != nil {
			return count
		}
		count += n
		list = list[batch:]
	}
	return count
}

// appendGapBatch appends the gap entries of a batch in one critical section.
// reserved is the largest cost that they can have.
func (l *eventLog) appendGapBatch(ctx context.Context, list []target, reserved int64) (count int, err error) {
	if err := l.reserve(ctx, reserved); err != nil {
		return 0, err
	}
	var wake uint64
	used := int64(0)
	put := func(s *shard, e entry, clients int) {
		l.addressed += uint64(clients)
		used += entryCost
		wake |= l.append(s, e)
	}
	for _, to := range list {
		l.seq++
		gap := &lostGap{seq: l.seq, timestamp: time.Now().UnixNano(), to: to, reason: gapBroker}
		switch {
		case to.Audience != toClients:
			kind := ChannelTopic
			if to.Audience == toRoom {
				kind = RoomTopic
			}
			if t := l.topics[kind].m[to.Name]; t != nil {
				count++
				for _, p := range t.parts {
					put(p.shard, entry{kind: entryGap, part: p, arg: gap}, p.count)
				}
			}
		case to.Name != "":
			if c := l.shards[0].hub.ids.get(to.Name); c != nil && c.registered {
				put(c.shard, entry{kind: entryGap, client: c, arg: gap}, 1)
			}
		default:
			for _, s := range l.shards {
				if s.population > 0 {
					put(s, entry{kind: entryGap, arg: gap}, s.population)
				}
			}
		}
	}
	l.unreserve(reserved - used)
	l.unlockAndWake(wake)
	return count, nil
}

// routeGap adds a gap notice to the pending batches of its recipients. All clients
// of a codec share one notice, because codecs encode the data of a notice
// differently.
func (s *shard) routeGap(e *entry, r *round) {
	gap := e.arg.(*lostGap)
	runs := make([][]*publication, len(s.hub.codecs)) // by codec, one notice each
	push := func(c *Client) {
		if runs[c.codec.at] == nil {
			notice := gap.notice(c)
			r.pubs = append(r.pubs, notice)
			runs[c.codec.at] = r.pubs[len(r.pubs)-1 : len(r.pubs) : len(r.pubs)]
		}
		s.push(c, runs[c.codec.at], gap.seq, r, false)
	}
	switch {
	case e.part != nil:
		for _, m := range e.part.members {
			push(m.client)
		}
	case e.client != nil:
		push(e.client)
	default:
		for _, c := range s.clients {
			push(c)
		}
	}
}

// notice returns the gap notice for clients with c's codec.
func (g *lostGap) notice(c *Client) *publication {
	lost := Gap{Reason: g.reason, Count: g.count, Last: g.timestamp}
	m := Message{Type: typeGap, Timestamp: g.timestamp}
	switch g.to.Audience {
	case toChannel:
		lost.Channel, m.Channel = g.to.Name, g.to.Name
	case toRoom:
		lost.RoomID, m.Channel = g.to.Name, g.to.Name
	}
	m.Data = c.codec.encodeGap(lost)
	p := c.hub.newPublication(&m, g.to.Audience)
	p.seq = g.seq
	return p
}
