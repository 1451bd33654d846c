package websocket_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// refuseAll is a hook for Config.Authorize that nothing gets past.
func refuseAll(*websocket.Client, websocket.AuthorizeRequest) error { return websocket.ErrForbidden }

func TestHello(t *testing.T) {
	t.Parallel()
	config := withQueryID(websocket.DefaultConfig)
	config.Authorize = refuseAll
	b := setup(t, config, options{onConnect: func(c *websocket.Client) { c.SetUser("zoë") }})
	for _, name := range subprotocols {
		p, c := b.connect(t, dialing{codec: name, query: "id=client-123"})
		p.send(t, wire{Type: "hub:hello", ID: "4"})
		m := p.read(t)
		require.NotZero(t, m.Timestamp)
		m.Timestamp = 0
		require.Equal(t, wire{Type: "ack", ID: "4", Data: []byte(helloExample)}, m, name)

		p.send(t, wire{Type: "hub:ping", ID: "5", Data: []byte(`"ignored"`)})
		m = p.read(t)
		require.Equal(t, "ack 5", m.Type+" "+m.ID, name)
		require.Empty(t, m.Data)

		p.send(t, wire{Type: "hub:hello"})
		p.send(t, wire{Type: "hub:ping"})
		p.send(t, wire{Type: "hub:other", ID: "6"})
		got := b.messages.take(t)
		require.Equal(t, "hub:other", got.message.Type, "the hub handles only its own requests: %s", name)
		p.send(t, wire{Type: "hub:ping", ID: "7"})
		require.Equal(t, "7", p.read(t).ID, "requests without an ID get no reply: %s", name)
		require.Zero(t, b.messages.len())
		require.Same(t, c, got.client)
		p.closeCleanly(t)
		b.disconnected.take(t)
	}
}

// A hub without limits says 0, and a client without a user has an empty one.
func TestHelloWithoutLimits(t *testing.T) {
	t.Parallel()
	config := withQueryID(websocket.DefaultConfig)
	config.MessageRate, config.ByteRate, config.MaxSubscriptions = -1, -1, -1
	config.MaxMessageSize, config.MaxNameLength = 1000, 10
	b := setup(t, config, options{})
	p, _ := b.connect(t, dialing{query: "id=%22a%22"})
	p.send(t, wire{Type: "hub:hello", ID: "1"})
	require.JSONEq(t, `{"client_id":"\"a\"","user":"",
		"limits":{"message_rate":0,"byte_rate":0,"max_message_size":1000,"max_name_length":10,"max_subscriptions":0},
		"heartbeat":15000,"version":"0.1.0","features":["ping","except_self","requests"]}`, string(p.read(t).Data))
}

// A callback cannot turn a message into a request of the hub's own.
func TestHubRequestsComeFromTheWire(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{onMessage: func(_ *websocket.Client, m *websocket.Message) {
		if m.Type == "say" {
			m.Type = "hub:ping"
		}
	}})
	p, _ := b.connect(t, dialing{})
	p.send(t, wire{Type: "say", ID: "1"})
	require.Empty(t, p.do(t, wire{Type: "subscribe", Data: jsonChannel("news")}))
}

// TestHelloVersion compares the version that the hub tells with that of the packages.
func TestHelloVersion(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("js/package.json")
	require.NoError(t, err)
	var pkg struct{ Version string }
	require.NoError(t, json.Unmarshal(content, &pkg))
	require.Contains(t, helloExample, `"version":"`+pkg.Version+`"`)
}

func TestExceptSelf(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	for _, name := range subprotocols {
		self, c := b.connect(t, dialing{codec: name})
		other, _ := b.connect(t, dialing{})
		join := func(p *peer) {
			p.subscribe(t, "news")
			p.joinRoom(t, "lobby")
		}
		join(other)
		for _, member := range []bool{false, true} {
			if member {
				join(self)
			}
			before := b.hub.Stats().MessagesAddressed
			for _, request := range []struct{ typ, channel, want string }{
				{"publish", "news", "message"},
				{"publish_room", "lobby", "room_message"},
				{"broadcast", "", "broadcast"},
			} {
				m := wire{Type: request.typ, Channel: request.channel, Data: []byte(`"x"`), ExceptSelf: true}
				require.Empty(t, self.do(t, m), "%s: %s", name, request.typ)
				got := other.read(t)
				require.NotZero(t, got.Timestamp)
				got.Timestamp = 0
				require.Equal(t, wire{Type: request.want, Channel: request.channel, Data: []byte(`"x"`), ClientID: c.ID}, got)
			}
			require.EqualValues(t, 6, b.hub.Stats().MessagesAddressed-before, "three publications and three acks")
		}
		other.closeCleanly(t)
		b.disconnected.take(t)
		for _, typ := range []string{"publish", "publish_room", "broadcast"} { // nobody else is there
			m := wire{Type: typ, Channel: "news", Data: []byte(`"x"`), ExceptSelf: true}
			require.Empty(t, self.do(t, m))
			m.ExceptSelf = false
			m.Channel = map[string]string{"publish": "news", "publish_room": "lobby"}[typ]
			require.Len(t, self.do(t, m), 1)
		}
		self.closeCleanly(t)
		b.disconnected.take(t)
	}
	b.requireNoDrops(t)
	st := b.hub.Stats()
	require.Equal(t, st.MessagesAddressed, st.MessagesSent)
}

