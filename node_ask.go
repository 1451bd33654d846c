package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/internal/nodewire"
)

// Values of question.Op.
const (
	askFind      = "find"
	askMembers   = "members"
	askCount     = "count"
	askClose     = "close"
	askCloseUser = "close_user"
	askPresence  = "presence"
	askJoin      = "join"
	askLeave     = "leave"
	askSend      = "send"
	askSendUser  = "send_user"

	// The same for clients that have been connected for question.Age.
	askCloseOlder     = "close_older"
	askCloseUserOlder = "close_user_older"
)

// question is a question to all nodes. Questions and answers are encoded as JSON:
// they are rare, and new fields may be added.
type question struct {
	ID     uint64 `json:"id"`
	Op     string `json:"op"`
	Name   string `json:"name"`
	Code   int    `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Age    int64  `json:"age,omitempty"`  // milliseconds
	Room   bool   `json:"room,omitempty"` // the topic, of askPresence the Name, is that of a room

	// Topic is the name of askJoin's and askLeave's channel or room.
	Topic string `json:"topic,omitempty"`
	// Message is the envelope of the message of askSend and askSendUser.
	Message []byte `json:"message,omitempty"`

	from    uint64   // the node that asks
	size    int64    // of the encoded question of another node
	message *Message // nil until Message is decoded
}

// answer is a node's response to a question, or one of several parts of it. Count
// and Error are in the last part only. IDs are those of clients; for askPresence they are
// memberStates in JSON.
type answer struct {
	ID       uint64    `json:"id"`
	Count    int       `json:"count,omitempty"`
	IDs      []string  `json:"ids,omitempty"`
	Last     bool      `json:"last"`
	Error    string    `json:"error,omitempty"` // a key of answerErrors
	TooLarge *tooLarge `json:"too_large,omitempty"`
}

// clusterResult is the sum of the answers to a question.
type clusterResult struct {
	node  string // that answered with a count
	count int
	ids   []string
}

func (r *clusterResult) add(node string, a *answer) {
	if a.Count > 0 {
		r.node = node
	}
	r.count += a.Count
	r.ids = append(r.ids, a.IDs...)
}

// questionTable holds the questions of this node that are not answered yet.
type questionTable struct {
	mu   sync.Mutex
	last uint64 // ID of the latest question
	open map[uint64]*openQuestion

	orders []*order // oldest first
}

// openQuestion is guarded by its table's lock.
type openQuestion struct {
	clusterResult
	awaiting map[uint64]string // names of the nodes that have not answered, by ID
	unable   []string          // names of the nodes that do not know the question
	failure  error             // of a node that could not carry it out, or nil
	first    bool              // the first answer with a count or a failure is enough
	done     chan struct{}     // closed when no further answer is needed
}

// closeIfDone closes done when no further answer is needed.
func (q *openQuestion) closeIfDone() {
	if len(q.awaiting) == 0 || q.isSettled() {
		select {
		case <-q.done:
		default:
			close(q.done)
		}
	}
}

// isSettled reports whether the answers of further nodes do not matter.
func (q *openQuestion) isSettled() bool { return q.first && (q.count > 0 || q.failure != nil) }

// peerLeft stops waiting for the answers of a node.
func (t *questionTable) peerLeft(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.open {
		delete(q.awaiting, node)
		q.closeIfDone()
	}
}

// needsOne reports whether one node with a count answers q: it is about one client.
func (q *question) needsOne() bool {
	switch q.Op {
	case askFind, askClose, askJoin, askLeave, askSend:
		return true
	default:
		return false
	}
}

// ask answers q for this node and asks the other nodes.
func (h *Hub) ask(ctx context.Context, q question) (clusterResult, error) {
	if h.stopping() {
		return clusterResult{}, ErrHubClosed
	}
	var name string
	if h.node != nil {
		name = h.node.name
	}
	var r clusterResult
	own, err := h.answerWithin(ctx, &q)
	r.add(name, &own)
	if err != nil {
		return r, err
	}
	if h.node == nil || r.count > 0 && q.needsOne() {
		return r, nil
	}
	return h.node.askPeers(ctx, q, r)
}

// answerWithin is answerLocally within BrokerTimeout.
func (h *Hub) answerWithin(ctx context.Context, q *question) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, h.config.BrokerTimeout)
	defer cancel()
	return h.answerLocally(ctx, q)
}

// askPeers adds the answers of the other nodes to r.
func (n *node) askPeers(ctx context.Context, q question, r clusterResult) (clusterResult, error) {
	err := n.discover(ctx)
	if errors.Is(err, ErrHubClosed) {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	open := &openQuestion{
		clusterResult: r, awaiting: n.peers.Names(),
		first: q.needsOne(), done: make(chan struct{}),
	}
	up := n.isUp()
	t := &n.asked
	t.mu.Lock()
	t.last++
	q.ID = t.last
	t.open[q.ID] = open
	t.keep(q)
	open.closeIfDone()
	alone := len(open.awaiting) == 0
	t.mu.Unlock()

	switch {
	case err != nil:
	case !up:
		err = ErrBrokerUnavailable
	case !alone:
		err = n.putQuestion(ctx, &q, open)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, q.ID)
	gone := n.peers.Gone()
	switch {
	case err != nil || open.isSettled():
	case len(gone) > 0:
		err = ErrBrokerUnavailable
	case len(open.unable) > 0:
		err = errors.ErrUnsupported
	}
	switch {
	case err == nil:
		return open.clusterResult, open.failure
	case errors.Is(err, ErrHubClosed), errors.Is(err, ErrMessageTooLarge):
		return open.clusterResult, err
	}
	unanswered := &UnansweredError{Err: err, Nodes: append(gone, open.unable...)}
	for _, name := range open.awaiting {
		unanswered.Nodes = append(unanswered.Nodes, name)
	}
	slices.Sort(unanswered.Nodes)
	if open.failure != nil {
		return open.clusterResult, errors.Join(open.failure, unanswered)
	}
	return open.clusterResult, unanswered
}

// putQuestion publishes a question and waits for the answers.
func (n *node) putQuestion(ctx context.Context, q *question, open *openQuestion) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
	}
	if size, limit := len(body)+nodewire.MaxHead, n.broker.MaxPayload(); limit > 0 && size > limit {
		return &MessageTooLargeError{Size: int64(size), Limit: int64(limit), LimitedBy: limitedByBroker}
	}
	if !n.sendControl(nodewire.KindQuestion, nodewire.TopicNodes, body) {
		return ErrBrokerUnavailable
	}
	return open.wait(ctx, n.hub.events.done)
}

func (q *openQuestion) wait(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-q.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return ErrHubClosed
	}
}

// receiveAnswer adds another node's answer to its question.
func (n *node) receiveAnswer(from uint64, body []byte) {
	var part answer
	if err := json.Unmarshal(body, &part); err != nil {
		n.dropMalformed(err)
		return
	}
	t := &n.asked
	t.mu.Lock()
	defer t.mu.Unlock()
	if part.Last {
		t.answeredBy(from, part.ID)
	}
	open := t.open[part.ID]
	if open == nil {
		return // the call has ended
	}
	name := nodewire.NodeName(from)
	if known, ok := open.awaiting[from]; ok {
		name = known
	}
	open.add(name, &part)
	switch part.Error {
	case "":
	case answerUnsupported:
		open.unable = append(open.unable, name)
	default:
		open.failure = part.failure(name)
	}
	if part.Last {
		delete(open.awaiting, from)
	}
	open.closeIfDone()
}

// maxQuestions is how many questions of other nodes may wait for answerLoop. Their size is
// bounded by Config.BrokerQueue.
const maxQuestions = 1024

// receiveQuestion queues another node's question for answerLoop. It drops the
// question if there are too many; the asking node then reports this node as
// unanswered.
func (n *node) receiveQuestion(from uint64, body []byte) {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		n.dropMalformed(err)
		return
	}
	q.from, q.size = from, int64(len(body))
	if waiting := n.asking.Add(q.size); waiting == q.size || waiting <= n.hub.config.BrokerQueue {
		select {
		case n.questions <- q:
			return
		default:
		}
	}
	n.asking.Add(-q.size)
	n.hub.logLimited("question dropped", n.hub.logger.Warningf, "websocket: dropped a question of another node: %d questions are waiting", len(n.questions))
}

// answerLoop answers the questions of other nodes.
func (n *node) answerLoop() {
	for {
		select {
		case q := <-n.questions:
			if q.acts() {
				n.startAction(&q)
			} else {
				n.answerQuestion(&q)
			}
		case <-n.stopping:
			return
		}
	}
}

// answerBytes is the size of the IDs from which an answer is split into parts.
const answerBytes = 16 << 10

// answerQuestion sends the answer to another node's question, in parts if it is
// long. Without an answer, the asking node reports this node as unanswered.
func (n *node) answerQuestion(q *question) {
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	defer n.asking.Add(-q.size)
	a, err := n.hub.answerLocally(ctx, q)
	if err != nil && !a.setFailure(err) {
		return
	}
	ids := a.IDs
	for {
		count, bytes := 0, 0
		for count < len(ids) && bytes < answerBytes {
			bytes += len(ids[count])
			count++
		}
		part := answer{ID: q.ID, IDs: ids[:count], Last: count == len(ids)}
		if part.Last {
			part.Count, part.Error, part.TooLarge = a.Count, a.Error, a.TooLarge
		}
		body, err := json.Marshal(&part)
		if err != nil || !n.sendControl(nodewire.KindAnswer, nodewire.NodeTopic(q.from), body) || part.Last {
			return
		}
		ids = ids[count:]
		n.waitForRoom(ctx)
	}
}

// answerLocally returns this node's answer to q.
func (h *Hub) answerLocally(ctx context.Context, q *question) (a answer, err error) {
	switch q.Op {
	case askFind, askClose:
		c, ok := h.Client(q.Name)
		if ok && (q.Op == askFind || c.Close(q.Code, q.Reason) == nil) {
			a.Count = 1
		}
	case askCloseOlder:
		c, ok := h.Client(q.Name)
		if ok && q.closesOlder(c) && c.Close(q.Code, q.Reason) == nil {
			a.Count = 1
		}
	case askPresence:
		a.IDs = h.events.memberStates(q)
	case askMembers:
		a.IDs, err = h.RoomMembers(ctx, q.Name)
	case askCount:
		h.events.mu.Lock()
		if t := h.events.topics[ChannelTopic].m[q.Name]; t != nil {
			a.Count = t.members
		}
		h.events.mu.Unlock()
	case askCloseUser, askCloseUserOlder:
		for c := range h.Clients() {
			if q.Name != "" && c.User() == q.Name && q.closesOlder(c) && c.Close(q.Code, q.Reason) == nil {
				a.Count++
			}
		}
	case askJoin, askLeave, askSend:
		a.Count, err = h.actOnClient(ctx, q)
	case askSendUser:
		a.Count, err = h.sendToUser(ctx, q)
	default:
		err = fmt.Errorf("websocket: question %q: %w", q.Op, errors.ErrUnsupported)
	}
	return a, err
}

// closesOlder reports whether q closes c, if it depends on how long c has been connected.
func (q *question) closesOlder(c *Client) bool {
	return q.Op == askCloseUser || c.hub.node.connectedFor(c.ID, time.Duration(q.Age)*time.Millisecond)
}
