package websocket

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// CutConn is the hub's end of a fake connection that takes a number of bytes and
// then breaks: all of it as by a reset, or its writing alone.
type CutConn struct {
	*FakeConn
	mu    sync.Mutex
	left  int // bytes that are still accepted; negative means no limit
	after error
}

// NewCutConn wraps c without a limit.
func NewCutConn(c *FakeConn) *CutConn { return &CutConn{FakeConn: c, left: -1} }

// ResetAfter resets the connection as soon as n more bytes are written.
func (c *CutConn) ResetAfter(n int) {
	c.limit(n, syscall.ECONNRESET)
	if n == 0 {
		c.Reset()
	}
}

// FailAfter makes writes fail once n more bytes are written. Reading goes on.
func (c *CutConn) FailAfter(n int, err error) { c.limit(n, err) }

func (c *CutConn) limit(n int, after error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.after = n, after
}

// Plain hides everything but net.Conn.
func (c *CutConn) Plain() net.Conn { return struct{ net.Conn }{c} }

// limited writes as much of b as may be written. It returns an error only when
// nothing may be, as the kernel does.
func (c *CutConn) limited(b []byte, write func([]byte) (int, error)) (int, error) {
	c.mu.Lock()
	left, after := c.left, c.after
	c.mu.Unlock()
	if left < 0 {
		return write(b)
	}
	if left == 0 {
		return 0, after
	}
	n, err := write(b[:min(len(b), left)])
	c.mu.Lock()
	c.left -= n
	reset := c.left == 0 && after == syscall.ECONNRESET
	c.mu.Unlock()
	if reset {
		c.Reset()
	}
	return n, err
}

func (c *CutConn) writeAll(b []byte, write func([]byte) (int, error)) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.limited(b[written:], write)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *CutConn) Write(b []byte) (int, error) { return c.writeAll(b, c.FakeConn.Write) }

func (c *CutConn) tryWrite(b []byte) (int, error) { return c.limited(b, c.FakeConn.tryWrite) }

func (c *CutConn) write(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	return c.writeAll(b, func(b []byte) (int, error) { return c.FakeConn.write(b, progress, clock) })
}

// Socket is what the hub reads from and writes to.
type Socket struct{ socket }

// NewSocket returns the socket of a connection.
func NewSocket(nc net.Conn) Socket { return Socket{newSocket(nc, new(tcpSocket))} }

// TryWrite writes what the transport takes without waiting.
func (s Socket) TryWrite(b []byte) (int, error) { return s.tryWrite(b) }
