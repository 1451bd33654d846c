package websocket

import (
	"encoding/json"
	"fmt"
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

// Codec turns a Message into the bytes of one frame and back. A Codec must be
// safe for concurrent use, must not wait for the hub or a client, and must not
// end its goroutine: it is called while others wait. JSONCodec, ProtobufCodec, FlatBuffersCodec and
// MsgpackCodec are the ones that the page names; an application may bring its
// own.
type Codec interface {
	// Name is the subprotocol that selects the codec in the handshake.
	Name() string
	// Index is a number that no other codec of the hub has. It stays the same
	// for the life of the process. The codecs of this package use 0 to 3.
	Index() int
	// Marshal returns msg encoded in a slice of its own. It neither changes nor
	// keeps msg.
	Marshal(msg *Message) ([]byte, error)
	// Unmarshal decodes data into msg and overwrites all of its fields. It must
	// not keep data, which is reused afterwards.
	Unmarshal(data []byte, msg *Message) error
	// WebSocketMessageType is TextMessage or BinaryMessage.
	WebSocketMessageType() int
}

// AppendCodec is a Codec that can encode into a buffer of the caller's. It is
// optional; all codecs of this package implement it.
type AppendCodec interface {
	Codec
	// AppendMarshal appends what Marshal would return to dst and returns the
	// extended slice. On error it returns dst as it was.
	AppendMarshal(dst []byte, msg *Message) ([]byte, error)
}

// ControlDecoder reads the data of control messages in a format of the codec's
// own. It is optional: control data of a codec without it is JSON,
// {"channel":"..."} or {"room_id":"..."}.
type ControlDecoder interface {
	// DecodeChannel returns the channel that data names, or "" where data
	// cannot be decoded or names none.
	DecodeChannel(data []byte) string
	// DecodeRoomID returns the room that data names, or "" where data cannot be
	// decoded or names none.
	DecodeRoomID(data []byte) string
}

// ControlEncoder writes the data of the hub's own answers in a format of the
// codec's own. It is optional: answers of a codec without it are JSON.
type ControlEncoder interface {
	// EncodeError returns the data of an "error" message: a code for programs
	// and a text for people.
	EncodeError(code, message string) []byte
	// EncodeGap returns the data of a "gap" message.
	EncodeGap(gap Gap) []byte
}

// envelope is a decoded message whose fields still point into the input.
// Decoders fill one and check everything before they allocate anything.
type envelope struct {
	typ, channel, data, clientID, id []byte
	timestamp                        int64
}

// message copies e into msg with at most two allocations: one for Data, one
// that the strings share.
func (e *envelope) message(msg *Message) {
	typ, known := knownType(e.typ)
	n := len(e.channel) + len(e.clientID) + len(e.id)
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
	text := b.String()
	if !known {
		typ, text = text[:len(e.typ)], text[len(e.typ):]
	}
	msg.Type = typ
	msg.Channel, text = text[:len(e.channel)], text[len(e.channel):]
	msg.ClientID, msg.ID = text[:len(e.clientID)], text[len(e.clientID):]
	msg.Timestamp = e.timestamp
	msg.Data = nil
	if len(e.data) > 0 {
		msg.Data = append(make([]byte, 0, len(e.data)), e.data...)
	}
}

// knownType returns the constant for a type that the package itself uses, so
// that decoding it does not allocate.
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
	}
	return "", false
}

// malformed is the error of every decoder: which format, what is wrong, where.
func malformed(format string, offset int, reason string) error {
	return fmt.Errorf("%w: %s: %s at byte %d", ErrMalformed, format, reason, offset)
}

