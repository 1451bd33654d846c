package websocket

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/maoxiaoyue/hypgo-websocket/internal/jsonscan"
)

// Frame types of the WebSocket protocol (RFC 6455), as returned by
// Codec.WebSocketMessageType.
const (
	// TextMessage is a frame of UTF-8 text.
	TextMessage = 1
	// BinaryMessage is a frame of any bytes.
	BinaryMessage = 2
)

// A Codec encodes a Message as the payload of one frame and decodes it. JSONCodec,
// ProtobufCodec, FlatBuffersCodec and MsgpackCodec are built in. An application may
// add its own to Config.Codecs.
//
// The hub calls a Codec from several goroutines at once, and other clients wait for
// the call to return. So a Codec must be safe for concurrent use, must not wait for
// the hub or a client. NewHub calls Name, Index and WebSocketMessageType; the hub uses
// their results from then on.
//
// A panic in any other method ends only the call: in Marshal and Unmarshal it counts as
// an error, in the methods of ControlDecoder as "", and in those of ControlEncoder the
// message has no data. A method must not call runtime.Goexit. If it does, it ends its
// goroutine, which may be the client's, or one that delivers to many clients.
type Codec interface {
	// Name returns the subprotocol that selects the codec in the handshake.
	Name() string
	// Index returns a number that is unique among the codecs of a hub and never
	// changes. The codecs of this package use 0 to 3.
	Index() int
	// Marshal returns msg encoded in a new slice. It must not change or keep msg.
	// After an error the message is dropped for the clients of this codec, with
	// the reason "codec".
	Marshal(msg *Message) ([]byte, error)
	// Unmarshal decodes data into msg and overwrites all fields of msg. It must
	// not keep data, which the hub reuses. After an error the hub closes the
	// connection with CloseInvalidPayloadData and the text of the error.
	Unmarshal(data []byte, msg *Message) error
	// WebSocketMessageType returns TextMessage or BinaryMessage.
	WebSocketMessageType() int
}

// AppendCodec is an optional interface of a Codec that can encode into a buffer of
// the caller. All codecs of this package implement it.
type AppendCodec interface {
	Codec
	// AppendMarshal appends msg, encoded as by Marshal, to dst and returns the
	// extended slice. On error it returns dst unchanged. A result that does not begin
	// with the bytes of dst counts as an error.
	AppendMarshal(dst []byte, msg *Message) ([]byte, error)
}

// ControlDecoder is an optional interface of a Codec with its own format for the data
// of control messages from clients. Without it the hub expects JSON:
// {"channel":"..."} or {"room_id":"..."}.
type ControlDecoder interface {
	// DecodeChannel returns the channel in the data of "subscribe" or
	// "unsubscribe". It returns "" if data is malformed or has no channel.
	DecodeChannel(data []byte) string
	// DecodeRoomID returns the room in the data of "join_room" or "leave_room".
	// It returns "" if data is malformed or has no room.
	DecodeRoomID(data []byte) string
}

// ControlEncoder is an optional interface of a Codec with its own format for the data
// of "error" and "gap" messages. Without it the hub writes JSON.
type ControlEncoder interface {
	// EncodeError returns the data of an "error" message. The code is for
	// programs, the message for people.
	EncodeError(code, message string) []byte
	// EncodeGap returns the data of a "gap" message.
	EncodeGap(gap Gap) []byte
}

// envelope is a decoded message whose fields are parts of the input. Decoders check
// the whole input before they copy an envelope into a Message.
type envelope struct {
	typ, channel, data, clientID, id []byte
	timestamp                        int64
	offset                           uint64
	key                              []byte
	room, exceptSelf                 bool
	trace                            []byte
}

// message copies e into msg with at most two allocations: one for Data and one for
// all strings.
func (e *envelope) message(msg *Message) {
	typ, known := knownType(e.typ)
	n := len(e.channel) + len(e.clientID) + len(e.id) + len(e.key) + len(e.trace)
	if !known {
		n += len(e.typ)
	}
	var b strings.Builder
	b.Grow(n)
	if !known {
		b.Write(e.typ)
	}
	b.Write(e.channel)
	b.Write(e.clientID)
	b.Write(e.id)
	b.Write(e.key)
	b.Write(e.trace)
	text := b.String()
	if !known {
		typ, text = text[:len(e.typ)], text[len(e.typ):]
	}
	msg.Type = typ
	msg.Channel, text = text[:len(e.channel)], text[len(e.channel):]
	msg.ClientID, text = text[:len(e.clientID)], text[len(e.clientID):]
	msg.ID, text = text[:len(e.id)], text[len(e.id):]
	msg.Key, msg.Trace = text[:len(e.key)], text[len(e.key):]
	msg.Timestamp = e.timestamp
	msg.Offset = e.offset
	msg.Room = e.room
	msg.ExceptSelf = e.exceptSelf
	msg.Data = nil
	if len(e.data) > 0 {
		msg.Data = append(make([]byte, 0, len(e.data)), e.data...)
	}
}

