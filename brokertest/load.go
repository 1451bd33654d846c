package brokertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// RunHubs puts three hubs with clients over TCP on an engine, and stops, pauses,
// restarts and upsets it while they publish. Every client must get all
// publications of its own node, those of other nodes in order, and notice of
// every loss: after the last publication that it got before the loss.
func RunHubs(t *testing.T, engine Engine) {
	if engine.Patience == 0 {
		engine.Patience = 30 * time.Second
	}
	l := startLoad(t, engine, 3, 4)
	l.publishing()
	l.healthy("at first")
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
	silence func()         // ends publishing
	counts  []atomic.Int64 // publications of each hub
	refused []atomic.Int64 // of those, not for other nodes
}

// loadMessage is what clients receive.
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
	home int
	mu   sync.Mutex
	// latest is the last number received of each hub, heard when that was, gap when
	// a loss was last announced, both as a count of messages; silent is what is
	// missing and not announced.
	latest, received []int
	heard            []int
	messages         int
	gap              int
	silent           string
	roomGaps         int
	problem          string
}

func startLoad(t *testing.T, engine Engine, hubs, clients int) *load {
	l := &load{T: t, engine: engine, stop: make(chan struct{}), counts: make([]atomic.Int64, hubs), refused: make([]atomic.Int64, hubs)}
	for i := range hubs {
		l.node(i, clients, func(c *websocket.Client) {
			_ = c.Subscribe(loadChannel)
			_ = c.JoinRoom(loadRoom)
		}, func(c *websocket.Config) {
			c.BrokerTimeout = time.Second
			c.AnnounceInterval = 300 * time.Millisecond
		})
	}
	l.ready()
	return l
}

// node starts one hub with its clients.
func (l *load) node(i, clients int, onConnect func(*websocket.Client), change ...func(*websocket.Config)) {
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

func (l *load) ready() {
	ctx, cancel := context.WithTimeout(context.Background(), l.engine.Patience)
	defer cancel()
	for _, hub := range l.hubs {
		require.NoError(l, hub.BrokerReady(ctx))
	}
}

// testLogger writes to the test's log while the test runs.
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
	go func() { // ends with the hub, or when the test ends
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
		c.problem = "a gap for the reason " + m.Data.Reason
	case m.Type == "gap" && m.Data.Channel == loadChannel:
		c.gap, c.silent = c.messages, ""
	case m.Type == "gap" && m.Data.RoomID == loadRoom:
		c.roomGaps++
	case m.Type == "message":
		from, number := m.Data.From, m.Data.Number
		switch expected := c.latest[from] + 1; {
		case number < expected:
			c.problem = fmt.Sprintf("from node %d came %d after %d", from, number, c.latest[from])
		case number > expected && from == c.home:
			c.problem = fmt.Sprintf("%d is missing of its own node", expected)
		case number > expected && c.gap <= c.heard[from]:
			c.silent = fmt.Sprintf("from node %d came %d after %d", from, number, c.latest[from])
		}
		c.latest[from], c.heard[from] = number, c.messages
		c.received[from]++
	}
}

// publishing begins.
func (l *load) publishing() {
	var ended sync.WaitGroup
	var once sync.Once
	l.silence = func() { once.Do(func() { close(l.stop) }); ended.Wait() }
	l.Cleanup(l.silence)
	for i, hub := range l.hubs {
		ended.Add(1)
		go func() { // ends with stop, at the end of the test
			defer ended.Done()
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
		}()
	}
}

// until waits for a condition.
func (l *load) until(what string, done func() bool) {
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
				l.Logf("client of %d: %v of %v, gap at %d of %d, not announced %q", c.home, c.received, c.latest, c.gap, c.messages, c.silent)
				c.mu.Unlock()
			}
			require.FailNow(l.T, "waited in vain: "+what)
		}
	}
}

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

// each asks for something of every client.
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

// healthy waits until everybody gets everything.
func (l *load) healthy(when string) {
	l.Helper()
	l.until("every node is well "+when, l.all(func(h *websocket.Hub) bool { return h.Health().OK() }))
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
	l.until("every loss is announced "+when, l.each(func(c *loadClient) bool { return c.silent == "" }))
}

