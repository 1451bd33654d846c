package websocket

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
)

// JSONCodec encodes messages as JSON in text frames:
//
//	{"type":"message","channel":"news","data":{"any":"JSON"},"timestamp":1,"client_id":"c","id":"i"}
//
// Empty channel, client_id, id and key and an offset of 0 are left out, and an empty payload is null. Room
// and ExceptSelf are the members "room":true and "except_self":true, or left out, as is an empty
// trace. In both
// directions a payload that is not valid JSON is a string in base64, with the member
// "encoding":"base64" added to the object. The zero value is ready for use.
type JSONCodec struct{}

var _ AppendCodec = JSONCodec{}

// Name returns "json".
func (JSONCodec) Name() string { return "json" }

// Index returns 0.
func (JSONCodec) Index() int { return 0 }

// WebSocketMessageType returns TextMessage.
func (JSONCodec) WebSocketMessageType() int { return TextMessage }

// Marshal returns msg as JSON. It never returns an error. In strings it replaces bytes
// that are not UTF-8 by U+FFFD. It copies valid JSON in Data byte for byte.
func (c JSONCodec) Marshal(msg *Message) ([]byte, error) { return c.AppendMarshal(nil, msg) }

// AppendMarshal appends msg to dst, encoded as by Marshal.
func (JSONCodec) AppendMarshal(dst []byte, msg *Message) ([]byte, error) {
	// The keys and the timestamp take at most 98 bytes, quotes included.
	const overhead = 100
	dst = slices.Grow(dst, overhead+rareOverhead(msg)+len(msg.Type)+len(msg.Channel)+len(msg.Data)+len(msg.ClientID)+len(msg.ID)+len(msg.Key))
	dst = append(dst, `{"type":`...)
	dst = appendJSONString(dst, msg.Type)
	dst = appendJSONField(dst, `,"channel":`, msg.Channel)
	dst = append(dst, `,"data":`...)
	switch {
	case len(msg.Data) == 0:
		dst = append(dst, "null"...)
	case jsonscan.Valid(msg.Data):
		dst = append(dst, msg.Data...)
	default:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, msg.Data)
		dst = append(dst, `","encoding":"base64"`...)
	}
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, msg.Timestamp, 10)
	dst = appendJSONField(dst, `,"client_id":`, msg.ClientID)
	dst = appendJSONField(dst, `,"id":`, msg.ID)
	if msg.Offset != 0 {
		dst = append(dst, `,"offset":`...)
		dst = strconv.AppendUint(dst, msg.Offset, 10)
	}
	dst = appendJSONField(dst, `,"key":`, msg.Key)
	if msg.Room {
		dst = append(dst, `,"room":true`...)
	}
	if msg.ExceptSelf {
		dst = append(dst, `,"except_self":true`...)
	}
	dst = appendJSONField(dst, `,"trace":`, msg.Trace)
	return append(dst, '}'), nil
}

// Unmarshal decodes one JSON object like encoding/json: keys match in any case, the
// last of several equal keys counts, and unknown keys are skipped. Unlike encoding/json
// it rejects input that is not valid UTF-8, and sets Data to nil if data is null. It
// skips an id, key or trace that is not a string, an offset that is no positive integer, an
// encoding that is not "base64" and a room or except_self that is not true, as it skips
// unknown keys: they are members of the application's own.
// Errors wrap ErrMalformed and leave msg empty.
func (JSONCodec) Unmarshal(data []byte, msg *Message) error {
	*msg = Message{}
	if err := checkUTF8(data); err != nil {
		return err
	}
	var e jsonEnvelope
	if e.scan(data) {
		return e.message(msg)
	}
	if err := e.decode(data); err != nil {
		return err
	}
	return e.message(msg)
}

// MarshalJSON returns m as JSONCodec encodes it, so that encoding/json and the WriteJSON of
// a connection write messages as they are on the wire. It never returns an error.
func (m Message) MarshalJSON() ([]byte, error) { return JSONCodec{}.Marshal(&m) }

