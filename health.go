package websocket

import (
	"encoding/json"
	"net/http"
)

// LiveHandler returns an http.Handler for liveness probes, which restart a process that
// cannot recover. It responds with 200 and the hub's Health in JSON. The status is 503
// only after Run has returned, because such a hub cannot be run again: not while the hub
// drains or shuts down, and not when the broker is down, which a restart would not mend.
//
// Health.Reason may name the engine's address, so serve it where only probes get it. The
// handler may be used for several routes and by any number of goroutines.
func (h *Hub) LiveHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		h.mu.Lock()
		stopped := h.phase == hubStopped
		h.mu.Unlock()
		writeHealth(w, h.Health(), !stopped)
	})
}

// ReadyOption is an option of Hub.ReadyHandler.
type ReadyOption struct{ ready func(Health) bool }

// RequireBroker makes a hub count as not ready while its broker is not up. If the nodes of
// a cluster share their engine, all of them become not ready when it fails: a balancer
// then has no node left, also for clients that need only their own node.
func RequireBroker() ReadyOption { return ReadyOption{Health.OK} }

// ReadyHandler returns an http.Handler for readiness probes and the health checks of a
// balancer, which sends new clients only to nodes that are ready. It responds with the
// hub's Health in JSON. The status is 200 while the hub accepts clients, and 503 before
// Run, from Drain on and from Shutdown on. It is 503 too until the broker has connected or
// failed to connect for the first time, so that the first clients of a node that starts
// miss nothing. After that the broker does not count unless RequireBroker is among the
// options: a node without its engine serves the clients that it has.
//
// What LiveHandler says about Health.Reason holds here too. The handler may be used for
// several routes and by any number of goroutines.
func (h *Hub) ReadyHandler(options ...ReadyOption) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		health := h.Health()
		ready := health.accepts() && health.Broker != BrokerStarting
		for _, o := range options {
			ready = ready && (o.ready == nil || o.ready(health))
		}
		writeHealth(w, health, ready)
	})
}

// writeHealth responds with health, and with status 200 or 503.
func writeHealth(w http.ResponseWriter, health Health, ok bool) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(health) // fails only if the peer has gone
}
