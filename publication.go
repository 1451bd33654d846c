package websocket

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// A form is an encoding of a message for the wire: a codec and a variant. Clients
// with keys of their own have no form of their own: each of them seals the payload
// of the plain form.
type form uint8

// Variants of a form.
const (
	plain    form = iota
	deflated      // compressed with permessage-deflate, if that makes it smaller
	sealed        // with the hub's keys
	formsPerCodec
)

// formOf returns a variant of the codec at an index of Hub.codecs.
func formOf(codecIndex int, variant form) form { return form(codecIndex)*formsPerCodec + variant }
func (f form) variant() form                   { return f % formsPerCodec }
func (f form) codecIndex() int                 { return int(f / formsPerCodec) }

// maxCodecs is the maximum number of codecs of a hub. It bounds the encodings of
// one publication.
const maxCodecs = 10

// frame is a whole WebSocket frame, immutable once built. A frame without bytes
// means that the codec could not encode the message.
type frame struct {
	bytes []byte
}

// payload returns the bytes after the header.
func (f frame) payload() []byte {
	switch f.bytes[1] {
	case 126:
		return f.bytes[4:]
	case 127:
		return f.bytes[10:]
	default:
		return f.bytes[2:]
	}
}

// encodedForm is one form of a publication. It is final once publication.built
// counts it.
type encodedForm struct {
	form form
	frame
	buf []byte // the memory of frame; recycled with the publication unless it is large
}

// publication is one message for any number of clients, with its encodings. The
// first hub goroutine or writePump that needs a form builds it; all others use the
// same bytes.
//
// After eventLog.stamp only the forms of a publication change. It counts its
// references:
//
//	newPublication   one reference: the goroutine that publishes
//	      |
//	eventLog.stamp   one for each shard that has recipients, instead of that one
//	      |          (without recipients the publisher releases it)
//	      |--------- node.forward: one more, until the broker has taken or refused it
//	      v
//	shard            in its queue, then in the round that routed it; released when
//	      |          every recipient has been written to or has it in its backlog
//	      v
//	conn             one more for each connection that did not accept all of it at
//	      |          once: in conn.queue or conn.tailOf, then in the writePump's write
//	      v
//	last release     the publication returns to the pool with its buffers
//
// In a topic with history the record has one more: see record.
//
// A gap notice has one reference, which belongs to the round or the write that it was
// made for.
type publication struct {
	hub       *Hub
	msg       Message
	data      []byte // memory of msg.Data
	to        audience
	seq       uint64   // order number in the event log
	cost      int64    // bytes that it counts against every bound
	announces uint64   // drops that a gap notice announces; 0 in other messages and if their number is not known
	remote    bool     // received from another node
	history   *history // of its topic, or nil; set before it is appended to the log
	kept      bool     // its record has a reference; guarded by the log's lock
	except    string   // the ID of a recipient that does not get it, or empty; set before eventLog.stamp

	refs     atomic.Int32
	unrouted atomic.Int32 // shards that have not routed it yet

	built  atomic.Int32                  // number of forms that are final: inline first, then extra
	mu     sync.Mutex                    // serializes building
	inline [2]encodedForm                // enough for most hubs
	extra  atomic.Pointer[[]encodedForm] // made when inline is full, with room for all forms
	count  atomic.Int64                  // see addBytes
}

// audience is the group of recipients of a publication. It decides whether the
// Channel of the message names a channel or a room.
type audience = nodewire.Audience

const (
	toClients = nodewire.ToClients // one client, or all
	toChannel = nodewire.ToChannel
	toRoom    = nodewire.ToRoom
)

// envelopeCost is added to the size of a message's strings and payload, for the
// structures around them.
const envelopeCost = 128

var publicationPool = sync.Pool{New: func() any { return new(publication) }}

// maxKeptBuffer is the capacity of the largest buffer that a pooled publication
// keeps.
const maxKeptBuffer = 4 << 10

// messageCost returns the bytes that m counts against every bound.
func messageCost(m *Message) int64 {
	return int64(envelopeCost + len(m.Type) + len(m.Channel) + len(m.Data) + len(m.ClientID) + len(m.ID) + len(m.Key) + len(m.Trace))
}

