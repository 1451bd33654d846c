package client

import (
	"net"
	"sync/atomic"
	"time"
)

// watchedConn is the network connection beneath TLS. It records when the latest byte
// arrived.
type watchedConn struct {
	net.Conn

	created  time.Time
	started  atomic.Bool
	lastRead atomic.Int64 // see received
}

func newWatchedConn(nc net.Conn) *watchedConn { return &watchedConn{Conn: nc, created: time.Now()} }

// start is called once, after the handshake and before the first Read that follows it.
func (w *watchedConn) start() { w.started.Store(true) }

// Read implements net.Conn.
func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 && w.started.Load() {
		w.lastRead.Store(int64(w.now()))
	}
	return n, err
}

// now returns the time since the connection was made. It is never 0.
func (w *watchedConn) now() time.Duration { return time.Since(w.created) + 1 }

// received returns the time, as of now, at which the latest byte arrived after start. It
// is 0 if none has arrived.
func (w *watchedConn) received() time.Duration { return time.Duration(w.lastRead.Load()) }

// abort closes the connection beneath TLS, because closing TLS would wait for
// its close_notify to be written.
func (w *watchedConn) abort() { _ = w.Conn.Close() } // the connection is unusable even if Close fails
