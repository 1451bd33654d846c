package main

import (
	"context"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/js"
	wsprometheus "github.com/maoxiaoyue/hypgo-websocket/metrics/prometheus"
)

// secretVariable is the environment variable with the secret that seals tickets. The
// arguments of a process can be seen by other users.
const secretVariable = "CLUSTER_SECRET"

// node is the chat on one hub. Nodes share nothing but the engine.
type node struct {
	name   string // its address, so that pages find every node that they know by name
	host   string // of the address
	hub    *websocket.Hub
	log    *slog.Logger
	secret []byte
}

// nodeOptions configure a node.
type nodeOptions struct {
	addr     string
	engine   string
	announce time.Duration
	window   time.Duration // over which it sends its clients away when it ends
	proxies  []string
}

// runNode runs a node until ctx ends. It prints the node's URL. When ctx ends the hub
// drains: it tells each client when to go to another node, and refuses new ones.
func runNode(ctx context.Context, o nodeOptions) error {
	secret, err := hex.DecodeString(os.Getenv(secretVariable))
	if err != nil || len(secret) != 32 {
		return fmt.Errorf("the environment variable %s needs 64 hexadecimal digits, the same for all nodes", secretVariable)
	}
	broker, err := newBroker(o.engine)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.addr)
	if err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(o.addr) // net.Listen has accepted it
	o.addr = net.JoinHostPort(host, strconv.Itoa(listener.Addr().(*net.TCPAddr).Port))
	n := newNode(o, broker, secret)
	running, end := context.WithCancel(context.Background())
	defer end()
	ran := make(chan error, 1)
	go func() { ran <- n.hub.Run(running) }() // returns after end
	go n.watch(running)                       // returns after end
	drained := context.AfterFunc(ctx, func() {
		defer end()
		result, err := n.hub.Drain(running, websocket.DrainOptions{Window: max(o.window, time.Millisecond)})
		n.log.Info("drained", "result", result, "error", err)
	})
	defer drained()
	fmt.Println("http://" + n.name)
	err = n.hub.Serve(listener, n.handler()) // returns when the hub has ended
	end()                                    // if Serve failed, the hub runs
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, <-ran)
}

func newNode(o nodeOptions, broker websocket.Broker, secret []byte) *node {
	n := &node{name: o.addr, log: slog.Default().With("node", o.addr), secret: secret}
	n.host, _, _ = net.SplitHostPort(o.addr)
	config := websocket.DefaultConfig
	config.Broker = broker
	config.NodeName = o.addr
	config.AnnounceInterval = o.announce
	config.TrustedProxies = o.proxies
	config.MaxMessageSize = 64 << 10 // enough for a list of several hundred members
	config.MessageRate = 20
	config.MaxSubscriptions = maxRoomsPerTab
	config.TopicOptions = topicOptions
	config.CheckOrigin = n.checkOrigin
	config.ClientID = n.clientID
	config.DuplicateID = websocket.ReplaceDuplicate
	config.OnConnect = n.connected
	config.OnMessage = n.received
	config.Authorize = authorize
	n.hub = websocket.NewHub(websocket.SlogLogger(n.log), config)
	return n
}

// nodeList tells pages where they are connected, and where they can go.
type nodeList struct {
	Node  string   `json:"node"`
	Nodes []string `json:"nodes"` // all that are alive
}

func (n *node) nodes() *websocket.Message {
	return &websocket.Message{Type: "nodes", Data: encode(nodeList{n.name, n.hub.Cluster().Nodes()})}
}

// watch tells the tabs of this node when nodes have joined or left the cluster.
func (n *node) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var known []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := n.hub.Cluster().Nodes()
		if slices.Equal(now, known) {
			continue
		}
		known = now
		for client := range n.hub.Clients() {
			n.report("nodes", client.Send(n.nodes()))
		}
	}
}

//go:embed web
var web embed.FS

// handler returns a handler for the page, the JavaScript client, keys, health checks and
// the hub.
func (n *node) handler() http.Handler {
	page, err := fs.Sub(web, "web")
	if err != nil {
		panic(err) // the name is invalid
	}
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(wsprometheus.NewCollector(n.hub), collectors.NewGoCollector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	mux.Handle("GET /live", n.hub.LiveHandler())
	mux.Handle("GET /ready", n.hub.ReadyHandler()) // a node without its engine still serves its tabs
	mux.Handle("GET /ws", n.hub.Handler())
	mux.Handle("GET /hub.js", js.Handler())
	mux.HandleFunc("POST /api/key", n.issueKey)
	mux.HandleFunc("GET /control", noServers)
	mux.Handle("GET /", n.guarded(http.FileServerFS(page)))
	return mux
}

// noServers tells the page that it can start and end no servers. The front answers
// otherwise.
func noServers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte("[]")) // fails only if the page has disconnected
}

// guarded adds headers that allow the page to load only its own files, and to connect
// only to nodes.
func (n *node) guarded(next http.Handler) http.Handler {
	policy := fmt.Sprintf("default-src 'self'; connect-src 'self' http://%s:* ws://%[1]s:*; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'", n.host)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", policy)
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// checkOrigin reports whether a page may use this node. The page of another node may,
// and that of the front: their hosts are the same, and only the ports differ. A cluster
// with several hosts has a list of them in Config.AllowedOrigins instead.
func (n *node) checkOrigin(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true // not from a script of another page
	}
	u, err := url.Parse(origin)
	return err == nil && (u.Host == r.Host || u.Hostname() == n.host)
}

// report logs the error of an operation. It ignores the errors of a client or a hub
// that is closed: tabs may disconnect at any time.
func (n *node) report(operation string, err error) {
	if err == nil || errors.Is(err, websocket.ErrClientClosed) || errors.Is(err, websocket.ErrHubClosed) {
		return
	}
	n.log.Error("chat: "+operation, "error", err)
}

// encode returns v in JSON. The types of this program never fail to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
