package client

import (
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	gorilla "github.com/gorilla/websocket"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// connState is the state of a conn. It only moves to the right:
//
//	open ──close──▶ draining ──closeNow──▶ closing ──end──▶ closed
//	  │                                       ▲
//	  └───────────────closeNow────────────────┘
//
// abort closes the socket in any state. It sends no Close frame and does not change
// the state. Both loops then fail and return. Once both loops have returned, end
// moves any state to closed.
type connState uint8

const (
	connOpen     connState = iota // requests are written, messages are handled
	connDraining                  // as connOpen, and the Close frame follows when the queue is empty; see also leave
	connClosing                   // the Close frame is written before the queue, messages are discarded
	connClosed                    // both loops have returned, requests are refused
)

// conn is one connection, from the end of the handshake to the end of both loops.
// Only the read loop reads and only the write loop writes. The read loop blocks on
// nothing but the network.
type conn struct {
	client *Client
	ws     *gorilla.Conn
	socket *watchedConn

	wake       chan struct{} // capacity 1; wakeWriter sends, the write loop receives; never closed
	stopWriter chan struct{} // closed by wait: the read loop has returned
	readDone   chan struct{} // closed by the read loop when it returns
	writeDone  chan struct{} // closed by the write loop when it returns
	ended      chan struct{} // closed by end

	ctx    context.Context // of handlers of requests; canceled by wait
	endCtx context.CancelFunc

	ready <-chan struct{} // closed when the client is Connected; set by attach

	onPong func() // used by the read loop only

	mu          sync.Mutex // guards the fields below
	state       connState
	cause       *websocket.CloseError // why the connection ends; the first cause is kept
	closeFrame  []byte                // payload of the Close frame; set when the state leaves open
	closeTimer  *time.Timer           // aborts a connection that takes too long to close; started with closeFrame
	peerClosed  bool                  // the hub's Close frame has arrived
	queue       []*request            // to be written
	queuedBytes int
	space       chan struct{}       // closed when queuedBytes shrinks; nil if no call waits for that
	pending     map[string]*request // requests without a reply, by ID
	hello       *request            // is written before all else; nil if it is written
	ping        bool                // a ping is to be written before the queue
	pong        *string             // payload of the latest unanswered ping
	pacing      pacing
	heartbeat   *time.Timer   // runs beat; nil without a heartbeat
	leaveTimer  *time.Timer   // runs leave; nil before hub:goaway
	leaving     bool          // leave has begun to close the connection: requests wait for the next one
	probed      time.Duration // time of the heartbeat's latest ping by socket.now; 0 if something was received since
}

func newConn(c *Client, ws *gorilla.Conn, socket *watchedConn) *conn {
	ctx, cancel := context.WithCancel(c.ctx)
	return &conn{
		ctx: ctx, endCtx: cancel,
		client: c, ws: ws, socket: socket,
		wake:       make(chan struct{}, 1),
		stopWriter: make(chan struct{}),
		readDone:   make(chan struct{}),
		writeDone:  make(chan struct{}),
		ended:      make(chan struct{}),
		pending:    make(map[string]*request),
		ping:       true,
	}
}

func (cn *conn) isReady() bool {
	select {
	case <-cn.ready:
		return true
	default:
		return false
	}
}

// start starts both loops.
func (cn *conn) start() {
	cn.socket.start()
	cn.mu.Lock()
	cn.startHeartbeat()
	cn.mu.Unlock()
	go cn.readLoop()  // ends with the connection, and closes readDone
	go cn.writeLoop() // ends after the Close frame or with the connection, and closes writeDone
}

// wakeWriter tells the write loop that there is something to write.
func (cn *conn) wakeWriter() {
	select {
	case cn.wake <- struct{}{}:
	default: // the write loop has not received the previous wake-up yet
	}
}

// step is the next action of the write loop.
type step uint8

const (
	stepWait step = iota
	stepMessage
	stepPing
	stepPong
	stepClose
)

// nextStep returns the write loop's next action and the payload to write. While
// rateLimited, the queue waits unless the connection is closing.
func (cn *conn) nextStep(rateLimited bool) (next step, payload []byte) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	switch {
	case cn.state == connClosing || cn.state == connDraining && len(cn.queue) == 0 && !cn.awaitsReply():
		return stepClose, cn.closeFrame
	case cn.hello != nil:
		r := cn.hello
		cn.hello = nil
		r.dequeued = true
		return stepMessage, r.frame
	case cn.ping:
		cn.ping = false
		return stepPing, nil
	case cn.pong != nil:
		payload = []byte(*cn.pong)
		cn.pong = nil
		return stepPong, payload
	case len(cn.queue) > 0 && (!rateLimited || cn.state == connDraining):
		r := cn.queue[0]
		cn.queue[0] = nil
		cn.queue = cn.queue[1:]
		r.dequeued = true
		cn.freeSpace(len(r.frame))
		return stepMessage, r.frame
	default:
		return stepWait, nil
	}
}

