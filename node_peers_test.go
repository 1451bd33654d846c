package websocket_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// TestSilentNodesMakeGaps has a node fall silent without a bye, and come back. What it
// publishes meanwhile is lost.
func TestSilentNodesMakeGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 1, joinNewsAndLobby)
		mute, silence := muteNode(t, engine)
		defer stopAll(hubs)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, append(hubs, mute...)...)
		synctest.Wait()
		told := func() (gaps []string) {
			require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`"end"`)))
			for m := readJSON(t, p); m["data"] != "end"; m = readJSON(t, p) {
				gaps = append(gaps, gapOn(t, m))
			}
			return gaps
		}
		require.Empty(t, told())
		silence(true)
		require.NoError(t, mute[0].PublishToChannelRaw("news", []byte(`"lost"`)))
		time.Sleep(10 * time.Second)
		require.ElementsMatch(t, []string{"channel news", "room lobby", "clients"}, told())
		require.NoError(t, mute[0].PublishToChannelRaw("news", []byte(`"lost"`)))
		time.Sleep(10 * time.Second)
		require.Empty(t, told(), "its end is told once")
		silence(false)
		time.Sleep(3 * time.Second)
		require.ElementsMatch(t, []string{"channel news", "room lobby", "clients"}, told(), "what it has published meanwhile is lost")
		mute[0].stop()
		time.Sleep(10 * time.Second)
		require.Empty(t, told(), "it has sent a bye")
	})
}

// TestQuestionsRightAfterTheStart asks as soon as a node is up, before it knows the others.
func TestQuestionsRightAfterTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby, func(c *websocket.Config) { c.Broker = slowPublisher{c.Broker} })
		defer stopAll(hubs)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		time.Sleep(10 * time.Second)
		for i := range 20 {
			fresh := nodes(t, engine, 1, nil, func(c *websocket.Config) { c.NodeName = fmt.Sprint("fresh", i) })
			require.NoError(t, fresh[0].BrokerReady(t.Context()))
			start := time.Now()
			count, err := fresh[0].Cluster().ChannelCount(t.Context(), "news")
			require.NoError(t, err)
			require.Equal(t, 1, count)
			node, err := fresh[0].Cluster().FindClient(t.Context(), "p")
			require.NoError(t, err)
			require.Equal(t, "node0", node)
			require.Less(t, time.Since(start), time.Second, "the other nodes tell which nodes there are")
			fresh[0].stop()
		}
	})
}

// slowPublisher is a Broker whose publications take a while.
type slowPublisher struct{ websocket.Broker }

func (b slowPublisher) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	time.Sleep(20 * time.Millisecond)
	return b.Broker.Publish(ctx, batch)
}

// TestQuestionsOfTheFirstNodes asks while no node knows all others. The question waits until
// each live node must have announced itself.
func TestQuestionsOfTheFirstNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		alone := nodes(t, engine, 1, nil)
		defer stopAll(alone)
		ready(t, alone...)
		start := time.Now()
		_, err := alone[0].Cluster().FindClient(t.Context(), "p")
		require.ErrorIs(t, err, websocket.ErrClientNotFound)
		require.Equal(t, 2400*time.Millisecond, time.Since(start))
		_, err = alone[0].Cluster().FindClient(t.Context(), "p")
		require.ErrorIs(t, err, websocket.ErrClientNotFound)
		require.Equal(t, 2400*time.Millisecond, time.Since(start))
	})
}

// TestQuestionsDuringPartitions asks when a node has been silent for long, and closes the
// clients of a user. The node is told when it is back.
func TestQuestionsDuringPartitions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, asUser)
		defer stopAll(hubs)
		link := &partedBroker{HistoryBroker: engine.Broker().(websocket.HistoryBroker)}
		parted := nodes(t, engine, 1, asUser, func(c *websocket.Config) { c.NodeName, c.Broker = "parted", link })
		defer stopAll(parted)
		banned, other := parted[0].connect(1<<16, idHeader("a1")), parted[0].connect(1<<16, idHeader("b1"))
		defer banned.Close()
		defer other.Close()
		one := parted[0].connect(1<<16, idHeader("c1"))
		defer one.Close()
		time.Sleep(10 * time.Second)
		link.parted.Store(true)
		time.Sleep(20 * time.Second)
		var missing *websocket.UnansweredError
		count, err := hubs[0].Cluster().CloseUser(t.Context(), "user of a", 4001, "banned")
		require.Zero(t, count)
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"parted"}, missing.Nodes)
		require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
		require.Error(t, hubs[0].Cluster().CloseClient(t.Context(), "c1", 4002, "out"))
		time.Sleep(5 * time.Second)
		again := parted[0].connect(1<<16, idHeader("a2")) // the application lets the user in again
		defer again.Close()
		link.parted.Store(false)
		code, reason := closeCode(t, banned)
		require.Equal(t, 4001, code)
		require.Equal(t, "banned", reason)
		code, _ = closeCode(t, one)
		require.Equal(t, 4002, code)
		_, ok := parted[0].Client("a2")
		require.True(t, ok, "it connected after the call")
		_, ok = parted[0].Client("b1")
		require.True(t, ok)
		time.Sleep(5 * time.Second)
		_, ok = parted[0].Client("a2")
		require.True(t, ok)
		count, err = hubs[0].Cluster().CloseUser(t.Context(), "user of b", 0, "")
		require.NoError(t, err)
		require.Equal(t, 1, count)
	})
}

// partedBroker neither publishes nor receives while parted is set, without any error.
type partedBroker struct {
	websocket.HistoryBroker
	websocket.BrokerHandler
	parted atomic.Bool
}

func (b *partedBroker) Open(h websocket.BrokerHandler) error {
	b.BrokerHandler = h
	return b.HistoryBroker.Open(b)
}

func (b *partedBroker) Receive(payload []byte) {
	if !b.parted.Load() {
		b.BrokerHandler.Receive(payload)
	}
}

func (b *partedBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.parted.Load() {
		return nil
	}
	return b.HistoryBroker.Publish(ctx, batch)
}
