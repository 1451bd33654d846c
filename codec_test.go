package websocket_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	"google.golang.org/protobuf/encoding/protowire"
	protobuf "google.golang.org/protobuf/proto"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
)

// codecs are all codecs of the package.
var codecs = []websocket.AppendCodec{
	websocket.JSONCodec{},
	websocket.ProtobufCodec{},
	websocket.FlatBuffersCodec{},
	websocket.MsgpackCodec{},
}

// forEachCodec runs a parallel subtest for each codec.
func forEachCodec(t *testing.T, test func(t *testing.T, codec websocket.AppendCodec)) {
	t.Helper()
	for _, codec := range codecs {
		t.Run(codec.Name(), func(t *testing.T) {
			t.Parallel()
			test(t, codec)
		})
	}
}

// vector is a message and its encoding by HypGo.
type vector struct {
	name  string
	codec string
	msg   websocket.Message
	wire  []byte // nil if HypGo cannot encode the message
}

// loadVectors reads HypGo's encodings from testdata.
func loadVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/hypgo-wire.json")
	require.NoError(t, err)
	var file struct {
		Cases []struct {
			Kind      string `json:"kind"`
			Name      string `json:"name"`
			Codec     string `json:"codec"`
			Type      string `json:"type"`
			Channel   string `json:"channel"`
			ClientID  string `json:"client_id"`
			Timestamp int64  `json:"timestamp"`
			Data      string `json:"data_base64"`
			Wire      string `json:"bytes_hex"`
		} `json:"cases"`
	}
	require.NoError(t, json.Unmarshal(text, &file))
	var vectors []vector
	for _, c := range file.Cases {
		if c.Kind != "codec" {
			continue
		}
		v := vector{name: c.Name, codec: c.Codec}
		v.msg = websocket.Message{Type: c.Type, Channel: c.Channel, ClientID: c.ClientID, Timestamp: c.Timestamp}
		if c.Data != "" {
			v.msg.Data, err = base64.StdEncoding.DecodeString(c.Data)
			require.NoError(t, err)
		}
		if c.Wire != "" {
			v.wire, err = hex.DecodeString(c.Wire)
			require.NoError(t, err)
		}
		vectors = append(vectors, v)
	}
	require.NotEmpty(t, vectors)
	return vectors
}

func codecNamed(t testing.TB, name string) websocket.AppendCodec {
	t.Helper()
	for _, codec := range codecs {
		if codec.Name() == name {
			return codec
		}
	}
	t.Fatalf("no codec %q", name)
	return nil
}

// mustMarshal encodes msg with a codec that must not fail.
func mustMarshal(t testing.TB, codec websocket.Codec, msg *websocket.Message) []byte {
	t.Helper()
	data, err := codec.Marshal(msg)
	require.NoError(t, err)
	return data
}

// fullMessage returns a message with every field set.
func fullMessage() websocket.Message {
	return websocket.Message{
		Type:      "chat.line",
		Channel:   "新聞/é😀",
		Data:      []byte(`{"text":"hello"}`),
		Timestamp: 1763769600123456789,
		ClientID:  "client-1",
		ID:        "request-7",
	}
}

func TestCodecIdentity(t *testing.T) {
	t.Parallel()
	tests := []struct {
		codec websocket.Codec
		name  string
		index int
		frame int
	}{
		{websocket.JSONCodec{}, "json", 0, websocket.TextMessage},
		{websocket.ProtobufCodec{}, "protobuf", 1, websocket.BinaryMessage},
		{websocket.FlatBuffersCodec{}, "flatbuffers", 2, websocket.BinaryMessage},
		{websocket.MsgpackCodec{}, "msgpack", 3, websocket.BinaryMessage},
	}
	for _, tt := range tests {
		require.Equal(t, tt.name, tt.codec.Name())
		require.Equal(t, tt.index, tt.codec.Index(), tt.name)
		require.Equal(t, tt.frame, tt.codec.WebSocketMessageType(), tt.name)
	}
	require.Equal(t, 1, websocket.TextMessage)
	require.Equal(t, 2, websocket.BinaryMessage)
}

