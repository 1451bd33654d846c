package websocket

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// connState is the state of a connection's outgoing side. It only moves down:
//
//	connOpen        messages are accepted and written
//	   │
//	   │ startClosing, called by
//	   │   close       Client.Close, expiry, drain, shutdown: the backlog is written first
//	   │   closeNow    a broken rule, a failed callback, silence: the backlog is dropped
//	   │   peerClosed  the peer's Close frame: as closeNow, with the peer's code
//	   │   evict       a slow consumer (backlog.go): as closeNow, counted as evicted
//	   ▼
//	connClosing     no message is accepted; the Close frame is written behind the rest
//	   │
//	   │ startLinger, when the Close frame is written
//	   ▼
//	connCloseSent   nothing is written; the peer has linger() to answer
//	   │
//	   │ finish, when the readPump can read no more
//	   ▼
//	connEnded       the socket is closed
//
// Three shortcuts: peerGone leads from connOpen to connCloseSent when the peer has closed
// the socket, abort leads from every state to connEnded without a Close frame, and finish
// completes whatever is missing.
//
// The client leaves the hub when its connection leaves connOpen: see leave. All later
// states concern only the socket. The Code and Reason of the first cause stay in
// Client.closeErr; abort adds an Err if the Close frame was not written.
//
// Methods that take no lock say that the caller holds mu.
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
		c.writeClose()
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

// closeNowLocked is closeNow for callers that hold mu.
func (c *conn) closeNowLocked(cause *CloseError) {
	if c.state != connOpen {
		return
	}
	c.startClosing(cause)
	c.dropQueue(dropDisconnected)
	if len(c.tail) == 0 {
		c.writeClose()
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

// leave moves the connection out of connOpen. The client's context ends, its ID is
// free, its memberships end, and calls for it return ErrClientClosed. The caller holds
// mu.
func (c *conn) leave(next connState, cause *CloseError) {
	c.state = next
	c.client.closeErr.CompareAndSwap(nil, cause) // Client.Close may have set it
	c.client.hub.events.unregister(c.client)
	c.client.left()
	c.endSilence()
}

// startClosing makes the Close frame, which the caller or the writePump writes. The
// caller holds mu.
func (c *conn) startClosing(cause *CloseError) {
	c.leave(connClosing, cause)
	reason := cause.Reason
	if cause.ByPeer {
		reason = "" // the answer repeats the code only
	}
	c.closeFrame = wsproto.CloseFrame(cause.Code, reason)
}

// writeClose writes the Close frame if the socket may be written to. Otherwise the
// writePump writes it. The caller holds mu.
func (c *conn) writeClose() {
	if !c.tryControl(c.closeFrame) || c.state != connClosing { // tryControl may have aborted
		return
	}
	if len(c.tail) > 0 { // the rest of the frame, which the writePump writes
		c.closeFrame = nil
		return
	}
	c.startLinger()
}

// The peer has closeLinger to answer the Close frame, or to accept the rest of it. After
// that the socket is closed, and a peer that still writes to it gets a TCP reset and may
// lose the close code. A peer that is closed for being slow or silent needs longer to read
// as far as the Close frame: it has lagLinger, unless the hub shuts down.
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

// startLinger begins the wait for the peer to answer the Close frame or to close the
// socket. Closing the socket at once would reset the connection if there is unread input.
// The caller holds mu.
func (c *conn) startLinger() {
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

// hasEnded reports whether the socket is closed, or about to be.
func (c *conn) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state == connEnded
}

// finish closes the socket. It gives the writePump linger() to write what it has. Only
// the readPump calls it, when it can read no more, with the error of its last read.
func (c *conn) finish(err error) {
	c.mu.Lock()
	if c.state == connOpen {
		c.abortLocked(err)
	}
	if c.state == connClosing && !c.pumping { // reading has ended before onConnect's hold did
		c.held = false
		if c.hasPong() && c.tryControl(c.notes.queuedPong) {
			c.notes.queuedPong = nil
		}
		c.writeClose()
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
	c.client.ended()
}

// ended counts the end of the connection, and logs it. It runs on the readPump without a
// lock, so that a slow Logger delays only OnDisconnect of this client.
func (c *Client) ended() {
	e := c.closeErr.Load()
	side, by := "hub", 0
	if e.byPeer() {
		side, by = "peer", 1
	}
	i := closeIndex(e.Code)
	c.shard.counters.closes[i][by].Add(1)
	level := e.logLevel()
	if !c.hub.logger.enabled(&c.kept.values, level) {
		return
	}
	fields := []slog.Attr{
		slog.Int("code", e.Code), peerText("reason", e.Reason), slog.String("by", side), peerText("client", c.ID), peerText("address", c.hub.addressText(c.addressed())),
		slog.Duration("age", time.Duration(c.hub.clock()-c.connectedAt).Round(time.Millisecond)), slog.Uint64("dropped", uint64(c.dropped.Load())),
	}
	if e.Err != nil && e.Code != CloseAbnormalClosure { // otherwise it is the reason
		fields = append(fields, peerText("error", e.Err.Error()))
	}
	if level == slog.LevelDebug {
		c.hub.log(&c.kept.values, level, "connection closed", fields...)
	} else {
		c.hub.logFields(&c.kept.values, fmt.Sprintf("closed by %s: %d", side, closeCodes[i]), level, "connection closed", fields...)
	}
}

// byPeer reports whether the peer closed or cut the connection, or the network failed.
func (e *CloseError) byPeer() bool { return e.ByPeer || e.Code == CloseAbnormalClosure && !e.byHub() }

// byHub reports whether the hub has aborted a connection that it was not closing.
func (e *CloseError) byHub() bool {
	own := []error{errWriteTimeout, errReadPumpEnded, errWritePumpEnded, errDrainTimeout, errFlushTimeout}
	return slices.ContainsFunc(own, func(err error) bool { return errors.Is(e.Err, err) })
}

// logLevel returns the level of the line about the end of a connection. It is a warning if
// the hub has aborted the connection or evicted the client, if a message violates a policy,
// or if a callback has failed.
func (e *CloseError) logLevel() slog.Level {
	switch {
	case e.byPeer():
		switch e.Code {
		case CloseNormalClosure, CloseGoingAway, CloseNoStatusReceived, CloseAbnormalClosure:
			return slog.LevelDebug
		}
		return slog.LevelInfo
	case e.Code == ClosePolicyViolation, e.Code == CloseInternalError, e.Code == CloseTryAgainLater, e.Code == CloseAbnormalClosure:
		return slog.LevelWarn
	default:
		return slog.LevelInfo
	}
}
