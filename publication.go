package websocket

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// A form is one way of putting a message on the wire: a codec, plain, deflated
// or sealed with the hub's keys. Clients with keys of their own take the plain
// form's payload and seal it themselves.
type form uint8

const (
	plain form = iota
	deflated
	sealed
	formsPerCodec
)

func formOf(codecSlot int, variant form) form { return form(codecSlot)*formsPerCodec + variant }
func (f form) variant() form                  { return f % formsPerCodec }
func (f form) codecIndex() int                { return int(f / formsPerCodec) }

// maxCodecs keeps one bit per form in publication.built.
const maxCodecs = 32 / int(formsPerCodec)

// frame is a whole WebSocket frame, immutable once built. Its form's slot keeps
// the buffer that the bytes stand in.
type frame struct {
	bytes []byte
}

// payload returns what follows the header.
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

// slot holds one form of a publication.
type encodedForm struct {
	form form
	frame
	buf []byte // kept for the publication's next life, unless it is large
}

// publication is one message on its way to any number of clients. Its forms are
// built at most once each, when the first client needs them, by whichever hub
// goroutine or writePump comes first. Holders are counted: every shard that has
// it in its queue or in an open round, and every ring that refers to it.
//
// A publication is recycled whole, with its buffers: one trip to the pool serves
// the message, its payload and the forms that most hubs need.
type publication struct {
	hub  *Hub
	msg  Message
	data []byte // holds msg.Data
	to   audience
	seq  uint64 // place in the log
	cost int64  // bytes it counts against every bound
	// announces is how many lost messages a gap notice tells of, else 0.
	announces uint64
	// remote says that it came from another node.
	remote bool

	refs     atomic.Int32 // holders
	unrouted atomic.Int32 // shards that have not walked it yet

	built  atomic.Int32 // slots that are final
	mu     sync.Mutex   // guards building
	inline [2]encodedForm
	extra  atomic.Pointer[[]encodedForm] // made when first is full, with room for all forms
	bytes  int64                         // counted against the hub's budget; guarded by mu until the last release
}

// audience is the group of recipients of a publication. It decides if the Channel
// of the message names a channel or a room.
type audience = nodewire.Audience

const (
	toClients = nodewire.ToClients // one client, or all
	toChannel = nodewire.ToChannel
	toRoom    = nodewire.ToRoom
)

// envelopeCost is what a message counts beside its strings and payload: about
// what the structures around it take.
const envelopeCost = 128

var publicationPool = sync.Pool{New: func() any { return new(publication) }}

// keptBuffer is the largest buffer that a publication keeps in the pool.
const keptBuffer = 4 << 10

func messageCost(m *Message) int64 {
	return int64(envelopeCost + len(m.Type) + len(m.Channel) + len(m.Data) + len(m.ClientID) + len(m.ID))
}

// newPublication copies m. It has one holder, the caller.
func (h *Hub) newPublication(m *Message, to audience) *publication {
	p := publicationPool.Get().(*publication)
	p.hub = h
	p.to = to
	p.announces = 0
	p.remote = false
	p.msg = *m
	p.msg.pooled = false
	p.data = append(p.data[:0], m.Data...)
	p.msg.Data = p.data
	p.cost = messageCost(m)
	p.bytes = p.cost
	h.budget.used.Add(p.bytes)
	p.refs.Store(1)
	return p
}

func (p *publication) retain(n int32) { p.refs.Add(n) }

// discard releases a publication that may be nil.
func (p *publication) releaseIfAny() {
	if p != nil {
		p.release()
	}
}

// release lets go of one hold. The last one recycles every buffer.
func (p *publication) release() {
	switch n := p.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("websocket: publication released more often than retained")
	}
	p.hub.budget.used.Add(-p.bytes)
	for i := range min(int(p.built.Load()), len(p.inline)) {
		p.inline[i].bytes = nil
		if cap(p.inline[i].buf) > keptBuffer {
			p.inline[i].buf = nil
		}
	}
	if cap(p.data) > keptBuffer {
		p.data = nil
	}
	p.built.Store(0)
	p.extra.Store(nil)
	p.msg = Message{}
	p.hub = nil
	publicationPool.Put(p)
}

