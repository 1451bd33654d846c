//go:build unix

package websocket

import (
	"net"
	"sync"
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
}

// newSocket returns a direct socket for plain TCP, which it makes in place, and
// one for writePumps only for everything else.
func newSocket(nc net.Conn, place *tcpSocket) socket {
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
	*place = tcpSocket{conn: tcp, raw: raw}
	return place
}

// attempt holds arguments and results of one write. Its function is made once, so
// that writing allocates nothing.
type attempt struct {
	once func(fd uintptr) bool
	b    []byte
	wait bool
	n    int
	err  error
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{}
	a.once = a.try
	return a
}}

// try writes until the kernel takes no more. It returns false, which waits for
// writability, only when nothing was taken and waiting is wanted.
func (a *attempt) try(fd uintptr) bool {
	for {
		n, err := syscall.Write(int(fd), a.b)
		switch err {
		case nil:
			a.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return !a.wait
		default:
			a.err = err
		}
		return true
	}
}

func (s *tcpSocket) attempt(b []byte, wait bool) (int, error) {
	a := attempts.Get().(*attempt)
	a.b, a.wait = b, wait
	err := s.raw.Write(a.once)
	n := a.n
	if a.err != nil {
		err = a.err
	}
	*a = attempt{once: a.once}
	attempts.Put(a)
	return n, err
}

func (s *tcpSocket) direct() bool { return true }

func (s *tcpSocket) tryWrite(b []byte) (int, error) { return s.attempt(b, false) }

func (s *tcpSocket) write(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		n, err := s.attempt(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

func (s *tcpSocket) abort() { _ = s.conn.Close() }
