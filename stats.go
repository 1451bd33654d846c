package websocket

import (
	"iter"
	"slices"
	"sync/atomic"
	"time"
)

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
	deferred         atomic.Uint64                     // publications that a cursor will find in the history
	hibernating      atomic.Int64                      // connections that hibernate
	queuedBytes      atomic.Int64                      // cost of the messages that connections have queued or are writing
	closes           [len(closeCodes)][2]atomic.Uint64 // by code, by the hub and by the peer
	handshakes       histogram
	callbacks        [len(callbackNames)]histogram // by the values of Client.calling
}

// Stats has the statistics of a hub. Counters start at zero with NewHub and never
// decrease. All figures are those of this node.
type Stats struct {
	// TotalConnections counts all connections since NewHub. ActiveConnections is the
	// number of connected clients.
	TotalConnections  uint64 `json:"total_connections"`
	ActiveConnections int    `json:"active_connections"`
	// Hibernating is the number of connected clients that hibernate, see
	// Config.HibernateAfter.
	Hibernating int64 `json:"hibernating"`
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
	// Since is when NewHub was called.
	Since time.Time `json:"since"`
	// PendingHandshakes is the number of handshakes under way. Handshakes has the durations
	// of those that made a connection, with the wait for Run and the hooks; its Count equals
	// TotalConnections. Refused counts the others by reason, except those that failed
	// while the response was written.
	PendingHandshakes int          `json:"pending_handshakes"`
	Handshakes        Histogram    `json:"handshakes"`
	Refused           RefusalStats `json:"refused"`
	// Closes counts the connections that have ended, by the code of the CloseError, in the
	// order of the codes. The last element, with Code 0, counts all other codes.
	Closes [len(closeCodes)]CloseCount `json:"closes"`
	// QueuedMessages is the number of messages that are accepted and not written yet, once
	// per recipient. QueuedBytes is the size of those that wait for their connection,
	// counted as Config.ClientBacklog does. LogBytes is the size of the messages that are
	// not routed to their recipients yet, which Config.LogSize bounds.
	QueuedMessages int64 `json:"queued_messages"`
	QueuedBytes    int64 `json:"queued_bytes"`
	LogBytes       int64 `json:"log_bytes"`
	// Callbacks has the durations of the application's callbacks.
	Callbacks CallbackStats `json:"callbacks"`
	// Resumes counts the joins with a position, by their outcome.
	Resumes ResumeStats `json:"resumes"`
	// PresenceMembers is the number of memberships of this node's clients in topics with
	// presence. PresenceMessages counts the presence_diff messages, once for each topic.
	PresenceMembers  int64  `json:"presence_members"`
	PresenceMessages uint64 `json:"presence_messages"`
	// Broker has the statistics of the broker; nil without a broker.
	Broker *BrokerStats `json:"broker,omitempty"`
}

// RefusalStats counts refused handshakes by reason. The fields belong to the constants of
// RefusalReason.
type RefusalStats struct {
	NotWebSocket uint64 `json:"not_websocket"`
	Malformed    uint64 `json:"malformed"`
	Codec        uint64 `json:"codec"`
	Origin       uint64 `json:"origin"`
	ClientID     uint64 `json:"client_id"`
	DuplicateID  uint64 `json:"duplicate_id"`
	Limit        uint64 `json:"limit"`
	Memory       uint64 `json:"memory"`
	NotRunning   uint64 `json:"not_running"`
	Closed       uint64 `json:"closed"`
	Hook         uint64 `json:"hook"`
	Writer       uint64 `json:"writer"`
	AddressLimit uint64 `json:"address_limit"`
	Draining     uint64 `json:"draining"`
}

// refusalReasons are the reasons in the order of the fields of RefusalStats.
var refusalReasons = [...]RefusalReason{
	RefusedNotWebSocket, RefusedMalformed, RefusedCodec, RefusedOrigin, RefusedClientID, RefusedDuplicateID,
	RefusedLimit, RefusedMemory, RefusedNotRunning, RefusedClosed, RefusedHook, RefusedWriter,
	RefusedAddressLimit, RefusedDraining,
}

// refusals counts refused handshakes, by index in refusalReasons.
type refusals [len(refusalReasons)]atomic.Uint64

func (r *refusals) add(reason RefusalReason) {
	if i := slices.Index(refusalReasons[:], reason); i >= 0 {
		r[i].Add(1)
	}
}

func (r *refusals) stats() (st RefusalStats) {
	for i, field := range st.fields() {
		*field = r[i].Load()
	}
	return st
}

func (r *RefusalStats) fields() [len(refusalReasons)]*uint64 {
	return [...]*uint64{
		&r.NotWebSocket, &r.Malformed, &r.Codec, &r.Origin, &r.ClientID, &r.DuplicateID,
		&r.Limit, &r.Memory, &r.NotRunning, &r.Closed, &r.Hook, &r.Writer, &r.AddressLimit, &r.Draining,
	}
}

// All iterates over the reasons and their counts.
func (r RefusalStats) All() iter.Seq2[RefusalReason, uint64] {
	return func(yield func(RefusalReason, uint64) bool) {
		for i, field := range r.fields() {
			if !yield(refusalReasons[i], *field) {
				return
			}
		}
	}
}

// Total returns the sum of all reasons.
func (r RefusalStats) Total() (sum uint64) {
	for _, n := range r.All() {
		sum += n
	}
	return sum
}

