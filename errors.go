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
	// ErrClientClosed means that the client's connection has ended. A Client is never
	// reused, so later calls return the same error.
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
	// ErrBrokerUnavailable means that a message was accepted for the recipients on
	// this node but cannot reach those on other nodes, because the broker is down or
	// stalled or its queue is full.
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

// Close codes for Client.Close and in CloseError.Code (RFC 6455 section 7.4.1 and the
// IANA registry; 4409 is defined by this package). Each comment gives the reason and
// whether the client should reconnect.
const (
	CloseNormalClosure      = 1000 // the connection is no longer needed: do not reconnect
	CloseGoingAway          = 1001 // the hub is shutting down: reconnect
	CloseProtocolError      = 1002 // the client violated RFC 6455: do not reconnect
	CloseUnsupportedData    = 1003 // text frames instead of binary ones, or the reverse: do not reconnect
	CloseNoStatusReceived   = 1005 // never sent: the peer's Close frame had no code
	CloseAbnormalClosure    = 1006 // never sent: the connection ended without a Close frame: reconnect
	CloseInvalidPayloadData = 1007 // a message could not be decoded: do not reconnect
	ClosePolicyViolation    = 1008 // for example a message that does not open: do not reconnect
	CloseMessageTooBig      = 1009 // a message was too large: do not reconnect
	CloseInternalError      = 1011 // a callback panicked: reconnect with backoff
	CloseServiceRestart     = 1012 // the server restarts: reconnect
	CloseTryAgainLater      = 1013 // the client was too slow: reconnect with backoff
	CloseUnauthorized       = 3000 // credentials have expired: authenticate, then reconnect
	CloseForbidden          = 3003 // the client may not connect: do not reconnect
	CloseTimeout            = 3008 // the client sent nothing for too long: reconnect
	CloseReplaced           = 4409 // the same ID connected again: do not reconnect
)

// CloseError says how a connection ended. Client.CloseError returns it.
type CloseError struct {
	// Code is the close code of the side that began to close, also if its Close frame
	// could not be written (see Err). It is CloseAbnormalClosure if the connection ended
	// before either side began to close.
	Code int
	// Reason is the reason in the Close frame, or the text of Err if Code is
	// CloseAbnormalClosure.
	Reason string
	// ByPeer is true if the peer began to close.
	ByPeer bool
	// Err is the error that ended the connection before it had accepted the hub's whole
	// Close frame, for example because it accepted no bytes for Config.WriteWait. If Err
	// is nil the connection has accepted the frame; the peer may not have received it.
	Err error
}

// Error implements error.
func (e *CloseError) Error() string {
	by := "hub"
	if e.ByPeer {
		by = "peer"
	}
	text := fmt.Sprintf("websocket: closed by %s: %d %s", by, e.Code, e.Reason)
	switch {
	case e.Err == nil || e.Code == CloseAbnormalClosure: // Reason is the text of Err
		return text
	case e.ByPeer:
		return text + "; not answered: " + e.Err.Error()
	default:
		return text + "; without a Close frame: " + e.Err.Error()
	}
}

// Unwrap returns Err.
func (e *CloseError) Unwrap() error { return e.Err }

// CloseStatus returns the close code of the *CloseError in err's tree, or -1 if there
// is none. Pass it the result of Client.CloseError.
func CloseStatus(err error) int {
	var e *CloseError
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

// RequestError is an error of Config.Authorize that refuses a control message with a
// chosen code and text. The client gets both in a message of type "error".
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
