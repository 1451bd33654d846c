package websocket_test

import (
	"bytes"
	"math"
	"runtime"
	"strings"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/encoding/protowire"
)

// packed is the envelope as an application declares it for a MessagePack library.
type packed struct {
	Type      string `msgpack:"type"`
	Channel   string `msgpack:"channel"`
	Data      []byte `msgpack:"data"`
	Timestamp int64  `msgpack:"timestamp"`
	ClientID  string `msgpack:"client_id"`
	ID        string `msgpack:"id,omitempty"`

	Room       bool   `msgpack:"room,omitempty"`
	ExceptSelf bool   `msgpack:"except_self,omitempty"`
	Trace      string `msgpack:"trace,omitempty"`
}

func (p packed) message() websocket.Message {
	msg := websocket.Message{
		Type: p.Type, Channel: p.Channel, Data: p.Data,
		Timestamp: p.Timestamp, ClientID: p.ClientID, ID: p.ID, Room: p.Room, ExceptSelf: p.ExceptSelf, Trace: p.Trace,
	}
	if len(msg.Data) == 0 {
		msg.Data = nil
	}
	return msg
}

func TestMsgpackEqualsLibrary(t *testing.T) {
	t.Parallel()
	messages := []websocket.Message{{}, fullMessage(), {Timestamp: -1}, {ID: "x"}, {Room: true}, {ExceptSelf: true}, {Trace: "x"}, {ID: "x", ExceptSelf: true}}
	for _, n := range []int{1, 31, 32, 255, 256, 65_535, 65_536} {
		s := strings.Repeat("a", n)
		messages = append(messages, websocket.Message{Type: s, Channel: s, Data: []byte(s), ClientID: s, ID: s})
	}
	for _, msg := range messages {
		p := packed{msg.Type, msg.Channel, msg.Data, msg.Timestamp, msg.ClientID, msg.ID, msg.Room, msg.ExceptSelf, msg.Trace}
		want, err := msgpack.Marshal(p)
		require.NoError(t, err)
		wire := mustMarshal(t, websocket.MsgpackCodec{}, &msg)
		require.Equal(t, string(want), string(wire))
		var got packed
		require.NoError(t, msgpack.Unmarshal(wire, &got))
		require.Equal(t, msg, got.message())
	}
}

// TestMsgpackReadsOtherForms decodes encodings of other libraries, which may order keys
// differently and choose other forms.
func TestMsgpackReadsOtherForms(t *testing.T) {
	t.Parallel()
	encode := func(build func(e *msgpack.Encoder)) []byte {
		var b bytes.Buffer
		e := msgpack.NewEncoder(&b)
		e.SetSortMapKeys(true)
		build(e)
		return b.Bytes()
	}
	anyMap := func(m map[string]any) []byte { return encode(func(e *msgpack.Encoder) { _ = e.Encode(m) }) }
	deep := strings.Repeat("\x91", 100_000) + "\xc0"
	full := fullMessage()
	tests := []struct {
		name string
		wire []byte
		want websocket.Message
	}{
		{"sorted keys", anyMap(map[string]any{
			"type": full.Type, "channel": full.Channel, "data": full.Data,
			"timestamp": full.Timestamp, "client_id": full.ClientID, "id": full.ID,
		}), full},
		{"no keys", []byte{0x80}, websocket.Message{}},
		{"data as str", anyMap(map[string]any{"data": "text"}), websocket.Message{Data: []byte("text")}},
		{"data as str not UTF-8", []byte("\x81\xa4data\xa1\xff"), websocket.Message{Data: []byte{0xff}}},
		{"empty data", anyMap(map[string]any{"data": []byte{}}), websocket.Message{}},
		{"nil everywhere", anyMap(map[string]any{
			"type": nil, "channel": nil, "data": nil, "timestamp": nil, "client_id": nil, "id": nil,
		}), websocket.Message{}},
		{"last wins", []byte("\x82\xa4type\xa1a\xa4type\xa1b"), websocket.Message{Type: "b"}},
		{"map16", []byte("\xde\x00\x01\xa4type\xa1a"), websocket.Message{Type: "a"}},
		{"map32", []byte("\xdf\x00\x00\x00\x01\xa4type\xa1a"), websocket.Message{Type: "a"}},
		{"key as str8", []byte("\x81\xd9\x04type\xda\x00\x01a"), websocket.Message{Type: "a"}},
		{"str32 and bin32", []byte("\x82\xa4type\xdb\x00\x00\x00\x01a\xa4data\xc6\x00\x00\x00\x01b"), websocket.Message{Type: "a", Data: []byte("b")}},
		{"unknown keys", anyMap(map[string]any{
			"a": 1, "b": -1, "c": 1.5, "d": float32(1.5), "e": true, "f": nil, "g": []any{1, []any{}, map[string]any{"x": 1}},
			"h": map[string]any{"type": "inner"}, "i": strings.Repeat("s", 70_000), "j": make([]byte, 70_000),
			"k": uint64(math.MaxUint64), "l": int16(-30_000), "m": make([]int8, 70_000), "type": "outer",
		}), websocket.Message{Type: "outer"}},
		{"unknown extensions", []byte("\x88\xa1a\xd4\x01x\xa1b\xd5\x01xx\xa1c\xd6\x01xxxx\xa1d\xd7\x01xxxxxxxx\xa1e\xd8\x01xxxxxxxxxxxxxxxx" +
			"\xa1f\xc7\x03\x01xxx\xa1g\xc8\x00\x01\x01x\xa1h\xc9\x00\x00\x00\x00\x01"), websocket.Message{}},
		{"unknown and deep", []byte("\x82\xa1x" + deep + "\xa4type\xa1a"), websocket.Message{Type: "a"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var got websocket.Message
			require.NoError(t, websocket.MsgpackCodec{}.Unmarshal(tt.wire, &got))
			require.Equal(t, tt.want, got)
		})
	}
}

