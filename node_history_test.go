package websocket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withHistories gives each topic whose name begins with "h" a history of 1,000 messages.
func withHistories(c *websocket.Config) {
	c.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
		if name[0] != 'h' {
			return websocket.TopicOptions{}
		}
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 1000, Age: time.Hour}}
	}
}

// follower is a client in channel "h" that keeps its position.
type follower struct {
	t        *testing.T
	id       string
	p        *fakePeer
	in       chan []byte // messages that are not read yet; closed at the end of the connection
	position websocket.Position
	resumed  websocket.Resumed // of the latest join
	got      []string          // data of messages; "gap N reason" for a gap
}

// join connects to a hub and subscribes to "h" from the follower's position on.
func (f *follower) join(h *fakeHub) {
	f.t.Helper()
	f.p, f.in = h.connect(1<<20, idHeader(f.id)), make(chan []byte, 10_000)
	go func() { // ends with the connection
		defer close(f.in)
		for {
			_, b, err := f.p.ReadMessage()
			if err != nil {
				return
			}
			f.in <- b
		}
	}()
	since := ""
	if f.position.Epoch != "" {
		since = fmt.Sprintf(`,"since":{"epoch":%q,"offset":%d}`, f.position.Epoch, f.position.Offset)
	}
	send(f.t, f.p, `{"type":"subscribe","data":{"channel":"h"`+since+`},"id":"join"}`)
	for f.read() != "ack join" {
	}
}

func (f *follower) leave() {
	_ = f.p.Close()
	synctest.Wait()
}

// read takes one message and describes it.
func (f *follower) read() string {
	f.t.Helper()
	b, ok := <-f.in
	require.True(f.t, ok, "the connection has ended")
	var m map[string]any
	require.NoError(f.t, json.Unmarshal(b, &m))
	data, _ := json.Marshal(m["data"])
	switch m["type"] {
	case "ack":
		if m["id"] == "join" {
			f.resumed = websocket.Resumed{}
			require.NoError(f.t, json.Unmarshal(data, &f.resumed))
			f.position.Epoch = f.resumed.Epoch
			if f.resumed.Reason == "epoch" { // what is kept comes again
				f.position.Offset = 0
				f.got = append(f.got, "epoch")
			}
			if f.resumed.Replayed == 0 && f.resumed.Complete {
				f.position.Offset = f.resumed.Offset
			}
		}
		return fmt.Sprint("ack ", m["id"])
	case "gap":
		var gap websocket.Gap
		require.NoError(f.t, json.Unmarshal(data, &gap))
		if gap.Channel == "h" { // others are about messages to the client
			f.got = append(f.got, fmt.Sprint("gap ", gap.Count, " ", gap.Reason))
		}
		return "gap"
	case "error":
		return "error " + string(data)
	}
	if offset, ok := m["offset"].(float64); ok {
		require.Greater(f.t, uint64(offset), f.position.Offset, "%s: offsets grow", f.id)
		f.position.Offset = uint64(offset)
	}
	f.got = append(f.got, string(data))
	return string(data)
}

// drain reads what has arrived.
func (f *follower) drain() {
	for synctest.Wait(); len(f.in) > 0; {
		f.read()
	}
}

// until reads until there is a message with that data.
func (f *follower) until(data string) {
	f.t.Helper()
	for f.read() != data {
	}
}

// inHistoryCluster runs f with hubs of one cluster that keep histories.
func inHistoryCluster(t *testing.T, n int, f func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub)) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, n, nil, withHistories)
		defer stopAll(hubs)
		ready(t, hubs...)
		f(t, engine, hubs)
	})
}

func publishNumber(h *fakeHub, i int) error {
	return h.PublishToChannel("h", &websocket.Message{Data: fmt.Append(nil, i)})
}

