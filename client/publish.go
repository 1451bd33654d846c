package client

import (
	"context"
	"errors"
	"fmt"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// PublishOption changes how Publish, PublishRoom and Broadcast publish. See ExceptSelf.
type PublishOption struct {
	set func(*websocket.Message)
}

// ExceptSelf publishes to all recipients except this client. An older hub ignores it.
func ExceptSelf() PublishOption {
	return PublishOption{func(m *websocket.Message) { m.ExceptSelf = true }}
}

// Publish publishes data to the subscribers of a channel, including this client if
// it is one of them and ExceptSelf is not given. It waits for a connection and for the
// hub's reply until ctx ends. data may be reused after Publish has returned. Errors:
// *Error, ErrOutcomeUnknown, ErrClosed, websocket.ErrMessageTooLarge,
// websocket.ErrInvalidName and ctx's error.
func (c *Client) Publish(ctx context.Context, channel string, data []byte, options ...PublishOption) error {
	if err := checkName(channel); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublish, channel, data, options)
}

// PublishRoom is like Publish but publishes to the members of a room. The client
// need not be a member.
func (c *Client) PublishRoom(ctx context.Context, roomID string, data []byte, options ...PublishOption) error {
	if err := checkName(roomID); err != nil {
		return err
	}
	return c.publish(ctx, websocket.ActionPublishRoom, roomID, data, options)
}

// Broadcast is like Publish but publishes to every client of the hub.
func (c *Client) Broadcast(ctx context.Context, data []byte, options ...PublishOption) error {
	return c.publish(ctx, websocket.ActionBroadcast, "", data, options)
}

func (c *Client) publish(ctx context.Context, action websocket.Action, target string, data []byte, options []PublishOption) error {
	m := &websocket.Message{Type: string(action), Channel: target, Data: data}
	for _, o := range options {
		if o.set != nil {
			o.set(m)
		}
	}
	return c.call(ctx, m, false, nil, nil)
}

// Send sends a message with an application's own type to the hub's onMessage. It
// waits for a connection and for space in the queue until ctx ends. The hub does
// not acknowledge the message: nil means that it is queued. It is lost without
// notice if the connection breaks before the message has reached the hub. m is not
// retained. Errors: ErrReserved, ErrClosed, websocket.ErrNilMessage,
// websocket.ErrMessageTooLarge, an error of the codec and ctx's error.
//
// The types publish, publish_room and broadcast may be sent too; OnError then
// reports a refusal. The types subscribe, unsubscribe, join_room, leave_room, hub:hello
// and hub:ping return ErrReserved.
func (c *Client) Send(ctx context.Context, m *websocket.Message) error {
	if m == nil {
		return websocket.ErrNilMessage
	}
	switch websocket.Action(m.Type) {
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom, typeHello, typePing:
		return fmt.Errorf("%w: %q", ErrReserved, m.Type)
	}
	frame, err := c.encode(m)
	if err != nil {
		return err
	}
	for {
		cn, err := c.waitConn(ctx)
		if err != nil {
			return err
		}
		if err := cn.send(ctx, &request{frame: frame}); !errors.Is(err, errConnClosed) {
			return err
		}
	}
}

// call sends m with an ID and waits for the hub's reply. If the connection is lost
// in between, call sends m again on the next one; without resend it does so only if
// the hub cannot have received m. onReply, if not nil, runs on the read loop when
// the reply arrives. onCancel, if not nil, runs when ctx ends after m was sent and
// before the reply arrives.
func (c *Client) call(ctx context.Context, m *websocket.Message, resend bool, onReply func(reply), onCancel func(*conn)) error {
	m.ID = c.newID()
	frame, err := c.encode(m)
	if err != nil {
		return err
	}
	for {
		cn, err := c.waitConn(ctx)
		if err != nil {
			return err
		}
		r := &request{id: m.ID, frame: frame, onReply: onReply, done: make(chan reply, 1)}
		if err := cn.send(ctx, r); errors.Is(err, errConnClosed) {
			continue
		} else if err != nil {
			return err
		}
		var result reply
		select {
		case result = <-r.done:
		case <-ctx.Done():
			canceled, sent := cn.cancel(r)
			if canceled && sent && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				cn.probe(r.queuedAt)
			}
			switch {
			case canceled && sent:
				if onCancel != nil {
					onCancel(cn)
				}
				return &unknownError{ctx.Err()}
			case canceled:
				return ctx.Err()
			}
			result = <-r.done
		}
		switch {
		case result.refusal != nil:
			return result.refusal
		case result.connErr == nil:
			return nil
		case result.sent && !resend:
			return &unknownError{result.connErr}
		}
	}
}

// waitConn waits for a connection. It returns ErrClosed when the client ends.
func (c *Client) waitConn(ctx context.Context) (*conn, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		cn, changed := c.conn, c.connChanged
		if c.closing() || c.state == Closed {
			err := c.closedError()
			c.mu.Unlock()
			return nil, err
		}
		c.mu.Unlock()
		if cn != nil {
			return cn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
		case <-c.ctx.Done():
		}
	}
}
