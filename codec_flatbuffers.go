package websocket

import (
	"encoding/binary"
	"sync"
	"unicode/utf8"

	flatbuffers "github.com/google/flatbuffers/go"
)

// FlatBuffersCodec encodes messages as the WsMessage of proto/message.fbs, in binary
// frames. The data of control messages, "error" and "gap" is JSON. The zero value is
// ready for use.
type FlatBuffersCodec struct{}

var _ AppendCodec = FlatBuffersCodec{}

// Vtable slots of the fields of WsMessage, in the order of the schema.
const (
	flatType = iota
	flatChannel
	flatData
	flatTimestamp
	flatClientID
	flatID
	flatOffset
	flatKey
	flatRoom
	flatExceptSelf
	flatTrace
	flatSlots
)

const (
	// maxFlatMessage is the maximum size in bytes of a message's strings and
	// payload. A Builder doubles its buffer and panics at 2 GiB.
	maxFlatMessage = 512 << 20
	// maxPooledBuilder is the size in bytes of the largest Builder that is pooled.
	// It is enough for messages of the default MaxMessageSize.
	maxPooledBuilder = 256 << 10
)

var builderPool = sync.Pool{New: func() any { return flatbuffers.NewBuilder(1024) }}

// Name returns "flatbuffers".
func (FlatBuffersCodec) Name() string { return "flatbuffers" }

// Index returns 2.
func (FlatBuffersCodec) Index() int { return 2 }

// WebSocketMessageType returns BinaryMessage.
func (FlatBuffersCodec) WebSocketMessageType() int { return BinaryMessage }

// Marshal returns msg as a FlatBuffer whose root is a WsMessage. It returns
// a *MessageTooLargeError if msg is larger than 512 MiB. In strings it replaces bytes
// that are not UTF-8 by U+FFFD.
func (c FlatBuffersCodec) Marshal(msg *Message) ([]byte, error) { return c.AppendMarshal(nil, msg) }

// AppendMarshal appends msg to dst, encoded as by Marshal. Offsets are relative to the
// first appended byte.
func (c FlatBuffersCodec) AppendMarshal(dst []byte, msg *Message) ([]byte, error) {
	size := len(msg.Type) + len(msg.Channel) + len(msg.Data) + len(msg.ClientID) + len(msg.ID) + len(msg.Key) + len(msg.Trace)
	if size > maxFlatMessage {
		return dst, &MessageTooLargeError{Size: int64(size), Limit: maxFlatMessage, LimitedBy: c.Name()}
	}
	b := builderPool.Get().(*flatbuffers.Builder)
	b.Reset()
	buildFlat(b, msg)
	dst = append(dst, b.FinishedBytes()...)
	if cap(b.Bytes) <= maxPooledBuilder {
		builderPool.Put(b)
	}
	return dst, nil
}

// buildFlat writes msg into b.
func buildFlat(b *flatbuffers.Builder, msg *Message) {
	typ := b.CreateString(validText(msg.Type))
	channel := b.CreateString(validText(msg.Channel))
	var data, id, key, trace flatbuffers.UOffsetT
	if len(msg.Data) > 0 {
		data = b.CreateByteVector(msg.Data)
	}
	clientID := b.CreateString(validText(msg.ClientID))
	if msg.ID != "" {
		id = b.CreateString(validText(msg.ID))
	}
	if msg.Key != "" {
		key = b.CreateString(validText(msg.Key))
	}
	if msg.Trace != "" {
		trace = b.CreateString(validText(msg.Trace))
	}
	b.StartObject(flatSlots)
	b.PrependUOffsetTSlot(flatType, typ, 0)
	b.PrependUOffsetTSlot(flatChannel, channel, 0)
	b.PrependUOffsetTSlot(flatData, data, 0)
	b.PrependInt64Slot(flatTimestamp, msg.Timestamp, 0)
	b.PrependUOffsetTSlot(flatClientID, clientID, 0)
	b.PrependUOffsetTSlot(flatID, id, 0)
	b.PrependUint64Slot(flatOffset, msg.Offset, 0)
	b.PrependUOffsetTSlot(flatKey, key, 0)
	b.PrependBoolSlot(flatRoom, msg.Room, false)
	b.PrependBoolSlot(flatExceptSelf, msg.ExceptSelf, false)
	b.PrependUOffsetTSlot(flatTrace, trace, 0)
	b.Finish(b.EndObject())
}

