package websocket

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// DrainOptions configures Hub.Drain.
type DrainOptions struct {
	// Window is the time over which the ends of the connections are spread evenly. With
	// 10,000 clients and 10 s a thousand clients reconnect in each second. Defaults to 10 s
	// if it is not positive.
	Window time.Duration
	// Delay is the time before the first slot. A balancer should notice in that time that
	// the node is not ready (Hub.ReadyHandler): it sends clients that reconnect earlier to
	// the same node, which refuses them, and they try again with backoff. Defaults to 0.
	Delay time.Duration
}

// DrainResult says how the connections ended that a hub had when Drain began. Clients is
// the sum of the other fields.
type DrainResult struct {
	// Clients is the number of connections that the hub had.
	Clients int
	// Left counts those that ended in another way before the drain closed them. Most of
	// them are clients that reconnected in their slot, as the hub had told them.
	Left int
	// Closed counts those that the hub closed with CloseServiceRestart after it had sent
	// the queued messages.
	Closed int
	// Cut counts those that did not accept their queued messages and the Close frame in
	// time, and were aborted.
	Cut int
	// Remaining counts those that had not ended when the context ended or Shutdown was
	// called.
	Remaining int
}

const (
	// defaultDrainWindow is the default of DrainOptions.Window.
	defaultDrainWindow = 10 * time.Second
	// drainGrace is the time after its slot in which a client that was told its slot may
	// leave by itself: one round trip of a slow network, and a late timer.
	drainGrace = 2 * time.Second
	// drainTick is the shortest time between two wake-ups of closeInTurn.
	drainTick = 5 * time.Millisecond
	// drainReason is the reason in the Close frames of Drain.
	drainReason = "hub is draining"
)

// Drain sends all clients away, evenly over a time, so that the other nodes are not
// flooded by reconnecting clients. It returns when all connections and their callbacks
// have ended; without connections and handshakes at once, also if there is a Delay. Call Shutdown afterwards: Drain does
// not end Run.
//
// From the beginning of Drain on, new handshakes get status 503 (RefusedDraining),
// Hub.ReadyHandler responds with 503 and Health.Draining is true. The hub works as
// before for the clients that are still connected.
//
// Each client has a slot within DrainOptions.Window, which begins after
// DrainOptions.Delay. A client that understands it, as
// both clients of this repository do, is told its slot at once with a message
// "hub:goaway". It keeps its connection until then and then reconnects by itself. The hub
// closes a client in its slot, or two seconds later if it was told, with
// CloseServiceRestart, behind its queued messages. Connections that have not accepted
// these Config.DrainTimeout after the last slot are aborted. After that Drain waits for
// callbacks that are still running, at most Config.CallbackTimeout, and returns a
// *CallbackTimeoutError if some are.
//
// If ctx ends first, Drain returns the result until then and ctx's error, and the drain
// continues. Shutdown may be called at any time and ends it: Drain then returns
// ErrHubClosed with the result until then. Other errors: ErrHubNotRunning before Run, and
// ErrHubClosed after shutdown has begun without a drain.
//
// A drain cannot be undone. A second call waits for the end of the first drain too and
// returns the same result; its options are ignored. Drain may be called from any
// goroutine. A callback must call it in a new goroutine, because Drain waits for
// callbacks.
func (h *Hub) Drain(ctx context.Context, options DrainOptions) (DrainResult, error) {
	d, err := h.beginDrain(options)
	if err != nil {
		return DrainResult{}, err
	}
	select {
	case <-d.done:
		return d.result(), d.err
	case <-ctx.Done():
		return d.result(), ctx.Err()
	}
}

// drain is the state of Hub.Drain.
type drain struct {
	hub    *Hub
	window time.Duration
	delay  time.Duration
	cause  *CloseError
	empty  chan struct{} // closed when the hub has no handshake and no connection; guarded by hub.mu until then
	done   chan struct{} // closed by run
	err    error         // of Drain; set before done is closed

	// Guarded by hub.mu.
	clients []*Client   // those when the drain began, in the order of their slots; nil when done
	final   DrainResult // set when done
}

// departure is the time at which a client is closed, since the drain began.
type departure struct {
	client *Client
	at     time.Duration
}

// beginDrain starts the hub's drain, or returns the one that has begun.
func (h *Hub) beginDrain(options DrainOptions) (*drain, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.draining != nil:
		return h.draining, nil
	case h.phase >= hubStopping || h.stopping():
		return nil, ErrHubClosed
	case h.phase == hubNew:
		return nil, ErrHubNotRunning
	}
	d := &drain{
		hub: h, window: options.Window, delay: max(options.Delay, 0),
		cause: &CloseError{Code: CloseServiceRestart, Reason: drainReason},
		empty: make(chan struct{}), done: make(chan struct{}),
		clients: h.liveClientsLocked(),
	}
	if d.window <= 0 {
		d.window = defaultDrainWindow
	}
	h.draining = d
	if h.conns == 0 {
		close(d.empty)
	}
	h.running.Add(1) // Run waits for it only after it has set phase
	go d.run()       // ends when the connections have ended, after the timeouts, or when shutdown begins
	return d, nil
}

