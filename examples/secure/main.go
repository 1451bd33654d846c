// Command secure uses TLS (wss://) and also seals every message with HMAC-SHA256 and
// AES-256-GCM. It makes a certificate and keys in memory, starts a hub, connects a
// client to it, and prints the messages that the client receives:
//
//	go run ./examples/secure
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func main() {
	addr := flag.String("addr", "localhost:0", "address to listen on; port 0 picks a free port")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run starts the server, runs the client, and stops the server.
func run(ctx context.Context, addr string, out io.Writer) error {
	certificate, roots, err := selfSigned("localhost")
	if err != nil {
		return err
	}
	// NewSecurityConfig signs first and then encrypts. Both sides need the same keys.
	keys := websocket.NewSecurityConfig(random(32), random(32))

	config := websocket.DefaultConfig
	config.Security = keys
	config.TLS = &websocket.TLSConfig{TLSConfig: certificate}
	hub := websocket.NewHub(nil, config)

	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended, served := make(chan error, 1), make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }()                        // returns after ctx ends
	go func() { served <- hub.Serve(listener, hub.Handler()) }() // returns after the hub has ended

	talked := talk(ctx, "wss://localhost:"+port, roots, keys, out)
	stop()
	runErr, serveErr := <-ended, <-served
	if errors.Is(serveErr, http.ErrServerClosed) {
		serveErr = nil
	}
	return errors.Join(talked, runErr, serveErr)
}

func random(size int) []byte {
	b := make([]byte, size)
	_, _ = rand.Read(b) // never fails
	return b
}

// short returns the first 24 bytes of b in hexadecimal.
func short(b []byte) string {
	if len(b) > 24 {
		return fmt.Sprintf("%x...", b[:24])
	}
	return fmt.Sprintf("%x", b)
}
