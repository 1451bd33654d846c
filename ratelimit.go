package websocket

import (
	"errors"
	"io"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// inbound is the state of a client's incoming side: the frame checker, which sees the
// bytes before gorilla does, and the rate limits. The readPump owns it.
type inbound struct {
	checker   wsproto.Checker
	violation *wsproto.Violation

	messages     rateLimit
	bytes        rateLimit
	limitedSince int64 // hub clock of the first delay without a break since, or 0
	lastLimited  int64 // hub clock of the latest delay

	inMessage bool    // a message has begun and not ended
	pong      *string // payload of the latest ping, if it is not answered yet
	timeout   *messageTimeout
}

// begin initializes in for a connection.
func (in *inbound) begin(config *Config, deflate bool) {
	*in = inbound{
		checker:  wsproto.NewChecker(deflate, wsproto.WireLimit(config.MaxMessageSize)),
		messages: newRateLimit(config.MessageRate),
		bytes:    newRateLimit(config.ByteRate),
	}
}

// errLeftWhileLimited ends the reading of a client that has left: its input beyond its
// rates is discarded.
var errLeftWhileLimited = errors.New("websocket: client has left")

var errProtocol = errors.New("websocket: protocol error")

// check checks the frames in b and counts them against the message rate. It returns the
// number of bytes that gorilla may see: those before a violation.
func (in *inbound) check(b []byte) int {
	n, frames, violation := in.checker.Check(b)
	in.messages.spend(frames)
	in.violation = violation
	return n
}

// rateLimit is a token bucket, kept as a virtual clock (the generic cell rate algorithm,
// ITU-T I.371). Each unit moves the clock on by the time that it costs. A client whose
// clock is more than rateBurst ahead of real time has to wait.
type rateLimit struct {
	each  float64 // nanoseconds per unit; 0 means no limit
	ahead float64 // the virtual clock
}

// newRateLimit allows rate units per second, and those of rateBurst at once. A rate that
// is not positive means no limit.
func newRateLimit(rate int64) rateLimit {
	if rate <= 0 {
		return rateLimit{}
	}
	return rateLimit{each: float64(time.Second) / float64(rate)}
}

func (p *rateLimit) spend(units int) { p.ahead += p.each * float64(units) }

// wait returns the time to wait at the time now. It is not positive if none is needed.
func (p *rateLimit) wait(now int64) time.Duration {
	p.ahead = max(p.ahead, float64(now))
	return time.Duration(p.ahead-float64(now)) - rateBurst
}

const (
	rateBurst  = 2 * time.Second
	floodBreak = time.Second            // a break of this length starts FloodTimeout anew
	maxPause   = 100 * time.Millisecond // the longest time that the readPump sleeps at once
)

// waitForRate waits until the rates allow the next read. The client's silence counts from
// then on. It first answers the latest ping since the last read (RFC 6455 section 5.5.3),
// and closes the connection if the input had a violation. It also closes a connection that
// it has delayed for Config.FloodTimeout without a break.
func (c *conn) waitForRate() error {
	in := c.in
	c.replyToPing()
	if in.violation != nil {
		c.closeNow(in.violation.Code, in.violation.Reason)
		return errProtocol
	}
	for {
		now := c.client.hub.clock()
		c.lastRead.Store(now) // its silence begins now
		delay := max(in.messages.wait(now), in.bytes.wait(now))
		switch {
		case delay <= 0:
			if now-in.lastLimited > int64(floodBreak) {
				in.limitedSince = 0
			}
			return nil
		case in.limitedSince == 0:
			in.limitedSince = now
		case c.client.hub.config.FloodTimeout > 0 && now-in.limitedSince > int64(c.client.hub.config.FloodTimeout):
			c.closeNow(ClosePolicyViolation, "message rate limit exceeded for too long")
			return errProtocol
		}
		in.lastLimited = now
		if c.socket.PeerClosed() {
			c.peerGone(io.ErrUnexpectedEOF)
		}
		if c.isClosing() {
			return errLeftWhileLimited
		}
		pause := min(delay, maxPause)
		c.noteDelay(pause)
		time.Sleep(pause)
	}
}