// TestOneOrder has two publishers on two nodes and compares what members on three nodes get.
func TestOneOrder(t *testing.T) {
	inHistoryCluster(t, 3, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		var members []*follower
		for i, h := range hubs {
			f := &follower{t: t, id: fmt.Sprint("m", i)}
			f.join(h)
			defer f.leave()
			members = append(members, f)
		}
		const each = 200
		var publishing sync.WaitGroup
		for i, h := range hubs[:2] {
			publishing.Go(func() {
				for n := range each {
					assert.NoError(t, publishNumber(h, i*each+n))
				}
			})
		}
		for _, f := range members {
			for len(f.got) < 2*each {
				f.read()
			}
		}
		publishing.Wait()
		require.Equal(t, members[0].got, members[1].got)
		require.Equal(t, members[0].got, members[2].got)
		page, err := hubs[2].History(t.Context(), websocket.ChannelTopic, "h", websocket.HistoryQuery{Limit: 1})
		require.NoError(t, err)
		require.Equal(t, members[0].position, page.Position)
	})
}

// TestMovingToAnotherNode has a client go from node to node while messages are published.
// Some nodes have no other member of the channel.
func TestMovingToAnotherNode(t *testing.T) {
	inHistoryCluster(t, 3, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		f := &follower{t: t, id: "traveller"}
		var want []string
		number := 0
		publish := func(h *fakeHub, n int) {
			for range n {
				require.NoError(t, publishNumber(h, number))
				want = append(want, fmt.Sprint(number))
				number++
			}
		}
		f.join(hubs[0])
		publish(hubs[0], 10)
		f.until("9")
		for i := 1; i < 6; i++ {
			f.leave()
			publish(hubs[(i+1)%3], 3)
			f.join(hubs[i%3])
			require.True(t, f.resumed.Complete, "%+v", f.resumed)
			require.Equal(t, 3, f.resumed.Replayed)
			publish(hubs[i%3], 2)
			f.until(fmt.Sprint(number - 1))
		}
		f.leave()
		require.Equal(t, want, f.got)
	})
}

// TestLossesAreHealed loses deliveries and connections to the engine. Members see neither
// gap nor duplicate.
func TestLossesAreHealed(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		f := &follower{t: t, id: "m"}
		f.join(hubs[1])
		defer f.leave()
		var want []string
		for i := range 10 {
			require.NoError(t, publishNumber(hubs[0], i))
			want = append(want, fmt.Sprint(i))
			if i%3 == 0 {
				engine.Lose()
			}
		}
		f.until("9")

		engine.Stop()
		synctest.Wait()
		require.ErrorIs(t, publishNumber(hubs[0], 100), websocket.ErrBrokerUnavailable)
		require.ErrorIs(t, publishNumber(hubs[1], 100), websocket.ErrBrokerUnavailable)
		send(t, f.p, `{"type":"publish","channel":"h","data":100,"id":"away"}`)
		answer := f.read()
		for answer == "gap" {
			answer = f.read()
		}
		require.Contains(t, answer, `"code":"unavailable"`)
		engine.Start()
		ready(t, hubs...)
		require.NoError(t, publishNumber(hubs[0], 10))
		want = append(want, "10")
		f.until("10")
		require.Equal(t, want, f.got)
		require.NotZero(t, hubs[1].Stats().Broker.Healed)
	})
}

// TestLostRecordsAreTold has the engine lose records that it had acknowledged.
func TestLostRecordsAreTold(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		here, away := &follower{t: t, id: "here"}, &follower{t: t, id: "away"}
		here.join(hubs[0])
		defer here.leave()
		away.join(hubs[1])
		for i := range 5 {
			require.NoError(t, publishNumber(hubs[0], i))
		}
		here.until("4")
		away.until("4")
		away.leave()
		engine.Stop()
		synctest.Wait()
		engine.LoseRecords(2)
		ready(t, hubs...)
		require.NoError(t, publishNumber(hubs[1], 5))
		here.until("5")
		require.Equal(t, []string{"0", "1", "2", "3", "4", "gap 0 history", "5"}, here.got)
		away.join(hubs[1])
		defer away.leave()
		require.False(t, away.resumed.Complete)
		require.Equal(t, "epoch", away.resumed.Reason)
	})
}

// TestLossThatOnlyThePublisherKnows has the engine lose records that no member has got.
func TestLossThatOnlyThePublisherKnows(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		f := &follower{t: t, id: "m"}
		f.join(hubs[1])
		require.NoError(t, publishNumber(hubs[1], 1))
		f.until("1")
		f.leave()
		require.NoError(t, publishNumber(hubs[0], 2))
		engine.Stop()
		synctest.Wait()
		engine.LoseRecords(1)
		ready(t, hubs...)
		synctest.Wait()
		f.join(hubs[1])
		defer f.leave()
		require.Equal(t, "epoch", f.resumed.Reason)
	})
}

