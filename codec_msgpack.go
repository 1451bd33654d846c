package websocket

import (
	"encoding/binary"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// MsgpackCodec encodes messages as MessagePack in binary frames: a map with the keys
// type, channel, data, timestamp, client_id and, if they are not empty, id, offset, key,
// room, except_self and trace. Data is bin, or nil if it is empty. The data of control messages,
// "error" and "gap" is JSON. The zero value is ready for use.
type MsgpackCodec struct{}

var _ AppendCodec = MsgpackCodec{}

// Name returns "msgpack".
func (MsgpackCodec) Name() string { return "msgpack" }

// Index returns 3.
func (MsgpackCodec) Index() int { return 3 }

// WebSocketMessageType returns BinaryMessage.
func (MsgpackCodec) WebSocketMessageType() int { return BinaryMessage }

// Marshal returns msg as a MessagePack map. It returns a *MessageTooLargeError if msg is
// larger than about 1.3 GiB. In strings it replaces bytes that are not UTF-8 by U+FFFD.
func (c MsgpackCodec) Marshal(msg *Message) ([]byte, error) { return c.AppendMarshal(nil, msg) }

// AppendMarshal appends msg to dst, encoded as by Marshal.
func (c MsgpackCodec) AppendMarshal(dst []byte, msg *Message) ([]byte, error) {
	size := len(msg.Type) + len(msg.Channel) + len(msg.Data) + len(msg.ClientID) + len(msg.ID) + len(msg.Key) + len(msg.Trace)
	if size > math.MaxUint32/3 { // U+FFFD takes three bytes and may replace one
		return dst, &MessageTooLargeError{Size: int64(size), Limit: math.MaxUint32 / 3, LimitedBy: c.Name()}
	}
	// The keys of type to id take 39 bytes, and the heads of their values at most 34.
	const overhead = 80
	dst = slices.Grow(dst, overhead+rareOverhead(msg)+size)
	keys := byte(5)
	if msg.ID != "" {
		keys++
	}
	if msg.Offset != 0 {
		keys++
	}
	if msg.Key != "" {
		keys++
	}
	if msg.Room {
		keys++
	}
	if msg.ExceptSelf {
		keys++
	}
	if msg.Trace != "" {
		keys++
	}
	dst = append(dst, msgpcode.FixedMapLow|keys)
	dst = append(dst, "\xa4type"...)
	dst = appendMsgpackString(dst, msg.Type)
	dst = append(dst, "\xa7channel"...)
	dst = appendMsgpackString(dst, msg.Channel)
	dst = append(dst, "\xa4data"...)
	dst = appendMsgpackData(dst, msg.Data)
	dst = append(dst, "\xa9timestamp"...)
	dst = append(dst, msgpcode.Int64)
	dst = binary.BigEndian.AppendUint64(dst, uint64(msg.Timestamp))
	dst = append(dst, "\xa9client_id"...)
	dst = appendMsgpackString(dst, msg.ClientID)
	if msg.ID != "" {
		dst = append(dst, "\xa2id"...)
		dst = appendMsgpackString(dst, msg.ID)
	}
	if msg.Offset != 0 {
		dst = append(dst, "\xa6offset"...)
		dst = append(dst, msgpcode.Uint64)
		dst = binary.BigEndian.AppendUint64(dst, msg.Offset)
	}
	if msg.Key != "" {
		dst = append(dst, "\xa3key"...)
		dst = appendMsgpackString(dst, msg.Key)
	}
	if msg.Room {
		dst = append(dst, "\xa4room"...)
		dst = append(dst, msgpcode.True)
	}
	if msg.ExceptSelf {
		dst = append(dst, "\xabexcept_self"...)
		dst = append(dst, msgpcode.True)
	}
	if msg.Trace != "" {
		dst = append(dst, "\xa5trace"...)
		dst = appendMsgpackString(dst, msg.Trace)
	}
	return dst, nil
}

func appendMsgpackString(dst []byte, s string) []byte {
	s = validText(s)
	switch n := len(s); {
	case n < 32:
		dst = append(dst, msgpcode.FixedStrLow|byte(n))
	case n <= math.MaxUint8:
		dst = append(dst, msgpcode.Str8, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, msgpcode.Str16), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, msgpcode.Str32), uint32(n))
	}
	return append(dst, s...)
}