// Unmarshal decodes a FlatBuffer whose root is a WsMessage, in any layout that the
// format allows. It checks every offset and length before it uses it. Errors wrap
// ErrMalformed and leave msg empty.
func (FlatBuffersCodec) Unmarshal(data []byte, msg *Message) error {
	*msg = Message{}
	t, err := openFlatTable(data)
	if err != nil {
		return err
	}
	var e envelope
	if e.typ, err = t.text(flatType, "type"); err != nil {
		return err
	}
	if e.channel, err = t.text(flatChannel, "channel"); err != nil {
		return err
	}
	if e.data, err = t.vector(flatData, "data"); err != nil {
		return err
	}
	if e.timestamp, err = t.int64(flatTimestamp, "timestamp"); err != nil {
		return err
	}
	if e.clientID, err = t.text(flatClientID, "client_id"); err != nil {
		return err
	}
	if e.id, err = t.text(flatID, "id"); err != nil {
		return err
	}
	offset, err := t.int64(flatOffset, "offset")
	if err != nil {
		return err
	}
	e.offset = uint64(offset)
	if e.key, err = t.text(flatKey, "key"); err != nil {
		return err
	}
	if e.room, err = t.bool(flatRoom, "room"); err != nil {
		return err
	}
	if e.exceptSelf, err = t.bool(flatExceptSelf, "except_self"); err != nil {
		return err
	}
	if e.trace, err = t.text(flatTrace, "trace"); err != nil {
		return err
	}
	e.message(msg)
	return nil
}

// flatTable reads the root table of a FlatBuffer. Unlike flatbuffers.Table it does not
// trust its input. Positions are int64 on every platform, so that sums of the format's
// 32-bit offsets cannot overflow.
type flatTable struct {
	buf    []byte
	pos    int64 // position of the table
	vtable int64 // position of the vtable
	slots  int64 // number of slots in the vtable
}

// openFlatTable finds the root table and its vtable.
func openFlatTable(buf []byte) (flatTable, error) {
	t := flatTable{buf: buf}
	root, ok := t.uint32(0)
	if !ok {
		return t, malformed("flatbuffers", 0, "no room for the root offset")
	}
	t.pos = int64(root)
	offset, ok := t.uint32(t.pos)
	if !ok {
		return t, malformed("flatbuffers", 0, "root table is outside the buffer")
	}
	t.vtable = t.pos - int64(int32(offset))
	size, ok := t.uint16(t.vtable)
	if !ok {
		return t, malformed("flatbuffers", int(t.pos), "vtable is outside the buffer")
	}
	if size < 4 || size%2 != 0 || !t.holds(t.vtable, int64(size)) {
		return t, malformed("flatbuffers", int(t.vtable), "vtable has an impossible size")
	}
	t.slots = (int64(size) - 4) / 2
	return t, nil
}

// field returns the position of a field, or 0 if the table does not have it.
func (t *flatTable) field(slot int64) int64 {
	if slot >= t.slots {
		return 0
	}
	offset, _ := t.uint16(t.vtable + 4 + 2*slot) // inside the vtable, so inside the buffer
	if offset == 0 {
		return 0
	}
	return t.pos + int64(offset)
}

// vector returns the bytes of a string or byte vector, or nil if the table does not
// have it.
func (t *flatTable) vector(slot int64, name string) ([]byte, error) {
	field := t.field(slot)
	if field == 0 {
		return nil, nil
	}
	offset, ok := t.uint32(field)
	if !ok {
		return nil, malformed("flatbuffers", int(t.pos), name+" is outside the buffer")
	}
	start := field + int64(offset)
	length, ok := t.uint32(start)
	if !ok {
		return nil, malformed("flatbuffers", int(field), name+" points outside the buffer")
	}
	start += 4
	if !t.holds(start, int64(length)) {
		return nil, malformed("flatbuffers", int(start-4), name+" is longer than the buffer")
	}
	return t.buf[start : start+int64(length)], nil
}

// text returns the bytes of a string in UTF-8, or nil if the table does not have it.
func (t *flatTable) text(slot int64, name string) ([]byte, error) {
	s, err := t.vector(slot, name)
	if err == nil && !utf8.Valid(s) {
		return nil, malformed("flatbuffers", int(t.field(slot)), name+" is not valid UTF-8")
	}
	return s, err
}

// int64 returns an integer, or 0 if the table does not have it.
func (t *flatTable) int64(slot int64, name string) (int64, error) {
	field := t.field(slot)
	if field == 0 {
		return 0, nil
	}
	if !t.holds(field, 8) {
		return 0, malformed("flatbuffers", int(t.pos), name+" is outside the buffer")
	}
	return int64(binary.LittleEndian.Uint64(t.buf[field:])), nil
}

// bool returns a boolean, or false if the table does not have it.
func (t *flatTable) bool(slot int64, name string) (bool, error) {
	field := t.field(slot)
	if field == 0 {
		return false, nil
	}
	if !t.holds(field, 1) {
		return false, malformed("flatbuffers", int(t.pos), name+" is outside the buffer")
	}
	return t.buf[field] != 0, nil
}

func (t *flatTable) uint32(pos int64) (uint32, bool) {
	if !t.holds(pos, 4) {
		return 0, false
	}
	return binary.LittleEndian.Uint32(t.buf[pos:]), true
}

func (t *flatTable) uint16(pos int64) (uint16, bool) {
	if !t.holds(pos, 2) {
		return 0, false
	}
	return binary.LittleEndian.Uint16(t.buf[pos:]), true
}

// holds reports whether n bytes at pos are inside the buffer.
func (t *flatTable) holds(pos, n int64) bool {
	return pos >= 0 && n <= int64(len(t.buf))-pos
}
