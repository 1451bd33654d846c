package websocket

import "runtime/debug"

// SetCallbacks replaces Config.OnConnect, Config.OnDisconnect and Config.OnMessage.
// Config describes these callbacks. Each of them may be nil. SetCallbacks may be
// called from any goroutine but panics after the first connection. It exists for
// compatibility with HypGo; new code sets the fields of Config.
func (h *Hub) SetCallbacks(onConnect, onDisconnect func(*Client), onMessage func(*Client, *Message)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.served {
		panic("websocket: SetCallbacks after the first connection")
	}
	h.onConnect, h.onDisconnect, h.onMessage = onConnect, onDisconnect, onMessage
}

// Values of Client.calling: the callback that is running.
const (
	callingNothing uint32 = iota
	callingConnect
	callingMessage
	callingAuthorize
	callingDisconnect
	callingTopicHook
	callingHandler
)

// callbackNames is indexed by Client.calling.
var callbackNames = [...]string{"readPump", "onConnect", "onMessage", "Authorize", "onDisconnect", "OnJoin or OnLeave", "a request handler"}

// runCallback runs a callback of c and reports whether it returned normally. If not,
// c is closed. OnLeave for a client that leaves meanwhile is called after the callback.
func (h *Hub) runCallback(c *Client, callback uint32, f func()) bool {
	return h.runCallbackSince(c, callback, h.clock(), f)
}

// runCallbackSince is runCallback for a caller that has read the hub's clock.
func (h *Hub) runCallbackSince(c *Client, callback uint32, began int64, f func()) bool {
	defer c.calling.Store(callingNothing)
	if callback != callingDisconnect {
		c.hooks.beginCallback(c)
		defer c.hooks.endCallback(c)
		c.conn.beginCallback()
		defer c.conn.endCallback()
	}
	c.calling.Store(callback)
	if callback != callingHandler { // callHandler counts those
		defer c.shard.counters.callbacks[callback].since(began, h)
	}
	return h.protect(callbackNames[callback], "client", c.ID, f, c)
}

// protect calls f, which runs application code, and reports whether f returned
// normally. It recovers and logs a panic, and closes c with 1011 unless c is nil. It
// does the same if f ends its goroutine by runtime.Goexit (FailNow in a test), but
// cannot keep the goroutine from ending. hook, subject and id describe f in the log.
func (h *Hub) protect(hook, subject, id string, f func(), c *Client) (ok bool) {
	defer func() {
		if ok {
			return
		}
		h.logLimited("panicked: "+hook, h.logger.Errorf, "websocket: %s of %s %q panicked: %v\n%s", hook, subject, id, recover(), debug.Stack())
		if c != nil {
			c.conn.closeNow(CloseInternalError, "internal error")
		}
	}()
	f()
	return true
}