// rareOverhead returns the most that Offset, Key, Room, ExceptSelf and Trace add to an encoded
// message besides the bytes of Key. Most messages have none of them.
func rareOverhead(msg *Message) int {
	if msg.Offset == 0 && msg.Key == "" && !msg.Room && !msg.ExceptSelf && msg.Trace == "" {
		return 0
	}
	return 96 + len(msg.Trace)
}

// knownType returns b as a string without an allocation if b is empty or a type that
// this package uses.
func knownType(b []byte) (string, bool) {
	switch string(b) {
	case "":
		return "", true
	case "message":
		return "message", true
	case "broadcast":
		return "broadcast", true
	case "subscribe":
		return "subscribe", true
	case "unsubscribe":
		return "unsubscribe", true
	case "publish":
		return "publish", true
	case "join_room":
		return "join_room", true
	case "leave_room":
		return "leave_room", true
	case "publish_room":
		return "publish_room", true
	case "room_message":
		return "room_message", true
	case "ack":
		return "ack", true
	case "error":
		return "error", true
	case "gap":
		return "gap", true
	case typeHello:
		return typeHello, true
	case typePing:
		return typePing, true
	case typeHistory:
		return typeHistory, true
	case typePresence:
		return typePresence, true
	case typePublished:
		return typePublished, true
	}
	return "", false
}

// malformed returns the error of a decoder: the format, the reason and the offset of
// the fault in the input.
func malformed(format string, offset int, reason string) error {
	return fmt.Errorf("%w: %s: %s at byte %d", ErrMalformed, format, reason, offset)
}

// validText replaces every byte of s that is not part of valid UTF-8 by U+FFFD, as
// encoding/json does. A peer's protobuf decoder would reject a message with invalid
// UTF-8.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// controlFormat describes the data of a control message, for the texts of errors.
type controlFormat struct{ key, json, proto string }

var (
	channelRequest = controlFormat{"channel", `{"channel":"news"}`, "ChannelRequest"}
	roomRequest    = controlFormat{"room_id", `{"room_id":"101"}`, "RoomRequest"}
)

// controlChannel returns the channel in the data of a control message. Errors wrap
// ErrMalformed.
func controlChannel(c *guardedCodec, data []byte) (string, error) {
	if c.decoder != nil {
		return channelRequest.require(c, data, c.decodeChannel(data))
	}
	if err := checkUTF8(data); err != nil {
		return "", err
	}
	name, ok := jsonscan.String(data, "channel")
	if !ok && len(data) > 0 {
		var request struct {
			Channel string `json:"channel"`
		}
		if err := json.Unmarshal(data, &request); err != nil {
			return "", fmt.Errorf("%w, want %s", jsonError(err), channelRequest.json)
		}
		name = request.Channel
	}
	return channelRequest.require(c, data, name)
}

// controlRoom returns the room in the data of a control message. Errors wrap
// ErrMalformed.
func controlRoom(c *guardedCodec, data []byte) (string, error) {
	if c.decoder != nil {
		return roomRequest.require(c, data, c.decodeRoomID(data))
	}
	if err := checkUTF8(data); err != nil {
		return "", err
	}
	name, ok := jsonscan.String(data, "room_id")
	if !ok && len(data) > 0 {
		var request struct {
			RoomID string `json:"room_id"`
		}
		if err := json.Unmarshal(data, &request); err != nil {
			return "", fmt.Errorf("%w, want %s", jsonError(err), roomRequest.json)
		}
		name = request.RoomID
	}
	return roomRequest.require(c, data, name)
}

// require returns the name that was decoded from data, or an error if it is empty or not
// UTF-8.
func (f *controlFormat) require(c *guardedCodec, data []byte, name string) (string, error) {
	if name != "" && utf8.ValidString(name) {
		return name, nil
	}
	problem, want := "data has no valid "+f.key, ""
	if len(data) == 0 {
		problem = "data is missing"
	}
	if _, ok := c.Codec.(ProtobufCodec); ok {
		want = ", want a " + f.proto
	} else if c.decoder == nil {
		want = ", want " + f.json
	}
	return "", fmt.Errorf("%w: %s%s", ErrMalformed, problem, want)
}

