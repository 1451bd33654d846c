package websocket_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// dataFrame returns a message as one frame of the codec's type.
func dataFrame(codec, payload string) string {
	if wireCodecs[codec].binary {
		return frameOf(fin|binaryOp, payload)
	}
	return textFrame(payload)
}

// sample returns an encoded message with all fields set.
func sample(t testing.TB, codec string) string {
	t.Helper()
	b, err := wireCodecs[codec].encode(wire{
		Type: "greeting", Channel: "news", Data: []byte(`{"any":"JSON"}`), Timestamp: 1, ClientID: "me", ID: "7",
	})
	require.NoError(t, err)
	return string(b)
}

func littleEndian(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }

// malformed returns payloads that a codec must reject, by codec and name.
func malformed(t testing.TB) map[string]map[string]string {
	m := map[string]map[string]string{
		"json": {
			"empty": "", "blank": " ", "not an object": "1", "array": "[]", "unterminated": `{"type":"x"`, "two objects": `{}{}`, "byte order mark": "\ufeff{}",
			"comment": `{"type":"x"/**/}`, "single quotes": `{'type':'x'}`, "trailing comma": `{"type":"x",}`,
			"type is a number": `{"type":1}`, "timestamp is text": `{"type":"x","timestamp":"now"}`, "bad base64": `{"type":"x","data":"%","encoding":"base64"}`,
			"nested arrays":            `{"type":"x","data":` + strings.Repeat("[", 60_000) + `}`,
			"nested objects":           `{"type":"x","data":` + strings.Repeat(`{"a":`, 12_000) + `}`,
			"nested and closed":        `{"type":"x","data":` + nested(30_000) + `}`,
			"nested in an unknown key": `{"other":` + nested(30_000) + `}`,
			"nested without envelope":  nested(30_000),
			"nested open strings":      strings.Repeat(`["`, 30_000),
		},
		"protobuf": {
			"length beyond the end":     "\x0a\x7fx",
			"length of 2 GiB":           "\x1a\xff\xff\xff\xff\x07x",
			"length of 64 bits":         "\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01x",
			"unterminated varint":       "\x20" + strings.Repeat("\xff", 20),
			"unterminated tag":          strings.Repeat("\xff", 11),
			"field 0":                   "\x02\x01x",
			"string not UTF-8":          "\x0a\x01\xff",
			"unterminated groups":       strings.Repeat("\x7b", 60_000),
			"group end without a start": "\x7c",
			"reserved wire type":        "\x0f",
		},
		"flatbuffers": {
			"empty": "", "one byte": "\x00", "three bytes": "\x04\x00\x00",
			"root of 2 GiB":          "\xff\xff\xff\x7f",
			"root of all ones":       "\xff\xff\xff\xff",
			"root at the end":        "\x04\x00\x00\x00",
			"zeros":                  strings.Repeat("\x00", 64),
			"ones":                   strings.Repeat("\xff", 64),
			"vtable before the data": littleEndian(4) + littleEndian(0x7fffffff),
			"vtable behind the data": littleEndian(4) + littleEndian(0x80000000),
		},
		"msgpack": {
			"empty": "", "nil": "\xc0", "array": "\x90", "string": "\xa1x", "reserved byte": "\xc1",
			"map of 2^32":            "\xdf\xff\xff\xff\xff",
			"map of 65535":           "\xde\xff\xff",
			"string of 4 GiB":        "\x81\xa4type\xdb\xff\xff\xff\xff",
			"bin of 4 GiB":           "\x81\xa4data\xc6\xff\xff\xff\xff",
			"bin of 2 GiB":           "\x81\xa4data\xc6\x7f\xff\xff\xffx",
			"ext of 4 GiB":           "\x81\xa1x\xc9\xff\xff\xff\xff\x01",
			"array of 2^32":          "\x81\xa1x\xdd\xff\xff\xff\xff",
			"nested arrays":          "\x81\xa1x" + strings.Repeat("\x91", 60_000),
			"nested maps":            "\x81\xa1x" + strings.Repeat("\x81\xa1x", 20_000),
			"wide and nested arrays": "\x81\xa1x" + strings.Repeat("\xdd\xff\xff\xff\xff", 12_000),
			"number as key":          "\x81\x01\x01",
			"map as key":             "\x81\x80\x01",
			"trailing bytes":         "\x80\x80",
		},
	}
	// Valid envelopes, truncated or with one length replaced.
	for _, codec := range subprotocols {
		envelope := sample(t, codec)
		m[codec]["cut in the middle"] = envelope[:len(envelope)/2]
	}
	flat := sample(t, "flatbuffers")
	for _, text := range []string{"greeting", "news", `{"any":"JSON"}`} {
		at := strings.Index(flat, text) - 4
		require.Positive(t, at)
		for _, n := range []uint32{0x7fffffff, 0x80000000, 0xffffffff, uint32(len(flat))} {
			m["flatbuffers"][fmt.Sprintf("%s of %d bytes", text, n)] = flat[:at] + littleEndian(n) + flat[at+4:]
		}
	}
	return m
}

