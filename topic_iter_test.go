package websocket_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// An iteration visits each topic that exists throughout exactly once, although the loop
// body adds and removes topics. No lock is held while the loop body runs.
func TestTopicIterationAllowsChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxSubscriptions = -1
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		defer peer.Close()
		c := onlyClient(t, hub)
		const n = 2000
		for i := range n {
			require.NoError(t, c.Subscribe(fmt.Sprint("kept ", i)))
			require.NoError(t, c.Subscribe(fmt.Sprint("gone ", i)))
		}
		visits := map[string]int{}
		i := 0
		for name, members := range hub.Channels() {
			require.Equal(t, 1, members)
			visits[name]++
			require.NoError(t, c.Unsubscribe(fmt.Sprint("gone ", (i*7)%n)))
			require.NoError(t, c.Subscribe(fmt.Sprint("new ", i)))
			i++
		}
		for i := range n {
			require.Equal(t, 1, visits[fmt.Sprint("kept ", i)])
			require.LessOrEqual(t, visits[fmt.Sprint("gone ", i)], 1)
			require.Zero(t, visits[fmt.Sprint("new ", i)])
		}
		for range hub.Channels() {
			break
		}
		require.Len(t, channelsOf(hub.Hub), hub.Stats().TotalChannels)
		require.Empty(t, roomsOf(hub.Hub))
	})
}