// ProtobufCodec encodes messages as the WsMessage of proto/message.proto, in binary
// frames. The data of control messages is a ChannelRequest or RoomRequest, that of
// "error" an ErrorReply, that of "gap" a GapNotice. The zero value is ready for use.
type ProtobufCodec struct{}

var (
	_ AppendCodec    = ProtobufCodec{}
	_ ControlDecoder = ProtobufCodec{}
	_ ControlEncoder = ProtobufCodec{}
)

// Field numbers of WsMessage.
const (
	protoType       protowire.Number = 1
	protoChannel    protowire.Number = 2
	protoData       protowire.Number = 3
	protoTimestamp  protowire.Number = 4
	protoClientID   protowire.Number = 5
	protoID         protowire.Number = 6
	protoOffset     protowire.Number = 7
	protoKey        protowire.Number = 8
	protoRoom       protowire.Number = 9
	protoExceptSelf protowire.Number = 10
	protoTrace      protowire.Number = 11
)

// Name returns "protobuf".
func (ProtobufCodec) Name() string { return "protobuf" }

// Index returns 1.
func (ProtobufCodec) Index() int { return 1 }

// WebSocketMessageType returns BinaryMessage.
func (ProtobufCodec) WebSocketMessageType() int { return BinaryMessage }

// Marshal returns msg as a WsMessage. It never returns an error. In strings it replaces
// bytes that are not UTF-8 by U+FFFD.
func (c ProtobufCodec) Marshal(msg *Message) ([]byte, error) { return c.AppendMarshal(nil, msg) }

// AppendMarshal appends msg to dst, encoded as by Marshal.
func (ProtobufCodec) AppendMarshal(dst []byte, msg *Message) ([]byte, error) {
	// Besides its content, each field has a tag of one byte and a varint of at most
	// ten bytes.
	const overhead = 6 * 11
	dst = slices.Grow(dst, overhead+rareOverhead(msg)+len(msg.Type)+len(msg.Channel)+len(msg.Data)+len(msg.ClientID)+len(msg.ID)+len(msg.Key))
	dst = appendProtoString(dst, protoType, msg.Type)
	dst = appendProtoString(dst, protoChannel, msg.Channel)
	if len(msg.Data) > 0 {
		dst = protowire.AppendTag(dst, protoData, protowire.BytesType)
		dst = protowire.AppendBytes(dst, msg.Data)
	}
	dst = appendProtoVarint(dst, protoTimestamp, uint64(msg.Timestamp))
	dst = appendProtoString(dst, protoClientID, msg.ClientID)
	dst = appendProtoString(dst, protoID, msg.ID)
	dst = appendProtoVarint(dst, protoOffset, msg.Offset)
	dst = appendProtoString(dst, protoKey, msg.Key)
	if msg.Room {
		dst = appendProtoVarint(dst, protoRoom, 1)
	}
	if msg.ExceptSelf {
		dst = appendProtoVarint(dst, protoExceptSelf, 1)
	}
	return appendProtoString(dst, protoTrace, msg.Trace), nil
}

// Unmarshal decodes a WsMessage. Like generated code it skips unknown fields and known
// fields of another wire type, rejects strings that are not UTF-8, and uses the last
// value of a field that occurs more than once. Errors wrap ErrMalformed and leave msg
// empty.
func (ProtobufCodec) Unmarshal(data []byte, msg *Message) error {
	*msg = Message{}
	var e envelope
	for at := 0; at < len(data); {
		num, typ, n := consumeProtoTag(data[at:])
		if n < 0 {
			return malformed("protobuf", at, "invalid field tag")
		}
		at += n
		n = e.consumeProto(num, typ, data[at:])
		if n < 0 {
			return malformed("protobuf", at, fmt.Sprintf("field %d: %s", num, protoReason(n)))
		}
		at += n
	}
	e.message(msg)
	return nil
}

// consumeProto reads the value of one field into e. It returns the length of the value,
// or a negative number for protoReason.
func (e *envelope) consumeProto(num protowire.Number, typ protowire.Type, b []byte) int {
	var text *[]byte
	switch {
	case num == protoTimestamp && typ == protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		e.timestamp = int64(v)
		return n
	case num == protoOffset && typ == protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		e.offset = v
		return n
	case num == protoRoom && typ == protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		e.room = v != 0
		return n
	case num == protoExceptSelf && typ == protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		e.exceptSelf = v != 0
		return n
	case typ != protowire.BytesType:
		return protowire.ConsumeFieldValue(num, typ, b)
	case num == protoType:
		text = &e.typ
	case num == protoChannel:
		text = &e.channel
	case num == protoClientID:
		text = &e.clientID
	case num == protoID:
		text = &e.id
	case num == protoKey:
		text = &e.key
	case num == protoTrace:
		text = &e.trace
	}
	v, n := protowire.ConsumeBytes(b)
	switch {
	case num == protoData:
		e.data = v
	case text != nil && !utf8.Valid(v):
		return protoInvalidUTF8
	case text != nil:
		*text = v
	}
	return n
}

