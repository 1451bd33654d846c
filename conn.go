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

// conn is a client's connection as gorilla sees it, and the owner of everything
// written to it. Until the handshake is over it passes bytes through. From then
// on all writing goes through one small machine under mu, and what gorilla
// writes, which is control frames only, goes through it too.
//
// While nothing waits, whoever has mu may write, and writes only what the kernel
// takes at once. As soon as something is left over, a writePump goroutine alone
// touches the socket until nothing waits any more.
type conn struct {
	mu         sync.Mutex // guards this block, but for the socket itself
	state      connState
	held       bool      // nothing is written before onConnect has returned
	pumping    bool      // a writePump owns the socket
	pingQueued bool      // a ping waits
	form       form      // what it gets messages in; the shard sets it, with mu held
	keys       *pipeline // the client's own, or nil; the shard sets it, with mu held
	socket     transport.Conn
	tcp        transport.TCP
	pumpDone   *sync.Cond   // made by finish, which alone waits for pumping to end
	queue      ring         // messages that wait
	queued     int64        // bytes that queue and the writePump's current batch refer to
	losses     *losses      // dropped and not announced yet; nil before the first
	tail       []byte       // end of a partly written frame; goes out before all else
	tailOf     *publication // message that rest ends, or nil for a control frame
	queuedPong []byte       // latest pong frame that waits
	closeFrame []byte       // Close frame, once closing
	closeErr   *CloseError  // why it ended: the first reason stays

	net.Conn
	hub    *Hub
	shard  *shard // whose counters this connection uses
	client *Client

	upgraded atomic.Bool
	in       inbound      // the readPump owns it
	lastRead atomic.Int64 // hub clock of the last byte received, or of when waiting for one began
	// waiting is 0 while nothing waits, else the hub clock when the connection
	// last accepted a byte or began to wait.
	progressAt atomic.Int64
}

// Read paces and checks what arrives: any byte is a sign of life.
func (c *conn) Read(b []byte) (int, error) {
	if err := c.waitForRate(); err != nil {
		return 0, err
	}
	c.client.handling.Store(false)
	n, err := c.socket.Read(b)
	if n > 0 {
		c.lastRead.Store(c.hub.clock())
		c.shard.counters.bytesReceived.Add(uint64(n))
		c.in.bytes.spend(n)
		n = c.in.check(b[:n])
	}
	if err == nil && n == 0 {
		return 0, c.waitForRate() // nothing but a violation
	}
	return n, err
}

// Write passes the handshake's answer through. After it, gorilla writes only
// whole control frames of its own, for errors in what the peer sent.
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

// SetDeadline and its like work until the handshake is over; after it gorilla's
// deadlines are not the connection's: an expired one would fail direct writes.
func (c *conn) SetDeadline(t time.Time) error {
	if c.upgraded.Load() {
		return nil
	}
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline is explained at SetDeadline.
func (c *conn) SetWriteDeadline(t time.Time) error {
	if c.upgraded.Load() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// idle reports whether whoever has mu may write to the socket.
func (c *conn) mayWrite() bool {
	return c.state <= connClosing && !c.held && !c.pumping && c.socket.Direct()
}

// wake starts a writePump if something waits and none runs. The caller has mu.
func (c *conn) startPump() {
	if c.pumping || c.held || c.state > connClosing || !c.hasPending() {
		return
	}
	c.pumping = true
	c.progressAt.Store(c.hub.clock())
	go c.writePump() // ends when nothing waits, or with the connection
}

// wakeAndWatch is wake for whoever is not in the shard's turn: the shard has to
// be told that a connection waits, so that it minds WriteWait.
func (c *conn) startPumpAndWatch() {
	before := c.pumping
	c.startPump()
	if c.pumping && !before {
		_ = c.hub.events.appendFor(entryReschedule, c.client, nil) // gone: nothing to watch
	}
}

// setOutbound changes what the client gets messages in from here on. It runs in
// the shard's turn.
func (c *conn) setOutbound(f form, keys *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form, c.keys = f, keys
}
