package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// Limits. A tab is one connection of the page. Texts and names count in characters.
const (
	maxText        = 2000
	maxName        = 24
	maxRoomName    = 32
	maxRoomsPerTab = 8
	maxRoomMembers = 200
	maxRooms       = 200
	maxTabs        = 1000
	messageRate    = 20       // messages per second that a tab can send
	maxMessageSize = 64 << 10 // enough for the longest text, and for the list of a full room

	keptMessages = 200 // messages of a room that a tab which enters sees
	keptFor      = 24 * time.Hour
	keptBytes    = 64 << 20 // of all rooms
)

// Channels. Each room has a typing channel, whose name is the prefix and the room's name.
const (
	statsChannel = "stats"
	typingPrefix = "typing:"
)

// The refusals that a tab can receive in a reply.
var (
	errForbidden = refusal("this chat does not allow that")
	errRoomName  = refusal("a room's name has 1 to %d printable characters", maxRoomName)
	errRooms     = refusal("a tab can be in %d rooms", maxRoomsPerTab)
	errNoRoom    = refusal("there are too many rooms")
	errRoomFull  = refusal("the room is full")
	errNotInRoom = refusal("join the room first")
	errText      = refusal("a message has 1 to %d characters", maxText)
)

// errTicket refuses a handshake.
var errTicket = errors.New("unknown or used ticket")

// refusal returns an error whose text the hub sends to the tab.
func refusal(format string, args ...any) *websocket.RequestError {
	return &websocket.RequestError{Message: fmt.Sprintf(format, args...)}
}

// chat is the application. The hub delivers the messages, keeps the latest ones of each
// room, and tells the members of a room about one another.
type chat struct {
	hub  *websocket.Hub
	log  *slog.Logger
	keys keyring

	mu    sync.Mutex                   // guards names
	names map[string]*websocket.Client // by name in lower case
}

// person is the public description of a tab. The members of its rooms see it in the
// list of members and in its messages.
type person struct {
	Name   string `json:"name"`
	Codec  string `json:"codec"`
	Sealed bool   `json:"sealed"`
}

func newChat(logger *slog.Logger) *chat {
	if logger == nil {
		logger = slog.Default()
	}
	c := &chat{log: logger, names: map[string]*websocket.Client{}}
	config := websocket.DefaultConfig
	config.MaxClients = maxTabs
	config.MaxMessageSize = maxMessageSize
	config.MessageRate = messageRate
	config.HistoryBudget = keptBytes
	config.TopicOptions = topicOptions
	config.ClientID = c.clientID
	config.DuplicateID = websocket.ReplaceDuplicate
	config.Authorize = c.authorize
	config.OnConnect = c.connected
	config.OnDisconnect = c.disconnected
	config.OnMessage = c.received
	config.OnJoin = c.joined
	config.OnLeave = c.left
	c.hub = websocket.NewHub(websocket.SlogLogger(logger), config)
	c.hub.Handle("command", c.command)
	return c
}

// topicOptions keeps the messages of rooms and shows their members. The messages of
// channels are soon out of date.
func topicOptions(kind websocket.TopicKind, _ string) websocket.TopicOptions {
	if kind != websocket.RoomTopic {
		return websocket.TopicOptions{}
	}
	return websocket.TopicOptions{
		History:  websocket.HistoryOptions{Messages: keptMessages, Age: keptFor},
		Presence: true,
	}
}

// connected is OnConnect. No message is sent to or received from the tab before it
// returns, so that the keys set here apply from the first frame.
func (c *chat) connected(client *websocket.Client) {
	r := client.Request()
	p := &person{Codec: client.Codec().Name()}
	if ticket, sealed := websocket.BearerToken(r); sealed {
		keys, ok := c.keys.take(ticket)
		if !ok {
			c.report("close", client.Close(websocket.CloseUnauthorized, errTicket.Error()))
			return
		}
		// The hub closes the client if a key is invalid.
		if err := errors.Join(client.SetEncryptionKey(keys.AES), client.SetHMACKey(keys.HMAC)); err != nil {
			c.report("set keys", err)
			return
		}
		p.Sealed = true
	}
	p.Name = c.claimName(cleanName(r.URL.Query().Get("name")), client)
	client.SetMetadata("person", p)
	c.report("set info", client.SetInfo(p))
	c.report("welcome", client.Send(&websocket.Message{Type: "welcome", Data: encode(struct {
		*person
		MaxText int `json:"max_text"`
	}{p, maxText})}))
}

// disconnected is OnDisconnect.
func (c *chat) disconnected(client *websocket.Client) {
	if p := personOf(client); p != nil {
		c.freeName(p.Name, client)
	}
}

// received is OnMessage. It runs before authorize, which refuses a message for a room
// without data.
func (c *chat) received(client *websocket.Client, m *websocket.Message) {
	if websocket.Action(m.Type) == websocket.ActionPublishRoom {
		m.Data = personOf(client).stamp(m.Data)
	}
}

