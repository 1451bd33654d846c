package websocket

import (
	"context"
	"time"
)

// Broker carries publications between the hubs of several processes. It adapts a
// messaging system, the engine, that runs beside them. Config.Broker gives a hub
// its Broker; two hubs never share one. Packages broker/nats and broker/redis are
// implementations, and package brokertest tests any implementation against the
// contract.
//
// # Contract
//
//  1. Topics: a topic is any UTF-8 text of up to 512 bytes, chosen by the hub. An
//     implementation encodes topics as its engine needs. Two different topics
//     must never become the same subject or channel of the engine. A payload is
//     any sequence of bytes.
//  2. Order: payloads that one Broker publishes to one topic arrive at every other
//     Broker in the order of publishing. Some may be missing (see Loss). There is
//     no order between two publishers or between two topics. Payloads of a call of
//     Publish that has failed may arrive later, and after those of later calls: the
//     hub drops them then, and tells the members with a gap.
//  3. Duplicates: while nothing fails, a payload arrives at most once. Around a
//     failure it may arrive twice. The hub drops the second copy if it arrives
//     within 4,096 payloads of the same hub.
//  4. Loss: payloads published while the engine is unreachable are lost, and those
//     under way when it fails may be lost. Nothing is stored for later. The
//     receiving Broker reports a loss with Down, or with Lost if the connection
//     stays up. The publishing Broker reports it with an error from Publish.
//  5. Size: Publish returns ErrMessageTooLarge for a payload longer than
//     MaxPayload. This does not affect other payloads or the connection. The hub
//     then publishes parts of the batch again, so payloads that the engine had
//     taken arrive twice.
//  6. Echo: a Broker may or may not receive its own publications. The hub ignores
//     them.
//  7. Outages: while the engine is unreachable, an implementation keeps
//     reconnecting without a limit on attempts. Delays are jittered and grow to a
//     maximum. Its goroutines and memory do not grow during an outage.
//
// A process that can publish to the engine can publish to every client, and a
// process that can read from the engine can read every publication: the hub's
// keys do not protect this traffic. The engine needs access control, and TLS where
// the network is not trusted.
type Broker interface {
	// Open starts connecting and returns without waiting for the engine. The
	// outcome is reported to h. It returns an error only if retrying cannot help,
	// such as for invalid options. The hub calls Open once, from Run.
	Open(h BrokerHandler) error
	// Publish passes a batch to the engine, in order. Nil means that the engine
	// has taken the whole batch. After an error, any part of it may be lost.
	// Publish returns soon after ctx ends, and returns ErrBrokerUnavailable at
	// once while the engine is known to be unreachable. The caller may reuse the
	// payloads after it returns.
	Publish(ctx context.Context, batch []BrokerMessage) error
	// Subscribe adds topics. Adding a topic twice is not an error. Nil means that
	// all payloads published to the topics from now on, through any Broker, will
	// arrive. After an error the topics stay requested: they are in force when
	// Up is called the next time. Subscribe returns soon after ctx ends.
	Subscribe(ctx context.Context, topics []string) error
	// Unsubscribe removes topics, including topics whose Subscribe failed.
	// Payloads under way may still arrive.
	Unsubscribe(ctx context.Context, topics []string) error
	// MaxPayload returns the size in bytes of the largest payload that the engine
	// takes, or 0 if there is no limit or it is not known yet. The hub
	// calls it for each publication, since the limit may change.
	MaxPayload() int
	// Close ends the connection without waiting for an engine that does not
	// respond. After it returns, the handler is not called again and the Broker
	// has no running goroutines. Close may be called more than once.
	Close() error
}

// BrokerMessage is one payload and the topic that it is published to.
type BrokerMessage struct {
	Topic   string
	Payload []byte
}

// BrokerHandler is the hub's side of a Broker: the Broker calls it from Open until
// Close returns. Calls of Up and Down alternate; either may come first. There is at
// most one call of Receive or Record at a time for one topic.
type BrokerHandler interface {
	// Receive takes a payload published to a subscribed topic. It may block, and
	// so slow the Broker down. A Broker that has to drop payloads for this reason
	// calls Lost. Receive does not keep the payload.
	Receive(payload []byte)
	// Record takes a record appended to a subscribed topic. It may block, as Receive. It
	// does not keep the payload. Only a HistoryBroker calls it.
	Record(r BrokerRecord)
	// Up reports that the engine is reachable and that every requested
	// subscription is in force.
	Up()
	// Down reports that the connection failed or could not be made, and the
	// reason. Payloads may be lost from some time before this call until Up.
	Down(err error)
	// Lost reports that payloads for these topics were lost on the way to this
	// Broker although the engine is reachable. Without arguments it means any
	// topic.
	Lost(topics ...string)
}

