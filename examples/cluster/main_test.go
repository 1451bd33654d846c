package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestMain makes the test binary the program that the cluster starts for its servers.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == "node" || os.Args[1] == "engine") {
		main()
		return
	}
	os.Exit(m.Run())
}

const patience = 30 * time.Second

// within returns a context with a timeout.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a condition holds.
func eventually(t *testing.T, condition func() bool, what ...any) {
	t.Helper()
	require.Eventually(t, condition, patience, 10*time.Millisecond, what...)
}

// start starts a cluster of three nodes and its front. stop may be called before the end
// of the test.
func start(t *testing.T, dir, engine string) (c *cluster, front string, stop func()) {
	t.Helper()
	c, err := newCluster(options{host: "127.0.0.1", nodes: 3, dir: dir, engine: engine, announce: 200 * time.Millisecond, window: 200 * time.Millisecond, log: io.Discard})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.serve(ctx, listener) }() // returns after stop
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	t.Cleanup(stop)
	for _, n := range c.nodes {
		eventually(t, func() bool {
			status, health := get(t, n.url+"/ready")
			return status == http.StatusOK && strings.Contains(health, `"broker":"up"`)
		})
	}
	return c, listener.Addr().String(), stop
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	require.NoError(t, err)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.NoError(t, r.Body.Close())
	return r.StatusCode, string(body)
}

// tab is a client like the page, with all that it has received.
type tab struct {
	*client.Client
	name string
	room *client.Subscription

	mu    sync.Mutex // guards the fields below
	lines []string
	gaps  []websocket.Gap
	node  string
	nodes []string
}

// open opens a tab at one of the nodes. When it loses the connection, it tries that node
// again, and then the others if it moves.
func (c *cluster) open(t *testing.T, name, codec string, node int, moves bool, begin ...client.SubscribeOption) *tab {
	t.Helper()
	b := &tab{name: name}
	var err error
	b.Client, err = client.Dial(within(t), "ws://"+c.nodes[node].addr()+"/ws?tab="+name+"&name="+name, client.Options{
		Codec: codec, BackoffMin: 10 * time.Millisecond, BackoffMax: 200 * time.Millisecond, OnGap: b.lost, OnMessage: b.told,
		NetDial: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			for i := range c.nodes {
				if moves {
					addr = c.nodes[(node+i)%len(c.nodes)].addr()
				}
				if conn, err = new(net.Dialer).DialContext(ctx, network, addr); err == nil {
					break
				}
			}
			return conn, err
		},
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.Close() })
	b.room, err = b.JoinRoom(within(t), "lobby", b.received, append(begin, client.OnPresence(nil))...)
	require.NoError(t, err)
	return b
}

func (b *tab) received(m *websocket.Message) {
	var data stamped
	err := json.Unmarshal(m.Data, &data)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.lines = append(b.lines, err.Error())
		return
	}
	b.lines = append(b.lines, data.Name+": "+data.Text)
}

func (b *tab) lost(gap websocket.Gap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if gap.All || gap.RoomID == "lobby" {
		b.gaps = append(b.gaps, gap)
	}
}

// told gets the messages to the tab alone.
func (b *tab) told(m *websocket.Message) {
	var list nodeList
	if m.Type != "nodes" || json.Unmarshal(m.Data, &list) != nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.node, b.nodes = list.Node, list.Nodes
}

// at returns the node to which the tab is connected.
func (b *tab) at() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.node
}

func (b *tab) got() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

func (b *tab) gapsSoFar() []websocket.Gap {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.gaps)
}

// say publishes a text. While the engine is away, the client publishes again with the same
// key.
func (b *tab) say(ctx context.Context, text string) error {
	return b.PublishRoom(ctx, "lobby", encode(said{text}), client.Key(b.name+" "+text))
}

// talk says numbered texts one after the other until stop is called, which returns them.
func (b *tab) talk(t *testing.T) (stop func() []string) {
	end := make(chan struct{})
	ended := make(chan error, 1)
	var texts []string
	ctx := within(t)
	go func() { // returns after stop, or with ctx
		defer close(ended)
		for i := 1; ; i++ {
			select {
			case <-end:
				return
			default:
			}
			text := fmt.Sprint(i)
			if err := b.say(ctx, text); err != nil {
				ended <- fmt.Errorf("%s says %s: %w", b.name, text, err)
				return
			}
			texts = append(texts, b.name+": "+text)
		}
	}()
	return func() []string {
		close(end)
		require.NoError(t, <-ended)
		return texts
	}
}

