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
	Room   bool   `json:"room,omitempty"` // Name is that of a room

	from uint64 // the node that asks
}

// answer is a node's response to a question, or one of several parts of it. Count
// is in the last part only. IDs are those of clients; for askPresence they are memberStates
// in JSON.
type answer struct {
	ID    uint64   `json:"id"`
	Count int      `json:"count,omitempty"`
	IDs   []string `json:"ids,omitempty"`
	Last  bool     `json:"last"`
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
	first    bool              // the first answer with a count is enough
	done     chan struct{}     // closed when no further answer is needed
}

// closeIfDone closes done when no further answer is needed.
func (q *openQuestion) closeIfDone() {
	if len(q.awaiting) == 0 || q.first && q.count > 0 {
		select {
		case <-q.done:
		default:
			close(q.done)
		}
	}
}

// peerLeft stops waiting for the answers of a node.
func (t *questionTable) peerLeft(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, q := range t.open {
		delete(q.awaiting, node)
		q.closeIfDone()
	}
}

// needsOne reports whether one node with a count answers q.
func (q *question) needsOne() bool { return q.Op == askFind || q.Op == askClose }

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
	if err != nil {
		return r, err
	}
	r.add(name, &own)
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
	if answered := open.first && open.count > 0; err == nil && len(gone) > 0 && !answered {
		err = ErrBrokerUnavailable
	}
	if err == nil || errors.Is(err, ErrHubClosed) {
		return open.clusterResult, err
	}
	unanswered := &UnansweredError{Err: err, Nodes: gone}
	for _, name := range open.awaiting {
		unanswered.Nodes = append(unanswered.Nodes, name)
	}
	slices.Sort(unanswered.Nodes)
	return open.clusterResult, unanswered
}

// putQuestion publishes a question and waits for the answers.
func (n *node) putQuestion(ctx context.Context, q *question, open *openQuestion) error {
	body, err := json.Marshal(q)
	if err != nil {
		return err
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
	if part.Last {
		delete(open.awaiting, from)
	}
	open.closeIfDone()
}

// maxQuestions is how many questions of other nodes may wait for answerLoop.
const maxQuestions = 64

// receiveQuestion queues another node's question for answerLoop. It drops the
// question if there are too many; the asking node then reports this node as
// unanswered.
func (n *node) receiveQuestion(from uint64, body []byte) {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		n.dropMalformed(err)
		return
	}
	q.from = from
	select {
	case n.questions <- q:
	default:
		n.hub.logger.Warningf("websocket: dropped a question of another node: %d questions are waiting", maxQuestions)
	}
}

// answerLoop answers the questions of other nodes.
func (n *node) answerLoop() {
	for {
		select {
		case q := <-n.questions:
			n.answerQuestion(&q)
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
	a, err := n.hub.answerLocally(ctx, q)
	if err != nil {
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
			part.Count = a.Count
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
	default:
		err = fmt.Errorf("%w: unknown question %q", ErrMalformed, q.Op)
	}
	return a, err
}

// closesOlder reports whether q closes c, if it depends on how long c has been connected.
func (q *question) closesOlder(c *Client) bool {
	return q.Op == askCloseUser || c.hub.node.connectedFor(c.ID, time.Duration(q.Age)*time.Millisecond)
}
