package testnet

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Link passes TCP connections on to a server. It can delay the bytes, and break. Its methods
// may be called from any goroutine.
type Link struct {
	listener net.Listener
	to       string
	ctx      context.Context
	cancel   context.CancelFunc
	delay    atomic.Int64 // nanoseconds
	running  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // both ends of each connection; nil while they are refused
	paused chan struct{}         // closed unless the link is silent
}

// NewLink starts a Link to a server at an address. It accepts connections until Close.
func NewLink(to string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	l := &Link{listener: listener, to: to, conns: make(map[net.Conn]struct{}), paused: make(chan struct{})}
	close(l.paused)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.running.Go(l.accept) // ends with Close
	return l, nil
}

// Addr returns the address that takes the place of the server's.
func (l *Link) Addr() string { return l.listener.Addr().String() }

// Close ends the connections and waits until its goroutines have ended.
func (l *Link) Close() {
	l.cancel()
	_ = l.listener.Close()
	l.Cut(false)
	l.running.Wait()
}

// SetDelay sets how long the bytes of each direction are on their way, from now on.
func (l *Link) SetDelay(d time.Duration) { l.delay.Store(int64(d)) }

// Cut breaks the link. With silent it only stops to pass bytes on.
func (l *Link) Cut(silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if silent {
		l.paused = make(chan struct{})
		return
	}
	for c := range l.conns {
		_ = c.Close()
	}
	l.conns = nil
}

// Restore ends what Cut has begun.
func (l *Link) Restore() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = make(map[net.Conn]struct{})
		return
	}
	close(l.paused)
}

// keep adds a connection, or closes it if the link is broken.
func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil || l.ctx.Err() != nil {
		_ = c.Close()
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Link) drop(c net.Conn) {
	_ = c.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

func (l *Link) accept() {
	for {
		near, err := l.listener.Accept()
		if err != nil {
			return
		}
		if !l.keep(near) {
			continue
		}
		l.running.Go(func() { // ends when both directions have ended
			defer l.drop(near)
			far, err := net.Dial("tcp", l.to)
			if err != nil || !l.keep(far) {
				return
			}
			defer l.drop(far)
			var back sync.WaitGroup
			back.Go(func() { l.pass(near, far); _ = near.Close() })
			l.pass(far, near)
			_ = far.Close()
			back.Wait()
		})
	}
}

// piece is bytes on their way.
type piece struct {
	due time.Time
	b   []byte
}

// pass passes the bytes of one direction on, until an end closes.
func (l *Link) pass(to io.Writer, from io.Reader) {
	way := make(chan piece, 1<<14) // the loop sends and closes, the goroutine receives
	var writing sync.WaitGroup
	writing.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			l.wait()
			_, _ = to.Write(p.b) // after a failure the loop ends, since both ends are closed
		}
	})
	for {
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if n > 0 {
			way <- piece{time.Now().Add(time.Duration(l.delay.Load())), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(way)
	writing.Wait()
}

// wait waits while the link is silent.
func (l *Link) wait() {
	l.mu.Lock()
	paused := l.paused
	l.mu.Unlock()
	select {
	case <-paused:
	case <-l.ctx.Done():
	}
}
