package nats

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// History configures the JetStream stream that keeps the histories of topics. The Broker
// creates the stream when it connects, or updates it to these values, so all nodes
// should have the same. It needs nats-server 2.11 or later with JetStream, and permission
// to publish to "$JS.API.>" and to subscribe to "_INBOX.>".
type History struct {
	// Stream is the name of the stream. Defaults to Options.Prefix and "-history", with
	// underscores for dots.
	Stream string
	// Messages is the maximum number of records of a topic. Defaults to 10,000.
	Messages int64
	// Bytes is the maximum size of the stream, with all topics. The oldest records are
	// removed first, of any topic. Defaults to 1 GiB.
	Bytes int64
	// Age is how long records are kept. Defaults to 24 hours.
	Age time.Duration
	// Replicas is the number of servers that have a copy of the stream: 1, 3 or 5.
	// Defaults to 1.
	Replicas int
	// Storage is jetstream.FileStorage or jetstream.MemoryStorage. It cannot change later.
	// Defaults to files.
	Storage jetstream.StorageType
	// Duplicates is how long the server knows the keys of records, also of those that it
	// has removed. A key is not unique for longer. Defaults to 2 minutes, and is at most
	// Age.
	Duplicates time.Duration
}

const (
	defaultMessages   = 10_000
	defaultBytes      = 1 << 30
	defaultAge        = 24 * time.Hour
	defaultDuplicates = 2 * time.Minute

	// headerSize is the maximum size of a record's headers.
	headerSize = 256
	// jump is the least distance of the offsets before and after a restart of the server.
	jump = 1 << 20
	// jumpGrain is the unit of offsets after a loss, worth 16 seconds: nodes that notice it at
	// the same time choose the same offset.
	jumpGrain = 1 << 24
	// maxBases is the maximum number of jumps that are known.
	maxBases = 512
	// catchUp is how long a server may take to have all messages after it became the leader.
	catchUp = 500 * time.Millisecond
	// attempts is how often a change of the stream is tried, as others may change it too.
	attempts = 10
)

// withDefaults returns the options for a Broker with this prefix.
func (o History) withDefaults(prefix string) *History {
	if o.Stream == "" {
		o.Stream = strings.ReplaceAll(prefix, ".", "_") + "-history"
	}
	if o.Messages <= 0 {
		o.Messages = defaultMessages
	}
	if o.Bytes <= 0 {
		o.Bytes = defaultBytes
	}
	if o.Age <= 0 {
		o.Age = defaultAge
	}
	if o.Replicas <= 0 {
		o.Replicas = 1
	}
	if o.Duplicates <= 0 {
		o.Duplicates = defaultDuplicates
	}
	o.Duplicates = min(o.Duplicates, o.Age)
	return &o
}

// errNoHistory is the error of all methods of a Broker without Options.History.
var errNoHistory = fmt.Errorf("nats: Options.History is not set: %w", errors.ErrUnsupported)

// The stream's metadata.
const (
	metaEpoch  = "hub.epoch"  // changes when records were lost, and with Renew
	metaBases  = "hub.bases"  // see history.bases
	metaFloor  = "hub.floor"  // sequence up to which records may have been removed under other bounds
	metaServer = "hub.server" // ID of the server's process, if there is one server
	metaEmpty  = "hub.empty"  // set until the stream has its first message
)

// history is the state of the stream as a Broker knows it. It is immutable.
type history struct {
	stream string
	epoch  string
	bases  []base // in order of from; at least one
	floor  uint64
	skew   time.Duration // the server's clock minus that of this process
}

// base says that the message with sequence s, from from on, has the offset s + offset.
type base struct{ from, offset uint64 }

// offset returns the offset of a message. Sequence 0, and one that is older than all bases,
// has the offset before the first one.
func (h *history) offset(sequence uint64) uint64 {
	for _, b := range slices.Backward(h.bases) {
		if sequence >= b.from {
			return b.offset + sequence
		}
	}
	return h.bases[0].offset + h.bases[0].from - 1
}

// sequence returns the sequence of the latest message with this offset or a smaller one.
func (h *history) sequence(offset uint64) uint64 {
	next := ^uint64(0)
	for _, b := range slices.Backward(h.bases) {
		if offset >= b.offset+b.from {
			return min(offset-b.offset, next-1)
		}
		next = b.from
	}
	return h.bases[0].from - 1
}

