package websocket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// withPresence returns a Config whose topics have presence. The client's ID comes from its
// header, and its user is the part of the ID before a slash.
func withPresence() websocket.Config {
	config := websocket.DefaultConfig
	config.ClientID = byID
	config.MessageRate = -1
	config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
		return websocket.TopicOptions{Presence: !strings.HasPrefix(name, "plain")}
	}
	config.OnConnect = func(c *websocket.Client) {
		if user, _, ok := strings.Cut(c.ID, "/"); ok {
			c.SetUser(user)
		}
	}
	return config
}

// presenceOf describes a presence message: "+id" for a join, "-id" for a leave and "*id"
// for an update, with "!" for the first or last connection of a user.
func presenceOf(t testing.TB, m map[string]any) string {
	t.Helper()
	data := m["data"].(map[string]any)
	one := func(sign string, id any, data map[string]any) string {
		s := sign + id.(string)
		if data["first"] == true || data["last"] == true {
			s += "!"
		}
		if info, ok := data["info"]; ok {
			s += fmt.Sprint("=", info)
		}
		return s
	}
	signs := map[string]string{"join": "+", "leave": "-", "update": "*"}
	if sign, ok := signs[m["type"].(string)]; ok {
		return one(sign, m["client_id"], data)
	}
	require.Equal(t, "presence_diff", m["type"], "%v", m)
	var all []string
	for _, list := range []struct{ name, sign string }{{"leaves", "-"}, {"joins", "+"}, {"updates", "*"}} {
		members, _ := data[list.name].([]any)
		for _, member := range members {
			member := member.(map[string]any)
			all = append(all, one(list.sign, member["client_id"], member))
		}
	}
	return strings.Join(all, " ")
}

// idsOf returns the IDs of a topic's members.
func idsOf(t testing.TB, hub *fakeHub, name string) []string {
	t.Helper()
	members, err := hub.Presence(t.Context(), websocket.ChannelTopic, name)
	require.NoError(t, err)
	ids := []string{}
	for _, m := range members {
		ids = append(ids, m.ClientID)
	}
	return ids
}

func enterTopic(t testing.TB, p *fakePeer, name string) {
	t.Helper()
	writeText(t, p, `{"type":"subscribe","data":{"channel":%q}}`, name)
}

func TestPresence(t *testing.T) {
	t.Parallel()
	inHistoryHub(t, withPresence(), func(t *testing.T, hub *fakeHub) {
		enter := func(id string) *fakePeer {
			p := hub.connect(1<<20, withID(id))
			enterTopic(t, p, "news")
			synctest.Wait()
			time.Sleep(time.Second)
			return p
		}
		a := enter("ann/1")
		require.Equal(t, "+ann/1!", presenceOf(t, readJSON(t, a)))
		b := enter("bob/1")
		require.Equal(t, "+bob/1!", presenceOf(t, readJSON(t, a)))
		require.Equal(t, "+bob/1!", presenceOf(t, readJSON(t, b)), "a member is told of itself")
		c := enter("ann/2")
		require.Equal(t, "+ann/2", presenceOf(t, readJSON(t, a)), "not the first of the user's")
		require.Equal(t, []string{"ann/1", "bob/1", "ann/2"}, idsOf(t, hub, "news"))

		cc, ok := hub.Client("ann/2")
		require.True(t, ok)
		require.NoError(t, cc.SetInfo(map[string]string{"status": "away"}))
		time.Sleep(time.Second)
		require.Equal(t, "*ann/2=map[status:away]", presenceOf(t, readJSON(t, a)))
		require.NoError(t, cc.SetInfo(map[string]string{"status": "away"})) // no change
		time.Sleep(time.Second)

		require.NoError(t, c.Close())
		time.Sleep(time.Second)
		require.Equal(t, "-ann/2", presenceOf(t, readJSON(t, a)), "the user has another connection")
		writeText(t, b, `{"type":"unsubscribe","data":{"channel":"news"}}`)
		time.Sleep(time.Second)
		require.Equal(t, "-bob/1!", presenceOf(t, readJSON(t, a)))
		require.NoError(t, hub.SendToClient("bob/1", &websocket.Message{Type: "end"}))
		for m := readJSON(t, b); m["type"] != "end"; m = readJSON(t, b) {
			require.NotContains(t, presenceOf(t, m), "-bob/1", "it is told nothing of its own leaving")
		}
		require.Equal(t, []string{"ann/1"}, idsOf(t, hub, "news"))
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		synctest.Wait()
		require.Empty(t, idsOf(t, hub, "news"))
		require.Zero(t, hub.Stats().HeldBytes)
	})
}

