package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
)

// TestContinuity publishes to topics with history, through clients whose connections break
// after random numbers of bytes or stall, and to hubs that restart, to members that read slowly, unsubscribe and subscribe
// again, and start anew with the position that they have stored. Each handler must get every
// publication from its first subscription on, once and in order, or be told of its loss
// before the next message of the topic. If the histories have room, each call of Publish must
// succeed, and publish once. At the end each member must know the members of the topics.
//
// CONTINUITY_SEED repeats one run. CONTINUITY_RUNS sets the number of runs.
func TestContinuity(t *testing.T) {
	t.Parallel()
	runs := 30
	if testing.Short() {
		runs = 5
	}
	continuityRuns(t, runs, func(t *testing.T, seed uint64) {
		synctest.Test(t, func(t *testing.T) { newContinuityRun(t, seed).run() })
	})
}

// TestContinuityOverTCP is TestContinuity over real sockets, through a proxy that cuts
// connections after random numbers of bytes.
func TestContinuityOverTCP(t *testing.T) {
	t.Parallel()
	runs := 3
	if testing.Short() {
		runs = 1
	}
	continuityRuns(t, runs, func(t *testing.T, seed uint64) {
		r := newContinuityRun(t, seed)
		r.server.addr = "127.0.0.1:0"
		r.proxy, r.speed = newCutProxy(t, seed), 5
		r.run()
	})
}

func continuityRuns(t *testing.T, runs int, run func(t *testing.T, seed uint64)) {
	if s := os.Getenv("CONTINUITY_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	first := rand.Uint64() >> 16
	if s := os.Getenv("CONTINUITY_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	for i := range uint64(runs) {
		seed := first + i
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { run(t, seed) })
		if !ok {
			t.Fatalf("repeat with CONTINUITY_SEED=%d", seed)
		}
	}
}

type continuityRun struct {
	t           *testing.T
	seed        uint64
	server      *server
	pipes       *pipeListener
	proxy       *cutProxy     // instead of pipes, or nil
	speed       time.Duration // pauses are shorter by this factor
	plain       bool          // the hub does not know how to write without blocking
	presence    bool          // members follow each other
	roomy       bool          // no history forgets anything
	topics      []string      // "r" and the name of a room, or "c" and that of a channel
	count       int           // publications of each publisher to each topic
	calm        atomic.Bool   // new connections do not break
	taken, gaps atomic.Int64  // received by members
	stop        chan struct{} // closed when all is published

	hub atomic.Pointer[websocket.Hub] // the present one of server
}

func newContinuityRun(t *testing.T, seed uint64) *continuityRun {
	rng := rand.New(rand.NewPCG(seed, 1))
	pick := func(n ...int64) int64 { return n[rng.IntN(len(n))] }
	r := &continuityRun{t: t, seed: seed, pipes: newPipeListener(t), speed: 1, stop: make(chan struct{})}
	r.server = &server{t: t, config: websocket.DefaultConfig, addr: "hub"}
	config := &r.server.config
	config.Shards = 1 + rng.IntN(3)
	config.MaxMessageSize = 4000
	config.ClientBacklog = pick(5_000, 20_000, 1<<20)
	config.LogSize = pick(8_000, 100_000, 64<<20)
	config.SlowConsumer = websocket.SlowConsumerPolicy(rng.IntN(3))
	config.EnableCompression = rng.IntN(2) == 0
	r.server.onConn = func(c *websocket.Client) { c.SetUser(c.Request().Header.Get("Name")) }
	if rng.IntN(4) == 0 {
		config.Security = websocket.NewSecurityConfig(aesKey, hmacKey)
	}
	r.plain = rng.IntN(2) == 0
	bounds := websocket.HistoryOptions{Messages: 100_000}
	if r.roomy = rng.IntN(2) == 0; !r.roomy {
		bounds = websocket.HistoryOptions{
			Messages: int(pick(0, 20, 1000)),
			Bytes:    pick(0, 20_000, 1<<20),
			Age:      time.Duration(pick(int64(2*time.Second), int64(time.Hour))),
		}
		config.HistoryBudget = pick(100_000, 256<<20)
	}
	r.presence = rng.IntN(2) == 0
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: bounds, Presence: r.presence}
	}
	all := []string{"c0", "r0", "c1", "r1"}
	for _, i := range rng.Perm(len(all))[:1+rng.IntN(3)] {
		r.topics = append(r.topics, all[i])
	}
	r.count = 20 + rng.IntN(180)
	return r
}

