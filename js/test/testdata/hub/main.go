// Command hub runs a hub for the tests of the JavaScript client. It carries out
// commands that its clients send in messages. It prints its address, and shuts
// down when its standard input ends or a client sends "restart".
package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

var (
	addr            = flag.String("addr", "127.0.0.1:0", "address to listen on")
	aesKey          = flag.String("aes", "", "AES key in hexadecimal")
	hmacKey         = flag.String("hmac", "", "HMAC key in hexadecimal")
	encryptThenSign = flag.Bool("encrypt-then-sign", false, "sign the encrypted bytes")
	tokens          = flag.Bool("tokens", false, "require a token, which becomes the client's ID")
	replace         = flag.Bool("replace", false, "let a new client replace an older one with the same ID")
	clientKeys      = flag.Bool("client-keys", false, "encrypt with 32 bytes equal to the first byte of the client's token")
	maxSubs         = flag.Int("max-subscriptions", 0, "maximum number of channels and rooms per client")
	messageRate     = flag.Int64("message-rate", -1, "frames per second that the hub reads from a client")
	dropNewest      = flag.Bool("drop-newest", false, "drop the newest messages for a slow client")
	topics          = flag.Bool("topics", false, "keep histories of h:* (1,000 messages) and tiny:* (3), and presence of p:*")
	files           = flag.String("files", "", "directory to serve at /; the hub is then only at /ws")
)

// command is the JSON data of the messages that obey carries out.
type command struct {
	Code    int
	Reason  string
	Type    string
	Channel string
	Room    string
	Count   int
	Size    int
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	config, err := configure()
	if err != nil {
		return err
	}
	hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), config)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	hub.SetCallbacks(
		func(c *websocket.Client) {
			if *topics && *tokens {
				c.SetUser("user of " + c.ID)
			}
			if *clientKeys {
				if err := c.SetEncryptionKey(bytes.Repeat([]byte{c.ID[0]}, 32)); err != nil {
					log.Print(err)
				}
			}
		},
		nil,
		func(c *websocket.Client, m *websocket.Message) {
			if err := obey(hub, c, m, stop); err != nil {
				log.Printf("%s: %v", m.Type, err)
			}
		},
	)
	hub.Handle("sum", sum)
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		return err
	}
	go func() { // ends when standard input ends
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	served := make(chan error, 1)
	go func() { served <- hub.Serve(listener, handler(hub)) }() // ends when the hub has shut down
	fmt.Println(listener.Addr())
	err = hub.Run(ctx)
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

func handler(hub *websocket.Hub) http.Handler {
	if *files == "" {
		return hub.Handler()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ws", hub.Handler())
	mux.Handle("GET /", http.FileServer(http.Dir(*files)))
	return mux
}

func configure() (websocket.Config, error) {
	config := websocket.DefaultConfig
	config.MaxSubscriptions = *maxSubs
	config.MessageRate = *messageRate
	config.FloodTimeout = 500 * time.Millisecond
	config.ByteRate = -1
	if *dropNewest {
		config.SlowConsumer = websocket.DropNewest
		config.Compression = &websocket.CompressionConfig{} // compression would make a flood small
	}
	if *topics {
		config.TopicOptions = topicOptions
		config.PresenceInterval = 20 * time.Millisecond
	}
	if *replace {
		config.DuplicateID = websocket.ReplaceDuplicate
	}
	if *tokens {
		config.ClientID = func(r *http.Request) (string, error) {
			token, ok := websocket.BearerToken(r)
			if !ok {
				return "", errors.New("no token")
			}
			return token, nil
		}
	}
	config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
		if strings.HasPrefix(r.Target, "secret") {
			return &websocket.RequestError{Message: "that is secret"}
		}
		return nil
	}
	aes, err := hex.DecodeString(*aesKey)
	if err != nil {
		return config, err
	}
	hmac, err := hex.DecodeString(*hmacKey)
	if err != nil {
		return config, err
	}
	if len(aes)+len(hmac) > 0 {
		config.Security = &websocket.SecurityConfig{SignThenEncrypt: !*encryptThenSign}
		if len(aes) > 0 {
			config.Security.AESKey = aes
		}
		if len(hmac) > 0 {
			config.Security.HMACKey = hmac
		}
	}
	return config, nil
}

func topicOptions(_ websocket.TopicKind, name string) websocket.TopicOptions {
	kept := map[string]int{"h": 1000, "tiny": 3}
	kind, _, _ := strings.Cut(name, ":")
	return websocket.TopicOptions{
		History:  websocket.HistoryOptions{Messages: kept[kind]},
		Presence: kind == "p",
	}
}

// sum answers a request with the sum of numbers.
func sum(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
	var numbers []float64
	if err := json.Unmarshal(m.Data, &numbers); err != nil {
		return nil, &websocket.RequestError{Code: "no_numbers", Message: "send a list of numbers"}
	}
	if len(numbers) == 0 {
		return nil, errors.New("nothing to add up")
	}
	var total float64
	for _, n := range numbers {
		total += n
	}
	return total, nil
}

// ask sends a request to the client, and then the answer or the code of the error.
func ask(c *websocket.Client, typ string, data []byte) {
	answer, err := c.SendRequest(context.Background(), &websocket.Message{Type: typ, Data: data})
	out := &websocket.Message{Type: "answered"}
	var refused *websocket.RequestError
	switch {
	case errors.As(err, &refused):
		out.Data = fmt.Appendf(nil, "%q", refused.Code)
	case err != nil:
		log.Print(err)
		return
	default:
		out.Data = answer.Data
	}
	if err := c.Send(out); err != nil {
		log.Print(err)
	}
}

// obey carries out the command in m, if it is one.
func obey(hub *websocket.Hub, c *websocket.Client, m *websocket.Message, stop func()) error {
	var do command
	switch m.Type {
	case "close", "flood", "publish as", "join me":
		if err := json.Unmarshal(m.Data, &do); err != nil {
			return err
		}
	}
	switch m.Type {
	case "echo":
		return c.Send(&websocket.Message{Type: "echo", Channel: m.Channel, Data: m.Data})
	case "close":
		return c.Close(do.Code, do.Reason)
	case "ask":
		go ask(c, m.Channel, m.Data) // ends with the answer, or after 30 seconds
	case "info":
		return c.SetInfo(json.RawMessage(m.Data))
	case "restart":
		stop()
	case "join me":
		return errors.Join(c.Subscribe(do.Channel), c.JoinRoom(do.Room))
	case "publish as":
		out := &websocket.Message{Type: do.Type, Data: []byte(`"from the server"`)}
		return errors.Join(hub.PublishToChannel(do.Channel, out), hub.PublishToRoom(do.Room, out))
	case "flood":
		pad := strings.Repeat("x", do.Size)
		for i := range do.Count {
			if err := hub.PublishToChannelRaw(do.Channel, fmt.Appendf(nil, `{"i":%d,"pad":%q}`, i, pad)); err != nil {
				return err
			}
		}
		return c.Send(&websocket.Message{Type: "flooded"})
	}
	return nil
}
