package websocket

import (
	"context"
	"encoding/json"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// clientEntry is what the node knows of the clients with an ID. There is more than one
// while ReplaceDuplicate closes the older one.
type clientEntry struct {
	count int
	since time.Time // when the latest one was registered
}

// startDiscovery begins the time in which this node may not know all others: it has
// just subscribed to their hellos. The node is locked.
func (n *node) startDiscovery() {
	n.discovered = false
	n.discoverBy = time.Now().Add(min(n.hub.config.AnnounceInterval*6/5, n.hub.config.BrokerTimeout))
}

// knowsPeers reports whether all live nodes are known. The node is locked.
func (n *node) knowsPeers() bool {
	return n.discovered || !n.discoverBy.IsZero() && !time.Now().Before(n.discoverBy)
}

// discover waits until all live nodes are known, or the broker is not up.
func (n *node) discover(ctx context.Context) error {
	for {
		n.mu.Lock()
		if n.state != BrokerUp || n.knowsPeers() {
			n.mu.Unlock()
			return nil
		}
		until := n.hub.config.BrokerTimeout // the subscription to hellos may fail
		if !n.discoverBy.IsZero() {
			until = time.Until(n.discoverBy)
		}
		bounded, cancel := context.WithTimeout(ctx, until)
		err := n.unlockAndWait(bounded)
		timeout := bounded.Err() != nil
		cancel()
		if err != nil && (!timeout || ctx.Err() != nil || n.unheard()) {
			return err
		}
	}
}

// unheard reports whether this node has not subscribed to the hellos of others.
func (n *node) unheard() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.discoverBy.IsZero()
}

// sendPeers tells a node that has just started which nodes this one knows, if it knows all.
func (n *node) sendPeers(to uint64) {
	n.mu.Lock()
	known := n.knowsPeers()
	n.mu.Unlock()
	if !known {
		return
	}
	if body, ok := nodewire.AppendPeers(nil, n.peers.Names()); ok {
		n.sendControl(nodewire.KindPeers, nodewire.NodeTopic(to), body)
	}
}

// receivePeers ends the discovery if all nodes of a list are known. Their answers to this
// node's hello may still be under way; then the discovery ends in time.
func (n *node) receivePeers(body []byte) {
	ids, err := nodewire.ParsePeers(body)
	if err != nil {
		n.dropMalformed(err)
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, id := range ids {
		if id != n.id {
			n.peers.Expect(id)
		}
	}
	n.discovered = true
	n.signalChange()
}

// order is a question that closes clients. It is asked again of nodes that did not answer,
// because they were cut off.
type order struct {
	question
	at       time.Time
	answered map[uint64]bool
}

// Bounds of the orders that are kept.
const (
	orderTime = 10 * time.Minute
	maxOrders = 1024
)

// olderOps are the operations that repeat an order: they close only clients that were
// connected when it was given.
var olderOps = map[string]string{askClose: askCloseOlder, askCloseUser: askCloseUserOlder}

// keep keeps a question that closes clients. The table is locked.
func (t *questionTable) keep(q question) {
	if olderOps[q.Op] == "" {
		return
	}
	if len(t.orders) >= maxOrders {
		t.orders = t.orders[1:]
	}
	t.orders = append(t.orders, &order{question: q, at: time.Now(), answered: make(map[uint64]bool)})
}

// repeatOrders asks the nodes that have not answered an order.
func (n *node) repeatOrders() {
	t := &n.asked
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.orders) > 0 && time.Since(t.orders[0].at) > orderTime {
		t.orders = t.orders[1:]
	}
	if len(t.orders) == 0 {
		t.orders = nil
		return
	}
	peers := n.peers.Names()
	for _, o := range t.orders {
		q := o.question
		q.Op, q.Age = olderOps[q.Op], time.Since(o.at).Milliseconds()
		for id := range peers {
			if o.answered[id] {
				continue
			}
			body, err := json.Marshal(q)
			if err != nil || !n.sendControl(nodewire.KindQuestion, nodewire.NodeTopic(id), body) {
				return
			}
		}
	}
}

// answeredBy records that a node has answered an order. The table is locked.
func (t *questionTable) answeredBy(node, id uint64) {
	for _, o := range t.orders {
		if o.ID == id {
			o.answered[node] = true
		}
	}
}

// connectedFor reports whether the client with an ID has been connected for at least age.
func (n *node) connectedFor(id string, age time.Duration) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	entry, ok := n.clients[id]
	return ok && time.Since(entry.since) >= age
}
