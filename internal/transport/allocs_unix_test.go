//go:build unix && !race

package transport_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestTCPDoesNotAllocate is not for the race detector, under which a sync.Pool
// drops items at random.
func TestTCPDoesNotAllocate(t *testing.T) {
	c, _, peer := tcpPair(t)
	b := make([]byte, 16)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		_, err1 := peer.Write(b[:1])
		n, err2 := c.Read(b)
		m, err3 := c.TryWrite(b[:n], true)
		_, err4 := peer.Read(b)
		if err1 != nil || err2 != nil || err3 != nil || err4 != nil || m != 1 {
			t.Error(err1, err2, err3, err4, m)
		}
	}))
}