// A member leaves when the hub ends its connection, not when the socket has closed.
func TestPresenceEndsWithTheConnection(t *testing.T) {
	t.Parallel()
	inHistoryHub(t, withPresence(), func(t *testing.T, hub *fakeHub) {
		a, b := hub.connect(1<<20, withID("a")), hub.connect(1<<20, withID("b"))
		defer a.Close()
		defer b.Close()
		for _, id := range []string{"a", "b"} {
			c, _ := hub.Client(id)
			require.NoError(t, c.JoinRoom("lobby"))
		}
		synctest.Wait()
		require.Equal(t, "+a!", presenceOf(t, readJSON(t, a)))
		require.Equal(t, "+b!", presenceOf(t, readJSON(t, a)))
		c, _ := hub.Client("b")
		require.NoError(t, c.Close(4000, "out"))
		m := readJSON(t, a)
		require.Equal(t, "-b!", presenceOf(t, m))
		require.Equal(t, true, m["data"].(map[string]any)["room"])
		require.Equal(t, "lobby", m["channel"])
		members, err := hub.Presence(t.Context(), websocket.RoomTopic, "lobby")
		require.NoError(t, err)
		require.Len(t, members, 1)
	})
}

// Changes within the interval come in one message: at most one per interval.
func TestPresenceIsCoalesced(t *testing.T) {
	t.Parallel()
	config := withPresence()
	config.PresenceInterval = time.Second
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		a := hub.connect(1<<20, withID("u/a"))
		enterTopic(t, a, "news")
		require.Equal(t, "+u/a!", presenceOf(t, readJSON(t, a)), "the first change is told at once")
		peers := map[string]*fakePeer{}
		for _, id := range []string{"u/b", "v/c", "d", "v/e"} {
			peers[id] = hub.connect(1<<20, withID(id))
			enterTopic(t, peers[id], "news")
			synctest.Wait()
		}
		require.NoError(t, peers["d"].Close()) // nobody was told of d
		synctest.Wait()
		start := time.Now()
		require.Equal(t, "+u/b +v/c! +v/e!", presenceOf(t, readJSON(t, a)))
		require.Equal(t, time.Second, time.Since(start))

		// A connection that comes back does not make its user leave.
		for _, id := range []string{"v/c", "v/e", "u/b"} {
			require.NoError(t, peers[id].Close())
			synctest.Wait()
		}
		again := hub.connect(1<<20, withID("v/c"))
		enterTopic(t, again, "news")
		synctest.Wait()
		require.Equal(t, "-v/c -v/e -u/b +v/c", presenceOf(t, readJSON(t, a)))

		// A membership that ends and begins again is a new one.
		writeText(t, again, `{"type":"unsubscribe","data":{"channel":"news"}}`)
		enterTopic(t, again, "news")
		synctest.Wait()
		require.Equal(t, "-v/c +v/c", presenceOf(t, readJSON(t, a)))
		for _, p := range []*fakePeer{a, again} {
			require.NoError(t, p.Close())
		}
		synctest.Wait()
		require.Zero(t, hub.Stats().HeldBytes)
	})
}

// Many changes are told in messages of a bounded size, one per interval.
func TestPresenceOfALargeTopic(t *testing.T) {
	t.Parallel()
	const members = 300
	inHistoryHub(t, withPresence(), func(t *testing.T, hub *fakeHub) {
		a := hub.connect(8<<20, withID("a"))
		enterTopic(t, a, "news")
		require.Equal(t, "+a!", presenceOf(t, readJSON(t, a)))
		c, _ := hub.Client("a")
		require.NoError(t, c.Subscribe("news"))
		var peers []*fakePeer
		for i := range members {
			p := hub.connect(1<<10, withID(fmt.Sprint("client-", i)))
			go keepAlive(p) // ends with the connection
			peers = append(peers, p)
			c, _ := hub.Client(fmt.Sprint("client-", i))
			require.NoError(t, c.SetInfo(strings.Repeat("x", 300)))
			require.NoError(t, c.Subscribe("news"))
		}
		seen, messages := map[string]bool{}, 0
		start := time.Now()
		for len(seen) < members {
			_, b, err := a.ReadMessage()
			require.NoError(t, err)
			require.Less(t, len(b), 100<<10)
			var m map[string]any
			require.NoError(t, json.Unmarshal(b, &m))
			for change := range strings.FieldsSeq(presenceOf(t, m)) {
				require.True(t, strings.HasPrefix(change, "+client-"))
				require.False(t, seen[change])
				seen[change] = true
			}
			messages++
		}
		elapsed := time.Since(start)
		require.LessOrEqual(t, messages, 1+int(elapsed/(200*time.Millisecond)), "one message per interval")
		writeText(t, a, `{"type":"hub:presence","id":"1","data":{"channel":"news"}}`)
		reply := readJSON(t, a)["data"].(map[string]any)
		require.Len(t, reply["members"], members+1)
		for _, p := range append(peers, a) {
			require.NoError(t, p.Close())
		}
		synctest.Wait()
		require.Zero(t, hub.Stats().HeldBytes)
	})
}

