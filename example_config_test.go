package websocket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// ClientID authenticates a handshake by its bearer token. Authorize lets a client
// subscribe to public channels and to its own, and to nothing else.
func ExampleConfig_authorize() {
	users := map[string]string{"token-of-ann": "ann"} // by token

	ctx := context.Background()
	config := websocket.DefaultConfig
	config.ClientID = func(r *http.Request) (string, error) {
		token, _ := websocket.BearerToken(r)
		user, ok := users[token]
		if !ok {
			return "", errors.New("unknown token")
		}
		return user, nil
	}
	config.Authorize = func(c *websocket.Client, r websocket.AuthorizeRequest) error {
		if r.Action != websocket.ActionSubscribe && r.Action != websocket.ActionUnsubscribe {
			return websocket.ErrForbidden
		}
		if strings.HasPrefix(r.Target, "public:") || r.Target == "user:"+c.ID {
			return nil
		}
		return &websocket.RequestError{Code: "private", Message: "this channel belongs to another user"}
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	_, err := client.Dial(ctx, wsURL(server), client.Options{})
	var refused *client.DialError
	if errors.As(err, &refused) {
		fmt.Println("without a token:", refused.StatusCode)
	}

	c, err := client.Dial(ctx, wsURL(server), client.Options{TokenSource: client.StaticToken("token-of-ann")})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	for _, channel := range []string{"user:ann", "user:bob"} {
		_, err := c.Subscribe(ctx, channel, nil)
		fmt.Println(err)
	}
	fmt.Println(c.Broadcast(ctx, []byte(`"hello"`)))
	// Output:
	// without a token: 401
	// <nil>
	// websocket: refused by hub: private: "user:bob": this channel belongs to another user
	// websocket: refused by hub: forbidden: websocket: not allowed
}

// ClientID limits the number of logins, and OnRefuse counts the refusals by reason.
func ExampleConfig_onRefuse() {
	refused := make(chan websocket.Refusal, 1) // OnRefuse sends, the example receives; never closed
	config := websocket.DefaultConfig
	config.ClientID = func(r *http.Request) (string, error) {
		return "", &websocket.HandshakeError{
			Status:  http.StatusTooManyRequests,
			Header:  http.Header{"Retry-After": {"30"}},
			Message: "too many logins",
		}
	}
	config.OnRefuse = func(r websocket.Refusal) { refused <- r }
	hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), config)
	go func() { _ = hub.Run(context.Background()) }() // ends with the hub
	defer func() { _ = hub.Shutdown(context.Background()) }()
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	var dialer websocket.Dialer
	_, response, _ := dialer.Dial("ws"+strings.TrimPrefix(server.URL, "http"), nil)
	fmt.Println(response.Status, response.Header.Get("Retry-After"))
	r := <-refused
	fmt.Println(r.Reason, r.Status, r.Err)
	// Output:
	// 429 Too Many Requests 30
	// client_id 429 websocket: handshake refused with 429: too many logins
}