// frame returns the message in form f. A frame without bytes means that the
// codec could not encode it.
func (p *publication) frame(f form) frame {
	if s := p.find(f); s != nil {
		return s.frame
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.build(f)
}

// find returns the slot of a form that has been built.
func (p *publication) find(f form) *encodedForm {
	n := int(p.built.Load())
	for i := range min(n, len(p.inline)) {
		if p.inline[i].form == f {
			return &p.inline[i]
		}
	}
	if n > len(p.inline) {
		more := *p.extra.Load()
		for i := range n - len(p.inline) {
			if more[i].form == f {
				return &more[i]
			}
		}
	}
	return nil
}

// build makes form f if it does not exist. mu is held.
func (p *publication) build(f form) frame {
	if s := p.find(f); s != nil {
		return s.frame
	}
	if f.variant() == deflated {
		p.build(formOf(f.codecIndex(), plain)) // takes its slot first
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
		p.bytes += int64(cap(s.buf))
		p.hub.budget.used.Add(int64(cap(s.buf)))
	}
	p.built.Add(1)
	return s.frame
}

func (p *publication) nextForm() *encodedForm {
	n := int(p.built.Load())
	if n < len(p.inline) {
		return &p.inline[n]
	}
	if p.extra.Load() == nil {
		more := make([]encodedForm, len(p.hub.codecs)*int(formsPerCodec))
		p.extra.Store(&more)
	}
	return &(*p.extra.Load())[n-len(p.inline)]
}

// sized returns buf with room for a frame of n payload bytes and length
// wsproto.MaxHeader, where the payload begins.
func withRoom(buf []byte, n int) []byte {
	if cap(buf) < wsproto.MaxHeader+n {
		buf = make([]byte, 0, wsproto.MaxHeader+n)
	}
	return buf[:wsproto.MaxHeader]
}

func (p *publication) buildPlain(s *encodedForm) frame {
	codec := p.hub.codecs[s.form.codecIndex()]
	out, err := appendMarshal(codec, withRoom(s.buf, int(p.cost)), &p.msg)
	if err != nil {
		p.logCodecError(codec, err)
		return frame{}
	}
	s.buf = out
	return prependHeader(out, byte(codec.WebSocketMessageType()))
}

func (p *publication) logCodecError(codec Codec, err error) {
	p.hub.logger.Errorf("websocket: message of type %q for %q dropped for %s clients: %v", p.msg.Type, p.msg.Channel, codec.Name(), err)
}

// buildDeflated falls back on the plain frame where deflating does not pay.
func (p *publication) buildDeflated(s *encodedForm) frame {
	whole := p.find(formOf(s.form.codecIndex(), plain)).frame
	if len(whole.bytes) == 0 {
		return frame{}
	}
	payload := whole.payload()
	if len(payload) < p.hub.config.Compression.MinSize {
		return whole
	}
	out, err := p.hub.deflaters.Append(withRoom(s.buf, len(payload)), payload)
	if err != nil || len(out)-wsproto.MaxHeader >= len(payload) {
		return whole
	}
	s.buf = out
	return prependHeader(out, whole.bytes[0]&0x0f|wsproto.CompressedBit)
}

// buildSealed seals with the hub's keys. Sealed bytes are not UTF-8, so they
// travel in binary frames whatever the codec (RFC 6455 section 5.6).
func (p *publication) buildSealed(s *encodedForm) frame {
	codec := p.hub.codecs[s.form.codecIndex()]
	scratch := getBuffer(int(p.cost))
	defer putBuffer(scratch)
	payload, err := appendMarshal(codec, scratch.b, &p.msg)
	if err != nil {
		p.logCodecError(codec, err)
		return frame{}
	}
	scratch.b = payload
	keys := p.hub.keys
	s.buf = keys.AppendSeal(withRoom(s.buf, len(payload)+keys.Overhead()), payload)
	return prependHeader(s.buf, wsproto.OpBinary)
}

// finishFrame writes the header right before the payload, which starts at
// wsproto.MaxHeader.
func prependHeader(buf []byte, first byte) frame {
	n := len(buf) - wsproto.MaxHeader
	at := wsproto.MaxHeader - wsproto.HeaderSize(n)
	wsproto.AppendHeader(buf[at:at], first, n)
	return frame{bytes: buf[at:]}
}

// appendMarshal runs a codec, which may be the user's own: its panic becomes an
// error.
func appendMarshal(c Codec, dst []byte, m *Message) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("websocket: codec %s panicked: %v", c.Name(), r)
		}
	}()
	if a, ok := c.(AppendCodec); ok {
		return a.AppendMarshal(dst, m)
	}
	b, err := c.Marshal(m)
	if err != nil {
		return nil, err
	}
	return append(dst, b...), nil
}
