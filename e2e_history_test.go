package websocket_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
	"github.com/stretchr/testify/require"
)

// TestHistoryIsComplete publishes to topics with history, to members that read at
// different speeds, lose their connections at any time and come back with the position
// that they have. From its first subscription on, each member must get every publication
// exactly once and in order, or be told of its loss by a gap before the next message of
// the topic, with the right number if it is known. In topics with Conflate it may miss those
// that another one with the same key has replaced.
//
// HISTORY_SEED repeats one run. HISTORY_RUNS sets the number of runs.
func TestHistoryIsComplete(t *testing.T) {
	runs := 100
	if s := os.Getenv("HISTORY_RUNS"); s != "" {
		runs, _ = strconv.Atoi(s)
	}
	if testing.Short() {
		runs = 20
	}
	first := rand.Uint64() >> 16
	if s := os.Getenv("HISTORY_SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		runs = 1
	}
	for i := range uint64(runs) {
		seed := first + i
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newHistoryRun(t, seed).run() })
		})
		if !ok {
			t.Fatalf("repeat with HISTORY_SEED=%d", seed)
		}
	}
}

type historyRun struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	config websocket.Config
	sealed bool
	hub    *fakeHub
	topics []string // channels
	count  int      // publications to each topic

	mu   sync.Mutex
	ends map[string]bool     // topics to which all is published
	keys map[string][]string // of the publications to each topic with Conflate
}

func newHistoryRun(t *testing.T, seed uint64) *historyRun {
	r := &historyRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 3)), ends: map[string]bool{}, keys: map[string][]string{}}
	pick := func(n ...int64) int64 { return n[r.rng.IntN(len(n))] }
	r.config = websocket.DefaultConfig
	r.config.Shards = 1 + r.rng.IntN(3)
	r.config.MaxMessageSize = 2000
	r.config.ClientBacklog = pick(3_000, 20_000, 1<<20)
	r.config.LogSize = pick(5_000, 100_000, 64<<20)
	r.config.HistoryBudget = pick(100_000, 256<<20, 256<<20)
	r.config.SlowConsumer = websocket.SlowConsumerPolicy(r.rng.IntN(3))
	r.config.EnableCompression = r.rng.IntN(2) == 0
	if r.sealed = r.rng.IntN(4) == 0; r.sealed {
		r.config.Security = websocket.NewSecurityConfig(make([]byte, 32), []byte("secret"))
	}
	bounds := websocket.HistoryOptions{
		Messages: int(pick(0, 20, 1000)),
		Bytes:    pick(0, 20_000, 1<<20),
		Age:      time.Duration(pick(int64(time.Second), int64(time.Hour), int64(time.Hour))),
	}
	r.config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
		return websocket.TopicOptions{History: bounds, Conflate: conflates(name)}
	}
	for i := range 1 + r.rng.IntN(3) {
		kind := "topic"
		if r.rng.IntN(2) == 0 {
			kind = "conflate"
		}
		r.topics = append(r.topics, fmt.Sprint(kind, i))
	}
	r.count = 50 + r.rng.IntN(200)
	return r
}

func conflates(topic string) bool { return strings.HasPrefix(topic, "conflate") }

func (r *historyRun) run() {
	r.hub = runFake(r.t, paths[r.rng.IntN(2)], r.config)
	var members sync.WaitGroup
	for i := range 1 + r.rng.IntN(5) {
		m := newHistoryMember(r, uint64(i))
		members.Go(m.live)
	}
	var publishers sync.WaitGroup
	for i, topic := range r.topics {
		publishers.Go(func() { r.publish(topic, rand.New(rand.NewPCG(r.seed, uint64(100+i)))) })
	}
	publishers.Wait()
	members.Wait()
	time.Sleep(time.Minute) // the ends of connections are noticed
	synctest.Wait()
	st := r.hub.Stats()
	require.Equal(r.t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total(), "addressed must be sent + dropped: %+v", st)
	require.Zero(r.t, r.hub.HeldByMessages(), "%+v", st)
	r.hub.stop()
	require.Zero(r.t, r.hub.Stats().HistoryBytes)
}