// slowBroker holds the records that arrive while hold is set.
type slowBroker struct {
	websocket.HistoryBroker
	websocket.BrokerHandler
	hold atomic.Pointer[chan struct{}]
}

func (b *slowBroker) Open(h websocket.BrokerHandler) error {
	b.BrokerHandler = h
	return b.HistoryBroker.Open(b)
}

func (b *slowBroker) Record(r websocket.BrokerRecord) {
	if hold := b.hold.Load(); hold != nil {
		<-*hold
	}
	b.BrokerHandler.Record(r)
}

// TestMovingToASlowNode has a client move to a node that has not received yet what the client
// has got elsewhere.
func TestMovingToASlowNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		link := &slowBroker{HistoryBroker: engine.Broker().(websocket.HistoryBroker)}
		hubs := nodes(t, engine, 1, nil, withHistories)
		hubs = append(hubs, nodes(t, engine, 1, nil, withHistories, func(c *websocket.Config) { c.NodeName, c.Broker = "slow", link })...)
		defer stopAll(hubs)
		ready(t, hubs...)
		other, f := &follower{t: t, id: "other"}, &follower{t: t, id: "f"}
		other.join(hubs[1])
		defer other.leave()
		f.join(hubs[0])
		hold := make(chan struct{})
		link.hold.Store(&hold)
		for i := range 3 {
			require.NoError(t, publishNumber(hubs[0], i))
		}
		f.until("2")
		f.leave()
		f.join(hubs[1])
		defer f.leave()
		require.True(t, f.resumed.Complete, "%+v", f.resumed)
		link.hold.Store(nil)
		close(hold)
		require.NoError(t, publishNumber(hubs[0], 3))
		f.until("3")
		other.until("3")
		require.Equal(t, []string{"0", "1", "2", "3"}, f.got)
		require.Equal(t, f.got, other.got)
	})
}

// TestHistoryOfATopicElsewhere reads the history of a topic without members on any node.
func TestHistoryOfATopicElsewhere(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		for i := range 3 {
			require.NoError(t, publishNumber(hubs[0], i))
		}
		page, err := hubs[1].History(t.Context(), websocket.ChannelTopic, "h", websocket.HistoryQuery{Limit: 2})
		require.NoError(t, err)
		require.Len(t, page.Messages, 2)
		require.Equal(t, "2", string(page.Messages[1].Data))
		engine.Stop()
		synctest.Wait()
		_, err = hubs[1].History(t.Context(), websocket.ChannelTopic, "h", websocket.HistoryQuery{})
		require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
	})
}

// TestKeysAcrossNodes publishes with one key on two nodes.
func TestKeysAcrossNodes(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		f := &follower{t: t, id: "m"}
		f.join(hubs[1])
		defer f.leave()
		for _, h := range hubs {
			require.NoError(t, h.PublishToChannel("h", &websocket.Message{Data: []byte(`1`), Key: "k"}))
		}
		require.NoError(t, publishNumber(hubs[0], 2))
		f.until("2")
		require.Equal(t, []string{"1", "2"}, f.got)
	})
}

// TestPublisherWithoutHub publishes to a topic with history as docs/cluster.md describes it.
func TestPublisherWithoutHub(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		members := []*follower{{t: t, id: "a"}, {t: t, id: "b"}}
		for i, f := range members {
			f.join(hubs[i])
			defer f.leave()
		}
		publisher := engine.Broker()
		require.NoError(t, publisher.Open(ignoring{}))
		defer func() { require.NoError(t, publisher.Close()) }()
		payload := []byte("\x01\x01\x02\x03\x04\x05\x06\x07\x08\x00\x00\x00\x00\x00\x00\x00\x01\x01\x01\x00\x0a\x07message\x12\x01h\x1a\x011")
		require.NoError(t, publisher.Publish(t.Context(), []websocket.BrokerMessage{{Topic: "c.h", Payload: payload}}))
		synctest.Wait()
		require.NoError(t, publishNumber(hubs[0], 2))
		for _, f := range members {
			f.until("2")
			require.Equal(t, []string{"1", "2"}, f.got)
			require.NotZero(t, f.position.Offset)
		}
	})
}