// UnmarshalJSON decodes a message as JSONCodec does, for encoding/json and for the
// ReadJSON of a connection. Like JSONCodec it overwrites all fields, and errors wrap
// ErrMalformed. As is usual in encoding/json, null leaves m unchanged.
func (m *Message) UnmarshalJSON(data []byte) error {
	if string(data) == "null" {
		return nil
	}
	return JSONCodec{}.Unmarshal(data, m)
}

// checkUTF8 returns an error that wraps ErrMalformed if b is not valid UTF-8.
func checkUTF8(b []byte) error {
	if offset, ok := jsonscan.CheckUTF8(b); !ok {
		return malformed("json", offset, "invalid UTF-8")
	}
	return nil
}

// appendJSONError appends the data of an "error" message.
func appendJSONError(dst []byte, code, message string) []byte {
	dst = append(dst, `{"code":`...)
	dst = appendJSONString(dst, code)
	dst = append(dst, `,"message":`...)
	dst = appendJSONString(dst, message)
	return append(dst, '}')
}

// appendJSONGap appends the data of a "gap" message.
func appendJSONGap(dst []byte, g Gap) []byte {
	dst = append(dst, '{')
	switch {
	case g.Channel != "":
		dst = appendJSONField(dst, `"channel":`, g.Channel)
		dst = append(dst, ',')
	case g.RoomID != "":
		dst = appendJSONField(dst, `"room_id":`, g.RoomID)
		dst = append(dst, ',')
	case g.All:
		dst = append(dst, `"all":true,`...)
	}
	dst = append(dst, `"count":`...)
	dst = strconv.AppendUint(dst, g.Count, 10)
	dst = append(dst, `,"first":`...)
	dst = strconv.AppendInt(dst, g.First, 10)
	dst = append(dst, `,"last":`...)
	dst = strconv.AppendInt(dst, g.Last, 10)
	dst = append(dst, `,"reason":`...)
	dst = appendJSONString(dst, g.Reason)
	return append(dst, '}')
}

// appendJSONField appends a key and a string, or nothing if s is empty.
func appendJSONField(dst []byte, key, s string) []byte {
	if s == "" {
		return dst
	}
	return appendJSONString(append(dst, key...), s)
}

// appendJSONString appends s in quotes. It escapes only the characters for which JSON
// requires it: quotes, backslashes and control characters.
func appendJSONString(dst []byte, s string) []byte {
	s = validText(s)
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		dst = appendJSONEscape(dst, c)
		start = i + 1
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendJSONEscape appends the escape sequence for c.
func appendJSONEscape(dst []byte, c byte) []byte {
	const hex = "0123456789abcdef"
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&0xf])
}

// jsonEnvelope is an envelope whose data is the JSON of the member "data".
type jsonEnvelope struct {
	envelope
	base64 bool // data is a string in base64
}

// message decodes data and copies e into msg.
func (e *jsonEnvelope) message(msg *Message) error {
	if !e.base64 {
		if string(e.data) == "null" {
			e.data = nil
		}
		e.envelope.message(msg)
		return nil
	}
	payload, err := decodeBase64(e.data)
	if err != nil {
		return err
	}
	e.data = nil
	e.envelope.message(msg)
	msg.Data = payload
	return nil
}

// decodeBase64 returns the payload of a JSON string in base64.
func decodeBase64(raw []byte) ([]byte, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return nil, fmt.Errorf("%w: json: data with an encoding is not a string", ErrMalformed)
	}
	text := raw[1 : len(raw)-1]
	if slices.Contains(text, '\\') {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return nil, fmt.Errorf("%w: json: data: %v", ErrMalformed, err)
		}
		text = []byte(s)
	}
	payload := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(payload, text)
	if err != nil {
		return nil, fmt.Errorf("%w: json: data: %v", ErrMalformed, err)
	}
	if n == 0 { // of nothing, or of line breaks, which base64 skips
		return nil, nil
	}
	return payload[:n], nil
}