func appendMsgpackData(dst, data []byte) []byte {
	switch n := len(data); {
	case n == 0:
		return append(dst, msgpcode.Nil)
	case n <= math.MaxUint8:
		dst = append(dst, msgpcode.Bin8, byte(n))
	case n <= math.MaxUint16:
		dst = binary.BigEndian.AppendUint16(append(dst, msgpcode.Bin16), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint32(append(dst, msgpcode.Bin32), uint32(n))
	}
	return append(dst, data...)
}

// Unmarshal decodes a MessagePack map with string keys in any order. The last of several
// equal keys counts, and unknown keys are skipped. Strings are str or nil, data is bin,
// str or nil, and timestamp is any integer or nil. A room or except_self that is not true
// counts as false, and a trace that is not str as empty. Errors wrap ErrMalformed and leave msg empty.
func (MsgpackCodec) Unmarshal(data []byte, msg *Message) error {
	*msg = Message{}
	r := msgpackReader{buf: data}
	var e envelope
	for n := r.mapLen(); n > 0 && r.reason == ""; n-- {
		r.member(&e)
	}
	if r.reason == "" && r.pos < len(data) {
		r.fail("bytes after the message")
	}
	if r.reason != "" {
		return malformed("msgpack", r.pos, r.reason)
	}
	e.message(msg)
	return nil
}

// msgpackReader reads MessagePack. After the first fault, reason is set, pos is the
// position of the fault, and every read returns a zero value.
type msgpackReader struct {
	buf    []byte
	pos    int
	reason string
}

// fail records the first fault.
func (r *msgpackReader) fail(reason string) {
	if r.reason == "" {
		r.reason = reason
	}
}

// member reads one key and its value into e.
func (r *msgpackReader) member(e *envelope) {
	key := r.text("map key")
	if r.reason != "" {
		return
	}
	switch string(key) {
	case "type":
		e.typ = r.text("type")
	case "channel":
		e.channel = r.text("channel")
	case "data":
		e.data = r.payload()
	case "timestamp":
		e.timestamp = r.integer()
	case "client_id":
		e.clientID = r.text("client_id")
	case "id":
		e.id = r.text("id")
	case "offset":
		start := r.pos
		r.skip()
		if r.reason == "" {
			e.offset = msgpackOffset(r.buf[start:r.pos])
		}
	case "key":
		e.key = r.text("key")
	case "room":
		e.room = r.isTrue()
	case "except_self":
		e.exceptSelf = r.isTrue()
	case "trace":
		start := r.pos
		r.skip()
		if r.reason == "" {
			e.trace = msgpackText(r.buf[start:r.pos])
		}
	default:
		r.skip()
	}
}

// isTrue reads a value and reports whether it is true.
func (r *msgpackReader) isTrue() bool {
	start := r.pos
	r.skip()
	return r.reason == "" && r.buf[start] == msgpcode.True
}

// msgpackText returns the bytes of a str, and nil for other values.
func msgpackText(value []byte) []byte {
	r := msgpackReader{buf: value}
	text := r.text("")
	if r.reason != "" {
		return nil
	}
	return text
}

// msgpackOffset returns an integer that is not negative, and 0 for other values.
func msgpackOffset(value []byte) uint64 {
	r := msgpackReader{buf: value}
	n := r.integer()
	if r.reason != "" || n < 0 {
		return 0
	}
	return uint64(n)
}

// mapLen reads the head of the message, which has to be a map, and returns the number
// of its members.
func (r *msgpackReader) mapLen() int {
	start := r.pos
	c := r.code()
	var n uint64
	switch {
	case msgpcode.IsFixedMap(c):
		n = uint64(c & msgpcode.FixedMapMask)
	case c == msgpcode.Map16:
		n = r.uint(2)
	case c == msgpcode.Map32:
		n = r.uint(4)
	default:
		r.pos = start
		r.fail("message is not a map")
		return 0
	}
	if n > uint64(len(r.buf)-r.pos)/2 {
		r.pos = start
		r.fail("map is longer than the message")
		return 0
	}
	return int(n)
}

// text reads a str or nil.
func (r *msgpackReader) text(name string) []byte {
	start := r.pos
	c := r.code()
	n, ok := r.strLen(c)
	switch {
	case ok:
		s := r.bytes(n)
		if !utf8.Valid(s) {
			r.pos = start
			r.fail(name + " is not valid UTF-8")
		}
		return s
	case c != msgpcode.Nil:
		r.pos = start
		r.fail(name + " is not a string")
	}
	return nil
}

// payload reads a bin, str or nil.
func (r *msgpackReader) payload() []byte {
	start := r.pos
	c := r.code()
	n, ok := r.binLen(c)
	if !ok {
		n, ok = r.strLen(c)
	}
	switch {
	case ok:
		return r.bytes(n)
	case c != msgpcode.Nil:
		r.pos = start
		r.fail("data is neither bin, str nor nil")
	}
	return nil
}

// integer reads an integer of any size that fits in an int64, or nil.
func (r *msgpackReader) integer() int64 {
	start := r.pos
	switch c := r.code(); c {
	case msgpcode.Nil:
		return 0
	case msgpcode.Int8:
		return int64(int8(r.uint(1)))
	case msgpcode.Int16:
		return int64(int16(r.uint(2)))
	case msgpcode.Int32:
		return int64(int32(r.uint(4)))
	case msgpcode.Int64:
		return int64(r.uint(8))
	case msgpcode.Uint8:
		return int64(r.uint(1))
	case msgpcode.Uint16:
		return int64(r.uint(2))
	case msgpcode.Uint32:
		return int64(r.uint(4))
	case msgpcode.Uint64:
		v := r.uint(8)
		if v > math.MaxInt64 {
			r.pos = start
			r.fail("timestamp is greater than an int64 holds")
		}
		return int64(v)
	default:
		if !msgpcode.IsFixedNum(c) {
			r.pos = start
			r.fail("timestamp is not an integer")
		}
		return int64(int8(c))
	}
}

// skip skips one value. It is not recursive, so nesting does not make the stack grow.
func (r *msgpackReader) skip() {
	for pending := uint64(1); pending > 0 && r.reason == ""; pending-- {
		start := r.pos
		body, items := r.skipHead()
		r.bytes(body)
		pending += items
		// Every value takes at least one byte.
		if pending-1 > uint64(len(r.buf)-r.pos) {
			r.pos = start
			r.fail("array or map is longer than the message")
		}
	}
}

// skipHead reads the head of a value. It returns the number of content bytes that
// follow, and the number of values that the value contains.
func (r *msgpackReader) skipHead() (body, items uint64) {
	start := r.pos
	c := r.code()
	if n, ok := r.strLen(c); ok {
		return n, 0
	}
	if n, ok := r.binLen(c); ok {
		return n, 0
	}
	switch {
	case msgpcode.IsFixedNum(c):
		return 0, 0
	case msgpcode.IsFixedArray(c):
		return 0, uint64(c & msgpcode.FixedArrayMask)
	case msgpcode.IsFixedMap(c):
		return 0, 2 * uint64(c&msgpcode.FixedMapMask)
	}
	switch c {
	case msgpcode.Nil, msgpcode.False, msgpcode.True:
		return 0, 0
	case msgpcode.Uint8, msgpcode.Int8:
		return 1, 0
	case msgpcode.Uint16, msgpcode.Int16:
		return 2, 0
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float:
		return 4, 0
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return 8, 0
	case msgpcode.Array16:
		return 0, r.uint(2)
	case msgpcode.Array32:
		return 0, r.uint(4)
	case msgpcode.Map16:
		return 0, 2 * r.uint(2)
	case msgpcode.Map32:
		return 0, 2 * r.uint(4)
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		return 1 + 1<<(c-msgpcode.FixExt1), 0 // the extension type takes one byte
	case msgpcode.Ext8:
		return 1 + r.uint(1), 0
	case msgpcode.Ext16:
		return 1 + r.uint(2), 0
	case msgpcode.Ext32:
		return 1 + r.uint(4), 0
	}
	r.pos = start
	r.fail("unknown format byte")
	return 0, 0
}

// strLen returns the length of the str whose format byte is c.
func (r *msgpackReader) strLen(c byte) (uint64, bool) {
	switch {
	case msgpcode.IsFixedString(c):
		return uint64(c & msgpcode.FixedStrMask), true
	case c == msgpcode.Str8:
		return r.uint(1), true
	case c == msgpcode.Str16:
		return r.uint(2), true
	case c == msgpcode.Str32:
		return r.uint(4), true
	}
	return 0, false
}

// binLen returns the length of the bin whose format byte is c.
func (r *msgpackReader) binLen(c byte) (uint64, bool) {
	switch c {
	case msgpcode.Bin8:
		return r.uint(1), true
	case msgpcode.Bin16:
		return r.uint(2), true
	case msgpcode.Bin32:
		return r.uint(4), true
	}
	return 0, false
}

// code reads a format byte.
func (r *msgpackReader) code() byte { return byte(r.uint(1)) }

// uint reads a big-endian unsigned integer of n bytes.
func (r *msgpackReader) uint(n uint64) uint64 {
	var v uint64
	for _, c := range r.bytes(n) {
		v = v<<8 | uint64(c)
	}
	return v
}

// bytes returns the next n bytes, or nil if there are fewer.
func (r *msgpackReader) bytes(n uint64) []byte {
	if r.reason != "" || n > uint64(len(r.buf)-r.pos) {
		r.fail("message ends too early")
		return nil
	}
	b := r.buf[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}