// TestControlInterfaces checks that only protobuf has its own format for control data
// (docs/wire.md).
func TestControlInterfaces(t *testing.T) {
	t.Parallel()
	for _, codec := range codecs {
		_, decodes := codec.(websocket.ControlDecoder)
		_, encodes := codec.(websocket.ControlEncoder)
		require.Equal(t, codec.Name() == "protobuf", decodes, codec.Name())
		require.Equal(t, codec.Name() == "protobuf", encodes, codec.Name())
	}
}

func TestGoldenVectorsDecode(t *testing.T) {
	t.Parallel()
	for _, tt := range loadVectors(t) {
		if tt.wire == nil {
			continue
		}
		var got websocket.Message
		require.NoError(t, codecNamed(t, tt.codec).Unmarshal(tt.wire, &got), tt.name)
		want := tt.msg
		if tt.codec == "json" && want.Data != nil {
			// HypGo removes space from JSON and escapes it for HTML. The value is the same.
			require.JSONEq(t, string(want.Data), string(got.Data), tt.name)
			want.Data = got.Data
		}
		require.Equal(t, want, got, tt.name)
	}
}

func TestGoldenVectorsEncode(t *testing.T) {
	t.Parallel()
	// HypGo changes the first payload and cannot encode the second.
	differ := map[string]bool{"html-and-space/json": true, "binary-data/json": true}
	for _, tt := range loadVectors(t) {
		codec := codecNamed(t, tt.codec)
		wire := mustMarshal(t, codec, &tt.msg)
		if !differ[tt.name] {
			require.Equal(t, string(tt.wire), string(wire), tt.name)
		}
		var got websocket.Message
		require.NoError(t, codec.Unmarshal(wire, &got), tt.name)
		require.Equal(t, tt.msg.Type, got.Type, tt.name)
		require.Equal(t, string(bytes.TrimSpace(tt.msg.Data)), string(got.Data), tt.name)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("長", 30_000)
	with := func(change func(*websocket.Message)) websocket.Message {
		m := fullMessage()
		change(&m)
		return m
	}
	tests := map[string]websocket.Message{
		"empty":             {},
		"full":              fullMessage(),
		"type only":         {Type: "message"},
		"id only":           {ID: "x"},
		"data only":         {Data: []byte("1")},
		"binary data":       with(func(m *websocket.Message) { m.Data = []byte{0, 1, 2, 0x7f, 0x80, 0xff} }),
		"plain text data":   with(func(m *websocket.Message) { m.Data = []byte("plain text") }),
		"one space of data": with(func(m *websocket.Message) { m.Data = []byte(" ") }),
		"data not UTF-8":    with(func(m *websocket.Message) { m.Data = []byte("\"\xff\"") }),
		"escapes":           with(func(m *websocket.Message) { m.Channel = "\x00\x1f\"\\\b\f\n\r\t\u2028\u2029\x7f<&>" }),
		"greatest time":     with(func(m *websocket.Message) { m.Timestamp = math.MaxInt64 }),
		"least time":        with(func(m *websocket.Message) { m.Timestamp = math.MinInt64 }),
		"long strings": {
			Type: long, Channel: long + "a", ClientID: long + "b", ID: long + "c", Timestamp: 1,
			Data: []byte(`"` + long + `"`),
		},
	}
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		for name, want := range tests {
			wire := mustMarshal(t, codec, &want)
			if codec.WebSocketMessageType() == websocket.TextMessage {
				require.True(t, utf8.Valid(wire), name)
			}
			var got websocket.Message
			require.NoError(t, codec.Unmarshal(wire, &got), name)
			require.Equal(t, want, got, name)
		}
	})
}

// TestRoundTripAcrossCodecs decodes with one codec and encodes with another, for every
// pair of codecs.
func TestRoundTripAcrossCodecs(t *testing.T) {
	t.Parallel()
	for _, payload := range []string{``, `{"a":[1,2.5e-3,"x"]}`, "\x00\xfe binary"} {
		want := fullMessage()
		want.Data = []byte(payload)
		if payload == "" {
			want.Data = nil
		}
		msg := want
		for _, from := range codecs {
			for _, to := range codecs {
				require.NoError(t, from.Unmarshal(mustMarshal(t, from, &msg), &msg))
				require.NoError(t, to.Unmarshal(mustMarshal(t, to, &msg), &msg))
				require.Equal(t, want, msg, "%s to %s", from.Name(), to.Name())
			}
		}
	}
}

