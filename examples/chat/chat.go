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
	burst          = 20 // messages that a tab may send at once
	perSecond      = 5  // messages per second that a tab may send after a burst
)

const statsChannel = "stats"

// The refusals that a tab can receive in a reply.
var (
	errForbidden = refusal("this chat does not allow that")
	errRoomName  = refusal("a room's name has 1 to %d printable characters", maxRoomName)
	errRooms     = refusal("a tab can be in %d rooms", maxRoomsPerTab)
	errNoRoom    = refusal("there are too many rooms")
	errRoomFull  = refusal("the room is full")
	errNotInRoom = refusal("join the room first")
	errText      = refusal("a message has 1 to %d characters", maxText)
	errTooFast   = refusal("too many messages per second")
)

// errTicket refuses a handshake.
var errTicket = errors.New("unknown or used ticket")

// refusal returns an error whose text the hub sends to the tab.
func refusal(format string, args ...any) *websocket.RequestError {
	return &websocket.RequestError{Message: fmt.Sprintf(format, args...)}
}

// chat is the application. It keeps the member list of each room; the hub delivers
// all messages.
type chat struct {
	hub  *websocket.Hub
	log  *slog.Logger
	keys keyring

	mu    sync.Mutex      // guards names and rooms
	names map[string]bool // the names of all tabs, in lower case
	rooms map[string]*room
}

// room is a room's member list. It exists while the room has members.
type room struct {
	version int // number of changes; a page ignores a list with a lower version
	members map[string]person
}

// person is the public description of a tab. All members of its rooms see it.
type person struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Codec  string `json:"codec"`
	Sealed bool   `json:"sealed"`
}

// session is the chat's state of one connection. The person does not change. Only
// authorize uses the other fields.
type session struct {
	person
	allowance float64 // messages that the tab may send now
	refilled  time.Time
}

func newChat(logger *slog.Logger) *chat {
	if logger == nil {
		logger = slog.Default()
	}
	c := &chat{log: logger, names: map[string]bool{}, rooms: map[string]*room{}}
	config := websocket.DefaultConfig
	config.MaxMessageSize = 16 << 10
	config.MaxClients = maxTabs
	config.ClientID = c.clientID
	config.Authorize = c.authorize
	config.OnConnect = c.connected
	config.OnDisconnect = c.disconnected
	config.OnJoin = c.joined
	config.OnLeave = c.left
	c.hub = websocket.NewHub(websocket.SlogLogger(logger), config)
	return c
}

// connected is OnConnect. No message is sent to or received from the tab before it
// returns, so that the keys set here apply from the first frame.
func (c *chat) connected(client *websocket.Client) {
	r := client.Request()
	s := &session{allowance: burst, refilled: time.Now()}
	s.ID, s.Codec = client.ID, client.Codec().Name()
	if _, sealed := websocket.BearerToken(r); sealed {
		keys, ok := c.keys.take(client.ID)
		if !ok {
			c.report("close", client.Close(websocket.CloseUnauthorized, errTicket.Error()))
			return
		}
		// The hub closes the client if a key is invalid.
		if err := errors.Join(client.SetEncryptionKey(keys.AES), client.SetHMACKey(keys.HMAC)); err != nil {
			c.report("set keys", err)
			return
		}
		s.Sealed = true
	}
	s.Name = c.claimName(cleanName(r.URL.Query().Get("name")))
	client.SetMetadata("session", s)
	c.report("welcome", client.Send(&websocket.Message{Type: "welcome", Data: encode(struct {
		person
		MaxText     int `json:"max_text"`
		MaxRoomName int `json:"max_room_name"`
	}{s.person, maxText, maxRoomName})}))
}

// disconnected is OnDisconnect. The tab has left its rooms already.
func (c *chat) disconnected(client *websocket.Client) {
	if s := sessionOf(client); s != nil {
		c.freeName(s.Name)
	}
}

// authorize decides whether the request of a tab is allowed. The hub then carries it
// out.
func (c *chat) authorize(client *websocket.Client, r websocket.AuthorizeRequest) error {
	s := sessionOf(client)
	if s == nil {
		return errForbidden
	}
	switch r.Action {
	case websocket.ActionJoinRoom:
		return c.mayJoin(client, r.Target)
	case websocket.ActionLeaveRoom:
		return nil
	case websocket.ActionPublishRoom:
		return s.mayPublish(client, r)
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe:
		if r.Target == statsChannel {
			return nil
		}
	}
	return errForbidden
}

// mayJoin decides whether a tab may join a room.
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
	return c.checkSpace(name)
}

