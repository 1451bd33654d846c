package client

import (
	"context"
	"net"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Receiver decodes single frames as a connection does.
type Receiver struct{ client *Client }

// NewReceiver returns a Receiver for a client with these options.
func NewReceiver(o Options) *Receiver {
	o = o.withDefaults()
	c := &Client{ctx: context.Background(),
		options: o,
		codec:   o.codec(),
		control: controlData{protobuf: o.Codec == "protobuf"},
	}
	c.frameType = c.codec.WebSocketMessageType()
	if s := o.Security; s != nil {
		c.frameType = websocket.BinaryMessage
		keys, err := seal.New(s.AESKey, s.HMACKey, s.SignThenEncrypt)
		if err != nil {
			panic(err)
		}
		c.keys = keys
	}
	return &Receiver{c}
}

// Receive returns the message in a frame, or the close code if the frame is
// rejected.
func (r *Receiver) Receive(messageType int, b []byte) (*websocket.Message, int) {
	nc, peer := net.Pipe()
	defer nc.Close()
	defer peer.Close()
	cn := newConn(r.client, nil, newWatchedConn(nc))
	m := new(websocket.Message)
	if cn.decode(messageType, b, m) {
		return m, 0
	}
	cn.closeTimer.Stop()
	return nil, cn.cause.Code
}

// Target encodes the data of a subscribe or join_room.
func (r *Receiver) Target(name string, room bool) ([]byte, error) {
	return r.client.control.encode(topicKey{name: name, room: room}, resume{})
}

// Refusal decodes the data of an error message.
func (r *Receiver) Refusal(m *websocket.Message) *Error { return r.client.control.decodeError(m) }

// Gap decodes the data of a gap message.
func (r *Receiver) Gap(data []byte) (websocket.Gap, error) { return r.client.control.decodeGap(data) }

// Seal seals a message with the client's keys.
func (r *Receiver) Seal(b []byte) []byte { return r.client.keys.AppendSeal(nil, b) }

// Open opens a message with the client's keys. It overwrites b.
func (r *Receiver) Open(b []byte) ([]byte, error) { return r.client.keys.Open(b) }
