package websocket

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// outgoing is a payload that waits for the engine.
type outgoing struct {
	kind  nodewire.Kind
	to    target
	topic string       // if empty, the topic of to
	pub   *publication // of KindPublication
	body  []byte       // of the other kinds
}

func (o *outgoing) cost() int64 {
	if o.pub != nil {
		return o.pub.cost
	}
	return int64(entryCost + len(o.body))
}

func (o *outgoing) topicName() string {
	if o.topic != "" {
		return o.topic
	}
	return o.to.Topic()
}

// limitedByBroker is the MessageTooLargeError.LimitedBy of the engine's limit.
const limitedByBroker = "Broker.MaxPayload"

// checkSize returns an error if m, published under name, is over the engine's limit.
func (n *node) checkSize(m *Message, name string) error {
	limit := int64(n.broker.MaxPayload())
	if size := messageCost(m) + int64(len(name)) + nodewire.MaxHead; limit > 0 && size > limit {
		return &MessageTooLargeError{Size: size, Limit: limit, LimitedBy: limitedByBroker}
	}
	return nil
}

// warnOfLimit logs a warning if clients may send messages that the engine does not take.
func (n *node) warnOfLimit() {
	config := &n.hub.config
	overhead := maxOverhead + int64(config.MaxNameLength) + nodewire.MaxHead
	if limit := int64(n.broker.MaxPayload()); limit > 0 && config.MaxMessageSize > limit-overhead {
		n.hub.logger.Warningf("websocket: the broker takes payloads of at most %d bytes, which is too small for Config.MaxMessageSize %d: clients get the error too_large for larger publications", limit, config.MaxMessageSize)
	}
}

// forward queues a publication for the other nodes and retains it. It does not
// block. The log may be locked.
func (n *node) forward(to target, pub *publication) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	full := n.queued > 0 && n.queued+pub.cost > 2*n.hub.config.BrokerQueue
	if full || n.stopped || n.state == BrokerDown || n.state == BrokerStalled {
		n.countUnsent(to, &pub.msg, ErrBrokerUnavailable)
		n.lost.Add(to)
		return ErrBrokerUnavailable
	}
	pub.retain()
	n.enqueue(outgoing{kind: nodewire.KindPublication, to: to, pub: pub})
	return nil
}

// send queues m for the client with that ID on another node. Nil does not mean
// that there is such a client.
func (n *node) send(ctx context.Context, id string, m *Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if checkName(id, maxClientID) != nil {
		return ErrClientNotFound // no hub accepts such an ID
	}
	if m != nil {
		if err := n.checkSize(m, m.Channel+id); err != nil {
			return err
		}
	}
	p, err := n.hub.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return err
	}
	err = n.forward(target{Audience: toClients, Name: id}, p)
	p.release()
	if err == nil {
		n.waitForRoom(ctx)
	}
	return err
}

// sendControl queues a payload that is not a publication. It reports false if the
// broker is down or starting or the queue is full.
func (n *node) sendControl(kind nodewire.Kind, topic string, body []byte) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stopped || n.state == BrokerDown || n.state == BrokerStarting || n.queued > 2*n.hub.config.BrokerQueue {
		return false
	}
	n.enqueue(outgoing{kind: kind, topic: topic, body: body})
	return true
}

// enqueue appends to the queue. The node is locked.
func (n *node) enqueue(o outgoing) {
	n.queue = append(n.queue, o)
	n.queued += o.cost()
	wake(n.sendWake)
}

// waitForRoom blocks a publisher while the queue is longer than BrokerQueue and
// the broker is up. The publication is queued already, so it returns no error when
// ctx ends.
func (n *node) waitForRoom(ctx context.Context) {
	for {
		n.mu.Lock()
		if n.queued <= n.hub.config.BrokerQueue || n.state != BrokerUp || n.stopped {
			n.mu.Unlock()
			return
		}
		if n.unlockAndWait(ctx) != nil {
			return
		}
	}
}

// dropQueue drops all queued payloads. The node is locked.
func (n *node) dropQueue() {
	for i := range n.queue {
		n.dropUnsent(&n.queue[i], ErrBrokerUnavailable)
	}
	n.queue = nil
	n.signalChange()
}

// dropUnsent accounts for a payload that did not reach the engine because of reason. Other
// nodes get a loss notice for it later. The node is locked.
func (n *node) dropUnsent(o *outgoing, reason error) {
	n.queued -= o.cost()
	switch o.kind {
	case nodewire.KindPublication:
		n.countUnsent(o.to, &o.pub.msg, reason)
		n.lost.Add(o.to)
		o.pub.release()
	case nodewire.KindLost:
		n.lost.Add(o.to)
	case nodewire.KindLostAll:
		n.lost = targets{All: true}
	case nodewire.KindPresence:
		n.presenceUnsent = true
	}
}

// dropOversized is dropUnsent for a payload larger than the engine's limit. A
// loss notice that is itself too large becomes a notice for all targets, which is
// shorter. If that is too large, the loss cannot be announced: trying again would
// never end. The node is locked.
func (n *node) dropOversized(o *outgoing) {
	switch o.kind {
	case nodewire.KindPublication:
		n.dropUnsent(o, ErrMessageTooLarge)
	case nodewire.KindLost:
		n.queued -= o.cost()
		n.lost = targets{All: true}
	default:
		n.queued -= o.cost()
	}
}

