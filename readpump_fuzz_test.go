package websocket_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto/wsprototest"
	"github.com/stretchr/testify/require"
)

// fuzzMessageSize is Config.MaxMessageSize in FuzzInboundPath.
const fuzzMessageSize = 1000

// expected returns the correct reaction of a hub with a raw codec to a stream without
// compression: the messages, and the code of the Close frame. The code is 0 if the
// connection stays open. It is -1 if the stream ends inside a header that is already
// invalid: the hub need not have noticed that.
func expected(stream []byte, codec rawCodec) (messages []string, code int) {
	var message []byte
	var opcode byte
	wireLimit := int64(fuzzMessageSize + fuzzMessageSize>>10 + 256)
	r := wsprototest.Referee(stream, false, wireLimit, func(f wsprototest.SeenFrame) bool {
		switch op := f.First & 0x0f; op {
		case pingOp, pongOp:
			return true
		case closeOp:
			if f.Whole {
				code = closeCodeFor(f.Payload)
			}
			return false
		case textOp, binaryOp:
			message, opcode = nil, op
		}
		message = append(message, f.Payload...)
		switch {
		case len(message) > fuzzMessageSize:
			code = 1009
		case !f.Whole || f.First < fin:
		case int(opcode) != codec.opcode:
			code = 1003
		case opcode == textOp && !utf8.Valid(message):
			code = 1007
		default:
			messages = append(messages, string(message))
		}
		return code == 0
	})
	if code == 0 {
		code = r.Code
	}
	if r.Early {
		code = -1
	}
	return messages, code
}

// closeCodeFor returns the code of the hub's answer to a Close frame with this
// payload.
func closeCodeFor(payload []byte) int {
	if len(payload) == 0 {
		return 1005
	}
	code := int(binary.BigEndian.Uint16(payload))
	valid := code >= 1000 && code <= 1013 && code != 1004 && code != 1005 && code != 1006 || code >= 3000 && code <= 4999
	if !valid || !utf8.Valid(payload[2:]) {
		return 1002
	}
	return code
}

// fuzzKeys are constant, so that failing inputs are reproducible.
var fuzzKeys = wireKeys{aes: bytes.Repeat([]byte{7}, 32), hmac: bytes.Repeat([]byte{8}, 32), signThenEncrypt: true}

// FuzzInboundPath writes the input to a client's connection: as a stream of frames,
// or as the payload of one message, sealed if the hub has keys. The hub must not
// panic or hang, must serve a second client, and must shut down. With a raw codec and
// without compression it must follow RFC 6455.
func FuzzInboundPath(f *testing.F) {
	names := append([]string{rawText.name, rawBinary.name}, subprotocols...)
	for _, stream := range wsprototest.Streams() {
		for i := range names {
			f.Add(stream, byte(i), false, false, false, byte(0))
		}
		f.Add(stream, byte(0), false, true, false, byte(1))
		f.Add(stream, byte(2), true, false, false, byte(3))
	}
	cases := malformed(f)
	for i, name := range names {
		if _, ok := wireCodecs[name]; !ok {
			continue
		}
		for _, control := range []wire{
			{Type: "greeting", Data: []byte("1"), ID: "i"}, {Type: "subscribe", Data: wireCodecs[name].channel("x"), ID: "i"},
			{Type: "publish", Channel: "x", Data: []byte("\xff")}, {Type: "join_room", Data: wireCodecs[name].room("\n")}, {Type: "broadcast"},
		} {
			b, err := wireCodecs[name].encode(control)
			require.NoError(f, err)
			f.Add(b, byte(i), false, false, true, byte(0))
			f.Add(b, byte(i), true, false, true, byte(0))
			f.Add([]byte(dataFrame(name, string(b))+closeFrame(1000, "")), byte(i), false, false, false, byte(1))
		}
		for _, payload := range cases[name] {
			if len(payload) < fuzzMessageSize {
				f.Add([]byte(payload), byte(i), false, false, true, byte(0))
			}
		}
	}
	f.Fuzz(func(t *testing.T, input []byte, codec byte, sealed, deflate, asPayload bool, piece byte) {
		if len(input) > 1<<14 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			config := rawConfig()
			config.MaxMessageSize = fuzzMessageSize
			config.MessageRate, config.ByteRate = -1, -1
			if sealed {
				config.Security = fuzzKeys.config()
			}
			hub := runEcho(t, paths[int(piece)%2], config)
			name := names[int(codec)%len(names)]
			headers := []string{protocolHeader(name), underTest}
			if deflate {
				headers = append(headers, "Sec-WebSocket-Extensions: permessage-deflate")
			}
			var other *rawPeer
			if !sealed {
				other = hub.bystander()
			}
			server, client := testnet.Pair(1 << 20)
			served := hub.accept(server)
			peer := rawOver(t, client, handshakeOf(headers...)).requireOpen()
			<-served
			if piece > 0 {
				client.SetWindow(int(piece))
			}
			stream := string(input)
			if asPayload {
				opcode := byte(binaryOp)
				if w, ok := wireCodecs[name]; !sealed && (ok && !w.binary || name == rawText.name) {
					opcode = textOp
				}
				if sealed {
					stream = string(fuzzKeys.seal(input))
				}
				stream = frameOf(fin|opcode, stream)
			}
			written := make(chan struct{}) // closed by the writer, received below
			go func() {                    // ends when the hub has read the stream or closed the connection
				defer close(written)
				peer.write(stream)
			}()
			time.Sleep(3 * time.Second) // longer than any connection takes to end
			<-written
			if other != nil {
				for other.nc.(*testnet.Conn).Pending() > 0 || other.br.Buffered() > 0 {
					_, err := other.next() // a broadcast of the peer
					require.NoError(t, err)
				}
				other.requireUndisturbed()
			}
			hub.stop()
			frames := peer.rest()
			<-hub.ended
			_ = client.Close()
			synctest.Wait()
			require.Zero(t, hub.Stats().HeldBytes)
			require.NotEmpty(t, frames)
			code, reason := closeOf(t, frames[len(frames)-1])
			require.True(t, code == 1001 || code == 1005 || sendable(code), code)

			for _, raw := range []rawCodec{rawText, rawBinary} {
				if raw.name != name || sealed || deflate {
					continue
				}
				messages, want := expected([]byte(stream), raw)
				if want < 0 {
					return
				}
				if want == 0 {
					want = 1001
				}
				require.Equal(t, want, code, reason)
				require.True(t, slices.Equal(messages, hub.seen.items), "%q, want %q", hub.seen.items, messages)
			}
		})
	})
}

// sendable reports whether a Close frame may have this code (RFC 6455 section 7.4).
func sendable(code int) bool {
	return code == closeCodeFor(binary.BigEndian.AppendUint16(nil, uint16(code)))
}
