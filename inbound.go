package websocket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// inbound checks the frames of one client before gorilla sees them, because
// gorilla lets through what RFC 6455 forbids: RSV1 on control frames and
// continuations, lengths that are not minimal, one-byte Close payloads, and any
// number of empty fragments. It also paces the client. The readPump owns it.
type inbound struct {
	limit int64 // bytes of one message on the wire

	header  [maxInboundHeader]byte
	have    uint8  // bytes of header
	deflate bool   // RSV1 may be set on the first frame of a message
	length  uint64 // of the current frame's payload
	payload uint64 // of it, still to come
	// compressed tells it of each message that has come, if any can be; begun is
	// how many of them have been read. The others are no more than gorilla's buffer
	// holds.
	compressed []bool
	begun      int32
	open       bool  // a fragmented message has begun
	empty      uint8 // empty fragments of the current message
	pinged     bool
	size       int64 // of the current message
	violation  *CloseError

	messages pace
	bytes    pace
	late     int64 // hub clock when pacing began to delay, or 0 after a break
	delayed  int64 // hub clock when it did last

	pong string // payload of the latest ping, if pinged, answered before a message is handled or more is read
}

// begin sets the limits for a connection of which nothing has been read.
func (in *inbound) begin(config *Config, deflate bool) {
	in.deflate = deflate
	in.limit = readLimit(config.MaxMessageSize)
	in.messages = newPace(config.MessageRate)
	in.bytes = newPace(config.ByteRate)
}

const (
	maxInboundHeader  = 14 // RFC 6455 section 5.2, with mask
	maskLength        = 4
	maxEmptyFragments = 128
	maxBegun          = 64 // messages read before compressed is cut
)

var errProtocol = errors.New("websocket: protocol error")

// check takes note of the frames in b and returns how many of its bytes may be
// passed on. What comes before a violation is passed on first.
func (in *inbound) check(b []byte) int {
	for n := 0; n < len(b); {
		if in.payload > 0 {
			k := min(in.payload, uint64(len(b)-n))
			in.payload -= k
			n += int(k)
			continue
		}
		start := n
		for in.have < 2 || int(in.have) < in.headerLength() {
			if n == len(b) {
				return n
			}
			in.header[in.have] = b[n]
			if in.have == 0 && in.deflate && isData(b[n]) {
				b[n] &^= compressedBit // we inflate by ourselves
			}
			in.have++
			n++
			if in.have == 2 {
				in.violation = in.checkStart()
			}
			if in.violation == nil && in.have >= 2 && int(in.have) == in.headerLength()-maskLength {
				in.violation = in.checkLength()
			}
			if in.violation != nil {
				return start
			}
		}
		in.payload = in.length
		in.have = 0
	}
	return len(b)
}

func isData(first byte) bool { return first&0x0f == opText || first&0x0f == opBinary }

// nextCompressed tells whether the message that is read next is compressed.
func (in *inbound) nextCompressed() bool {
	if !in.deflate {
		return false
	}
	compressed := in.compressed[in.begun]
	if in.begun++; int(in.begun) == len(in.compressed) {
		in.compressed, in.begun = in.compressed[:0], 0
	}
	return compressed
}

// headerLength is known once two bytes are there (RFC 6455 section 5.2).
func (in *inbound) headerLength() int {
	switch in.header[1] & 0x7f {
	case 126:
		return 8
	case 127:
		return 14
	default:
		return 6
	}
}

func protocolError(format string, args ...any) *CloseError {
	return &CloseError{Code: CloseProtocolError, Reason: fmt.Sprintf(format, args...)}
}

// checkStart checks the first two bytes of a frame.
func (in *inbound) checkStart() *CloseError {
	first, second := in.header[0], in.header[1]
	final, opcode, length := first&finalBit != 0, first&0x0f, second&0x7f
	switch {
	case first&0x30 != 0:
		return protocolError("reserved bit RSV2 or RSV3 is set") // section 5.2
	case second&0x80 == 0:
		return protocolError("frame is not masked") // section 5.1
	case opcode > opBinary && opcode < opClose || opcode > opPong:
		return protocolError("reserved opcode %#x", opcode) // section 5.2
	case opcode >= opClose && !final:
		return protocolError("control frame is fragmented") // section 5.5
	case opcode >= opClose && length > maxControlPayload:
		return protocolError("control frame is longer than %d bytes", maxControlPayload) // section 5.5
	case opcode == opClose && length == 1:
		return protocolError("Close frame with half a status code") // section 5.5.1
	case first&compressedBit != 0 && (!in.deflate || opcode == 0 || opcode >= opClose):
		return protocolError("reserved bit RSV1 is set") // RFC 7692 section 6.1
	case opcode == 0 && !in.open:
		return protocolError("continuation of no message") // section 5.4
	case opcode != 0 && opcode < opClose && in.open:
		return protocolError("new message inside a fragmented one") // section 5.4
	}
	return nil
}