// sees waits until the members that the tab knows are exactly these, as "name at node".
func (b *tab) sees(t *testing.T, wanted ...string) {
	t.Helper()
	slices.Sort(wanted)
	var got []string
	if !waitUntil(func() bool {
		got = got[:0]
		for _, m := range b.room.Members() {
			var info struct{ Name string }
			_ = json.Unmarshal(m.Info, &info) // an empty name is unequal
			got = append(got, info.Name+" at "+m.Node)
		}
		slices.Sort(got)
		return slices.Equal(wanted, got)
	}) {
		require.Equal(t, wanted, got, "the members that %s sees", b.name)
	}
}

// waitUntil reports whether a condition holds in time.
func waitUntil(condition func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end); <-tick.C {
		if condition() {
			return true
		}
	}
	return false
}

// requireSame waits until all tabs have these lines, in any order, and requires that each
// tab has each line once, in the same order as the others, and no gap.
func requireSame(t *testing.T, lines []string, tabs ...*tab) {
	t.Helper()
	slices.Sort(lines)
	for _, b := range tabs {
		_ = waitUntil(func() bool { return len(b.got()) >= len(lines) }) // compared below
		got := b.got()
		require.Equal(t, tabs[0].got(), got, "%s and %s have the same order", tabs[0].name, b.name)
		slices.Sort(got)
		require.Equal(t, lines, got, "what %s has", b.name)
		require.Empty(t, b.gapsSoFar(), b.name)
	}
}

// history reads the room at every node, and requires that it is everywhere the same.
func (c *cluster) history(t *testing.T) (lines []string) {
	t.Helper()
	for i := range c.nodes {
		reader := c.open(t, fmt.Sprint("Reader", i), "json", i, false, client.Since(websocket.Position{}))
		resumed := reader.room.Resumed()
		eventually(t, func() bool { return len(reader.got()) >= resumed.Replayed })
		if i == 0 {
			lines = reader.got()
		}
		require.Equal(t, lines, reader.got())
		require.NoError(t, reader.Close())
	}
	return lines
}

func TestNATS(t *testing.T) {
	testAcrossNodes(t, t.TempDir(), "")
}

func TestRedis(t *testing.T) {
	testAcrossNodes(t, "", startRedis(t))
}

// startRedis starts a Redis server and returns its URL.
func startRedis(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	server := exec.Command(program, "--bind", host, "--port", port, "--save", "", "--dir", t.TempDir())
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	return "redis://" + net.JoinHostPort(host, port)
}

// TestNodesByEnvironment runs two nodes as a container would, and drains one of them.
func TestNodesByEnvironment(t *testing.T) {
	t.Run("Redis", func(t *testing.T) { testByEnvironment(t, startRedis(t)) })
	t.Run("NATS", func(t *testing.T) {
		engine := &server{name: "engine", log: io.Discard, args: func(*server) []string {
			return []string{"engine", "-child", "-listen", "127.0.0.1:0", "-dir", t.TempDir()}
		}}
		require.NoError(t, engine.start())
		t.Cleanup(func() { require.NoError(t, engine.end(false)) })
		testByEnvironment(t, engine.url)
	})
}

