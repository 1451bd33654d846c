//go:build unix

package websocket_test

import (
	"net"
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// interruptions sends the process a signal every few microseconds, each of which
// may interrupt a system call. The function returned ends that.
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

// TestSocketDoesNotAllocate reads and writes on TCP.
func TestSocketDoesNotAllocate(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	peer, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer peer.Close()
	nc, err := listener.Accept()
	require.NoError(t, err)
	defer nc.Close()
	s := websocket.NewSocket(nc)
	b := make([]byte, 16)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, err1 := peer.Write(b[:1])
		n, err2 := nc.Read(b)
		m, err3 := s.TryWrite(b[:n])
		_, err4 := peer.Read(b)
		if err1 != nil || err2 != nil || err3 != nil || err4 != nil || m != 1 {
			t.Error(err1, err2, err3, err4, m)
		}
	}))
}
