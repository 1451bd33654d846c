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
	c.client.shard.counters.bytesSent.Add(uint64(n))
	if err != nil {
		c.abortLocked(err)
	} else if n < len(b) {
		c.keepTail(append([]byte(nil), b[n:]...), nil)
	}
	return true
}

// replyToPing answers the latest ping that has not been answered. The readPump calls it.
func (c *conn) replyToPing() {
	if payload := c.in.pong; payload != nil {
		c.in.pong = nil
		c.sendPong(*payload)
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
		c.note().queuedPong = pong
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
	c.pingSent.Store(writingPing)
	if c.tryControl(pingFrame) {
		now := c.client.hub.clock()
		c.pingSent.CompareAndSwap(writingPing, now)
		c.notePing(now)
	} else {
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

// remove does nothing for a client that is not there.
func (d *deadlines) remove(c *Client) {
	if c.heapIndex >= 0 {
		heap.Remove(d, int(c.heapIndex))
		c.heapIndex = -1
	}
}

func (d *deadlines) update(c *Client, due int64) {
	c.checkAt = due
	heap.Fix(d, int(c.heapIndex))
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (d *deadlines) Len() int { return len(d.clients) }

func (d *deadlines) Less(i, j int) bool { return d.clients[i].checkAt < d.clients[j].checkAt }

func (d *deadlines) Swap(i, j int) {
	d.clients[i], d.clients[j] = d.clients[j], d.clients[i]
	d.clients[i].heapIndex, d.clients[j].heapIndex = int32(i), int32(j)
}

func (d *deadlines) Push(x any) {
	c := x.(*Client)
	c.heapIndex = int32(len(d.clients))
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
	if c.heapIndex < 0 {
		return
	}
	if due := min(c.checkAt, s.hardDeadline(c)); due < c.checkAt {
		s.deadlines.update(c, due)
	}
}

// hardDeadline returns the time of a check that input from c cannot postpone: the
// middle and the end of WriteWait for a connection that accepts nothing, or the client's
// expiry.
func (s *shard) hardDeadline(c *Client) int64 {
	due := int64(math.MaxInt64)
	if since := c.conn.progressAt.Load(); since != 0 {
		due = since + int64(s.hub.config.WriteWait)
		if c.stallMarkAt != since {
			due -= int64(s.hub.config.WriteWait) / 2
		}
	}
	if expires := c.expires.Load(); expires != 0 && c.shardIndex >= 0 {
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
		late := now-c.checkAt > int64(lateCheck)
		s.deadlines.update(c, max(s.check(c, now, late), now+int64(minCheck)))
	}
}

// minCheck is the minimum time between two checks of one client.
const minCheck = time.Millisecond

// lateCheck is the lateness of a check from which on the process may have been stopped:
// then bytes that have arrived may not have been read yet.
const lateCheck = time.Second

// check pings, closes or aborts c if it is time for that, and returns the time of the
// next check.
func (s *shard) check(c *Client, now int64, late bool) int64 {
	if s.stalled(c, now, late) {
		c.conn.abort(errWriteTimeout)
		return math.MaxInt64 // the readPump ends it
	}
	if c.shardIndex < 0 {
		return s.hardDeadline(c) // it has left
	}
	if expires := c.expires.Load(); expires != 0 && now >= expires {
		c.expires.Store(0)
		s.flush(c)
		c.conn.close(&CloseError{Code: CloseUnauthorized, Reason: "credentials have expired"})
	}
	return min(s.checkSilence(c, now, late), s.hardDeadline(c))
}

// stalled reports whether the connection has accepted nothing for WriteWait, and the peer
// has made no progress in the second half of that time. The kernel alone is no witness:
// it accepts nothing until a third of its send buffer is free, which takes a slow peer
// longer than WriteWait.
func (s *shard) stalled(c *Client, now int64, late bool) bool {
	since, wait := c.conn.progressAt.Load(), int64(s.hub.config.WriteWait)
	switch {
	case since == 0 || now-since < wait/2:
		return false
	case c.stallMarkAt != since || late:
		c.stallMarkAt = s.extend(c, since, max(since, now-wait/2))
		c.stallMark, _ = c.conn.socket.Progress()
		return false
	case now-since < wait:
		return false
	}
	mark, known := c.conn.socket.Progress()
	if !known || mark == c.stallMark {
		return true
	}
	c.stallMark, c.stallMarkAt = mark, s.extend(c, since, now-wait/2)
	return false
}

// extend moves progressAt from since to until, unless the writePump has moved it.
func (s *shard) extend(c *Client, since, until int64) int64 {
	if c.conn.progressAt.CompareAndSwap(since, until) {
		return until
	}
	return since
}

// checkSilence pings c if it has sent nothing for PingPeriod. It closes c if a ping was
// not answered within the rest of PongWait, and the peer has made no progress either: a
// pong stands behind the data that a slow peer still has to read. It returns the time of
// the next check.
func (s *shard) checkSilence(c *Client, now int64, late bool) int64 {
	config := &s.hub.config
	period := int64(config.PingPeriod)
	answerTime := int64(config.PongWait) - period
	heard := max(c.conn.lastRead.Load(), c.conn.progressAt.Load()) // accepting bytes is a sign of life
	if c.handling.Load() {
		heard = now // the hub does not read from it at the moment
	}
	if due := heard + period; now < due {
		return due
	}
	sent := c.conn.pingSent.Load()
	if sent <= heard {
		c.pingMarked = false
		c.conn.sendPing()
		return now + min(answerTime/2, period) // an answer makes the next ping due
	}
	mark, known := c.conn.socket.Progress()
	switch {
	case now-sent < answerTime/2:
		return min(sent+answerTime/2, now+period)
	case !c.pingMarked && known && now-sent < answerTime: // the ping itself has been acknowledged
	case now-sent < answerTime:
		return min(sent+answerTime, now+period)
	case !late && (!known || c.pingMarked && mark == c.pingMark):
		silent := time.Duration(now - heard).Round(time.Millisecond)
		c.conn.closeNow(CloseTimeout, "no sign of life for "+silent.String())
		return now + int64(config.WriteWait)
	default: // the peer gets as much time again
		c.conn.pingSent.CompareAndSwap(sent, now)
		sent = now
	}
	c.pingMark, c.pingMarked = mark, true
	return min(sent+answerTime, now+period)
}