// logOversized logs a payload that was dropped with err, an ErrMessageTooLarge.
func (n *node) logOversized(topic string, err error) {
	n.hub.logger.Errorf("websocket: dropped a payload for topic %q: %v", topic, err)
}

// sendLoop publishes the queue and announces this node at intervals.
func (n *node) sendLoop() {
	announce := time.NewTimer(0)
	defer announce.Stop()
	pace := pacer{burst: batchBurst}
	for {
		select {
		case <-n.sendWake:
		case <-announce.C:
			n.announce(announce)
		case <-n.stopping:
			n.sendBye()
			return
		}
		for n.sendBatch(context.Background(), &pace) {
			select { // a queue that is never empty must not delay announcements
			case <-announce.C:
				n.announce(announce)
			default:
			}
		}
	}
}

// announce sends a hello, looks for silent nodes and sets the timer for the next
// announcement.
func (n *node) announce(next *time.Timer) {
	if n.isUp() { // otherwise silence is no sign of a node's end
		n.expirePeers()
		n.repeatOrders()
	}
	n.tellUnknown()
	n.sendControl(nodewire.KindHello, nodewire.TopicNodes, n.hello(false))
	next.Reset(jitter(n.hub.config.AnnounceInterval))
}

// expirePeers announces gaps if nodes have fallen silent without a bye: their latest
// publications may be lost, or they are cut off.
func (n *node) expirePeers() {
	gone := n.peers.Expire(n.peerTimeout(), goneTime)
	if len(gone) == 0 {
		return
	}
	n.hub.logger.Warningf("websocket: %d nodes have fallen silent without leaving the cluster", len(gone))
	n.Lost()
	n.peerEnded(gone...)
	for _, id := range gone {
		n.asked.peerLeft(id)
	}
}

// goneTime is how long a node that has fallen silent is named in an UnansweredError. So
// long it may be cut off and have clients.
const goneTime = 10 * time.Minute

// missedAnnouncements is how many announcements in a row a live node may miss.
const missedAnnouncements = 3

// peerTimeout is the silence after which a node counts as gone. It allows for the
// longest jitter.
func (n *node) peerTimeout() time.Duration {
	return missedAnnouncements * n.hub.config.AnnounceInterval * 6 / 5
}

// sendBye publishes the rest of the queue and a bye, within BrokerTimeout.
func (n *node) sendBye() {
	ctx, cancel := context.WithTimeout(context.Background(), n.hub.config.BrokerTimeout)
	defer cancel()
	n.mu.Lock()
	if n.state == BrokerUp {
		n.enqueue(outgoing{kind: nodewire.KindBye, topic: nodewire.TopicNodes})
	}
	n.mu.Unlock()
	for n.sendBatch(ctx, nil) {
	}
}

// A busy node begins at most one batch in each batchInterval, and batchBurst more after a
// pause.
const (
	batchInterval = time.Millisecond
	batchBurst    = 16
)

// pacer spaces the batches of one loop. A batch costs the node and the engine as much as
// several of its messages, so at middle rates messages wait for each other.
type pacer struct {
	burst int // number of batches that are not delayed after a pause
	// awaited says that publishers wait for their messages. Then batches of one message are
	// free, and the batch after one is not delayed: a single publisher would only get slower.
	awaited bool

	next  time.Time // when the next batch would begin without bursts
	paced bool      // the next batch may have to wait
}

// wait waits until the next batch may begin.
func (p *pacer) wait() {
	if p != nil && p.paced {
		time.Sleep(time.Until(p.next) - time.Duration(p.burst)*batchInterval)
	}
}

// begin notes that a batch with so many publications begins. Questions and announcements do
// not wait.
func (p *pacer) begin(count int) {
	if p == nil {
		return
	}
	if p.paced = count > 1 || count > 0 && !p.awaited; p.paced {
		if now := time.Now(); p.next.Before(now) {
			p.next = now
		}
		p.next = p.next.Add(batchInterval)
	}
}

// jitter returns a random duration within a fifth of d, so that many nodes do not
// act at the same time.
func jitter(d time.Duration) time.Duration {
	return d - d/5 + mathrand.N(2*d/5+1)
}

// Bounds of one batch. One batch at a time is on its way, so they bound the throughput over
// a long way: 4,096 messages in each round trip.
const (
	batchCount = 4096
	batchBytes = 1 << 20
)

func publicationsIn(batch []outgoing) (n int) {
	for i := range batch {
		if batch[i].kind == nodewire.KindPublication {
			n++
		}
	}
	return n
}

