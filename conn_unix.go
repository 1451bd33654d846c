//go:build unix

package websocket

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
)

// tcpSocket writes to a TCP connection without waiting. The kernel's writability
// is waited for inside RawConn.Write, which parks the goroutine in the runtime's
// poller; no other goroutine may write meanwhile, since it would block on the
// descriptor's write lock. There must be no write deadline either: an expired
// one fails non-blocking writes too.
type tcpSocket struct {
	conn *net.TCPConn
	raw  syscall.RawConn

	// Arguments and results of attempt, which is made once so that writing
	// allocates nothing.
	attempt func(fd uintptr) bool
	b       []byte
	n       int
	err     error
	wait    bool
}

// newSocket returns a direct socket for plain TCP, and one for writePumps only
// for everything else.
func newSocket(nc net.Conn) socket {
	if s, ok := nc.(socket); ok {
		return s
	}
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return &pumpSocket{nc}
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return &pumpSocket{nc}
	}
	s := &tcpSocket{conn: tcp, raw: raw}
	s.attempt = s.tryOnce
	return s
}

// tryOnce writes until the kernel takes no more. It returns false, which waits
// for writability, only when nothing was taken and waiting is wanted.
func (s *tcpSocket) tryOnce(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), s.b)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return !s.wait
		case err != nil:
			s.err = err
		default:
			s.n = n
		}
		return true
	}
}

func (s *tcpSocket) call(b []byte, wait bool) (int, error) {
	s.b, s.n, s.err, s.wait = b, 0, nil, wait
	err := s.raw.Write(s.attempt)
	s.b = nil
	if s.err != nil {
		err = s.err
	}
	return s.n, err
}

func (s *tcpSocket) direct() bool { return true }

func (s *tcpSocket) tryWrite(b []byte) (int, error) { return s.call(b, false) }

func (s *tcpSocket) write(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		n, err := s.call(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

func (s *tcpSocket) abort() { _ = s.conn.Close() }
