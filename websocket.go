// Package websocket is a hub for real-time messages over WebSocket (RFC 6455).
//
// A [Hub] accepts connections and delivers messages to them: to one client, to the
// subscribers of a channel, to the members of a room, or to all clients. Each client
// chooses its codec in the handshake: JSON, Protobuf, FlatBuffers or MessagePack.
// Clients with different codecs share channels and rooms. The hub encodes a message
// at most once for each codec. It can also encrypt messages (AES-256-GCM) and sign
// them (HMAC-SHA256), with one set of keys for all clients or with keys for each.
//
// A server that logs the messages of its clients and publishes one of its own:
//
//	config := websocket.DefaultConfig
//	config.OnMessage = func(c *websocket.Client, m *websocket.Message) {
//		log.Printf("%s: %s %s", c.ID, m.Type, m.Data)
//	}
//	hub := websocket.NewHub(nil, config)
//	go hub.Run(ctx)
//	mux := http.NewServeMux()
//	mux.Handle("GET /ws", hub.Handler())
//	go hub.ListenAndServe("localhost:8080", mux)
//
//	err := hub.PublishToChannelRaw("news", []byte(`{"headline":"Hello"}`))
//
// # Guarantees
//
//  1. No input, no churn of connections and no panic in a callback ends the process.
//     A panic is logged and ends only the client or the handshake that the callback
//     was called for.
//  2. All messages have one order, and each client receives its messages in that
//     order. A message that is published after Client.Subscribe has returned is sent
//     to that client; one that was published before is not. A message that is
//     published because another one was received comes after that one for every
//     client. Different clients may receive a message at different times.
//  3. No message is lost silently. Each message for a client is either written to
//     its connection or counted as dropped, in [Stats] and in calls of
//     Config.OnDrop. A client that stays connected learns of its dropped messages by
//     a message of type "gap".
//  4. A slow client does not delay other clients. Config.ClientBacklog limits the
//     bytes that are queued for it. A client is never evicted because the hub was
//     late to serve it. A large channel delays a small room only briefly.
//  5. If keys are set, no message is sent in plaintext. A key that cannot work is an
//     error.
//  6. A message reaches only the clients that it is for. A [Client] is never reused
//     for another connection. No two connections of a hub have the same ID, except
//     while ReplaceDuplicate closes the older one.
//  7. The callbacks of a client run in order: OnConnect once, then OnMessage for one
//     message at a time, then OnDisconnect once.
//  8. When Hub.Run has returned nil, the hub has no connections and no goroutines.
//     Calls that need a running hub return [ErrHubClosed] at once.
//  9. Config.MaxMessageSize limits the size of a message after decompression.
//  10. Handshakes from pages of other origins are refused unless
//     Config.AllowedOrigins or Config.CheckOrigin allows them.
//
// "Written" means that the operating system has accepted the bytes. The hub cannot
// know whether the client's application has read them.
//
// Several hubs can form a cluster (Config.Broker). Guarantees 2 and 3 are weaker
// between hubs: docs/scaling.md in the repository says how.
//
// The hub stores no history: a client that is not connected does not receive the
// message later.
//
// # Message types
//
// The hub uses these values of Message.Type. All other types belong to the
// application.
//
// Clients send control messages. The hub carries them out after Config.OnMessage has
// returned, as OnMessage left them, if Config.Authorize allows it:
//
//   - subscribe and unsubscribe name a channel in their data, {"channel":"news"}
//     with the JSON codec
//   - join_room and leave_room name a room in their data, {"room_id":"101"} with the
//     JSON codec
//   - publish and publish_room publish their data to Message.Channel, as a channel
//     or as a room
//   - broadcast publishes its data to all clients
//
// With Message.ExceptSelf a publication does not go to the client that requests it.
//
// Two more requests reach neither Config.OnMessage nor Config.Authorize. The hub
// replies with an ack if they have an ID, and ignores them otherwise:
//
//   - hub:hello asks for the client's ID and user and for the hub's limits
//   - hub:ping asks for nothing but the ack, for clients that cannot send WebSocket
//     pings
//
// The hub sends:
//
//   - message to the subscribers of a channel
//   - room_message to the members of a room
//   - broadcast to all clients
//   - ack as the reply to a control message that has an ID and succeeded, with the
//     same ID
//   - error as the reply to a control message that failed, with its ID, a code and a
//     text
//   - gap to a client that messages were dropped for, see [Gap]
//   - hub:goaway to a client that is to reconnect later, see [Hub.Drain]
//
// # Further reading
//
// The README of the repository compares this package with others and explains its
// security in plain words. docs/wire.md specifies the wire format, close codes and
// HTTP statuses for authors of clients. Package client is a client in Go that
// reconnects, and directory js has one for browsers.
package websocket

