package websocket

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// node is a hub's place among the hubs that share an engine. Local publications
// are queued here in the log's order and handed to the broker by one goroutine;
// what arrives is appended to the log like any other. Three more goroutines keep
// the subscriptions, announce gaps, and answer questions. None of them is a hub
// goroutine, and the broker is never called with a lock held.
type node struct {
	hub    *Hub
	broker Broker
	id     uint64
	name   string

	ctx      context.Context // ends with stop
	cancel   context.CancelFunc
	loops    sync.WaitGroup
	started  bool
	stopping chan struct{} // closed by stop

	// Capacity 1 each; whoever brings work sends, a loop receives; never closed.
	sendWake, topicWake, gapWake chan struct{}
	questions                    chan question // Receive sends, the answering loop receives; never closed

	sequence uint64 // of what this node sends; owned by the sending loop
	buffer   []byte // the sending loop's

	published, received, unsent, outages atomic.Uint64
	repeated, oversized, malformed       atomic.Uint64

	mu      sync.Mutex // taken with the log's lock held, never the other way round
	state   BrokerState
	since   time.Time
	reason  error
	stopped bool
	queue   []outgoing
	queued  int64         // bytes of queue and of the batch under way
	lost    targets       // publications of ours that others may not have got
	gaps    targets       // what our members are to be told of
	change  chan struct{} // closed at the next change; nil while nobody waits

	clients  map[string]int      // connections by ID
	topics   map[string]struct{} // what the broker was asked for
	dirty    map[string]bool     // topics to be added or removed
	failed   map[string]struct{} // of topics: not known to be in force
	applying bool

	peers peerTable
	asked askTable
}

// target is whom a publication is for: a channel, a room, one client by ID, or
// all clients if the name is empty.
type target struct {
	to   audience
	name string
}

// Topics. Long names are hashed: a topic only leads to the nodes concerned, and
// the name is in the payload.
const (
	topicBroadcast = "b"
	topicNodes     = "q" // announcements and questions
	maxTopicName   = 500
)

var topicPrefixes = [...]string{toClients: "u.", toChannel: "c.", toRoom: "r."}

func (t target) topic() string {
	if t.to == toClients && t.name == "" {
		return topicBroadcast
	}
	if len(t.name) > maxTopicName {
		sum := sha256.Sum256([]byte(t.name))
		return "h" + topicPrefixes[t.to] + hex.EncodeToString(sum[:])
	}
	return topicPrefixes[t.to] + t.name
}

// targetOf is the reverse of topic where there is one.
func targetOf(topic string) (t target, ok bool) {
	if topic == topicBroadcast {
		return target{}, true
	}
	for to, prefix := range topicPrefixes {
		if name, found := strings.CutPrefix(topic, prefix); found {
			return target{audience(to), name}, true
		}
	}
	return target{}, false
}

func nodeTopic(id uint64) string { return "n." + nodeHex(id) }

func nodeHex(id uint64) string {
	return hex.EncodeToString(binary.BigEndian.AppendUint64(nil, id))
}

// targets is a bounded set; beyond the bound it stands for everything.
type targets struct {
	all bool
	set map[target]struct{}
}

const maxTargets = 1024

func (t *targets) add(one target) {
	if t.all {
		return
	}
	if len(t.set) >= maxTargets {
		*t = targets{all: true}
		return
	}
	if t.set == nil {
		t.set = make(map[target]struct{})
	}
	t.set[one] = struct{}{}
}

func (t *targets) empty() bool { return !t.all && len(t.set) == 0 }

// outgoing waits for the engine.
type outgoing struct {
	kind  wireKind
	to    target
	topic string       // instead of to's
	pub   *publication // of kindPublication
	body  []byte       // of the other kinds
}

func (o *outgoing) cost() int64 {
	if o.pub != nil {
		return o.pub.cost
	}
	return int64(entryCost + len(o.body))
}

