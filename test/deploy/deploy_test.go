// Package deploy runs the files of docs/deploy.md. It needs nginx, haproxy and caddy, and
// Linux, where all of 127.0.0.0/8 are addresses of the machine.
package deploy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for other processes on a machine that may be busy.
const patience = 2 * time.Minute

// The scaled times. shortPeriod is a PING_PERIOD with which the hub pings often enough for
// proxyTimeout, as 54 s does for the 75 s of the document; longPeriod is one with which it
// does not.
const (
	proxyTimeout = "8s"
	shortPeriod  = "1s"
	longPeriod   = "54s"
	pings        = 10 // of shortPeriod: together more than proxyTimeout
)

// clientAddress is the address of the test's clients. Proxies connect from 127.0.0.1.
const clientAddress = "127.0.0.2"

var listings = regexp.MustCompile("(?s)<!-- file: (\\S+) -->\n```\\w+\n(.*?)```\n")

// listing returns a file of the document, with replacements.
func listing(t *testing.T, name string, replacements ...string) string {
	t.Helper()
	document, err := os.ReadFile("../../docs/deploy.md")
	require.NoError(t, err)
	for _, found := range listings.FindAllStringSubmatch(string(document), -1) {
		if found[1] != name {
			continue
		}
		for i := 0; i < len(replacements); i += 2 {
			require.Contains(t, found[2], replacements[i], name)
		}
		return strings.NewReplacer(replacements...).Replace(found[2])
	}
	require.FailNow(t, "no listing in the document", name)
	return ""
}

// write writes a file and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// program builds the program of the document with the command of the Dockerfile.
var program = sync.OnceValues(func() (string, error) {
	document, err := os.ReadFile("../../docs/deploy.md")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "deploy") // removed by TestMain
	if err != nil {
		return "", err
	}
	binary, source := filepath.Join(dir, "hub"), filepath.Join(dir, "main.go")
	var code []byte
	command := ""
	for _, found := range listings.FindAllStringSubmatch(string(document), -1) {
		switch found[1] {
		case "main.go":
			code = []byte(found[2])
		case "Dockerfile":
			_, rest, _ := strings.Cut(found[2], "RUN CGO_ENABLED=0 ")
			command, _, _ = strings.Cut(rest, "\n")
		}
	}
	if err := os.WriteFile(source, code, 0o644); err != nil {
		return "", err
	}
	args := strings.Fields(strings.NewReplacer("-o /hub", "-o "+binary, " .", " "+source).Replace(command))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", command, err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// process is a program that runs until the test ends.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended

	mu      sync.Mutex
	output  []string
	changed chan struct{} // closed and replaced with each line
}

// start starts a program.
func start(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err, "apt-get install nginx haproxy caddy")
	p := &process{cmd: exec.Command(path, args...), ended: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p.cmd.Stdout, p.cmd.Stderr = w, w
	require.NoError(t, p.cmd.Start())
	require.NoError(t, w.Close())
	go func() { // returns when the program and its children have ended
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			p.output = append(p.output, lines.Text())
			close(p.changed)
			p.changed = make(chan struct{})
			p.mu.Unlock()
		}
		_ = p.cmd.Wait() // ProcessState has the result
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		timer := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
		defer timer.Stop()
		<-p.ended
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("output of %s:\n%s", name, strings.Join(p.output, "\n"))
		}
	})
	return p
}

// await waits for a line of output that contains text.
func (p *process) await(t *testing.T, text string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		p.mu.Lock()
		changed := p.changed
		for _, line := range p.output {
			if strings.Contains(line, text) {
				p.mu.Unlock()
				return line
			}
		}
		p.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			require.FailNow(t, "no line of output", text)
		}
	}
}

// count returns the number of lines of output that contain all texts.
func (p *process) count(texts ...string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range p.output {
		if !slices.ContainsFunc(texts, func(text string) bool { return !strings.Contains(line, text) }) {
			n++
		}
	}
	return n
}