func testByEnvironment(t *testing.T, engine string) {
	c := &cluster{}
	logs := make([]bytes.Buffer, 2) // may be read when the node has ended
	for i := range logs {
		n := &server{name: fmt.Sprint("node ", i+1), log: &logs[i], args: func(*server) []string { return []string{"node"} }, env: []string{
			"CLUSTER_ADDR=127.0.0.1:0", "CLUSTER_ENGINE=" + engine, "CLUSTER_ANNOUNCE=200ms", "CLUSTER_WINDOW=200ms",
			secretVariable + "=" + strings.Repeat("5a", 32),
		}}
		require.NoError(t, n.start())
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			_ = n.process.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
			<-n.process.ended
		}
	})
	for _, n := range c.nodes {
		eventually(t, func() bool {
			status, health := get(t, n.url+"/ready")
			return status == http.StatusOK && strings.Contains(health, `"broker":"up"`)
		})
		status, _ := get(t, n.url+"/live")
		require.Equal(t, http.StatusOK, status)
	}
	ann, bob := c.open(t, "Ann", "json", 0, true), c.open(t, "Bob", "json", 1, false)
	bob.sees(t, "Ann at "+c.nodes[0].addr(), "Bob at "+c.nodes[1].addr())
	_, metrics := get(t, c.nodes[0].url+"/metrics")
	require.Contains(t, metrics, "\nwebsocket_connections 1\n")

	stop, stop2 := ann.talk(t), bob.talk(t)
	eventually(t, func() bool { return len(ann.got()) > 20 })
	require.NoError(t, c.nodes[0].process.cmd.Process.Signal(syscall.SIGTERM))
	before := len(bob.got())
	eventually(t, func() bool { return ann.at() == c.nodes[1].addr() && len(bob.got()) > before+20 })
	<-c.nodes[0].process.ended
	require.True(t, c.nodes[0].process.cmd.ProcessState.Success())
	require.Contains(t, logs[0].String(), "drained")
	requireSame(t, append(stop(), stop2()...), ann, bob)
}

// testAcrossNodes tests history, order and presence across nodes.
func testAcrossNodes(t *testing.T, dir, engine string) {
	c, _, _ := start(t, dir, engine)
	var tabs []*tab
	var here []string
	for i, codec := range []string{"json", "protobuf", "msgpack"} {
		b := c.open(t, fmt.Sprint("Ann", i), codec, i, false)
		tabs = append(tabs, b)
		here = append(here, b.name+" at "+c.nodes[i].addr())
	}
	for _, b := range tabs {
		b.sees(t, here...)
	}
	var stops []func() []string
	for _, b := range tabs {
		stops = append(stops, b.talk(t))
	}
	eventually(t, func() bool { return len(tabs[0].got()) > 100 })
	var all []string
	for _, stop := range stops {
		all = append(all, stop()...)
	}
	requireSame(t, all, tabs...)
	require.Equal(t, tabs[0].got(), c.history(t))
}

func TestClientMovesWithoutLoss(t *testing.T) {
	c, _, _ := start(t, t.TempDir(), "")
	stays, moves := c.open(t, "Bob", "json", 0, false), c.open(t, "Ann", "protobuf", 1, true)
	stop, stop2 := stays.talk(t), moves.talk(t)
	for _, command := range []string{"stop", "kill"} {
		from := moves.at()
		i := slices.IndexFunc(c.nodes, func(n *server) bool { return n.addr() == from })
		require.Positive(t, i, "%q is the node of Ann, and not that of Bob", from)
		before := len(moves.got())
		require.NoError(t, c.run(command, fmt.Sprint(i+1)))
		eventually(t, func() bool { return moves.at() != from && len(moves.got()) > before+20 })
		stays.sees(t, "Bob at "+c.nodes[0].addr(), "Ann at "+moves.at())
		require.NoError(t, c.run("start", fmt.Sprint(i+1)))
		if command == "stop" && moves.at() == c.nodes[0].addr() {
			moves.Reconnect()
			eventually(t, func() bool { return moves.at() == from })
		}
	}
	requireSame(t, append(stop(), stop2()...), stays, moves)
}

func TestMembersOfKilledNodeLeave(t *testing.T) {
	c, _, _ := start(t, t.TempDir(), "")
	ann, bob := c.open(t, "Ann", "json", 0, false), c.open(t, "Bob", "json", 1, false)
	cy := c.open(t, "Cy", "json", 2, false)
	at := func(b *tab, i int) string { return b.name + " at " + c.nodes[i].addr() }
	for _, b := range []*tab{ann, bob, cy} {
		b.sees(t, at(ann, 0), at(bob, 1), at(cy, 2))
	}
	require.NoError(t, c.run("kill", "3"))
	require.NoError(t, ann.say(within(t), "without Cy"))
	ann.sees(t, at(ann, 0), at(bob, 1))
	bob.sees(t, at(ann, 0), at(bob, 1))
	require.NoError(t, c.run("start", "3"))
	for _, b := range []*tab{ann, bob, cy} { // Cy comes back to its node
		b.sees(t, at(ann, 0), at(bob, 1), at(cy, 2))
	}
	requireSame(t, []string{"Ann: without Cy"}, ann, bob, cy)
}

