package websocket

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/flate"
)

// readPump reads from one client until it hibernates or its connection ends, and ends the
// client in the hub. The deferred calls also run when a callback ends the goroutine.
func (c *Client) readPump() {
	err := errReadPumpEnded
	defer func() {
		if !errors.Is(err, errHibernating) {
			defer c.hub.connectionDone(c, c.addressCount)
			c.disconnect(err)
		}
	}()
	if c.conn.in == nil {
		c.hub.upgrader.awaken(&c.conn)
	}
	if err = c.readMessages(); !errors.Is(err, errHibernating) {
		c.discardInput()
	}
}

// disconnect waits for the end of the connection, which the client may have left
// before (see conn.leave), and runs the last callbacks.
func (c *Client) disconnect(err error) {
	c.conn.finish(err)
	c.conn.endAhead()
	c.conn.dropReader()
	c.hub.events.forget(c)
	if c.hub.node != nil {
		c.hub.node.finishJoins(c)
	}
	c.hooks.finish(c)
	c.waitForHandlers()
	if c.hub.onDisconnect != nil {
		c.hub.runCallback(c, callingDisconnect, func() { c.hub.onDisconnect(c) })
	}
	if c.lastTopics != nil {
		c.hub.events.forgetTopics(c)
	}
}

// readMessages handles messages until nothing more can be read, and returns the reason.
func (c *Client) readMessages() error {
	for {
		if err := c.nextFrame(); err != nil {
			return readError(err)
		}
		messageType, r, err := c.conn.in.ws.NextReader()
		if err == nil {
			err = c.readMessage(messageType, r)
		}
		if err != nil {
			return readError(err)
		}
	}
}

// readMessage reads and handles one message. It returns an error if the connection
// cannot be read any more. A message that breaks a rule closes the connection and is no
// error: reading goes on until the peer has answered.
func (c *Client) readMessage(messageType int, r io.Reader) error {
	limit := c.hub.config.MaxMessageSize
	buf := getBuffer(smallMessage)
	held := int64(0)
	defer func() {
		c.charge(-held)
		putBuffer(buf)
	}()
	var err error
	if err = c.readWhole(buf, r, &held); err != nil {
		return err // over the limit, the frame checker has closed the connection already
	}
	compressed := c.conn.in.checker.NextCompressed()
	if c.conn.discardsInput() {
		return nil
	}
	message := buf.b
	if compressed {
		out := getBuffer(int(min(4*int64(len(message)), limit)))
		defer func() { putBuffer(out) }()
		out.b, err = flate.AppendInflated(out.b, message, limit)
		c.conn.in.bytes.spend(len(out.b))
		c.hold(&held, cap(out.b))
		if err != nil && !errors.Is(err, flate.ErrTooBig) {
			c.conn.closeNow(CloseInvalidPayloadData, "compressed data is corrupt")
			return nil
		}
		message = out.b
	}
	if int64(len(message)) > limit {
		what := "message" // inflating stops at the limit, so the size is not known
		if !compressed {
			what = fmt.Sprintf("message of %d bytes", len(message))
		}
		c.conn.closeNow(CloseMessageTooBig, fmt.Sprintf("%s is larger than %d bytes", what, limit))
		return nil
	}
	c.conn.replyToPing()        // now, because the callback may take long
	c.hold(&held, len(message)) // the decoded copy
	c.handling.Store(true)
	c.handle(messageType, message)
	return nil
}

// smallMessage is the size of the buffers that are not counted against the budget.
const smallMessage = 512

// hold charges the client for a buffer of a message, unless it is small.
func (c *Client) hold(held *int64, size int) {
	if size > smallMessage {
		c.charge(int64(size))
		*held += int64(size)
	}
}

