package websocket_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
	"github.com/stretchr/testify/require"
	pb "google.golang.org/protobuf/proto"
)

// TestNothingIsLostSilently publishes to clients that read at different speeds, stop
// reading or disconnect. Each client must get all messages that were published while
// it was a member, in the order of the event log. In the place of dropped messages it
// must get a gap with their number. Messages that are pending when its connection
// ends must be counted as dropped.
//
// INVARIANT_SEED repeats one run. INVARIANT_RUNS sets the number of runs.
func TestNothingIsLostSilently(t *testing.T) {
	runs := 150
	if s := os.Getenv("INVARIANT_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if testing.Short() {
		runs = 20
	}
	first := rand.Uint64() >> 16
	if s := os.Getenv("INVARIANT_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	for i := range uint64(runs) {
		seed := first + i
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newInvariantRun(t, seed).run() })
		})
		if !ok {
			t.Fatalf("repeat with INVARIANT_SEED=%d", seed)
		}
	}
}

type readerKind int

const (
	fastReader readerKind = iota
	slowReader
	stalledReader // reads nothing for a while, then everything
	endingReader  // disconnects after a number of messages
	readerKinds
)

// subscriber is a client with the messages that it must get.
type subscriber struct {
	client   *websocket.Client
	peer     *fakePeer
	codec    websocket.Codec
	kind     readerKind
	endAfter int
	seed     uint64

	mu       sync.Mutex
	expected map[string][]int // by topic: numbers published while it was a member
	got      map[string]int   // by topic: how many of these it got or lost in a gap
	problem  error
	ended    bool // its connection ended before the hub was stopped
}

type invariantRun struct {
	t        *testing.T
	seed     uint64
	rng      *rand.Rand
	config   websocket.Config
	hub      *fakeHub
	topics   []string // "c:name" or "r:name"
	members  []*subscriber
	readers  sync.WaitGroup
	arrivals chan *websocket.Client // onConnect sends, addSubscriber receives
}

func newInvariantRun(t *testing.T, seed uint64) *invariantRun {
	r := &invariantRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), arrivals: make(chan *websocket.Client, 1)}
	r.config = websocket.DefaultConfig
	r.config.Shards = 1 + r.rng.IntN(4)
	r.config.MaxMessageSize = 2000
	r.config.ClientBacklog = []int64{3_000, 20_000, 1 << 20}[r.rng.IntN(3)]
	r.config.LogSize = []int64{5_000, 100_000, 64 << 20}[r.rng.IntN(3)]
	r.config.SlowConsumer = websocket.SlowConsumerPolicy(r.rng.IntN(3))
	r.config.EnableCompression = r.rng.IntN(2) == 0
	if r.rng.IntN(2) == 0 {
		r.config.HistoryBudget = []int64{10_000, 256 << 20}[r.rng.IntN(2)]
		bounds := websocket.HistoryOptions{
			Messages: []int{0, 5, 1000}[r.rng.IntN(3)],
			Bytes:    []int64{0, 5_000, 1 << 20}[r.rng.IntN(3)],
			Age:      []time.Duration{time.Millisecond, time.Second, time.Hour}[r.rng.IntN(3)],
		}
		r.config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
			if name == "0" { // others beside it keep nothing
				return websocket.TopicOptions{}
			}
			return websocket.TopicOptions{History: bounds}
		}
	}
	if r.rng.IntN(4) == 0 {
		r.config.Security = websocket.NewSecurityConfig(make([]byte, 32), []byte("secret"))
	}
	return r
}

func (r *invariantRun) run() {
	r.hub = runFake(r.t, paths[r.rng.IntN(2)], r.config, func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) { r.arrivals <- c }, nil, nil)
	})
	for i := range 1 + r.rng.IntN(4) {
		r.topics = append(r.topics, fmt.Sprintf("c:%d", i), fmt.Sprintf("r:%d", i))
	}
	for range 1 + r.rng.IntN(8) {
		r.addSubscriber()
	}
	var publishers sync.WaitGroup
	for i, topic := range r.topics {
		publishers.Go(func() { r.publish(topic, rand.New(rand.NewPCG(r.seed, uint64(100+i)))) })
	}
	publishers.Wait()
	time.Sleep(5 * time.Minute) // all messages are written, or WriteWait ends connections
	synctest.Wait()
	if !r.t.Failed() {
		r.check()
	}
	r.hub.stop()
	for _, m := range r.members {
		_ = m.peer.Close()
	}
	r.readers.Wait()
}

func (r *invariantRun) addSubscriber() {
	codecs := []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}}
	m := &subscriber{
		codec: codecs[r.rng.IntN(4)], kind: readerKind(r.rng.IntN(int(readerKinds))),
		endAfter: r.rng.IntN(40), seed: r.rng.Uint64(),
		expected: map[string][]int{}, got: map[string]int{},
	}
	m.peer = r.hub.connect([]int{64, 500, 4_096, 1 << 16}[r.rng.IntN(4)]+512, codecHeader(m.codec.Name()))
	m.client = <-r.arrivals
	if r.rng.IntN(3) == 0 {
		m.peer.server.Faults().Short(1 + r.rng.IntN(50))
	}
	r.members = append(r.members, m)
	r.readers.Go(func() { m.read(r.config.Security != nil) })
}