func TestEngineKilled(t *testing.T) {
	c, _, _ := start(t, t.TempDir(), "")
	ann, bob := c.open(t, "Ann", "json", 0, false), c.open(t, "Bob", "msgpack", 1, false)
	here := []string{"Ann at " + c.nodes[0].addr(), "Bob at " + c.nodes[1].addr()}
	bob.sees(t, here...)
	stop, stop2 := ann.talk(t), bob.talk(t)
	var all []string
	for round := range 3 {
		before := len(ann.got())
		eventually(t, func() bool { return len(ann.got()) > before+20 })
		require.NoError(t, c.run("kill", "engine"))
		late := fmt.Sprint("late ", round)
		eventually(t, func() bool {
			ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
			defer cancel()
			var refused *client.Error
			return errors.As(bob.say(ctx, late), &refused) && refused.Code == client.CodeUnavailable
		}, "publishing fails")
		status, health := get(t, c.nodes[0].url+"/ready")
		require.Equal(t, http.StatusOK, status, "a node without its engine still serves its tabs")
		require.Contains(t, health, `"broker":"down"`)
		require.NoError(t, c.run("start", "engine"))
		require.NoError(t, bob.say(within(t), late), "the engine may have kept it when it was killed")
		all = append(all, "Bob: "+late)
	}
	all = append(append(all, stop()...), stop2()...)
	requireSame(t, all, ann, bob)
	ann.sees(t, here...)
	bob.sees(t, here...)
	require.Equal(t, ann.got(), c.history(t))
}

func TestHistorySurvivesRestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	c, _, stop := start(t, dir, "")
	ann := c.open(t, "Ann", "json", 0, false)
	for i := range 20 {
		require.NoError(t, ann.say(within(t), fmt.Sprint(i)))
	}
	eventually(t, func() bool { return len(ann.got()) == 20 })
	position, before := ann.room.Position(), ann.got()
	require.NoError(t, ann.Close())
	stop()

	c, _, _ = start(t, dir, "")
	require.Equal(t, before, c.history(t))
	ann = c.open(t, "Ann", "json", 2, false, client.Since(position))
	require.True(t, ann.room.Resumed().Complete)
	require.NoError(t, ann.say(within(t), "19"), "it is published already")
	require.NoError(t, ann.say(within(t), "new"))
	requireSame(t, []string{"Ann: new"}, ann)
}

func TestPageKeysAndHealthFromAnyNode(t *testing.T) {
	c, front, _ := start(t, t.TempDir(), "")
	for _, path := range []string{"/", "/page.js", "/hub.js", "/page.css", "/live", "/ready", "/metrics"} {
		for _, host := range []string{front, c.nodes[0].addr(), c.nodes[1].addr(), c.nodes[2].addr()} {
			status, _ := get(t, "http://"+host+path)
			require.Equal(t, http.StatusOK, status, path)
		}
	}
	post := func(host, origin string) (*http.Response, []byte) {
		r, err := http.NewRequestWithContext(within(t), http.MethodPost, "http://"+host+"/api/key", nil)
		require.NoError(t, err)
		r.Header.Set("Origin", origin)
		response, err := http.DefaultClient.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response, body
	}
	response, _ := post(c.nodes[0].addr(), "http://example.com")
	require.Equal(t, http.StatusForbidden, response.StatusCode)
	response, body := post(c.nodes[0].addr(), c.nodes[1].url)
	require.Equal(t, c.nodes[1].url, response.Header.Get("Access-Control-Allow-Origin"))
	var issued struct {
		Ticket string
		sealKeys
	}
	require.NoError(t, json.Unmarshal(body, &issued))
	for i, n := range c.nodes {
		dial := func(ticket string) error {
			sealed, err := client.Dial(within(t), "ws://"+n.addr()+"/ws?name=Dee", client.Options{
				Header:      http.Header{"Origin": {"http://" + front}},
				TokenSource: client.StaticToken(ticket),
				Security:    websocket.NewSecurityConfig(issued.AES, issued.HMAC),
			})
			if err == nil {
				err = sealed.Close()
			}
			return err
		}
		require.NoError(t, dial(issued.Ticket), "node %d", i)
		require.Error(t, dial("x"+issued.Ticket))
	}
	_, err := client.Dial(within(t), "ws://"+c.nodes[0].addr()+"/ws", client.Options{Header: http.Header{"Origin": {"http://example.com"}}})
	var refused *client.DialError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, http.StatusForbidden, refused.StatusCode)

	for i := range c.nodes {
		require.NoError(t, c.run("stop", fmt.Sprint(i+1)))
	}
	status, _ := get(t, "http://"+front+"/")
	require.Equal(t, http.StatusServiceUnavailable, status)
}

