package websocket

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

// Shutdown begins what the end of Run's context begins, and waits for Run to
// return or for ctx to end. It returns what Run returns, or ctx's error. Before
// Run it closes the hub for good. It may be called more than once.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.beginStop()
	if h.phase == hubNew {
		h.phase = hubStopped
		close(h.done)
	}
	h.mu.Unlock()
	h.events.close()
	select {
	case <-h.done:
		return h.result
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginStop closes stop once. The hub is locked.
func (h *Hub) beginStop() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
}

// drain ends every connection and every hub goroutine. It returns the callbacks
// that did not end.
func (h *Hub) drain() (stuck []string) {
	h.mu.Lock()
	h.phase = hubStopping
	h.beginStop()
	if h.conns == 0 {
		close(h.drained)
	}
	h.mu.Unlock()
	h.events.close()
	h.events.appendAll(entryShutdown)

	if !waitFor(h.drained, h.config.DrainTimeout) {
		h.mu.Lock()
		h.cut = true
		h.mu.Unlock()
		for _, c := range h.liveClients() {
			c.conn.abort(errDrainTimeout)
		}
		if !waitFor(h.drained, h.config.CallbackTimeout) {
			stuck = h.abandon()
		}
	}
	h.events.appendAll(entryStop)
	h.running.Wait()
	if h.node != nil && !h.node.stop() {
		stuck = append(stuck, "Broker")
	}
	return stuck
}

// waitFor reports whether done was closed within d.
func waitFor(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

func (h *Hub) liveClients() []*Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	clients := make([]*Client, 0, len(h.live))
	for c := range h.live {
		clients = append(clients, c)
	}
	return clients
}

// giveUp lets nobody in any more, and names what shutdown has waited for.
func (h *Hub) abandon() (callbacks []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.abandoned = true
	for c := range h.live {
		callbacks = append(callbacks, fmt.Sprintf("%s of client %q", callbackNames[c.calling.Load()], c.ID))
	}
	if n := h.handshakes.Load(); n > 0 {
		callbacks = append(callbacks, fmt.Sprintf("%d handshakes (in CheckOrigin or ClientID, or with an answer that is not taken)", n))
	}
	return callbacks
}

// enter counts a handshake in; leave counts it, or its connection, out.
func (h *Hub) beginHandshake() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.phase >= hubStopping || h.stopping():
		return refuse(http.StatusServiceUnavailable, "hub closed")
	case h.config.MaxClients > 0 && h.conns >= h.config.MaxClients:
		return refuse(http.StatusServiceUnavailable, "hub is full")
	case h.config.MaxHandshakes > 0 && h.handshakes.Load() >= int64(h.config.MaxHandshakes):
		return refuse(http.StatusServiceUnavailable, "too many handshakes at once")
	}
	h.conns++
	h.handshakes.Add(1)
	return nil
}

// welcome makes c one of those that shutdown ends, if shutdown still ends any.
func (h *Hub) addClient(c *Client) bool {
	h.mu.Lock()
	over, cut := h.abandoned, h.cut
	if !over {
		h.served = true
		h.live[c] = struct{}{}
	}
	h.mu.Unlock()
	if cut && !over {
		c.conn.abort(errDrainTimeout) // too late for shutdown to find it
	}
	return !over
}

func (h *Hub) connectionDone(c *Client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.live, c)
	h.conns--
	if h.phase == hubStopping && h.conns == 0 {
		close(h.drained)
	}
}

func (h *Hub) stopping() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}
