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

// The errors that a tab can receive in a reply.
var (
	errForbidden = errors.New("this chat does not allow that")
	errRoomName  = fmt.Errorf("a room's name has 1 to %d printable characters", maxRoomName)
	errRooms     = fmt.Errorf("a tab can be in %d rooms", maxRoomsPerTab)
	errNoRoom    = errors.New("there are too many rooms")
	errRoomFull  = errors.New("the room is full")
	errNotInRoom = errors.New("join the room first")
	errText      = fmt.Errorf("a message has 1 to %d characters", maxText)
	errTooFast   = errors.New("too many messages per second")
	errTicket    = errors.New("unknown or used ticket")
)

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

// session is the chat's state of one connection. Only the connection's callbacks use
// it, and they run one after the other.
type session struct {
	person
	rooms     map[string]bool
	textErr   error   // why the text of the current publish_room message is not allowed, or nil
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
	c.hub = websocket.NewHub(websocket.SlogLogger(logger), config)
	c.hub.SetCallbacks(c.connected, c.disconnected, c.received)
	return c
}

// connected is onConnect. No message is sent to or received from the tab before it
// returns, so that the keys set here apply from the first frame.
func (c *chat) connected(client *websocket.Client) {
	r := client.Request()
	s := &session{rooms: map[string]bool{}, allowance: burst, refilled: time.Now()}
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

// disconnected is onDisconnect.
func (c *chat) disconnected(client *websocket.Client) {
	s := sessionOf(client)
	if s == nil {
		return
	}
	for name := range s.rooms {
		c.leave(s, name)
	}
	c.freeName(s.Name)
}

// received is onMessage. The hub calls it before authorize, which does not get the
// text.
func (c *chat) received(client *websocket.Client, m *websocket.Message) {
	if s := sessionOf(client); s != nil && m.Type == string(websocket.ActionPublishRoom) {
		s.textErr = checkText(m.Data)
	}
}

// authorize decides whether the request of a tab is allowed. It joins and leaves rooms
// itself, so that the new member list is published right after the change. The hub
// then finds the membership as requested and only sends the ack.
func (c *chat) authorize(client *websocket.Client, action websocket.Action, target string) error {
	s := sessionOf(client)
	if s == nil {
		return errForbidden
	}
	switch action {
	case websocket.ActionJoinRoom:
		return c.enter(client, s, target)
	case websocket.ActionLeaveRoom:
		if err := client.LeaveRoom(target); err != nil {
			return err
		}
		c.leave(s, target)
		return nil
	case websocket.ActionPublishRoom:
		return s.mayPublish(target)
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe:
		if target == statsChannel {
			return nil
		}
	}
	return errForbidden
}

// enter adds a tab to a room and publishes the new member list to the room.
func (c *chat) enter(client *websocket.Client, s *session, name string) error {
	switch {
	case !validRoomName(name):
		return errRoomName
	case s.rooms[name]:
		return nil
	case len(s.rooms) >= maxRoomsPerTab:
		return errRooms
	}
	// The tab joins the room in the hub before it is added to the list, so that a
	// listed tab receives every later list.
	if err := client.JoinRoom(name); err != nil {
		return err
	}
	list, err := c.addMember(s, name)
	if err != nil {
		c.report("leave", client.LeaveRoom(name))
		return err
	}
	s.rooms[name] = true
	list.Joined = &s.person
	c.announce(name, list)
	return nil
}

// addMember adds a tab to a room's list and returns the new list.
func (c *chat) addMember(s *session, name string) (presence, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rooms[name]
	switch {
	case r == nil && len(c.rooms) >= maxRooms:
		return presence{}, errNoRoom
	case r == nil:
		r = &room{members: map[string]person{}}
		c.rooms[name] = r
	case len(r.members) >= maxRoomMembers:
		return presence{}, errRoomFull
	}
	r.members[s.ID] = s.person
	return r.next(), nil
}

// leave removes a tab from a room's list and publishes the new list to the room. The
// tab must have left the room in the hub already.
func (c *chat) leave(s *session, name string) {
	if !s.rooms[name] {
		return
	}
	delete(s.rooms, name)
	c.mu.Lock()
	r := c.rooms[name]
	delete(r.members, s.ID)
	list := r.next()
	if len(r.members) == 0 {
		delete(c.rooms, name)
	}
	c.mu.Unlock()
	list.Left = &s.person
	c.announce(name, list)
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

// mayPublish decides whether the current message, whose text received has checked,
// may be published to a room.
func (s *session) mayPublish(room string) error {
	textErr := s.textErr
	s.textErr = errText
	now := time.Now()
	s.allowance = min(burst, s.allowance+perSecond*now.Sub(s.refilled).Seconds())
	s.refilled = now
	switch {
	case textErr != nil:
		return textErr
	case !s.rooms[room]:
		return errNotInRoom
	case s.allowance < 1:
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
		if stats := c.hub.Stats(); stats.Channels[statsChannel] > 0 {
			c.report("publish stats", c.hub.PublishToChannelRaw(statsChannel, encode(stats)))
		}
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
