package websocket

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"
)

// Shutdown starts to shut the hub down and waits until Run has ended, or until ctx is
// done. It returns Run's error or ctx's error. Shutdown continues after ctx is done.
// If Run has not been called, Shutdown closes the hub and returns nil; Run then
// returns ErrHubClosed.
//
// Shutdown may be called from any goroutine and more than once. A callback must call
// it in a new goroutine, because shutdown waits for callbacks. Run describes the
// steps of the shutdown.
func (h *Hub) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.beginStop()
	if h.phase == hubNew {
		h.phase = hubStopped
		close(h.done)
	}
	stopped := h.phase == hubStopped
	h.mu.Unlock()
	if stopped {
		h.events.close()
	}
	select {
	case <-h.done:
		return h.result
	case <-ctx.Done():
		return ctx.Err()
	}
}

// beginStop closes stop if it is open. The hub is locked.
func (h *Hub) beginStop() {
	select {
	case <-h.stop:
	default:
		close(h.stop)
	}
}

// endAll ends every connection and every hub goroutine. It returns the names of the
// callbacks that are still running after CallbackTimeout.
func (h *Hub) endAll() (stuck []string) {
	begin := time.Now()
	h.mu.Lock()
	h.phase = hubStopping
	h.beginStop()
	if h.conns == 0 {
		close(h.drained)
	}
	h.mu.Unlock()
	h.closeMany(begin)
	h.events.close() // not before: those that are still connected are served
	h.events.appendAll(entryShutdown)

	if !waitFor(h.drained, h.config.DrainTimeout-time.Since(begin)) {
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
	h.watcher.Close()
	h.pumps.close()
	h.events.closeHistories()
	h.events.closePresences()
	if h.node != nil && !h.node.stop() {
		stuck = append(stuck, "Broker")
	}
	h.logRest()
	return stuck
}

// A shutdown closes up to fewClients clients at once. More are closed one by one, spread
// evenly over shutdownPace for each, and at most over half of DrainTimeout: the last ones
// have the other half to accept their queued messages.
const (
	fewClients   = 256
	shutdownPace = time.Millisecond
)

// closeMany closes the clients one by one if there are many.
func (h *Hub) closeMany(begin time.Time) {
	clients := h.liveClients()
	if len(clients) <= fewClients {
		return // entryShutdown closes them
	}
	window := min(time.Duration(len(clients))*shutdownPace, h.config.DrainTimeout/2)
	h.closeInTurn(departures(clients, 0, window), begin, newShutdownError(), h.drained, nil)
}

func newShutdownError() *CloseError {
	return &CloseError{Code: CloseGoingAway, Reason: "server is shutting down"}
}

// waitFor waits until done is closed, at most d, and reports whether it was closed.
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

// livePart is the number of clients that eachLive copies at a time.
const livePart = 256

// eachLive calls f for every connection that has not ended, also for those whose client
// has left. It locks the hub only to copy the next few clients, so that handshakes do not
// wait for all of them.
func (h *Hub) eachLive(f func(*Client)) {
	part := make([]*Client, 0, livePart)
	h.mu.Lock()
	for c := range h.live.m { // the map may change between two steps of an iteration
		if part = append(part, c); len(part) == livePart {
			h.mu.Unlock()
			for _, c := range part {
				f(c)
			}
			part = part[:0]
			h.mu.Lock()
		}
	}
	h.mu.Unlock()
	for _, c := range part {
		f(c)
	}
}

// liveClients returns the clients whose connections have not ended, in random order.
func (h *Hub) liveClients() []*Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.liveClientsLocked()
}

// liveClientsLocked is liveClients for callers that have locked the hub.
func (h *Hub) liveClientsLocked() []*Client {
	clients := make([]*Client, 0, len(h.live.m))
	for c := range h.live.m {
		clients = append(clients, c)
	}
	return clients
}

// abandon makes addClient reject every handshake that finishes from now on. It
// returns the names of the callbacks that are still running.
func (h *Hub) abandon() (callbacks []string) {
	h.mu.Lock()
	h.abandoned = true
	h.mu.Unlock()
	return h.runningCallbacks()
}

// runningCallbacks describes the callbacks that are running.
func (h *Hub) runningCallbacks() (callbacks []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.live.m {
		callbacks = append(callbacks, fmt.Sprintf("%s of client %q", callbackNames[c.calling.Load()], c.ID))
	}
	if n := h.handshakes.Load(); n > 0 {
		callbacks = append(callbacks, fmt.Sprintf("%d handshakes (in CheckOrigin or ClientID, or writing the response)", n))
	}
	return callbacks
}

// beginHandshake counts a new handshake, or returns the refusal. connectionDone ends
// the count of the handshake and of its connection.
func (h *Hub) beginHandshake(r *http.Request) (*addressCount, error) {
	var addr netip.Addr
	if h.config.MaxClientsPerAddress > 0 {
		addr = h.clientAddress(r)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refusalLocked(); err != nil {
		return nil, err
	}
	switch {
	case h.config.MaxClients > 0 && h.conns >= h.config.MaxClients:
		return nil, refuse(RefusedLimit, http.StatusServiceUnavailable, "hub is full")
	case h.config.MaxHandshakes > 0 && h.handshakes.Load() >= int64(h.config.MaxHandshakes):
		return nil, refuse(RefusedLimit, http.StatusServiceUnavailable, "too many handshakes at once")
	}
	count, ok := h.countAddress(addr)
	if !ok {
		return nil, refuse(RefusedAddressLimit, http.StatusTooManyRequests, "too many connections from this address")
	}
	h.conns++
	h.handshakes.Add(1)
	return count, nil
}

// refusal returns the refusal of all handshakes, or nil while the hub accepts clients.
func (h *Hub) refusal() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.refusalLocked()
}

// refusalLocked is refusal for callers that have locked the hub.
func (h *Hub) refusalLocked() error {
	switch {
	case h.phase >= hubStopping || h.stopping():
		return refuse(RefusedClosed, http.StatusServiceUnavailable, "hub closed")
	case h.draining != nil:
		return refuse(RefusedDraining, http.StatusServiceUnavailable, drainReason)
	}
	return nil
}

// addClient adds c to the clients that shutdown ends. It reports false if shutdown no
// longer waits for clients. A client whose response was written while a drain began has
// no slot and is closed at once.
func (h *Hub) addClient(c *Client) bool {
	h.mu.Lock()
	abandoned, cut, draining := h.abandoned, h.cut, h.draining
	if !abandoned {
		h.served = true
		h.live.put(c, struct{}{})
	}
	h.mu.Unlock()
	if cut && !abandoned {
		c.conn.abort(errDrainTimeout) // endAll has already aborted the other connections
	} else if draining != nil {
		c.conn.close(draining.cause)
	}
	return !abandoned
}

// connectionDone counts one handshake or connection less, also in count, which
// beginHandshake has returned. c is nil if the handshake failed.
func (h *Hub) connectionDone(c *Client, count *addressCount) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uncountAddress(count)
	h.live.remove(c)
	h.conns--
	if h.conns > 0 {
		return
	}
	if h.phase == hubStopping {
		close(h.drained)
	}
	if h.draining != nil { // it happens once, because no handshake begins any more
		close(h.draining.empty)
	}
}

// stopping reports whether shutdown has begun.
func (h *Hub) stopping() bool {
	select {
	case <-h.stop:
		return true
	default:
		return false
	}
}
