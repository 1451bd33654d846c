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

type connState uint8

const (
	connOpen      connState = iota
	connClosing             // nothing new is accepted; what waits goes out, then the Close frame
	connCloseSent           // the Close frame is out: nothing more is written
	connEnded               // the socket is closed or about to be
)

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

// push queues a message that could not be written directly, if the client's bound
// allows it. The caller has mu and calls wake when it has pushed all.
func (c *conn) enqueue(p *publication) {
	if c.state != connOpen {
		c.drop(p, dropDisconnected)
		return
	}
	if c.exceedsBacklog(p) {
		switch c.hub.config.SlowConsumer {
		case EvictSlow:
			c.evict()
		case DropOldest:
			for c.queue.len() > 0 && c.exceedsBacklog(p) {
				oldest := c.dequeue()
				c.dropAndAnnounce(oldest.pub, dropSlowConsumer)
				oldest.pub.release()
			}
		}
		if c.state != connOpen {
			c.drop(p, dropSlowConsumer)
			return
		}
		if c.exceedsBacklog(p) {
			c.dropAndAnnounce(p, dropSlowConsumer)
			return
		}
	}
	if c.hub.config.SlowConsumer != DropOldest { // which drops only what comes before all that waits
		c.losses.split() // p stands between what was dropped before and after it
	}
	p.retain(1)
	c.queued += p.cost
	c.queue.push(item{pub: p, form: c.form, keys: c.keys})
}

// over reports whether p would exceed the client's bound.
func (c *conn) exceedsBacklog(p *publication) bool {
	return c.queued+p.cost > c.hub.config.ClientBacklog || c.queued > 0 && c.hub.overBudget()
}

// pop takes the first message off the queue, with its hold on the publication.
func (c *conn) dequeue() item {
	it := c.queue.pop()
	c.queued -= it.pub.cost
	return it
}

// lose drops a message for a client that stays and will be told. The caller has
// mu and calls wake.
func (c *conn) dropAndAnnounce(p *publication, reason dropReason) {
	c.drop(p, reason)
	if p.announces > 0 {
		return
	}
	if c.losses == nil {
		c.losses = new(losses)
	}
	if c.losses.add(p, reason) {
		c.queued += lossCost
	}
}

// drop counts a message that the client will not get. That of a gap notice is
// no loss: what it told of is counted already.
func (c *conn) drop(p *publication, reason dropReason) {
	if p.announces == 0 {
		c.shard.counters.drops[reason].Add(1)
		c.hub.reportDrop(c.client, p, reason)
	}
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

func (c *conn) hasPending() bool {
	return c.queue.len() > 0 || c.losses.len() > 0 || len(c.tail) > 0 || c.queuedPong != nil || c.pingQueued || c.state == connClosing
}

// writeNow writes a control frame if that can be done at once. What is left of
// it waits. The caller has mu.
func (c *conn) tryControl(b []byte) bool {
	if !c.mayWrite() {
		return false
	}
	n, err := c.socket.TryWrite(b)
	c.shard.counters.bytesSent.Add(uint64(n))
	if err != nil {
		c.abortLocked(err)
	} else if n < len(b) {
		c.keepTail(append([]byte(nil), b[n:]...), nil)
	}
	return true
}

// answerPing answers the last of the pings that came since the last answer. It
// runs on the readPump.
func (c *conn) replyToPing() {
	if c.in.pinged {
		c.in.pinged = false
		c.sendPong(c.in.pong)
	}
}

// sendPong answers a ping, or leaves that to the writePump.
func (c *conn) sendPong(payload string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	pong := wsproto.ControlFrame(wsproto.OpPong, []byte(payload))
	if !c.tryControl(pong) {
		c.queuedPong = pong
	}
	c.startPumpAndWatch()
}

var pingFrame = wsproto.ControlFrame(wsproto.OpPing, nil)

// sendPing runs in the shard's turn.
func (c *conn) sendPing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen || c.held {
		return
	}
	if !c.tryControl(pingFrame) {
		c.pingQueued = true
	}
	c.startPump()
}

// close lets what waits go out and then says goodbye.
func (c *conn) close(why *CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen {
		return
	}
	c.startClosing(why)
	if c.queue.len() == 0 && c.losses.len() == 0 && len(c.tail) == 0 && !c.held {
		c.sendClose()
	}
	c.startPumpAndWatch()
}

// fail discards what waits, but for the end of a partly written frame, and says
// goodbye: for peers that broke a rule, or are gone.
func (c *conn) closeNow(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNowLocked(&CloseError{Code: code, Reason: reason})
}

func (c *conn) closeNowLocked(why *CloseError) {
	if c.state != connOpen {
		return
	}
	c.startClosing(why)
	c.dropQueue(dropDisconnected)
	if len(c.tail) == 0 {
		c.sendClose()
	}
	c.startPumpAndWatch()
}

// peerClosed answers the peer's Close frame with the same code
// (RFC 6455 section 5.5.1).
func (c *conn) peerClosed(code int, reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeNowLocked(&CloseError{Code: code, Reason: reason, ByPeer: true})
}

// evict closes a client that is over its bound. The caller has mu.
func (c *conn) evict() {
	if c.state != connOpen {
		return
	}
	c.shard.counters.evicted.Add(1)
	c.startClosing(&CloseError{Code: CloseTryAgainLater, Reason: "slow consumer: backlog limit reached"})
	c.dropQueue(dropSlowConsumer)
	c.startPump()
}

func (c *conn) startClosing(why *CloseError) {
	c.state = connClosing
	if c.closeErr == nil {
		c.closeErr = why
	}
	reason := why.Reason
	if why.ByPeer {
		reason = ""
	}
	c.closeFrame = wsproto.CloseFrame(why.Code, reason)
}

