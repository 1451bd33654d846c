// A hub with this broker. It is not run, as that needs a server.
package main

import (
	"fmt"
	"log"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
	goredis "github.com/redis/go-redis/v9"
)

func main() {
	config := websocket.DefaultConfig
	config.Broker = redis.New(redis.Options{Connect: &goredis.UniversalOptions{Addrs: []string{"127.0.0.1:6379"}}})
	if err := config.Validate(); err != nil {
		log.Fatal(err)
	}
	websocket.NewHub(nil, config)
	fmt.Printf("made a hub with a %T\n", config.Broker)
}
