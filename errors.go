package websocket

import (
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Errors that callers branch on with errors.Is. Errors that carry data are the
// structs further down, for errors.As.
var (
	// ErrHubClosed says that the hub is shutting down or has shut down.
	ErrHubClosed = errors.New("websocket: hub closed")
	// ErrHubRunning says that Run was called a second time.
	ErrHubRunning = errors.New("websocket: hub is running already")
	// ErrHubNotRunning says that a call would have to wait for a hub whose Run
	// has not been called yet.
	ErrHubNotRunning = errors.New("websocket: hub is not running")
	// ErrClientNotFound says that no client with that ID is connected.
	ErrClientNotFound = errors.New("websocket: client not found")
	// ErrClientClosed says that the client has disconnected, or that its
	// connection is being closed. It stays so for ever: a Client is never reused.
	ErrClientClosed = errors.New("websocket: client closed")
	// ErrMessageTooLarge says that a message is larger than Config.ClientBacklog
	// or Config.LogSize, so that it could never be delivered.
	ErrMessageTooLarge = errors.New("websocket: message too large")
	// ErrInvalidName says that a channel name or room ID is empty, too long, not
	// UTF-8, or has a control character.
	ErrInvalidName = errors.New("websocket: invalid channel name or room ID")
	// ErrTooManySubscriptions says that a client is in Config.MaxSubscriptions
	// channels and rooms already.
	ErrTooManySubscriptions = errors.New("websocket: too many subscriptions")
	// ErrBrokerUnavailable says that a publication was accepted for this node's
	// members but cannot reach those of other nodes, because the engine of
	// Config.Broker is away or takes nothing.
	ErrBrokerUnavailable = errors.New("websocket: broker unavailable")
	// ErrForbidden is the refusal of AllowSubscribe and AllowMembers. An Authorize
	// hook that wraps it refuses with a text of its own.
	ErrForbidden = errors.New("websocket: not allowed")
	// ErrNilMessage says that a nil Message was to be published.
	ErrNilMessage = errors.New("websocket: nil message")
	// ErrInvalidKey says that an AES key is not 32 bytes or an HMAC key is empty.
	ErrInvalidKey = seal.ErrInvalidKey
	// ErrDecrypt says that bytes are too short, were made with another key or
	// were altered.
	ErrDecrypt = seal.ErrDecrypt
	// ErrSignature says that bytes are too short for a signature or that the
	// signature does not match.
	ErrSignature = seal.ErrSignature
	// ErrMalformed says that bytes are not an envelope of the codec that was
	// asked to decode them. Decoders wrap it with what is wrong and where.
	ErrMalformed = errors.New("websocket: malformed message")
	// ErrInvalidCloseCode says that a close code may not be sent (RFC 6455
	// section 7.4).
	ErrInvalidCloseCode = errors.New("websocket: close code may not be sent")
)

// Close codes that the hub sends or receives (RFC 6455 section 7.4.1 and the
// IANA registry; 4409 is this package's own). The comment says what a client
// should do.
const (
	CloseNormalClosure      = 1000 // done: do not reconnect
	CloseGoingAway          = 1001 // the hub is shutting down: reconnect
	CloseProtocolError      = 1002 // the client broke RFC 6455: do not reconnect
	CloseUnsupportedData    = 1003 // text where binary was agreed, or the reverse: do not reconnect
	CloseNoStatusReceived   = 1005 // never sent: the peer gave no code
	CloseAbnormalClosure    = 1006 // never sent: the connection broke off: reconnect
	CloseInvalidPayloadData = 1007 // a message could not be decoded: do not reconnect
	ClosePolicyViolation    = 1008 // for example a message that does not open: do not reconnect
	CloseMessageTooBig      = 1009 // do not reconnect
	CloseInternalError      = 1011 // a callback failed: reconnect with backoff
	CloseServiceRestart     = 1012 // reconnect
	CloseTryAgainLater      = 1013 // the client was too slow: reconnect with backoff
	CloseUnauthorized       = 3000 // credentials have expired: authenticate, then reconnect
	CloseForbidden          = 3003 // do not reconnect
	CloseTimeout            = 3008 // no sign of life: reconnect
	CloseReplaced           = 4409 // the same ID connected again: do not reconnect
)

// CloseError says how a connection ended.
type CloseError struct {
	// Code is the close code, CloseAbnormalClosure if the connection broke off
	// without one. Of a hub that began closing it says why, also if the Close frame
	// could not be written.
	Code int
	// Reason is the text that came with the code, or what broke the connection.
	Reason string
	// ByPeer says that the peer began closing.
	ByPeer bool
	// Err is what broke the connection before the hub's Close frame was known to be
	// written whole, for example that the peer took nothing for Config.WriteWait. If
	// it is nil the connection has taken the frame; a peer may still be gone before
	// it arrives.
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
	case e.Err == nil || e.Code == CloseAbnormalClosure: // whose reason it is already
		return text
	case e.ByPeer:
		return text + "; not answered: " + e.Err.Error()
	default:
		return text + "; without a Close frame: " + e.Err.Error()
	}
}

// Unwrap returns Err.
func (e *CloseError) Unwrap() error { return e.Err }

// CloseStatus returns the close code of the *CloseError in err, or -1 if there is
// none.
func CloseStatus(err error) int {
	var e *CloseError
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

// RequestError is an error whose code and text are meant for the client that sent a
// request. Config.Authorize returns it to choose both.
type RequestError struct {
	// Code is for programs, for example "not_a_member". Empty means "forbidden".
	Code string
	// Message is for people.
	Message string
}

// Error implements error.
func (e *RequestError) Error() string { return "websocket: " + e.Code + ": " + e.Message }

// CallbackTimeoutError is what Run returns when callbacks did not end within
// Config.CallbackTimeout of shutdown.
type CallbackTimeoutError struct {
	// Callbacks names each callback that was still running and its client.
	Callbacks []string
}

// Error implements error.
func (e *CallbackTimeoutError) Error() string {
	return fmt.Sprintf("websocket: %d callbacks still running after shutdown: %q", len(e.Callbacks), e.Callbacks)
}
