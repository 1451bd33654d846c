package websocket

import (
	"container/list"
	"context"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// eventLog is the hub's one ordered log. Appending is one short critical section: it gives
// an entry its number and adds it to the queues of the shards concerned, so each shard sees
// its entries in log order. The log also keeps the directory of channels and rooms, as of
// the last entry appended. So a publication reaches only shards with members, limits on
// memberships are exact, and publishing to a topic without members wakes no shard.
type eventLog struct {
	shards         []*shard
	size           int64         // maximum of used
	nameLimit      int           // maximum length of a topic's name in bytes
	maxMemberships int           // of one client; not positive means no limit
	done           chan struct{} // closed by close
	node           *node         // nil without a broker
	customCodecs   bool          // the application brings codecs
	budget         *budget

	mu         sync.Mutex   // guards the following fields, and fields elsewhere that say so
	seq        uint64       // of the last entry with a message
	used       atomic.Int64 // cost of entries that not every shard has routed; Stats reads it
	waiters    list.List    // of *waiter
	running    bool
	closed     bool
	topics     [topicKinds]peakMap[string, *topic]
	topicOrder [topicKinds]topicOrder
	populated  [topicKinds]atomic.Int64 // topics with members; Stats reads it
	histories  histories
	presences  presences
	clients    atomic.Int64 // Stats reads it
	// addressed counts each message once per recipient. Stats reads it.
	addressed atomic.Uint64
}

// entryKind says which fields of an entry are set; see the comments of the constants.
type entryKind uint8

const (
	entryRegister   entryKind = iota // client
	entryUnhold                      // client: onConnect has returned
	entryUnregister                  // client: it has left
	entryForget                      // client: its connection has ended
	entryJoin                        // arg *membership
	entryLeave                       // arg *membership
	entryPublish                     // part, pub
	entryBroadcast                   // pub
	entrySend                        // client, pub
	entryKeys                        // client, arg *pipeline
	entryClose                       // client: it has left by Client.Close; arg *CloseError
	entryReschedule                  // client: its next check may have to be earlier
	entryQuery                       // part, arg *memberQuery
	entryCursor                      // client, arg *cursor
	entryCursorEnd                   // client, arg *cursorEnd
	entryFeed                        // client
	entryGap                         // part, or client, or neither for all; arg *lostGap
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

// limitedByLog is the MessageTooLargeError.LimitedBy of the log's bound.
const limitedByLog = "Config.LogSize"

// entryCost is the cost of an entry without a message.
const entryCost = 128

// waiter is an append that waits for room. unreserve reserves its cost and closes ready.
type waiter struct {
	cost    int64
	ready   chan struct{}
	granted bool
}

func newEventLog(c *Config, b *budget) *eventLog {
	return &eventLog{budget: b, size: c.LogSize, nameLimit: c.MaxNameLength, maxMemberships: c.MaxSubscriptions, customCodecs: slices.ContainsFunc(c.Codecs, isCustom), done: make(chan struct{})}
}

// isCustom reports whether c is a codec of the application.
func isCustom(c Codec) bool {
	switch c.(type) {
	case JSONCodec, ProtobufCodec, FlatBuffersCodec, MsgpackCodec:
		return false
	default:
		return true
	}
}

// reserve locks the log and reserves room for cost. It waits for room until ctx is done or
// the log is closed. On error the log is not locked.
func (l *eventLog) reserve(ctx context.Context, cost int64) error {
	if cost > l.size {
		return &MessageTooLargeError{Size: cost, Limit: l.size, LimitedBy: limitedByLog}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrHubClosed
	}
	if l.used.Load()+cost <= l.size && l.waiters.Len() == 0 {
		l.used.Add(cost)
		return nil
	}
	if !l.running {
		l.mu.Unlock()
		return ErrHubNotRunning
	}
	w := &waiter{cost: cost, ready: make(chan struct{})}
	element := l.waiters.PushBack(w)
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
			l.waiters.Remove(element)
			l.unreserve(0)
		}
		l.mu.Unlock()
	}
	return err
}

// unlockAndWake unlocks the log and wakes the shards whose bits are set in wake.
func (l *eventLog) unlockAndWake(wake uint64) {
	l.mu.Unlock()
	for ; wake != 0; wake &= wake - 1 {
		l.shards[bits.TrailingZeros64(wake)].wakeUp()
	}
}

// maxAssistRecipients is the largest number of recipients of a message that a readPump
// routes itself.
const maxAssistRecipients = 16