// minDeflate is the size in bytes from which messages are compressed if the
// handshake agreed on compression. Smaller ones hardly shrink.
const minDeflate = 256

func (cn *conn) writeLoop() {
	defer close(cn.writeDone)
	o := &cn.client.options
	deadline := func() time.Time { return time.Now().Add(o.WriteTimeout) }
	var messages, bytes rateLimit
	var resume time.Time // when the rate limits allow the next message
	for {
		var err error
		delay := time.Until(resume)
		switch next, payload := cn.nextStep(delay > 0); next {
		case stepMessage:
			now := time.Now()
			rates := cn.rates()
			resume = messages.spend(1, rates.messageRate, now)
			if at := bytes.spend(len(payload), rates.byteRate, now); at.After(resume) {
				resume = at
			}
			cn.ws.EnableWriteCompression(len(payload) >= minDeflate)
			_ = cn.ws.SetWriteDeadline(deadline()) // never fails: gorilla only stores it
			err = cn.ws.WriteMessage(cn.client.frameType, payload)
		case stepPing:
			err = cn.ws.WriteControl(gorilla.PingMessage, nil, deadline())
		case stepPong:
			err = cn.ws.WriteControl(gorilla.PongMessage, payload, deadline())
		case stepClose:
			if err = cn.ws.WriteControl(gorilla.CloseMessage, payload, deadline()); err == nil {
				return
			}
		case stepWait:
			var rateAllows <-chan time.Time
			if delay > 0 {
				rateAllows = time.After(delay)
			}
			select {
			case <-cn.wake:
			case <-rateAllows:
			case <-cn.stopWriter:
				return
			}
		}
		if err != nil {
			cn.abort(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: "write: " + err.Error()})
			return
		}
	}
}

// lingerTimeout is the time that closeNow gives the hub to send its Close frame,
// and that wait gives the write loop to write ours.
const lingerTimeout = time.Second

// close moves an open connection to draining: the Close frame follows the queue. It
// does not wait. The connection is aborted if it has not ended after timeout.
func (cn *conn) close(cause *websocket.CloseError, timeout time.Duration) {
	cn.startClosing(connDraining, cause, timeout)
}

// closeNow moves an open or draining connection to closing: the Close frame is
// written next and the queue is not written any more. It does not wait. The
// connection is aborted if it has not ended after lingerTimeout, or after close's
// timeout if it was draining.
func (cn *conn) closeNow(cause *websocket.CloseError) {
	cn.startClosing(connClosing, cause, lingerTimeout)
}

func (cn *conn) startClosing(next connState, cause *websocket.CloseError, timeout time.Duration) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.setCause(cause)
	if cn.state == connOpen {
		reason := cause.Reason
		if cause.ByPeer {
			reason = "" // our Close frame repeats only the hub's code
		}
		cn.closeFrame = gorilla.FormatCloseMessage(cause.Code, wsproto.TrimReason(reason))
		cn.closeTimer = time.AfterFunc(timeout, cn.socket.abort) // stopped by wait
		cn.wakeWriter()
	}
	cn.state = max(cn.state, next)
}

// abort closes the socket without a Close frame.
func (cn *conn) abort(cause *websocket.CloseError) {
	cn.mu.Lock()
	cn.setCause(cause)
	cn.mu.Unlock()
	cn.socket.abort()
}

// setCause needs cn.mu locked.
func (cn *conn) setCause(cause *websocket.CloseError) {
	if cn.cause == nil {
		cn.cause = cause
	}
}

// wait waits until both loops have returned. It returns why the connection ended.
func (cn *conn) wait() *websocket.CloseError {
	<-cn.readDone
	cn.endCtx()
	cn.mu.Lock()
	closeFramePending := cn.state != connOpen
	cn.mu.Unlock()
	if closeFramePending {
		timer := time.NewTimer(lingerTimeout)
		select {
		case <-cn.writeDone:
		case <-timer.C:
		}
		timer.Stop()
	}
	cn.socket.abort()
	close(cn.stopWriter)
	<-cn.writeDone
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.closeTimer != nil {
		cn.closeTimer.Stop()
	}
	if cn.heartbeat != nil {
		cn.heartbeat.Stop()
	}
	if cn.leaveTimer != nil {
		cn.leaveTimer.Stop()
	}
	return cn.cause
}

