//go:build !asan && !msan && !race

package transport

import (
	"sync/atomic"
	"syscall"
)

// filtered reports that recvfrom or sendto has failed where read or write succeeds:
// some seccomp profiles do not allow them.
var filtered struct{ read, write atomic.Bool }

// read reads with MSG_DONTWAIT, so that it does not block even on a descriptor in
// blocking mode. A raw call is used only if raw is set.
func read(fd uintptr, b []byte, raw bool) (int, syscall.Errno) {
	if filtered.read.Load() {
		return plainRead(fd, b)
	}
	n, errno := recvfrom(fd, b, raw)
	if notPermitted(errno) {
		if n, errno = plainRead(fd, b); !notPermitted(errno) {
			filtered.read.Store(true)
		}
	}
	return n, errno
}

// write is like read. It needs no MSG_NOSIGNAL where it calls write(2), because the
// runtime ignores SIGPIPE for sockets.
func write(fd uintptr, b []byte, raw bool) (int, syscall.Errno) {
	if filtered.write.Load() {
		return plainWrite(fd, b)
	}
	n, errno := sendto(fd, b, raw)
	if notPermitted(errno) {
		if n, errno = plainWrite(fd, b); !notPermitted(errno) {
			filtered.write.Store(true)
		}
	}
	return n, errno
}

// notPermitted reports whether errno is one that seccomp profiles set.
func notPermitted(errno syscall.Errno) bool { return errno == syscall.EPERM || errno == syscall.ENOSYS }
