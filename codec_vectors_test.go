package websocket_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	protobuf "google.golang.org/protobuf/proto"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal/sealtest"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
)

// update makes tests rewrite testdata/vectors.json and the generated parts of
// docs/wire.md.
var update = flag.Bool("update", false, "rewrite generated files")

const vectorsFile = "testdata/vectors.json"

// wireVectors is the content of testdata/vectors.json. The hub, the Go client, the
// JavaScript client and libraries of others are tested with it.
type wireVectors struct {
	About      []string               `json:"about"`
	AESKey     string                 `json:"aes_key_hex"`
	HMACKey    string                 `json:"hmac_key_hex"`
	Modes      []vectorMode           `json:"modes"`
	CloseCodes []vectorCode           `json:"close_codes"`
	Messages   []wireVector           `json:"messages"`
	byName     map[string]*wireVector // by "message/codec"
	pipelines  map[string]sealer      // by mode, except "none"
}

// vectorMode is a security mode.
type vectorMode struct {
	Name            string `json:"name"`
	AES             bool   `json:"aes"`
	HMAC            bool   `json:"hmac"`
	SignThenEncrypt bool   `json:"sign_then_encrypt"`
}

// vectorCode states whether a client reconnects after a close code: "yes", "no" or
// "credentials", which means yes if the client can get new credentials.
type vectorCode struct {
	Code      int    `json:"code"`
	Reconnect string `json:"reconnect"`
}

// wireVector is one message in one codec, encoded in every mode.
type wireVector struct {
	Name  string `json:"name"`
	Codec string `json:"codec"`
	// From is "client" or "hub".
	From      string `json:"from"`
	Type      string `json:"type"`
	Channel   string `json:"channel"`
	Data      string `json:"data_hex"`
	Timestamp string `json:"timestamp"` // decimal, because JSON parsers may round numbers
	ClientID  string `json:"client_id"`
	ID        string `json:"id"`
	// Room and ExceptSelf are absent when they are false.
	Room       bool `json:"room,omitempty"`
	ExceptSelf bool `json:"except_self,omitempty"`
	// Offset, Key and Trace are absent when they are empty.
	Offset string `json:"offset,omitempty"` // decimal
	Trace  string `json:"trace,omitempty"`
	Key    string `json:"key,omitempty"`
	// Resume is the decoded Data of "subscribe" and "join_room" with a position or with
	// last.
	Resume *vectorResume `json:"resume,omitempty"`
	// Control is the decoded Data of a control message, "error" or "gap".
	Control map[string]string `json:"control,omitempty"`
	Wire    []vectorWire      `json:"wire"`
}

type vectorResume struct {
	Channel string `json:"channel,omitempty"`
	RoomID  string `json:"room_id,omitempty"`
	Epoch   string `json:"epoch,omitempty"`  // of since
	Offset  string `json:"offset,omitempty"` // of since; absent if there is none
	Last    string `json:"last,omitempty"`
}

type vectorWire struct {
	Mode  string `json:"mode"`
	Frame string `json:"frame"` // "text" or "binary"
	Nonce string `json:"nonce_hex,omitempty"`
	Bytes string `json:"bytes_hex"`
}

// sealer seals and opens in one mode.
type sealer struct {
	sealtest.Order // seals with a given nonce
	*seal.Pipeline
}

var vectorModes = []vectorMode{
	{Name: "none"},
	{Name: "aes-only", AES: true},
	{Name: "hmac-only", HMAC: true},
	{Name: "sign-then-encrypt", AES: true, HMAC: true, SignThenEncrypt: true},
	{Name: "encrypt-then-sign", AES: true, HMAC: true},
}

