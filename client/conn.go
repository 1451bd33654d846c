package client

import (
	"compress/flate"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	gorilla "github.com/gorilla/websocket"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// conn is one connection, from the handshake to its end. Its reader alone reads
// and its writer alone writes; the reader waits for nobody but the network.
type conn struct {
	client *Client
	ws     *gorilla.Conn
	wire   *wire

	wake    chan struct{} // capacity 1; whoever gives the writer work sends, the writer receives; never closed
	stop    chan struct{} // closed by shut: the writer has nothing more to do
	read    chan struct{} // closed by the reader when it ends
	written chan struct{} // closed by the writer when it ends

	mu       sync.Mutex
	queue    []*request
	queued   int                 // bytes in queue
	room     chan struct{}       // closed when queue shrinks or the connection is lost; nil while nobody waits for that
	pending  map[string]*request // by ID; answered by the reader
	hail     bool                // a first ping is to be written, ahead of everything
	hailed   func()              // called by the reader when it is answered; then nil
	pong     *string             // payload of the latest ping that is not answered
	goodbye  []byte              // payload of the Close frame, once closing
	hurry    bool                // goodbye does not wait for queue
	ending   *websocket.CloseError
	deadline *time.Timer // cuts a connection that does not end by itself
	clean    bool        // both Close frames have been seen
	lost     bool        // no more requests are taken
}

// request is a frame on its way out and, with an ID, what waits for its answer.
type request struct {
	id    string
	frame []byte
	// answered runs on the reader, before anything that came after the answer is
	// looked at. It may be nil.
	answered func(answer)
	done     chan answer // capacity 1, or nil; the reader or lose sends once, ask receives; never closed

	taken bool // by the writer; guarded by conn.mu
}

// answer is how a request ended.
type answer struct {
	refusal   *Error
	timestamp int64 // the hub's
	lost      error // the connection ended first, for this reason
	sent      bool  // with lost: the hub may have got the request
}

func newConn(c *Client, ws *gorilla.Conn, w *wire) *conn {
	return &conn{
		client: c, ws: ws, wire: w,
		wake:    make(chan struct{}, 1),
		stop:    make(chan struct{}),
		read:    make(chan struct{}),
		written: make(chan struct{}),
		pending: make(map[string]*request),
		hail:    true,
	}
}

// start lets both goroutines begin.
func (cn *conn) start() {
	cn.wire.arm()
	go cn.readLoop()  // ends with the connection, and closes read
	go cn.writeLoop() // ends after the Close frame, or with the connection, and closes written
}

// send queues r and waits for room until ctx ends. It returns errLost when the
// connection ended first; r is not sent then.
func (cn *conn) send(ctx context.Context, r *request) error {
	for {
		cn.mu.Lock()
		if cn.lost {
			cn.mu.Unlock()
			return errLost
		}
		if cn.queued+len(r.frame) <= cn.client.options.OutboundLimit || cn.queued == 0 {
			cn.put(r)
			cn.mu.Unlock()
			return nil
		}
		if cn.room == nil {
			cn.room = make(chan struct{})
		}
		room := cn.room
		cn.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// push is send without a bound, for what the client owes the hub: as many frames
// as there are topics to restore, and one for each subscription that was given up.
func (cn *conn) push(r *request) bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.lost {
		return false
	}
	cn.put(r)
	return true
}

func (cn *conn) put(r *request) {
	cn.queue = append(cn.queue, r)
	cn.queued += len(r.frame)
	if r.id != "" {
		cn.pending[r.id] = r
	}
	cn.notify()
}

// notify wakes the writer.
func (cn *conn) notify() {
	select {
	case cn.wake <- struct{}{}:
	default: // awake or about to be
	}
}

// abandon gives up on r. If its answer is there already, or on its way to done,
// it returns false. sent says that the hub may have got r.
func (cn *conn) abandon(r *request) (abandoned, sent bool) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.pending[r.id] != r {
		return false, false
	}
	delete(cn.pending, r.id)
	if !r.taken {
		cn.queue = slices.DeleteFunc(cn.queue, func(q *request) bool { return q == r })
		cn.shrunk(len(r.frame))
	}
	return true, r.taken
}

func (cn *conn) shrunk(n int) {
	cn.queued -= n
	if cn.room != nil {
		close(cn.room)
		cn.room = nil
	}
}

// lose ends every request that waits. The reader has ended.
func (cn *conn) lose(why error) {
	cn.mu.Lock()
	pending := cn.pending
	cn.lost = true
	cn.pending, cn.queue = nil, nil
	cn.shrunk(cn.queued)
	cn.mu.Unlock()
	for _, r := range pending {
		if r.done != nil {
			r.done <- answer{lost: why, sent: r.taken} // nobody changes taken any more
		}
	}
}

// settle hands the hub's answer to the request that waits for it.
func (cn *conn) settle(id string, a answer) {
	cn.mu.Lock()
	r := cn.pending[id]
	delete(cn.pending, id)
	cn.mu.Unlock()
	if r == nil {
		return // given up; its caller was told so
	}
	if r.answered != nil {
		r.answered(a)
	}
	if r.done != nil {
		r.done <- a
	}
}

// step is what the writer does next.
type step uint8

const (
	stepWait step = iota
	stepFrame
	stepPing
	stepPong
	stepClose
)

// next takes what is to be written now. paced says that the queue has to wait.
func (cn *conn) next(paced bool) (what step, payload []byte) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	switch {
	case cn.goodbye != nil && (cn.hurry || len(cn.queue) == 0):
		return stepClose, cn.goodbye
	case cn.hail:
		cn.hail = false
		return stepPing, nil
	case cn.pong != nil:
		payload = []byte(*cn.pong)
		cn.pong = nil
		return stepPong, payload
	case len(cn.queue) > 0 && (!paced || cn.goodbye != nil):
		r := cn.queue[0]
		cn.queue[0] = nil
		cn.queue = cn.queue[1:]
		r.taken = true
		cn.shrunk(len(r.frame))
		return stepFrame, r.frame
	default:
		return stepWait, nil
	}
}

