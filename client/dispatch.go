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
			c.recordTime(nil, m.Timestamp)
			cn.handleReply(m.ID, reply{timestamp: m.Timestamp})
			return
		}
	case typeError:
		switch e := c.control.decodeError(m); {
		case c.isOwnID(m.ID):
			cn.handleReply(m.ID, reply{refusal: e, timestamp: m.Timestamp})
		default:
			c.inbox.putError(e)
		}
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
		c.inbox.putGap(c.isMember(key), key, gap)
		return
	}
	t, key, wanted := c.topicOf(m)
	c.recordTime(t, m.Timestamp)
	if wanted {
		c.inbox.putMessage(t, key, m)
	}
}

// dispatch runs the callbacks for the items of the inbox, one at a time.
func (c *Client) dispatch() {
	finished := false
	defer func() {
		if finished {
			close(c.done)
		} else { // a callback called runtime.Goexit
			go c.dispatch() // replaces this goroutine and ends in the same way
		}
	}()
	for it := c.inbox.take(); it != nil; it = c.inbox.take() {
		c.runCallback(it)
	}
	finished = true
}

// runCallback runs the callback for it and reports a panic of it to OnError. A
// panic of OnError while it handles a *PanicError is not recovered.
func (c *Client) runCallback(it *item) {
	returned := false
	defer func() {
		if !returned {
			c.options.OnError(&PanicError{Value: recover(), Stack: debug.Stack()})
		}
	}()
	switch o := &c.options; {
	case it.state != nil:
		if o.OnState != nil {
			o.OnState(*it.state)
		}
	case it.err != nil:
		o.OnError(it.err)
	case it.gap != nil:
		switch g := *it.gap; {
		case o.OnGap != nil:
			o.OnGap(g)
		case g.Count > 0 && g.All:
			o.OnError(fmt.Errorf("%w: %d of any channel or room: %s", ErrMissed, g.Count, g.Reason))
		case g.Count > 0:
			o.OnError(fmt.Errorf("%w: %d of channel %q room %q: %s", ErrMissed, g.Count, g.Channel, g.RoomID, g.Reason))
		}
	default:
		if handler := c.handlerOf(it.topic); handler != nil {
			handler(it.message)
		}
	}
	returned = true
}
