package websocket

import (
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// conn is a client's connection. It is the net.Conn that gorilla reads from, and it
// owns all writing. Until the handshake is over it passes bytes through. After that
// the hub writes frames of its own, and the control frames that gorilla writes are
// translated into calls of closeNow.
//
// While nothing is queued, the holder of mu writes to the socket directly, and only
// as much as the kernel accepts at once. When something is left over, a writePump
// goroutine owns the socket until nothing is queued any more.
type conn struct {
	mu         sync.Mutex // guards the fields of this block, but not reads from socket
	state      connState
	held       bool // onConnect has not returned: nothing is written
	pumping    bool // a writePump owns the socket
	pingQueued bool
	peerEnded  bool      // the peer has closed: its earlier messages are still handled
	form       form      // the form of messages for this client; set by the shard
	keys       *pipeline // the client's own keys, or nil; set by the shard
	socket     transport.Conn
	tcp        transport.TCP // what socket points to for plain TCP
	pumpDone   *sync.Cond    // made by finish, which waits for pumping to become false
	queue      ring          // messages that the socket has not accepted
	queued     int64         // cost of queue, of losses and of what the writePump is writing
	excess     int64         // the part of queued that does not count while the socket accepts bytes
	losses     *losses       // dropped and not announced yet; nil before the first
	tail       []byte        // rest of a partly written frame; it is written before all else
	tailOf     *publication  // the message that tail ends, or nil for a control frame
	closeFrame []byte        // set by startClosing
	cursors    *cursorSet    // topics that the client is fed from their histories; see cursor.go
	// closingSeen is when reclaim first saw the connection closing, in milliseconds of the
	// hub clock, or 0. It is 32 bits long to keep Client small, as is pumpCharged.
	closingSeen uint32
	pumpCharged uint32 // what the client is charged for the buffers of the writePump
	notes       *notes // what few connections have; nil before the first

	net.Conn
	client *Client

	upgraded    atomic.Bool
	callbacks   callbacks // read by the hub's callbackWatch
	ahead       atomic.Pointer[readAhead]
	silence     sync.Mutex   // guards closing and hibernating, and the read deadline while closing is false
	closing     bool         // the connection has left connOpen
	hibernating bool         // there is no readPump: the socket is watched
	in          *reader      // owned by the readPump; nil while the connection hibernates
	lastRead    atomic.Int64 // hub clock of the last byte received, or of the start of the current read
	// progressAt is 0 while nothing is queued. Otherwise it is the hub clock when the
	// socket last accepted a byte, or when queueing began.
	progressAt atomic.Int64
	// pingSent is the hub clock when the socket accepted the latest ping, writingPing while
	// a ping is being written, or 0 if input has come since.
	pingSent atomic.Int64
}

// writingPing is the value of conn.pingSent while a ping is being written. The pong may
// arrive before the write returns.
const writingPing = -1

// Read limits the rate of the peer and checks its frames. Every byte is a sign of life.
func (c *conn) Read(b []byte) (int, error) {
	if err := c.waitToRead(); err != nil {
		return 0, err
	}
	c.client.handling.Store(false)
	n, err := c.readSocket(b)
	if n > 0 {
		c.lastRead.Store(c.client.hub.clock())
		if c.pingSent.Load() != 0 {
			c.pingSent.Store(0)
		}
		c.client.shard.counters.bytesReceived.Add(uint64(n))
		c.in.bytes.spend(n)
		c.in.arrived(n)
		n = c.in.check(b[:n])
	}
	if err == nil && n == 0 {
		return 0, c.waitForRate() // b holds nothing but a violation
	}
	return n, err
}

// Write passes the handshake's response through. After that gorilla writes nothing
// but Close frames, for errors in the peer's frames.
func (c *conn) Write(b []byte) (int, error) {
	if !c.upgraded.Load() {
		return c.Conn.Write(b)
	}
	if len(b) >= 2 && b[0] == wsproto.FinalBit|wsproto.OpClose {
		code, reason := CloseNoStatusReceived, ""
		if len(b) >= 4 {
			code, reason = int(binary.BigEndian.Uint16(b[2:])), string(b[4:])
		}
		c.closeNow(code, reason)
	}
	return len(b), nil
}

// SetDeadline works until the handshake is over. After that it does nothing: an
// expired deadline of gorilla's would make direct writes fail.
func (c *conn) SetDeadline(t time.Time) error {
	if c.upgraded.Load() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is like SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.upgraded.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// mayWrite reports whether the holder of mu may write to the socket.
func (c *conn) mayWrite() bool {
	return c.state <= connClosing && !c.held && !c.pumping && c.socket.Direct()
}

// startPump starts a writePump if something is queued and none runs. The caller holds
// mu.
func (c *conn) startPump() {
	if c.pumping || c.held || c.state > connClosing || !c.hasPending() {
		return
	}
	c.pumping = true
	c.progressAt.Store(c.client.hub.clock())
	go c.writePump() // ends when nothing is queued, or with the connection
}

// startPumpAndWatch is startPump for callers that do not hold the shard's lock. It
// tells the shard, which enforces WriteWait.
func (c *conn) startPumpAndWatch() {
	before := c.pumping
	c.startPump()
	if c.pumping && !before {
		c.client.hub.events.reschedule(c.client)
	}
}

// setOutbound sets the form and keys of all later messages. The caller holds the
// shard's lock.
func (c *conn) setOutbound(f form, keys *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form, c.keys = f, keys
}
