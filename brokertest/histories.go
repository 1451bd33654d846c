package brokertest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/stretchr/testify/require"
)

// RunHistories runs three hubs with a channel that has history and presence on the engine,
// and TCP clients. While the hubs publish it stops, restarts, pauses and upsets the engine.
// Members of all hubs, one of them on the way from hub to hub, must get every acknowledged
// publication once and in one order. If the engine is not Durable, they may get a gap
// instead of those that it has lost. A fourth hub dies without a goodbye. In the end all must
// see the same members, without those of the dead hub.
func RunHistories(t *testing.T, engine Engine) {
	if engine.Patience == 0 {
		engine.Patience = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*engine.Patience)
	t.Cleanup(cancel)
	r := &histories{T: t, engine: engine, ctx: ctx}
	dying := engine.Broker()
	r.startHub(3, dying)
	r.settle(&historyReader{id: "mortal"}, 0)
	r.hubs, r.urls = nil, nil
	for i := range 3 {
		r.startHub(i, engine.Broker())
	}
	for i := range r.hubs {
		r.settle(r.newReader(fmt.Sprint("settled", i)), i)
	}
	var publishing sync.WaitGroup
	stop := make(chan struct{})
	for i := range r.hubs {
		publishing.Go(func() { r.publish(i, stop) })
	}
	traveller := r.newReader("traveller")
	var travelling sync.WaitGroup
	travelling.Go(func() { r.travel(traveller, stop) })

	r.progress()
	r.sees(len(r.readers)+1, r.readers[0])
	require.NoError(t, dying.Close()) // behind the hub's back
	if engine.Stop != nil {
		for range 2 {
			engine.Stop()
			time.Sleep(time.Second)
			engine.Start()
			r.progress()
		}
	}
	if engine.Pause != nil {
		engine.Pause()
		time.Sleep(2 * time.Second)
		engine.Resume()
		r.progress()
	}
	if engine.Upset != nil {
		for range 2 {
			engine.Upset()
			r.progress()
		}
	}
	close(stop)
	publishing.Wait()
	travelling.Wait()
	r.settle(traveller, 0)
	r.publishOne(0, "end")
	r.check()
}

const historyChannel = "history"

type histories struct {
	*testing.T
	engine Engine
	ctx    context.Context
	hubs   []*websocket.Hub
	urls   []string

	mu           sync.Mutex
	acknowledged []string
	readers      []*historyReader
}

// historyReader is a member of the channel. The histories' lock guards its fields.
type historyReader struct {
	id       string
	position websocket.Position
	got      []string
	gaps     []websocket.Gap
	sub      *client.Subscription
	client   *client.Client
}

func (r *histories) startHub(i int, b websocket.Broker) {
	config := websocket.DefaultConfig
	config.Broker = b
	config.NodeName = fmt.Sprint("node", i)
	config.BrokerTimeout = 2 * time.Second
	config.AnnounceInterval = 500 * time.Millisecond
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{Presence: true, History: websocket.HistoryOptions{Messages: 50_000, Age: time.Hour}}
	}
	hub := websocket.NewHub(testLogger{r.T}, config)
	hub.SetCallbacks(func(c *websocket.Client) { c.SetUser(c.Request().URL.Query().Get("user")) }, nil, nil)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with Shutdown
	server := httptest.NewServer(hub.Handler())
	r.Cleanup(func() {
		require.NoError(r, hub.Shutdown(context.Background()))
		require.NoError(r, <-ran)
		server.Close()
	})
	require.NoError(r, hub.BrokerReady(r.ctx))
	r.hubs = append(r.hubs, hub)
	r.urls = append(r.urls, "ws"+strings.TrimPrefix(server.URL, "http"))
}

func (r *histories) newReader(id string) *historyReader {
	reader := &historyReader{id: id}
	r.readers = append(r.readers, reader)
	return reader
}

// settle connects a reader to a hub and subscribes it from its position on. It repeats that
// while the engine is away.
func (r *histories) settle(reader *historyReader, hub int) {
	for {
		if r.ctx.Err() != nil {
			r.Errorf("%s cannot subscribe", reader.id)
			return
		}
		c, err := client.Dial(r.ctx, r.urls[hub]+"?user="+reader.id, client.Options{OnGap: func(g websocket.Gap) {
			if g.Channel == historyChannel {
				r.mu.Lock()
				reader.gaps = append(reader.gaps, g)
				r.mu.Unlock()
			}
		}})
		if err != nil {
			continue
		}
		r.mu.Lock()
		from := reader.position
		r.mu.Unlock()
		sub, err := c.Subscribe(r.ctx, historyChannel, func(m *websocket.Message) {
			if m.Type != "message" {
				return
			}
			r.mu.Lock()
			reader.got = append(reader.got, string(m.Data))
			r.mu.Unlock()
		}, client.Since(from), client.OnPresence(nil))
		if err != nil {
			_ = c.Close()
			continue
		}
		r.mu.Lock()
		reader.client, reader.sub = c, sub
		r.mu.Unlock()
		r.Cleanup(func() { _ = c.Close() })
		return
	}
}