// unlockAndAssist is unlockAndWake for the readPump of a client that requested the entry.
// If there is little work, the readPump does the work of sleeping shards itself, because
// waking them costs more. It does not if there are custom codecs, which may take long.
func (l *eventLog) unlockAndAssist(wake uint64, recipients int) {
	if recipients > maxAssistRecipients || l.customCodecs {
		l.unlockAndWake(wake)
		return
	}
	l.mu.Unlock()
	for ; wake != 0; wake &= wake - 1 {
		l.shards[bits.TrailingZeros64(wake)].assist()
	}
}

// append adds e to the queue of one shard. It returns the shard's bit if the shard must be
// woken. The log is locked.
func (l *eventLog) append(s *shard, e entry) uint64 {
	s.queue = append(s.queue, e)
	if s.sleeping {
		s.sleeping = false
		return 1 << s.index
	}
	return 0
}

// Bounds of appendLazy.
const (
	lazyEntries = 64
	lazyDelay   = 10 * time.Millisecond
)

// appendLazy is append for an entry that has no effect of its own, but must be handled
// before later entries. A sleeping shard is woken only after lazyDelay or lazyEntries, so a
// connection that comes and goes does not wake it each time.
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

// appendSend appends a message for one client.
func (l *eventLog) appendSend(c *Client, pub *publication) uint64 {
	l.stamp(pub, 1, 1)
	return l.append(c.shard, entry{kind: entrySend, client: c, pub: pub})
}

// stamp gives pub its number, and one reference for each shard.
func (l *eventLog) stamp(pub *publication, shards, clients int) {
	l.seq++
	l.addressed.Add(uint64(clients))
	pub.seq = l.seq
	pub.unrouted.Store(int32(shards))
	pub.refs.Store(int32(shards))
	if pub.kept {
		pub.retain()
	}
}

// unreserve returns room and grants it to waiters in order. The log is locked.
func (l *eventLog) unreserve(cost int64) {
	l.used.Add(-cost)
	for front := l.waiters.Front(); front != nil; front = l.waiters.Front() {
		w := front.Value.(*waiter)
		if used := l.used.Load(); used+w.cost > l.size && used > 0 {
			return
		}
		l.used.Add(w.cost)
		w.granted = true
		close(w.ready)
		l.waiters.Remove(front)
	}
}

// publish appends pub for every shard that has members of the topic, and reply, which may
// be nil, right behind it. It takes over the caller's references to both. pub.except is
// the ID of from, or empty. from is nil if the server publishes.
func (l *eventLog) publish(ctx context.Context, kind TopicKind, name string, pub *publication, from *Client, reply *publication) error {
	if keep, conflate := l.engineHistory(kind, name); keep.keeps() {
		return l.node.appendPublication(ctx, &appending{to: target{Audience: kind.audience(), Name: name}, keep: keep, conflate: conflate, pub: pub, from: from, reply: reply})
	}
	key := l.histories.hashKey(pub.msg.Key, from)
	if err := l.reserve(ctx, pub.cost); err != nil {
		pub.release()
		reply.releaseIfAny()
		return err
	}
	var wake uint64
	recipients := 0
	t := l.topics[kind].m[name]
	if t == nil && l.histories.options != nil {
		t = l.topicWithHistory(kind, name)
		if l.closed {
			l.unreserve(pub.cost)
			l.mu.Unlock()
			pub.release()
			reply.releaseIfAny()
			return ErrHubClosed
		}
	}
	if t != nil && t.history != nil {
		at, before := t.history.published(pub.msg.Key, key, l.histories.clock())
		if before {
			l.unreserve(pub.cost)
			reply.setPosition(at, t.history.conflate)
			l.finishReply(0, from, reply)
			pub.release()
			return nil
		}
		l.appendHistory(t.history, pub, key, t.history.head+1, l.histories.clock())
		reply.setPosition(t.history.position(), t.history.conflate)
	} else {
		pub.msg.Key = ""
	}
	if from != nil && !from.registered {
		pub.except = "" // another client may have the ID by now
	}
	if t != nil && t.members > 0 {
		recipients = t.members
		if pub.except != "" && l.membership(from, kind, name) != nil {
			recipients--
		}
	}
	if recipients > 0 {
		l.stamp(pub, len(t.parts), recipients)
		for _, p := range t.parts {
			wake |= l.append(p.shard, entry{kind: entryPublish, part: p, pub: pub})
		}
	} else {
		l.unreserve(pub.cost)
	}
	return l.finishPublish(ctx, from, reply, wake, target{Audience: kind.audience(), Name: name}, pub, recipients)
}

