// Soak runs hubs and many clients in one process and checks the promises of the
// package. The clients use all codecs, over TCP and TLS. They connect and
// disconnect, read slowly, never read, or send invalid input, while publishers
// publish. Clients that read check that they receive the messages of each channel
// and room in order, and that a gap notice stands in the place of missing messages.
//
//	go run -race ./internal/soak                               # ten minutes, 2,000 clients
//	go run -race ./internal/soak -duration 1m -clients 300     # for CI
//	go run -race ./internal/soak -churn 100000                 # connect, subscribe, disconnect
//
// It prints a report. It exits with status 1 if a check fails, or if the number of
// goroutines or the heap has grown at the end.
package main

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"time"
)

type options struct {
	duration time.Duration
	clients  int
	rate     int // deliveries a second
	seed     uint64
	churn    int // cycles
	workers  int // clients at a time in a churn run
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "how long clients connect and disconnect")
	flag.IntVar(&o.clients, "clients", 2000, "number of clients at a time")
	flag.IntVar(&o.rate, "rate", 4000, "deliveries per second: messages times members")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64()>>16, "seed of all random choices; the scheduler is not repeatable")
	flag.IntVar(&o.churn, "churn", 0, "run this `number` of cycles of connect, subscribe and disconnect instead")
	flag.IntVar(&o.workers, "workers", 16, "with -churn, the number of clients at a time")
	flag.Parse()
	fmt.Printf("seed %d, GOMAXPROCS %d, %d open files allowed\n", o.seed, runtime.GOMAXPROCS(0), raiseFileLimit())
	var faults []string
	if o.churn > 0 {
		faults = runChurn(o)
	} else {
		faults = runSoak(o)
	}
	if len(faults) == 0 {
		fmt.Println("ok")
		return
	}
	fmt.Printf("FAILED, %d faults:\n  %s\n", len(faults), strings.Join(faults[:min(len(faults), 40)], "\n  "))
	os.Exit(1)
}

// usage is the use of resources that must not grow during a run.
type usage struct {
	goroutines int
	heap       int64
}

// measure waits up to 30 seconds until at most want goroutines are left, and
// collects garbage. It collects three times, because two collections empty a
// sync.Pool.
func measure(want int) usage {
	deadline := time.Now().Add(30 * time.Second)
	for runtime.NumGoroutine() > want && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return usage{runtime.NumGoroutine(), int64(m.HeapAlloc)}
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, heap %.1f MiB", u.goroutines, float64(u.heap)/(1<<20))
}

// compare returns faults if u has more goroutines than before, or more heap than
// before and tolerance bytes.
func (u usage) compare(what string, before usage, tolerance int64) []string {
	var faults []string
	if u.goroutines > before.goroutines {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		faults = append(faults, fmt.Sprintf("%s: %d goroutines, at first %d\n%s", what, u.goroutines, before.goroutines, buf))
	}
	if grown := u.heap - before.heap; grown > tolerance {
		faults = append(faults, fmt.Sprintf("%s: the heap grew by %d bytes, more than the tolerance of %d", what, grown, tolerance))
	}
	return faults
}
