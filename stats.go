package websocket

import "sync/atomic"

// dropReason says why a message was not delivered to a client it was for.
type dropReason uint8

const (
	dropSlowConsumer dropReason = iota
	dropDisconnected
	dropCodec
	dropReasons
)

var dropNames = [dropReasons]string{
	dropSlowConsumer: "slow_consumer",
	dropDisconnected: "disconnected",
	dropCodec:        "codec",
}

// gapBroker is the reason of a gap between nodes. How much was lost is not known.
const gapBroker = "broker"

// counters are one shard's; Stats adds them up.
type counters struct {
	messagesSent     atomic.Uint64
	messagesReceived atomic.Uint64
	bytesSent        atomic.Uint64
	bytesReceived    atomic.Uint64
	evicted          atomic.Uint64
	announced        atomic.Uint64
	drops            [dropReasons]atomic.Uint64
}

// Stats is a hub's figures at one moment. Counters grow from NewHub on.
type Stats struct {
	// TotalConnections counts the connections since NewHub, ActiveConnections
	// those there are.
	TotalConnections  uint64 `json:"total_connections"`
	ActiveConnections int    `json:"active_connections"`
	// MessagesAddressed counts accepted messages once for every client that each
	// was for. When nothing waits any more it is MessagesSent and all of Dropped
	// together: nothing is lost silently.
	MessagesAddressed uint64 `json:"messages_addressed"`
	// MessagesSent counts messages that were written whole to a socket, gap
	// notices apart; MessagesReceived counts those that were decoded.
	MessagesSent     uint64 `json:"messages_sent"`
	MessagesReceived uint64 `json:"messages_received"`
	// BytesSent and BytesReceived count WebSocket frames on the wire, before TLS
	// and without handshakes.
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	// TotalClients, TotalChannels and TotalRooms say how many there are;
	// Channels and Rooms give each one's members.
	TotalClients  int            `json:"total_clients"`
	TotalChannels int            `json:"total_channels"`
	TotalRooms    int            `json:"total_rooms"`
	Channels      map[string]int `json:"channels"`
	Rooms         map[string]int `json:"rooms"`
	// Evicted counts clients closed with 1013 for being too slow.
	Evicted uint64 `json:"evicted"`
	// Dropped counts messages that a client they were for did not get, by reason:
	// "slow_consumer" (over its bound), "disconnected" (its connection ended
	// first) and "codec" (its codec could not encode them).
	Dropped map[string]uint64 `json:"dropped"`
	// Announced counts those of Dropped that clients were told of with a message
	// of type "gap".
	Announced uint64 `json:"announced"`
	// Unreported counts messages of Dropped that Config.OnDrop was not told of,
	// because it had fallen too far behind.
	Unreported uint64 `json:"unreported"`
	// HeldBytes is what counts against Config.MemoryBudget at the moment.
	HeldBytes int64 `json:"held_bytes"`
	// Broker is nil without a broker.
	Broker *BrokerStats `json:"broker,omitempty"`
}

// Stats returns the hub's figures. Anybody may call it at any time, also after
// shutdown. It copies the names of all channels and rooms while publishing
// waits, so it is not for every message.
func (h *Hub) Stats() Stats {
	st := Stats{
		TotalConnections: h.connected.Load(),
		Channels:         map[string]int{},
		Rooms:            map[string]int{},
		Dropped:          make(map[string]uint64, dropReasons),
		Unreported:       h.drops.unreported.Load(),
	}
	for _, s := range h.shards {
		c := &s.counters
		st.MessagesSent += c.messagesSent.Load()
		st.MessagesReceived += c.messagesReceived.Load()
		st.BytesSent += c.bytesSent.Load()
		st.BytesReceived += c.bytesReceived.Load()
		st.Evicted += c.evicted.Load()
		st.Announced += c.announced.Load()
		for reason := range c.drops {
			st.Dropped[dropNames[reason]] += c.drops[reason].Load()
		}
	}
	if h.node != nil {
		st.Broker = h.node.stats()
	}
	l := h.log
	l.mu.Lock()
	defer l.mu.Unlock()
	st.HeldBytes = h.budget.used.Load()
	st.MessagesAddressed = l.addressed
	st.ActiveConnections = l.clients
	st.TotalClients = l.clients
	for name, t := range l.topics[channelTopic] {
		st.Channels[name] = t.members
	}
	for name, t := range l.topics[roomTopic] {
		st.Rooms[name] = t.members
	}
	st.TotalChannels, st.TotalRooms = len(st.Channels), len(st.Rooms)
	return st
}
