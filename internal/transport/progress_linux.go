//go:build !386 && !s390x

package transport

import (
	"encoding/binary"
	"sync"
	"syscall"
	"unsafe"
)

// Fields of struct tcp_info, of linux/tcp.h. Linux 5.4 added the second.
const (
	bytesAckedOffset = 120 // u64
	sendWindowOffset = 228 // u32, what the peer's receive buffer has room for
	tcpInfoSize      = 232
)

// tcpInfo is a call of getsockopt for TCP_INFO. It is pooled because what it points to
// escapes to the heap.
type tcpInfo struct {
	b    [tcpInfoSize]byte
	size uint32
	ok   bool
	run  func(fd uintptr)
}

var tcpInfos = sync.Pool{New: func() any {
	t := &tcpInfo{}
	t.run = t.read
	return t
}}

func (t *tcpInfo) read(fd uintptr) {
	t.size = tcpInfoSize
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, syscall.IPPROTO_TCP, syscall.TCP_INFO,
		uintptr(unsafe.Pointer(&t.b)), uintptr(unsafe.Pointer(&t.size)), 0)
	t.ok = errno == 0 && t.size >= bytesAckedOffset+8
}

// progress reads the number of bytes that the peer has acknowledged, and its window.
func progress(raw syscall.RawConn) (mark uint32, ok bool) {
	t := tcpInfos.Get().(*tcpInfo)
	defer tcpInfos.Put(t)
	t.b, t.ok = [tcpInfoSize]byte{}, false // older systems write less
	if err := raw.Control(t.run); err != nil {
		return 0, false
	}
	acked := binary.NativeEndian.Uint64(t.b[bytesAckedOffset:])
	window := binary.NativeEndian.Uint32(t.b[sendWindowOffset:])
	return uint32(acked) + 0x9e3779b1*window, t.ok
}
