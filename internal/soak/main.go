// Soak runs hubs and a crowd of clients against each other in one process, and
// holds them to what the package promises: clients in all codecs, over TCP and
// TLS, that come and go, read slowly, never read or send what is forbidden, while
// others publish. Readers check that each channel and room reaches them in order,
// whole, or with what is missing announced in place.
//
//	go run -race ./internal/soak                               # ten minutes, 2,000 clients
//	go run -race ./internal/soak -duration 1m -clients 300     # for CI
//	go run -race ./internal/soak -churn 100000                 # connect, subscribe, disconnect
//
// It prints a report, and exits with 1 if the sums do not agree or goroutines and
// heap do not return to where they began.
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
	workers  int
}

func main() {
	var o options
	flag.DurationVar(&o.duration, "duration", 10*time.Minute, "how long clients come and go")
	flag.IntVar(&o.clients, "clients", 2000, "clients at a time")
	flag.IntVar(&o.rate, "rate", 4000, "messages a second, each counted once for every member")
	flag.Uint64Var(&o.seed, "seed", rand.Uint64()>>16, "of all that is random but the scheduler")
	flag.IntVar(&o.churn, "churn", 0, "instead run that many cycles of connect, subscribe and disconnect")
	flag.IntVar(&o.workers, "workers", 16, "churn: clients at a time")
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

// usage is what must return to where it began.
type usage struct {
	goroutines int
	heap       int64
}

// measure waits until goroutines are down to the wanted number, if they will be,
// and what nobody refers to is collected. Pools are empty after two collections.
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

// compare returns faults if more is in use than before.
func (u usage) compare(what string, before usage, tolerance int64) []string {
	var faults []string
	if u.goroutines > before.goroutines {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		faults = append(faults, fmt.Sprintf("%s: %d goroutines, began with %d\n%s", what, u.goroutines, before.goroutines, buf))
	}
	if grown := u.heap - before.heap; grown > tolerance {
		faults = append(faults, fmt.Sprintf("%s: heap grew by %d bytes, at most %d are allowed", what, grown, tolerance))
	}
	return faults
}
