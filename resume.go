package websocket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strconv"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
)

// Resumed says how a membership in a topic with history began.
type Resumed struct {
	// Position is the place in the history at which the client joined. Everything after
	// it is sent as it is published. It is the zero Position if the topic has no history.
	Position
	// Replayed is the number of earlier publications that are sent first. With
	// TopicOptions.Conflate it is the number at that moment: those that are replaced
	// before they are sent are skipped.
	Replayed int `json:"replayed"`
	// Complete is true if the client gets every publication since its own position, except
	// for those that it is not sent because of Message.ExceptSelf or TopicOptions.Conflate.
	Complete bool `json:"complete"`
	// Reason says why Complete is false: "expired" if the position is older than the
	// history, "epoch" if the position belongs to another epoch, and "none" if the
	// topic has no history.
	Reason string `json:"reason,omitempty"`
}

// Values of Resumed.Reason.
const (
	resumeExpired = "expired"
	resumeEpoch   = "epoch"
	resumeNone    = "none"
)

// resume says what a joining client has of a topic already.
type resume struct {
	since *Position // what it has; nil if it does not say
	last  int       // or how many of the latest publications it wants
}

// errBadResume refuses a request whose resume is malformed.
var errBadResume = errors.New("websocket: malformed since or last")

// ResumeDecoder is an optional interface of a Codec that is a ControlDecoder. Without it
// clients of such a codec cannot resume.
type ResumeDecoder interface {
	// DecodeResume returns what the data of "subscribe" or "join_room" has besides the
	// name: the position that the client has, or nil, and the number of the latest
	// publications that it wants, or 0. It reports false if data is malformed.
	DecodeResume(data []byte) (since *Position, last int, ok bool)
}

// decodeResume returns what the data of "subscribe" or "join_room" says besides the name.
func (g *guardedCodec) decodeResume(data []byte) (resume, error) {
	if decoder, ok := g.Codec.(ResumeDecoder); ok {
		defer g.recovered("DecodeResume")
		since, last, ok := decoder.DecodeResume(data)
		if !ok {
			return resume{}, errBadResume
		}
		return resume{since, last}, nil
	}
	if g.decoder != nil || !bytes.Contains(data, []byte(`"since"`)) && !bytes.Contains(data, []byte(`"last"`)) {
		return resume{}, nil
	}
	if from, ok := scanResume(data); ok {
		return from, nil
	}
	var request struct {
		Since *Position `json:"since"`
		Last  int       `json:"last"`
	}
	if err := json.Unmarshal(data, &request); err != nil || request.Last < 0 {
		return resume{}, errBadResume
	}
	return resume{since: request.Since, last: request.Last}, nil
}

// scanResume reads a request as clients usually write it. encoding/json would make the
// stack of the readPump grow, which costs more than all the rest of a resume.
func scanResume(data []byte) (from resume, ok bool) {
	s := jsonscan.New(data)
	for s.Next() {
		switch string(s.Key()) {
		case "since":
			at, ok := scanPosition(s.Value())
			if !ok || from.since != nil {
				return resume{}, false
			}
			from.since = &at
		case "last":
			from.last = int(min(s.Integer(), math.MaxInt32))
		default:
			s.Skip()
		}
	}
	return from, s.Complete() && from.last >= 0
}

func scanPosition(data []byte) (at Position, ok bool) {
	s := jsonscan.New(data)
	for s.Next() {
		switch string(s.Key()) {
		case "epoch":
			at.Epoch = string(s.Text())
		case "offset":
			offset := s.Integer()
			if offset < 0 {
				return Position{}, false
			}
			at.Offset = uint64(offset)
		default:
			s.Skip()
		}
	}
	return at, s.Complete()
}

// topicOptions returns Config.TopicOptions guarded against panics, or nil.
func (h *Hub) topicOptions() func(TopicKind, string) TopicOptions {
	hook := h.config.TopicOptions
	if hook == nil {
		return nil
	}
	return func(kind TopicKind, name string) (options TopicOptions) {
		h.protect("TopicOptions", kind.String(), name, func() { options = hook(kind, name) }, nil)
		return options
	}
}

// topicWithHistory makes a topic for a publication, if it keeps a history, and returns nil
// otherwise. It unlocks the log while the application decides.
func (l *eventLog) topicWithHistory(kind TopicKind, name string) *topic {
	l.mu.Unlock()
	options := l.histories.options(kind, name)
	l.mu.Lock()
	t := l.topics[kind].m[name]
	if t == nil && options.history().keeps() && !l.closed {
		t, _ = l.newTopic(kind, name, options)
		l.countTopic(t, -l.topicCost(t))
	}
	return t
}

// optionsForJoin returns the options of a topic that does not exist yet. It unlocks the
// log while the application decides. On error the log is not locked.
func (l *eventLog) optionsForJoin(c *Client, kind TopicKind, name string) (TopicOptions, error) {
	if l.histories.options == nil || l.topics[kind].m[name] != nil {
		return TopicOptions{}, nil
	}
	l.mu.Unlock()
	options := l.histories.options(kind, name)
	l.mu.Lock()
	if !c.registered || l.closed {
		l.unreserve(entryCost)
		l.mu.Unlock()
		return TopicOptions{}, ErrClientClosed
	}
	return options, nil
}

