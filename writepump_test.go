package websocket_test

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestSlowReaderGetsEverythingInOrder(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, window := range []int{1, 2, 7, 100, 4096} {
			synctest.Test(t, func(t *testing.T) {
				hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
				defer hub.stop()
				peer := hub.connect(4096, nil)
				peer.server.SetWindow(window)
				const n = 50
				go func() {
					for i := range n {
						_ = hub.PublishToChannelRaw("news", []byte(fmt.Sprintf(`{"i":%d,"x":"%s"}`, i, strings.Repeat("y", i*3))))
					}
				}()
				for i := range n {
					m := readJSON(t, peer)
					require.EqualValues(t, i, m["data"].(map[string]any)["i"])
				}
				require.EqualValues(t, n, waitSent(hub))
				_ = peer.Close()
			})
		}
	})
}

// waitSent waits until the hub is idle and returns the number of messages sent.
func waitSent(h *fakeHub) uint64 {
	synctest.Wait()
	return h.Stats().MessagesSent
}