func (r *historyRun) publish(topic string, rng *rand.Rand) {
	for n := 1; n <= r.count; n++ {
		msg := &websocket.Message{Data: fmt.Appendf(nil, `[%d,"%s"]`, n, strings.Repeat("x", rng.IntN(1<<rng.IntN(11))))}
		if conflates(topic) {
			if key := rng.IntN(1 << (n % 7)); rng.IntN(5) > 0 {
				msg.Key = strconv.Itoa(key)
			}
			r.mu.Lock()
			r.keys[topic] = append(r.keys[topic], msg.Key)
			r.mu.Unlock()
		}
		if err := r.hub.PublishToChannel(topic, msg); err != nil {
			r.t.Errorf("publish: %v", err)
			return
		}
		if rng.IntN(10) == 0 {
			time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
		}
	}
	r.mu.Lock()
	r.ends[topic] = true
	r.mu.Unlock()
}

// replaced reports whether the nth publication to a topic with Conflate has been replaced.
func (r *historyRun) replaced(topic string, n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := r.keys[topic]
	return keys[n-1] != "" && slices.Contains(keys[n:], keys[n-1])
}

func (r *historyRun) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ends) == len(r.topics)
}

// historyMember is a client over all its connections.
type historyMember struct {
	run    *historyRun
	rng    *rand.Rand
	codec  websocket.Codec
	topics map[string]*memberTopic
}

// memberTopic is what a member knows about a topic.
type memberTopic struct {
	name    string
	run     *historyRun
	acked   bool // on this connection
	at      *websocket.Position
	gap     bool // an announced gap stands before the next message
	unknown bool // its size is not known
	missing uint64
	head    uint64 // of the last ack
	final   bool   // nothing was published after the last ack
	// For topics with Conflate.
	replay  int  // of the last ack, less the messages since
	expired bool // the last ack was not complete
}

func newHistoryMember(r *historyRun, n uint64) *historyMember {
	m := &historyMember{run: r, rng: rand.New(rand.NewPCG(r.seed, 1000+n)), topics: map[string]*memberTopic{}}
	for _, topic := range r.topics {
		m.topics[topic] = &memberTopic{name: topic, run: r}
	}
	return m
}

// live connects again and again until it has everything.
func (m *historyMember) live() {
	codecs := []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}}
	for !m.complete() && !m.run.t.Failed() {
		m.codec = codecs[m.rng.IntN(len(codecs))]
		if err := m.connection(); err != nil {
			m.run.t.Errorf("member: %v", err)
		}
		time.Sleep(time.Duration(m.rng.IntN(1<<m.rng.IntN(14))) * time.Millisecond)
	}
}

func (m *historyMember) complete() bool {
	for _, t := range m.topics {
		if !t.acked || !t.final || t.at.Offset+t.missing < t.head && !t.endsInGap() {
			return false
		}
	}
	return true
}

// connection subscribes to all topics and reads some messages. Errors of the connection
// are no failures.
func (m *historyMember) connection() error {
	peer := m.run.hub.connect([]int{64, 500, 4_096, 1 << 16}[m.rng.IntN(4)]+512, codecHeader(m.codec.Name()))
	defer peer.Close()
	if m.rng.IntN(3) == 0 {
		peer.server.Faults().Short(1 + m.rng.IntN(50))
	}
	last := m.run.ended()
	for topic, t := range m.topics {
		t.acked, t.final = false, last
		request := resumeRequest{Channel: topic, Since: t.at}
		if err := m.send(peer, "subscribe", topic, request.encode(m.codec)); err != nil {
			return nil
		}
	}
	for n := m.rng.IntN(300); n > 0 || last; n-- {
		if m.complete() {
			break
		}
		if m.rng.IntN(20) == 0 {
			time.Sleep(time.Duration(m.rng.IntN(2_000)) * time.Millisecond)
		}
		_ = peer.SetReadDeadline(time.Now().Add(time.Minute))
		_, b, err := peer.ReadMessage()
		if err != nil {
			return nil // evicted, or nothing more is published
		}
		if err := m.take(b); err != nil {
			return err
		}
	}
	if m.rng.IntN(2) == 0 {
		peer.client.Reset()
	}
	return nil
}

func (m *historyMember) send(peer *fakePeer, typ, id string, data []byte) error {
	b, err := m.codec.Marshal(&websocket.Message{Type: typ, ID: id, Data: data})
	if err != nil {
		return err
	}
	opcode := m.codec.WebSocketMessageType()
	if m.run.sealed {
		b, err = websocket.Encrypt(websocket.Sign(b, []byte("secret")), make([]byte, 32))
		opcode = websocket.BinaryMessage
	}
	if err != nil {
		return err
	}
	return peer.WriteMessage(opcode, b)
}

