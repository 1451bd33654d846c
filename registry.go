package websocket

import (
	"hash/maphash"
	"iter"
	"sync"
)

// registry finds clients by ID. With RefuseDuplicate an ID is reserved before the
// response to the handshake is written and freed after the client is unregistered, so
// no two connections have the same ID. With ReplaceDuplicate a new client takes the ID
// over when it is registered.
type registry struct {
	stripes [64]struct {
		sync.RWMutex
		clients peakMap[string, *Client]
	}
	seed maphash.Seed
	once sync.Once
}

func (r *registry) stripe(id string) int {
	r.once.Do(func() { r.seed = maphash.MakeSeed() })
	return int(maphash.String(r.seed, id) % uint64(len(r.stripes)))
}

// put stores c under its ID and returns the client that had the ID before, or nil. If
// there is such a client, it stores c only if replace is set.
func (r *registry) put(c *Client, replace bool) *Client {
	s := &r.stripes[r.stripe(c.ID)]
	s.Lock()
	defer s.Unlock()
	old := s.clients.m[c.ID]
	if old == nil || replace {
		s.clients.put(c.ID, c)
	}
	return old
}

func (r *registry) get(id string) *Client {
	s := &r.stripes[r.stripe(id)]
	s.RLock()
	defer s.RUnlock()
	return s.clients.m[id]
}

// free removes c, unless another client has taken over its ID.
func (r *registry) free(c *Client) {
	s := &r.stripes[r.stripe(c.ID)]
	s.Lock()
	defer s.Unlock()
	if s.clients.m[c.ID] == c {
		s.clients.remove(c.ID)
	}
}

// snapshot returns the clients of one stripe.
func (r *registry) snapshot(stripe int) []*Client {
	s := &r.stripes[stripe]
	s.RLock()
	defer s.RUnlock()
	clients := make([]*Client, 0, len(s.clients.m))
	for _, c := range s.clients.m {
		clients = append(clients, c)
	}
	return clients
}

// Client returns the connected client with that ID, and whether there is one. It finds
// only clients of this hub, not those of other nodes; see Cluster.FindClient. It may be
// called from any goroutine at any time. After shutdown there are no clients.
func (h *Hub) Client(id string) (*Client, bool) {
	c := h.ids.get(id)
	if c == nil || !c.visible.Load() {
		return nil, false
	}
	return c, true
}

// Clients iterates over the connected clients, in no particular order. A client
// that connects or disconnects during the iteration may be missing or included. The
// loop body may call any method of the hub. Clients may be called from any goroutine at
// any time. After shutdown there are no clients.
func (h *Hub) Clients() iter.Seq[*Client] {
	return func(yield func(*Client) bool) {
		for i := range h.ids.stripes {
			for _, c := range h.ids.snapshot(i) {
				if c.visible.Load() && !yield(c) {
					return
				}
			}
		}
	}
}
