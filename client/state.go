package client

import (
	"fmt"
	"time"
)

// State is the state of a Client:
//
//	    ┌─────────── retry ───────────┐
//	    ▼                             │
//	Connecting ──▶ Connected ──▶ Disconnected ──▶ Closed
//	    │                             ▲
//	    └────── attempt failed ───────┘
//
// Close leads from every state to Closed.
type State uint8

const (
	// Connecting means that the client is performing a handshake or restoring its
	// channels and rooms.
	Connecting State = iota
	// Connected means that the hub's onConnect has returned, broadcasts reach this
	// client, and its channels and rooms are restored. Messages of a channel or room
	// that was restored early may be handled before OnState reports Connected.
	Connected
	// Disconnected means that the connection has ended or could not be established.
	Disconnected
	// Closed means that the client has ended permanently. It is the last state that
	// OnState reports.
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

// StateChange is the argument of Options.OnState.
type StateChange struct {
	// State is the new state.
	State State
	// Err is the cause of Disconnected and Closed: a *websocket.CloseError if a
	// connection ended, a *DialError or an error of the TokenSource if none could be
	// established. It is nil after Close and in the other states.
	Err error
	// WillRetry reports, for Disconnected, whether another attempt follows.
	WillRetry bool
	// RetryIn is the delay before that attempt.
	RetryIn time.Duration
	// MissedSince is set for Connected after a reconnect: messages to this client
	// alone and broadcasts from this time on may be missing. It is the Timestamp, by
	// the hub's clock, of the last message that the previous connections received,
	// or this computer's time when the first of them began if they received none.
	// OnGap reports the messages of channels and rooms that may be missing.
	// MissedSince is zero for the first connection.
	MissedSince time.Time
}
