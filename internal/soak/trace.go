package main

import (
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// connTrace records how one connection ended, as seen by the client and by the
// hub. If a connection ends without a Close frame, the trace must explain it.
// Times are in Unix nanoseconds.
type connTrace struct {
	tag   string
	wrote atomic.Int64 // time of the client's last write

	mu      sync.Mutex            // guards the fields below
	why     *websocket.CloseError // the hub's reason for the end, or nil
	ended   int64                 // time of onDisconnect
	dropped int64                 // Timestamp of the last message that the hub dropped because the client is slow, or 0
	reads   []read                // the client's reads in the last WriteWait
}

// read is one read of the client from its connection.
type read struct {
	at    int64 // Unix nanoseconds
	bytes int
}

// tagHeader is the header of the handshake with the tag of the client's trace.
const tagHeader = "X-Soak-Tag"

// newTrace returns a trace with a tag of its own.
func (res *results) newTrace() *connTrace {
	t := &connTrace{tag: strconv.FormatInt(res.lastTag.Add(1), 10)}
	res.traces.Store(t.tag, t)
	return t
}

// end records the hub's reason for the end of the connection.
func (t *connTrace) end(why *websocket.CloseError) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.why, t.ended = why, time.Now().UnixNano()
}

// addRead records a read of the client and deletes those older than WriteWait.
func (t *connTrace) addRead(bytes int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now().UnixNano()
	for len(t.reads) > 0 && t.reads[0].at < now-int64(writeWait) && t.why == nil {
		t.reads = t.reads[1:]
	}
	t.reads = append(t.reads, read{now, bytes})
}

// readLittle reports whether the connection may have accepted nothing from the hub
// for WriteWait before its end. The client may have read meanwhile, but no more
// than kernelBuffers: those bytes were in the kernel already.
func (t *connTrace) readLittle() bool {
	bytes := 0
	for _, r := range t.reads {
		if r.at > t.ended-int64(writeWait-clockSlack) && r.at < t.ended {
			bytes += r.bytes
		}
	}
	return bytes <= kernelBuffers
}

// drop records that the hub dropped messages for the client.
func (t *connTrace) drop(lost websocket.Gap) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if lost.Reason == "slow_consumer" {
		t.dropped = max(t.dropped, lost.Last)
	}
}

const (
	clockSlack    = time.Second      // the largest delay between an event and its recorded time
	linger        = 5 * time.Second  // the hub keeps a connection open this long after its Close frame
	writeWait     = 10 * time.Second // the default of Config.WriteWait
	kernelBuffers = 64 << 10         // bytes that the buffers of both sockets can hold
)

// explains reports whether a client that reads can have received err instead of a
// Close frame. There are two explanations:
//
//   - The connection accepted almost nothing for WriteWait, and the hub aborted it
//     for that reason.
//   - The hub sent a Close frame, waited and closed the connection, and the client
//     wrote after that. The write resets the connection, which discards all bytes
//     that the client has not read yet, the Close frame among them. This happens to
//     clients that had no CPU time while the hub waited for them.
func (t *connTrace) explains(err error) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.why == nil || t.why.ByPeer:
		return false
	case writeTimedOut(t.why):
		return t.readLittle()
	case t.why.Code != websocket.CloseTryAgainLater && t.why.Code != websocket.CloseTimeout:
		return false
	}
	lingered := t.why.Code == websocket.CloseTimeout || time.Duration(t.ended-t.dropped) >= linger
	late := t.wrote.Load() >= t.ended-int64(clockSlack)
	// If a later write returned the error of the reset, reading returns EOF.
	reported := t.why.Code == websocket.CloseTryAgainLater && t.wrote.Load() > t.ended
	return lingered && (wasReset(err) && late || reported)
}

// unclosedEnd is the end of a connection whose client read and received no Close
// frame.
type unclosedEnd struct {
	client string
	err    error
	trace  *connTrace
}

func (res *results) recordUnclosed(c *client, err error) {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.unclosed = append(res.unclosed, unclosedEnd{fmt.Sprintf("%s %s", c.server.name, c.codec.Name()), err, c.trace})
}

// checkUnclosed records a fault for each connection that ended without a Close
// frame and without an explanation. Call it after the hubs have ended.
func (res *results) checkUnclosed() {
	res.mu.Lock()
	unclosed := res.unclosed
	res.unclosed = nil
	res.mu.Unlock()
	for _, c := range unclosed {
		if !c.trace.explains(c.err) {
			res.fault("%s: the connection ended without a Close frame: %v; trace: %v", c.client, c.err, c.trace)
		}
	}
	fmt.Printf("no Close frame %d clients that read\n", len(unclosed))
}

func (t *connTrace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.why == nil {
		return "no CloseError"
	}
	before := func(at int64) string {
		if at == 0 {
			return "never"
		}
		return fmt.Sprint(time.Duration(t.ended-at).Round(time.Millisecond), " before")
	}
	return fmt.Sprintf("%v; last dropped message published %s; last write of the client %s; its reads: %v",
		t.why, before(t.dropped), before(t.wrote.Load()), t.reads)
}

// tracedConn is a client's connection. It records reads and writes in the trace.
type tracedConn struct {
	net.Conn
	trace *connTrace
}

func (c *tracedConn) Write(b []byte) (int, error) {
	c.trace.wrote.Store(time.Now().UnixNano())
	return c.Conn.Write(b)
}

func (c *tracedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.trace.addRead(n)
	return n, err
}
