//go:build unix

package transport_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

// tcpPair returns the transport of one end of a TCP connection on the loopback
// interface, that end, and the other.
func tcpPair(t *testing.T) (c transport.Conn, end, peer *net.TCPConn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	dialed, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { _ = dialed.Close() })
	accepted, err := listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _ = accepted.Close() })
	inPlace := new(transport.TCP)
	c = transport.New(accepted, inPlace)
	require.Same(t, inPlace, c)
	require.True(t, c.Direct())
	return c, accepted.(*net.TCPConn), dialed.(*net.TCPConn)
}

// fill writes until the kernel accepts no more and returns the bytes written. A
// blocking write would not return.
func fill(t *testing.T, c transport.Conn) []byte {
	t.Helper()
	var all []byte
	for size := transport.JoinSize; ; size = 100 + 2*transport.JoinSize - size { // both system calls
		b := bytes.Repeat([]byte{byte(len(all) / 1000)}, size)
		n, err := c.TryWrite(b, true)
		require.NoError(t, err)
		all = append(all, b[:n]...)
		if n == 0 {
			return all
		}
	}
}

func TestTCPRead(t *testing.T) {
	c, end, peer := tcpPair(t)
	b := make([]byte, 10)
	_, err := peer.Write([]byte("hello"))
	require.NoError(t, err)
	n, err := c.Read(b)
	require.NoError(t, err)
	require.Equal(t, "hello", string(b[:n]))

	require.NoError(t, end.SetReadDeadline(time.Unix(1, 0)))
	_, err = c.Read(b)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "read", op.Op)
	require.NoError(t, end.SetReadDeadline(time.Time{}))

	require.NoError(t, peer.CloseWrite())
	n, err = c.Read(b)
	require.Equal(t, io.EOF, err)
	require.Zero(t, n)
}

func TestTCPReset(t *testing.T) {
	c, end, peer := tcpPair(t)
	require.NoError(t, peer.SetLinger(0))
	require.NoError(t, peer.Close())
	_, err := c.Read(make([]byte, 10))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	var op *net.OpError
	require.ErrorAs(t, err, &op)
	require.Equal(t, "read", op.Op)
	require.Equal(t, end.RemoteAddr(), op.Addr)
	_, err = c.TryWrite([]byte("x"), true)
	require.ErrorIs(t, err, syscall.EPIPE)
}

// TestTCPWriteAll writes more than the kernel accepts at once.
func TestTCPWriteAll(t *testing.T) {
	c, _, peer := tcpPair(t)
	want := fill(t, c)
	rest := bytes.Repeat([]byte("rest"), 1<<20)
	got := make(chan []byte, 1)
	go func() { // ends when everything has been read
		b := make([]byte, len(want)+len(rest))
		n, _ := io.ReadFull(peer, b)
		got <- b[:n]
	}()
	var progress, now atomic.Int64
	n, err := c.WriteAll(rest, &progress, func() int64 { return now.Add(1) })
	require.NoError(t, err)
	require.Equal(t, len(rest), n)
	require.Equal(t, now.Load(), progress.Load())
	require.Positive(t, progress.Load())
	require.True(t, bytes.Equal(append(want, rest...), <-got))
}

func TestTCPAbort(t *testing.T) {
	c, _, _ := tcpPair(t)
	fill(t, c)
	errs := make(chan error, 2)
	go func() { // ends with Abort
		_, err := c.Read(make([]byte, 1))
		errs <- err
	}()
	go func() { // ends with Abort
		_, err := c.WriteAll(make([]byte, 16<<20), new(atomic.Int64), func() int64 { return 1 })
		errs <- err
	}()
	c.Abort()
	require.ErrorIs(t, <-errs, net.ErrClosed)
	require.ErrorIs(t, <-errs, net.ErrClosed)
	_, err := c.TryWrite([]byte("x"), true)
	require.ErrorIs(t, err, net.ErrClosed)
}
