// Package testnet is an in-memory network for tests: connections with bounded
// buffers, deadlines and injected faults, on which blocked goroutines are durably
// blocked for testing/synctest.
//
// Its connections implement transport.Conn, so a hub uses them as directly as TCP.
// Plain returns a connection that a hub has to write to with a goroutine.
package testnet

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
)

var (
	_ transport.Conn = (*Conn)(nil)
	_ transport.Conn = (*CutConn)(nil)
	_ transport.Conn = (*DiscardConn)(nil)
	_ transport.Conn = (*FeedConn)(nil)
)

// Conn is one end of an in-memory connection. It is a net.Conn and a direct
// transport.Conn.
type Conn struct {
	in, out *pipe
	faults  *Faults
	remote  net.Addr
}

// Faults are injected into the writes of one end.
type Faults struct {
	mu      sync.Mutex
	short   int          // maximum bytes that one call accepts, 0 for no limit
	fail    error        // result of every write, if not nil
	Written atomic.Int64 // bytes written so far
	Writes  atomic.Int64 // calls that write them
}

// Short limits every write to n bytes. Zero means no limit.
func (f *Faults) Short(n int) { f.mu.Lock(); f.short = n; f.mu.Unlock() }

// Fail makes every later write return err. Nil ends that.
func (f *Faults) Fail(err error) { f.mu.Lock(); f.fail = err; f.mu.Unlock() }

// Pair returns the two ends of a connection that buffers window bytes in each
// direction.
func Pair(window int) (server, client *Conn) {
	up, down := newPipe(window), newPipe(window)
	remote := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2}
	return &Conn{up, down, &Faults{}, remote}, &Conn{down, up, &Faults{}, remote}
}

// Faults returns the faults of this end's writes.
func (c *Conn) Faults() *Faults { return c.faults }

// SetWindow changes how many bytes this end's output buffers.
func (c *Conn) SetWindow(n int) { c.out.setWindow(n) }

// SetMinFree makes this end, once its output is full, block until n bytes are free. A kernel
// reports a TCP socket as writable only when a third of its send buffer is free.
func (c *Conn) SetMinFree(n int) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.minFree = n
}

// SetRemoteAddr sets the result of RemoteAddr. It must be called before the connection is used.
func (c *Conn) SetRemoteAddr(a net.Addr) { c.remote = a }

// SetReadRate limits the bytes per second that this end reads. 0 means that it reads nothing,
// also not the end of the connection. A negative rate means no limit.
func (c *Conn) SetReadRate(bytesPerSecond int) {
	c.in.mu.Lock()
	c.in.rate = bytesPerSecond
	c.in.notify()
	c.in.mu.Unlock()
}

// ResetAfterRead resets the connection, like Reset, once this end has read n more bytes.
func (c *Conn) ResetAfterRead(n int) { c.in.resetAfter(n) }

// ResetAfterWrite resets the connection, like Reset, once the peer has read n more bytes.
func (c *Conn) ResetAfterWrite(n int) { c.out.resetAfter(n) }

// Silence makes the network drop everything from now on: neither end receives what the other
// writes, nor learns that the other has closed. Writes are accepted until the window is full.
func (c *Conn) Silence() {
	for _, p := range []*pipe{c.in, c.out} {
		p.mu.Lock()
		p.silent = true
		p.mu.Unlock()
	}
}

// Pending returns the number of bytes that this end has not read yet.
func (c *Conn) Pending() int {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return len(c.in.buf)
}

// Plain returns c with the methods of net.Conn, so that it is no transport.Conn. It
// survives write deadlines, as a Unix socket does.
func (c *Conn) Plain() net.Conn { return plain{c, c} }

// plain is the result of Plain.
type plain struct {
	net.Conn
	conn *Conn
}

// Watch implements a part of transport.Conn, as if a socket were beneath TLS.
func (p plain) Watch(w *transport.Watcher, waker transport.Waker) bool { return p.conn.Watch(w, waker) }

// Unwatch is like Watch.
func (p plain) Unwatch(w *transport.Watcher) { p.conn.Unwatch(w) }

// SurvivesWriteDeadline returns true.
func (plain) SurvivesWriteDeadline() bool { return true }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.in.read(b)
	if errors.Is(err, errResetDue) {
		c.Reset()
		err = syscall.ECONNRESET
	}
	return n, err
}

// Write implements net.Conn.
func (c *Conn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.writeSome(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *Conn) writeSome(b []byte, wait bool) (int, error) {
	c.faults.mu.Lock()
	short, fail := c.faults.short, c.faults.fail
	c.faults.mu.Unlock()
	if fail != nil {
		return 0, fail
	}
	if short > 0 {
		b = b[:min(len(b), short)]
	}
	c.faults.Writes.Add(1) // before the peer can read
	n, err := c.out.write(b, wait)
	c.faults.Written.Add(int64(n))
	return n, err
}

// Direct returns true.
func (c *Conn) Direct() bool { return true }

// Progress implements transport.Conn.
func (c *Conn) Progress() (mark uint32, ok bool) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	return c.out.taken, true
}

// PeerClosed implements transport.Conn.
func (c *Conn) PeerClosed() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.wasReset || c.in.readerClosed || c.in.writerClosed && !c.in.silent
}

// Watchable returns true.
func (c *Conn) Watchable() bool { return true }

// Watch implements transport.Conn.
func (c *Conn) Watch(_ *transport.Watcher, waker transport.Waker) bool {
	c.in.watch(waker)
	return true
}

// Unwatch implements transport.Conn.
func (c *Conn) Unwatch(*transport.Watcher) { c.in.watch(nil) }

// TryWrite implements transport.Conn.
func (c *Conn) TryWrite(b []byte, _ bool) (int, error) { return c.writeSome(b, false) }

