package websocket

import (
	"context"
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// Bounds of reading from the engine.
const (
	maxHealers = 8
	healPage   = 500
)

// Record implements BrokerHandler. It blocks while the log is full.
func (n *node) Record(r BrokerRecord) {
	if n.histories == nil {
		return
	}
	known, _ := nodewire.TargetOf(r.Topic)
	if known != (target{}) && n.hub.events.hasRecord(known, r.Position) {
		return // most often one that this node has appended
	}
	n.received.Add(1)
	to, a := n.decodeRecord(known, &r)
	n.hub.events.arrive(to, a)
}

// decodeRecord returns a record and its topic. to is its topic, or zero for one with a long
// name, which only the message tells. The record's publication is nil if it cannot be
// delivered.
func (n *node) decodeRecord(to target, r *BrokerRecord) (target, *arrival) {
	a := &arrival{at: r.Position, previous: r.Previous, time: n.hub.clock() - int64(r.Age)}
	head, body, err := nodewire.Parse(r.Payload)
	var origin nodewire.Origin
	if err == nil && head.Kind != nodewire.KindRecord {
		err = nodewire.ErrMalformed
	}
	if err == nil {
		origin, body, err = nodewire.ParseRecord(body)
	}
	m := AcquireMessage()
	defer m.Release()
	if err == nil {
		err = ProtobufCodec{}.Unmarshal(body, m)
	}
	switch {
	case errors.Is(err, nodewire.ErrUnknown):
		n.unknown.Add(1)
		n.hub.logLimited("unknown payload", n.hub.logger.Warningf, "websocket: dropped a record of topic %q, members get a gap: %v", r.Topic, err)
	case err != nil:
		n.dropMalformed(err)
	case n.hub.checkSize(messageCost(m)) != nil:
		n.oversized.Add(1)
	default:
		a.pub = n.hub.newPublication(m, head.To.Audience)
		a.pub.remote = true
		if origin.ExceptSelf {
			a.pub.except = m.ClientID
		}
		a.key = n.hub.events.histories.hashScoped(scopedKey{server: !origin.Client, user: origin.User, key: m.Key})
		if to == (target{}) {
			to = target{Audience: head.To.Audience, Name: m.Channel}
		}
	}
	return to, a
}

// heal is work of a healer.
type heal struct {
	to     target
	verify Position // a record that the engine may have lost; if zero, read what the history misses
}

// heal queues a topic whose history may miss something. It does not block. The log may be
// locked.
func (n *node) heal(to target) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queueHeal(heal{to: to})
}

// queueHeal queues work for the healers. The node is locked.
func (n *node) queueHeal(h heal) {
	if n.stopped {
		return
	}
	n.heals = append(n.heals, h)
	if n.healers < maxHealers {
		n.healers++
		n.loops.Go(n.runHeals) // ends when the queue is empty, or after stopping is closed
	}
}

func (n *node) runHeals() {
	for {
		n.mu.Lock()
		if len(n.heals) == 0 || n.stopped {
			n.healers--
			n.mu.Unlock()
			return
		}
		h := n.heals[0]
		n.heals = n.heals[1:]
		n.mu.Unlock()
		n.carryOut(h)
	}
}

// carryOut repeats a heal until it has succeeded or is not needed any more.
func (n *node) carryOut(h heal) {
	for delay := firstRetry; n.waitUntilUp(); {
		var current bool
		var err error
		if h.verify != (Position{}) {
			current, err = true, n.verify(h.to, h.verify)
		} else {
			task, ok := n.hub.events.beginHealing(h.to)
			if !ok {
				return
			}
			current, err = n.healOnce(h.to, &task)
		}
		switch {
		case err != nil:
			n.hub.logLimited("reading a history failed", n.hub.logger.Warningf, "websocket: reading the history of %q failed, will retry: %v", h.to.Topic(), err)
			sleepUnless(jitter(delay), n.stopping)
			delay = min(2*delay, longestRetry)
		case current:
			return
		default:
			delay = firstRetry
		}
	}
}

// waitUntilUp waits for the broker. It reports false if the hub stops.
func (n *node) waitUntilUp() bool {
	for {
		n.mu.Lock()
		if n.stopped || n.hub.stopping() {
			n.mu.Unlock()
			return false
		}
		if n.state == BrokerUp || n.state == BrokerStalled {
			n.mu.Unlock()
			return true
		}
		if n.unlockAndWait(n.ctx) != nil {
			return false
		}
	}
}