// TestEmptyDataIsNil checks that every codec decodes an empty payload as nil.
func TestEmptyDataIsNil(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		withNil := mustMarshal(t, codec, &websocket.Message{Type: "message"})
		withEmpty := mustMarshal(t, codec, &websocket.Message{Type: "message", Data: []byte{}})
		require.Equal(t, withNil, withEmpty)
		var got websocket.Message
		require.NoError(t, codec.Unmarshal(withNil, &got))
		require.Nil(t, got.Data)
	})
}

func TestUnmarshalOverwritesEveryField(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		got := fullMessage()
		require.NoError(t, codec.Unmarshal(mustMarshal(t, codec, &websocket.Message{}), &got))
		require.Equal(t, websocket.Message{}, got)
	})
}

func TestUnmarshalKeepsNothingOfItsInput(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		for _, payload := range []string{`{"text":"hello"}`, "\x00 not JSON"} {
			want := fullMessage()
			want.Data = []byte(payload)
			wire := mustMarshal(t, codec, &want)
			var got websocket.Message
			require.NoError(t, codec.Unmarshal(wire, &got))
			for i := range wire {
				wire[i] = '!'
			}
			require.Equal(t, want, got)
		}
	})
}

func TestAppendMarshalAppends(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		msg := fullMessage()
		wire := mustMarshal(t, codec, &msg)
		// FlatBuffers must not depend on the alignment of the first byte.
		got, err := codec.AppendMarshal([]byte("abc"), &msg)
		require.NoError(t, err)
		require.Equal(t, "abc"+string(wire), string(got))
		require.Equal(t, fullMessage(), msg)
	})
}

// TestMarshalReplacesInvalidUTF8 encodes strings that are not UTF-8. Every codec must
// be able to decode the message.
func TestMarshalReplacesInvalidUTF8(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		wire := mustMarshal(t, codec, &websocket.Message{Type: "a\xff\xfe", Channel: "\xc3", ClientID: "\xed\xa0\x80", ID: "\x80b"})
		var got websocket.Message
		require.NoError(t, codec.Unmarshal(wire, &got))
		require.Equal(t, websocket.Message{Type: "a\ufffd\ufffd", Channel: "\ufffd", ClientID: "\ufffd\ufffd\ufffd", ID: "\ufffdb"}, got)
	})
}

// requireMalformed checks the error of Unmarshal, and that msg is empty after it.
func requireMalformed(t *testing.T, codec websocket.Codec, wire []byte, reason string) {
	t.Helper()
	got := fullMessage()
	err := codec.Unmarshal(wire, &got)
	require.ErrorIs(t, err, websocket.ErrMalformed, "%q", wire)
	require.ErrorContains(t, err, codec.Name()+": ", "%q", wire)
	require.ErrorContains(t, err, reason, "%q", wire)
	require.Equal(t, websocket.Message{}, got, "%q", wire)
}

// TestUnmarshalTruncated decodes every prefix of a valid message. JSON and MessagePack
// must reject it; the other formats may accept it.
func TestUnmarshalTruncated(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		msg := fullMessage()
		wire := mustMarshal(t, codec, &msg)
		for n := range wire {
			var got websocket.Message
			err := codec.Unmarshal(wire[:n:n], &got)
			if err != nil {
				require.ErrorIs(t, err, websocket.ErrMalformed)
				require.Equal(t, websocket.Message{}, got)
			} else {
				require.NotEqual(t, "json", codec.Name())
				require.NotEqual(t, "msgpack", codec.Name())
			}
		}
	})
}

func TestCodecsAreSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				want := fullMessage()
				want.Channel = fmt.Sprint("channel-", g)
				for range 200 {
					wire, err := codec.Marshal(&want)
					if err != nil {
						t.Error(err)
						return
					}
					var got websocket.Message
					if err := codec.Unmarshal(wire, &got); err != nil || got.Channel != want.Channel {
						t.Errorf("got channel %q, error %v", got.Channel, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// raceEnabled reports whether the test binary was built with -race. The race detector
// makes sync.Pool drop entries at random.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

func TestCodecAllocations(t *testing.T) {
	if raceEnabled() {
		t.Skip("allocations differ under the race detector")
	}
	for _, codec := range codecs {
		for _, size := range []int{128, 4096} {
			msg := benchMessage(size)
			msg.ID = "request-7"
			buf := mustMarshal(t, codec, msg)
			encode := testing.AllocsPerRun(100, func() { buf, _ = codec.AppendMarshal(buf[:0], msg) })
			require.Zero(t, encode, "%s encode %d", codec.Name(), size)
			marshal := testing.AllocsPerRun(100, func() { _, _ = codec.Marshal(msg) })
			require.LessOrEqual(t, marshal, 1.0, "%s marshal %d", codec.Name(), size)
			var got websocket.Message
			decode := testing.AllocsPerRun(100, func() { _ = codec.Unmarshal(buf, &got) })
			require.LessOrEqual(t, decode, 2.0, "%s decode %d", codec.Name(), size)
			got.Type = "chat.line"
			buf = mustMarshal(t, codec, &got)
			decode = testing.AllocsPerRun(100, func() { _ = codec.Unmarshal(buf, &got) })
			require.LessOrEqual(t, decode, 2.0, "%s decode %d of an unknown type", codec.Name(), size)
		}
	}
	data := benchMessage(128).Data
	require.Zero(t, testing.AllocsPerRun(100, func() { jsonscan.Valid(data) }))
}

// TestKnownTypesDoNotAllocate decodes messages of the types that the package uses.
func TestKnownTypesDoNotAllocate(t *testing.T) {
	types := []string{
		"message", "broadcast", "subscribe", "unsubscribe", "publish", "join_room",
		"leave_room", "publish_room", "room_message", "ack", "error", "gap",
	}
	for _, codec := range codecs {
		for _, typ := range types {
			wire := mustMarshal(t, codec, &websocket.Message{Type: typ, Timestamp: 1})
			var got websocket.Message
			require.Zero(t, testing.AllocsPerRun(10, func() { _ = codec.Unmarshal(wire, &got) }), "%s %s", codec.Name(), typ)
			require.Equal(t, typ, got.Type)
		}
	}
}

func TestControlData(t *testing.T) {
	t.Parallel()
	channel, err := protobuf.Marshal(&proto.ChannelRequest{Channel: "新聞"})
	require.NoError(t, err)
	room, err := protobuf.Marshal(&proto.RoomRequest{RoomId: "room_101"})
	require.NoError(t, err)
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	tests := []struct {
		name    string
		codec   string
		data    string
		channel string // "" if an error is wanted
		room    string // "" if an error is wanted
	}{
		{"protobuf channel", "protobuf", string(channel), "新聞", "新聞"},
		{"protobuf room", "protobuf", string(room), "room_101", "room_101"},
		{"protobuf unknown field", "protobuf", "\x10\x05" + string(room), "room_101", "room_101"},
		{"protobuf last wins", "protobuf", string(channel) + string(room), "room_101", "room_101"},
		{"protobuf unknown bytes", "protobuf", "\x12\x01\xff" + string(room), "room_101", "room_101"},
		{"protobuf truncated", "protobuf", "\x0a\x05abc", "", ""},
		{"protobuf bad tag", "protobuf", "\x00", "", ""},
		{"protobuf bad field", "protobuf", "\x10", "", ""},
		{"protobuf not UTF-8", "protobuf", "\x0a\x01\xff", "", ""},
		{"JSON as protobuf", "protobuf", `{"channel":"x"}`, "", ""},
		{"channel", "json", `{"channel":"x"}`, "x", ""},
		{"room", "json", `{"room_id":"x"}`, "", "x"},
		{"both", "json", ` { "room_id" : "r" , "channel" : "c" } `, "c", "r"},
		{"flatbuffers", "flatbuffers", `{"channel":"x","extra":[1,{}]}`, "x", ""},
		{"msgpack", "msgpack", `{"channel":"x","room_id":5}`, "x", ""},
		{"escape", "json", `{"channel":"a\u00e9\n"}`, "aé\n", ""},
		{"other case", "json", `{"Channel":"x","ROOM_ID":"y"}`, "x", "y"},
		{"escape and number", "json", `{"channel":"\n","room_id":5}`, "\n", ""},
		{"last wins", "json", `{"channel":"x","channel":"y"}`, "y", ""},
		{"deep extra", "json", `{"extra":` + deep + `,"channel":"x"}`, "x", ""},
		{"empty name", "json", `{"channel":"","room_id":""}`, "", ""},
		{"null name", "json", `{"channel":null}`, "", ""},
		{"missing", "json", `{}`, "", ""},
		{"nothing", "json", ``, "", ""},
		{"null", "json", `null`, "", ""},
		{"array", "json", `["x"]`, "", ""},
		{"number", "json", `{"channel":1}`, "", ""},
		{"broken", "json", `{"channel":"x"`, "", ""},
		{"trailing", "json", `{"channel":"x"}}`, "", ""},
		{"not UTF-8", "msgpack", "{\"channel\":\"\xff\"}", "", ""},
		{"not UTF-8 and escape", "msgpack", "{\"channel\":\"\\n\xff\"}", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			codec := codecNamed(t, tt.codec)
			check := func(want, got string, err error) {
				require.Equal(t, want, got)
				if want == "" {
					require.ErrorIs(t, err, websocket.ErrMalformed)
				} else {
					require.NoError(t, err)
				}
			}
			got, err := websocket.ControlChannel(codec, []byte(tt.data))
			check(tt.channel, got, err)
			got, err = websocket.ControlRoom(codec, []byte(tt.data))
			check(tt.room, got, err)
		})
	}
}

func TestErrorReply(t *testing.T) {
	t.Parallel()
	const code, text = "not_found", "no \"such\" channel\n"
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		data := websocket.EncodeErrorFor(codec, code, text)
		if codec.Name() == "protobuf" {
			var got proto.ErrorReply
			require.NoError(t, protobuf.Unmarshal(data, &got))
			require.Equal(t, code, got.GetCode())
			require.Equal(t, text, got.GetMessage())
			return
		}
		require.Equal(t, `{"code":"not_found","message":"no \"such\" channel\n"}`, string(data))
		require.True(t, jsonscan.Valid(data))
	})
}

