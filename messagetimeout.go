package websocket

import (
	"math"
	"sync/atomic"
	"time"
)

// messageTimeout closes a connection whose message takes longer than
// Config.MessageTimeout allows. A connection gets one with its first message that has to
// wait for the socket, and keeps it.
//
// The timer is not stopped at the end of the message: it fires at most once for each
// MessageTimeout, and most messages cost no operation of a timer.
type messageTimeout struct {
	conn  *conn
	due   int64        // hub clock; 0 between messages; owned by the readPump
	limit atomic.Int64 // due, for the timer; 0 while no message waits for the socket
	armed atomic.Bool  // the timer runs
	timer *time.Timer
}

// messageByteTime is how much later a message is due for each byte of it.
const messageByteTime = int64(time.Second) / 1024

// waitToRead is waitForRate, but the time that it waits does not count for the message
// that is being read.
func (c *conn) waitToRead() error {
	limit := int64(c.client.hub.config.MessageTimeout)
	if !c.in.inMessage || limit < 0 {
		return c.waitForRate()
	}
	t := c.in.timeout
	if t == nil {
		t = &messageTimeout{conn: c}
		t.timer = time.AfterFunc(math.MaxInt64, t.fire) // stopped by endTimeout
		c.in.timeout = t
	}
	if t.due == 0 {
		t.due = c.lastRead.Load() + limit
	}
	t.limit.Store(math.MaxInt64)
	before := c.client.hub.clock()
	err := c.waitForRate()
	now := c.client.hub.clock()
	t.due += now - before
	t.limit.Store(t.due)
	if t.armed.CompareAndSwap(false, true) {
		t.timer.Reset(time.Duration(max(t.due-now, 0)))
	}
	return err
}

// arrived extends the time of a message for n bytes.
func (in *inbound) arrived(n int) {
	if in.inMessage && in.timeout != nil {
		in.timeout.due += int64(n) * messageByteTime
	}
}

// endMessage ends the time of a message.
func (in *inbound) endMessage() {
	in.inMessage = false
	if t := in.timeout; t != nil && t.due != 0 {
		t.due = 0
		t.limit.Store(0)
	}
}

// endTimeout stops the timer when the reader is not used any more.
func (in *inbound) endTimeout() {
	if in.timeout != nil {
		in.timeout.timer.Stop()
		in.timeout = nil
	}
}

// fire is called by the timer. It closes the connection if the message is due, and sets the
// timer anew if it is due later.
func (t *messageTimeout) fire() {
	c := t.conn
	t.armed.Store(false)
	limit := t.limit.Load()
	if limit == 0 {
		return
	}
	timeout := c.client.hub.config.MessageTimeout
	left := time.Duration(limit - c.client.hub.clock())
	if left <= 0 {
		c.closeNow(ClosePolicyViolation, "message takes longer than "+timeout.String()+" and a second for each KiB")
		return
	}
	if t.armed.CompareAndSwap(false, true) {
		t.timer.Reset(min(left, timeout))
	}
}
