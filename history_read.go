package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
)

// HistoryQuery chooses publications of a topic's history.
type HistoryQuery struct {
	// Since asks for the publications behind a position, oldest first. The zero
	// Position asks for the latest ones.
	Since Position
	// Before asks for publications with a smaller offset. 0 means no limit.
	Before uint64
	// Limit is the maximum number of publications. Defaults to 100; at most 1,000. It must
	// not be negative.
	Limit int
}

const (
	defaultHistoryLimit = 100
	maxHistoryLimit     = 1000
)

// HistoryPage is a part of a topic's history.
type HistoryPage struct {
	// Position is the place behind the latest publication of the topic. It is zero if
	// the topic has no history or does not exist.
	Position
	// Complete is false if publications behind HistoryQuery.Since are not kept any more.
	// Reason then says why, as in Resumed.
	Complete bool   `json:"complete"`
	Reason   string `json:"reason,omitempty"`
	// Messages has the publications, oldest first, each with its Offset.
	Messages []*Message `json:"-"`
}

// History returns publications that a channel or room keeps. The messages are copies. A
// topic without history is no error: see HistoryPage.Reason. With a Broker it returns what
// has arrived on this node; if the topic has no members here, the whole history is read
// from the engine for the call. Errors: ErrInvalidName, one for a
// negative limit, ErrHubClosed after shutdown has begun, ErrBrokerUnavailable if the engine does not answer within Config.BrokerTimeout,
// and ctx's error. It may be called from any goroutine, callbacks included.
func (h *Hub) History(ctx context.Context, kind TopicKind, name string, q HistoryQuery) (HistoryPage, error) {
	if err := checkName(name, h.config.MaxNameLength); err != nil {
		return HistoryPage{}, err
	}
	if q.Limit < 0 {
		return HistoryPage{}, errHistoryLimit
	}
	if err := ctx.Err(); err != nil {
		return HistoryPage{}, err
	}
	l := h.events
	if n := h.node; n != nil && n.histories != nil && kind >= 0 && kind < topicKinds {
		release, err := n.openHistory(ctx, kind, name, &q.Since)
		if err != nil {
			return HistoryPage{}, err
		}
		defer release()
	}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return HistoryPage{}, ErrHubClosed
	}
	page, messages := l.readPage(kind, name, q)
	l.mu.Unlock()
	for i := range messages {
		page.Messages = append(page.Messages, messages[i].Clone())
	}
	return page, nil
}

// readPage returns a page without messages, and its messages, whose Data must not be
// changed. The log is locked.
func (l *eventLog) readPage(kind TopicKind, name string, q HistoryQuery) (HistoryPage, []Message) {
	if kind < 0 || kind >= topicKinds {
		return HistoryPage{Reason: resumeNone}, nil
	}
	t := l.topics[kind].m[name]
	if t == nil || t.history == nil {
		return HistoryPage{Reason: resumeNone}, nil
	}
	h := t.history
	l.trimHistory(h, l.histories.clock())
	if h.len() == 0 {
		if q.Since == (Position{}) {
			return HistoryPage{Position: h.position(), Complete: true}, nil
		}
		outcome, _, _ := h.resume(resume{since: &q.Since}, "")
		return HistoryPage{Position: h.position(), Complete: outcome.Complete, Reason: outcome.Reason}, nil
	}
	l.touchHistory(h)
	limit := defaultHistoryLimit
	if q.Limit > 0 {
		limit = min(q.Limit, maxHistoryLimit)
	}
	page := HistoryPage{Position: h.position(), Complete: true}
	end := h.head + 1
	if q.Before > 0 {
		end = min(end, q.Before)
	}
	until := h.records.rank(h.records.seek(end))
	from := max(until-limit, 0)
	if q.Since != (Position{}) {
		outcome, first, _ := h.resume(resume{since: &q.Since}, "")
		page.Complete, page.Reason = outcome.Complete, outcome.Reason
		from = h.records.rank(h.records.seek(first))
		until = min(until, from+limit)
	}
	var messages []Message
	for r := range h.records.from(h.records.place(from)) {
		if from >= until {
			break
		}
		messages = append(messages, r.message(h))
		from++
	}
	return page, messages
}

// historyRequest is the data of hub:history. It is JSON in every codec, as the reply.
type historyRequest struct {
	Channel string   `json:"channel"`
	RoomID  string   `json:"room_id"`
	Since   Position `json:"since"`
	Before  uint64   `json:"before"`
	Limit   int      `json:"limit"`
}

// historyReply is the data of the ack to hub:history.
type historyReply struct {
	HistoryPage
	Messages []json.RawMessage `json:"messages"`
}

