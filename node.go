package websocket

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

type (
	target  = nodewire.Target
	targets = nodewire.Targets
)

// node connects a hub with the other hubs of its cluster.
//
// Publications of this hub are queued here in the order of the event log, and
// sendLoop publishes them to the broker. Publications of other nodes arrive in
// Receive, which appends them to the event log. topicLoop keeps the broker's
// subscriptions in step with the members, gapLoop sends gap notices, and
// answerLoop answers questions of other nodes. None of these loops is a hub
// goroutine. The broker is never called with a lock held.
type node struct {
	hub       *Hub
	broker    Broker
	histories HistoryBroker // the broker, or nil if there are no histories
	id        uint64
	name      string

	ctx      context.Context // ends with stop
	cancel   context.CancelFunc
	loops    sync.WaitGroup
	stopping chan struct{} // closed by stop

	// Each has capacity 1 and is never closed. A goroutine that adds work sends,
	// the loop receives.
	sendWake, topicWake, gapWake, appendWake, presenceWake chan struct{}
	questions                                              chan question // Receive sends, answerLoop receives; never closed

	sequence uint64 // of the latest payload; owned by sendLoop
	buffer   []byte // for encoding batches; owned by sendLoop

	joining atomic.Int64 // length of joins

	asking atomic.Int64  // bytes of the questions of other nodes that are not answered yet
	acting chan struct{} // holds an element for each running action; see startAction

	published, received, unsent, outages atomic.Uint64
	repeated, late, oversized, healed    atomic.Uint64
	malformed, unknown                   atomic.Uint64

	mu      sync.Mutex // may be locked with the log's lock held, never the other way round
	state   BrokerState
	since   time.Time
	reason  error
	stopped bool
	queue   []outgoing
	queued  int64         // bytes in queue and in the batch that is being published
	lost    targets       // of publications that did not reach the engine; other nodes get a loss notice
	gaps    pendingGaps   // local members that get a gap notice
	change  chan struct{} // closed at the next change; nil if no goroutine waits

	clients     map[string]clientEntry // by client ID
	topics      map[string]struct{}    // requested from the broker
	pending     map[string]bool        // topics to request (true) or to give up (false)
	subscribing map[string]struct{}    // those of topics for which Subscribe has not returned
	failed      map[string]struct{}    // those of topics for which it has failed
	exposed     map[string]struct{}    // topics whose members may have missed publications before they are in force
	holds       map[string]*topicHold
	waiting     map[string][]*topicWait
	joins       map[*Client]*joinQueue

	discoverBy time.Time // when all live nodes have announced themselves; zero before the first Up
	discovered bool      // all live nodes are known, even before discoverBy

	unknownTold  bool // dropUnknown has announced a gap since the latest announcement
	unknownSince bool // it has dropped payloads since then

	appends  []*appending // publications that wait for appendLoop
	appended int64        // bytes in appends and in the batch that is being appended
	heals    []heal       // work that waits for a healer
	latest   latestAppends
	healers  int // goroutines that run runHeals

	presenceClock   uint64              // of the latest presenceState; guarded by the log's lock
	presenceSyncs   map[target]struct{} // work of presenceLoop, as the following fields
	presenceSyncAll bool
	presenceUnsent  bool // a state did not reach the engine: all are announced again after the failure
	presenceGone    []uint64

	peers nodewire.Peers
	asked questionTable
}

func newNode(h *Hub) *node {
	n := &node{
		hub: h, broker: h.config.Broker, name: h.config.NodeName,
		stopping: make(chan struct{}),
		sendWake: make(chan struct{}, 1), topicWake: make(chan struct{}, 1), gapWake: make(chan struct{}, 1), appendWake: make(chan struct{}, 1), presenceWake: make(chan struct{}, 1),
		questions: make(chan question, maxQuestions), acting: make(chan struct{}, maxActions),
		state: BrokerStarting, since: time.Now(),
		clients: make(map[string]clientEntry), topics: make(map[string]struct{}),
		pending: make(map[string]bool), failed: make(map[string]struct{}), subscribing: make(map[string]struct{}),
		exposed: make(map[string]struct{}), holds: make(map[string]*topicHold), waiting: make(map[string][]*topicWait),
		joins: make(map[*Client]*joinQueue), presenceSyncs: make(map[target]struct{}),
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	n.id = binary.BigEndian.Uint64(id[:])
	if n.name == "" {
		n.name = nodewire.NodeName(n.id)
	}
	if h.config.TopicOptions != nil {
		n.histories, _ = n.broker.(HistoryBroker)
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.asked.open = make(map[uint64]*openQuestion)
	n.setInterest(nodewire.TopicNodes, true)
	n.setInterest(nodewire.NodeTopic(n.id), true)
	return n
}

// start opens the broker and starts the loops.
func (n *node) start() error {
	if err := n.broker.Open(n); err != nil {
		n.Down(err)
		return fmt.Errorf("websocket: broker: %w", err)
	}
	loops := []func(){n.sendLoop, n.topicLoop, n.gapLoop, n.answerLoop, n.presenceLoop}
	if n.histories != nil {
		loops = append(loops, n.appendLoop)
	}
	for _, loop := range loops {
		n.loops.Go(loop) // ends after stopping is closed
	}
	return nil
}

// stop publishes the rest of the queue, sends a bye and closes the broker. The log
// must be closed. It reports whether the broker was closed within CallbackTimeout.
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

// wake makes the loop that receives from c run once more.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // the loop is already due to run
	}
}

