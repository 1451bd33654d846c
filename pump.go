package websocket

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/flate"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// joinSize is the size in bytes at which joined writes end: a large write costs the
// kernel little more than a small one.
const joinSize = transport.JoinSize

// batch is frames joined for one write, with where each of them ends.
type frameBuffer struct {
	b    []byte
	ends []int
}

func (b *frameBuffer) add(wire []byte) {
	b.b = append(b.b, wire...)
	b.ends = append(b.ends, len(b.b))
}

// addSealed appends a frame of payload sealed with a client's own keys.
func (b *frameBuffer) addSealed(payload []byte, keys *pipeline) {
	b.b = wsproto.AppendHeader(b.b, wsproto.OpBinary, len(payload)+keys.Overhead())
	b.b = keys.AppendSeal(b.b, payload)
	b.ends = append(b.ends, len(b.b))
}

// addItem reports whether the message could be encoded.
func (b *frameBuffer) addItem(it item) bool {
	fr := it.pub.frame(it.form)
	switch {
	case len(fr.bytes) == 0:
		return false
	case it.keys != nil:
		b.addSealed(fr.payload(), it.keys)
	default:
		b.add(fr.bytes)
	}
	return true
}

// whole counts the frames that end within the first n bytes.
func (b *frameBuffer) whole(n int) int {
	i := 0
	for i < len(b.ends) && b.ends[i] <= n {
		i++
	}
	return i
}

func (b *frameBuffer) reset() { b.b, b.ends = b.b[:0], b.ends[:0] }

// flight is what a writePump is writing.
type pumpWrite struct {
	out           frameBuffer
	controlFrames int          // frames in out that are not messages of items, and stand first
	tailOf        *publication // what the first of them ends, or nil
	items         []item       // messages that follow
	endsWithClose bool         // the Close frame ends it
	failed        []item       // those of items that could not be encoded
	sent          int          // those of items that the socket has accepted
}

var pumpWritePool = sync.Pool{New: func() any { return &pumpWrite{out: frameBuffer{b: make([]byte, 0, joinSize)}} }}

// giveBack recycles f unless a huge frame made it grow. Nothing flies any more.
func (f *pumpWrite) recycle() {
	if cap(f.out.b) <= 4*joinSize {
		f.clear()
		pumpWritePool.Put(f)
	}
}

func (f *pumpWrite) clear() {
	f.out.reset()
	*f = pumpWrite{out: f.out, items: f.items[:0], failed: f.failed[:0]}
}

func (f *pumpWrite) empty() bool {
	return f.controlFrames == 0 && len(f.items) == 0 && !f.endsWithClose
}

// writePump writes what waits, as much as possible at a time, until nothing
// waits or the connection is over. There is at most one per connection.
func (c *conn) writePump() {
	f := pumpWritePool.Get().(*pumpWrite)
	c.mu.Lock()
	defer c.pumpEnded()
	for c.collect(f); !f.empty(); c.collect(f) {
		err := c.writeCollected(f)
		c.account(f)
		switch {
		case err != nil:
			c.abortLocked(err)
		case f.endsWithClose && c.state == connClosing:
			c.closeSent()
		}
	}
	f.recycle() // not if a codec has ended the goroutine: f may hold messages then
}

// landed ends a writePump, also one that a codec has ended, and gives up mu.
func (c *conn) pumpEnded() {
	defer c.mu.Unlock()
	c.pumping = false
	c.progressAt.Store(0)
	c.queue.shrink()
	if c.pumpDone != nil {
		c.pumpDone.Signal()
	}
}

// gather takes what goes out next: the end of a partly written frame, control
// frames, messages with gap notices where some were lost, and at last the Close
// frame. What it takes still counts against the client's bound. The caller has
// mu.
func (c *conn) collect(f *pumpWrite) {
	f.clear()
	if c.state > connClosing {
		return
	}
	if len(c.tail) > 0 {
		f.out.add(c.tail)
		f.tailOf = c.tailOf
		c.tail, c.tailOf = nil, nil
	}
	if c.queuedPong != nil {
		f.out.add(c.queuedPong)
		c.queuedPong = nil
	}
	if c.pingQueued {
		f.out.add(pingFrame)
		c.pingQueued = false
	}
	f.controlFrames = len(f.out.ends)
	foreign := isCustom(c.client.codec)
	for size := len(f.out.b); ; {
		if foreign && len(f.items) > 0 && (c.nextMayFail() || !f.items[len(f.items)-1].encoded()) {
			return
		}
		next, ok := c.nextItem()
		if !ok {
			break
		}
		f.items = append(f.items, next)
		if size += int(next.pub.cost); size > joinSize {
			return
		}
	}
	f.endsWithClose = c.state == connClosing
}

