package websocket_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// TestMain fails if a goroutine of a hub, server or peer is left after the tests.
//
// HIBERNATE_AFTER is the default of Config.HibernateAfter for all tests: with "1ms"
// connections hibernate whenever they can.
func TestMain(m *testing.M) {
	if text := os.Getenv("HIBERNATE_AFTER"); text != "" {
		after, err := time.ParseDuration(text)
		if err != nil {
			panic(err)
		}
		websocket.SetUsualHibernateAfter(after)
	}
	code := m.Run()
	if code == 0 {
		http.DefaultClient.CloseIdleConnections()
		if left := leakedGoroutines(10 * time.Second); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines are left after the tests:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// leakedGoroutines waits for goroutines to end. It returns the stacks of those that
// are left when limit has passed.
func leakedGoroutines(limit time.Duration) []string {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		left := otherGoroutines()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// otherGoroutines returns the stacks of all goroutines except the caller's and those
// of the test binary itself.
func otherGoroutines() []string {
	b := make([]byte, 1<<20)
	for n := runtime.Stack(b, true); ; n = runtime.Stack(b, true) {
		if n < len(b) {
			b = b[:n]
			break
		}
		b = make([]byte, 2*len(b))
	}
	var others []string
	for _, stack := range strings.Split(string(b), "\n\n")[1:] {
		ours := true
		for _, harmless := range []string{"testing.(*", "testing.tRunner", "internal/fuzz.", "os/signal.", "runtime.ensureSigM", "runtime/pprof."} {
			if strings.Contains(stack, harmless) {
				ours = false
			}
		}
		if ours {
			others = append(others, stack)
		}
	}
	return others
}
