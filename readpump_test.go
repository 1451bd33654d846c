package websocket_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// With IgnoreMalformed, a message that the codec cannot decode has no effect. Everything
// else that closes a connection still does.
func TestIgnoreMalformed(t *testing.T) {
	t.Parallel()
	keys := randomKeys()
	malformed := map[string][]byte{"json": []byte("ping"), "protobuf": {0x0a, 0x7f, 'x'}, "flatbuffers": []byte("ping"), "msgpack": {0xc1}}
	for _, codec := range subprotocols {
		for _, k := range []wireKeys{{}, keys} {
			t.Run(fmt.Sprint(codec, " sealed ", !k.none()), func(t *testing.T) {
				t.Parallel()
				config := websocket.DefaultConfig
				config.IgnoreMalformed = true
				config.Security = k.config()
				b := setup(t, config, options{})
				p, c := b.connect(t, dialing{codec: codec, keys: k})
				opcode, valid := p.encoded(t, wire{Type: "own"})
				bad := malformed[codec]
				if !k.none() {
					bad = k.seal(bad)
				}
				for range 3 {
					p.sendRaw(t, opcode, bad)
				}
				p.sendRaw(t, opcode, valid)
				p.subscribe(t, "news")
				require.Equal(t, "own", b.messages.take(t).message.Type, "OnMessage got a malformed message")
				st := b.hub.Stats()
				require.EqualValues(t, 3, st.MessagesIgnored)
				require.EqualValues(t, 2, st.MessagesReceived)
				require.NoError(t, c.CloseError())

				if k.none() {
					p.sendRaw(t, websocket.TextMessage+websocket.BinaryMessage-opcode, valid)
					p.requireClosed(t, 1003)
				} else {
					p.sendRaw(t, opcode, valid[1:])
					p.requireClosed(t, 1008)
				}
			})
		}
	}
}

