package websocket

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"

	"github.com/gorilla/websocket"
)

// The names in this file exist in HypGo's package. They are thin forms of other names.

// CodecByName returns the codec of this package with that name: "json", "protobuf",
// "flatbuffers" or "msgpack". For every other name it returns JSONCodec, as HypGo does.
// It does not know Config.Codecs.
func CodecByName(name string) Codec {
	for _, codec := range []Codec{ProtobufCodec{}, FlatBuffersCodec{}, MsgpackCodec{}} {
		if codec.Name() == name {
			return codec
		}
	}
	return JSONCodec{}
}

// Hub returns the hub that the client is connected to. It may be called at any time,
// also after the connection has ended.
func (c *Client) Hub() *Hub { return c.hub }

// SendJSON is like Send for a message of type "message" whose Data is v in JSON. A
// *Message is sent as it is. SendJSON also returns the errors of json.Marshal. To stop
// waiting early, call json.Marshal and SendContext.
func (c *Client) SendJSON(v any) error {
	m, err := jsonMessage(v)
	if err != nil {
		return err
	}
	return c.Send(m)
}

// SendJSON is like SendToClient for a message of type "message" whose Data is v in JSON.
// A *Message is sent as it is. SendJSON also returns the errors of json.Marshal. To stop
// waiting early, call json.Marshal and SendToClientContext.
func (h *Hub) SendJSON(id string, v any) error {
	m, err := jsonMessage(v)
	if err != nil {
		return err
	}
	return h.SendToClient(id, m)
}

func jsonMessage(v any) (*Message, error) {
	if m, ok := v.(*Message); ok {
		return m, nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &Message{Data: b}, nil
}

// GetStats returns the figures of Stats that HypGo has, with HypGo's names and types:
// int64 for "total_connections", "active_connections", "messages_sent",
// "messages_received", "bytes_sent" and "bytes_received", int for "total_clients",
// "total_channels" and "total_rooms", and map[string]int for "channels" and "rooms",
// which have the number of members by name. The two maps make it expensive with many
// channels and rooms; new code uses Stats, Channels and Rooms. It may be called from any
// goroutine at any time.
func (h *Hub) GetStats() map[string]any {
	st := h.Stats()
	channels, rooms := maps.Collect(h.Channels()), maps.Collect(h.Rooms())
	return map[string]any{
		"total_connections":  int64(st.TotalConnections),
		"active_connections": int64(st.ActiveConnections),
		"messages_sent":      int64(st.MessagesSent),
		"messages_received":  int64(st.MessagesReceived),
		"bytes_sent":         int64(st.BytesSent),
		"bytes_received":     int64(st.BytesReceived),
		"total_clients":      st.ActiveConnections,
		"total_channels":     len(channels),
		"total_rooms":        len(rooms),
		"channels":           channels,
		"rooms":              rooms,
	}
}

// Room is a room of a hub by its ID. It is only a short form of Hub's methods: it holds no
// members, costs nothing to keep, and exists whether or not the room has members. The
// zero Room is not usable; Hub.Room returns one.
type Room struct {
	// ID is the ID of the room. It must not be changed.
	ID  string
	hub *Hub
}

// Room returns the room with that ID. The ID is checked when the Room is used. It may be
// called from any goroutine at any time.
func (h *Hub) Room(id string) *Room { return &Room{id, h} }

// Publish is Hub.PublishToRoom for this room.
func (r *Room) Publish(m *Message) error { return r.hub.PublishToRoom(r.ID, m) }

// Broadcast is Publish for a message with the given Data, whose type is "room_message".
func (r *Room) Broadcast(data []byte) error { return r.Publish(&Message{Data: data}) }

// Members is Hub.RoomMembers for this room.
func (r *Room) Members(ctx context.Context) ([]string, error) { return r.hub.RoomMembers(ctx, r.ID) }

// Upgrader accepts WebSocket connections that do not belong to a hub, with the settings
// of a Config: AllowedOrigins or CheckOrigin, Subprotocols, HandshakeTimeout, the buffer
// sizes and MaxMessageSize. Such a connection has none of a hub's guarantees, limits,
// callbacks or keys. Use it for protocols other than that of the hub; a hub does not
// need it, because Hub.Handler and Hub.ServeHTTP accept connections themselves.
type Upgrader struct {
	gorilla websocket.Upgrader
	limit   int64
}

// NewUpgrader returns an Upgrader with the settings of config, which it copies. Like
// NewHub it panics if config is invalid.
func NewUpgrader(config Config) *Upgrader {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		panic(err)
	}
	origins := config.originPatterns()
	return &Upgrader{
		gorilla: websocket.Upgrader{
			HandshakeTimeout: config.HandshakeTimeout,
			ReadBufferSize:   config.ReadBufferSize,
			WriteBufferSize:  config.WriteBufferSize,
			Subprotocols:     config.Subprotocols,
			CheckOrigin:      func(r *http.Request) bool { return config.originAllowed(r, origins) },
		},
		limit: config.MaxMessageSize,
	}
}

// Upgrade accepts a handshake and returns the connection of gorilla/websocket, which the
// caller must close. It adds responseHeader, which may be nil, to the response. If the
// handshake is refused, Upgrade writes the response and returns an error; the status is
// 403 for an origin that is not allowed. The connection ends when a message is larger
// than MaxMessageSize. It is never compressed, because gorilla/websocket does not limit
// the size of inflated messages. Upgrade may be called from any goroutine.
func (u *Upgrader) Upgrade(w http.ResponseWriter, r *http.Request, responseHeader http.Header) (*websocket.Conn, error) {
	ws, err := u.gorilla.Upgrade(w, r, responseHeader)
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(u.limit)
	return ws, nil
}