// The reply to hub:presence has its place in the order: a client that applies the later
// messages to it knows at all times what the topic's members have been told.
func TestPresenceRequestIsExact(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	inHistoryHub(t, withPresence(), func(t *testing.T, hub *fakeHub) {
		watcher := hub.connect(8<<20, withID("watcher"))
		enterTopic(t, watcher, "news")
		known := map[string]string{} // info by ID; nil until the first reply
		replies := 0
		apply := func(m map[string]any) {
			if m["type"] == "ack" {
				replies++
				snapshot := map[string]string{}
				for _, member := range m["data"].(map[string]any)["members"].([]any) {
					member := member.(map[string]any)
					snapshot[member["client_id"].(string)] = fmt.Sprint(member["info"])
				}
				if replies > 1 {
					for id := range snapshot {
						require.Contains(t, known, id)
					}
					require.Len(t, known, len(snapshot))
				}
				known = snapshot
				return
			}
			for change := range strings.FieldsSeq(presenceOf(t, m)) {
				id, info, _ := strings.Cut(strings.TrimRight(change[1:], "!"), "=")
				id = strings.TrimSuffix(id, "!")
				if info == "" {
					info = "<nil>"
				}
				switch change[0] {
				case '-':
					delete(known, id)
				default:
					known[id] = info
				}
			}
		}
		peers := map[string]*fakePeer{}
		for step := range 300 {
			id := fmt.Sprint("client-", random.IntN(8))
			p := peers[id]
			switch action := random.IntN(10); {
			case action == 0:
				writeText(t, watcher, `{"type":"hub:presence","id":"%d","data":{"channel":"news"}}`, step)
			case action == 1:
				time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
			case p == nil:
				p = hub.connect(8<<20, withID(id))
				go keepAlive(p) // ends with the connection
				peers[id] = p
				enterTopic(t, p, "news")
			case action < 4:
				require.NoError(t, p.Close())
				delete(peers, id)
				synctest.Wait() // frees the ID
			case action < 6:
				writeText(t, p, `{"type":"unsubscribe","data":{"channel":"news"}}`)
			case action < 8:
				c, _ := hub.Client(id)
				require.NoError(t, c.SetInfo(step))
			default:
				enterTopic(t, p, "news")
			}
			if random.IntN(2) == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Second)
		writeText(t, watcher, `{"type":"hub:presence","id":"last","data":{"channel":"news"}}`)
		for {
			m := readJSON(t, watcher)
			apply(m)
			if m["id"] == "last" {
				break
			}
		}
		ids := idsOf(t, hub, "news")
		slices.Sort(ids)
		var got []string
		for id := range known {
			got = append(got, id)
		}
		slices.Sort(got)
		require.Equal(t, ids, got)
		for _, p := range peers {
			require.NoError(t, p.Close())
		}
		require.NoError(t, watcher.Close())
	})
}

