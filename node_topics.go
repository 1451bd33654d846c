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
	entry := n.clients[id]
	entry.count++
	entry.since = time.Now()
	n.clients[id] = entry
	if entry.count == 1 {
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
	entry := n.clients[id]
	entry.count--
	n.clients[id] = entry
	if entry.count == 0 {
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
	if h := n.holds[topic]; h != nil {
		h.interested = interested
		interested = true
	}
	if interested && n.state == BrokerStarting {
		n.exposed[topic] = struct{}{}
	}
	n.requestTopic(topic, interested)
}

// requestTopic is setInterest for a topic that no join holds.
func (n *node) requestTopic(topic string, interested bool) {
	if n.hub.stopping() {
		return // closing the broker ends all subscriptions
	}
	if _, requested := n.topics[topic]; requested == interested {
		delete(n.pending, topic)
	} else {
		n.pending[topic] = interested
		wake(n.topicWake)
	}
	if !interested {
		delete(n.exposed, topic)
		n.endWaits(topic)
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
			n.subscribing[topic] = struct{}{}
			add = append(add, topic)
		} else {
			delete(n.topics, topic)
			delete(n.failed, topic)
			remove = append(remove, topic)
		}
	}
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
// made before the retry are lost, so it announces gaps. It reports false if
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
		n.Lost(again...)
	}
	n.finishSubscribe(again, err)
	return err == nil
}

// finishSubscribe records the result of subscribing to topics.
func (n *node) finishSubscribe(topics []string, err error) {
	n.mu.Lock()
	for _, topic := range topics {
		delete(n.subscribing, topic)
		if _, requested := n.topics[topic]; requested && err != nil {
			n.failed[topic] = struct{}{}
			if n.state != BrokerStarting { // before the first Up, errors are the rule
				n.endWaits(topic)
			}
		} else {
			n.inForce(topic)
		}
	}
	report := err != nil && n.state == BrokerUp && n.ctx.Err() == nil
	n.signalChange()
	n.mu.Unlock()
	if err == nil && slices.Contains(topics, nodewire.TopicNodes) {
		n.mu.Lock()
		n.startDiscovery()
		n.mu.Unlock()
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
