package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	// blockingWriteSize is the maximum size in bytes of one write to a blocking
	// connection: the payload of one TLS record (RFC 8446 section 5.1).
	blockingWriteSize = 16 << 10
	// progressInterval is how often a blocking write stops to report progress.
	progressInterval = time.Second
)

// blocking is the Conn of connections without non-blocking writes: TLS, and
// everything that is not plain TCP.
type blocking struct{ conn net.Conn }

func (c *blocking) Read(b []byte) (int, error) { return c.conn.Read(b) }

func (c *blocking) Direct() bool { return false }

func (c *blocking) TryWrite([]byte, bool) (int, error) { return 0, nil }

// WriteAll interrupts a write every progressInterval with a deadline, to see
// whether the peer accepted anything. It sets none on TLS, because a tls.Conn
// fails for good once a write has timed out.
func (c *blocking) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	_, isTLS := c.conn.(*tls.Conn)
	written := 0
	for written < len(b) {
		if !isTLS {
			_ = c.conn.SetWriteDeadline(time.Now().Add(progressInterval)) // without it progress is reported later
		}
		n, err := c.conn.Write(b[written:min(len(b), written+blockingWriteSize)])
		written += n
		if n > 0 {
			progress.Store(clock())
		}
		if err != nil && (isTLS || !errors.Is(err, os.ErrDeadlineExceeded)) {
			return written, err
		}
	}
	return written, nil
}

// Abort closes the connection beneath TLS, because tls.Conn.Close may wait to send
// an alert.
func (c *blocking) Abort() {
	if t, ok := c.conn.(*tls.Conn); ok {
		_ = t.NetConn().Close()
		return
	}
	_ = c.conn.Close()
}
