package redis

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/redis/go-redis/v9"
)

var _ websocket.HistoryBroker = (*Broker)(nil)

var (
	//go:embed scripts/common.lua
	commonScript string
	//go:embed scripts/append.lua
	appendBody string
	//go:embed scripts/read.lua
	readBody string
	//go:embed scripts/renew.lua
	renewBody string

	appendScript = newScript(commonScript + appendBody)
	readScript   = newScript(commonScript + readBody)
	renewScript  = newScript(commonScript + renewBody)
)

// Marks of messages on a topic's channel. A payload of Publish is sent as it is, unless it
// begins with mark: then mark and markPayload stand before it. No payload of a hub does.
const (
	mark        = 0xfe
	markPayload = 0 // a payload follows
	markRecords = 1 // the records of one append follow
)

// Limits of one call of the script that appends, which blocks the server for its time.
const (
	callRecords = 128
	callBytes   = 256 << 10
)

// script is a Lua script. The server knows it by its hash once it has run.
type script struct{ text, hash string }

func newScript(text string) script { return script{text, redis.NewScript(text).Hash()} }

// command returns the command that runs the script: by its hash, or with its text. Keys are
// of type string or *string, and the first one is a string: go-redis finds the slot by it.
func (s script) command(ctx context.Context, byHash bool, keys, args []any) once {
	list := make([]any, 3, 3+len(keys)+len(args))
	list[0], list[1], list[2] = "EVAL", s.text, len(keys)
	if byHash {
		list[0], list[1] = "EVALSHA", s.hash
	}
	list = append(list, keys...)
	return once{redis.NewCmd(ctx, append(list, args...)...)}
}

// once is a command that go-redis does not repeat when its outcome is unknown.
type once struct{ *redis.Cmd }

// NoRetry overrides that of redis.Cmd.
func (once) NoRetry() bool { return true }

// The names of a topic's keys at the server are those of channels for these letters and the
// topic. In a Cluster all keys of a bucket are in one hash slot.
const (
	headKey   = "h" // what the scripts know of the topic
	streamKey = "s" // its records
	uniqueKey = "k" // for each BrokerRecord.Key; then the length of the topic, a colon, the topic and the key
)

// milliseconds returns the age of a history in milliseconds.
func (b *Broker) milliseconds(age time.Duration) int64 {
	if age <= 0 {
		age = b.options.HistoryTTL
	}
	return max(age.Milliseconds(), 1)
}

// randomText returns a text for the names of new epochs.
func randomText() string { return fmt.Sprintf("%016x", rand.Uint64()) }

// call is one run of the script that appends.
type call struct {
	once
	keys    []any
	args    []any
	topics  [][]int // for each topic, the indexes of its records in the batch
	records int
	bytes   int
	more    bool // another call for the same bucket follows
}

// names makes the names of keys and channels. It allocates little for each.
type names struct {
	text strings.Builder
	list []string
}

// add returns the concatenation of parts.
func (n *names) add(parts ...string) *string {
	start := n.text.Len()
	for _, part := range parts {
		n.text.WriteString(part)
	}
	n.list = append(n.list, n.text.String()[start:])
	return &n.list[len(n.list)-1]
}

// payload is the argument of a command for the payload of a record.
type payload websocket.BrokerRecord

// MarshalBinary implements encoding.BinaryMarshaler.
func (p *payload) MarshalBinary() ([]byte, error) { return p.Payload, nil }

// calls divides a batch into calls. The records of a topic stay in order.
func (b *Broker) calls(batch []websocket.BrokerRecord) (calls []*call) {
	latest := make(map[int]*call) // by bucket
	names := &names{list: make([]string, 0, 3*len(batch))}
	for indexes := range byTopic(batch) {
		bucket := b.bucket(batch[indexes[0]].Topic)
		for len(indexes) > 0 {
			c := latest[bucket]
			if c == nil || c.full() {
				next := &call{args: []any{b.publishCommand(), randomText()}}
				if c != nil {
					c.more = true
				}
				c, latest[bucket] = next, next
				calls = append(calls, c)
			}
			indexes = indexes[b.fill(c, batch, names, bucket, indexes):]
		}
	}
	return calls
}

// byTopic yields for each topic the indexes of its records.
func byTopic(batch []websocket.BrokerRecord) iter.Seq[[]int] {
	return func(yield func([]int) bool) {
		order := make([]int, len(batch))
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(i, j int) int { return strings.Compare(batch[i].Topic, batch[j].Topic) })
		for len(order) > 0 {
			count := 1
			for count < len(order) && batch[order[count]].Topic == batch[order[0]].Topic {
				count++
			}
			if !yield(order[:count:count]) {
				return
			}
			order = order[count:]
		}
	}
}

func (c *call) full() bool { return c.records >= callRecords || c.bytes >= callBytes }

