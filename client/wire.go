package client

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// wire is the network connection beneath TLS. Once the handshake is over, every
// byte that arrives gives it another ReadTimeout to live.
type wire struct {
	net.Conn
	timeout time.Duration

	began    time.Time
	armed    atomic.Bool
	lastRead atomic.Int64 // nanoseconds since began
}

func newWire(nc net.Conn, timeout time.Duration) *wire {
	return &wire{Conn: nc, timeout: timeout, began: time.Now()}
}

// arm ends the handshake. Nothing may be reading.
func (w *wire) arm() {
	w.lastRead.Store(int64(time.Since(w.began)))
	w.armed.Store(true)
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if w.armed.Load() {
		if err := w.Conn.SetReadDeadline(time.Now().Add(w.timeout)); err != nil {
			return 0, err
		}
	}
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.lastRead.Store(int64(time.Since(w.began)))
	}
	return n, err
}

// silence is how long ago the last byte arrived.
func (w *wire) silence() time.Duration {
	return time.Since(w.began) - time.Duration(w.lastRead.Load())
}

// cut ends the connection at once: closing TLS would wait to say so.
func (w *wire) cut() { _ = w.Conn.Close() } // nothing is lost by an error here

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