// The front asks another node if one drains.
func TestFrontAvoidsDrainingNode(t *testing.T) {
	serve := func(status int) *server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		t.Cleanup(s.Close)
		return &server{url: s.URL}
	}
	status := func(method string, nodes ...*server) int {
		w := httptest.NewRecorder()
		(&cluster{nodes: nodes}).front().ServeHTTP(w, httptest.NewRequest(method, "/", nil))
		return w.Code
	}
	draining, works := serve(http.StatusServiceUnavailable), serve(http.StatusOK)
	require.Equal(t, http.StatusOK, status("GET", works, draining, draining))
	require.Equal(t, http.StatusOK, status("GET", draining, draining, works))
	require.Equal(t, http.StatusServiceUnavailable, status("GET", draining, draining))
	require.Equal(t, http.StatusServiceUnavailable, status("POST", works, draining), "its body is read")
}

func TestCommands(t *testing.T) {
	c, front, _ := start(t, t.TempDir(), "")
	var out bytes.Buffer
	c.runCommands(strings.NewReader("list\nstop 9\nstop 3\nstop 3\njump 1\n\nkill\nlist\n"), &out)
	for _, text := range []string{"node 3: " + c.nodes[2].url + ", running", `no server "9"`, "node 3 is not running", `no command "jump"`, `no server ""`, "node 3: " + c.nodes[2].url + ", stopped"} {
		require.Contains(t, out.String(), text)
	}
	do := func(command, name string) (int, string) {
		response, err := http.Post("http://"+front+"/control?command="+command+"&name="+name, "", nil)
		require.NoError(t, err)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode, string(body)
	}
	status, text := do("start", "3")
	require.Equal(t, http.StatusNoContent, status, text)
	status, text = do("start", "3")
	require.Equal(t, http.StatusConflict, status, text)
	require.Contains(t, text, "node 3 is running")
	_, text = get(t, "http://"+front+"/control")
	require.NotContains(t, text, "stopped")
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{"jump"}, {"-nodes", "0"}, {"-nodes", "x"}, {"-dir", ""}, {"-engine", "http://localhost"}, {"-engine", "redis://localhost/x"}, {"-addr", "8080"},
		{"-addr", ":8080"}, {"-addr", "0.0.0.0:8080"}, {"-announce", "0"}, {"-jump"}, {"more"}, {"-nodes", "3", "more"},
		{"node"}, {"node", "-engine", "nats://localhost", "-window", "-1s"}, {"node", "-engine", "nats://localhost", "-proxies", "proxy"},
		{"-window", "1h"}, {"node", "-engine", "nats://localhost", "-addr", "x"}, {"engine", "-listen", "x"}, {"engine", "more"},
	} {
		require.ErrorIs(t, run(args), errUsage, args)
	}
	t.Setenv("CLUSTER_ANNOUNCE", "soon")
	require.ErrorIs(t, run([]string{"node", "-engine", "nats://localhost", "-addr", "localhost:0"}), errUsage)
	t.Setenv("CLUSTER_ANNOUNCE", "")
	t.Setenv("CLUSTER_ENGINE", "nats://localhost")
	t.Setenv(secretVariable, "x")
	require.ErrorContains(t, run([]string{"node", "-addr", "localhost:0"}), secretVariable)
}