// mayFail reports whether it is not known that the next message can be encoded.
// Such a one goes out by itself, so that nothing overtakes the notice of its loss.
func (c *conn) nextMayFail() bool { return c.queue.len() > 0 && !c.queue.at(0).encoded() }

// nextItem takes the next message, which is a gap notice where messages before
// it were lost.
func (c *conn) nextItem() (item, bool) {
	next := item{form: c.form, keys: c.keys}
	order := uint64(math.MaxUint64)
	if c.queue.len() > 0 {
		next = *c.queue.at(0)
		order = next.pub.seq
	}
	if l, lost := c.losses.takeBefore(order); lost {
		next.pub = c.client.gapNotice(&l)
		c.queued += next.pub.cost - lossCost
		return next, true
	}
	if next.pub == nil {
		return item{}, false
	}
	return c.queue.pop(), true
}

// fly encodes and writes all of f. It gives up mu meanwhile.
func (c *conn) writeCollected(f *pumpWrite) error {
	c.mu.Unlock()
	defer c.mu.Lock()
	encoded := f.items[:0]
	for _, it := range f.items {
		if f.out.addItem(it) {
			encoded = append(encoded, it)
		} else {
			f.failed = append(f.failed, it)
		}
	}
	clear(f.items[len(encoded):]) // their publications may be recycled before f is
	f.items = encoded
	if f.endsWithClose {
		f.out.add(c.closeFrame)
	}
	n, err := c.socket.WriteAll(f.out.b, &c.progressAt, c.hub.clock)
	c.shard.counters.bytesSent.Add(uint64(n))
	whole := f.out.whole(n)
	f.sent = min(max(whole-f.controlFrames, 0), len(f.items))
	if p := f.tailOf; p != nil && whole > 0 {
		c.countSent(p)
		p.release()
		f.tailOf = nil
	}
	for _, it := range f.items[:f.sent] {
		c.countSent(it.pub)
	}
	return err
}

// accepted counts a message that the socket has taken whole.
func (c *conn) countSent(p *publication) {
	if p.announces > 0 {
		c.shard.counters.announced.Add(p.announces)
	} else {
		c.shard.counters.messagesSent.Add(1)
	}
}

// land settles the accounts of f. The caller has mu.
func (c *conn) account(f *pumpWrite) {
	if p := f.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	for i, it := range f.items {
		if i >= f.sent {
			c.drop(it.pub, dropDisconnected)
		}
		c.queued -= it.pub.cost
		it.pub.release()
	}
	for _, it := range f.failed {
		c.dropAndAnnounce(it.pub, dropCodec)
		c.queued -= it.pub.cost
		it.pub.release()
	}
	clear(f.items)
	clear(f.failed)
}

// readPump reads one client's messages until its connection ends, and is the
// one place where a connection ends. It does so also when a callback ends the
// goroutine.
func (c *Client) readPump() {
	defer c.hub.connectionDone(c)
	err := errReadPumpEnded
	defer func() { c.disconnect(err) }()
	err = c.readMessages()
	c.discardInput()
}

// disconnect is the end of a client's life in the hub.
func (c *Client) disconnect(err error) {
	defer c.endRequest()
	c.closeErr.Store(c.conn.finish(err))
	c.visible.Store(false)
	c.hub.events.unregister(c)
	c.hub.ids.free(c)
	c.hooks.finish(c)
	if c.hub.onDisconnect != nil {
		c.hub.runCallback(c, callingDisconnect, func() { c.hub.onDisconnect(c) })
	}
	c.hub.events.forgetTopics(c)
}

