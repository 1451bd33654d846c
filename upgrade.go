package websocket

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Dialer is gorilla's, so that Go clients need no other import.
type Dialer = websocket.Dialer

// upgrader holds what all handshakes share.
type upgrader struct {
	gorilla         websocket.Upgrader
	buffers         sync.Pool
	protocolHeaders []http.Header // that choose a codec as the subprotocol; not changed any more
}

func (u *upgrader) init(config *Config) {
	for _, c := range config.Codecs {
		u.protocolHeaders = append(u.protocolHeaders, http.Header{"Sec-Websocket-Protocol": {c.Name()}})
	}
	u.gorilla = websocket.Upgrader{
		HandshakeTimeout:  config.HandshakeTimeout,
		ReadBufferSize:    config.ReadBufferSize,
		WriteBufferSize:   config.WriteBufferSize,
		WriteBufferPool:   &u.buffers,
		EnableCompression: true,                                                    // for requests whose offer we have accepted
		CheckOrigin:       func(*http.Request) bool { return true },                // checked before
		Error:             func(http.ResponseWriter, *http.Request, int, error) {}, // nothing can be answered after the hijack
	}
}

// Handler upgrades requests of net/http and of all routers that take an
// http.Handler. It returns when onConnect has returned, or after the refusal is
// written.
func (h *Hub) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, nil) })
}

// refusal is a handshake that is answered with an HTTP status.
type refusal struct {
	status int
	text   string
}

func (e *refusal) Error() string { return e.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, "websocket: " + fmt.Sprintf(format, args...)}
}

// serve takes one handshake from request to readPump.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request, hc Context) {
	if err := h.beginHandshake(); err != nil {
		h.writeRefusal(w, r, err)
		return
	}
	c := h.acceptHandshake(w, r)
	if c == nil {
		return
	}
	defer func() { go c.readPump() }() // ends with the connection
	h.connect(c, hc)
}

// handshakeOnce returns nil where there is no client, which is then counted out,
// whatever the user's hooks do.
func (h *Hub) acceptHandshake(w http.ResponseWriter, r *http.Request) (c *Client) {
	defer func() {
		h.handshakes.Add(-1)
		if c == nil {
			h.connectionDone(nil)
		}
	}()
	c, err := h.handshake(w, r)
	if err != nil {
		return nil
	}
	return c
}

var errHook = refuse(http.StatusInternalServerError, "internal error")

// handshake answers the request with 101 or a refusal.
func (h *Hub) handshake(w http.ResponseWriter, r *http.Request) (*Client, error) {
	c, offer, err := h.checkHandshake(r)
	if err != nil {
		h.writeRefusal(w, r, err)
		return nil, err
	}
	welcome := false
	defer func() {
		if !welcome { // also when a middleware's writer panics
			h.ids.free(c)
		}
	}()
	if h.stopping() { // while a hook ran
		err := refuse(http.StatusServiceUnavailable, "hub closed")
		h.writeRefusal(w, r, err)
		return nil, err
	}
	if err := h.upgrade(w, r, c, offer); err != nil {
		h.logger.Debugf("websocket: handshake from %s failed: %v", r.RemoteAddr, err)
		return nil, err
	}
	if welcome = h.addClient(c); !welcome { // while the answer was written
		c.endRequest()
		c.conn.socket.Abort()
		return nil, ErrHubClosed
	}
	return c, nil
}

func (h *Hub) writeRefusal(w http.ResponseWriter, r *http.Request, err error) {
	e, ok := err.(*refusal)
	if !ok {
		e = &refusal{http.StatusInternalServerError, err.Error()}
	}
	switch e.status {
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired:
		if r.ProtoMajor != 1 {
			break // other versions have no such fields (RFC 9113 section 8.2.2)
		}
		w.Header().Set("Connection", "Upgrade")
		w.Header().Set("Upgrade", "websocket")
	}
	w.Header().Set("Sec-Websocket-Version", wsproto.Version)
	http.Error(w, e.text, e.status)
}

