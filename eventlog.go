package websocket

import (
	"container/list"
	"context"
	"math/bits"
	"slices"
	"sync"
	"time"
)

// hubLog is the one ordered log of a hub. Appending is one short critical
// section that gives an entry its place and hands it to the shards concerned;
// each shard sees its entries in log order. The directory of channels and rooms
// stands here too, as of the last entry appended, so that a publication reaches
// only shards with members, membership limits are exact, and publishing to
// nobody wakes nobody.
type eventLog struct {
	shards         []*shard
	size           int64         // bound on used
	nameLimit      int           // bytes of a topic's name
	maxMemberships int           // of one client, if positive
	done           chan struct{} // closed by close: no more entries but those that end connections
	node           *node         // takes publications on to other nodes; nil without a broker
	customCodecs   bool          // there are codecs of the user's own

	mu         sync.Mutex
	seq        uint64
	used       int64 // bytes of entries that not every shard has walked
	waiters    list.List
	running    bool
	closed     bool
	topics     [topicKinds]map[string]*topic
	topicOrder [topicKinds]topicOrder
	clients    int
	// addressed counts the pairs of a message and a client that it is for.
	addressed uint64
}

type entryKind uint8

const (
	entryRegister   entryKind = iota // client
	entryUnhold                      // client: onConnect has returned
	entryUnregister                  // client
	entryJoin                        // arg *membership
	entryLeave                       // arg *membership
	entryPublish                     // part, pub
	entryBroadcast                   // pub
	entrySend                        // client, pub
	entryKeys                        // client, arg *pipeline
	entryClose                       // client, arg *CloseError
	entryReschedule                  // client: its connection waits
	entryQuery                       // part, arg *memberQuery
	entryGap                         // part, or client, or neither for all; arg *brokerGap
	entryShutdown
	entryStop
)

type entry struct {
	kind   entryKind
	client *Client
	part   *part
	pub    *publication
	arg    any
}

// entryCost is what an entry without a message counts against the log's bound.
const entryCost = 128

// waiter is an append that waits for room. Whoever makes room reserves its cost
// and closes ready.
type waiter struct {
	cost    int64
	ready   chan struct{}
	granted bool
}

func newEventLog(c *Config) *eventLog {
	l := &eventLog{size: c.LogSize, nameLimit: c.MaxNameLength, maxMemberships: c.MaxSubscriptions, customCodecs: slices.ContainsFunc(c.Codecs, isCustom), done: make(chan struct{})}
	for kind := range l.topics {
		l.topics[kind] = make(map[string]*topic)
	}
	return l
}

func isCustom(c Codec) bool {
	switch c.(type) {
	case JSONCodec, ProtobufCodec, FlatBuffersCodec, MsgpackCodec:
		return false
	default:
		return true
	}
}

// begin locks the log with cost reserved. It waits for room until ctx ends or
// the log is closed; nothing is locked when it returns an error.
func (l *eventLog) reserve(ctx context.Context, cost int64) error {
	if cost > l.size {
		return ErrMessageTooLarge
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrHubClosed
	}
	if l.used+cost <= l.size && l.waiters.Len() == 0 {
		l.used += cost
		return nil
	}
	if !l.running {
		l.mu.Unlock()
		return ErrHubNotRunning
	}
	w := &waiter{cost: cost, ready: make(chan struct{})}
	place := l.waiters.PushBack(w)
	l.mu.Unlock()

	var err error
	select {
	case <-w.ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-l.done:
		err = ErrHubClosed
	}
	l.mu.Lock()
	if err == nil && l.closed {
		err = ErrHubClosed
	}
	if err != nil {
		if w.granted {
			l.unreserve(cost)
		} else {
			l.waiters.Remove(place)
			l.unreserve(0)
		}
		l.mu.Unlock()
	}
	return err
}

// end unlocks the log and wakes the sleeping shards that wake names.
func (l *eventLog) unlockAndWake(wake uint64) {
	l.mu.Unlock()
	for ; wake != 0; wake &= wake - 1 {
		l.shards[bits.TrailingZeros64(wake)].wakeUp()
	}
}

// assistReach is the most clients that a message may be for if a reader is to do
// the work of the shards that slept.
const maxAssistRecipients = 16