func TestMsgpackTimestampForms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		value string
		want  int64
	}{
		{"\x00", 0},
		{"\x7f", 127},
		{"\xff", -1},
		{"\xe0", -32},
		{"\xcc\xff", 255},
		{"\xcd\xff\xff", 65535},
		{"\xce\xff\xff\xff\xff", math.MaxUint32},
		{"\xcf\x7f\xff\xff\xff\xff\xff\xff\xff", math.MaxInt64},
		{"\xd0\x80", math.MinInt8},
		{"\xd1\x80\x00", math.MinInt16},
		{"\xd2\x80\x00\x00\x00", math.MinInt32},
		{"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", math.MinInt64},
	}
	for _, tt := range tests {
		var got websocket.Message
		require.NoError(t, websocket.MsgpackCodec{}.Unmarshal([]byte("\x81\xa9timestamp"+tt.value), &got))
		require.Equal(t, tt.want, got.Timestamp, "%q", tt.value)
	}
}

// msgpackMalformed are inputs that must be rejected, with the reasons.
var msgpackMalformed = []struct {
	name   string
	wire   string
	reason string
}{
	{"empty", "", "message ends too early at byte 0"},
	{"nil", "\xc0", "message is not a map at byte 0"},
	{"array", "\x90", "message is not a map"},
	{"map without members", "\x81", "map is longer than the message at byte 0"},
	{"map of 4 billion", "\xdf\xff\xff\xff\xff", "map is longer than the message"},
	{"map head cut", "\xde\x00", "message ends too early"},
	{"key is not a string", "\x81\x01\x01", "map key is not a string at byte 1"},
	{"key is not UTF-8", "\x81\xa1\xff\x01", "map key is not valid UTF-8 at byte 1"},
	{"key cut", "\x81\xa4ty", "message ends too early at byte 2"},
	{"value missing", "\x81\xa4type", "message ends too early at byte 6"},
	{"type is a number", "\x81\xa4type\x01", "type is not a string at byte 6"},
	{"type is bin", "\x81\xa4type\xc4\x01a", "type is not a string at byte 6"},
	{"type is not UTF-8", "\x81\xa4type\xa1\xff", "type is not valid UTF-8 at byte 6"},
	{"type of 4 GiB", "\x81\xa4type\xdb\xff\xff\xff\xff", "message ends too early"},
	{"data of 4 GiB", "\x81\xa4data\xc6\xff\xff\xff\xff", "message ends too early"},
	{"data is a map", "\x81\xa4data\x80", "data is neither bin, str nor nil at byte 6"},
	{"timestamp is a float", "\x81\xa9timestamp\xcb\x00\x00\x00\x00\x00\x00\x00\x00", "timestamp is not an integer at byte 11"},
	{"timestamp is a string", "\x81\xa9timestamp\xa11", "timestamp is not an integer"},
	{"timestamp too great", "\x81\xa9timestamp\xcf\x80\x00\x00\x00\x00\x00\x00\x00", "timestamp is greater than an int64 holds at byte 11"},
	{"timestamp cut", "\x81\xa9timestamp\xd3\x00", "message ends too early"},
	{"unknown array of 4 billion", "\x81\xa1x\xdd\xff\xff\xff\xff", "array or map is longer than the message at byte 3"},
	{"unknown map of 4 billion", "\x81\xa1x\xdf\xff\xff\xff\xff", "array or map is longer than the message at byte 3"},
	{"unknown extension of 4 GiB", "\x81\xa1x\xc9\xff\xff\xff\xff\x01", "message ends too early"},
	{"unterminated unknown arrays", "\x81\xa1x" + strings.Repeat("\x91", 1000), "array or map is longer than the message at byte 1002"},
	{"unused format byte", "\x81\xa1x\xc1", "unknown format byte at byte 3"},
	{"bytes after the message", "\x81\xa4type\xa1a\x00", "bytes after the message at byte 8"},
}

func TestMsgpackMalformed(t *testing.T) {
	t.Parallel()
	for _, tt := range msgpackMalformed {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			requireMalformed(t, websocket.MsgpackCodec{}, []byte(tt.wire), tt.reason)
		})
	}
}

// TestUnmarshalDoesNotAllocateClaimedLengths decodes inputs with lengths beyond their
// end. Decoders must not allocate such a length.
//
// Not parallel: allocations are counted for the whole process.
func TestUnmarshalDoesNotAllocateClaimedLengths(t *testing.T) {
	inputs := map[string][][]byte{
		"protobuf":    {protowire.AppendVarint([]byte{0x1a}, math.MaxInt32), protowire.AppendVarint([]byte{0x0a}, math.MaxUint64)},
		"flatbuffers": {{0xff, 0xff, 0xff, 0x7f}},
		"json":        {[]byte(`{"data":"` + strings.Repeat("A", 1000) + `!","encoding":"base64"}`)},
	}
	for _, tt := range msgpackMalformed {
		inputs["msgpack"] = append(inputs["msgpack"], []byte(tt.wire))
	}
	msg := fullMessage()
	wire := mustMarshal(t, websocket.FlatBuffersCodec{}, &msg)
	for i := 0; i+4 <= len(wire); i++ {
		b := bytes.Clone(wire)
		copy(b[i:], "\xff\xff\xff\x7f")
		inputs["flatbuffers"] = append(inputs["flatbuffers"], b)
	}
	for _, codec := range codecs {
		for _, input := range inputs[codec.Name()] {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_ = codec.Unmarshal(input, &msg)
			runtime.ReadMemStats(&after)
			require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(64<<10), "%s %q", codec.Name(), input)
		}
	}
}
