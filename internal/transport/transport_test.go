package transport_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

func TestNew(t *testing.T) {
	server, _ := testnet.Pair(10)
	require.Same(t, server, transport.New(server, new(transport.TCP)))

	c := transport.New(server.Plain(), new(transport.TCP))
	require.False(t, c.Direct())
	n, err := c.TryWrite([]byte("x"), true)
	require.NoError(t, err)
	require.Zero(t, n)
}

// TestBlockingWriteReportsProgress lets the peer accept parts of a write and checks
// the times that WriteAll stores.
func TestBlockingWriteReportsProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := testnet.Pair(10)
		c := transport.New(server.Plain(), new(transport.TCP))
		start := time.Now()
		var progress atomic.Int64
		clock := func() int64 { return int64(time.Since(start)) }
		type result struct {
			n   int
			err error
		}
		done := make(chan result, 1)
		go func() { // ends when the client has read everything
			n, err := c.WriteAll([]byte("0123456789abcdefghijABCDEFGHIJ"), &progress, clock)
			done <- result{n, err}
		}()
		at := func(d time.Duration) time.Duration {
			time.Sleep(d - time.Since(start))
			synctest.Wait()
			return time.Duration(progress.Load())
		}
		b := make([]byte, 30)
		require.Equal(t, time.Second, at(2500*time.Millisecond))
		_, err := io.ReadFull(client, b[:10])
		require.NoError(t, err)
		require.Equal(t, 3*time.Second, at(5500*time.Millisecond))
		_, err = io.ReadFull(client, b[10:])
		require.NoError(t, err)
		require.Equal(t, result{30, nil}, <-done)
		require.Equal(t, 5500*time.Millisecond, time.Duration(progress.Load()))
		require.Equal(t, "0123456789abcdefghijABCDEFGHIJ", string(b))
	})
}

// writeSizes records the size of every write.
type writeSizes struct {
	net.Conn
	sizes []int
}

func (w *writeSizes) Write(b []byte) (int, error) {
	w.sizes = append(w.sizes, len(b))
	return w.Conn.Write(b)
}

// TestBlockingWriteSize checks that one write of a blocking connection fits a TLS
// record.
func TestBlockingWriteSize(t *testing.T) {
	server, _ := testnet.Pair(1 << 20)
	sizes := &writeSizes{Conn: server.Plain()}
	n, err := transport.New(sizes, new(transport.TCP)).WriteAll(make([]byte, 40<<10), new(atomic.Int64), func() int64 { return 1 })
	require.NoError(t, err)
	require.Equal(t, 40<<10, n)
	require.Equal(t, []int{16 << 10, 16 << 10, 8 << 10}, sizes.sizes)
}

// secured returns the ends of a TLS connection after its handshake, and the connection
// under the server's end.
func secured(t *testing.T, config *tls.Config) (server, client *tls.Conn, under *testnet.Conn) {
	t.Helper()
	under, other := testnet.Pair(1 << 16)
	server = tls.Server(under, config)
	client = tls.Client(other, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }() // ends with the server's handshake
	require.NoError(t, server.Handshake())
	require.NoError(t, <-shaken)
	synctest.Wait()
	return server, client, under
}

// serverCertificates returns a configuration with a certificate. It must be called
// outside a bubble.
func serverCertificates(t *testing.T) *tls.Config {
	t.Helper()
	server := httptest.NewTLSServer(http.NotFoundHandler())
	server.Close()
	return &tls.Config{Certificates: server.TLS.Certificates}
}

// opaque hides the type of a connection, as netutil.LimitListener does.
type opaque struct{ net.Conn }

// exposing is a wrapper that shows its connection.
type exposing struct{ net.Conn }

func (w exposing) NetConn() net.Conn { return w.Conn }

// wrappers are ways in which a server may hand over a TLS connection.
var wrappers = map[string]func(*tls.Conn) net.Conn{
	"bare":     func(c *tls.Conn) net.Conn { return c },
	"wrapped":  func(c *tls.Conn) net.Conn { return opaque{c} },
	"twice":    func(c *tls.Conn) net.Conn { return opaque{exposing{c}} },
	"exposing": func(c *tls.Conn) net.Conn { return exposing{c} },
}

