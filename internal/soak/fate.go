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

// fate is what both ends know of the end of one connection. A client whose
// connection breaks off without a Close frame has to find the reason there.
type fate struct {
	tag   string
	wrote atomic.Int64 // when the client wrote last, in Unix nanoseconds

	mu      sync.Mutex // guards what the hub says
	why     *websocket.CloseError
	ended   int64 // when, in Unix nanoseconds
	evicted int64 // Timestamp of the last message that was one too many, or 0
	reads   []read
}

// read is what the client took from its connection at a time, in Unix nanoseconds.
type read struct {
	at    int64
	bytes int
}

// tagHeader is how a handshake says whose it is.
const tagHeader = "X-Soak-Life"

func (b *books) newFate() *fate {
	f := &fate{tag: strconv.FormatInt(b.born.Add(1), 10)}
	b.fates.Store(f.tag, f)
	return f
}

func (f *fate) end(why *websocket.CloseError) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why, f.ended = why, time.Now().UnixNano()
}

// took takes note of what the client has read, as long as that matters.
func (f *fate) took(bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now().UnixNano()
	for len(f.reads) > 0 && f.reads[0].at < now-int64(writeWait) && f.why == nil {
		f.reads = f.reads[1:]
	}
	f.reads = append(f.reads, read{now, bytes})
}

// tookLittle reports whether the client can have been one that took nothing for
// WriteWait at its end, as the hub sees it: no more than what the kernel may hold
// before it takes anything more from the hub.
func (f *fate) tookLittle() bool {
	bytes := 0
	for _, r := range f.reads {
		if r.at > f.ended-int64(writeWait-fateSlack) && r.at < f.ended {
			bytes += r.bytes
		}
	}
	return bytes <= kernelHolds
}

// drop takes note of messages that the client does not get.
func (f *fate) drop(lost websocket.Gap) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lost.Reason == "slow_consumer" {
		f.evicted = max(f.evicted, lost.Last)
	}
}

// How far clocks of goroutines may be apart, how long the hub waits behind its
// Close frame, and for a client to take something, and how many bytes the buffers
// of both sockets may hold.
const (
	fateSlack   = time.Second
	linger      = 5 * time.Second
	writeWait   = 10 * time.Second
	kernelHolds = 64 << 10
)

// explains reports whether a client that reads could miss the Close frame and get
// this error instead. It could if it took next to nothing for WriteWait, and the hub
// says so. It could also if it wrote when the hub had closed the connection behind
// its Close frame: that resets the connection, and costs the client what it had not
// taken yet. So it goes, too, for one that the hub gave up because its own process
// had no time for it.
func (f *fate) explains(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.why == nil || f.why.ByPeer:
		return false
	case starved(f.why):
		return f.tookLittle()
	case f.why.Code != websocket.CloseTryAgainLater && f.why.Code != websocket.CloseTimeout:
		return false
	}
	lingered := f.why.Code == websocket.CloseTimeout || time.Duration(f.ended-f.evicted) >= linger
	late := f.wrote.Load() >= f.ended-int64(fateSlack)
	// A write may have been told of the reset that an earlier one brought: then
	// reading finds the end.
	told := f.why.Code == websocket.CloseTryAgainLater && f.wrote.Load() > f.ended
	return lingered && (wasReset(err) && late || told)
}

// cut is the end of a client that read and did not see a Close frame.
type cut struct {
	client string
	err    error
	fate   *fate
}

func (b *books) cutOff(c *client, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cuts = append(b.cuts, cut{fmt.Sprintf("%s %s", c.site.name, c.codec.Name()), err, c.fate})
}

// judge looks at the cuts when the hubs have said all about them.
func (b *books) judge() {
	b.mu.Lock()
	cuts := b.cuts
	b.cuts = nil
	b.mu.Unlock()
	for _, c := range cuts {
		if !c.fate.explains(c.err) {
			b.fault("%s: cut off without a Close frame: %v; the hub says %v", c.client, c.err, c.fate)
		}
	}
	fmt.Printf("cut off        %d clients who read\n", len(cuts))
}

func (f *fate) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.why == nil {
		return "nothing"
	}
	before := func(t int64) string {
		if t == 0 {
			return "never"
		}
		return fmt.Sprint(time.Duration(f.ended-t).Round(time.Millisecond), " before")
	}
	return fmt.Sprintf("%v; published what was one too many %s; the client wrote last %s and read %v",
		f.why, before(f.evicted), before(f.wrote.Load()), f.reads)
}

// tracedConn is a client's connection that notes what it is read and written.
type tracedConn struct {
	net.Conn
	fate *fate
}

func (c *tracedConn) Write(b []byte) (int, error) {
	c.fate.wrote.Store(time.Now().UnixNano())
	return c.Conn.Write(b)
}

func (c *tracedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.fate.took(n)
	return n, err
}
