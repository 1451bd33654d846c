package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// blockingWriteSize is the maximum size in bytes of one write to a blocking
	// connection: the payload of one TLS record (RFC 8446 section 5.1).
	blockingWriteSize = 16 << 10
	// progressInterval is how often a blocking write stops to report progress, on
	// connections that survive a write deadline.
	progressInterval = time.Second
)

// blocking is the Conn of connections without non-blocking writes: TLS, and
// everything that is not plain TCP. It is also a net.Conn.
type blocking struct {
	net.Conn
	survives bool // survivesDeadline(Conn)

	mu           sync.Mutex
	writeTimeout *time.Timer   // set by SetWriteDeadline; nil if none runs
	aborted      chan struct{} // made by Abort if it needs a goroutine, which closes it
	beneath      watchable     // the part of Conn that can be watched, or nil
}

// watchable is a part of Conn.
type watchable interface {
	Watch(w *Watcher, waker Waker) bool
	Unwatch(w *Watcher)
}

func newBlocking(nc net.Conn) *blocking {
	return &blocking{Conn: nc, survives: survivesDeadline(nc), beneath: watchableBeneath(nc)}
}

// watchableBeneath returns the part of nc that tells whether there is input, or nil. Under TLS that is the
// socket: a read that ended with a deadline has found no complete record in the buffers of
// TLS. Other wrappers may have buffers of their own.
func watchableBeneath(nc net.Conn) watchable {
	switch c := nc.(type) {
	case *tls.Conn:
		if socket := newDirect(c.NetConn(), new(TCP)); socket != nil && socket.Watchable() {
			return socket
		}
	case watchable: // connections of tests
		return c
	}
	return nil
}

// survivesDeadline reports whether nc can be written to again after a write deadline
// has expired, and returns the number of bytes that it had written. A tls.Conn fails
// for good, and any other type may contain one.
func survivesDeadline(nc net.Conn) bool {
	switch c := nc.(type) {
	case *net.TCPConn, *net.UnixConn:
		return countsAbortedWrites
	case interface{ SurvivesWriteDeadline() bool }: // connections of tests
		return c.SurvivesWriteDeadline()
	}
	return false
}

func (c *blocking) Direct() bool { return false }

func (c *blocking) TryWrite([]byte, bool) (int, error) { return 0, nil }

// WriteAll writes pieces of blockingWriteSize, so that progress is seen. On
// connections that survive it, a deadline also interrupts a write every
// progressInterval, to see whether the peer accepted a part.
func (c *blocking) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		if c.survives {
			_ = c.Conn.SetWriteDeadline(time.Now().Add(progressInterval)) // without it progress is reported later
		}
		n, err := c.Conn.Write(b[written:min(len(b), written+blockingWriteSize)])
		written += n
		if n > 0 {
			progress.Store(clock())
		}
		if err != nil && (!c.survives || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return written, err
		}
	}
	return written, nil
}

// Progress implements Conn, for TCP beneath any number of wrappers.
func (c *blocking) Progress() (mark uint32, ok bool) { return progressOf(innermost(c.Conn)) }

// PeerClosed implements Conn, for TCP beneath any number of wrappers.
func (c *blocking) PeerClosed() bool { return peerHasClosed(innermost(c.Conn)) }

// Watchable implements Conn.
func (c *blocking) Watchable() bool { return c.beneath != nil }

// Watch implements Conn.
func (c *blocking) Watch(w *Watcher, waker Waker) bool {
	return c.beneath != nil && c.beneath.Watch(w, waker)
}

// Unwatch implements Conn.
func (c *blocking) Unwatch(w *Watcher) {
	if c.beneath != nil {
		c.beneath.Unwatch(w)
	}
}

// SetWriteDeadline aborts the connection at t if an expired deadline would make it
// unusable. The zero time removes the deadline.
func (c *blocking) SetWriteDeadline(t time.Time) error {
	if c.survives {
		return c.Conn.SetWriteDeadline(t)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopWriteTimeout()
	if !t.IsZero() {
		c.writeTimeout = time.AfterFunc(time.Until(t), c.Abort)
	}
	return nil
}

// stopWriteTimeout ends the timer of SetWriteDeadline. The caller holds mu.
func (c *blocking) stopWriteTimeout() {
	if c.writeTimeout != nil {
		c.writeTimeout.Stop()
		c.writeTimeout = nil
	}
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *blocking) SetDeadline(t time.Time) error {
	if c.survives {
		return c.Conn.SetDeadline(t)
	}
	_ = c.SetWriteDeadline(t) // never fails
	if t.IsZero() {
		return c.Conn.SetDeadline(t) // an HTTP server may have set a write deadline
	}
	return c.Conn.SetReadDeadline(t)
}

// Abort closes the connection beneath TLS, because tls.Conn.Close may wait five seconds
// to send an alert. It finds that connection through NetConn methods, which wrappers
// may have too. Closing a connection of an unknown type may wait, so a goroutine does
// it.
func (c *blocking) Abort() {
	base := innermost(c.Conn)
	switch base.(type) {
	case *net.TCPConn, *net.UnixConn:
		_ = base.Close()
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.aborted != nil {
		return
	}
	aborted := make(chan struct{})
	c.aborted = aborted
	go func() { // ends when Close has returned; blocking.Close waits for it
		defer close(aborted)
		_ = base.Close()
	}()
}

// Close closes the connection as its type does, and waits for the goroutine of Abort.
func (c *blocking) Close() error {
	c.mu.Lock()
	c.stopWriteTimeout()
	aborted := c.aborted
	c.mu.Unlock()
	if aborted != nil {
		<-aborted
	}
	return c.Conn.Close()
}

// maxNested limits how many connections innermost unwraps.
const maxNested = 16

// innermost returns the connection that the NetConn methods of nc lead to.
func innermost(nc net.Conn) net.Conn {
	for range maxNested {
		wrapper, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner := wrapper.NetConn()
		if inner == nil {
			break
		}
		nc = inner
	}
	return nc
}
