package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func TestPageLoadsNothingFromOtherServers(t *testing.T) {
	t.Parallel()
	base := start(t)
	tests := []struct{ path, contentType string }{
		{"/", "^text/html; charset=utf-8$"},
		{"/chat.css", "^text/css"},
		{"/chat.js", "^(text|application)/javascript"},
		{"/hub.js", "^(text|application)/javascript"},
		{"/icon.svg", `^image/svg\+xml`},
	}
	for _, tt := range tests {
		response, err := http.Get("http://" + base + tt.path)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusOK, response.StatusCode, tt.path)
		require.Regexp(t, tt.contentType, response.Header.Get("Content-Type"), tt.path)
		require.Equal(t, "nosniff", response.Header.Get("X-Content-Type-Options"), tt.path)
		if tt.path == "/" {
			require.Contains(t, response.Header.Get("Content-Security-Policy"), "default-src 'self'")
			require.NotRegexp(t, `(src|<link[^>]* href)="[^"]*//`, string(body), "the page loads from another server")
		}
	}
}

func TestTabsOfAllCodecsShareARoom(t *testing.T) {
	t.Parallel()
	base := start(t)
	codecs := []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}}
	var tabs []*tabClient
	for i, codec := range codecs {
		tab := dial(t, base, codec, "Ann", i%2 == 1)
		require.Equal(t, []string{"Ann", "Ann 2", "Ann 3", "Ann 4"}[i], tab.me.Name)
		tab.join("lobby")
		for _, earlier := range tabs {
			require.Equal(t, tab.me, earlier.sees(tab.id))
		}
		tabs = append(tabs, tab)
	}

	tabs[1].publish("lobby", `{"text":"<b>hello</b>","nonce":7}`, "2")
	for _, tab := range tabs {
		message := tab.next()
		require.Equal(t, "room_message", message.Type)
		require.Equal(t, "lobby", message.Channel)
		require.Equal(t, tabs[1].id, message.ClientID)
		require.JSONEq(t, `{"text":"<b>hello</b>","nonce":7,"name":"Ann 2","codec":"protobuf","sealed":true}`, string(message.Data))
	}
	require.Equal(t, "ack", tabs[1].next().Type)

	tabs[0].ask("leave_room", "lobby", "3")
	require.Equal(t, "ack", tabs[0].next().Type)
	require.NoError(t, tabs[3].conn.Close())
	for _, tab := range tabs[1:3] {
		tab.sawLeave(tabs[0].id)
		tab.sawLeave(tabs[3].id)
	}
}

func TestHistoryOnEntering(t *testing.T) {
	t.Parallel()
	base := start(t)
	ann := dial(t, base, websocket.JSONCodec{}, "Ann", false)
	ann.join("lobby")
	ann.publish("lobby", `{"text":"hello","nonce":1}`, "2")
	require.Equal(t, "room_message", ann.next().Type)
	require.NoError(t, ann.conn.Close())

	bob := dial(t, base, websocket.JSONCodec{}, "Bob", false)
	bob.send(&websocket.Message{Type: "join_room", ID: "1", Data: []byte(`{"room_id":"lobby","last":10}`)})
	require.Equal(t, "ack", bob.next().Type)
	message := bob.next()
	require.Equal(t, ann.id, message.ClientID)
	require.JSONEq(t, `{"text":"hello","nonce":1,"name":"Ann","codec":"json","sealed":false}`, string(message.Data))
	bob.publish("lobby", `{"text":"late","nonce":2}`, "")
	require.Contains(t, string(bob.next().Data), "late")
}

func TestTabKeepsItsIDAndName(t *testing.T) {
	t.Parallel()
	base := start(t)
	secret := rand.Text()
	earlier := dialAs(t, base, websocket.JSONCodec{}, "Ann", secret, false)
	again := dialAs(t, base, websocket.MsgpackCodec{}, "Ann", secret, true)
	require.Equal(t, "Ann", again.me.Name)
	require.Equal(t, earlier.id, again.id)
	require.NotEqual(t, earlier.id, dial(t, base, websocket.JSONCodec{}, "Bob", false).id)
	_, _, err := earlier.conn.ReadMessage()
	require.True(t, gorilla.IsCloseError(err, websocket.CloseReplaced), "%v", err)
}

