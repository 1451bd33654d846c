// A hub, and a client that receives a publication.
package main

import (
	"context"
	"fmt"
	"log"
	"net/http/httptest"
	"strings"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }() // ends with cancel
	server := httptest.NewServer(hub.Handler())
	url := "ws" + strings.TrimPrefix(server.URL, "http")
	c, err := client.Dial(ctx, url, client.Options{Codec: "protobuf"})
	if err != nil {
		log.Fatal(err)
	}
	received := make(chan string, 1)
	if _, err := c.Subscribe(ctx, "news", func(m *websocket.Message) { received <- string(m.Data) }); err != nil {
		log.Fatal(err)
	}
	if err := hub.PublishToChannelRaw("news", []byte(`"hello"`)); err != nil {
		log.Fatal(err)
	}
	select {
	case data := <-received:
		fmt.Println("received", data)
	case <-ctx.Done():
		log.Fatal("the publication did not arrive")
	}
	if err := c.Close(); err != nil {
		log.Fatal(err)
	}
	cancel()
	if err := <-ended; err != nil {
		log.Fatal(err)
	}
	server.Close()
}
