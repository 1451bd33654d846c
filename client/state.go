package client

import (
	"fmt"
	"time"
)

// State is what a client's connection is doing.
type State uint8

const (
	// Connecting means that a handshake is under way, or that channels and rooms
	// are being restored.
	Connecting State = iota
	// Connected means that the hub's onConnect has returned, that what is sent to
	// all clients reaches this one too, and that channels and rooms are restored.
	// Messages of what was restored first may come before it is told.
	Connected
	// Disconnected means that the connection has ended or could not be made.
	Disconnected
	// Closed means that the client has ended for good. It is told last.
	Closed
)

// String implements fmt.Stringer.
func (s State) String() string {
	switch s {
	case Connecting:
		return "connecting"
	case Connected:
		return "connected"
	case Disconnected:
		return "disconnected"
	case Closed:
		return "closed"
	default:
		return fmt.Sprintf("State(%d)", uint8(s))
	}
}

// StateChange is what OnState is told.
type StateChange struct {
	// State is the new state.
	State State
	// Err says why, for Disconnected and Closed: a *websocket.CloseError for a
	// connection that ended, a *DialError or an error of the TokenSource for one
	// that could not be made. It is nil where Close was called.
	Err error
	// WillRetry says, for Disconnected, that another attempt follows.
	WillRetry bool
	// RetryIn is when it follows.
	RetryIn time.Duration
	// MissedSince is, for Connected after a reconnect, the hub's time of the last
	// thing that came on the connection before, or this computer's time of that
	// connection's beginning if nothing came. Messages to this client alone and
	// broadcasts from then on may be missing; what channels and rooms may have
	// missed is told to OnGap. It is zero for the first connection.
	MissedSince time.Time
}
