package websocket

import (
	"context"
	"time"
)

// Notices are appended for so many channels and rooms at a time, and for all of
// them once in so long.
const (
	gapBatch = 64
	gapDelay = time.Second
)

// gapLoop tells members of what the broker has lost.
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
		if gaps.empty() {
			continue
		}
		told := n.hub.log.tellGaps(n.ctx, gaps)
		n.hub.logger.Infof("websocket: %d channels and rooms were told that publications of other nodes may be missing", told)
		if gaps.all && !sleepUnless(gapDelay, n.stopping) { // an engine that flaps costs one round a second
			return
		}
	}
}

// sleepUnless waits and reports whether stop stayed open.
func sleepUnless(d time.Duration, stop <-chan struct{}) bool {
	return !waitFor(stop, d)
}

// brokerGap is what a gap entry carries.
type brokerGap struct {
	order     uint64
	timestamp int64
	to        target
}

// tellGaps appends gap notices and returns how many channels and rooms there are.
func (l *hubLog) tellGaps(ctx context.Context, gaps targets) (told int) {
	list := make([]target, 0, len(gaps.set)+1)
	if gaps.all {
		list = append(list, target{})
		l.mu.Lock()
		for kind, topics := range l.topics {
			for name := range topics {
				list = append(list, target{topicKind(kind).audience(), name})
			}
		}
		l.mu.Unlock()
	}
	for to := range gaps.set {
		list = append(list, to)
	}
	perTarget := int64(entryCost * len(l.shards))
	for len(list) > 0 {
		count := min(len(list), gapBatch, max(int(l.size/4/perTarget), 1))
		n, err := l.tellSome(ctx, list[:count], int64(count)*perTarget)
		if err != nil {
			return told
		}
		told += n
		list = list[count:]
	}
	return told
}

func (l *hubLog) tellSome(ctx context.Context, list []target, reserved int64) (told int, err error) {
	if err := l.begin(ctx, reserved); err != nil {
		return 0, err
	}
	var wake uint64
	used := int64(0)
	put := func(s *shard, e entry, clients int) {
		l.addressed += uint64(clients)
		used += entryCost
		wake |= l.put(s, e)
	}
	for _, to := range list {
		l.order++
		gap := &brokerGap{order: l.order, timestamp: time.Now().UnixNano(), to: to}
		switch {
		case to.to != toClients:
			kind := channelTopic
			if to.to == toRoom {
				kind = roomTopic
			}
			if t := l.topics[kind][to.name]; t != nil {
				told++
				for _, p := range t.parts {
					put(p.shard, entry{kind: entryGap, part: p, arg: gap}, p.count)
				}
			}
		case to.name != "":
			if c := l.shards[0].hub.ids.get(to.name); c != nil && c.registered {
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
	l.free(reserved - used)
	l.end(wake)
	return told, nil
}

// tellGap moves a gap notice to the clients concerned: one message for all
// clients of a codec, since codecs differ in how they write a notice.
func (s *shard) tellGap(e *entry, r *round) {
	gap := e.arg.(*brokerGap)
	runs := make([][]*publication, len(s.hub.codecs))
	tell := func(c *Client) {
		if runs[c.slotOf] == nil {
			notice := gap.notice(c)
			r.pubs = append(r.pubs, notice)
			runs[c.slotOf] = r.pubs[len(r.pubs)-1 : len(r.pubs) : len(r.pubs)]
		}
		s.push(c, runs[c.slotOf], gap.order, r, false)
	}
	switch {
	case e.part != nil:
		for _, m := range e.part.members {
			tell(m.client)
		}
	case e.client != nil:
		tell(e.client)
	default:
		for _, c := range s.clients {
			tell(c)
		}
	}
}

func (g *brokerGap) notice(c *Client) *publication {
	lost := Gap{Reason: gapBroker, Last: g.timestamp}
	m := Message{Type: typeGap, Timestamp: g.timestamp}
	switch g.to.to {
	case toChannel:
		lost.Channel, m.Channel = g.to.name, g.to.name
	case toRoom:
		lost.RoomID, m.Channel = g.to.name, g.to.name
	}
	m.Data = encodeGap(c.codec, lost)
	p := c.hub.newPublication(&m, g.to.to)
	p.order = g.order
	return p
}
