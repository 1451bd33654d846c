//go:build !386 && !s390x && !asan && !msan && !race

package transport

import (
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// Raw system calls bypass the Go scheduler. An ordinary call wakes sysmon, the runtime's
// monitor thread, whenever the process has been idle, which can cost more than the call.
// Raw calls have two prices, which decide when they are used:
//
//   - Sysmon preempts goroutines that compute for long, but in an idle process it sleeps
//     until a timer fires or an ordinary call is made. So a timer has to run while raw
//     calls are in use. They pay only if the process makes many of them: see rawSwitch.
//   - The runtime cannot take the processor (P) of a goroutine in a raw call, even if the
//     kernel lets another thread run meanwhile. So callers allow raw calls only for a few
//     short writes at a time: see Conn.

func recvfrom(fd uintptr, b []byte, raw bool) (int, syscall.Errno) {
	return call(syscall.SYS_RECVFROM, fd, b, syscall.MSG_DONTWAIT, raw)
}

func sendto(fd uintptr, b []byte, raw bool) (int, syscall.Errno) {
	return call(syscall.SYS_SENDTO, fd, b, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, raw)
}

func call(trap, fd uintptr, b []byte, flags uintptr, raw bool) (int, syscall.Errno) {
	var n uintptr
	var errno syscall.Errno
	if raw {
		n, _, errno = syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	} else {
		n, _, errno = syscall.Syscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), flags, 0, 0)
	}
	return max(int(n), 0), errno
}

const (
	// sysmonInterval is the maximum time that sysmon sleeps while raw calls are in use.
	sysmonInterval = 20 * time.Millisecond
	// Raw calls come into use when startReads reads were made within rateWindow, and go
	// out of use when fewer than stopReads were.
	rateWindow = 5 * sysmonInterval
	startReads = 40
	stopReads  = 30
	// readLot is the number of reads that are counted at once.
	readLot = 8
)

// rawSwitch decides whether raw calls are in use.
type rawSwitch struct {
	realNow  func() time.Time
	disabled atomic.Bool
	on       atomic.Bool  // raw calls are in use, and a timer runs
	reads    atomic.Int64 // in the current window
	since    atomic.Int64 // real time when the current window began, if on is false
	ticks    int          // in the current window; owned by the timer
}

var rawCallsInUse = rawSwitch{realNow: realNow}

// realNow returns the real time, also in a bubble of testing/synctest, where time.Now
// returns the time of a fake clock.
func realNow() time.Time {
	var tv syscall.Timeval
	_ = syscall.Gettimeofday(&tv) // fails only for a bad pointer
	return time.Unix(tv.Unix())
}

// rawPays reports whether raw calls are in use.
func rawPays() bool { return rawCallsInUse.on.Load() }

// DisableRaw keeps raw calls from coming into use. It is for benchmarks, which call it
// before any connection is made.
func DisableRaw() { rawCallsInUse.disabled.Store(true) }

// readCounters has one counter for each processor, so that processors seldom write to the
// common one.
var readCounters = sync.Pool{New: func() any { return new(int) }}

// countRead is called after every read.
func countRead() {
	n := readCounters.Get().(*int)
	if *n++; *n == readLot {
		*n = 0
		rawCallsInUse.addLot()
	}
	readCounters.Put(n)
}

// addLot counts readLot reads, the last of which has just been made. If raw calls come
// into use, that read was an ordinary one and has woken sysmon, which stays awake until the
// process is idle and then finds the timer.
//
// The caller may be in a bubble of testing/synctest. Its timers have the bubble's clock and
// end with the bubble, so raw calls do not come into use there.
func (s *rawSwitch) addLot() {
	n := s.reads.Add(readLot)
	if s.on.Load() || s.disabled.Load() {
		return
	}
	now := s.realNow()
	if inWindow := now.UnixNano() - s.since.Load(); inWindow > int64(rateWindow) || inWindow < 0 {
		s.since.Store(now.UnixNano())
		s.reads.Store(0)
	} else if n >= startReads && time.Since(now).Abs() < time.Minute && s.on.CompareAndSwap(false, true) {
		s.reads.Store(0)
		time.AfterFunc(sysmonInterval, s.tick)
	}
}

// tick keeps sysmon awake while raw calls are in use. The last tick does not start another
// timer. A goroutine that makes a raw call at that moment can still be preempted: sysmon has
// woken for the tick and stays awake because the process is not idle.
func (s *rawSwitch) tick() {
	if s.ticks++; s.ticks == int(rateWindow/sysmonInterval) {
		s.ticks = 0
		if s.reads.Swap(0) < stopReads {
			s.on.Store(false)
			return
		}
	}
	time.AfterFunc(sysmonInterval, s.tick)
}