// healOnce reads a page and delivers it. It reports whether the history is current.
func (n *node) healOnce(to target, task *healing) (current bool, err error) {
	l := n.hub.events
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	if task.renew {
		if err := n.renew(ctx, to, task.epoch); err != nil {
			return false, err
		}
		l.renewed(to)
	}
	page, err := n.histories.Read(ctx, to.Topic(), task.after(), healPage)
	if err != nil {
		return false, err
	}
	if !l.beginPage(to, task, &page) {
		return false, nil
	}
	for i := range page.Records {
		r := &page.Records[i]
		if task.loaded && r.Position.Offset <= task.head {
			continue
		}
		r.Position.Epoch = page.Position.Epoch
		if _, a := n.decodeRecord(to, r); !l.restore(to, task.replica, a) {
			return false, nil
		}
		if task.loaded {
			n.healed.Add(1)
		}
	}
	return l.endPage(to, task, &page), nil
}

// verify looks whether the engine still has a record, or has removed it by its bounds.
func (n *node) verify(to target, at Position) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	was := healing{head: at.Offset, record: true}
	page, err := n.histories.Read(ctx, to.Topic(), at.Offset-1, 1)
	if err != nil || page.Position.Epoch != at.Epoch || !was.hasLost(&page) {
		return err
	}
	return n.renew(ctx, to, at.Epoch)
}

// renew tells the engine of its loss, and so all nodes.
func (n *node) renew(ctx context.Context, to target, epoch string) error {
	n.hub.logger.Warningf("websocket: the engine has lost records of %q that it had acknowledged; members get a gap", to.Topic())
	return n.histories.Renew(ctx, to.Topic(), epoch)
}

// openHistory makes sure that the history of a topic is on this node until release is
// called, and that it is not behind a position. It does nothing if the topic keeps none.
// It waits up to Config.BrokerTimeout and returns an ErrBrokerUnavailable then.
func (n *node) openHistory(ctx context.Context, kind TopicKind, name string, since *Position) (release func(), err error) {
	l := n.hub.events
	h, err := l.pin(kind, name)
	if h == nil || err != nil {
		return func() {}, err
	}
	to := target{Audience: kind.audience(), Name: name}
	topic := to.Topic()
	n.mu.Lock()
	n.hold(topic)
	n.mu.Unlock()
	release = func() {
		n.release(topic)
		l.unpin(h)
	}
	bounded, cancel := context.WithTimeout(ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	if err := n.awaitHistory(bounded, topic, h, since); err != nil {
		release()
		if ctx.Err() == nil && bounded.Err() != nil {
			err = fmt.Errorf("websocket: the history of %q is not available: %w", name, ErrBrokerUnavailable)
		}
		return nil, err
	}
	return release, nil
}

func (n *node) awaitHistory(ctx context.Context, topic string, h *history, since *Position) error {
	l := n.hub.events
	for round := 0; ; round++ {
		l.mu.Lock()
		r := h.replica
		wait := r.loaded
		if r.isLoaded() {
			if !h.isBehind(since) || round > 2 {
				l.mu.Unlock()
				return nil
			}
			wait = r.round
		}
		l.mu.Unlock()
		if err := n.awaitInForce(ctx, topic); err != nil {
			return err
		}
		l.mu.Lock()
		l.heal(h)
		l.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			return ErrHubClosed
		}
	}
}

// awaitInForce waits until a topic is in force at the engine.
func (n *node) awaitInForce(ctx context.Context, topic string) error {
	n.mu.Lock()
	if n.state == BrokerDown {
		n.mu.Unlock()
		return errNotAvailable
	}
	w := n.awaitTopics([]string{topic})
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.abandon(w)
		n.mu.Unlock()
	}()
	select {
	case <-w.done:
	case <-ctx.Done():
		return ctx.Err()
	case <-n.hub.events.done:
		return ErrHubClosed
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.isInForce(topic) {
		return errNotAvailable
	}
	return nil
}

var errNotAvailable = fmt.Errorf("websocket: the topic's history is not available: %w", ErrBrokerUnavailable)
