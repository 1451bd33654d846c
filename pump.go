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
type batch struct {
	b    []byte
	ends []int
}

func (b *batch) add(wire []byte) {
	b.b = append(b.b, wire...)
	b.ends = append(b.ends, len(b.b))
}

// addSealed appends a frame of payload sealed with a client's own keys.
func (b *batch) addSealed(payload []byte, keys *pipeline) {
	b.b = wsproto.AppendHeader(b.b, wsproto.OpBinary, len(payload)+keys.Overhead())
	b.b = keys.AppendSeal(b.b, payload)
	b.ends = append(b.ends, len(b.b))
}

// addItem reports whether the message could be encoded.
func (b *batch) addItem(it item) bool {
	fr := it.pub.frame(it.form)
	switch {
	case len(fr.wire) == 0:
		return false
	case it.keys != nil:
		b.addSealed(fr.payload(), it.keys)
	default:
		b.add(fr.wire)
	}
	return true
}

// whole counts the frames that end within the first n bytes.
func (b *batch) whole(n int) int {
	i := 0
	for i < len(b.ends) && b.ends[i] <= n {
		i++
	}
	return i
}

func (b *batch) reset() { b.b, b.ends = b.b[:0], b.ends[:0] }

// flight is what a writePump is writing.
type flight struct {
	out     batch
	control int          // frames in out that are not messages of items, and stand first
	resumed *publication // what the first of them ends, or nil
	items   []item       // messages that follow
	last    bool         // the Close frame ends it
	failed  []item       // those of items that could not be encoded
	sent    int          // those of items that the socket has accepted
}

var flightPool = sync.Pool{New: func() any { return &flight{out: batch{b: make([]byte, 0, joinSize)}} }}

// giveBack recycles f unless a huge frame made it grow. Nothing flies any more.
func (f *flight) giveBack() {
	if cap(f.out.b) <= 4*joinSize {
		f.clear()
		flightPool.Put(f)
	}
}

func (f *flight) clear() {
	f.out.reset()
	*f = flight{out: f.out, items: f.items[:0], failed: f.failed[:0]}
}

func (f *flight) empty() bool { return f.control == 0 && len(f.items) == 0 && !f.last }

// writePump writes what waits, as much as possible at a time, until nothing
// waits or the connection is over. There is at most one per connection.
func (c *conn) writePump() {
	f := flightPool.Get().(*flight)
	c.mu.Lock()
	defer c.landed()
	for c.gather(f); !f.empty(); c.gather(f) {
		err := c.fly(f)
		c.land(f)
		switch {
		case err != nil:
			c.die(err)
		case f.last && c.state == connClosing:
			c.saidGoodbye()
		}
	}
	f.giveBack() // not if a codec has ended the goroutine: f may hold messages then
}

// landed ends a writePump, also one that a codec has ended, and gives up mu.
func (c *conn) landed() {
	defer c.mu.Unlock()
	c.pumping = false
	c.waiting.Store(0)
	c.queue.shrink()
	if c.pumped != nil {
		c.pumped.Signal()
	}
}

