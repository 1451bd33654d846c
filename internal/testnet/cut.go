package testnet

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
)

// CutConn is a Conn that accepts a set number of bytes and then breaks: either the
// whole connection, as by a reset, or its writes only.
type CutConn struct {
	*Conn
	mu    sync.Mutex
	left  int   // bytes that are still accepted; negative means no limit
	after error // result of writes once left is 0
}

// NewCutConn wraps c without a limit.
func NewCutConn(c *Conn) *CutConn { return &CutConn{Conn: c, left: -1} }

// ResetAfter resets the connection once n more bytes are written.
func (c *CutConn) ResetAfter(n int) {
	c.limit(n, syscall.ECONNRESET)
	if n == 0 {
		c.Reset()
	}
}

// FailAfter makes writes return err once n more bytes are written. Reads go on.
func (c *CutConn) FailAfter(n int, err error) { c.limit(n, err) }

func (c *CutConn) limit(n int, after error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.after = n, after
}

// Plain is like Conn.Plain.
func (c *CutConn) Plain() net.Conn { return plain{c, c.Conn} }

// limited writes as much of b as the limit allows. Like the kernel, it returns an
// error only if nothing could be written.
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
	reset := c.left == 0 && errors.Is(after, syscall.ECONNRESET)
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

// Write implements net.Conn.
func (c *CutConn) Write(b []byte) (int, error) { return c.writeAll(b, c.Conn.Write) }

// TryWrite implements transport.Conn.
func (c *CutConn) TryWrite(b []byte, brief bool) (int, error) {
	return c.limited(b, func(b []byte) (int, error) { return c.Conn.TryWrite(b, brief) })
}

// WriteAll implements transport.Conn.
func (c *CutConn) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	return c.writeAll(b, func(b []byte) (int, error) { return c.Conn.WriteAll(b, progress, clock) })
}
