package websocket

// Unsent returns how many messages are addressed and not sent. Unlike Stats it
// costs the same however many channels and rooms there are.
func (h *Hub) Unsent() uint64 {
	sent := uint64(0)
	for _, s := range h.shards {
		sent += s.counters.messagesSent.Load()
	}
	h.events.mu.Lock()
	defer h.events.mu.Unlock()
	return h.events.addressed - sent
}
