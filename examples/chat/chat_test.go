package main

import (
	"context"
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
			require.NotContains(t, string(body), "//", "the page refers to another server")
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
		joined := tab.join("lobby")
		require.Equal(t, tab.me.ID, joined.Joined.ID)
		require.Len(t, joined.Members, i+1)
		for _, earlier := range tabs {
			require.Equal(t, tab.me, *earlier.presence().Joined)
		}
		tabs = append(tabs, tab)
	}

	tabs[1].publish("lobby", `{"text":"<b>hello</b>","nonce":7}`, "2")
	for _, tab := range tabs {
		message := tab.next()
		require.Equal(t, "room_message", message.Type)
		require.Equal(t, "lobby", message.Channel)
		require.Equal(t, tabs[1].me.ID, message.ClientID)
		require.JSONEq(t, `{"text":"<b>hello</b>","nonce":7}`, string(message.Data))
	}
	require.Equal(t, "ack", tabs[1].next().Type)

	tabs[0].ask("leave_room", "lobby", "3")
	require.Equal(t, "ack", tabs[0].next().Type)
	require.NoError(t, tabs[3].conn.Close())
	for _, tab := range tabs[1:3] {
		gone := []string{tab.presence().Left.Name, tab.presence().Left.Name}
		require.ElementsMatch(t, []string{"Ann", "Ann 4"}, gone)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	base := start(t)
	tab := dial(t, base, websocket.JSONCodec{}, "  Bob\n\x00 Ross ", false)
	require.Equal(t, "Bob Ross", tab.me.Name)
	refused := func(want *websocket.RequestError) {
		t.Helper()
		m := tab.next()
		require.Equal(t, "error", m.Type)
		var e struct{ Code, Message string }
		require.NoError(t, json.Unmarshal(m.Data, &e))
		require.Equal(t, "forbidden", e.Code)
		require.Equal(t, want.Message, e.Message)
	}

	tab.publish("lobby", `{"text":"hello","nonce":1}`, "")
	refused(errNotInRoom)
	for _, name := range []string{" lobby", "lob  by", "\u202elobby", strings.Repeat("x", maxRoomName+1)} {
		tab.ask("join_room", name, "")
		refused(errRoomName)
	}
	tab.ask("subscribe", "secrets", "")
	refused(errForbidden)
	tab.send(&websocket.Message{Type: "broadcast", Data: []byte(`"hello"`)})
	refused(errForbidden)

	tab.join("lobby")
	for _, data := range []string{
		`{"text":"   "}`, `{"text":1}`, `"hello"`, `{"text":"a","html":"b"}`,
		`{"text":"` + strings.Repeat("x", maxText+1) + `"}`,
	} {
		tab.publish("lobby", data, "")
		refused(errText)
	}
	for i := range maxRoomsPerTab - 1 {
		tab.join("room " + string(rune('a'+i)))
	}
	tab.ask("join_room", "one too many", "")
	refused(errRooms)
}

func TestRoomsAndMembersAreBounded(t *testing.T) {
	t.Parallel()
	c := newChat(slog.New(slog.DiscardHandler))
	add := func(i int, room string) presence {
		t.Helper()
		require.NoError(t, c.checkSpace(room))
		return c.addMember(person{ID: strconv.Itoa(i)}, room)
	}
	for i := range maxRoomMembers {
		add(i, "lobby")
	}
	require.ErrorIs(t, c.checkSpace("lobby"), errRoomFull)
	for i := range maxRooms - 1 {
		add(i, "room "+strconv.Itoa(i))
	}
	require.ErrorIs(t, c.checkSpace("one too many"), errNoRoom)
	require.Len(t, add(maxRoomMembers, "room 0").Members, 2)

	require.Len(t, c.removeMember(person{ID: "0"}, "lobby").Members, maxRoomMembers-1)
	require.NoError(t, c.checkSpace("lobby"))
	require.Empty(t, c.removeMember(person{ID: "1"}, "room 1").Members)
	require.NoError(t, c.checkSpace("one too many"))
}

func TestFloodIsRefused(t *testing.T) {
	t.Parallel()
	tab := dial(t, start(t), websocket.JSONCodec{}, "Ann", false)
	tab.join("lobby")
	for range 2 * burst {
		tab.publish("lobby", `{"text":"x"}`, "")
	}
	for range 2 * burst {
		if tab.next().Type == "error" {
			return
		}
	}
	t.Fatal("the flood was not limited")
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
		require.False(t, k.redeem(ticket, "id"))
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
	t     *testing.T
	conn  *gorilla.Conn
	codec websocket.Codec
	keys  *sealKeys
	me    person
}

func dial(t *testing.T, base string, codec websocket.Codec, name string, sealed bool) *tabClient {
	t.Helper()
	c := &tabClient{t: t, codec: codec}
	protocols := []string{codec.Name()}
	if sealed {
		ticket, keys := fetchKeys(t, base)
		c.keys = &keys
		protocols = append(protocols, "bearer."+base64.RawURLEncoding.EncodeToString([]byte(ticket)))
	}
	dialer := websocket.Dialer{Subprotocols: protocols}
	conn, _, err := dialer.Dial("ws://"+base+"/ws?name="+url.QueryEscape(name), nil)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
	c.conn = conn
	welcome := c.next()
	require.Equal(t, "welcome", welcome.Type)
	require.NoError(t, json.Unmarshal(welcome.Data, &c.me))
	require.Equal(t, sealed, c.me.Sealed)
	require.Equal(t, codec.Name(), c.me.Codec)
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

// join joins a room and returns the list that announces the tab.
func (c *tabClient) join(room string) presence {
	c.t.Helper()
	c.ask("join_room", room, "1")
	require.Equal(c.t, "ack", c.next().Type)
	return c.presence()
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

func (c *tabClient) next() websocket.Message {
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

func (c *tabClient) presence() presence {
	c.t.Helper()
	m := c.next()
	require.Equal(c.t, "presence", m.Type)
	var p presence
	require.NoError(c.t, json.Unmarshal(m.Data, &p))
	return p
}
