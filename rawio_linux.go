//go:build !386 && !s390x && !msan && !race

package websocket

import (
	"syscall"
	"unsafe"
)

// rawRead and rawWrite are system calls that do not wait, whatever somebody has
// made of the descriptor, and of which the runtime is not told: they take
// microseconds, and being told would wake its monitor each time that a process has
// been idle, which costs a sixth of a message that comes in and goes out to two
// clients. The monitor is what preempts goroutines, so who uses them calls
// tellRuntime before code that is not this package's, and after some work without
// waiting.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_RECVFROM, fd, b)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_SENDTO, fd, b)
}

func rawCall(trap, fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
	return max(int(n), 0), errno
}

// tellRuntime makes the shortest system call of which the runtime is told.
func tellRuntime() { _, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) }
