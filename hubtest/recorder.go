package hubtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Event is something that a client has noticed. Exactly one of Message, Gap, Began and Ended
// is set, but a "gap" message of a Peer sets both Message and Gap.
type Event struct {
	// At is the time of the event: fake time in a bubble.
	At time.Time
	// Message is a message from the hub.
	Message *websocket.Message
	// Gap describes messages that the client did not receive.
	Gap *websocket.Gap
	// Began says that a connection has begun.
	Began bool
	// Ended says how a connection has ended.
	Ended *websocket.CloseError

	isReply bool // to Peer.Do, which has returned it
	isLast  bool // an end after which the client does not come back by itself
}

// String describes the event in a few words.
func (e Event) String() string {
	switch {
	case e.Message != nil && e.Gap == nil:
		return describe(e.Message)
	case e.Gap != nil:
		count := "without a count"
		if e.Gap.Count > 0 {
			count = fmt.Sprint("of ", e.Gap.Count)
		}
		return fmt.Sprintf("gap %s in %s: %s", count, gapTopic(e.Gap), e.Gap.Reason)
	case e.Ended != nil:
		return "end of the connection: " + e.Ended.Error()
	default:
		return "connected"
	}
}

// describe returns the type, topic, data and sender of a message.
func describe(m *websocket.Message) string {
	var b strings.Builder
	b.WriteString(m.Type)
	if m.Channel != "" {
		fmt.Fprintf(&b, " in %q", m.Channel)
	}
	if len(m.Data) > 0 {
		fmt.Fprintf(&b, ": %s", text(m.Data))
	}
	if m.ClientID != "" {
		fmt.Fprintf(&b, " from %q", m.ClientID)
	}
	if m.Offset != 0 {
		fmt.Fprintf(&b, " at offset %d", m.Offset)
	}
	return b.String()
}

// text returns data for an error text, cut if it is long.
func text(data []byte) string {
	const most = 80
	s := string(data)
	if !utf8.Valid(data) {
		s = fmt.Sprintf("%x", data[:min(len(data), most)])
	}
	if len(s) > most {
		s = fmt.Sprintf("%s... (%d bytes)", strings.ToValidUTF8(s[:most], ""), len(data))
	}
	return s
}

func gapTopic(g *websocket.Gap) string {
	switch {
	case g.All:
		return "any topic"
	case g.RoomID != "":
		return fmt.Sprintf("room %q", g.RoomID)
	case g.Channel != "":
		return fmt.Sprintf("channel %q", g.Channel)
	default:
		return "broadcasts and messages to this client"
	}
}

// Recorder keeps all that one client receives, with the time, for as long as the test lasts.
// Peers and Clients have one. A client from elsewhere gets its own from NewRecorder:
//
//	r := hubtest.NewRecorder(t, "ann")
//	o := client.Options{NetDial: h.NewLink().Dial, OnMessage: r.Record, OnGap: r.RecordGap}
//
// Methods that fail the test must be called from its goroutine, the others from any.
type Recorder struct {
	t     TB
	name  string
	began time.Time

	mu      sync.Mutex // guards the fields below
	events  []Event
	read    int           // events before it have been returned by Next, Expect or Until
	changed chan struct{} // closed and replaced by add
}

// NewRecorder returns an empty recorder. Its name stands in the texts of failures.
func NewRecorder(t TB, name string) *Recorder {
	return &Recorder{t: t, name: name, began: time.Now(), changed: make(chan struct{})}
}

// Record adds a message. It is a client.Handler. The message must not be changed later.
func (r *Recorder) Record(m *websocket.Message) { r.add(Event{Message: m}) }

// RecordGap adds a gap. It can be client.Options.OnGap.
func (r *Recorder) RecordGap(g websocket.Gap) { r.add(Event{Gap: &g}) }

// RecordEnd adds the end of a connection. Later messages belong to another connection. A nil
// error means that the client itself has closed it.
func (r *Recorder) RecordEnd(err error) { r.add(Event{Ended: closeError(err)}) }

// closeError returns the CloseError in err's tree, or one without a Close frame.
func closeError(err error) *websocket.CloseError {
	if err == nil {
		return &websocket.CloseError{Code: websocket.CloseNormalClosure}
	}
	ended := &websocket.CloseError{Code: websocket.CloseAbnormalClosure, Err: err}
	_ = errors.As(err, &ended)
	return ended
}

func (r *Recorder) add(e Event) {
	e.At = time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, e)
	close(r.changed)
	r.changed = make(chan struct{})
}

// Events returns all events so far.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Messages returns the publications of a channel or room so far. A message with a type of the
// application and without an offset counts for the channel and the room of its name.
func (r *Recorder) Messages(topic websocket.Topic) []*websocket.Message {
	var list []*websocket.Message
	for _, e := range r.Events() {
		if e.Message != nil && publishedIn(e.Message, topic) {
			list = append(list, e.Message)
		}
	}
	return list
}

// publishedIn reports whether m is a publication of a topic.
func publishedIn(m *websocket.Message, topic websocket.Topic) bool {
	if m.Channel != topic.Name || strings.HasPrefix(m.Type, "hub:") {
		return false
	}
	switch m.Type {
	case "ack", "error", "gap", "join", "leave", "update", "presence_diff", "broadcast":
		return false
	case "message":
		return topic.Kind == websocket.ChannelTopic
	case "room_message":
		return topic.Kind == websocket.RoomTopic
	default:
		return m.Offset == 0 || m.Room == (topic.Kind == websocket.RoomTopic)
	}
}