func TestNamesAreUnique(t *testing.T) {
	t.Parallel()
	c := newChat(slog.New(slog.DiscardHandler))
	earlier, again, other := &websocket.Client{ID: "1"}, &websocket.Client{ID: "1"}, &websocket.Client{ID: "2"}
	require.Equal(t, "Ann", c.claimName("Ann", earlier))
	require.Equal(t, "Ann", c.claimName("Ann", again))
	c.freeName("Ann", earlier)
	require.Equal(t, "ann 2", c.claimName("ann", other))
	c.freeName("Ann", again)
	require.Equal(t, "ANN", c.claimName("ANN", other))
}

func TestTyping(t *testing.T) {
	t.Parallel()
	base := start(t)
	ann := dial(t, base, websocket.JSONCodec{}, "Ann", false)
	bob := dial(t, base, websocket.JSONCodec{}, "Bob", false)
	typing := func(id string) {
		ann.send(&websocket.Message{Type: "publish", Channel: "typing:lobby", ExceptSelf: true, ID: id})
	}
	bob.join("lobby")
	typing("1")
	ann.refused(errForbidden)
	ann.join("lobby")
	typing("2")
	require.Equal(t, "ack", ann.next().Type)
	m := bob.next()
	require.Equal(t, "message", m.Type)
	require.Equal(t, "typing:lobby", m.Channel)
	require.Equal(t, ann.id, m.ClientID)
	require.Zero(t, m.Offset, "typing is not kept")

	ann.send(&websocket.Message{Type: "publish", Channel: "typing:lobby", Data: []byte(`"hello"`)})
	ann.refused(errForbidden)
	ann.ask("subscribe", "typing:lobby", "3")
	ann.refused(errForbidden)
	bob.ask("leave_room", "lobby", "4")
	require.Equal(t, "ack", bob.next().Type)
	bob.send(&websocket.Message{Type: "publish", Channel: "typing:lobby"})
	bob.refused(errForbidden)
}

func TestCommands(t *testing.T) {
	t.Parallel()
	base := start(t)
	ann := dial(t, base, websocket.JSONCodec{}, "Ann", false)
	bob := dial(t, base, websocket.MsgpackCodec{}, "Bob", true)
	command := func(data string) {
		ann.send(&websocket.Message{Type: "command", ID: "5", Data: []byte(data)})
	}
	answers := func(text, pattern string) {
		t.Helper()
		command(string(encode(map[string]string{"room": "lobby", "text": text})))
		m := ann.next()
		require.Equal(t, "ack", m.Type, string(m.Data))
		require.Equal(t, "5", m.ID)
		var answer string
		require.NoError(t, json.Unmarshal(m.Data, &answer))
		require.Regexp(t, pattern, answer)
	}
	command(`{"room":"lobby","text":"/who"}`)
	ann.refused(errNotInRoom)
	ann.join("lobby")
	bob.join("lobby")
	answers("/who", `^(Ann|Bob), here for \d+s\n(Ann|Bob), here for \d+s$`)
	answers(" /help ", "/roll 2d6")
	answers("/roll 1d2", `^1d2: [12] = [12]$`)
	answers("/roll 3d1000", `^3d1000: \d+ \+ \d+ \+ \d+ = \d+$`)
	for _, dice := range []string{"", "6", "d6", "2d", "0d6", "21d6", "2d1", "2d1001", "2d6d6", "99999999999999999999d6"} {
		command(string(encode(map[string]string{"room": "lobby", "text": "/roll " + dice})))
		ann.refused(errRoll)
	}
	command(`{"room":"lobby","text":"/dance <b>"}`)
	ann.refused(refusal("there is no command /dance, /help lists them"))
	command(`{"room":"lobby","text":"/\u202edance"}`)
	ann.refused(refusal("there is no command /dance, /help lists them"))
	command(`{"room":"lobby","text":"/me"}`)
	ann.refused(errMe)
	for _, data := range []string{``, `"/who"`, `{"room":"lobby","text":" "}`, `{"room":"lobby","text":"/who","as":"Bob"}`} {
		command(data)
		ann.refused(errText)
	}
	ann.publish("lobby", `{"text":"only this","nonce":1}`, "")
	require.Contains(t, string(bob.next().Data), "only this", "the others see no commands")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	base := start(t)
	tab := dial(t, base, websocket.JSONCodec{}, "  Bob\n\x00 Ross ", false)
	require.Equal(t, "Bob Ross", tab.me.Name)

	tab.publish("lobby", `{"text":"hello","nonce":1}`, "")
	tab.refused(errNotInRoom)
	for _, name := range []string{" lobby", "lob  by", "\u202elobby", strings.Repeat("x", maxRoomName+1)} {
		tab.ask("join_room", name, "")
		tab.refused(errRoomName)
	}
	for _, channel := range []string{"secrets", "typing:lobby"} {
		tab.ask("subscribe", channel, "")
		tab.refused(errForbidden)
	}
	tab.send(&websocket.Message{Type: "broadcast", Data: []byte(`"hello"`)})
	tab.refused(errForbidden)
	tab.publish("lobby", ``, "")
	tab.refused(errText)

	tab.join("lobby")
	for _, data := range []string{
		``, `null`, `{"text":"   "}`, `{"text":1}`, `"hello"`, `{"text":"a","name":"Ann"}`, `{"text":"a","Sealed":true}`,
		`{"text":"a"} {}`, `{"text":"` + strings.Repeat("x", maxText+1) + `"}`,
	} {
		tab.publish("lobby", data, "")
		tab.refused(errText)
	}
	for i := range maxRoomsPerTab - 1 {
		tab.join("room " + string(rune('a'+i)))
	}
	tab.ask("join_room", "one too many", "")
	tab.refused(errRooms)
}

