package websocket_test

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

func TestSubscriptionsFollowMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		of := func(topics ...string) int {
			synctest.Wait()
			return engine.Subscriptions(func(topic string) bool { return slices.Contains(topics, topic) })
		}
		require.Zero(t, of("c.news", "r.lobby", "b", "u.a", "u.b"))
		a := hubs[0].connect(1<<16, idHeader("a"))
		b := hubs[0].connect(1<<16, idHeader("b"))
		require.Equal(t, 5, of("c.news", "r.lobby", "b", "u.a", "u.b"))
		c, _ := hubs[0].Client("a")
		require.NoError(t, c.Unsubscribe("news"))
		require.Equal(t, 1, of("c.news"), "b is still subscribed")
		_ = a.Close()
		require.Equal(t, 4, of("c.news", "r.lobby", "b", "u.a", "u.b"))
		_ = b.Close()
		require.Zero(t, of("c.news", "r.lobby", "b", "u.a", "u.b"))
		require.Equal(t, 2, hubs[0].Stats().Broker.Subscriptions, "only the node's own topics are left")
		stopAll(hubs)
		require.Zero(t, engine.Subscriptions(func(string) bool { return true }))
	})
}
