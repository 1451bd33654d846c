package websocket

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// A client's request to join a topic is carried out only when the engine has
// confirmed this node's subscription, so that its ack promises the publications of
// all nodes. Until then the request waits in a joinQueue, and so does hub:hello.
// Further requests to join are queued behind it, so that many of them take one
// round trip to the engine. Every other message of the client waits for the queue.

// topicHold keeps a topic requested for joins that wait. It is guarded by the node's
// lock.
type topicHold struct {
	joins      int
	interested bool // this node's members need the topic
}

// topicWait waits until topics are in force at the engine, or until that cannot be
// expected soon. It is guarded by the node's lock.
type topicWait struct {
	topics  []string
	missing int           // number of topics that are not settled
	done    chan struct{} // closed when missing is 0
}

// joinQueue holds requests of one client. It is guarded by the node's lock.
type joinQueue struct {
	queue []queuedJoin
	idle  chan struct{} // closed by runJoins when the queue is empty
	space chan struct{} // closed by runJoins when it takes an element; nil if the readPump does not wait
}

// queuedJoin is a request that waits for topics.
type queuedJoin struct {
	topics   []string
	held     string    // topic of a join, or empty
	open     bool      // the history of the topic must be read first
	kind     TopicKind // of the topic
	name     string
	since    *Position
	wait     *topicWait // nil if all topics were in force
	deadline time.Time
	cost     int64 // charged to the client
	run      func(error)
}

// maxJoins is the maximum length of a joinQueue. The client is not read from while
// its queue is full.
const maxJoins = 256

// inForce records that a topic is in force. The node is locked.
func (n *node) inForce(topic string) {
	delete(n.failed, topic)
	if _, exposed := n.exposed[topic]; exposed {
		delete(n.exposed, topic)
		n.addGapOf(topic)
	}
	n.endWaits(topic)
	if n.hub.config.TopicOptions == nil {
		return
	}
	if to, ok := nodewire.TargetOf(topic); ok {
		n.presenceSyncs[to] = struct{}{}
		wake(n.presenceWake)
	} else if nodewire.IsHashed(topic) {
		n.syncAllPresence()
	}
}

// isInForce reports whether a topic is in force. The node is locked.
func (n *node) isInForce(topic string) bool {
	_, requested := n.topics[topic]
	_, subscribing := n.subscribing[topic]
	_, failed := n.failed[topic]
	return requested && !subscribing && !failed
}

// endWaits ends the waiting for a topic. The node is locked.
func (n *node) endWaits(topic string) {
	waits := n.waiting[topic]
	delete(n.waiting, topic)
	for _, w := range waits {
		if w.missing--; w.missing == 0 {
			close(w.done)
		}
	}
}

// awaitTopics returns a topicWait for those of the topics that are not in force. The
// node is locked.
func (n *node) awaitTopics(topics []string) *topicWait {
	w := &topicWait{done: make(chan struct{})}
	for _, topic := range topics {
		if !n.isInForce(topic) {
			w.topics = append(w.topics, topic)
			n.waiting[topic] = append(n.waiting[topic], w)
		}
	}
	w.missing = len(w.topics)
	if w.missing == 0 {
		close(w.done)
	}
	return w
}

// abandon ends the use of w. The node is locked.
func (n *node) abandon(w *topicWait) {
	for _, topic := range w.topics {
		waits := slices.DeleteFunc(n.waiting[topic], func(other *topicWait) bool { return other == w })
		if len(waits) == 0 {
			delete(n.waiting, topic)
		} else {
			n.waiting[topic] = waits
		}
	}
}

// queueJoin queues m, a request of c to join a topic, until the topic is in force and its
// history on this node. Then it calls run with a copy of m, and an error if that cannot be
// expected soon. It reports false if c can join at once: without a history to read also if
// there is no ack to wait for.
func (n *node) queueJoin(c *Client, kind TopicKind, name string, m *Message, run func(*Message, error)) bool {
	topic := target{Audience: kind.audience(), Name: name}.Topic()
	var since *Position
	if n.histories != nil {
		from, _ := c.codec.decodeResume(m.Data)
		since = from.since
	}
	open := n.hub.events.mustOpen(kind, name, since)
	n.mu.Lock()
	if n.joins[c] == nil && !open && (m.ID == "" || n.state == BrokerDown || n.isInForce(topic)) {
		n.mu.Unlock()
		return false
	}
	n.hold(topic)
	kept := m.Clone()
	n.enqueueJoin(c, queuedJoin{topics: []string{topic}, held: topic, open: open, kind: kind, name: name, since: since, cost: messageCost(kept), run: func(err error) { run(kept, err) }})
	return true
}

// hold keeps a topic requested until release. The node is locked.
func (n *node) hold(topic string) {
	h := n.holds[topic]
	if h == nil {
		interested, changes := n.pending[topic]
		if !changes {
			_, interested = n.topics[topic]
		}
		h = &topicHold{interested: interested}
		n.holds[topic] = h
	}
	h.joins++
	n.requestTopic(topic, true)
}

// queueHello queues run, which acknowledges hub:hello, until all topics of c are in
// force. It reports false if they are.
func (n *node) queueHello(c *Client, run func()) bool {
	topics := []string{nodewire.TopicBroadcast, target{Audience: toClients, Name: c.ID}.Topic()}
	for kind := range topicKinds {
		for _, name := range n.hub.events.topicNames(c, kind) {
			topics = append(topics, target{Audience: kind.audience(), Name: name}.Topic())
		}
	}
	n.mu.Lock()
	missing := slices.ContainsFunc(topics, func(topic string) bool { return !n.isInForce(topic) })
	if n.joins[c] == nil && (!missing || n.state == BrokerDown) {
		n.mu.Unlock()
		return false
	}
	n.enqueueJoin(c, queuedJoin{topics: topics, run: func(error) { run() }})
	return true
}