// fill adds records of one topic to a call until it is full. It returns their number.
func (b *Broker) fill(c *call, batch []websocket.BrokerRecord, names *names, bucket int, indexes []int) (count int) {
	for count < len(indexes) && !c.full() {
		c.bytes += len(batch[indexes[count]].Payload)
		c.records++
		count++
	}
	indexes = indexes[:count]
	last := &batch[indexes[count-1]]
	topic, keep, prefix := last.Topic, last.Keep, b.sessions[bucket].prefix
	c.topics = append(c.topics, indexes)
	if head := names.add(prefix, headKey, topic); len(c.keys) == 0 {
		c.keys = append(c.keys, *head)
	} else {
		c.keys = append(c.keys, head)
	}
	c.keys = append(c.keys, names.add(prefix, streamKey, topic))
	c.args = append(c.args, names.add(prefix, topic), max(keep.Messages, 0), max(keep.Bytes, 0), b.milliseconds(keep.Age), count)
	for _, i := range indexes {
		key := batch[i].Key
		if key == "" {
			c.args = append(c.args, 0, (*payload)(&batch[i]))
			continue
		}
		c.args = append(c.args, 1, (*payload)(&batch[i]))
		c.keys = append(c.keys, names.add(prefix, uniqueKey, strconv.Itoa(len(topic)), ":", topic, key))
	}
	return count
}

func (b *Broker) publishCommand() string {
	if b.cluster != nil {
		return "SPUBLISH"
	}
	return "PUBLISH"
}

// exec runs commands in one pipeline.
func (b *Broker) exec(ctx context.Context, commands ...once) {
	pipe := b.client.Pipeline()
	failed := false
	for _, c := range commands {
		_ = pipe.Process(ctx, c)
	}
	_, _ = pipe.Exec(ctx) // each command has its error
	for _, c := range commands {
		failed = failed || c.Err() != nil && !noScript(c.Err())
	}
	if failed && b.cluster != nil {
		b.cluster.ReloadState(ctx) // a slot may have moved to another master
	}
}

// noScript reports whether the server has not run a script because it does not know it.
func noScript(err error) bool { return redis.HasErrorPrefix(err, "NOSCRIPT") }

// Append implements websocket.HistoryBroker. The engine compares keys for as long as it
// keeps the records.
func (b *Broker) Append(ctx context.Context, batch []websocket.BrokerRecord) []websocket.AppendResult {
	results := make([]websocket.AppendResult, len(batch))
	if !b.up.Load() {
		for i := range results {
			results[i].Err = websocket.ErrBrokerUnavailable
		}
		return results
	}
	calls := b.calls(batch)
	commands := make([]once, len(calls))
	for i, c := range calls {
		// The server knows the script when the last call of a bucket runs. An earlier one
		// must not fail for that reason: it would run after the later ones.
		c.once = appendScript.command(ctx, !c.more, c.keys, c.args)
		commands[i] = c.once
	}
	b.exec(ctx, commands...)
	var unknown []once
	for _, c := range calls {
		if noScript(c.Err()) {
			c.once = appendScript.command(ctx, false, c.keys, c.args)
			unknown = append(unknown, c.once)
		}
	}
	if len(unknown) > 0 {
		b.exec(ctx, unknown...)
	}
	for _, c := range calls {
		c.results(ctx, results)
	}
	return results
}

// results sets the results of the call's records.
func (c *call) results(ctx context.Context, results []websocket.AppendResult) {
	reply, err := c.Text()
	for _, indexes := range c.topics {
		failed := err
		if err == nil {
			reply, failed = topicResults(reply, indexes, results)
		}
		if failed != nil {
			for _, at := range indexes {
				results[at].Err = outcome(ctx, failed)
			}
		}
	}
}

// topicResults sets the results of the records of one topic. It returns the reply of the
// topics that follow.
func topicResults(reply string, indexes []int, results []websocket.AppendResult) (rest string, err error) {
	text, rest, ok := strings.Cut(reply, "\x00")
	if !ok {
		return "", errReply
	}
	if message, failed := strings.CutPrefix(text, "-"); failed {
		return rest, errors.New("redis: " + message)
	}
	epoch, ok := strings.CutPrefix(text, "+")
	offsets := 8 * (1 + len(indexes))
	if !ok || len(rest) < offsets {
		return "", errReply
	}
	next := func() int64 {
		offset := binary.BigEndian.Uint64([]byte(rest[:8]))
		rest = rest[8:]
		return int64(offset)
	}
	previous := uint64(next())
	for _, at := range indexes {
		if offset := next(); offset < 0 {
			results[at] = websocket.AppendResult{Position: websocket.Position{Epoch: epoch, Offset: uint64(-offset)}, Repeated: true}
		} else {
			results[at] = websocket.AppendResult{Position: websocket.Position{Epoch: epoch, Offset: uint64(offset)}, Previous: previous}
			previous = uint64(offset)
		}
	}
	return rest, nil
}