func newNode(h *Hub) *node {
	n := &node{
		hub: h, broker: h.config.Broker, name: h.config.NodeName,
		stopping: make(chan struct{}),
		sendWake: make(chan struct{}, 1), topicWake: make(chan struct{}, 1), gapWake: make(chan struct{}, 1),
		questions: make(chan question, maxQuestions),
		state:     BrokerStarting, since: time.Now(),
		clients: make(map[string]int), topics: make(map[string]struct{}),
		dirty: make(map[string]bool), failed: make(map[string]struct{}),
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	n.id = binary.BigEndian.Uint64(id[:])
	if n.name == "" {
		n.name = nodeHex(n.id)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.peers.known = make(map[uint64]*peer)
	n.asked.open = make(map[uint64]*asking)
	n.want(topicNodes, true)
	n.want(nodeTopic(n.id), true)
	return n
}

// start opens the broker and begins to work with it.
func (n *node) start() error {
	if err := n.broker.Open(n); err != nil {
		n.Down(err)
		return fmt.Errorf("websocket: broker: %w", err)
	}
	n.started = true
	for _, loop := range []func(){n.sendLoop, n.topicLoop, n.gapLoop, n.answerLoop} {
		n.loops.Add(1)
		go func() { // ends after stopping is closed
			defer n.loops.Done()
			loop()
		}()
	}
	return nil
}

// stop hands over what is queued, says goodbye and closes the broker. The log is
// closed. It reports whether the broker has let go.
func (n *node) stop() bool {
	n.mu.Lock()
	n.stopped = true
	n.mu.Unlock()
	close(n.stopping)
	n.cancel()
	ended := make(chan struct{}) // closed below
	go func() {                  // ends with the loops and the broker
		defer close(ended)
		n.loops.Wait()
		if err := n.broker.Close(); err != nil {
			n.hub.logger.Warningf("websocket: closing the broker: %v", err)
		}
	}()
	if !waitFor(ended, n.hub.config.CallbackTimeout) {
		return false
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropQueue()
	return true
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it will look
	}
}

// changed tells those who wait for a change. The node is locked.
func (n *node) changed() {
	if n.change != nil {
		close(n.change)
		n.change = nil
	}
}

// waitChange unlocks the node and waits for the next change.
func (n *node) waitChange(ctx context.Context) error {
	if n.change == nil {
		n.change = make(chan struct{})
	}
	change := n.change
	n.mu.Unlock()
	select {
	case <-change:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.hub.log.done:
		return ErrHubClosed
	}
}

// Health.

// setState notes a new state. The node is locked; what is returned logs it and
// is called when it is not.
func (n *node) setState(state BrokerState, reason error) (say func()) {
	before, log := n.state, n.hub.logger
	n.reason = reason
	if state == before {
		return func() {}
	}
	lasted := time.Since(n.since).Round(time.Millisecond)
	n.state, n.since = state, time.Now()
	switch {
	case state != BrokerUp:
		if before == BrokerUp || before == BrokerStarting {
			n.outages.Add(1)
		}
		n.dropQueue()
		say = func() { log.Warningf("websocket: broker is %s, other nodes are not reached: %v", state, reason) }
	case before == BrokerStarting:
		say = func() { log.Infof("websocket: broker is up") }
	default:
		say = func() { log.Infof("websocket: broker is up again after %v", lasted) }
	}
	n.changed()
	wake(n.sendWake)
	return say
}

// Up implements BrokerHandler.
func (n *node) Up() {
	n.mu.Lock()
	if n.state == BrokerDown || n.state == BrokerStalled {
		n.gaps = targets{all: true}
		wake(n.gapWake)
	}
	clear(n.failed)
	n.peers.refresh()
	say := n.setState(BrokerUp, nil)
	if !n.stopped {
		n.enqueue(outgoing{kind: kindHello, topic: topicNodes, body: n.hello(true)})
	}
	n.changed()
	n.mu.Unlock()
	say()
}

// Down implements BrokerHandler.
func (n *node) Down(err error) {
	n.mu.Lock()
	say := n.setState(BrokerDown, err)
	n.mu.Unlock()
	say()
}

// Lost implements BrokerHandler.
func (n *node) Lost(topics ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, topic := range topics {
		if to, ok := targetOf(topic); ok {
			n.gaps.add(to)
		} else if strings.HasPrefix(topic, "h") {
			n.gaps = targets{all: true}
		}
	}
	if len(topics) == 0 {
		n.gaps = targets{all: true}
	}
	wake(n.gapWake)
}

func (n *node) health(h *Health) {
	n.mu.Lock()
	defer n.mu.Unlock()
	h.Node, h.Broker, h.Since = n.name, n.state, n.since
	if n.reason != nil {
		h.Reason = n.reason.Error()
	}
}

func (n *node) stats() *BrokerStats {
	n.mu.Lock()
	defer n.mu.Unlock()
	return &BrokerStats{
		State: n.state, Nodes: 1 + n.peers.count(), Subscriptions: len(n.topics), QueuedBytes: n.queued,
		Published: n.published.Load(), Received: n.received.Load(), Unsent: n.unsent.Load(), Outages: n.outages.Load(),
		Repeated: n.repeated.Load(), Oversized: n.oversized.Load(), Malformed: n.malformed.Load(),
	}
}

// Sending.

// fits reports whether the engine takes m.
func (n *node) fits(m *Message, name string) bool {
	limit := n.broker.MaxPayload()
	return limit <= 0 || messageCost(m)+int64(len(name))+maxHead <= int64(limit)
}

// forward queues a publication for the other nodes and takes a hold on it. It
// does not wait. The log may be locked.
func (n *node) forward(to target, pub *publication) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	full := n.queued > 0 && n.queued+pub.cost > 2*n.hub.config.BrokerQueue
	if full || n.stopped || n.state == BrokerDown || n.state == BrokerStalled {
		n.unsent.Add(1)
		n.lost.add(to)
		return ErrBrokerUnavailable
	}
	pub.retain(1)
	n.enqueue(outgoing{kind: kindPublication, to: to, pub: pub})
	return nil
}

// enqueue appends to the queue. The node is locked.
func (n *node) enqueue(o outgoing) {
	n.queue = append(n.queue, o)
	n.queued += o.cost()
	wake(n.sendWake)
}

// tell queues something of the node's own, unless nothing can be sent.
func (n *node) tell(kind wireKind, topic string, body []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped || n.state == BrokerDown || n.state == BrokerStarting || n.queued > 2*n.hub.config.BrokerQueue {
		return false
	}
	n.enqueue(outgoing{kind: kind, topic: topic, body: body})
	return true
}

// pace waits while the queue is full and the engine takes something.
func (n *node) pace(ctx context.Context) {
	for {
		n.mu.Lock()
		if n.queued <= n.hub.config.BrokerQueue || n.state != BrokerUp || n.stopped {
			n.mu.Unlock()
			return
		}
		if n.waitChange(ctx) != nil {
			return // it is accepted all the same
		}
	}
}

// dropQueue gives up what waits. The node is locked.
func (n *node) dropQueue() {
	for i := range n.queue {
		n.giveUp(&n.queue[i])
	}
	n.queue = nil
	n.changed()
}

// giveUp lets go of what was not sent. The node is locked.
func (n *node) giveUp(o *outgoing) {
	n.queued -= o.cost()
	switch o.kind {
	case kindPublication:
		n.unsent.Add(1)
		n.lost.add(o.to)
		o.pub.release()
	case kindLost:
		n.lost.add(o.to)
	case kindLostAll:
		n.lost = targets{all: true}
	}
}

// Bounds of one batch.
const (
	batchCount = 512
	batchBytes = 1 << 20
)

// sendLoop hands the queue to the broker and announces the node.
func (n *node) sendLoop() {
	announce := time.NewTimer(0)
	defer announce.Stop()
	for {
		select {
		case <-n.sendWake:
		case <-announce.C:
			n.peers.expire(n.silence(), n.isUp())
			n.tell(kindHello, topicNodes, n.hello(false))
			announce.Reset(jitter(n.hub.config.AnnounceInterval))
		case <-n.stopping:
			n.sayBye()
			return
		}
		for n.sendBatch(context.Background()) {
		}
	}
}

// hello introduces this node, and may ask the others to do the same.
func (n *node) hello(asks bool) []byte {
	first := byte(helloTells)
	if asks {
		first = helloAsks
	}
	return append([]byte{first}, n.name...)
}

// silence is how long a node may go unheard.
func (n *node) silence() time.Duration {
	return missedSilence * n.hub.config.AnnounceInterval * 6 / 5
}

// sayBye sends what is queued and takes leave, within BrokerTimeout.
func (n *node) sayBye() {
	ctx, cancel := context.WithTimeout(context.Background(), n.hub.config.BrokerTimeout)
	defer cancel()
	n.mu.Lock()
	if n.state == BrokerUp {
		n.enqueue(outgoing{kind: kindBye, topic: topicNodes})
	}
	n.mu.Unlock()
	for n.sendBatch(ctx) {
	}
}

// jitter spreads what many nodes do at intervals.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + mathrand.N(2*d/5+1)
}