// TestMalformedMessagesCloseWith1007 sends each malformed payload on a TCP
// connection. It is not parallel because it measures the allocations of the process.
func TestMalformedMessagesCloseWith1007(t *testing.T) {
	b := setup(t, websocket.DefaultConfig, options{})
	cases := malformed(t)
	for _, codec := range subprotocols {
		t.Run(codec, func(t *testing.T) {
			for name, payload := range cases[codec] {
				t.Run(name, func(t *testing.T) {
					peer := b.rawTCP(t, handshakeOf(protocolHeader(codec))).requireOpen()
					client := b.connected.take(t)
					stream := dataFrame(codec, sample(t, codec)) + dataFrame(codec, payload) + dataFrame(codec, sample(t, codec))
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					start := time.Now()
					peer.write(stream)
					f, err := peer.next()
					require.NoError(t, err)
					took := time.Since(start)
					runtime.ReadMemStats(&after)
					code, reason := closeOf(t, f)
					require.Equal(t, 1007, code, reason)
					require.Contains(t, reason, "malformed")
					require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20))
					require.Less(t, took, 5*time.Second) // about a millisecond on an idle machine
					_ = peer.nc.Close()
					require.Same(t, client, b.disconnected.take(t))
					require.Equal(t, &websocket.CloseError{Code: 1007, Reason: reason}, closeErrorOf(client))
					require.Equal(t, "greeting", b.messages.take(t).message.Type)
					require.Zero(t, b.messages.len(), "the hub processed a message after the malformed one")
				})
			}
		})
	}
}

// TestCorruptMessagesNeverPanic truncates an envelope at every length and flips bits
// in every byte. The hub must accept the message or close the connection with the
// right code, and must release all memory.
func TestCorruptMessagesNeverPanic(t *testing.T) {
	t.Parallel()
	for _, codec := range subprotocols {
		for _, keys := range []wireKeys{{}, randomKeys()} {
			t.Run(fmt.Sprintf("%s sealed=%v", codec, !keys.none()), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.Security = keys.config()
					hub := runFake(t, paths[0], config)
					defer hub.stop()
					envelope := keys.seal([]byte(sample(t, codec)))
					opcode := byte(textOp)
					if wireCodecs[codec].binary || !keys.none() {
						opcode = binaryOp
					}
					send := func(b []byte) {
						peer := hub.raw(handshakeOf(protocolHeader(codec))).requireOpen()
						peer.write(frameOf(fin|opcode, string(b)) + closeFrame(1000, ""))
						frames := peer.rest()
						require.NotEmpty(t, frames)
						code, reason := closeOf(t, frames[len(frames)-1])
						switch {
						case !keys.none():
							require.Equal(t, 1008, code, "%q", b)
							require.Contains(t, reason, "does not open")
						case code != 1000:
							require.Equal(t, 1007, code, "%q", b)
							require.NotEmpty(t, reason)
						}
						_ = peer.nc.Close()
					}
					for i := range envelope {
						send(envelope[:i])
						for _, flip := range []byte{0x01, 0x80, 0xff} {
							b := bytes.Clone(envelope)
							b[i] ^= flip
							send(b)
						}
					}
					synctest.Wait()
					require.Zero(t, hub.Stats().ActiveConnections)
					require.Zero(t, hub.Stats().HeldBytes)
				})
			})
		}
	}
}

