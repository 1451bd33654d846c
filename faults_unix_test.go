//go:build unix

package websocket_test

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
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