func TestPresenceRefusals(t *testing.T) {
	t.Parallel()
	config := withPresence()
	config.ClientID = nil
	b := setup(t, config, options{onConnect: func(c *websocket.Client) { c.SetUser("zoë") }})
	for _, codec := range subprotocols {
		p, c := b.connect(t, dialing{codec: codec})
		require.NoError(t, c.SetInfo([]int{1, 2}))
		p.subscribe(t, "plain")
		ask := func(id, data string) { p.send(t, wire{Type: "hub:presence", ID: id, Data: []byte(data)}) }
		for _, data := range []string{``, `{}`, `[]`, `{"channel":"a","room_id":"b"}`, `{"channel":1}`} {
			ask("1", data)
			p.requireError(t, "1", "", "bad_request")
		}
		ask("2", `{"channel":"news"}`)
		p.requireError(t, "2", "news", "forbidden")
		ask("3", `{"channel":"plain"}`)
		require.Contains(t, p.requireError(t, "3", "plain", "bad_request"), "has no presence")
		ask("", `{"channel":"plain"}`) // no reply

		p.joinRoom(t, "lobby")
		require.Equal(t, "join", p.read(t).Type)
		ask("4", `{"room_id":"lobby"}`)
		reply := p.read(t)
		require.Equal(t, "ack 4 lobby", reply.Type+" "+reply.ID+" "+reply.Channel)
		var data struct {
			Members []struct {
				ClientID string `json:"client_id"`
				User     string
				Info     []int
				Since    int64
			}
			Count int
		}
		require.NoError(t, json.Unmarshal(reply.Data, &data))
		require.Equal(t, 1, data.Count)
		require.Len(t, data.Members, 1)
		require.Equal(t, c.ID, data.Members[0].ClientID)
		require.Equal(t, "zoë", data.Members[0].User)
		require.Equal(t, []int{1, 2}, data.Members[0].Info)
		require.WithinDuration(t, time.Now(), time.UnixMilli(data.Members[0].Since), patience)
		p.closeCleanly(t)
		b.disconnected.take(t)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err := b.hub.Presence(ctx, websocket.ChannelTopic, "")
	require.ErrorIs(t, err, websocket.ErrInvalidName)
	none, err := b.hub.Presence(ctx, websocket.TopicKind(7), "news")
	require.NoError(t, err)
	require.Empty(t, none)
	cancel()
	_, err = b.hub.Presence(ctx, websocket.ChannelTopic, "news")
	require.ErrorIs(t, err, context.Canceled)
}

func TestSetInfo(t *testing.T) {
	t.Parallel()
	b := setup(t, withPresence(), options{})
	p, c := b.connect(t, dialing{header: http.Header{"X-Test-ID": {"a"}}})
	require.NoError(t, c.SetInfo(strings.Repeat("x", 4094)))
	err := c.SetInfo(strings.Repeat("x", 4095))
	require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
	require.ErrorContains(t, err, "4097 bytes, but Client.SetInfo allows 4096")
	require.Error(t, c.SetInfo(make(chan int)))
	require.ErrorIs(t, c.SetInfo(json.RawMessage("\"\xff\"")), websocket.ErrMalformed)
	held := b.hub.Stats().HeldBytes
	require.NoError(t, c.SetInfo(nil))
	require.EqualValues(t, 4096, held-b.hub.Stats().HeldBytes)
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	require.ErrorIs(t, c.SetInfo(1), websocket.ErrClientClosed)
}

// A list that does not fit into a message is cut, and its count is not.
func TestPresenceListIsCut(t *testing.T) {
	t.Parallel()
	config := withPresence()
	config.MaxMessageSize = 4 << 10
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		var peers []*fakePeer
		for i := range 100 {
			p := hub.connect(1<<20, withID(fmt.Sprint("client-", i)))
			peers = append(peers, p)
			enterTopic(t, p, "news")
			synctest.Wait()
		}
		time.Sleep(time.Second)
		writeText(t, peers[0], `{"type":"hub:presence","id":"1","data":{"channel":"news"}}`)
		for {
			_, b, err := peers[0].ReadMessage()
			require.NoError(t, err)
			if !strings.Contains(string(b), `"ack"`) {
				continue
			}
			require.Less(t, len(b), 4<<10)
			var m map[string]any
			require.NoError(t, json.Unmarshal(b, &m))
			data := m["data"].(map[string]any)
			require.EqualValues(t, 100, data["count"])
			require.Greater(t, len(data["members"].([]any)), 30)
			break
		}
		for _, p := range peers {
			require.NoError(t, p.Close())
		}
	})
}

// A message of many changes does not exceed a small backlog, which would make all members
// look slow.
func TestPresenceFitsASmallBacklog(t *testing.T) {
	t.Parallel()
	config := withPresence()
	config.MaxMessageSize, config.ClientBacklog = 2<<10, 8<<10
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		const members = 60
		var peers []*fakePeer
		for i := range members {
			p := hub.connect(1<<20, withID(fmt.Sprint("client-", i)))
			go keepAlive(p) // ends with the connection
			peers = append(peers, p)
			c, _ := hub.Client(fmt.Sprint("client-", i))
			require.NoError(t, c.SetInfo(strings.Repeat("x", 1000)))
			require.ErrorIs(t, c.SetInfo(strings.Repeat("x", 1<<10)), websocket.ErrMessageTooLarge)
			require.NoError(t, c.Subscribe("news"))
		}
		time.Sleep(time.Minute)
		require.Equal(t, members, hub.Stats().ActiveConnections)
		require.Zero(t, hub.Stats().Dropped.Total())
		for _, p := range peers {
			require.NoError(t, p.Close())
		}
	})
}
