package websocket

import (
	"sync"
	"sync/atomic"
)

// dropReports gathers what Config.OnDrop is told. A goroutine of its own calls
// the hook; what happens meanwhile is added up per client, topic and reason.
type dropReports struct {
	mu         sync.Mutex
	pending    map[dropReport]*loss
	queue      []dropReport  // keys of pending, the oldest first
	wake       chan struct{} // capacity 1; drops send, the reporter receives; never closed
	unreported atomic.Uint64
	warned     uint64 // those of unreported that are in the log; the reporter's
}

type dropReport struct {
	client *Client
	topic  lossTopic
	reason dropReason
}

// Reports that wait keep clients that are gone. From maxTopicReports on, new ones
// are of any topic; beyond maxReports there are none.
const (
	maxTopicReports = 8192
	maxReports      = 16384
)

func (h *Hub) reportDrop(c *Client, p *publication, reason dropReason) {
	if h.config.OnDrop == nil {
		return
	}
	d := &h.drops
	key := dropReport{c, lossTopicOf(p), reason}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.pending[key]
	if l == nil && len(d.queue) >= maxTopicReports {
		key.topic = lossTopic{all: true}
		l = d.pending[key]
	}
	switch {
	case l != nil:
		l.extend(p)
	case len(d.queue) >= maxReports:
		d.unreported.Add(1)
	default:
		if d.pending == nil {
			d.pending = make(map[dropReport]*loss)
		}
		first := newLoss(key.topic, p, reason)
		d.pending[key] = &first
		d.queue = append(d.queue, key)
		wake(d.wake)
	}
}

// next takes the oldest report. Its client is nil when there is none.
func (d *dropReports) next() (*Client, Gap) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.queue) == 0 {
		d.pending, d.queue = nil, nil // they may have been large
		return nil, Gap{}
	}
	key := d.queue[0]
	lost := d.pending[key].gap()
	delete(d.pending, key)
	d.queue[0] = dropReport{} // lets go of the client
	d.queue = d.queue[1:]
	return key.client, lost
}

// runReports calls the hook until the hub has stopped, and then for the last
// time. A hook that ends the goroutine gets a new one.
func (h *Hub) runReports(stopped <-chan struct{}, reported chan<- struct{}) {
	finished := false
	defer func() {
		if finished {
			close(reported)
		} else {
			wake(h.drops.wake)                 // more may wait
			go h.runReports(stopped, reported) // as before
		}
	}()
	for last := false; !last; {
		select {
		case <-h.drops.wake:
		case <-stopped:
			last = true
		}
		for c, lost := h.drops.next(); c != nil; c, lost = h.drops.next() {
			if n := h.drops.unreported.Load(); n > h.drops.warned {
				h.logger.Warningf("websocket: OnDrop has fallen behind: it is not told of %d messages that were dropped", n-h.drops.warned)
				h.drops.warned = n
			}
			h.protect("OnDrop", "client", c.ID, func() { h.config.OnDrop(c, lost) }, c)
		}
	}
	finished = true
}

// dropReason says why a message was not delivered to one of its recipients.
type dropReason uint8

const (
	dropSlowConsumer dropReason = iota
	dropDisconnected
	dropCodec
	dropReasons
)

var dropNames = [dropReasons]string{
	dropSlowConsumer: "slow_consumer",
	dropDisconnected: "disconnected",
	dropCodec:        "codec",
}

// gapBroker is the reason of a gap between nodes. The number of lost messages is
// not known then.
const gapBroker = "broker"
