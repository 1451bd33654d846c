package websocket_test

import (
	"bytes"
	"encoding/binary"
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto/fbs"
)

// fromFlat reads a FlatBuffer with generated code, which trusts its input.
func fromFlat(wire []byte) websocket.Message {
	m := fbs.GetRootAsWsMessage(wire, 0)
	msg := websocket.Message{
		Type:      string(m.Type()),
		Channel:   string(m.Channel()),
		Timestamp: m.Timestamp(),
		ClientID:  string(m.ClientId()),
		ID:        string(m.Id()),
		Offset:    m.Offset(),
		Key:       string(m.Key()),

		Room:       m.Room(),
		ExceptSelf: m.ExceptSelf(),
		Trace:      string(m.Trace()),
	}
	if m.DataLength() > 0 {
		msg.Data = bytes.Clone(m.DataBytes())
	}
	return msg
}

func TestFlatBuffersIsReadByGeneratedCode(t *testing.T) {
	t.Parallel()
	for _, want := range []websocket.Message{{}, fullMessage(), {Timestamp: -1}, {Data: []byte("\x00")}, {ID: "x"}, {Room: true}, {ExceptSelf: true}, {Trace: "x"}, *benchMessage(4096)} {
		require.Equal(t, want, fromFlat(mustMarshal(t, websocket.FlatBuffersCodec{}, &want)))
	}
}

// flatFields returns one function per field of m, which adds the field with generated
// code.
func flatFields(b *flatbuffers.Builder, m *websocket.Message) []func() {
	id := b.CreateString(m.ID)
	data := b.CreateByteVector(m.Data)
	typ := b.CreateString(m.Type)
	clientID := b.CreateString(m.ClientID)
	channel := b.CreateString(m.Channel)
	return []func(){
		func() { fbs.WsMessageAddType(b, typ) },
		func() { fbs.WsMessageAddChannel(b, channel) },
		func() { fbs.WsMessageAddData(b, data) },
		func() { fbs.WsMessageAddTimestamp(b, m.Timestamp) },
		func() { fbs.WsMessageAddClientId(b, clientID) },
		func() { fbs.WsMessageAddId(b, id) },
	}
}

// TestFlatBuffersReadsEveryFieldOrder decodes a message whose fields were added in each
// possible order.
func TestFlatBuffersReadsEveryFieldOrder(t *testing.T) {
	t.Parallel()
	want := fullMessage()
	var permute func(order []int, rest []int)
	permute = func(order, rest []int) {
		if len(rest) == 0 {
			b := flatbuffers.NewBuilder(0)
			fields := flatFields(b, &want)
			fbs.WsMessageStart(b)
			for _, i := range order {
				fields[i]()
			}
			b.Finish(fbs.WsMessageEnd(b))
			var got websocket.Message
			require.NoError(t, websocket.FlatBuffersCodec{}.Unmarshal(b.FinishedBytes(), &got))
			require.Equal(t, want, got, "order %v", order)
			return
		}
		for i := range rest {
			next := append(append([]int{}, rest[:i]...), rest[i+1:]...)
			permute(append(order, rest[i]), next)
		}
	}
	permute(nil, []int{0, 1, 2, 3, 4, 5})
}

