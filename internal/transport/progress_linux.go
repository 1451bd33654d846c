//go:build !386 && !s390x

package transport

import (
	"encoding/binary"
	"syscall"
	"unsafe"
)

// Fields of struct tcp_info, of linux/tcp.h. Linux 5.4 added the second.
const (
	bytesAckedOffset = 120 // u64
	sendWindowOffset = 228 // u32, what the peer's receive buffer has room for
	tcpInfoSize      = 232
)

// progress reads the number of bytes that the peer has acknowledged, and its window.
func progress(raw syscall.RawConn) (mark uint32, ok bool) {
	var info [tcpInfoSize]byte
	size := uint32(len(info))
	err := raw.Control(func(fd uintptr) {
		_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		ok = errno == 0 && size >= bytesAckedOffset+8
	})
	acked := binary.NativeEndian.Uint64(info[bytesAckedOffset:])
	window := binary.NativeEndian.Uint32(info[sendWindowOffset:]) // 0 on older systems
	return uint32(acked) + 0x9e3779b1*window, ok && err == nil
}
