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
	"maps"
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

// Limits. A tab is one connection of the page. Texts and names count in characters.
const (
	maxText        = 2000
	maxName        = 24
	maxRoomName    = 32
	maxRoomsPerTab = 8
)

// Channels. Each room has a typing channel, whose name is the prefix and the room's name.
const (
	statsChannel = "stats"
	typingPrefix = "typing:"
)

const askTimeout = 2 * time.Second

// The refusals that a tab can receive in a reply.
var (
	errForbidden = refusal("this chat does not allow that")
	errRoomName  = refusal("a room's name has 1 to %d printable characters", maxRoomName)
	errRooms     = refusal("a tab can be in %d rooms", maxRoomsPerTab)
	errNotInRoom = refusal("join the room first")
	errText      = refusal("a message has 1 to %d characters", maxText)
	errCommands  = refusal("there is no such command, /help lists them")
)

// refusal returns an error whose text the hub sends to the tab.
func refusal(format string, args ...any) *websocket.RequestError {
	return &websocket.RequestError{Message: fmt.Sprintf(format, args...)}
}

// node is the chat on one hub. Nodes share no state: a client ID contains the
// description of its person, and a node asks all others for the members of a room.
type node struct {
	name   string
	hub    *websocket.Hub
	log    *slog.Logger
	secret []byte
	end    context.CancelFunc
	ended  chan error // run sends once
}

// person is the public description of a tab. All members of its rooms see it. The
// client ID contains all other fields.
type person struct {
	ID     string `json:"id,omitempty"`
	Name   string `json:"name"`
	Codec  string `json:"codec"`
	Sealed bool   `json:"sealed"`
}

func startNode(logger *slog.Logger, name, engine string, secret []byte, listener net.Listener) *node {
	n := &node{name: name, log: logger.With("node", name), secret: secret, ended: make(chan error, 1)}
	config := websocket.DefaultConfig
	config.Broker = nats.New(nats.Options{URL: engine, Prefix: "chat"})
	config.NodeName = name
	config.MaxMessageSize = 16 << 10
	config.MessageRate = 20
	config.ClientID = n.clientID
	config.Authorize = authorize
	config.OnConnect = n.connected
	config.OnJoin = n.joined
	config.OnLeave = n.left
	n.hub = websocket.NewHub(websocket.SlogLogger(n.log), config)
	n.hub.Handle("command", command)
	ctx, end := context.WithCancel(context.Background())
	n.end = end
	go n.run(ctx, listener) // returns after stop
	go n.watch(ctx)         // returns after stop
	return n
}

// command answers texts that begin with a slash. The commands of examples/chat are not here.
func command(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
	var request struct {
		Text string `json:"text"`
	}
	if json.Unmarshal(m.Data, &request) == nil && request.Text == "/help" {
		return "/me waves is a message about yourself", nil
	}
	return nil, errCommands
}

