package websocket

import (
	"cmp"
	"slices"
)

// loss is a number of drops of one topic for one reason. One gap notice or one call of
// OnDrop reports it. In losses.queue, no delivered message of the topic lies between
// the drops.
type loss struct {
	topic  lossTopic
	count  uint64
	first  int64  // Timestamp of the first drop
	last   int64  // Timestamp of the last drop
	seq    uint64 // order number of the first drop in the event log
	reason dropReason
}

// lossTopic is the topic of a loss. Its zero value stands for messages to one client
// and to all clients.
type lossTopic struct {
	to   audience
	all  bool // the loss has drops of any topic
	name string
}

func lossTopicOf(p *publication) lossTopic {
	if p.to == toClients {
		return lossTopic{}
	}
	return lossTopic{to: p.to, name: p.msg.Channel}
}

// losses holds the losses of one connection until they are announced. Both slices are
// sorted by seq, so that a notice takes the position of the first dropped message.
// Drops usually come in the order of seq, but reclaim drops the oldest messages of a queue
// behind which newer ones have been dropped already.
// The connection's lock guards it.
type losses struct {
	queue []loss
	open  map[lossTopic]int // indexes in queue of the losses that the next drop of a topic extends
	// lastOpen is the maximum of the indexes in open, or 0.
	lastOpen int
	merged   []loss // drops of any topic while queue is full; at most one loss per reason
}

// maxLosses is the maximum length of losses.queue.
const maxLosses = 4096

// lossCost is the number of bytes that a loss counts against Config.ClientBacklog.
const lossCost = 128

// add records a drop. It returns true if that made a new loss, and false if it
// extended one.
func (l *losses) add(p *publication, reason dropReason) bool {
	key := lossTopicOf(p)
	if i, ok := l.open[key]; ok && l.queue[i].reason == reason {
		l.queue[i].extend(newLoss(key, p, reason))
		return false
	}
	if len(l.queue) >= maxLosses { // a client may have any number of topics
		return l.addMerged(p, reason)
	}
	if l.open == nil {
		l.open = make(map[lossTopic]int)
	}
	at := indexFor(l.queue, p.seq) // before the end if later messages have been dropped already
	if at <= l.lastOpen {
		l.split() // the indexes in open change
	}
	l.open[key], l.lastOpen = at, at
	l.queue = slices.Insert(l.queue, at, newLoss(key, p, reason))
	return true
}

// addMerged is add for a full queue.
func (l *losses) addMerged(p *publication, reason dropReason) bool {
	return l.merge(newLoss(lossTopic{all: true}, p, reason))
}

// merge is addMerged for several drops.
func (l *losses) merge(lost loss) bool {
	if i := slices.IndexFunc(l.merged, func(b loss) bool { return b.reason == lost.reason }); i >= 0 {
		l.merged[i].extend(lost)
		slices.SortFunc(l.merged, func(a, b loss) int { return cmp.Compare(a.seq, b.seq) })
		return false
	}
	lost.topic = lossTopic{all: true}
	l.merged = slices.Insert(l.merged, indexFor(l.merged, lost.seq), lost)
	return true
}

// insert records a loss that later drops do not extend. It returns true if that made a new
// loss.
func (l *losses) insert(lost loss) bool {
	if len(l.queue) >= maxLosses {
		return l.merge(lost)
	}
	l.split() // the indexes in open change
	l.queue = slices.Insert(l.queue, indexFor(l.queue, lost.seq), lost)
	return true
}

// split makes the next drop of every topic start a new loss. Merged losses are not
// split, because their number would have no bound.
func (l *losses) split() {
	if l != nil {
		clear(l.open)
		l.lastOpen = 0
	}
}

func (l *losses) len() int {
	if l == nil {
		return 0
	}
	return len(l.queue) + len(l.merged)
}

// takeBefore removes and returns the first loss if its seq is less than seq.
func (l *losses) takeBefore(seq uint64) (loss, bool) {
	if l == nil {
		return loss{}, false
	}
	from := &l.queue
	if len(l.merged) > 0 && (len(l.queue) == 0 || l.merged[0].seq < l.queue[0].seq) {
		from = &l.merged
	}
	if len(*from) == 0 || (*from)[0].seq >= seq {
		return loss{}, false
	}
	first := (*from)[0]
	if *from = (*from)[1:]; l.len() == 0 {
		*l = losses{} // free the memory
	}
	l.split() // the indexes in open change
	return first, true
}

// indexFor returns the index at which a loss with that seq has to be inserted.
func indexFor(queue []loss, seq uint64) int {
	at := len(queue)
	for at > 0 && queue[at-1].seq > seq {
		at--
	}
	return at
}

func newLoss(topic lossTopic, p *publication, reason dropReason) loss {
	return loss{topic, 1, p.msg.Timestamp, p.msg.Timestamp, p.seq, reason}
}

// extend adds a drop. p may be older than the drops before it.
func (l *loss) extend(more loss) {
	l.count += more.count
	if more.seq < l.seq {
		l.seq, l.first = more.seq, more.first
	} else {
		l.last = more.last
	}
}
