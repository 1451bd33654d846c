package websocket_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// lines is a codec of an application. It writes length-prefixed fields.
type lines struct {
	name   string
	index  int
	opcode int
	fails  func(m *websocket.Message) bool
	panics func(m *websocket.Message) bool
}

func (l lines) Name() string              { return l.name }
func (l lines) Index() int                { return l.index }
func (l lines) WebSocketMessageType() int { return l.opcode }

func (l lines) Marshal(m *websocket.Message) ([]byte, error) {
	if l.fails != nil && l.fails(m) {
		return nil, errors.New("lines: cannot encode the message")
	}
	if l.panics != nil && l.panics(m) {
		panic("lines: broken codec")
	}
	var b []byte
	for _, field := range [][]byte{[]byte(m.Type), []byte(m.Channel), m.Data, []byte(m.ClientID), []byte(m.ID)} {
		b = fmt.Appendf(b, "%d\n%s", len(field), field)
	}
	return b, nil
}

func (l lines) Unmarshal(data []byte, m *websocket.Message) error {
	if bytes.HasPrefix(data, []byte("panic")) {
		panic("lines: broken codec")
	}
	fields := make([]string, 5)
	for i := range fields {
		length, rest, _ := bytes.Cut(data, []byte("\n"))
		n, err := strconv.Atoi(string(length))
		if err != nil || n < 0 || n > len(rest) {
			return errors.New("lines: malformed")
		}
		fields[i], data = string(rest[:n]), rest[n:]
	}
	*m = websocket.Message{Type: fields[0], Channel: fields[1], Data: []byte(fields[2]), ClientID: fields[3], ID: fields[4]}
	return nil
}

// linesWithDecoder has its own control data: the name alone.
type linesWithDecoder struct{ lines }

func (linesWithDecoder) DecodeChannel(data []byte) string { return string(data) }
func (linesWithDecoder) DecodeRoomID(data []byte) string  { return string(data) }

func (linesWithDecoder) EncodeError(code, message string) []byte {
	return []byte(code + "\n" + message)
}
func (linesWithDecoder) EncodeGap(gap websocket.Gap) []byte { return []byte(gap.Reason) }

// lineWire returns the wireCodec of lines, or of linesWithDecoder if own is set.
func lineWire(l lines, own bool) wireCodec {
	c := wireCodec{
		binary: l.opcode == websocket.BinaryMessage, channel: jsonChannel, room: jsonRoom, problem: jsonProblem,
		encode: func(m wire) ([]byte, error) {
			return lines{}.Marshal(&websocket.Message{Type: m.Type, Channel: m.Channel, Data: m.Data, ClientID: m.ClientID, ID: m.ID})
		},
		decode: func(b []byte) (wire, error) {
			var m websocket.Message
			err := lines{}.Unmarshal(b, &m)
			return wire{Type: m.Type, Channel: m.Channel, Data: m.Data, ClientID: m.ClientID, ID: m.ID}, err
		},
	}
	if own {
		name := func(s string) []byte { return []byte(s) }
		c.channel, c.room = name, name
		c.problem = func(b []byte) (code, message string, err error) {
			code, message, _ = strings.Cut(string(b), "\n")
			return code, message, nil
		}
	}
	return c
}

func TestCustomCodecs(t *testing.T) {
	t.Parallel()
	plain := lines{name: "lines", index: 4, opcode: websocket.BinaryMessage}
	text := lines{name: "x-lines.text", index: -7, opcode: websocket.TextMessage}
	own := linesWithDecoder{lines{name: "own", index: 1 << 30, opcode: websocket.BinaryMessage}}
	keys := randomKeys()
	for _, s := range []wireKeys{{}, keys} {
		t.Run(fmt.Sprint("sealed=", !s.none()), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Codecs = []websocket.Codec{plain, websocket.JSONCodec{}, text, own, websocket.MsgpackCodec{}}
			config.Subprotocols = nil // the names of all Codecs
			config.Security = s.config()
			b := setup(t, config, options{})
			peers := map[string]*peer{}
			for name, codec := range map[string]wireCodec{
				"lines": lineWire(plain, false), "x-lines.text": lineWire(text, false), "own": lineWire(own.lines, true),
				"json": wireCodecs["json"], "msgpack": wireCodecs["msgpack"],
			} {
				p, c := b.connect(t, dialing{codec: name, keys: s, compress: true})
				require.Equal(t, name, c.Codec().Name())
				p.codec = codec
				p.subscribe(t, "news")
				p.joinRoom(t, "room")
				peers[name] = p
			}
			for from, publisher := range peers {
				for _, request := range []wire{
					{Type: "publish", Channel: "news", Data: []byte(`{"a":1}`)},
					{Type: "publish_room", Channel: "room", Data: bytes.Repeat([]byte(`1`), 1000)},
					{Type: "broadcast", Data: []byte("not JSON")},
				} {
					publisher.send(t, request)
					for to, p := range peers {
						got := p.read(t)
						require.Equal(t, request.Channel, got.Channel, "%s to %s", from, to)
						require.Equal(t, request.Data, got.Data, "%s to %s", from, to)
					}
				}
				publisher.send(t, wire{Type: "subscribe", ID: "bad", Data: publisher.codec.channel("")})
				require.NotEmpty(t, publisher.requireError(t, "bad", "", "bad_request"))
			}
			b.requireNoDrops(t)
			require.Equal(t, map[string]int{"news": 5}, channelsOf(b.hub))
		})
	}
}

