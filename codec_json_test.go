package websocket_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan/scantest"
)

// ownMember is the last string value of a member that the application may also use for
// values of its own. The function reports which strings count.
type ownMember struct {
	value  string
	counts func(string) bool
}

func (m *ownMember) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	if s, ok := v.(string); ok && m.counts(s) {
		m.value = s
	}
	return nil
}

// jsonReference decodes with encoding/json and adds the documented differences.
func jsonReference(data []byte) (websocket.Message, error) {
	var v struct {
		Type      string          `json:"type"`
		Channel   string          `json:"channel"`
		Data      json.RawMessage `json:"data"`
		Timestamp int64           `json:"timestamp"`
		ClientID  string          `json:"client_id"`
		ID        ownMember       `json:"id"`
		Encoding  ownMember       `json:"encoding"`

		Room       any       `json:"room"`
		ExceptSelf any       `json:"except_self"`
		Trace      ownMember `json:"trace"`
	}
	v.Trace.counts = func(string) bool { return true }
	v.ID.counts = func(string) bool { return true }
	v.Encoding.counts = func(s string) bool { return s == "base64" }
	if !utf8.Valid(data) {
		return websocket.Message{}, fmt.Errorf("not UTF-8")
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return websocket.Message{}, err
	}
	msg := websocket.Message{Type: v.Type, Channel: v.Channel, Timestamp: v.Timestamp, ClientID: v.ClientID, ID: v.ID.value}
	msg.Room, _ = v.Room.(bool)
	msg.ExceptSelf, _ = v.ExceptSelf.(bool)
	msg.Trace = v.Trace.value
	switch v.Encoding.value {
	case "":
		if string(v.Data) != "null" {
			msg.Data = []byte(v.Data)
		}
	case "base64":
		var text *string
		if err := json.Unmarshal(v.Data, &text); err != nil {
			return websocket.Message{}, err
		}
		if text == nil {
			return websocket.Message{}, fmt.Errorf("null in base64")
		}
		payload, err := base64.StdEncoding.DecodeString(*text)
		if err != nil {
			return websocket.Message{}, err
		}
		msg.Data = payload
	}
	if len(msg.Data) == 0 {
		msg.Data = nil
	}
	return msg, nil
}

// requireLikeJSON checks that the codec and jsonReference decode data alike.
func requireLikeJSON(t *testing.T, data []byte) {
	t.Helper()
	want, wantErr := jsonReference(data)
	got := fullMessage()
	err := websocket.JSONCodec{}.Unmarshal(data, &got)
	if wantErr != nil {
		require.ErrorIs(t, err, websocket.ErrMalformed, "the reference returns %v", wantErr)
	} else {
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
}

// nested returns n nested arrays.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

func TestJSONDecodesLikeEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, input := range scantest.Inputs() {
		requireLikeJSON(t, []byte(input))
	}
}

