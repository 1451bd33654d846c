package websocket

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"
)

// budget counts the bytes that clients make the hub hold, against Config.MemoryBudget:
//
//	publications      their strings, payload and encoded forms   newPublication, build, release
//	topics            names and entries of the directory          partFor, dropIfEmpty
//	presence          lists of members, members that have left    presenceSnapshot, presenceLeft
//	for each client   the kept request                            keepRequest
//	                  memberships, also for presence              join, leave, unregister
//	                  info for presence                           SetInfo, unregister
//	                  messages for concurrent handlers            handleRequest
//	                  buffers of a message that is read           messageReader
//	                  the writePump's buffers                     chargePump
//	                  the rest of a partly written frame          keepTail
//	                  the backlog's slice, gap notices            push, dropAndAnnounce
//	                  reading ahead during a long callback        watchPeer, readOnce
//
// Publications in histories count in histories.bytes instead.
//
// Everything for one client goes through Client.charge. When the limit is exceeded,
// runReclaim looks for the clients that hold the most.
type budget struct {
	used  atomic.Int64
	limit int64
	wake  chan struct{} // capacity 1; add sends, runReclaim receives; never closed
}

// add counts n bytes more, or fewer if n is negative.
func (b *budget) add(n int64) {
	if b.used.Add(n) > b.limit && n > 0 {
		wake(b.wake)
	}
}

func (b *budget) exceeded() bool { return b.used.Load() > b.limit }

// charge counts n bytes more that the hub holds for this client alone, or fewer if n is
// negative. It takes no lock.
func (c *Client) charge(n int64) {
	if n != 0 {
		c.charged.Add(n)
		c.hub.budget.add(n)
	}
}

// Costs that are added to the bytes of strings. TestHostileClientsAreCounted compares
// them with the heap.
const (
	requestCost    = 1024 // the http.Request, its URL and its contexts
	fieldCost      = 96   // a header field of an http.Request: its element of the map, and its slice
	membershipCost = 128  // a membership in all lists and indexes
	partCost       = 96
	topicCost      = 160 // a topic in the directory
	interestCost   = 256 // a topic in the node's lists
)

// itemSize is the size in bytes of an element of a backlog's slice.
const itemSize = int64(unsafe.Sizeof(item{}))

// Rules of reclaim. A client that holds less than reclaimMinimum is never closed to free
// memory: new clients are refused instead.
const (
	reclaimMinimum = 4 << 10
	reclaimPause   = 20 * time.Millisecond
)

var errMemoryBudget = errors.New("websocket: connection ended to free memory")

// runReclaim reclaims memory when the budget is exceeded, until stopped is closed. It
// pauses after each pass, so that passes over many clients take at most a fifth of one
// processor.
func (h *Hub) runReclaim(stopped <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if !h.budget.exceeded() {
			select {
			case <-h.budget.wake:
				continue
			case <-stopped:
				return
			}
		}
		start := time.Now()
		h.reclaim()
		timer.Reset(reclaimPause + 4*time.Since(start))
		select {
		case <-timer.C:
		case <-stopped:
			return
		}
	}
}

// holder is a client and the bytes that it holds.
type holder struct {
	client *Client
	bytes  int64
}

// reclaim applies Config.SlowConsumer to the clients that hold the most, until the hub
// holds seven eighths of its budget. Bytes of clients that are closing count as free. If
// the budget is exceeded by a quarter, clients are aborted, because a client may take
// seconds to close. Clients whose handshake is not over are left alone.
func (h *Hub) reclaim() {
	target := h.budget.limit - h.budget.limit/8
	abort := h.budget.used.Load() > h.budget.limit+h.budget.limit/4
	now := h.clock()
	var holders []holder
	h.eachLive(func(c *Client) { // the registry does not have clients that are closing
		bytes, closing := c.conn.holds(now, abort)
		if closing {
			target += bytes
		} else if bytes >= reclaimMinimum {
			holders = append(holders, holder{c, bytes})
		}
	})
	slices.SortFunc(holders, func(a, b holder) int { return cmp.Compare(b.bytes, a.bytes) })
	dropped, writing := false, holders[:0]
	for _, x := range holders {
		if h.budget.used.Load() <= target {
			return
		}
		switch result, freed := x.client.conn.reclaim(target, abort); result {
		case reclaimDropped:
			dropped = true
		case reclaimNothing:
			writing = append(writing, x)
		default:
			target += freed
		}
	}
	if dropped {
		return // a shard may release the messages in a moment; the next pass sees
	}
	for _, x := range writing {
		if h.budget.used.Load() <= target {
			return
		}
		target += x.client.conn.evictToFree(abort)
	}
}