// authorize decides whether the request of a tab is allowed. The hub then carries it
// out.
func (c *chat) authorize(client *websocket.Client, r websocket.AuthorizeRequest) error {
	if personOf(client) == nil {
		return errForbidden
	}
	switch r.Action {
	case websocket.ActionJoinRoom:
		return c.mayJoin(client, r.Target)
	case websocket.ActionLeaveRoom:
		return nil
	case websocket.ActionPublishRoom:
		if len(r.Message.Data) == 0 {
			return errText
		}
		if websocket.AllowMembers(client, r) != nil {
			return errNotInRoom
		}
		return nil
	case websocket.ActionPublish:
		isTyping := strings.HasPrefix(r.Target, typingPrefix) && len(r.Message.Data) == 0
		if isTyping && websocket.AllowMembers(client, r) == nil {
			return nil
		}
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe:
		if r.Target == statsChannel {
			return nil
		}
	}
	return errForbidden
}

// mayJoin decides whether a tab may join a room. Tabs that join at the same time can
// exceed the limits of rooms by a few.
func (c *chat) mayJoin(client *websocket.Client, name string) error {
	in := client.Rooms()
	switch {
	case !validRoomName(name):
		return errRoomName
	case slices.Contains(in, name):
		return nil
	case len(in) >= maxRoomsPerTab:
		return errRooms
	}
	return checkSpace(maps.Collect(c.hub.Rooms()), name)
}

// checkSpace returns an error if a room has no space for one more tab. rooms has the
// number of members of each room that is not empty.
func checkSpace(rooms map[string]int, name string) error {
	switch members := rooms[name]; {
	case members == 0 && len(rooms) >= maxRooms:
		return errNoRoom
	case members >= maxRoomMembers:
		return errRoomFull
	}
	return nil
}

// joined is OnJoin. It gives the tab the typing channel of the room.
func (c *chat) joined(client *websocket.Client, t websocket.Topic) {
	if t.Kind == websocket.RoomTopic {
		c.report("subscribe", client.Subscribe(typingPrefix+t.Name))
	}
}

// left is OnLeave.
func (c *chat) left(client *websocket.Client, t websocket.Topic) {
	if t.Kind == websocket.RoomTopic {
		c.report("unsubscribe", client.Unsubscribe(typingPrefix+t.Name))
	}
}

// said is the data of a message as pages publish it: {"text":"...","nonce":1}. The nonce
// lets the page recognize its own message.
type said struct {
	Text  string `json:"text"`
	Nonce int64  `json:"nonce"`
}

// stamp returns the data of a message as the members of the room get it, with the person
// who says it, because that person may have left when a later member reads it. The
// result is nil if data is not as pages publish it.
func (p *person) stamp(data []byte) []byte {
	var message said
	if p == nil || decode(data, &message) != nil || !validText(message.Text) {
		return nil
	}
	return encode(struct {
		said
		*person
	}{message, p})
}

func validText(text string) bool {
	return strings.TrimSpace(text) != "" && utf8.RuneCountInString(text) <= maxText
}

// decode reads one JSON value without unknown fields.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one value")
	}
	return nil
}

func validRoomName(name string) bool {
	return name == cleaned(name, maxRoomName) && name != ""
}

// cleanName returns a valid name for a requested name.
func cleanName(name string) string {
	if name = cleaned(name, maxName); name != "" {
		return name
	}
	return "Guest"
}

// cleaned returns the printable characters of s, at most most of them, with single
// spaces between words.
func cleaned(s string, most int) string {
	printable := func(r rune) rune {
		if unicode.IsPrint(r) || unicode.IsSpace(r) {
			return r
		}
		return -1
	}
	s = strings.Join(strings.Fields(strings.Map(printable, strings.ToValidUTF8(s, ""))), " ")
	if runes := []rune(s); len(runes) > most {
		s = strings.TrimSpace(string(runes[:most]))
	}
	return s
}

// claimName reserves a name. It adds a number to a name that another tab has. A tab that
// connects again gets its name, although its earlier connection may not have ended yet.
func (c *chat) claimName(name string, client *websocket.Client) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n, claimed := 2, name; ; n++ {
		holder := c.names[strings.ToLower(claimed)]
		if holder == nil || holder.ID == client.ID {
			c.names[strings.ToLower(claimed)] = client
			return claimed
		}
		claimed = fmt.Sprintf("%s %d", name, n)
	}
}

// freeName makes a name available again.
func (c *chat) freeName(name string, client *websocket.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if name = strings.ToLower(name); c.names[name] == client {
		delete(c.names, name)
	}
}

// statistics is the data of the messages in the stats channel.
type statistics struct {
	websocket.Stats
	Rooms map[string]int `json:"rooms"` // the number of members of each room
}

// reportStats publishes the hub's statistics once a second.
func (c *chat) reportStats(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		data := encode(statistics{c.hub.Stats(), maps.Collect(c.hub.Rooms())})
		c.report("publish stats", c.hub.PublishToChannelRaw(statsChannel, data))
	}
}

// report logs the error of an operation. It ignores the errors of a client or a
// hub that is closed: tabs may disconnect at any time.
func (c *chat) report(operation string, err error) {
	if err == nil || errors.Is(err, websocket.ErrClientClosed) || errors.Is(err, websocket.ErrHubClosed) {
		return
	}
	c.log.Error("chat: "+operation, "error", err)
}

// personOf returns nil for a tab that connected did not accept.
func personOf(client *websocket.Client) *person {
	v, _ := client.GetMetadata("person")
	p, _ := v.(*person)
	return p
}

// encode returns v in JSON. The types of this program never fail to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
