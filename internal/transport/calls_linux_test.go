//go:build !asan && !msan && !race

package transport_test

import (
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDescriptorMadeBlocking reads and writes on a descriptor in blocking mode,
// into which File and Fd put it. A call that blocked in the kernel would stop the
// garbage collector, which waits for every running goroutine, or Abort, which waits
// for calls to return.
func TestDescriptorMadeBlocking(t *testing.T) {
	c, end, peer := tcpPair(t)
	f, err := end.File()
	require.NoError(t, err)
	_ = f.Fd()
	require.NoError(t, f.Close())

	read := make(chan error, 1)
	next := func(b []byte) { // ends with a byte from the peer or with Abort
		_, err := c.Read(b)
		read <- err
	}
	for range 50 {
		go next(make([]byte, 1))
		runtime.GC()
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		require.NoError(t, <-read)
	}
	fill(t, c)
	written := make(chan error, 1)
	go next(make([]byte, 1))
	go func() { // ends with Abort
		_, err := c.WriteAll(make([]byte, 16<<20), new(atomic.Int64), func() int64 { return 1 })
		written <- err
	}()
	runtime.GC()
	c.Abort()
	require.ErrorIs(t, <-read, net.ErrClosed)
	require.ErrorIs(t, <-written, net.ErrClosed)
}
