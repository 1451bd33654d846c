package websocket

import (
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// connState is the state of a connection's outgoing side. It only moves down:
//
//	connOpen        messages are accepted and written
//	   │
//	   │ startClosing, called by
//	   │   close       Client.Close, expiry, shutdown: the backlog goes out first
//	   │   closeNow    a broken rule, a failed callback, silence: the backlog is dropped
//	   │   peerClosed  the peer's Close frame: as closeNow, with the peer's code
//	   │   evict       a slow consumer: as closeNow, counted as evicted
//	   ▼
//	connClosing     no message is accepted; the Close frame follows what is left
//	   │
//	   │ closeSent
//	   ▼
//	connCloseSent   nothing is written; the peer has linger() to answer
//	   │
//	   │ finish: the readPump has ended
//	   ▼
//	connEnded       the socket is closed
//
// abort leads from every state to connEnded, without a Close frame. The first cause
// stays in closeErr, whatever follows.
type connState uint8

const (
	connOpen connState = iota
	connClosing
	connCloseSent
	connEnded
)

// close sends the Close frame behind the messages that are queued.
func (c *conn) close(cause *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	c.startClosing(cause)
	if c.queue.len() == 0 && c.losses.len() == 0 && len(c.tail) == 0 && !c.held {
		c.sendClose()
	}
	c.startPumpAndWatch()
}

// closeNow drops the queued messages and sends the Close frame next, behind the rest
// of a partly written frame.
func (c *conn) closeNow(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNowLocked(&CloseError{Code: code, Reason: reason})
}

func (c *conn) closeNowLocked(cause *CloseError) {
	if c.state != connOpen {
		return
	}
	c.startClosing(cause)
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

// evict closes a client that is too slow or holds too much memory. The caller holds mu,
// and makes the shard watch a writePump that evict starts.
func (c *conn) evict(reason string) {
	if c.state != connOpen {
		return
	}
	c.shard.counters.evicted.Add(1)
	c.startClosing(&CloseError{Code: CloseTryAgainLater, Reason: reason})
	c.dropQueue(dropSlowConsumer)
	c.startPump()
}

func (c *conn) startClosing(cause *CloseError) {
	c.state = connClosing
	if c.closeErr == nil {
		c.closeErr = cause
	}
	reason := cause.Reason
	if cause.ByPeer {
		reason = "" // the answer repeats the code only
	}
	c.closeFrame = wsproto.CloseFrame(cause.Code, reason)
}

// sendClose writes the Close frame if the socket accepts it at once. Otherwise the
// writePump writes it.
func (c *conn) sendClose() {
	switch {
	case !c.tryControl(c.closeFrame):
	case len(c.tail) > 0:
		c.closeFrame = nil // tail is the rest of it
	case c.state == connClosing:
		c.closeSent()
	}
}

// The peer has closeLinger to answer the Close frame, or to accept the rest of it. A
// peer that is closed because it lags has lagLinger: if it writes to a closed socket
// it gets a TCP reset and may lose the close code.
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

// closeSent begins the wait for the peer's Close frame or end. Closing a socket that
// has unread input would reset the connection, and the peer might lose the close
// code.
func (c *conn) closeSent() {
	c.state = connCloseSent
	c.dropQueue(dropDisconnected)
	if !c.closeErr.ByPeer {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.linger())) // fails only on a broken connection
	}
}

// abort ends the connection without a Close frame. The readPump then gets an error
// and calls finish.
func (c *conn) abort(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abortLocked(err)
}

func (c *conn) abortLocked(err error) {
	if c.state == connEnded {
		return
	}
	switch {
	case c.closeErr == nil:
		c.closeErr = &CloseError{Code: CloseAbnormalClosure, Reason: err.Error(), Err: err}
	case c.state == connClosing:
		notSent := *c.closeErr // a copy: other clients may share it
		notSent.Err = err
		c.closeErr = &notSent
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	c.socket.Abort()
}

// isClosing reports whether the connection has left connOpen. Messages from the peer
// are not handled any more then.
func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != connOpen
}

// finish closes the socket and returns why the connection ended. It gives the
// writePump linger() to write what it has. Only the readPump calls it, when it can
// read no more; err is the reason for that.
func (c *conn) finish(err error) *CloseError {
	c.mu.Lock()
	if c.state == connOpen {
		c.abortLocked(err)
	}
	if c.state == connClosing && !c.pumping { // the peer closed before the hold ended
		c.held = false
		if c.queuedPong != nil && c.tryControl(c.queuedPong) {
			c.queuedPong = nil
		}
		c.sendClose()
		c.startPump()
	}
	if c.pumping {
		c.pumpDone = sync.NewCond(&c.mu)
		timeout := time.AfterFunc(c.linger(), func() { c.abort(errFlushTimeout) })
		for c.pumping {
			c.pumpDone.Wait()
		}
		timeout.Stop()
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	closeErr := c.closeErr
	c.mu.Unlock()
	_ = c.Conn.Close() // no one could act on its error
	return closeErr
}