func TestBadInputClosesClient(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	keys := randomKeys()
	big := func(n int) []byte { return []byte(`{"type":"own","data":"` + strings.Repeat("x", n-24) + `"}`) }
	require.Len(t, big(limit), limit)
	tests := []struct {
		name   string
		codec  string
		keys   wireKeys
		opcode int
		data   []byte
		code   int // of the Close frame; 0: the message is accepted
	}{
		{"JSON in a binary frame", "json", wireKeys{}, gorilla.BinaryMessage, []byte(`{"type":"own"}`), 1003},
		{"protobuf in a text frame", "protobuf", wireKeys{}, gorilla.TextMessage, []byte("\n\x03own"), 1003},
		{"msgpack in a text frame", "msgpack", wireKeys{}, gorilla.TextMessage, []byte("\x80"), 1003},
		{"FlatBuffers in a text frame", "flatbuffers", wireKeys{}, gorilla.TextMessage, []byte("x"), 1003},
		{"sealed in a text frame", "json", keys, gorilla.TextMessage, keys.seal([]byte(`{"type":"own"}`)), 1003},
		{"text that is not UTF-8", "json", wireKeys{}, gorilla.TextMessage, []byte("{\"type\":\"\xff\"}"), 1007},
		{"no JSON", "json", wireKeys{}, gorilla.TextMessage, []byte(`{"type"`), 1007},
		{"empty", "json", wireKeys{}, gorilla.TextMessage, nil, 1007},
		{"no object", "json", wireKeys{}, gorilla.TextMessage, []byte(`[]`), 1007},
		{"bad base64", "json", wireKeys{}, gorilla.TextMessage, []byte(`{"data":"*","encoding":"base64"}`), 1007},
		{"bad protobuf", "protobuf", wireKeys{}, gorilla.BinaryMessage, []byte{0x0a, 0x7f, 'x'}, 1007},
		{"FlatBuffer with an offset out of range", "flatbuffers", wireKeys{}, gorilla.BinaryMessage, []byte{0xff, 0xff, 0xff, 0x7f}, 1007},
		{"bad msgpack", "msgpack", wireKeys{}, gorilla.BinaryMessage, []byte{0xc1}, 1007},
		{"sealed, but no JSON", "json", keys, gorilla.BinaryMessage, keys.seal([]byte(`{"type"`)), 1007},
		{"sealed, not UTF-8", "json", keys, gorilla.BinaryMessage, keys.seal([]byte("{\"type\":\"\xff\"}")), 1007},
		{"not sealed", "json", keys, gorilla.BinaryMessage, []byte(`{"type":"own"}`), 1008},
		{"empty for sealed", "msgpack", keys, gorilla.BinaryMessage, nil, 1008},
		{"sealed with others' keys", "protobuf", keys, gorilla.BinaryMessage, randomKeys().seal([]byte("\n\x03own")), 1008},
		{"sealed in the other order", "msgpack", keys, gorilla.BinaryMessage,
			wireKeys{aes: keys.aes, hmac: keys.hmac}.seal([]byte("\x80")), 1008},
		{"as large as allowed", "json", wireKeys{}, gorilla.TextMessage, big(limit), 0},
		{"one byte more", "json", wireKeys{}, gorilla.TextMessage, big(limit + 1), 1009},
		{"far more", "json", wireKeys{}, gorilla.TextMessage, big(2 * limit), 1009},
		{"zero values", "protobuf", wireKeys{}, gorilla.BinaryMessage, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.MaxMessageSize = limit
			config.Security = tt.keys.config()
			b := setup(t, config, options{})
			bystander, _ := b.connect(t, dialing{keys: tt.keys})
			p, c := b.connect(t, dialing{codec: tt.codec, keys: tt.keys})
			p.sendRaw(t, tt.opcode, tt.data)
			if tt.code == 0 {
				require.Same(t, c, b.messages.take(t).client)
				return
			}
			for range 5 { // input after the bad message is discarded
				if p.WriteMessage(tt.opcode, tt.data) != nil {
					break
				}
			}
			require.NotEmpty(t, p.requireClosed(t, tt.code))
			require.NoError(t, p.Conn.Close())
			require.Same(t, c, b.disconnected.take(t))
			require.Equal(t, tt.code, closeErrorOf(c).Code)
			require.False(t, closeErrorOf(c).ByPeer)
			require.Zero(t, b.messages.len(), "onMessage was called")
			require.Zero(t, b.hub.Stats().MessagesReceived)
			if tt.code == 1008 {
				require.Len(t, b.logs.matching("warning", ""), 1)
			}
			bystander.do(t, wire{Type: "broadcast"})
		})
	}
}

// The hub checks that text is UTF-8 (RFC 6455 section 8.1) even if the codec accepts
// all bytes.
func TestTextMustBeUTF8(t *testing.T) {
	t.Parallel()
	codec := lines{name: "text", index: 4, opcode: websocket.TextMessage}
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{codec}
	config.Subprotocols = nil
	b := setup(t, config, options{})
	p, _ := b.connect(t, dialing{codec: "text"})
	p.codec = lineWire(codec, false)
	p.send(t, wire{Type: "own", Data: []byte("é")})
	require.Equal(t, "é", string(b.messages.take(t).message.Data))
	p.send(t, wire{Type: "own", Data: []byte("\xe9")})
	p.requireClosed(t, websocket.CloseInvalidPayloadData)
	require.Zero(t, b.messages.len())
}

func TestCodecPanicOnInputClosesOnlyThatClient(t *testing.T) {
	t.Parallel()
	codec := lines{name: "text", index: 4, opcode: websocket.TextMessage}
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{codec, websocket.JSONCodec{}}
	config.Subprotocols = nil
	b := setup(t, config, options{logsError: true})
	bystander, _ := b.connect(t, dialing{})
	p, c := b.connect(t, dialing{codec: "text"})
	p.sendRaw(t, gorilla.TextMessage, []byte("panic"))
	p.requireClosed(t, websocket.CloseInvalidPayloadData)
	require.Same(t, c, b.disconnected.take(t))
	bystander.do(t, wire{Type: "broadcast"})
}

