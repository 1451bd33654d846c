//go:build !race

package websocket

import (
	"syscall"
	"unsafe"
)

// rawRead and rawWrite are system calls on descriptors that do not block, of
// which the runtime is not told: they take microseconds, and being told would
// wake its monitor each time that a process has been idle, which costs a sixth of
// a message that comes in and goes out to two clients. Whoever uses them calls
// tellRuntime before it runs the user's code and when it has long been at work,
// since the monitor is what preempts goroutines.
func rawRead(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_READ, fd, b)
}

func rawWrite(fd uintptr, b []byte) (int, syscall.Errno) {
	return rawCall(syscall.SYS_WRITE, fd, b)
}

func rawCall(trap, fd uintptr, b []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(trap, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	return max(int(n), 0), errno
}

// tellRuntime makes the shortest system call of which the runtime is told.
func tellRuntime() { _, _, _ = syscall.Syscall(syscall.SYS_GETPID, 0, 0, 0) }
