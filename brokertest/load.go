package brokertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// RunHubs runs three hubs with TCP clients on the engine. While they publish, and while
// channels get their first member and lose it again all the time, it stops, restarts, pauses and upsets the engine. Every client must receive all
// publications of its own node, those of other nodes in order, and a gap notice for
// every loss. The notice must come after the last publication before the loss.
func RunHubs(t *testing.T, engine Engine) {
	if engine.Patience == 0 {
		engine.Patience = 30 * time.Second
	}
	l := startLoad(t, engine, 3, 4)
	l.publishing()
	l.churning()
	l.healthy("at the start")
	if engine.Stop != nil {
		for range 2 {
			l.outage()
			l.healthy("after an outage")
		}
	}
	if engine.Pause != nil {
		l.pause()
		l.healthy("after a pause")
	}
	if engine.Upset != nil {
		for range 2 {
			engine.Upset()
			l.healthy("after an upset")
		}
	}
	l.finish()
}

const (
	loadChannel = "load"
	loadRoom    = "load room"
)

type load struct {
	*testing.T
	engine  Engine
	hubs    []*websocket.Hub
	clients []*loadClient
	stop    chan struct{}  // closed to end publishing
	silence func()         // ends publishing and waits for the publishers
	counts  []atomic.Int64 // publications of each hub
	refused []atomic.Int64 // those with ErrBrokerUnavailable
}

// loadMessage is a publication or a gap notice, as a client receives it.
type loadMessage struct {
	Type string `json:"type"`
	Data struct {
		From    int    `json:"from"`
		Number  int    `json:"number"`
		Channel string `json:"channel"`
		RoomID  string `json:"room_id"`
		Reason  string `json:"reason"`
	} `json:"data"`
}

type loadClient struct {
	home int // index of the client's hub
	mu   sync.Mutex

	// By hub: the latest number received, how many were received, and the value of
	// messages when the latest arrived.
	latest, received, heard []int

	messages    int    // received so far
	gap         int    // messages at the latest gap notice of the channel, or -1
	roomGaps    int    // gap notices of the room
	unannounced string // describes a loss without a gap notice, or empty
	problem     string // describes an error that cannot be made good, or empty
}

func startLoad(t *testing.T, engine Engine, hubs, clients int) *load {
	l := &load{T: t, engine: engine, stop: make(chan struct{}), counts: make([]atomic.Int64, hubs), refused: make([]atomic.Int64, hubs)}
	for i := range hubs {
		l.startHub(i, clients, func(c *websocket.Client) {
			_ = c.JoinRoom(loadRoom)
			_ = c.Subscribe(loadChannel) // last: joined waits for it
		}, func(c *websocket.Config) {
			c.BrokerTimeout = time.Second
			c.AnnounceInterval = 300 * time.Millisecond
		})
	}
	l.joined(clients, clients, clients)
	l.ready()
	return l
}

// startHub starts one hub and connects its clients.
func (l *load) startHub(i, clients int, onConnect func(*websocket.Client), change ...func(*websocket.Config)) {
	config := websocket.DefaultConfig
	config.Broker = l.engine.Broker()
	config.NodeName = fmt.Sprint("node", i)
	config.AnnounceInterval = time.Hour
	for _, f := range change {
		f(&config)
	}
	hub := websocket.NewHub(testLogger{l.T}, config)
	hub.SetCallbacks(onConnect, nil, nil)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	server := httptest.NewServer(hub.Handler())
	l.Cleanup(func() {
		require.NoError(l, hub.Shutdown(context.Background()))
		require.NoError(l, <-ran)
		server.Close()
	})
	l.hubs = append(l.hubs, hub)
	for range clients {
		l.connect(i, "ws"+strings.TrimPrefix(server.URL, "http"))
	}
}

// joined waits until each hub has so many members of the channel. Dialing returns
// before onConnect has subscribed the client.
func (l *load) joined(members ...int) {
	l.Helper()
	l.until("the clients are subscribed", func() bool {
		for i, hub := range l.hubs {
			if maps.Collect(hub.Channels())[loadChannel] != members[i] {
				return false
			}
		}
		return true
	})
}