func TestFlatBuffersReadsOtherLayouts(t *testing.T) {
	t.Parallel()
	want := fullMessage()
	build := func(finish func(b *flatbuffers.Builder, table flatbuffers.UOffsetT)) []byte {
		b := flatbuffers.NewBuilder(0)
		fields := flatFields(b, &want)
		fbs.WsMessageStart(b)
		for _, add := range fields {
			add()
		}
		finish(b, fbs.WsMessageEnd(b))
		return b.FinishedBytes()
	}
	tests := map[string][]byte{
		"file identifier": build(func(b *flatbuffers.Builder, table flatbuffers.UOffsetT) {
			b.FinishWithFileIdentifier(table, []byte("HYPG"))
		}),
		"bytes after the end": append(build(func(b *flatbuffers.Builder, table flatbuffers.UOffsetT) { b.Finish(table) }), 1, 2, 3),
		"newer schema": func() []byte {
			b := flatbuffers.NewBuilder(0)
			fields := flatFields(b, &want)
			b.StartObject(13)
			b.PrependInt32Slot(11, 7, 0)
			for _, add := range fields {
				add()
			}
			b.PrependByteSlot(12, 1, 0)
			b.Finish(b.EndObject())
			return b.FinishedBytes()
		}(),
		"vtable shared with another table": func() []byte {
			b := flatbuffers.NewBuilder(0)
			for range 2 {
				fields := flatFields(b, &want)
				fbs.WsMessageStart(b)
				for _, add := range fields {
					add()
				}
				table := fbs.WsMessageEnd(b)
				b.Finish(table)
			}
			return b.FinishedBytes()
		}(),
		"vtable behind the table": behindTheTable(&want),
	}
	for name, wire := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, fromFlat(wire))
			var got websocket.Message
			require.NoError(t, websocket.FlatBuffersCodec{}.Unmarshal(wire, &got))
			require.Equal(t, want, got)
		})
	}
}

// behindTheTable returns a FlatBuffer with the vtable after the table: root offset,
// table, vtable, vectors.
func behindTheTable(m *websocket.Message) []byte {
	le := binary.LittleEndian
	const table, size = 4, 36 // the table: vtable offset, five offsets, padding, timestamp
	const vtable = table + size
	b := le.AppendUint32(nil, table)
	b = append(b, make([]byte, size)...)
	vtableOffset := table - vtable
	le.PutUint32(b[table:], uint32(int32(vtableOffset)))
	// vtable size, table size, then type, channel, data, timestamp, client_id, id
	for _, v := range []uint16{16, size, 4, 8, 12, 28, 16, 20} {
		b = le.AppendUint16(b, v)
	}
	le.PutUint64(b[table+28:], uint64(m.Timestamp))
	for field, s := range map[int]string{4: m.Type, 8: m.Channel, 12: string(m.Data), 16: m.ClientID, 20: m.ID} {
		le.PutUint32(b[table+field:], uint32(len(b)-table-field))
		b = le.AppendUint32(b, uint32(len(s)))
		b = append(append(b, s...), 0)
	}
	return b
}

// TestFlatBuffersKeepsLargeMessagesWhole encodes payloads around multiples of 64 KiB, for
// which HypGo's 16-bit arithmetic loses type, channel and client ID.
func TestFlatBuffersKeepsLargeMessagesWhole(t *testing.T) {
	t.Parallel()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 5*65536/16+1)
	var sizes []int
	for size := 65_000; size <= 66_500; size++ {
		sizes = append(sizes, size)
	}
	for multiple := 2; multiple <= 4; multiple++ {
		for d := -150; d <= 20; d++ {
			sizes = append(sizes, multiple*65536+d)
		}
	}
	var codec websocket.FlatBuffersCodec
	var buf []byte
	for _, size := range sizes {
		want := fullMessage()
		want.Data = payload[:size]
		var err error
		buf, err = codec.AppendMarshal(buf[:0], &want)
		require.NoError(t, err)
		var got websocket.Message
		require.NoError(t, codec.Unmarshal(buf, &got))
		if !bytes.Equal(want.Data, got.Data) { // require.Equal would take minutes
			t.Fatalf("payload of %d bytes is decoded as %d other bytes", size, len(got.Data))
		}
		want.Data, got.Data = nil, nil
		require.Equal(t, want, got, "payload of %d bytes", size)
	}
}

