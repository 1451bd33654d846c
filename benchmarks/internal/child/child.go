// Package child starts the processes of a benchmark. A child exits when its
// standard input is closed, so that it never outlives the driver.
package child

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

// Lifetime is the longest that a child runs, even if its driver hangs.
const Lifetime = 15 * time.Minute

// ExitWithParent makes this process exit when its driver exits or when Lifetime
// has passed. Its goroutine ends with the process.
func ExitWithParent() {
	time.AfterFunc(Lifetime, func() { os.Exit(3) })
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // any failure means that the driver has exited
		os.Exit(0)
	}()
}

// Listen opens a free port on the loopback address.
func Listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

// PrintReady prints the line that Start waits for.
func PrintReady(r api.Ready) error { return json.NewEncoder(os.Stdout).Encode(r) }

// Handle registers a control function that takes and returns JSON. An error of fn
// becomes a response of status 500 with the error's text.
func Handle[Req, Res any](mux *http.ServeMux, path string, fn func(context.Context, Req) (Res, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var req Req
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		res, err := fn(r.Context(), req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(res) // Call reports an incomplete response
	})
}

// Process is a started child.
type Process struct {
	Ready api.Ready
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	log   *tail
	http  *http.Client
}

// Start runs a child and waits until it is ready. The child is killed when ctx
// ends; Stop ends it normally.
func Start(ctx context.Context, path string, args ...string) (*Process, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = 5 * time.Second
	p := &Process{name: cmd.String(), cmd: cmd, log: &tail{}, http: &http.Client{Timeout: 5 * time.Minute}}
	cmd.Stderr = p.log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line := make(chan error, 1) // the reader below sends once
	go func() {
		b, err := bufio.NewReader(stdout).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(b, &p.Ready)
		}
		line <- err
	}()
	select {
	case err = <-line:
	case <-time.After(20 * time.Second):
		err = errors.New("not ready after 20 s")
	}
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("%s: %w\n%s", p.name, err, p.log)
	}
	return p, nil
}

// Stop ends the child and waits for it.
func (p *Process) Stop() {
	_ = p.stdin.Close() // the child exits, see ExitWithParent
	late := time.AfterFunc(3*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()
	_ = p.cmd.Wait() // the exit status does not matter
}

// Call posts req to a control path and decodes the answer into res.
func (p *Process) Call(ctx context.Context, path string, req, res any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.Ready.Control+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	ans, err := p.http.Do(r)
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", p.name, err, p.log)
	}
	defer func() { _ = ans.Body.Close() }()
	if ans.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(io.LimitReader(ans.Body, 4096))
		return fmt.Errorf("%s: %s: %s", p.name, path, strings.TrimSpace(string(b)))
	}
	return json.NewDecoder(ans.Body).Decode(res)
}

// tail keeps the last 4,096 bytes of a child's standard error.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}
