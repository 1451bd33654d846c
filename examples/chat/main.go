// Command chat is a chat with rooms. It demonstrates the hub: browser tabs with
// different codecs, with and without sealing, are members of the same rooms. A tab that
// enters a room gets its latest messages, and one that comes back after a lost connection
// gets the messages that it has missed. Members see each other, and who is typing.
// Commands such as /who are requests, so that only their sender gets the answer. Run
//
//	go run ./examples/chat
//
// and open http://localhost:8080 in two tabs. The page is part of the binary and
// loads nothing from other servers.
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
	context.AfterFunc(ctx, stop) // a second Ctrl+C ends the process at once
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
	host, _, _ := net.SplitHostPort(addr) // addr is valid: net.Listen accepted it
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	fmt.Printf("chat on http://%s, press Ctrl+C to stop\n", net.JoinHostPort(host, port))
	return newChat(nil).serve(ctx, listener)
}

// serve serves the chat until ctx ends. The hub then closes all connections with
// code 1001 (going away), after which the pages try to reconnect.
func (c *chat) serve(ctx context.Context, listener net.Listener) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- c.hub.Run(ctx) }() // returns after ctx ends
	go c.reportStats(ctx)                   // returns after ctx ends
	err := c.hub.Serve(listener, c.handler())
	stop() // if Serve failed, ctx has not ended yet
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-ended)
}
