package websocket

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