// endOwn is end for a client's reader, behind something that the client asked
// for. If that is little work the reader does it itself, since waking the shards
// costs more; not with codecs of the user's own, which may take long.
func (l *eventLog) unlockAndAssist(wake uint64, reach int) {
	if reach > maxAssistRecipients || l.customCodecs {
		l.unlockAndWake(wake)
		return
	}
	l.mu.Unlock()
	for ; wake != 0; wake &= wake - 1 {
		l.shards[bits.TrailingZeros64(wake)].assist()
	}
}

// put appends e for one shard. It returns the shard's bit if it has to be woken.
// The log is locked.
func (l *eventLog) append(s *shard, e entry) uint64 {
	s.queue = append(s.queue, e)
	if s.sleeping {
		s.sleeping = false
		return 1 << s.index
	}
	return 0
}

// Bounds on how long putLazy lets entries lie.
const (
	lazyEntries = 64
	lazyDelay   = 10 * time.Millisecond
)

// putLazy is put for entries that nobody waits for: they only have to be walked
// before what comes after them. A shard that sleeps goes on sleeping for a
// moment, so that a connection that comes and goes does not wake it each time.
func (l *eventLog) appendLazy(s *shard, e entry) uint64 {
	if !s.sleeping || len(s.queue) >= lazyEntries {
		return l.append(s, e)
	}
	if len(s.queue) == 0 {
		s.lazyTimer.Reset(lazyDelay)
	}
	s.queue = append(s.queue, e)
	return 0
}

// putSend appends a message for one client.
func (l *eventLog) appendSend(c *Client, pub *publication) uint64 {
	l.stamp(pub, 1, 1)
	return l.append(c.shard, entry{kind: entrySend, client: c, pub: pub})
}

// place gives pub its place in the log and one holder per shard.
func (l *eventLog) stamp(pub *publication, shards, clients int) {
	l.seq++
	l.addressed += uint64(clients)
	pub.seq = l.seq
	pub.unrouted.Store(int32(shards))
	pub.refs.Store(int32(shards))
}

// free gives back room and passes it on to those who wait, in order. The log is
// locked.
func (l *eventLog) unreserve(cost int64) {
	l.used -= cost
	for front := l.waiters.Front(); front != nil; front = l.waiters.Front() {
		w := front.Value.(*waiter)
		if l.used+w.cost > l.size && l.used > 0 {
			return
		}
		l.used += w.cost
		w.granted = true
		close(w.ready)
		l.waiters.Remove(front)
	}
}

// publish appends pub for every shard that has members of the topic, and the
// answer, if any, right behind it. It takes over the caller's hold on both.
func (l *eventLog) publish(ctx context.Context, kind TopicKind, name string, pub *publication, from *Client, answer *publication) error {
	if err := l.reserve(ctx, pub.cost); err != nil {
		pub.release()
		answer.releaseIfAny()
		return err
	}
	var wake uint64
	reach := 0
	t := l.topics[kind][name]
	if t != nil {
		reach = t.members
		l.stamp(pub, len(t.parts), reach)
		for _, p := range t.parts {
			wake |= l.append(p.shard, entry{kind: entryPublish, part: p, pub: pub})
		}
	} else {
		l.unreserve(pub.cost)
	}
	wake |= l.appendReply(from, answer)
	return l.finishPublish(ctx, from, wake, target{Audience: kind.audience(), Name: name}, pub, reach)
}

// endPublish unlocks the log behind a publication. One for other nodes too is
// handed on under the lock, so that it leaves in the log's order.
func (l *eventLog) finishPublish(ctx context.Context, from *Client, wake uint64, to target, pub *publication, reach int) error {
	forwards := l.node != nil && !pub.remote
	var err error
	if forwards {
		err = l.node.forward(to, pub)
	}
	if from != nil {
		l.unlockAndAssist(wake, reach)
	} else {
		l.unlockAndWake(wake)
	}
	if reach == 0 {
		pub.release() // nobody is there
	}
	if forwards && err == nil {
		l.node.waitForRoom(ctx)
	}
	return err
}

