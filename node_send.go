package websocket

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"time"
)

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
			n.announce(announce)
		case <-n.stopping:
			n.sayBye()
			return
		}
		for n.sendBatch(context.Background()) {
			select { // also while there is always more to send
			case <-announce.C:
				n.announce(announce)
			default:
			}
		}
	}
}

func (n *node) announce(next *time.Timer) {
	n.peers.expire(n.silence(), n.isUp())
	n.tell(kindHello, topicNodes, n.hello(false))
	next.Reset(jitter(n.hub.config.AnnounceInterval))
}

// hello introduces this node, and may ask the others to do the same.
func (n *node) hello(asks bool) []byte {
	first := byte(helloTells)
	if asks {
		first = helloAsks
	}
	return append([]byte{first}, n.name...)
}

const missedSilence = 3 // announcements

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
	batch, messages := n.encode(batch)
	errs := make([]error, len(batch))
	ctx, cancel := context.WithTimeout(ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	err := n.hand(ctx, messages, errs)
	n.settle(batch, errs)
	return err == nil || errors.Is(err, ErrMessageTooLarge)
}

// hand gives messages to the broker, by halves where it finds one too large. What
// has arrived already other nodes then know as a repetition. From any other error
// on it gives up; errs says which were not taken.
func (n *node) hand(ctx context.Context, messages []BrokerMessage, errs []error) error {
	if len(messages) == 0 {
		return nil
	}
	err := n.broker.Publish(ctx, messages)
	if half := len(messages) / 2; half > 0 && errors.Is(err, ErrMessageTooLarge) {
		err = n.hand(ctx, messages[:half], errs[:half])
		if err == nil || errors.Is(err, ErrMessageTooLarge) {
			return n.hand(ctx, messages[half:], errs[half:])
		}
		errs = errs[half:]
	}
	for i := range errs {
		errs[i] = err
	}
	return err
}

// settle accounts for a batch, of which the broker has taken what has no error.
func (n *node) settle(batch []outgoing, errs []error) {
	say := func() {}
	var failed error
	var refused []string
	taken := false
	n.mu.Lock()
	for i := range batch {
		o := &batch[i]
		switch err := errs[i]; {
		case err == nil:
			taken = true
			n.queued -= o.cost()
			o.pub.discard()
			if o.kind == kindPublication {
				n.published.Add(1)
			}
		case errors.Is(err, ErrMessageTooLarge):
			n.refuse(o)
			refused = append(refused, o.address())
		default:
			failed = err
			n.giveUp(o)
		}
	}
	switch {
	case failed != nil && (n.state == BrokerUp || n.state == BrokerStalled):
		say = n.setState(BrokerStalled, failed)
	case failed == nil && taken && n.state == BrokerStalled:
		say = n.setState(BrokerUp, nil)
	}
	n.changed()
	n.mu.Unlock()
	say()
	for _, topic := range refused {
		n.logRefusal(topic)
	}
}

// refuse is giveUp for what is too large for the engine, of which no notice may
// come back that is as large as it is. The node is locked.
func (n *node) refuse(o *outgoing) {
	switch o.kind {
	case kindPublication:
		n.giveUp(o)
	case kindLost:
		n.queued -= o.cost()
		n.lost = targets{all: true}
	default: // cannot be told at all
		n.queued -= o.cost()
	}
}

func (n *node) logRefusal(topic string) {
	n.hub.logger.Errorf("websocket: a payload for topic %q is too large for the broker", topic)
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

// encode makes the payloads of a batch in the loop's buffer. It returns those of
// the batch that fit into the engine, and their messages in the same order.
func (n *node) encode(batch []outgoing) (fit []outgoing, messages []BrokerMessage) {
	limit := n.broker.MaxPayload()
	out := n.buffer[:0]
	ends := make([]int, 0, len(batch))
	messages = make([]BrokerMessage, 0, len(batch))
	fit = batch[:0]
	for i := range batch {
		o := batch[i]
		begin := len(out)
		n.sequence++
		head := wireHead{node: n.id, sequence: n.sequence, kind: o.kind, to: o.to}
		if o.kind == kindPublication && o.to.to != toClients {
			head.to.name = "" // the envelope's Channel
		}
		out = head.append(out)
		if o.pub != nil {
			out, _ = ProtobufCodec{}.AppendMarshal(out, &o.pub.msg) // never fails
		} else {
			out = append(out, o.body...)
		}
		if limit > 0 && len(out)-begin > limit {
			out = out[:begin]
			n.mu.Lock()
			n.refuse(&o)
			n.mu.Unlock()
			n.logRefusal(o.address())
			continue
		}
		ends = append(ends, len(out))
		messages = append(messages, BrokerMessage{Topic: o.address()})
		fit = append(fit, o)
	}
	clear(batch[len(fit):])
	begin := 0
	for i, end := range ends { // now that out has its place
		messages[i].Payload = out[begin:end:end]
		begin = end
	}
	if cap(out) <= 4*batchBytes {
		n.buffer = out
	}
	return fit, messages
}

// send hands a message to whichever node has the client.
func (n *node) send(ctx context.Context, id string, m *Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if checkName(id, maxClientID) != nil {
		return ErrClientNotFound // no hub gives such an ID
	}
	if m != nil && !n.fits(m, m.Channel+id) {
		return ErrMessageTooLarge
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
