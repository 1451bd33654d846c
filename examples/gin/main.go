// Command gin is a hub behind a gin router. It is a module of its own, so that
// the library does not depend on gin:
//
//	cd examples/gin && go run .
//
// Connect with any WebSocket client, for example wscat, which needs Node:
//
//	npx wscat -c 'ws://localhost:8080/ws?user=ann'
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os/signal"
	"syscall"

	"github.com/gin-gonic/gin"

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

	hub := newHub()
	go func() {
		if err := hub.Run(ctx); err != nil {
			log.Print(err)
		}
	}()
	log.Printf("connect to ws://%s/ws?user=ann, for example with: npx wscat -c 'ws://%[1]s/ws?user=ann'", listener.Addr())
	if err := hub.Serve(listener, newRouter(hub)); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

func newRouter(hub *websocket.Hub) *gin.Engine {
	r := gin.New()
	r.Use(gin.Recovery())
	r.GET("/ws", identify, websocket.Route[*gin.Context](hub))
	r.GET("/live", gin.WrapH(hub.LiveHandler()))
	r.GET("/ready", gin.WrapH(hub.ReadyHandler()))
	return r
}

// identify stands in for real authentication.
func identify(c *gin.Context) {
	user := c.Query("user")
	if user == "" {
		c.String(http.StatusUnauthorized, "the URL needs a user, such as ?user=ann")
		c.Abort()
		return
	}
	c.Set("user", user)
}

func newHub() *websocket.Hub {
	config := websocket.DefaultConfig
	config.OnConnect = greet
	return websocket.NewHub(nil, config)
}

// greet is OnConnect. gin's context may be used only until greet returns, because
// gin reuses it after the handler. Store values that are needed later in the client's
// metadata.
func greet(client *websocket.Client) {
	c, ok := client.FrameworkContext().(*gin.Context)
	if !ok {
		return // the client connected through another router
	}
	user := c.GetString("user")
	client.SetMetadata("user", user)
	if err := client.Subscribe("news"); err != nil {
		log.Print(err)
		return
	}
	welcome, err := json.Marshal("Hello " + user) // clients with JSON get other data in base64
	if err != nil {
		log.Print(err)
		return
	}
	if err := client.Send(&websocket.Message{Type: "welcome", Data: welcome}); err != nil {
		log.Print(err)
	}
}