// end moves the connection to closed and fails all pending requests with connErr.
// Both loops have returned.
func (cn *conn) end(connErr error) {
	cn.mu.Lock()
	pending := cn.pending
	cn.state = connClosed
	cn.pending, cn.queue = nil, nil
	cn.freeSpace(cn.queuedBytes)
	close(cn.ended)
	cn.mu.Unlock()
	for _, r := range pending {
		if r.done != nil {
			r.done <- reply{connErr: connErr, sent: r.dequeued} // without the write loop dequeued is constant
		}
	}
}

func (cn *conn) readLoop() {
	defer close(cn.readDone)
	cn.ws.SetReadLimit(wsproto.WireLimit(cn.client.options.MaxReceiveSize))
	cn.ws.SetPongHandler(func(string) error {
		cn.onPong()
		return nil
	})
	cn.ws.SetPingHandler(func(payload string) error {
		cn.mu.Lock()
		cn.pong = &payload // only the latest ping needs a pong (RFC 6455 section 5.5.3)
		cn.mu.Unlock()
		cn.wakeWriter()
		return nil
	})
	cn.ws.SetCloseHandler(func(int, string) error { return nil }) // readFailed replies to the Close frame
	for {
		messageType, r, err := cn.ws.NextReader()
		if err == nil {
			err = cn.readMessage(messageType, r)
		}
		if err != nil {
			cn.readFailed(err)
			return
		}
	}
}

// readFailed closes or aborts the connection because of a read error, with the
// close code for that error.
func (cn *conn) readFailed(err error) {
	var closed *gorilla.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		cn.mu.Lock()
		cn.peerClosed = true
		cn.mu.Unlock()
		cn.closeNow(&websocket.CloseError{Code: closed.Code, Reason: closed.Text, ByPeer: true})
		return
	case errors.Is(err, gorilla.ErrReadLimit):
		cn.abort(cn.tooBig())
	case strings.HasPrefix(err.Error(), "websocket: ") && closed == nil: // gorilla has no error type for protocol errors
		cn.abort(&websocket.CloseError{Code: websocket.CloseProtocolError, Reason: err.Error()})
	default:
		cn.abort(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: err.Error()})
	}
}

func closeErrorf(code int, format string, args ...any) *websocket.CloseError {
	return &websocket.CloseError{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func (cn *conn) tooBig() *websocket.CloseError {
	return closeErrorf(websocket.CloseMessageTooBig, "message is larger than %d bytes", cn.client.options.MaxReceiveSize)
}

// readMessage reads one message and passes it to the client. It returns an error if
// the connection cannot be read from any more. A message that breaks a rule is not
// such an error: readMessage closes the connection and returns nil, so that the
// read loop goes on to the hub's Close frame.
func (cn *conn) readMessage(messageType int, r io.Reader) error {
	limit := cn.client.options.MaxReceiveSize
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &corrupt), errors.Is(err, io.ErrUnexpectedEOF):
		cn.closeNow(closeErrorf(websocket.CloseInvalidPayloadData, "message does not inflate: %v", err))
		return nil
	case err != nil:
		return err
	case int64(len(b)) > limit:
		cn.closeNow(cn.tooBig())
		return nil
	case cn.discarding():
		return nil
	}
	m := new(websocket.Message)
	if cn.decode(messageType, b, m) {
		cn.client.receive(cn, m)
	}
	return nil
}

// discarding reports whether messages from the hub are discarded.
func (cn *conn) discarding() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.state >= connClosing
}

// decode checks and opens the payload of a message and unmarshals it into m. If
// that fails, it closes the connection and returns false.
func (cn *conn) decode(messageType int, b []byte, m *websocket.Message) bool {
	c := cn.client
	if messageType != c.frameType {
		cn.closeNow(closeErrorf(websocket.CloseUnsupportedData, "hub sent a %s frame, want %s", frameTypeName(messageType), frameTypeName(c.frameType)))
		return false
	}
	if messageType == websocket.TextMessage && !utf8.Valid(b) {
		cn.closeNow(closeErrorf(websocket.CloseInvalidPayloadData, "text is not UTF-8"))
		return false
	}
	if c.keys != nil {
		opened, err := c.keys.Open(b)
		if err != nil {
			cn.closeNow(closeErrorf(websocket.ClosePolicyViolation, "message does not open: %v", err))
			return false
		}
		b = opened
	}
	if err := c.codec.Unmarshal(b, m); err != nil {
		cn.closeNow(closeErrorf(websocket.CloseInvalidPayloadData, "%v", err))
		return false
	}
	return true
}

func frameTypeName(messageType int) string {
	if messageType == websocket.TextMessage {
		return "text"
	}
	return "binary"
}
