package websocket

import (
	"io"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// A callback may run for as long as its client is connected, for example to send the
// lines of a log. The readPump does not read meanwhile, so it cannot notice that the
// peer closes the connection. After once to twice watchDelay in a callback a goroutine
// reads ahead in its place, at most watchAhead bytes. Beyond that the hub asks the operating system
// every watchInterval whether the peer has closed.
const (
	watchDelay    = 250 * time.Millisecond
	watchInterval = 250 * time.Millisecond
	watchAhead    = 4 << 10
)

// peerWatch is the state of reading ahead.
type peerWatch struct {
	timer *time.Timer // calls conn.watchPeer

	mu         sync.Mutex
	inCallback bool            // the readPump runs a callback
	callbacks  uint64          // number of callbacks so far
	seen       uint64          // callbacks when the timer fired last
	armed      bool            // the timer is set
	reading    bool            // watchPeer reads from the socket
	delivered  sync.Cond       // signalled when reading has become false or there is more to take
	buf        []byte          // read ahead and not taken yet
	err        error           // end of the input, behind buf
	ahead      wsproto.Checker // has checked everything up to the end of buf
	broken     bool            // a violation stands in buf: ahead cannot be used any more
}

// beginCallback is called before each callback on the goroutine that reads, or will
// read, from the client. endCallback is called after it.
func (c *conn) beginCallback() {
	w := c.watch
	if w == nil {
		w = &peerWatch{}
		w.delivered.L = &w.mu
		w.timer = time.AfterFunc(time.Hour, c.watchPeer)
		c.watch = w
	}
	w.mu.Lock()
	w.inCallback = true
	w.callbacks++
	if !w.armed { // else the timer of an earlier callback serves
		w.rearm(watchDelay)
	}
	w.mu.Unlock()
}

func (c *conn) endCallback() {
	w := c.watch
	w.mu.Lock()
	w.inCallback = false
	w.mu.Unlock()
}

// readSocket reads from the socket for the readPump, first the bytes that were read
// ahead.
func (c *conn) readSocket(b []byte) (int, error) {
	w := c.watch
	if w == nil {
		return c.socket.Read(b)
	}
	w.mu.Lock()
	for w.reading && len(w.buf) == 0 && w.err == nil {
		w.delivered.Wait() // for the read that has begun
	}
	n, err := copy(b, w.buf), w.err
	w.buf = w.buf[n:]
	if len(w.buf) > 0 {
		err = nil
	} else if cap(w.buf) > 0 {
		w.buf = nil
	}
	w.mu.Unlock()
	if n > 0 || err != nil {
		return n, err
	}
	return c.socket.Read(b)
}

// watchPeer looks for the peer's end while a callback runs. It runs on a goroutine of
// its own, and ends when the callback ends and the read that has begun returns.
func (c *conn) watchPeer() {
	w := c.watch
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	if !w.inCallback {
		return
	}
	if w.seen != w.callbacks { // this callback may have begun just now
		w.seen = w.callbacks
		w.rearm(watchDelay)
		return
	}
	if !w.reading && len(w.buf) == 0 && w.err == nil {
		w.ahead, w.broken = c.in.checker.Ahead(), false
	}
	for w.inCallback && !w.reading && !c.isClosing() {
		switch code, reason, closed := w.ahead.Closed(); {
		case closed:
			c.peerClosed(code, reason)
			return
		case w.err != nil:
			c.peerGone(readError(w.err))
			return
		case len(w.buf) >= watchAhead || w.broken:
			if c.socket.PeerClosed() {
				c.peerGone(io.ErrUnexpectedEOF)
				return
			}
			w.rearm(watchInterval)
			return
		}
		w.readAhead(c)
	}
}

func (w *peerWatch) rearm(delay time.Duration) {
	w.armed = true
	w.timer.Reset(delay)
}

// readAhead reads once. It unlocks mu meanwhile.
func (w *peerWatch) readAhead(c *conn) {
	w.reading = true
	defer func() {
		w.reading = false
		w.delivered.Signal()
	}()
	b := make([]byte, watchAhead-len(w.buf))
	w.mu.Unlock()
	n, err := c.socket.Read(b)
	w.mu.Lock()
	w.buf, w.err = append(w.buf, b[:n]...), err
	if _, _, violation := w.ahead.Check(b[:n]); violation != nil { // changes b
		w.broken = true
	}
}