// sendBatch publishes one batch from the front of the queue. It reports false if
// there is nothing to send or if the broker has failed.
func (n *node) sendBatch(ctx context.Context, pace *pacer) bool {
	pace.wait()
	batch := n.takeBatch()
	if len(batch) == 0 {
		return false
	}
	pace.begin(publicationsIn(batch))
	batch, messages := n.encode(batch)
	errs := make([]error, len(batch))
	ctx, cancel := context.WithTimeout(ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	err := n.publish(ctx, messages, errs)
	published := err == nil || errors.Is(err, ErrMessageTooLarge)
	if !published {
		n.sequence = nodewire.NextEra(n.sequence) // the engine may take the batch later
	}
	n.finishBatch(batch, errs)
	return published
}

// publish passes messages to the broker and splits them in halves on
// ErrMessageTooLarge, until the oversized message is alone. Receivers drop the
// messages that arrive twice. After any other error it stops. It sets the error of
// each message in errs, which has the length of messages.
func (n *node) publish(ctx context.Context, messages []BrokerMessage, errs []error) error {
	if len(messages) == 0 {
		return nil
	}
	err := n.broker.Publish(ctx, messages)
	if half := len(messages) / 2; half > 0 && errors.Is(err, ErrMessageTooLarge) {
		err = n.publish(ctx, messages[:half], errs[:half])
		if err == nil || errors.Is(err, ErrMessageTooLarge) {
			return n.publish(ctx, messages[half:], errs[half:])
		}
		errs = errs[half:]
	}
	for i := range errs {
		errs[i] = err
	}
	return err
}

// finishBatch accounts for a published batch. errs holds the error of each
// payload, nil for those that the broker took.
func (n *node) finishBatch(batch []outgoing, errs []error) {
	logIt := func() {}
	var failed error
	var oversized []int // indexes into batch and errs
	taken := false
	n.mu.Lock()
	for i := range batch {
		o := &batch[i]
		switch err := errs[i]; {
		case err == nil:
			taken = true
			n.queued -= o.cost()
			o.pub.releaseIfAny()
			if o.kind == nodewire.KindPublication {
				n.published.Add(1)
			}
		case errors.Is(err, ErrMessageTooLarge):
			n.dropOversized(o)
			oversized = append(oversized, i)
		default:
			failed = err
			n.dropUnsent(o, ErrBrokerUnavailable)
		}
	}
	switch {
	case failed != nil && (n.state == BrokerUp || n.state == BrokerStalled):
		logIt = n.setState(BrokerStalled, failed)
	case failed == nil && taken && n.state == BrokerStalled:
		logIt = n.setState(BrokerUp, nil)
		if n.presenceUnsent {
			n.syncAllPresence()
		}
	}
	n.signalChange()
	n.mu.Unlock()
	logIt()
	for _, i := range oversized {
		n.logOversized(batch[i].topicName(), errs[i])
	}
}

// takeBatch takes the next batch: loss notices before the queue, so that gaps
// reach other nodes before later publications.
func (n *node) takeBatch() []outgoing {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == BrokerStarting || n.state == BrokerDown {
		return nil
	}
	if n.state == BrokerUp && !n.lost.Empty() {
		batch := n.takeLossNotices()
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

// takeLossNotices empties lost. The node is locked.
func (n *node) takeLossNotices() (batch []outgoing) {
	if n.lost.All {
		batch = []outgoing{{kind: nodewire.KindLostAll, topic: nodewire.TopicBroadcast}}
	}
	for to := range n.lost.Set {
		batch = append(batch, outgoing{kind: nodewire.KindLost, to: to})
	}
	n.lost = targets{}
	return batch
}

// encode encodes a batch into n.buffer and drops the payloads that exceed the
// engine's limit. It returns the rest of the batch and its messages, in the same
// order.
func (n *node) encode(batch []outgoing) (fit []outgoing, messages []BrokerMessage) {
	limit := n.broker.MaxPayload()
	out := n.buffer[:0]
	ends := make([]int, 0, len(batch))
	messages = make([]BrokerMessage, 0, len(batch))
	fit = batch[:0]
	for i := range batch {
		o := batch[i]
		begin := len(out)
		out = n.appendPayload(out, &o)
		if size := len(out) - begin; limit > 0 && size > limit {
			out = out[:begin]
			n.mu.Lock()
			n.dropOversized(&o)
			n.mu.Unlock()
			n.logOversized(o.topicName(), &MessageTooLargeError{Size: int64(size), Limit: int64(limit), LimitedBy: limitedByBroker})
			continue
		}
		ends = append(ends, len(out))
		messages = append(messages, BrokerMessage{Topic: o.topicName()})
		fit = append(fit, o)
	}
	clear(batch[len(fit):])
	begin := 0
	for i, end := range ends { // not before: append may have moved out
		messages[i].Payload = out[begin:end:end]
		begin = end
	}
	if cap(out) <= 4*batchBytes {
		n.buffer = out
	}
	return fit, messages
}

func (n *node) appendPayload(out []byte, o *outgoing) []byte {
	n.sequence++
	head := nodewire.Head{Node: n.id, Sequence: n.sequence, Kind: o.kind, To: o.to}
	if o.kind == nodewire.KindPublication && o.to.Audience != toClients {
		head.To.Name = "" // the envelope names it
	}
	out = head.Append(out)
	if o.pub == nil {
		return append(out, o.body...)
	}
	out, _ = ProtobufCodec{}.AppendMarshal(out, &o.pub.msg) // never fails
	return out
}