func TestGapNotice(t *testing.T) {
	t.Parallel()
	tests := []struct {
		gap  websocket.Gap
		json string
	}{
		{
			websocket.Gap{Channel: "x", Count: 3, First: 1, Last: 9, Reason: "slow_consumer"},
			`{"channel":"x","count":3,"first":1,"last":9,"reason":"slow_consumer"}`,
		},
		{
			websocket.Gap{RoomID: "r\t", Count: math.MaxUint64, First: -1, Last: math.MaxInt64, Reason: "codec_error"},
			`{"room_id":"r\t","count":18446744073709551615,"first":-1,"last":9223372036854775807,"reason":"codec_error"}`,
		},
		{
			websocket.Gap{Count: 1, Reason: "slow_consumer"},
			`{"count":1,"first":0,"last":0,"reason":"slow_consumer"}`,
		},
		{
			websocket.Gap{All: true, Count: 2, First: 1, Last: 2, Reason: "codec"},
			`{"all":true,"count":2,"first":1,"last":2,"reason":"codec"}`,
		},
	}
	forEachCodec(t, func(t *testing.T, codec websocket.AppendCodec) {
		for _, tt := range tests {
			data := websocket.EncodeGapFor(codec, tt.gap)
			if codec.Name() != "protobuf" {
				require.Equal(t, tt.json, string(data))
				require.True(t, jsonscan.Valid(data))
				continue
			}
			var got proto.GapNotice
			require.NoError(t, protobuf.Unmarshal(data, &got))
			gap := websocket.Gap{
				Channel: got.GetChannel(), RoomID: got.GetRoomId(), All: got.GetAll(), Count: got.GetCount(),
				First: got.GetFirst(), Last: got.GetLast(), Reason: got.GetReason(),
			}
			require.Equal(t, tt.gap, gap)
			again, err := protobuf.MarshalOptions{Deterministic: true}.Marshal(&got)
			require.NoError(t, err)
			require.Equal(t, string(again), string(data))
		}
	})
}

