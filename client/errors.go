package client

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Errors that callers branch on with errors.Is. Names that are not valid are
// websocket.ErrInvalidName, messages that are too large
// websocket.ErrMessageTooLarge.
var (
	// ErrClosed says that Close was called, or that the connection has ended and
	// is not made again; then it wraps why.
	ErrClosed = errors.New("websocket: client closed")
	// ErrOutcomeUnknown says that a message was sent, but that the answer did not
	// come before the connection was lost or the context ended: the hub may have
	// published it. It wraps which of the two.
	ErrOutcomeUnknown = errors.New("websocket: outcome unknown")
	// ErrReserved says that Send was given a message of a type that has a method
	// of its own.
	ErrReserved = errors.New("websocket: message type has a method of its own")
	// ErrNoToken is for a TokenSource to return, as it is or wrapped, when no
	// other token can be had. The client then ends instead of trying again.
	ErrNoToken = errors.New("websocket: no other token")
	// ErrMissed is reported to OnError when messages were lost and there is no
	// OnGap.
	ErrMissed = errors.New("websocket: messages missed")
	// ErrCodec says that the hub answered the handshake with another codec than
	// the one asked for.
	ErrCodec = errors.New("websocket: hub chose another codec")
)

// Codes in an Error.
const (
	CodeBadRequest  = "bad_request" // the hub cannot read the request, or the name is not valid
	CodeForbidden   = "forbidden"   // the hub's application refuses it
	CodeLimit       = "limit"       // a limit is reached
	CodeTooLarge    = "too_large"   // no client could be sent it
	CodeUnavailable = "unavailable" // the hub is closing
)

// unknownError is ErrOutcomeUnknown with its cause.
type unknownError struct{ cause error }

func (e *unknownError) Error() string { return fmt.Sprintf("%v: %v", ErrOutcomeUnknown, e.cause) }

func (e *unknownError) Unwrap() []error { return []error{ErrOutcomeUnknown, e.cause} }

// Error is the hub's answer to a request that it refused.
type Error struct {
	// Code is for programs: one of the Code constants, or a newer one.
	Code string
	// Message is for people.
	Message string
	// Target is the channel or room that was asked for. It is empty for broadcasts.
	Target string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("websocket: refused by hub: %s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("websocket: refused by hub: %s: %q: %s", e.Code, e.Target, e.Message)
}

// DialError says why a connection could not be made.
type DialError struct {
	// StatusCode is the HTTP status that answered the handshake, 0 if none did.
	StatusCode int
	// Body is the beginning of that answer, at most 1 KiB.
	Body string
	// RetryAfter is what the answer said about when to come back, or 0.
	RetryAfter time.Duration
	// Err is what went wrong.
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

// RestoreError is reported to OnError when the hub refused a subscription or
// room after a reconnect. The client does not have it any more.
type RestoreError struct {
	// Channel or RoomID is what was lost; the other is empty.
	Channel string
	RoomID  string
	// Err is the hub's answer.
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
	// Value is what was given to panic, nil if the callback ended its goroutine
	// with runtime.Goexit.
	Value any
	// Stack is the stack at that moment, as text.
	Stack []byte
}

// Error implements error.
func (e *PanicError) Error() string {
	return fmt.Sprintf("websocket: callback panicked: %v\n%s", e.Value, e.Stack)
}

// Reconnectable reports whether a connection that ended with this close code is
// made again. It is the one table of what close codes mean to a client:
//
//	1000 normal closure      no
//	1001 going away          yes
//	1002 protocol error      no
//	1003 wrong frame type    no
//	1005 no code             yes
//	1006 broken off          yes
//	1007 malformed message   no
//	1008 policy violation    no
//	1009 message too big     no
//	1011 internal error      yes
//	1012 service restart     yes
//	1013 try again later     yes
//	3000 unauthorized        no, but yes with a TokenSource, which is asked for another token
//	3003 forbidden           no
//	3008 timeout             yes
//	4409 replaced            no
//	others                   no
//
// It makes no difference which side has closed.
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
