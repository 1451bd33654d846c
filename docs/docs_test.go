package docs_test

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// timeout is how long a test waits for programs that are built first, on a
// machine that may be busy.
const timeout = 3 * time.Minute

// address is the address in the listings. The tests replace it.
const address = "localhost:8080"

var listings = regexp.MustCompile("(?s)<!-- file: (\\S+) -->\n```\\w+\n(.*?)```\n")

// listing returns a file from quickstart.md that connects to addr.
func listing(t *testing.T, name, addr string) string {
	t.Helper()
	document, err := os.ReadFile("quickstart.md")
	require.NoError(t, err)
	for _, found := range listings.FindAllStringSubmatch(string(document), -1) {
		if found[1] == name {
			return strings.ReplaceAll(found[2], address, addr)
		}
	}
	require.FailNow(t, "quickstart.md has no listing", name)
	return ""
}

// write writes a file below dir and returns its path.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// program is a command that runs until the test ends. If the test fails, its
// standard error is logged.
type program struct {
	cmd   *exec.Cmd
	lines chan string // lines of standard output; the reader closes it when the command ends
}

// start starts a command in dir.
func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &program{cmd: cmd, lines: make(chan string, 100)}
	var reading sync.WaitGroup
	reading.Go(func() { // returns when the program ends
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // fails if the program has ended
		go func() {            // returns when the reader closes lines
			for range p.lines { // discards the rest, so that the reader does not block
			}
		}()
		reading.Wait()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, stderr.String())
		}
	})
	return p
}

// waitForLine waits until the program prints the line want.
func (p *program) waitForLine(t *testing.T, want string) {
	t.Helper()
	late := time.After(timeout)
	for {
		select {
		case line, ok := <-p.lines:
			require.True(t, ok, "the program ended without printing %q", want)
			if line == want {
				return
			}
		case <-late:
			require.FailNow(t, "the program did not print", want)
		}
	}
}

// build builds a program from a listing and returns its path. It runs go build in
// this module, because the listing imports the module's packages.
func build(t *testing.T, dir, name, source string) string {
	t.Helper()
	out := filepath.Join(dir, strings.TrimSuffix(name, ".go"))
	cmd := exec.Command("go", "build", "-o", out, write(t, dir, name, source))
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return out
}

// serve runs the server of the first listing, with the page, and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close()) // the program listens on this address
	write(t, dir, "public/index.html", listing(t, "index.html", addr))
	start(t, dir, build(t, dir, "main.go", listing(t, "main.go", addr)))
	for deadline := time.Now().Add(timeout); ; {
		response, err := http.Get("http://" + addr + "/")
		if err == nil {
			_ = response.Body.Close()
			require.Equal(t, http.StatusOK, response.StatusCode)
			http.DefaultClient.CloseIdleConnections()
			return addr
		}
		require.True(t, time.Now().Before(deadline), "%v", err)
		<-time.After(20 * time.Millisecond)
	}
}

// subscriber is a client that is subscribed to the channel news.
type subscriber struct {
	*client.Client
	received chan string
}

func subscribe(t *testing.T, addr string) *subscriber {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	c, err := client.Dial(ctx, "ws://"+addr+"/ws", client.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	s := &subscriber{c, make(chan string, 100)}
	_, err = c.Subscribe(ctx, "news", func(m *websocket.Message) { s.received <- string(m.Data) })
	require.NoError(t, err)
	return s
}

// receive waits for the next message, which must be want.
func (s *subscriber) receive(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-s.received:
		require.Equal(t, want, got)
	case <-time.After(timeout):
		require.FailNow(t, "no message arrived", want)
	}
}

// publish publishes a message to news.
func (s *subscriber) publish(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	require.NoError(t, s.Publish(ctx, "news", []byte(text)))
}

func TestQuickStartGo(t *testing.T) {
	t.Parallel()
	addr := serve(t)
	s := subscribe(t, addr)
	// The test builds the program instead of using go run: killing go run would not
	// end the program.
	dir := t.TempDir()
	p := start(t, dir, build(t, dir, "news.go", listing(t, "news.go", addr)))
	s.receive(t, `"hello from Go"`)
	p.waitForLine(t, `"hello from Go"`)
	s.publish(t, `"and to you"`)
	p.waitForLine(t, `"and to you"`)
}

