//go:build !asan && !msan && !race

package transport

import "syscall"

// read reads with MSG_DONTWAIT, so that it does not block even on a descriptor in
// blocking mode. A raw call is used only if raw is set.
func read(fd uintptr, b []byte, raw bool) (int, syscall.Errno) { return recvfrom(fd, b, raw) }

// write is like read.
func write(fd uintptr, b []byte, raw bool) (int, syscall.Errno) { return sendto(fd, b, raw) }