// freePort returns a port of the loopback interface that no program uses.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// status returns the status of a path, or 0 if there is no response.
func status(url string) int {
	response, err := http.Get(url)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

// awaitStatus waits for a status of a path.
func awaitStatus(t *testing.T, url string, want int) {
	t.Helper()
	require.Eventually(t, func() bool { return status(url) == want }, patience, 20*time.Millisecond, "%s: want %d", url, want)
}

// node is the program of the document.
type node struct {
	*process
	port string
}

func startNode(t *testing.T, period string) *node {
	t.Helper()
	binary, err := program()
	require.NoError(t, err)
	n := &node{port: freePort(t)}
	n.process = start(t, []string{
		"LISTEN=127.0.0.1:" + n.port, "TRUSTED_PROXIES=127.0.0.1", "PING_PERIOD=" + period, "DRAIN_WINDOW=5s", "ALLOWED_ORIGINS=",
	}, binary)
	awaitStatus(t, "http://127.0.0.1:"+n.port+"/ready", 200)
	require.Equal(t, 200, status("http://127.0.0.1:"+n.port+"/live"))
	return n
}

// clients returns the number of clients that have connected to a node.
func (n *node) clients() int { return n.count("INFO connected") }

// dial connects through a proxy from clientAddress.
func dial(port, origin string, header http.Header) (*gorilla.Conn, *http.Response, error) {
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Set("Origin", origin)
	d := gorilla.Dialer{NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(clientAddress)}}).DialContext(ctx, network, addr)
	}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return d.DialContext(ctx, "ws://127.0.0.1:"+port+"/ws", header)
}

// connect connects a client of the proxy's own page.
func connect(t *testing.T, port string) *gorilla.Conn {
	t.Helper()
	ws, response, err := dial(port, "http://127.0.0.1:"+port, nil)
	require.NoError(t, err, "%+v", response)
	t.Cleanup(func() { _ = ws.Close() }) // tests may have closed it
	return ws
}

// proxy is a reverse proxy in front of two nodes. Its start returns its port.
type proxy struct {
	name    string
	start   func(t *testing.T, a, b string) (*process, string)
	idles   bool   // it cuts off silent connections
	noticed string // in its output when a node has become unready, or ""
}

var proxies = []proxy{
	{"nginx", func(t *testing.T, a, b string) (*process, string) {
		dir, port := t.TempDir(), freePort(t)
		site := write(t, dir, "hub.conf", listing(t, "nginx.conf",
			"listen 8080;", "listen 127.0.0.1:"+port+";", "127.0.0.1:8081", "127.0.0.1:"+a, "127.0.0.1:8082", "127.0.0.1:"+b, "75s", proxyTimeout))
		main := fmt.Sprintf(`daemon off; worker_processes 1; pid %[1]s/pid; error_log stderr info;
events { worker_connections 100; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
include %[2]s; }`, dir, site)
		return start(t, nil, "nginx", "-p", dir, "-e", "stderr", "-c", write(t, dir, "nginx.conf", main)), port
	}, true, ""},
	{"haproxy", func(t *testing.T, a, b string) (*process, string) {
		port := freePort(t)
		config := listing(t, "haproxy.cfg", "bind :8080", "bind 127.0.0.1:"+port, "127.0.0.1:8081", "127.0.0.1:"+a, "127.0.0.1:8082", "127.0.0.1:"+b,
			"75s", proxyTimeout, "maxconn 110000", "maxconn 100")
		return start(t, nil, "haproxy", "-db", "-f", write(t, t.TempDir(), "haproxy.cfg", config)), port
	}, true, "Server hub/a is DOWN, reason: Layer7 wrong status, code: 503"},
	{"caddy", func(t *testing.T, a, b string) (*process, string) {
		dir, port := t.TempDir(), freePort(t)
		config := "{\n\tadmin off\n}\n" + listing(t, "Caddyfile", ":8080 {", "http://127.0.0.1:"+port+" {", "127.0.0.1:8081", "127.0.0.1:"+a, "127.0.0.1:8082", "127.0.0.1:"+b)
		return start(t, []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}, "caddy", "run", "--adapter", "caddyfile", "--config", write(t, dir, "Caddyfile", config)), port
	}, false, "status code out of tolerances"},
}

func TestProxies(t *testing.T) {
	for _, p := range proxies {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t)
		})
	}
}

