//go:build unix && !linux

package transport

import "syscall"

// peerClosed reports whether the peer of a TCP socket has closed or reset the
// connection. It cannot tell if there is input that has not been read.
func peerClosed(raw syscall.RawConn) bool {
	closed := false
	err := raw.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err == syscall.ECONNRESET
	})
	return closed || err != nil
}
