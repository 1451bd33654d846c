package wsproto

import (
	"encoding/binary"
	"fmt"
	"slices"
	"unicode/utf8"
)

// Violation is the reason why a connection has to be closed.
type Violation struct {
	Code   int    // for the Close frame (RFC 6455 section 7.4.1)
	Reason string // for the Close frame
}

// Checker checks the frames of one client against RFC 6455, in pieces of any size.
// It refuses frames that gorilla/websocket accepts: RSV1 on control frames and
// continuations, lengths that are not in their shortest form, Close payloads of one
// byte, and messages of many empty fragments.
//
// It also records which messages are compressed, and clears RSV1. The caller decompresses
// them. Checker does not look at payloads: the caller checks UTF-8 and the contents of
// Close frames.
//
// One goroutine at a time may use a Checker.
type Checker struct {
	limit int64 // bytes of one message on the wire

	header  [maxMaskedHeader]byte
	have    uint8  // bytes of header; 0 inside a payload
	deflate bool   // RSV1 may be set on the first frame of a message
	payload uint64 // remaining bytes of the current frame's payload

	// compressed has RSV1 of each message whose first frame has been checked, if
	// deflate is set. Entries before read belong to messages that NextCompressed has
	// returned. The others belong to messages in the buffer between Check and
	// NextCompressed, whose size bounds their number.
	compressed []bool
	read       int32

	open  bool  // a fragmented message has begun
	empty uint8 // empty fragments of the current message
	size  int64 // bytes of the current message so far

	close *closePayload // of the Close frame, once its header has been checked
}

// MaxEmptyFragments is the maximum number of empty fragments in a message, except for
// its last one. RFC 6455 sets no limit, but empty fragments cost work and never reach the
// limit of a message's size.
const MaxEmptyFragments = 128

const (
	maxMaskedHeader = 14 // RFC 6455 section 5.2
	maskSize        = 4
	maxRead         = 64 // entries of compressed that NextCompressed has returned, before they are removed
)

// NewChecker returns a Checker for a connection of which nothing has been read.
// deflate says that permessage-deflate was agreed. limit is the maximum number of
// payload bytes of a message on the wire.
func NewChecker(deflate bool, limit int64) Checker { return Checker{deflate: deflate, limit: limit} }

// Limit returns the maximum number of payload bytes of a message on the wire.
func (c *Checker) Limit() int64 { return c.limit }

// Check checks the next bytes of the stream and clears RSV1 in the headers of
// compressed messages. It returns how many of the bytes may be passed on, and how
// many frames have had their length checked in this call, control frames included.
//
// A violation ends the stream: Check must not be called again. The bytes before the
// frame that breaks a rule may be passed on.
//
// A Close frame ends the stream too (RFC 6455 section 5.5.1). Check passes on all bytes
// behind it and does not look at them.
func (c *Checker) Check(b []byte) (n, frames int, v *Violation) {
	for n < len(b) {
		if c.close != nil {
			c.close.add(b[n:])
			return len(b), frames, nil
		}
		if c.have == 0 && c.payload > 0 {
			k := min(c.payload, uint64(len(b)-n))
			c.payload -= k
			n += int(k)
			continue
		}
		start := n
		for c.have < 2 || int(c.have) < c.headerSize() {
			if n == len(b) {
				return n, frames, nil
			}
			c.header[c.have] = b[n]
			if c.have == 0 && c.deflate && isData(b[n]) {
				b[n] &^= CompressedBit
			}
			c.have++
			n++
			if c.have == 2 {
				v = c.checkStart()
			}
			if v == nil && c.have >= 2 && int(c.have) == c.headerSize()-maskSize {
				frames++
				v = c.checkLength()
			}
			if v != nil {
				return start, frames, v
			}
		}
		if c.header[0]&opcodeBits == OpClose {
			c.close = &closePayload{rest: int(c.payload)}
			copy(c.close.mask[:], c.header[c.have-maskSize:c.have])
		}
		c.have = 0
	}
	return n, frames, nil
}

// closePayload is the payload of a Close frame, still masked.
type closePayload struct {
	mask [maskSize]byte
	rest int // bytes that are missing
	b    []byte
}

// add adds the bytes of b that belong to the payload.
func (p *closePayload) add(b []byte) {
	b = b[:min(p.rest, len(b))]
	p.b = append(p.b, b...)
	p.rest -= len(b)
}

// Closed returns the code and reason of the Close frame, once Check has passed it as a
// whole. The code is 1005 if the frame has none. ok is false before, and for a code or
// reason that must not be sent (RFC 6455 sections 5.5.1 and 7.4).
func (c *Checker) Closed() (code int, reason string, ok bool) {
	switch {
	case c.close == nil || c.close.rest > 0:
		return 0, "", false
	case len(c.close.b) < 2: // empty: checkStart refuses a payload of one byte
		return closeNoStatusReceived, "", true
	}
	b := make([]byte, len(c.close.b))
	for i := range b {
		b[i] = c.close.b[i] ^ c.close.mask[i%maskSize]
	}
	code, reason = int(binary.BigEndian.Uint16(b)), string(b[2:])
	return code, reason, SendableCode(code) && utf8.ValidString(reason)
}

