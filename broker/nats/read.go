package nats

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/nats-io/nats.go"
)

const (
	maxBatch     = 1000    // records of one request
	maxBatchSize = 4 << 20 // bytes of one request
	retryDelay   = 20 * time.Millisecond
)

const codeNoMessage = 10037 // "no message found"

// stored is a message of the stream.
type stored struct {
	Sequence uint64    `json:"seq"`
	Header   []byte    `json:"hdrs"`
	Data     []byte    `json:"data"`
	Time     time.Time `json:"time"`
}

// message asks the stream's leader for a message. It returns nil if there is none.
func (b *Broker) message(ctx context.Context, request map[string]any) (*stored, error) {
	var response struct {
		Message *stored `json:"message"`
	}
	err := b.api(ctx, "STREAM.MSG.GET."+b.options.History.Stream, request, &response)
	if isCode(err, codeNoMessage) {
		return nil, nil
	}
	return response.Message, err
}

// errBehind says that the stream has changed, or that a server is behind its leader.
var errBehind = errors.New("nats: the stream has changed meanwhile")

// Read implements websocket.HistoryBroker. If HistoryOptions.Bytes bounds the topic, it reads
// all records behind the offset from the server, also with a smaller limit.
func (b *Broker) Read(ctx context.Context, topic string, after uint64, limit int) (websocket.BrokerPage, error) {
	alive, cancel := b.live(ctx)
	defer cancel()
	for {
		h, err := b.ready(alive)
		if err != nil {
			return websocket.BrokerPage{}, outcome(ctx, err)
		}
		page, err := b.read(alive, h, topic, after, max(limit, 1))
		if !errors.Is(err, errBehind) || !b.sleep(retryDelay) {
			return page, outcome(ctx, err)
		}
	}
}

func (b *Broker) read(ctx context.Context, h *history, topic string, after uint64, limit int) (websocket.BrokerPage, error) {
	subject := b.topicSubject(topic)
	page := websocket.BrokerPage{Sparse: true}
	last, err := b.message(ctx, map[string]any{"last_by_subj": subject})
	if err != nil {
		return page, err
	}
	if last == nil {
		if err := b.beginTopic(ctx, subject); err != nil {
			return page, err
		}
		if last, err = b.message(ctx, map[string]any{"last_by_subj": subject}); err != nil {
			return page, err
		}
		if last == nil {
			return page, errBehind
		}
	}
	r := reader{broker: b, history: h, topic: topic, subject: subject, limit: limit, now: time.Now().Add(h.skew)}
	if err := r.read(ctx, h.sequence(after), after, last); err != nil {
		return page, err
	}
	// The state comes after the records, so that it covers records removed meanwhile.
	info, err := b.streamInfo(ctx, subject)
	if err != nil {
		return page, err
	}
	if fresh, err := readHistory(info); err != nil {
		return page, err
	} else if fresh.epoch != h.epoch || !slices.Equal(fresh.bases, h.bases) || fresh.floor != h.floor {
		if err := b.openStream(ctx, ""); err != nil {
			return page, err
		}
		return page, errBehind
	}
	removed := max(max(info.State.FirstSeq, 1)-1, h.floor, r.trimmed)
	if count := info.State.Subjects[subject]; int64(count) >= info.Config.MaxMsgsPerSubject {
		first, err := b.message(ctx, map[string]any{"seq": 1, "next_by_subj": subject})
		if err != nil {
			return page, err
		}
		if first == nil {
			return page, errBehind
		}
		removed = max(removed, first.Sequence-1)
	}
	page.Records = r.records
	page.Position, page.Removed = h.position(topic, last.Sequence), h.removed(min(removed, last.Sequence))
	return page, nil
}

// beginTopic appends a message that is no record to a topic without any. So all nodes have the
// same position, which is the BrokerRecord.Previous of the first record. It does nothing if the
// topic has a message.
func (b *Broker) beginTopic(ctx context.Context, subject string) error {
	m := &nats.Msg{Subject: subject, Header: nats.Header{headerBegin: {"true"}, nats.ExpectedLastSubjSeqHdr: {"0"}}}
	if _, err := b.conn.RequestMsgWithContext(ctx, m); err != nil {
		return unavailable(err)
	}
	return nil
}

// removed returns the BrokerPage.Removed for a sequence.
func (h *history) removed(sequence uint64) uint64 {
	if sequence == 0 {
		return 0
	}
	return h.offset(sequence)
}

// reader reads the records of a topic.
type reader struct {
	broker  *Broker
	history *history
	topic   string
	subject string
	limit   int
	now     time.Time // at the server

	records  []websocket.BrokerRecord
	size     int64  // of records
	previous uint64 // sequence of the record before the next, or 0
	trimmed  uint64 // sequence of the latest record that exceeds the topic's bounds
}

