package websocket

import "sync"

// membershipHooks calls Config.OnJoin and Config.OnLeave for one client, one call
// at a time and in the order of the event log. Changes are queued under the log's
// lock. The goroutine that made a change runs the calls, unless another goroutine is
// already running calls; that one then runs the new call too. So a hook may change
// memberships itself.
//
// The end of a connection may be noticed on any goroutine, also while a callback of the
// client runs. The calls for it run after that callback, or else on a goroutine of their
// own, for which the next callback waits.
type membershipHooks struct {
	mu         sync.Mutex
	queue      []membershipChange
	running    bool
	apart      bool      // running, on a goroutine that start has made
	inCallback bool      // between beginCallback and endCallback
	idle       sync.Cond // signalled when running ends
}

type membershipChange struct {
	topic Topic
	left  bool
}

// newMembershipHooks returns nil if there is no hook to call.
func newMembershipHooks(config *Config) *membershipHooks {
	if config.OnJoin == nil && config.OnLeave == nil {
		return nil
	}
	q := &membershipHooks{}
	q.idle.L = &q.mu
	return q
}

// add queues a call. The log is locked. A nil receiver has no hooks.
func (q *membershipHooks) add(t *topic, left bool) {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.queue = append(q.queue, membershipChange{Topic{t.kind, t.name}, left})
	q.mu.Unlock()
}

// run calls the hooks that are queued.
func (q *membershipHooks) run(c *Client) {
	if q.begin() {
		q.callAll(c)
	}
}

// start makes another goroutine run the calls. During a callback it leaves them to
// endCallback.
func (q *membershipHooks) start(c *Client) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running || q.inCallback || len(q.queue) == 0 {
		return
	}
	q.running, q.apart = true, true
	go q.callAll(c) // ends when the queue is empty
}

// beginCallback is called before each other callback of c. It waits for calls that run on
// a goroutine of start.
func (q *membershipHooks) beginCallback(c *Client) {
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.apart {
		c.calling.Store(callingTopicHook)
		q.idle.Wait()
	}
	q.inCallback = true
}

// endCallback is called after the callback. It runs the calls that start has left.
func (q *membershipHooks) endCallback(c *Client) {
	if q == nil {
		return
	}
	q.mu.Lock()
	q.inCallback = false
	left := !q.running && len(q.queue) > 0
	if left {
		q.running = true
	}
	q.mu.Unlock()
	if left {
		c.calling.Store(callingTopicHook)
		q.callAll(c)
	}
}

// begin reports whether the caller has to call the queued hooks.
func (q *membershipHooks) begin() bool {
	if q == nil {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.running || len(q.queue) == 0 {
		return false
	}
	q.running = true
	return true
}

func (q *membershipHooks) callAll(c *Client) {
	q.mu.Lock()
	for len(q.queue) > 0 {
		next := q.queue[0]
		q.queue = q.queue[1:]
		q.mu.Unlock()
		q.call(c, next)
		q.mu.Lock()
	}
	q.running, q.apart, q.queue = false, false, nil
	q.idle.Broadcast()
	q.mu.Unlock()
}

// call runs one hook. If the hook ends its goroutine, a new goroutine runs the rest of
// the queue.
func (q *membershipHooks) call(c *Client, change membershipChange) {
	name, hook := "OnJoin", c.hub.config.OnJoin
	if change.left {
		name, hook = "OnLeave", c.hub.config.OnLeave
	}
	if hook == nil {
		return
	}
	returned := false
	defer func() {
		if !returned {
			go q.callAll(c) // ends when the queue is empty
		}
	}()
	defer c.shard.counters.callbacks[callingTopicHook].since(c.hub.clock(), c.hub)
	c.hub.protect(name, "client", c.ID, func() { hook(c, change.topic) }, c)
	returned = true
}

// finish runs the queued calls and waits for those that another goroutine runs.
func (q *membershipHooks) finish(c *Client) {
	if q == nil {
		return
	}
	defer c.calling.Store(c.calling.Swap(callingTopicHook))
	q.run(c)
	q.mu.Lock()
	for q.running || len(q.queue) > 0 {
		q.idle.Wait()
	}
	q.mu.Unlock()
}

// finishWatched is finish for the readPump of an open connection. The peer is watched
// meanwhile, as during other callbacks.
func (q *membershipHooks) finishWatched(c *Client) {
	if !q.pending() {
		return
	}
	c.conn.beginCallback()
	defer c.conn.endCallback()
	q.finish(c)
}

// pending reports whether a call is queued or running.
func (q *membershipHooks) pending() bool {
	if q == nil {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running || len(q.queue) > 0
}
