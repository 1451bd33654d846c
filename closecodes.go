package websocket

import (
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
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
	event, reason := "closed by this side", e.Reason
	switch {
	case e.Code == CloseAbnormalClosure: // neither side began to close
		event = "connection ended without a Close frame"
	case e.ByPeer:
		event = "closed by peer"
	}
	if reason == "" && e.Code == CloseNoStatusReceived {
		reason = "without a code"
	}
	text := fmt.Sprintf("websocket: %s: %d", event, e.Code)
	if reason != "" {
		text += " " + reason
	}
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

func closeCode(code int) (int, error) {
	if code == 0 {
		code = CloseNormalClosure
	}
	if !wsproto.SendableCode(code) {
		return 0, fmt.Errorf("%w: %d", ErrInvalidCloseCode, code)
	}
	return code, nil
}