// TestExceptSelfAcrossNodes has a client publish except to itself and come back on
// another node.
func TestExceptSelfAcrossNodes(t *testing.T) {
	inHistoryCluster(t, 2, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		self, other := &follower{t: t, id: "self"}, &follower{t: t, id: "other"}
		self.join(hubs[0])
		other.join(hubs[1])
		defer other.leave()
		send(t, self.p, `{"type":"publish","channel":"h","data":1,"id":"p","except_self":true}`)
		require.Equal(t, "ack p", self.read())
		other.until("1")
		self.leave()
		require.NoError(t, publishNumber(hubs[1], 2))
		self.join(hubs[1])
		defer self.leave()
		self.until("2")
		require.Equal(t, []string{"2"}, self.got)
	})
}

// TestClusterContinuity moves members between nodes at random while the engine fails in
// many ways. Every member gets every acknowledged publication once, in one order, or a gap.
func TestClusterContinuity(t *testing.T) {
	runs := 30
	if testing.Short() {
		runs = 5
	}
	for range runs {
		seed := rand.Uint64()
		inHistoryCluster(t, 3, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			members := make([]*follower, 4)
			for i := range members {
				members[i] = &follower{t: t, id: fmt.Sprint("m", i)}
				members[i].join(hubs[rnd.IntN(3)])
			}
			var order []string // acknowledged
			lossy := false
			for number := range 120 {
				h := hubs[rnd.IntN(3)]
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				err := h.PublishToChannelContext(ctx, "h", &websocket.Message{Data: fmt.Append(nil, number), Key: fmt.Sprint(number)})
				cancel()
				if err == nil {
					order = append(order, fmt.Sprint(number))
				}
				if rnd.IntN(2) == 0 {
					for _, m := range members {
						m.drain()
					}
				}
				switch rnd.IntN(12) {
				case 0:
					engine.Lose()
				case 1:
					engine.Stop()
					time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
					engine.Start()
					ready(t, hubs...)
				case 2:
					engine.Pause()
					time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
					engine.Resume()
				case 3, 4, 5:
					m := members[rnd.IntN(len(members))]
					m.drain()
					m.leave()
					m.join(hubs[rnd.IntN(3)])
				case 6:
					if rnd.IntN(4) == 0 {
						lossy = true
						engine.Stop()
						synctest.Wait()
						engine.LoseRecords(rnd.IntN(3))
						ready(t, hubs...)
					}
				}
			}
			ready(t, hubs...) // the engine may have been paused at last
			require.NoError(t, publishNumber(hubs[0], 1000))
			for _, m := range members {
				m.until("1000")
			}
			page, err := hubs[1].History(t.Context(), websocket.ChannelTopic, "h", websocket.HistoryQuery{Limit: 1000})
			require.NoError(t, err)
			var kept []string
			for _, m := range page.Messages {
				kept = append(kept, string(m.Data))
			}
			for i, m := range members {
				m.leave()
				run := fmt.Sprintf("seed %d member %d %v", seed, i, m.got)
				if !lossy {
					require.Equal(t, kept, m.got, run)
					require.Subset(t, kept, order, run)
				} else {
					requireTold(t, order, kept, m.got, run)
				}
			}
		})
	}
}

// requireTold checks that a member got all messages that the engine has kept, in order, and a
// gap if the engine has lost others. With a new epoch the kept messages come again.
func requireTold(t *testing.T, acknowledged, kept, got []string, run string) {
	t.Helper()
	at, told := 0, false
	seen := map[string]bool{}
	for _, s := range got {
		switch i := slices.Index(kept, s); {
		case s == "epoch":
			at = 0
		case strings.HasPrefix(s, "gap"):
			told = true
		case i >= 0:
			require.Equal(t, at, i, "%s: %s", run, s)
			at = i + 1
			fallthrough
		default:
			seen[s] = true
		}
	}
	require.Equal(t, len(kept), at, "%s: the end", run)
	for _, s := range acknowledged {
		require.True(t, told || seen[s], "%s: nothing tells of %s", run, s)
	}
}