// The flag is the client's to set. The hub ignores it in messages of the server and does
// not pass it on.
func TestExceptSelfOfTheServer(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{})
	p.subscribe(t, "news")
	m := &websocket.Message{ClientID: c.ID, Data: []byte(`1`), ExceptSelf: true}
	require.NoError(t, b.hub.PublishToChannel("news", m))
	require.NoError(t, b.hub.BroadcastMessage(m))
	require.NoError(t, c.Send(m))
	for range 3 {
		require.False(t, p.read(t).ExceptSelf)
	}
}

// Publications with and without the flag follow each other while the hub goroutine is
// busy, so that it routes runs of them. Each member gets exactly its own.
func TestExceptSelfInRuns(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			codec := gatedCodec{gate: make(chan struct{})}
			config := websocket.DefaultConfig
			config.Shards, config.ClientID = 1, byID
			config.Codecs, config.Subprotocols = []websocket.Codec{codec}, nil
			hub := runFake(t, p, config, func(h *websocket.Hub) { h.SetCallbacks(joinNewsAndLobby, nil, nil) })
			defer hub.stop()
			peers := map[string]*fakePeer{}
			for _, id := range []string{"a", "b", "c"} {
				peers[id] = hub.connect(1<<20, withID(id))
				defer peers[id].Close()
			}
			busy := hub.connect(1<<20, nil)
			defer busy.Close()
			require.NoError(t, hub.SendToClient("anonymous", &websocket.Message{Data: []byte(`"gate"`)}))
			const each = 100
			for i := range each {
				for _, id := range []string{"a", "b"} {
					request := `{"type":"publish","channel":"news","data":"` + id + `","except_self":true}`
					if i%3 == 0 {
						request = strings.Replace(request, "true", "false", 1)
					}
					require.NoError(t, peers[id].WriteMessage(gorilla.TextMessage, []byte(request)))
				}
			}
			synctest.Wait()
			require.NoError(t, hub.PublishToChannelRaw("news", []byte(`"end"`)))
			close(codec.gate)
			for id, want := range map[string]map[string]int{
				"a": {"a": 34, "b": each}, "b": {"a": each, "b": 34}, "c": {"a": each, "b": each},
			} {
				got := map[string]int{}
				for {
					from := readJSON(t, peers[id])["data"].(string)
					if from == "end" {
						break
					}
					got[from]++
				}
				require.Equal(t, want, got, id)
			}
			synctest.Wait()
			st := hub.Stats()
			require.Equal(t, st.MessagesAddressed, st.MessagesSent)
			require.EqualValues(t, 1+2*(34*4+66*3)+4, st.MessagesAddressed)
		})
	})
}

func TestExceptSelfReachesOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		a, b := hubs[0].connect(1<<16, idHeader("a")), hubs[1].connect(1<<16, idHeader("b"))
		ready(t, hubs...)
		synctest.Wait()
		for _, request := range []string{
			`{"type":"publish","channel":"news","data":1,"except_self":true}`,
			`{"type":"publish_room","channel":"lobby","data":2,"except_self":true}`,
			`{"type":"broadcast","data":3,"except_self":true}`,
			`{"type":"publish","channel":"news","data":4}`,
		} {
			require.NoError(t, a.WriteMessage(gorilla.TextMessage, []byte(request)))
		}
		require.Equal(t, []string{"message news 1", "room_message lobby 2", "broadcast  3", "message news 4"}, types(t, b, 4))
		require.Equal(t, []string{"message news 4"}, types(t, a, 1))
		_ = a.Close()
		_ = b.Close()
	})
}
