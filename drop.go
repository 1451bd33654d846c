package websocket

import (
	"sync"
	"sync/atomic"
)

// dropReports collects drops for Config.OnDrop. One goroutine, runReports, calls the
// hook with reportNextDrop. Drops that happen in the meantime are combined by client, topic and reason.
type dropReports struct {
	mu      sync.Mutex           // guards pending and queue
	pending map[dropReport]*loss // not passed to the hook yet
	queue   []dropReport         // keys of pending, oldest first
	wake    chan struct{}        // capacity 1; drops send, runReports receives; never closed

	unreported atomic.Uint64 // drops beyond maxReports
	warned     uint64        // unreported drops that have been logged; runReports owns it
}

// dropReport is the key of a report.
type dropReport struct {
	client *Client
	topic  lossTopic
	reason dropReason
}

// Limits of the pending reports, which keep disconnected clients in memory.
const (
	maxTopicReports = 8192  // from here on a new report has drops of any topic
	maxReports      = 16384 // from here on drops are counted, not reported
)

// reportDrop adds a drop to the pending reports. The connection's lock may be held.
func (h *Hub) reportDrop(c *Client, p *publication, reason dropReason) {
	if h.config.OnDrop != nil {
		h.reportLoss(c, newLoss(lossTopicOf(p), p, reason))
	}
}

// reportLoss is reportDrop for several drops.
func (h *Hub) reportLoss(c *Client, lost loss) {
	if h.config.OnDrop == nil {
		return
	}
	d := &h.drops
	key := dropReport{c, lost.topic, lost.reason}
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.pending[key]
	if l == nil && len(d.queue) >= maxTopicReports {
		key.topic = lossTopic{all: true}
		l = d.pending[key]
	}
	switch {
	case l != nil:
		l.extend(lost)
	case len(d.queue) >= maxReports:
		d.unreported.Add(lost.count)
	default:
		if d.pending == nil {
			d.pending = make(map[dropReport]*loss)
		}
		lost.topic = key.topic
		d.pending[key] = &lost
		d.queue = append(d.queue, key)
		wake(d.wake)
	}
}

// next removes and returns the oldest report. The client is nil if there is none.
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
	d.queue[0] = dropReport{} // the array must not keep the client
	d.queue = d.queue[1:]
	return key.client, lost
}

// reportNextDrop calls Config.OnDrop for the oldest report. It reports false if there is none.
func (h *Hub) reportNextDrop() bool {
	c, lost := h.drops.next()
	if c == nil {
		return false
	}
	if n := h.drops.unreported.Load(); n > h.drops.warned {
		h.logger.Warningf("websocket: OnDrop is too slow: it was not called for %d messages that were dropped", n-h.drops.warned)
		h.drops.warned = n
	}
	h.protect("OnDrop", "client", c.ID, func() { h.config.OnDrop(c, lost) }, c)
	return true
}

// runReports calls reportNext until it reports false, each time that it receives from work
// until stopped is closed, and then once more. It closes reported when it is done. If a hook
// calls runtime.Goexit, a new goroutine continues.
func runReports(work chan struct{}, reportNext func() bool, stopped <-chan struct{}, reported chan<- struct{}) {
	finished := false
	defer func() {
		if finished {
			close(reported)
		} else {
			wake(work)                                         // more reports may be pending
			go runReports(work, reportNext, stopped, reported) // ends after stopped is closed
		}
	}()
	for last := false; !last; {
		select {
		case <-work:
		case <-stopped:
			last = true
		}
		for reportNext() {
		}
	}
	finished = true
}

// dropReason is the reason why a message was not delivered to a recipient.
type dropReason uint8

const (
	dropSlowConsumer dropReason = iota // the backlog was full
	dropDisconnected                   // the connection ended first
	dropCodec                          // the message could not be encoded
	dropHistory                        // the topic's history does not have it any more
	dropReasons
)

// dropNames are the values of Gap.Reason.
var dropNames = [dropReasons]string{
	dropSlowConsumer: "slow_consumer",
	dropDisconnected: "disconnected",
	dropCodec:        "codec",
	dropHistory:      "history",
}

// gapBroker is the Gap.Reason of messages lost between nodes. Their number is not
// known.
const gapBroker = "broker"
