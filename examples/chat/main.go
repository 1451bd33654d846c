// Command chat is a chat with rooms, and a demonstration of what the hub does:
// tabs that speak different codecs, sealed or not, sit in the same rooms.
//
//	go run ./examples/chat
//
// and open http://localhost:8080 in two tabs. The page is part of the binary and
// asks no other server for anything.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "address to listen on, `host:port`; port 0 picks a free one")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(flag.CommandLine.Output(), "chat: unexpected argument %q\n", flag.Arg(0))
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl+C does not wait
	if err := run(ctx, *addr); err != nil {
		fmt.Fprintln(os.Stderr, "chat:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr string) error {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(addr) // net.Listen has read it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	fmt.Printf("chat on http://%s, Ctrl+C ends it\n", net.JoinHostPort(host, port))
	return newChat(nil).serve(ctx, listener)
}

// serve works until ctx ends. Everybody in the chat is then told to come back
// later (close code 1001), and does so by itself.
func (c *chat) serve(ctx context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.hub.Run(ctx) }() // ends with ctx
	go c.reportStats(ctx)                   // ends with ctx
	err := c.hub.Serve(listener, c.handler())
	stop() // where Serve ended by itself
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-ended)
}
