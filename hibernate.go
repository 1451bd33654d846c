package websocket

import (
	"bufio"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// A connection hibernates when it has been silent for Config.HibernateAfter. Its readPump
// ends and its reader goes back to the pool; the socket is watched until there is input,
// which starts a readPump again. A connection wakes too when the hub begins to close it,
// and does not hibernate any more then.
//
// A client that wakes after a long silence will probably be silent again: it hibernates as
// soon as its input is used up. If more comes soon after that, the silence was short, and the
// connection stays awake for HibernateAfter.
//
// The read deadline ends the readPump's wait. The goroutine that reads, which may be that of
// watchPeer, sets it while the connection is open, and startLinger after that.

// reader is the incoming side of a connection that is awake. Between two messages it holds
// nothing of the connection, so that another one can use it.
type reader struct {
	inbound
	ws     *websocket.Conn
	br     *bufio.Reader // ws reads from it
	source source        // br reads from it

	idle   bool  // the current read may end to hibernate: no message has begun
	timed  bool  // the read deadline is that of timeSilence
	sooner bool  // it is to be set anew
	brief  bool  // the connection hibernates as soon as its input is used up
	heard  bool  // something has been read since the reader was taken
	wait   int64 // how long the connection has to be silent, in nanoseconds; 0 if it never hibernates
}

// errSilent ends a read when the connection may hibernate.
var errSilent = errors.New("websocket: connection is silent")

// errHibernating ends the readPump of a connection that hibernates.
var errHibernating = errors.New("websocket: connection hibernates")

// source is the net.Conn of a gorilla Conn. It leads to the connection that uses the
// reader, if there is one.
type source struct{ *conn }

// Write discards b if no connection uses the reader.
func (s *source) Write(b []byte) (int, error) {
	if s.conn == nil {
		return len(b), nil
	}
	return s.conn.Write(b)
}

// SetDeadline does nothing if no connection uses the reader.
func (s *source) SetDeadline(t time.Time) error {
	if s.conn == nil {
		return nil
	}
	return s.conn.SetDeadline(t)
}

// SetWriteDeadline is like SetDeadline.
func (s *source) SetWriteDeadline(t time.Time) error {
	if s.conn == nil {
		return nil
	}
	return s.conn.SetWriteDeadline(t)
}

// newReader returns a reader whose ws comes from a handshake, w and r with this response.
func (u *upgrader) newReader(c *conn, w http.ResponseWriter, r *http.Request, bw *bufio.Writer, header http.Header) (*reader, error) {
	in := &reader{source: source{c}}
	in.br, _ = u.buffers.Get().(*bufio.Reader)
	if in.br == nil {
		in.br = bufio.NewReaderSize(nil, u.bufferSize)
	}
	in.br.Reset(&in.source)
	ws, err := u.gorilla.Upgrade(&hijacked{w, &in.source, bufio.NewReadWriter(in.br, bw)}, r, header)
	if err != nil {
		return nil, err
	}
	ws.SetPingHandler(func(payload string) error {
		in.pong = &payload
		return nil
	})
	ws.SetPongHandler(func(payload string) error {
		in.source.notePong(payload)
		return nil
	})
	ws.SetCloseHandler(func(code int, reason string) error {
		in.source.client.gotClose = true
		in.source.peerClosed(code, reason)
		return nil
	})
	in.ws = ws
	return in, nil
}

// spareReader returns a reader for a connection that wakes. If the pool is empty, it makes one
// with a handshake that has no client: gorilla has no other way.
func (u *upgrader) spareReader() *reader {
	if in, ok := u.readers.Get().(*reader); ok {
		return in
	}
	r := &http.Request{Method: http.MethodGet, Header: spareHandshake}
	in, err := u.newReader(nil, nil, r, bufio.NewWriterSize(nil, 16), nil)
	if err != nil {
		panic("websocket: gorilla refuses a handshake: " + err.Error())
	}
	return in
}

// spareHandshake is the header of a valid handshake (RFC 6455 section 1.3).
var spareHandshake = http.Header{
	"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
	"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
}

// awaken makes c, which has hibernated, use a spare reader.
func (u *upgrader) awaken(c *conn) {
	in := u.spareReader()
	in.begin(c)
	silence := time.Duration(c.client.hub.clock() - c.lastRead.Load())
	if in.brief = silence >= max(c.client.hub.config.HibernateAfter, 10*briefDebt); in.brief {
		var deadline time.Time  // the old one has passed
		if !c.socket.Direct() { // the input may be half a record of TLS
			deadline = time.Now().Add(time.Duration(in.wait))
		}
		in.timed = c.setDeadline(deadline) && !deadline.IsZero()
	}
}

// begin makes c use the reader.
func (in *reader) begin(c *conn) {
	config := &c.client.hub.config
	in.inbound.begin(config, c.client.deflates)
	in.source.conn = c
	in.timed, in.sooner, in.brief, in.heard, in.wait = false, false, false, false, 0
	if after := int64(min(config.HibernateAfter, math.MaxInt64/4)); after > 0 && c.socket.Watchable() {
		in.wait = after + rand.Int64N(after/4+1) // so that many do not hibernate at the same moment
	}
	c.in = in
}

// nextFrame waits for the next frame of a client that is between two messages, and handles
// control frames. It returns when a message, or a Close frame, has begun. It returns
// errHibernating if the connection hibernates.
func (c *Client) nextFrame() error {
	in := c.conn.in
	for {
		if c.conn.inputIsUsedUp() {
			c.conn.replyToPing()
			if c.conn.hibernate() {
				return errHibernating
			}
		}
		in.idle = true
		first, err := in.br.Peek(1)
		in.idle = false
		switch {
		case errors.Is(err, errSilent):
			if c.conn.hibernate() {
				return errHibernating
			}
			continue
		case err != nil:
			return err
		case !wsproto.IsControl(first[0]) || first[0] == wsproto.FinalBit|wsproto.OpClose:
			return nil
		}
		if err := c.readControl(); err != nil {
			return err
		}
	}
}

// inputIsUsedUp reports whether the connection hibernates without another read. On a
// connection that is not direct only a read shows that TLS has nothing left.
func (c *conn) inputIsUsedUp() bool {
	in := c.in
	return in.brief && in.heard && in.wait > 0 && in.br.Buffered() == 0 && in.violation == nil &&
		c.socket.Direct() && c.silentUntil() <= c.client.hub.clock()
}

// readControl reads a ping or a pong, whose header is checked.
func (c *Client) readControl() error {
	br := c.conn.in.br
	header, err := br.Peek(2)
	if err != nil {
		return err
	}
	frame, err := br.Peek(wsproto.MaskedControlSize(header[1]))
	if err != nil {
		return err
	}
	payload := wsproto.ControlPayload(frame)
	if frame[0] == wsproto.FinalBit|wsproto.OpPing {
		c.conn.in.pong = &payload
	} else {
		c.conn.notePong(payload)
	}
	_, err = br.Discard(len(frame))
	return err
}

// readSocket reads from the socket for the readPump. It returns errSilent if the
// connection may hibernate.
func (c *conn) readSocket(b []byte) (int, error) {
	for {
		in := c.in
		if in.idle && in.wait > 0 && (in.sooner || !in.timed && !in.brief) {
			c.timeSilence()
		}
		n, err := c.readAhead(b)
		if n > 0 && !in.heard {
			in.heard, in.sooner = true, in.sooner || in.brief
		}
		if n > 0 || err == nil || !in.timed || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		in.timed = false
		if in.idle && in.wait > 0 && c.silentUntil() <= c.client.hub.clock() {
			return 0, errSilent
		}
		in.brief = false
		if !in.idle {
			c.setDeadline(time.Time{})
		}
	}
}

// hibernateSteps is the number of steps of Config.HibernateAfter. Read deadlines are rounded
// up to whole steps, so that many connections hibernate at once: a process that has nothing
// else to do need not wake for each.
const hibernateSteps = 32

// timeSilence sets the read deadline at which the connection may hibernate.
func (c *conn) timeSilence() {
	h := c.client.hub
	due := c.silentUntil()
	if step := int64(h.config.HibernateAfter) / hibernateSteps; !c.in.brief {
		due += step - 1 - (due-1)%step
	}
	c.in.sooner = false
	c.in.timed = c.setDeadline(time.Now().Add(time.Duration(due - h.clock())))
	if !c.in.timed {
		c.in.wait = 0
	}
}

// setDeadline sets the read deadline of an open connection, and reports false if it is not
// open.
func (c *conn) setDeadline(t time.Time) bool {
	c.silence.Lock()
	defer c.silence.Unlock()
	if !c.closing {
		_ = c.Conn.SetReadDeadline(t) // fails only on a broken connection
	}
	return !c.closing
}

// silentUntil returns the hub clock at which the connection may hibernate if nothing comes.
// A reader that goes to the pool loses its rate limits, so they must have no debt. After a
// long silence a small one does not matter.
func (c *conn) silentUntil() int64 {
	in := c.in
	debt := int64(max(in.messages.ahead, in.bytes.ahead))
	if in.limitedSince != 0 {
		debt = max(debt, in.lastLimited+int64(floodBreak)+1)
	}
	if in.brief {
		return debt - int64(briefDebt)
	}
	wait := in.wait
	if !in.heard {
		wait /= mutePart
	}
	return max(debt, c.lastRead.Load()+wait)
}

// mutePart is the part of HibernateAfter after which a client that has sent nothing since
// its handshake hibernates: it probably only listens. When many come at once, fewer of them
// are awake at the same time.
const mutePart = 5

// briefDebt is the debt that a connection may lose when it hibernates as soon as its input is
// used up. It has been silent for at least ten times as long before. Tests change it.
var briefDebt = 100 * time.Millisecond

// hibernate ends the work of the readPump, which must not use the client any more, unless
// the connection is closing or cannot be watched.
func (c *conn) hibernate() bool {
	in, h := c.in, c.client.hub
	if !c.ahead.Load().isIdle() { // its input would not be noticed
		in.brief = false
		return false
	}
	c.silence.Lock()
	defer c.silence.Unlock()
	if c.closing {
		in.wait = 0
		return false
	}
	c.in = nil
	if !c.socket.Watch(&h.watcher, c) {
		c.in, in.wait, in.timed = in, 0, false
		_ = c.Conn.SetReadDeadline(time.Time{}) // it may have passed
		return false
	}
	if c.client.handling.Load() { // no read has followed the last message
		c.lastRead.Store(h.clock())
		c.client.handling.Store(false)
	}
	c.hibernating = true
	c.client.shard.counters.hibernating.Add(1)
	c.client.dropRequest()
	in.endTimeout()
	in.source.conn = nil
	h.upgrader.readers.Put(in)
	return true
}

// Wake starts a readPump if the connection hibernates. It does not wait for mu, which a
// codec of the application may hold for long: other connections wait to be woken.
func (c *conn) Wake() {
	c.silence.Lock()
	defer c.silence.Unlock()
	c.wake()
}

// wake is Wake for callers that hold silence.
func (c *conn) wake() {
	if c.hibernating {
		c.hibernating = false
		c.client.shard.counters.hibernating.Add(-1)
		c.client.hub.pumps.start(c.client)
	}
}

// endSilence makes the connection stay awake. It is called when the state has left connOpen.
func (c *conn) endSilence() {
	c.silence.Lock()
	defer c.silence.Unlock()
	c.closing = true
	if c.client.hub.config.HibernateAfter <= 0 || !c.socket.Watchable() {
		return // no read deadline is set
	}
	_ = c.Conn.SetReadDeadline(time.Time{}) // fails only on a broken connection
	if c.hibernating {
		c.socket.Unwatch(&c.client.hub.watcher)
		c.wake()
	}
}

// dropReader ends the use of the reader at the end of the connection. Its gorilla Conn
// cannot read any more.
func (c *conn) dropReader() {
	in := c.in
	in.endTimeout()
	in.br.Reset(nil)
	c.client.hub.upgrader.buffers.Put(in.br)
}