// Results of conn.reclaim.
type reclaimResult uint8

const (
	reclaimDropped reclaimResult = iota
	reclaimEvicted               // or the client is closing anyway
	reclaimNothing               // it holds mostly messages that are being written, which cannot be dropped
)

// holds returns the bytes that the client holds, and whether it is closing. It aborts a
// client that has been closing for longer than a peer has to answer, or at once if abort
// is set. A client that takes twice as long has a callback that does not return. It holds
// bytes that closing does not free, so holds returns 0 for it.
func (c *conn) holds(now int64, abort bool) (bytes int64, closing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state != connOpen:
	case c.client.visible.Load():
		return c.queued + c.client.charged.Load(), false
	default:
		return 0, true // its handshake is not over, or its shard will close it in a moment
	}
	ms := uint32(now / int64(time.Millisecond))
	if c.closingSeen == 0 {
		c.closingSeen = ms | 1 // not 0
	}
	age := time.Duration(int32(ms-c.closingSeen)) * time.Millisecond
	if abort || age > lagLinger {
		c.abortLocked(errMemoryBudget)
	}
	if age > 2*lagLinger {
		return 0, true
	}
	return c.queued + c.client.charged.Load(), true
}

// reclaim frees what the client holds. If it holds mostly messages and
// Config.SlowConsumer allows drops, it drops the oldest ones that are queued, until the
// hub holds no more than target. Otherwise it evicts the client, and returns the bytes
// that its end will free.
func (c *conn) reclaim(target int64, abort bool) (result reclaimResult, freed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != connOpen || !c.client.visible.Load() {
		return reclaimEvicted, 0
	}
	others := c.client.charged.Load() - c.writeBuffers()
	if c.client.hub.config.SlowConsumer == EvictSlow || c.queued <= others {
		return reclaimEvicted, c.evictToFreeLocked(abort)
	}
	if c.queue.len() == 0 {
		return reclaimNothing, 0
	}
	c.separateDrops() // those behind the queue from those before it
	for c.queue.len() > 0 && c.client.hub.budget.used.Load() > target {
		c.dropOldest()
	}
	c.separateDrops()
	c.shrinkQueue()
	c.startPumpAndWatch()
	return reclaimDropped, 0
}

// evictToFree evicts the client, and returns the bytes that its end will free.
func (c *conn) evictToFree(abort bool) (freed int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.evictToFreeLocked(abort)
}

// evictToFreeLocked is evictToFree for callers that hold mu.
func (c *conn) evictToFreeLocked(abort bool) (freed int64) {
	if c.state != connOpen {
		return 0
	}
	pumping := c.pumping
	c.evict("too much memory in use: backlog, memberships and unfinished message")
	if abort {
		c.abortLocked(errMemoryBudget)
	}
	if c.pumping && !pumping {
		c.client.hub.events.reschedule(c.client)
	}
	return c.queued + c.client.charged.Load() // queued is what the writePump is writing
}

// peakMap is a map that is made anew when it has become much smaller than it was,
// because a Go map never shrinks. The zero value is ready for use.
type peakMap[K comparable, V any] struct {
	m    map[K]V
	peak int // maximum length since the map was made
}

// minPeak is the length from which on a map is worth shrinking.
const minPeak = 256

func (p *peakMap[K, V]) put(k K, v V) {
	if p.m == nil {
		p.m = make(map[K]V)
	}
	p.m[k] = v
	p.peak = max(p.peak, len(p.m))
}

func (p *peakMap[K, V]) remove(k K) {
	delete(p.m, k)
	if p.peak < minPeak || len(p.m) > p.peak/16 {
		return
	}
	m := make(map[K]V, len(p.m))
	maps.Copy(m, p.m)
	p.m, p.peak = m, len(m)
}