// read reads the records behind the offset after, from the sequence from up to the topic's last.
func (r *reader) read(ctx context.Context, from, after uint64, last *stored) error {
	keep := parseKeep(last.Header)
	if keep.Age > 0 && r.now.Sub(last.Time) >= keep.Age {
		r.trimmed = last.Sequence
		return nil
	}
	for from <= last.Sequence {
		next, more, err := r.batch(ctx, from, after, last.Sequence, keep)
		if err != nil {
			return err
		}
		if !more {
			break
		}
		from = next
	}
	r.records = r.records[:min(len(r.records), r.limit)]
	if len(r.records) == 0 || r.records[0].Previous > 0 {
		return nil
	}
	return r.findPrevious(ctx)
}

// batch reads some records from a sequence on. It returns where to go on, if there is more.
func (r *reader) batch(ctx context.Context, from, after, last uint64, keep websocket.HistoryOptions) (next uint64, more bool, err error) {
	s, err := r.broker.conn.SubscribeSync(nats.NewInbox())
	if err != nil {
		return 0, false, unavailable(err)
	}
	defer func() { _ = s.Unsubscribe() }() // fails if the connection was closed
	request, err := json.Marshal(map[string]any{
		"seq": max(from, 1), "next_by_subj": r.subject, "batch": min(r.limit+1, maxBatch), "max_bytes": maxBatchSize,
	})
	if err != nil {
		return 0, false, err
	}
	if err := r.broker.conn.PublishRequest("$JS.API.DIRECT.GET."+r.history.stream, s.Subject, request); err != nil {
		return 0, false, unavailable(err)
	}
	for {
		m, err := s.NextMsgWithContext(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return 0, false, ctx.Err()
		case err != nil:
			return 0, false, unavailable(err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
		case "204": // the end of the batch
			if next == 0 {
				return 0, false, errBehind
			}
			return next, true, nil
		case "404": // the latest record is gone, or this server has not got it yet
			return 0, false, errBehind
		default:
			return 0, false, unavailable(fmt.Errorf("nats: direct get: %s %s", status, m.Header.Get("Description")))
		}
		sequence := number(m.Header, headerSequence)
		if sequence == 0 || m.Header.Get("Nats-Num-Pending") == "" {
			return 0, false, errors.New("nats: histories need nats-server 2.11 or later")
		}
		next = sequence + 1
		if sequence > last {
			return next, false, nil
		}
		if err := r.take(m, sequence, after, keep); err != nil {
			return 0, false, err
		}
		if sequence == last || keep.Bytes == 0 && len(r.records) == r.limit {
			return next, false, nil
		}
	}
}

// take takes a record, in order.
func (r *reader) take(m *nats.Msg, sequence, after uint64, keep websocket.HistoryOptions) error {
	if m.Header[headerBegin] != nil {
		r.previous = sequence
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return fmt.Errorf("nats: direct get: %w", err)
	}
	position, age := r.history.position(r.topic, sequence), max(r.now.Sub(at), 0)
	newer := number(m.Header, "Nats-Num-Pending")
	switch {
	case keep.Messages > 0 && newer >= uint64(keep.Messages) || keep.Age > 0 && age >= keep.Age:
		r.trimmed = sequence
	case position.Offset > after:
		record := websocket.BrokerRecord{Topic: r.topic, Payload: m.Data, Position: position, Age: age}
		if r.previous > 0 {
			record.Previous = r.history.offset(r.previous)
		}
		r.records = append(r.records, record)
		r.size += int64(len(m.Data))
	}
	r.previous = sequence
	// A server that is behind its leader tells too low a number of newer messages.
	for keep.Bytes > 0 && r.size > keep.Bytes || keep.Messages > 0 && len(r.records) > keep.Messages {
		r.size -= int64(len(r.records[0].Payload))
		r.trimmed = r.history.sequence(r.records[0].Position.Offset)
		r.records = r.records[1:]
	}
	return nil
}

// findPrevious looks for the record before the first one.
func (r *reader) findPrevious(ctx context.Context) error {
	first := r.history.sequence(r.records[0].Position.Offset)
	if first == 1 {
		return nil
	}
	request, err := json.Marshal(map[string]any{"multi_last": []string{r.subject}, "up_to_seq": first - 1})
	if err != nil {
		return err
	}
	m, err := r.broker.conn.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+r.history.stream, request)
	if err != nil {
		return unavailable(err)
	}
	if previous := number(m.Header, headerSequence); previous > 0 {
		r.records[0].Previous = r.history.offset(previous)
	}
	return nil
}
