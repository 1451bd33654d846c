package websocket_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan/scantest"
)

// addVectors seeds a fuzz target with encodings by HypGo and by the codec.
func addVectors(f *testing.F, codec websocket.Codec) {
	f.Helper()
	for _, v := range loadVectors(f) {
		if v.codec == codec.Name() && v.wire != nil {
			f.Add(v.wire)
		}
		f.Add(mustMarshal(f, codec, &v.msg))
	}
	msg := fullMessage()
	f.Add(mustMarshal(f, codec, &msg))
}

// requireStable decodes data, encodes the message and decodes it again. Both messages
// must be equal.
func requireStable(t *testing.T, codec websocket.Codec, data []byte) {
	t.Helper()
	var first, second websocket.Message
	if err := codec.Unmarshal(data, &first); err != nil {
		require.ErrorIs(t, err, websocket.ErrMalformed)
		require.Equal(t, websocket.Message{}, first)
		return
	}
	require.NoError(t, codec.Unmarshal(mustMarshal(t, codec, &first), &second))
	if codec.Name() == "json" && json.Valid(first.Data) {
		// A payload in base64 may be valid JSON, which Marshal writes as JSON. Decoding
		// then removes the space around it and turns null into no payload.
		first.Data = bytes.Trim(first.Data, " \t\r\n")
		if string(first.Data) == "null" {
			first.Data = nil
		}
	}
	require.Equal(t, first, second)
}

func FuzzJSONDecode(f *testing.F) {
	addVectors(f, websocket.JSONCodec{})
	for _, input := range scantest.Inputs() {
		if len(input) < 1000 {
			f.Add([]byte(input))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		requireLikeJSON(t, data)
		requireJSONPathsAgree(t, data)
		requireStable(t, websocket.JSONCodec{}, data)
	})
}

func FuzzProtobufDecode(f *testing.F) {
	addVectors(f, websocket.ProtobufCodec{})
	for _, input := range protoInputs() {
		if len(input) < 1000 {
			f.Add(input)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		requireLikeProto(t, data)
		requireStable(t, websocket.ProtobufCodec{}, data)
	})
}

func FuzzFlatBuffersDecode(f *testing.F) {
	addVectors(f, websocket.FlatBuffersCodec{})
	f.Add([]byte{0xff, 0xff, 0xff, 0x7f})
	msg := fullMessage()
	f.Add(behindTheTable(&msg))
	f.Fuzz(func(t *testing.T, data []byte) {
		var got websocket.Message
		if (websocket.FlatBuffersCodec{}).Unmarshal(data, &got) == nil {
			// Generated code does not check its input: it must not panic on accepted data.
			require.Equal(t, fromFlat(data), got)
		}
		requireStable(t, websocket.FlatBuffersCodec{}, data)
	})
}

func FuzzMsgpackDecode(f *testing.F) {
	addVectors(f, websocket.MsgpackCodec{})
	for _, tt := range msgpackMalformed {
		f.Add([]byte(tt.wire))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var got websocket.Message
		if (websocket.MsgpackCodec{}).Unmarshal(data, &got) == nil {
			var want packed
			if err := msgpack.Unmarshal(data, &want); err == nil {
				require.Equal(t, want.message(), got)
			}
		}
		requireStable(t, websocket.MsgpackCodec{}, data)
	})
}

// FuzzFlatBuffersCorrupt overwrites two 4-byte words of a valid message. That reaches
// more code than random input.
func FuzzFlatBuffersCorrupt(f *testing.F) {
	msg := fullMessage()
	wire := mustMarshal(f, websocket.FlatBuffersCodec{}, &msg)
	f.Add(uint8(0), uint32(0x7fffffff), uint8(8), uint32(1))
	f.Fuzz(func(t *testing.T, at1 uint8, value1 uint32, at2 uint8, value2 uint32) {
		data := bytes.Clone(wire)
		last := len(data) - 4
		binary.LittleEndian.PutUint32(data[int(at1)%last:], value1)
		binary.LittleEndian.PutUint32(data[int(at2)%last:], value2)
		var got websocket.Message
		if (websocket.FlatBuffersCodec{}).Unmarshal(data, &got) == nil {
			require.Equal(t, fromFlat(data), got)
		}
	})
}