// sendBatch sends the beginning of the queue. It reports whether there may be
// more to send now.
func (n *node) sendBatch(ctx context.Context) bool {
	batch := n.takeBatch()
	if len(batch) == 0 {
		return false
	}
	messages, publications := n.encode(batch)
	ctx, cancel := context.WithTimeout(ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	var err error
	if len(messages) > 0 {
		err = n.broker.Publish(ctx, messages)
	}

	if err == nil {
		n.published.Add(publications)
	}
	n.settle(batch, err)
	return err == nil
}

// settle accounts for a batch that the broker has taken, or not.
func (n *node) settle(batch []outgoing, err error) {
	say := func() {}
	n.mu.Lock()
	for i := range batch {
		o := &batch[i]
		switch {
		case o.kind == kindNone: // given up by encode
		case err != nil:
			n.giveUp(o)
		default:
			n.queued -= o.cost()
			o.pub.discard()
		}
	}
	switch {
	case err == nil && n.state == BrokerStalled:
		say = n.setState(BrokerUp, nil)
	case err == nil || errors.Is(err, ErrMessageTooLarge):
	case n.state == BrokerUp || n.state == BrokerStalled:
		say = n.setState(BrokerStalled, err)
	}
	n.changed()
	n.mu.Unlock()
	say()
}

// takeBatch takes what is sent next: first what others have to be told of
// earlier losses.
func (n *node) takeBatch() []outgoing {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == BrokerStarting || n.state == BrokerDown {
		return nil
	}
	if n.state == BrokerUp && !n.lost.empty() {
		batch := n.lossNotices()
		for i := range batch {
			n.queued += batch[i].cost()
		}
		return batch
	}
	count, bytes := 0, int64(0)
	for count < len(n.queue) && count < batchCount && bytes < batchBytes {
		bytes += n.queue[count].cost()
		count++
	}
	batch := n.queue[:count:count]
	if n.queue = n.queue[count:]; len(n.queue) == 0 {
		n.queue = nil
	}
	return batch
}

// lossNotices empties lost. The node is locked.
func (n *node) lossNotices() (batch []outgoing) {
	if n.lost.all {
		batch = []outgoing{{kind: kindLostAll, topic: topicBroadcast}}
	}
	for to := range n.lost.set {
		batch = append(batch, outgoing{kind: kindLost, to: to})
	}
	n.lost = targets{}
	return batch
}

// encode makes the payloads of a batch in the loop's buffer. What is too large
// for the engine is given up.
func (n *node) encode(batch []outgoing) (messages []BrokerMessage, publications uint64) {
	limit := n.broker.MaxPayload()
	out := n.buffer[:0]
	ends := make([]int, 0, len(batch))
	messages = make([]BrokerMessage, 0, len(batch))
	for i := range batch {
		o := &batch[i]
		begin := len(out)
		n.sequence++
		head := wireHead{node: n.id, sequence: n.sequence, kind: o.kind, to: o.to}
		topic := o.topic
		if topic == "" {
			topic = o.to.topic()
		}
		if o.kind == kindPublication && o.to.to != toClients {
			head.to.name = "" // the envelope's Channel
		}
		out = head.append(out)
		if o.pub != nil {
			var err error
			if out, err = (ProtobufCodec{}).AppendMarshal(out, &o.pub.msg); err != nil {
				n.hub.logger.Errorf("websocket: publication for %s cannot be sent to other nodes: %v", topic, err)
				out = n.skip(o, out[:begin])
				continue
			}
		} else {
			out = append(out, o.body...)
		}
		if limit > 0 && len(out)-begin > limit {
			n.hub.logger.Errorf("websocket: publication for %s is too large for the broker", topic)
			out = n.skip(o, out[:begin])
			continue
		}
		if o.pub != nil {
			publications++
		}
		ends = append(ends, len(out))
		messages = append(messages, BrokerMessage{Topic: topic})
	}
	begin := 0
	for i, end := range ends { // now that out has its place
		messages[i].Payload = out[begin:end:end]
		begin = end
	}
	if cap(out) <= 4*batchBytes {
		n.buffer = out
	}
	return messages, publications
}

// skip gives up one of a batch.
func (n *node) skip(o *outgoing, out []byte) []byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.giveUp(o)
	*o = outgoing{}
	return out
}