var vectorCloseCodes = []vectorCode{
	{websocket.CloseNormalClosure, "no"},
	{websocket.CloseGoingAway, "yes"},
	{websocket.CloseProtocolError, "no"},
	{websocket.CloseUnsupportedData, "no"},
	{websocket.CloseNoStatusReceived, "yes"},
	{websocket.CloseAbnormalClosure, "yes"},
	{websocket.CloseInvalidPayloadData, "no"},
	{websocket.ClosePolicyViolation, "no"},
	{websocket.CloseMessageTooBig, "no"},
	{websocket.CloseInternalError, "yes"},
	{websocket.CloseServiceRestart, "yes"},
	{websocket.CloseTryAgainLater, "yes"},
	{websocket.CloseUnauthorized, "credentials"},
	{websocket.CloseForbidden, "no"},
	{websocket.CloseTimeout, "yes"},
	{websocket.CloseReplaced, "no"},
}

var vectorCodecs = []websocket.Codec{
	websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{},
}

// wireSample is a message before it is encoded. If control is set, each codec has its
// own encoding of the data.
type wireSample struct {
	name    string
	from    string
	message websocket.Message
	control map[string]string
	resume  *vectorResume
}

const sampleTime = 1763769600123456789

func wireSamples() []wireSample {
	hub := func(name string, m websocket.Message, control map[string]string) wireSample {
		if m.Timestamp == 0 {
			m.Timestamp = sampleTime
		}
		return wireSample{name, "hub", m, control, nil}
	}
	request := func(name string, m websocket.Message, control map[string]string) wireSample {
		return wireSample{name, "client", m, control, nil}
	}
	back := func(name, typ string, resume vectorResume) wireSample {
		return wireSample{name, "client", websocket.Message{Type: typ, ID: "1"}, nil, &resume}
	}
	return []wireSample{
		hub("news", websocket.Message{Type: "message", Channel: "news", Data: []byte(`{"headline":"Breaking News!"}`), ClientID: "client-123"}, nil),
		hub("empty", websocket.Message{Type: "message", Channel: "news", ClientID: "client-123"}, nil),
		hub("utf8", websocket.Message{Type: "room_message", Channel: "頻道 é😀", Data: []byte(`{"text":"日本 é 😀 \"quoted\" \\ \n"}`), ClientID: "ü"}, nil),
		hub("names-to-escape", websocket.Message{Type: "t\"\\\n\x01", Channel: "\u2028<&>", Data: []byte(`"\u00e9"`)}, nil),
		hub("binary", websocket.Message{Type: "message", Channel: "bin", Data: []byte{0, 1, 2, 0x7f, 0x80, 0xfe, 0xff}, ClientID: "b"}, nil),
		hub("json-number", websocket.Message{Type: "message", Channel: "n", Data: []byte(`12345678901234567890`), ClientID: "c"}, nil),
		hub("almost-json", websocket.Message{Type: "message", Channel: "n", Data: []byte(`{"open":`), ClientID: "c"}, nil),
		hub("long", websocket.Message{Type: "broadcast", Data: []byte(`"` + strings.Repeat("0123456789", 30) + `"`), ClientID: strings.Repeat("c", 40)}, nil),
		hub("largest-timestamp", websocket.Message{Type: "message", Timestamp: math.MaxInt64}, nil),
		hub("smallest-timestamp", websocket.Message{Type: "message", Timestamp: math.MinInt64}, nil),
		hub("offset", websocket.Message{Type: "message", Channel: "news", Data: []byte(`"kept"`), ClientID: "client-123", Offset: 42}, nil),
		hub("offset-key", websocket.Message{Type: "message", Channel: "news", Data: []byte(`"once"`), ClientID: "client-123", Offset: 43, Key: "dGhlIHNhbXBsZSBub25jZQ"}, nil),
		hub("offset-room", websocket.Message{Type: "chat.line", Channel: "room_101", Data: []byte(`"kept"`), ClientID: "client-123", Offset: 42, Room: true}, nil),
		hub("largest-offset", websocket.Message{Type: "room_message", Channel: "room_101", Offset: 1<<53 - 1, Key: "é\"", Room: true}, nil),
		hub("trace", websocket.Message{Type: "message", Channel: "news", Data: []byte(`"traced"`), ClientID: "client-123", Trace: vectorTrace}, nil),
		hub("tracestate", websocket.Message{Type: "room_message", Channel: "room_101", Data: []byte(`1`), Offset: 44, Room: true, Trace: vectorTrace + " vendor=a:1;b:2,other=x y"}, nil),
		request("nothing", websocket.Message{}, nil),
		request("application", websocket.Message{Type: "chat.typing", Data: []byte(`true`)}, nil),
		request("publish", websocket.Message{Type: "publish", Channel: "news", Data: []byte(`{"headline":"Breaking News!"}`), ID: "7"}, nil),
		request("publish_room", websocket.Message{Type: "publish_room", Channel: "room_101", Data: []byte{0xff}, ID: "8"}, nil),
		request("broadcast", websocket.Message{Type: "broadcast", Data: []byte(`"to all"`), ID: "9"}, nil),
		request("publish-except-self", websocket.Message{Type: "publish", Channel: "news", Data: []byte(`"to others"`), ID: "10", ExceptSelf: true}, nil),
		request("publish-key", websocket.Message{Type: "publish", Channel: "news", Data: []byte(`"once"`), ID: "11", Key: "dGhlIHNhbXBsZSBub25jZQ"}, nil),
		request("publish-trace", websocket.Message{Type: "publish", Channel: "news", Data: []byte(`"traced"`), ID: "12", Trace: vectorTrace}, nil),
		back("subscribe-since", "subscribe", vectorResume{Channel: "news", Epoch: "k3x9", Offset: "41"}),
		back("subscribe-since-start", "subscribe", vectorResume{Channel: "news", Offset: "0"}),
		back("subscribe-last", "subscribe", vectorResume{Channel: "news", Last: "20"}),
		back("join_room-since", "join_room", vectorResume{RoomID: "room_101", Epoch: "k3x9", Offset: "9007199254740991"}),
		request("hello", websocket.Message{Type: "hub:hello", ID: "4"}, nil),
		request("ping", websocket.Message{Type: "hub:ping", ID: "5"}, nil),
		request("subscribe", websocket.Message{Type: "subscribe", ID: "1"}, map[string]string{"channel": "news"}),
		request("unsubscribe", websocket.Message{Type: "unsubscribe"}, map[string]string{"channel": "頻道 é😀"}),
		request("join_room", websocket.Message{Type: "join_room", ID: "2"}, map[string]string{"room_id": "room_101"}),
		request("leave_room", websocket.Message{Type: "leave_room", ID: "3"}, map[string]string{"room_id": "a \"quoted\" room"}),
		hub("ack", websocket.Message{Type: "ack", Channel: "news", ID: "1"}, nil),
		hub("resume-ack", websocket.Message{Type: "ack", Channel: "news", ID: "1", Data: []byte(`{"epoch":"k3x9","offset":57,"replayed":16,"complete":true}`)}, nil),
		hub("resume-ack-expired", websocket.Message{Type: "ack", Channel: "news", ID: "1", Data: []byte(`{"epoch":"k3x9","offset":57,"replayed":10,"complete":false,"reason":"expired"}`)}, nil),
		hub("publish-ack", websocket.Message{Type: "ack", Channel: "news", ID: "11", Data: []byte(`{"epoch":"k3x9","offset":43}`)}, nil),
		hub("hello-ack", websocket.Message{Type: "ack", ID: "4", Data: []byte(helloExample)}, nil),
		hub("ping-ack", websocket.Message{Type: "ack", ID: "5"}, nil),
		hub("error", websocket.Message{Type: "error", Channel: "room_101", ID: "2"},
			map[string]string{"code": "forbidden", "message": "websocket: not allowed"}),
		hub("error-unasked", websocket.Message{Type: "error"},
			map[string]string{"code": "bad_request", "message": "websocket: \"é\""}),
		hub("gap-channel", websocket.Message{Type: "gap", Channel: "news"}, map[string]string{
			"channel": "news", "count": "3", "first": strconv.FormatInt(sampleTime-3e9, 10), "last": strconv.FormatInt(sampleTime-1e9, 10), "reason": "slow_consumer",
		}),
		hub("gap-room", websocket.Message{Type: "gap", Channel: "room_101"}, map[string]string{
			"room_id": "room_101", "count": "9007199254740991", "first": strconv.FormatInt(sampleTime, 10), "last": strconv.FormatInt(sampleTime, 10), "reason": "codec",
		}),
		hub("gap-history", websocket.Message{Type: "gap", Channel: "news"}, map[string]string{
			"channel": "news", "count": "6", "first": strconv.FormatInt(sampleTime, 10), "last": strconv.FormatInt(sampleTime, 10), "reason": "history",
		}),
		hub("gap-direct", websocket.Message{Type: "gap"}, map[string]string{
			"count": "1", "first": strconv.FormatInt(sampleTime, 10), "last": strconv.FormatInt(sampleTime, 10), "reason": "slow_consumer",
		}),
		hub("gap-all", websocket.Message{Type: "gap"}, map[string]string{
			"all": "true", "count": "5000", "first": strconv.FormatInt(sampleTime-2e9, 10), "last": strconv.FormatInt(sampleTime, 10), "reason": "slow_consumer",
		}),
		request("hello-goaway", websocket.Message{Type: "hub:hello", ID: "4", Data: []byte(`{"features":["goaway"]}`)}, nil),
		hub("goaway", websocket.Message{Type: "hub:goaway", Data: []byte(`{"delay":6250}`)}, nil),
	}
}

