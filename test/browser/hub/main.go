// Command hub runs a hub with clients for the browser test of its DebugHandler: one of them
// reads nothing. It prints its address, and exits when its standard input ends.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	gorilla "github.com/gorilla/websocket"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// names are the IDs of the clients. Some try to break the page.
var names = []string{"slow", "alice", `"><img src=x onerror="document.title='broken'">`, "\u202eevil"}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() (err error) {
	config := websocket.DefaultConfig
	config.ClientID = func(r *http.Request) (string, error) { return r.URL.Query().Get("id"), nil }
	connected := make(chan struct{}) // OnConnect sends, the loop over names receives; never closed
	config.OnConnect = func(c *websocket.Client) {
		c.SetUser("user of " + c.ID)
		_ = c.Subscribe("news")
		_ = c.JoinRoom("<b>lobby</b>")
		connected <- struct{}{}
	}
	config.SlowConsumer = websocket.DropNewest
	config.WriteWait = time.Hour // or the hub gives the slow client up
	hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), config)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }() // ends with stop
	mux := http.NewServeMux()
	mux.Handle("/ws", hub.Handler())
	mux.Handle("/debug/hub", hub.DebugHandler())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return errors.Join(err, <-ended)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }() // ends with Close
	defer func() {
		stop()
		err = errors.Join(err, <-ended, server.Close())
	}()
	for _, name := range names {
		query := url.Values{"id": {name}, "token": {"a secret"}}
		c, response, err := gorilla.DefaultDialer.Dial("ws://"+listener.Addr().String()+"/ws?"+query.Encode(), http.Header{"Cookie": {"session=a secret"}})
		if err != nil {
			return err
		}
		_ = response.Body.Close()
		defer func() { _ = c.Close() }()
		<-connected
		if name != "slow" {
			go func() { // ends with the connection
				for err == nil {
					_, _, err = c.ReadMessage()
				}
			}()
		}
	}
	payload := bytes.Repeat([]byte("a secret"), 10_000)
	for range 500 { // more than the kernel and the backlog take
		if err := hub.SendToClient("slow", &websocket.Message{Data: payload}); err != nil {
			return err
		}
	}
	fmt.Println("hub on http://" + listener.Addr().String())
	_, _ = io.Copy(io.Discard, os.Stdin)
	return nil
}
