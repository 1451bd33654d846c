package websocket

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// Cluster answers questions that concern all nodes; without a broker that is
// this one. Each call asks every node that is known to be alive and ends with its
// context, or after Config.BrokerTimeout. What has been answered by then is
// returned together with an *UnansweredError that names the nodes which were not
// heard. After shutdown has begun calls return ErrHubClosed.
type Cluster struct{ hub *Hub }

// Cluster returns the hub's view of all nodes.
func (h *Hub) Cluster() Cluster { return Cluster{h} }

// UnansweredError says that an answer is incomplete.
type UnansweredError struct {
	// Nodes names those that did not answer.
	Nodes []string
	// Err says why the waiting ended: the context's error, or
	// ErrBrokerUnavailable.
	Err error
}

// Error implements error.
func (e *UnansweredError) Error() string {
	return fmt.Sprintf("websocket: no answer from %d nodes %q: %v", len(e.Nodes), e.Nodes, e.Err)
}

// Unwrap returns why the waiting ended.
func (e *UnansweredError) Unwrap() error { return e.Err }

// Nodes returns the names of the nodes that are known to be alive, sorted, this
// one included. It does not ask them. Without a broker it returns nil.
func (c Cluster) Nodes() []string {
	n := c.hub.node
	if n == nil {
		return nil
	}
	names := []string{n.name}
	for _, name := range n.peers.names() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// FindClient returns the name of the node that has the client with that ID, or
// ErrClientNotFound if every node answered and none has it. Without a broker the
// name is empty.
func (c Cluster) FindClient(ctx context.Context, id string) (node string, err error) {
	r, err := c.hub.ask(ctx, question{Op: askFind, Name: id})
	return r.where, found(r, err)
}

// RoomMembers returns the IDs of a room's members on all nodes, in no order.
func (c Cluster) RoomMembers(ctx context.Context, roomID string) ([]string, error) {
	if err := checkName(roomID, c.hub.config.MaxNameLength); err != nil {
		return nil, err
	}
	r, err := c.hub.ask(ctx, question{Op: askMembers, Name: roomID})
	return r.ids, err
}

// ChannelCount returns how many subscribers a channel has on all nodes.
func (c Cluster) ChannelCount(ctx context.Context, channel string) (int, error) {
	if err := checkName(channel, c.hub.config.MaxNameLength); err != nil {
		return 0, err
	}
	r, err := c.hub.ask(ctx, question{Op: askCount, Name: channel})
	return r.count, err
}

// CloseClient closes the client with that ID wherever it is; see Client.Close.
// It returns ErrClientNotFound if every node answered and none has it.
func (c Cluster) CloseClient(ctx context.Context, id string, code int, reason string) error {
	code, err := closeCode(code)
	if err != nil {
		return err
	}
	r, err := c.hub.ask(ctx, question{Op: askClose, Name: id, Code: code, Reason: reason})
	return found(r, err)
}

// CloseUser closes every client of a user (Client.SetUser) and returns how many
// there were.
func (c Cluster) CloseUser(ctx context.Context, user string, code int, reason string) (int, error) {
	code, err := closeCode(code)
	if err != nil {
		return 0, err
	}
	r, err := c.hub.ask(ctx, question{Op: askCloseUser, Name: user, Code: code, Reason: reason})
	return r.count, err
}

func found(r reply, err error) error {
	switch {
	case r.count > 0:
		return nil // who has it has answered
	case err != nil:
		return err
	default:
		return ErrClientNotFound
	}
}

const (
	askFind      = "find"
	askMembers   = "members"
	askCount     = "count"
	askClose     = "close"
	askCloseUser = "close_user"
)

// question and answer travel as JSON: they are few, and their kinds will grow.
type question struct {
	ID     uint64 `json:"id"`
	Op     string `json:"op"`
	Name   string `json:"name"`
	Code   int    `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`

	from uint64
}

// answer may come in parts, of which the last says so.
type answer struct {
	ID    uint64   `json:"id"`
	Count int      `json:"count,omitempty"`
	IDs   []string `json:"ids,omitempty"`
	Error string   `json:"error,omitempty"`
	Last  bool     `json:"last"`
}

// reply adds up what nodes answer.
type reply struct {
	where string
	count int
	ids   []string
}

func (r *reply) add(node string, a *answer) {
	if a.Count > 0 {
		r.where = node
	}
	r.count += a.Count
	r.ids = append(r.ids, a.IDs...)
}

// askTable holds the questions that wait for answers.
type askTable struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*asking
}

type asking struct {
	reply
	waitsFor map[uint64]string // names by node
	first    bool              // one positive answer is enough
	done     chan struct{}     // closed when nothing is waited for
}

// settle closes done when it is time. The table is locked.
func (a *asking) settle() {
	if len(a.waitsFor) == 0 || a.first && a.count > 0 {
		select {
		case <-a.done:
		default:
			close(a.done)
		}
	}
}