// helloExample is the data of an ack to hub:hello, from a hub with the default limits.
const helloExample = `{"client_id":"client-123","user":"zoë","limits":{"message_rate":1000,"byte_rate":4194304,"max_message_size":524288,"max_name_length":255,"max_subscriptions":1000},"heartbeat":15000,"version":"0.1.0","features":["ping","except_self","requests"]}`

// vectorTrace is the example of W3C Trace Context.
const vectorTrace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// controlData encodes the data of a control message. Requests of clients are encoded by
// libraries, and replies of the hub by the hub.
func controlData(t testing.TB, codec websocket.Codec, typ string, control map[string]string) []byte {
	t.Helper()
	inProtobuf := codec.Name() == "protobuf"
	var data []byte
	var err error
	switch typ {
	case "subscribe", "unsubscribe":
		if inProtobuf {
			data, err = protobuf.Marshal(&proto.ChannelRequest{Channel: control["channel"]})
		} else {
			data, err = json.Marshal(control)
		}
	case "join_room", "leave_room":
		if inProtobuf {
			data, err = protobuf.Marshal(&proto.RoomRequest{RoomId: control["room_id"]})
		} else {
			data, err = json.Marshal(control)
		}
	case "error":
		data = websocket.EncodeErrorFor(codec, control["code"], control["message"])
	case "gap":
		data = websocket.EncodeGapFor(codec, gapOf(t, control))
	}
	require.NoError(t, err)
	return data
}

