// Command cluster runs the chat of examples/chat on three nodes. A node is a hub with
// a listener of its own. A NATS server connects the nodes, and a reverse proxy, the
// front, spreads connections over them. In this demonstration all of them run in one
// process:
//
//	go run .
//
// Open http://localhost:8080 in several tabs; they are connected to different nodes.
// Then type
//
//	stop 2
//
// and the tabs of the second node reconnect to the other nodes. "start 2" starts the
// node again, and "nodes" prints the state of each node.
package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "address to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	c, err := newCluster(slog.Default(), 3)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("chat on http://%s, three nodes; commands: \"stop 1\" to \"stop 3\", \"start 1\" to \"start 3\", \"nodes\"; press Ctrl+C to stop\n", listener.Addr())
	go c.runCommands(os.Stdin) // ends with the process
	if err := c.serve(ctx, listener); err != nil {
		log.Fatal(err)
	}
}

// cluster is the nodes, the NATS server and the front. A real cluster runs them on
// several machines.
type cluster struct {
	log    *slog.Logger
	engine *server.Server
	secret []byte        // encrypts tickets; all nodes share it
	turn   atomic.Uint32 // number of connections of the front

	mu    sync.Mutex // guards nodes and addrs
	nodes []*node    // nil while a node is stopped
	addrs []string   // the address of each node, kept while the node is stopped
}

func newCluster(logger *slog.Logger, nodes int) (*cluster, error) {
	engine, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true})
	if err != nil {
		return nil, err
	}
	engine.Start()
	if !engine.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("the NATS server did not start within 10 s")
	}
	c := &cluster{log: logger, engine: engine, secret: make([]byte, 32), nodes: make([]*node, nodes), addrs: make([]string, nodes)}
	_, _ = rand.Read(c.secret) // never fails
	for i := range c.nodes {
		c.addrs[i] = "127.0.0.1:0"
		if err := c.start(i); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// start starts node i. It fails if the node is running.
func (c *cluster) start(i int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nodes[i] != nil {
		return fmt.Errorf("node %d is running", i+1)
	}
	listener, err := net.Listen("tcp", c.addrs[i])
	if err != nil {
		return err
	}
	c.addrs[i] = listener.Addr().String()
	c.nodes[i] = startNode(c.log, fmt.Sprint("node ", i+1), c.engine.ClientURL(), c.secret, listener)
	return nil
}

// stop stops node i. Its clients receive close code 1001 and reconnect, through the
// front, to other nodes. It fails if the node is not running.
func (c *cluster) stop(i int) error {
	c.mu.Lock()
	n := c.nodes[i]
	c.nodes[i] = nil
	c.mu.Unlock()
	if n == nil {
		return fmt.Errorf("node %d is not running", i+1)
	}
	return n.stop()
}

// running returns the nodes that are not stopped.
func (c *cluster) running() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var running []*node
	for _, n := range c.nodes {
		if n != nil {
			running = append(running, n)
		}
	}
	return running
}

// close stops all nodes and the NATS server.
func (c *cluster) close() error {
	var failed error
	for i := range c.nodes {
		c.mu.Lock()
		isRunning := c.nodes[i] != nil
		c.mu.Unlock()
		if isRunning {
			failed = errors.Join(failed, c.stop(i))
		}
	}
	c.engine.Shutdown()
	c.engine.WaitForShutdown()
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

// front returns a reverse proxy that sends each request to the next node that
// accepts a connection. A client is not bound to a node.
func (c *cluster) front() http.Handler {
	transport := &http.Transport{
		DisableKeepAlives: true, // a new connection for each request, so that the nodes take turns
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			c.mu.Lock()
			addrs := append([]string(nil), c.addrs...)
			c.mu.Unlock()
			first := int(c.turn.Add(1))
			var failed error
			for i := range addrs {
				conn, err := new(net.Dialer).DialContext(ctx, network, addrs[(first+i)%len(addrs)])
				if err == nil {
					return conn, nil
				}
				failed = errors.Join(failed, err)
			}
			return nil, failed
		},
	}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: "cluster"})
			r.Out.Host = r.In.Host // the hub compares it with the Origin header
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			c.log.Warn("no node accepts a request", "path", r.URL.Path, "error", err)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	}
}

// runCommands runs the commands in its input, one per line.
func (c *cluster) runCommands(in io.Reader) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var command string
		var number int
		_, _ = fmt.Sscan(lines.Text(), &command, &number) // missing parts stay zero, and are checked below
		var err error
		switch {
		case command == "nodes":
			for _, n := range c.running() {
				fmt.Println(n.describe())
			}
		case number < 1 || number > len(c.addrs):
			err = fmt.Errorf("the number of a node is 1 to %d", len(c.addrs))
		case command == "stop":
			err = c.stop(number - 1)
		case command == "start":
			err = c.start(number - 1)
		default:
			err = errors.New(`unknown command; the commands are "stop 1", "start 1" and "nodes"`)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
}
