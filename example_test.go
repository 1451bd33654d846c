package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// A hub behind net/http. The server publishes to the subscribers of a channel.
func Example() {
	ctx := context.Background()
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)

	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub.Handler())
	server := httptest.NewServer(mux)
	defer server.Close()

	c, err := client.Dial(ctx, wsURL(server)+"/ws", client.Options{Codec: "protobuf"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	received := make(chan string, 1)
	_, err = c.Subscribe(ctx, "news", func(m *websocket.Message) { received <- string(m.Data) })
	if err != nil {
		log.Fatal(err)
	}

	err = hub.PublishToChannelRaw("news", []byte(`{"headline":"Breaking News!"}`))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-received)
	// Output: {"headline":"Breaking News!"}
}

// wsURL returns the WebSocket URL of a test server.
func wsURL(server *httptest.Server) string {
	return "ws" + strings.TrimPrefix(server.URL, "http")
}

// routerContext stands in for *gin.Context, so that this package does not import gin.
// HypGo's context has the same shape.
type routerContext struct {
	Request *http.Request
	Writer  http.ResponseWriter
	user    string
}

func (c *routerContext) GetHeader(key string) string { return c.Request.Header.Get(key) }
func (c *routerContext) Query(key string) string     { return c.Request.URL.Query().Get(key) }
func (c *routerContext) AbortWithStatus(code int)    { c.Writer.WriteHeader(code) }
func (c *routerContext) GetString(string) string     { return c.user }

// A route of gin or HypGo. OnConnect reads a value that middleware has set in the
// framework's context.
func ExampleHub_ServeHTTP() {
	ctx := context.Background()
	config := websocket.DefaultConfig
	config.OnConnect = func(c *websocket.Client) {
		framework, ok := c.FrameworkContext().(*routerContext)
		if !ok {
			return
		}
		c.SetUser(framework.GetString("user"))
		_ = c.Send(&websocket.Message{Type: "welcome", Data: []byte(c.User())}) // fails only if the client has gone
	}
	hub := websocket.NewHub(nil, config)
	go hub.Run(ctx)
	defer hub.Shutdown(ctx)

	// With gin: router.GET("/ws", func(c *gin.Context) { hub.ServeHTTP(c) })
	router := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(&routerContext{Request: r, Writer: w, user: "Ann"})
	})
	server := httptest.NewServer(router)
	defer server.Close()

	received := make(chan *websocket.Message, 1)
	c, err := client.Dial(ctx, wsURL(server), client.Options{
		OnMessage: func(m *websocket.Message) { received <- m },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	m := <-received
	fmt.Printf("%s %s\n", m.Type, m.Data)
	// Output: welcome Ann
}

// A graceful shutdown. The hub closes its connections itself, because
// http.Server.Shutdown does not close hijacked connections. Every client receives the
// messages that are queued for it, and then a Close frame.
func ExampleHub_Shutdown() {
	ctx := context.Background()
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(ctx) }()

	server := &http.Server{Handler: hub.Handler()}
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	conn, _, err := new(websocket.Dialer).Dial("ws://"+listener.Addr().String(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	closed := make(chan error, 1)
	go func() {
		_, _, err := conn.ReadMessage()
		closed <- err
	}()

	// A server does this when the context of signal.NotifyContext is done.
	if err := hub.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	if err := server.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	fmt.Println(<-closed)
	fmt.Println(<-ran)
	fmt.Println(errors.Is(<-served, http.ErrServerClosed))
	// Output:
	// websocket: close 1001 (going away): server is shutting down
	// <nil>
	// true
}
