package transport_test

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/stretchr/testify/require"
)

// signal is a Waker that sends to itself.
type signal chan struct{}

func (s signal) Wake() { s <- struct{}{} }

// none requires that s has not been woken. It looks for a moment only, so it can miss a late
// call of Wake, but never fails for a good one.
func (s signal) none(t *testing.T) {
	t.Helper()
	for range 100 {
		runtime.Gosched()
	}
	require.Empty(t, s)
}

func TestWatch(t *testing.T) {
	// silent returns a connection of which a read has ended with the deadline.
	silent := func(t *testing.T) (c transport.Conn, hub, peer *net.TCPConn, woken signal, w *transport.Watcher) {
		w = &transport.Watcher{}
		t.Cleanup(w.Close)
		c, hub, peer = tcpPair(t)
		require.True(t, c.Watchable())
		require.NoError(t, hub.SetReadDeadline(time.Unix(1, 0)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		return c, hub, peer, make(signal, 10), w
	}
	t.Run("input", func(t *testing.T) {
		c, hub, peer, woken, w := silent(t)
		for range 3 {
			require.True(t, c.Watch(w, woken))
			woken.none(t)
			_, err := peer.Write([]byte("xy"))
			require.NoError(t, err)
			<-woken
			require.NoError(t, hub.SetReadDeadline(time.Time{}))
			b := make([]byte, 2)
			n, err := c.Read(b)
			require.NoError(t, err)
			require.Equal(t, "xy", string(b[:n]))
			woken.none(t)
		}
	})
	t.Run("input before Watch", func(t *testing.T) {
		c, _, peer, woken, w := silent(t)
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		require.True(t, c.Watch(w, woken))
		<-woken
		require.True(t, c.Watch(w, woken), "nothing was read")
		<-woken
	})
	t.Run("end of input", func(t *testing.T) {
		c, _, peer, woken, w := silent(t)
		require.True(t, c.Watch(w, woken))
		require.NoError(t, peer.Close())
		<-woken
	})
	t.Run("Unwatch", func(t *testing.T) {
		c, _, peer, woken, w := silent(t)
		require.True(t, c.Watch(w, woken))
		c.Unwatch(w)
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		woken.none(t)
		require.True(t, c.Watch(w, woken))
		<-woken
	})
	t.Run("descriptor of a closed connection", func(t *testing.T) {
		c, hub, _, woken, w := silent(t)
		require.True(t, c.Watch(w, woken))
		c.Unwatch(w)
		require.NoError(t, hub.Close())
		require.False(t, c.Watch(w, woken))
		for range 10 { // one of them gets the same descriptor
			c, _, peer := tcpPair(t)
			require.True(t, c.Watch(w, woken))
			_, err := peer.Write([]byte("x"))
			require.NoError(t, err)
			<-woken
		}
		woken.none(t)
	})
	t.Run("closed Watcher", func(t *testing.T) {
		c, _, peer, woken, w := silent(t)
		require.True(t, c.Watch(w, woken))
		w.Close()
		w.Close()
		_, err := peer.Write([]byte("x"))
		require.NoError(t, err)
		woken.none(t)
		require.False(t, c.Watch(w, woken))
		c.Unwatch(w)
	})
	t.Run("many", func(t *testing.T) {
		w, woken := &transport.Watcher{}, make(signal)
		t.Cleanup(w.Close)
		const n = 300
		var peers []net.Conn
		for range n {
			c, _, peer := tcpPair(t)
			require.True(t, c.Watch(w, woken))
			peers = append(peers, peer)
		}
		go func() {
			for _, p := range peers {
				_, _ = p.Write([]byte("x"))
			}
		}()
		for range n {
			<-woken
		}
	})
}