// gather takes what goes out next: the end of a partly written frame, control
// frames, messages with gap notices where some were lost, and at last the Close
// frame. What it takes still counts against the client's bound. The caller has
// mu.
func (c *conn) gather(f *flight) {
	f.clear()
	if c.state > connClosing {
		return
	}
	if len(c.rest) > 0 {
		f.out.add(c.rest)
		f.resumed = c.restOf
		c.rest, c.restOf = nil, nil
	}
	if c.pong != nil {
		f.out.add(c.pong)
		c.pong = nil
	}
	if c.ping {
		f.out.add(pingFrame)
		c.ping = false
	}
	f.control = len(f.out.ends)
	foreign := isForeign(c.client.codec)
	for size := len(f.out.b); ; {
		if foreign && len(f.items) > 0 && (c.mayFail() || !f.items[len(f.items)-1].encoded()) {
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
	f.last = c.state == connClosing
}

// mayFail reports whether it is not known that the next message can be encoded.
// Such a one goes out by itself, so that nothing overtakes the notice of its loss.
func (c *conn) mayFail() bool { return c.queue.len() > 0 && !c.queue.at(0).encoded() }

// nextItem takes the next message, which is a gap notice where messages before
// it were lost.
func (c *conn) nextItem() (item, bool) {
	next := item{form: c.form, keys: c.keys}
	order := uint64(math.MaxUint64)
	if c.queue.len() > 0 {
		next = *c.queue.at(0)
		order = next.pub.order
	}
	if l, lost := c.losses.before(order); lost {
		next.pub = c.client.notice(&l)
		c.queued += next.pub.cost - lossCost
		return next, true
	}
	if next.pub == nil {
		return item{}, false
	}
	return c.queue.pop(), true
}

// fly encodes and writes all of f. It gives up mu meanwhile.
func (c *conn) fly(f *flight) error {
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
	if f.last {
		f.out.add(c.farewell)
	}
	n, err := c.socket.WriteAll(f.out.b, &c.waiting, c.hub.clock)
	c.shard.counters.bytesSent.Add(uint64(n))
	whole := f.out.whole(n)
	f.sent = min(max(whole-f.control, 0), len(f.items))
	if p := f.resumed; p != nil && whole > 0 {
		c.accepted(p)
		p.release()
		f.resumed = nil
	}
	for _, it := range f.items[:f.sent] {
		c.accepted(it.pub)
	}
	return err
}

// accepted counts a message that the socket has taken whole.
func (c *conn) accepted(p *publication) {
	if p.announces > 0 {
		c.shard.counters.announced.Add(p.announces)
	} else {
		c.shard.counters.messagesSent.Add(1)
	}
}

// land settles the accounts of f. The caller has mu.
func (c *conn) land(f *flight) {
	if p := f.resumed; p != nil {
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
		c.lose(it.pub, dropCodec)
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
	defer c.hub.leave(c)
	err := errReadPumpEnded
	defer func() { c.disconnect(err) }()
	err = c.readMessages()
	c.drain()
}

// disconnect is the end of a client's life in the hub.
func (c *Client) disconnect(err error) {
	defer c.endRequest()
	c.ending.Store(c.conn.finish(err))
	c.visible.Store(false)
	c.hub.log.unregister(c)
	c.hub.ids.free(c)
	c.hooks.finish(c)
	if c.hub.onDisconnect != nil {
		c.hub.call(c, callingDisconnect, func() { c.hub.onDisconnect(c) })
	}
	c.hub.log.forgetTopics(c)
}

// readMessages returns why nothing more can be read.
func (c *Client) readMessages() error {
	c.ws.SetPingHandler(func(payload string) error {
		c.conn.in.pong, c.conn.in.pinged = payload, true
		return nil
	})
	c.ws.SetPongHandler(func(string) error { return nil })
	c.ws.SetCloseHandler(func(code int, reason string) error {
		c.peerEnded = true
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
	if c.conn.ended() {
		return nil // discarded on the way to the peer's Close
	}
	message := buf.b
	if compressed {
		out := getBuffer(4 * len(message))
		defer func() { putBuffer(out) }()
		if out.b, err = flate.AppendInflated(out.b, message, limit); err != nil && !errors.Is(err, flate.ErrTooBig) {
			c.conn.fail(CloseInvalidPayloadData, "compressed data is corrupt")
			return nil
		}
		message = out.b
	}
	if int64(len(message)) > limit {
		c.conn.fail(CloseMessageTooBig, fmt.Sprintf("message is larger than %d bytes", limit))
		return nil
	}
	c.conn.answerPing() // a callback may take long
	c.busy.Store(true)
	c.handle(messageType, message)
	return nil
}

// handle takes a whole message in: frame type, UTF-8, keys, codec, callback,
// control message.
func (c *Client) handle(messageType int, b []byte) {
	keys := c.opensWith.Load()
	want := c.codec.WebSocketMessageType()
	if keys != nil {
		want = BinaryMessage
	}
	if messageType != want {
		c.conn.fail(CloseUnsupportedData, fmt.Sprintf("%s client must send %s frames", c.describe(keys), frameTypeName(want)))
		return
	}
	if messageType == TextMessage && !utf8.Valid(b) {
		c.conn.fail(CloseInvalidPayloadData, "text is not UTF-8")
		return
	}
	if keys != nil {
		opened, err := keys.Open(b)
		if err != nil {
			c.hub.logger.Warningf("websocket: client %q closed: its message does not open: %v", c.ID, err)
			c.conn.fail(ClosePolicyViolation, "message does not open")
			return
		}
		b = opened
	}
	m := inboundPool.Get().(*Message)
	defer func() { *m = Message{}; inboundPool.Put(m) }()
	if err := c.unmarshal(b, m); err != nil {
		c.conn.fail(CloseInvalidPayloadData, err.Error())
		return
	}
	m.ClientID = c.ID
	m.Timestamp = c.hub.now()
	c.shard.counters.messagesReceived.Add(1)
	request := *m // what the callback does to m changes nothing
	if c.hub.onMessage != nil && !c.hub.call(c, callingMessage, func() { c.hub.onMessage(c, m) }) {
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
func (c *Client) drain() {
	c.conn.mu.Lock()
	ours := c.conn.state == connClosing || c.conn.state == connClosed
	ours = ours && !c.conn.ending.ByPeer
	c.conn.mu.Unlock()
	if !ours || c.peerEnded {
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
