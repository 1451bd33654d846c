package websocket

import (
	"errors"
	"slices"
	"time"
)

// notes are state that few connections have, behind a pointer to keep Client small: what
// Hub.Inspect tells about pings, losses and limits, and a pong that waits. The connection's
// lock guards them.
type notes struct {
	queuedPong []byte // the latest pong frame that is not written yet

	pingAt    int64 // hub clock of a ping that has no pong yet, or 0
	roundTrip time.Duration
	smoothed  time.Duration
	faults    *faults // nil before the first
}

// faults are the losses of a client and the limits that it has reached.
type faults struct {
	losses []LossInfo // the latest maxNotedLosses, oldest first
	limits LimitInfo
}

const maxNotedLosses = 5

// note returns c's notes. The caller holds mu.
func (c *conn) note() *notes {
	if c.notes == nil {
		c.notes = new(notes)
	}
	return c.notes
}

// hasPong reports whether a pong waits to be written. The caller holds mu.
func (c *conn) hasPong() bool { return c.notes != nil && c.notes.queuedPong != nil }

// noteFault returns c's faults. The caller holds mu.
func (c *conn) noteFault() *faults {
	n := c.note()
	if n.faults == nil {
		n.faults = new(faults)
	}
	return n.faults
}

// notePing begins to measure a round trip. A ping that follows before the pong does not
// count: its pong could not be told from that of the first. The caller holds mu.
func (c *conn) notePing(now int64) {
	if n := c.note(); n.pingAt == 0 {
		n.pingAt = now
	}
}

// notePong ends the measurement. A pong with a payload answers no ping of the hub. The
// average is that of TCP (RFC 6298 section 2).
func (c *conn) notePong(payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.notes
	if payload != "" || n == nil || n.pingAt == 0 {
		return
	}
	n.roundTrip = time.Duration(c.client.hub.clock() - n.pingAt)
	n.pingAt = 0
	if n.smoothed == 0 {
		n.smoothed = n.roundTrip
	}
	n.smoothed += (n.roundTrip - n.smoothed) / 8
}

// noteDrop notes a drop, unless it comes from the end of the connection. The caller holds mu.
func (c *conn) noteDrop(p *publication, reason dropReason) {
	if reason != dropDisconnected {
		lost := newLoss(lossTopicOf(p), p, reason)
		c.noteLoss(lost.gap())
	}
}

// noteLoss notes messages that the client does not get. The caller holds mu.
func (c *conn) noteLoss(g Gap) {
	f, now := c.noteFault(), time.Now()
	if last := len(f.losses) - 1; last >= 0 && f.losses[last].continues(g) {
		f.losses[last].Count += g.Count
		f.losses[last].At = now
		return
	}
	if len(f.losses) == maxNotedLosses {
		f.losses = slices.Delete(f.losses, 0, 1)
	}
	f.losses = append(f.losses, LossInfo{Channel: g.Channel, RoomID: g.RoomID, Count: g.Count, Reason: g.Reason, At: now})
}

// continues reports whether g is more of the same loss.
func (l *LossInfo) continues(g Gap) bool {
	return l.Channel == g.Channel && l.RoomID == g.RoomID && l.Reason == g.Reason
}

// noteDelay notes that the hub does not read from the client for some time.
func (c *conn) noteDelay(pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	limits := &c.noteFault().limits
	limits.RateDelay += pause
	limits.RateDelayedAt = time.Now()
}

// noteRefused notes that a limit of the client is the reason for err.
func (c *Client) noteRefused(err error) {
	tooManyTopics, tooManyRequests := errors.Is(err, ErrTooManySubscriptions), errors.Is(err, ErrTooManyRequests)
	if !tooManyTopics && !tooManyRequests {
		return
	}
	c.conn.mu.Lock()
	defer c.conn.mu.Unlock()
	if limits := &c.conn.noteFault().limits; tooManyTopics {
		limits.RefusedJoins++
	} else {
		limits.RefusedRequests++
	}
}
