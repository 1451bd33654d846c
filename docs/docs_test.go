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

// patience is how long a test waits for programs that are built first, on a
// machine that has other things to do.
const patience = 3 * time.Minute

// address is what the listings connect to. The tests put another one in its place.
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
	require.FailNow(t, "no such listing", name)
	return ""
}

// write puts a file into a directory of the test's.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	return path
}

// program runs a command until the test ends. Its output is shown where the
// test fails.
type program struct {
	cmd   *exec.Cmd
	lines chan string // of standard output; closed when it ends
}

func start(t *testing.T, dir, name string, args ...string) *program {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	p := &program{cmd: cmd, lines: make(chan string, 100)}
	var reading sync.WaitGroup
	reading.Go(func() { // ends with the program
		defer close(p.lines)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			p.lines <- lines.Text()
		}
	})
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		go func() {            // ends with reading
			for range p.lines { // makes room for what nobody reads
			}
		}()
		reading.Wait()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", name, log.String())
		}
	})
	return p
}

// says waits for a line of output.
func (p *program) says(t *testing.T, want string) {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case line, ok := <-p.lines:
			require.True(t, ok, "ended without saying %q", want)
			if line == want {
				return
			}
		case <-late:
			require.FailNow(t, "never said", want)
		}
	}
}

// build makes a program of a listing. It is built inside this module, whose
// packages it imports.
func build(t *testing.T, dir, name, source string) string {
	t.Helper()
	out := filepath.Join(dir, strings.TrimSuffix(name, ".go"))
	cmd := exec.Command("go", "build", "-o", out, write(t, dir, name, source))
	output, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", output)
	return out
}

// serve runs the hub of the first listing, with the page, and returns its address.
func serve(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := l.Addr().String()
	require.NoError(t, l.Close()) // free for the program
	write(t, dir, "public/index.html", listing(t, "index.html", addr))
	start(t, dir, build(t, dir, "main.go", listing(t, "main.go", addr)))
	for deadline := time.Now().Add(patience); ; {
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

// listener is a client that hears what is said.
type listener struct {
	*client.Client
	heard chan string
}

func listen(t *testing.T, addr string) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	c, err := client.Dial(ctx, "ws://"+addr+"/ws", client.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = c.Close() })
	l := &listener{c, make(chan string, 100)}
	require.NoError(t, c.Subscribe(ctx, "news", func(m *websocket.Message) { l.heard <- string(m.Data) }))
	return l
}

func (l *listener) hears(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-l.heard:
		require.Equal(t, want, got)
	case <-time.After(patience):
		require.FailNow(t, "never heard", want)
	}
}

func (l *listener) say(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	require.NoError(t, l.Publish(ctx, "news", []byte(text)))
}

func TestQuickStartGo(t *testing.T) {
	t.Parallel()
	addr := serve(t)
	l := listen(t, addr)
	// As go run does, which cannot be told to end its program with it.
	dir := t.TempDir()
	p := start(t, dir, build(t, dir, "news.go", listing(t, "news.go", addr)))
	l.hears(t, `"hello from Go"`)
	p.says(t, `"hello from Go"`)
	l.say(t, `"and to you"`)
	p.says(t, `"and to you"`)
}

// node returns the directory of the ws package, or skips.
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
	l := listen(t, addr)
	dir := t.TempDir()
	hub, err := os.ReadFile("../js/hub.js")
	require.NoError(t, err)
	write(t, dir, "hub.mjs", string(hub))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "node_modules"), 0o755))
	require.NoError(t, os.Symlink(ws, filepath.Join(dir, "node_modules/ws")))
	p := start(t, dir, "node", write(t, dir, "news.mjs", listing(t, "news.mjs", addr)))
	l.hears(t, `"hello from Node"`)
	p.says(t, "hello from Node")
	l.say(t, `"and to you"`)
	p.says(t, "and to you")
}

// visitor stands beside the page: it tells what the page shows, and uses its form.
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
	l := listen(t, addr)

	// All comes from the hub's program but the visitor, which is added to the page.
	shown := make(chan string, 100)
	hub := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: addr})
	hub.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // the browser is killed
	mux := http.NewServeMux()
	mux.Handle("GET /", hub)
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		hub.ServeHTTP(w, r)
		_, _ = io.WriteString(w, visitor) // without it nothing is shown, which is noticed
	})
	mux.HandleFunc("POST /shown", func(_ http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		shown <- string(text)
	})
	hub.ModifyResponse = func(r *http.Response) error {
		r.Header.Del("Content-Length") // it grows
		return nil
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	profile, err := os.MkdirTemp("", "quickstart-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(profile) }) // the browser may still be at work there
	start(t, profile, chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--user-data-dir="+profile, server.URL+"/")

	l.hears(t, `"hello from a page"`)
	l.say(t, `"and to you"`)
	for late := time.After(patience); ; {
		select {
		case text := <-shown:
			if text == "hello from a page, and to you" {
				return
			}
		case <-late:
			require.FailNow(t, "never shown")
		}
	}
}