// publish publishes to one topic and changes its membership. No other goroutine does
// either, so publish knows the messages that each member must get.
func (r *invariantRun) publish(topic string, rng *rand.Rand) {
	kind, name, _ := strings.Cut(topic, ":")
	room := kind == "r"
	in := map[*subscriber]bool{}
	for n := range 150 {
		if rng.IntN(8) == 0 || n == 0 {
			m := r.members[rng.IntN(len(r.members))]
			change := m.client.Subscribe
			switch {
			case room && in[m]:
				change = m.client.LeaveRoom
			case room:
				change = m.client.JoinRoom
			case in[m]:
				change = m.client.Unsubscribe
			}
			if change(name) == nil {
				in[m] = !in[m]
			}
		}
		for m := range in {
			if in[m] {
				m.mu.Lock()
				m.expected[topic] = append(m.expected[topic], n)
				m.mu.Unlock()
			}
		}
		msg := &websocket.Message{Data: []byte(fmt.Sprintf(`[%d,"%s"]`, n, strings.Repeat("x", rng.IntN(1<<rng.IntN(11)))))}
		publish := r.hub.PublishToChannel
		if room {
			publish = r.hub.PublishToRoom
		}
		if err := publish(name, msg); err != nil {
			r.t.Errorf("publish: %v", err)
			return
		}
		if rng.IntN(20) == 0 {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Millisecond)
		}
	}
}

// read reads messages at the speed of m's kind and checks them.
func (m *subscriber) read(sealed bool) {
	rng := rand.New(rand.NewPCG(m.seed, 2))
	if m.kind == stalledReader {
		time.Sleep(time.Duration(rng.IntN(15_000)) * time.Millisecond)
	}
	var err error
	for n := 0; err == nil; n++ {
		if m.kind == slowReader && rng.IntN(3) == 0 {
			time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
		}
		if m.kind == endingReader && n >= m.endAfter {
			if rng.IntN(2) == 0 {
				m.peer.client.Reset()
			}
			break
		}
		var b []byte
		if _, b, err = m.peer.ReadMessage(); err == nil {
			err = m.take(b, sealed)
		}
	}
	_ = m.peer.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
}

// take checks that a message is the next one that m must get.
func (m *subscriber) take(b []byte, sealed bool) error {
	if sealed {
		signed, err := websocket.Decrypt(b, make([]byte, 32))
		if err == nil {
			b, err = websocket.Verify(signed, []byte("secret"))
		}
		if err != nil {
			return m.fail("open: %v", err)
		}
	}
	var msg websocket.Message
	if err := m.codec.Unmarshal(b, &msg); err != nil {
		return m.fail("decode: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch msg.Type {
	case "gap":
		g := m.gapOf(msg.Data)
		topic := "c:" + g.Channel
		if g.RoomID != "" {
			topic = "r:" + g.RoomID
		}
		m.got[topic] += int(g.Count)
		return nil
	case "message", "room_message":
		topic := "c:" + msg.Channel
		if msg.Type == "room_message" {
			topic = "r:" + msg.Channel
		}
		var data []any
		if err := json.Unmarshal(msg.Data, &data); err != nil {
			return m.failLocked("data: %v", err)
		}
		n, at := int(data[0].(float64)), m.got[topic]
		if at >= len(m.expected[topic]) || m.expected[topic][at] != n {
			return m.failLocked("%s: got message %d at position %d of %v", topic, n, at, m.expected[topic])
		}
		m.got[topic]++
		return nil
	default:
		return m.failLocked("unexpected type %q", msg.Type)
	}
}

func (m *subscriber) gapOf(data []byte) websocket.Gap {
	if m.codec.Name() == "protobuf" {
		return protobufGap(data)
	}
	var g struct {
		Channel string `json:"channel"`
		RoomID  string `json:"room_id"`
		Count   uint64 `json:"count"`
	}
	_ = json.Unmarshal(data, &g)
	return websocket.Gap{Channel: g.Channel, RoomID: g.RoomID, Count: g.Count}
}

func (m *subscriber) fail(format string, args ...any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failLocked(format, args...)
}

func (m *subscriber) failLocked(format string, args ...any) error {
	m.problem = fmt.Errorf(format, args...)
	return m.problem
}

func (r *invariantRun) check() {
	for i, m := range r.members {
		m.mu.Lock()
		require.NoError(r.t, m.problem, "client %d", i)
		for topic, expected := range m.expected {
			if m.ended {
				require.LessOrEqual(r.t, m.got[topic], len(expected), "client %d", i)
			} else {
				require.Equal(r.t, len(expected), m.got[topic], "client %d is connected, but messages of %s are missing", i, topic)
			}
		}
		m.mu.Unlock()
	}
	st := r.hub.Stats()
	require.Equal(r.t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total(), "addressed must be sent + dropped: %+v", st)
	require.Zero(r.t, r.hub.HeldByMessages(), "%+v", st)
}

// protobufGap decodes a gap notice with the generated code.
func protobufGap(data []byte) websocket.Gap {
	var g proto.GapNotice
	_ = pb.Unmarshal(data, &g)
	return websocket.Gap{Channel: g.Channel, RoomID: g.RoomId, Count: g.Count, First: g.First, Last: g.Last, Reason: g.Reason}
}