// TestStalledTLS has a peer that accepts nothing for a minute and then reads everything.
func TestStalledTLS(t *testing.T) {
	config := serverCertificates(t)
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				secure, peer, _ := secured(t, config)
				c := transport.New(wrap(secure), new(transport.TCP))
				start := time.Now()
				var progress atomic.Int64
				sent := bytes.Repeat([]byte("0123456789"), 20_000)
				done := make(chan error, 1)
				go func() { // ends when the peer has read everything
					_, err := c.WriteAll(sent, &progress, func() int64 { return int64(time.Since(start)) + 1 })
					done <- err
				}()
				time.Sleep(time.Minute)
				require.EqualValues(t, 1, progress.Load())
				got := make([]byte, len(sent))
				_, err := io.ReadFull(peer, got)
				require.NoError(t, err)
				require.Equal(t, sent, got)
				require.NoError(t, <-done)
				require.EqualValues(t, time.Minute+1, progress.Load())
			})
		})
	}
}

// TestWriteDeadlineAborts checks that a write deadline ends a TLS connection in its time,
// and that a removed one does not.
func TestWriteDeadlineAborts(t *testing.T) {
	config := serverCertificates(t)
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				secure, _, under := secured(t, config)
				c := transport.New(wrap(secure), new(transport.TCP)).(net.Conn)
				start := time.Now()
				require.NoError(t, c.SetWriteDeadline(start.Add(time.Second)))
				require.NoError(t, c.SetDeadline(time.Time{}))
				time.Sleep(2 * time.Second)
				_, err := c.Write([]byte("x"))
				require.NoError(t, err)

				under.SetWindow(0)
				start = time.Now()
				require.NoError(t, c.SetDeadline(start.Add(time.Second)))
				_, err = c.Write([]byte("x"))
				require.Error(t, err)
				require.Equal(t, time.Second, time.Since(start))
				require.Error(t, c.Close())
				require.Equal(t, time.Second, time.Since(start))
			})
		})
	}
}

// TestAbortWrapped aborts connections whose peers accept nothing. Abort must not wait,
// and Close must leave no goroutine. If the type of the connection is known, both are
// immediate.
func TestAbortWrapped(t *testing.T) {
	config := serverCertificates(t)
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				secure, _, under := secured(t, config)
				c := transport.New(wrap(secure), new(transport.TCP))
				read := make(chan error, 1)
				go func() { // ends when the connection is closed
					_, err := c.Read(make([]byte, 1))
					read <- err
				}()
				synctest.Wait()
				under.SetWindow(0)
				start := time.Now()
				c.Abort()
				c.Abort()
				require.Equal(t, start, time.Now())
				require.Error(t, <-read)
				_ = c.(net.Conn).Close() // already closed
				limit := 5 * time.Second // of crypto/tls, for sending an alert
				if _, hidden := wrap(secure).(opaque); !hidden {
					limit = 0
				}
				require.Equal(t, limit, time.Since(start))
			})
		})
	}
}

// TestAbortTLS aborts a TLS connection whose peer accepts nothing. Sending an alert
// would take until tls.Conn's deadline.
func TestAbortTLS(t *testing.T) {
	config := serverCertificates(t)
	synctest.Test(t, func(t *testing.T) {
		secure, peer, server := secured(t, config)
		c := transport.New(secure, new(transport.TCP))
		n, err := c.WriteAll([]byte("hello"), new(atomic.Int64), func() int64 { return 1 })
		require.NoError(t, err)
		require.Equal(t, 5, n)
		b := make([]byte, 5)
		_, err = io.ReadFull(peer, b)
		require.NoError(t, err)
		require.Equal(t, "hello", string(b))

		server.SetWindow(0)
		start := time.Now()
		c.Abort()
		require.Equal(t, start, time.Now())
		_, err = c.Read(b)
		require.Error(t, err)
	})
}
