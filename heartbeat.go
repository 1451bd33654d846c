package websocket

import (
	"container/heap"
	"math"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// writeNow writes a control frame if that can be done at once. What is left of
// it waits. The caller has mu.
func (c *conn) tryControl(b []byte) bool {
	if !c.mayWrite() {
		return false
	}
	n, err := c.socket.TryWrite(b)
	c.shard.counters.bytesSent.Add(uint64(n))
	if err != nil {
		c.abortLocked(err)
	} else if n < len(b) {
		c.keepTail(append([]byte(nil), b[n:]...), nil)
	}
	return true
}

// answerPing answers the last of the pings that came since the last answer. It
// runs on the readPump.
func (c *conn) replyToPing() {
	if c.in.pinged {
		c.in.pinged = false
		c.sendPong(c.in.pong)
	}
}

// sendPong answers a ping, or leaves that to the writePump.
func (c *conn) sendPong(payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	pong := wsproto.ControlFrame(wsproto.OpPong, []byte(payload))
	if !c.tryControl(pong) {
		c.queuedPong = pong
	}
	c.startPumpAndWatch()
}

var pingFrame = wsproto.ControlFrame(wsproto.OpPing, nil)

// sendPing runs in the shard's turn.
func (c *conn) sendPing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen || c.held {
		return
	}
	if !c.tryControl(pingFrame) {
		c.pingQueued = true
	}
	c.startPump()
}

// deadlines orders a shard's clients by when they have to be looked at next. A
// client's signs of life do not move it: looking at one that has shown some puts
// it back for as long as it may then be silent. One timer serves the shard.
type deadlines struct{ clients []*Client }

// next returns the earliest deadline on the hub's clock, or the end of time.
func (d *deadlines) next() int64 {
	if len(d.clients) == 0 {
		return math.MaxInt64
	}
	return d.clients[0].checkAt
}

func (d *deadlines) add(c *Client, due int64) {
	c.checkAt = due
	heap.Push(d, c)
}

func (d *deadlines) remove(c *Client) { heap.Remove(d, c.heapIndex) }

func (d *deadlines) update(c *Client, due int64) {
	c.checkAt = due
	heap.Fix(d, c.heapIndex)
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (d *deadlines) Len() int { return len(d.clients) }

func (d *deadlines) Less(i, j int) bool { return d.clients[i].checkAt < d.clients[j].checkAt }

func (d *deadlines) Swap(i, j int) {
	d.clients[i], d.clients[j] = d.clients[j], d.clients[i]
	d.clients[i].heapIndex, d.clients[j].heapIndex = i, j
}

func (d *deadlines) Push(x any) {
	c := x.(*Client)
	c.heapIndex = len(d.clients)
	d.clients = append(d.clients, c)
}

func (d *deadlines) Pop() any {
	last := len(d.clients) - 1
	c := d.clients[last]
	d.clients[last] = nil
	d.clients = d.clients[:last]
	return c
}

// minds makes sure that a connection with something to write is looked at when
// WriteWait is over, and one that expires when it does.
func (s *shard) reschedule(c *Client) {
	if c.shardIndex < 0 {
		return
	}
	if due := min(c.checkAt, s.hardDeadline(c)); due < c.checkAt {
		s.deadlines.update(c, due)
	}
}

// limits returns when c has to be looked at whatever it says.
func (s *shard) hardDeadline(c *Client) int64 {
	due := int64(math.MaxInt64)
	if since := c.conn.progressAt.Load(); since != 0 {
		due = since + int64(s.hub.config.WriteWait)
	}
	if expires := c.expires.Load(); expires != 0 {
		due = min(due, expires)
	}
	return due
}

// checkDeadlines looks at every client whose time has come.
func (s *shard) checkDeadlines() {
	if len(s.deadlines.clients) == 0 {
		return
	}
	now := s.hub.clock()
	for s.deadlines.next() <= now {
		c := s.deadlines.clients[0]
		s.deadlines.update(c, max(s.check(c, now), now+1))
	}
}

// look pings or closes c if it has been silent for too long, and returns when to
// look again.
func (s *shard) check(c *Client, now int64) int64 {
	config := &s.hub.config
	since := c.conn.progressAt.Load()
	if since != 0 && now-since >= int64(config.WriteWait) {
		c.conn.abort(errWriteTimeout)
		return math.MaxInt64 // its end is on the way
	}
	if expires := c.expires.Load(); expires != 0 && now >= expires {
		c.expires.Store(0)
		s.flush(c)
		c.conn.close(&CloseError{Code: CloseUnauthorized, Reason: "credentials have expired"})
	}
	heard := max(c.conn.lastRead.Load(), since) // taking bytes is a sign of life too
	if c.handling.Load() {
		heard = now // not reading, so its silence says nothing
	}
	due := heard + int64(config.PingPeriod)
	switch silent := now - heard; {
	case silent >= int64(config.PongWait):
		c.conn.closeNow(CloseTimeout, "no sign of life for "+time.Duration(silent).Round(time.Millisecond).String())
		due = now + int64(config.WriteWait)
	case silent >= int64(config.PingPeriod):
		c.conn.sendPing()
		due = heard + int64(config.PongWait)
	}
	return min(due, s.hardDeadline(c))
}