// TestWronglySealedFramesAreRejected sends frames that are not sealed as configured,
// or whose sealed payload is malformed.
func TestWronglySealedFramesAreRejected(t *testing.T) {
	t.Parallel()
	keys := randomKeys()
	sealed := string(keys.seal([]byte(`{"type":"x"}`)))
	tests := []struct {
		name   string
		frame  string
		code   int
		reason string
	}{
		{"sealed in a text frame", textFrame(sealed), 1003, "binary"},
		{"plain text", textFrame(`{"type":"x"}`), 1003, "binary"},
		{"plain in a binary frame", frameOf(fin|binaryOp, `{"type":"x"}`), 1008, "does not open"},
		{"empty", frameOf(fin|binaryOp, ""), 1008, "does not open"},
		{"sealed twice", frameOf(fin|binaryOp, string(keys.seal([]byte(sealed)))), 1007, "malformed"},
		{"sealed garbage", frameOf(fin|binaryOp, string(keys.seal([]byte("\xff")))), 1007, "malformed"},
		{"sealed empty payload", frameOf(fin|binaryOp, string(keys.seal(nil))), 1007, "malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.Security = keys.config()
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				peer := hub.raw(handshakeOf()).requireOpen()
				peer.write(frameOf(fin|binaryOp, sealed) + tt.frame)
				require.Contains(t, peer.requireEnd(tt.code), tt.reason)
				require.EqualValues(t, 1, hub.Stats().MessagesReceived)
				_ = peer.nc.Close()
			})
		})
	}
}

// TestUnreadRepliesAreBounded floods the hub with control messages and does not read
// the replies. The hub must evict the client and hold a bounded number of bytes.
func TestUnreadRepliesAreBounded(t *testing.T) {
	t.Parallel()
	requests := map[string]wire{
		"acks":         {Type: "subscribe", Data: jsonChannel("news"), ID: "i"},
		"errors":       {Type: "subscribe", Data: jsonChannel("")},
		"long errors":  {Type: "join_room", Data: jsonRoom(strings.Repeat("x", 300)), ID: strings.Repeat("i", 1000)},
		"publications": {Type: "broadcast", Data: mustJSON(strings.Repeat("x", 1000)), ID: "i"},
	}
	for name, request := range requests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.MaxMessageSize, config.ClientBacklog = 10_000, 20_000
					ended := make(chan *websocket.CloseError, 2)
					hub := runFake(t, p, config, func(h *websocket.Hub) {
						h.SetCallbacks(nil, func(c *websocket.Client) { ended <- closeErrorOf(c) }, nil)
					})
					defer hub.stop()
					other := hub.raw(handshakeOf()).requireOpen()
					server, client := testnet.Pair(1 << 14)
					served := hub.accept(server)
					peer := rawOver(t, client, handshakeOf()).requireOpen()
					<-served
					server.SetWindow(200)
					b, err := encodeJSON(request)
					require.NoError(t, err)
					var most int64
					for range 2000 {
						if _, err := client.Write([]byte(textFrame(string(b)))); err != nil {
							break
						}
						synctest.Wait()
						most = max(most, hub.Stats().HeldBytes)
						for other.br.Buffered() > 0 || other.nc.(*testnet.Conn).Pending() > 0 {
							_, err := other.next()
							require.NoError(t, err)
						}
						time.Sleep(10 * time.Millisecond)
					}
					ce := <-ended
					require.Equal(t, websocket.CloseTryAgainLater, ce.Code, ce.Reason)
					// A message may be held both as received and encoded. The rest is the buffer of the
					// writePump, which may have been larger, and what two clients hold while they are idle.
					require.LessOrEqual(t, most, 3*config.ClientBacklog+(256<<10)+(4<<10))
					require.EqualValues(t, 1, hub.Stats().Evicted)
					other.leave()
					_ = peer.nc.Close()
					synctest.Wait()
					require.Zero(t, hub.Stats().HeldBytes)
				})
			})
		})
	}
}

