package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/examples/chat/web"
	"github.com/maoxiaoyue/hypgo-websocket/js"
)

// What a tab may do. Texts and names count in characters.
const (
	maxText        = 2000
	maxName        = 24
	maxRoomName    = 32
	maxRoomsPerTab = 8
)

const (
	statsChannel = "stats"
	askTimeout   = 2 * time.Second
)

var (
	errForbidden = errors.New("this chat does not allow that")
	errRoomName  = fmt.Errorf("a room's name has 1 to %d printable characters", maxRoomName)
	errNotInRoom = errors.New("join the room first")
	errText      = fmt.Errorf("a message has 1 to %d characters", maxText)
)

// node is the chat on one hub. It keeps nothing that another node would have to
// know: who somebody is stands in their client ID, and who is in a room is asked
// of all nodes.
type node struct {
	name   string
	hub    *websocket.Hub
	log    *slog.Logger
	secret []byte
	end    context.CancelFunc
	ended  chan error // run sends once
}

// person is what everybody in a room sees of a tab. All but the ID is in the ID.
type person struct {
	ID     string `json:"id,omitempty"`
	Name   string `json:"name"`
	Codec  string `json:"codec"`
	Sealed bool   `json:"sealed"`
}

// session is what a node knows of one connection. Only the connection's own
// callbacks use it, which run one after the other.
type session struct {
	person
	rooms   map[string]bool
	verdict error // on the text that is about to be published
}

func startNode(logger *slog.Logger, name, engine string, secret []byte, listener net.Listener) *node {
	n := &node{name: name, log: logger.With("node", name), secret: secret, ended: make(chan error, 1)}
	config := websocket.DefaultConfig
	config.Broker = nats.New(nats.Options{URL: engine, Prefix: "chat"})
	config.NodeName = name
	config.MaxMessageSize = 16 << 10
	config.MessageRate = 20
	config.ClientID = n.clientID
	config.Authorize = n.authorize
	n.hub = websocket.NewHub(websocket.SlogLogger(n.log), config)
	n.hub.SetCallbacks(n.connected, n.disconnected, n.received)
	ctx, end := context.WithCancel(context.Background())
	n.end = end
	go n.run(ctx, listener) // ends with stop
	go n.watch(ctx)         // ends with stop
	return n
}

func (n *node) run(ctx context.Context, listener net.Listener) {
	ran := make(chan error, 1)
	go func() { ran <- n.hub.Run(ctx) }() // ends with ctx
	err := n.hub.Serve(listener, n.handler())
	n.end() // where Serve ended by itself
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	n.ended <- errors.Join(err, <-ran)
}

func (n *node) stop() error {
	n.end()
	return <-n.ended
}

func (n *node) describe() string {
	health, stats := n.hub.Health(), n.hub.Stats()
	return fmt.Sprintf("%s: %d clients, broker %s, knows %q", n.name, stats.TotalClients, health.Broker, n.hub.Cluster().Nodes())
}

func (n *node) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", n.hub.Handler())
	mux.Handle("GET /hub.js", js.Handler())
	mux.Handle("POST /api/key", http.NewCrossOriginProtection().Handler(http.HandlerFunc(n.issueKey)))
	mux.HandleFunc("GET /health", n.health)
	mux.Handle("GET /", guarded(http.FileServerFS(web.Files)))
	return mux
}

// health is for a load balancer.
func (n *node) health(w http.ResponseWriter, _ *http.Request) {
	health := n.hub.Health()
	w.Header().Set("Content-Type", "application/json")
	if !health.OK() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(encode(health)) // who has gone does not need it
}

// guarded lets the page load nothing but its own files.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// clientID makes an ID that says who it is, whichever node is asked.
func (n *node) clientID(r *http.Request) (string, error) {
	p := person{Name: cleanName(r.URL.Query().Get("name")), Codec: "json"}
	for _, offer := range strings.Split(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
		if offer = strings.TrimSpace(offer); slices.Contains(websocket.DefaultConfig.Subprotocols, offer) {
			p.Codec = offer
			break
		}
	}
	if ticket, ok := websocket.BearerToken(r); ok {
		if _, err := n.open(ticket); err != nil {
			return "", err
		}
		p.Sealed = true
	}
	return rand.Text()[:12] + "." + base64.RawURLEncoding.EncodeToString(encode(p)), nil
}

// personOf reads an ID that clientID has made.
func personOf(id string) (p person) {
	_, said, _ := strings.Cut(id, ".")
	if b, err := base64.RawURLEncoding.DecodeString(said); err == nil {
		_ = json.Unmarshal(b, &p) // or nobody
	}
	p.ID = id
	return p
}

