package hypgo

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// chat is an application as HypGo's users write it. A comment names each place where
// HypGo's form had to change.
type chat struct {
	hub    *websocket.Hub
	logger *Logger
	left   chan string
}

func newChat(config websocket.Config) *chat {
	c := &chat{logger: NewLogger(), left: make(chan string, 10)}
	c.hub = websocket.NewHub(c.logger, config)
	c.hub.SetCallbacks(c.connected, c.disconnected, c.received)
	return c
}

func (c *chat) connected(client *websocket.Client) {
	client.SetMetadata("joined", time.Now())
	if client.ID == "sealed" {
		client.SetEncryptionKey(make([]byte, 32))
		client.SetHMACKey([]byte("key"))
	}
	fc, ok := client.FrameworkContext().(*Context) // was client.Context
	if ok && fc.GetHeader("X-Room") != "" {
		client.JoinRoom(fc.GetHeader("X-Room"))
	}
	client.Subscribe("all")
	c.logger.Info("connected", "id", client.ID, "codec", client.Codec().Name())
}

func (c *chat) disconnected(client *websocket.Client) {
	if _, ok := client.GetMetadata("joined"); ok {
		client.Hub().Broadcast([]byte(`{"left":"` + client.ID + `"}`)) // was client.Hub
	}
	c.left <- client.ID
}

func (c *chat) received(client *websocket.Client, msg *websocket.Message) {
	switch msg.Type {
	case "publish":
		if strings.Contains(string(msg.Data), "rude") {
			msg.Type = "denied" // a veto
			client.SendJSON(map[string]string{"refused": "rude"})
		}
	case "subscribe":
		var request struct {
			Channel string `json:"channel"`
		}
		if json.Unmarshal(msg.Data, &request) == nil && request.Channel == "secret" {
			msg.Release()
		}
	case "whisper":
		if err := c.hub.SendToClient(msg.Channel, msg); err != nil {
			c.logger.Warningf("%v", err)
		}
	case "kick":
		if target, ok := c.hub.Client(msg.Channel); ok {
			target.LeaveRoom("lobby")
			target.Unsubscribe("all")
		}
	}
}

// start serves the chat until the test ends.
func (c *chat) start(t *testing.T, r *Router) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1) // the goroutine sends, the cleanup receives
	go func() { ran <- c.hub.Run(ctx) }()
	server := httptest.NewServer(r)
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ran)
		server.Close()
	})
	return "ws" + strings.TrimPrefix(server.URL, "http") + "/ws"
}

// conn is the connection that Dialer returns, with the JSON methods that Go clients of HypGo
// use.
type conn struct {
	*testing.T
	json interface {
		WriteJSON(any) error
		ReadJSON(any) error
		Close() error
	}
}

func dial(t *testing.T, url string, header http.Header, subprotocols ...string) conn {
	t.Helper()
	dialer := websocket.Dialer{Subprotocols: subprotocols}
	ws, _, err := dialer.Dial(url, header)
	require.NoError(t, err)
	t.Cleanup(func() { _ = ws.Close() })
	return conn{t, ws}
}

func (c conn) write(m *websocket.Message) {
	c.Helper()
	require.NoError(c, c.json.WriteJSON(m))
}

func (c conn) read() websocket.Message {
	c.Helper()
	var m websocket.Message
	require.NoError(c, c.json.ReadJSON(&m))
	return m
}

// sync waits until the hub has carried out what c wrote before.
func (c conn) sync() {
	c.Helper()
	c.write(&websocket.Message{Type: "subscribe", Data: []byte(`{"channel":"all"}`), ID: "sync"})
	require.Equal(c, "ack", c.read().Type)
}

// config has HypGo's names of all fields.
func config() websocket.Config {
	config := websocket.DefaultConfig
	config.ReadBufferSize = 4096
	config.WriteBufferSize = 4096
	config.HandshakeTimeout = 10 * time.Second
	config.EnableCompression = true
	config.MaxMessageSize = 512 * 1024
	config.PingInterval = 20 * time.Second
	config.PongTimeout = 40 * time.Second
	config.WriteTimeout = 5 * time.Second
	config.Subprotocols = []string{"json", "protobuf", "flatbuffers", "msgpack"}
	config.CheckOrigin = func(*http.Request) bool { return true }
	config.Compression = &websocket.CompressionConfig{Enabled: true, Level: 6}
	config.ClientID = websocket.ClientChosenID // HypGo's rule, which has no field there
	config.DuplicateID = websocket.ReplaceDuplicate
	return config
}

