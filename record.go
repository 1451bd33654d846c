package websocket

import (
	"bytes"
	"iter"
	"slices"
	"sort"
	"unsafe"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// record is a publication that a history keeps. It is much smaller than a publication,
// which a record has only while one is in use:
//
//	appendHistory    a record for a new publication, which is about to be delivered
//	      |
//	compact          the last recipient has been served: the record takes over the
//	      |          encoded forms, and the publication returns to the pool
//	      v
//	use              a member is fed from the history: a publication with the record's
//	      |          message and encoded forms, for all members that are fed meanwhile
//	      v
//	compact          ...
//
// The log's lock guards form, frame, more and pub. The other fields and all bytes never
// change.
type record struct {
	typ       string
	clientID  string
	key       string
	data      []byte
	offset    uint64
	seq       uint64
	timestamp int64
	at        int64 // hub clock
	keyHash   keyHash
	except    bool // not for the client with clientID

	form  form         // of frame
	frame frame        // an encoded form, or empty
	more  *recordMore  // nil in most records
	pub   *publication // with a reference of the record's, or nil if it is not in use
}

// recordMore has fields that most records do not need.
type recordMore struct {
	id     string
	frames []recordFrame // further encoded forms
}

type recordFrame struct {
	form  form
	frame frame
}

// The heap has these bytes more for a record than its publication's cost, which has
// envelopeCost already: BenchmarkHistoryEntry compares them with the heap.
const (
	recordCost      = 48
	keyCost         = 32                                  // with its element of history.keys
	publicationCost = int64(unsafe.Sizeof(publication{})) // while it is in use
)

// cost is that of the publication.
func (r *record) cost(h *history) int64 {
	n := envelopeCost + len(r.typ) + len(h.topic.name) + len(r.data) + len(r.clientID) + len(r.key)
	if r.more != nil {
		n += len(r.more.id)
	}
	return int64(n)
}

// held is the size of what the heap has for r, except for its publication.
func (r *record) held(h *history) int64 {
	n := r.cost(h) + recordCost + r.frameBytes()
	if r.key != "" {
		n += keyCost
	}
	if r.except {
		n += 16 // in history.own
	}
	if r.more != nil {
		n += int64(unsafe.Sizeof(*r.more)) + int64(cap(r.more.frames))*int64(unsafe.Sizeof(recordFrame{}))
	}
	return n
}

// message returns the message. Its Data must not be changed.
func (r *record) message(h *history) Message {
	m := Message{
		Type: r.typ, Channel: h.topic.name, Data: r.data, Timestamp: r.timestamp,
		ClientID: r.clientID, Offset: r.offset, Key: r.key, Room: h.topic.kind == RoomTopic,
	}
	if r.more != nil {
		m.ID = r.more.id
	}
	return m
}

// newRecord returns a record of p, which has its offset and seq.
func newRecord(p *publication, key keyHash, now int64) *record {
	m := &p.msg
	r := &record{
		typ: m.Type, clientID: m.ClientID, offset: m.Offset, seq: p.seq, timestamp: m.Timestamp,
		at: now, keyHash: key, except: p.except != "", pub: p,
	}
	if m.Key != "" {
		r.key = string([]byte(m.Key)) // it may be a part of a larger string
	}
	if m.ID != "" {
		r.more = &recordMore{id: m.ID}
	}
	if cap(p.data) > maxKeptBuffer { // p would not keep it
		r.data, p.data = exact(p.data), nil
	} else {
		r.data = bytes.Clone(p.data)
	}
	m.Data = r.data
	return r
}

// exact returns b, or a copy if b's memory is much larger than b.
func exact(b []byte) []byte {
	if cap(b)-len(b) > len(b)/8 {
		return bytes.Clone(b)
	}
	return b
}

// frames returns the encoded forms.
func (r *record) frames() iter.Seq2[form, frame] {
	return func(yield func(form, frame) bool) {
		if r.frame.bytes == nil || !yield(r.form, r.frame) || r.more == nil {
			return
		}
		for _, f := range r.more.frames {
			if !yield(f.form, f.frame) {
				return
			}
		}
	}
}

// takeForms takes over the encoded forms of a publication that nobody uses.
func (r *record) takeForms(p *publication) {
	n := 0 // those that p has from r
	for range r.frames() {
		n++
	}
	for i := n; i < int(p.built.Load()); i++ {
		s := p.formAt(i)
		switch {
		case len(s.bytes) == 0: // it is tried again the next time
		case s.form.variant() == deflated && len(s.payload()) < p.hub.config.Compression.MinSize: // it is the plain one
		case r.frame.bytes == nil:
			r.form, r.frame = s.form, s.frame
		default:
			if r.more == nil {
				r.more = &recordMore{}
			}
			r.more.frames = append(r.more.frames, recordFrame{s.form, s.frame})
		}
	}
}

// frameBytes returns the size of the encoded forms.
func (r *record) frameBytes() (n int64) {
	for form, f := range r.frames() {
		if form.variant() != deflated || f.bytes[0]&wsproto.CompressedBit != 0 { // otherwise it is the plain one
			n += int64(cap(f.bytes))
		}
	}
	return n
}

// use returns r's publication with a reference for the caller. The log is locked.
func (l *eventLog) use(h *history, r *record) *publication {
	if r.pub == nil {
		r.pub = l.newPublicationOf(h, r)
		l.addUsed(r)
	}
	r.pub.retain()
	return r.pub
}

func (l *eventLog) newPublicationOf(h *history, r *record) *publication {
	p := publicationPool.Get().(*publication)
	p.hub = l.histories.hub
	p.to = h.topic.kind.audience()
	p.announces, p.remote = 0, false
	p.history, p.kept = h, true
	p.msg = r.message(h)
	p.seq, p.cost = r.seq, r.cost(h)
	if r.except {
		p.except = r.clientID
	}
	for f, fr := range r.frames() {
		s := p.nextForm()
		s.form, s.frame = f, fr
		p.built.Add(1)
	}
	p.refs.Store(1)
	p.countIn(true, p.cost+publicationCost)
	return p
}

// usedRecords is the number of records whose publications are kept for the next use.
const usedRecords = 64

// addUsed adds a record with a publication, and compacts others.
func (l *eventLog) addUsed(r *record) {
	used := &l.histories.used
	used.push(r)
	for n := 2; n > 0 && used.len() > usedRecords; n-- {
		l.compactOldest()
	}
}

// compactOldest compacts the record that has been in use for the longest time, if possible.
func (l *eventLog) compactOldest() {
	used := &l.histories.used
	r := used.pop()
	switch {
	case r.pub == nil: // it is not kept any more
	case r.pub.refs.Load() > 1:
		used.push(r)
	default:
		p, h := r.pub, r.pub.history
		before := r.held(h)
		r.takeForms(p)
		l.histories.bytes.Add(r.held(h) - before)
		r.pub, p.kept = nil, false
		p.countIn(false, -p.counted())
		p.release()
	}
}

// recordQueue is a queue of records. The zero value is empty.
type recordQueue struct {
	records []*record
	first   int
}

func (q *recordQueue) len() int { return len(q.records) - q.first }

func (q *recordQueue) push(r *record) {
	if q.first > 0 && len(q.records) == cap(q.records) && q.first >= q.len() {
		n := copy(q.records, q.records[q.first:])
		clear(q.records[n:])
		q.records, q.first = q.records[:n], 0
	}
	q.records = append(q.records, r)
}

func (q *recordQueue) pop() *record {
	r := q.records[q.first]
	q.records[q.first] = nil
	if q.first++; q.first == len(q.records) {
		q.records, q.first = q.records[:0], 0
		if cap(q.records) > 1<<12 {
			q.records = nil
		}
	}
	return r
}

// recordList has records in the order of their offsets. They are in chunks, so that one can
// be removed anywhere at little cost. The zero value is empty.
type recordList struct {
	chunks [][]*record // none is empty
	n      int
}

const recordChunk = 64

// recordPlace is a place in a recordList, valid until the list changes.
type recordPlace struct{ chunk, index int }

func (l *recordList) len() int { return l.n }

func (l *recordList) oldest() *record { return l.chunks[0][0] }

func (l *recordList) latest() *record {
	chunk := l.chunks[len(l.chunks)-1]
	return chunk[len(chunk)-1]
}

func (l *recordList) append(r *record) {
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last]) == recordChunk {
		var chunk []*record
		if last >= 0 {
			chunk = make([]*record, 0, recordChunk)
		}
		l.chunks = append(l.chunks, chunk)
		last++
	}
	l.chunks[last] = append(l.chunks[last], r)
	l.n++
}

