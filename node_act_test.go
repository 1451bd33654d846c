package websocket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
	"github.com/stretchr/testify/require"
)

// moves records the calls of OnJoin and OnLeave of a hub.
type moves struct{ calls chan string }

func (m moves) record(c *websocket.Config) {
	hook := func(what string) func(*websocket.Client, websocket.Topic) {
		return func(client *websocket.Client, t websocket.Topic) {
			m.calls <- what + " " + client.ID + " " + t.Kind.String() + " " + t.Name
		}
	}
	c.OnJoin, c.OnLeave = hook("join"), hook("leave")
}

// TestActingOnRemoteClients acts from one node on the clients of two others, and of its own.
func TestActingOnRemoteClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hooks := moves{make(chan string, 16)}
		hubs := nodes(t, engine, 3, func(c *websocket.Client) { c.SetUser("user of " + c.ID[:1]) }, hooks.record)
		defer stopAll(hubs)
		peers := map[string]*fakePeer{}
		for i, id := range []string{"a0", "a1", "a2"} {
			peers[id] = hubs[i].connect(1<<16, idHeader(id))
			defer peers[id].Close()
		}
		ready(t, hubs...)
		time.Sleep(3 * time.Second) // until the nodes know each other
		ctx, c := t.Context(), hubs[0].Cluster()
		start := time.Now()
		news, lobby := websocket.Topic{Name: "news"}, websocket.Topic{Kind: websocket.RoomTopic, Name: "lobby"}
		for id, p := range peers {
			require.NoError(t, c.Join(ctx, id, news))
			require.NoError(t, c.Join(ctx, id, news), "twice is no error")
			require.NoError(t, c.Join(ctx, id, lobby))
			require.Equal(t, "join "+id+" channel news", <-hooks.calls)
			require.Equal(t, "join "+id+" room lobby", <-hooks.calls)
			require.NoError(t, hubs[1].PublishToChannelRaw("news", []byte(`1`)), "of another node, at once")
			require.NoError(t, hubs[1].PublishToRoom("lobby", &websocket.Message{Data: []byte(`2`)}))
			require.Equal(t, []string{"message news 1", "room_message lobby 2"}, types(t, p, 2))
			require.NoError(t, c.Leave(ctx, id, news))
			require.NoError(t, c.Leave(ctx, id, lobby))
			require.Equal(t, "leave "+id+" channel news", <-hooks.calls)
			require.Equal(t, "leave "+id+" room lobby", <-hooks.calls)
			require.NoError(t, hubs[1].PublishToChannelRaw("news", []byte(`3`)))
			require.NoError(t, c.SendToClient(ctx, id, &websocket.Message{Data: []byte(`4`)}))
			require.Equal(t, []string{"message  4"}, types(t, p, 1))
		}
		count, err := c.SendToUser(ctx, "user of a", &websocket.Message{Type: "note", Channel: "x", Data: []byte(`5`)})
		require.NoError(t, err)
		require.Equal(t, 3, count)
		for _, p := range peers {
			require.Equal(t, []string{"note x 5"}, types(t, p, 1))
		}
		for _, user := range []string{"nobody", ""} {
			count, err = c.SendToUser(ctx, user, &websocket.Message{})
			require.NoError(t, err)
			require.Zero(t, count)
		}
		for _, err := range []error{c.Join(ctx, "nobody", news), c.Leave(ctx, "nobody", news), c.SendToClient(ctx, "nobody", &websocket.Message{})} {
			require.ErrorIs(t, err, websocket.ErrClientNotFound)
		}
		require.Zero(t, time.Since(start), "no call waits for a deadline when all nodes answer")
	})
}

