package websocket

import (
	"errors"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// inbound checks the frames of one client before gorilla sees them, and paces the
// client. The readPump owns it.
type inbound struct {
	checker   wsproto.Checker
	violation *wsproto.Violation

	messages     rateLimit
	bytes        rateLimit
	limitedSince int64 // hub clock when pacing began to delay, or 0 after a break
	lastLimited  int64 // hub clock when it did last

	pinged bool
	pong   string // payload of the latest ping, if pinged, answered before a message is handled or more is read
}

// begin sets the limits for a connection of which nothing has been read.
func (in *inbound) begin(config *Config, deflate bool) {
	in.checker = wsproto.NewChecker(deflate, wsproto.WireLimit(config.MaxMessageSize))
	in.messages = newRateLimit(config.MessageRate)
	in.bytes = newRateLimit(config.ByteRate)
}

var errProtocol = errors.New("websocket: protocol error")

// check checks the frames in b, counts them against the message rate and returns how
// many bytes of b may be passed on. What comes before a violation is passed on first.
func (in *inbound) check(b []byte) int {
	n, frames, violation := in.checker.Check(b)
	in.messages.spend(frames)
	in.violation = violation
	return n
}

// pace is a token bucket in the form of a clock that runs ahead: spending moves
// it on, and whoever is ahead of real time by more than the burst has to wait
// (the generic cell rate algorithm, ITU-T I.371).
type rateLimit struct {
	each  float64 // nanoseconds that one unit costs; 0 means no limit
	ahead float64 // the clock
}

// newPace allows rate units a second, and those of paceBurst at once.
func newRateLimit(rate int64) rateLimit {
	if rate <= 0 {
		return rateLimit{}
	}
	return rateLimit{each: float64(time.Second) / float64(rate)}
}

func (p *rateLimit) spend(units int) { p.ahead += p.each * float64(units) }

// wait returns how long to wait at the time now.
func (p *rateLimit) wait(now int64) time.Duration {
	p.ahead = max(p.ahead, float64(now))
	return time.Duration(p.ahead-float64(now)) - rateBurst
}

const (
	rateBurst    = 2 * time.Second  // of a client's rates may come at once
	floodMinimum = 10 * time.Second // of delays without a break is a flood
	floodBreak   = time.Second
	maxPause     = 100 * time.Millisecond
)

// admit waits until the client may be read from again, which is when its silence
// begins to count. Answers to pings go out first: of those that came with no
// message between them only the last is answered (RFC 6455 section 5.5.3).
func (c *conn) waitForRate() error {
	in := &c.in
	c.replyToPing()
	if in.violation != nil {
		c.closeNow(in.violation.Code, in.violation.Reason)
		return errProtocol
	}
	for {
		now := c.hub.clock()
		c.lastRead.Store(now) // its silence counts from here
		delay := max(in.messages.wait(now), in.bytes.wait(now))
		switch {
		case delay <= 0:
			if now-in.lastLimited > int64(floodBreak) {
				in.limitedSince = 0
			}
			return nil
		case in.limitedSince == 0:
			in.limitedSince = now
		case now-in.limitedSince > int64(floodMinimum):
			c.closeNow(ClosePolicyViolation, "message rate limit exceeded for too long")
			return errProtocol
		}
		in.lastLimited = now
		if c.isClosing() {
			return nil // let reading find out how
		}
		time.Sleep(min(delay, maxPause))
	}
}
