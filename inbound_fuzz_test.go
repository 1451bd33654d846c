package websocket_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// ruling is what RFC 6455 says of a stream of client frames.
type ruling struct {
	code  int  // of the first violation, or 0
	start int  // of the frame that breaks a rule
	known int  // bytes of the stream after which the violation is plain
	early bool // the stream ends where a violation is plain but its header is not whole
}

// seenFrame is one frame as far as the stream goes.
type seenFrame struct {
	first   byte
	payload []byte // unmasked
	whole   bool
}

// referee reads a stream strictly and calls visit for each frame before the
// first violation; visit returns false to stop.
func referee(stream []byte, deflate bool, limit int64, visit func(seenFrame) bool) ruling {
	inMessage, total, empties := false, uint64(0), 0
	for at := 0; len(stream)-at >= 2; {
		broken := func(code, header int) ruling { return ruling{code: code, start: at, known: at + header} }
		first, second := stream[at], stream[at+1]
		op, last := first%16, first >= 0x80
		isControl, isData := op >= 8, op == 1 || op == 2
		marked := first&0x40 > 0
		length := uint64(second % 128)
		allowed := op <= 2 || op >= 8 && op <= 10
		if !allowed || first&0x30 > 0 || second < 0x80 ||
			isControl && (!last || length > 125 || marked || op == 8 && length == 1) ||
			marked && (!deflate || !isData) ||
			op == 0 && !inMessage || isData && inMessage {
			return broken(1002, 2)
		}
		header := 2
		switch length {
		case 126:
			header = 4
		case 127:
			header = 10
		}
		if len(stream)-at < header {
			return ruling{}
		}
		switch header {
		case 4:
			length = uint64(binary.BigEndian.Uint16(stream[at+2:]))
		case 10:
			length = binary.BigEndian.Uint64(stream[at+2:])
		}
		masked := len(stream)-at >= header+4
		verdict := 0
		switch {
		case header == 4 && length <= 125, header == 10 && length <= 65535, length > 1<<63-1:
			verdict = 1002
		case isControl:
		default:
			if isData {
				total, empties = 0, 0
			}
			if length > uint64(limit)-total {
				verdict = 1009
			} else if total += length; length == 0 && !last {
				if empties++; empties > 128 {
					verdict = 1008
				}
			}
			inMessage = !last
		}
		if verdict != 0 && !masked {
			return ruling{early: true}
		}
		if verdict != 0 {
			return broken(verdict, header+4)
		}
		if !masked {
			return ruling{}
		}
		key := stream[at+header : at+header+4]
		at += header + 4
		n := int(min(length, uint64(len(stream)-at)))
		payload := slices.Clone(stream[at : at+n])
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		at += n
		if !visit(seenFrame{first, payload, uint64(n) == length}) {
			return ruling{}
		}
	}
	return ruling{}
}

// streams are seeds: correct, wrong and borderline.
func streams() [][]byte {
	var all [][]byte
	add := func(parts ...string) { all = append(all, []byte(strings.Join(parts, ""))) }
	hello, zipped := textFrame("Hello"), frameOf(fin|rsv1|textOp, deflated("Hello", 6))
	add(hello)
	add(hello, pingFrame("p"), pongFrame(""), closeFrame(1000, "bye"), hello)
	add(fragments(textOp, "frag", "", "ment"), fragments(binaryOp, "\xff", "\x00"))
	add(frameOf(textOp, "a"), pingFrame("inside"), frameOf(fin, "b"))
	add(textFrame(strings.Repeat("x", 125)), textFrame(strings.Repeat("x", 126)))
	add(textFrame(strings.Repeat("x", 1000)), textFrame(strings.Repeat("x", 1001)))
	add(fragments(textOp, strings.Repeat("x", 600), strings.Repeat("x", 600)))
	add(frameOf(textOp, ""), strings.Repeat(frameOf(contOp, ""), 130))
	add(headerOf(fin|textOp, 0x80, 70_000, 9), masked(strings.Repeat("x", 100)))
	add(headerOf(fin|textOp, 0x80, 5, 3), masked("Hello"))
	add(headerOf(fin|textOp, 0x80, 5, 9), masked("Hello"))
	add(hello, headerOf(fin|textOp, 0x80, 1<<63, 9), masked("Hello"))
	add(hello, headerOf(contOp, 0x80, 1<<63-1, 9))
	add(frameOf(textOp, "x"), headerOf(contOp, 0x80, 1<<63-1, 9), "mask")
	add(headerOf(fin|textOp, 0, 5, 0), "Hello")
	add(zipped, fragments(textOp|rsv1, chopped(deflated("Hello", 6), 2)...))
	add(frameOf(fin|rsv1|textOp, "\xff\xff"), hello)
	add(frameOf(fin|rsv1|pingOp, ""), frameOf(fin|rsv1, ""))
	add(frameOf(fin|closeOp, "\x03"), closeFrame(1005, ""), closeFrame(5000, ""))
	add(closeFrame(1000, "\xff"))
	add(textFrame("\xff"), frameOf(fin|binaryOp, "\xff"))
	add(frameOf(fin|3, ""), frameOf(fin|11, ""))
	for i := range 8 {
		add(frameOf(fin|byte(i)<<4|textOp, "bits"))
	}
	return all
}

