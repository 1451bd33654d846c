package websocket

import (
	"context"
	"errors"
	"fmt"
)

// acts reports whether answering q changes something for a client and may take time.
func (q *question) acts() bool {
	switch q.Op {
	case askJoin, askLeave, askSend, askSendUser:
		return true
	default:
		return false
	}
}

// topic returns the topic of askJoin and askLeave.
func (q *question) topic() Topic {
	if q.Room {
		return Topic{RoomTopic, q.Topic}
	}
	return Topic{ChannelTopic, q.Topic}
}

// checkTopic returns ErrInvalidName for a topic that cannot exist.
func checkTopic(t Topic, limit int) error {
	if t.Kind < 0 || t.Kind >= topicKinds {
		return fmt.Errorf("%w: %v", ErrInvalidName, t.Kind)
	}
	return checkName(t.Name, limit)
}

// sendQuestion returns the question that sends m to a client or a user.
func (h *Hub) sendQuestion(op, name string, m *Message) (question, error) {
	p, err := h.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return question{}, err
	}
	defer p.release()
	q := question{Op: op, Name: name, message: p.msg.Clone()} // the pool reuses p
	if h.node != nil {
		q.Message, _ = ProtobufCodec{}.AppendMarshal(nil, q.message) // never fails
	}
	return q, nil
}

// messageToSend returns the message of askSend and askSendUser.
func (q *question) messageToSend() (*Message, error) {
	if q.message == nil {
		m := new(Message)
		if err := (ProtobufCodec{}).Unmarshal(q.Message, m); err != nil {
			return nil, err
		}
		q.message = m
	}
	return q.message, nil
}

// maxActions is the maximum number of actions of other nodes that run at the same time.
const maxActions = 64

// startAction carries out another node's question on a goroutine of its own, because it may
// wait for the engine or for room in the log. It waits while maxActions are running.
func (n *node) startAction(q *question) {
	select {
	case n.acting <- struct{}{}:
	case <-n.stopping:
		return
	}
	n.loops.Go(func() { // ends with the question's timeout
		defer func() { <-n.acting }()
		n.answerQuestion(q)
	})
}

// actOnClient carries out a question about one client, and returns 1 if this node has it. Hooks
// run on another goroutine.
func (h *Hub) actOnClient(ctx context.Context, q *question) (count int, err error) {
	c, ok := h.Client(q.Name)
	if !ok {
		return 0, nil
	}
	switch t := q.topic(); q.Op {
	case askJoin:
		err = h.joinConfirmed(ctx, c, t)
		c.hooks.start(c)
	case askLeave:
		err = h.events.leave(ctx, c, t.Kind, t.Name, nil)
		c.hooks.start(c)
	default:
		var m *Message
		if m, err = q.messageToSend(); err == nil {
			err = c.SendContext(ctx, m)
		}
	}
	switch {
	case err == nil:
		return 1, nil
	case errors.Is(err, ErrClientClosed):
		return 0, nil
	default:
		return 0, err
	}
}

// joinConfirmed makes c join a topic when the engine has confirmed this node's subscription.
// If that takes too long, c joins all the same and gets a gap later.
func (h *Hub) joinConfirmed(ctx context.Context, c *Client, t Topic) error {
	if err := checkTopic(t, h.config.MaxNameLength); err != nil {
		return err
	}
	if n := h.node; n != nil {
		topic := target{Audience: t.Kind.audience(), Name: t.Name}.Topic()
		n.mu.Lock()
		n.hold(topic)
		n.mu.Unlock()
		defer n.release(topic)
		bounded, cancel := context.WithTimeout(ctx, h.config.BrokerTimeout/2) // so that the answer arrives in time
		defer cancel()
		if n.awaitInForce(bounded, topic) != nil {
			n.mu.Lock()
			n.expose(topic)
			n.mu.Unlock()
		}
	}
	_, err := c.joinTopic(ctx, t.Kind, t.Name, resume{})
	return err
}

// sendToUser sends a message to the clients of a user on this node, and returns their number.
func (h *Hub) sendToUser(ctx context.Context, q *question) (count int, err error) {
	m, err := q.messageToSend()
	if err != nil || q.Name == "" {
		return 0, err
	}
	for c := range h.Clients() {
		if c.User() != q.Name {
			continue
		}
		switch err := c.SendContext(ctx, m); {
		case err == nil:
			count++
		case !errors.Is(err, ErrClientClosed):
			return count, err
		}
	}
	return count, nil
}

// answerUnsupported is the answer.Error of a node that does not know the question.
const answerUnsupported = "unsupported"

// answerErrors are the values of answer.Error and the errors that they stand for.
var answerErrors = map[string]error{
	answerUnsupported: errors.ErrUnsupported,
	"limit":           ErrTooManySubscriptions,
	"too_large":       ErrMessageTooLarge,
	"invalid_name":    ErrInvalidName,
	"unavailable":     ErrBrokerUnavailable,
}

// tooLarge is a MessageTooLargeError in an answer.
type tooLarge struct {
	Size      int64  `json:"size"`
	Limit     int64  `json:"limit"`
	LimitedBy string `json:"limited_by"`
}

// setFailure makes a tell err. It reports false if the asking node is not told, because
// another attempt may have another result.
func (a *answer) setFailure(err error) bool {
	for code, known := range answerErrors {
		if errors.Is(err, known) {
			a.Error = code
		}
	}
	var large *MessageTooLargeError
	if errors.As(err, &large) {
		a.TooLarge = (*tooLarge)(large)
	}
	return a.Error != ""
}

// failure returns the error of a node that could not carry out a question.
func (a *answer) failure(node string) error {
	if a.TooLarge != nil {
		return (*MessageTooLargeError)(a.TooLarge)
	}
	if err, ok := answerErrors[a.Error]; ok {
		return err
	}
	return fmt.Errorf("websocket: node %q: %s", node, a.Error)
}