// validText returns s with every byte that is not part of valid UTF-8 replaced
// by U+FFFD, as encoding/json does. Without it a peer's protobuf decoder would
// refuse the whole message.
func validText(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// controlChannel returns the channel named by the data of a control message.
func controlChannel(c Codec, data []byte) (string, error) {
	if d, ok := c.(ControlDecoder); ok {
		return named("channel", d.DecodeChannel(data))
	}
	if err := checkUTF8(data); err != nil {
		return "", err
	}
	name, ok := jsonscan.String(data, "channel")
	if !ok {
		var request struct {
			Channel string `json:"channel"`
		}
		if err := json.Unmarshal(data, &request); err != nil {
			return "", jsonError(err)
		}
		name = request.Channel
	}
	return named("channel", name)
}

// controlRoom returns the room named by the data of a control message.
func controlRoom(c Codec, data []byte) (string, error) {
	if d, ok := c.(ControlDecoder); ok {
		return named("room_id", d.DecodeRoomID(data))
	}
	if err := checkUTF8(data); err != nil {
		return "", err
	}
	name, ok := jsonscan.String(data, "room_id")
	if !ok {
		var request struct {
			RoomID string `json:"room_id"`
		}
		if err := json.Unmarshal(data, &request); err != nil {
			return "", jsonError(err)
		}
		name = request.RoomID
	}
	return named("room_id", name)
}

// named checks the name that control data gave.
func named(key, name string) (string, error) {
	if name == "" || !utf8.ValidString(name) {
		return "", fmt.Errorf("%w: control data has no valid %s", ErrMalformed, key)
	}
	return name, nil
}

// encodeError returns the data of an "error" message in the form that clients
// of c read.
func encodeError(c Codec, code, message string) []byte {
	if e, ok := c.(ControlEncoder); ok {
		return e.EncodeError(code, message)
	}
	return appendJSONError(nil, code, message)
}

// encodeGap returns the data of a "gap" message in the form that clients of c
// read.
func encodeGap(c Codec, g Gap) []byte {
	if e, ok := c.(ControlEncoder); ok {
		return e.EncodeGap(g)
	}
	return appendJSONGap(nil, g)
}

// ProtobufCodec speaks the WsMessage of proto/message.proto in binary frames.
// Control data are ChannelRequest and RoomRequest, answers ErrorReply and
// GapNotice. The zero value is ready for use.
type ProtobufCodec struct{}

var (
	_ AppendCodec    = ProtobufCodec{}
	_ ControlDecoder = ProtobufCodec{}
	_ ControlEncoder = ProtobufCodec{}
)

// Field numbers of WsMessage.
const (
	protoType      protowire.Number = 1
	protoChannel   protowire.Number = 2
	protoData      protowire.Number = 3
	protoTimestamp protowire.Number = 4
	protoClientID  protowire.Number = 5
	protoID        protowire.Number = 6
)

// Name returns "protobuf".
func (ProtobufCodec) Name() string { return "protobuf" }

// Index returns 1.
func (ProtobufCodec) Index() int { return 1 }

// WebSocketMessageType returns BinaryMessage.
func (ProtobufCodec) WebSocketMessageType() int { return BinaryMessage }

// Marshal returns msg as a WsMessage. It never fails: bytes of a string that
// are not UTF-8 become U+FFFD.
func (c ProtobufCodec) Marshal(msg *Message) ([]byte, error) { return c.AppendMarshal(nil, msg) }

// AppendMarshal appends msg to dst as Marshal encodes it.
func (ProtobufCodec) AppendMarshal(dst []byte, msg *Message) ([]byte, error) {
	// Each field takes a tag and at most a varint of ten bytes besides its
	// content.
	const overhead = 6 * 11
	dst = slices.Grow(dst, overhead+len(msg.Type)+len(msg.Channel)+len(msg.Data)+len(msg.ClientID)+len(msg.ID))
	dst = appendProtoString(dst, protoType, msg.Type)
	dst = appendProtoString(dst, protoChannel, msg.Channel)
	if len(msg.Data) > 0 {
		dst = protowire.AppendTag(dst, protoData, protowire.BytesType)
		dst = protowire.AppendBytes(dst, msg.Data)
	}
	dst = appendProtoVarint(dst, protoTimestamp, uint64(msg.Timestamp))
	dst = appendProtoString(dst, protoClientID, msg.ClientID)
	dst = appendProtoString(dst, protoID, msg.ID)
	return dst, nil
}

// Unmarshal decodes a WsMessage. Like generated code it skips unknown fields
// and known ones of another wire type, lets the last of several win, and
// refuses strings that are not UTF-8. Errors wrap ErrMalformed and leave msg
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

// consumeProto takes the value of one field into e and returns its length, or a
// negative number that protoReason explains.
func (e *envelope) consumeProto(num protowire.Number, typ protowire.Type, b []byte) int {
	var text *[]byte
	switch {
	case num == protoTimestamp && typ == protowire.VarintType:
		v, n := protowire.ConsumeVarint(b)
		e.timestamp = int64(v)
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

// protoInvalidUTF8 joins the negative numbers that protowire returns for a
// length.
const protoInvalidUTF8 = -100

func protoReason(n int) string {
	if n == protoInvalidUTF8 {
		return "not valid UTF-8"
	}
	return protowire.ParseError(n).Error()
}

// DecodeChannel reads a ChannelRequest. It returns "" where data is none or
// names no channel.
func (ProtobufCodec) DecodeChannel(data []byte) string { return protoFirstString(data) }

// DecodeRoomID reads a RoomRequest. It returns "" where data is none or names
// no room.
func (ProtobufCodec) DecodeRoomID(data []byte) string { return protoFirstString(data) }

// EncodeError returns an ErrorReply.
func (ProtobufCodec) EncodeError(code, message string) []byte {
	dst := appendProtoString(nil, 1, code)
	return appendProtoString(dst, 2, message)
}

// EncodeGap returns a GapNotice.
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

// protoFirstString returns the string in field 1, which is all that both
// requests consist of.
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

// consumeProtoTag is protowire.ConsumeTag without the numbers above the
// greatest valid one, which generated code refuses too.
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
