// Package wire implements the part of RFC 6455 that the load generator and the
// systems without a library need: it parses and writes frames.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Opcodes of RFC 6455.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// ErrFrame is wrapped by every error of Parse and Assembler.
var ErrFrame = errors.New("wire: bad frame")

// Frame is one parsed frame. Payload aliases the parsed bytes.
type Frame struct {
	Fin     bool
	RSV1    bool
	Op      byte
	Payload []byte
}

// Parse reads one frame from the start of b. n is the frame's length in bytes, or
// 0 if b does not hold the whole frame yet. masked says whether the frame must be
// masked; Parse unmasks the payload in place. limit is the largest payload in
// bytes.
func Parse(b []byte, masked bool, limit int) (f Frame, n int, err error) {
	if len(b) < 2 {
		return f, 0, nil
	}
	f.Fin, f.RSV1, f.Op = b[0]&0x80 != 0, b[0]&0x40 != 0, b[0]&0x0f
	if b[0]&0x30 != 0 {
		return f, 0, fmt.Errorf("%w: reserved bits %#x", ErrFrame, b[0])
	}
	if (b[1]&0x80 != 0) != masked {
		return f, 0, fmt.Errorf("%w: masked is %t, want %t", ErrFrame, !masked, masked)
	}
	size, at := int(b[1]&0x7f), 2
	switch size {
	case 126:
		if len(b) < 4 {
			return f, 0, nil
		}
		size, at = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return f, 0, nil
		}
		v := binary.BigEndian.Uint64(b[2:])
		if v > uint64(limit) {
			return f, 0, fmt.Errorf("%w: %d bytes, limit %d", ErrFrame, v, limit)
		}
		size, at = int(v), 10
	}
	switch {
	case size > limit:
		return f, 0, fmt.Errorf("%w: %d bytes, limit %d", ErrFrame, size, limit)
	case f.Op > Binary && f.Op < Close, f.Op > Pong:
		return f, 0, fmt.Errorf("%w: opcode %#x", ErrFrame, f.Op)
	case f.Op >= Close && (!f.Fin || size > 125 || f.RSV1):
		return f, 0, fmt.Errorf("%w: control frame of %d bytes, header %#x", ErrFrame, size, b[0])
	}
	var key [4]byte
	if masked {
		if len(b) < at+4 {
			return f, 0, nil
		}
		copy(key[:], b[at:])
		at += 4
	}
	if len(b) < at+size {
		return f, 0, nil
	}
	f.Payload = b[at : at+size : at+size]
	if masked {
		Mask(f.Payload, key)
	}
	return f, at + size, nil
}

// Mask applies key to b in place.
func Mask(b []byte, key [4]byte) {
	k := uint64(binary.LittleEndian.Uint32(key[:]))
	k |= k << 32
	i := 0
	for ; i+8 <= len(b); i += 8 {
		binary.LittleEndian.PutUint64(b[i:], binary.LittleEndian.Uint64(b[i:])^k)
	}
	for ; i < len(b); i++ {
		b[i] ^= key[i&3]
	}
}

// AppendServer appends an unmasked frame to dst. first is the first byte of the
// header: the opcode with the bits FIN and RSV1.
func AppendServer(dst []byte, first byte, p []byte) []byte {
	return append(appendHeader(dst, first, 0, len(p)), p...)
}

// AppendClient appends a masked frame with FIN set to dst.
func AppendClient(dst []byte, op byte, p []byte, key [4]byte) []byte {
	dst = appendHeader(dst, 0x80|op, 0x80, len(p))
	dst = append(dst, key[:]...)
	at := len(dst)
	dst = append(dst, p...)
	Mask(dst[at:], key)
	return dst
}

func appendHeader(dst []byte, first, mask byte, size int) []byte {
	switch {
	case size < 126:
		return append(dst, first, mask|byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, first, mask|126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, mask|127), uint64(size))
	}
}

// Assembler joins the fragments of messages. The zero value is ready to use.
type Assembler struct {
	buf    []byte
	op     byte
	rsv1   bool
	inside bool
}

// Add adds the next data frame. done is true if the frame completes a message.
// msg aliases the frame or the assembler's buffer and is valid until the next
// call. limit is the largest message in bytes.
func (a *Assembler) Add(f Frame, limit int) (op byte, rsv1 bool, msg []byte, done bool, err error) {
	if f.Op == Continuation {
		if !a.inside {
			return 0, false, nil, false, fmt.Errorf("%w: continuation frame outside a message", ErrFrame)
		}
	} else {
		if a.inside {
			return 0, false, nil, false, fmt.Errorf("%w: new message before the end of the last one", ErrFrame)
		}
		if f.Fin {
			return f.Op, f.RSV1, f.Payload, true, nil
		}
		a.buf, a.op, a.rsv1, a.inside = a.buf[:0], f.Op, f.RSV1, true
	}
	if len(a.buf)+len(f.Payload) > limit {
		return 0, false, nil, false, fmt.Errorf("%w: message over %d bytes", ErrFrame, limit)
	}
	a.buf = append(a.buf, f.Payload...)
	if !f.Fin {
		return 0, false, nil, false, nil
	}
	a.inside = false
	return a.op, a.rsv1, a.buf, true, nil
}

// GUID is appended to a handshake's key before hashing (RFC 6455, section 1.3).
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
