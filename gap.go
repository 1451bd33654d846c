package websocket

import (
	"slices"
	"sync"
	"sync/atomic"
)

// loss is messages of one channel or room that a client was not given, for one
// reason, with nothing of that topic given to it in between.
type loss struct {
	topic  lossTopic
	count  uint64
	first  int64 // Timestamps
	last   int64
	seq    uint64 // place in the log of the first
	reason dropReason
}

type lossTopic struct {
	to   audience
	all  bool   // stands for any topic
	name string // empty for messages to one client or to all
}

func lossTopicOf(p *publication) lossTopic {
	if p.to == toClients {
		return lossTopic{}
	}
	return lossTopic{to: p.to, name: p.msg.Channel}
}

// losses waits beside a connection's queue, in log order, so that each loss is
// announced where the messages would have stood.
type losses struct {
	queue  []loss
	open   map[lossTopic]int // in queue: losses that the next drop of a topic extends
	merged []loss            // at most one for each reason
}

// maxLosses bounds the losses that wait in a client's queue. What is lost beyond
// it, of whatever topic, is added up for each reason and announced where the
// first of it would have stood.
const maxLosses = 4096

// lossCost is what a loss counts against the client's bound.
const lossCost = 128

// add records a drop and reports whether it takes a loss of its own.
func (l *losses) add(p *publication, reason dropReason) bool {
	key := lossTopicOf(p)
	if i, ok := l.open[key]; ok && l.queue[i].reason == reason {
		l.queue[i].extend(p)
		return false
	}
	if len(l.queue) >= maxLosses { // their topics are as many as their subscriber likes
		return l.addMerged(p, reason)
	}
	if l.open == nil {
		l.open = make(map[lossTopic]int)
	}
	at := indexFor(l.queue, p.seq)
	if at < len(l.queue) { // seldom: what failed to encode while later ones were dropped
		l.split()
	}
	l.open[key] = at
	l.queue = slices.Insert(l.queue, at, newLoss(key, p, reason))
	return true
}

// addBeyond is add for a queue that is full.
func (l *losses) addMerged(p *publication, reason dropReason) bool {
	if i := slices.IndexFunc(l.merged, func(b loss) bool { return b.reason == reason }); i >= 0 {
		l.merged[i].extend(p)
		return false
	}
	l.merged = slices.Insert(l.merged, indexFor(l.merged, p.seq), newLoss(lossTopic{all: true}, p, reason))
	return true
}

// settle keeps later drops apart from those so far, except beyond maxLosses,
// where nothing would bound them then.
func (l *losses) split() {
	if l != nil {
		clear(l.open)
	}
}

func (l *losses) len() int {
	if l == nil {
		return 0
	}
	return len(l.queue) + len(l.merged)
}

// before takes the earliest loss if it comes before that place in the log.
func (l *losses) takeBefore(order uint64) (loss, bool) {
	if l == nil {
		return loss{}, false
	}
	from := &l.queue
	if len(l.merged) > 0 && (len(l.queue) == 0 || l.merged[0].seq < l.queue[0].seq) {
		from = &l.merged
	}
	if len(*from) == 0 || (*from)[0].seq >= order {
		return loss{}, false
	}
	first := (*from)[0]
	if *from = (*from)[1:]; l.len() == 0 {
		*l = losses{}
	}
	l.split()
	return first, true
}

// placeOf returns where something of that place in the log belongs.
func indexFor(queue []loss, order uint64) int {
	at := len(queue)
	for at > 0 && queue[at-1].seq > order {
		at--
	}
	return at
}

func newLoss(topic lossTopic, p *publication, reason dropReason) loss {
	return loss{topic, 1, p.msg.Timestamp, p.msg.Timestamp, p.seq, reason}
}

func (l *loss) extend(p *publication) {
	l.count++
	l.last = p.msg.Timestamp
}

func (l *loss) gap() Gap {
	g := Gap{All: l.topic.all, Count: l.count, First: l.first, Last: l.last, Reason: dropNames[l.reason]}
	switch l.topic.to {
	case toChannel:
		g.Channel = l.topic.name
	case toRoom:
		g.RoomID = l.topic.name
	}
	return g
}

// notice makes the message that announces l to a client.
func (c *Client) gapNotice(l *loss) *publication {
	p := c.hub.newPublication(&Message{
		Type: typeGap, Channel: l.topic.name, Timestamp: c.hub.now(),
		Data: encodeGap(c.codec, l.gap()),
	}, l.topic.to)
	p.announces = l.count
	return p
}

// dropReports gathers what Config.OnDrop is told. A goroutine of its own calls
// the hook; what happens meanwhile is added up per client, topic and reason.
type dropReports struct {
	mu         sync.Mutex
	pending    map[dropReport]*loss
	queue      []dropReport  // keys of pending, the oldest first
	wake       chan struct{} // capacity 1; drops send, the reporter receives; never closed
	unreported atomic.Uint64
	warned     uint64 // those of unreported that are in the log; the reporter's
}

type dropReport struct {
	client *Client
	topic  lossTopic
	reason dropReason
}

// Reports that wait keep clients that are gone. From maxTopicReports on, new ones
// are of any topic; beyond maxReports there are none.
const (
	maxTopicReports = 8192
	maxReports      = 16384
)

func (h *Hub) reportDrop(c *Client, p *publication, reason dropReason) {
	if h.config.OnDrop == nil {
		return
	}
	d := &h.drops
	key := dropReport{c, lossTopicOf(p), reason}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.pending[key]
	if l == nil && len(d.queue) >= maxTopicReports {
		key.topic = lossTopic{all: true}
		l = d.pending[key]
	}
	switch {
	case l != nil:
		l.extend(p)
	case len(d.queue) >= maxReports:
		d.unreported.Add(1)
	default:
		if d.pending == nil {
			d.pending = make(map[dropReport]*loss)
		}
		first := newLoss(key.topic, p, reason)
		d.pending[key] = &first
		d.queue = append(d.queue, key)
		wake(d.wake)
	}
}

// next takes the oldest report. Its client is nil when there is none.
func (d *dropReports) next() (*Client, Gap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		d.pending, d.queue = nil, nil // they may have been large
		return nil, Gap{}
	}
	key := d.queue[0]
	lost := d.pending[key].gap()
	delete(d.pending, key)
	d.queue[0] = dropReport{} // lets go of the client
	d.queue = d.queue[1:]
	return key.client, lost
}

// runReports calls the hook until the hub has stopped, and then for the last
// time. A hook that ends the goroutine gets a new one.
func (h *Hub) runReports(stopped <-chan struct{}, reported chan<- struct{}) {
	finished := false
	defer func() {
		if finished {
			close(reported)
		} else {
			wake(h.drops.wake)                 // more may wait
			go h.runReports(stopped, reported) // as before
		}
	}()
	for last := false; !last; {
		select {
		case <-h.drops.wake:
		case <-stopped:
			last = true
		}
		for c, lost := h.drops.next(); c != nil; c, lost = h.drops.next() {
			if n := h.drops.unreported.Load(); n > h.drops.warned {
				h.logger.Warningf("websocket: OnDrop has fallen behind: it is not told of %d messages that were dropped", n-h.drops.warned)
				h.drops.warned = n
			}
			h.protect("OnDrop", "client", c.ID, func() { h.config.OnDrop(c, lost) }, c)
		}
	}
	finished = true
}