// send hands a message to whichever node has the client.
func (n *node) send(ctx context.Context, id string, m *Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if id == "" {
		return ErrClientNotFound
	}
	p, err := n.hub.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return err
	}
	err = n.forward(target{toClients, id}, p)
	p.release()
	if err == nil {
		n.pace(ctx)
	}
	return err
}

// Subscriptions.

// came and went follow the clients; first and last tell of the only one. The log
// is locked.
func (n *node) came(id string, first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[id]++; n.clients[id] == 1 {
		n.wantLocked(target{toClients, id}.topic(), true)
	}
	if first {
		n.wantLocked(topicBroadcast, true)
	}
}

func (n *node) went(id string, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[id]--; n.clients[id] == 0 {
		delete(n.clients, id)
		n.wantLocked(target{toClients, id}.topic(), false)
	}
	if last {
		n.wantLocked(topicBroadcast, false)
	}
}

// want records that a topic has or has no members here. The log may be locked.
func (n *node) want(topic string, wanted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wantLocked(topic, wanted)
}

func (n *node) wantLocked(topic string, wanted bool) {
	if n.hub.stopping() {
		return // the broker is about to be closed
	}
	if _, there := n.topics[topic]; there == wanted {
		delete(n.dirty, topic)
	} else {
		n.dirty[topic] = wanted
		wake(n.topicWake)
	}
	if len(n.dirty) == 0 {
		n.changed()
	}
}

