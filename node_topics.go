package websocket

import (
	"context"
	"slices"
	"time"
)

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
	topicBatch   = 1024
	firstRetry   = 250 * time.Millisecond
	longestRetry = 15 * time.Second
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
