//go:build unix

package websocket

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// tcpSocket reads from a TCP connection and writes to it without waiting in the
// kernel. RawConn's methods do the waiting, which parks the goroutine in the
// runtime's poller; no other goroutine may write while one waits to, since it would
// block on the descriptor's write lock. There must be no write deadline either: an
// expired one fails non-blocking writes too.
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

// attempt holds arguments and results of one call. Its function is made once, so
// that reading and writing allocate nothing.
type attempt struct {
	once  func(fd uintptr) bool
	call  func(fd uintptr, b []byte) (int, syscall.Errno)
	b     []byte
	wait  bool
	n     int
	errno syscall.Errno
}

var attempts = sync.Pool{New: func() any {
	a := &attempt{}
	a.once = a.try
	return a
}}

// try calls until something is transferred. It returns false, which waits for the
// kernel, only when nothing was and waiting is wanted.
func (a *attempt) try(fd uintptr) bool {
	for {
		n, errno := a.call(fd, a.b)
		switch errno {
		case 0:
			a.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return !a.wait
		default:
			a.errno = errno
		}
		return true
	}
}

// giveBack puts a into the pool and returns what came of it.
func (a *attempt) giveBack(err error) (int, error) {
	n, errno := a.n, a.errno
	*a = attempt{once: a.once}
	attempts.Put(a)
	if errno != 0 {
		return n, errno
	}
	return n, err
}

func (s *tcpSocket) Read(b []byte) (int, error) {
	a := attempts.Get().(*attempt)
	a.call, a.b, a.wait = rawRead, b, true
	err := s.raw.Read(a.once)
	n, err := a.giveBack(err)
	keepMonitor()
	switch e := err.(type) {
	case syscall.Errno:
		err = &net.OpError{Op: "read", Net: "tcp", Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: os.NewSyscallError("read", e)}
	case *net.OpError:
		e.Op = "read" // of a deadline or Close: "raw-read" before
	case nil:
		if n == 0 {
			err = io.EOF
		}
	}
	return n, err
}

func (s *tcpSocket) direct() bool { return true }

func (s *tcpSocket) tryWrite(b []byte) (int, error) {
	a := attempts.Get().(*attempt)
	a.call, a.b = rawWrite, b
	if len(b) > joinSize {
		a.call = toldWrite
	}
	return a.giveBack(s.raw.Write(a.once))
}

func (s *tcpSocket) write(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		a := attempts.Get().(*attempt)
		a.call, a.b, a.wait = toldWrite, b[written:], true
		n, err := a.giveBack(s.raw.Write(a.once))
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

func (s *tcpSocket) abort() { _ = s.conn.Close() }
