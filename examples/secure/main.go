// Command secure speaks over TLS (wss://) and seals every message besides, with
// AES-256-GCM and HMAC-SHA256. It makes a certificate and keys in memory, starts
// a hub, talks to it as a client and prints what the client receives:
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
	addr := flag.String("addr", "localhost:0", "address to listen on; port 0 takes a free one")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx, *addr, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// run starts the server, lets the client talk to it, and stops the server.
func run(ctx context.Context, addr string, out io.Writer) error {
	certificate, roots, err := selfSigned("localhost")
	if err != nil {
		return err
	}
	// Sign-then-encrypt, the usual order. Both sides need the same keys.
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
	go func() { ended <- hub.Run(ctx) }()              // ends with ctx
	go func() { served <- hub.Serve(listener, nil) }() // ends with the hub

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

// short shows the beginning of long bytes.
func short(b []byte) string {
	if len(b) > 24 {
		return fmt.Sprintf("%x...", b[:24])
	}
	return fmt.Sprintf("%x", b)
}
