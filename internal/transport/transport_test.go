package transport_test

import (
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

// TestAbortTLS aborts a TLS connection whose peer accepts nothing. Sending an alert
// would take until tls.Conn's deadline.
func TestAbortTLS(t *testing.T) {
	certificates := httptest.NewTLSServer(http.NotFoundHandler())
	defer certificates.Close()
	config := &tls.Config{Certificates: certificates.TLS.Certificates}
	synctest.Test(t, func(t *testing.T) {
		server, client := testnet.Pair(1 << 16)
		secure := tls.Server(server, config)
		peer := tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		shaken := make(chan error, 1)
		go func() { shaken <- peer.Handshake() }() // ends with the server's handshake
		require.NoError(t, secure.Handshake())
		require.NoError(t, <-shaken)
		synctest.Wait()

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
