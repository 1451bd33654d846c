package websocket

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// A callback may run for as long as its client is connected, for example to send the
// lines of a log. The readPump does not read meanwhile, so it cannot notice that the
// peer closes the connection. After once to twice watchInterval in a callback a goroutine
// reads ahead in its place, at most watchAhead bytes. Beyond that the hub asks the
// operating system every watchInterval whether the peer has closed.
//
// A read cannot be taken back. So when the callback has returned, the goroutine stays until
// its read has ended: a client that is silent after a long callback costs watchCost more.
const (
	watchInterval = 250 * time.Millisecond
	watchAhead    = 4 << 10
	watchCost     = 2<<10 + watchRead // the goroutine's stack, and what it reads into
	watchRead     = 512
)

// callbackWatch finds the callbacks of a hub that run for long. A client costs it one
// entry while it runs callbacks.
type callbackWatch struct {
	mu    sync.Mutex
	conns []*conn     // those whose callbacks.listed is set
	timer *time.Timer // calls check; made with the first entry
}

// callbacks is what a connection tells the callbackWatch.
type callbacks struct {
	count  atomic.Uint32 // callbacks begun and ended, so it is odd while one runs
	listed atomic.Bool   // in callbackWatch.conns, or being read ahead
	seen   uint32        // count at the last check; owned by who owns the listing
}

// beginCallback is called before each callback on the goroutine that reads, or will
// read, from the client. endCallback is called after it.
func (c *conn) beginCallback() {
	c.callbacks.count.Add(1)
	if !c.callbacks.listed.Load() {
		c.client.hub.watch.add(c)
	}
}

func (c *conn) endCallback() {
	c.callbacks.count.Add(1)
	if a := c.ahead.Load(); a != nil {
		a.waitForCopy()
	}
}

// running reports whether a callback runs.
func (s *callbacks) running() bool { return s.count.Load()%2 == 1 }

func (w *callbackWatch) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.callbacks.listed.CompareAndSwap(false, true) {
		w.insert(c)
	}
}

// insert appends c, whose listed is set. The caller holds mu.
func (w *callbackWatch) insert(c *conn) {
	if w.conns = append(w.conns, c); len(w.conns) > 1 {
		return
	}
	if w.timer == nil {
		w.timer = time.AfterFunc(watchInterval, w.check)
	} else {
		w.timer.Reset(watchInterval)
	}
}

// check starts to read ahead for the callbacks that have run since the last check. It
// removes connections without a callback.
func (w *callbackWatch) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	kept := w.conns[:0]
	for _, c := range w.conns {
		s := &c.callbacks
		count := s.count.Load()
		switch {
		case count%2 == 1 && count == s.seen:
			go c.watchPeer(count) // ends with the callback and the read that has begun
			continue
		case count%2 == 0:
			s.listed.Store(false)
			if !s.running() || !s.listed.CompareAndSwap(false, true) {
				continue
			}
			count = s.count.Load() // a callback has begun just now, and saw that c was listed
		}
		s.seen = count
		kept = append(kept, c)
	}
	clear(w.conns[len(kept):])
	w.conns = kept
	if len(kept) > 0 {
		w.timer.Reset(watchInterval)
	} else {
		w.conns = nil // a rare peak keeps no memory
	}
}

// release makes c, whose callback has been watched, unlisted or watched again at the next
// check.
func (w *callbackWatch) release(c *conn, again bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := &c.callbacks
	if !again {
		s.listed.Store(false)
		if !s.running() || !s.listed.CompareAndSwap(false, true) {
			return
		}
	}
	w.insert(c)
}

// readAhead holds input that was read during a callback. It exists from the first time
// that a callback of the client ran for long.
type readAhead struct {
	mu        sync.Mutex
	reading   bool            // watchPeer reads from the socket
	delivered sync.Cond       // signalled when reading has become false
	buf       []byte          // read ahead and not taken yet
	charged   int64           // bytes of buf that the client is charged for
	timedOut  bool            // the last read has ended with the deadline of timeSilence
	ended     bool            // nothing is taken any more
	err       error           // end of the input, behind buf
	checker   wsproto.Checker // has checked everything up to the end of buf
	broken    bool            // the input has a violation: checker cannot be used any more
}