// Gaps returns all gaps so far.
func (r *Recorder) Gaps() []websocket.Gap {
	var gaps []websocket.Gap
	for _, e := range r.Events() {
		if e.Gap != nil {
			gaps = append(gaps, *e.Gap)
		}
	}
	return gaps
}

// Next waits for the next message that no call has returned yet, and returns it. It fails the
// test if the connection has ended, unless a Client makes another.
func (r *Recorder) Next() *websocket.Message {
	r.t.Helper()
	return r.next("a message")
}

func (r *Recorder) next(what string) *websocket.Message {
	r.t.Helper()
	var ended *websocket.CloseError
	e, ok := r.wait(func(e Event) bool {
		if e.isLast || e.Began {
			ended = e.Ended
		}
		return e.Message != nil
	}, func() bool { return ended != nil })
	switch {
	case ok:
		return e.Message
	case ended != nil:
		r.fail("the connection has ended, but %s is expected", what)
	default:
		r.fail("no message within %v, but %s is expected", patience, what)
	}
	return nil // for a TB whose Fatalf returns
}

// Expect waits for the next messages and fails the test unless they are the wanted ones, in
// this order. Fields of a wanted message that are not set may have any value.
func (r *Recorder) Expect(want ...websocket.Message) {
	r.t.Helper()
	for i := range want {
		got := r.next(describe(&want[i]))
		if got == nil {
			return
		}
		if field := differs(got, &want[i]); field != "" {
			r.fail("the next message has another %s\n\tgot:  %s\n\twant: %s", field, describe(got), describe(&want[i]))
			return
		}
	}
}

// differs returns the name of a field that is set in want and differs in got, or "".
func differs(got, want *websocket.Message) string {
	for _, f := range []struct {
		name      string
		got, want string
	}{
		{"Type", got.Type, want.Type},
		{"Channel", got.Channel, want.Channel},
		{"ClientID", got.ClientID, want.ClientID},
		{"ID", got.ID, want.ID},
		{"Key", got.Key, want.Key},
	} {
		if f.want != "" && f.got != f.want {
			return f.name
		}
	}
	switch {
	case want.Data != nil && !bytes.Equal(got.Data, want.Data):
		return "Data"
	case want.Timestamp != 0 && got.Timestamp != want.Timestamp:
		return "Timestamp"
	case want.Offset != 0 && got.Offset != want.Offset:
		return "Offset"
	case want.Room && !got.Room:
		return "Room"
	default:
		return ""
	}
}

// Until waits for the first event for which match returns true, among those that no call has
// returned yet, and returns it. It skips the others before it.
func (r *Recorder) Until(match func(Event) bool) Event {
	r.t.Helper()
	e, ok := r.wait(match, nil)
	if !ok {
		r.fail("the expected event has not come within %v", patience)
	}
	return e
}

// ExpectNothing fails the test if there is a message that no call has returned yet. It does
// not wait: in a bubble, call synctest.Wait before. See also Peer.Sync.
func (r *Recorder) ExpectNothing() {
	r.t.Helper()
	r.mu.Lock()
	var unread *websocket.Message
	for _, e := range r.events[r.read:] {
		if e.Message != nil && !e.isReply {
			unread = e.Message
			break
		}
	}
	r.mu.Unlock()
	if unread != nil {
		r.fail("no message is expected\n\tgot: %s", describe(unread))
	}
}

// wait returns the first unread event that matches, and marks it and those before it as read.
// It returns false after patience, or when giveUp returns true after the last event so far.
func (r *Recorder) wait(match func(Event) bool, giveUp func() bool) (Event, bool) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for i := -1; ; {
		r.mu.Lock()
		if i < 0 {
			i = r.read
		}
		for ; i < len(r.events); i++ {
			if e := r.events[i]; !e.isReply && match(e) {
				r.read = i + 1
				r.mu.Unlock()
				return e, true
			}
		}
		changed := r.changed
		r.mu.Unlock()
		if giveUp != nil && giveUp() {
			return Event{}, false
		}
		select {
		case <-changed:
		case <-timer.C:
			return Event{}, false
		}
	}
}

// fail fails the test with a text and the latest events.
func (r *Recorder) fail(format string, args ...any) {
	r.t.Helper()
	r.t.Fatalf("hubtest: %s: %s%s", r.name, fmt.Sprintf(format, args...), r.latest())
}

// latest lists the last events.
func (r *Recorder) latest() string {
	const most = 10
	events := r.Events()
	var b strings.Builder
	b.WriteString("\n\tlatest events:")
	if len(events) == 0 {
		b.WriteString(" none")
	}
	if len(events) > most {
		fmt.Fprintf(&b, " (%d earlier ones)", len(events)-most)
		events = events[len(events)-most:]
	}
	for _, e := range events {
		fmt.Fprintf(&b, "\n\t%10v  %v", e.At.Sub(r.began).Round(time.Microsecond), e)
	}
	return b.String()
}
