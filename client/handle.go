package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// hubPrefix begins the types of requests to the hub itself, and the IDs of requests of the
// hub.
const hubPrefix = "hub:"

// RequestHandler answers a request of the hub. See Client.Handle.
type RequestHandler func(ctx context.Context, m *websocket.Message) (any, error)

// Request sends a message of an application's own type to the hub and returns the answer
// of the handler that the hub's application has for the type: its result is the Data. Without
// a handler nobody answers, so ctx should have a deadline. A later answer is discarded.
//
// Request waits for a connection and for the answer until ctx ends. data may be reused
// after Request has returned. Errors: *Error if the handler refuses, with CodeInternal if it
// has failed; ErrReserved for types that are not the application's; and those of Publish.
// After ErrOutcomeUnknown the hub may have handled the request.
func (c *Client) Request(ctx context.Context, typ string, data []byte) (*websocket.Message, error) {
	if isReserved(typ) {
		return nil, fmt.Errorf("%w: %q", ErrReserved, typ)
	}
	return c.call(ctx, call{message: &websocket.Message{Type: typ, Data: data}})
}

// isReserved reports whether an application cannot use typ for requests.
func isReserved(typ string) bool {
	switch typ {
	case "", typeMessage, typeRoomMessage, typeBroadcast, typeAck, typeError, typeGap:
		return true
	}
	switch websocket.Action(typ) {
	case websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom,
		websocket.ActionPublish, websocket.ActionPublishRoom, websocket.ActionBroadcast:
		return true
	}
	return strings.HasPrefix(typ, hubPrefix)
}

// Handle registers the handler for the hub's requests of a type. The handler's result goes
// back to the hub: []byte and json.RawMessage as they are, nil as no data, and every other
// value in JSON. A *websocket.RequestError becomes an answer with its code and text, an
// error that wraps websocket.ErrForbidden one with CodeForbidden, and every other error,
// as a panic, one with CodeInternal; OnError gets these. Requests of a type without a
// handler are answered with CodeUnsupported.
//
// Handlers run as all callbacks of the client do, one at a time and in the order of the
// hub's messages. Requests that wait count against Options.InboundLimit; those beyond it
// are answered with CodeLimit. ctx ends with the connection. The handler of a request whose
// connection has ended is not called.
//
// Handle panics if the type is not an application's own, if handler is nil, or if the type
// has a handler. Options.Handlers has handlers for requests that the hub may send before
// Dial returns.
func (c *Client) Handle(typ string, handler RequestHandler) {
	if isReserved(typ) || handler == nil {
		panic(fmt.Sprintf("websocket: type %q cannot have this handler", typ))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handlers[typ] != nil {
		panic(fmt.Sprintf("websocket: type %q has a handler already", typ))
	}
	c.handlers[typ] = handler
}

// isRequest reports whether m is a request of the hub.
func isRequest(m *websocket.Message) bool { return strings.HasPrefix(m.ID, hubPrefix) }

// handleRequest answers a request that came over cn.
func (c *Client) handleRequest(cn *conn, m *websocket.Message) {
	if cn.ctx.Err() != nil {
		return // nobody waits for the answer any more
	}
	id, typ := m.ID, m.Type // the handler may change m
	c.mu.Lock()
	handler := c.handlers[typ]
	c.mu.Unlock()
	if handler == nil {
		cn.answer(id, errorReply(CodeUnsupported, "no handler for this type"))
		return
	}
	reply := errorReply(CodeInternal, internalText)
	defer func() { cn.answer(id, reply) }() // also if the handler ends the goroutine
	c.protect(func() {
		result, err := handler(cn.ctx, m)
		reply = c.replyOf(typ, result, err)
	})
}

const internalText = "internal error"

// replyOf returns the reply for the results of a handler.
func (c *Client) replyOf(typ string, result any, err error) *websocket.Message {
	var chosen *websocket.RequestError
	switch {
	case errors.As(err, &chosen) && chosen.Code != "":
		return errorReply(chosen.Code, chosen.Message)
	case chosen != nil:
		return errorReply(CodeForbidden, chosen.Message)
	case errors.Is(err, websocket.ErrForbidden):
		return errorReply(CodeForbidden, err.Error())
	}
	var data []byte
	if err == nil {
		data, err = encodeResult(result)
	}
	if err != nil {
		c.options.OnError(fmt.Errorf("websocket: handler for %q: %w", typ, err))
		return errorReply(CodeInternal, internalText)
	}
	return &websocket.Message{Type: typeAck, Data: data}
}

func encodeResult(result any) ([]byte, error) {
	switch v := result.(type) {
	case nil:
		return nil, nil
	case []byte:
		return v, nil
	case json.RawMessage:
		return v, nil
	default:
		return json.Marshal(v)
	}
}

// errorReply returns a reply to a request of the hub. Its data is JSON in every codec.
func errorReply(code, text string) *websocket.Message {
	data, err := json.Marshal(map[string]string{"code": code, "message": text})
	if err != nil {
		panic(err) // strings always have an encoding
	}
	return &websocket.Message{Type: typeError, Data: data}
}

// answer sends the reply to a request. It waits for space in the queue until the connection
// ends.
func (cn *conn) answer(id string, reply *websocket.Message) {
	if r := cn.replyTo(id, reply); r != nil {
		_ = cn.send(cn.ctx, r) // fails only with the connection
	}
}

// refuse is answer for the read loop: it sends nothing if the queue is full.
func (cn *conn) refuse(id string, reply *websocket.Message) {
	r := cn.replyTo(id, reply)
	cn.mu.Lock()
	defer cn.mu.Unlock()
	if r != nil && cn.state != connClosed && cn.queuedBytes+len(r.frame) <= cn.client.options.OutboundLimit {
		cn.enqueue(r)
	}
}

// replyTo returns the reply to a request as a frame, or nil if it has no encoding.
func (cn *conn) replyTo(id string, reply *websocket.Message) *request {
	reply.ID = id
	frame, err := cn.client.encode(reply)
	if errors.Is(err, websocket.ErrMessageTooLarge) {
		reply = errorReply(CodeTooLarge, err.Error())
		reply.ID = id
		frame, err = cn.client.encode(reply)
	}
	if err != nil {
		cn.client.inbox.putError(fmt.Errorf("websocket: answer not sent: %w", err))
		return nil
	}
	return &request{frame: frame}
}
