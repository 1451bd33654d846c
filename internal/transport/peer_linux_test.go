package transport_test

import (
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/stretchr/testify/require"
)

// The kernel needs a moment for what a peer has done.
const (
	patience = 10 * time.Second
	tick     = time.Millisecond
)

// PeerClosed sees a FIN and a reset behind input that has not been read, also beneath TLS.
func TestPeerClosed(t *testing.T) {
	for name, end := range map[string]func(*net.TCPConn) error{
		"FIN":   (*net.TCPConn).Close,
		"reset": func(c *net.TCPConn) error { _ = c.SetLinger(0); return c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			direct, server, peer := tcpPair(t)
			beneathTLS := transport.New(tls.Server(server, &tls.Config{}), new(transport.TCP))
			require.False(t, direct.PeerClosed())
			require.False(t, beneathTLS.PeerClosed())
			_, err := peer.Write([]byte("not read"))
			require.NoError(t, err)
			require.NoError(t, end(peer))
			require.Eventually(t, direct.PeerClosed, patience, tick)
			require.True(t, beneathTLS.PeerClosed())
		})
	}
}

// Progress changes when the peer acknowledges bytes, and not otherwise.
func TestProgress(t *testing.T) {
	c, _, _ := tcpPair(t)
	before, known := c.Progress()
	if !known {
		t.Skip("this system does not tell")
	}
	again, _ := c.Progress()
	require.Equal(t, before, again)
	_, err := c.TryWrite([]byte("acknowledged by the kernel"), false)
	require.NoError(t, err)
	require.Eventually(t, func() bool { now, _ := c.Progress(); return now != before }, patience, tick)
}
