package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	goredis "github.com/redis/go-redis/v9"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/maoxiaoyue/hypgo-websocket/broker/nats/embedded"
	"github.com/maoxiaoyue/hypgo-websocket/broker/redis"
)

// retryAfter is the longest time after which a node tries again to reach the engine.
const retryAfter = time.Second

// runEngine runs a NATS server until ctx ends. It prints the server's URL.
func runEngine(ctx context.Context, listen, dir string) error {
	server, err := embedded.Start(dir, embedded.Options{Listen: listen})
	if err != nil {
		return err
	}
	fmt.Println(server.URL())
	<-ctx.Done()
	server.Close()
	return nil
}

// newBroker returns a Broker for the URL of an engine.
func newBroker(engine string) (websocket.Broker, error) {
	u, err := url.Parse(engine)
	if err != nil {
		return nil, err
	}
	switch u.Scheme {
	case "nats":
		return nats.New(nats.Options{URL: engine, Prefix: "chat", MaxDelay: retryAfter, History: &nats.History{Age: keptFor}}), nil
	case "redis", "rediss":
		o, err := goredis.ParseURL(engine)
		if err != nil {
			return nil, err
		}
		return redis.New(redis.Options{Prefix: "chat:", MaxDelay: retryAfter, Connect: &goredis.UniversalOptions{
			Addrs: []string{o.Addr}, DB: o.DB, Username: o.Username, Password: o.Password, TLSConfig: o.TLSConfig,
		}}), nil
	}
	return nil, fmt.Errorf("engine %q: the URL begins with nats://, redis:// or rediss://", engine)
}

// checkEngine returns an error for the URL of an engine that no Broker can have.
func checkEngine(engine string) error {
	if engine == "" {
		return nil
	}
	_, err := newBroker(engine) // it connects when its hub runs
	return err
}
