package websocket

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
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
	topic string       // instead of to's, where it is not empty
	pub   *publication // of kindPublication
	body  []byte       // of the other kinds
}

func (o *outgoing) cost() int64 {
	if o.pub != nil {
		return o.pub.cost
	}
	return int64(entryCost + len(o.body))
}

func (o *outgoing) address() string {
	if o.topic != "" {
		return o.topic
	}
	return o.to.topic()
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
		if to.to != toClients {
			to.name = m.Channel // the head leaves it out
		}
		n.gaps.add(to)
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
