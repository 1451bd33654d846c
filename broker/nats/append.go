package nats

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// window is the maximum number of records that wait for the server's answer. A server refuses
// more than 10,000 from all publishers to a stream.
const window = 2048

const codeDuplicateBusy = 10158 // "duplicate message id is in process"

// Headers of records.
const (
	headerStream   = "Nats-Stream"
	headerSequence = "Nats-Sequence"
	headerPrevious = "Nats-Last-Sequence"
	headerKeep     = "Hub-Keep"  // messages, bytes and nanoseconds
	headerBegin    = "Hub-Begin" // marks a message that is no record: see Broker.beginTopic
)

// appender is the state of Append.
type appender struct {
	inbox   string             // begins the subjects of the server's answers
	answers chan *nats.Msg     // nats.go sends, Append receives; never closed
	settle  chan chan struct{} // Append sends, collectLoop receives and closes the received channel; never closed
	next    uint64             // number of the next answer; owned by Append
	latest  uint64             // sequence of the latest record; owned by Append

	mu       sync.Mutex
	previous map[uint64]uint64 // sequences of the records before those that arrive; nil while Append does not run
}

func newAppender() appender {
	return appender{inbox: nats.NewInbox() + ".", answers: make(chan *nats.Msg, 2*window), settle: make(chan chan struct{})}
}

// note keeps the previous sequence of a record while Append runs.
func (a *appender) note(m *nats.Msg) {
	if !isRecord(m) {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.previous != nil && len(a.previous) < 4*window {
		a.previous[number(m.Header, headerSequence)] = number(m.Header, headerPrevious)
	}
}

func (a *appender) setPrevious(m map[uint64]uint64) map[uint64]uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	m, a.previous = a.previous, m
	return m
}

func number(h nats.Header, key string) uint64 {
	n, _ := strconv.ParseUint(h.Get(key), 10, 64) // 0 if it is absent
	return n
}