// data encodes a request to come back, as libraries do.
func (r *vectorResume) data(t testing.TB, codec websocket.Codec, typ string) []byte {
	t.Helper()
	last, _ := strconv.ParseUint(r.Last, 10, 32) // 0 if it is absent
	var since *websocket.Position
	if r.Offset != "" {
		offset, err := strconv.ParseUint(r.Offset, 10, 64)
		require.NoError(t, err)
		since = &websocket.Position{Epoch: r.Epoch, Offset: offset}
	}
	if codec.Name() != "protobuf" {
		return mustJSON(struct {
			Channel string              `json:"channel,omitempty"`
			RoomID  string              `json:"room_id,omitempty"`
			Since   *websocket.Position `json:"since,omitempty"`
			Last    uint64              `json:"last,omitempty"`
		}{r.Channel, r.RoomID, since, last})
	}
	var at *proto.Position
	if since != nil {
		at = &proto.Position{Epoch: since.Epoch, Offset: since.Offset}
	}
	if typ == "subscribe" {
		return mustProto(&proto.ChannelRequest{Channel: r.Channel, Since: at, Last: uint32(last)})
	}
	return mustProto(&proto.RoomRequest{RoomId: r.RoomID, Since: at, Last: uint32(last)})
}

// requireResume checks that the hub decodes the data.
func (x *wireVector) requireResume(t testing.TB, codec websocket.Codec) {
	t.Helper()
	if x.Resume == nil {
		return
	}
	data := unhex(t, x.Data)
	name, err := websocket.ControlChannel(codec, data)
	if x.Type == "join_room" {
		name, err = websocket.ControlRoom(codec, data)
	}
	require.NoError(t, err)
	require.Equal(t, x.Resume.Channel+x.Resume.RoomID, name)
	since, last, err := websocket.DecodeResumeFor(codec, data)
	require.NoError(t, err)
	got := vectorResume{Channel: x.Resume.Channel, RoomID: x.Resume.RoomID}
	if since != nil {
		got.Epoch, got.Offset = since.Epoch, strconv.FormatUint(since.Offset, 10)
	}
	if last > 0 {
		got.Last = strconv.Itoa(last)
	}
	require.Equal(t, *x.Resume, got)
}