// WriteAll implements transport.Conn.
func (c *Conn) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.writeSome(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

// Abort is like Close.
func (c *Conn) Abort() { _ = c.Close() }

// Close ends both directions. The peer can still read bytes that were written before.
func (c *Conn) Close() error {
	c.in.close(&c.in.readerClosed)
	c.out.close(&c.out.writerClosed)
	return nil
}

// Reset ends both directions at once with the error that a TCP reset gives. Unread bytes are lost.
func (c *Conn) Reset() {
	c.in.reset()
	c.out.reset()
}

// LocalAddr returns a made-up address.
func (c *Conn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// RemoteAddr returns the address that SetRemoteAddr has set, or a made-up one.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error { c.in.setDeadline(&c.in.readBy, t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// pipe is one direction of a connection.
type pipe struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	window  int    // maximum length of buf
	full    bool   // see writable
	minFree int    // see writable
	taken   uint32 // bytes read so far

	readerClosed, writerClosed bool // by Close of the end that reads or writes
	wasReset                   bool
	silent                     bool // neither end notices the other

	rate      int       // see SetReadRate
	nextRead  time.Time // with a rate: the time of the next read
	nextTimer bool      // a timer will wake read
	left      int       // bytes that are read before the connection is reset; negative means no limit

	readBy, writeBy deadline
	waker           transport.Waker // see Conn.Watch; nil if the reader's end is not watched
	readers         int             // calls of read that wait
}

// notify wakes all that wait for a change. The caller holds mu. As with epoll, bytes that a
// waiting read takes are not reported to the waker.
func (p *pipe) notify() {
	p.changed.Broadcast()
	ended := p.wasReset || p.readerClosed || p.left == 0
	if p.waker != nil && p.readers == 0 && (ended || !p.silent && p.rate != 0 && (len(p.buf) > 0 || p.writerClosed)) {
		go p.waker.Wake() // on a goroutine of its own, because the caller may hold its lock
		p.waker = nil
	}
}

func (p *pipe) watch(waker transport.Waker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waker = waker
	p.notify()
}

type deadline struct {
	timer   *time.Timer
	expired bool
}

func newPipe(window int) *pipe {
	p := &pipe{window: window, rate: -1, left: -1}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// errResetDue means that the reader has to reset the connection.
var errResetDue = errors.New("testnet: the connection is cut here")

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.wasReset:
			return 0, syscall.ECONNRESET
		case p.readerClosed:
			return 0, net.ErrClosed
		case p.readBy.expired:
			return 0, os.ErrDeadlineExceeded
		case p.left == 0:
			return 0, errResetDue
		case p.silent || p.rate == 0:
		case len(p.buf) > 0:
			if n := min(len(b), p.readable()); n > 0 {
				copy(b, p.buf[:n])
				p.buf = append(p.buf[:0], p.buf[n:]...)
				p.taken += uint32(n)
				if p.left > 0 {
					p.left -= n
				}
				p.notify()
				return n, nil
			}
		case p.writerClosed:
			return 0, io.EOF
		}
		p.readers++
		p.changed.Wait()
		p.readers--
	}
}

// readable returns how many bytes may be read now. If the rate allows none, a timer wakes read.
func (p *pipe) readable() int {
	n := len(p.buf)
	if p.left > 0 {
		n = min(n, p.left)
	}
	if p.rate < 0 {
		return n
	}
	now := time.Now()
	if wait := p.nextRead.Sub(now); wait > 0 {
		if !p.nextTimer {
			p.nextTimer = true
			time.AfterFunc(wait, func() {
				p.mu.Lock()
				p.nextTimer = false
				p.notify()
				p.mu.Unlock()
			})
		}
		return 0
	}
	n = min(n, max(1, p.rate/20))
	p.nextRead = now.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	return n
}

func (p *pipe) resetAfter(n int) {
	p.mu.Lock()
	p.left = n
	p.notify()
	p.mu.Unlock()
}

// writable reports whether a write is accepted. A pipe that was full is not writable
// until minFree bytes are free.
func (p *pipe) writable() bool {
	free := p.window - len(p.buf)
	if free <= 0 {
		p.full = true
	} else if free >= p.minFree {
		p.full = false
	}
	return !p.full
}

// write accepts as much of b as the window allows, and waits for at least one byte
// if wait is set.
func (p *pipe) write(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.wasReset:
			return 0, syscall.ECONNRESET
		case p.readerClosed && !p.silent:
			return 0, syscall.EPIPE
		case p.writerClosed:
			return 0, net.ErrClosed
		case p.writeBy.expired:
			return 0, os.ErrDeadlineExceeded
		case p.writable():
			n := min(len(b), p.window-len(p.buf))
			p.buf = append(p.buf, b[:n]...)
			p.notify()
			return n, nil
		case !wait:
			return 0, nil
		}
		p.changed.Wait()
	}
}

func (p *pipe) setWindow(n int) {
	p.mu.Lock()
	p.window = n
	p.notify()
	p.mu.Unlock()
}

// close sets by, which is readerClosed or writerClosed.
func (p *pipe) close(by *bool) {
	p.mu.Lock()
	*by = true
	p.notify()
	p.mu.Unlock()
}

func (p *pipe) reset() {
	p.mu.Lock()
	p.wasReset = true
	p.buf = nil
	p.notify()
	p.mu.Unlock()
}

func (p *pipe) setDeadline(d *deadline, t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.expired = false
	switch {
	case t.IsZero():
	case !t.After(time.Now()):
		d.expired = true
	default:
		d.timer = time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			d.expired = true
			p.notify()
			p.mu.Unlock()
		})
	}
	p.notify()
}