// protoInvalidUTF8 is a result of consumeProto besides the negative numbers of
// protowire.
const protoInvalidUTF8 = -100

// protoReason returns the text of an error for a negative result of consumeProto.
func protoReason(n int) string {
	if n == protoInvalidUTF8 {
		return "not valid UTF-8"
	}
	return protowire.ParseError(n).Error()
}

// DecodeChannel returns the channel of a ChannelRequest, or "" if data is malformed or
// has no channel.
func (ProtobufCodec) DecodeChannel(data []byte) string { return protoFirstString(data) }

// DecodeRoomID returns the room of a RoomRequest, or "" if data is malformed or has no
// room.
func (ProtobufCodec) DecodeRoomID(data []byte) string { return protoFirstString(data) }

// DecodeResume returns the fields since and last of a ChannelRequest or RoomRequest.
func (ProtobufCodec) DecodeResume(data []byte) (since *Position, last int, ok bool) {
	ok = eachProtoField(data, func(num protowire.Number, number uint64, text []byte) bool {
		switch {
		case num == 2 && text != nil:
			since = &Position{}
			return eachProtoField(text, func(num protowire.Number, number uint64, text []byte) bool {
				switch {
				case num == 1 && text != nil:
					since.Epoch = string(text)
				case num == 2 && text == nil:
					since.Offset = number
				}
				return true
			})
		case num == 3 && text == nil:
			last = int(min(number, math.MaxInt32))
		}
		return true
	})
	return since, last, ok
}

// eachProtoField calls f for each varint and each string, message or bytes of an encoded
// message, whose text is not nil. It reports false if f does or b is malformed.
func eachProtoField(b []byte, f func(num protowire.Number, number uint64, text []byte) bool) bool {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		var number uint64
		var text []byte
		switch typ {
		case protowire.VarintType:
			number, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			text, n = protowire.ConsumeBytes(b)
			if text == nil { // an empty field is no number
				text = []byte{}
			}
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n >= 0 {
				b = b[n:]
				continue
			}
		}
		if n < 0 || !f(num, number, text) {
			return false
		}
		b = b[n:]
	}
	return true
}

// EncodeError returns an encoded ErrorReply.
func (ProtobufCodec) EncodeError(code, message string) []byte {
	dst := appendProtoString(nil, 1, code)
	return appendProtoString(dst, 2, message)
}

// EncodeGap returns an encoded GapNotice.
func (ProtobufCodec) EncodeGap(gap Gap) []byte {
	dst := appendProtoString(nil, 1, gap.Channel)
	dst = appendProtoString(dst, 2, gap.RoomID)
	dst = appendProtoVarint(dst, 3, gap.Count)
	dst = appendProtoVarint(dst, 4, uint64(gap.First))
	dst = appendProtoVarint(dst, 5, uint64(gap.Last))
	dst = appendProtoString(dst, 6, gap.Reason)
	if gap.All {
		dst = appendProtoVarint(dst, 7, 1)
	}
	return dst
}

// protoFirstString returns the string in field 1, the only field of ChannelRequest and
// RoomRequest.
func protoFirstString(data []byte) string {
	var value []byte
	for len(data) > 0 {
		num, typ, n := consumeProtoTag(data)
		if n < 0 {
			return ""
		}
		data = data[n:]
		if num == 1 && typ == protowire.BytesType {
			value, n = protowire.ConsumeBytes(data)
		} else {
			n = protowire.ConsumeFieldValue(num, typ, data)
		}
		if n < 0 || !utf8.Valid(value) {
			return ""
		}
		data = data[n:]
	}
	return string(value)
}

// consumeProtoTag is protowire.ConsumeTag, but rejects numbers above the largest valid
// one, as generated code does.
func consumeProtoTag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

func appendProtoString(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return protowire.AppendString(dst, validText(s))
}

func appendProtoVarint(dst []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	dst = protowire.AppendTag(dst, num, protowire.VarintType)
	return protowire.AppendVarint(dst, v)
}