// broadcast appends pub for every shard that has clients.
func (l *eventLog) broadcast(ctx context.Context, pub *publication, from *Client, answer *publication) error {
	if err := l.reserve(ctx, pub.cost); err != nil {
		pub.release()
		answer.releaseIfAny()
		return err
	}
	var wake uint64
	shards := 0
	for _, s := range l.shards {
		if s.population > 0 {
			shards++
		}
	}
	if shards > 0 {
		l.stamp(pub, shards, l.clients)
		for _, s := range l.shards {
			if s.population > 0 {
				wake |= l.append(s, entry{kind: entryBroadcast, pub: pub})
			}
		}
	} else {
		l.unreserve(pub.cost)
	}
	wake |= l.appendReply(from, answer)
	return l.finishPublish(ctx, from, wake, target{Audience: toClients}, pub, l.clients)
}

// endAnswered is end behind what may have been asked for by its client: then it
// is answered.
func (l *eventLog) finishReply(wake uint64, c *Client, answer *publication) {
	if answer != nil {
		l.unlockAndAssist(wake|l.appendReply(c, answer), 1)
	} else {
		l.unlockAndWake(wake)
	}
}

// answer appends an ack or error to the client that asked. Its cost is charged
// without waiting: it is small, and its client reads nothing more meanwhile.
func (l *eventLog) appendReply(c *Client, pub *publication) uint64 {
	if pub == nil {
		return 0
	}
	if !c.registered {
		pub.release()
		return 0
	}
	l.used += pub.cost
	return l.appendSend(c, pub)
}

// send appends pub for one client.
func (l *eventLog) send(ctx context.Context, c *Client, pub *publication) error {
	if err := l.reserve(ctx, pub.cost); err != nil {
		pub.release()
		return err
	}
	if !c.registered {
		l.unreserve(pub.cost)
		l.mu.Unlock()
		pub.release()
		return ErrClientClosed
	}
	l.unlockAndWake(l.appendSend(c, pub))
	return nil
}

// register makes c known to its shard. It does not wait for room: connections
// are bounded elsewhere.
func (l *eventLog) register(c *Client) {
	l.mu.Lock()
	c.registered = true
	c.shard.population++
	l.clients++
	if l.node != nil {
		l.node.clientAdded(c.ID, l.clients == 1)
	}
	l.unlockAndWake(l.appendLazy(c.shard, entry{kind: entryRegister, client: c}))
}

// unregister ends c's memberships and makes its shard forget it. From here on
// c's memberships belong to the shard.
func (l *eventLog) unregister(c *Client) {
	l.mu.Lock()
	c.registered = false
	c.shard.population--
	l.clients--
	if l.node != nil {
		l.node.clientRemoved(c.ID, l.clients == 0)
	}
	if len(c.members.list) > 0 {
		c.lastTopics = c.members.topics()
	}
	for _, m := range c.members.list {
		c.hooks.add(m.part.topic, true)
		l.removeFromPart(m.part)
	}
	l.unlockAndWake(l.appendLazy(c.shard, entry{kind: entryUnregister, client: c}))
}

// tell appends an entry about a registered client that must not wait for room.
func (l *eventLog) appendFor(kind entryKind, c *Client, arg any) error {
	l.mu.Lock()
	if !c.registered {
		l.mu.Unlock()
		return ErrClientClosed
	}
	l.unlockAndWake(l.append(c.shard, entry{kind: kind, client: c, arg: arg}))
	return nil
}

// release ends c's hold. If something waits for it, that is not for long.
func (l *eventLog) unhold(c *Client) {
	put := l.appendLazy
	if c.conn.anyPending() {
		put = l.append
	}
	l.mu.Lock()
	l.unlockAndWake(put(c.shard, entry{kind: entryUnhold, client: c}))
}

// tellAll appends an entry for every shard.
func (l *eventLog) appendAll(kind entryKind) {
	l.mu.Lock()
	var wake uint64
	for _, s := range l.shards {
		wake |= l.append(s, entry{kind: kind})
	}
	l.unlockAndWake(wake)
}

// start lets appends wait for room, because shards now make some.
func (l *eventLog) start() {
	l.mu.Lock()
	l.running = true
	l.mu.Unlock()
}

// close refuses new entries and ends every wait.
func (l *eventLog) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
}

// take swaps s's queue for what has gathered in it and reports whether there is
// anything to walk. If there is not and the shard would wait, it counts as
// sleeping from then on.
func (l *eventLog) takeQueue(s *shard, wouldWait bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unreserve(s.routedCost)
	s.routedCost = 0
	if len(s.queue) == 0 {
		s.sleeping = wouldWait
		return false
	}
	s.entries, s.queue = s.queue, s.entries[:0]
	s.nextEntry = 0
	return true
}