func TestJSONStringsAreEscapedForEncodingJSON(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for r := range rune(0x3000) {
		all.WriteRune(r)
	}
	all.WriteString("😀\u2028\u2029")
	msg := websocket.Message{Type: all.String(), Channel: `"`, ClientID: `\`, ID: "\x00"}
	wire := mustMarshal(t, websocket.JSONCodec{}, &msg)
	want, err := jsonReference(wire)
	require.NoError(t, err)
	require.Equal(t, want, msg)
}

func TestJSONPayloadForms(t *testing.T) {
	t.Parallel()
	tests := []struct {
		data string
		want string
	}{
		{``, `"data":null`},
		{`{"a": 1}`, `"data":{"a": 1}`},
		{` [1, 2] `, `"data": [1, 2] `},
		{`"<b>&\u2028"`, `"data":"<b>&\u2028"`},
		{`plain text`, `"data":"cGxhaW4gdGV4dA==","encoding":"base64"`},
		{"\x00\x01\xff", `"data":"AAH/","encoding":"base64"`},
		{"\"\xff\"", `"data":"Iv8i","encoding":"base64"`},
		{`{"a":1}{"b":2}`, `"data":"eyJhIjoxfXsiYiI6Mn0=","encoding":"base64"`},
		{nested(9999), `"data":` + nested(9999)},
		{nested(10000), `"encoding":"base64"`},
	}
	for _, tt := range tests {
		msg := websocket.Message{Type: "message", Data: []byte(tt.data)}
		wire := mustMarshal(t, websocket.JSONCodec{}, &msg)
		require.Contains(t, string(wire), tt.want)
		_, err := jsonReference(wire)
		require.NoError(t, err)
	}
}

func TestJSONErrorPositions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		wire   string
		reason string
	}{
		{"{\"type\":\"\xff\"}", "invalid UTF-8 at byte 9"},
		{`{"type":x}`, "invalid character 'x' looking for beginning of value at byte 9"},
		{`{"type":"a"`, "unexpected end of JSON input at byte 11"},
		{`{"type":5}`, "type is a number, want string at byte 9"},
		{`[]`, "array instead of an object at byte 1"},
		{`{"data":1,"encoding":"base64"}`, "data with an encoding is not a string"},
		{`{"data":"!","encoding":"base64"}`, "data: illegal base64 data at input byte 0"},
	}
	for _, tt := range tests {
		requireMalformed(t, websocket.JSONCodec{}, []byte(tt.wire), tt.reason)
	}
}

// TestJSONFastPath checks that unknown keys, space and base64 do not need the slow path:
// decoding makes at most two allocations.
func TestJSONFastPath(t *testing.T) {
	tests := []string{
		`{"type":"message","channel":"news","data":{"a":1},"timestamp":1,"client_id":"c","id":"i"}`,
		` { "id" : "i", "data" : [ 1, 2, {"\"": null} ], "type" : "chat" } `,
		`{"type":"message","trace":{"Span":"x"},"data":true}`,
		`{"type":"message","data":"AAH/","encoding":"base64","client_id":"c"}`,
		`{"type":"message","data":{"a":1},"encoding":"gzip","id":17}`,
	}
	for _, tt := range tests {
		var msg websocket.Message
		require.NoError(t, websocket.JSONCodec{}.Unmarshal([]byte(tt), &msg))
		wire := []byte(tt)
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _ = websocket.JSONCodec{}.Unmarshal(wire, &msg) }), 2.0, tt)
	}
}

// encoding/json writes a Message as JSONCodec does, wherever the Message stands, and reads
// it back.
func TestMessageInEncodingJSON(t *testing.T) {
	t.Parallel()
	msg := websocket.Message{Type: "say", Channel: "news", Data: []byte(`{"n":1}`), Timestamp: 7, ClientID: "c", ID: "i"}
	raw := websocket.Message{Type: "say", Data: []byte{0, 1, 0xff}}
	const (
		wantMsg = `{"type":"say","channel":"news","data":{"n":1},"timestamp":7,"client_id":"c","id":"i"}`
		wantRaw = `{"type":"say","data":"AAH/","encoding":"base64","timestamp":0}`
	)
	type holder struct {
		Value   websocket.Message            `json:"value"`
		Pointer *websocket.Message           `json:"pointer"`
		Nil     *websocket.Message           `json:"nil"`
		Values  []websocket.Message          `json:"values"`
		Keyed   map[string]websocket.Message `json:"keyed"`
		Keyed2  map[string]*websocket.Message
	}
	held := holder{msg, &raw, nil, []websocket.Message{raw, msg}, map[string]websocket.Message{"k": msg}, map[string]*websocket.Message{"k": &raw}}
	want := `{"value":` + wantMsg + `,"pointer":` + wantRaw + `,"nil":null,"values":[` + wantRaw + `,` + wantMsg +
		`],"keyed":{"k":` + wantMsg + `},"Keyed2":{"k":` + wantRaw + `}}`
	for _, v := range []any{held, &held} {
		got, err := json.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	for _, v := range []any{msg, &msg} {
		got, err := json.Marshal(v)
		require.NoError(t, err)
		require.Equal(t, wantMsg, string(got))
	}
	var back holder
	require.NoError(t, json.Unmarshal([]byte(want), &back))
	require.Equal(t, held, back)

	unchanged := msg
	require.NoError(t, json.Unmarshal([]byte("null"), &unchanged))
	require.Equal(t, msg, unchanged)
	require.ErrorIs(t, json.Unmarshal([]byte(`{"type":5}`), &unchanged), websocket.ErrMalformed)
	require.Equal(t, websocket.Message{}, unchanged)
}

// Both paths of the decoder must agree on the input that both support.
func requireJSONPathsAgree(t *testing.T, data []byte) {
	t.Helper()
	if !websocket.JSONScans(data) {
		return
	}
	var fast, slow websocket.Message
	fastErr, slowErr := websocket.JSONCodec{}.Unmarshal(data, &fast), websocket.JSONUnmarshalSlow(data, &slow)
	require.Equal(t, slow, fast)
	if slowErr == nil {
		require.NoError(t, fastErr)
		return
	}
	require.EqualError(t, fastErr, slowErr.Error())
}

func TestJSONPathsAgree(t *testing.T) {
	t.Parallel()
	for _, input := range scantest.Inputs() {
		requireJSONPathsAgree(t, []byte(input))
	}
}

// A message with an id or an encoding of the application's own is carried out.
func TestJSONMembersOfTheApplication(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, _ := b.connect(t, dialing{})
	p.subscribe(t, "news")
	for _, own := range []string{`"id":17`, `"id":{"n":1}`, `"encoding":"gzip"`, `"encoding":7`, `"encoding":{"a":1},"id":[1]`, `"ID":17`} {
		p.sendRaw(t, websocket.TextMessage, []byte(`{"type":"publish","channel":"news","data":"eA==",`+own+`}`))
		got := p.read(t)
		require.Equal(t, "message", got.Type, own)
		require.Equal(t, `"eA=="`, string(got.Data), own)
		require.Empty(t, got.ID)
	}
}

// WriteJSON and ReadJSON of a connection speak the wire format.
func TestWriteJSONAndReadJSON(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{})
	require.NoError(t, p.WriteJSON(&websocket.Message{Type: "subscribe", Data: []byte(`{"channel":"news"}`), ID: "1"}))
	var got websocket.Message
	require.NoError(t, p.ReadJSON(&got))
	require.Equal(t, websocket.Message{Type: "ack", Channel: "news", Timestamp: got.Timestamp, ID: "1"}, got)
	require.NoError(t, p.WriteJSON(websocket.Message{Type: "publish", Channel: "news", Data: []byte{0xff}}))
	require.NoError(t, p.ReadJSON(&got))
	require.Equal(t, websocket.Message{Type: "message", Channel: "news", Data: []byte{0xff}, Timestamp: got.Timestamp, ClientID: c.ID}, got)
}