// Bounds of one call and of the delay between attempts.
const (
	topicBatch    = 1024
	firstRetry    = 250 * time.Millisecond
	longestRetry  = 15 * time.Second
	gapDelay      = time.Second
	gapBatch      = 64
	maxQuestions  = 64
	missedSilence = 3 // announcements
)

// topicLoop makes the broker's subscriptions follow the members.
func (n *node) topicLoop() {
	retry := time.NewTimer(longestRetry)
	retry.Stop()
	defer retry.Stop()
	delay, armed := firstRetry, false
	for {
		select {
		case <-n.topicWake:
		case <-retry.C:
			armed = false
			if n.retryFailed() {
				delay = firstRetry
			} else {
				delay = min(2*delay, longestRetry)
			}
		case <-n.stopping:
			return
		}
		for n.applyTopics() {
		}
		if !armed && n.hasFailed() {
			armed = true
			retry.Reset(jitter(delay))
		}
	}
}

func (n *node) hasFailed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.failed) > 0
}

// applyTopics passes on changes. It reports whether there were any.
func (n *node) applyTopics() bool {
	var add, remove []string
	n.mu.Lock()
	for topic, wanted := range n.dirty {
		if len(add) == topicBatch || len(remove) == topicBatch {
			break
		}
		delete(n.dirty, topic)
		if wanted {
			n.topics[topic] = struct{}{}
			add = append(add, topic)
		} else {
			delete(n.topics, topic)
			delete(n.failed, topic)
			remove = append(remove, topic)
		}
	}
	n.applying = len(add)+len(remove) > 0
	n.mu.Unlock()
	if len(add)+len(remove) == 0 {
		return false
	}
	var err error
	if len(remove) > 0 {
		if err := n.withTimeout(n.broker.Unsubscribe, remove); err != nil {
			n.hub.logger.Debugf("websocket: broker does not unsubscribe: %v", err)
		}
	}
	if len(add) > 0 {
		err = n.withTimeout(n.broker.Subscribe, add)
	}
	n.noteSubscribed(add, err)
	return n.ctx.Err() == nil
}

// retryFailed tries what failed while the broker is up; when it is not, Up will
// tell. What was published meanwhile is lost. It reports whether nothing is left.
func (n *node) retryFailed() bool {
	n.mu.Lock()
	again := make([]string, 0, min(len(n.failed), topicBatch))
	for topic := range n.failed {
		if n.state != BrokerUp || len(again) == topicBatch {
			break
		}
		again = append(again, topic)
	}
	n.mu.Unlock()
	if len(again) == 0 {
		return true
	}
	err := n.withTimeout(n.broker.Subscribe, again)
	if err == nil {
		n.Lost()
	}
	n.noteSubscribed(again, err)
	return err == nil
}

