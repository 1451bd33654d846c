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

// exampleHub serves a hub for the examples. stop returns when it has ended.
func exampleHub() (url string, stop func()) {
	url, _, stop = restartableHub()
	return url, stop
}

// restartableHub is exampleHub with a way to send everybody away for a moment.
func restartableHub() (url string, restart, stop func()) {
	hub := websocket.NewHub(silent{}, websocket.DefaultConfig)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var ends sync.WaitGroup
	ends.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	ends.Go(func() { _ = hub.Serve(l, nil) })             // ends with stop
	restart = func() {
		for c := range hub.Clients() {
			_ = c.Close(websocket.CloseServiceRestart, "back in a moment")
		}
	}
	stop = func() {
		_ = hub.Shutdown(context.Background())
		ends.Wait()
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
	err = c.Subscribe(ctx, "news", func(m *websocket.Message) { got <- string(m.Data) })
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Publish(ctx, "news", []byte(`{"headline":"Breaking News!"}`)); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-got)
	// Output: {"headline":"Breaking News!"}
}

// What may have been missed is told before the next message of that channel or
// room, so that a history can be asked for it.
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
	if err := c.Subscribe(ctx, "prices", func(*websocket.Message) {}); err != nil {
		log.Fatal(err)
	}
	restart()
	g := <-gaps
	fmt.Printf("%s: messages of %q may be missing from a time on: %v\n", g.Reason, g.Channel, g.First > 0 && g.First < g.Last)
	// Output: reconnect: messages of "prices" may be missing from a time on: true
}
