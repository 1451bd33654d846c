package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// request is a frame to be written and, if it has an ID, the call that waits for
// the hub's reply to it.
type request struct {
	id    string
	frame []byte
	// onReply runs on the read loop when the reply arrives, before the next message
	// is read. It may be nil.
	onReply func(reply)
	done    chan reply // capacity 1, or nil; handleReply or end sends once, call receives; never closed

	dequeued bool          // the write loop has taken it from the queue; guarded by conn.mu
	queuedAt time.Duration // by watchedConn.now; set by enqueue
}

// reply is the hub's reply to a request, or the end of its connection.
type reply struct {
	message *websocket.Message // nil with connErr
	refusal *Error             // the error in message, or nil

	connErr error // not nil: the connection ended before a reply arrived
	sent    bool  // with connErr: the hub may have received the request
}

var errConnClosed = errors.New("websocket: connection closed")

// send queues r. It waits for space in the queue until ctx ends, and for the end of a
// connection that the client leaves. It returns errConnClosed if the connection ended before r was queued.
func (cn *conn) send(ctx context.Context, r *request) error {
	for {
		cn.mu.Lock()
		if cn.state == connClosed {
			cn.mu.Unlock()
			return errConnClosed
		}
		if !cn.leaving && (cn.queuedBytes+len(r.frame) <= cn.client.options.OutboundLimit || cn.queuedBytes == 0) {
			cn.enqueue(r)
			cn.mu.Unlock()
			return nil
		}
		if cn.space == nil {
			cn.space = make(chan struct{})
		}
		space := cn.space
		cn.mu.Unlock()
		select {
		case <-space:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendUnbounded is like send but ignores OutboundLimit and does not wait. It is for
// the client's own control messages: one per topic to restore, and one per
// subscription whose call was canceled.
func (cn *conn) sendUnbounded(r *request) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.state != connClosed {
		cn.enqueue(r)
	}
}

// sendFirst makes r the first frame of a connection that has not been started.
func (cn *conn) sendFirst(r *request) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.hello = r
	cn.pending[r.id] = r
}

// sendPing asks the write loop to write a ping.
func (cn *conn) sendPing() {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.ping = true
	cn.wakeWriter()
}

// enqueue needs cn.mu locked.
func (cn *conn) enqueue(r *request) {
	r.queuedAt = cn.socket.now()
	cn.queue = append(cn.queue, r)
	cn.queuedBytes += len(r.frame)
	if r.id != "" {
		cn.pending[r.id] = r
	}
	cn.wakeWriter()
}

// freeSpace records that n bytes have left the queue. cn.mu is locked.
func (cn *conn) freeSpace(n int) {
	cn.queuedBytes -= n
	if cn.space != nil {
		close(cn.space)
		cn.space = nil
	}
}

// cancel stops waiting for the reply to r. It returns false if the reply has
// arrived. sent reports whether the hub may have received r.
func (cn *conn) cancel(r *request) (canceled, sent bool) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.pending[r.id] != r {
		return false, false
	}
	cn.endPending(r.id)
	if !r.dequeued {
		cn.queue = slices.DeleteFunc(cn.queue, func(q *request) bool { return q == r })
		cn.freeSpace(len(r.frame))
	}
	return true, r.dequeued
}

// endPending records that no reply is awaited for an ID. cn.mu is locked.
func (cn *conn) endPending(id string) {
	delete(cn.pending, id)
	if cn.leaving {
		cn.wakeWriter() // for the Close frame
	}
}

// awaitsReply reports whether leave waits for the reply to a request. cn.mu is locked.
func (cn *conn) awaitsReply() bool { return cn.leaving && len(cn.pending) > 0 }

// handleReply passes the hub's reply to the request with this ID.
func (cn *conn) handleReply(id string, result reply) {
	cn.mu.Lock()
	r := cn.pending[id]
	cn.endPending(id)
	cn.mu.Unlock()
	if r == nil {
		return // canceled
	}
	if r.onReply != nil {
		r.onReply(result)
	}
	if r.done != nil {
		r.done <- result
	}
}
