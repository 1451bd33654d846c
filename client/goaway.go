package client

import (
	"encoding/json"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// helloData is the data of hub:hello: the client understands hub:goaway.
var helloData = []byte(`{"features":["goaway"]}`)

// goaway makes the connection end after the delay that the hub, which drains, has chosen
// for this client. A later one replaces it. Data that cannot be read has no effect.
func (cn *conn) goaway(data []byte) {
	var told struct {
		Delay int64 `json:"delay"` // milliseconds
	}
	if json.Unmarshal(data, &told) != nil {
		return
	}
	delay := time.Duration(min(max(told.Delay, 0), maxDelay.Milliseconds())) * time.Millisecond
	cn.mu.Lock()
	defer cn.mu.Unlock()
	switch {
	case cn.leaving:
	case cn.leaveTimer != nil:
		cn.leaveTimer.Reset(delay)
	default:
		cn.leaveTimer = time.AfterFunc(delay, cn.leave) // stopped by wait
	}
}

// leaveTimeout is the maximum time that leave waits for replies.
const leaveTimeout = time.Second

// leave closes an open connection behind the reply to its last request. Later requests
// wait for the next connection, so that no call fails because the client moves.
func (cn *conn) leave() {
	cause := &websocket.CloseError{Code: websocket.CloseGoingAway, Reason: "the hub is draining"}
	cn.mu.Lock()
	if cn.leaving = cn.state == connOpen; cn.leaving {
		cn.leaveTimer = time.AfterFunc(leaveTimeout, func() { cn.closeNow(cause) }) // stopped by wait
	}
	cn.mu.Unlock()
	cn.close(cause, leaveTimeout+lingerTimeout)
}

// moved reports whether leave has ended the connection.
func (cn *conn) moved() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.leaving
}