// travel moves a reader from hub to hub.
func (r *histories) travel(reader *historyReader, stop <-chan struct{}) {
	for hub := 0; ; hub = (hub + 1) % len(r.hubs) {
		r.settle(reader, hub)
		select {
		case <-stop:
		case <-time.After(time.Duration(rand.N(200)) * time.Millisecond):
		}
		_ = reader.client.Close()
		<-reader.client.Done() // no handler runs after it
		r.mu.Lock()
		reader.position = reader.sub.Position()
		r.mu.Unlock()
		select {
		case <-stop:
			return
		default:
		}
	}
}

func (r *histories) publish(hub int, stop <-chan struct{}) {
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
			r.publishOne(hub, fmt.Sprintf("%d %d", hub, n))
		}
	}
}

// publishOne repeats a publication until it is acknowledged.
func (r *histories) publishOne(hub int, text string) {
	m := &websocket.Message{Data: fmt.Appendf(nil, "%q", text), Key: text}
	for r.hubs[hub].PublishToChannelContext(r.ctx, historyChannel, m) != nil {
		if r.ctx.Err() != nil {
			r.Errorf("cannot publish")
			return
		}
		time.Sleep(time.Millisecond)
	}
	r.mu.Lock()
	r.acknowledged = append(r.acknowledged, string(m.Data))
	r.mu.Unlock()
}

// progress waits until all hubs have published more, and all readers have got more.
func (r *histories) progress() {
	r.Helper()
	counts := func() (list []int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, reader := range r.readers {
			list = append(list, len(reader.got))
		}
		return append(list, len(r.acknowledged))
	}
	before, deadline := counts(), time.Now().Add(r.engine.Patience)
	for {
		more := true
		for i, n := range counts() {
			more = more && n >= before[i]+100
		}
		if more {
			return
		}
		require.True(r, time.Now().Before(deadline), "no progress: %v, then %v", before, counts())
		time.Sleep(10 * time.Millisecond)
	}
}

// sees waits until a reader sees a number of members. The traveller may be on the way.
func (r *histories) sees(members int, reader *historyReader) {
	r.Helper()
	for deadline := time.Now().Add(r.engine.Patience); len(reader.sub.Members()) != members; time.Sleep(time.Millisecond) {
		require.True(r, time.Now().Before(deadline), "%s sees %v", reader.id, reader.sub.Members())
	}
}

// check waits for the last publication at every reader, and compares what they have got.
func (r *histories) check() {
	deadline := time.Now().Add(r.engine.Patience)
	for _, reader := range r.readers {
		for {
			r.mu.Lock()
			n := len(reader.got)
			done := n > 0 && reader.got[n-1] == `"end"`
			r.mu.Unlock()
			if done {
				break
			}
			require.True(r, time.Now().Before(deadline), "%s has not got the end", reader.id)
			time.Sleep(10 * time.Millisecond)
		}
	}
	for _, reader := range r.readers {
		r.sees(len(r.readers), reader)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	lost := 0
	for _, reader := range r.readers {
		counts := map[string]int{}
		for _, text := range reader.got {
			counts[text]++
		}
		missing := 0
		for _, text := range r.acknowledged {
			if counts[text] == 0 {
				missing++
			}
			if r.engine.Durable {
				require.LessOrEqual(r, counts[text], 1, "%s got %s twice", reader.id, text)
			}
		}
		lost = max(lost, missing)
		if r.engine.Durable {
			require.Empty(r, reader.gaps, "%s", reader.id)
		}
		require.True(r, missing == 0 || len(reader.gaps) > 0, "%s misses %d publications without a gap", reader.id, missing)
		if r.engine.Durable && reader.id != "traveller" { // which begins later
			require.Equal(r, r.readers[0].got, reader.got, "%s", reader.id)
		}
	}
	r.Logf("%d publications acknowledged; at most %d are missing at a member, after a gap", len(r.acknowledged), lost)
}
