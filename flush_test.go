package websocket_test

import (
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// fairnessHub returns a hub with one shard, a channel "c" of n members and a room "r"
// of two. The hub goroutine calls onWrite for every write.
func fairnessHub(t testing.TB, n int, onWrite func(toRoom bool)) *benchHub {
	config := websocket.DefaultConfig
	config.Shards = 1
	room := false
	h := newBenchHub(t, config, func(c *websocket.Client) {
		if room {
			_ = c.JoinRoom("r")
		} else {
			_ = c.Subscribe("c")
		}
	})
	for i := range n + 2 {
		nc := testnet.NewDiscardConn()
		room = i >= n
		toRoom := room
		nc.OnWrite = func(int) { onWrite(toRoom) }
		h.connectOn("json", nc)
	}
	return h
}

// TestFairness publishes to a room while a large channel is always busy: writes to its
// members publish new messages. The room must get its message after a bounded number
// of other writes.
func TestFairness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFairness)
}

func testFairness(t *testing.T) {
	const members = 2000
	var h *benchHub
	var writes, published, delivered int
	ready := make(chan struct{}) // closed when h is set
	h = fairnessHub(t, members, func(toRoom bool) {
		<-ready
		writes++
		switch {
		case toRoom:
			delivered = max(delivered, writes)
		case writes == 4*members:
			published = writes
			_ = h.PublishToRoom("r", &websocket.Message{})
		case writes%100 == 0 && writes < 8*members:
			_ = h.PublishToChannelRaw("c", []byte("1"))
		}
	})
	close(ready)
	require.NoError(t, h.PublishToChannelRaw("c", []byte("1")))
	h.waitUntilSent()
	require.NotZero(t, delivered)
	require.Less(t, delivered-published, 400, "too many writes to others between publication and delivery")
}

// TestBriefWrites checks which writes the hub makes as brief ones: those to small
// audiences, and only a few in a millisecond.
func TestBriefWrites(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const members, briefWrites = 50, 32
		config := websocket.DefaultConfig
		config.Shards = 1
		var clients []*websocket.Client
		h := newBenchHub(t, config, func(c *websocket.Client) {
			_ = c.Subscribe("c")
			if len(clients) < 2 {
				_ = c.JoinRoom("r")
			}
			clients = append(clients, c)
		})
		var conns []*testnet.DiscardConn
		for range members {
			nc := testnet.NewDiscardConn()
			conns = append(conns, nc)
			h.connectOn("json", nc)
		}
		requireBrief := func(want int64) {
			t.Helper()
			h.waitUntilSent()
			var n int64
			for _, nc := range conns {
				n += nc.Brief.Swap(0)
			}
			require.Equal(t, want, n)
			time.Sleep(time.Millisecond)
		}
		h.waitUntilSent()
		for _, nc := range conns {
			nc.Brief.Store(0)
		}
		time.Sleep(time.Millisecond)
		require.NoError(t, h.PublishToChannelRaw("c", []byte("1")))
		requireBrief(0)
		require.NoError(t, h.Broadcast([]byte("1")))
		requireBrief(0)
		require.NoError(t, h.PublishToRoom("r", &websocket.Message{}))
		requireBrief(2)
		for _, c := range clients {
			require.NoError(t, c.Send(&websocket.Message{}))
		}
		requireBrief(briefWrites)
		require.NoError(t, clients[0].Send(&websocket.Message{}))
		requireBrief(1)
	})
}

// TestFloodReachesAllInParts publishes more than ClientBacklog to 1,000 members before
// the hub can write to all of them. The hub must write each member's pending batch in
// parts, and must not evict members as slow.
func TestFloodReachesAllInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodReachesAllInParts)
}

func testFloodReachesAllInParts(t *testing.T) {
	config := websocket.DefaultConfig
	config.Shards = 1
	h := newBenchHub(t, config, func(c *websocket.Client) { _ = c.Subscribe("c") })
	var last, atOnce, most int
	for i := range 1000 {
		nc := testnet.NewDiscardConn()
		nc.OnWrite = func(n int) {
			if i != last {
				last, atOnce = i, 0
			}
			atOnce += n
			most = max(most, atOnce)
		}
		h.connectOn("json", nc)
	}
	data := jsonPayload(4 << 10)
	for range 4000 {
		require.NoError(t, h.PublishToChannelRaw("c", data))
	}
	h.waitUntilSent()
	require.Less(t, most, 1<<19, "too many bytes written to a client at once")
}