func (r *continuityRun) run() {
	r.serve()
	var members, publishers sync.WaitGroup
	var all []*continuityMember
	for i := range 1 + r.seed%4 {
		m := r.newMember(fmt.Sprintf("member%d", i), 100+i)
		all = append(all, m)
		members.Go(m.live)
	}
	for i := range 1 + r.seed%3 {
		publishers.Go(func() { r.publish(fmt.Sprintf("p%d", i), 200+i) })
	}
	publishers.Go(r.publishAsHub)
	if !r.roomy && r.seed%3 == 0 {
		publishers.Go(r.restart)
	}
	publishers.Wait()
	close(r.stop)
	members.Wait()
	r.calm.Store(true)
	if r.proxy != nil {
		r.proxy.calm.Store(true)
	}
	for n := 0; !r.t.Failed(); n++ {
		done := true
		for _, m := range all {
			done = done && m.hasEnd() && (!r.presence || m.knowsMembers(n == 1000))
		}
		if done {
			break
		}
		if n == 1000 {
			r.t.Error("members do not settle")
		}
		for _, topic := range r.topics {
			r.hubPublishes(topic, `{"p":"end"}`)
		}
		r.pause(time.Second)
	}
	for _, m := range all {
		m.close()
	}
	if r.proxy != nil {
		r.proxy.stop()
	}
	r.server.stop()
	r.t.Logf("%d connections, %d messages, %d gaps", r.hub.Load().Stats().TotalConnections, r.taken.Load(), r.gaps.Load())
}

func (r *continuityRun) serve() {
	if r.proxy != nil {
		r.server.start()
		r.proxy.hub.Store(r.server.addr)
	} else {
		r.server.serveIn(r.pipes)
	}
	r.hub.Store(r.server.hub)
}

// pause takes time in which other things happen. No check depends on its length.
func (r *continuityRun) pause(d time.Duration) { <-time.After(d / r.speed) }

// restart restarts the hub, which forgets its histories.
func (r *continuityRun) restart() {
	rng := rand.New(rand.NewPCG(r.seed, 400))
	for range 1 + rng.IntN(2) {
		r.pause(time.Duration(rng.IntN(3000)) * time.Millisecond)
		r.server.stop()
		r.serve()
	}
}

// tolerable reports whether a call may fail with err in this run.
func (r *continuityRun) tolerable(err error) bool {
	var refusal *client.Error
	return !r.roomy && (errors.Is(err, client.ErrOutcomeUnknown) || errors.As(err, &refusal) && refusal.Code == client.CodeUnavailable)
}

// options returns the options of a client whose connections break.
func (r *continuityRun) options(name string, rng *rand.Rand) client.Options {
	dial := r.dialer(rng.Uint64())
	if r.proxy != nil {
		dial = r.proxy.dial
	}
	return client.Options{
		Codec:             []string{"json", "protobuf", "flatbuffers", "msgpack"}[rng.IntN(4)],
		Security:          r.server.config.Security,
		EnableCompression: rng.IntN(2) == 0,
		Header:            http.Header{"Name": {name}},
		RetryDial:         true,
		BackoffMin:        time.Duration(1+rng.IntN(100)) * time.Millisecond / r.speed,
		BackoffMax:        time.Duration(100+rng.IntN(3000)) * time.Millisecond / r.speed,
		NetDial:           dial,
	}
}

// dialer returns a NetDial that makes connections in memory.
func (r *continuityRun) dialer(seed uint64) func(context.Context, string, string) (net.Conn, error) {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 2))
	return func(context.Context, string, string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		server, ours := testnet.Pair([]int{64, 500, 4096, 1 << 16}[rng.IntN(4)] + 512)
		theirs, mine := testnet.NewCutConn(server), testnet.NewCutConn(ours)
		if !r.calm.Load() {
			limit := func() int { return 1 + rng.IntN(1<<(7+rng.IntN(8))) }
			switch rng.IntN(4) {
			case 0:
				theirs.ResetAfter(limit() + 130)
			case 1:
				mine.ResetAfter(limit())
			case 2:
				theirs.ResetAfter(limit() + 130)
				mine.ResetAfter(limit())
			}
			if rng.IntN(8) == 0 {
				time.AfterFunc(time.Duration(rng.IntN(5000))*time.Millisecond, func() {
					server.SetWindow(0)
					ours.SetWindow(0)
				})
			}
			if rng.IntN(4) == 0 {
				server.Faults().Short(1 + rng.IntN(50))
			}
		}
		var hubEnd net.Conn = theirs
		if r.plain {
			hubEnd = theirs.Plain()
		}
		r.pipes.hub.Load().ServeConn(hubEnd)
		return mine, nil
	}
}