// signalChange ends the waiting of all calls of unlockAndWait. The node is locked.
func (n *node) signalChange() {
	if n.change != nil {
		close(n.change)
		n.change = nil
	}
}

// unlockAndWait unlocks the node and waits for the next change. It returns ctx's
// error or ErrHubClosed if the waiting ended for another reason.
func (n *node) unlockAndWait(ctx context.Context) error {
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
	case <-n.hub.events.done:
		return ErrHubClosed
	}
}

// setState enters a state and, unless it is BrokerUp, drops the queue. The node is
// locked. The caller must call logIt after unlocking the node, because a logger
// may block.
func (n *node) setState(state BrokerState, reason error) (logIt func()) {
	before, logger := n.state, n.hub.logger
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
		logIt = func() {
			logger.Warningf("websocket: broker is %s, publications do not reach other nodes: %v", state, reason)
		}
	case before == BrokerStarting:
		logIt = func() { logger.Infof("websocket: broker is up") }
	default:
		logIt = func() { logger.Infof("websocket: broker is up again after %v", lasted) }
	}
	n.signalChange()
	wake(n.sendWake)
	return logIt
}

// Up implements BrokerHandler.
func (n *node) Up() {
	n.mu.Lock()
	if n.state == BrokerDown || n.state == BrokerStalled {
		n.gaps.addAll()
		wake(n.gapWake)
		for topic := range n.subscribing { // its members have not waited
			n.exposed[topic] = struct{}{}
		}
		for topic, interested := range n.pending {
			if interested {
				n.exposed[topic] = struct{}{}
			}
		}
		n.syncAllPresence()
		n.verifyAppends()
	}
	for topic := range n.failed {
		n.inForce(topic)
	}
	n.peers.Refresh()
	logIt := n.setState(BrokerUp, nil)
	if n.isInForce(nodewire.TopicNodes) {
		n.startDiscovery()
	}
	if !n.stopped {
		n.enqueue(outgoing{kind: nodewire.KindHello, topic: nodewire.TopicNodes, body: n.hello(true)})
	}
	n.signalChange()
	n.mu.Unlock()
	logIt()
	n.warnOfLimit()
}

// Down implements BrokerHandler.
func (n *node) Down(err error) {
	n.mu.Lock()
	logIt := n.setState(BrokerDown, err)
	for topic := range n.waiting { // Up announces a gap
		n.endWaits(topic)
	}
	n.mu.Unlock()
	logIt()
}

// Lost implements BrokerHandler.
func (n *node) Lost(topics ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, topic := range topics {
		n.addGapOf(topic)
	}
	if len(topics) == 0 {
		n.gaps.addAll()
		n.syncAllPresence()
	}
	wake(n.gapWake)
}

// addGapOf makes gapLoop send a gap notice to the members of a topic's target. The
// node is locked.
func (n *node) addGapOf(topic string) {
	if to, ok := nodewire.TargetOf(topic); ok {
		n.gaps.add(to)
		n.presenceSyncs[to] = struct{}{}
		wake(n.presenceWake)
	} else if nodewire.IsHashed(topic) {
		n.gaps.addAll()
		n.syncAllPresence()
	}
	wake(n.gapWake)
}

// addGap makes gapLoop send a gap notice to the members of a target.
func (n *node) addGap(to target) {
	n.mu.Lock()
	n.gaps.add(to)
	n.mu.Unlock()
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
		State: n.state, Nodes: 1 + n.peers.Count(), Subscriptions: len(n.topics), QueuedBytes: n.queued + n.appended,
		Published: n.published.Load(), Received: n.received.Load(), Unsent: n.unsent.Load(), Outages: n.outages.Load(),
		Healed: n.healed.Load(), Repeated: n.repeated.Load(), Late: n.late.Load(), Oversized: n.oversized.Load(), Malformed: n.malformed.Load(), Unknown: n.unknown.Load(),
	}
}

// isUp reports whether the broker is up.
func (n *node) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == BrokerUp
}

// Receive implements BrokerHandler. It blocks while the log is full.
func (n *node) Receive(payload []byte) {
	head, body, err := nodewire.Parse(payload)
	switch {
	case errors.Is(err, nodewire.ErrUnknown):
		if head.Node != n.id {
			n.dropUnknown(head.Node, err)
		}
		return
	case err != nil:
		n.dropMalformed(err)
		return
	case head.Node == n.id:
		return
	}
	switch n.peers.Observe(head.Node, head.Sequence) {
	case nodewire.Returned:
		n.Lost() // what it has published meanwhile
	case nodewire.Repeated:
		n.repeated.Add(1)
		return
	case nodewire.Late:
		n.dropLate(&head, body)
		return
	}
	switch head.Kind {
	case nodewire.KindPublication:
		n.deliver(&head, body)
	case nodewire.KindLost:
		n.addGap(head.To)
	case nodewire.KindLostAll:
		n.Lost()
	case nodewire.KindHello:
		n.receiveHello(head.Node, body)
	case nodewire.KindBye:
		n.asked.peerLeft(head.Node)
		n.peers.Remove(head.Node)
		n.peerEnded(head.Node)
	case nodewire.KindPresence:
		n.receivePresence(head.Node, body)
	case nodewire.KindQuestion:
		n.receiveQuestion(head.Node, body)
	case nodewire.KindAnswer:
		n.receiveAnswer(head.Node, body)
	case nodewire.KindPeers:
		n.receivePeers(body)
	}
}