// TestErrorsOfRemoteActions has the client's node refuse.
func TestErrorsOfRemoteActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(70_000)
		hubs := nodes(t, engine, 2, func(c *websocket.Client) { c.SetUser(c.ID) }, func(c *websocket.Config) {
			c.MaxSubscriptions = 1
			c.MaxMessageSize = 1000
			c.LogSize = 100_000
			if c.NodeName == "node1" {
				c.MaxNameLength, c.ClientBacklog = 10, 8000
			}
		})
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		time.Sleep(3 * time.Second)
		ctx, c := t.Context(), hubs[0].Cluster()
		start := time.Now()
		topic := func(name string) websocket.Topic { return websocket.Topic{Name: name} }
		require.NoError(t, c.Join(ctx, "p", topic("one")))
		require.ErrorIs(t, c.Join(ctx, "p", topic("two")), websocket.ErrTooManySubscriptions)
		require.ErrorIs(t, c.Join(ctx, "p", topic("longer than ten")), websocket.ErrInvalidName, "there")
		require.ErrorIs(t, c.Leave(ctx, "p", topic("longer than ten")), websocket.ErrInvalidName)
		require.ErrorIs(t, c.Join(ctx, "p", topic("")), websocket.ErrInvalidName, "here")
		require.ErrorIs(t, c.Join(ctx, "p", websocket.Topic{Kind: 7, Name: "x"}), websocket.ErrInvalidName)
		require.ErrorIs(t, c.SendToClient(ctx, "p", nil), websocket.ErrNilMessage)
		var large *websocket.MessageTooLargeError
		data := []byte(`"` + strings.Repeat("x", 9000) + `"`)
		require.ErrorAs(t, c.SendToClient(ctx, "p", &websocket.Message{Data: data}), &large, "there")
		require.Equal(t, websocket.MessageTooLargeError{Size: 9002 + 128 + 7, Limit: 8000, LimitedBy: "Config.ClientBacklog"}, *large)
		count, err := c.SendToUser(ctx, "p", &websocket.Message{Data: data})
		require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
		require.Zero(t, count)
		data = []byte(`"` + strings.Repeat("x", 60_000) + `"`)
		require.ErrorAs(t, c.SendToClient(ctx, "p", &websocket.Message{Data: data}), &large, "the question is too large for the engine")
		require.Equal(t, "Broker.MaxPayload", large.LimitedBy)
		require.Zero(t, time.Since(start))
	})
}

// TestActionsDuringPartition has a node that neither answers nor hears.
func TestActionsDuringPartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, asUser)
		mute, silence := muteNode(t, engine)
		defer stopAll(append(hubs, mute...))
		a, b := hubs[0].connect(1<<16, idHeader("a")), hubs[1].connect(1<<16, idHeader("b"))
		defer a.Close()
		defer b.Close()
		ready(t, append(hubs, mute...)...)
		time.Sleep(3 * time.Second)
		silence(true)
		ctx, c := t.Context(), hubs[0].Cluster()
		start := time.Now()
		require.NoError(t, c.Join(ctx, "b", websocket.Topic{Name: "x"}), "the answer of the client's node is enough")
		require.NoError(t, c.SendToClient(ctx, "b", &websocket.Message{Data: []byte(`1`)}))
		require.Equal(t, []string{"message  1"}, types(t, b, 1))
		require.Zero(t, time.Since(start))
		var missing *websocket.UnansweredError
		err := c.SendToClient(ctx, "nobody", &websocket.Message{})
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"mute"}, missing.Nodes)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		count, err := c.SendToUser(ctx, "user of b", &websocket.Message{Data: []byte(`2`)})
		require.Equal(t, 1, count)
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"message  2"}, types(t, b, 1))

		engine.Stop()
		synctest.Wait()
		start = time.Now()
		require.NoError(t, c.Join(ctx, "a", websocket.Topic{Name: "x"}), "a client of this node")
		require.NoError(t, c.SendToClient(ctx, "a", &websocket.Message{Data: []byte(`3`)}))
		require.Equal(t, []string{"message  3"}, types(t, a, 1))
		err = c.Leave(ctx, "b", websocket.Topic{Name: "x"})
		require.ErrorIs(t, err, websocket.ErrBrokerUnavailable)
		require.ErrorAs(t, err, &missing)
		require.Equal(t, []string{"mute", "node1"}, missing.Nodes)
		require.Zero(t, time.Since(start))
	})
}

// TestActionsWithoutBroker acts on the clients of the only node.
func TestActionsWithoutBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.ClientID = queryID
		hub := runFake(t, paths[0], config, func(h *websocket.Hub) { h.SetCallbacks(asUser, nil, nil) })
		defer hub.stop()
		p := hub.connect(1<<16, idHeader("a1"))
		defer p.Close()
		c, ctx, x := hub.Cluster(), t.Context(), websocket.Topic{Name: "x"}
		require.NoError(t, c.Join(ctx, "a1", x))
		require.NoError(t, hub.PublishToChannelRaw("x", []byte(`1`)))
		require.NoError(t, c.Leave(ctx, "a1", x))
		require.NoError(t, hub.PublishToChannelRaw("x", []byte(`2`)))
		require.NoError(t, c.SendToClient(ctx, "a1", &websocket.Message{Data: []byte(`3`)}))
		count, err := c.SendToUser(ctx, "user of a", &websocket.Message{Data: []byte(`4`)})
		require.NoError(t, err)
		require.Equal(t, 1, count)
		require.Equal(t, []string{"message x 1", "message  3", "message  4"}, types(t, p, 3))
		require.ErrorIs(t, c.Join(ctx, "nobody", x), websocket.ErrClientNotFound)
	})
}

