package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// options configure a cluster.
type options struct {
	host     string // of the front and the nodes
	port     int    // of the front; the nodes have the ports behind it, or free ones for 0
	nodes    int
	dir      string // of the engine
	engine   string // the URL of a running engine, or ""
	announce time.Duration
	window   time.Duration // of a node that drains
	log      io.Writer     // gets the logs of all processes
}

// cluster is the nodes, the engine and the front. A real cluster runs them on several
// machines.
type cluster struct {
	engine *server   // nil if it runs elsewhere
	nodes  []*server // their number does not change
	turn   atomic.Uint32
}

// newCluster starts the engine, then the nodes.
func newCluster(o options) (*cluster, error) {
	secret := make([]byte, 32) // seals tickets; all nodes share it
	_, _ = rand.Read(secret)   // never fails
	c := &cluster{}
	if o.engine == "" {
		c.engine = &server{name: "engine", log: o.log}
		c.engine.args = func(s *server) []string {
			listen := "127.0.0.1:0"
			if s.url != "" { // started again: the nodes look for it where it was
				listen = strings.TrimPrefix(s.url, "nats://")
			}
			return []string{"engine", "-child", "-listen", listen, "-dir", o.dir}
		}
		if err := c.engine.start(); err != nil {
			return nil, err
		}
		o.engine = c.engine.url
	}
	for i := range o.nodes {
		port := 0
		if o.port > 0 {
			port = o.port + 1 + i
		}
		n := &server{name: fmt.Sprint("node ", i+1), log: o.log, env: []string{secretVariable + "=" + hex.EncodeToString(secret)}}
		n.args = func(s *server) []string {
			addr := net.JoinHostPort(o.host, strconv.Itoa(port))
			if s.url != "" {
				addr = s.addr()
			}
			return []string{
				"node", "-child", "-addr", addr, "-engine", o.engine, "-announce", o.announce.String(),
				"-window", o.window.String(), "-proxies", "127.0.0.1,::1", // the front
			}
		}
		if err := n.start(); err != nil {
			return nil, errors.Join(err, c.close())
		}
		c.nodes = append(c.nodes, n)
	}
	return c, nil
}

// addr returns the address of a node.
func (s *server) addr() string { return strings.TrimPrefix(s.url, "http://") }

// servers returns the engine and the nodes.
func (c *cluster) servers() []*server {
	if c.engine == nil {
		return c.nodes
	}
	return append([]*server{c.engine}, c.nodes...)
}

// close stops all nodes, then the engine.
func (c *cluster) close() error {
	var failed error
	stop := func(s *server) {
		if s.state() != "stopped" {
			failed = errors.Join(failed, s.end(false))
		}
	}
	for _, n := range c.nodes {
		stop(n)
	}
	if c.engine != nil {
		stop(c.engine)
	}
	return failed
}

// serve serves the front until ctx ends, and then stops the cluster.
func (c *cluster) serve(ctx context.Context, listener net.Listener) error {
	front := &http.Server{Handler: c.front(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- front.Serve(listener) }() // returns after front.Close
	select {
	case err := <-ended:
		return errors.Join(err, c.close())
	case <-ctx.Done():
	}
	err := c.close()
	return errors.Join(err, front.Close())
}

// run runs a command such as "stop 2" or "kill engine".
func (c *cluster) run(command, name string) error {
	for _, s := range c.servers() {
		if s.name != name && s.name != "node "+name {
			continue
		}
		switch command {
		case "start":
			return s.start()
		case "stop", "kill":
			return s.end(command == "kill")
		}
		return fmt.Errorf("there is no command %q; try \"start\", \"stop\" or \"kill\"", command)
	}
	if name == "engine" {
		return errors.New("the engine was not started by this program")
	}
	return fmt.Errorf("there is no server %q; the nodes are 1 to %d", name, len(c.nodes))
}

// list prints the state of every server.
func (c *cluster) list(out io.Writer) {
	for _, s := range c.servers() {
		fmt.Fprintf(out, "%s: %s, %s\n", s.name, s.url, s.state())
	}
}

// runCommands runs the commands in its input, one per line.
func (c *cluster) runCommands(in io.Reader, out io.Writer) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		command, name, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		switch command {
		case "":
		case "list":
			c.list(out)
		default:
			if err := c.run(command, strings.TrimSpace(name)); err != nil {
				fmt.Fprintln(out, err)
			}
		}
	}
}
