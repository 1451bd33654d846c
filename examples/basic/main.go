// Command basic is a hub on net/http that logs connections and messages:
//
//	go run ./examples/basic
//
// Connect with any WebSocket client, for example wscat, which needs Node:
//
//	npx wscat -c ws://localhost:8080/ws
//
// Send {"type":"subscribe","data":{"channel":"news"},"id":"1"} and then
// {"type":"publish","channel":"news","data":{"headline":"Hello"}}.
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "address to listen on")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("unexpected argument %q", flag.Arg(0))
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	// 1. Create a hub, which manages all connections. Without a logger it logs to
	// slog.Default.
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	// 2. Set the callbacks.
	setCallbacks(hub)
	// 3. Run the hub. When ctx ends, it closes all connections and Run returns.
	go func() {
		if err := hub.Run(ctx); err != nil {
			log.Print(err)
		}
	}()
	// 4. Serve HTTP until the hub has ended.
	log.Printf("connect to ws://%s/ws, for example with: npx wscat -c ws://%[1]s/ws", listener.Addr())
	if err := hub.Serve(listener, routes(hub)); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func setCallbacks(hub *websocket.Hub) {
	hub.SetCallbacks(
		func(client *websocket.Client) {
			log.Printf("client %s connected, codec %s", client.ID, client.Codec().Name())
		},
		func(client *websocket.Client) {
			log.Printf("client %s disconnected: %v", client.ID, client.CloseError())
		},
		func(client *websocket.Client, msg *websocket.Message) {
			log.Printf("client %s sent a message of type %q: %q", client.ID, msg.Type, msg.Data)
		},
	)
}

func routes(hub *websocket.Hub) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub.Handler())
	mux.Handle("GET /live", hub.LiveHandler())   // for a supervisor
	mux.Handle("GET /ready", hub.ReadyHandler()) // for a load balancer
	return mux
}
