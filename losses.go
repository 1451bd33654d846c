package websocket

import (
	"slices"
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
