package client

import (
	"encoding/json"
	"fmt"
	"math"

	protobuf "google.golang.org/protobuf/proto"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
)

// Message types that have no websocket.Action.
const (
	typeMessage     = "message"
	typeRoomMessage = "room_message"
	typeBroadcast   = "broadcast"
	typeAck         = "ack"
	typeError       = "error"
	typeGap         = "gap"
)

// controlData encodes the data of subscribe, unsubscribe, join_room and leave_room
// messages and decodes the data of the hub's error and gap messages. The format is
// protobuf for the protobuf codec and JSON for the others.
type controlData struct{ protobuf bool }

func (d controlData) encode(key topicKey, from resume) ([]byte, error) {
	if !d.protobuf {
		channel, roomID := key.split()
		return json.Marshal(topicRequest{Channel: channel, RoomID: roomID, Since: from.since, Last: from.last})
	}
	var since *proto.Position
	if from.since != nil {
		since = &proto.Position{Epoch: from.since.Epoch, Offset: from.since.Offset}
	}
	last := uint32(min(uint64(from.last), math.MaxUint32))
	if key.room {
		return protobuf.Marshal(&proto.RoomRequest{RoomId: key.name, Since: since, Last: last})
	}
	return protobuf.Marshal(&proto.ChannelRequest{Channel: key.name, Since: since, Last: last})
}

// topicRequest is the JSON data of a request about a topic. Fields that the request does
// not have are zero.
type topicRequest struct {
	Channel string              `json:"channel,omitempty"`
	RoomID  string              `json:"room_id,omitempty"`
	Since   *websocket.Position `json:"since,omitempty"`
	Last    int                 `json:"last,omitempty"`
	Before  uint64              `json:"before,omitempty"`
	Limit   int                 `json:"limit,omitempty"`
	Key     string              `json:"key,omitempty"`
}

// decodeError returns the error in m. If m.Data cannot be decoded, the returned
// error says so.
func (d controlData) decodeError(m *websocket.Message) *Error {
	var body struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	var err error
	if d.protobuf {
		var r proto.ErrorReply
		err = protobuf.Unmarshal(m.Data, &r)
		body.Code, body.Message = r.Code, r.Message
	} else {
		err = json.Unmarshal(m.Data, &body)
	}
	if err != nil {
		body.Message = fmt.Sprintf("reply cannot be read: %v", err)
	}
	return &Error{Code: body.Code, Message: body.Message, Target: m.Channel}
}

func (d controlData) decodeGap(data []byte) (websocket.Gap, error) {
	if d.protobuf {
		var g proto.GapNotice
		err := protobuf.Unmarshal(data, &g)
		return websocket.Gap{
			Channel: g.Channel, RoomID: g.RoomId, All: g.All,
			Count: g.Count, First: g.First, Last: g.Last, Reason: g.Reason,
		}, err
	}
	var g struct {
		Channel string `json:"channel"`
		RoomID  string `json:"room_id"`
		All     bool   `json:"all"`
		Count   uint64 `json:"count"`
		First   int64  `json:"first"`
		Last    int64  `json:"last"`
		Reason  string `json:"reason"`
	}
	err := json.Unmarshal(data, &g)
	return websocket.Gap(g), err
}
