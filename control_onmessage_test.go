package websocket_test

import (
	"bytes"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// changes lists what OnMessage can do to a control message. Each case sends one request
// and reads one reply: a request that is carried out has the given recipients.
var changes = []struct {
	name    string
	request func(p *peer) wire
	change  func(p *peer, m *websocket.Message)
	want    wire   // the publication, if there is one
	topics  string // channel after the request, besides "home"
	ack     bool
}{
	{
		name:    "veto by another type",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"secret"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Type = "denied" },
	},
	{
		name:    "veto by an empty type",
		request: func(*peer) wire { return wire{Type: "broadcast", Data: []byte(`"secret"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Type = "" },
	},
	{
		name:    "veto by a release",
		request: func(p *peer) wire { return wire{Type: "subscribe", Data: p.codec.channel("private")} },
		change:  func(_ *peer, m *websocket.Message) { m.Release() },
	},
	{
		name:    "veto of an unsubscription",
		request: func(p *peer) wire { return wire{Type: "unsubscribe", Data: p.codec.channel("home")} },
		change:  func(_ *peer, m *websocket.Message) { *m = websocket.Message{} },
	},
	{
		name:    "another channel",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "elsewhere", Data: []byte(`"x"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Channel = "home" },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"x"`)},
		ack:     true,
	},
	{
		name:    "another action",
		request: func(*peer) wire { return wire{Type: "broadcast", Channel: "home", Data: []byte(`"x"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Type = "publish" },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"x"`)},
		ack:     true,
	},
	{
		name:    "an action for an application's type",
		request: func(*peer) wire { return wire{Type: "say", Channel: "home", Data: []byte(`"x"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Type = "publish" },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"x"`)},
		ack:     true,
	},
	{
		name:    "another subscription",
		request: func(p *peer) wire { return wire{Type: "subscribe", Data: p.codec.channel("private")} },
		change:  func(p *peer, m *websocket.Message) { m.Data = p.codec.channel("public") },
		topics:  "public",
		ack:     true,
	},
	{
		name:    "other data",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"<script>"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.Data = bytes.ReplaceAll(m.Data, []byte("<"), []byte("&lt;")) },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"&lt;script>"`)},
		ack:     true,
	},
	{
		name:    "other bytes of the same data",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"rude"`)} },
		change:  func(_ *peer, m *websocket.Message) { copy(m.Data, `"****"`) },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"****"`)},
		ack:     true,
	},
	{
		name:    "no reply",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"x"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.ID = "" },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"x"`)},
	},
	{
		name:    "another sender and time",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"x"`)} },
		change:  func(_ *peer, m *websocket.Message) { m.ClientID, m.Timestamp = "mallory", 1 },
		want:    wire{Type: "message", Channel: "home", Data: []byte(`"x"`)},
		ack:     true,
	},
	{
		name:    "a whole message",
		request: func(*peer) wire { return wire{Type: "publish", Channel: "home", Data: []byte(`"x"`), ID: "1"} },
		change: func(_ *peer, m *websocket.Message) {
			acquired := websocket.AcquireMessage()
			acquired.Type, acquired.Channel, acquired.Data, acquired.ID = "publish", "home", []byte(`"y"`), m.ID
			*m = *acquired
			acquired.Release()
		},
		want: wire{Type: "message", Channel: "home", Data: []byte(`"y"`)},
		ack:  true,
	},
}

// The hub carries out the control message that OnMessage leaves. That is how code for
// HypGo refuses, redirects and cleans messages.
func TestControlMessageIsCarriedOutAsOnMessageLeftIt(t *testing.T) {
	t.Parallel()
	for _, codec := range subprotocols {
		for _, tt := range changes {
			t.Run(codec+"/"+tt.name, func(t *testing.T) {
				t.Parallel()
				begin := time.Now().UnixNano()
				var seen []websocket.Message // by Authorize
				var change func(m *websocket.Message)
				config := websocket.DefaultConfig
				config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
					if r.Message.ID == "1" || r.Message.ID == "" {
						seen = append(seen, *r.Message)
					}
					return nil
				}
				b := setup(t, config, options{onMessage: func(_ *websocket.Client, m *websocket.Message) {
					if m.ID == "1" {
						change(m)
					}
				}})
				p, c := b.connect(t, dialing{codec: codec})
				change = func(m *websocket.Message) { tt.change(p, m) }
				p.subscribe(t, "home")

				request := tt.request(p)
				request.ID = "1"
				p.send(t, request)
				if tt.want.Type != "" {
					got := p.read(t)
					require.GreaterOrEqual(t, got.Timestamp, begin)
					tt.want.Timestamp, tt.want.ClientID = got.Timestamp, c.ID
					require.Equal(t, tt.want, got)
				}
				if tt.ack {
					ack := p.read(t)
					require.Equal(t, "ack", ack.Type)
					require.Equal(t, "1", ack.ID)
				}
				require.Empty(t, p.do(t, wire{Type: "join_room", Data: p.codec.room("last")}), "the request had another effect")
				topics := []string{"home"}
				if tt.topics != "" {
					topics = append(topics, tt.topics)
				}
				require.ElementsMatch(t, topics, c.Channels())

				if tt.want.Type == "" && tt.topics == "" {
					require.Empty(t, seen, "Authorize was asked about a message that does nothing")
					return
				}
				require.Len(t, seen, 1)
				require.Equal(t, c.ID, seen[0].ClientID, "Authorize sees another sender")
				require.GreaterOrEqual(t, seen[0].Timestamp, begin)
			})
		}
	}
}

// Authorize and the hub's own checks apply to the changed message.
func TestChangedControlMessageIsChecked(t *testing.T) {
	t.Parallel()
	for _, codec := range subprotocols {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.ClientBacklog, config.MaxMessageSize = 100<<10, 64<<10
			config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
				if r.Target == "private" {
					return websocket.ErrForbidden
				}
				return nil
			}
			b := setup(t, config, options{onMessage: func(_ *websocket.Client, m *websocket.Message) {
				switch m.ID {
				case "1":
					m.Channel = "private"
				case "2":
					m.Channel = ""
				case "3":
					m.Data = make([]byte, 100<<10)
				}
			}})
			p, _ := b.connect(t, dialing{codec: codec})
			for id, want := range map[string]string{"1": "forbidden", "2": "bad_request", "3": "too_large"} {
				p.send(t, wire{Type: "publish", Channel: "public", ID: id})
				channel := map[string]string{"1": "private", "2": "", "3": "public"}[id]
				p.requireError(t, id, channel, want)
			}
		})
	}
}
