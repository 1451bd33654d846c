package websocket

import "unsafe"

// Unsent returns the number of messages that are addressed but not sent. Benchmarks call
// it often: it reads fewer counters than Stats.
func (h *Hub) Unsent() uint64 {
	sent := uint64(0)
	for _, s := range h.shards {
		sent += s.counters.messagesSent.Load()
	}
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	return h.events.addressed - sent
}

// ClientSize is the size of a Client in bytes.
const ClientSize = unsafe.Sizeof(Client{})