// topicEpoch returns the epoch of a topic.
func (h *history) topicEpoch(topic string) string { return h.epoch + digest(topic, 6) }

func (h *history) position(topic string, sequence uint64) websocket.Position {
	return websocket.Position{Epoch: h.topicEpoch(topic), Offset: h.offset(sequence)}
}

// digest returns n bytes of the text's hash, for URLs.
func digest(text string, n int) string {
	sum := sha256.Sum256([]byte(text))
	return base64.RawURLEncoding.EncodeToString(sum[:n])
}

func (h *history) write(metadata map[string]string) {
	list := make([]string, len(h.bases))
	for i, b := range h.bases {
		list[i] = fmt.Sprintf("%d:%d", b.from, b.offset)
	}
	metadata[metaEpoch], metadata[metaBases] = h.epoch, strings.Join(list, ",")
	metadata[metaFloor] = strconv.FormatUint(h.floor, 10)
}

// readHistory reads a stream's metadata.
func readHistory(info *jetstream.StreamInfo) (*history, error) {
	h := &history{stream: info.Config.Name, epoch: info.Config.Metadata[metaEpoch], skew: time.Until(info.TimeStamp)}
	h.floor, _ = strconv.ParseUint(info.Config.Metadata[metaFloor], 10, 64)
	for entry := range strings.SplitSeq(info.Config.Metadata[metaBases], ",") {
		var b base
		if _, err := fmt.Sscanf(entry, "%d:%d", &b.from, &b.offset); err != nil {
			return nil, fmt.Errorf("nats: the stream %q was not made by a Broker, or its metadata was changed", h.stream)
		}
		h.bases = append(h.bases, b)
	}
	return h, nil
}

// behind returns an offset that was not given yet, also if messages behind last and the latest
// jump were lost: in the long run the stream has less than 1,024 messages per millisecond, and
// a server restarts less than once per second.
func (h *history) behind(last uint64) uint64 {
	return max(h.offset(last), uint64(time.Now().UnixMilli())*1024) + jump
}

// addJump adds a base, from which on offsets have jumped. It removes those of messages before
// first.
func (h *history) addJump(b base, first uint64) {
	h.bases = append(h.bases, b)
	for len(h.bases) > maxBases || len(h.bases) > 1 && h.bases[1].from <= first {
		h.bases = h.bases[1:]
	}
}

// topicSubject returns the subject under which the stream keeps the records of a topic. The
// stream publishes them again to subject(topic).
func (b *Broker) topicSubject(topic string) string {
	return b.noticeSubject() + "." + base64.RawURLEncoding.EncodeToString([]byte(topic))
}

// noticeSubject is where a Broker tells others that it has changed the stream's metadata.
func (b *Broker) noticeSubject() string { return b.options.Prefix + ".$history" }

// config returns the configuration of the stream, without metadata.
func (b *Broker) config() jetstream.StreamConfig {
	o := b.options.History
	return jetstream.StreamConfig{
		Name: o.Stream, Subjects: []string{b.noticeSubject() + ".*"},
		MaxMsgs: -1, MaxConsumers: -1, MaxMsgSize: -1,
		MaxMsgsPerSubject: o.Messages, MaxBytes: o.Bytes, MaxAge: o.Age, Duplicates: o.Duplicates,
		Replicas: o.Replicas, Storage: o.Storage, AllowDirect: true,
		RePublish: &jetstream.RePublish{Source: b.noticeSubject() + ".*", Destination: b.options.Prefix + ".{{wildcard(1)}}"},
	}
}

// live returns ctx with an end when the connection breaks, and after 5 seconds.
func (b *Broker) live(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	b.mu.Lock()
	defer b.mu.Unlock()
	stop := context.AfterFunc(b.life, cancel)
	return ctx, func() { stop(); cancel() }
}

// outcome returns the error of a call that has derived its context from ctx with live.
func outcome(ctx context.Context, err error) error {
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return websocket.ErrBrokerUnavailable
	}
	return err
}

// api calls JetStream with a context from live. The answer goes to response, which may be nil.
func (b *Broker) api(ctx context.Context, call string, request, response any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	m, err := b.conn.RequestWithContext(ctx, "$JS.API."+call, data)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return unavailable(errors.New("nats: the server has no JetStream, or it is not ready"))
	case err != nil && ctx.Err() == nil:
		return unavailable(err)
	case err != nil:
		return err
	}
	var failed struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &failed); err != nil {
		return err
	}
	if failed.Error != nil {
		return failed.Error
	}
	if response == nil {
		return nil
	}
	return json.Unmarshal(m.Data, response)
}

