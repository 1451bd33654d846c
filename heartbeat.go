package websocket

import (
	"container/heap"
	"math"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// tryControl writes a control frame if the socket may be written to. The rest of a partly
// written frame becomes tail. The caller holds mu.
func (c *conn) tryControl(b []byte) bool {
	if !c.mayWrite() {
		return false
	}
	n, err := c.socket.TryWrite(b, false)
	c.shard.counters.bytesSent.Add(uint64(n))
	if err != nil {
		c.abortLocked(err)
	} else if n < len(b) {
		c.keepTail(append([]byte(nil), b[n:]...), nil)
	}
	return true
}

// replyToPing answers the latest ping that has not been answered. The readPump calls it.
func (c *conn) replyToPing() {
	if c.in.pinged {
		c.in.pinged = false
		c.sendPong(c.in.pong)
	}
}

// sendPong writes a pong, or leaves it to the writePump.
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

// sendPing writes a ping, or leaves it to the writePump. The caller holds the shard's
// lock.
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

// deadlines is a heap of a shard's clients by the time of their next check. Input from a
// client does not move it: the check finds out and schedules the next one. One timer
// serves all clients of the shard.
type deadlines struct{ clients []*Client }

// next returns the earliest check on the hub's clock, or math.MaxInt64.
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

// reschedule moves the check of c forward to its hard deadline, if that is earlier.
func (s *shard) reschedule(c *Client) {
	if c.shardIndex < 0 {
		return
	}
	if due := min(c.checkAt, s.hardDeadline(c)); due < c.checkAt {
		s.deadlines.update(c, due)
	}
}

// hardDeadline returns the time of a check that input from c cannot postpone: the end of
// WriteWait for a connection that accepts nothing, or the client's expiry.
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

// checkDeadlines checks the clients whose time has come.
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

// check pings or closes c if it has been silent for too long, and returns the time of the
// next check.
func (s *shard) check(c *Client, now int64) int64 {
	config := &s.hub.config
	since := c.conn.progressAt.Load()
	if since != 0 && now-since >= int64(config.WriteWait) {
		c.conn.abort(errWriteTimeout)
		return math.MaxInt64 // the readPump ends it
	}
	if expires := c.expires.Load(); expires != 0 && now >= expires {
		c.expires.Store(0)
		s.flush(c)
		c.conn.close(&CloseError{Code: CloseUnauthorized, Reason: "credentials have expired"})
	}
	heard := max(c.conn.lastRead.Load(), since) // accepting bytes is a sign of life
	if c.handling.Load() {
		heard = now // the hub does not read from it at the moment
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
