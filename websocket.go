// Package websocket is a hub for real-time traffic over WebSocket (RFC 6455). A
// Hub holds clients, channels (publish/subscribe) and rooms. Each client picks
// JSON, Protobuf, FlatBuffers or MessagePack in the handshake; one publication
// reaches all of them, and each encoding is done at most once. Messages can be
// encrypted (AES-256-GCM) and signed (HMAC-SHA256), with keys for the hub or for
// each client.
//
//	hub := websocket.NewHub(nil, websocket.DefaultConfig)
//	hub.SetCallbacks(onConnect, onDisconnect, onMessage)
//	go hub.Run(ctx)
//	http.Handle("/ws", hub.Handler())
//
// # Guarantees
//
// Each is followed by the tests that prove it.
//
//  1. No input, no churn and no panic in a callback ends the process.
//     FuzzInboundPath, TestChurn, TestPanicInCallbacks.
//  2. Each client receives a subsequence of one log of all messages, in the log's
//     order, whatever its codec. Subscribe followed by PublishToChannel delivers;
//     nobody gets a message from before joining; a reply published after its
//     cause was received follows that cause everywhere. There is no simultaneity
//     between clients. TestNothingIsLostSilently.
//  3. Nothing is lost silently: for each client, what was delivered, what was
//     announced as lost by a message of type "gap", and what was counted when its
//     connection ended add up to what was published for it.
//     TestNothingIsLostSilently, TestDropsAreAnnouncedInPlace.
//  4. A slow reader costs others nothing, and the hub a bounded number of bytes; a
//     large channel holds up a small room for some hundred writes, and nobody is
//     taken for slow whose turn has only come late; code of the application's
//     that computes for long is preempted as ever. TestEvictionSaysWhy,
//     TestStalledReaderIsCutAfterWriteWait, TestFairness,
//     TestFloodReachesAllInParts, TestUserCodeIsPreempted.
//  5. With keys set no path sends plaintext, and a bad key is an error.
//     TestMatrix, TestKeysSetInOnConnectHoldForTheFirstFrame.
//  6. A message never reaches anyone but its addressees: a Client is never reused,
//     and no two connections share an ID. TestMatrix, TestChurn.
//  7. Callbacks run in order: onConnect, each onMessage, onDisconnect; the first
//     and the last exactly once. TestChurn.
//  8. After Run returns there is no goroutine and no connection of the hub's, and
//     every call answers ErrHubClosed at once. TestShutdownDeliversWhatWasQueued,
//     TestShutdownCutsThoseWhoDoNotRead.
//  9. The size of a message after inflating is bounded by Config.MaxMessageSize.
//     TestMaxMessageSize.
//  10. Browsers on other origins are refused unless Config.AllowedOrigins or
//     CheckOrigin lets them in. TestAllowedOrigins.
//
// # Shape
//
// The hub's state is changed by one ordered log, which a few hub goroutines
// (Config.Shards) walk, each with its own share of the clients; while one sleeps,
// a client's reader may walk what its client has asked for; a writePump
// exists only while a client's connection does not take what is written at once,
// or is not plain TCP. This differs from HypGo, where one goroutine does it all
// and every client has a writePump, and cannot be seen from outside except as
// speed.
//
// # Messages of the hub's own
//
// Clients send control messages of type subscribe, unsubscribe, join_room,
// leave_room, publish, publish_room and broadcast. One with an ID is answered by
// a message of type ack or error with the same ID. Subscribers receive messages
// of type message, room members room_message, everybody broadcast, and those who
// lost something gap. All other types are the application's.
package websocket

import "sync"

// Message is the envelope that every codec carries. The hub copies what it
// needs before a publishing call returns, so callers may change and reuse a
// Message and its Data afterwards.
//
// A Message given to onMessage is valid until the callback returns; Clone keeps
// one for longer. Its Data bytes are never reused by the hub, so a kept Data
// slice stays intact.
type Message struct {
	// Type says what the message is. The hub's own types are described in the
	// package documentation; every other type belongs to the application.
	Type string
	// Channel is the channel's name, or the room's ID in a room message.
	Channel string
	// Data is the payload. JSON clients see it as raw JSON where it is valid
	// JSON, and as a base64 string with "encoding":"base64" where it is not.
	Data []byte
	// Timestamp is in Unix nanoseconds. The hub stamps what clients send, and
	// what the server publishes where it is 0.
	Timestamp int64
	// ClientID names the sender. The hub stamps it on what clients send.
	ClientID string
	// ID is chosen by a client that wants an answer to a control message; the
	// answer carries the same ID.
	ID string

	pooled bool // came from AcquireMessage and has not been released
}

var messagePool = sync.Pool{New: func() any { return new(Message) }}

// AcquireMessage returns an empty Message from a pool. Release gives it back.
func AcquireMessage() *Message {
	m := messagePool.Get().(*Message)
	m.pooled = true
	return m
}

// Release empties m and gives it back to the pool. The caller must not use m
// afterwards. Its Data slice is let go of, never reused. Releasing a Message
// twice, or one that did not come from AcquireMessage, only empties it.
func (m *Message) Release() {
	pooled := m.pooled
	*m = Message{}
	if pooled {
		messagePool.Put(m)
	}
}

// Clone returns a copy that shares nothing with m and lives as long as it is
// referenced.
func (m *Message) Clone() *Message {
	c := *m
	c.pooled = false
	if m.Data != nil {
		c.Data = append(make([]byte, 0, len(m.Data)), m.Data...)
	}
	return &c
}
