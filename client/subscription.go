package client

import (
	"context"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Subscription is one handler of a channel or room, made by Client.Subscribe or
// Client.JoinRoom. All methods may be called concurrently, and from handlers and
// callbacks.
type Subscription struct {
	client  *Client
	topic   *topic
	handler Handler
	from    resume        // how the call that makes it joins
	done    chan struct{} // closed by end

	follows    bool // OnPresence was given
	onPresence func(PresenceChange)
	reported   map[string]*websocket.Member // the members that onPresence knows; used by dispatch

	// Guarded by Client.mu:
	ended          bool
	err            error              // set before done is closed
	resumed        websocket.Resumed  // the latest
	at             websocket.Position // behind the latest message that was received for it; zero without a history
	handled        websocket.Position // behind the latest message that the handler was called with
	presenceQueued bool               // the inbox has an item for onPresence
}

// Name returns the name of the channel or the ID of the room.
func (s *Subscription) Name() string { return s.topic.key.name }

// Kind returns websocket.ChannelTopic or websocket.RoomTopic.
func (s *Subscription) Kind() websocket.TopicKind {
	if s.topic.key.room {
		return websocket.RoomTopic
	}
	return websocket.ChannelTopic
}

// Unsubscribe ends this subscription. Others of the same channel or room go on; with the
// last one the client leaves it, and Unsubscribe returns when the hub has acknowledged
// that, or at once if there is no connection. Afterwards no call of the handler begins,
// but one may still be running. It is no error if the subscription has ended.
//
// Unsubscribe waits for the hub's reply until ctx ends. If it returns an *Error, the
// subscription is as it was before. If it returns ctx's error, either it has ended all
// the same, or another call about the same channel or room was still waiting and it is as
// it was before.
func (s *Subscription) Unsubscribe(ctx context.Context) error {
	return s.client.leave(ctx, s.topic.key, s)
}

// Done returns a channel that is closed when the subscription has ended.
func (s *Subscription) Done() <-chan struct{} { return s.done }

// Err returns nil until the subscription has ended, and after it was ended by the
// application. Otherwise it returns why it has ended: a *RestoreError if the hub has
// refused to restore it, or the error of calls after the client has ended, which wraps
// ErrClosed.
func (s *Subscription) Err() error {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.err
}

// end ends the subscription. Client.mu is locked. The caller removes s from its topic.
func (s *Subscription) end(err error) {
	if !s.ended {
		s.ended, s.err = true, err
		close(s.done)
	}
}

// endAllSubscriptions is the last step of dispatch: no handler is called any more.
func (c *Client) endAllSubscriptions() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.topics {
		c.endSubscriptions(t, c.closedError())
		c.removeIfUnused(t)
	}
}