// minDeflate is the size in bytes from which frames are deflated, if that was
// agreed: smaller ones hardly shrink.
const minDeflate = 256

func (cn *conn) writeLoop() {
	defer close(cn.written)
	o := &cn.client.options
	ping := time.NewTimer(o.PingPeriod)
	defer ping.Stop()
	until := func() time.Time { return time.Now().Add(o.WriteTimeout) }
	messages, bytes := pace{rate: o.MessageRate}, pace{rate: o.ByteRate}
	var resume time.Time
	for {
		var err error
		delay := time.Until(resume)
		switch what, payload := cn.next(delay > 0); what {
		case stepFrame:
			now := time.Now()
			resume = messages.spend(1, now)
			if at := bytes.spend(len(payload), now); at.After(resume) {
				resume = at
			}
			cn.ws.EnableWriteCompression(len(payload) >= minDeflate)
			_ = cn.ws.SetWriteDeadline(until()) // only keeps it
			err = cn.ws.WriteMessage(cn.client.frameType, payload)
		case stepPing:
			err = cn.ws.WriteControl(gorilla.PingMessage, nil, until())
		case stepPong:
			err = cn.ws.WriteControl(gorilla.PongMessage, payload, until())
		case stepClose:
			if err = cn.ws.WriteControl(gorilla.CloseMessage, payload, until()); err == nil {
				return
			}
		case stepWait:
			var paced <-chan time.Time
			if delay > 0 {
				paced = time.After(delay)
			}
			select {
			case <-cn.wake:
			case <-paced:
			case <-cn.stop:
				return
			case <-ping.C:
				silence := cn.wire.silence()
				if silence >= o.PingPeriod {
					err = cn.ws.WriteControl(gorilla.PingMessage, nil, until())
					silence = 0
				}
				ping.Reset(o.PingPeriod - silence)
			}
		}
		if err != nil {
			cn.kill(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: "write: " + err.Error()})
			return
		}
	}
}

// kill ends the connection without a word. The first reason stays.
func (cn *conn) kill(why *websocket.CloseError) {
	cn.mu.Lock()
	cn.end(why)
	cn.mu.Unlock()
	cn.wire.cut()
}

// close says goodbye, after what is queued or in a hurry before it, and gives the
// hub as long as timeout to answer. It does not wait.
func (cn *conn) close(why *websocket.CloseError, hurry bool, timeout time.Duration) {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	cn.end(why)
	cn.hurry = cn.hurry || hurry
	if cn.goodbye != nil {
		return
	}
	reason := why.Reason
	if why.ByPeer {
		reason = ""
	}
	cn.goodbye = gorilla.FormatCloseMessage(why.Code, trimReason(reason))
	cn.deadline = time.AfterFunc(timeout, cn.wire.cut) // stopped by shut
	cn.notify()
}

func (cn *conn) end(why *websocket.CloseError) {
	if cn.ending == nil {
		cn.ending = why
	}
}

// maxReason is what a Close frame has room for (RFC 6455 section 5.5).
const maxReason = 123

func trimReason(reason string) string {
	if len(reason) > maxReason {
		reason = reason[:maxReason]
	}
	return strings.ToValidUTF8(reason, "")
}

// linger bounds the wait for the hub's Close when the client has found a fault,
// and for the writer when the hub has closed.
const linger = time.Second

// fail closes because of what the hub sent.
func (cn *conn) fail(code int, format string, args ...any) {
	cn.close(&websocket.CloseError{Code: code, Reason: fmt.Sprintf(format, args...)}, true, linger)
}