func isCode(err error, code jetstream.ErrorCode) bool {
	var failed *jetstream.APIError
	return errors.As(err, &failed) && failed.ErrorCode == code
}

// streamInfo returns the stream's state, and the number of messages of subject.
func (b *Broker) streamInfo(ctx context.Context, subject string) (*jetstream.StreamInfo, error) {
	info := new(jetstream.StreamInfo)
	request := map[string]string{}
	if subject != "" {
		request["subjects_filter"] = subject
	}
	return info, b.api(ctx, "STREAM.INFO."+b.options.History.Stream, request, info)
}

// createStream creates the stream, unless it exists.
func (b *Broker) createStream(ctx context.Context) error {
	config := b.config()
	config.Metadata = map[string]string{metaEmpty: "true"}
	first := &history{
		epoch: digest(strconv.FormatUint(rand.Uint64(), 10)+time.Now().String(), 6),
		bases: []base{{1, uint64(time.Now().UnixMilli()) * 1024}},
	}
	first.write(config.Metadata)
	err := b.api(ctx, "STREAM.CREATE."+config.Name, config, nil)
	if isCode(err, jetstream.JSErrCodeStreamNameInUse) {
		return nil
	}
	return err
}

// openStream makes the stream ready: it creates the stream, adapts its configuration, and
// makes sure that no offset is given twice. If renew is not "", the stream gets another epoch
// unless it has another one than renew. It stores the state that it has read.
func (b *Broker) openStream(ctx context.Context, renew string) error {
	select {
	case b.opening <- struct{}{}:
		defer func() { <-b.opening }()
	case <-ctx.Done():
		return ctx.Err()
	}
	b.mu.Lock()
	breaks := b.breaks
	b.mu.Unlock()
	suspected := false
	for range attempts {
		b.mu.Lock()
		highest, epoch := b.highest.Load(), b.epoch
		b.mu.Unlock()
		info, err := b.streamInfo(ctx, "")
		if isCode(err, jetstream.JSErrCodeStreamNotFound) {
			if err := b.createStream(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		h, err := readHistory(info)
		if err != nil {
			return err
		}
		if !slices.Equal(info.Config.Subjects, b.config().Subjects) {
			return fmt.Errorf("nats: the stream %q belongs to the prefix of %q", h.stream, info.Config.Subjects)
		}
		lost := info.State.LastSeq == 0 && info.Config.Metadata[metaEmpty] == ""
		if h.epoch == epoch && info.State.LastSeq < highest {
			if lost = suspected; !suspected { // a new leader may still be catching up
				suspected = true
				if !b.sleep(catchUp) {
					return websocket.ErrBrokerUnavailable
				}
				continue
			}
		}
		ready, err := b.adapt(ctx, info, h, renew, lost, highest)
		if err != nil {
			return err
		}
		if ready {
			b.learn(h, info.State.LastSeq, breaks)
			return nil
		}
	}
	return fmt.Errorf("%w: nats: the stream %q keeps changing", websocket.ErrBrokerUnavailable, b.options.History.Stream)
}

// adapt changes the stream's configuration and metadata as openStream says. lost says that the
// stream has lost messages, and highest is the latest that it had. adapt reports true if there
// was nothing to do.
func (b *Broker) adapt(ctx context.Context, info *jetstream.StreamInfo, h *history, renew string, lost bool, highest uint64) (ready bool, err error) {
	last, config, metadata := info.State.LastSeq, info.Config, maps.Clone(info.Config.Metadata)
	changed := b.setBounds(&config)
	if changed {
		h.floor = max(h.floor, last)
	}
	server := b.singleServer(info)
	restarted := server != "" && metadata[metaServer] != server
	next := h.behind(max(last, highest))
	if restarted {
		mark, err := b.message(ctx, map[string]any{"last_by_subj": b.markSubject()})
		if err != nil {
			return false, err
		}
		token, offset := mark.parse()
		if token != server {
			return false, b.mark(ctx, last, server, next)
		}
		// All nodes take the offset that one of them has chosen.
		h.addJump(base{mark.Sequence, offset - mark.Sequence}, info.State.FirstSeq)
		metadata[metaServer] = server
	}
	switch {
	case lost && restarted:
		h.bases = []base{{1, h.bases[len(h.bases)-1].offset}}
	case lost:
		h.bases = []base{{1, (next/jumpGrain + 1) * jumpGrain}}
	}
	if lost {
		h.floor = last
	}
	if lost || renew != "" && renew == h.epoch {
		h.epoch, changed = digest(h.epoch+server, 6), true
	}
	empty := metadata[metaEmpty] != ""
	delete(metadata, metaEmpty)
	switch {
	case last == 0 && lost:
		metadata[metaEmpty] = "true"
	case last == 0: // the first message shows that the stream has been in use
		if err := b.mark(ctx, 0, "first", 0); err != nil {
			return false, err
		}
	}
	if !changed && !empty && !restarted {
		return true, nil
	}
	h.write(metadata)
	config.Metadata = metadata
	if err := b.api(ctx, "STREAM.UPDATE."+config.Name, config, nil); err != nil {
		return false, err
	}
	return false, b.conn.Publish(b.noticeSubject(), nil)
}

// singleServer returns the ID of the server's process if it is the only one of the stream. It
// may lose the latest records with the machine. In a cluster most servers would have to.
func (b *Broker) singleServer(info *jetstream.StreamInfo) string {
	if b.conn.ConnectedClusterName() != "" || info.Cluster == nil || info.Cluster.Leader != b.conn.ConnectedServerName() {
		return ""
	}
	return b.conn.ConnectedServerId()
}

// markSubject is the subject of the stream's messages that are no records.
func (b *Broker) markSubject() string { return b.noticeSubject() + "._" }

// mark appends a mark to the stream. It does nothing if last is not the latest message, since
// another Broker was faster.
func (b *Broker) mark(ctx context.Context, last uint64, token string, offset uint64) error {
	m := &nats.Msg{
		Subject: b.markSubject(), Data: fmt.Append(nil, token, " ", offset),
		Header: nats.Header{nats.ExpectedLastSeqHdr: {strconv.FormatUint(last, 10)}},
	}
	if _, err := b.conn.RequestMsgWithContext(ctx, m); err != nil {
		return unavailable(err)
	}
	return nil
}

// parse returns the token and the offset of a mark.
func (m *stored) parse() (token string, offset uint64) {
	if m != nil {
		_, _ = fmt.Sscan(string(m.Data), &token, &offset) // zero if it was written by another program
	}
	return token, offset
}

// learn stores the state that openStream has read, unless the connection broke since it had the number
// of breaks. last is the latest message of the stream.
func (b *Broker) learn(h *history, last uint64, breaks int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.breaks != breaks {
		return
	}
	if b.epoch != h.epoch {
		b.epoch = h.epoch
		b.highest.Store(last)
	}
	b.history.Store(h)
}

// reached notes that the stream has a message. latest is that before it, of the same caller.
// If they are not in order, the stream may have lost messages and watch checks it.
func (b *Broker) reached(latest *uint64, sequence uint64) {
	if sequence < *latest {
		b.checkStream()
	}
	*latest = sequence
	for highest := b.highest.Load(); sequence > highest && !b.highest.CompareAndSwap(highest, sequence); {
		highest = b.highest.Load()
	}
}

// checkStream makes watch call openStream.
func (b *Broker) checkStream() {
	b.recheck.Store(true)
	b.wakeWatch()
}

// setBounds applies the options to a configuration, and reports whether it has changed.
func (b *Broker) setBounds(c *jetstream.StreamConfig) bool {
	want := b.config()
	same := c.MaxMsgsPerSubject == want.MaxMsgsPerSubject && c.MaxBytes == want.MaxBytes && c.MaxAge == want.MaxAge &&
		c.Duplicates == want.Duplicates && c.Replicas == want.Replicas && c.AllowDirect &&
		c.RePublish != nil && *c.RePublish == *want.RePublish
	c.MaxMsgsPerSubject, c.MaxBytes, c.MaxAge, c.Duplicates = want.MaxMsgsPerSubject, want.MaxBytes, want.MaxAge, want.Duplicates
	c.Replicas, c.AllowDirect, c.RePublish = want.Replicas, true, want.RePublish
	return !same
}