// Ahead returns a Checker for the bytes that follow those that c has checked, for a look
// at input that c will check later. It does not affect c.
func (c *Checker) Ahead() Checker {
	ahead := *c
	ahead.compressed, ahead.read = nil, 0
	if c.close != nil {
		ahead.close = &closePayload{c.close.mask, c.close.rest, slices.Clone(c.close.b)}
	}
	return ahead
}

func isData(first byte) bool {
	opcode := first & opcodeBits
	return opcode == OpText || opcode == OpBinary
}

// NextCompressed reports whether the next message is compressed. It has to be called
// once for each message, in order, after Check has passed on the header of the
// message's first frame. Before that it panics if deflate was agreed.
func (c *Checker) NextCompressed() bool {
	if !c.deflate {
		return false
	}
	compressed := c.compressed[c.read]
	if c.read++; int(c.read) == len(c.compressed) {
		c.compressed, c.read = c.compressed[:0], 0
	}
	return compressed
}

// headerSize returns the size of the current frame's header, its masking key
// included. It needs the first two bytes (RFC 6455 section 5.2).
func (c *Checker) headerSize() int {
	switch c.header[1] & lengthBits {
	case 126:
		return 8
	case 127:
		return 14
	default:
		return 6
	}
}

func protocolError(format string, args ...any) *Violation {
	return &Violation{closeProtocolError, fmt.Sprintf(format, args...)}
}

// checkStart checks the first two bytes of a frame.
func (c *Checker) checkStart() *Violation {
	first, second := c.header[0], c.header[1]
	final, opcode, length := first&FinalBit != 0, first&opcodeBits, second&lengthBits
	switch {
	case first&reservedBits != 0:
		return protocolError("reserved bit RSV2 or RSV3 is set") // RFC 6455 section 5.2
	case second&maskBit == 0:
		return protocolError("frame is not masked") // RFC 6455 section 5.1
	case opcode > OpBinary && opcode < OpClose || opcode > OpPong:
		return protocolError("reserved opcode %#x", opcode) // RFC 6455 section 5.2
	case opcode >= OpClose && !final:
		return protocolError("control frame is fragmented") // RFC 6455 section 5.5
	case opcode >= OpClose && length > MaxControlPayload:
		return protocolError("control frame is longer than %d bytes", MaxControlPayload) // RFC 6455 section 5.5
	case opcode == OpClose && length == 1:
		return protocolError("Close frame with half a status code") // RFC 6455 section 5.5.1
	case first&CompressedBit != 0 && (!c.deflate || !isData(first)):
		return protocolError("reserved bit RSV1 is set") // RFC 7692 section 6.1
	case opcode == OpContinuation && !c.open:
		return protocolError("continuation of no message") // RFC 6455 section 5.4
	case isData(first) && c.open:
		return protocolError("new message inside a fragmented one") // RFC 6455 section 5.4
	}
	return nil
}

// checkLength checks the complete length of a frame and the size of its message (RFC 6455
// sections 5.2 and 10.4).
func (c *Checker) checkLength() *Violation {
	length := uint64(c.header[1] & lengthBits)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(c.header[2:]))
		if length < 126 {
			return protocolError("length is not in its shortest form")
		}
	case 127:
		length = binary.BigEndian.Uint64(c.header[2:])
		switch {
		case length>>63 != 0:
			return protocolError("length has its top bit set")
		case length <= 0xffff:
			return protocolError("length is not in its shortest form")
		}
	}
	c.payload = length
	if c.header[0]&opcodeBits >= OpClose {
		return nil
	}
	if isData(c.header[0]) {
		c.beginMessage()
	}
	c.open = c.header[0]&FinalBit == 0
	if length > uint64(c.limit-c.size) {
		atLeast := ""
		if c.open {
			atLeast = "at least "
		}
		return &Violation{closeMessageTooBig, fmt.Sprintf("message of %s%d bytes is larger than %d bytes on the wire", atLeast, uint64(c.size)+length, c.limit)}
	}
	c.size += int64(length)
	if length == 0 && c.open {
		if c.empty++; c.empty > MaxEmptyFragments {
			return &Violation{closePolicyViolation, "too many empty fragments"}
		}
	}
	return nil
}

func (c *Checker) beginMessage() {
	c.size, c.empty = 0, 0
	if !c.deflate {
		return
	}
	if c.read >= maxRead {
		n := copy(c.compressed, c.compressed[c.read:])
		c.compressed, c.read = c.compressed[:n], 0
	}
	c.compressed = append(c.compressed, c.header[0]&CompressedBit != 0)
}
