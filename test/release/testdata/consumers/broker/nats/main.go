// A hub with this broker. It is not run, as that needs a server.
package main

import (
	"fmt"
	"log"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
)

func main() {
	config := websocket.DefaultConfig
	config.Broker = nats.New(nats.Options{URL: "nats://127.0.0.1:4222"})
	if err := config.Validate(); err != nil {
		log.Fatal(err)
	}
	websocket.NewHub(nil, config)
	fmt.Printf("made a hub with a %T\n", config.Broker)
}
