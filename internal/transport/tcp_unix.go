//go:build unix

package transport

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
)

// countsAbortedWrites is true: a write that a deadline ends returns the number of bytes
// that the kernel has accepted.
const countsAbortedWrites = true

// TCP is the Conn of a plain TCP connection. Its zero value is not usable: New
// initializes it.
//
// It makes system calls that do not block. Where it has to wait, RawConn parks the
// goroutine in the runtime's poller. A writer that is parked holds the descriptor's
// write lock, so a second writer would block.
type TCP struct {
	conn    *net.TCPConn
	raw     syscall.RawConn
	watched bool // the Watcher's epoll instance has the descriptor
}

// newDirect returns inPlace, or nil if nc is not plain TCP.
func newDirect(nc net.Conn, inPlace *TCP) Conn {
	conn, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil
	}
	*inPlace = TCP{conn: conn, raw: raw}
	return inPlace
}

// peerHasClosed is PeerClosed for the connection beneath TLS.
func peerHasClosed(nc net.Conn) bool {
	t, ok := newDirect(nc, new(TCP)).(*TCP)
	return ok && t.PeerClosed()
}

// progressOf is Progress for the connection beneath TLS.
func progressOf(nc net.Conn) (mark uint32, ok bool) {
	if t, isTCP := newDirect(nc, new(TCP)).(*TCP); isTCP {
		return t.Progress()
	}
	return 0, false
}

// rawCall holds the arguments and results of one call of RawConn's. Its function
// value is made once, so that reading and writing do not allocate.
type rawCall struct {
	run func(fd uintptr) bool // the method attempt
	callArgs
	n     int
	errno syscall.Errno
}

type callArgs struct {
	call  func(fd uintptr, b []byte, raw bool) (int, syscall.Errno) // read or write
	b     []byte
	brief bool // may be a raw system call
	wait  bool // until the descriptor is ready
}

var rawCalls = sync.Pool{New: func() any {
	c := &rawCall{}
	c.run = c.attempt
	return c
}}

// attempt makes the system call until it succeeds or fails. It returns false, which
// makes RawConn wait for the descriptor, if the call would block and wait is set.
func (c *rawCall) attempt(fd uintptr) bool {
	for {
		n, errno := c.call(fd, c.b, c.brief && rawPays())
		switch errno {
		case 0:
			c.n = n
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return !c.wait
		default:
			c.errno = errno
		}
		return true
	}
}

// recycle puts c into the pool and returns its results. err is RawConn's error.
func (c *rawCall) recycle(err error) (int, error) {
	n, errno := c.n, c.errno
	c.callArgs, c.n, c.errno = callArgs{}, 0, 0
	rawCalls.Put(c)
	if errno != 0 {
		return n, errno
	}
	return n, err
}

// Read returns the errors that net.TCPConn.Read returns.
func (t *TCP) Read(b []byte) (int, error) {
	c := rawCalls.Get().(*rawCall)
	c.callArgs = callArgs{call: read, b: b, brief: true, wait: true}
	err := t.raw.Read(c.run)
	n, err := c.recycle(err)
	countRead()
	switch {
	case err != nil:
		err = t.readError(err)
	case n == 0:
		err = io.EOF
	}
	return n, err
}

// readError returns the error of net.TCPConn.Read for an error of recycle.
func (t *TCP) readError(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		op.Op = "read" // RawConn sets "raw-read" after a deadline or Close
		return err
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return &net.OpError{Op: "read", Net: "tcp", Source: t.conn.LocalAddr(), Addr: t.conn.RemoteAddr(), Err: os.NewSyscallError("read", errno)}
	}
	return err
}

// Direct returns true.
func (t *TCP) Direct() bool { return true }

// TryWrite implements Conn.
func (t *TCP) TryWrite(b []byte, brief bool) (int, error) {
	c := rawCalls.Get().(*rawCall)
	c.callArgs = callArgs{call: write, b: b, brief: brief && len(b) <= JoinSize}
	return c.recycle(t.raw.Write(c.run))
}

// WriteAll implements Conn.
func (t *TCP) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		c := rawCalls.Get().(*rawCall)
		c.callArgs = callArgs{call: write, b: b[written:], wait: true}
		n, err := c.recycle(t.raw.Write(c.run))
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

// Progress implements Conn.
func (t *TCP) Progress() (mark uint32, ok bool) { return progress(t.raw) }

// PeerClosed implements Conn.
func (t *TCP) PeerClosed() bool { return peerClosed(t.raw) }

// Abort implements Conn.
func (t *TCP) Abort() { _ = t.conn.Close() }
