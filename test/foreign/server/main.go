// Command server runs hubs with different settings, each at its own path, for
// test clients made of third-party libraries. It prints its address, and exits
// when its standard input ends.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// The tests have the same keys.
var (
	aesKey  = bytes.Repeat([]byte{7}, 32)
	hmacKey = []byte("signing key of the tests")
)

// settings maps the path of each hub to a function that changes its configuration.
var settings = map[string]func(*websocket.Config){
	"/plain":             func(*websocket.Config) {},
	"/sign-then-encrypt": func(c *websocket.Config) { c.Security = websocket.NewSecurityConfig(aesKey, hmacKey) },
	"/encrypt-then-sign": func(c *websocket.Config) {
		c.Security = &websocket.SecurityConfig{AESKey: aesKey, HMACKey: hmacKey}
	},
	"/json-only": func(c *websocket.Config) { c.Subprotocols = []string{"json"} },
	"/limited": func(c *websocket.Config) {
		c.MaxMessageSize, c.MaxSubscriptions = 8<<10, 2
		c.Broker = brokertest.NewMemory(4 << 10).Broker() // larger publications are refused
	},
	"/dropping":  func(c *websocket.Config) { c.SlowConsumer, c.EnableCompression = websocket.DropNewest, false },
	"/evicting":  func(c *websocket.Config) { c.EnableCompression = false },
	"/tokens":    func(c *websocket.Config) { c.ClientID = tokenAsID },
	"/replacing": func(c *websocket.Config) { c.ClientID, c.DuplicateID = tokenAsID, websocket.ReplaceDuplicate },
	"/full":      func(c *websocket.Config) { c.MaxClients = 1 },
	"/impatient": func(c *websocket.Config) { c.PingPeriod, c.PongWait = 200*time.Millisecond, 600*time.Millisecond },
	"/expiring":  func(*websocket.Config) {},
	"/stopping":  func(*websocket.Config) {},
}

func tokenAsID(r *http.Request) (string, error) {
	token, ok := websocket.BearerToken(r)
	if !ok {
		return "", errors.New("no token")
	}
	return token, nil
}

func forbidSecrets(_ *websocket.Client, r websocket.AuthorizeRequest) error {
	if strings.HasPrefix(r.Target, "secret") {
		return &websocket.RequestError{Message: "that is secret"}
	}
	return nil
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	mux := http.NewServeMux()
	var running sync.WaitGroup
	for path, set := range settings {
		config := websocket.DefaultConfig
		config.Authorize = forbidSecrets
		set(&config)
		hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), config)
		hub.SetCallbacks(
			func(c *websocket.Client) {
				if path == "/expiring" {
					_ = c.SetExpiry(time.Now().Add(100 * time.Millisecond)) // fails only if the client has disconnected
				}
			},
			nil,
			func(c *websocket.Client, m *websocket.Message) {
				if err := obey(hub, c, m); err != nil {
					log.Printf("%s %s: %v", path, m.Type, err)
				}
			},
		)
		running.Go(func() { // ends when stop is called
			if err := hub.Run(ctx); err != nil {
				log.Print(err)
			}
		})
		mux.Handle("GET "+path, hub.Handler())
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { // ends when standard input ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
		running.Wait()
		_ = server.Close()
	}()
	fmt.Println(listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// command is the data of the messages that obey carries out. It is JSON in every
// codec.
type command struct {
	Code    int
	Reason  string
	Channel string
	Count   int
	Size    int
}

// obey carries out the command in m, if it is one.
func obey(hub *websocket.Hub, c *websocket.Client, m *websocket.Message) error {
	var do command
	if m.Type == "close" || m.Type == "flood" {
		if err := json.Unmarshal(m.Data, &do); err != nil {
			return err
		}
	}
	switch m.Type {
	case "who am I":
		return c.Send(&websocket.Message{Type: "you", Data: m.Data, ClientID: c.ID, ID: m.ID})
	case "forward": // to the client whose ID the channel names
		return hub.SendToClient(m.Channel, &websocket.Message{Type: "direct", Data: m.Data, ClientID: c.ID})
	case "announce":
		return hub.Broadcast(m.Data)
	case "close":
		return c.Close(do.Code, do.Reason)
	case "panic":
		panic("requested by the client")
	case "shut down":
		go func() { _ = hub.Shutdown(context.Background()) }() // ends when the hub has shut down; Run returns the errors
	case "flood":
		payload := []byte(`"` + strings.Repeat("x", do.Size) + `"`)
		for range do.Count {
			if err := hub.PublishToChannelRaw(do.Channel, payload); err != nil {
				return err
			}
		}
		return hub.PublishToChannelRaw(do.Channel, []byte(`"done"`))
	}
	return nil
}