// cut has the engine away and checks that nodes go on alone.
func (l *load) cut(what string, bad func(websocket.Health) bool) {
	l.Helper()
	l.until("every node says that the engine is "+what, l.all(func(h *websocket.Hub) bool { return bad(h.Health()) }))
	var counts, refused [16]int64
	for i := range l.hubs {
		counts[i], refused[i] = l.counts[i].Load(), l.refused[i].Load()
	}
	goroutines := runtime.NumGoroutine()
	l.until("local members go on receiving", l.each(func(c *loadClient) bool { return c.latest[c.home] > int(counts[c.home])+200 }))
	for i := range l.hubs {
		require.Greater(l, l.refused[i].Load(), refused[i], "publishers that ask are told")
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
	l.cut("away", func(h websocket.Health) bool { return h.Broker == websocket.BrokerDown })
	start()
	l.until("everybody is told for channel and room", func() bool {
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
	l.cut("not answering", func(h websocket.Health) bool { return !h.OK() })
	resume()
}

// finish ends publishing and looks at what everybody has got.
func (l *load) finish() {
	l.Helper()
	l.silence()
	l.until("the last publications have arrived", l.each(func(c *loadClient) bool {
		return c.latest[c.home] == int(l.counts[c.home].Load())
	}))
	l.until("every loss is announced", l.each(func(c *loadClient) bool { return c.problem != "" || c.silent == "" }))
	sent := make([]int, len(l.hubs))
	for i, hub := range l.hubs {
		st := hub.Stats().Broker
		sent[i] = int(l.counts[i].Load()) - int(st.Unsent)
		l.Logf("node %d: published %d, %d of them not to other nodes; received %d of theirs", i, l.counts[i].Load(), st.Unsent, st.Received)
	}
	for _, c := range l.clients {
		c.mu.Lock()
		require.Empty(l, c.problem)
		require.Equal(l, int(l.counts[c.home].Load()), c.received[c.home], "all of its own node")
		for i, n := range c.received {
			if l.engine.Upset == nil { // nobody knows how long that cost subscribers
				require.GreaterOrEqual(l, n, sent[i]/2, "of node %d", i)
			}
		}
		c.mu.Unlock()
	}
}

// RunTraffic puts three hubs on an engine, one with many members of a channel,
// one with one, one with none, and checks what a publication costs. traffic
// returns how many messages the engine has taken and handed on since it started,
// or -1 for what it does not count.
func RunTraffic(t *testing.T, engine Engine, traffic func() (in, out int), ownCopy bool) {
	if engine.Patience == 0 {
		engine.Patience = 30 * time.Second
	}
	const members, count = 50, 500
	l := &load{T: t, engine: engine, counts: make([]atomic.Int64, 3)}
	join := func(c *websocket.Client) { _ = c.Subscribe(loadChannel) }
	l.node(0, 1, join)
	l.node(1, members, join)
	l.node(2, 1, nil)
	l.ready()
	tick := time.NewTicker(100 * time.Millisecond) // for what nodes say when they come
	defer tick.Stop()
	<-tick.C
	<-tick.C
	in, out := traffic()
	for i := range count {
		require.NoError(t, l.hubs[0].PublishToChannelRawContext(context.Background(), loadChannel, fmt.Appendf(nil, `{"from":0,"number":%d}`, i+1)))
	}
	l.until("everybody has everything", func() bool {
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
		require.Equal(t, count, newIn-in, "one engine message for a publication")
	}
	if out >= 0 {
		copies := 1
		if ownCopy {
			copies = 2
		}
		require.Equal(t, copies*count, newOut-out, "one for each node with members, however many")
	}
	require.EqualValues(t, count, l.hubs[1].Stats().Broker.Received)
	require.Zero(t, l.hubs[2].Stats().Broker.Received, "and none where there are none")
	for i := range count {
		require.NoError(t, l.hubs[0].PublishToChannelRawContext(context.Background(), "nobody", fmt.Append(nil, i)))
	}
	require.Zero(t, l.hubs[2].Stats().Broker.Received)
}