// readMessages returns why nothing more can be read.
func (c *Client) readMessages() error {
	c.ws.SetPingHandler(func(payload string) error {
		c.conn.in.pong, c.conn.in.pinged = payload, true
		return nil
	})
	c.ws.SetPongHandler(func(string) error { return nil })
	c.ws.SetCloseHandler(func(code int, reason string) error {
		c.gotClose = true
		c.conn.peerClosed(code, reason)
		return nil
	})
	for {
		messageType, r, err := c.ws.NextReader()
		if err == nil {
			err = c.readMessage(messageType, r)
		}
		if err != nil {
			return readError(err)
		}
	}
}

// readMessage reads and handles one message. Its error is the connection's; a
// message that breaks a rule closes the connection by itself, with a reason.
func (c *Client) readMessage(messageType int, r io.Reader) error {
	limit := c.hub.config.MaxMessageSize
	buf := getBuffer(512)
	defer func() { putBuffer(buf) }()
	var err error
	if buf.b, err = flate.ReadAll(buf.b, r, c.conn.in.checker.Limit()); err != nil {
		return err // past its limit on the wire, the frame check has ended the connection
	}
	compressed := c.conn.in.checker.NextCompressed()
	if c.conn.isClosing() {
		return nil // discarded on the way to the peer's Close
	}
	message := buf.b
	if compressed {
		out := getBuffer(4 * len(message))
		defer func() { putBuffer(out) }()
		if out.b, err = flate.AppendInflated(out.b, message, limit); err != nil && !errors.Is(err, flate.ErrTooBig) {
			c.conn.closeNow(CloseInvalidPayloadData, "compressed data is corrupt")
			return nil
		}
		message = out.b
	}
	if int64(len(message)) > limit {
		c.conn.closeNow(CloseMessageTooBig, fmt.Sprintf("message is larger than %d bytes", limit))
		return nil
	}
	c.conn.replyToPing() // a callback may take long
	c.handling.Store(true)
	c.handle(messageType, message)
	return nil
}

// handle takes a whole message in: frame type, UTF-8, keys, codec, callback,
// control message.
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
			c.hub.logger.Warningf("websocket: client %q closed: its message does not open: %v", c.ID, err)
			c.conn.closeNow(ClosePolicyViolation, "message does not open")
			return
		}
		b = opened
	}
	m := inboundPool.Get().(*Message)
	defer func() { *m = Message{}; inboundPool.Put(m) }()
	if err := c.unmarshal(b, m); err != nil {
		c.conn.closeNow(CloseInvalidPayloadData, err.Error())
		return
	}
	m.ClientID = c.ID
	m.Timestamp = c.hub.now()
	c.shard.counters.messagesReceived.Add(1)
	request := *m // what the callback does to m changes nothing
	if c.hub.onMessage != nil && !c.hub.runCallback(c, callingMessage, func() { c.hub.onMessage(c, m) }) {
		return
	}
	c.control(&request)
}

// inboundPool is apart from the pool behind AcquireMessage, so that a callback
// that releases its Message harms nobody.
var inboundPool = sync.Pool{New: func() any { return new(Message) }}

// unmarshal runs a codec, which may be the user's own: its panic becomes an error.
func (c *Client) unmarshal(b []byte, m *Message) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: codec %s panicked: %v", ErrMalformed, c.codec.Name(), r)
		}
	}()
	return c.codec.Unmarshal(b, m)
}

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

// drain discards what the peer still sends after the hub's Close, no faster than
// ever, until the peer's end or the deadline that came with the Close.
func (c *Client) discardInput() {
	c.conn.mu.Lock()
	ours := c.conn.state == connClosing || c.conn.state == connCloseSent
	ours = ours && !c.conn.closeErr.ByPeer
	c.conn.mu.Unlock()
	if !ours || c.gotClose {
		return
	}
	buf := getBuffer(4096)
	defer putBuffer(buf)
	b := buf.b[:cap(buf.b)]
	for {
		n, err := c.conn.socket.Read(b)
		if err != nil {
			return
		}
		c.shard.counters.bytesReceived.Add(uint64(n))
		c.conn.in.bytes.spend(n)
		time.Sleep(min(c.conn.in.bytes.wait(c.hub.clock()), maxPause))
	}
}

// readError tells of an end without a Close frame in our terms.
func readError(err error) error {
	var ce *websocket.CloseError
	if errors.As(err, &ce) && ce.Code == CloseAbnormalClosure {
		return io.ErrUnexpectedEOF
	}
	return err
}