// TestIncompleteHandshakes leaves requests incomplete on a TCP server. The hub must
// serve others, and must shut down.
func TestIncompleteHandshakes(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	request := handshakeOf()
	for n := 0; n < len(request); n += 7 {
		nc, err := net.Dial("tcp", b.server.Listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { _ = nc.Close() })
		_, err = nc.Write([]byte(request[:n]))
		require.NoError(t, err)
	}
	peer := b.rawTCP(t, request).requireOpen()
	b.connected.take(t)
	require.Equal(t, 1, b.hub.Stats().ActiveConnections)
	peer.leave()
}

// TestFramesBeforeHandshakeResponseAreRejected sends a frame with the request, which
// RFC 6455 section 4.1 forbids.
func TestFramesBeforeHandshakeResponseAreRejected(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runEcho(t, paths[0], rawConfig())
		defer hub.stop()
		other := hub.bystander()
		server, client := testnet.Pair(1 << 16)
		served := hub.accept(server)
		_, err := client.Write([]byte(handshakeOf(protocolHeader(rawText.name), underTest) + textFrame("early")))
		require.NoError(t, err)
		<-served
		response, err := io.ReadAll(client)
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(response), "HTTP/1.1 400 "), "%q", response)
		require.Empty(t, hub.seen.items)
		other.requireUndisturbed()
		_ = client.Close()
	})
}

// hijackWriter is a ResponseRecorder whose Hijack calls hijack.
type hijackWriter struct {
	*httptest.ResponseRecorder
	hijack func() (net.Conn, *bufio.ReadWriter, error)
}

func (w hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) { return w.hijack() }

// TestFailedHijackReleasesEverything has writers that cannot be hijacked. Such a
// handshake must not keep its ID or its place among the clients.
func TestFailedHijackReleasesEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxClients, config.MaxHandshakes = 1, 1
		config.ClientID = func(*http.Request) (string, error) { return "someone", nil }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		server, client := testnet.Pair(4096)
		serve := func(w http.ResponseWriter) (panicked any) {
			defer func() { panicked = recover() }()
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header = http.Header{
				"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
			}
			hub.Handler().ServeHTTP(w, r)
			return nil
		}
		recorder := httptest.NewRecorder()
		require.Nil(t, serve(recorder))
		require.Equal(t, http.StatusInternalServerError, recorder.Code)
		require.NotNil(t, serve(hijackWriter{httptest.NewRecorder(), func() (net.Conn, *bufio.ReadWriter, error) { panic("boom") }}))
		require.NotNil(t, serve(hijackWriter{httptest.NewRecorder(), func() (net.Conn, *bufio.ReadWriter, error) { return server, nil, nil }}))
		_, err := client.Read(make([]byte, 1))
		require.Error(t, err, "the connection must be closed")
		_ = hub.connect(4096, nil).Close() // the ID and the only place are free again
	})
}

// TestPanicInHandshakeHook lets a hook of the handshake panic. The handshake must
// not keep its place among the clients.
func TestPanicInHandshakeHook(t *testing.T) {
	t.Parallel()
	hooks := map[string]func(*websocket.Config, func(r *http.Request)){
		"ClientID": func(c *websocket.Config, f func(*http.Request)) {
			c.ClientID = func(r *http.Request) (string, error) { f(r); return "someone", nil }
		},
		"CheckOrigin": func(c *websocket.Config, f func(*http.Request)) {
			c.CheckOrigin = func(r *http.Request) bool { f(r); return true }
		},
	}
	for name, set := range hooks {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.MaxClients, config.MaxHandshakes = 1, 1
			config.DrainTimeout, config.CallbackTimeout = 100*time.Millisecond, 100*time.Millisecond
			set(&config, func(r *http.Request) {
				if r.URL.Path == "/panic" {
					panic("provoked")
				}
			})
			b := setup(t, config, options{logsError: true})
			for range 3 {
				nc, err := net.Dial("tcp", b.server.Listener.Addr().String())
				require.NoError(t, err)
				_, err = nc.Write([]byte(strings.Replace(handshakeOf(), "GET /", "GET /panic", 1)))
				require.NoError(t, err)
				_, _ = nc.Read(make([]byte, 1)) // the end of the connection, or a response with status 500
				_ = nc.Close()
			}
			peer := b.rawTCP(t, handshakeOf())
			require.Equal(t, http.StatusSwitchingProtocols, peer.status, peer.body)
			peer.leave()
		})
	}
}