// node returns the directory of the ws package. It skips the test if node or ws is
// not installed.
func node(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed")
	}
	for _, dir := range []string{"../test/foreign/node_modules/ws", "../js/node_modules/ws"} {
		if path, err := filepath.Abs(dir); err == nil {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
	}
	t.Skip("the ws package is not installed: run npm ci in test/foreign")
	return ""
}

func TestQuickStartNode(t *testing.T) {
	t.Parallel()
	ws := node(t)
	addr := serve(t)
	s := subscribe(t, addr)
	dir := t.TempDir()
	hub, err := os.ReadFile("../js/dist/hub.js")
	require.NoError(t, err)
	write(t, dir, "hub.mjs", string(hub))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "node_modules"), 0o755))
	require.NoError(t, os.Symlink(ws, filepath.Join(dir, "node_modules/ws")))
	p := start(t, dir, "node", write(t, dir, "news.mjs", listing(t, "news.mjs", addr)))
	s.receive(t, `"hello from Node"`)
	p.waitForLine(t, "hello from Node")
	s.publish(t, `"and to you"`)
	p.waitForLine(t, "and to you")
}

// visitor is a script that is added to the page. It posts the page's list to /shown
// after each change, and submits the form once.
const visitor = `<script type="module">
  const list = document.querySelector("ul"), form = document.querySelector("form"), input = form.querySelector("input");
  const shown = () => [...list.children].map((item) => item.textContent).join(", ");
  new MutationObserver(() => fetch("/shown", { method: "POST", body: shown() })).observe(list, { childList: true });
  const say = () => {
    if (!form.onsubmit) return setTimeout(say, 20);
    input.value = "hello from a page";
    form.requestSubmit();
  };
  say();
</script>`

func TestQuickStartPage(t *testing.T) {
	t.Parallel()
	const chromium = "/usr/bin/chromium"
	if _, err := os.Stat(chromium); err != nil {
		t.Skip(chromium + " is not installed")
	}
	addr := serve(t)
	s := subscribe(t, addr)

	// A reverse proxy serves the program's page and appends the visitor to it.
	shown := make(chan string, 100)
	hub := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	hub.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // the browser is killed
	mux := http.NewServeMux()
	mux.Handle("GET /", hub)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(w, r)
		_, _ = io.WriteString(w, visitor) // if this fails, the test gets nothing on shown and fails
	})
	mux.HandleFunc("POST /shown", func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		shown <- string(text)
	})
	hub.ModifyResponse = func(r *http.Response) error {
		r.Header.Del("Content-Length") // the visitor makes the page longer
		return nil
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	profile, err := os.MkdirTemp("", "quickstart-") //nolint:usetesting // the test would fail with the removal of TempDir
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(profile) }) // fails if the browser still writes to it
	start(t, profile, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--user-data-dir="+profile, server.URL+"/")

	s.receive(t, `"hello from a page"`)
	s.publish(t, `"and to you"`)
	for late := time.After(timeout); ; {
		select {
		case text := <-shown:
			if text == "hello from a page, and to you" {
				return
			}
		case <-late:
			require.FailNow(t, "the page did not show both messages")
		}
	}
}

// handshake sends a handshake as a page of an origin does, and returns the status and
// the text of a refusal.
func handshake(t *testing.T, addr, origin string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/ws", nil)
	require.NoError(t, err)
	r.Header = http.Header{
		"Connection":             {"Upgrade"},
		"Upgrade":                {"websocket"},
		"Sec-Websocket-Version":  {"13"},
		"Sec-Websocket-Key":      {"AAAAAAAAAAAAAAAAAAAAAA=="},
		"Sec-Websocket-Protocol": {"json"},
		"Origin":                 {origin},
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusSwitchingProtocols {
		return response.StatusCode, ""
	}
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func TestQuickStartDevServer(t *testing.T) {
	t.Parallel()
	addr := serve(t)
	status, text := handshake(t, addr, "http://localhost:5173")
	require.Equal(t, http.StatusForbidden, status)
	require.Contains(t, text, `origin "http://localhost:5173" is not allowed`)

	// Like Vite without changeOrigin, this proxy keeps the Host header.
	proxy := httptest.NewServer(httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr}))
	t.Cleanup(proxy.Close)
	status, text = handshake(t, proxy.Listener.Addr().String(), proxy.URL)
	require.Equal(t, http.StatusSwitchingProtocols, status, text)
}