// CloseCount counts the connections that ended with a code.
type CloseCount struct {
	// Code is the close code, or 0 for all codes without a count of their own.
	Code int `json:"code"`
	// ByHub counts the connections that the hub closed or aborted.
	ByHub uint64 `json:"by_hub"`
	// ByPeer counts the connections that the peer closed, and those with
	// CloseAbnormalClosure that failed or that the peer cut.
	ByPeer uint64 `json:"by_peer"`
}

// closeCodes are the codes that are counted separately. The last element stands for all others.
var closeCodes = [...]int{
	CloseNormalClosure, CloseGoingAway, CloseProtocolError, CloseUnsupportedData, CloseNoStatusReceived, CloseAbnormalClosure,
	CloseInvalidPayloadData, ClosePolicyViolation, CloseMessageTooBig, 1010, CloseInternalError, CloseServiceRestart,
	CloseTryAgainLater, 1014, CloseUnauthorized, CloseForbidden, CloseTimeout, CloseReplaced, 0,
}

// closeIndex returns the index of a code in closeCodes.
func closeIndex(code int) int {
	if i := slices.Index(closeCodes[:], code); i >= 0 {
		return i
	}
	return len(closeCodes) - 1
}

// CallbackStats has the durations of callbacks, of calls that have ended. Those of hooks in
// the handshake are part of Stats.Handshakes.
type CallbackStats struct {
	OnConnect    Histogram `json:"on_connect"`
	OnMessage    Histogram `json:"on_message"`
	Authorize    Histogram `json:"authorize"`
	OnDisconnect Histogram `json:"on_disconnect"`
	// Membership is OnJoin and OnLeave.
	Membership Histogram `json:"membership"`
	// Handler is the handlers of Hub.Handle and Hub.HandleConcurrent.
	Handler Histogram `json:"handler"`
}

// All iterates over the callbacks and their durations. The names are those of the fields,
// in snake case. The pointers are only valid as long as c.
func (c *CallbackStats) All() iter.Seq2[string, *Histogram] {
	return func(yield func(string, *Histogram) bool) {
		_ = yield("on_connect", &c.OnConnect) && yield("on_message", &c.OnMessage) && yield("authorize", &c.Authorize) &&
			yield("on_disconnect", &c.OnDisconnect) && yield("membership", &c.Membership) && yield("handler", &c.Handler)
	}
}

// ResumeStats counts joins with a position: see Client.SubscribeSince.
type ResumeStats struct {
	// Complete counts those after which no publication is missing.
	Complete uint64 `json:"complete"`
	// Gap counts those whose client was told that publications are missing.
	Gap uint64 `json:"gap"`
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

// All iterates over the reasons and their counts. The names are those of Gap.Reason.
func (d DropStats) All() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		_ = yield(dropNames[dropSlowConsumer], d.SlowConsumer) && yield(dropNames[dropDisconnected], d.Disconnected) &&
			yield(dropNames[dropCodec], d.Codec) && yield(dropNames[dropHistory], d.History)
	}
}

// Stats returns the hub's statistics. Its cost does not depend on the number of clients,
// channels and rooms, and no publishing waits for it. The figures are read one after the
// other, so they may differ by what happens meanwhile. It may be called from any goroutine
// at any time, also before Run and after shutdown.
func (h *Hub) Stats() Stats {
	l := h.events
	st := Stats{
		Since:             h.epoch,
		TotalConnections:  h.connected.Load(),
		PendingHandshakes: int(h.handshakes.Load()),
		Refused:           h.refused.stats(),
		Unreported:        h.drops.unreported.Load(),
		HeldBytes:         h.budget.used.Load(),
		ActiveConnections: int(l.clients.Load()),
		TotalChannels:     int(l.populated[ChannelTopic].Load()),
		TotalRooms:        int(l.populated[RoomTopic].Load()),
		LogBytes:          l.used.Load(),
		HistoryBytes:      l.histories.bytes.Load(),
		HistoryEvicted:    l.histories.evicted.Load(),
		Resumes:           ResumeStats{Complete: l.histories.resumed.Load(), Gap: l.histories.resumedGap.Load()},
		PresenceMembers:   l.presences.members.Load(),
		PresenceMessages:  l.presences.messages.Load(),
	}
	for i, code := range closeCodes {
		st.Closes[i].Code = code
	}
	callbacks := [len(callbackNames)]*Histogram{
		callingConnect: &st.Callbacks.OnConnect, callingMessage: &st.Callbacks.OnMessage,
		callingAuthorize: &st.Callbacks.Authorize, callingDisconnect: &st.Callbacks.OnDisconnect,
		callingTopicHook: &st.Callbacks.Membership, callingHandler: &st.Callbacks.Handler,
	}
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
		st.MessagesAddressed -= c.deferred.Load()
		st.QueuedBytes += c.queuedBytes.Load()
		st.Hibernating += c.hibernating.Load()
		for i := range st.Closes {
			st.Closes[i].ByHub += c.closes[i][0].Load()
			st.Closes[i].ByPeer += c.closes[i][1].Load()
		}
		c.handshakes.addTo(&st.Handshakes)
		for i, sum := range callbacks {
			if sum != nil {
				c.callbacks[i].addTo(sum)
			}
		}
	}
	st.MessagesAddressed += l.addressed.Load() // last, so that no message is sent before it is addressed
	st.QueuedMessages = max(0, int64(st.MessagesAddressed-st.MessagesSent-st.Dropped.Total()))
	if h.node != nil {
		st.Broker = h.node.stats()
	}
	return st
}