// run sends the clients away.
func (d *drain) run() {
	h := d.hub
	defer h.running.Done()
	h.logger.Infof("websocket: draining %d clients in %v", len(d.clients), d.delay+d.window)
	d.err = d.sendAway()
	final := d.result()
	h.mu.Lock()
	d.clients, d.final = nil, final
	h.mu.Unlock()
	close(d.done)
	h.logger.Infof("websocket: drained: clients=%d left=%d closed=%d cut=%d remaining=%d",
		final.Clients, final.Left, final.Closed, final.Cut, final.Remaining)
}

// sendAway returns when the connections have ended or when it waits for them no more. It
// returns ErrHubClosed if shutdown begins before.
func (d *drain) sendAway() error {
	h, begin := d.hub, time.Now()
	turns := departures(d.clients, d.delay, d.window)
	for i := range turns {
		if t := &turns[i]; t.client.takesGoaway.Load() && h.sendGoaway(t.client, t.at-time.Since(begin)) {
			t.at += drainGrace
		}
	}
	slices.SortStableFunc(turns, func(a, b departure) int { return cmp.Compare(a.at, b.at) })
	if !h.closeInTurn(turns, begin, d.cause, d.empty, h.stop) {
		return d.ended()
	}
	if d.wait(h.config.DrainTimeout) {
		return d.ended()
	}
	h.eachLive(func(c *Client) { c.conn.abort(errDrainTimeout) })
	if !d.wait(h.config.CallbackTimeout) {
		return &CallbackTimeoutError{Callbacks: h.runningCallbacks()}
	}
	return d.ended()
}

// wait waits until all connections have ended or shutdown begins. It reports false if
// neither happens within limit.
func (d *drain) wait(limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-d.empty:
	case <-d.hub.stop:
	case <-timer.C:
		return false
	}
	return true
}

// ended returns ErrHubClosed if shutdown has begun while there were connections.
func (d *drain) ended() error {
	select {
	case <-d.empty:
		return nil
	default:
	}
	if d.hub.stopping() {
		return ErrHubClosed
	}
	return nil
}

// result counts how the connections have ended.
func (d *drain) result() DrainResult {
	d.hub.mu.Lock()
	clients, result := d.clients, d.final
	d.hub.mu.Unlock()
	if clients == nil {
		return result
	}
	result.Clients = len(clients)
	for _, c := range clients {
		if !c.conn.hasEnded() {
			result.Remaining++
			continue
		}
		switch cause := c.closeErr.Load(); {
		case cause == d.cause:
			result.Closed++
		case errors.Is(cause.Err, errDrainTimeout), !cause.ByPeer && cause.Code == d.cause.Code && cause.Reason == d.cause.Reason:
			result.Cut++ // abort has replaced the cause by a copy with its error
		default:
			result.Left++
		}
	}
	return result
}

// departures spreads clients evenly over window, which begins after delay. The first slot
// is at its beginning.
func departures(clients []*Client, delay, window time.Duration) []departure {
	turns := make([]departure, len(clients))
	each := float64(window) / float64(max(len(clients), 1))
	for i, c := range clients {
		turns[i] = departure{c, delay + time.Duration(float64(i)*each)}
	}
	return turns
}

// closeInTurn closes each client at its time since begin. It reports false if it has
// ended early, because one of the channels was closed.
func (h *Hub) closeInTurn(turns []departure, begin time.Time, cause *CloseError, empty, stop <-chan struct{}) bool {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-empty:
			return false
		case <-stop:
			return false
		}
		for len(turns) > 0 && turns[0].at <= time.Since(begin) {
			h.dismiss(turns[0].client, cause)
			turns = turns[1:]
		}
		if len(turns) == 0 {
			return true
		}
		timer.Reset(max(turns[0].at-time.Since(begin), drainTick))
	}
}

// dismiss closes c behind its queued messages.
func (h *Hub) dismiss(c *Client, cause *CloseError) {
	if h.events.closeClient(c, cause) == nil {
		c.left()
	} else if c.closeErr.Load() == nil { // not registered yet: nothing is queued
		c.conn.close(cause)
	}
}

// sendGoaway asks c to reconnect after a delay. It reports whether the message was queued.
func (h *Hub) sendGoaway(c *Client, delay time.Duration) bool {
	m := Message{Type: typeGoaway, Timestamp: h.now(), Data: fmt.Appendf(nil, `{"delay":%d}`, max(delay, 0).Milliseconds())}
	return h.events.send(context.Background(), c, h.newPublication(&m, toClients)) == nil // shutdown ends the wait for room
}
