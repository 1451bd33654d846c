package websocket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// Rooms keep their latest 100 messages. A client that comes back continues behind the
// position that it has saved.
func ExampleConfig_topicOptions() {
	ctx := context.Background()
	config := websocket.DefaultConfig
	config.TopicOptions = func(kind websocket.TopicKind, _ string) websocket.TopicOptions {
		if kind != websocket.RoomTopic {
			return websocket.TopicOptions{}
		}
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 100, Age: 24 * time.Hour}}
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	received := make(chan string)
	read := func(m *websocket.Message) { received <- string(m.Data) }
	visit := func(since websocket.Position, messages int) websocket.Position {
		c, err := client.Dial(ctx, wsURL(server), client.Options{})
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		room, err := c.JoinRoom(ctx, "lobby", read, client.Since(since))
		if err != nil {
			log.Fatal(err)
		}
		for range messages {
			fmt.Println(<-received)
		}
		return room.Position()
	}

	_ = hub.PublishToRoom("lobby", &websocket.Message{Data: []byte(`"first"`)})
	saved := visit(websocket.Position{}, 1)
	_ = hub.PublishToRoom("lobby", &websocket.Message{Data: []byte(`"while away"`)})
	visit(saved, 1)
	// Output:
	// "first"
	// "while away"
}

// The hub answers a request of a client.
func ExampleHub_Handle() {
	ctx := context.Background()
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	hub.Handle("double", func(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
		var n int
		if err := json.Unmarshal(m.Data, &n); err != nil {
			return nil, &websocket.RequestError{Code: "no_number", Message: "send a number"}
		}
		return 2 * n, nil
	})
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	c, err := client.Dial(ctx, wsURL(server), client.Options{Codec: "msgpack"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	answer, err := c.Request(ctx, "double", []byte("21"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer.Data))
	_, err = c.Request(ctx, "double", []byte(`"many"`))
	fmt.Println(err)
	// Output:
	// 42
	// websocket: refused by hub: no_number: send a number
}

// The server asks a client, and so learns that the client has received everything before.
func ExampleClient_SendRequest() {
	ctx := context.Background()
	connected := make(chan *websocket.Client, 1)
	config := websocket.DefaultConfig
	config.OnConnect = func(c *websocket.Client) { connected <- c }
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
	c.Handle("confirm", func(_ context.Context, m *websocket.Message) (any, error) {
		return "confirmed " + string(m.Data), nil
	})

	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := (<-connected).SendRequest(ctx, &websocket.Message{Type: "confirm", Data: []byte("12")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer.Data))
	// Output: "confirmed 12"
}

// The server lists the members of a channel.
func ExampleHub_Presence() {
	ctx := context.Background()
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{Presence: true}
	}
	config.OnConnect = func(c *websocket.Client) {
		c.SetUser(c.Request().Header.Get("User"))
		_ = c.SetInfo(map[string]string{"status": "here"})
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)
	server := httptest.NewServer(hub.Handler())
	defer server.Close()

	c, err := client.Dial(ctx, wsURL(server), client.Options{Header: http.Header{"User": {"ann"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe(ctx, "news", func(*websocket.Message) {}); err != nil {
		log.Fatal(err)
	}
	members, err := hub.Presence(ctx, websocket.ChannelTopic, "news")
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range members {
		fmt.Println(m.User, string(m.Info))
	}
	// Output: ann {"status":"here"}
}
