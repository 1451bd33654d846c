// Command cluster is the chat of examples/chat on three nodes: three hubs, each
// with a listener of its own, a NATS server between them, and a front that
// spreads connections over them, all in one process for the sake of showing it.
//
//	go run .
//
// Open http://localhost:8080 in some tabs; each may be on another node. Then type
//
//	stop 2
//
// and the tabs of the second node move to the others and go on. "start 2" brings
// it back, and "nodes" says who is where.
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
	fmt.Printf("chat on http://%s, three nodes; \"stop 1\" to \"stop 3\", \"start 1\" to \"start 3\", \"nodes\", Ctrl+C ends it\n", listener.Addr())
	go c.obey(os.Stdin) // ends with the process
	if err := c.serve(ctx, listener); err != nil {
		log.Fatal(err)
	}
}

// cluster is all that one would have on several machines.
type cluster struct {
	log    *slog.Logger
	engine *server.Server
	secret []byte // of tickets; all nodes have it
	turn   atomic.Uint32

	mu    sync.Mutex
	nodes []*node
	addrs []string // where each node listens, also while it is stopped
}

func newCluster(logger *slog.Logger, nodes int) (*cluster, error) {
	engine, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true})
	if err != nil {
		return nil, err
	}
	engine.Start()
	if !engine.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("nats-server does not start")
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

// start brings a node up.
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

// stop takes a node down. Its clients are told to come back, which leads them to
// the others.
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

func (c *cluster) close() error {
	var failed error
	for i := range c.nodes {
		c.mu.Lock()
		there := c.nodes[i] != nil
		c.mu.Unlock()
		if there {
			failed = errors.Join(failed, c.stop(i))
		}
	}
	c.engine.Shutdown()
	c.engine.WaitForShutdown()
	return failed
}

// serve runs the front until ctx ends, and then ends everything.
func (c *cluster) serve(ctx context.Context, listener net.Listener) error {
	front := &http.Server{Handler: c.front(), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- front.Serve(listener) }() // ends with Close
	select {
	case err := <-ended:
		return errors.Join(err, c.close())
	case <-ctx.Done():
	}
	err := c.close()
	return errors.Join(err, front.Close())
}

// front hands each connection to the next node that is there. Nothing ties a
// client to a node.
func (c *cluster) front() http.Handler {
	transport := &http.Transport{
		DisableKeepAlives: true, // so that the next request goes to the next node
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
			r.Out.Host = r.In.Host // the hub compares it with the Origin
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			c.log.Warn("no node for a request", "path", r.URL.Path, "error", err)
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		},
	}
}

// obey does what is typed.
func (c *cluster) obey(in io.Reader) {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var what string
		var number int
		_, _ = fmt.Sscan(lines.Text(), &what, &number) // what is missing is no command
		var err error
		switch {
		case what == "nodes":
			for _, n := range c.running() {
				fmt.Println(n.describe())
			}
		case number < 1 || number > len(c.addrs):
			err = fmt.Errorf("there are nodes 1 to %d", len(c.addrs))
		case what == "stop":
			err = c.stop(number - 1)
		case what == "start":
			err = c.start(number - 1)
		default:
			err = errors.New(`"stop 1", "start 1" or "nodes"`)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
}