// admit decides about a handshake before it is answered: it returns a client
// whose ID is reserved, or the refusal.
func (h *Hub) checkHandshake(r *http.Request) (*Client, agreement, error) {
	switch {
	case !websocket.IsWebSocketUpgrade(r):
		return nil, agreement{}, refuse(http.StatusUpgradeRequired, "this is a WebSocket endpoint")
	case !r.ProtoAtLeast(1, 1):
		return nil, agreement{}, refuse(http.StatusBadRequest, "a WebSocket handshake needs HTTP/1.1") // RFC 6455 section 4.1
	case r.Method != http.MethodGet:
		return nil, agreement{}, refuse(http.StatusMethodNotAllowed, "a WebSocket handshake needs method GET")
	case !wsproto.ValidVersion(r.Header["Sec-Websocket-Version"]):
		return nil, agreement{}, refuse(http.StatusBadRequest, "Sec-WebSocket-Version is not "+wsproto.Version)
	case !wsproto.ValidKey(r.Header.Get("Sec-Websocket-Key")):
		return nil, agreement{}, refuse(http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	}
	if h.overBudget() {
		return nil, agreement{}, refuse(http.StatusServiceUnavailable, "hub is at its memory budget")
	}
	if err := h.waitForRun(r.Context()); err != nil {
		return nil, agreement{}, err
	}
	allowed := false
	if !h.protect("CheckOrigin", "a handshake from", r.RemoteAddr, func() { allowed = h.originAllowed(r) }, nil) {
		return nil, agreement{}, errHook
	}
	if !allowed {
		return nil, agreement{}, refuse(http.StatusForbidden, "origin %q is not allowed", r.Header.Get("Origin"))
	}
	offer, err := h.negotiate(r.Header)
	if err != nil {
		return nil, offer, err
	}
	id, err := h.idFor(r)
	if err != nil {
		return nil, offer, err
	}
	c := &Client{
		ID: id, hub: h, shard: h.shardOf(id),
		codec: h.codecs[offer.codec], codecIndex: offer.codec, deflates: offer.deflate,
		shardIndex: -1, hooks: newMembershipHooks(&h.config),
	}
	c.conn.hub, c.conn.shard, c.conn.client, c.conn.held = h, c.shard, c, true
	c.openKeys.Store(h.keys)
	c.handling.Store(true) // until it is read from
	c.conn.form = c.formFor(nil)
	if h.config.DuplicateID == RefuseDuplicate && h.ids.put(c, false) != nil {
		return nil, offer, refuse(http.StatusConflict, "client ID is in use")
	}
	return c, offer, nil
}

// waitForRun lets handshakes come a little before Run.
func (h *Hub) waitForRun(ctx context.Context) error {
	select {
	case <-h.started:
		return nil
	default:
	}
	timer := time.NewTimer(h.config.HandshakeTimeout)
	defer timer.Stop()
	select {
	case <-h.started:
		return nil
	case <-h.stop:
		return refuse(http.StatusServiceUnavailable, "hub closed")
	case <-timer.C:
		return refuse(http.StatusServiceUnavailable, "hub is not running")
	case <-ctx.Done():
		return refuse(http.StatusServiceUnavailable, "request ended")
	}
}

// upgrade answers the handshake with 101. It hijacks the connection itself, as that
// would go deepest inside gorilla, and make net/http's goroutine copy its stack into
// a larger one. What gorilla finds wrong with a handshake has been refused before.
func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, c *Client, o agreement) error {
	nc, rw, err := http.NewResponseController(w).Hijack() // also through middleware's writers
	if err != nil {
		err = refuse(http.StatusInternalServerError, "%v", err)
		h.writeRefusal(w, r, err)
		return err
	}
	c.conn.Conn = nc
	c.conn.socket = transport.New(nc, &c.conn.tcp)
	var answer http.Header
	if o.named {
		answer = h.upgrader.protocolHeaders[o.codec]
	}
	defer func() {
		if c.ws == nil {
			_ = nc.Close() // may be closed already
		}
	}()
	c.ws, err = h.upgrader.gorilla.Upgrade(&hijacked{w, &c.conn, rw}, withAgreement(r, o), answer)
	if err != nil {
		return err
	}
	c.conn.in.begin(&h.config, o.deflate)
	c.conn.upgraded.Store(true)
	c.conn.lastRead.Store(h.clock())
	c.keepRequest(r)
	return nil
}

// withOffer returns r with our decision in place of the extensions that the client
// offers.
func withAgreement(r *http.Request, o agreement) *http.Request {
	if !o.deflate && len(r.Header["Sec-Websocket-Extensions"]) == 0 {
		return r
	}
	decided := new(http.Request)
	*decided = *r
	decided.Header = maps.Clone(r.Header)
	delete(decided.Header, "Sec-Websocket-Extensions")
	if o.deflate {
		decided.Header.Set("Sec-Websocket-Extensions", "permessage-deflate")
	}
	return decided
}

// keepRequest keeps the handshake's request without what belongs to the server.
func (c *Client) keepRequest(r *http.Request) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	kept := r.WithContext(ctx)
	kept.Body = http.NoBody
	kept.GetBody = nil
	kept.Response = nil
	c.request, c.endRequest = kept, cancel
}

// hijacked hands gorilla our connection in place of the server's.
type hijacked struct {
	http.ResponseWriter
	conn *conn
	rw   *bufio.ReadWriter
}

// Hijack implements http.Hijacker.
func (j *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return j.conn, j.rw, nil }

// connect registers the client and runs onConnect, while which what is for the
// client waits.
func (h *Hub) connect(c *Client, hc Context) {
	h.connected.Add(1)
	if h.config.DuplicateID == ReplaceDuplicate {
		if old := h.ids.put(c, true); old != nil {
			old.replace()
		}
	}
	h.events.register(c)
	c.visible.Store(true)
	if c.replaced.Load() {
		c.replace() // by another that came between
	}
	defer func() {
		c.httpCtx.Store(nil)
		h.events.unhold(c)
	}()
	if hc != nil {
		c.httpCtx.Store(&hc)
	}
	if h.onConnect != nil {
		h.runCallback(c, callingConnect, func() { h.onConnect(c) })
	}
}

// replace closes a client whose ID was taken over.
func (c *Client) replace() {
	c.replaced.Store(true)
	_ = c.Close(CloseReplaced, "connected again elsewhere") // not registered yet: connect looks at replaced
}