// checkLength checks a header but for its mask and takes note of its frame.
func (in *inbound) checkLength() *CloseError {
	length := uint64(in.header[1] & 0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(in.header[2:]))
		if length < 126 {
			return protocolError("length is not in its shortest form") // section 5.2
		}
	case 127:
		length = binary.BigEndian.Uint64(in.header[2:])
		switch {
		case length>>63 != 0:
			return protocolError("length has its top bit set") // section 5.2
		case length <= 0xffff:
			return protocolError("length is not in its shortest form") // section 5.2
		}
	}
	in.length = length
	in.messages.spend(1)
	opcode := in.header[0] & 0x0f
	if opcode >= opClose {
		return nil
	}
	if opcode != 0 {
		in.size, in.empty = 0, 0
		if in.deflate {
			if in.begun >= maxBegun {
				n := copy(in.compressed, in.compressed[in.begun:])
				in.compressed, in.begun = in.compressed[:n], 0
			}
			in.compressed = append(in.compressed, in.header[0]&compressedBit != 0)
		}
	}
	in.open = in.header[0]&finalBit == 0
	if length > uint64(in.limit-in.size) {
		return &CloseError{Code: CloseMessageTooBig, Reason: fmt.Sprintf("message is larger than %d bytes on the wire", in.limit)}
	}
	in.size += int64(length)
	if length == 0 && in.open {
		if in.empty++; in.empty > maxEmptyFragments {
			return &CloseError{Code: ClosePolicyViolation, Reason: "too many empty fragments"}
		}
	}
	return nil
}

// pace is a token bucket in the form of a clock that runs ahead: spending moves
// it on, and whoever is ahead of real time by more than the burst has to wait
// (the generic cell rate algorithm, ITU-T I.371).
type pace struct {
	each  float64 // nanoseconds that one unit costs; 0 means no limit
	ahead float64 // the clock
}

// newPace allows rate units a second, and those of paceBurst at once.
func newPace(rate int64) pace {
	if rate <= 0 {
		return pace{}
	}
	return pace{each: float64(time.Second) / float64(rate)}
}

func (p *pace) spend(units int) { p.ahead += p.each * float64(units) }

// wait returns how long to wait at the time now.
func (p *pace) wait(now int64) time.Duration {
	p.ahead = max(p.ahead, float64(now))
	return time.Duration(p.ahead-float64(now)) - paceBurst
}

const (
	paceBurst    = 2 * time.Second  // of a client's rates may come at once
	floodMinimum = 10 * time.Second // of delays without a break is a flood
	floodBreak   = time.Second
	maxPause     = 100 * time.Millisecond
)

// admit waits until the client may be read from again, which is when its silence
// begins to count. Answers to pings go out first: of those that came with no
// message between them only the last is answered (RFC 6455 section 5.5.3).
func (c *conn) admit() error {
	in := &c.in
	c.answerPing()
	if in.violation != nil {
		c.fail(in.violation.Code, in.violation.Reason)
		return errProtocol
	}
	for {
		now := c.hub.clock()
		c.lastRead.Store(now) // its silence counts from here
		delay := max(in.messages.wait(now), in.bytes.wait(now))
		switch {
		case delay <= 0:
			if now-in.delayed > int64(floodBreak) {
				in.late = 0
			}
			return nil
		case in.late == 0:
			in.late = now
		case now-in.late > int64(floodMinimum):
			c.fail(ClosePolicyViolation, "message rate limit exceeded for too long")
			return errProtocol
		}
		in.delayed = now
		if c.ended() {
			return nil // let reading find out how
		}
		time.Sleep(min(delay, maxPause))
	}
}