func TestFlatBuffersMalformed(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	// plain returns a table at 16 with a vtable at 4 and one field, a string at 24.
	plain := func(change func(b []byte)) []byte {
		b := make([]byte, 32)
		le.PutUint32(b, 16)
		le.PutUint16(b[4:], 6)
		le.PutUint16(b[6:], 8)
		le.PutUint16(b[8:], 4)
		le.PutUint32(b[16:], 12)
		le.PutUint32(b[20:], 4)
		le.PutUint32(b[24:], 3)
		copy(b[28:], "abc")
		change(b)
		return b
	}
	var msg websocket.Message
	require.NoError(t, websocket.FlatBuffersCodec{}.Unmarshal(plain(func([]byte) {}), &msg))
	require.Equal(t, websocket.Message{Type: "abc"}, msg)

	tests := []struct {
		name   string
		wire   []byte
		reason string
	}{
		{"empty", nil, "no room for the root offset at byte 0"},
		{"three bytes", []byte{1, 0, 0}, "no room for the root offset"},
		{"frame that crashes HypGo", []byte{0xff, 0xff, 0xff, 0x7f}, "root table is outside the buffer"},
		{"root beyond the end", plain(func(b []byte) { le.PutUint32(b, 29) }), "root table is outside the buffer"},
		{"greatest root", plain(func(b []byte) { le.PutUint32(b, 0xffffffff) }), "root table is outside the buffer"},
		{"vtable before the buffer", plain(func(b []byte) { le.PutUint32(b[16:], 17) }), "vtable is outside the buffer at byte 16"},
		{"vtable far before", plain(func(b []byte) { le.PutUint32(b[16:], 0x7fffffff) }), "vtable is outside the buffer"},
		{"vtable far behind", plain(func(b []byte) { le.PutUint32(b[16:], 0x80000000) }), "vtable is outside the buffer"},
		{"vtable too short", plain(func(b []byte) { le.PutUint16(b[4:], 2) }), "vtable has an impossible size at byte 4"},
		{"vtable of odd size", plain(func(b []byte) { le.PutUint16(b[4:], 7) }), "vtable has an impossible size"},
		{"vtable too long", plain(func(b []byte) { le.PutUint16(b[4:], 30) }), "vtable has an impossible size"},
		{"field beyond the end", plain(func(b []byte) { le.PutUint16(b[8:], 13) }), "type is outside the buffer"},
		{"greatest field", plain(func(b []byte) { le.PutUint16(b[8:], 0xffff) }), "type is outside the buffer"},
		{"string beyond the end", plain(func(b []byte) { le.PutUint32(b[20:], 9) }), "type points outside the buffer at byte 20"},
		{"greatest string offset", plain(func(b []byte) { le.PutUint32(b[20:], 0xffffffff) }), "type points outside the buffer"},
		{"string too long", plain(func(b []byte) { le.PutUint32(b[24:], 5) }), "type is longer than the buffer at byte 24"},
		{"negative length", plain(func(b []byte) { le.PutUint32(b[24:], 0xffffffff) }), "type is longer than the buffer"},
		{"2 GiB", plain(func(b []byte) { le.PutUint32(b[24:], 0x7fffffff) }), "type is longer than the buffer"},
		{"not UTF-8", plain(func(b []byte) { b[28] = 0xff }), "type is not valid UTF-8"},
		{"timestamp beyond the end", plain(func(b []byte) {
			le.PutUint16(b[4:], 12)
			le.PutUint16(b[8:], 0)
			le.PutUint16(b[14:], 9)
		}), "timestamp is outside the buffer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			requireMalformed(t, websocket.FlatBuffersCodec{}, tt.wire, tt.reason)
		})
	}
}

// TestFlatBuffersSurvivesCorruption sets each byte of a message to every value. Decoding
// must not panic.
func TestFlatBuffersSurvivesCorruption(t *testing.T) {
	t.Parallel()
	msg := fullMessage()
	wire := mustMarshal(t, websocket.FlatBuffersCodec{}, &msg)
	for i := range wire {
		for c := range 256 {
			b := bytes.Clone(wire)
			b[i] = byte(c)
			var got websocket.Message
			if err := (websocket.FlatBuffersCodec{}).Unmarshal(b, &got); err != nil {
				require.ErrorIs(t, err, websocket.ErrMalformed)
				require.Equal(t, websocket.Message{}, got)
			}
		}
	}
}
