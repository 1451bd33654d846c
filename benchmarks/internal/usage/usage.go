// Package usage reads the resources that this process and this machine have used,
// and describes the machine.
package usage

import (
	"bufio"
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
)

// CPU returns a Usage with only the fields that are cheap to read: the current
// time and this process's CPU time.
func CPU() (u api.Usage) {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) == nil {
		u.User, u.System = r.Utime.Nano(), r.Stime.Nano()
	}
	u.At = time.Now().UnixNano()
	return u
}

// Memory adds the fields about memory and goroutines to u. It stops the world.
func Memory(u *api.Usage) {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Mallocs, u.TotalAlloc = m.Mallocs, m.TotalAlloc
	u.InUse = m.HeapInuse + m.StackInuse
	u.RSS = rss()
	u.Goroutines = runtime.NumGoroutine()
}

// CollectGarbage frees unused memory and returns it to the operating system, so
// that Memory reports only the memory in use.
func CollectGarbage() {
	for range 3 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// rss returns the size of the resident set in bytes, or 0 where /proc is missing.
func rss() uint64 {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	pages, _ := strconv.ParseUint(f[1], 10, 64)
	return pages * uint64(os.Getpagesize())
}

// Machine returns the busy time of all processors together since boot, or 0 where
// /proc is missing.
func Machine() time.Duration {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := bytes.Cut(b, []byte("\n"))
	f := strings.Fields(string(line))
	if len(f) < 9 || f[0] != "cpu" {
		return 0
	}
	var ticks uint64
	for i, s := range f[1:9] {
		if i == 3 || i == 4 { // idle, iowait
			continue
		}
		v, _ := strconv.ParseUint(s, 10, 64)
		ticks += v
	}
	const perSecond = 100 // USER_HZ, the same on all Linux systems that Go supports
	return time.Duration(ticks) * (time.Second / perSecond)
}

// Processor returns the model of the processor, or GOARCH if it is unknown.
func Processor() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	defer func() { _ = f.Close() }()
	s := bufio.NewScanner(f)
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// Kernel returns the operating system, and the release of its kernel if known.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return runtime.GOOS
	}
	return runtime.GOOS + " " + strings.TrimSpace(string(b))
}
