package websocket

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
)

// RFC 6455 section 5.2: opcodes and header bits of the frames we write.
const (
	opText   = 0x1
	opBinary = 0x2
	opClose  = 0x8
	opPing   = 0x9
	opPong   = 0xa

	finalBit      = 0x80
	compressedBit = 0x40 // RSV1, RFC 7692 section 6

	maxHeader         = 10  // server frames carry no mask
	maxControlPayload = 125 // RFC 6455 section 5.5
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
func (f form) codecSlot() int                 { return int(f / formsPerCodec) }

// maxCodecs keeps one bit per form in publication.built.
const maxCodecs = 32 / int(formsPerCodec)

// frame is a whole WebSocket frame, immutable once built. buf is nil where the
// bytes belong to another form.
type frame struct {
	wire []byte
	buf  *buffer
}

// payload returns what follows the header.
func (f frame) payload() []byte {
	switch f.wire[1] {
	case 126:
		return f.wire[4:]
	case 127:
		return f.wire[10:]
	default:
		return f.wire[2:]
	}
}

// publication is one message on its way to any number of clients. Its forms are
// built at most once each, when the first client needs them, by whichever hub
// goroutine or writePump comes first. Holders are counted: every shard that has
// it in its queue or in an open round, and every ring that refers to it.
type publication struct {
	hub   *Hub
	msg   Message
	data  *buffer // holds msg.Data
	to    audience
	order uint64 // place in the log
	cost  int64  // bytes it counts against every bound
	// announces is how many lost messages a gap notice tells of, else 0.
	announces uint64

	refs     atomic.Int32 // holders
	unwalked atomic.Int32 // shards that have not walked it yet

	built  atomic.Uint32 // bit f: frames[f] is final
	mu     sync.Mutex    // guards building
	frames []frame
	bytes  int64 // counted against the hub's budget; guarded by mu until the last release
}

// audience says whom a publication is for; it decides what its Channel names.
type audience uint8

const (
	toClients audience = iota // one client, or all
	toChannel
	toRoom
)

// envelopeCost is what a message counts beside its strings and payload: about
// what the structures around it take.
const envelopeCost = 128

var publicationPool = sync.Pool{New: func() any { return new(publication) }}

func messageCost(m *Message) int64 {
	return int64(envelopeCost + len(m.Type) + len(m.Channel) + len(m.Data) + len(m.ClientID) + len(m.ID))
}

// newPublication copies m. It has one holder, the caller.
func (h *Hub) newPublication(m *Message, to audience) *publication {
	p := publicationPool.Get().(*publication)
	p.hub = h
	p.to = to
	p.announces = 0
	p.msg = *m
	p.msg.pooled = false
	p.data = nil
	if len(m.Data) > 0 {
		p.data = getBuffer(len(m.Data))
		p.data.b = append(p.data.b, m.Data...)
		p.msg.Data = p.data.b
	}
	p.cost = messageCost(m)
	p.bytes = p.cost
	h.budget.used.Add(p.bytes)
	if n := len(h.codecs) * int(formsPerCodec); cap(p.frames) < n {
		p.frames = make([]frame, n)
	} else {
		p.frames = p.frames[:n]
	}
	p.built.Store(0)
	p.refs.Store(1)
	return p
}

func (p *publication) retain(n int32) { p.refs.Add(n) }

// discard releases a publication that may be nil.
func (p *publication) discard() {
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
	for i := range p.frames {
		if b := p.frames[i].buf; b != nil {
			putBuffer(b)
		}
	}
	clear(p.frames)
	if p.data != nil {
		putBuffer(p.data)
		p.data = nil
	}
	p.msg = Message{}
	p.hub = nil
	publicationPool.Put(p)
}

// frame returns the message in form f. A frame without bytes means that the
// codec could not encode it.
func (p *publication) frame(f form) frame {
	if p.built.Load()&(1<<f) == 0 {
		p.mu.Lock()
		p.build(f)
		p.mu.Unlock()
	}
	return p.frames[f]
}

// build runs with mu held and may be called for a form that exists already.
func (p *publication) build(f form) {
	if p.built.Load()&(1<<f) != 0 {
		return
	}
	var fr frame
	switch f.variant() {
	case plain:
		fr = p.buildPlain(f)
	case deflated:
		fr = p.buildDeflated(f)
	case sealed:
		fr = p.buildSealed(f)
	}
	p.frames[f] = fr
	if fr.buf != nil {
		p.bytes += int64(cap(fr.buf.b))
		p.hub.budget.used.Add(int64(cap(fr.buf.b)))
	}
	p.built.Store(p.built.Load() | 1<<f)
}

func (p *publication) buildPlain(f form) frame {
	codec := p.hub.codecs[f.codecSlot()]
	buf := getBuffer(maxHeader + int(p.cost))
	out, err := appendMarshal(codec, append(buf.b, make([]byte, maxHeader)...), &p.msg)
	if err != nil {
		p.hub.logger.Errorf("websocket: message of type %q for %q dropped for %s clients: %v", p.msg.Type, p.msg.Channel, codec.Name(), err)
		putBuffer(buf)
		return frame{}
	}
	buf.b = out
	return finishFrame(buf, byte(codec.WebSocketMessageType()))
}

// buildDeflated falls back on the plain frame where deflating does not pay.
func (p *publication) buildDeflated(f form) frame {
	base := formOf(f.codecSlot(), plain)
	p.build(base)
	fr := p.frames[base]
	fr.buf = nil
	if len(fr.wire) == 0 {
		return fr
	}
	payload := fr.payload()
	if len(payload) < p.hub.config.Compression.MinSize {
		return fr
	}
	buf := getBuffer(maxHeader + len(payload))
	out, err := p.hub.deflaters.appendDeflated(append(buf.b, make([]byte, maxHeader)...), payload)
	if err != nil || len(out)-maxHeader >= len(payload) {
		putBuffer(buf)
		return fr
	}
	buf.b = out
	return finishFrame(buf, fr.wire[0]&0x0f|compressedBit)
}

// buildSealed seals with the hub's keys. Sealed bytes are not UTF-8, so they
// travel in binary frames whatever the codec (RFC 6455 section 5.6).
func (p *publication) buildSealed(f form) frame {
	payload := p.frames[formOf(f.codecSlot(), plain)].wire
	var scratch *buffer
	if len(payload) > 0 {
		payload = frame{wire: payload}.payload()
	} else {
		codec := p.hub.codecs[f.codecSlot()]
		scratch = getBuffer(int(p.cost))
		defer func() { putBuffer(scratch) }()
		out, err := appendMarshal(codec, scratch.b, &p.msg)
		if err != nil {
			p.hub.logger.Errorf("websocket: message of type %q for %q dropped for %s clients: %v", p.msg.Type, p.msg.Channel, codec.Name(), err)
			return frame{}
		}
		scratch.b = out
		payload = out
	}
	keys := p.hub.keys
	buf := getBuffer(maxHeader + len(payload) + keys.overhead())
	buf.b = keys.appendSeal(append(buf.b, make([]byte, maxHeader)...), payload)
	return finishFrame(buf, opBinary)
}

// finishFrame writes the header right before the payload, which starts at
// maxHeader.
func finishFrame(buf *buffer, first byte) frame {
	n := len(buf.b) - maxHeader
	at := maxHeader - headerSize(n)
	appendHeader(buf.b[at:at], first, n)
	return frame{wire: buf.b[at:], buf: buf}
}

func headerSize(payload int) int {
	switch {
	case payload < 126:
		return 2
	case payload <= 0xffff:
		return 4
	default:
		return 10
	}
}

// appendHeader appends an unmasked header of a final frame (RFC 6455 section 5.2).
func appendHeader(dst []byte, first byte, payload int) []byte {
	first |= finalBit
	switch {
	case payload < 126:
		return append(dst, first, byte(payload))
	case payload <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(payload))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(payload))
	}
}

func controlFrame(opcode byte, payload []byte) []byte {
	payload = payload[:min(len(payload), maxControlPayload)]
	return append(appendHeader(make([]byte, 0, 2+len(payload)), opcode, len(payload)), payload...)
}

// closeFrame leaves code and reason out where RFC 6455 section 7.4.1 forbids
// them on the wire.
func closeFrame(code int, reason string) []byte {
	if code == CloseNoStatusReceived || code == CloseAbnormalClosure {
		return controlFrame(opClose, nil)
	}
	return controlFrame(opClose, append(binary.BigEndian.AppendUint16(nil, uint16(code)), trimReason(reason)...))
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