// record returns the record that the stream has published.
func (b *Broker) record(h *history, m *nats.Msg) (r websocket.BrokerRecord, sequence uint64, ok bool) {
	if h == nil || m.Header.Get(headerStream) != h.stream {
		return r, 0, false
	}
	topic, err := base64.RawURLEncoding.DecodeString(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
	if err != nil {
		return r, 0, false
	}
	sequence = number(m.Header, headerSequence)
	r = websocket.BrokerRecord{Topic: string(topic), Payload: m.Data, Position: h.position(string(topic), sequence)}
	if previous := number(m.Header, headerPrevious); previous > 0 {
		r.Previous = h.offset(previous)
	}
	return r, sequence, true
}

// keepHeader returns the header for the bounds of a topic's history. It returns an error if
// they exceed those of the stream.
func (b *Broker) keepHeader(keep websocket.HistoryOptions) (string, error) {
	o := b.options.History
	for _, bound := range []struct {
		name, option string
		want, limit  int64
	}{
		{"Messages", "Messages", int64(keep.Messages), o.Messages},
		{"Bytes", "Bytes", keep.Bytes, o.Bytes},
		{"Age", "Age", int64(keep.Age), int64(o.Age)},
	} {
		if bound.want <= bound.limit {
			continue
		}
		want, limit := any(bound.want), any(bound.limit)
		if bound.name == "Age" {
			want, limit = keep.Age, o.Age
		}
		return "", fmt.Errorf("nats: HistoryOptions.%s is %v, and History.%s of the stream is %v", bound.name, want, bound.option, limit)
	}
	return fmt.Sprintf("%d %d %d", max(keep.Messages, 0), max(keep.Bytes, 0), max(keep.Age, 0)), nil
}

func parseKeep(header []byte) (keep websocket.HistoryOptions) {
	h, err := nats.DecodeHeadersMsg(header)
	if err == nil {
		_, _ = fmt.Sscan(h.Get(headerKeep), &keep.Messages, &keep.Bytes, (*int64)(&keep.Age)) // zero if it is absent
	}
	return keep
}

// Append implements websocket.HistoryBroker. A record fails if its Keep exceeds
// Options.History. Keys are compared for History.Duplicates. AppendResult.Previous is set for
// topics to which the Broker is subscribed.
func (b *Broker) Append(ctx context.Context, batch []websocket.BrokerRecord) []websocket.AppendResult {
	results := make([]websocket.AppendResult, len(batch))
	alive, cancel := b.live(ctx)
	defer cancel()
	for start := 0; start < len(batch); start += window {
		end := min(start+window, len(batch))
		b.appendSome(alive, batch[start:end], results[start:end])
	}
	for i := range results {
		results[i].Err = outcome(ctx, results[i].Err)
	}
	return results
}

// ready returns the state of the stream, or an error.
func (b *Broker) ready(ctx context.Context) (*history, error) {
	if b.options.History == nil {
		return nil, errNoHistory
	}
	if h := b.history.Load(); h != nil && b.up.Load() {
		return h, ctx.Err()
	}
	return nil, websocket.ErrBrokerUnavailable
}

// appendSome appends at most window records.
func (b *Broker) appendSome(ctx context.Context, batch []websocket.BrokerRecord, results []websocket.AppendResult) {
	a := &b.append
	h, err := b.ready(ctx)
	if err != nil {
		for i := range results {
			results[i].Err = err
		}
		return
	}
	a.setPrevious(make(map[uint64]uint64, len(batch)))
	first := a.next
	a.next += uint64(len(batch))
	sequences := make([]uint64, len(batch))
	waiting := make(map[int]bool, len(batch))
	send := func(i int) {
		results[i].Err = b.send(&batch[i], a.inbox+strconv.FormatUint(first+uint64(i), 10))
		if results[i].Err == nil {
			waiting[i] = true
		}
	}
	for i := range batch {
		send(i)
	}
	for len(waiting) > 0 {
		busy := b.answers(ctx, first, waiting, sequences, results)
		if len(busy) > 0 && b.sleep(retryDelay) {
			for _, i := range busy {
				send(i)
			}
		}
	}
	b.settlePrevious()
	previous := a.setPrevious(nil)
	if now := b.history.Load(); now != nil {
		h = now
	}
	for i, sequence := range sequences {
		if sequence == 0 {
			continue
		}
		results[i].Position = h.position(batch[i].Topic, sequence)
		if p := previous[sequence]; p > 0 && !results[i].Repeated {
			results[i].Previous = h.offset(p)
		}
	}
}

// send publishes a record to the stream, which answers to reply.
func (b *Broker) send(r *websocket.BrokerRecord, reply string) error {
	if err := b.tooLarge(r.Payload); err != nil {
		return err
	}
	keep, err := b.keepHeader(r.Keep)
	if err != nil {
		return err
	}
	m := &nats.Msg{Subject: b.topicSubject(r.Topic), Reply: reply, Data: r.Payload, Header: nats.Header{headerKeep: {keep}}}
	if r.Key != "" {
		m.Header[nats.MsgIdHdr] = []string{digest(strconv.Itoa(len(r.Topic))+" "+r.Topic+r.Key, 24)}
	}
	if err := b.conn.PublishMsg(m); err != nil {
		return unavailable(err)
	}
	return nil
}

// answers takes the answers for the waiting records. first is the number of that of record 0.
// It returns the records that another Broker is just appending.
func (b *Broker) answers(ctx context.Context, first uint64, waiting map[int]bool, sequences []uint64, results []websocket.AppendResult) (busy []int) {
	for len(waiting) > 0 {
		select {
		case m := <-b.append.answers:
			n, _ := strconv.ParseUint(m.Subject[len(b.append.inbox):], 10, 64)
			i := int(n - first)
			if n < first || !waiting[i] {
				continue
			}
			delete(waiting, i)
			sequences[i] = b.answered(m, &results[i])
			if isCode(results[i].Err, codeDuplicateBusy) {
				busy = append(busy, i)
			}
		case <-ctx.Done():
			for i := range waiting {
				results[i].Err = ctx.Err()
			}
			clear(waiting)
			return nil
		}
	}
	return busy
}

// answered takes the server's answer for a record. It returns the record's sequence, or 0.
func (b *Broker) answered(m *nats.Msg, result *websocket.AppendResult) uint64 {
	var answer struct {
		Sequence  uint64              `json:"seq"`
		Duplicate bool                `json:"duplicate"`
		Error     *jetstream.APIError `json:"error"`
	}
	switch err := json.Unmarshal(m.Data, &answer); {
	case m.Header.Get("Status") != "": // 503: no responders
		result.Err = unavailable(errors.New("nats: the stream has no leader"))
		return 0
	case err != nil:
		result.Err = fmt.Errorf("nats: answer of the stream: %w", err)
		return 0
	case answer.Error != nil:
		result.Err = answer.Error
		return 0
	}
	result.Repeated = answer.Duplicate
	if !answer.Duplicate {
		b.reached(&b.append.latest, answer.Sequence)
	}
	return answer.Sequence
}

// settlePrevious waits until collectLoop has noted all records that came before the latest
// answer.
func (b *Broker) settlePrevious() {
	done := make(chan struct{})
	select {
	case b.append.settle <- done:
	case <-b.stop:
		return
	}
	<-done // collectLoop closes it without waiting
}

// Renew implements websocket.HistoryBroker. It gives all topics another epoch.
func (b *Broker) Renew(ctx context.Context, topic, epoch string) error {
	if _, err := b.ready(ctx); err != nil {
		return err
	}
	of, ok := strings.CutSuffix(epoch, digest(topic, 6))
	if !ok {
		return nil
	}
	alive, cancel := b.live(ctx)
	defer cancel()
	return outcome(ctx, b.openStream(alive, of))
}

// recheckStream calls openStream, and reports a loss if the stream is not as it was known.
func (b *Broker) recheckStream() {
	before := b.history.Load()
	ctx, cancel := b.live(context.Background())
	defer cancel()
	if err := b.openStream(ctx, ""); err != nil {
		b.sleep(firstDelay)
		b.checkStream()
		return
	}
	if h := b.history.Load(); before != nil && h != nil && h.epoch != before.epoch {
		b.inbox.lost()
	}
}