// removeOldest removes and returns the oldest record.
func (l *recordList) removeOldest() *record {
	chunk := l.chunks[0]
	r := chunk[0]
	chunk[0] = nil
	if l.chunks[0] = chunk[1:]; len(chunk) == 1 {
		l.chunks[0] = nil
		l.chunks = l.chunks[1:]
	}
	if l.n--; l.n == 0 {
		l.chunks = nil
	}
	return r
}

// remove removes a record, and joins chunks that have become small.
func (l *recordList) remove(r *record) {
	at := l.seek(r.offset)
	l.chunks[at.chunk] = slices.Delete(l.chunks[at.chunk], at.index, at.index+1)
	l.n--
	if len(l.chunks[at.chunk]) == 0 {
		l.chunks = slices.Delete(l.chunks, at.chunk, at.chunk+1)
	}
	for i := max(at.chunk-1, 0); i < at.chunk+1 && i+1 < len(l.chunks); i++ {
		if len(l.chunks[i])+len(l.chunks[i+1]) <= recordChunk/2 {
			l.chunks[i] = append(l.chunks[i], l.chunks[i+1]...)
			l.chunks = slices.Delete(l.chunks, i+1, i+2)
			break
		}
	}
	if l.n == 0 {
		l.chunks = nil
	}
}