// A compressed message of 48 KiB would inflate to 48 MiB. The hub stops inflating at
// MaxMessageSize.
func TestInflatingStopsAtMaxMessageSize(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	require.NoError(t, err)
	_, err = w.Write([]byte(`{"type":"own","data":"`))
	require.NoError(t, err)
	zeros := bytes.Repeat([]byte{'0'}, 1<<20)
	for range 48 {
		_, err = w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Flush())
	payload := bytes.TrimSuffix(bomb.Bytes(), []byte{0, 0, 0xff, 0xff})
	require.Less(t, len(payload), 64<<10, "the compressed message is within the limit")

	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{compress: true})
	require.NotEmpty(t, p.response.Header.Get("Sec-Websocket-Extensions"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	frame := binary.BigEndian.AppendUint16([]byte{0x80 | 0x40 | 1, 0x80 | 126}, uint16(len(payload)))
	frame = append(frame, 0, 0, 0, 0) // mask
	_, err = p.NetConn().Write(append(frame, payload...))
	require.NoError(t, err)
	p.requireClosed(t, websocket.CloseMessageTooBig)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<30), "other tests allocate memory too, but less")
	require.NoError(t, p.Conn.Close())
	require.Same(t, c, b.disconnected.take(t))
	require.Equal(t, websocket.CloseMessageTooBig, closeErrorOf(c).Code)
	require.Zero(t, b.messages.len())
}

// RFC 6455 forbids these frames.
func TestProtocolErrorsCloseClient(t *testing.T) {
	t.Parallel()
	const masked = 0x80
	tests := []struct {
		name  string
		bytes []byte
	}{
		{"not masked", []byte{0x81, 2, '{', '}'}},
		{"reserved bit", []byte{0x81 | 0x20, masked | 2, 0, 0, 0, 0, '{', '}'}},
		{"compressed without negotiation", []byte{0x81 | 0x40, masked | 2, 0, 0, 0, 0, '{', '}'}},
		{"unknown opcode", []byte{0x83, masked, 0, 0, 0, 0}},
		{"continuation without a message", []byte{0x80, masked, 0, 0, 0, 0}},
		{"new message inside a message", []byte{0x01, masked, 0, 0, 0, 0, 0x81, masked, 0, 0, 0, 0}},
		{"fragmented ping", []byte{0x09, masked, 0, 0, 0, 0}},
		{"long ping", append([]byte{0x89, masked | 126, 0, 126, 0, 0, 0, 0}, make([]byte, 126)...)},
		{"close code that may not be sent", []byte{0x88, masked | 2, 0, 0, 0, 0, 1005 >> 8, 1005 & 0xff}},
		{"half a close code", []byte{0x88, masked | 1, 0, 0, 0, 0, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{})
			p, c := b.connect(t, dialing{})
			_, err := p.NetConn().Write(tt.bytes)
			require.NoError(t, err)
			p.requireClosed(t, websocket.CloseProtocolError)
			require.NoError(t, p.Conn.Close())
			require.Same(t, c, b.disconnected.take(t))
			require.Equal(t, websocket.CloseProtocolError, closeErrorOf(c).Code)
		})
	}
}

// A peer sends a message in many frames with pings between them.
func TestFragmentsWithPings(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	for _, compress := range []bool{false, true} {
		p, _ := b.connect(t, dialing{codec: "json", compress: compress})
		pongs := make(chan string, 100)
		p.SetPongHandler(func(s string) error { pongs <- s; return nil })
		text := []byte(`{"type":"broadcast","data":"` + strings.Repeat("分", 10_000) + `"}`)
		w, err := p.NextWriter(gorilla.TextMessage)
		require.NoError(t, err)
		for i := 0; i < len(text); i += 7001 { // splits characters
			_, err = w.Write(text[i:min(i+7001, len(text))])
			require.NoError(t, err)
			require.NoError(t, p.WriteControl(gorilla.PingMessage, []byte("ping"), time.Now().Add(patience)))
		}
		require.NoError(t, w.Close())
		require.Equal(t, `"`+strings.Repeat("分", 10_000)+`"`, string(p.read(t).Data))
		require.Equal(t, "ping", await(t, pongs))
		require.NoError(t, p.Conn.Close())
		b.disconnected.take(t)
	}
}
