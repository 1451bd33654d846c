package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// exampleHub runs a hub for the examples. stop ends it and returns when it has ended.
func exampleHub() (url string, stop func()) {
	url, _, stop = restartableHub()
	return url, stop
}

// restartableHub is like exampleHub. restart closes all connections as a restart of
// the hub would.
func restartableHub() (url string, restart, stop func()) {
	hub, url, stop := runHub(websocket.DefaultConfig)
	restart = func() {
		for c := range hub.Clients() {
			_ = c.Close(websocket.CloseServiceRestart, "back in a moment")
		}
	}
	return url, restart, stop
}

func runHub(config websocket.Config) (hub *websocket.Hub, url string, stop func()) {
	hub = websocket.NewHub(noLogger{}, config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var goroutines sync.WaitGroup
	goroutines.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	goroutines.Go(func() { _ = hub.Serve(l, hub.Handler()) })   // ends with stop
	stop = func() {
		_ = hub.Shutdown(context.Background())
		goroutines.Wait()
	}
	return hub, "ws://" + l.Addr().String(), stop
}

func ExampleDial() {
	url, stop := exampleHub()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	c, err := client.Dial(ctx, url, client.Options{Codec: "msgpack"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	got := make(chan string)
	_, err = c.Subscribe(ctx, "news", func(m *websocket.Message) { got <- string(m.Data) })
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Publish(ctx, "news", []byte(`{"headline":"Breaking News!"}`)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-got)
	// Output: {"headline":"Breaking News!"}
}

// OnGap reports messages that may have been missed, before the next message of that
// channel or room. An application can then request them from its history.
func ExampleOptions_onGap() {
	url, restart, stop := restartableHub()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	gaps := make(chan websocket.Gap, 1)
	c, err := client.Dial(ctx, url, client.Options{
		BackoffMin: time.Millisecond,
		OnGap:      func(g websocket.Gap) { gaps <- g },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Subscribe(ctx, "prices", func(*websocket.Message) {}); err != nil {
		log.Fatal(err)
	}
	restart()
	g := <-gaps
	fmt.Printf("%s: messages of %q between First and Last may be missing: %v\n", g.Reason, g.Channel, g.First > 0 && g.First < g.Last)
	// Output: reconnect: messages of "prices" between First and Last may be missing: true
}

// A program stores its position, and continues there when it starts again.
func ExampleSince() {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 100, Age: time.Hour}}
	}
	hub, url, stop := runHub(config)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	var stored websocket.Position
	for run := range 2 {
		c, err := client.Dial(ctx, url, client.Options{})
		if err != nil {
			log.Fatal(err)
		}
		got := make(chan string, 10)
		orders, err := c.Subscribe(ctx, "orders", func(m *websocket.Message) { got <- string(m.Data) }, client.Since(stored))
		if err != nil {
			log.Fatal(err)
		}
		for n := range 2 {
			if err := hub.PublishToChannelRaw("orders", fmt.Append(nil, 10*run+n)); err != nil {
				log.Fatal(err)
			}
			fmt.Println(<-got)
		}
		stored = orders.Position()
		if err := c.Close(); err != nil {
			log.Fatal(err)
		}
		if err := hub.PublishToChannelRaw("orders", []byte(`"while it was away"`)); err != nil {
			log.Fatal(err)
		}
	}
	// Output:
	// 0
	// 1
	// "while it was away"
	// 10
}

func ExampleClient_Request() {
	hub, url, stop := runHub(websocket.DefaultConfig)
	defer stop()
	hub.Handle("price", func(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
		if string(m.Data) != `"apple"` {
			return nil, &websocket.RequestError{Code: "unknown_item", Message: "no such item"}
		}
		return 12, nil
	})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, url, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	answer, err := c.Request(ctx, "price", []byte(`"apple"`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(answer.Data))
	var refusal *client.Error
	if _, err := c.Request(ctx, "price", []byte(`"stone"`)); errors.As(err, &refusal) {
		fmt.Println(refusal.Code)
	}
	// Output:
	// 12
	// unknown_item
}

func ExampleOnPresence() {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{Presence: true}
	}
	config.OnConnect = func(c *websocket.Client) { c.SetUser("ann") }
	_, url, stop := runHub(config)
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, url, client.Options{})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	changed := make(chan struct{})
	lobby, err := c.JoinRoom(ctx, "lobby", nil, client.OnPresence(func(change client.PresenceChange) {
		fmt.Println(change.Joined[0].User, "is here")
		close(changed)
	}))
	if err != nil {
		log.Fatal(err)
	}
	<-changed
	fmt.Println(len(lobby.Members()))
	// Output:
	// ann is here
	// 1
}