// enqueueJoin queues a request and waits while the queue is full. The peer is watched
// meanwhile. It runs on the readPump, and unlocks the node.
func (n *node) enqueueJoin(c *Client, j queuedJoin) {
	j.cost += entryCost
	c.charge(j.cost)
	j.deadline = time.Now().Add(n.hub.config.BrokerTimeout)
	if n.state != BrokerDown {
		j.wait = n.awaitTopics(j.topics)
	}
	q := n.joins[c]
	if q == nil {
		q = &joinQueue{idle: make(chan struct{})}
		n.joins[c] = q
		n.joining.Add(1)
		go n.runJoins(c, q) // ends when the queue is empty; disconnect waits for it
	}
	q.queue = append(q.queue, j)
	if len(q.queue) < maxJoins {
		n.mu.Unlock()
		return
	}
	q.space = make(chan struct{})
	space := q.space
	n.mu.Unlock()
	c.conn.beginCallback()
	defer c.conn.endCallback()
	<-space
}

// runJoins carries out the requests of a queue.
func (n *node) runJoins(c *Client, q *joinQueue) {
	finished := false
	defer func() {
		if !finished {
			go n.runJoins(c, q) // a hook has ended this goroutine
		}
	}()
	for {
		n.mu.Lock()
		if len(q.queue) == 0 {
			delete(n.joins, c)
			n.joining.Add(-1)
			close(q.idle)
			n.mu.Unlock()
			finished = true
			return
		}
		j := q.queue[0]
		q.queue[0] = queuedJoin{}
		q.queue = q.queue[1:]
		if q.space != nil {
			close(q.space)
			q.space = nil
		}
		n.mu.Unlock()
		n.runJoin(c, &j)
	}
}

// runJoin waits for a request's topics and carries it out. The members of a topic
// that is still not in force get a gap when it is.
func (n *node) runJoin(c *Client, j *queuedJoin) {
	defer n.release(j.held)
	defer c.charge(-j.cost)
	if j.wait != nil {
		timeout := time.NewTimer(time.Until(j.deadline))
		defer timeout.Stop()
		select {
		case <-j.wait.done:
		case <-timeout.C:
		case <-c.Context().Done():
		case <-n.hub.events.done:
		}
	}
	n.mu.Lock()
	if j.wait != nil {
		n.abandon(j.wait)
	}
	for _, topic := range j.topics {
		n.expose(topic)
	}
	n.mu.Unlock()
	if !j.open {
		j.run(nil)
		return
	}
	ctx, cancel := context.WithDeadline(c.Context(), j.deadline)
	defer cancel()
	release, err := n.openHistory(ctx, j.kind, j.name, j.since)
	if err != nil {
		j.run(fmt.Errorf("%w: %w", errNotAvailable, err))
		return
	}
	defer release()
	j.run(nil)
}

// expose makes the members of a requested topic get a gap when it is in force, unless it is
// already. The node is locked.
func (n *node) expose(topic string) {
	_, requested := n.topics[topic]
	if (requested || n.pending[topic]) && !n.isInForce(topic) {
		n.exposed[topic] = struct{}{}
	}
}

// release ends a join's hold of a topic.
func (n *node) release(topic string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := n.holds[topic]
	if h == nil {
		return
	}
	if h.joins--; h.joins == 0 {
		delete(n.holds, topic)
		n.requestTopic(topic, h.interested)
	}
}

// finishJoins waits until the queued requests of a client are carried out. It is called
// after the end of the connection.
func (n *node) finishJoins(c *Client) {
	if q := n.joinsOf(c); q != nil {
		<-q.idle
	}
}

// finishJoinsWatched is finishJoins for an open connection. The peer is watched meanwhile.
// It runs on the readPump.
func (n *node) finishJoinsWatched(c *Client) {
	if q := n.joinsOf(c); q != nil {
		c.conn.beginCallback()
		defer c.conn.endCallback()
		<-q.idle
	}
}

// joinsOf returns the queue of a client, or nil.
func (n *node) joinsOf(c *Client) *joinQueue {
	if n.joining.Load() == 0 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.joins[c]
}

// ready is BrokerReady of a hub with a broker.
func (n *node) ready(ctx context.Context) error {
	n.mu.Lock()
	var topics []string // not in force yet
	for topic, interested := range n.pending {
		if interested {
			topics = append(topics, topic)
		}
	}
	for topic := range n.subscribing {
		topics = append(topics, topic)
	}
	for topic := range n.failed {
		topics = append(topics, topic)
	}
	for { // the node is locked
		err := ctx.Err()
		if err == nil && n.hub.stopping() {
			err = ErrHubClosed
		}
		if err != nil {
			n.mu.Unlock()
			return err
		}
		topics = slices.DeleteFunc(topics, func(topic string) bool {
			_, requested := n.topics[topic]
			return n.isInForce(topic) || !requested && !n.pending[topic]
		})
		if n.state == BrokerUp && len(topics) == 0 {
			n.mu.Unlock()
			return nil
		}
		if err := n.unlockAndWait(ctx); err != nil {
			return err
		}
		n.mu.Lock()
	}
}
