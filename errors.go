package websocket

import (
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Errors to be tested with errors.Is. The types CloseError, RequestError,
// MessageTooLargeError, CallbackTimeoutError and UnansweredError have more data, for
// errors.As.
var (
	// ErrHubClosed means that the hub is shutting down or has shut down.
	ErrHubClosed = errors.New("websocket: hub closed")
	// ErrHubRunning means that Run was called a second time.
	ErrHubRunning = errors.New("websocket: hub is already running")
	// ErrHubNotRunning means that a call would have to wait for the hub, but Run has
	// not been called.
	ErrHubNotRunning = errors.New("websocket: hub is not running")
	// ErrClientNotFound means that no client with the ID is connected.
	ErrClientNotFound = errors.New("websocket: client not found")
	// ErrClientClosed means that the client's connection has ended or is ending. A Client
	// is never reused, so later calls return the same error.
	ErrClientClosed = errors.New("websocket: client closed")
	// ErrMessageTooLarge means that a message is larger than Config.ClientBacklog,
	// Config.LogSize or the broker's limit, and so could never be delivered. The error
	// is a *MessageTooLargeError, which names the limit.
	ErrMessageTooLarge = errors.New("websocket: message too large")
	// ErrInvalidName means that a channel name or room ID is empty, longer than
	// Config.MaxNameLength, not valid UTF-8, or contains a control character.
	ErrInvalidName = errors.New("websocket: invalid channel name or room ID")
	// ErrTooManySubscriptions means that the client is already in
	// Config.MaxSubscriptions channels and rooms.
	ErrTooManySubscriptions = errors.New("websocket: too many subscriptions")
	// ErrTooManyRequests means that Config.MaxRequests requests to the client wait for
	// its answer.
	ErrTooManyRequests = errors.New("websocket: too many requests to the client wait")
	// ErrBrokerUnavailable means that a message was accepted for the recipients on
	// this node but cannot reach those on other nodes, because the broker is down or
	// stalled or its queue is full. In a topic with history it means that the message was
	// not published, as far as is known.
	ErrBrokerUnavailable = errors.New("websocket: broker unavailable")
	// ErrForbidden is the error of AllowSubscribe and AllowMembers. An error of
	// Config.Authorize that wraps it is a refusal whose text the client gets.
	ErrForbidden = errors.New("websocket: not allowed")
	// ErrNilMessage means that the message to send or publish is nil.
	ErrNilMessage = errors.New("websocket: nil message")
	// ErrInvalidKey means that an AES key is not 32 bytes long or an HMAC key is empty.
	ErrInvalidKey = seal.ErrInvalidKey
	// ErrDecrypt means that encrypted bytes are too short, were encrypted with another
	// key or were altered.
	ErrDecrypt = seal.ErrDecrypt
	// ErrSignature means that signed bytes are too short or that the signature does not
	// match.
	ErrSignature = seal.ErrSignature
	// ErrMalformed means that bytes could not be decoded as a message. Codecs wrap it
	// with the reason and the position.
	ErrMalformed = errors.New("websocket: malformed message")
	// ErrInvalidCloseCode means that a close code may not be sent (RFC 6455 section
	// 7.4).
	ErrInvalidCloseCode = errors.New("websocket: close code may not be sent")
)

// RequestError is an error of Config.Authorize or a RequestHandler that refuses a message
// with a chosen code and text. The client gets both in a message of type "error".
// Client.SendRequest returns one if the client refuses a request.
type RequestError struct {
	// Code is for programs, for example "not_a_member". Defaults to "forbidden".
	Code string
	// Message is a text for people.
	Message string
}

// Error implements error.
func (e *RequestError) Error() string {
	if e.Code == "" {
		return "websocket: " + e.Message
	}
	return "websocket: " + e.Code + ": " + e.Message
}

// MessageTooLargeError says how large a message is and which limit it exceeds. It wraps
// ErrMessageTooLarge.
type MessageTooLargeError struct {
	// Size is the size of the message in bytes, as the limit counts it. The limits of
	// Config count the length of a message's strings and Data, and 128 bytes.
	Size int64
	// Limit is the largest size that is allowed.
	Limit int64
	// LimitedBy names the limit: "Config.ClientBacklog", "Config.LogSize",
	// "Broker.MaxPayload", the name of a codec, or "Options.MaxSendSize" in package
	// client.
	LimitedBy string
}

// Error implements error.
func (e *MessageTooLargeError) Error() string {
	return fmt.Sprintf("%v: %d bytes, but %s allows %d", ErrMessageTooLarge, e.Size, e.LimitedBy, e.Limit)
}

// Unwrap returns ErrMessageTooLarge.
func (e *MessageTooLargeError) Unwrap() error { return ErrMessageTooLarge }

// CallbackTimeoutError is the error of Run if callbacks were still running after
// Config.CallbackTimeout.
type CallbackTimeoutError struct {
	// Callbacks describes each callback that was still running, with its client.
	Callbacks []string
}

// Error implements error.
func (e *CallbackTimeoutError) Error() string {
	return fmt.Sprintf("websocket: %d callbacks still running after shutdown: %q", len(e.Callbacks), e.Callbacks)
}