// seek returns the place of the first record with at least that offset.
func (l *recordList) seek(offset uint64) recordPlace {
	c := sort.Search(len(l.chunks), func(i int) bool {
		return l.chunks[i][len(l.chunks[i])-1].offset >= offset
	})
	if c == len(l.chunks) {
		return recordPlace{c, 0}
	}
	return recordPlace{c, sort.Search(len(l.chunks[c]), func(i int) bool { return l.chunks[c][i].offset >= offset })}
}

// dense reports whether no offset is missing between the oldest record and the latest.
func (l *recordList) dense() bool {
	return l.n > 0 && l.latest().offset-l.oldest().offset == uint64(l.n-1)
}

// rank returns the number of records before a place.
func (l *recordList) rank(at recordPlace) int {
	switch {
	case at.chunk == len(l.chunks):
		return l.n
	case l.dense():
		return int(l.chunks[at.chunk][at.index].offset - l.oldest().offset)
	}
	n := at.index
	for _, chunk := range l.chunks[:at.chunk] {
		n += len(chunk)
	}
	return n
}

// place returns the place of the record with that rank.
func (l *recordList) place(rank int) recordPlace {
	if l.dense() {
		return l.seek(l.oldest().offset + uint64(rank))
	}
	for c, chunk := range l.chunks {
		if rank < len(chunk) {
			return recordPlace{c, rank}
		}
		rank -= len(chunk)
	}
	return recordPlace{len(l.chunks), 0}
}

// at returns the record with that rank.
func (l *recordList) at(rank int) *record {
	at := l.place(rank)
	return l.chunks[at.chunk][at.index]
}

// from returns the records from a place on.
func (l *recordList) from(at recordPlace) iter.Seq[*record] {
	return func(yield func(*record) bool) {
		for c := at.chunk; c < len(l.chunks); c++ {
			for _, r := range l.chunks[c][at.index:] {
				if !yield(r) {
					return
				}
			}
			at.index = 0
		}
	}
}
