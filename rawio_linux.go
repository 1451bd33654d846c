//go:build !386 && !s390x && !asan && !msan && !race

package websocket

import (
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// rawRead and rawWrite are system calls that do not wait, whatever somebody has
// made of the descriptor, and of which the runtime is not told. They take
// microseconds; being told of one wakes the runtime's monitor whenever the process
// has been idle, which costs a sixth of a message that comes in and goes out to two
// clients.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_RECVFROM, fd, b)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_SENDTO, fd, b)
}

// toldWrite is rawWrite for what takes longer.
func toldWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall6(syscall.SYS_SENDTO, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return max(int(n), 0), errno
}

func rawCall(trap, fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return max(int(n), 0), errno
}

// monitorPeriod is how long the runtime's monitor may sleep while raw reads go on.
const monitorPeriod = 20 * time.Millisecond

var monitor struct {
	kept atomic.Bool // a timer is running
	used atomic.Bool // since the last check
}

// keepMonitor follows every raw read. The monitor is what preempts goroutines that
// compute for long, but it sleeps when the process is idle, until the next timer or
// the next system call of which the runtime is told. So there is such a call when
// reading begins, and such a timer as long as it goes on.
func keepMonitor() {
	if !monitor.used.Load() {
		monitor.used.Store(true)
	}
	if !monitor.kept.Load() && monitor.kept.CompareAndSwap(false, true) {
		_, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) // the shortest
		time.AfterFunc(monitorPeriod, checkMonitor)
	}
}

func checkMonitor() {
	if !monitor.used.Swap(false) {
		monitor.kept.Store(false)
		if !monitor.used.Load() || !monitor.kept.CompareAndSwap(false, true) {
			return
		}
	}
	time.AfterFunc(monitorPeriod, checkMonitor)
}
