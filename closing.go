package websocket

import (
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

type connState uint8

const (
	connOpen      connState = iota
	connClosing             // nothing new is accepted; what waits goes out, then the Close frame
	connCloseSent           // the Close frame is out: nothing more is written
	connEnded               // the socket is closed or about to be
)

// close lets what waits go out and then says goodbye.
func (c *conn) close(why *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	c.startClosing(why)
	if c.queue.len() == 0 && c.losses.len() == 0 && len(c.tail) == 0 && !c.held {
		c.sendClose()
	}
	c.startPumpAndWatch()
}

// fail discards what waits, but for the end of a partly written frame, and says
// goodbye: for peers that broke a rule, or are gone.
func (c *conn) closeNow(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNowLocked(&CloseError{Code: code, Reason: reason})
}

func (c *conn) closeNowLocked(why *CloseError) {
	if c.state != connOpen {
		return
	}
	c.startClosing(why)
	c.dropQueue(dropDisconnected)
	if len(c.tail) == 0 {
		c.sendClose()
	}
	c.startPumpAndWatch()
}

// peerClosed answers the peer's Close frame with the same code
// (RFC 6455 section 5.5.1).
func (c *conn) peerClosed(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNowLocked(&CloseError{Code: code, Reason: reason, ByPeer: true})
}

// evict closes a client that is over its bound. The caller has mu.
func (c *conn) evict() {
	if c.state != connOpen {
		return
	}
	c.shard.counters.evicted.Add(1)
	c.startClosing(&CloseError{Code: CloseTryAgainLater, Reason: "slow consumer: backlog limit reached"})
	c.dropQueue(dropSlowConsumer)
	c.startPump()
}

func (c *conn) startClosing(why *CloseError) {
	c.state = connClosing
	if c.closeErr == nil {
		c.closeErr = why
	}
	reason := why.Reason
	if why.ByPeer {
		reason = ""
	}
	c.closeFrame = wsproto.CloseFrame(why.Code, reason)
}

// sayGoodbye writes the Close frame if that can be done at once.
func (c *conn) sendClose() {
	switch {
	case !c.tryControl(c.closeFrame):
	case len(c.tail) > 0:
		c.closeFrame = nil
	case c.state == connClosing:
		c.closeSent()
	}
}

// closeLinger is how long the peer has to answer a Close frame, and to take the
// end of one that it waits for. Whoever writes after it gets a reset, and may lose
// the code: so a peer that is closed because it lags has longer.
const (
	closeLinger = time.Second
	lagLinger   = 5 * time.Second
)

func (c *conn) linger() time.Duration {
	lags := c.closeErr.Code == CloseTryAgainLater || c.closeErr.Code == CloseTimeout
	if lags && !c.hub.stopping() {
		return lagLinger
	}
	return closeLinger
}

// saidGoodbye begins the wait for the peer's Close or end. Closing the socket
// with input unread would reset the connection and could cost the peer the code.
func (c *conn) closeSent() {
	c.state = connCloseSent
	c.dropQueue(dropDisconnected)
	if !c.closeErr.ByPeer {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.linger())) // fails only on a dead connection
	}
}

// kill ends the connection without a Close frame.
func (c *conn) abort(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abortLocked(err)
}

// die is kill for callers who have mu. The readPump notices and ends the rest.
func (c *conn) abortLocked(err error) {
	if c.state == connEnded {
		return
	}
	switch {
	case c.closeErr == nil:
		c.closeErr = &CloseError{Code: CloseAbnormalClosure, Reason: err.Error(), Err: err}
	case c.state == connClosing:
		unsaid := *c.closeErr // which other clients may share
		unsaid.Err = err
		c.closeErr = &unsaid
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	c.socket.Abort()
}

// ended reports whether messages from the peer are no longer wanted.
func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != connOpen
}

// finish closes the socket after the writePump, which has as long as a peer has for
// its answer to get out what it holds. It returns why the connection ended.
func (c *conn) finish(err error) *CloseError {
	c.mu.Lock()
	if c.state == connOpen { // broken off: nothing can be said any more
		c.abortLocked(err)
	}
	if c.state == connClosing && !c.pumping { // closed by the peer before the shard has walked the release
		c.held = false
		if c.queuedPong != nil && c.tryControl(c.queuedPong) {
			c.queuedPong = nil
		}
		c.sendClose()
		c.startPump()
	}
	if c.pumping {
		c.pumpDone = sync.NewCond(&c.mu)
		cut := time.AfterFunc(c.linger(), func() { c.abort(errFlushTimeout) })
		for c.pumping {
			c.pumpDone.Wait()
		}
		cut.Stop()
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	ending := c.closeErr
	c.mu.Unlock()
	_ = c.Conn.Close() // nobody is left who could act on its error
	return ending
}