// In a copy of DefaultConfig the subprotocols follow Codecs, unless they were changed.
func TestSubprotocolsFollowCodecs(t *testing.T) {
	t.Parallel()
	own := lines{name: "lines", index: 4, opcode: websocket.BinaryMessage}
	tests := []struct {
		name         string
		codecs       []websocket.Codec
		subprotocols []string // nil: those of DefaultConfig
		offered      []string // what the hub offers
	}{
		{"codec added", []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}, own},
			nil, []string{"json", "protobuf", "flatbuffers", "msgpack", "lines"}},
		{"codecs replaced", []websocket.Codec{own, websocket.JSONCodec{}}, nil, []string{"lines", "json"}},
		{"codecs removed", []websocket.Codec{websocket.JSONCodec{}}, nil, []string{"json"}},
		{"subprotocols chosen", []websocket.Codec{websocket.JSONCodec{}, own}, []string{"json"}, []string{"json"}},
		{"no codecs", nil, nil, []string{"json", "protobuf", "flatbuffers", "msgpack"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Codecs = tt.codecs
			if tt.subprotocols != nil {
				config.Subprotocols = tt.subprotocols
			}
			require.NoError(t, config.Validate())
			b := setup(t, config, options{})
			for _, name := range append([]string{"lines"}, subprotocols...) {
				response := b.handshake(t, "", http.Header{"Sec-Websocket-Protocol": {name}})
				if slices.Contains(tt.offered, name) {
					require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode, name)
					require.Equal(t, name, response.Header.Get("Sec-Websocket-Protocol"))
				} else {
					require.Equal(t, http.StatusBadRequest, response.StatusCode, name)
				}
			}
			response := b.handshake(t, "", http.Header{"Sec-Websocket-Protocol": {"unknown"}})
			require.Contains(t, bodyOf(t, response), "supports: "+strings.Join(tt.offered, ", "))
		})
	}
}

// A message that a codec cannot encode is dropped, counted and logged. All others are
// delivered.
func TestMessagesThatCodecCannotEncodeAreDropped(t *testing.T) {
	t.Parallel()
	isBad := func(m *websocket.Message) bool { return strings.HasPrefix(string(m.Data), "bad") }
	tests := map[string]lines{
		"fails":  {name: "lines", index: 9, opcode: websocket.BinaryMessage, fails: isBad},
		"panics": {name: "lines", index: 9, opcode: websocket.BinaryMessage, panics: isBad},
	}
	for name, codec := range tests {
		for _, keys := range []wireKeys{{}, randomKeys()} {
			for _, tls := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s sealed=%v TLS=%v", name, !keys.none(), tls), func(t *testing.T) {
					t.Parallel()
					config := websocket.DefaultConfig
					config.Codecs = []websocket.Codec{codec, websocket.MsgpackCodec{}}
					config.Subprotocols = nil
					config.Security = keys.config()
					b := setup(t, config, options{logsError: true, tls: tls})
					p, _ := b.connect(t, dialing{codec: "lines", keys: keys})
					p.codec = lineWire(codec, false)
					other, _ := b.connect(t, dialing{codec: "msgpack", keys: keys})
					p.subscribe(t, "c")
					other.subscribe(t, "c")
					const n = 50
					for i := range n {
						for _, data := range []string{"good", "bad"} {
							require.NoError(t, b.hub.PublishToChannelRaw("c", []byte(fmt.Sprint(data, i))))
						}
					}
					for i := range n {
						require.Equal(t, fmt.Sprint("good", i), string(other.read(t).Data))
						require.Equal(t, fmt.Sprint("bad", i), string(other.read(t).Data))
						got := p.read(t)
						for got.Type == "gap" {
							got = p.read(t)
						}
						require.Equal(t, fmt.Sprint("good", i), string(got.Data))
					}
					require.NotEmpty(t, b.logs.matching("error", "lines"))
					before := p.do(t, wire{Type: "subscribe", Data: p.codec.channel("d")}) // the connection still works
					for _, m := range before {
						require.Equal(t, "gap", m.Type)
					}
					require.EqualValues(t, n, b.hub.Stats().Dropped.Codec)
				})
			}
		}
	}
}

// overwriting is a codec whose AppendMarshal does not append to dst.
type overwriting struct {
	websocket.JSONCodec
	result func(dst []byte) []byte
}

func (overwriting) Name() string { return "overwriting" }
func (overwriting) Index() int   { return 10 }
func (c overwriting) AppendMarshal(dst []byte, _ *websocket.Message) ([]byte, error) {
	return c.result(dst), nil
}

// TestCodecMustAppend has a codec return something else than an extended dst. The message
// counts as not encodable, and nothing else is affected.
func TestCodecMustAppend(t *testing.T) {
	t.Parallel()
	for name, result := range map[string]func(dst []byte) []byte{
		"nil":                 func([]byte) []byte { return nil },
		"short":               func([]byte) []byte { return []byte("x") },
		"long":                func([]byte) []byte { return []byte(strings.Repeat("x", 100)) },
		"written over dst":    func(dst []byte) []byte { return append(dst[:0], strings.Repeat("x", 100)...) },
		"shorter than before": func(dst []byte) []byte { return dst[:min(1, len(dst))] },
	} {
		t.Run(name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.Codecs = []websocket.Codec{overwriting{result: result}, websocket.JSONCodec{}}
					config.Subprotocols = nil
					hub := runFake(t, p, config)
					defer hub.stop()
					broken := hub.connect(1<<10, codecHeader("overwriting"))
					other := hub.connect(1<<10, codecHeader("json"))
					require.NoError(t, hub.Broadcast([]byte(`"for both"`)))
					require.Equal(t, "for both", readJSON(t, other)["data"])
					synctest.Wait()
					st := hub.Stats()
					require.EqualValues(t, 1, st.Dropped.Codec)
					require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total())
					require.Zero(t, hub.HeldByMessages())
					require.Equal(t, 2, st.ActiveConnections)
					_, _ = broken.Close(), other.Close()
				})
			})
		})
	}
}