import "sync"

// Message is the envelope that every codec encodes. Calls that send or publish a
// Message copy it before they return, so the caller may change and reuse the Message
// and its Data afterwards.
//
// A Message passed to Config.OnMessage is valid until the callback returns. Use
// Clone to keep it for longer. The hub never reuses the bytes of its Data, so a Data
// slice may be kept without a copy. The callback may change the Message; Config.OnMessage
// says what that does.
//
// A Message must not be changed while another goroutine uses it.
type Message struct {
	// Type is the type of the message. The package documentation lists the types
	// that the hub uses. Every other type belongs to the application.
	Type string
	// Channel is the name of the channel, or the ID of the room in a room message.
	Channel string
	// Data is the payload. JSON clients receive it as raw JSON if it is valid JSON,
	// otherwise as a base64 string with "encoding":"base64".
	Data []byte
	// Timestamp is the time of the message in Unix nanoseconds. The hub sets it on
	// messages from clients, and on messages of the server if it is 0.
	Timestamp int64
	// ClientID is the ID of the client that sent the message. The hub sets it on
	// messages from clients. In messages of the server it is free for use.
	ClientID string
	// ID is chosen by a client that wants a reply to a control message. The reply
	// has the same ID. Those that begin with "hub:" belong to Client.SendRequest; other
	// methods that send or publish remove them.
	ID string
	// Offset is the place of a publication in the history of its channel or room, and 0
	// without a history. The hub sets it.
	Offset uint64
	// Key makes a publication unique in a topic with history: a second publication of
	// the same user (Client.User) with the same Key is not published, while the first is
	// kept. All clients without a user count as one user, so their keys should be
	// unguessable, such as 128 random bits. Publications of the server have keys of
	// their own. Key has no meaning in topics without history. It must be UTF-8.
	Key string
	// Room is true if the message is a publication of a room with a history. So it tells a
	// room from a channel of the same name, if Type is an application's own. It is false
	// without a history. The hub sets it.
	Room bool
	// ExceptSelf is set by a client in publish, publish_room and broadcast: the
	// publication goes to all recipients except the client itself, which still gets
	// its ack. The hub never sends it, and ignores it in messages of the server.
	ExceptSelf bool
	// Trace is the W3C trace context of the publisher: a traceparent header of 55
	// characters, or one, a space and a tracestate header of at most 256 characters. It is
	// empty without a trace. A message of a client or the server carries it to OnMessage, to
	// handlers and to the recipients on all nodes. The hub itself makes no use of it. It
	// removes a value of another form from messages of clients and of the server, and a
	// tracestate that is too long. Clients choose the values freely, so a program should link
	// to such a trace and not continue it. Package trace/otel fills and reads it.
	Trace string

	pooled *Message // m itself if m came from AcquireMessage and has not been released; in a copy of m another Message
}

var messagePool = sync.Pool{New: func() any { return new(Message) }}

// AcquireMessage returns an empty Message from a pool. Message.Release puts it back.
// Using the pool is optional: a Message may also be allocated as usual. It may be
// called from any goroutine.
func AcquireMessage() *Message {
	m := messagePool.Get().(*Message)
	m.pooled = m
	return m
}

// Release empties m and puts it back into the pool. The caller must not use m
// afterwards. The pool does not keep the Data slice. Release only empties a Message
// that did not come from AcquireMessage.
func (m *Message) Release() {
	pooled := m.pooled == m
	*m = Message{}
	if pooled {
		messagePool.Put(m)
	}
}

// Clone returns a copy of m with its own copy of Data. The copy is not pooled and may
// be kept.
func (m *Message) Clone() *Message {
	c := *m
	c.pooled = nil
	if m.Data != nil {
		c.Data = append(make([]byte, 0, len(m.Data)), m.Data...)
	}
	return &c
}