func (t *askTable) gone(node uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range t.open {
		delete(a.waitsFor, node)
		a.settle()
	}
}

// ask answers q here and asks the other nodes.
func (h *Hub) ask(ctx context.Context, q question) (reply, error) {
	if h.stopping() {
		return reply{}, ErrHubClosed
	}
	var name string
	if h.node != nil {
		name = h.node.name
	}
	ctx, cancel := context.WithTimeout(ctx, h.config.BrokerTimeout)
	defer cancel()
	var r reply
	own, err := h.answer(ctx, &q)
	if err != nil {
		return r, err
	}
	r.add(name, &own)
	if h.node == nil || r.count > 0 && (q.Op == askFind || q.Op == askClose) {
		return r, nil
	}
	return h.node.askOthers(ctx, q, r)
}

func (n *node) askOthers(ctx context.Context, q question, r reply) (reply, error) {
	a := &asking{
		reply: r, waitsFor: n.peers.names(),
		first: q.Op == askFind || q.Op == askClose,
		done:  make(chan struct{}),
	}
	up := n.isUp()
	if up && len(a.waitsFor) == 0 {
		return r, nil
	}
	t := &n.asked
	t.mu.Lock()
	t.last++
	q.ID = t.last
	t.open[q.ID] = a
	t.mu.Unlock()

	body, err := json.Marshal(q)
	if err == nil {
		err = ErrBrokerUnavailable
		if up && n.tell(kindQuestion, topicNodes, body) {
			err = a.wait(ctx, n.hub.log.done)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, q.ID)
	if err == nil || err == ErrHubClosed {
		return a.reply, err
	}
	silent := &UnansweredError{Err: err}
	for _, name := range a.waitsFor {
		silent.Nodes = append(silent.Nodes, name)
	}
	slices.Sort(silent.Nodes)
	return a.reply, silent
}

func (a *asking) wait(ctx context.Context, closed <-chan struct{}) error {
	select {
	case <-a.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return ErrHubClosed
	}
}

func (n *node) isUp() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == BrokerUp
}

// takeQuestion leaves a question to the answering loop. What is too much for it
// goes unanswered, and the asker will say so.
func (n *node) takeQuestion(from uint64, body []byte) {
	var q question
	if err := json.Unmarshal(body, &q); err != nil {
		n.malformed.Add(1)
		return
	}
	q.from = from
	select {
	case n.questions <- q:
	default:
		n.hub.logger.Warningf("websocket: too many questions of other nodes at once")
	}
}

// maxQuestions may wait for an answer of this node's.
const maxQuestions = 64

// answerLoop answers the questions of other nodes.
func (n *node) answerLoop() {
	for {
		select {
		case q := <-n.questions:
			n.answerTo(&q)
		case <-n.stopping:
			return
		}
	}
}

// answerBytes bounds the IDs in one part of an answer.
const answerBytes = 16 << 10

func (n *node) answerTo(q *question) {
	ctx, cancel := context.WithTimeout(n.ctx, n.hub.config.BrokerTimeout)
	defer cancel()
	a, err := n.hub.answer(ctx, q)
	if err != nil {
		return // the asker will say that there was no answer
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
		if err != nil || !n.tell(kindAnswer, nodeTopic(q.from), body) || part.Last {
			return
		}
		ids = ids[count:]
		n.pace(ctx)
	}
}

func (n *node) takeAnswer(from uint64, body []byte) {
	var part answer
	if err := json.Unmarshal(body, &part); err != nil {
		n.malformed.Add(1)
		return
	}
	t := &n.asked
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.open[part.ID]
	if a == nil {
		return // too late
	}
	name := nodeHex(from)
	if known, ok := a.waitsFor[from]; ok {
		name = known
	}
	a.add(name, &part)
	if part.Last {
		delete(a.waitsFor, from)
	}
	a.settle()
}

// answer answers q for this node.
func (h *Hub) answer(ctx context.Context, q *question) (a answer, err error) {
	switch q.Op {
	case askFind, askClose:
		c, ok := h.Client(q.Name)
		if ok && (q.Op == askFind || c.Close(q.Code, q.Reason) == nil) {
			a.Count = 1
		}
	case askMembers:
		a.IDs, err = h.RoomMembers(ctx, q.Name)
	case askCount:
		h.log.mu.Lock()
		if t := h.log.topics[channelTopic][q.Name]; t != nil {
			a.Count = t.members
		}
		h.log.mu.Unlock()
	case askCloseUser:
		for c := range h.Clients() {
			if q.Name != "" && c.User() == q.Name && c.Close(q.Code, q.Reason) == nil {
				a.Count++
			}
		}
	default:
		err = fmt.Errorf("%w: unknown question %q", ErrMalformed, q.Op)
	}
	return a, err
}
