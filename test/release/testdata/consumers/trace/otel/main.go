// A traced publication.
package main

import (
	"context"
	"fmt"
	"log"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/trace/otel"
)

func main() {
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	tracer := otel.New(otel.Options{})
	if err := tracer.Publish(context.Background(), "news", &websocket.Message{}, hub.PublishToChannelContext); err != nil {
		log.Fatal(err)
	}
	fmt.Println("published with a tracer")
}
