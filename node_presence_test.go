package websocket_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// observer is a client in room "lobby" that follows the members as clients do.
type observer struct {
	t       *testing.T
	p       *fakePeer
	mu      sync.Mutex
	members map[string]string // node by client ID
	joined  []string          // IDs of "join" in order
	left    []string          // IDs of "leave" in order
	last    []string          // users of whom the last connection has left
	ready   bool              // the reply to hub:presence has arrived
}

type presenceChange struct {
	ClientID string `json:"client_id"`
	User     string `json:"user"`
	Node     string `json:"node"`
	Last     bool   `json:"last"`
}

func observe(t *testing.T, h *fakeHub, id string) *observer {
	o := &observer{t: t, p: h.connect(1<<20, idHeader(id)), members: map[string]string{}}
	send(t, o.p, `{"type":"join_room","data":{"room_id":"lobby"},"id":"join"}`)
	go o.read() // ends with the connection
	return o
}

func (o *observer) read() {
	for {
		_, b, err := o.p.ReadMessage()
		if err != nil {
			return
		}
		var m struct {
			Type     string `json:"type"`
			ID       string `json:"id"`
			ClientID string `json:"client_id"`
			Data     struct {
				presenceChange
				Members, Leaves, Joins []presenceChange
			} `json:"data"`
		}
		if json.Unmarshal(b, &m) != nil {
			continue
		}
		if m.Type == "ack" && m.ID == "join" {
			_ = o.p.WriteMessage(gorilla.TextMessage, []byte(`{"type":"hub:presence","data":{"room_id":"lobby"},"id":"list"}`)) // it may have ended
			continue
		}
		o.mu.Lock()
		m.Data.ClientID = m.ClientID
		switch m.Type {
		case "ack":
			o.ready = true
			o.members = map[string]string{}
			o.joins(m.Data.Members...)
		case "join":
			o.joined = append(o.joined, m.ClientID)
			o.joins(m.Data.presenceChange)
		case "leave":
			o.leaves(m.Data.presenceChange)
		case "presence_diff":
			o.leaves(m.Data.Leaves...)
			o.joins(m.Data.Joins...)
		}
		o.mu.Unlock()
	}
}

func (o *observer) joins(list ...presenceChange) {
	for _, c := range list {
		o.members[c.ClientID] = c.Node
	}
}

func (o *observer) leaves(list ...presenceChange) {
	for _, c := range list {
		delete(o.members, c.ClientID)
		o.left = append(o.left, c.ClientID)
		if c.Last {
			o.last = append(o.last, c.User)
		}
	}
}

// sees returns the members that the observer knows, with their nodes.
func (o *observer) sees() map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return maps.Clone(o.members)
}

// departures returns how many leaves the observer was told.
func (o *observer) departures() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.left)
}

func (o *observer) end() { _ = o.p.Close() }

// inPresenceCluster runs f with hubs of one cluster whose topics have presence. A client's
// user is its ID up to a "-".
func inPresenceCluster(t *testing.T, n int, f func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub)) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, n, func(c *websocket.Client) {
			user := c.ID
			if i := slices.Index([]byte(c.ID), '-'); i >= 0 {
				user = c.ID[:i]
			}
			c.SetUser(user)
		}, func(c *websocket.Config) {
			c.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
				return websocket.TopicOptions{Presence: true}
			}
		})
		defer stopAll(hubs)
		ready(t, hubs...)
		f(t, engine, hubs)
	})
}

// settle waits until all presence messages have been sent.
func settle() {
	time.Sleep(3 * time.Second)
	synctest.Wait()
}

func TestPresenceAcrossNodes(t *testing.T) {
	inPresenceCluster(t, 3, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		a := observe(t, hubs[0], "ann-1")
		defer a.end()
		settle()
		b := observe(t, hubs[1], "bob")
		defer b.end()
		again := observe(t, hubs[1], "ann-2")
		settle()
		want := map[string]string{"ann-1": "node0", "bob": "node1", "ann-2": "node1"}
		require.Equal(t, want, a.sees())
		require.Equal(t, want, b.sees())
		members, err := hubs[2].Presence(t.Context(), websocket.RoomTopic, "lobby")
		require.NoError(t, err)
		require.Len(t, members, 3)
		require.Equal(t, "node0", members[0].Node)

		again.end()
		settle()
		require.Equal(t, map[string]string{"ann-1": "node0", "bob": "node1"}, a.sees())
		require.Empty(t, a.last, "the user has another connection")
		moved := observe(t, hubs[2], "bob") // before the old connection ends
		settle()
		b.end()
		settle()
		require.Equal(t, map[string]string{"ann-1": "node0", "bob": "node2"}, a.sees())
		moved.end()
		settle()
		require.Equal(t, map[string]string{"ann-1": "node0"}, a.sees())
		require.Equal(t, []string{"bob"}, a.last)
	})
}

// TestPresenceOfManyMembers has more members than fit into one payload.
func TestPresenceOfManyMembers(t *testing.T) {
	inPresenceCluster(t, 2, func(t *testing.T, _ *brokertest.Memory, hubs []*fakeHub) {
		const n = 400
		for i := range n {
			defer observe(t, hubs[0], fmt.Sprint("m", i)).end()
		}
		settle()
		late := observe(t, hubs[1], "late")
		defer late.end()
		settle()
		require.Len(t, late.sees(), n+1)
	})
}

