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
