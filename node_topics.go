package websocket

import (
	"context"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// clientAdded requests the topics of a registered client. first is set if this hub
// had no other clients. The log is locked.
func (n *node) clientAdded(id string, first bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[id]++; n.clients[id] == 1 {
		n.setInterestLocked(target{Audience: toClients, Name: id}.Topic(), true)
	}
	if first {
		n.setInterestLocked(nodewire.TopicBroadcast, true)
	}
}

// clientRemoved gives up the topics of an unregistered client. last is set if this
// hub has no other clients. The log is locked.
func (n *node) clientRemoved(id string, last bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.clients[id]--; n.clients[id] == 0 {
		delete(n.clients, id)
		n.setInterestLocked(target{Audience: toClients, Name: id}.Topic(), false)
	}
	if last {
		n.setInterestLocked(nodewire.TopicBroadcast, false)
	}
}

// setInterest makes topicLoop subscribe to or unsubscribe from a topic. The log
// may be locked.
func (n *node) setInterest(topic string, interested bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.setInterestLocked(topic, interested)
}

func (n *node) setInterestLocked(topic string, interested bool) {
	if n.hub.stopping() {
		return // closing the broker ends all subscriptions
	}
	if _, requested := n.topics[topic]; requested == interested {
		delete(n.pending, topic)
	} else {
		n.pending[topic] = interested
		wake(n.topicWake)
	}
	if len(n.pending) == 0 {
		n.signalChange()
	}
}

// Bounds of one call of the broker and of the delay between retries.
const (
	topicBatch   = 1024
	firstRetry   = 250 * time.Millisecond
	longestRetry = 15 * time.Second
)

// topicLoop passes changes of interest to the broker and retries failed
// subscriptions.
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

// applyTopics passes a batch of pending topics to the broker. It reports whether
// there may be more.
func (n *node) applyTopics() bool {
	var add, remove []string
	n.mu.Lock()
	for topic, interested := range n.pending {
		if len(add) == topicBatch || len(remove) == topicBatch {
			break
		}
		delete(n.pending, topic)
		if interested {
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
			n.hub.logger.Debugf("websocket: unsubscribing from %d topics at the broker: %v", len(remove), err)
		}
	}
	if len(add) > 0 {
		err = n.withTimeout(n.broker.Subscribe, add)
	}
	n.finishSubscribe(add, err)
	return n.ctx.Err() == nil
}

// retryFailed retries failed subscriptions while the broker is up. During an outage
// it does nothing: all subscriptions are in force when Up is called. Publications
// made before the retry are lost, so it announces a gap. It reports false if
// subscribing failed again.
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
	n.finishSubscribe(again, err)
	return err == nil
}

// finishSubscribe records the result of subscribing to topics.
func (n *node) finishSubscribe(topics []string, err error) {
	n.mu.Lock()
	n.applying = false
	for _, topic := range topics {
		if _, requested := n.topics[topic]; requested && err != nil {
			n.failed[topic] = struct{}{}
		} else {
			delete(n.failed, topic)
		}
	}
	report := err != nil && n.state == BrokerUp && n.ctx.Err() == nil
	n.signalChange()
	n.mu.Unlock()
	if err == nil && slices.Contains(topics, nodewire.TopicNodes) {
		n.sendControl(nodewire.KindHello, nodewire.TopicNodes, n.hello(true)) // not before: the answers need the subscription
	}
	if report {
		n.hub.logger.Warningf("websocket: subscribing to %d topics at the broker failed, will retry: %v", len(topics), err)
	}
}

func (n *node) withTimeout(f func(context.Context, []string) error, topics []string) error {
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	return f(ctx, topics)
}

// ready is BrokerReady of a hub with a broker.
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
		if n.state == BrokerUp && len(n.pending) == 0 && !n.applying && len(n.failed) == 0 {
			n.mu.Unlock()
			return nil
		}
		if err := n.unlockAndWait(ctx); err != nil {
			return err
		}
	}
}
