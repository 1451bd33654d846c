// Package embedded runs a NATS server with JetStream inside the process of a hub, so that the
// hub's histories survive a restart without a server to install. The server can listen, so
// that hubs of other processes share it.
//
//	server, err := embedded.Start("data", embedded.Options{})
//	if err != nil {
//		return err
//	}
//	defer server.Close() // after the hub has shut down
//	config.Broker = server.Broker()
//
// It is a package of its own so that users of package nats do not build a server.
package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/broker/nats"
	"github.com/nats-io/nats-server/v2/server"
	natsgo "github.com/nats-io/nats.go"
)

// Options configure a Server. The zero value is ready for use.
type Options struct {
	// Listen is the address, host and port, where the server takes connections of other
	// processes. Port 0 takes a free port, which URL tells. It has no access control and no
	// TLS unless Configure sets them: see "trust" in docs/scaling.md. Defaults to none: then
	// only this process uses the server.
	Listen string
	// SyncAlways makes the server wait for the disk before it confirms a record. Without it,
	// records of the last two minutes may be lost if the machine fails. They are never lost
	// if only the process ends. It makes appending slower, by the time that the disk needs.
	// Defaults to false.
	SyncAlways bool
	// Start is how long the server may take to start, which includes checking its folder.
	// Defaults to 30 s.
	Start time.Duration
	// Configure changes the server's options before it starts, for example to set TLS,
	// users or routes to other servers. It may be nil.
	Configure func(*server.Options)
}

// Server is a running NATS server.
type Server struct {
	server  *server.Server
	listens bool
}

const defaultStart = 30 * time.Second

// Start starts a server that stores in the folder dir, which it creates if it does not exist.
// No other server may use the folder at the same time.
func Start(dir string, options Options) (*Server, error) {
	if options.Start <= 0 {
		options.Start = defaultStart
	}
	o := &server.Options{JetStream: true, StoreDir: dir, SyncAlways: options.SyncAlways, NoSigs: true, NoLog: true, DontListen: true}
	if dir == "" {
		return nil, errors.New("embedded: no folder")
	}
	if options.Listen != "" {
		host, port, err := net.SplitHostPort(options.Listen)
		if err != nil {
			return nil, fmt.Errorf("embedded: Options.Listen: %w", err)
		}
		o.DontListen, o.Host = false, host
		if o.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("embedded: Options.Listen: %w", err)
		}
		if o.Port == 0 {
			o.Port = server.RANDOM_PORT
		}
	}
	if options.Configure != nil {
		options.Configure(o)
	}
	if err := checkFolder(o.StoreDir); err != nil { // the server would only fail to become ready
		return nil, fmt.Errorf("embedded: %w", err)
	}
	s, err := server.NewServer(o)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	running := &Server{server: s, listens: !o.DontListen}
	s.Start() // ends with Close
	if !s.ReadyForConnections(options.Start) || !s.JetStreamEnabled() {
		running.Close()
		return nil, fmt.Errorf("embedded: the server did not start with the folder %q and the address %q", dir, options.Listen)
	}
	return running, nil
}

// checkFolder creates a folder if it does not exist, and returns an error if no file can be
// written to it.
func checkFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "check-*")
	if err != nil {
		return err
	}
	_ = f.Close() // it is empty
	return os.Remove(f.Name())
}

// URL returns the address for Options.URL of Brokers in other processes, or "" if the server
// does not listen.
func (s *Server) URL() string {
	if !s.listens {
		return ""
	}
	return s.server.ClientURL()
}

// Options returns options for a Broker in this process: it uses the server without a network
// connection, and keeps histories with the default bounds.
func (s *Server) Options() nats.Options {
	return nats.Options{Connect: []natsgo.Option{natsgo.InProcessServer(s.server)}, History: &nats.History{}}
}

// Broker returns a Broker with Options.
func (s *Server) Broker() *nats.Broker { return nats.New(s.Options()) }

// Close stops the server. All Brokers lose their connection, so it comes after
// Hub.Shutdown. It may be called more than once, from any goroutine.
func (s *Server) Close() {
	s.server.Shutdown()
	s.server.WaitForShutdown()
}
