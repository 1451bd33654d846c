package hubtest_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

// replay records events: "1" is a publication, "gap 2" a gap of two, "gap" one without a count,
// "gap all" one of all topics, "end" the end of a connection. Those of another topic begin with
// "other".
func replay(r *hubtest.Recorder, topic websocket.Topic, events ...string) {
	for _, e := range events {
		name := topic.Name
		if after, ok := strings.CutPrefix(e, "other "); ok {
			name, e = "other", after
		}
		g := websocket.Gap{Channel: name}
		m := &websocket.Message{Type: "message", Channel: name, Data: []byte(e)}
		if topic.Kind == websocket.RoomTopic {
			g = websocket.Gap{RoomID: name}
			m.Type = "room_message"
		}
		switch e {
		case "gap", "gap 1", "gap 2", "gap 3":
			g.Count = uint64(strings.Index("0123", e[len(e)-1:]))
			if e == "gap" {
				g.Count = 0
			}
			r.RecordGap(g)
		case "gap all":
			r.RecordGap(websocket.Gap{All: true, Count: 7})
		case "end":
			r.RecordEnd(websocket.ErrClientClosed)
		default:
			r.Record(m)
		}
	}
}

func TestCheckers(t *testing.T) {
	t.Parallel()
	one := [][]string{{"1", "2", "3", "4", "5"}}
	two := [][]string{{"a1", "a2", "a3"}, {"b1", "b2", "b3"}}
	for _, tt := range []struct {
		name      string
		events    string
		published [][]string
		order     string // the text of InOrder's failure, or ""
		complete  string // that of Complete's; "" means that of InOrder
	}{
		{"all", "1,2,3,4,5", one, "", ""},
		{"others", "1,other 9,2,other gap 3,3,4,5", one, "", ""},
		{"twice", "1,2,2,3,4,5", one, "arrived twice or too late: message in \"t\": 2", ""},
		{"swapped", "1,3,2,4,5", one, "arrived twice or too late: message in \"t\": 2", "1 publications from 2 on are missing before message in \"t\": 3"},
		{"unknown", "1,2,3,9", one, "a message was not published: message in \"t\": 9", ""},
		{"missing", "1,2,4,5", one, "", "1 publications from 3 on are missing before message in \"t\": 4, and gaps have announced 0"},
		{"missing at the end", "1,2,3", one, "", "2 publications of channel \"t\" are missing at the end, from 4 on, and gaps have announced 0"},
		{"nothing", "", one, "", "5 publications of channel \"t\" are missing at the end, from 1 on"},
		{"announced", "1,gap 2,4,5", one, "", ""},
		{"announced in parts", "gap 1,gap 2,4,5", one, "", ""},
		{"announced at the end", "1,2,gap 3", one, "", ""},
		{"announced too late", "1,4,gap 2,5", one, "", "2 publications from 2 on are missing before"},
		{"announced too few", "1,gap 1,4,5", one, "", "2 publications from 2 on are missing before message in \"t\": 4, and gaps have announced 1"},
		{"announced too many", "1,gap 3,4,5", one, "", "gaps have announced 1 missing publications of channel \"t\" more than are missing"},
		{"announced, but all came", "1,2,3,4,5,gap 1", one, "", "gaps have announced 1 missing publications"},
		{"unknown number", "1,gap,5", one, "", ""},
		{"unknown number at the end", "1,gap", one, "", ""},
		{"unknown number of nothing", "1,2,3,4,5,gap", one, "", ""},
		{"unknown number used once", "1,gap,3,5", one, "", "1 publications from 4 on are missing before"},
		{"any topic", "1,gap all,5", one, "", ""},
		{"announced for another topic", "1,other gap 2,4,5", one, "", "2 publications from 2 on are missing"},
		{"announced again on the next connection", "1,gap 2,end,gap 3,5", one, "", ""},
		{"lost with the connection", "1,gap 2,end,4,5", one, "", "2 publications from 2 on are missing"},
		{"two publishers", "a1,b1,b2,a2,b3,a3", two, "", ""},
		{"two publishers, announced", "a1,gap 3,b3,a3", two, "", ""},
		{"two publishers, missing", "a1,gap 2,b3,a3", two, "", "1 publications from a2 on are missing before"},
		{"two publishers, swapped", "a1,b2,a2,b1", two, "too late: message in \"t\": b1", "1 publications from b1 on are missing before"},
	} {
		for _, topic := range []websocket.Topic{hubtest.Channel("t"), hubtest.Room("t")} {
			var events []string
			if tt.events != "" {
				events = strings.Split(tt.events, ",")
			}
			check := func(f func(*hubtest.Recorder)) string {
				return failures(func(t hubtest.TB) {
					r := hubtest.NewRecorder(t, "ann")
					replay(r, topic, events...)
					f(r)
				})
			}
			inOrder := check(func(r *hubtest.Recorder) { r.InOrder(topic, tt.published...) })
			complete := check(func(r *hubtest.Recorder) { r.Complete(topic, tt.published...) })
			want := tt.complete
			if want == "" {
				want = tt.order
			}
			for got, want := range map[*string]string{&inOrder: tt.order, &complete: want} {
				if want == "" {
					require.Empty(t, *got, tt.name)
					continue
				}
				if topic.Kind == websocket.RoomTopic {
					want = strings.NewReplacer("message in", "room_message in", `channel "t"`, `room "t"`).Replace(want)
				}
				require.Contains(t, *got, "hubtest: ann: ", tt.name)
				require.Contains(t, *got, want, tt.name)
			}
		}
	}
}

// Publications with a type of the application belong to the topic of their name, and if they
// have an offset, to that of their kind.
func TestMessagesOfATopic(t *testing.T) {
	t.Parallel()
	r := hubtest.NewRecorder(t, "ann")
	for _, m := range []websocket.Message{
		{Type: "message", Channel: "a", Data: []byte("1")},
		{Type: "room_message", Channel: "a", Data: []byte("2")},
		{Type: "own", Channel: "a", Data: []byte("3")},
		{Type: "own", Channel: "a", Offset: 1, Data: []byte("4")},
		{Type: "own", Channel: "a", Offset: 1, Room: true, Data: []byte("5")},
		{Type: "own", Channel: "b", Data: []byte("6")},
		{Type: "ack", Channel: "a"}, {Type: "error", Channel: "a"}, {Type: "join", Channel: "a"}, {Type: "broadcast", Channel: "a"},
		{Type: "presence_diff", Channel: "a"}, {Type: "hub:later", Channel: "a"},
	} {
		r.Record(&m)
	}
	list := func(topic websocket.Topic) (s string) {
		for _, m := range r.Messages(topic) {
			s += string(m.Data)
		}
		return s
	}
	require.Equal(t, "134", list(hubtest.Channel("a")))
	require.Equal(t, "235", list(hubtest.Room("a")))
	require.Equal(t, "6", list(hubtest.Channel("b")))
}
