package websocket

import (
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// Unsent describes publications of this node that did not reach the other nodes: the
// argument of Config.OnUnsent. Without Channel, RoomID, ClientID and All they were
// broadcasts.
type Unsent struct {
	// Channel, RoomID or ClientID names the recipients; the others are empty.
	Channel, RoomID, ClientID string
	// All means that the publications may be of any kind. The hub sets it when it holds the
	// maximum number of separate reports.
	All bool
	// Count is the number of publications.
	Count uint64
	// First and Last are the Timestamps of the first and the last of them, in Unix
	// nanoseconds.
	First, Last int64
	// Err is ErrBrokerUnavailable, or ErrMessageTooLarge if the engine does not take messages
	// of that size.
	Err error
}

// unsentReports collects publications for Config.OnUnsent. One goroutine calls the hook;
// publications that fail meanwhile are added up by target and error.
type unsentReports struct {
	mu      sync.Mutex // guards pending and queue; no other lock is taken while it is held
	pending map[unsentReport]*Unsent
	queue   []unsentReport // keys of pending, oldest first
	wake    chan struct{}  // capacity 1; countUnsent sends, runReports receives; never closed
}

// unsentReport is the key of a report.
type unsentReport struct {
	to  target
	all bool
	err error
}

// maxUnsentReports is the number of pending reports from which on a new one has publications
// to any target.
const maxUnsentReports = 4096

// countUnsent counts and reports a publication that did not reach the engine. The node may be
// locked.
func (n *node) countUnsent(to target, m *Message, err error) {
	n.unsent.Add(1)
	if n.hub.config.OnUnsent == nil {
		return
	}
	r := &n.hub.unsent
	key := unsentReport{to: to, err: err}
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.pending[key]
	if u == nil && len(r.queue) >= maxUnsentReports {
		key = unsentReport{all: true, err: err}
		u = r.pending[key]
	}
	if u == nil {
		if r.pending == nil {
			r.pending = make(map[unsentReport]*Unsent)
		}
		u = key.empty()
		u.First = m.Timestamp
		r.pending[key] = u
		r.queue = append(r.queue, key)
		wake(r.wake)
	}
	u.Count++
	u.Last = m.Timestamp
}

// empty returns the report with a count of 0.
func (k *unsentReport) empty() *Unsent {
	u := &Unsent{All: k.all, Err: k.err}
	switch k.to.Audience {
	case nodewire.ToChannel:
		u.Channel = k.to.Name
	case nodewire.ToRoom:
		u.RoomID = k.to.Name
	default:
		u.ClientID = k.to.Name
	}
	return u
}

// next removes and returns the oldest report, or nil.
func (r *unsentReports) next() *Unsent {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.queue) == 0 {
		r.pending, r.queue = nil, nil // they may have been large
		return nil
	}
	key := r.queue[0]
	u := r.pending[key]
	delete(r.pending, key)
	r.queue = r.queue[1:]
	return u
}

// reportNextUnsent calls Config.OnUnsent for the oldest report. It reports false if there is
// none.
func (h *Hub) reportNextUnsent() bool {
	u := h.unsent.next()
	if u == nil {
		return false
	}
	h.protect("OnUnsent", "node", h.node.name, func() { h.config.OnUnsent(*u) }, nil)
	return true
}