func (l *load) ready() {
	ctx, cancel := context.WithTimeout(context.Background(), l.engine.Patience)
	defer cancel()
	for _, hub := range l.hubs {
		require.NoError(l, hub.BrokerReady(ctx))
	}
}

// testLogger logs to the test, without debug messages.
type testLogger struct{ t *testing.T }

func (l testLogger) Debugf(string, ...any)            {}
func (l testLogger) Infof(format string, a ...any)    { l.t.Logf(format, a...) }
func (l testLogger) Warningf(format string, a ...any) { l.t.Logf(format, a...) }
func (l testLogger) Errorf(format string, a ...any)   { l.t.Logf(format, a...) }

func (l *load) connect(home int, url string) {
	ws, response, err := (&websocket.Dialer{}).Dial(url, nil)
	require.NoError(l, err)
	_ = response.Body.Close()
	nodes := len(l.counts)
	c := &loadClient{home: home, latest: make([]int, nodes), received: make([]int, nodes), heard: make([]int, nodes), gap: -1}
	l.clients = append(l.clients, c)
	go func() { // ends when the connection is closed, at the latest by Cleanup
		for {
			_, b, err := ws.ReadMessage()
			if err != nil {
				return
			}
			var m loadMessage
			if err := json.Unmarshal(b, &m); err == nil {
				c.take(&m)
			}
		}
	}()
	l.Cleanup(func() { _ = ws.Close() })
}

func (c *loadClient) take(m *loadMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.messages++
	switch {
	case m.Type == "gap" && m.Data.Reason != "broker":
		c.problem = "a gap with the reason " + m.Data.Reason
	case m.Type == "gap" && m.Data.Channel == loadChannel:
		c.gap, c.unannounced = c.messages, ""
	case m.Type == "gap" && m.Data.RoomID == loadRoom:
		c.roomGaps++
	case m.Type == "message":
		from, number := m.Data.From, m.Data.Number
		switch expected := c.latest[from] + 1; {
		case number < expected:
			c.problem = fmt.Sprintf("out of order: from node %d came %d after %d", from, number, c.latest[from])
		case number > expected && from == c.home:
			c.problem = fmt.Sprintf("publication %d of its own node is missing", expected)
		case number > expected && c.gap <= c.heard[from]:
			c.unannounced = fmt.Sprintf("from node %d came %d after %d", from, number, c.latest[from])
		}
		c.latest[from], c.heard[from] = number, c.messages
		c.received[from]++
	}
}

// publishing starts one publisher per hub, with a publication per millisecond.
func (l *load) publishing() {
	var ended sync.WaitGroup
	var once sync.Once
	l.silence = func() { once.Do(func() { close(l.stop) }); ended.Wait() }
	l.Cleanup(l.silence)
	for i, hub := range l.hubs {
		ended.Go(func() { // ends when stop is closed
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for number := 1; ; number++ {
				select {
				case <-l.stop:
					return
				case <-tick.C:
				}
				data := fmt.Appendf(nil, `{"from":%d,"number":%d}`, i, number)
				switch err := hub.PublishToChannelRawContext(context.Background(), loadChannel, data); {
				case errors.Is(err, websocket.ErrBrokerUnavailable):
					l.refused[i].Add(1)
				case err != nil:
					l.Errorf("publish: %v", err)
				}
				l.counts[i].Add(1)
			}
		})
	}
}