func (p proxy) test(t *testing.T) {
	a, b := startNode(t, shortPeriod), startNode(t, shortPeriod)
	running, port := p.start(t, a.port, b.port)
	awaitStatus(t, "http://127.0.0.1:"+port+"/ready", 200)

	// Origin and Host.
	_, response, err := dial(port, "http://evil.test", nil)
	require.Error(t, err)
	require.NotNil(t, response)
	require.Equal(t, http.StatusForbidden, response.StatusCode)

	// The client's address. The client writes an X-Forwarded-For of its own.
	forged, _, err := dial(port, "http://127.0.0.1:"+port, http.Header{"X-Forwarded-For": {"203.0.113.9"}})
	require.NoError(t, err)
	defer forged.Close()
	require.Eventually(t, func() bool { return a.clients()+b.clients() == 1 }, patience, time.Millisecond)
	require.Equal(t, 1, a.count("INFO connected", "address="+clientAddress)+b.count("INFO connected", "address="+clientAddress))

	// Both nodes get clients, and idle ones live on because of the pings.
	for a.clients() == 0 || b.clients() == 0 {
		before := a.clients() + b.clients()
		require.Less(t, before, 50)
		connect(t, port)
		require.Eventually(t, func() bool { return a.clients()+b.clients() > before }, patience, time.Millisecond)
	}
	idle := connect(t, port)
	received := 0
	idle.SetPingHandler(func(data string) error {
		if received++; received == pings { // the connection still works in both directions
			return idle.WriteMessage(gorilla.TextMessage, []byte(`{"type":"hub:ping","id":"1"}`))
		}
		return idle.WriteControl(gorilla.PongMessage, []byte(data), time.Now().Add(patience))
	})
	_, reply, err := idle.ReadMessage()
	require.NoError(t, err)
	require.Contains(t, string(reply), `"id":"1"`)

	// SIGTERM to a node: all its clients are sent away, the others stay.
	closed := make(chan error, 1)
	onA := connectTo(t, port, a, b)
	go func() { // ends when the node has closed the connection
		_, _, err := onA.ReadMessage()
		closed <- err
	}()
	require.NoError(t, a.cmd.Process.Signal(syscall.SIGTERM))
	require.Eventually(t, func() bool { // handshakes through the proxy succeed, at once or after the next check
		ws, _, err := dial(port, "http://127.0.0.1:"+port, nil)
		if err == nil {
			_ = ws.Close()
		}
		return err == nil
	}, patience, 20*time.Millisecond)
	if p.noticed != "" {
		running.await(t, p.noticed)
	}
	for range 5 {
		connect(t, port)
	}
	select {
	case err := <-closed:
		require.True(t, gorilla.IsCloseError(err, websocket.CloseServiceRestart), "%v", err)
	case <-time.After(patience):
		require.FailNow(t, "the client of the node is still connected")
	}
	<-a.ended
	require.True(t, a.cmd.ProcessState.Success(), "%v", a.cmd.ProcessState)
	a.await(t, "drained")
	connect(t, port)
}

// connectTo connects clients until one is on node a.
func connectTo(t *testing.T, port string, a, b *node) *gorilla.Conn {
	t.Helper()
	for range 50 {
		onA, both := a.clients(), a.clients()+b.clients()
		ws := connect(t, port)
		require.Eventually(t, func() bool { return a.clients()+b.clients() > both }, patience, time.Millisecond)
		if a.clients() > onA {
			return ws
		}
	}
	require.FailNow(t, "no client comes to the node")
	return nil
}

// TestTimeoutWithoutPings checks that the times in TestProxies mean something: the proxies
// do cut off silent connections.
func TestTimeoutWithoutPings(t *testing.T) {
	for _, p := range proxies {
		if !p.idles {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, longPeriod)
			_, port := p.start(t, n.port, n.port)
			awaitStatus(t, "http://127.0.0.1:"+port+"/ready", 200)
			_, _, err := connect(t, port).ReadMessage() // hangs if nothing cuts the connection off
			require.Error(t, err)
			require.ErrorContains(t, err, "EOF")
		})
	}
}