// sayGoodbye writes the Close frame if that can be done at once.
func (c *conn) sendClose() {
	switch {
	case !c.tryControl(c.closeFrame):
	case len(c.tail) > 0:
		c.closeFrame = nil
	case c.state == connClosing:
		c.closeSent()
	}
}

// closeLinger is how long the peer has to answer a Close frame, and to take the
// end of one that it waits for. Whoever writes after it gets a reset, and may lose
// the code: so a peer that is closed because it lags has longer.
const (
	closeLinger = time.Second
	lagLinger   = 5 * time.Second
)

func (c *conn) linger() time.Duration {
	lags := c.closeErr.Code == CloseTryAgainLater || c.closeErr.Code == CloseTimeout
	if lags && !c.hub.stopping() {
		return lagLinger
	}
	return closeLinger
}

// saidGoodbye begins the wait for the peer's Close or end. Closing the socket
// with input unread would reset the connection and could cost the peer the code.
func (c *conn) closeSent() {
	c.state = connCloseSent
	c.dropQueue(dropDisconnected)
	if !c.closeErr.ByPeer {
		_ = c.Conn.SetReadDeadline(time.Now().Add(c.linger())) // fails only on a dead connection
	}
}

// kill ends the connection without a Close frame.
func (c *conn) abort(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abortLocked(err)
}

// die is kill for callers who have mu. The readPump notices and ends the rest.
func (c *conn) abortLocked(err error) {
	if c.state == connEnded {
		return
	}
	switch {
	case c.closeErr == nil:
		c.closeErr = &CloseError{Code: CloseAbnormalClosure, Reason: err.Error(), Err: err}
	case c.state == connClosing:
		unsaid := *c.closeErr // which other clients may share
		unsaid.Err = err
		c.closeErr = &unsaid
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	c.socket.Abort()
}

// discard counts and lets go of every message that waits.
func (c *conn) dropQueue(reason dropReason) {
	for c.queue.len() > 0 {
		it := c.dequeue()
		c.drop(it.pub, reason)
		it.pub.release()
	}
	c.queue.shrink()
	c.queued -= int64(c.losses.len()) * lossCost
	c.losses = nil
}

// keepRest holds on to the end of a frame whose beginning is out. p is its
// message, or nil.
func (c *conn) keepTail(rest []byte, p *publication) {
	c.tail, c.tailOf = rest, p
	if p != nil {
		p.retain(1)
	}
}

// discardRest is discard for the end of a partly written frame, which is of use
// as long as anything is to be written.
func (c *conn) dropTail() {
	if p := c.tailOf; p != nil {
		c.drop(p, dropDisconnected)
		p.release()
	}
	c.tail, c.tailOf = nil, nil
}

// setOutbound changes what the client gets messages in from here on. It runs in
// the shard's turn.
func (c *conn) setOutbound(f form, keys *pipeline) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.form, c.keys = f, keys
}

// release ends the hold: what waited takes the form and keys that hold now.
func (c *conn) unhold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	for i := range c.queue.len() {
		it := c.queue.at(i)
		it.form, it.keys = c.form, c.keys
	}
	c.startPump()
}

// ended reports whether messages from the peer are no longer wanted.
func (c *conn) isClosing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state != connOpen
}

// anythingWaits reports whether a release would write anything.
func (c *conn) anyPending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hasPending()
}

// finish closes the socket after the writePump, which has as long as a peer has for
// its answer to get out what it holds. It returns why the connection ended.
func (c *conn) finish(err error) *CloseError {
	c.mu.Lock()
	if c.state == connOpen { // broken off: nothing can be said any more
		c.abortLocked(err)
	}
	if c.state == connClosing && !c.pumping { // closed by the peer before the shard has walked the release
		c.held = false
		if c.queuedPong != nil && c.tryControl(c.queuedPong) {
			c.queuedPong = nil
		}
		c.sendClose()
		c.startPump()
	}
	if c.pumping {
		c.pumpDone = sync.NewCond(&c.mu)
		cut := time.AfterFunc(c.linger(), func() { c.abort(errFlushTimeout) })
		for c.pumping {
			c.pumpDone.Wait()
		}
		cut.Stop()
	}
	c.state = connEnded
	c.dropQueue(dropDisconnected)
	c.dropTail()
	ending := c.closeErr
	c.mu.Unlock()
	_ = c.Conn.Close() // nobody is left who could act on its error
	return ending
}

// item refers to a message that waits for one client.
type item struct {
	pub  *publication
	keys *pipeline // the client's own, or nil
	form form
}

func (it *item) encoded() bool {
	s := it.pub.find(it.form)
	return s != nil && len(s.bytes) > 0
}

// ring is a queue in a circular slice that grows as needed.
type ring struct {
	items []item
	head  int
	n     int
}

// shrink lets go of an empty ring's slice unless it is small.
func (r *ring) shrink() {
	if r.n == 0 && len(r.items) > minRing {
		*r = ring{}
	}
}

const minRing = 8

func (r *ring) len() int { return r.n }

func (r *ring) at(i int) *item { return &r.items[(r.head+i)&(len(r.items)-1)] }

func (r *ring) push(it item) {
	if r.n == len(r.items) {
		grown := make([]item, max(minRing, 2*len(r.items)))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.items, r.head = grown, 0
	}
	r.n++
	*r.at(r.n - 1) = it
}

func (r *ring) pop() item {
	it := *r.at(0)
	*r.at(0) = item{}
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.n--
	return it
}