func (m *historyMember) take(b []byte) error {
	if m.run.sealed {
		signed, err := websocket.Decrypt(b, make([]byte, 32))
		if err == nil {
			b, err = websocket.Verify(signed, []byte("secret"))
		}
		if err != nil {
			return err
		}
	}
	var msg websocket.Message
	if err := m.codec.Unmarshal(b, &msg); err != nil {
		return err
	}
	t := m.topics[msg.Channel]
	switch msg.Type {
	case "ack":
		return t.takeAck(msg.Data)
	case "gap":
		g := (&subscriber{codec: m.codec}).gapOf(msg.Data)
		if g.Channel != msg.Channel {
			return fmt.Errorf("gap of %q in %q", g.Channel, msg.Channel)
		}
		t.gap = true
		t.unknown = t.unknown || g.Count == 0
		t.missing += g.Count
		return nil
	case "message":
		return t.takeMessage(&msg)
	default:
		return fmt.Errorf("unexpected type %q: %s", msg.Type, msg.Data)
	}
}

func (t *memberTopic) takeAck(data []byte) error {
	var ack websocket.Resumed
	if err := json.Unmarshal(data, &ack); err != nil {
		return fmt.Errorf("ack %q: %w", data, err)
	}
	if t.acked {
		return fmt.Errorf("second ack")
	}
	t.acked, t.head, t.replay, t.expired = true, ack.Offset, ack.Replayed, !ack.Complete
	switch {
	case t.at == nil: // it joins for the first time
		if !ack.Complete || ack.Replayed != 0 {
			return fmt.Errorf("first ack: %+v", ack)
		}
		at := ack.Position
		t.at = &at
	case ack.Epoch != t.at.Epoch:
		if ack.Complete || ack.Reason != "epoch" {
			return fmt.Errorf("ack of another epoch: %+v", ack)
		}
		t.at = &websocket.Position{Epoch: ack.Epoch} // the gap follows
		t.missing, t.gap, t.unknown = 0, false, false
	default:
		missed := ack.Offset - t.at.Offset
		if ack.Complete && missed != uint64(ack.Replayed) && (!conflates(t.name) || missed < uint64(ack.Replayed)) {
			return fmt.Errorf("at %+v: %+v", *t.at, ack)
		}
		t.missing, t.gap, t.unknown = 0, false, false // announced on a lost connection: told again
	}
	return nil
}

func (t *memberTopic) takeMessage(msg *websocket.Message) error {
	if !t.acked {
		return fmt.Errorf("message before the ack")
	}
	var data []any
	if err := json.Unmarshal(msg.Data, &data); err != nil {
		return err
	}
	if conflates(t.name) {
		return t.takeConflated(msg, int(data[0].(float64)))
	}
	expected := t.at.Offset + 1 + t.missing
	if msg.Offset < expected || msg.Offset > expected && !t.unknown {
		return fmt.Errorf("offset %d after %+v, missing %d", msg.Offset, *t.at, t.missing)
	}
	t.at.Offset = msg.Offset
	t.missing, t.gap, t.unknown = 0, false, false
	return nil
}

// takeConflated takes the nth publication to a topic with Conflate.
func (t *memberTopic) takeConflated(msg *websocket.Message, n int) error {
	if msg.Offset <= t.at.Offset {
		return fmt.Errorf("offset %d after %+v", msg.Offset, *t.at)
	}
	for offset := t.at.Offset + 1; offset < msg.Offset && !t.gap; offset++ {
		if skipped := n - int(msg.Offset-offset); !t.run.replaced(t.name, skipped) {
			return fmt.Errorf("offset %d after %+v, but publication %d has not been replaced", msg.Offset, *t.at, skipped)
		}
	}
	t.at.Offset = msg.Offset
	t.gap, t.replay = false, t.replay-1
	return nil
}

// endsInGap reports whether nothing follows a gap of unknown size.
func (t *memberTopic) endsInGap() bool {
	return conflates(t.name) && t.expired && t.replay <= 0
}

// resumeRequest is the data of subscribe.
type resumeRequest struct {
	Channel string              `json:"channel"`
	Since   *websocket.Position `json:"since,omitempty"`
	Last    int                 `json:"last,omitempty"`
}

func (r resumeRequest) encode(codec websocket.Codec) []byte {
	if codec.Name() != "protobuf" {
		return mustJSON(r)
	}
	m := &proto.ChannelRequest{Channel: r.Channel, Last: uint32(r.Last)}
	if r.Since != nil {
		m.Since = &proto.Position{Epoch: r.Since.Epoch, Offset: r.Since.Offset}
	}
	return mustProto(m)
}