func gapOf(t testing.TB, control map[string]string) websocket.Gap {
	t.Helper()
	count, err := strconv.ParseUint(control["count"], 10, 64)
	require.NoError(t, err)
	first, err := strconv.ParseInt(control["first"], 10, 64)
	require.NoError(t, err)
	last, err := strconv.ParseInt(control["last"], 10, 64)
	require.NoError(t, err)
	return websocket.Gap{
		Channel: control["channel"], RoomID: control["room_id"], All: control["all"] == "true",
		Count: count, First: first, Last: last, Reason: control["reason"],
	}
}

// makeVectors encodes every sample in every codec and mode. Nonces are derived from the
// names, so that the result is always the same.
func makeVectors(t testing.TB) *wireVectors {
	t.Helper()
	aesKey := make([]byte, 32)
	for i := range aesKey {
		aesKey[i] = byte(i)
	}
	hmacKey := []byte("an example key for signing")
	v := &wireVectors{
		About: []string{
			"Messages of the wire format in docs/wire.md: their fields, and their encoding in each codec and security mode.",
			"Strings that end in _hex are bytes. timestamp, count, first and last are decimal numbers of 64 bits. An absent room or except_self is false, and an absent offset, key or trace is empty.",
			"control is the decoded data of a control message, error or gap. resume is that of a subscribe or join_room that has since (epoch, offset) or last.",
			"A decoder must decode each wire entry to these fields. An encoder may write other bytes with the same meaning; sealing the same bytes with the same keys and nonce gives the same result.",
			"Made by 'go test -run TestVectors . -update'.",
		},
		AESKey:     hex.EncodeToString(aesKey),
		HMACKey:    hex.EncodeToString(hmacKey),
		Modes:      vectorModes,
		CloseCodes: vectorCloseCodes,
		byName:     map[string]*wireVector{},
		pipelines:  map[string]sealer{},
	}
	for _, mode := range vectorModes {
		if mode.Name != "none" {
			v.pipelines[mode.Name] = mode.pipeline(t, aesKey, hmacKey)
		}
	}
	for _, s := range wireSamples() {
		for _, codec := range vectorCodecs {
			v.Messages = append(v.Messages, v.encode(t, s, codec))
		}
	}
	for i := range v.Messages {
		m := &v.Messages[i]
		v.byName[m.Name+"/"+m.Codec] = m
	}
	return v
}

func (m vectorMode) pipeline(t testing.TB, aesKey, hmacKey []byte) sealer {
	t.Helper()
	if !m.AES {
		aesKey = nil
	}
	if !m.HMAC {
		hmacKey = nil
	}
	p, err := seal.New(aesKey, hmacKey, m.SignThenEncrypt)
	require.NoError(t, err)
	return sealer{sealtest.Order{Name: m.Name, AESKey: aesKey, HMACKey: hmacKey, SignThenEncrypt: m.SignThenEncrypt}, p}
}

