package client

import (
	"fmt"
	"runtime/debug"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// receive passes a message from the hub to the call that waits for it, or puts it
// into the inbox. It runs on the read loop of cn and does not block.
func (c *Client) receive(cn *conn, m *websocket.Message) {
	switch m.Type {
	case typeAck:
		if c.isOwnID(m.ID) {
			c.recordTime(m.Timestamp)
			cn.handleReply(m.ID, reply{message: m})
			return
		}
	case typeError:
		switch e := c.control.decodeError(m); {
		case c.isOwnID(m.ID):
			cn.handleReply(m.ID, reply{message: m, refusal: e})
		default:
			c.inbox.putError(e)
		}
		return
	case typeGoaway:
		cn.goaway(m.Data)
		return
	case typeGap:
		gap, err := c.control.decodeGap(m.Data)
		if err != nil {
			cn.closeNow(closeErrorf(websocket.CloseInvalidPayloadData, "gap cannot be read: %v", err))
			return
		}
		key := topicKey{name: gap.Channel}
		switch {
		case gap.All:
			key = anyTopic
		case gap.RoomID != "":
			key = topicKey{room: true, name: gap.RoomID}
		}
		member, ends := c.passGap(key)
		c.inbox.putGap(member, key, gap, ends)
		return
	}
	if isRequest(m) {
		c.recordTime(m.Timestamp)
		if !c.inbox.putRequest(cn, m) {
			cn.refuse(m.ID, errorReply(CodeLimit, "too many requests wait"))
		}
		return
	}
	if c.receivePresence(m) {
		return
	}
	if to, wanted := c.route(m); wanted {
		c.inbox.putMessage(to, m)
	}
}

// dispatch runs the callbacks for the items of the inbox, one at a time.
func (c *Client) dispatch() {
	finished := false
	defer func() {
		if finished {
			c.endAllSubscriptions()
			close(c.done)
		} else { // a callback called runtime.Goexit
			go c.dispatch() // replaces this goroutine and ends in the same way
		}
	}()
	for c.deliver(); ; c.deliver() {
		it := c.inbox.take()
		switch {
		case it == nil:
			finished = true
			return
		case it.from != nil:
			c.handleRequest(it.from, it.message)
		case it.presence != nil:
			it.presence.reportPresence()
		case it.message != nil:
			c.undelivered = it
		default:
			c.protect(func() { c.report(it) })
		}
	}
}

// deliver calls the handlers of the undelivered message. Each gets a message of its own.
// A handler that panics or calls runtime.Goexit does not keep the message from the
// others. OnMessage gets it once, for all subscriptions without a handler.
func (c *Client) deliver() {
	it := c.undelivered
	if it == nil {
		return
	}
	if it.subs == nil {
		c.undelivered = nil
		c.handle(c.options.OnMessage, it.message)
		return
	}
	for len(it.subs) > 0 {
		sub := it.subs[0]
		it.subs = it.subs[1:]
		handler := sub.handler
		switch {
		case c.inbox.wasDiscarded() || !sub.begin(websocket.Position{Epoch: it.epoch, Offset: it.message.Offset}):
			continue
		case handler == nil && it.toOnMessage:
			continue
		case handler == nil:
			it.toOnMessage = true
			handler = c.options.OnMessage
		}
		m := it.message
		if len(it.subs) > 0 {
			m = m.Clone()
		}
		c.handle(handler, m)
	}
	c.undelivered = nil
}

// handle calls a handler, which may be nil.
func (c *Client) handle(handler Handler, m *websocket.Message) {
	if handler != nil {
		c.protect(func() { handler(m) })
	}
}

// protect runs a callback and reports a panic of it to OnError. A panic of OnError
// while it handles a *PanicError is not recovered.
func (c *Client) protect(callback func()) {
	returned := false
	defer func() {
		if !returned {
			c.options.OnError(&PanicError{Value: recover(), Stack: debug.Stack()})
		}
	}()
	callback()
	returned = true
}

// report passes an item that is not a message to its callback.
func (c *Client) report(it *item) {
	switch o := &c.options; {
	case it.state != nil:
		if o.OnState != nil {
			o.OnState(*it.state)
		}
	case it.err != nil:
		o.OnError(it.err)
	case it.gap != nil:
		c.passed(it.ends)
		switch g := *it.gap; {
		case o.OnGap != nil:
			o.OnGap(g)
		case !it.certain:
		case g.All:
			o.OnError(fmt.Errorf("%w: %s of any channel or room: %s", ErrMissed, countText(g.Count), g.Reason))
		default:
			o.OnError(fmt.Errorf("%w: %s of channel %q room %q: %s", ErrMissed, countText(g.Count), g.Channel, g.RoomID, g.Reason))
		}
	}
}

// countText returns the number of missed messages for people.
func countText(n uint64) string {
	if n == 0 {
		return "an unknown number"
	}
	return fmt.Sprint(n)
}