func (n *node) run(ctx context.Context, listener net.Listener) {
	ran := make(chan error, 1)
	go func() { ran <- n.hub.Run(ctx) }() // returns after ctx ends
	err := n.hub.Serve(listener, n.handler())
	n.end() // if Serve failed, ctx has not ended yet
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
	return fmt.Sprintf("%s: %d clients, broker %s, nodes in the cluster: %q", n.name, stats.ActiveConnections, health.Broker, n.hub.Cluster().Nodes())
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

// health handles the health checks of a load balancer.
func (n *node) health(w http.ResponseWriter, _ *http.Request) {
	health := n.hub.Health()
	w.Header().Set("Content-Type", "application/json")
	if !health.OK() {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(encode(health)) // fails only if the balancer has disconnected
}

// guarded adds headers that allow the page to load only its own files.
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

// clientID returns an ID that contains the description of the person, so that every
// node can read it.
func (n *node) clientID(r *http.Request) (string, error) {
	p := person{Name: cleanName(r.URL.Query().Get("name")), Codec: "json"}
	for offer := range strings.SplitSeq(r.Header.Get("Sec-WebSocket-Protocol"), ",") {
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

// personOf returns the person in an ID of clientID.
func personOf(id string) (p person) {
	_, encoded, _ := strings.Cut(id, ".")
	if b, err := base64.RawURLEncoding.DecodeString(encoded); err == nil {
		_ = json.Unmarshal(b, &p) // an invalid ID gives an empty person
	}
	p.ID = id
	return p
}

// connected is OnConnect. No message is sent to or received from the tab before it
// returns, so that the keys set here apply from the first frame.
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
	me := personOf(client.ID)
	client.SetUser(me.Name)
	n.report("welcome", client.Send(&websocket.Message{Type: "welcome", Data: encode(struct {
		person
		MaxText int `json:"max_text"`
	}{me, maxText})}))
}

// authorize decides whether the request of a tab is allowed. The hub then carries it
// out.
func authorize(client *websocket.Client, r websocket.AuthorizeRequest) error {
	switch r.Action {
	case websocket.ActionJoinRoom:
		return mayJoin(client, r.Target)
	case websocket.ActionLeaveRoom:
		return nil
	case websocket.ActionPublishRoom:
		if err := checkText(r.Message.Data); err != nil {
			return err
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

// mayJoin decides whether a tab may join a room.
func mayJoin(client *websocket.Client, room string) error {
	in := client.Rooms()
	switch {
	case room == "" || room != cleaned(room, maxRoomName):
		return errRoomName
	case len(in) >= maxRoomsPerTab && !slices.Contains(in, room):
		return errRooms
	}
	return nil
}

// joined is OnJoin. It publishes the new member list to the room. The tab is a member
// in the hub already, so a listed tab receives every later list.
func (n *node) joined(client *websocket.Client, t websocket.Topic) {
	if t.Kind != websocket.RoomTopic {
		return
	}
	// After BrokerReady the tab receives the publications of other nodes. While NATS
	// is unavailable, it receives only those of this node.
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	if err := n.hub.BrokerReady(ctx); err != nil {
		n.log.Warn("a room is limited to this node for now", "error", err)
	}
	n.report("subscribe", client.Subscribe(typingPrefix+t.Name))
	me := personOf(client.ID)
	n.announce(t.Name, presence{Joined: &me})
}

// left is OnLeave. It publishes the new member list to the room.
func (n *node) left(client *websocket.Client, t websocket.Topic) {
	if t.Kind == websocket.RoomTopic {
		n.report("unsubscribe", client.Unsubscribe(typingPrefix+t.Name))
		me := personOf(client.ID)
		n.announce(t.Name, presence{Left: &me})
	}
}

// presence is the data of the message with a room's members, and with the person that
// joined or left.
type presence struct {
	Version int64    `json:"version"`
	Members []person `json:"members"`
	Joined  *person  `json:"joined,omitempty"`
	Left    *person  `json:"left,omitempty"`
}

// announce asks all nodes for the members of a room and publishes the list to the
// room. The version of a list is the time of the question, so that pages keep the
// latest list. Between machines this depends on their clocks.
func (n *node) announce(room string, change presence) {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	change.Version = time.Now().UnixMicro()
	ids, err := n.hub.Cluster().RoomMembers(ctx, room)
	if err != nil {
		n.report("list members", err) // the list is incomplete until the next change
	}
	change.Members = make([]person, 0, len(ids))
	for _, id := range ids {
		change.Members = append(change.Members, personOf(id))
	}
	slices.SortFunc(change.Members, func(a, b person) int { return strings.Compare(a.Name+a.ID, b.Name+b.ID) })
	n.report("announce", n.hub.PublishToRoom(room, &websocket.Message{Type: "presence", Data: encode(change)}))
}

// statistics is the data of the messages in the stats channel.
type statistics struct {
	websocket.Stats
	Rooms map[string]int `json:"rooms"` // the number of members of each room on this node
}

// watch sends the statistics of this node to its tabs once a second. When nodes have
// joined or left the cluster, it publishes new member lists to all rooms of this node.
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
		m := &websocket.Message{Channel: statsChannel, Data: encode(statistics{n.hub.Stats(), maps.Collect(n.hub.Rooms())})}
		for client := range n.hub.Clients() { // a publication would also reach the tabs of other nodes
			n.report("stats", client.Send(m))
		}
		if now := n.hub.Cluster().Nodes(); !slices.Equal(now, known) {
			known = now
			for room := range n.hub.Rooms() {
				n.announce(room, presence{})
			}
		}
	}
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

// report logs the error of an operation. It ignores the errors of a client or a
// hub that is closed: tabs may disconnect at any time.
func (n *node) report(operation string, err error) {
	if err == nil || errors.Is(err, websocket.ErrClientClosed) || errors.Is(err, websocket.ErrHubClosed) {
		return
	}
	n.log.Error("chat: "+operation, "error", err)
}

// encode returns v in JSON. The types of this program never fail to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
