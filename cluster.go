package websocket

import (
	"context"
	"fmt"
	"slices"
)

// Cluster asks all nodes about their clients, and acts on clients of all nodes. Without a broker the hub is the only
// node. Methods may be called from any goroutine.
//
// All methods except Nodes ask every node that is known to be alive. A call ends
// with its context, or after Config.BrokerTimeout. If some nodes have not answered
// by then, it returns the answers so far together with an *UnansweredError that
// names these nodes. After shutdown has begun, calls return ErrHubClosed.
//
// Right after the broker is up, a node may not know the others. Calls then wait until
// another node has told it, or until every live node must have announced itself: at
// most Config.BrokerTimeout, and 6/5 of Config.AnnounceInterval.
//
// A node that falls silent without leaving the cluster may have died, or it may be
// cut off and still have clients. For 10 minutes it counts as not answering, with
// ErrBrokerUnavailable as the reason, unless a node with its name is started again. Calls
// do not wait for it.
type Cluster struct{ hub *Hub }

// Cluster returns the hub's view of all nodes.
func (h *Hub) Cluster() Cluster { return Cluster{h} }

// UnansweredError reports that some nodes did not answer, so that the result is
// incomplete.
type UnansweredError struct {
	// Nodes names the nodes that did not answer, sorted.
	Nodes []string
	// Err is the reason that the call ended: the context's error, ErrBrokerUnavailable, or
	// errors.ErrUnsupported if these nodes do not know the question.
	Err error
}

// Error implements error.
func (e *UnansweredError) Error() string {
	return fmt.Sprintf("websocket: no answer from %d nodes %q: %v", len(e.Nodes), e.Nodes, e.Err)
}

// Unwrap returns Err.
func (e *UnansweredError) Unwrap() error { return e.Err }

// Nodes returns the sorted names of the nodes known to be alive, including this
// one. It does not ask them. Without a broker it returns nil.
func (c Cluster) Nodes() []string {
	n := c.hub.node
	if n == nil {
		return nil
	}
	names := []string{n.name}
	for _, name := range n.peers.Names() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// FindClient returns the name of the node that has the client with that ID, or
// ErrClientNotFound if all nodes answered and none has it. Without a broker the
// name is empty.
func (c Cluster) FindClient(ctx context.Context, id string) (node string, err error) {
	r, err := c.hub.ask(ctx, question{Op: askFind, Name: id})
	return r.node, clientFound(r, err)
}

// RoomMembers returns the IDs of a room's members on all nodes, in no order. It
// returns ErrInvalidName for a name that no room can have.
func (c Cluster) RoomMembers(ctx context.Context, roomID string) ([]string, error) {
	if err := checkName(roomID, c.hub.config.MaxNameLength); err != nil {
		return nil, err
	}
	r, err := c.hub.ask(ctx, question{Op: askMembers, Name: roomID})
	return r.ids, err
}

// ChannelCount returns the number of a channel's subscribers on all nodes. It
// returns ErrInvalidName for a name that no channel can have.
func (c Cluster) ChannelCount(ctx context.Context, channel string) (int, error) {
	if err := checkName(channel, c.hub.config.MaxNameLength); err != nil {
		return 0, err
	}
	r, err := c.hub.ask(ctx, question{Op: askCount, Name: channel})
	return r.count, err
}

// CloseClient closes the client with that ID on any node; see Client.Close for
// code and reason. It returns ErrClientNotFound if all nodes answered and none has
// the client. Nodes that do not answer are asked again, see CloseUser.
func (c Cluster) CloseClient(ctx context.Context, id string, code int, reason string) error {
	code, err := closeCode(code)
	if err != nil {
		return err
	}
	r, err := c.hub.ask(ctx, question{Op: askClose, Name: id, Code: code, Reason: reason})
	return clientFound(r, err)
}

// CloseUser closes every client of a user (see Client.SetUser) on all nodes and
// returns the number of them. It does nothing if user is empty.
//
// Nodes that do not answer, also because they are cut off or this node is, are asked
// again when they can be reached, for 10 minutes after the call and for the latest 1,024
// calls of CloseUser and CloseClient on this node. They then close only those clients
// that were connected at the time of the call.
func (c Cluster) CloseUser(ctx context.Context, user string, code int, reason string) (int, error) {
	code, err := closeCode(code)
	if err != nil {
		return 0, err
	}
	r, err := c.hub.ask(ctx, question{Op: askCloseUser, Name: user, Code: code, Reason: reason})
	return r.count, err
}

// Join adds the client with that ID, on any node, to a channel or room. If it returns nil,
// messages that any node publishes from then on are sent to the client, or the client gets a
// gap. OnJoin runs on the client's node, and may run after Join has returned. Config.Authorize
// is not asked. Joining twice is no error.
//
// Errors: ErrClientNotFound if all nodes answered and none has the client, ErrInvalidName,
// ErrTooManySubscriptions, ErrBrokerUnavailable if the topic's history cannot be read, and
// ErrHubClosed. With an *UnansweredError the client may be in the topic or join it later. Its
// Err is errors.ErrUnsupported for nodes of an earlier release, which cannot do this.
func (c Cluster) Join(ctx context.Context, clientID string, t Topic) error {
	return c.move(ctx, askJoin, clientID, t)
}

// Leave removes the client with that ID, on any node, from a channel or room. It is no error
// if the client is not in it. The rest is as for Join, with OnLeave.
func (c Cluster) Leave(ctx context.Context, clientID string, t Topic) error {
	return c.move(ctx, askLeave, clientID, t)
}

func (c Cluster) move(ctx context.Context, op, clientID string, t Topic) error {
	if err := checkTopic(t, c.hub.config.MaxNameLength); err != nil {
		return err
	}
	r, err := c.hub.ask(ctx, question{Op: op, Name: clientID, Topic: t.Name, Room: t.Kind == RoomTopic})
	return clientFound(r, err)
}

// SendToClient sends m to the client with that ID, on any node. Unlike Hub.SendToClient it
// waits for the answer of the client's node, and other messages to the client may arrive in
// another order. Nil means that this node has accepted m, see Client.Send.
//
// Errors: ErrClientNotFound if all nodes answered and none has the client, ErrNilMessage,
// ErrMessageTooLarge and ErrHubClosed. With an *UnansweredError m may have been sent. See
// Join for nodes of an earlier release.
func (c Cluster) SendToClient(ctx context.Context, id string, m *Message) error {
	q, err := c.hub.sendQuestion(askSend, id, m)
	if err != nil {
		return err
	}
	r, err := c.hub.ask(ctx, q)
	return clientFound(r, err)
}

// SendToUser sends m to every client of a user (see Client.SetUser) on all nodes and returns
// the number of them, 0 if user is empty. It is like SendToClient otherwise, but a user
// without clients is no error.
func (c Cluster) SendToUser(ctx context.Context, user string, m *Message) (int, error) {
	q, err := c.hub.sendQuestion(askSendUser, user, m)
	if err != nil {
		return 0, err
	}
	r, err := c.hub.ask(ctx, q)
	return r.count, err
}

// clientFound returns the error of a question about one client. A node that has
// the client makes up for others that did not answer.
func clientFound(r clusterResult, err error) error {
	switch {
	case r.count > 0:
		return nil
	case err != nil:
		return err
	default:
		return ErrClientNotFound
	}
}