// localOnly is the data of the ack of a publication that reaches no other node.
const localOnly = `{"local":true}`

// finishPublish appends reply and unlocks the log after a publication. It first queues the
// publication for other nodes, under the lock, so that it leaves this node in log order.
func (l *eventLog) finishPublish(ctx context.Context, from *Client, reply *publication, wake uint64, to target, pub *publication, recipients int) error {
	forward := l.node != nil && !pub.remote
	var err error
	if forward {
		err = l.node.forward(to, pub)
	}
	if err != nil && reply != nil {
		reply.setData([]byte(localOnly))
	}
	wake |= l.appendReply(from, reply)
	if from != nil {
		l.unlockAndAssist(wake, recipients)
	} else {
		l.unlockAndWake(wake)
	}
	if recipients == 0 {
		pub.release() // no shard has it
	}
	if forward && err == nil {
		l.node.waitForRoom(ctx)
	}
	return err
}

// broadcast appends pub for every shard that has clients. See publish.
func (l *eventLog) broadcast(ctx context.Context, pub *publication, from *Client, reply *publication) error {
	if err := l.reserve(ctx, pub.cost); err != nil {
		pub.release()
		reply.releaseIfAny()
		return err
	}
	var wake uint64
	shards, recipients := 0, int(l.clients.Load())
	if from != nil && !from.registered {
		pub.except = "" // another client may have the ID by now
	}
	if pub.except != "" {
		recipients--
	}
	for _, s := range l.shards {
		if s.population > 0 {
			shards++
		}
	}
	if recipients > 0 {
		l.stamp(pub, shards, recipients)
		for _, s := range l.shards {
			if s.population > 0 {
				wake |= l.append(s, entry{kind: entryBroadcast, pub: pub})
			}
		}
	} else {
		l.unreserve(pub.cost)
	}
	return l.finishPublish(ctx, from, reply, wake, target{Audience: toClients}, pub, recipients)
}

// finishReply appends reply, which may be nil, and unlocks the log.
func (l *eventLog) finishReply(wake uint64, c *Client, reply *publication) {
	if reply != nil {
		l.unlockAndAssist(wake|l.appendReply(c, reply), 1)
	} else {
		l.unlockAndWake(wake)
	}
}

// appendReply appends an ack or error for c. It does not wait for room: replies are small,
// and the client is not read from meanwhile.
func (l *eventLog) appendReply(c *Client, pub *publication) uint64 {
	if pub == nil {
		return 0
	}
	if !c.registered {
		pub.release()
		return 0
	}
	l.used.Add(pub.cost)
	return l.appendSend(c, pub)
}

// send appends pub for one client. It takes over the caller's reference.
func (l *eventLog) send(ctx context.Context, c *Client, pub *publication) error {
	wake, err := l.lockAndSend(ctx, c, pub)
	if err == nil {
		l.unlockAndWake(wake)
	}
	return err
}

// reply is send for the readPump of c, which may write pub itself.
func (l *eventLog) reply(ctx context.Context, c *Client, pub *publication) error {
	wake, err := l.lockAndSend(ctx, c, pub)
	if err == nil {
		l.unlockAndAssist(wake, 1)
	}
	return err
}

// lockAndSend is the part of send up to the unlocking. On error the log is not locked.
func (l *eventLog) lockAndSend(ctx context.Context, c *Client, pub *publication) (wake uint64, err error) {
	err = l.reserve(ctx, pub.cost)
	if err == nil && !c.registered {
		l.unreserve(pub.cost)
		l.mu.Unlock()
		err = ErrClientClosed
	}
	if err != nil {
		pub.release()
		return 0, err
	}
	return l.appendSend(c, pub), nil
}

// register adds c to its shard, unless c has left already. It does not wait for room,
// because the number of connections is bounded.
func (l *eventLog) register(c *Client) bool {
	l.mu.Lock()
	if c.hasLeft {
		l.mu.Unlock()
		return false
	}
	c.registered = true
	c.visible.Store(true)
	c.shard.population++
	first := l.clients.Add(1) == 1
	if l.node != nil {
		l.node.clientAdded(c.ID, first)
	}
	l.unlockAndWake(l.appendLazy(c.shard, entry{kind: entryRegister, client: c}))
	return true
}