// toProto returns m as the generated type.
func toProto(m *websocket.Message) *proto.WsMessage {
	return &proto.WsMessage{
		Type: m.Type, Channel: m.Channel, Data: m.Data,
		Timestamp: m.Timestamp, ClientId: m.ClientID, Id: m.ID, Offset: m.Offset, Key: m.Key, Room: m.Room, ExceptSelf: m.ExceptSelf, Trace: m.Trace,
	}
}

func TestProtobufEqualsGeneratedCode(t *testing.T) {
	t.Parallel()
	for _, msg := range []websocket.Message{{}, fullMessage(), {Timestamp: -1}, {Data: []byte("\x00")}, {ID: "x"}, {Room: true}, {ExceptSelf: true}, {Trace: "x"}} {
		want, err := protobuf.MarshalOptions{Deterministic: true}.Marshal(toProto(&msg))
		require.NoError(t, err)
		require.Equal(t, string(want), string(mustMarshal(t, websocket.ProtobufCodec{}, &msg)))
	}
}

// protoInputs returns inputs that decoders often treat differently.
func protoInputs() map[string][]byte {
	field := func(num protowire.Number, typ protowire.Type, value ...byte) []byte {
		return append(protowire.AppendTag(nil, num, typ), value...)
	}
	return map[string][]byte{
		"empty":                 {},
		"unknown field":         append(field(100, protowire.Fixed32Type, 1, 2, 3, 4), field(1, protowire.BytesType, 1, 'a')...),
		"unknown group":         append(field(7, protowire.StartGroupType), field(7, protowire.EndGroupType)...),
		"group cut short":       field(7, protowire.StartGroupType),
		"stray end of group":    field(7, protowire.EndGroupType),
		"deep groups":           bytes.Repeat(field(7, protowire.StartGroupType), 20_000),
		"wrong type for string": append(field(1, protowire.VarintType, 5), field(2, protowire.BytesType, 1, 'c')...),
		"wrong type for time":   field(4, protowire.BytesType, 1, 'c'),
		"last wins":             append(field(1, protowire.BytesType, 1, 'a'), field(1, protowire.BytesType, 1, 'b')...),
		"invalid then valid":    append(field(1, protowire.BytesType, 1, 0xff), field(1, protowire.BytesType, 1, 'b')...),
		"not UTF-8":             field(5, protowire.BytesType, 1, 0xff),
		"data not UTF-8":        field(3, protowire.BytesType, 1, 0xff),
		"field 0":               {0x00, 0x01},
		"field too great":       append(protowire.AppendVarint(nil, (1<<29)<<3|2), 1, 'a'),
		"greatest field":        append(protowire.AppendVarint(nil, (1<<29-1)<<3|2), 1, 'a'),
		"reserved wire type":    {0x0f, 0x01},
		"length beyond the end": {0x0a, 0xff, 0xff, 0xff, 0xff, 0x07},
		"negative length":       {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"varint too long":       {0x20, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01},
		"varint of 65 bits":     {0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
		"time too short":        {0x20, 0x80},
		"except self":           field(10, protowire.VarintType, 1),
		"except self of 2":      field(10, protowire.VarintType, 2),
		"except self twice":     append(field(10, protowire.VarintType, 1), field(10, protowire.VarintType, 0)...),
		"except self as bytes":  field(10, protowire.BytesType, 1, 1),
		"except self too short": field(10, protowire.VarintType, 0x80),
		"trace":                 field(11, protowire.BytesType, 1, 'x'),
		"trace twice":           append(field(11, protowire.BytesType, 1, 'x'), field(11, protowire.BytesType, 0)...),
		"trace as a number":     field(11, protowire.VarintType, 1),
		"trace not UTF-8":       field(11, protowire.BytesType, 1, 0xff),
		"tag in two bytes":      {0x8a, 0x00, 0x01, 'a'},
	}
}

// requireLikeProto checks that the codec and generated code decode data alike.
func requireLikeProto(t *testing.T, data []byte) {
	t.Helper()
	var want proto.WsMessage
	wantErr := protobuf.Unmarshal(data, &want)
	got := fullMessage()
	err := websocket.ProtobufCodec{}.Unmarshal(data, &got)
	if wantErr != nil {
		require.ErrorIs(t, err, websocket.ErrMalformed, "generated code returns %v", wantErr)
		require.Equal(t, websocket.Message{}, got)
		return
	}
	require.NoError(t, err)
	want.ProtoReflect().SetUnknown(nil)
	require.True(t, protobuf.Equal(&want, toProto(&got)), "want %v, got %v", &want, toProto(&got))
}

// TestHistoryFields encodes and decodes the fields that topics with history use.
func TestHistoryFields(t *testing.T) {
	t.Parallel()
	want := fullMessage()
	want.Offset, want.Key = 1<<52, "once-é"
	for _, codec := range []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}} {
		b, err := codec.Marshal(&want)
		require.NoError(t, err)
		var got websocket.Message
		require.NoError(t, codec.Unmarshal(b, &got), codec.Name())
		require.Equal(t, want, got, codec.Name())
		switch codec.Name() {
		case "protobuf":
			var generated proto.WsMessage
			require.NoError(t, protobuf.Unmarshal(b, &generated))
			require.True(t, protobuf.Equal(toProto(&want), &generated))
		case "flatbuffers":
			require.Equal(t, want, fromFlat(b))
		case "json":
			require.Contains(t, string(b), `"offset":4503599627370496,"key":"once-é"`)
		}
	}
	for _, ignored := range []string{`{"offset":-1}`, `{"offset":"5"}`, `{"offset":1.5}`, `{"offset":null,"key":3}`, `{"key":null}`, `{"\u006fffset":"x"}`} {
		var got websocket.Message
		require.NoError(t, websocket.JSONCodec{}.Unmarshal([]byte(ignored), &got), ignored)
		require.Equal(t, websocket.Message{}, got, ignored)
	}
}