var errReply = errors.New("redis: unexpected reply")

// outcome returns the error of a call of the application.
func outcome(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return unavailable(err)
}

// runScript runs a script with the keys of one topic.
func (b *Broker) runScript(ctx context.Context, s script, topic string, args ...any) ([]any, error) {
	if !b.up.Load() {
		return nil, websocket.ErrBrokerUnavailable
	}
	bucket := b.bucket(topic)
	keys := []any{b.channel(headKey+topic, bucket), b.channel(streamKey+topic, bucket)}
	c := s.command(ctx, true, keys, args)
	if b.exec(ctx, c); noScript(c.Err()) {
		c = s.command(ctx, false, keys, args)
		b.exec(ctx, c)
	}
	reply, err := c.Slice()
	if err != nil {
		return nil, outcome(ctx, err)
	}
	return reply, nil
}

// Read implements websocket.HistoryBroker. A page with several records has at most about
// 1 MiB.
func (b *Broker) Read(ctx context.Context, topic string, after uint64, limit int) (page websocket.BrokerPage, err error) {
	reply, err := b.runScript(ctx, readScript, topic, strconv.FormatUint(after, 10), max(limit, 1), randomText(), b.milliseconds(0))
	if err != nil {
		return page, err
	}
	if len(reply) != 6 {
		return page, unavailable(errReply)
	}
	var numbers [4]int64
	for i := range numbers {
		numbers[i], _ = reply[i+1].(int64)
	}
	epoch, _ := reply[0].(string)
	page.Position = websocket.Position{Epoch: epoch, Offset: uint64(numbers[0])}
	page.Removed = uint64(numbers[1])
	now, previous := numbers[2], uint64(numbers[3])
	entries, _ := reply[5].([]any)
	page.Records = make([]websocket.BrokerRecord, len(entries))
	for i, entry := range entries {
		fields, _ := entry.([]any)
		if len(fields) != 2 {
			return websocket.BrokerPage{}, unavailable(errReply)
		}
		id, _ := fields[0].(string)
		payload, _ := fields[1].(string)
		first, second, _ := strings.Cut(id, "-")
		offset, _ := strconv.ParseUint(first, 10, 64)
		at, _ := strconv.ParseInt(second, 10, 64)
		page.Records[i] = websocket.BrokerRecord{
			Topic: topic, Payload: []byte(payload), Previous: previous,
			Position: websocket.Position{Epoch: epoch, Offset: offset},
			Age:      time.Duration(max(now-at, 0)) * time.Millisecond,
		}
		previous = offset
	}
	return page, nil
}

// Renew implements websocket.HistoryBroker.
func (b *Broker) Renew(ctx context.Context, topic, epoch string) error {
	_, err := b.runScript(ctx, renewScript, topic, epoch, randomText())
	return err
}

// receive passes a message on a topic's channel to the handler.
func (s *session) receive(channel, message string) {
	h, payload := s.broker.handler, []byte(message)
	topic := channel[min(len(s.prefix), len(channel)):]
	switch {
	case len(payload) == 0 || payload[0] != mark:
		h.Receive(payload)
	case len(payload) > 1 && payload[1] == markPayload:
		h.Receive(payload[2:])
	default:
		records, ok := decodeRecords(topic, payload)
		for i := range records {
			h.Record(records[i])
		}
		if !ok { // written by a later version
			h.Lost(topic)
		}
	}
}

// decodeRecords decodes the message that the script publishes: mark, markRecords, the
// offset before the first record, its offset, the epoch and a zero byte, and the records,
// each behind its length in 4 bytes.
func decodeRecords(topic string, message []byte) (records []websocket.BrokerRecord, ok bool) {
	const head = 2 + 8 + 8
	if len(message) < head || message[1] != markRecords {
		return nil, false
	}
	previous, offset := binary.BigEndian.Uint64(message[2:]), binary.BigEndian.Uint64(message[10:])
	epoch, rest, ok := bytes.Cut(message[head:], []byte{0})
	for position := (websocket.Position{Epoch: string(epoch), Offset: offset}); ok && len(rest) > 0; position.Offset++ {
		if len(rest) < 4 || uint64(len(rest)-4) < uint64(binary.BigEndian.Uint32(rest)) {
			return records, false
		}
		end := 4 + int(binary.BigEndian.Uint32(rest))
		records = append(records, websocket.BrokerRecord{Topic: topic, Payload: rest[4:end:end], Position: position, Previous: previous})
		previous, rest = position.Offset, rest[end:]
	}
	return records, ok
}

// escape returns the message for a payload of Publish.
func escape(payload []byte) []byte {
	if len(payload) == 0 || payload[0] != mark {
		return payload
	}
	return append([]byte{mark, markPayload}, payload...)
}
