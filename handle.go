package websocket

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"strings"
)

// RequestHandler answers a request of a client. See Hub.Handle.
type RequestHandler func(ctx context.Context, c *Client, m *Message) (any, error)

// handlerEntry is a registered handler.
type handlerEntry struct {
	handler    RequestHandler
	concurrent bool
}

// Handle registers the handler for requests of clients: messages of a type that have an
// ID. The hub answers the client with an "ack" that has the same ID and the handler's
// result as its data. []byte and json.RawMessage are sent as they are, nil as no data,
// and every other value in JSON. An error becomes an "error" message: a *RequestError
// with its code and text, ErrForbidden with the code "forbidden", and every other one
// with the code "internal", the text "internal error" and a line in the log.
//
// The handler gets messages of the type without an ID too; its result is then discarded,
// and errors are only logged. Messages of the type do not reach Config.OnMessage.
//
// Handlers run as OnMessage does: one at a time for each client, in the order of arrival,
// while nothing else is read from the client. The Message is valid until the handler
// returns. ctx is Client.Context. A handler that panics is logged and answers with
// "internal".
//
// Handle panics if typ is empty or a type of the hub's own, if handler is nil, or if typ
// has a handler already. It may be called from any goroutine at any time.
func (h *Hub) Handle(typ string, handler RequestHandler) {
	h.addHandler(typ, handlerEntry{handler: handler})
}

// HandleConcurrent is like Handle for a handler that may wait: each call runs on a
// goroutine of its own, at the same time as other calls and callbacks of the client, and
// the Message is a copy that the handler may keep. At most Config.MaxRequests calls of
// one client run at the same time; further requests are answered with code "limit".
// OnDisconnect of the client waits for its calls, so a handler should return when ctx is
// done.
func (h *Hub) HandleConcurrent(typ string, handler RequestHandler) {
	h.addHandler(typ, handlerEntry{handler: handler, concurrent: true})
}

func (h *Hub) addHandler(typ string, e handlerEntry) {
	switch {
	case typ == "" || isReservedType(typ):
		panic("websocket: type " + typ + " cannot have a handler")
	case e.handler == nil:
		panic("websocket: nil handler for type " + typ)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	handlers := map[string]handlerEntry{}
	if old := h.handlers.Load(); old != nil {
		handlers = maps.Clone(*old)
	}
	if _, ok := handlers[typ]; ok {
		panic("websocket: type " + typ + " has a handler already")
	}
	handlers[strings.Clone(typ)] = e
	h.handlers.Store(&handlers)
}

// isReservedType reports whether the hub itself gives messages of a type their meaning.
func isReservedType(typ string) bool {
	_, known := knownType([]byte(typ))
	return known || strings.HasPrefix(typ, hubPrefix)
}

// hubPrefix begins the types of requests to the hub, and the IDs of requests that the hub
// sends.
const hubPrefix = "hub:"

// handler returns the handler for messages of a type.
func (h *Hub) handler(typ string) (handlerEntry, bool) {
	handlers := h.handlers.Load()
	if handlers == nil {
		return handlerEntry{}, false
	}
	e, ok := (*handlers)[typ]
	return e, ok
}

// handleRequest calls the handler for m, and answers. It runs on the readPump.
func (c *Client) handleRequest(e handlerEntry, m *Message) {
	if !e.concurrent {
		id, reply := m.ID, (*Message)(nil)
		c.hub.runCallback(c, callingHandler, func() { reply = c.callHandler(e.handler, m) })
		c.answer(id, reply)
		return
	}
	r := c.requestState()
	if !r.begin(c.hub.config.MaxRequests) {
		c.noteRefused(ErrTooManyRequests)
		c.refuseRequest(m.ID, codeLimit, "too many requests at once")
		return
	}
	kept, held := m.Clone(), messageCost(m)
	c.charge(held)
	go func() { // ends with the handler; disconnect waits for it
		id, reply := kept.ID, c.errorReply(codeInternal, internalText)
		defer func() { // also if the handler ends the goroutine
			c.charge(-held)
			c.answer(id, reply)
			r.end()
		}()
		reply = c.callHandler(e.handler, kept)
	}()
}

// callHandler returns the reply of a handler, without its ID.
func (c *Client) callHandler(handler RequestHandler, m *Message) *Message {
	typ := m.Type // the handler may change m
	result, err := any(nil), error(nil)
	reply := c.errorReply(codeInternal, internalText)
	defer c.shard.counters.callbacks[callingHandler].since(c.hub.clock(), c.hub)
	c.hub.protect("the handler for "+typ, "client", c.ID, func() {
		result, err = handler(c.Context(), c, m)
		reply = c.replyOf(typ, result, err)
	}, nil)
	return reply
}

const internalText = "internal error"

// replyOf returns the reply for what a handler has returned. It calls methods of both.
func (c *Client) replyOf(typ string, result any, err error) *Message {
	if err == nil {
		var data []byte
		if data, err = encodeResult(result); err == nil {
			return &Message{Type: typeAck, Data: data}
		}
	}
	code, text, ok := requestRefusal(err)
	if !ok {
		c.hub.logFields(&c.kept.values, "handler failed", slog.LevelError, "handler failed", peerText("type", typ), peerText("client", c.ID), peerText("error", err.Error()))
	}
	return c.errorReply(code, text)
}

// encodeResult returns the data of the ack for a handler's result.
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

// requestRefusal returns the code and text that a client gets for an error of the application.
// It reports false if the error is no refusal: its text then stays in the hub's log.
func requestRefusal(err error) (code, text string, ok bool) {
	var chosen *RequestError
	switch {
	case errors.As(err, &chosen):
		if chosen.Code == "" {
			return codeForbidden, chosen.Message, true
		}
		return chosen.Code, chosen.Message, true
	case errors.Is(err, ErrForbidden):
		return codeForbidden, err.Error(), true
	default:
		return codeInternal, internalText, false
	}
}

func (c *Client) errorReply(code, text string) *Message {
	return &Message{Type: typeError, Data: c.codec.encodeError(code, text)}
}

// refuseRequest answers a request with an error.
func (c *Client) refuseRequest(id, code, text string) { c.answer(id, c.errorReply(code, text)) }

// answer sends the reply to a request, unless the request has no ID or the handler has
// ended its goroutine.
func (c *Client) answer(id string, reply *Message) {
	if id == "" || reply == nil {
		return
	}
	reply.ID, reply.Timestamp = id, c.hub.now()
	if err := c.hub.checkSize(messageCost(reply)); err != nil {
		reply.Type, reply.Data = typeError, c.codec.encodeError(codeTooLarge, err.Error())
	}
	c.sendReply(reply)
}
