//go:build !386 && !s390x && !asan && !msan && !race

package transport

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// rawRead and rawWrite use RawSyscall6, which bypasses the Go scheduler, and
// MSG_DONTWAIT, so that they do not block even on a descriptor in blocking mode. They
// take microseconds. Syscall6 would wake sysmon, the runtime's monitor thread,
// whenever the process has been idle. That costs a sixth of the work for a message that
// one client sends to two.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawSyscall(syscall.SYS_RECVFROM, fd, b)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawSyscall(syscall.SYS_SENDTO, fd, b)
}

// syscallWrite is like rawWrite but tells the scheduler: for writes that may take
// longer than a few microseconds.
func syscallWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return max(int(n), 0), errno
}

func rawSyscall(trap, fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return max(int(n), 0), errno
}

// sysmonInterval is the maximum time that sysmon may sleep while raw reads go on.
const sysmonInterval = 20 * time.Millisecond

var sysmon struct {
	timer atomic.Bool // a timer is running
	reads atomic.Bool // there was a raw read since the timer last fired
}

// keepSysmonAwake is called after every raw read. Sysmon preempts goroutines that
// compute for long, but in an idle process it sleeps until the next timer fires or
// the next system call that the scheduler knows of. So the first raw read makes
// such a call and starts a timer, which is restarted as long as raw reads go on.
func keepSysmonAwake() {
	if !sysmon.reads.Load() {
		sysmon.reads.Store(true)
	}
	if !sysmon.timer.Load() && sysmon.timer.CompareAndSwap(false, true) {
		_, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) // the cheapest call
		time.AfterFunc(sysmonInterval, checkReads)
	}
}

// checkReads restarts the timer unless there was no raw read.
func checkReads() {
	if !sysmon.reads.Swap(false) {
		sysmon.timer.Store(false)
		// A read between Swap and Store saw a running timer and started none.
		if !sysmon.reads.Load() || !sysmon.timer.CompareAndSwap(false, true) {
			return
		}
	}
	time.AfterFunc(sysmonInterval, checkReads)
}
