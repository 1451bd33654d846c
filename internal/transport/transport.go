// Package transport reads from and writes to a client's socket.
//
// On plain TCP a Conn can write without waiting: TryWrite writes as much as the
// kernel takes at once, so that one goroutine can serve many connections. Every
// other net.Conn, TLS among them, has blocking writes only and needs a goroutine
// of its own for WriteAll.
//
// The package holds all raw system calls and build tags of the module.
package transport

import (
	"io"
	"net"
	"sync/atomic"
)

// JoinSize is the size in bytes at which a caller stops joining frames for one write:
// larger writes cost the kernel hardly less per byte. TryWrite treats no larger write as
// brief, because it may take long.
const JoinSize = 64 << 10

// Conn is a connection's transport. At most one goroutine at a time may read and at
// most one may write; any goroutine may call Abort at any time. The caller sets no
// write deadline, because an expired one would fail TryWrite too. Once Abort has
// been called or the underlying net.Conn is closed, every read and write fails.
type Conn interface {
	io.Reader
	// TryWrite writes as much of b as the transport takes without waiting, which
	// may be nothing, and returns the number of bytes written. To write less than
	// all of b is no error. A caller sets brief for a few writes at a time, after which
	// its goroutine waits or makes other writes: they may bypass the Go scheduler, which
	// can run nothing else on the goroutine's processor meanwhile.
	TryWrite(b []byte, brief bool) (int, error)
	// WriteAll writes all of b and waits as long as that takes. It stores the time
	// that clock returns in progress whenever the transport has accepted a part of
	// b. It returns the number of bytes written, which is less than len(b) only
	// with an error.
	WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error)
	// Direct reports whether TryWrite can write anything. The result never changes.
	Direct() bool
	// Progress returns a value that changes when the peer acknowledges bytes or takes
	// bytes out of its receive buffer. ok is false if that cannot be told. Any goroutine
	// may call it.
	Progress() (mark uint32, ok bool)
	// PeerClosed reports whether the peer is known to have closed its side, although
	// its input may not have been read. False may also mean that this cannot be told,
	// as for connections that are not TCP or TLS on TCP. Any goroutine may call it.
	PeerClosed() bool
	// Watchable reports whether Watch may succeed. The result never changes.
	Watchable() bool
	// Watch makes a call of waker.Wake, on any goroutine, as soon as there is input or
	// Read would fail for another reason than a deadline. It calls Wake once, perhaps
	// before it returns, and perhaps although there is no input. It may be called when a
	// Read has just ended with os.ErrDeadlineExceeded, and at any time if the Conn is
	// Direct; from then on nothing may read until Wake or Unwatch is called. It reports whether the connection is watched. The
	// connection may be closed only after Wake or Unwatch.
	Watch(w *Watcher, waker Waker) bool
	// Unwatch ends Watch. A call of Wake that has begun may still be running.
	Unwatch(w *Watcher)
	// Abort closes the connection and does not wait for anything.
	Abort()
}

// Waker is a connection that waits for Wake. See Conn.Watch.
type Waker interface{ Wake() }

// New returns the transport of nc:
//
//   - nc itself if it implements Conn, as in-memory connections of tests do,
//   - inPlace for a *net.TCPConn on Unix, which New initializes, so that the caller
//     can embed it and a connection costs no further allocation,
//   - a Conn that is not Direct for everything else. It is also a net.Conn, which the
//     caller should use in place of nc: write deadlines on it are safe for every type of
//     nc, and Close waits for what Abort has begun.
//
// The Conn does not own nc: the caller still has to close it.
func New(nc net.Conn, inPlace *TCP) Conn {
	if c, ok := nc.(Conn); ok {
		return c
	}
	if c := newDirect(nc, inPlace); c != nil {
		return c
	}
	return newBlocking(nc)
}