func TestChatForHypGo(t *testing.T) {
	c := newChat(config())
	r := &Router{}
	r.GET("/ws", websocket.Route[*Context](c.hub)) // was c.hub.ServeHTTP
	url := c.start(t, r)

	ann := dial(t, url, http.Header{"X-Client-ID": {"ann"}, "X-Room": {"lobby"}})
	bob := dial(t, url+"?client_id=bob", nil, "json")
	ann.sync()
	bob.sync()

	bob.write(&websocket.Message{Type: "publish", Channel: "all", Data: []byte(`"rude"`)})
	require.JSONEq(t, `{"refused":"rude"}`, string(bob.read().Data))
	bob.write(&websocket.Message{Type: "subscribe", Data: []byte(`{"channel":"secret"}`)})
	bob.write(&websocket.Message{Type: "publish", Channel: "all", Data: []byte(`"hello"`)})
	for _, p := range []conn{ann, bob} {
		m := p.read()
		require.Equal(t, []string{"message", "all", `"hello"`, "bob"}, []string{m.Type, m.Channel, string(m.Data), m.ClientID})
	}
	bob.write(&websocket.Message{Type: "whisper", Channel: "ann", Data: []byte(`"psst"`)})
	require.Equal(t, "whisper", ann.read().Type)

	msg := websocket.AcquireMessage()
	msg.Type = "notice"
	msg.Data = json.RawMessage(`{"n":1}`)
	c.hub.BroadcastMessage(msg)
	msg.Release()
	require.Equal(t, "notice", ann.read().Type)
	require.Equal(t, "notice", bob.read().Type)

	room := c.hub.Room("lobby")               // was AcquireRoom and room.AddClient
	room.Broadcast([]byte(`"room"`))          // sent to the members only
	members, err := room.Members(t.Context()) // was room.Clients
	require.NoError(t, err)
	require.Equal(t, []string{"ann"}, members)
	require.Equal(t, "room_message", ann.read().Type)

	stats := c.hub.GetStats()
	require.Equal(t, int64(2), stats["active_connections"].(int64))
	require.Equal(t, 2, stats["total_clients"].(int))
	require.Equal(t, map[string]int{"all": 2}, stats["channels"])
	require.Equal(t, map[string]int{"lobby": 1}, stats["rooms"])

	c.hub.PublishToChannel("all", &websocket.Message{Data: []byte(`1`)})
	c.hub.PublishToChannelRaw("all", []byte(`2`))
	require.NoError(t, c.hub.SendJSON("ann", struct{ N int }{3})) // was SendToClient
	for _, want := range []string{"1", "2", `{"N":3}`} {
		require.Equal(t, want, string(ann.read().Data))
	}
	ann.write(&websocket.Message{Type: "kick", Channel: "bob"})
	require.NoError(t, ann.json.Close())
	require.Equal(t, "ann", <-c.left)
	require.NoError(t, c.hub.Shutdown(t.Context())) // was Shutdown()
}

// Client IDs and callbacks see the user that a JWT middleware has set.
func TestUserOfMiddleware(t *testing.T) {
	cfg := config()
	cfg.ClientID = func(r *http.Request) (string, error) {
		if user := UserOf(r.Context()); user != "" {
			return user, nil
		}
		return "", errors.New("not authenticated")
	}
	c := newChat(cfg)
	r := &Router{}
	r.Use(func(c *Context) { c.Set("user", c.Query("token")); c.Next() }, KeepUser)
	later := make(chan string, 1)
	r.GET("/ws", websocket.Route[*Context](c.hub), func(c *Context) { later <- c.GetString("user") })
	url := c.start(t, r)
	p := dial(t, url+"?token=ann", nil)
	p.sync()
	require.Equal(t, "ann", <-later)
	client, ok := c.hub.Client("ann")
	require.True(t, ok)
	require.Equal(t, "ann", UserOf(client.Context()))

	_, response, err := new(websocket.Dialer).Dial(url, nil)
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.Empty(t, later, "a handler ran after the refused handshake")
}

func TestCodecsAndSecurityForHypGo(t *testing.T) {
	msg := &websocket.Message{Type: "x", Channel: "c", Data: json.RawMessage(`{"a":1}`), Timestamp: 1, ClientID: "id"}
	for i, codec := range []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}} {
		require.Equal(t, i, codec.Index())
		require.Equal(t, codec, websocket.CodecByName(codec.Name()))
		require.Contains(t, []int{websocket.TextMessage, websocket.BinaryMessage}, codec.WebSocketMessageType())
		data, err := codec.Marshal(msg)
		require.NoError(t, err)
		var back websocket.Message
		require.NoError(t, codec.Unmarshal(data, &back))
		require.Equal(t, *msg, back)
	}
	var decoder websocket.ControlDecoder = websocket.ProtobufCodec{}
	require.Equal(t, "news", decoder.DecodeChannel([]byte("\n\x04news")))
	require.Equal(t, "101", decoder.DecodeRoomID([]byte("\n\x03101")))

	key := make([]byte, 32)
	sealed, err := websocket.Encrypt([]byte("x"), key)
	require.NoError(t, err)
	opened, err := websocket.Decrypt(sealed, key)
	require.NoError(t, err)
	verified, err := websocket.Verify(websocket.Sign(opened, []byte("k")), []byte("k"))
	require.NoError(t, err)
	require.Equal(t, "x", string(verified))

	cfg := config()
	cfg.Security = &websocket.SecurityConfig{SignThenEncrypt: true} // keys are set per client
	require.NoError(t, cfg.Validate())
	cfg.Security.AESKey, cfg.Security.HMACKey = key, []byte("k")
	cfg.TLS = &websocket.TLSConfig{CertFile: "cert.pem", KeyFile: "key.pem", TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	require.Error(t, websocket.NewHub(NewLogger(), cfg).ListenAndServeTLS("127.0.0.1:0", nil), "there are no such files")
	require.NotNil(t, websocket.NewUpgrader(cfg))
}