// finishJoin appends what follows a join, and unlocks the log: the reply with the position,
// a gap notice if something is missing, and the replay. The entries of the join come
// behind a cursor, so that live publications do not overtake the replay.
func (l *eventLog) finishJoin(wake uint64, c *Client, t *topic, from resume, reply *publication) Resumed {
	h := t.history
	if h == nil {
		outcome := Resumed{Complete: from.since == nil}
		if from.since != nil {
			outcome.Reason = resumeNone
			l.countResume(false)
			reply.setResumed(outcome, false, 0)
		}
		wake |= l.appendReply(c, reply)
		if from.since != nil {
			wake |= l.appendMissing(c, t, 0)
		}
		told, recipients := l.tellPresence(t), 1
		if told != 0 {
			recipients = t.members
		}
		if reply != nil {
			l.unlockAndAssist(wake|told, recipients)
		} else {
			l.unlockAndWake(wake | told)
		}
		return outcome
	}
	l.trimHistory(h, l.histories.clock())
	l.touchHistory(h)
	outcome, next, missing := h.resume(from, c.ID)
	if from.since != nil {
		l.countResume(outcome.Complete)
	}
	after := uint64(0)
	if h.replica != nil && from.since == nil && outcome.Replayed > 0 {
		after = next - 1 // the client cannot compute it: the engine's offsets may jump
	}
	reply.setResumed(outcome, h.conflate, after)
	if outcome.Replayed > 0 {
		l.used.Add(entryCost) // it does not wait for room, as a reply
		wake |= l.append(c.shard, entry{kind: entryCursor, client: c, arg: &cursor{history: h, next: next, routed: h.head, joined: l.seq}})
	}
	wake |= l.appendReply(c, reply)
	if !outcome.Complete {
		wake |= l.appendMissing(c, t, missing)
	}
	if outcome.Replayed > 0 {
		wake |= l.append(c.shard, entry{kind: entryFeed, client: c})
	}
	l.unlockAndWake(wake | l.tellPresence(t))
	return outcome
}

// countResume counts a join with a position.
func (l *eventLog) countResume(complete bool) {
	if complete {
		l.histories.resumed.Add(1)
	} else {
		l.histories.resumedGap.Add(1)
	}
}

// resume returns how a client joins: the offset of the first publication that it is sent,
// and the number of those that it misses, or 0 if that is not known.
func (h *history) resume(from resume, clientID string) (_ Resumed, next, missing uint64) {
	outcome := Resumed{Position: h.position(), Complete: true}
	next = h.head + 1
	switch {
	case from.since == nil:
		if n := min(from.last, h.len()); n > 0 {
			next = h.records.at(h.len() - n).offset
		}
	case *from.since == Position{}:
		next = 1 // before every publication
	case from.since.Epoch != h.epoch || from.since.Offset > h.head:
		outcome.Complete, outcome.Reason = false, resumeEpoch
		next = h.oldest()
	default:
		next = from.since.Offset + 1
	}
	if oldest := h.oldest(); next < oldest {
		outcome.Complete, outcome.Reason = false, resumeExpired
		missing = h.missing(next)
		next = oldest
	}
	outcome.Replayed = h.countFrom(next, clientID)
	return outcome, next, missing
}

// appendMissing appends a gap notice for publications that c cannot be sent, because the
// topic's history does not have them. The shard encodes it.
func (l *eventLog) appendMissing(c *Client, t *topic, missing uint64) uint64 {
	l.addressed.Add(1)
	l.used.Add(entryCost)
	gap := l.missingGap(t, missing)
	return l.append(c.shard, entry{kind: entryGap, client: c, arg: gap})
}

// missingGap returns the gap notice for missing publications of a topic.
func (l *eventLog) missingGap(t *topic, missing uint64) *lostGap {
	l.seq++
	return &lostGap{
		seq: l.seq, timestamp: l.histories.hub.now(), count: missing, reason: dropNames[dropHistory],
		to: target{Audience: t.kind.audience(), Name: t.name},
	}
}

// setResumed writes outcome to a reply, which may be nil, and if it is not 0 the offset
// behind which the replay begins.
func (p *publication) setResumed(outcome Resumed, conflate bool, after uint64) {
	if p != nil {
		b := appendPosition(nil, outcome.Position, conflate)
		b = strconv.AppendInt(append(b, `,"replayed":`...), int64(outcome.Replayed), 10)
		if after > 0 {
			b = strconv.AppendUint(append(b, `,"after":`...), after, 10)
		}
		b = strconv.AppendBool(append(b, `,"complete":`...), outcome.Complete)
		p.setData(append(appendJSONField(b, `,"reason":`, outcome.Reason), '}'))
	}
}

// setPosition writes a position to a reply, which may be nil.
func (p *publication) setPosition(at Position, conflate bool) {
	if p != nil {
		p.setData(append(appendPosition(nil, at, conflate), '}'))
	}
}

// appendPosition appends the JSON of a position without the closing brace. conflate tells
// that a Key does not make a publication unique there, so that clients do not repeat it.
func appendPosition(dst []byte, at Position, conflate bool) []byte {
	dst = appendJSONString(append(dst, `{"epoch":`...), at.Epoch)
	dst = strconv.AppendUint(append(dst, `,"offset":`...), at.Offset, 10)
	if conflate {
		dst = append(dst, `,"conflate":true`...)
	}
	return dst
}

// SubscribeSince is like SubscribeContext for a client that has the publications of the
// channel up to a position. It is sent the later ones that the channel's history keeps,
// before those that are published from now on. The result says whether any are missing;
// then the client is sent a gap message first. The zero Position asks for all that is
// kept.
func (c *Client) SubscribeSince(ctx context.Context, channel string, since Position) (Resumed, error) {
	return c.join(ctx, ChannelTopic, channel, resume{since: &since})
}

// JoinRoomSince is like SubscribeSince, for a room.
func (c *Client) JoinRoomSince(ctx context.Context, roomID string, since Position) (Resumed, error) {
	return c.join(ctx, RoomTopic, roomID, resume{since: &since})
}