// newPublication returns a publication with a copy of m. The caller has the only
// reference.
func (h *Hub) newPublication(m *Message, to audience) *publication {
	p := publicationPool.Get().(*publication)
	p.hub = h
	p.to = to
	p.announces = 0
	p.remote = false
	p.history, p.kept = nil, false
	p.msg = *m
	p.msg.pooled = nil
	p.msg.ExceptSelf, p.msg.Offset, p.msg.Room = false, 0, false
	if to == toClients {
		p.msg.Key = ""
	}
	p.data = append(p.data[:0], m.Data...)
	p.msg.Data = p.data
	p.cost = messageCost(m)
	p.count.Store(0)
	p.addBytes(p.cost)
	p.refs.Store(1)
	return p
}

// setID replaces the ID of a publication that no one else has yet.
func (p *publication) setID(id string) {
	p.msg.ID = id
	before := p.cost
	p.cost = messageCost(&p.msg)
	p.addBytes(p.cost - before)
}

// setData replaces the payload of a publication that no one else has yet.
func (p *publication) setData(data []byte) {
	p.data = append(p.data[:0], data...)
	p.msg.Data = p.data
	before := p.cost
	p.cost = messageCost(&p.msg)
	p.addBytes(p.cost - before)
}

func (p *publication) retain() { p.refs.Add(1) }

// releaseIfAny is release for a publication that may be nil.
func (p *publication) releaseIfAny() {
	if p != nil {
		p.release()
	}
}

// release gives up one reference. The last one recycles the publication.
func (p *publication) release() {
	switch n := p.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("websocket: publication released more often than retained")
	}
	p.addBytes(-p.counted())
	for i := range min(int(p.built.Load()), len(p.inline)) {
		p.inline[i].bytes = nil
		if cap(p.inline[i].buf) > maxKeptBuffer {
			p.inline[i].buf = nil
		}
	}
	if cap(p.data) > maxKeptBuffer {
		p.data = nil
	}
	p.built.Store(0)
	p.extra.Store(nil)
	p.msg = Message{}
	p.hub = nil
	p.except = ""
	publicationPool.Put(p)
}

