package transport

import (
	"syscall"
	"unsafe"
)

// pollRdhup is POLLRDHUP of poll(2), which package syscall does not have.
const pollRdhup = 0x2000

type pollFd struct {
	fd      int32
	events  int16
	revents int16
}

// peerClosed reports whether the peer of a TCP socket has closed or reset the
// connection, also if there is input that has not been read.
func peerClosed(raw syscall.RawConn) bool {
	closed := false
	err := raw.Control(func(fd uintptr) {
		p := pollFd{fd: int32(fd), events: pollRdhup}
		var now syscall.Timespec
		n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		closed = errno == 0 && n > 0 // POLLERR and POLLHUP are always reported
	})
	return closed || err != nil
}
