package websocket_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// jsonReference decodes with encoding/json and the documented additions.
func jsonReference(data []byte) (websocket.Message, error) {
	var v struct {
		Type      string          `json:"type"`
		Channel   string          `json:"channel"`
		Data      json.RawMessage `json:"data"`
		Timestamp int64           `json:"timestamp"`
		ClientID  string          `json:"client_id"`
		ID        string          `json:"id"`
		Encoding  string          `json:"encoding"`
	}
	if !utf8.Valid(data) {
		return websocket.Message{}, fmt.Errorf("not UTF-8")
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return websocket.Message{}, err
	}
	msg := websocket.Message{Type: v.Type, Channel: v.Channel, Timestamp: v.Timestamp, ClientID: v.ClientID, ID: v.ID}
	switch v.Encoding {
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
	default:
		return websocket.Message{}, fmt.Errorf("unknown encoding")
	}
	if len(msg.Data) == 0 {
		msg.Data = nil
	}
	return msg, nil
}

// requireLikeJSON checks that data decodes as the reference decodes it.
func requireLikeJSON(t *testing.T, data []byte) {
	t.Helper()
	want, wantErr := jsonReference(data)
	got := fullMessage()
	err := websocket.JSONCodec{}.Unmarshal(data, &got)
	if wantErr != nil {
		require.ErrorIs(t, err, websocket.ErrMalformed, "the reference says %v", wantErr)
	} else {
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
}

// nested is n arrays inside one another.
func nested(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }

// jsonInputs are envelopes off the beaten track.
func jsonInputs() []string {
	inputs := []string{
		``, ` `, `{`, `}`, `{}`, ` { } `, `{}x`, `{},`, `[]`, `null`, `"x"`, `1`, `{"type"}`, `{"type":}`, `{"type":"a",}`, `{,}`,
		`{"type":"a"`, `{"type":"a`, `{"type":"a"}}`, `{"type":"a" "id":"b"}`, `{type:"a"}`, `{"type" : "a" , "id" : "b" }`,
		"\t{\r\n\"type\"\t:\n\"a\"\r}\n ", "\ufeff{}", "{}\x00", "{\"type\":\"a\x01\"}", "{\"ty\x01pe\":\"a\"}",
		`{"Type":"a","CHANNEL":"b","Client_ID":"c"}`, `{"type":"a","TYPE":"b"}`, `{"TYPE":"a","type":"b"}`,
		"{\"clien\u017f_id\":\"x\"}", "{\"\u212aey\":1}", "{\"time\u017ftamp\":7}", `{"\u0074ype":"a"}`, `{"ty\pe":"a"}`,
		`{"type":"a","type":"b"}`, `{"channel":"a","channel":null}`, `{"timestamp":1,"timestamp":2}`, `{"data":1,"data":null}`, `{"data":null,"data":1}`,
		`{"type":null}`, `{"timestamp":null}`, `{"encoding":null,"data":"eA=="}`, `{"encoding":"","data":"eA=="}`,
		`{"type":1}`, `{"type":{}}`, `{"type":["a"]}`, `{"type":true}`, `{"id":7}`,
		`{"type":"\""}`, `{"type":"\ud83d\ude00"}`, `{"type":"\ud83d"}`, `{"type":"\u12"}`, `{"type":"\x"}`, `{"type":"é頻"}`, "{\"type\":\"\xff\"}",
		`{"timestamp":0}`, `{"timestamp":-0}`, `{"timestamp":-1}`, `{"timestamp":01}`, `{"timestamp":-}`, `{"timestamp":1.0}`, `{"timestamp":1e3}`,
		`{"timestamp":9223372036854775807}`, `{"timestamp":9223372036854775808}`, `{"timestamp":-9223372036854775808}`, `{"timestamp":-9223372036854775809}`,
		`{"timestamp":18446744073709551616}`, `{"timestamp":18446744073709551617}`, `{"timestamp":99999999999999999999999}`, `{"timestamp":"1"}`, `{"timestamp":+1}`, `{"timestamp":1 2}`,
		`{"timestamp":00000000000000000000000}`, `{"timestamp":1,}`,
		`{"data":true}`, `{"data":false}`, `{"data":tru}`, `{"data":nul}`, `{"data":truee}`, `{"data":"x"}`, `{"data": [ 1 , 2 ] }`, `{"data":{"a":{"b":[]}}}`,
		`{"data":[1,]}`, `{"data":[,1]}`, `{"data":[1 2]}`, `{"data":{"a":1,}}`, `{"data":{"a"}}`, `{"data":{a:1}}`, `{"data":{"a":1]}`, `{"data":[1}}`, `{"data":}`,
		`{"data":1.}`, `{"data":.5}`, `{"data":1e}`, `{"data":1e+}`, `{"data":1E-5}`, `{"data":-0.0e0}`, `{"data":--1}`, `{"data":0x1}`, `{"data":NaN}`, `{"data":"a\u00e9\/\b"}`, `{"data":"a\uZZZZ"}`,
		`{"data":"\ud800"}`, "{\"data\":\"tab\t\"}", `{"data":"` + strings.Repeat("0123456789", 5) + `"}`,
		`{"data":"eA==","encoding":"base64"}`, `{"encoding":"base64","data":"eA=="}`, `{"data":"","encoding":"base64"}`, `{"data":"e\u0041==","encoding":"base64"}`, `{"data":"eA\n==","encoding":"base64"}`,
		`{"data":"eA","encoding":"base64"}`, `{"data":"!","encoding":"base64"}`, `{"data":"eA==","encoding":"hex"}`, `{"data":1,"encoding":"base64"}`, `{"data":null,"encoding":"base64"}`, `{"encoding":"base64"}`,
		`{"data":{},"encoding":"base64"}`, `{"data":"bnVsbA==","encoding":"base64"}`, `{"data":"eA==","Encoding":"base64"}`, `{"data":"eA==","encoding":"BASE64"}`, `{"data":"eA==","encoding":7}`,
		`{"extra":{"type":"x"},"type":"a"}`, `{"extra":"x","Extra":[1,2]}`, `{"":1}`, `{"extra":}`, `{"extra":[}`, `{"日本":1}`,
	}
	for _, depth := range []int{62, 63, 64, 65, 66, 9998, 9999, 10000, 10001} {
		inputs = append(inputs, `{"data":`+nested(depth)+`}`, `{"extra":`+nested(depth)+`}`)
	}
	return inputs
}

func TestJSONDecodesLikeEncodingJSON(t *testing.T) {
	t.Parallel()
	for _, input := range jsonInputs() {
		requireLikeJSON(t, []byte(input))
	}
}

// validReference is what ValidJSON has to agree with: valid on its own, valid
// inside an envelope, and fit for a text frame.
func validReference(data []byte) bool {
	wrapped := append(append([]byte{'['}, data...), ']')
	return json.Valid(data) && json.Valid(wrapped) && utf8.Valid(data)
}

func TestValidJSONAgreesWithEncodingJSON(t *testing.T) {
	t.Parallel()
	inputs := jsonInputs()
	for _, input := range jsonInputs() {
		data, _ := strings.CutPrefix(input, `{"data":`)
		data, _ = strings.CutSuffix(data, `}`)
		inputs = append(inputs, data, " "+data+"\n")
	}
	for _, input := range inputs {
		require.Equal(t, validReference([]byte(input)), websocket.ValidJSON([]byte(input)), "%.100q", input)
	}
}

// Every byte at every place of the eight that skipPlain looks at in one go,
// beside neighbours that could borrow from it.
func TestSkipPlainStopsWhereItMust(t *testing.T) {
	t.Parallel()
	for _, filler := range []byte{'a', 0x80, 0xff, '#', '!', ']', ' '} {
		for c := range 256 {
			for at := range 19 {
				b := bytes.Repeat([]byte{filler}, 19)
				b[at] = byte(c)
				want := len(b)
				if c < ' ' || c == '"' || c == '\\' {
					want = at
				}
				if got := websocket.SkipPlain(b, 0); got != want { // require.Equal is slow
					t.Fatalf("stopped at %d instead of %d in %q", got, want, b)
				}
			}
		}
	}
}

func TestJSONStringsAreEscapedForEncodingJSON(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for r := rune(0); r < 0x3000; r++ {
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
		if websocket.ValidJSON(msg.Data) {
			require.Equal(t, string(wire), string(websocket.AppendJSON(nil, &msg, true)))
		}
	}
}

func TestJSONErrorsSayWhere(t *testing.T) {
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
		{`{"data":"x","encoding":"hex"}`, `unknown encoding "hex"`},
		{`{"data":1,"encoding":"base64"}`, "data with an encoding is not a string"},
		{`{"data":"!","encoding":"base64"}`, "data: illegal base64 data at input byte 0"},
	}
	for _, tt := range tests {
		requireMalformed(t, websocket.JSONCodec{}, []byte(tt.wire), tt.reason)
	}
}

// The fast path takes what programs write: no more than two allocations with
// keys of the application's own, space and base64.
func TestJSONFastPath(t *testing.T) {
	tests := []string{
		`{"type":"message","channel":"news","data":{"a":1},"timestamp":1,"client_id":"c","id":"i"}`,
		` { "id" : "i", "data" : [ 1, 2, {"\"": null} ], "type" : "chat" } `,
		`{"type":"message","trace":{"Span":"x"},"data":true}`,
		`{"type":"message","data":"AAH/","encoding":"base64","client_id":"c"}`,
	}
	for _, tt := range tests {
		var msg websocket.Message
		require.NoError(t, websocket.JSONCodec{}.Unmarshal([]byte(tt), &msg))
		wire := []byte(tt)
		require.LessOrEqual(t, testing.AllocsPerRun(100, func() { _ = websocket.JSONCodec{}.Unmarshal(wire, &msg) }), 2.0, tt)
	}
}