// frame returns the message in form f, and builds it if need be. The frame is valid
// as long as the caller has a reference.
func (p *publication) frame(f form) frame {
	if s := p.find(f); s != nil {
		return s.frame
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.build(f)
}

// find returns form f if it has been built, and nil otherwise. It takes no lock.
func (p *publication) find(f form) *encodedForm {
	for i := range int(p.built.Load()) {
		if s := p.formAt(i); s.form == f {
			return s
		}
	}
	return nil
}

// formAt returns a form that has been built.
func (p *publication) formAt(i int) *encodedForm {
	if i < len(p.inline) {
		return &p.inline[i]
	}
	return &(*p.extra.Load())[i-len(p.inline)]
}

// build returns form f and builds it if it does not exist. The caller has mu.
func (p *publication) build(f form) frame {
	if s := p.find(f); s != nil {
		return s.frame
	}
	if f.variant() == deflated {
		p.build(formOf(f.codecIndex(), plain)) // before nextForm, which would return the same element to it
	}
	s := p.nextForm()
	s.form = f
	switch f.variant() {
	case plain:
		s.frame = p.buildPlain(s)
	case deflated:
		s.frame = p.buildDeflated(s)
	case sealed:
		s.frame = p.buildSealed(s)
	}
	if len(s.bytes) > 0 {
		if p.history != nil {
			p.addBytes(s.keep())
		}
		p.addBytes(int64(cap(s.buf)))
	}
	p.built.Add(1)
	return s.frame
}

// keep gives the frame memory of its own, because a record will have it, and returns the
// size of that.
func (s *encodedForm) keep() int64 {
	switch {
	case len(s.buf) == 0 || &s.buf[len(s.buf)-1] != &s.bytes[len(s.bytes)-1]:
		return 0 // deflated is the same as plain
	case cap(s.buf) > maxKeptBuffer: // the pool would not keep it
		s.bytes, s.buf = exact(s.bytes), nil
	default:
		s.bytes = bytes.Clone(s.bytes)
	}
	return int64(cap(s.bytes))
}

// addBytes counts n bytes more: in the hub's budget, or in that of the histories while a
// record has the publication. count has twice the number of bytes, and 1 more for the
// histories. So no lock is needed, although a form may be built while a record takes the
// publication or gives it away.
func (p *publication) addBytes(n int64) { p.countBytes(p.count.Add(2*n), n) }

func (p *publication) countBytes(in, n int64) {
	if in&1 != 0 {
		p.hub.events.histories.bytes.Add(n)
	} else {
		p.hub.budget.add(n)
	}
}

// counted returns the number of bytes that the publication counts.
func (p *publication) counted() int64 { return p.count.Load() >> 1 }

// countIn counts the publication and n bytes more in the budget of the histories from now
// on, or in that of the hub.
func (p *publication) countIn(histories bool, n int64) {
	for {
		before := p.count.Load()
		after := before&^1 + 2*n
		if histories {
			after |= 1
		}
		if p.count.CompareAndSwap(before, after) {
			p.countBytes(before, -(before >> 1))
			p.countBytes(after, after>>1)
			return
		}
	}
}

// nextForm returns the element after the last one that is built.
func (p *publication) nextForm() *encodedForm {
	n := int(p.built.Load())
	if n < len(p.inline) {
		return &p.inline[n]
	}
	if p.extra.Load() == nil {
		extra := make([]encodedForm, len(p.hub.codecs)*int(formsPerCodec))
		p.extra.Store(&extra)
	}
	return &(*p.extra.Load())[n-len(p.inline)]
}

// withRoom returns a slice of length wsproto.MaxHeader with room for n payload bytes
// after it. It uses buf's memory if that is large enough.
func withRoom(buf []byte, n int) []byte {
	if cap(buf) < wsproto.MaxHeader+n {
		buf = make([]byte, 0, wsproto.MaxHeader+n)
	}
	return buf[:wsproto.MaxHeader]
}

func (p *publication) buildPlain(s *encodedForm) frame {
	codec := p.hub.codecs[s.form.codecIndex()]
	out, err := codec.AppendMarshal(withRoom(s.buf, int(p.cost)), &p.msg)
	if err != nil {
		p.logCodecError(codec, err)
		return frame{}
	}
	s.buf = out
	return prependHeader(out, byte(codec.frameType))
}

// logCodecError logs a form that could not be built. It is called once per form, not
// once per client.
func (p *publication) logCodecError(codec *guardedCodec, err error) {
	p.hub.logger.Errorf("websocket: message of type %q for %q dropped for %s clients: %v", p.msg.Type, p.msg.Channel, codec.name, err)
}

// buildDeflated returns the plain frame for a payload below Compression.MinSize, and
// for one that compression does not make smaller.
func (p *publication) buildDeflated(s *encodedForm) frame {
	uncompressed := p.find(formOf(s.form.codecIndex(), plain)).frame
	if len(uncompressed.bytes) == 0 {
		return frame{}
	}
	payload := uncompressed.payload()
	if len(payload) < p.hub.config.Compression.MinSize {
		return uncompressed
	}
	out, err := p.hub.deflaters.Append(withRoom(s.buf, len(payload)), payload)
	if err != nil || len(out)-wsproto.MaxHeader >= len(payload) {
		return uncompressed
	}
	s.buf = out
	return prependHeader(out, uncompressed.bytes[0]&0x0f|wsproto.CompressedBit)
}

// buildSealed seals with the hub's keys. Sealed bytes are not UTF-8, so every codec's
// are sent in binary frames (RFC 6455 section 5.6).
func (p *publication) buildSealed(s *encodedForm) frame {
	codec := p.hub.codecs[s.form.codecIndex()]
	scratch := getBuffer(int(p.cost))
	defer putBuffer(scratch)
	payload, err := codec.AppendMarshal(scratch.b, &p.msg)
	if err != nil {
		p.logCodecError(codec, err)
		return frame{}
	}
	scratch.b = payload
	keys := p.hub.keys
	s.buf = keys.AppendSeal(withRoom(s.buf, len(payload)+keys.Overhead()), payload)
	return prependHeader(s.buf, wsproto.OpBinary)
}

// prependHeader writes the header directly before the payload, which starts at
// wsproto.MaxHeader, and returns the frame.
func prependHeader(buf []byte, first byte) frame {
	n := len(buf) - wsproto.MaxHeader
	at := wsproto.MaxHeader - wsproto.HeaderSize(n)
	wsproto.AppendHeader(buf[at:at], first, n)
	return frame{bytes: buf[at:]}
}