// TestDeadNodesMembersLeave kills a node, cuts another one off, and lets it return.
func TestDeadNodesMembersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		parted := &partedBroker{HistoryBroker: engine.Broker().(websocket.HistoryBroker)}
		const announce = 10 * time.Second
		change := func(c *websocket.Config) {
			c.AnnounceInterval = announce
			c.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
				return websocket.TopicOptions{Presence: true}
			}
		}
		hubs := nodes(t, engine, 1, nil, change)
		hubs = append(hubs, nodes(t, engine, 1, nil, change, func(c *websocket.Config) { c.NodeName, c.Broker = "parted", parted })...)
		defer stopAll(hubs)
		ready(t, hubs...)
		a, b := observe(t, hubs[0], "a"), observe(t, hubs[1], "b")
		defer a.end()
		defer b.end()
		settle()
		both := map[string]string{"a": "node0", "b": "parted"}
		require.Equal(t, both, a.sees())
		require.Equal(t, both, b.sees())

		parted.parted.Store(true)
		time.Sleep(5 * announce)
		settle()
		require.Equal(t, map[string]string{"a": "node0"}, a.sees())
		_, err := hubs[0].Presence(t.Context(), websocket.RoomTopic, "lobby")
		var unanswered *websocket.UnansweredError
		require.ErrorAs(t, err, &unanswered)
		require.Equal(t, []string{"parted"}, unanswered.Nodes)

		parted.parted.Store(false)
		time.Sleep(2 * announce)
		settle()
		require.Equal(t, both, a.sees())
		require.Equal(t, both, b.sees())
	})
}

// TestPresenceDoesNotFlap has the engine fail for a long time. Nobody leaves.
func TestPresenceDoesNotFlap(t *testing.T) {
	inPresenceCluster(t, 2, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
		a, b := observe(t, hubs[0], "a"), observe(t, hubs[1], "b")
		defer a.end()
		settle()
		engine.Stop()
		time.Sleep(5 * time.Minute)
		require.Len(t, a.sees(), 2)
		c := observe(t, hubs[1], "c")
		b.end()
		settle()
		require.Zero(t, a.departures())
		engine.Start()
		ready(t, hubs...)
		settle()
		require.Equal(t, map[string]string{"a": "node0", "c": "node1"}, a.sees())
		require.Equal(t, 1, a.departures())
		c.end()
	})
}

// cutBroker has an outage of its own.
type cutBroker struct {
	websocket.HistoryBroker
	handler websocket.BrokerHandler
	cut     atomic.Bool
}

func (b *cutBroker) Open(h websocket.BrokerHandler) error {
	b.handler = h
	return b.HistoryBroker.Open(h)
}

func (b *cutBroker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if b.cut.Load() {
		return websocket.ErrBrokerUnavailable
	}
	return b.HistoryBroker.Publish(ctx, batch)
}

// nodesWithCut returns two hubs with presence in all topics. The second is node "cut".
func nodesWithCut(t *testing.T) ([]*fakeHub, *cutBroker) {
	engine := brokertest.NewMemory(0)
	link := &cutBroker{HistoryBroker: engine.Broker().(websocket.HistoryBroker)}
	change := func(c *websocket.Config) {
		c.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
			return websocket.TopicOptions{Presence: true}
		}
	}
	hubs := nodes(t, engine, 1, nil, change)
	hubs = append(hubs, nodes(t, engine, 1, nil, change, func(c *websocket.Config) { c.NodeName, c.Broker = "cut", link })...)
	ready(t, hubs...)
	return hubs, link
}

// TestLeavingInAnOutage has the last member of a node leave while only that node is cut off.
func TestLeavingInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, link := nodesWithCut(t)
		defer stopAll(hubs)
		a, b := observe(t, hubs[0], "a"), observe(t, hubs[1], "b")
		defer a.end()
		settle()
		require.Len(t, a.sees(), 2)
		link.cut.Store(true)
		link.handler.Down(websocket.ErrBrokerUnavailable)
		b.end()
		settle()
		require.Len(t, a.sees(), 2)
		link.cut.Store(false)
		link.handler.Up()
		settle()
		require.Equal(t, map[string]string{"a": "node0"}, a.sees())
	})
}

// TestLeavingWhilePublishingFails has a member leave while its node cannot publish, although
// the connection to the engine stays up.
func TestLeavingWhilePublishingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs, link := nodesWithCut(t)
		defer stopAll(hubs)
		a, b, c := observe(t, hubs[0], "a"), observe(t, hubs[1], "b"), observe(t, hubs[1], "c")
		defer a.end()
		defer c.end()
		settle()
		require.Len(t, a.sees(), 3)
		link.cut.Store(true)
		b.end()
		time.Sleep(time.Second) // the other node does not take it for dead
		link.cut.Store(false)
		settle()
		require.Equal(t, map[string]string{"a": "node0", "c": "cut"}, a.sees())
	})
}

// TestPresenceConverges has members come, go and move while the engine fails. In the end
// all see the same.
func TestPresenceConverges(t *testing.T) {
	for range 20 {
		seed := rand.Uint64()
		inPresenceCluster(t, 3, func(t *testing.T, engine *brokertest.Memory, hubs []*fakeHub) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			present := map[string]*observer{}
			want := map[string]string{}
			for range 100 {
				id, node := fmt.Sprint("m", rnd.IntN(12)), rnd.IntN(3)
				if o := present[id]; o != nil {
					o.end()
					synctest.Wait()
					delete(present, id)
					delete(want, id)
				}
				if rnd.IntN(3) > 0 {
					present[id] = observe(t, hubs[node], id)
					want[id] = fmt.Sprint("node", node)
				}
				switch rnd.IntN(10) {
				case 0:
					engine.Lose()
				case 1:
					engine.Stop()
					time.Sleep(time.Duration(rnd.IntN(4000)) * time.Millisecond)
					engine.Start()
				case 2, 3, 4:
					time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
				}
			}
			ready(t, hubs...)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			for id, o := range present {
				require.Equal(t, want, o.sees(), "seed %d, %s", seed, id)
			}
			for _, o := range present {
				o.end()
			}
		})
	}
}