// replyToHistory answers a hub:history request of a member.
func (c *Client) replyToHistory(m *Message) {
	data, target, err := c.historyData(m.Data)
	switch {
	case errors.Is(err, ErrForbidden):
		c.replyError(m, target, codeForbidden, err.Error())
	case err != nil:
		c.replyError(m, target, codeBadRequest, err.Error())
	default:
		c.conn.in.bytes.spend(len(data)) // a small request must not cost more than ByteRate allows
		reply := Message{Type: typeAck, Channel: target, ID: m.ID, Timestamp: m.Timestamp, Data: data}
		if err := c.hub.checkSize(messageCost(&reply)); err != nil {
			c.replyError(m, target, codeTooLarge, err.Error())
			return
		}
		c.sendReply(&reply)
	}
}

var (
	errHistoryRequest = errors.New("websocket: hub:history needs either channel or room_id, and valid bounds")
	errHistoryLimit   = errors.New("websocket: HistoryQuery.Limit is negative")
)

func (c *Client) historyData(data []byte) (reply []byte, target string, err error) {
	var request historyRequest
	if err := json.Unmarshal(data, &request); err != nil || (request.Channel == "") == (request.RoomID == "") || request.Limit < 0 {
		return nil, "", errHistoryRequest
	}
	kind, target := ChannelTopic, request.Channel
	if request.RoomID != "" {
		kind, target = RoomTopic, request.RoomID
	}
	l := c.hub.events
	l.mu.Lock()
	if !c.registered || l.membership(c, kind, target) == nil {
		l.mu.Unlock()
		return nil, target, ErrForbidden
	}
	page, messages := l.readPage(kind, target, HistoryQuery{Since: request.Since, Before: request.Before, Limit: request.Limit})
	l.mu.Unlock()
	return encodeHistory(page, messages, request.Since == Position{}, c.hub.config.MaxMessageSize), target, nil
}

// publishedRequest is the data of hub:published: did a publication of the client with this
// key, behind a position, reach the topic? It is JSON in every codec.
type publishedRequest struct {
	topicRequest
	Key   string   `json:"key"`
	Since Position `json:"since"`
}

// publishedReply is the data of the ack to hub:published.
type publishedReply struct {
	Published bool `json:"published"`
	Complete  bool `json:"complete"` // it is certain
}

var errPublishedRequest = errors.New("websocket: hub:published needs either channel or room_id, key and since")

// replyToPublished answers a hub:published request. The client need not be a member, and
// learns of its own user's publications only.
func (c *Client) replyToPublished(m *Message) {
	var request publishedRequest
	err := json.Unmarshal(m.Data, &request)
	kind, name, ok := request.topic()
	if err != nil || !ok || request.Key == "" || request.Since.Epoch == "" {
		c.replyError(m, "", codeBadRequest, errPublishedRequest.Error())
		return
	}
	l := c.hub.events
	if n := c.hub.node; n != nil && n.histories != nil && l.mustOpen(kind, name, &request.Since) {
		c.conn.beginCallback()
		release, err := n.openHistory(c.Context(), kind, name, &request.Since)
		c.conn.endCallback()
		if err != nil {
			c.replyError(m, name, errorCode(err), err.Error())
			return
		}
		defer release()
	}
	key := l.histories.hashKey(request.Key, c)
	l.mu.Lock()
	reply := l.wasPublished(kind, name, request.Key, key, request.Since)
	l.mu.Unlock()
	data, err := json.Marshal(reply)
	if err != nil {
		panic(err) // booleans always have an encoding
	}
	c.sendReply(&Message{Type: typeAck, Channel: name, ID: m.ID, Timestamp: m.Timestamp, Data: data})
}

// wasPublished reports whether a topic has a publication with a key. The log is locked.
func (l *eventLog) wasPublished(kind TopicKind, name, key string, hash keyHash, since Position) publishedReply {
	t := l.topics[kind].m[name]
	if t == nil { // a topic that had publications is forgotten together with the epoch
		return publishedReply{Complete: since.Epoch == l.histories.epoch}
	}
	h := t.history
	if h == nil || h.conflate {
		return publishedReply{}
	}
	now := l.histories.clock()
	l.trimHistory(h, now)
	_, published := h.published(key, hash, now)
	outcome, _, _ := h.resume(resume{since: &since}, "")
	return publishedReply{Published: published, Complete: published || outcome.Complete}
}

// encodeHistory returns a reply with as many publications as fit into size bytes, and at
// least one. A client asks for the others with another request. If latest is set, it leaves
// out the oldest publications, and otherwise the newest.
func encodeHistory(page HistoryPage, from []Message, latest bool, size int64) []byte {
	const overhead = 256 // for the other members
	size -= overhead
	messages := make([]json.RawMessage, 0, len(from))
	for i := range from {
		m := &from[i]
		if latest {
			m = &from[len(from)-1-i]
		}
		b, err := JSONCodec{}.Marshal(m)
		if err != nil {
			continue // JSON can encode every message
		}
		if size -= int64(len(b)) + 1; size < 0 && len(messages) > 0 {
			break
		}
		messages = append(messages, b)
	}
	if latest {
		slices.Reverse(messages)
	}
	data, err := json.Marshal(historyReply{page, messages})
	if err != nil {
		panic(err) // all parts have been encoded already
	}
	return data
}