func (v *wireVectors) encode(t testing.TB, s wireSample, codec websocket.Codec) wireVector {
	t.Helper()
	m := s.message
	if s.control != nil {
		m.Data = controlData(t, codec, m.Type, s.control)
	}
	if s.resume != nil {
		m.Data = s.resume.data(t, codec, m.Type)
	}
	plain, err := codec.Marshal(&m)
	require.NoError(t, err)
	out := wireVector{
		Name: s.name, Codec: codec.Name(), From: s.from,
		Type: m.Type, Channel: m.Channel, Data: hex.EncodeToString(m.Data),
		Timestamp: strconv.FormatInt(m.Timestamp, 10), ClientID: m.ClientID, ID: m.ID, Room: m.Room, ExceptSelf: m.ExceptSelf,
		Key: m.Key, Trace: m.Trace, Control: s.control, Resume: s.resume,
	}
	if m.Offset > 0 {
		out.Offset = strconv.FormatUint(m.Offset, 10)
	}
	for _, mode := range vectorModes {
		w := vectorWire{Mode: mode.Name, Frame: "binary"}
		switch {
		case mode.Name == "none":
			if codec.WebSocketMessageType() == websocket.TextMessage {
				w.Frame = "text"
			}
			w.Bytes = hex.EncodeToString(plain)
		case mode.AES:
			sum := sha256.Sum256([]byte(s.name + "/" + codec.Name() + "/" + mode.Name))
			nonce := sum[:12]
			w.Nonce = hex.EncodeToString(nonce)
			w.Bytes = hex.EncodeToString(v.pipelines[mode.Name].Seal(t, plain, nonce))
		default:
			w.Bytes = hex.EncodeToString(v.pipelines[mode.Name].AppendSeal(nil, plain))
		}
		out.Wire = append(out.Wire, w)
	}
	return out
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// message returns the fields of a vector. An empty payload is nil.
func (x *wireVector) message(t testing.TB) websocket.Message {
	t.Helper()
	timestamp, err := strconv.ParseInt(x.Timestamp, 10, 64)
	require.NoError(t, err)
	m := websocket.Message{Type: x.Type, Channel: x.Channel, Timestamp: timestamp, ClientID: x.ClientID, ID: x.ID, Room: x.Room, ExceptSelf: x.ExceptSelf, Key: x.Key, Trace: x.Trace}
	if x.Offset != "" {
		m.Offset, err = strconv.ParseUint(x.Offset, 10, 64)
		require.NoError(t, err)
	}
	if x.Data != "" {
		m.Data = unhex(t, x.Data)
	}
	return m
}

func (x *wireVector) codec() websocket.Codec {
	for _, codec := range vectorCodecs {
		if codec.Name() == x.Codec {
			return codec
		}
	}
	return nil
}

// wire returns the bytes in one mode.
func (x *wireVector) wire(t testing.TB, mode string) []byte {
	t.Helper()
	for _, w := range x.Wire {
		if w.Mode == mode {
			return unhex(t, w.Bytes)
		}
	}
	require.FailNow(t, "no such mode", mode)
	return nil
}

// TestVectors compares the file with the encodings of this version, and decodes the
// file's messages.
func TestVectors(t *testing.T) {
	t.Parallel()
	var made bytes.Buffer
	encoder := json.NewEncoder(&made)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	require.NoError(t, encoder.Encode(makeVectors(t)))
	if *update {
		require.NoError(t, os.WriteFile(vectorsFile, made.Bytes(), 0o644))
	}
	file, err := os.ReadFile(vectorsFile)
	require.NoError(t, err)
	require.Equal(t, made.String(), string(file), "%s differs from the output of the code; to accept it, run go test -run 'TestVectors|TestDocs' . -update", vectorsFile)

	var v wireVectors
	require.NoError(t, json.Unmarshal(file, &v))
	pipelines := map[string]sealer{}
	for _, mode := range v.Modes {
		if mode.AES || mode.HMAC {
			pipelines[mode.Name] = mode.pipeline(t, unhex(t, v.AESKey), unhex(t, v.HMACKey))
		}
	}
	nonces := map[string]string{}
	for _, x := range v.Messages {
		name := x.Name + "/" + x.Codec
		codec, want := x.codec(), x.message(t)
		plain := x.wire(t, "none")
		requireMeans(t, codec, plain, want, name)
		x.requireControl(t, codec)
		x.requireResume(t, codec)
		for _, w := range x.Wire {
			if w.Mode == "none" {
				continue
			}
			p, sealed := pipelines[w.Mode], unhex(t, w.Bytes)
			require.Equal(t, "binary", w.Frame)
			require.Len(t, sealed, len(plain)+p.Overhead(), "%s/%s", name, w.Mode)
			if w.Nonce != "" {
				require.Equal(t, w.Nonce, hex.EncodeToString(p.Nonce(sealed)), "%s/%s", name, w.Mode)
				require.Empty(t, nonces[w.Nonce], "two messages have the same nonce")
				nonces[w.Nonce] = name
				require.Equal(t, sealed, p.Seal(t, plain, unhex(t, w.Nonce)), "%s/%s", name, w.Mode)
			} else {
				require.Equal(t, sealed, p.AppendSeal(nil, plain), "%s/%s", name, w.Mode)
			}
			for at := range sealed {
				altered := bytes.Clone(sealed)
				altered[at] ^= 1
				_, err := p.Open(altered)
				require.Error(t, err, "%s/%s with another byte %d", name, w.Mode, at)
			}
			opened, err := p.Open(sealed)
			require.NoError(t, err, "%s/%s", name, w.Mode)
			requireMeans(t, codec, opened, want, name+"/"+w.Mode)
		}
	}
}

// requireMeans checks that wire decodes to want and that want encodes to wire.
func requireMeans(t testing.TB, codec websocket.Codec, wire []byte, want websocket.Message, name string) {
	t.Helper()
	var got websocket.Message
	require.NoError(t, codec.Unmarshal(bytes.Clone(wire), &got), name)
	require.Equal(t, want, got, name)
	again, err := codec.Marshal(&got)
	require.NoError(t, err, name)
	require.Equal(t, wire, again, name)
}

// requireControl checks that the hub decodes the data of requests, and that libraries
// decode the data of the hub's replies.
func (x *wireVector) requireControl(t testing.TB, codec websocket.Codec) {
	t.Helper()
	if x.Control == nil {
		return
	}
	data := unhex(t, x.Data)
	inProtobuf := codec.Name() == "protobuf"
	switch x.Type {
	case "subscribe", "unsubscribe":
		name, err := websocket.ControlChannel(codec, data)
		require.NoError(t, err)
		require.Equal(t, x.Control["channel"], name)
	case "join_room", "leave_room":
		name, err := websocket.ControlRoom(codec, data)
		require.NoError(t, err)
		require.Equal(t, x.Control["room_id"], name)
	case "error":
		var reply proto.ErrorReply
		if inProtobuf {
			require.NoError(t, protobuf.Unmarshal(data, &reply))
		} else {
			require.NoError(t, json.Unmarshal(data, &reply))
		}
		got := map[string]string{"code": reply.Code, "message": reply.Message}
		require.Equal(t, x.Control, got)
	case "gap":
		var notice struct {
			Channel string
			RoomID  string `json:"room_id"`
			All     bool
			Count   uint64
			First   int64
			Last    int64
			Reason  string
		}
		if inProtobuf {
			var g proto.GapNotice
			require.NoError(t, protobuf.Unmarshal(data, &g))
			notice.Channel, notice.RoomID, notice.All = g.Channel, g.RoomId, g.All
			notice.Count, notice.First, notice.Last, notice.Reason = g.Count, g.First, g.Last, g.Reason
		} else {
			require.NoError(t, json.Unmarshal(data, &notice))
		}
		require.Equal(t, gapOf(t, x.Control), websocket.Gap(notice))
	default:
		require.FailNow(t, "unknown control message", x.Type)
	}
}

// TestVectorsCloseCodes compares the table with the Go client's.
func TestVectorsCloseCodes(t *testing.T) {
	t.Parallel()
	known := map[int]bool{}
	for _, c := range vectorCloseCodes {
		known[c.Code] = true
		require.Equal(t, c.Reconnect == "yes", client.Reconnectable(c.Code), "%d", c.Code)
	}
	for code := range 5000 {
		require.True(t, known[code] || !client.Reconnectable(code), "%d is not in the table", code)
	}
}