func TestProtobufDecodesLikeGeneratedCode(t *testing.T) {
	t.Parallel()
	for name, data := range protoInputs() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireLikeProto(t, data)
		})
	}
}

func TestProtobufErrorPositions(t *testing.T) {
	t.Parallel()
	codec := websocket.ProtobufCodec{}
	requireMalformed(t, codec, []byte{0x0a, 0x01, 'a', 0x00}, "invalid field tag at byte 3")
	requireMalformed(t, codec, []byte{0x0a, 0x05, 'a'}, "field 1: unexpected EOF at byte 1")
	requireMalformed(t, codec, []byte{0x12, 0x01, 0xff}, "field 2: not valid UTF-8 at byte 1")
}

// Decoders overwrite Room and ExceptSelf in a Message that is used again. A room or
// except_self of another type is the application's own, as all unknown members are.
func TestFlagsAreOverwritten(t *testing.T) {
	t.Parallel()
	for _, codec := range vectorCodecs {
		for _, want := range []bool{true, false} {
			got := websocket.Message{Room: want, ExceptSelf: !want}
			require.NoError(t, codec.Unmarshal(mustMarshal(t, codec, &websocket.Message{Type: "publish", Room: !want, ExceptSelf: want}), &got))
			require.Equal(t, websocket.Message{Type: "publish", Room: !want, ExceptSelf: want}, got, codec.Name())
		}
	}
	for _, value := range []any{nil, false, 1, "true", []bool{true}} {
		wire, err := msgpack.Marshal(map[string]any{"type": "publish", "except_self": value, "room": value})
		require.NoError(t, err)
		var got websocket.Message
		require.NoError(t, websocket.MsgpackCodec{}.Unmarshal(wire, &got))
		require.Equal(t, websocket.Message{Type: "publish"}, got, "%v", value)
	}
	flat := mustMarshal(t, websocket.FlatBuffersCodec{}, &websocket.Message{Room: true, ExceptSelf: true})
	for n := range flat { // a field that lies outside the buffer
		var got websocket.Message
		_ = websocket.FlatBuffersCodec{}.Unmarshal(flat[:n], &got)
	}
}