// shut waits for the end of both goroutines and returns why the connection ended.
func (cn *conn) shut() *websocket.CloseError {
	<-cn.read
	cn.mu.Lock()
	answering := cn.goodbye != nil
	cn.mu.Unlock()
	if answering {
		timer := time.NewTimer(linger)
		select {
		case <-cn.written:
		case <-timer.C:
		}
		timer.Stop()
	}
	cn.wire.cut()
	close(cn.stop)
	<-cn.written
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if cn.deadline != nil {
		cn.deadline.Stop()
	}
	return cn.ending
}

func (cn *conn) readLoop() {
	defer close(cn.read)
	cn.ws.SetReadLimit(readLimit(cn.client.options.MaxReceiveSize))
	cn.ws.SetPongHandler(func(string) error {
		if cn.hailed != nil {
			cn.hailed()
			cn.hailed = nil
		}
		return nil
	})
	cn.ws.SetPingHandler(func(payload string) error {
		cn.mu.Lock()
		cn.pong = &payload // the latest is enough (RFC 6455 section 5.5.3)
		cn.mu.Unlock()
		cn.notify()
		return nil
	})
	cn.ws.SetCloseHandler(func(int, string) error { return nil }) // answered by readEnded
	for {
		messageType, r, err := cn.ws.NextReader()
		if err == nil {
			err = cn.readMessage(messageType, r)
		}
		if err != nil {
			cn.readEnded(err)
			return
		}
	}
}

// readLimit is the most that a message of size bytes may take on the wire:
// deflate makes incompressible data five bytes longer per 16 KiB or so.
func readLimit(size int64) int64 { return size + size>>10 + 256 }

// readEnded turns a reading error into how the connection ended.
func (cn *conn) readEnded(err error) {
	var closed *gorilla.CloseError
	switch {
	case errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure:
		cn.mu.Lock()
		cn.clean = true
		cn.mu.Unlock()
		cn.close(&websocket.CloseError{Code: closed.Code, Reason: closed.Text, ByPeer: true}, true, linger)
		return
	case errors.Is(err, gorilla.ErrReadLimit):
		cn.kill(cn.tooBig())
	case isTimeout(err):
		cn.kill(&websocket.CloseError{Code: websocket.CloseTimeout, Reason: fmt.Sprintf("nothing received for %v", cn.wire.timeout)})
	case strings.HasPrefix(err.Error(), "websocket: ") && closed == nil: // gorilla's faults of the peer have no type
		cn.kill(&websocket.CloseError{Code: websocket.CloseProtocolError, Reason: err.Error()})
	default:
		cn.kill(&websocket.CloseError{Code: websocket.CloseAbnormalClosure, Reason: err.Error()})
	}
}

func (cn *conn) tooBig() *websocket.CloseError {
	return &websocket.CloseError{
		Code:   websocket.CloseMessageTooBig,
		Reason: fmt.Sprintf("message is larger than %d bytes", cn.client.options.MaxReceiveSize),
	}
}

// readMessage reads one message and passes it on. Its error is the connection's;
// a message that breaks a rule closes the connection by itself, with a reason.
func (cn *conn) readMessage(messageType int, r io.Reader) error {
	limit := cn.client.options.MaxReceiveSize
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	var corrupt flate.CorruptInputError
	switch {
	case errors.As(err, &corrupt), err == io.ErrUnexpectedEOF:
		cn.fail(websocket.CloseInvalidPayloadData, "message does not inflate: %v", err)
		return nil
	case err != nil:
		return err
	case int64(len(b)) > limit:
		cn.close(cn.tooBig(), true, linger)
		return nil
	case cn.failed():
		return nil // discarded on the way to the hub's Close
	}
	m := new(websocket.Message)
	if cn.decode(messageType, b, m) {
		cn.client.receive(cn, m)
	}
	return nil
}

// failed reports whether messages from the hub are no longer wanted.
func (cn *conn) failed() bool {
	cn.mu.Lock()
	defer cn.mu.Unlock()
	return cn.goodbye != nil && cn.hurry
}

// decode takes a whole message in: frame type, UTF-8, keys, codec.
func (cn *conn) decode(messageType int, b []byte, m *websocket.Message) bool {
	c := cn.client
	if messageType != c.frameType {
		cn.fail(websocket.CloseUnsupportedData, "hub sent a %s frame, want %s", frameTypeName(messageType), frameTypeName(c.frameType))
		return false
	}
	if messageType == websocket.TextMessage && !utf8.Valid(b) {
		cn.fail(websocket.CloseInvalidPayloadData, "text is not UTF-8")
		return false
	}
	if c.keys != nil {
		opened, err := c.keys.Open(b)
		if err != nil {
			cn.fail(websocket.ClosePolicyViolation, "message does not open: %v", err)
			return false
		}
		b = opened
	}
	if err := c.codec.Unmarshal(b, m); err != nil {
		cn.fail(websocket.CloseInvalidPayloadData, "%v", err)
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

var errLost = errors.New("websocket: connection lost")