// noteSubscribed notes what became of subscribing.
func (n *node) noteSubscribed(topics []string, err error) {
	n.mu.Lock()
	n.applying = false
	for _, topic := range topics {
		if _, there := n.topics[topic]; there && err != nil {
			n.failed[topic] = struct{}{}
		} else {
			delete(n.failed, topic)
		}
	}
	report := err != nil && n.state == BrokerUp && n.ctx.Err() == nil
	n.changed()
	n.mu.Unlock()
	if err == nil && slices.Contains(topics, topicNodes) {
		n.tell(kindHello, topicNodes, n.hello(true)) // now that answers can come
	}
	if report {
		n.hub.logger.Warningf("websocket: %d subscriptions at the broker failed, trying again: %v", len(topics), err)
	}
}

func (n *node) withTimeout(f func(context.Context, []string) error, topics []string) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	return f(ctx, topics)
}

func (n *node) ready(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n.mu.Lock()
		if n.hub.stopping() {
			n.mu.Unlock()
			return ErrHubClosed
		}
		if n.state == BrokerUp && len(n.dirty) == 0 && !n.applying && len(n.failed) == 0 {
			n.mu.Unlock()
			return nil
		}
		if err := n.waitChange(ctx); err != nil {
			return err
		}
	}
}

// Receiving.

// Receive implements BrokerHandler. It waits while the log is full.
func (n *node) Receive(payload []byte) {
	head, body, err := parseHead(payload)
	if err != nil {
		n.malformed.Add(1)
		n.hub.logger.Debugf("websocket: from the broker: %v", err)
		return
	}
	if head.node == n.id {
		return
	}
	if !n.peers.saw(head.node, head.sequence) {
		n.repeated.Add(1)
		return
	}
	switch head.kind {
	case kindPublication:
		n.deliver(head.to, body)
	case kindLost:
		n.mu.Lock()
		n.gaps.add(head.to)
		n.mu.Unlock()
		wake(n.gapWake)
	case kindLostAll:
		n.Lost()
	case kindHello:
		if len(body) > 0 {
			n.peers.hello(head.node, string(body[1:]))
			if body[0] == helloAsks {
				n.tell(kindHello, nodeTopic(head.node), n.hello(false))
			}
		}
	case kindBye:
		n.asked.gone(head.node)
		n.peers.bye(head.node)
	case kindQuestion:
		n.takeQuestion(head.node, body)
	case kindAnswer:
		n.takeAnswer(head.node, body)
	}
}

// deliver appends another node's publication to the log.
func (n *node) deliver(to target, envelope []byte) {
	h := n.hub
	m := AcquireMessage()
	defer m.Release()
	if err := (ProtobufCodec{}).Unmarshal(envelope, m); err != nil {
		n.malformed.Add(1)
		return
	}
	if messageCost(m) > min(h.config.ClientBacklog, h.config.LogSize) {
		n.oversized.Add(1)
		n.mu.Lock()
		n.gaps.add(target{to.to, m.Channel})
		n.mu.Unlock()
		wake(n.gapWake)
		return
	}
	n.received.Add(1)
	pub := h.newPublication(m, to.to)
	pub.remote = true
	ctx := context.Background()
	var err error
	switch {
	case to.to == toChannel:
		err = h.log.publish(ctx, channelTopic, m.Channel, pub, nil, nil)
	case to.to == toRoom:
		err = h.log.publish(ctx, roomTopic, m.Channel, pub, nil, nil)
	case to.name == "":
		err = h.log.broadcast(ctx, pub, nil, nil)
	default:
		c, ok := h.Client(to.name)
		if !ok {
			pub.release() // it has just gone
			return
		}
		err = h.log.send(ctx, c, pub)
	}
	if err != nil && !errors.Is(err, ErrHubClosed) && !errors.Is(err, ErrClientClosed) {
		h.logger.Errorf("websocket: publication from another node was not accepted: %v", err)
	}
}

// Gap notices.

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
		s.push(c, runs[c.slotOf], gap.order, r)
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