// readWhole reads a message to its end into buf, within MessageTimeout. It adds to held
// what the client is charged for the buffer.
func (c *Client) readWhole(buf *buffer, r io.Reader, held *int64) error {
	limit := c.conn.in.checker.Limit()
	c.conn.in.inMessage = true
	defer c.conn.in.endMessage()
	for {
		if len(buf.b) == cap(buf.b) {
			buf.b = append(buf.b, 0)[:len(buf.b)]
			c.charge(int64(cap(buf.b)) - *held)
			*held = int64(cap(buf.b))
		}
		n, err := r.Read(buf.b[len(buf.b):cap(buf.b)])
		buf.b = buf.b[:len(buf.b)+n]
		switch {
		case int64(len(buf.b)) > limit:
			return flate.ErrTooBig
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// handle checks the frame type and UTF-8, opens and decodes the message, calls onMessage,
// and carries out the control message that onMessage leaves.
func (c *Client) handle(messageType int, b []byte) {
	keys := c.openKeys.Load()
	want := c.codec.WebSocketMessageType()
	if keys != nil {
		want = BinaryMessage
	}
	if messageType != want {
		c.conn.closeNow(CloseUnsupportedData, fmt.Sprintf("%s client must send %s frames", c.describe(keys), frameTypeName(want)))
		return
	}
	if messageType == TextMessage && !utf8.Valid(b) {
		c.conn.closeNow(CloseInvalidPayloadData, "text is not UTF-8")
		return
	}
	if keys != nil {
		opened, err := keys.Open(b)
		if err != nil {
			c.hub.log(&c.kept.values, slog.LevelDebug, "message does not open", peerText("client", c.ID), slog.String("error", err.Error()))
			c.conn.closeNow(ClosePolicyViolation, "message does not open")
			return
		}
		b = opened
	}
	m := inboundPool.Get().(*Message)
	defer func() { *m = Message{}; inboundPool.Put(m) }()
	if err := c.codec.Unmarshal(b, m); err != nil {
		if c.hub.config.IgnoreMalformed {
			c.shard.counters.messagesIgnored.Add(1)
			c.hub.log(&c.kept.values, slog.LevelDebug, "message ignored", peerText("client", c.ID), peerText("error", err.Error()))
			return
		}
		c.conn.closeNow(CloseInvalidPayloadData, err.Error())
		return
	}
	at := time.Now() // also for the duration of onMessage: reading the clock is most of the cost of that
	began, now := c.hub.clockAt(at), at.UnixNano()
	m.ClientID, m.Timestamp, m.Trace = c.ID, now, validTrace(m.Trace)
	c.shard.counters.messagesReceived.Add(1)
	if c.hub.node != nil && !joins(m.Type) && m.Type != typePing && m.Type != typeHello && !isAnswer(m) {
		c.hub.node.finishJoinsWatched(c)
		began = c.hub.clock()
	}
	if isHubRequest(m.Type) {
		c.replyToHubRequest(m)
		return
	}
	if isAnswer(m) {
		c.takeAnswer(m)
		return
	}
	if e, ok := c.hub.handler(m.Type); ok {
		c.handleRequest(e, m)
		return
	}
	if c.hub.onMessage != nil && !c.hub.runCallbackSince(c, callingMessage, began, func() { c.hub.onMessage(c, m) }) {
		return
	}
	request := *m // after the callback, which may have changed, redirected or refused it
	request.ClientID, request.Timestamp = c.ID, now
	c.control(&request)
}

// inboundPool is separate from AcquireMessage's pool. A callback that wrongly releases
// its Message does no harm then.
var inboundPool = sync.Pool{New: func() any { return new(Message) }}

// describe names the client's frames for a close reason.
func (c *Client) describe(keys *pipeline) string {
	if keys != nil {
		return "sealed " + c.codec.Name()
	}
	return c.codec.Name()
}

func frameTypeName(messageType int) string {
	if messageType == TextMessage {
		return "text"
	}
	return "binary"
}

// discardInput reads and discards the peer's input after the hub's Close frame, within
// the client's rate, until the peer closes or the deadline that startLinger has set.
func (c *Client) discardInput() {
	c.conn.mu.Lock()
	ours := c.conn.state == connClosing || c.conn.state == connCloseSent
	ours = ours && !c.closeErr.Load().ByPeer
	c.conn.mu.Unlock()
	if !ours || c.gotClose {
		return
	}
	buf := getBuffer(4096)
	defer putBuffer(buf)
	b := buf.b[:cap(buf.b)]
	for {
		n, err := c.conn.readSocket(b)
		if err != nil {
			return
		}
		c.shard.counters.bytesReceived.Add(uint64(n))
		c.conn.in.bytes.spend(n)
		time.Sleep(min(c.conn.in.bytes.wait(c.hub.clock()), maxPause))
	}
}

// readError returns io.ErrUnexpectedEOF for a connection that ended without a Close
// frame, and any other error as it is.
func readError(err error) error {
	var ce *websocket.CloseError
	if errors.Is(err, io.EOF) || errors.As(err, &ce) && ce.Code == CloseAbnormalClosure {
		return io.ErrUnexpectedEOF
	}
	return err
}
