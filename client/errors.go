package client

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Errors for use with errors.Is. Methods also return websocket.ErrInvalidName for
// invalid names and websocket.ErrMessageTooLarge for messages that are too large.
var (
	// ErrClosed means that the client has ended. It is returned after Close, and
	// after the connection ended without a retry; then it also wraps the cause.
	ErrClosed = errors.New("websocket: client closed")
	// ErrOutcomeUnknown means that a message was sent, but that the connection was
	// lost or the context ended before the hub replied. The hub may have published
	// the message. The error also wraps the cause.
	ErrOutcomeUnknown = errors.New("websocket: outcome unknown")
	// ErrReserved is returned by Send for message types that have their own method.
	ErrReserved = errors.New("websocket: message type is reserved for its own method")
	// ErrNoToken is returned by a TokenSource, possibly wrapped, when it cannot
	// supply another token. The client then ends instead of retrying.
	ErrNoToken = errors.New("websocket: no other token")
	// ErrMissed is reported to OnError when messages were lost and OnGap is not set.
	ErrMissed = errors.New("websocket: messages missed")
	// ErrCodec means that the hub chose a different codec in the handshake than
	// Options.Codec.
	ErrCodec = errors.New("websocket: hub chose a different codec")
)

// Values of Error.Code.
const (
	CodeBadRequest  = "bad_request" // the hub cannot read the request, or the name is invalid
	CodeForbidden   = "forbidden"   // the hub's application refused the request
	CodeInternal    = "internal"    // the hub's application failed; its log has the reason
	CodeLimit       = "limit"       // the request exceeds a limit of the hub, or too many wait
	CodeTooLarge    = "too_large"   // the message is too large to be sent to any client
	CodeUnavailable = "unavailable" // the hub is closing, or the engine that keeps the topic's history is away
	CodeUnsupported = "unsupported" // in an answer to the hub: there is no handler for the type
)

// unknownError is ErrOutcomeUnknown with its cause.
type unknownError struct{ cause error }

func (e *unknownError) Error() string { return fmt.Sprintf("%v: %v", ErrOutcomeUnknown, e.cause) }

func (e *unknownError) Unwrap() []error { return []error{ErrOutcomeUnknown, e.cause} }

// Error is the hub's reply to a request that it refused.
type Error struct {
	// Code is machine-readable: one of the Code constants, or a code that a newer
	// hub has added.
	Code string
	// Message is human-readable.
	Message string
	// Target is the channel or room of the request. It is empty for broadcasts.
	Target string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("websocket: refused by hub: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("websocket: refused by hub: %s: %q: %s", e.Code, e.Target, e.Message)
}

// DialError is the reason why a connection could not be established.
type DialError struct {
	// StatusCode is the HTTP status of the response to the handshake, 0 if there was
	// no response.
	StatusCode int
	// Body is the beginning of the response's body, at most 1 KiB.
	Body string
	// RetryAfter is the delay that the response's Retry-After header asks for, or 0.
	RetryAfter time.Duration
	// Err is the underlying error.
	Err error
}

// Error implements error.
func (e *DialError) Error() string {
	if e.StatusCode == 0 {
		return fmt.Sprintf("websocket: cannot connect: %v", e.Err)
	}
	return fmt.Sprintf("websocket: cannot connect: %d %s: %q", e.StatusCode, http.StatusText(e.StatusCode), e.Body)
}

// Unwrap returns Err.
func (e *DialError) Unwrap() error { return e.Err }

// RestoreError is reported to OnError when the hub refuses to restore a
// subscription or room after a reconnect. The client is then no longer in it.
type RestoreError struct {
	// Channel or RoomID names the lost channel or room; the other is empty.
	Channel string
	RoomID  string
	// Err is the hub's reply.
	Err *Error
}

// Error implements error.
func (e *RestoreError) Error() string {
	if e.RoomID != "" {
		return fmt.Sprintf("websocket: room %q not restored: %v", e.RoomID, e.Err)
	}
	return fmt.Sprintf("websocket: channel %q not restored: %v", e.Channel, e.Err)
}

// Unwrap returns Err.
func (e *RestoreError) Unwrap() error { return e.Err }

// PanicError is reported to OnError when a handler or callback panicked.
type PanicError struct {
	// Value is the argument of panic, or nil if the callback called runtime.Goexit.
	Value any
	// Stack is the stack trace of the panic, in the format of debug.Stack.
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string {
	return fmt.Sprintf("websocket: callback panicked: %v\n%s", e.Value, e.Stack)
}

// Reconnectable reports whether the client reconnects by default after a
// connection ended with this close code. Options.Reconnect overrides it:
//
//	1000 normal closure      no
//	1001 going away          yes
//	1002 protocol error      no
//	1003 unsupported data    no
//	1005 no code             yes
//	1006 abnormal closure    yes
//	1007 invalid payload     no
//	1008 policy violation    no
//	1009 message too big     no
//	1011 internal error      yes
//	1012 service restart     yes
//	1013 try again later     yes
//	3000 unauthorized        no; with a TokenSource the client gets a new token and reconnects
//	3003 forbidden           no
//	3008 timeout             yes
//	4409 replaced            no
//	others                   no
//
// The result is the same whether the hub or the client closed the connection.
func Reconnectable(code int) bool {
	switch code {
	case websocket.CloseGoingAway,
		websocket.CloseNoStatusReceived,
		websocket.CloseAbnormalClosure,
		websocket.CloseInternalError,
		websocket.CloseServiceRestart,
		websocket.CloseTryAgainLater,
		websocket.CloseTimeout:
		return true
	default:
		return false
	}
}
