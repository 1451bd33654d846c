package websocket_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// TestFastPublishersAreOnlySlowedDown publishes for up to a minute with the
// default rates, and waits for each ack or for none. The hub must not close the client.
func TestFastPublishersAreOnlySlowedDown(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		n := 60_000
		if p.plain {
			n = 20_000 // a writePump per ack takes long with the race detector
		}
		for _, pipelined := range []bool{false, true} {
			t.Run(fmt.Sprint("pipelined=", pipelined), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					hub := runFake(t, p, websocket.DefaultConfig)
					defer hub.stop()
					server, client := testnet.Pair(1 << 16)
					served := hub.accept(server)
					peer := rawOver(t, client, handshakeOf()).requireOpen()
					<-served
					frames := func(n int) string {
						return strings.Repeat(textFrame(`{"type":"publish","channel":"news","data":"x","id":"i"}`), n)
					}
					start := time.Now()
					if pipelined {
						go func() { // ends when the hub has read all
							for range n / 100 {
								peer.write(frames(100))
							}
						}()
					}
					for range n {
						if !pipelined {
							peer.write(frames(1))
						}
						f, err := peer.next()
						if err != nil || f.first != fin|textOp || !strings.Contains(string(f.payload), `"ack"`) { // cheaper than require
							require.FailNow(t, "not an ack", "%v %x %q", err, f.first, f.payload)
						}
					}
					rate := websocket.Defaults().MessageRate
					require.InDelta(t, float64(n)/float64(rate)-2, time.Since(start).Seconds(), 1, "the hub must still limit the rate")
					require.EqualValues(t, n, hub.Stats().MessagesReceived)
					peer.leave()
				})
			})
		}
	})
}