// waitForCopy waits while watchPeer copies the state of the frame checker.
func (a *readAhead) waitForCopy() {
	a.mu.Lock()
	defer a.mu.Unlock()
}

// readAhead reads from the socket, but returns first the bytes that were read ahead.
func (c *conn) readAhead(b []byte) (int, error) {
	a := c.ahead.Load()
	if a == nil {
		return c.socket.Read(b)
	}
	a.mu.Lock()
	for a.reading && !a.timedOut && len(a.buf) == 0 && a.err == nil {
		a.delivered.Wait() // for the read that has begun
	}
	n, err := copy(b, a.buf), a.err
	if a.timedOut { // the deadline has been removed
		a.timedOut = false
		if n == 0 && err == nil {
			err = os.ErrDeadlineExceeded
		} else {
			c.in.sooner = true // there may be no deadline
		}
	}
	a.buf = a.buf[n:]
	if len(a.buf) > 0 {
		err = nil
	} else {
		a.dropBuf(c)
	}
	a.mu.Unlock()
	if n > 0 || err != nil {
		return n, err
	}
	return c.socket.Read(b)
}

// dropBuf drops buf. The caller holds mu.
func (a *readAhead) dropBuf(c *conn) {
	c.client.charge(-a.charged)
	a.buf, a.charged = nil, 0
}

// isIdle reports whether a, which may be nil, neither reads nor holds input.
func (a *readAhead) isIdle() bool {
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.reading && len(a.buf) == 0 && a.err == nil && !a.timedOut
}

// endAhead drops the input that was read ahead, when the readPump reads no more.
func (c *conn) endAhead() {
	a := c.ahead.Load()
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	a.dropBuf(c)
}

// watchPeer looks for the peer's end while the callback with this count runs.
func (c *conn) watchPeer(count uint32) {
	c.client.charge(watchCost)
	defer c.client.charge(-watchCost)
	a := c.ahead.Load()
	if a == nil {
		a = &readAhead{}
		a.delivered.L = &a.mu
	}
	a.mu.Lock()
	// The readPump ends a callback before it looks for a readAhead. So if the callback runs
	// now, the readPump will find the readAhead and wait for mu.
	c.ahead.Store(a)
	again := c.watchLocked(a, count)
	a.mu.Unlock()
	if !c.isClosing() { // a closing connection stays marked as listed, so that add never inserts it again
		c.client.hub.watch.release(c, again)
	}
}

// watchLocked reads ahead, and reports whether watching goes on at the next check. The
// caller holds a.mu.
func (c *conn) watchLocked(a *readAhead, count uint32) (again bool) {
	stillRunning := func() bool { return c.callbacks.count.Load() == count }
	if stillRunning() && len(a.buf) == 0 && a.err == nil {
		a.checker, a.broken = c.in.checker.Ahead(), c.in.violation != nil
	}
	for stillRunning() && !c.isClosing() {
		switch code, reason, closed := a.checker.Closed(); {
		case closed:
			c.peerClosed(code, reason)
			return false
		case a.err != nil:
			c.peerGone(readError(a.err))
			return false
		case len(a.buf) >= watchAhead || a.broken:
			if c.socket.PeerClosed() {
				c.peerGone(io.ErrUnexpectedEOF)
				return false
			}
			return true
		}
		a.readOnce(c)
	}
	return false
}

// readOnce reads once. It unlocks mu meanwhile.
func (a *readAhead) readOnce(c *conn) {
	a.reading = true
	defer func() {
		a.reading = false
		a.delivered.Signal()
	}()
	b := make([]byte, min(watchRead, watchAhead-len(a.buf)))
	a.mu.Unlock()
	n, err := c.socket.Read(b)
	a.mu.Lock()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		a.timedOut = true
		c.setDeadline(time.Time{})
		err = nil
	}
	a.err = err
	if a.ended {
		return
	}
	a.buf = append(a.buf, b[:n]...)
	if more := int64(cap(a.buf)) - a.charged; more > 0 {
		c.client.charge(more)
		a.charged += more
	}
	if _, _, violation := a.checker.Check(b[:n]); violation != nil { // changes b
		a.broken = true
	}
}