// churning makes a client of each hub join and leave new channels, so that subscriptions
// change also while the engine is away and while nodes reconnect.
func (l *load) churning() {
	var ended sync.WaitGroup
	silence := l.silence
	l.silence = func() { silence(); ended.Wait() }
	l.Cleanup(l.silence)
	for i, hub := range l.hubs {
		for c := range hub.Clients() {
			ended.Go(func() { // ends when stop is closed
				tick := time.NewTicker(5 * time.Millisecond)
				defer tick.Stop()
				for number := 0; ; number++ {
					select {
					case <-l.stop:
						return
					case <-tick.C:
					}
					if err := c.Subscribe(fmt.Sprintf("churn %d %d", i, number)); err != nil {
						l.Errorf("subscribe: %v", err)
						return
					}
					_ = c.Unsubscribe(fmt.Sprintf("churn %d %d", i, number-10))
				}
			})
			break
		}
	}
}

// until waits until done reports true.
func (l *load) until(condition string, done func() bool) {
	l.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(l.engine.Patience); !done(); <-tick.C {
		if time.Now().After(deadline) {
			for i, hub := range l.hubs {
				l.Logf("node %d: %+v %+v", i, hub.Health(), *hub.Stats().Broker)
			}
			for _, c := range l.clients {
				c.mu.Lock()
				l.Logf("client of %d: %v of %v, gap at %d of %d, unannounced %q", c.home, c.received, c.latest, c.gap, c.messages, c.unannounced)
				c.mu.Unlock()
			}
			require.FailNow(l.T, "timeout: waiting until "+condition)
		}
	}
}

// all returns a condition that holds when f holds for every hub.
func (l *load) all(f func(*websocket.Hub) bool) func() bool {
	return func() bool {
		for _, hub := range l.hubs {
			if !f(hub) {
				return false
			}
		}
		return true
	}
}

// each returns a condition that holds when f holds for every client.
func (l *load) each(f func(c *loadClient) bool) func() bool {
	return func() bool {
		for _, c := range l.clients {
			c.mu.Lock()
			ok := f(c)
			c.mu.Unlock()
			if !ok {
				return false
			}
		}
		return true
	}
}

// healthy waits until every client receives from all nodes and every loss is
// announced.
func (l *load) healthy(when string) {
	l.Helper()
	l.until("every node is healthy "+when, l.all(func(h *websocket.Hub) bool { return h.Health().OK() }))
	var from [16]int
	for i := range l.hubs {
		from[i] = int(l.counts[i].Load())
	}
	l.until("every client receives from all nodes "+when, l.each(func(c *loadClient) bool {
		for i := range l.hubs {
			if c.latest[i] < from[i]+100 {
				return false
			}
		}
		return true
	}))
	l.until("every loss is announced "+when, l.each(func(c *loadClient) bool { return c.unannounced == "" }))
}

// cut waits until every node reports the failure of the engine. It then checks that
// the nodes still serve their own members and keep nothing for the engine.
func (l *load) cut(failure string, bad func(websocket.Health) bool) {
	l.Helper()
	l.until("every node reports that the engine is "+failure, l.all(func(h *websocket.Hub) bool { return bad(h.Health()) }))
	var counts, refused [16]int64
	for i := range l.hubs {
		counts[i], refused[i] = l.counts[i].Load(), l.refused[i].Load()
	}
	goroutines := runtime.NumGoroutine()
	l.until("local members receive publications", l.each(func(c *loadClient) bool { return c.latest[c.home] > int(counts[c.home])+200 }))
	for i := range l.hubs {
		require.Greater(l, l.refused[i].Load(), refused[i], "publishers get ErrBrokerUnavailable")
	}
	require.LessOrEqual(l, runtime.NumGoroutine(), goroutines+20)
	for _, hub := range l.hubs {
		st := hub.Stats()
		require.Less(l, st.Broker.QueuedBytes, int64(10_000))
		require.Less(l, st.HeldBytes, int64(1<<20))
	}
}

func (l *load) outage() {
	l.Helper()
	var before int
	l.each(func(c *loadClient) bool { before += c.roomGaps; return true })()
	l.engine.Stop()
	var once sync.Once
	start := func() { once.Do(l.engine.Start) }
	l.Cleanup(start)
	l.cut("down", func(h websocket.Health) bool { return h.Broker == websocket.BrokerDown })
	start()
	l.until("every client gets a gap notice for channel and room", func() bool {
		after, all := 0, true
		l.each(func(c *loadClient) bool { after += c.roomGaps; all = all && c.gap > 0; return true })()
		return all && after >= before+len(l.clients)
	})
}