// connected runs before anything else can reach or leave the tab, so that keys
// set here hold for its very first frame.
func (n *node) connected(client *websocket.Client) {
	if ticket, ok := websocket.BearerToken(client.Request()); ok {
		keys, err := n.open(ticket)
		if err == nil {
			err = errors.Join(client.SetEncryptionKey(keys.AES), client.SetHMACKey(keys.HMAC))
		}
		if err != nil {
			n.report("close", client.Close(websocket.CloseUnauthorized, errTicket.Error()))
			return
		}
	}
	s := &session{person: personOf(client.ID), rooms: map[string]bool{}}
	client.SetMetadata("session", s)
	client.SetUser(s.Name)
	n.report("welcome", client.Send(&websocket.Message{Type: "welcome", Data: encode(struct {
		person
		MaxText     int `json:"max_text"`
		MaxRoomName int `json:"max_room_name"`
	}{s.person, maxText, maxRoomName})}))
}

func (n *node) disconnected(client *websocket.Client) {
	if s := sessionOf(client); s != nil {
		for room := range s.rooms {
			n.announce(room, presence{Left: &s.person})
		}
	}
}

// received sees every message before the hub acts on it, and before authorize is
// asked, which is not shown the text.
func (n *node) received(client *websocket.Client, m *websocket.Message) {
	if s := sessionOf(client); s != nil && m.Type == string(websocket.ActionPublishRoom) {
		s.verdict = checkText(m.Data)
	}
}

func (n *node) authorize(client *websocket.Client, action websocket.Action, target string) error {
	s := sessionOf(client)
	if s == nil {
		return errForbidden
	}
	switch action {
	case websocket.ActionJoinRoom:
		return n.enter(client, s, target)
	case websocket.ActionLeaveRoom:
		if err := client.LeaveRoom(target); err != nil {
			return err
		}
		if s.rooms[target] {
			delete(s.rooms, target)
			n.announce(target, presence{Left: &s.person})
		}
		return nil
	case websocket.ActionPublishRoom:
		verdict := s.verdict
		s.verdict = errText
		if verdict == nil && !s.rooms[target] {
			verdict = errNotInRoom
		}
		return verdict
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe:
		if target == statsChannel {
			return nil
		}
	}
	return errForbidden
}

// enter takes a tab into a room and tells the room.
func (n *node) enter(client *websocket.Client, s *session, room string) error {
	switch {
	case room == "" || room != cleaned(room, maxRoomName):
		return errRoomName
	case s.rooms[room]:
		return nil
	case len(s.rooms) >= maxRoomsPerTab:
		return websocket.ErrTooManySubscriptions
	}
	if err := client.JoinRoom(room); err != nil {
		return err
	}
	// What other nodes publish from here on arrives. Without the engine the room
	// is this node's for a while.
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if err := n.hub.BrokerReady(ctx); err != nil {
		n.log.Warn("a room begins on this node alone", "error", err)
	}
	s.rooms[room] = true
	n.announce(room, presence{Joined: &s.person})
	return nil
}

// presence tells a room who is in it, and who has just come or gone.
type presence struct {
	Version int64    `json:"version"`
	Members []person `json:"members"`
	Joined  *person  `json:"joined,omitempty"`
	Left    *person  `json:"left,omitempty"`
}

// announce asks all nodes who is in a room and tells everybody there. Of two
// lists the one that was asked for later counts, which knows of all changes
// before it; between machines their clocks decide.
func (n *node) announce(room string, change presence) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	change.Version = time.Now().UnixMicro()
	ids, err := n.hub.Cluster().RoomMembers(ctx, room)
	if err != nil {
		n.report("members of a room", err) // the list is incomplete until the next change
	}
	change.Members = make([]person, 0, len(ids))
	for _, id := range ids {
		change.Members = append(change.Members, personOf(id))
	}
	slices.SortFunc(change.Members, func(a, b person) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	n.report("announce", n.hub.PublishToRoom(room, &websocket.Message{Type: "presence", Data: encode(change)}))
}

// watch gives this node's own figures to its tabs once a second, and new lists
// to its rooms when nodes have come or gone.
func (n *node) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var known []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		stats := n.hub.Stats()
		if stats.Channels[statsChannel] > 0 {
			m := &websocket.Message{Channel: statsChannel, Data: encode(stats)}
			for client := range n.hub.Clients() { // to each, so that other nodes' tabs do not get it
				n.report("stats", client.Send(m))
			}
		}
		if now := n.hub.Cluster().Nodes(); !slices.Equal(now, known) {
			known = now
			for room := range stats.Rooms {
				n.announce(room, presence{})
			}
		}
	}
}

// checkText reads what a page publishes: {"text":"...","nonce":1}.
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

// report logs what cannot be told to anybody. That a tab or the hub has gone
// meanwhile is nothing to report.
func (n *node) report(what string, err error) {
	if err == nil || errors.Is(err, websocket.ErrClientClosed) || errors.Is(err, websocket.ErrHubClosed) {
		return
	}
	n.log.Error("chat: "+what, "error", err)
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
