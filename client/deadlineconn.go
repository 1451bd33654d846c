package client

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// deadlineConn is the network connection beneath TLS. After startTimeout every
// Read renews the read deadline, so that reading fails when the hub has sent
// nothing for timeout. The handshake has a deadline of its own.
type deadlineConn struct {
	net.Conn
	timeout time.Duration

	created  time.Time
	started  atomic.Bool
	lastRead atomic.Int64 // time of the last received byte, in nanoseconds since created
}

func newDeadlineConn(nc net.Conn, timeout time.Duration) *deadlineConn {
	return &deadlineConn{Conn: nc, timeout: timeout, created: time.Now()}
}

// startTimeout is called once, after the handshake and before the first Read
// that follows it.
func (d *deadlineConn) startTimeout() {
	d.lastRead.Store(int64(time.Since(d.created)))
	d.started.Store(true)
}

// Read implements net.Conn.
func (d *deadlineConn) Read(b []byte) (int, error) {
	if d.started.Load() {
		if err := d.Conn.SetReadDeadline(time.Now().Add(d.timeout)); err != nil {
			return 0, err
		}
	}
	n, err := d.Conn.Read(b)
	if n > 0 {
		d.lastRead.Store(int64(time.Since(d.created)))
	}
	return n, err
}

// idle returns the time since the last byte was received.
func (d *deadlineConn) idle() time.Duration {
	return time.Since(d.created) - time.Duration(d.lastRead.Load())
}

// abort closes the connection beneath TLS, because closing TLS would wait for
// its close_notify to be written.
func (d *deadlineConn) abort() { _ = d.Conn.Close() } // the connection is unusable even if Close fails

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
