package client_test

import (
	"context"
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
	hub := websocket.NewHub(noLogger{}, websocket.DefaultConfig)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var goroutines sync.WaitGroup
	goroutines.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	goroutines.Go(func() { _ = hub.Serve(l, hub.Handler()) })   // ends with stop
	restart = func() {
		for c := range hub.Clients() {
			_ = c.Close(websocket.CloseServiceRestart, "back in a moment")
		}
	}
	stop = func() {
		_ = hub.Shutdown(context.Background())
		goroutines.Wait()
	}
	return "ws://" + l.Addr().String(), restart, stop
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
