package websocket

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// Limits of gap notices: one append to the log has notices for at most gapBatch
// targets, and notices for all targets are sent at most once per gapDelay.
const (
	gapBatch = 64
	gapDelay = time.Second
)

// pendingGaps holds the targets whose members get a gap notice. The notice stands before
// the next publication of another node to the target: deliver calls tellBefore, and
// gapLoop sends the notices for targets without publications.
type pendingGaps struct {
	some atomic.Bool // there may be pending notices

	// appending is held while notices are appended to the log, so that no publication
	// overtakes one. It is locked before the log and the node.
	appending sync.Mutex
	told      map[target]struct{} // if all is set, those that have their notice; guarded by appending
	toldOf    uint64              // the losses that told is about; guarded by appending

	// Guarded by the node's lock.
	all    bool                // any publication may be lost
	set    map[target]struct{} // at most nodewire.MaxTargets
	losses uint64              // number of calls of addAll
}

// add adds a target. The node is locked.
func (g *pendingGaps) add(to target) {
	if len(g.set) >= nodewire.MaxTargets {
		g.addAll()
		return
	}
	if g.set == nil {
		g.set = make(map[target]struct{})
	}
	g.set[to] = struct{}{}
	g.some.Store(true)
}

// addAll adds all targets, also those that have their notice for an earlier loss. The node
// is locked.
func (g *pendingGaps) addAll() {
	g.all, g.set = true, nil
	g.losses++
	g.some.Store(true)
}

// gapLoop sends gap notices for publications that the broker lost.
func (n *node) gapLoop() {
	for {
		select {
		case <-n.gapWake:
		case <-n.stopping:
			return
		}
		n.mu.Lock()
		all, some := n.gaps.all, n.gaps.all || len(n.gaps.set) > 0
		n.mu.Unlock()
		if !some {
			continue
		}
		if count := n.tellGaps(all); count > 0 {
			n.hub.logger.Infof("websocket: publications of other nodes may be missing; sent gap notices to %d channels and rooms", count)
		}
		if all && !sleepUnless(gapDelay, n.stopping) {
			return
		}
	}
}

// tellGaps sends the pending notices and returns the number of channels and rooms among
// their targets that have members.
func (n *node) tellGaps(all bool) (count int) {
	var list []target
	if all {
		list = n.hub.events.gapTargets()
	}
	n.mu.Lock()
	losses := n.gaps.losses
	if !all {
		for to := range n.gaps.set {
			list = append(list, to)
		}
		slices.SortFunc(list, func(a, b target) int { // the notice for all clients covers single ones
			return cmp.Or(cmp.Compare(a.Audience, b.Audience), cmp.Compare(a.Name, b.Name))
		})
	}
	n.mu.Unlock()
	for len(list) > 0 {
		batch := min(len(list), n.hub.events.gapBatch())
		count += n.tell(list[:batch])
		list = list[batch:]
	}
	n.gaps.appending.Lock()
	defer n.gaps.appending.Unlock()
	n.mu.Lock()
	defer n.mu.Unlock()
	if all && n.gaps.losses == losses {
		n.gaps.all, n.gaps.told = false, nil
	}
	n.gaps.some.Store(n.gaps.all || len(n.gaps.set) > 0)
	return count
}

// tellBefore sends the pending notice for the target of a publication that is about to be
// delivered. It blocks while the log is full.
func (n *node) tellBefore(to target) {
	if !n.gaps.some.Load() {
		return
	}
	if to.Audience == toClients && to.Name != "" {
		n.tell([]target{{}, to})
	} else {
		n.tell([]target{to})
	}
}

// tell sends the notices for those of the targets that are pending.
func (n *node) tell(list []target) int {
	g := &n.gaps
	g.appending.Lock()
	defer g.appending.Unlock()
	var due []target
	n.mu.Lock()
	if g.toldOf != g.losses {
		g.told, g.toldOf = nil, g.losses
	}
	for _, to := range list {
		_, told := g.told[to]
		_, listed := g.set[to]
		everybody := to == target{}
		if g.all && !told && (everybody || to.Audience != toClients) {
			if g.told == nil {
				g.told = make(map[target]struct{})
			}
			g.told[to] = struct{}{}
		} else if !listed {
			continue
		}
		due = append(due, to)
		delete(g.set, to)
		if everybody { // the notice covers single clients
			maps.DeleteFunc(g.set, func(one target, _ struct{}) bool { return one.Audience == toClients })
		}
	}
	n.mu.Unlock()
	if len(due) == 0 {
		return 0
	}
	return n.hub.events.appendGaps(n.ctx, due)
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

// gapTargets returns the targets of a loss of any publications: each channel and room, and
// the clients.
func (l *eventLog) gapTargets() []target {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []target{{}}
	for kind := range l.topics {
		for name := range l.topics[kind].m {
			list = append(list, target{Audience: TopicKind(kind).audience(), Name: name})
		}
	}
	return list
}

// gapBatch returns the number of targets that one append to the log may have notices for.
func (l *eventLog) gapBatch() int {
	return min(gapBatch, max(int(l.size/4/l.gapCost()), 1))
}

// gapCost is the largest cost of the entries for one target.
func (l *eventLog) gapCost() int64 { return int64(entryCost * len(l.shards)) }

// appendGaps appends gap entries for the targets, at most gapBatch, in one critical section.
// It returns the number of channels and rooms among them that have members.
func (l *eventLog) appendGaps(ctx context.Context, list []target) (count int) {
	reserved := int64(len(list)) * l.gapCost()
	if err := l.reserve(ctx, reserved); err != nil {
		return 0
	}
	var wake uint64
	used := int64(0)
	put := func(s *shard, e entry, clients int) {
		l.addressed.Add(uint64(clients))
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
			if t := l.topics[kind].m[to.Name]; t != nil && !l.behind(t) {
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
	return count
}

// routeGap adds a gap notice to the pending batches of its recipients. All clients
// of a codec share one notice, because codecs encode the data of a notice
// differently.
func (s *shard) routeGap(e *entry, r *round) {
	gap := e.arg.(*lostGap)
	runs := make([][]*publication, len(s.hub.codecs)) // by codec, one notice each
	lost := gap.gap()
	push := func(c *Client) {
		c.conn.mu.Lock()
		c.conn.noteLoss(lost)
		c.conn.mu.Unlock()
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

// gap returns g in the form for clients.
func (g *lostGap) gap() Gap {
	lost := Gap{Reason: g.reason, Count: g.count, Last: g.timestamp}
	switch g.to.Audience {
	case toChannel:
		lost.Channel = g.to.Name
	case toRoom:
		lost.RoomID = g.to.Name
	}
	return lost
}

// notice returns the gap notice for clients with c's codec.
func (g *lostGap) notice(c *Client) *publication {
	m := Message{Type: typeGap, Timestamp: g.timestamp, Data: c.codec.encodeGap(g.gap())}
	if g.to.Audience != toClients {
		m.Channel = g.to.Name
	}
	p := c.hub.newPublication(&m, g.to.Audience)
	p.seq = g.seq
	return p
}