// unregister makes c leave. It does nothing if c has left already.
func (l *eventLog) unregister(c *Client) {
	l.mu.Lock()
	removed := l.removeClient(c)
	c.hasLeft = true // also if it was not registered yet
	if !removed {
		l.mu.Unlock()
		return
	}
	wake := l.appendLazy(c.shard, entry{kind: entryUnregister, client: c})
	l.unlockAndWake(wake | l.tellOfLeaving(c))
}

// closeClient makes c leave, and closes its connection behind the messages that were
// appended before.
func (l *eventLog) closeClient(c *Client, cause *CloseError) error {
	l.mu.Lock()
	if !l.removeClient(c) {
		l.mu.Unlock()
		return ErrClientClosed
	}
	c.closeErr.CompareAndSwap(nil, cause)
	wake := l.append(c.shard, entry{kind: entryClose, client: c, arg: cause})
	l.unlockAndWake(wake | l.tellOfLeaving(c))
	return nil
}

// removeClient ends c's memberships. It reports false if c was not registered. From then
// on c.members belongs to the shard. The log is locked.
func (l *eventLog) removeClient(c *Client) bool {
	if !c.registered {
		return false
	}
	c.registered = false
	c.visible.Store(false)
	c.shard.population--
	last := l.clients.Add(-1) == 0
	if l.node != nil {
		l.node.clientRemoved(c.ID, last)
	}
	if c.hub.onDisconnect != nil && len(c.members.list) > 0 {
		topics := c.members.topics()
		c.lastTopics = &topics
	}
	for _, m := range c.members.list {
		c.hooks.add(m.part.topic, true)
		l.removeMember(c, m)
	}
	c.charge(-int64(len(c.info)))
	c.info = nil
	return true
}

// tellOfLeaving tells the members of c's topics that it has left. The log has been locked
// since removeClient.
func (l *eventLog) tellOfLeaving(c *Client) (wake uint64) {
	for _, m := range c.members.list {
		wake |= l.tellPresence(m.part.topic)
	}
	return wake
}

// reschedule makes c's shard look at its hard deadline, also after c has left.
func (l *eventLog) reschedule(c *Client) {
	l.mu.Lock()
	l.unlockAndWake(l.append(c.shard, entry{kind: entryReschedule, client: c}))
}

// forget ends the checks of a client whose connection has ended.
func (l *eventLog) forget(c *Client) {
	l.mu.Lock()
	l.unlockAndWake(l.appendLazy(c.shard, entry{kind: entryForget, client: c}))
}

// appendFor appends an entry about a client without waiting for room.
func (l *eventLog) appendFor(kind entryKind, c *Client, arg any) error {
	l.mu.Lock()
	if !c.registered {
		l.mu.Unlock()
		return ErrClientClosed
	}
	l.unlockAndWake(l.append(c.shard, entry{kind: kind, client: c, arg: arg}))
	return nil
}

// unhold ends c's hold. It wakes the shard only if messages are waiting for that.
func (l *eventLog) unhold(c *Client) {
	add := l.appendLazy
	if c.conn.anyPending() {
		add = l.append
	}
	l.mu.Lock()
	l.unlockAndWake(add(c.shard, entry{kind: entryUnhold, client: c}))
}

// feed makes c's shard continue to feed its cursors. The connection's lock may be held.
func (l *eventLog) feed(c *Client) {
	l.mu.Lock()
	if !c.registered {
		l.mu.Unlock()
		return
	}
	l.unlockAndWake(l.append(c.shard, entry{kind: entryFeed, client: c}))
}

// appendAll appends an entry for every shard.
func (l *eventLog) appendAll(kind entryKind) {
	l.mu.Lock()
	var wake uint64
	for _, s := range l.shards {
		wake |= l.append(s, entry{kind: kind})
	}
	l.unlockAndWake(wake)
}

// start lets reserve wait for room. Before that no shard makes any.
func (l *eventLog) start() {
	l.mu.Lock()
	l.running = true
	l.mu.Unlock()
}

// close refuses new entries, except those without reserve, and ends all waits.
func (l *eventLog) close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.done)
	}
	l.mu.Unlock()
}

// takeQueue moves the entries of s's queue to s.entries. It reports whether there are any.
// If not, and s would sleep, s counts as sleeping from then on.
func (l *eventLog) takeQueue(s *shard, wouldSleep bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unreserve(s.routedCost)
	s.routedCost = 0
	if len(s.queue) == 0 {
		s.sleeping = wouldSleep
		return false
	}
	s.entries, s.queue = s.queue, s.entries[:0]
	s.nextEntry = 0
	return true
}