func TestRoomsAndMembersAreBounded(t *testing.T) {
	t.Parallel()
	rooms := map[string]int{"lobby": maxRoomMembers - 1}
	require.NoError(t, checkSpace(rooms, "lobby"))
	rooms["lobby"]++
	require.ErrorIs(t, checkSpace(rooms, "lobby"), errRoomFull)
	for i := range maxRooms - 2 {
		rooms["room "+strconv.Itoa(i)] = 1
	}
	require.NoError(t, checkSpace(rooms, "the last one"))
	rooms["the last one"] = 1
	require.ErrorIs(t, checkSpace(rooms, "one too many"), errNoRoom)
	require.NoError(t, checkSpace(rooms, "room 0"))
}

// The hub cuts the list of members, and other replies, at MaxMessageSize.
func TestTheListOfAFullRoomFits(t *testing.T) {
	t.Parallel()
	member := encode(map[string]any{
		"client_id": strings.Repeat("x", 26), "user": "", "since": time.Now().UnixMilli(),
		"info": person{Name: strings.Repeat("<", maxName), Codec: "flatbuffers", Sealed: true},
	})
	require.Less(t, 1024+maxRoomMembers*len(member), maxMessageSize)
}

func TestTicketIsGoodForOneConnection(t *testing.T) {
	t.Parallel()
	base := start(t)
	ticket, _ := fetchKeys(t, base)
	conn, _, err := dialTicket(base, ticket)
	require.NoError(t, err)
	defer conn.Close()
	for _, bad := range []string{ticket, "guessed"} {
		_, response, err := dialTicket(base, bad)
		require.Error(t, err)
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	}
}

func TestTicketIsRedeemedOnce(t *testing.T) {
	t.Parallel()
	var k keyring
	ticket, issued, _ := k.issue()
	require.True(t, k.redeem(ticket))
	require.False(t, k.redeem(ticket))
	keys, ok := k.take(ticket)
	require.True(t, ok)
	require.Equal(t, issued, keys)
	_, ok = k.take(ticket)
	require.False(t, ok)
}

func TestExpiredTicketsAreSweptAndRefused(t *testing.T) {
	t.Parallel()
	var k keyring
	for range mostTickets {
		_, _, ok := k.issue()
		require.True(t, ok)
	}
	_, _, ok := k.issue()
	require.False(t, ok)
	for ticket, keys := range k.issued {
		keys.expires = time.Now().Add(-time.Second)
		k.issued[ticket] = keys
		require.False(t, k.redeem(ticket))
	}
	_, _, ok = k.issue()
	require.True(t, ok)
	require.Len(t, k.issued, 1)
}

func TestOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	base := start(t)
	dialer := websocket.Dialer{}
	_, response, err := dialer.Dial("ws://"+base+"/ws", http.Header{"Origin": {"https://evil.example"}})
	require.Error(t, err)
	require.Equal(t, http.StatusForbidden, response.StatusCode)

	request, err := http.NewRequest(http.MethodPost, "http://"+base+"/api/key", nil)
	require.NoError(t, err)
	request.Header.Set("Sec-Fetch-Site", "cross-site")
	response, err = http.DefaultClient.Do(request)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, http.StatusForbidden, response.StatusCode)
}

func TestStatsArePublished(t *testing.T) {
	t.Parallel()
	tab := dial(t, start(t), websocket.JSONCodec{}, "Ann", false)
	tab.join("lobby")
	tab.ask("subscribe", statsChannel, "1")
	require.Equal(t, "ack", tab.next().Type)
	m := tab.next()
	require.Equal(t, statsChannel, m.Channel)
	var stats statistics
	require.NoError(t, json.Unmarshal(m.Data, &stats))
	require.Equal(t, 1, stats.ActiveConnections)
	require.NotZero(t, stats.MessagesReceived)
	require.Equal(t, map[string]int{"lobby": 1}, stats.Rooms)
}

func TestShutdownClosesWithGoingAway(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	base := startWith(t, ctx)
	tab := dial(t, base, websocket.JSONCodec{}, "Ann", false)
	stop()
	_, _, err := tab.conn.ReadMessage()
	require.True(t, gorilla.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
}

func start(t *testing.T) string {
	t.Helper()
	return startWith(t, t.Context()) // the context ends before the cleanups run
}

// startWith serves a chat until ctx ends and returns its address.
func startWith(t *testing.T, ctx context.Context) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- newChat(slog.New(slog.DiscardHandler)).serve(ctx, listener) }() // returns after ctx ends
	t.Cleanup(func() { require.NoError(t, <-ended) })
	return listener.Addr().String()
}

// tabClient is a connection that acts like the page.
type tabClient struct {
	t       *testing.T
	conn    *gorilla.Conn
	codec   websocket.Codec
	keys    *sealKeys
	me      person
	id      string
	members map[string]person // by client ID, of all rooms together
}

func dial(t *testing.T, base string, codec websocket.Codec, name string, sealed bool) *tabClient {
	t.Helper()
	return dialAs(t, base, codec, name, "", sealed)
}