// dropLate drops a payload that arrives after later ones of its sender: publishing it had
// failed there. Loss notices keep their effect.
func (n *node) dropLate(head *nodewire.Head, body []byte) {
	n.late.Add(1)
	switch head.Kind {
	case nodewire.KindPublication:
		to := head.To
		if to.Audience != toClients { // the head leaves the name out
			m := AcquireMessage()
			defer m.Release()
			if err := (ProtobufCodec{}).Unmarshal(body, m); err != nil {
				n.dropMalformed(err)
				return
			}
			to.Name = m.Channel
		}
		n.addGap(to)
	case nodewire.KindLost:
		n.addGap(head.To)
	case nodewire.KindLostAll:
		n.Lost()
	}
}

// dropUnknown drops a payload of a later version, which may be a publication. All members
// get a gap, at most once per announcement.
func (n *node) dropUnknown(from uint64, err error) {
	n.unknown.Add(1)
	n.hub.logLimited("unknown payload", n.hub.logger.Warningf, "websocket: dropped a payload of node %s, members get a gap: %v", nodewire.NodeName(from), err)
	n.mu.Lock()
	again := n.unknownTold
	n.unknownTold, n.unknownSince = true, again
	n.mu.Unlock()
	if !again {
		n.Lost()
	}
}

// tellUnknown announces the payloads that dropUnknown has dropped since the latest gap.
func (n *node) tellUnknown() {
	n.mu.Lock()
	since := n.unknownSince
	n.unknownTold, n.unknownSince = since, false
	n.mu.Unlock()
	if since {
		n.Lost()
	}
}

// dropMalformed counts a payload that cannot be decoded. It is logged at debug
// level, since a faulty publisher could fill the log.
func (n *node) dropMalformed(err error) {
	n.malformed.Add(1)
	n.hub.logger.Debugf("websocket: dropped a payload from the broker: %v", err)
}

func (n *node) receiveHello(from uint64, body []byte) {
	ask, name, err := nodewire.ParseHello(body)
	if err != nil {
		return
	}
	if n.peers.SetName(from, name) || name == n.name {
		n.hub.logLimited("node name "+name, n.hub.logger.Warningf, "websocket: two nodes have the name %q: Config.NodeName must be unique; if one was killed and started again, this ends when it counts as gone", name)
	}
	if ask {
		n.sendControl(nodewire.KindHello, nodewire.NodeTopic(from), n.hello(false))
		n.sendPeers(from)
	}
}

// hello returns the body of a hello from this node. With ask set, the other nodes
// answer it with theirs.
func (n *node) hello(ask bool) []byte { return nodewire.AppendHello(nil, ask, n.name) }

// deliver appends another node's publication to the log.
func (n *node) deliver(head *nodewire.Head, envelope []byte) {
	h, to := n.hub, head.To
	m := AcquireMessage()
	defer m.Release()
	if err := (ProtobufCodec{}).Unmarshal(envelope, m); err != nil {
		n.dropMalformed(err)
		return
	}
	if h.checkSize(messageCost(m)) != nil {
		n.oversized.Add(1)
		if to.Audience != toClients {
			to.Name = m.Channel // the head leaves it out
		}
		n.addGap(to)
		return
	}
	n.received.Add(1)
	if to.Audience != toClients {
		n.tellBefore(target{Audience: to.Audience, Name: m.Channel}) // the head leaves the name out
	} else {
		n.tellBefore(to)
	}
	pub := h.newPublication(m, to.Audience)
	pub.remote = true
	ctx := context.Background()
	var err error
	switch {
	case to.Audience != toClients:
		kind := ChannelTopic
		if to.Audience == toRoom {
			kind = RoomTopic
		}
		if keep, conflate := h.events.engineHistory(kind, m.Channel); keep.keeps() {
			n.relay(head, target{Audience: to.Audience, Name: m.Channel}, keep, conflate, pub)
			return
		}
		err = h.events.publish(ctx, kind, m.Channel, pub, nil, nil)
	case to.Name == "":
		err = h.events.broadcast(ctx, pub, nil, nil)
	default:
		c, ok := h.Client(to.Name)
		if !ok {
			pub.release() // the client has disconnected
			return
		}
		err = h.events.send(ctx, c, pub)
	}
	if err != nil && !errors.Is(err, ErrHubClosed) && !errors.Is(err, ErrClientClosed) {
		h.logger.Errorf("websocket: dropped a publication of another node: %v", err)
	}
}