func (l *load) pause() {
	l.Helper()
	l.engine.Pause()
	var once sync.Once
	resume := func() { once.Do(l.engine.Resume) }
	l.Cleanup(resume)
	l.cut("stalled", func(h websocket.Health) bool { return !h.OK() })
	resume()
}

// finish ends publishing and checks the publications that each client received.
func (l *load) finish() {
	l.Helper()
	l.silence()
	l.until("the last publications have arrived", l.each(func(c *loadClient) bool {
		return c.latest[c.home] == int(l.counts[c.home].Load())
	}))
	l.until("every loss is announced", l.each(func(c *loadClient) bool { return c.problem != "" || c.unannounced == "" }))
	sent := make([]int, len(l.hubs))
	for i, hub := range l.hubs {
		st := hub.Stats().Broker
		sent[i] = int(l.counts[i].Load()) - int(st.Unsent)
		l.Logf("node %d: published %d, %d of them unsent; received %d of other nodes", i, l.counts[i].Load(), st.Unsent, st.Received)
	}
	for _, c := range l.clients {
		c.mu.Lock()
		require.Empty(l, c.problem)
		require.Equal(l, int(l.counts[c.home].Load()), c.received[c.home], "a client receives all publications of its own node")
		for i, n := range c.received {
			if l.engine.Upset == nil { // an upset may cost any number of publications
				require.GreaterOrEqual(l, n, sent[i]/2, "of node %d", i)
			}
		}
		c.mu.Unlock()
	}
}

// RunTraffic runs three hubs on the engine, one with many members of a channel, one
// with one and one without, and checks how many engine messages a publication
// needs. traffic returns how many messages the engine has taken and delivered since
// its start; -1 means that it does not count them. ownCopy says that a Broker
// receives its own publications.
func RunTraffic(t *testing.T, engine Engine, traffic func() (in, out int), ownCopy bool) {
	if engine.Patience == 0 {
		engine.Patience = 30 * time.Second
	}
	const members, count = 50, 500
	l := &load{T: t, engine: engine, counts: make([]atomic.Int64, 3)}
	join := func(c *websocket.Client) { _ = c.Subscribe(loadChannel) }
	l.startHub(0, 1, join)
	l.startHub(1, members, join)
	l.startHub(2, 1, nil)
	l.joined(1, members, 0)
	l.ready()
	tick := time.NewTicker(100 * time.Millisecond) // for the hellos of the nodes to pass
	defer tick.Stop()
	<-tick.C
	<-tick.C
	in, out := traffic()
	for i := range count {
		require.NoError(t, l.hubs[0].PublishToChannelRawContext(context.Background(), loadChannel, fmt.Appendf(nil, `{"from":0,"number":%d}`, i+1)))
	}
	l.until("every member has received everything", func() bool {
		for _, c := range l.clients[:1+members] {
			c.mu.Lock()
			n := c.received[0]
			c.mu.Unlock()
			if n < count {
				return false
			}
		}
		return true
	})
	newIn, newOut := traffic()
	if in >= 0 {
		require.Equal(t, count, newIn-in, "one engine message per publication")
	}
	if out >= 0 {
		copies := 1
		if ownCopy {
			copies = 2
		}
		require.Equal(t, copies*count, newOut-out, "one delivery per node with members, independent of their number")
	}
	require.EqualValues(t, count, l.hubs[1].Stats().Broker.Received)
	require.Zero(t, l.hubs[2].Stats().Broker.Received, "no delivery to a node without members")
	for i := range count {
		require.NoError(t, l.hubs[0].PublishToChannelRawContext(context.Background(), "nobody", fmt.Append(nil, i)))
	}
	require.Zero(t, l.hubs[2].Stats().Broker.Received)
}