// BrokerState is the state of the connection between a hub and its engine.
type BrokerState string

// States of a hub's broker.
const (
	BrokerNone     BrokerState = "none"     // Config.Broker is nil
	BrokerStarting BrokerState = "starting" // before the first Up or Down
	BrokerUp       BrokerState = "up"
	BrokerDown     BrokerState = "down"    // the connection failed
	BrokerStalled  BrokerState = "stalled" // connected, but publishing fails or times out
)

// Health is the state of a hub. It marshals to JSON for health endpoints.
type Health struct {
	// Running is true from Run until shutdown begins.
	Running bool `json:"running"`
	// Draining is true from the beginning of Drain on. The hub then accepts no clients.
	Draining bool `json:"draining"`
	// Node is the hub's name among the nodes of its cluster; empty without a
	// broker.
	Node string `json:"node,omitempty"`
	// Broker is the state of the broker.
	Broker BrokerState `json:"broker"`
	// Since is when the broker entered its state; zero without a broker.
	Since time.Time `json:"since,omitzero"`
	// Reason is the error that made the broker down or stalled.
	Reason string `json:"reason,omitempty"`
}

// OK reports whether the hub runs and accepts clients, and its broker, if there is one,
// is up.
func (h Health) OK() bool {
	return h.accepts() && (h.Broker == BrokerNone || h.Broker == BrokerUp)
}

// accepts reports whether the hub accepts clients.
func (h Health) accepts() bool { return h.Running && !h.Draining }

// Health returns the current state of the hub. It may be called from any
// goroutine at any time, also before Run and after shutdown.
func (h *Hub) Health() Health {
	health := Health{Broker: BrokerNone}
	h.mu.Lock()
	health.Running = h.phase == hubRunning && !h.stopping()
	health.Draining = h.draining != nil
	h.mu.Unlock()
	if n := h.node; n != nil {
		n.health(&health)
	}
	return health
}

// BrokerReady waits until the broker is up and every subscription that this
// node's members need at the time of the call is in force at the engine. Publications
// of other nodes then reach all of these members. It returns nil at once without a
// broker, ctx's error when ctx ends, and ErrHubClosed after shutdown has begun. It may be
// called from any goroutine.
func (h *Hub) BrokerReady(ctx context.Context) error {
	if h.node == nil {
		return nil
	}
	return h.node.ready(ctx)
}

// BrokerStats describes the traffic between a hub and its broker. Counters start
// at zero with NewHub and only grow.
type BrokerStats struct {
	State BrokerState `json:"state"`
	// Nodes is the number of nodes known to be alive, including this one.
	Nodes int `json:"nodes"`
	// Subscriptions is the number of topics that this node has requested from the
	// engine.
	Subscriptions int `json:"subscriptions"`
	// Published counts publications of this node that the engine took.
	Published uint64 `json:"published"`
	// Received counts publications of other nodes that this node accepted.
	Received uint64 `json:"received"`
	// Unsent counts publications of this node that did not reach the engine,
	// because it was unreachable, too slow or refused them. Members on this node
	// received them, except in topics with history.
	Unsent uint64 `json:"unsent"`
	// Healed counts publications to topics with history that did not arrive and were read
	// from the engine.
	Healed uint64 `json:"healed"`
	// Repeated counts payloads dropped because they had arrived before.
	Repeated uint64 `json:"repeated"`
	// Late counts payloads dropped because they arrived after later ones of the same
	// node. Recipients of publications among them get a gap.
	Late uint64 `json:"late"`
	// Oversized counts publications of other nodes dropped because they exceed
	// this hub's ClientBacklog or LogSize. Their recipients get a gap.
	Oversized uint64 `json:"oversized"`
	// Unknown counts payloads dropped because they belong to a later version of the
	// protocol between nodes. All members get a gap, and the hub logs a warning.
	Unknown uint64 `json:"unknown"`
	// Malformed counts payloads dropped because they could not be decoded.
	Malformed uint64 `json:"malformed"`
	// QueuedBytes is the size of the payloads that wait for the engine.
	QueuedBytes int64 `json:"queued_bytes"`
	// Outages counts how many times the broker became down or stalled after it
	// was up or starting.
	Outages uint64 `json:"outages"`
}