// decode is the slow path: encoding/json decodes the input that scan does not
// support, or rejects it.
func (e *jsonEnvelope) decode(data []byte) error {
	var v struct {
		Type       string          `json:"type"`
		Channel    string          `json:"channel"`
		Data       json.RawMessage `json:"data"`
		Timestamp  int64           `json:"timestamp"`
		ClientID   string          `json:"client_id"`
		ID         ownString       `json:"id"`
		Encoding   base64Mark      `json:"encoding"`
		Offset     ownInteger      `json:"offset"`
		Key        ownString       `json:"key"`
		Room       trueMark        `json:"room"`
		ExceptSelf trueMark        `json:"except_self"`
		Trace      ownString       `json:"trace"`
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return jsonError(err)
	}
	*e = jsonEnvelope{
		envelope: envelope{
			typ:       []byte(v.Type),
			channel:   []byte(v.Channel),
			data:      v.Data,
			clientID:  []byte(v.ClientID),
			id:        []byte(v.ID),
			timestamp: v.Timestamp,

			offset:     uint64(v.Offset),
			key:        []byte(v.Key),
			room:       bool(v.Room),
			exceptSelf: bool(v.ExceptSelf),
			trace:      []byte(v.Trace),
		},
		base64: bool(v.Encoding),
	}
	return nil
}

// ownString is a string that skips values of other types.
type ownString string

// UnmarshalJSON implements json.Unmarshaler.
func (s *ownString) UnmarshalJSON(b []byte) error {
	if b[0] != '"' {
		return nil
	}
	return json.Unmarshal(b, (*string)(s))
}

// base64Mark is true after the value "base64" and skips other values.
type base64Mark bool

// UnmarshalJSON implements json.Unmarshaler.
func (m *base64Mark) UnmarshalJSON(b []byte) error {
	var s ownString
	err := s.UnmarshalJSON(b)
	if s == "base64" {
		*m = true
	}
	return err
}

// ownInteger is an integer that is not negative. It skips other values.
type ownInteger uint64

// UnmarshalJSON implements json.Unmarshaler.
func (n *ownInteger) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err == nil {
		*n = ownInteger(v)
	}
	return nil
}

// trueMark is true after the value true and false after other values.
type trueMark bool

// UnmarshalJSON implements json.Unmarshaler.
func (m *trueMark) UnmarshalJSON(b []byte) error {
	*m = string(b) == "true"
	return nil
}

// jsonError returns an error that wraps ErrMalformed for an error of encoding/json.
func jsonError(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return malformed("json", int(syntax.Offset), syntax.Error())
	}
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		if mismatch.Field == "" {
			return malformed("json", int(mismatch.Offset), mismatch.Value+" instead of an object")
		}
		return malformed("json", int(mismatch.Offset),
			fmt.Sprintf("%s is a %s, want %s", mismatch.Field, mismatch.Value, mismatch.Type))
	}
	return fmt.Errorf("%w: json: %v", ErrMalformed, err)
}

// scan is the fast path: it reads an object with exact key names and strings
// without escapes. It returns false for any other input, valid or not; e is then
// undefined.
func (e *jsonEnvelope) scan(data []byte) bool {
	s := jsonscan.New(data)
	for s.Next() {
		switch string(s.Key()) {
		case "type":
			e.typ = s.Text()
		case "channel":
			e.channel = s.Text()
		case "data":
			e.data = s.Value()
		case "timestamp":
			e.timestamp = s.Integer()
		case "client_id":
			e.clientID = s.Text()
		case "id":
			if s.IsString() {
				e.id = s.Text()
			} else {
				s.Value()
			}
		case "encoding":
			if !s.IsString() {
				s.Value()
			} else if string(s.Text()) == "base64" {
				e.base64 = true
			}
		case "offset":
			var n ownInteger
			_ = n.UnmarshalJSON(s.Value())
			e.offset = uint64(n)
		case "key":
			if s.IsString() {
				e.key = s.Text()
			} else {
				s.Value()
			}
		case "room":
			e.room = string(s.Value()) == "true"
		case "except_self":
			e.exceptSelf = string(s.Value()) == "true"
		case "trace":
			if s.IsString() {
				e.trace = s.Text()
			} else {
				s.Value()
			}
		default:
			s.Skip()
		}
	}
	return s.Complete()
}