type continuityData struct {
	Publisher string `json:"p"`
	N         int    `json:"n"`
	Padding   string `json:"x"`
}

func (d continuityData) encode(rng *rand.Rand) []byte {
	d.Padding = strings.Repeat("x", rng.IntN(1<<rng.IntN(11)))
	b, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	return b
}

// publish publishes numbers from 0 to count to each topic.
func (r *continuityRun) publish(name string, seed uint64) {
	rng := rand.New(rand.NewPCG(r.seed, seed))
	o := r.options(name, rng)
	o.OnError = func(err error) { r.t.Errorf("%s: %v", name, err) }
	c, err := client.Dial(r.t.Context(), "ws://hub", o)
	if err != nil {
		r.t.Errorf("%s: %v", name, err)
		return
	}
	defer func() {
		_ = c.Close()
		<-c.Done()
	}()
	for n := range r.count + 1 {
		for _, topic := range r.topics {
			data := continuityData{Publisher: name, N: n}.encode(rng)
			publish := c.Publish
			if topic[0] == 'r' {
				publish = c.PublishRoom
			}
			var err error
			if n > 0 {
				err = publish(r.t.Context(), topic[1:], data)
			} else { // the client does not know yet that there is a history, and the application repeats by itself
				key := fmt.Sprintf("%s %d %s", name, n, topic)
				for err = client.ErrOutcomeUnknown; errors.Is(err, client.ErrOutcomeUnknown); {
					err = publish(r.t.Context(), topic[1:], data, client.Key(key))
				}
			}
			if err != nil && !r.tolerable(err) {
				r.t.Errorf("%s: publication %d to %s: %v", name, n, topic, err)
				return
			}
		}
		if rng.IntN(3) == 0 {
			r.pause(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
	}
}

func (r *continuityRun) publishAsHub() {
	rng := rand.New(rand.NewPCG(r.seed, 300))
	for n := range r.count {
		for _, topic := range r.topics {
			r.hubPublishes(topic, string(continuityData{Publisher: "hub", N: n}.encode(rng)))
		}
		r.pause(time.Duration(rng.IntN(50)) * time.Millisecond)
	}
}

func (r *continuityRun) hubPublishes(topic, data string) {
	publish := r.hub.Load().PublishToChannel
	if topic[0] == 'r' {
		publish = r.hub.Load().PublishToRoom
	}
	if err := publish(topic[1:], &websocket.Message{Type: "own", Data: []byte(data)}); err != nil && (r.roomy || !errors.Is(err, websocket.ErrHubClosed)) {
		r.t.Errorf("hub: %v", err)
	}
}

// continuityMember is a program that follows all topics, over several clients.
type continuityMember struct {
	run    *continuityRun
	name   string
	rng    *rand.Rand
	client *client.Client

	mu     sync.Mutex // guards the fields below, and the trackers
	topics map[string]*tracker
	others map[string][]*tracker // of further subscriptions, which end with the client
}

// tracker follows one subscription, or one after the other, over several clients.
type tracker struct {
	sub     *client.Subscription
	epoch   string
	at      uint64
	last    map[string]int // latest number of each publisher, if none after it can be missing
	end     bool
	gaps    uint64 // announced since the latest message
	unknown bool   // and their number is not known
	again   bool   // and they may have been announced twice, or for another tracker of the topic
}

func (r *continuityRun) newMember(name string, seed uint64) *continuityMember {
	return &continuityMember{run: r, name: name, rng: rand.New(rand.NewPCG(r.seed, seed)), topics: map[string]*tracker{}, others: map[string][]*tracker{}}
}

func (m *continuityMember) errorf(format string, args ...any) {
	m.run.t.Errorf(m.name+": "+format, args...)
}

// live starts the program again and again until all is published. The last client stays.
func (m *continuityMember) live() {
	for m.start() {
		for range m.rng.IntN(30) {
			select {
			case <-m.run.stop:
				return
			case <-time.After(time.Duration(m.rng.IntN(500)) * time.Millisecond / m.run.speed):
			}
			topic := m.run.topics[m.rng.IntN(len(m.run.topics))]
			switch m.rng.IntN(10) {
			case 0:
				m.client.Reconnect()
			case 1, 2:
				m.subscribeAgain(topic)
			case 3:
				m.readHistory(topic)
			case 4, 5:
				m.subscribeBeside(topic)
			}
		}
		m.close()
		m.mu.Lock()
		clear(m.others)
		m.mu.Unlock()
	}
}

func (m *continuityMember) close() {
	if m.client != nil {
		_ = m.client.Close()
		<-m.client.Done()
	}
}

// start dials and subscribes to all topics, from the place that the member has stored.
func (m *continuityMember) start() bool {
	o := m.run.options(m.name, m.rng)
	o.InboundLimit = []int64{4 << 20, 4 << 20, 20_000}[m.rng.IntN(3)]
	o.OnGap, o.OnState = m.gap, m.state
	o.OnError = func(err error) { m.errorf("%v", err) }
	o.OnMessage = func(msg *websocket.Message) { m.errorf("message without a handler: %+v", msg) }
	c, err := client.Dial(m.run.t.Context(), "ws://hub", o)
	if err != nil {
		m.errorf("dial: %v", err)
		return false
	}
	m.client = c
	for _, topic := range m.run.topics {
		if !m.subscribe(topic) {
			return false
		}
	}
	return true
}

func (m *continuityMember) subscribe(topic string) bool {
	m.mu.Lock()
	t := m.topics[topic]
	if t == nil {
		t = &tracker{last: map[string]int{}}
		m.topics[topic] = t
	}
	m.mu.Unlock()
	return m.join(topic, t)
}

// subscribeBeside begins or ends a further subscription. It may begin at another place.
func (m *continuityMember) subscribeBeside(topic string) {
	m.mu.Lock()
	if others := m.others[topic]; len(others) > 1 {
		m.others[topic] = others[1:]
		m.mu.Unlock()
		if err := others[0].sub.Unsubscribe(m.run.t.Context()); err != nil && !m.run.tolerable(err) {
			m.errorf("unsubscribe from %s: %v", topic, err)
		}
		return
	}
	t := &tracker{last: map[string]int{}}
	m.others[topic] = append(m.others[topic], t)
	m.mu.Unlock()
	m.join(topic, t)
}

// join subscribes at the place of t. A tracker that has none chooses one.
func (m *continuityMember) join(topic string, t *tracker) bool {
	m.mu.Lock()
	for _, each := range m.trackers(topic) {
		each.again = true // the gap may be for another of them
	}
	var options []client.SubscribeOption
	if t.epoch != "" {
		options = append(options, client.Since(websocket.Position{Epoch: t.epoch, Offset: t.at}))
	} else {
		switch m.rng.IntN(3) {
		case 0:
			options = append(options, client.Since(websocket.Position{}))
		case 1:
			options = append(options, client.Last(m.rng.IntN(50)))
		}
	}
	m.mu.Unlock()
	if m.run.presence {
		options = append(options, client.OnPresence(nil))
	}
	subscribe := m.client.Subscribe
	if topic[0] == 'r' {
		subscribe = m.client.JoinRoom
	}
	rng := rand.New(rand.NewPCG(m.rng.Uint64(), 4))
	ready := make(chan struct{})
	handler := func(msg *websocket.Message) {
		<-ready
		if rng.IntN(50) == 0 {
			m.run.pause(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
		if err := m.take(t, msg); err != nil {
			m.errorf("%s: %v", topic, err)
		}
	}
	sub, err := subscribe(m.run.t.Context(), topic[1:], handler, options...)
	for err != nil && m.run.tolerable(err) {
		sub, err = subscribe(m.run.t.Context(), topic[1:], handler, options...)
	}
	if err != nil {
		m.errorf("subscribe to %s: %v", topic, err)
		return false
	}
	m.mu.Lock()
	t.sub = sub
	if resumed := sub.Resumed(); t.epoch == "" {
		t.epoch, t.at = resumed.Epoch, resumed.Offset-uint64(resumed.Replayed)
		if resumed.Reason == "expired" {
			t.at = 0
		}
	}
	m.mu.Unlock()
	close(ready)
	return true
}

// subscribeAgain leaves a topic for a while.
func (m *continuityMember) subscribeAgain(topic string) {
	m.mu.Lock()
	t := m.topics[topic]
	m.mu.Unlock()
	if err := t.sub.Unsubscribe(m.run.t.Context()); err != nil {
		if !m.run.tolerable(err) {
			m.errorf("unsubscribe from %s: %v", topic, err)
		}
		return
	}
	<-time.After(time.Second) // longer than a handler takes
	m.subscribe(topic)
}

func (m *continuityMember) readHistory(topic string) {
	m.mu.Lock()
	sub := m.topics[topic].sub
	m.mu.Unlock()
	page, err := sub.History(m.run.t.Context(), websocket.HistoryQuery{Limit: 1 + m.rng.IntN(20)})
	if err != nil && m.run.tolerable(err) {
		return
	}
	if err != nil || !page.Complete {
		m.errorf("history of %s: %+v %v", topic, page, err)
		return
	}
	for i, msg := range page.Messages {
		if want := page.Offset - uint64(len(page.Messages)-1-i); msg.Offset != want {
			m.errorf("history of %s has offset %d at %d of %+v", topic, msg.Offset, i, page)
		}
	}
}

func (m *continuityMember) state(s client.StateChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.State == client.Disconnected {
		for topic := range m.topics {
			for _, t := range m.trackers(topic) {
				t.again = true
			}
		}
	}
}

// trackers returns all trackers of a topic. m.mu is locked.
func (m *continuityMember) trackers(topic string) []*tracker {
	return append([]*tracker{m.topics[topic]}, m.others[topic]...)
}

func (m *continuityMember) gap(g websocket.Gap) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run.gaps.Add(1)
	if g.Reason == client.ReasonReconnect {
		m.errorf("gap %+v, but there is a history", g)
	}
	for topic := range m.topics {
		if g.All || topic == "c"+g.Channel || topic == "r"+g.RoomID {
			for _, t := range m.trackers(topic) {
				t.gaps += g.Count
				t.unknown = t.unknown || g.All || g.Count == 0
				t.again = t.again || len(m.others[topic]) > 0
			}
		}
	}
}

func (m *continuityMember) take(t *tracker, msg *websocket.Message) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.run.taken.Add(1)
	var data continuityData
	if err := json.Unmarshal(msg.Data, &data); err != nil {
		return err
	}
	at := t.sub.Position()
	if at.Offset != msg.Offset {
		return fmt.Errorf("offset %d at position %+v", msg.Offset, at)
	}
	announced := fmt.Sprintf("(announced: %d, unknown %v, perhaps again %v)", t.gaps, t.unknown, t.again)
	lost := at.Epoch != t.epoch
	switch {
	case lost:
		if !t.unknown {
			return fmt.Errorf("epoch %q after %q without a gap %s", at.Epoch, t.epoch, announced)
		}
	case msg.Offset <= t.at:
		return fmt.Errorf("offset %d after %d", msg.Offset, t.at)
	case t.unknown:
		lost = true
	default:
		missing := msg.Offset - t.at - 1
		if missing > t.gaps || missing < t.gaps && !t.again {
			return fmt.Errorf("offset %d after %d %s", msg.Offset, t.at, announced)
		}
		lost = missing > 0
	}
	t.epoch, t.at = at.Epoch, msg.Offset
	t.gaps, t.unknown, t.again = 0, false, false
	if lost {
		clear(t.last)
	}
	last, known := t.last[data.Publisher]
	t.last[data.Publisher] = data.N
	t.end = t.end || data.Publisher == "end"
	if known && data.Publisher != "end" && data.N != last+1 && m.run.roomy {
		return fmt.Errorf("publication %d of %s after %d", data.N, data.Publisher, last)
	}
	return nil
}

// knowsMembers reports whether the client knows the members as the hub does.
func (m *continuityMember) knowsMembers(explain bool) bool {
	for topic, t := range m.topics {
		kind := websocket.ChannelTopic
		if topic[0] == 'r' {
			kind = websocket.RoomTopic
		}
		want, err := m.run.hub.Load().Presence(m.run.t.Context(), kind, topic[1:])
		if err != nil || !reflect.DeepEqual(t.sub.Members(), want) {
			if explain {
				m.errorf("members of %s: %+v, want %+v %v", topic, t.sub.Members(), want, err)
			}
			return false
		}
	}
	return true
}

// hasEnd reports whether the member has the end of each topic.
func (m *continuityMember) hasEnd() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, t := range m.topics {
		if !t.end {
			return false
		}
	}
	return true
}
