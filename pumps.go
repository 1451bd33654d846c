package websocket

import (
	"sync"
	"time"
)

// pumps runs readPumps. A goroutine whose readPump has ended waits a while for the next one,
// because its stack has grown already: to grow that of a new goroutine can take longer than
// to handle a small message.
type pumps struct {
	next chan *Client // start sends if a goroutine waits; never closed
	stop chan struct{}

	mu     sync.Mutex // guards the fields below
	idle   int
	closed bool
	ended  sync.Cond // signalled when idle has become 0
}

const (
	maxIdlePumps = 64
	idlePumpTime = time.Second
)

func newPumps() pumps { return pumps{next: make(chan *Client), stop: make(chan struct{})} }

// start runs the readPump of c on another goroutine.
func (p *pumps) start(c *Client) {
	select {
	case p.next <- c:
	default:
		go p.run(c) // ends when it has waited for idlePumpTime, or with the hub
	}
}

func (p *pumps) run(c *Client) {
	var timer *time.Timer
	for c != nil {
		c.readPump()
		if !p.beginWait() {
			return
		}
		if timer == nil {
			timer = time.NewTimer(idlePumpTime)
			defer timer.Stop()
		} else {
			timer.Reset(idlePumpTime)
		}
		select {
		case c = <-p.next:
		case <-timer.C:
			c = nil
		case <-p.stop:
			c = nil
		}
		p.endWait()
	}
}

// beginWait reports whether one more goroutine may wait.
func (p *pumps) beginWait() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.idle == maxIdlePumps {
		return false
	}
	p.idle++
	return true
}

func (p *pumps) endWait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle--; p.idle == 0 && p.closed {
		p.ended.Signal()
	}
}

// close ends the goroutines that wait. It does not wait for those that run callbacks.
func (p *pumps) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	close(p.stop)
	p.ended.L = &p.mu
	for p.idle > 0 {
		p.ended.Wait()
	}
}