// TestSlowHookDelaysNoAnswers has an OnJoin that does not return.
func TestSlowHookDelaysNoAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		release := make(chan struct{}) // closed below
		var calls atomic.Int32
		hubs := nodes(t, engine, 2, nil, func(c *websocket.Config) {
			c.OnJoin = func(*websocket.Client, websocket.Topic) { calls.Add(1); <-release }
		})
		defer stopAll(hubs)
		p := hubs[1].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		time.Sleep(3 * time.Second)
		c, start := hubs[0].Cluster(), time.Now()
		for i := range 100 {
			require.NoError(t, c.Join(t.Context(), "p", websocket.Topic{Name: fmt.Sprint(i)}))
		}
		_, err := c.FindClient(t.Context(), "p")
		require.NoError(t, err)
		require.Zero(t, time.Since(start))
		require.EqualValues(t, 1, calls.Load())
		close(release)
		synctest.Wait()
		require.EqualValues(t, 100, calls.Load())
	})
}

// TestManyActionsAtOnce has more callers than actions run at the same time.
func TestManyActionsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, nil)
		defer stopAll(hubs)
		p := hubs[1].connect(1<<20, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		time.Sleep(3 * time.Second)
		const n = 500
		errs := make(chan error, n)
		for range n {
			go func() {
				errs <- hubs[0].Cluster().SendToClient(t.Context(), "p", &websocket.Message{Data: []byte(`1`)})
			}()
		}
		for range n {
			require.NoError(t, <-errs)
		}
		types(t, p, n)
	})
}

// TestOlderNodeDoesNotKnowActions has a node that answers no question of this release, and one
// that says so.
func TestOlderNodeDoesNotKnowActions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 1, nil)
		defer stopAll(hubs)
		ready(t, hubs...)
		older := newOlderNode(t, engine)
		defer older.Close()
		time.Sleep(3 * time.Second)
		older.hello()
		synctest.Wait()
		start := time.Now()
		err := hubs[0].Cluster().SendToClient(t.Context(), "p", &websocket.Message{})
		var missing *websocket.UnansweredError
		require.ErrorAs(t, err, &missing)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, []string{"older"}, missing.Nodes)
		require.Equal(t, 3*time.Second, time.Since(start))

		older.answers.Store(true)
		older.hello()
		start = time.Now()
		err = hubs[0].Cluster().Join(t.Context(), "p", websocket.Topic{Name: "x"})
		require.ErrorAs(t, err, &missing)
		require.ErrorIs(t, err, errors.ErrUnsupported)
		require.NotErrorIs(t, err, websocket.ErrClientNotFound)
		require.Equal(t, []string{"older"}, missing.Nodes)
		require.Zero(t, time.Since(start))
	})
}

// olderNode is a node that does not know the questions of this release.
type olderNode struct {
	ignoring
	websocket.Broker
	t        *testing.T
	mu       sync.Mutex
	sequence uint64
	answers  atomic.Bool // it says so
	asked    chan []byte // Receive sends, answer receives
}

func newOlderNode(t *testing.T, engine *brokertest.Memory) *olderNode {
	o := &olderNode{Broker: engine.Broker(), t: t, asked: make(chan []byte, 16)}
	require.NoError(t, o.Open(o))
	require.NoError(t, o.Subscribe(t.Context(), []string{nodewire.TopicNodes}))
	go o.answer() // ends with Close
	return o
}

func (o *olderNode) Close() {
	_ = o.Broker.Close()
	close(o.asked)
}

func (o *olderNode) Receive(payload []byte) {
	if head, _, err := nodewire.Parse(payload); err == nil && head.Kind == nodewire.KindQuestion && o.answers.Load() {
		o.asked <- bytes.Clone(payload)
	}
}

// answer says to the sender of a question that it is not known.
func (o *olderNode) answer() {
	for payload := range o.asked {
		head, body, _ := nodewire.Parse(payload)
		id := bytes.SplitN(bytes.TrimPrefix(body, []byte(`{"id":`)), []byte{','}, 2)[0]
		o.publish(nodewire.KindAnswer, nodewire.NodeTopic(head.Node), fmt.Sprintf(`{"id":%s,"last":true,"error":"unsupported"}`, id))
	}
}

func (o *olderNode) hello() { o.publish(nodewire.KindHello, nodewire.TopicNodes, ".older") }

func (o *olderNode) publish(kind nodewire.Kind, topic, body string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sequence++
	head := nodewire.Head{Node: 0x1234, Sequence: o.sequence, Kind: kind}
	payload := append(head.Append(nil), body...)
	require.NoError(o.t, o.Publish(o.t.Context(), []websocket.BrokerMessage{{Topic: topic, Payload: payload}}))
}
