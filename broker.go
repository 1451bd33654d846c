package websocket

import (
	"context"
	"time"
)

// Broker carries publications between the hubs of several processes, over a
// messaging engine that runs beside them. Config.Broker gives a hub its own one;
// two hubs never share a Broker. broker/nats and broker/redis are ready-made, and
// package brokertest holds a suite that every implementation has to pass.
//
// # Contract
//
//  1. Topics are any UTF-8 text of up to 512 bytes, chosen by the hub; an
//     implementation encodes them as its engine needs, so that different topics
//     never meet. Payloads are any bytes.
//  2. Order: what one Broker publishes to one topic arrives at every other in
//     the order published, but for what was lost. Nothing is said about the
//     order between two publishers, or between two topics.
//  3. At most once, while nothing fails. Around a failure a payload may arrive
//     twice, in which case the hub drops the repetition if it comes within 4,096
//     publications of the same hub.
//  4. Loss: what is published while the engine cannot be reached is lost, and so
//     may be what was under way when it failed; nothing is kept for later. The
//     subscriber's side says so: Down, or Lost where the connection stays. The
//     publisher's side says so with an error from Publish.
//  5. A payload longer than MaxPayload gets ErrMessageTooLarge and harms nothing
//     else. The hub then publishes parts of the batch again: what was taken comes
//     twice.
//  6. Whether a Broker receives what it published itself is left open; the hub
//     ignores it.
//  7. While the engine is away an implementation tries again by itself, for
//     ever, with jittered delays that grow to a bound. Its goroutines and memory
//     do not grow meanwhile.
//
// Whoever can publish to the engine can publish to every client, and whoever can
// read from it reads what clients are sent: keys of the hub's do not reach that
// far. The engine needs access control, and TLS where the network is not trusted.
type Broker interface {
	// Open begins to connect and returns without waiting for the engine; h is
	// told how that goes. It returns an error only for what trying again cannot
	// mend. The hub calls it once, from Run.
	Open(h BrokerHandler) error
	// Publish hands a batch to the engine, in order. Nil means that the engine
	// has taken all of it; after an error any part of it may be lost. It returns
	// soon after ctx ends, and at once with ErrBrokerUnavailable while the engine
	// is known to be away. The payloads may be reused when it has returned.
	Publish(ctx context.Context, batch []BrokerMessage) error
	// Subscribe adds topics; one that is there already is no error. Nil means
	// that what is published to them from now on, through any Broker, arrives.
	// After an error the topics are wanted all the same: those are in force, too,
	// when Up is called next. It returns soon after ctx ends.
	Subscribe(ctx context.Context, topics []string) error
	// Unsubscribe takes topics back, also those whose Subscribe failed. A payload
	// that is under way may still arrive.
	Unsubscribe(ctx context.Context, topics []string) error
	// MaxPayload is the longest payload in bytes that the engine takes, as far as
	// is known, or 0 if it sets no limit of its own.
	MaxPayload() int
	// Close ends the connection, without waiting for an engine that does not
	// answer. After it the handler is not called and nothing of the Broker runs.
	// It may be called more than once.
	Close() error
}

// BrokerMessage is one payload on its way to a topic.
type BrokerMessage struct {
	Topic   string
	Payload []byte
}

// BrokerHandler is the hub's side of a Broker. Up and Down take turns; what
// arrives for one topic is received by one call at a time.
type BrokerHandler interface {
	// Receive takes what was published to a subscribed topic. It may wait, which
	// is how a hub slows its Broker down; a Broker that must drop something then
	// calls Lost. The payload belongs to the caller again when it returns.
	Receive(payload []byte)
	// Up says that the engine answers and that every wanted subscription is in
	// force.
	Up()
	// Down says that the connection failed, or could not be made, and why.
	// Anything may be lost from some moment before it until Up.
	Down(err error)
	// Lost says that payloads for these topics, or for any topic if none is
	// named, were lost on the way here although the engine is up.
	Lost(topics ...string)
}

// BrokerState says how a hub and its engine stand.
type BrokerState string

// States of a hub's broker.
const (
	BrokerNone     BrokerState = "none"     // Config.Broker is nil
	BrokerStarting BrokerState = "starting" // not connected yet, nor failed
	BrokerUp       BrokerState = "up"
	BrokerDown     BrokerState = "down"    // the connection failed
	BrokerStalled  BrokerState = "stalled" // connected, but the engine takes nothing
)

// Health says whether a hub works. It marshals to JSON for health endpoints.
type Health struct {
	// Running says that the hub is between Run and the begin of its shutdown.
	Running bool `json:"running"`
	// Node is the hub's own name among the nodes; empty without a broker.
	Node string `json:"node,omitempty"`
	// Broker is the broker's state, Since when, and why if it is down or stalled.
	Broker BrokerState `json:"broker"`
	Since  time.Time   `json:"since,omitzero"`
	Reason string      `json:"reason,omitempty"`
}

// OK reports whether the hub runs and its broker, if any, is up.
func (h Health) OK() bool {
	return h.Running && (h.Broker == BrokerNone || h.Broker == BrokerUp)
}

// Health returns the hub's state of health. Anybody may call it at any time.
func (h *Hub) Health() Health {
	health := Health{Broker: BrokerNone}
	h.mu.Lock()
	health.Running = h.phase == hubRunning && !h.stopping()
	h.mu.Unlock()
	if n := h.node; n != nil {
		n.health(&health)
	}
	return health
}

// BrokerReady waits until every subscription that this node's members need, as
// of the call, is in force at the engine: what other nodes publish from then on
// reaches them. It returns at once without a broker, and ErrHubClosed after
// shutdown has begun.
func (h *Hub) BrokerReady(ctx context.Context) error {
	if h.node == nil {
		return nil
	}
	return h.node.ready(ctx)
}

// BrokerStats is what a hub and its broker have done together. Counters grow
// from NewHub on.
type BrokerStats struct {
	State BrokerState `json:"state"`
	// Nodes counts the nodes that are known to be alive, this one included.
	Nodes int `json:"nodes"`
	// Subscriptions counts the topics that this node has asked the engine for.
	Subscriptions int `json:"subscriptions"`
	// Published counts publications that the engine took, Received those of other
	// nodes that came from it.
	Published uint64 `json:"published"`
	Received  uint64 `json:"received"`
	// Unsent counts publications that other nodes did not get because the engine
	// was away, too slow or refused them. Their local members did.
	Unsent uint64 `json:"unsent"`
	// Refused counts what came from the engine and was not taken: repetitions,
	// what is over this hub's bounds, and what is no publication at all.
	Repeated  uint64 `json:"repeated"`
	Oversized uint64 `json:"oversized"`
	Malformed uint64 `json:"malformed"`
	// QueuedBytes counts what waits for the engine.
	QueuedBytes int64 `json:"queued_bytes"`
	// Outages counts the times that the engine went away.
	Outages uint64 `json:"outages"`
}