// DropOldest keeps a client that reads too slowly, and drops the messages that have
// waited longest. OnDrop reports them.
func ExampleConfig_onDrop() {
	ctx := context.Background()
	dropped := make(chan string, 1)
	config := websocket.DefaultConfig
	config.MaxMessageSize, config.ClientBacklog = 64<<10, 256<<10
	config.SlowConsumer = websocket.DropOldest
	config.OnConnect = func(c *websocket.Client) { _ = c.Subscribe("prices") } // fails only if the client has gone
	config.OnDrop = func(_ *websocket.Client, lost websocket.Gap) {
		select {
		case dropped <- fmt.Sprintf("messages of %q: %s", lost.Channel, lost.Reason):
		default: // the example prints the first report only
		}
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	conn, _, err := new(websocket.Dialer).Dial(wsURL(server), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close() // nothing reads from conn

	data := []byte(`"` + strings.Repeat("x", 64<<10) + `"`)
	for {
		select {
		case report := <-dropped:
			fmt.Println(report)
			return
		default:
			if err := hub.PublishToChannelRaw("prices", data); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output: messages of "prices": slow_consumer
}

// OnJoin sends a snapshot to every new subscriber. The mutex keeps the snapshot and
// the updates in order: a client receives the snapshot and then every later update.
func ExampleConfig_onJoin() {
	ctx := context.Background()
	var mu sync.Mutex // guards price
	price := 2300

	config := websocket.DefaultConfig
	config.OnJoin = func(c *websocket.Client, t websocket.Topic) {
		if t != (websocket.Topic{Kind: websocket.ChannelTopic, Name: "gold"}) {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		_ = c.Send(&websocket.Message{Type: "snapshot", Channel: t.Name, Data: fmt.Append(nil, price)}) // fails only if the client has gone
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	c, err := client.Dial(ctx, wsURL(server), client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	received := make(chan *websocket.Message)
	_, err = c.Subscribe(ctx, "gold", func(m *websocket.Message) { received <- m })
	if err != nil {
		log.Fatal(err)
	}
	m := <-received
	fmt.Printf("%s %s\n", m.Type, m.Data)

	mu.Lock()
	price = 2301
	err = hub.PublishToChannelRaw("gold", fmt.Append(nil, price))
	mu.Unlock()
	if err != nil {
		log.Fatal(err)
	}
	m = <-received
	fmt.Printf("%s %s\n", m.Type, m.Data)
	// Output:
	// snapshot 2300
	// message 2301
}

// Two hubs on one engine, as in two processes. A message that is published at one hub
// reaches the subscribers of both. Real hubs use packages broker/nats or broker/redis.
func ExampleConfig_broker() {
	ctx := context.Background()
	engine := brokertest.NewMemory(0)
	newHub := func(name string) *websocket.Hub {
		config := websocket.DefaultConfig
		config.Broker = engine.Broker()
		config.NodeName = name
		return websocket.NewHub(nil, config)
	}
	east, west := newHub("east"), newHub("west")
	go east.Run(ctx)
	defer east.Shutdown(ctx)
	go west.Run(ctx)
	defer west.Shutdown(ctx)
	server := httptest.NewServer(west.Handler())
	defer server.Close()

	c, err := client.Dial(ctx, wsURL(server), client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	received := make(chan string, 1)
	_, err = c.Subscribe(ctx, "news", func(m *websocket.Message) { received <- string(m.Data) })
	if err != nil {
		log.Fatal(err)
	}
	for _, hub := range []*websocket.Hub{east, west} {
		// The engine is reachable, and the subscription is in force there.
		if err := hub.BrokerReady(ctx); err != nil {
			log.Fatal(err)
		}
	}

	if err := east.PublishToChannelRaw("news", []byte(`"from the east"`)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-received)
	// Output: "from the east"
}

// textCodec encodes a message as the text "type channel data".
type textCodec struct{}

func (textCodec) Name() string              { return "text" }
func (textCodec) Index() int                { return 4 } // the codecs of this package use 0 to 3
func (textCodec) WebSocketMessageType() int { return websocket.TextMessage }

func (textCodec) Marshal(m *websocket.Message) ([]byte, error) {
	return fmt.Appendf(nil, "%s %s %s", m.Type, m.Channel, m.Data), nil
}

func (textCodec) Unmarshal(data []byte, m *websocket.Message) error {
	*m = websocket.Message{}
	fields := bytes.SplitN(data, []byte(" "), 3)
	if len(fields) < 3 {
		return fmt.Errorf("%w: %d fields, want 3", websocket.ErrMalformed, len(fields))
	}
	m.Type, m.Channel = string(fields[0]), string(fields[1])
	m.Data = bytes.Clone(fields[2]) // the hub reuses data
	return nil
}

// A codec of the application, next to the JSON codec. Clients select it in the
// handshake with the subprotocol "text".
func ExampleCodec() {
	ctx := context.Background()
	config := websocket.Config{
		Codecs:    []websocket.Codec{websocket.JSONCodec{}, textCodec{}},
		OnConnect: func(c *websocket.Client) { _ = c.Subscribe("news") }, // fails only if the client has gone
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	dialer := websocket.Dialer{Subprotocols: []string{"text"}}
	conn, _, err := dialer.Dial(wsURL(server), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	err = conn.WriteMessage(websocket.TextMessage, []byte("publish news Hello, world"))
	if err != nil {
		log.Fatal(err)
	}
	_, frame, err := conn.ReadMessage()
	fmt.Printf("%s %v\n", frame, err)
	// Output: message news Hello, world <nil>
}

// Every client has a key of its own. A key that is set in OnConnect seals all frames
// of the connection, in both directions.
func ExampleClient_SetEncryptionKey() {
	keys := map[string][]byte{"token-of-ann": bytes.Repeat([]byte{1}, 32)} // by token; real keys are random

	ctx := context.Background()
	config := websocket.DefaultConfig
	config.OnConnect = func(c *websocket.Client) {
		token, _ := websocket.BearerToken(c.Request())
		key, ok := keys[token]
		if !ok {
			_ = c.Close(websocket.CloseUnauthorized, "unknown token") // fails only if the client has gone
			return
		}
		if err := c.SetEncryptionKey(key); err != nil {
			return // the hub has closed the client
		}
		_ = c.Send(&websocket.Message{Type: "welcome", Data: []byte(`"sealed"`)})
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	received := make(chan *websocket.Message, 1)
	c, err := client.Dial(ctx, wsURL(server), client.Options{
		TokenSource: client.StaticToken("token-of-ann"),
		Security:    websocket.NewSecurityConfig(keys["token-of-ann"], nil),
		OnMessage:   func(m *websocket.Message) { received <- m },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	m := <-received
	fmt.Printf("%s %s\n", m.Type, m.Data)
	// Output: welcome "sealed"
}
