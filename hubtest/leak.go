package hubtest

import (
	"bytes"
	"context"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"
)

// leakLabel is the profiler label of the goroutines that NoLeak watches.
const leakLabel = "hubtest"

var watched atomic.Int64

// NoLeak fails the test if goroutines that it has started are left when it ends. Call it
// first, so that it checks after everything else has ended. It tells the goroutines of
// parallel tests apart by a label of runtime/pprof, which goroutines hand on to those that
// they start. Goroutines that a program starts once and keeps, such as those of
// http.DefaultTransport for idle connections, count too.
//
// In a bubble synctest.Test reports goroutines that are left as a deadlock; NoLeak says which
// they are.
func NoLeak(t TB) {
	t.Helper()
	name := fmt.Sprint(watched.Add(1))
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(leakLabel, name)))
	t.Cleanup(func() {
		t.Helper()
		pprof.SetGoroutineLabels(context.Background())
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(patience); ; <-tick.C {
			left := labelled(name)
			if len(left) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("hubtest: goroutines are left:\n\n%s", strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// labelled returns the stacks of the goroutines with a label, as in a goroutine profile.
func labelled(name string) []string {
	var profile bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&profile, 1) // a buffer returns no error
	var stacks []string
	for stack := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(stack, fmt.Sprintf("%q:%q", leakLabel, name)) {
			stacks = append(stacks, stack)
		}
	}
	return stacks
}