// checkSpace returns an error if a room has no space for one more tab. Tabs that join
// at the same time can exceed the limits by a few.
func (c *chat) checkSpace(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	switch {
	case r == nil && len(c.rooms) >= maxRooms:
		return errNoRoom
	case r != nil && len(r.members) >= maxRoomMembers:
		return errRoomFull
	}
	return nil
}

// joined is OnJoin. It publishes the new member list to the room. The tab is a member
// in the hub already, so a listed tab receives every later list.
func (c *chat) joined(client *websocket.Client, t websocket.Topic) {
	s := sessionOf(client)
	if t.Kind != websocket.RoomTopic || s == nil {
		return
	}
	list := c.addMember(s.person, t.Name)
	list.Joined = &s.person
	c.announce(t.Name, list)
}

// left is OnLeave. It publishes the new member list to the room.
func (c *chat) left(client *websocket.Client, t websocket.Topic) {
	s := sessionOf(client)
	if t.Kind != websocket.RoomTopic || s == nil {
		return
	}
	list := c.removeMember(s.person, t.Name)
	list.Left = &s.person
	c.announce(t.Name, list)
}

// addMember adds a person to a room's list and returns the new list.
func (c *chat) addMember(p person, name string) presence {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	if r == nil {
		r = &room{members: map[string]person{}}
		c.rooms[name] = r
	}
	r.members[p.ID] = p
	return r.next()
}

// removeMember removes a person from a room's list and returns the new list.
func (c *chat) removeMember(p person, name string) presence {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	delete(r.members, p.ID)
	if len(r.members) == 0 {
		delete(c.rooms, name)
	}
	return r.next()
}

// presence is the data of the message with a room's members, and with the person that
// joined or left.
type presence struct {
	Version int      `json:"version"`
	Members []person `json:"members"`
	Joined  *person  `json:"joined,omitempty"`
	Left    *person  `json:"left,omitempty"`
}

// next returns the list after a change. The caller holds chat.mu.
func (r *room) next() presence {
	r.version++
	members := slices.SortedFunc(maps.Values(r.members), func(a, b person) int { return strings.Compare(a.Name, b.Name) })
	return presence{Version: r.version, Members: members}
}

// announce publishes a member list to its room.
func (c *chat) announce(room string, list presence) {
	c.report("announce", c.hub.PublishToRoom(room, &websocket.Message{Type: "presence", Data: encode(list)}))
}

// mayPublish decides whether a tab may publish a message to a room.
func (s *session) mayPublish(client *websocket.Client, r websocket.AuthorizeRequest) error {
	now := time.Now()
	s.allowance = min(burst, s.allowance+perSecond*now.Sub(s.refilled).Seconds())
	s.refilled = now
	if err := checkText(r.Message.Data); err != nil {
		return err
	}
	if websocket.AllowMembers(client, r) != nil {
		return errNotInRoom
	}
	if s.allowance < 1 {
		return errTooFast
	}
	s.allowance--
	return nil
}

// checkText returns an error unless data is a text as pages publish it:
// {"text":"...","nonce":1}. The nonce lets the page recognize its own message.
func checkText(data []byte) error {
	var message struct {
		Text  string `json:"text"`
		Nonce int64  `json:"nonce"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&message); err != nil {
		return errText
	}
	if _, err := d.Token(); err != io.EOF {
		return errText
	}
	if strings.TrimSpace(message.Text) == "" || utf8.RuneCountInString(message.Text) > maxText {
		return errText
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

// claimName reserves a name. It adds a number to a name that another tab has.
func (c *chat) claimName(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	claimed := name
	for n := 2; c.names[strings.ToLower(claimed)]; n++ {
		claimed = fmt.Sprintf("%s %d", name, n)
	}
	c.names[strings.ToLower(claimed)] = true
	return claimed
}

// freeName makes a name available again.
func (c *chat) freeName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.names, strings.ToLower(name))
}

// statistics is the data of the messages in the stats channel.
type statistics struct {
	websocket.Stats
	Rooms map[string]int `json:"rooms"` // the number of members of each room
}

// reportStats publishes the hub's statistics once a second while the stats channel
// has subscribers.
func (c *chat) reportStats(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stats := c.hub.Stats()
		if stats.TotalChannels == 0 { // authorize allows no other channel
			continue
		}
		data := encode(statistics{stats, maps.Collect(c.hub.Rooms())})
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

func sessionOf(client *websocket.Client) *session {
	v, _ := client.GetMetadata("session")
	s, _ := v.(*session)
	return s
}

// encode returns v in JSON. The types of this program never fail to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
