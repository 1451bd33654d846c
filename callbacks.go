package websocket

import "runtime/debug"

// SetCallbacks replaces Config.OnConnect, Config.OnDisconnect and Config.OnMessage,
// which describe the callbacks. Each may be nil. It panics after the first connection.
func (h *Hub) SetCallbacks(onConnect, onDisconnect func(*Client), onMessage func(*Client, *Message)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.served {
		panic("websocket: SetCallbacks after the first connection")
	}
	h.onConnect, h.onDisconnect, h.onMessage = onConnect, onDisconnect, onMessage
}

// Callbacks by the number in Client.calling.
const (
	callingNothing uint32 = iota
	callingConnect
	callingMessage
	callingAuthorize
	callingDisconnect
	callingTopicHook
)

var callbackNames = [...]string{"readPump", "onConnect", "onMessage", "Authorize", "onDisconnect", "OnJoin or OnLeave"}

// call runs one of a client's callbacks. If it fails, that costs the client its
// connection.
func (h *Hub) runCallback(c *Client, which uint32, f func()) bool {
	c.calling.Store(which)
	defer c.calling.Store(callingNothing)
	return h.protect(callbackNames[which], "client", c.ID, f, c)
}

// protect runs the user's code. This is the one place where its panics end: they
// are logged, and closed is failed, if there is one. Code that ends its goroutine
// (runtime.Goexit, or FailNow in a test) is treated alike, as far as it can be.
func (h *Hub) protect(what, whose, id string, f func(), closed *Client) (ok bool) {
	defer func() {
		if ok {
			return
		}
		h.logger.Errorf("websocket: %s of %s %q panicked: %v\n%s", what, whose, id, recover(), debug.Stack())
		if closed != nil {
			closed.conn.closeNow(CloseInternalError, "internal error")
		}
	}()
	f()
	return true
}
