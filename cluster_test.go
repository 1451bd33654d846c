package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

func idHeader(id string) http.Header { return http.Header{"X-Id": {id}} }

func queryID(r *http.Request) (string, error) { return r.Header.Get("X-Id"), nil }

func asUser(c *websocket.Client) {
	joinNewsAndLobby(c)
	c.SetUser("user of " + c.ID[:1])
}

func TestClusterMethods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 3, asUser)
		defer stopAll(hubs)
		peers := map[string]*fakePeer{}
		for i, id := range []string{"a1", "a2", "b1", "b2", "c1"} {
			peers[id] = hubs[i%3].connect(1<<16, idHeader(id))
		}
		ready(t, hubs...)
		time.Sleep(3 * time.Second) // until the nodes know each other
		ctx, c := t.Context(), hubs[0].Cluster()
		start := time.Now()
		require.Equal(t, []string{"node0", "node1", "node2"}, c.Nodes())
		for id, want := range map[string]string{"a1": "node0", "a2": "node1", "b1": "node2", "b2": "node0"} {
			node, err := c.FindClient(ctx, id)
			require.NoError(t, err)
			require.Equal(t, want, node, id)
		}
		_, err := c.FindClient(ctx, "nobody")
		require.ErrorIs(t, err, websocket.ErrClientNotFound)
		members, err := c.RoomMembers(ctx, "lobby")
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"a1", "a2", "b1", "b2", "c1"}, members)
		count, err := c.ChannelCount(ctx, "news")
		require.NoError(t, err)
		require.Equal(t, 5, count)
		members, err = c.RoomMembers(ctx, "empty")
		require.NoError(t, err)
		require.Empty(t, members)
		_, err = c.RoomMembers(ctx, "")
		require.ErrorIs(t, err, websocket.ErrInvalidName)
		require.Zero(t, time.Since(start), "no call waits for a deadline when all nodes answer")

		require.NoError(t, c.CloseClient(ctx, "b1", 4000, "out"))
		code, reason := closeCode(t, peers["b1"])
		require.Equal(t, 4000, code)
		require.Equal(t, "out", reason)
		_ = peers["b1"].Close()
		synctest.Wait()
		require.ErrorIs(t, c.CloseClient(ctx, "b1", 0, ""), websocket.ErrClientNotFound)
		require.ErrorIs(t, c.CloseClient(ctx, "a1", 1006, ""), websocket.ErrInvalidCloseCode)
		count, err = c.CloseUser(ctx, "user of a", 0, "")
		require.NoError(t, err)
		require.Equal(t, 2, count)
		for _, id := range []string{"a1", "a2"} {
			code, _ := closeCode(t, peers[id])
			require.Equal(t, websocket.CloseNormalClosure, code)
		}
		count, err = c.CloseUser(ctx, "", 0, "")
		require.NoError(t, err)
		require.Zero(t, count)
		for _, p := range peers {
			_ = p.Close()
		}
	})
}

func TestUnansweredNodesAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		mute, silence := muteNode(t, engine)
		defer stopAll(append(hubs, mute...))
		a := hubs[0].connect(1<<16, idHeader("a"))
		b := hubs[1].connect(1<<16, idHeader("b"))
		ready(t, append(hubs, mute...)...)
		time.Sleep(3 * time.Second) // until the nodes know each other
		silence(true)
		start := time.Now()
		count, err := hubs[0].Cluster().ChannelCount(t.Context(), "news")
		require.Equal(t, 2, count, "the answers so far are returned")
		var missing *websocket.UnansweredError
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"mute"}, missing.Nodes)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(start))

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = hubs[0].Cluster().FindClient(ctx, "nobody")
		require.NotErrorIs(t, err, websocket.ErrClientNotFound, "the client may be on the node that did not answer")
		require.ErrorAs(t, err, &missing)
		node, err := hubs[0].Cluster().FindClient(t.Context(), "b")
		require.NoError(t, err, "the answer of the client's node is enough")
		require.Equal(t, "node1", node)

		engine.Stop()
		synctest.Wait()
		start = time.Now()
		count, err = hubs[0].Cluster().ChannelCount(t.Context(), "news")
		require.Equal(t, 1, count)
		require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"mute", "node1"}, missing.Nodes)
		require.Zero(t, time.Since(start))
		engine.Start()
		_ = a.Close()
		_ = b.Close()
	})
}

func TestNodesJoinAndLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 3, nil)
		ready(t, hubs...)
		time.Sleep(10 * time.Second)
		require.Len(t, hubs[0].Cluster().Nodes(), 3, "live nodes stay in the list")
		require.Equal(t, 3, hubs[0].Stats().Broker.Nodes)
		hubs[2].stop()
		synctest.Wait()
		require.Equal(t, []string{"node0", "node1"}, hubs[0].Cluster().Nodes(), "the node sent a bye")
		mute, silence := muteNode(t, engine)
		ready(t, mute...)
		synctest.Wait()
		require.Len(t, hubs[0].Cluster().Nodes(), 3)
		silence(true)
		time.Sleep(10 * time.Second)
		require.Len(t, hubs[0].Cluster().Nodes(), 2, "the node was silent for too long")
		stopAll(append(hubs[:2], mute...))
		_, err := hubs[0].Cluster().FindClient(context.Background(), "x")
		require.ErrorIs(t, err, websocket.ErrHubClosed)
	})
}

func TestClusterWithoutBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.ClientID = queryID
		hub := runFake(t, paths[0], config, func(h *websocket.Hub) { h.SetCallbacks(asUser, nil, nil) })
		defer hub.stop()
		peer := hub.connect(1<<16, idHeader("a1"))
		c, ctx := hub.Cluster(), t.Context()
		require.Nil(t, c.Nodes())
		_, err := c.FindClient(ctx, "a1")
		require.NoError(t, err)
		members, err := c.RoomMembers(ctx, "lobby")
		require.NoError(t, err)
		require.Equal(t, []string{"a1"}, members)
		count, err := c.CloseUser(ctx, "user of a", 0, "")
		require.NoError(t, err)
		require.Equal(t, 1, count)
		closeCode(t, peer)
		_ = peer.Close()
	})
}

// TestLongAnswersAreSplit has more members than fit into one payload.
func TestLongAnswersAreSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(64 << 10)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		const n = 300
		var peers []*fakePeer
		for i := range n {
			peers = append(peers, hubs[1].connect(1<<12, idHeader(fmt.Sprintf("%0200d", i))))
		}
		ready(t, hubs...)
		synctest.Wait()
		members, err := hubs[0].Cluster().RoomMembers(t.Context(), "lobby")
		require.NoError(t, err)
		require.Len(t, members, n)
		for _, p := range peers {
			_ = p.Close()
		}
	})
}

// muteNode starts a node that publishes nothing while silence is set.
func muteNode(t *testing.T, engine *brokertest.Memory) (hubs []*fakeHub, silence func(bool)) {
	broker := &muteBroker{Broker: engine.Broker()}
	hubs = nodes(t, engine, 1, joinNewsAndLobby, func(c *websocket.Config) {
		c.NodeName = "mute"
		c.Broker = broker
	})
	return hubs, broker.silent.Store
}

type muteBroker struct {
	websocket.Broker
	silent atomic.Bool
}

func (b *muteBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.silent.Load() {
		return nil
	}
	return b.Broker.Publish(ctx, batch)
}
