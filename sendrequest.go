package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"
)

// defaultRequestTime limits SendRequest if its context has no deadline.
const defaultRequestTime = 30 * time.Second

// requestState is what a client has of requests in both directions.
type requestState struct {
	mu      sync.Mutex
	waiting map[string]chan *Message // SendRequest receives once; takeAnswer sends, capacity 1
	lastID  uint64
	running int       // concurrent handlers
	idle    sync.Cond // signalled when running becomes 0
}

// requestState returns the client's state, and makes it at the first call.
func (c *Client) requestState() *requestState {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.requests == nil {
		c.requests = &requestState{waiting: make(map[string]chan *Message)}
		c.requests.idle.L = &c.requests.mu
	}
	return c.requests
}

// begin counts a concurrent handler, unless limit are running.
func (r *requestState) begin(limit int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if limit > 0 && r.running >= limit {
		return false
	}
	r.running++
	return true
}

func (r *requestState) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running == 0 {
		r.idle.Broadcast()
	}
}

// waitForHandlers returns when the client's concurrent handlers have returned. The
// readPump calls it after it has handled its last message.
func (c *Client) waitForHandlers() {
	c.mu.Lock()
	r := c.requests
	c.mu.Unlock()
	if r == nil {
		return
	}
	c.calling.Store(callingHandler)
	defer c.calling.Store(callingNothing)
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.running > 0 {
		r.idle.Wait()
	}
}

// SendRequest sends m to the client as a request and returns the client's answer: a
// message of type "ack" whose Data is the result. The clients of this project answer with
// the handler that is registered for m.Type. m.ID is ignored: the hub chooses an ID that
// begins with "hub:". An answer also says that the client has received m and everything
// that was sent to it before.
//
// SendRequest waits until ctx is done, or for 30 seconds if ctx has no deadline. A later
// answer is discarded. It must not be called in a callback of the same client (OnConnect,
// OnMessage, Authorize, OnJoin, OnLeave, or a handler of Hub.Handle), because the answer is
// not read meanwhile. HandleConcurrent is for handlers that ask back; elsewhere, use a
// goroutine of your own.
//
// Errors: a *RequestError if the client answers with an error; its code is "unsupported"
// if the client has no handler. ErrTooManyRequests if Config.MaxRequests requests to the
// client wait already. ErrMalformed for an answer that cannot be read, ctx's error,
// context.DeadlineExceeded after the 30 seconds, and those of Send; ErrClientClosed also
// if the connection ends meanwhile. It may be called from any other goroutine.
func (c *Client) SendRequest(ctx context.Context, m *Message) (*Message, error) {
	if m == nil {
		return nil, ErrNilMessage
	}
	if m.Type == "" || isReservedType(m.Type) {
		return nil, fmt.Errorf("%w: a request needs a type of the application's own, not %q", ErrMalformed, m.Type)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultRequestTime)
		defer cancel()
	}
	r := c.requestState()
	id, answers, err := r.add(c.hub.config.MaxRequests)
	if err != nil {
		c.noteRefused(err)
		return nil, err
	}
	defer r.remove(id)
	p, err := c.hub.prepare(m, typeMessage, m.channel(), toClients)
	if err != nil {
		return nil, err
	}
	p.setID(id)
	if err := c.hub.events.send(ctx, c, p); err != nil {
		return nil, err
	}
	select {
	case answer := <-answers:
		return readAnswer(answer)
	case <-c.Context().Done():
		err = ErrClientClosed
	case <-ctx.Done():
		err = ctx.Err()
	}
	select {
	case answer := <-answers: // it arrived before the end
		return readAnswer(answer)
	default:
		return nil, err
	}
}

// add makes an ID and the channel of its answer.
func (r *requestState) add(limit int) (id string, answers <-chan *Message, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if limit > 0 && len(r.waiting) >= limit {
		return "", nil, ErrTooManyRequests
	}
	r.lastID++
	id = hubPrefix + strconv.FormatUint(r.lastID, 10)
	channel := make(chan *Message, 1)
	r.waiting[id] = channel
	return id, channel, nil
}

func (r *requestState) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, id)
}

// isAnswer reports whether m answers a request of the hub.
func isAnswer(m *Message) bool {
	return (m.Type == typeAck || m.Type == typeError) && strings.HasPrefix(m.ID, hubPrefix)
}

// takeAnswer passes an answer to the SendRequest that waits for it, if one does.
func (c *Client) takeAnswer(m *Message) {
	r := c.requestState()
	r.mu.Lock()
	answers, ok := r.waiting[m.ID]
	delete(r.waiting, m.ID)
	r.mu.Unlock()
	if !ok {
		c.hub.log(&c.kept.values, slog.LevelDebug, "answer discarded, because no request waits for it", peerText("id", m.ID), peerText("client", c.ID))
		return
	}
	answers <- m.Clone() // has room
}

// readAnswer returns an answer, or the error that it stands for. The data of an error is
// JSON in every codec.
func readAnswer(m *Message) (*Message, error) {
	if m.Type == typeAck {
		return m, nil
	}
	var refusal struct{ Code, Message string }
	if err := json.Unmarshal(m.Data, &refusal); err != nil || refusal.Code == "" {
		return nil, errors.Join(ErrMalformed, errors.New("websocket: the client's error has no code"))
	}
	return nil, &RequestError{Code: refusal.Code, Message: refusal.Message}
}
