package websocket

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// FakeConn is one end of an in-memory connection with a bounded buffer in each
// direction, deadlines, and faults. Used as the server's end it is a direct
// socket, like TCP, unless wrapped by Plain.
type FakeConn struct {
	in, out *fakePipe
	faults  *Faults
}

// Faults are injected into what the server's end writes.
type Faults struct {
	mu      sync.Mutex
	short   int   // at most that many bytes are accepted per call, 0 for no limit
	fail    error // every write fails
	Written atomic.Int64
}

// Short limits every write to n bytes.
func (f *Faults) Short(n int) { f.mu.Lock(); f.short = n; f.mu.Unlock() }

// Fail makes every write fail.
func (f *Faults) Fail(err error) { f.mu.Lock(); f.fail = err; f.mu.Unlock() }

// FakePair returns the two ends of a connection that buffers window bytes each way.
func FakePair(window int) (server, client *FakeConn) {
	up, down := newFakePipe(window), newFakePipe(window)
	return &FakeConn{in: up, out: down, faults: &Faults{}}, &FakeConn{in: down, out: up, faults: &Faults{}}
}

// Faults returns what disturbs this end's writing.
func (c *FakeConn) Faults() *Faults { return c.faults }

// SetWindow changes how many bytes this end's output buffers.
func (c *FakeConn) SetWindow(n int) { c.out.setWindow(n) }

// Plain hides everything but net.Conn, so that only a writePump can serve it.
func (c *FakeConn) Plain() net.Conn { return struct{ net.Conn }{c} }

func (c *FakeConn) Read(b []byte) (int, error) { return c.in.read(b) }

func (c *FakeConn) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.attempt(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func (c *FakeConn) attempt(b []byte, wait bool) (int, error) {
	c.faults.mu.Lock()
	short, fail := c.faults.short, c.faults.fail
	c.faults.mu.Unlock()
	if fail != nil {
		return 0, fail
	}
	if short > 0 {
		b = b[:min(len(b), short)]
	}
	n, err := c.out.write(b, wait)
	c.faults.Written.Add(int64(n))
	return n, err
}

func (c *FakeConn) direct() bool { return true }

func (c *FakeConn) tryWrite(b []byte) (int, error) { return c.attempt(b, false) }

func (c *FakeConn) write(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	written := 0
	for written < len(b) {
		n, err := c.attempt(b[written:], true)
		written += n
		if err != nil {
			return written, err
		}
		progress.Store(clock())
	}
	return written, nil
}

func (c *FakeConn) abort() { _ = c.Close() }

// Close ends both directions; what was written before can still be read.
func (c *FakeConn) Close() error {
	c.in.close(net.ErrClosed)
	c.out.close(io.EOF)
	return nil
}

// Reset ends both directions at once with the error that a TCP reset gives.
func (c *FakeConn) Reset() {
	c.in.reset()
	c.out.reset()
}

func (c *FakeConn) LocalAddr() net.Addr  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }
func (c *FakeConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }

func (c *FakeConn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}
func (c *FakeConn) SetReadDeadline(t time.Time) error { c.in.setDeadline(&c.in.readBy, t); return nil }
func (c *FakeConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

// fakePipe is one direction.
type fakePipe struct {
	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	window  int
	end     error // what the reader gets after buf
	readBy  fakeDeadline
	writeBy fakeDeadline
}

type fakeDeadline struct {
	timer   *time.Timer
	expired bool
}

func newFakePipe(window int) *fakePipe {
	p := &fakePipe{window: window}
	p.changed = sync.NewCond(&p.mu)
	return p
}

func (p *fakePipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.end == net.ErrClosed || p.end == syscall.ECONNRESET:
			return 0, p.end
		case p.readBy.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = append(p.buf[:0], p.buf[n:]...)
			p.changed.Broadcast()
			return n, nil
		case p.end != nil:
			return 0, p.end
		}
		p.changed.Wait()
	}
}

func (p *fakePipe) write(b []byte, wait bool) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.end == syscall.ECONNRESET:
			return 0, p.end
		case p.end == net.ErrClosed:
			return 0, syscall.EPIPE // the reader is gone
		case p.end != nil:
			return 0, net.ErrClosed // we have closed it
		case p.writeBy.expired:
			return 0, os.ErrDeadlineExceeded
		case p.window > len(p.buf):
			n := min(len(b), p.window-len(p.buf))
			p.buf = append(p.buf, b[:n]...)
			p.changed.Broadcast()
			return n, nil
		case !wait:
			return 0, nil
		}
		p.changed.Wait()
	}
}

func (p *fakePipe) setWindow(n int) {
	p.mu.Lock()
	p.window = n
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *fakePipe) close(end error) {
	p.mu.Lock()
	if p.end == nil || end == net.ErrClosed && p.end == io.EOF {
		p.end = end
	}
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *fakePipe) reset() {
	p.mu.Lock()
	p.end = syscall.ECONNRESET
	p.buf = nil
	p.mu.Unlock()
	p.changed.Broadcast()
}

func (p *fakePipe) setDeadline(d *fakeDeadline, t time.Time) {
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
			p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
	p.changed.Broadcast()
}

// DiscardConn takes everything that is written at once and never has anything to
// read, for benchmarks of all that comes before the kernel.
type DiscardConn struct {
	OnWrite func(n int) // called for every write, in the shard's turn, if set
	net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewDiscardConn returns a connection whose handshake has been read already.
func NewDiscardConn() *DiscardConn { return &DiscardConn{closed: make(chan struct{})} }

func (c *DiscardConn) Read([]byte) (int, error) { <-c.closed; return 0, io.EOF }

func (c *DiscardConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *DiscardConn) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *DiscardConn) SetDeadline(time.Time) error      { return nil }
func (c *DiscardConn) SetReadDeadline(time.Time) error  { return nil }
func (c *DiscardConn) SetWriteDeadline(time.Time) error { return nil }
func (c *DiscardConn) direct() bool                     { return true }
func (c *DiscardConn) abort()                           { _ = c.Close() }

func (c *DiscardConn) tryWrite(b []byte) (int, error) {
	if c.OnWrite != nil {
		c.OnWrite(len(b))
	}
	return len(b), nil
}

func (c *DiscardConn) write(b []byte, _ *atomic.Int64, _ func() int64) (int, error) {
	return len(b), nil
}

// FeedConn is a DiscardConn on which the peer sends the same frame n times, one
// for each read.
type FeedConn struct {
	DiscardConn
	frame []byte
	left  atomic.Int64
	Fed   chan struct{} // closed when all have been read
}

// NewFeedConn returns a connection that begins to feed when told how much.
func NewFeedConn(frame []byte) *FeedConn {
	return &FeedConn{DiscardConn: DiscardConn{closed: make(chan struct{})}, frame: frame, Fed: make(chan struct{})}
}

// Feed sets how many frames are to come; it is called before the handshake.
func (c *FeedConn) Feed(n int) { c.left.Store(int64(n)) }

func (c *FeedConn) Read(b []byte) (int, error) {
	if c.left.Add(-1) < 0 {
		if c.left.Load() == -1 {
			close(c.Fed)
		}
		return c.DiscardConn.Read(b)
	}
	return copy(b, c.frame), nil
}

// Unsent returns how many messages are addressed and not sent. Unlike Stats it
// costs the same however many channels and rooms there are.
func (h *Hub) Unsent() uint64 {
	sent := uint64(0)
	for _, s := range h.shards {
		sent += s.counters.messagesSent.Load()
	}
	h.log.mu.Lock()
	defer h.log.mu.Unlock()
	return h.log.addressed - sent
}
