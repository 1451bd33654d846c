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
// stays in Client.closeErr.
//
// The client has left the hub as soon as its connection has left connOpen: see leave.
// All later states concern only the socket.
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
	if c.state == connOpen {
		c.peerEnded = true
		c.closeNowLocked(&CloseError{Code: code, Reason: reason, ByPeer: true})
	}
}

// peerGone ends a connection that the peer has closed without a Close frame. The socket
// stays open for its input.
func (c *conn) peerGone(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	c.peerEnded = true
	c.leave(connCloseSent, &CloseError{Code: CloseAbnormalClosure, Reason: err.Error(), Err: err})
	c.dropQueue(dropDisconnected)
	c.dropTail()
}

// evict closes a client whose backlog is full. The caller holds mu, and the shard's
// lock.
func (c *conn) evict() {
	if c.state != connOpen {
		return
	}
	c.client.shard.counters.evicted.Add(1)
	c.startClosing(&CloseError{Code: CloseTryAgainLater, Reason: "slow consumer: backlog limit reached"})
	c.dropQueue(dropSlowConsumer)
	c.startPump()
}

// leave moves the connection out of connOpen. The client's context ends, its ID is
// free, its memberships end, and calls for it return ErrClientClosed.
func (c *conn) leave(next connState, cause *CloseError) {
	c.state = next
	c.client.closeErr.CompareAndSwap(nil, cause) // Client.Close may have set it
	c.client.hub.events.unregister(c.client)
	c.client.left()
}

func (c *conn) startClosing(cause *CloseError) {
	c.leave(connClosing, cause)
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
	code := c.client.closeErr.Load().Code
	lags := code == CloseTryAgainLater || code == CloseTimeout
	if lags && !c.client.hub.stopping() {
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
	if !c.client.closeErr.Load().ByPeer {
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
	if cause := c.client.closeErr.Load(); cause != nil && c.state <= connClosing {
		notSent := *cause // a copy: other clients may share it
		notSent.Err = err
		c.client.closeErr.Store(&notSent)
	}
	if c.state == connOpen {
		c.leave(connEnded, &CloseError{Code: CloseAbnormalClosure, Reason: err.Error(), Err: err})
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	c.socket.Abort()
}

// discardsInput reports whether the messages that are read are not handled, because the
// hub has begun to close the connection. Messages from before the peer's end are
// handled, although the client has left.
func (c *conn) discardsInput() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != connOpen && !c.peerEnded
}

// isClosing reports whether the connection has left connOpen.
func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != connOpen
}

// finish closes the socket. It gives the writePump linger() to write what it has. Only
// the readPump calls it, when it can read no more; err is the reason for that.
func (c *conn) finish(err error) {
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
	c.mu.Unlock()
	_ = c.Conn.Close() // no one could act on its error
}