func dialAs(t *testing.T, base string, codec websocket.Codec, name, secret string, sealed bool) *tabClient {
	t.Helper()
	c := &tabClient{t: t, codec: codec, members: map[string]person{}}
	protocols := []string{codec.Name()}
	if sealed {
		ticket, keys := fetchKeys(t, base)
		c.keys = &keys
		protocols = append(protocols, "bearer."+base64.RawURLEncoding.EncodeToString([]byte(ticket)))
	}
	dialer := websocket.Dialer{Subprotocols: protocols}
	query := url.Values{"name": {name}, "tab": {secret}}
	conn, _, err := dialer.Dial("ws://"+base+"/ws?"+query.Encode(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	c.conn = conn
	welcome := c.next()
	require.Equal(t, "welcome", welcome.Type)
	require.NoError(t, json.Unmarshal(welcome.Data, &c.me))
	require.Equal(t, sealed, c.me.Sealed)
	require.Equal(t, codec.Name(), c.me.Codec)
	c.send(&websocket.Message{Type: "hub:hello", ID: "hello"})
	var hello struct {
		ID string `json:"client_id"`
	}
	require.NoError(t, json.Unmarshal(c.next().Data, &hello))
	c.id = hello.ID
	return c
}

func dialTicket(base, ticket string) (*gorilla.Conn, *http.Response, error) {
	dialer := websocket.Dialer{Subprotocols: []string{"json", "bearer." + base64.RawURLEncoding.EncodeToString([]byte(ticket))}}
	return dialer.Dial("ws://"+base+"/ws", nil)
}

func fetchKeys(t *testing.T, base string) (string, sealKeys) {
	t.Helper()
	response, err := http.Post("http://"+base+"/api/key", "", nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
	var issued struct {
		Ticket string
		sealKeys
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&issued))
	require.Len(t, issued.AES, 32)
	return issued.Ticket, issued.sealKeys
}

// ask sends a control message for a channel or room.
func (c *tabClient) ask(action, target, id string) {
	c.t.Helper()
	var data []byte
	switch {
	case c.codec.Name() == "protobuf": // both requests have one string, field 1
		data = append([]byte{0x0a, byte(len(target))}, target...)
	case strings.HasSuffix(action, "_room"):
		data = encode(map[string]string{"room_id": target})
	default:
		data = encode(map[string]string{"channel": target})
	}
	c.send(&websocket.Message{Type: action, Data: data, ID: id})
}

// join joins a room and waits until the tab itself is listed.
func (c *tabClient) join(room string) {
	c.t.Helper()
	delete(c.members, c.id)
	c.ask("join_room", room, "1")
	require.Equal(c.t, "ack", c.next().Type)
	require.Equal(c.t, c.me, c.sees(c.id))
}

func (c *tabClient) publish(room, data, id string) {
	c.t.Helper()
	c.send(&websocket.Message{Type: "publish_room", Channel: room, Data: []byte(data), ID: id})
}

func (c *tabClient) send(m *websocket.Message) {
	c.t.Helper()
	b, err := c.codec.Marshal(m)
	require.NoError(c.t, err)
	kind := c.codec.WebSocketMessageType()
	if c.keys != nil {
		b, err = websocket.Encrypt(websocket.Sign(b, c.keys.HMAC), c.keys.AES)
		require.NoError(c.t, err)
		kind = websocket.BinaryMessage
	}
	require.NoError(c.t, c.conn.WriteMessage(kind, b))
}

// refused waits for a refusal.
func (c *tabClient) refused(want *websocket.RequestError) {
	c.t.Helper()
	m := c.next()
	require.Equal(c.t, "error", m.Type, string(m.Data))
	var e struct{ Code, Message string }
	require.NoError(c.t, json.Unmarshal(m.Data, &e))
	require.Equal(c.t, "forbidden", e.Code)
	require.Equal(c.t, want.Message, e.Message)
}

// next returns the next message that is not about members.
func (c *tabClient) next() websocket.Message {
	c.t.Helper()
	for {
		if m := c.read(); !c.changesMembers(&m) {
			return m
		}
	}
}

// sees waits until a member is listed.
func (c *tabClient) sees(id string) person {
	c.t.Helper()
	for {
		if p, ok := c.members[id]; ok {
			return p
		}
		m := c.read()
		require.True(c.t, c.changesMembers(&m), m.Type)
	}
}

// sawLeave waits until a member is not listed any more.
func (c *tabClient) sawLeave(id string) {
	c.t.Helper()
	for _, ok := c.members[id]; ok; _, ok = c.members[id] {
		m := c.read()
		require.True(c.t, c.changesMembers(&m), m.Type)
	}
}

// changesMembers applies a message about members.
func (c *tabClient) changesMembers(m *websocket.Message) bool {
	c.t.Helper()
	type change struct {
		ID   string `json:"client_id"`
		Info person
	}
	var diff struct{ Leaves, Joins []change }
	switch m.Type {
	case "presence_diff":
		require.NoError(c.t, json.Unmarshal(m.Data, &diff))
	case "join":
		diff.Joins = []change{{ID: m.ClientID}}
		require.NoError(c.t, json.Unmarshal(m.Data, &diff.Joins[0]))
	case "leave":
		diff.Leaves = []change{{ID: m.ClientID}}
	default:
		return false
	}
	for _, left := range diff.Leaves {
		delete(c.members, left.ID)
	}
	for _, joined := range diff.Joins {
		c.members[joined.ID] = joined.Info
	}
	return true
}

func (c *tabClient) read() websocket.Message {
	c.t.Helper()
	_, b, err := c.conn.ReadMessage()
	require.NoError(c.t, err)
	if c.keys != nil {
		b, err = websocket.Decrypt(b, c.keys.AES)
		require.NoError(c.t, err)
		b, err = websocket.Verify(b, c.keys.HMAC)
		require.NoError(c.t, err)
	}
	var m websocket.Message
	require.NoError(c.t, c.codec.Unmarshal(b, &m))
	return m
}