// FuzzFrameChecker compares the check of frames with a reference that reads the
// stream as a whole, however the stream is split.
func FuzzFrameChecker(f *testing.F) {
	for _, stream := range streams() {
		f.Add(stream, []byte{}, false)
		f.Add(stream, []byte{1}, true)
		f.Add(stream, []byte{2, 3, 0, 7}, true)
	}
	const limit = 1000
	f.Fuzz(func(t *testing.T, stream, splits []byte, deflate bool) {
		want := referee(stream, deflate, limit, func(seenFrame) bool { return true })
		if want.early {
			return
		}
		whole := websocket.NewFrameChecker(deflate, limit)
		n, violation := whole.Check(slices.Clone(stream))
		if want.code == 0 {
			require.Nil(t, violation)
			require.Equal(t, len(stream), n)
		} else {
			require.NotNil(t, violation)
			require.Equal(t, want.code, violation.Code, violation.Reason)
			require.NotEmpty(t, violation.Reason)
			require.Equal(t, want.start, n, "what comes before is passed on")
		}

		split := websocket.NewFrameChecker(deflate, limit)
		passed, turn := 0, 0
		for rest := stream; len(rest) > 0; turn++ {
			size := 1
			if len(splits) > 0 {
				size = 1 + int(splits[turn%len(splits)])
			}
			piece := slices.Clone(rest[:min(size, len(rest))])
			rest = rest[len(piece):]
			k, again := split.Check(piece)
			passed += k
			if again != nil {
				require.Equal(t, violation, again)
				require.GreaterOrEqual(t, passed, want.start)
				require.Less(t, passed, want.known, "a frame that breaks a rule was passed on")
				return
			}
			require.Equal(t, len(piece), k)
		}
		require.Nil(t, violation, "split differently it is no violation")
	})
}

// pathLimit is Config.MaxMessageSize where FuzzInboundPath runs.
const pathLimit = 1000

// expected is what a hub with a raw codec makes of a stream without deflate: the
// messages, and the code of the Close, 0 if the connection stays open.
func expected(stream []byte, codec rawCodec) (messages []string, code int) {
	var message []byte
	var opcode byte
	wireLimit := int64(pathLimit + pathLimit>>10 + 256)
	r := referee(stream, false, wireLimit, func(f seenFrame) bool {
		switch op := f.first & 0x0f; op {
		case pingOp, pongOp:
			return true
		case closeOp:
			if f.whole {
				code = answerTo(f.payload)
			}
			return false
		case textOp, binaryOp:
			message, opcode = nil, op
		}
		message = append(message, f.payload...)
		switch {
		case len(message) > pathLimit:
			code = 1009
		case !f.whole || f.first < fin:
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
		code = r.code
	}
	if r.early {
		code = -1
	}
	return messages, code
}

// answerTo is the code that answers a Close frame with this payload.
func answerTo(payload []byte) int {
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

// fuzzKeys are fixed, so that findings can be repeated.
var fuzzKeys = wireKeys{aes: bytes.Repeat([]byte{7}, 32), hmac: bytes.Repeat([]byte{8}, 32), signThenEncrypt: true}

// FuzzInboundPath feeds a client's connection with anything: as a stream of
// frames, or as the payload of one message, sealed where the hub expects that.
// Nothing panics or hangs, a second client is not disturbed, the hub shuts down,
// and with a raw codec all turns out as RFC 6455 says.
func FuzzInboundPath(f *testing.F) {
	names := append([]string{rawText.name, rawBinary.name}, subprotocols...)
	for _, stream := range streams() {
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
			if len(payload) < pathLimit {
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
			config.MaxMessageSize = pathLimit
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
			go func() {                    // ends when the hub has taken or refused all
				defer close(written)
				peer.write(stream)
			}()
			time.Sleep(3 * time.Second) // the time that any ending takes
			<-written
			if other != nil {
				for other.nc.(*testnet.Conn).Pending() > 0 || other.br.Buffered() > 0 {
					_, err := other.next() // what the peer has broadcast
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

// sendable follows RFC 6455 section 7.4.
func sendable(code int) bool {
	return code == answerTo(binary.BigEndian.AppendUint16(nil, uint16(code)))
}
