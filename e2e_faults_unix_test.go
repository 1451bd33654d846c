//go:build unix

package websocket_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// interruptions sends the process a signal every 20 microseconds. Each one may
// interrupt a system call. The returned function stops the signals.
func interruptions(t *testing.T) (stop func()) {
	t.Helper()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR2)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() { // ends with quit
		defer close(done)
		tick := time.NewTicker(20 * time.Microsecond)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-signals:
			case <-tick.C:
				_ = syscall.Kill(syscall.Getpid(), syscall.SIGUSR2)
			}
		}
	}()
	return func() {
		close(quit)
		<-done
		signal.Stop(signals)
	}
}

// TestBlockingDescriptorDoesNotBlockHub sets a connection's descriptor to blocking
// mode, as applications do that call File and Fd. The hub's reads and writes must not
// block in the kernel: the runtime does not know that they are system calls, so the
// whole process could stop, or the hub goroutine that writes.
func TestBlockingDescriptorDoesNotBlockHub(t *testing.T) {
	if raceEnabled() || runtime.GOOS != "linux" {
		t.Skip("the hub uses net.Conn's own reads and writes")
	}
	if os.Getenv("BLOCKING_DESCRIPTOR") != "" {
		useBlockingDescriptor(t)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a stopped process cannot end itself
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestBlockingDescriptorDoesNotBlockHub$")
	child.Env = append(os.Environ(), "BLOCKING_DESCRIPTOR=1")
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func useBlockingDescriptor(t *testing.T) {
	config := websocket.DefaultConfig
	config.ClientBacklog = 16 << 20 // large enough to avoid eviction
	config.WriteWait = 200 * time.Millisecond
	hub := websocket.NewHub(quietLogger{}, config)
	ended := make(chan *websocket.CloseError, 1)
	handled := make(chan struct{}, 1)
	hub.SetCallbacks(nil, func(c *websocket.Client) { ended <- closeErrorOf(c) }, func(*websocket.Client, *websocket.Message) { handled <- struct{}{} })
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan *net.TCPConn, 1) // one connection
	server := &http.Server{Handler: hub.Handler(), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		accepted <- c.(*net.TCPConn)
		return ctx
	}}
	go server.Serve(listener) //nolint:errcheck // ends with Close
	ws, _, err := gorilla.DefaultDialer.Dial("ws://"+listener.Addr().String(), nil)
	require.NoError(t, err)
	f, err := (<-accepted).File()
	require.NoError(t, err)
	_ = f.Fd() // an application would set a socket option here
	require.NoError(t, f.Close())
	for range 50 {
		require.NoError(t, ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`)))
		<-handled
		runtime.GC() // stops the world while the hub reads
	}
	for range 100 {
		require.NoError(t, hub.Broadcast(bytes.Repeat([]byte("1"), 100<<10))) // together more than the socket buffers hold
	}
	require.ErrorContains(t, (<-ended).Err, "WriteWait")
	require.NoError(t, ws.Close())
	require.NoError(t, hub.Shutdown(t.Context()))
	require.NoError(t, <-ran)
	require.NoError(t, server.Close())
}
