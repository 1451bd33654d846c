package websocket

import "sync/atomic"

// counters are the counters of one shard. Stats adds them up.
type counters struct {
	messagesSent     atomic.Uint64
	messagesReceived atomic.Uint64
	messagesIgnored  atomic.Uint64
	bytesSent        atomic.Uint64
	bytesReceived    atomic.Uint64
	evicted          atomic.Uint64
	announced        atomic.Uint64
	drops            [dropReasons]atomic.Uint64
	deferred         atomic.Uint64 // publications that a cursor will find in the history
}

// Stats has the statistics of a hub. Counters start at zero with NewHub and never
// decrease. All figures are those of this node.
type Stats struct {
	// TotalConnections counts all connections since NewHub. ActiveConnections is the
	// number of connected clients.
	TotalConnections  uint64 `json:"total_connections"`
	ActiveConnections int    `json:"active_connections"`
	// TotalChannels and TotalRooms are the numbers of channels and rooms that have
	// members. Hub.Channels and Hub.Rooms iterate over their names.
	TotalChannels int `json:"total_channels"`
	TotalRooms    int `json:"total_rooms"`
	// MessagesAddressed counts each accepted message once per recipient. It equals
	// MessagesSent plus Dropped.Total() when no messages are queued. It decreases when a
	// slow member leaves publications to the history of a topic, and increases when they
	// are sent from there.
	MessagesAddressed uint64 `json:"messages_addressed"`
	// MessagesSent counts the messages that were written completely, without gap
	// messages. MessagesReceived counts the messages from clients that were decoded.
	MessagesSent     uint64 `json:"messages_sent"`
	MessagesReceived uint64 `json:"messages_received"`
	// MessagesIgnored counts the messages from clients that could not be decoded and
	// were ignored, see Config.IgnoreMalformed.
	MessagesIgnored uint64 `json:"messages_ignored"`
	// BytesSent and BytesReceived count the bytes of WebSocket frames, before TLS
	// and without handshakes.
	BytesSent     uint64 `json:"bytes_sent"`
	BytesReceived uint64 `json:"bytes_received"`
	// Evicted counts the clients that the hub closed with 1013, because they were too
	// slow or held the most while Config.MemoryBudget was exceeded.
	Evicted uint64 `json:"evicted"`
	// Dropped counts the messages that were not delivered, once per recipient.
	Dropped DropStats `json:"dropped"`
	// Announced counts the dropped messages that were announced to their recipient by
	// a message of type "gap".
	Announced uint64 `json:"announced"`
	// HistoryBytes is the number of bytes that count against Config.HistoryBudget now.
	// HistoryEvicted counts the publications that were removed from histories because
	// HistoryBudget was exceeded.
	HistoryBytes   int64  `json:"history_bytes"`
	HistoryEvicted uint64 `json:"history_evicted"`
	// Unreported counts the dropped messages that were not reported to Config.OnDrop,
	// because too many reports were waiting.
	Unreported uint64 `json:"unreported"`
	// HeldBytes is the number of bytes that count against Config.MemoryBudget now. It is
	// not zero while clients are connected.
	HeldBytes int64 `json:"held_bytes"`
	// Broker has the statistics of the broker; nil without a broker.
	Broker *BrokerStats `json:"broker,omitempty"`
}

// DropStats counts dropped messages by reason, once per recipient.
type DropStats struct {
	// SlowConsumer counts the messages that were dropped by Config.SlowConsumer,
	// including the queue of an evicted client.
	SlowConsumer uint64 `json:"slow_consumer"`
	// Disconnected counts the messages whose connection ended before they were
	// written.
	Disconnected uint64 `json:"disconnected"`
	// Codec counts the messages that the client's codec could not encode.
	Codec uint64 `json:"codec"`
	// History counts the messages that were removed from the history of their topic
	// before a slow member could be sent them.
	History uint64 `json:"history"`
}

// Total returns the sum of all reasons.
func (d DropStats) Total() uint64 { return d.SlowConsumer + d.Disconnected + d.Codec + d.History }

// Stats returns the hub's statistics. Its cost does not depend on the number of
// clients, channels and rooms. It may be called from any goroutine at any time, also
// before Run and after shutdown.
func (h *Hub) Stats() Stats {
	st := Stats{
		TotalConnections: h.connected.Load(),
		Unreported:       h.drops.unreported.Load(),
		HeldBytes:        h.budget.used.Load(),
	}
	var deferred uint64
	for _, s := range h.shards {
		c := &s.counters
		st.MessagesSent += c.messagesSent.Load()
		st.MessagesReceived += c.messagesReceived.Load()
		st.MessagesIgnored += c.messagesIgnored.Load()
		st.BytesSent += c.bytesSent.Load()
		st.BytesReceived += c.bytesReceived.Load()
		st.Evicted += c.evicted.Load()
		st.Announced += c.announced.Load()
		st.Dropped.SlowConsumer += c.drops[dropSlowConsumer].Load()
		st.Dropped.Disconnected += c.drops[dropDisconnected].Load()
		st.Dropped.Codec += c.drops[dropCodec].Load()
		st.Dropped.History += c.drops[dropHistory].Load()
		deferred += c.deferred.Load()
	}
	if h.node != nil {
		st.Broker = h.node.stats()
	}
	l := h.events
	l.mu.Lock()
	defer l.mu.Unlock()
	st.MessagesAddressed = l.addressed - deferred
	st.HistoryBytes = l.histories.bytes.Load()
	st.HistoryEvicted = l.histories.evicted
	st.ActiveConnections = l.clients
	st.TotalChannels = l.populated[ChannelTopic]
	st.TotalRooms = l.populated[RoomTopic]
	return st
}
