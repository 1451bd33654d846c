package client

import (
	"encoding/json"
	"slices"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// SubscribeOption changes how Subscribe and JoinRoom begin. See Last and Since.
type SubscribeOption struct {
	set func(*Subscription)
}

// Last makes the handler get the latest n publications that the history of the channel or
// room has, before those that are published from now on. Without a history it gets none of
// them. The default is 0.
func Last(n int) SubscribeOption {
	return SubscribeOption{func(s *Subscription) { s.from = resume{last: max(n, 0)} }}
}

// Since makes the handler get the publications after a position first, and then later ones.
// Position returns such a position, and a program may store it for its next start. The zero
// Position asks for all that the history has. If publications after the position are
// missing, OnGap reports it, and Resumed tells the reason.
func Since(position websocket.Position) SubscribeOption {
	return SubscribeOption{func(s *Subscription) { s.from = resume{since: &position} }}
}

// resume is the place at which a subscriber joins. At most one field is set; the zero value
// is the present.
type resume struct {
	since *websocket.Position // behind the latest publication that it has
	last  int                 // the number of the latest publications that it asks for
}

// Position returns the place in the history of the channel or room behind the latest
// message that the handler was called with, or behind a loss that OnGap was called with
// later. During these calls it includes the message or the loss. It is the zero Position
// if there is no history.
func (s *Subscription) Position() websocket.Position {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.handled
}

// Resumed returns how the client has joined the channel or room the last time: by the call
// that made the subscription, or after the latest reconnect. Its Reason is "none" after a
// reconnect without a history.
func (s *Subscription) Resumed() websocket.Resumed {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.resumed
}

// reasonNone is the reason of a resume without a history.
const reasonNone = "none"

// decodeResumed decodes the hub's reply to a request to join. told is false if the reply has
// no data: the hub is older, or the topic has no history.
func decodeResumed(from resume, data []byte) (resumed positionReply, told bool) {
	if len(data) > 0 && json.Unmarshal(data, &resumed) == nil {
		return resumed, true
	}
	resumed = positionReply{Resumed: websocket.Resumed{Complete: from.since == nil}}
	if from.since != nil {
		resumed.Reason = reasonNone
	}
	return resumed, false
}

// positionReply is the data of the hub's reply to a request to join. That to a publication
// has the first three fields.
type positionReply struct {
	websocket.Resumed
	Conflate bool   `json:"conflate"` // a Key does not make a publication unique
	After    uint64 `json:"after"`    // the offset behind which the latest publications begin, if offsets may jump
}

// since returns the position from which all subscriptions lack publications, or nil if the
// topic has no history. Client.mu is locked.
func (t *topic) since() *websocket.Position {
	if t.epoch == "" {
		return nil
	}
	least := t.subs[0].at
	for _, s := range t.subs[1:] {
		// A subscription of another epoch has nothing of this one.
		if least.Epoch == t.epoch && (s.at.Epoch != t.epoch || s.at.Offset < least.Offset) {
			least = s.at
		}
	}
	return &least
}

// rejoined records the hub's reply to a request to join, which holds for all
// subscriptions. Client.mu is locked.
func (t *topic) rejoined(resumed websocket.Resumed) {
	t.epoch = resumed.Epoch
	t.behindGap = websocket.Position{}
	if !resumed.Complete && resumed.Replayed == 0 {
		t.behindGap = resumed.Position
	}
}

// joined records the hub's reply to a request to join. Client.mu is locked.
//
// The subscription keeps a position that the hub cannot continue until the gap or the first
// message has arrived. So it is told again if the connection is lost before that.
func (s *Subscription) joined(from resume, resumed positionReply) {
	s.resumed = resumed.Resumed
	switch {
	case resumed.Epoch == "":
		s.at = websocket.Position{}
	case from.since == nil:
		s.at = resumed.Position
		switch { // not all offsets in between have a publication for this client
		case resumed.Replayed > 0 && resumed.Conflate:
			s.at.Offset = 0
		case resumed.After > 0:
			s.at.Offset = resumed.After
		case resumed.Replayed > 0:
			s.at.Offset -= min(uint64(from.last), s.at.Offset)
		}
	case s.at == websocket.Position{}, s.at.Epoch == resumed.Epoch && s.at.Offset > resumed.Offset:
		s.at = websocket.Position{Epoch: resumed.Epoch}
	}
}

// pass returns the subscriptions that have not received the message at a position, and
// records that they have now. Client.mu is locked.
func (t *topic) pass(at websocket.Position) []*Subscription {
	has := func(s *Subscription) bool { return s.at.Epoch == at.Epoch && s.at.Offset >= at.Offset }
	subs := t.subs
	if slices.ContainsFunc(subs, has) {
		subs = slices.DeleteFunc(slices.Clone(subs), has)
	}
	for _, s := range subs {
		s.at = at
	}
	return subs
}

// passGap records that the hub has told about lost messages. If nothing follows the gap of a
// resume, the subscriptions are at its end, so that the next resume does not report the same
// loss. It returns these ends. Client.mu is locked.
func (t *topic) passGap() (ends []gapEnd) {
	for _, s := range t.subs {
		if at := t.behindGap; at.Epoch != "" && isBefore(s.at, at) {
			s.at = at
			ends = append(ends, gapEnd{s, at})
		}
	}
	t.behindGap = websocket.Position{}
	return ends
}

// gapEnd is the place at which a subscription goes on behind a gap.
type gapEnd struct {
	sub *Subscription
	at  websocket.Position
}

// isBefore reports whether a position lacks something that a later one has. That is so in
// another epoch too.
func isBefore(a, later websocket.Position) bool {
	return a.Epoch != later.Epoch || a.Offset < later.Offset
}

// passed records that OnGap is called with a gap that has these ends.
func (c *Client) passed(ends []gapEnd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, end := range ends {
		if isBefore(end.sub.handled, end.at) {
			end.sub.handled = end.at
		}
	}
}

// begin records that the handler is called with the message at a position, which is zero
// without a history. It returns false if the handler may not be called any more.
func (s *Subscription) begin(at websocket.Position) bool {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if s.ended {
		return false
	}
	if at.Epoch != "" {
		s.handled = at
	}
	return true
}
