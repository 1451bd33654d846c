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

// What a tab may do. Texts and names count in characters.
const (
	maxText        = 2000
	maxName        = 24
	maxRoomName    = 32
	maxRoomsPerTab = 8
	maxRoomMembers = 200
	maxRooms       = 200
	maxTabs        = 1000
	burst          = 20 // messages at once, and
	perSecond      = 5  // as many more each second
)

const statsChannel = "stats"

// Errors that a tab is answered with.
var (
	errForbidden = errors.New("this chat does not allow that")
	errRoomName  = fmt.Errorf("a room's name has 1 to %d printable characters", maxRoomName)
	errRooms     = fmt.Errorf("a tab can be in %d rooms", maxRoomsPerTab)
	errNoRoom    = errors.New("there are too many rooms already")
	errRoomFull  = errors.New("the room is full")
	errNotInRoom = errors.New("join the room first")
	errText      = fmt.Errorf("a message has 1 to %d characters", maxText)
	errTooFast   = errors.New("not so fast")
	errTicket    = errors.New("unknown or used ticket")
)

// chat is the application: who is in which room. All delivery is the hub's.
type chat struct {
	hub  *websocket.Hub
	log  *slog.Logger
	keys keyring

	mu    sync.Mutex      // guards what follows
	names map[string]bool // in lower case
	rooms map[string]*room
}

// room is a room's member list. It exists while somebody is in it.
type room struct {
	version int // counts the changes, so that pages can tell which list is newer
	members map[string]person
}

// person is what everybody in a room sees of a tab.
type person struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Codec  string `json:"codec"`
	Sealed bool   `json:"sealed"`
}

// session is what the chat knows of one connection. Only the connection's own
// callbacks use it, which run one after the other.
type session struct {
	person
	rooms     map[string]bool
	verdict   error // on the text that is about to be published
	allowance float64
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

// connected runs before anything else can reach or leave the tab, so that keys
// set here hold for its very first frame.
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
		// A key that is refused closes the client.
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

// received sees every message before the hub acts on it, and before authorize is
// asked, which is not shown the text.
func (c *chat) received(client *websocket.Client, m *websocket.Message) {
	if s := sessionOf(client); s != nil && m.Type == string(websocket.ActionPublishRoom) {
		s.verdict = checkText(m.Data)
	}
}

// authorize decides on what a tab asks of the hub. It joins and leaves rooms
// itself, so that the announcement has its place right behind the change; the
// hub then finds nothing left to do but to acknowledge.
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

// enter takes a tab into a room and tells the room.
func (c *chat) enter(client *websocket.Client, s *session, name string) error {
	switch {
	case !validRoomName(name):
		return errRoomName
	case s.rooms[name]:
		return nil
	case len(s.rooms) >= maxRoomsPerTab:
		return errRooms
	}
	// The hub first, the list second: whoever is on a list then also gets every
	// list that comes after it.
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

// leave takes a tab, which has left the room in the hub, off the list and tells
// those who stay.
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

// presence tells a room who is in it, and who has just come or gone.
type presence struct {
	Version int      `json:"version"`
	Members []person `json:"members"`
	Joined  *person  `json:"joined,omitempty"`
	Left    *person  `json:"left,omitempty"`
}

// next is the list after a change. The chat is locked.
func (r *room) next() presence {
	r.version++
	members := slices.SortedFunc(maps.Values(r.members), func(a, b person) int { return strings.Compare(a.Name, b.Name) })
	return presence{Version: r.version, Members: members}
}

func (c *chat) announce(room string, list presence) {
	c.report("announce", c.hub.PublishToRoom(room, &websocket.Message{Type: "presence", Data: encode(list)}))
}

// mayPublish decides on the text that received has just looked at.
func (s *session) mayPublish(room string) error {
	verdict := s.verdict
	s.verdict = errText
	now := time.Now()
	s.allowance = min(burst, s.allowance+perSecond*now.Sub(s.refilled).Seconds())
	s.refilled = now
	switch {
	case verdict != nil:
		return verdict
	case !s.rooms[room]:
		return errNotInRoom
	case s.allowance < 1:
		return errTooFast
	}
	s.allowance--
	return nil
}

// checkText reads what a page publishes: {"text":"...","nonce":1}, where the
// nonce lets the page recognise its own message.
func checkText(data []byte) error {
	var said struct {
		Text  string `json:"text"`
		Nonce int64  `json:"nonce"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&said); err != nil {
		return errText
	}
	if _, err := d.Token(); err != io.EOF {
		return errText
	}
	if strings.TrimSpace(said.Text) == "" || utf8.RuneCountInString(said.Text) > maxText {
		return errText
	}
	return nil
}

func validRoomName(name string) bool {
	return name == cleaned(name, maxRoomName) && name != ""
}

// cleanName makes a name out of whatever was asked for.
func cleanName(name string) string {
	if name = cleaned(name, maxName); name != "" {
		return name
	}
	return "Guest"
}

// cleaned keeps up to most printable characters of s, with single spaces.
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

// claimName numbers a name that is taken, so that nobody passes for another.
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

func (c *chat) freeName(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.names, strings.ToLower(name))
}

// reportStats publishes the hub's figures once a second while somebody looks.
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

// report logs what cannot be told to anybody. That a tab or the hub has gone
// meanwhile is nothing to report.
func (c *chat) report(what string, err error) {
	if err == nil || errors.Is(err, websocket.ErrClientClosed) || errors.Is(err, websocket.ErrHubClosed) {
		return
	}
	c.log.Error("chat: "+what, "error", err)
}

func sessionOf(client *websocket.Client) *session {
	v, _ := client.GetMetadata("session")
	s, _ := v.(*session)
	return s
}

// encode is for values of this program's own types, which never fail to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
