package hubtest

import (
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// InOrder fails the test if the client has got a publication of a channel or room twice, out
// of order, or one that was not published. Each list has the data of all publications of one
// publisher, in its order. Publications may be missing: see Complete. The data of publications
// should differ.
func (r *Recorder) InOrder(topic websocket.Topic, published ...[]string) {
	r.t.Helper()
	if problem := newCheck(published, false).run(r.Events(), topic); problem != "" {
		r.t.Errorf("hubtest: %s: %s%s", r.name, problem, r.latest())
	}
}

// Complete is like InOrder, and also fails the test if a publication is missing that no gap
// has announced, before the next message of the channel or room. A gap without a count
// announces any number. The lists have those publications that the client should get: from
// its subscription on, and without those during a time without a connection, unless the topic
// has a history and the client has come back with its position.
//
// In topics with TopicOptions.Conflate publications are replaced, so Complete does not apply.
func (r *Recorder) Complete(topic websocket.Topic, published ...[]string) {
	r.t.Helper()
	if problem := newCheck(published, true).run(r.Events(), topic); problem != "" {
		r.t.Errorf("hubtest: %s: %s%s", r.name, problem, r.latest())
	}
}

// check follows the publications of one topic.
type check struct {
	complete   bool
	publishers []publisher
	announced  uint64 // missing publications that gaps have announced, less those that were noticed
	pending    uint64 // announced since the last message of the topic
}

// publisher is the state of one list.
type publisher struct {
	data   []string
	places map[string][]int // of each data in the list, ascending
	next   int              // place of the next publication
	open   bool             // a gap without a count has been told since the last message of the publisher
}

func newCheck(published [][]string, complete bool) *check {
	c := &check{complete: complete, publishers: make([]publisher, len(published))}
	for i, data := range published {
		p := &c.publishers[i]
		p.data, p.places = data, make(map[string][]int, len(data))
		for place, d := range data {
			p.places[d] = append(p.places[d], place)
		}
	}
	return c
}

// run returns the first problem, or "".
func (c *check) run(events []Event, topic websocket.Topic) (problem string) {
	for _, e := range events {
		switch {
		case e.Gap != nil:
			c.gap(e.Gap, topic)
		case e.Message != nil && publishedIn(e.Message, topic):
			problem = c.message(e.Message, string(e.Message.Data))
		case e.Ended != nil:
			c.pending = 0 // a client that comes back is told again
		}
		if problem != "" {
			return problem
		}
	}
	if c.complete {
		return c.end(topic)
	}
	return ""
}

func (c *check) gap(g *websocket.Gap, topic websocket.Topic) {
	name := g.Channel
	if topic.Kind == websocket.RoomTopic {
		name = g.RoomID
	}
	if !g.All && name != topic.Name {
		return
	}
	if g.All || g.Count == 0 {
		for i := range c.publishers {
			c.publishers[i].open = true
		}
		return
	}
	c.pending += g.Count
}

func (c *check) message(m *websocket.Message, data string) string {
	c.announced += c.pending
	c.pending = 0
	known := false
	for i := range c.publishers {
		p := &c.publishers[i]
		known = known || len(p.places[data]) > 0
		for _, place := range p.places[data] {
			if place < p.next {
				continue
			}
			missing := uint64(place - p.next)
			first := p.data[p.next]
			p.next = place + 1
			open := p.open
			p.open = false
			switch {
			case !c.complete || open || missing == 0:
			case missing > c.announced:
				return fmt.Sprintf("%d publications from %s on are missing before %s, and gaps have announced %d", missing, text([]byte(first)), describe(m), c.announced)
			default:
				c.announced -= missing
			}
			return ""
		}
	}
	if known {
		return "a publication has arrived twice or too late: " + describe(m)
	}
	return "a message was not published: " + describe(m)
}

// end checks that the rest was announced.
func (c *check) end(topic websocket.Topic) string {
	missing, open, first := uint64(0), false, ""
	for i := range c.publishers {
		p := &c.publishers[i]
		open = open || p.open
		if rest := len(p.data) - p.next; rest > 0 && !p.open {
			if missing == 0 {
				first = p.data[p.next]
			}
			missing += uint64(rest)
		}
	}
	announced := c.announced + c.pending
	where := fmt.Sprintf("channel %q", topic.Name)
	if topic.Kind == websocket.RoomTopic {
		where = fmt.Sprintf("room %q", topic.Name)
	}
	switch {
	case missing > announced:
		return fmt.Sprintf("%d publications of %s are missing at the end, from %s on, and gaps have announced %d", missing, where, text([]byte(first)), announced)
	case missing < announced && !open:
		return fmt.Sprintf("gaps have announced %d missing publications of %s more than are missing", announced-missing, where)
	default:
		return ""
	}
}
