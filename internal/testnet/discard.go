package testnet

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// DiscardConn accepts every write at once and never has anything to read: for
// benchmarks of all work before the kernel's. Its addresses must not be used.
type DiscardConn struct {
	OnWrite func(n int)  // if not nil, TryWrite calls it with the number of bytes
	Brief   atomic.Int64 // calls of TryWrite with brief set
	net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewDiscardConn returns a connection whose reads block until it is closed.
func NewDiscardConn() *DiscardConn { return &DiscardConn{closed: make(chan struct{})} }

// Read blocks until the connection is closed.
func (c *DiscardConn) Read([]byte) (int, error) { <-c.closed; return 0, io.EOF }

// Write discards b.
func (c *DiscardConn) Write(b []byte) (int, error) { return len(b), nil }

// Close ends Read.
func (c *DiscardConn) Close() error { c.once.Do(func() { close(c.closed) }); return nil }

// SetDeadline does nothing.
func (c *DiscardConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (c *DiscardConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (c *DiscardConn) SetWriteDeadline(time.Time) error { return nil }

// Direct returns true.
func (c *DiscardConn) Direct() bool { return true }

// Progress returns false.
func (c *DiscardConn) Progress() (mark uint32, ok bool) { return 0, false }

// PeerClosed returns false.
func (c *DiscardConn) PeerClosed() bool { return false }

// Watchable returns false.
func (c *DiscardConn) Watchable() bool { return false }

// Watch returns false.
func (c *DiscardConn) Watch(*transport.Watcher, transport.Waker) bool { return false }

// Unwatch does nothing.
func (c *DiscardConn) Unwatch(*transport.Watcher) {}

// Abort is like Close.
func (c *DiscardConn) Abort() { _ = c.Close() }

// TryWrite calls OnWrite and discards b.
func (c *DiscardConn) TryWrite(b []byte, brief bool) (int, error) {
	if brief {
		c.Brief.Add(1)
	}
	if c.OnWrite != nil {
		c.OnWrite(len(b))
	}
	return len(b), nil
}

// WriteAll discards b.
func (c *DiscardConn) WriteAll(b []byte, _ *atomic.Int64, _ func() int64) (int, error) {
	return len(b), nil
}

// FeedConn is a DiscardConn from which the same bytes can be read a number of
// times: for benchmarks of reading.
type FeedConn struct {
	DiscardConn
	frame []byte
	left  atomic.Int64
	Fed   chan struct{} // closed once every frame has been read
}

// NewFeedConn returns a connection that feeds frame once per Read. Feed sets how
// often.
func NewFeedConn(frame []byte) *FeedConn {
	return &FeedConn{DiscardConn: DiscardConn{closed: make(chan struct{})}, frame: frame, Fed: make(chan struct{})}
}

// Feed sets the number of reads that return the frame. It must be called before the
// first Read.
func (c *FeedConn) Feed(n int) { c.left.Store(int64(n)) }

// Read returns one frame, or blocks until the connection is closed after the last.
func (c *FeedConn) Read(b []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		if c.left.Load() == -1 {
			close(c.Fed)
		}
		return c.DiscardConn.Read(b)
	}
	return copy(b, c.frame), nil
}
