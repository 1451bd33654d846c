package websocket

import (
	"time"
	"unsafe"
)

// Started returns a channel that Run closes when the hub is running. A Shutdown before
// that makes Run return ErrHubClosed.
func (h *Hub) Started() <-chan struct{} { return h.started }

// SetUsualHibernateAfter sets the default of Config.HibernateAfter. It is called before
// any test runs.
func SetUsualHibernateAfter(after time.Duration) {
	usualHibernateAfter, briefDebt = after, min(briefDebt, after/10)
}

// Unsent returns the number of messages that are addressed but not sent. Benchmarks call
// it often: it reads fewer counters than Stats.
func (h *Hub) Unsent() uint64 {
	sent := uint64(0)
	for _, s := range h.shards {
		sent += s.counters.messagesSent.Load()
	}
	return h.events.addressed.Load() - sent
}

// HeldByMessages is Stats.HeldBytes without the requests, memberships and presence of connected
// clients. It must be 0 when no message is queued or in progress.
func (h *Hub) HeldByMessages() int64 {
	n := h.budget.used.Load()
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	for kind := range h.events.topics {
		for _, t := range h.events.topics[kind].m {
			if len(t.parts) > 0 {
				n -= h.events.topicCost(t) + int64(len(t.parts))*partCost
			}
			if p := t.presence; p != nil {
				n -= presenceCost*int64(len(p.members)) + int64(cap(p.snapshot))
			}
		}
	}
	for i := range h.ids.stripes {
		for _, c := range h.ids.snapshot(i) {
			if c.registered {
				if r := c.kept.recent.Load(); r != nil {
					n -= cachedSize(r)
				}
				n -= c.kept.size() + int64(len(c.members.list))*membershipCost + int64(len(c.info))
			}
		}
	}
	return n
}

// ClientSize is the size of a Client in bytes.
const ClientSize = unsafe.Sizeof(Client{})

// ChargeAll charges every client that has an ID n bytes, also in its handshake.
func (h *Hub) ChargeAll(n int64) {
	for i := range h.ids.stripes {
		for _, c := range h.ids.snapshot(i) {
			c.charge(n)
		}
	}
}

// Reclaim makes one pass of reclaim.
func (h *Hub) Reclaim() { h.reclaim() }

// CountedAddresses returns the number of addresses that MaxClientsPerAddress counts.
func (h *Hub) CountedAddresses() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.addresses.m)
}

// BucketOf returns the bucket of a duration in a Histogram.
func BucketOf(d time.Duration) int { return bucketOf(int64(d)) }

// LockLog locks the hub's log, for which publishing waits, until unlock is called.
func LockLog(h *Hub) (unlock func()) {
	h.events.mu.Lock()
	return h.events.mu.Unlock
}
