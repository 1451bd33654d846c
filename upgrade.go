package websocket

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/transport"
	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// Dialer is the Dialer of gorilla/websocket. A Go program can connect with it without
// another import. Package client of this module offers more: it reconnects, restores
// subscriptions and decodes messages.
type Dialer = websocket.Dialer

// upgrader is shared by all handshakes.
type upgrader struct {
	gorilla         websocket.Upgrader
	bufferSize      int           // of a reader
	writeBuffers    sync.Pool     // of gorilla, which writes nothing but Close frames
	buffers         sync.Pool     // *bufio.Reader of readers that have ended
	readers         sync.Pool     // *reader that no connection uses
	origins         []string      // of Config.originPatterns; read-only after init
	protocolHeaders []http.Header // by codec index: the response header that selects the codec; read-only after init
}

func (u *upgrader) init(config *Config) {
	u.origins = config.originPatterns()
	for _, c := range config.Codecs {
		u.protocolHeaders = append(u.protocolHeaders, http.Header{"Sec-Websocket-Protocol": {c.Name()}})
	}
	u.bufferSize = max(config.ReadBufferSize, minReadBuffer)
	u.gorilla = websocket.Upgrader{
		HandshakeTimeout:  config.HandshakeTimeout,
		WriteBufferSize:   config.WriteBufferSize,
		WriteBufferPool:   &u.writeBuffers,
		EnableCompression: true,                                                    // withAgreement removes offers that were not accepted
		CheckOrigin:       func(*http.Request) bool { return true },                // checkHandshake has checked the origin
		Error:             func(http.ResponseWriter, *http.Request, int, error) {}, // no HTTP error can be written after the hijack
	}
}

// minReadBuffer is larger than 256 bytes: gorilla uses no smaller buffer that it has not made.
const minReadBuffer = 288

// Handler returns an http.Handler that accepts WebSocket handshakes, for net/http and
// every router that takes an http.Handler:
//
//	mux.Handle("GET /ws", hub.Handler())
//
// The handler returns when Config.OnConnect has returned; the connection lives on. It
// refuses a handshake with an HTTP status, which docs/wire.md lists: for example 401
// if Config.ClientID returns an error, 403 for an origin that is not allowed, and 503
// after shutdown has begun. A handshake that arrives before Run waits for it, at most
// Config.HandshakeTimeout. Headers that middleware has set are in the response, also in
// that with status 101, except for those that belong to the connection or the handshake.
//
// Handshakes need HTTP/1.1 (RFC 6455 section 4.1) and an http.ResponseWriter that can
// be hijacked, directly or through http.ResponseController. The handler may be used
// for several routes and by any number of goroutines.
func (h *Hub) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.serve(w, r, nil) })
}

// serve performs a handshake and starts the readPump of the new client. It reports
// whether there is one. fc is the context of the web framework, or nil.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request, fc Context) bool {
	began := h.clock()
	count, err := h.beginHandshake(r)
	if err != nil {
		h.writeRefusal(w, r, err)
		return false
	}
	c := h.acceptHandshake(w, r, count)
	if c == nil {
		return false
	}
	c.shard.counters.handshakes.observe(c.connectedAt - began)
	defer h.pumps.start(c)
	h.connect(c, fc)
	return true
}

// acceptHandshake performs a handshake and returns the client, or nil if there is
// none. The handshake's count ends in any case, also if an application hook panics or
// ends the goroutine.
func (h *Hub) acceptHandshake(w http.ResponseWriter, r *http.Request, count *addressCount) (c *Client) {
	defer func() {
		h.handshakes.Add(-1)
		if c == nil {
			h.connectionDone(nil, count)
		}
	}()
	c, err := h.handshake(w, r)
	if err != nil {
		return nil
	}
	c.addressCount = count
	return c
}

// handshake writes a response, either 101 or a refusal, and returns the client.
func (h *Hub) handshake(w http.ResponseWriter, r *http.Request) (*Client, error) {
	c, agreed, err := h.checkHandshake(r)
	if err != nil {
		h.writeRefusal(w, r, err)
		return nil, err
	}
	added := false
	defer func() {
		if !added { // also if a middleware's writer panics
			h.ids.free(c)
		}
	}()
	if err := h.refusal(); err != nil { // shutdown or a drain may have begun while a hook ran
		h.writeRefusal(w, r, err)
		return nil, err
	}
	if err := h.upgrade(w, r, c, agreed); err != nil {
		h.log(r.Context(), slog.LevelDebug, "handshake failed", peerText("address", h.addressText(r)), peerText("error", err.Error()))
		return nil, err
	}
	if added = h.addClient(c); !added { // CallbackTimeout passed while the response was written
		c.endRequest()
		c.conn.socket.Abort()
		return nil, ErrHubClosed
	}
	return c, nil
}

// checkRequest returns a refusal if r is not a valid handshake (RFC 6455 section 4.2.1).
func checkRequest(r *http.Request) error {
	switch {
	case !websocket.IsWebSocketUpgrade(r):
		return refuse(RefusedNotWebSocket, http.StatusUpgradeRequired, "this is a WebSocket endpoint")
	case !r.ProtoAtLeast(1, 1):
		return refuse(RefusedMalformed, http.StatusBadRequest, "a WebSocket handshake needs HTTP/1.1")
	case r.Method != http.MethodGet:
		return refuse(RefusedMalformed, http.StatusMethodNotAllowed, "a WebSocket handshake needs method GET")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0: // the body would be read as frames
		return refuse(RefusedMalformed, http.StatusBadRequest, "a WebSocket handshake has no body")
	case !wsproto.ValidVersion(r.Header["Sec-Websocket-Version"]):
		return refuse(RefusedMalformed, http.StatusBadRequest, "Sec-WebSocket-Version is not "+wsproto.Version)
	case !wsproto.ValidKey(r.Header.Get("Sec-Websocket-Key")):
		return refuse(RefusedMalformed, http.StatusBadRequest, "Sec-WebSocket-Key is not 16 bytes in base64")
	}
	return nil
}

// checkHandshake returns a new client, or the refusal of the handshake. With
// RefuseDuplicate the client's ID is reserved.
func (h *Hub) checkHandshake(r *http.Request) (*Client, agreement, error) {
	if err := checkRequest(r); err != nil {
		return nil, agreement{}, err
	}
	if err := h.checkHeaderSize(r); err != nil {
		return nil, agreement{}, err
	}
	if h.budget.exceeded() {
		return nil, agreement{}, refuse(RefusedMemory, http.StatusServiceUnavailable, "hub is at its memory budget")
	}
	if err := h.waitForRun(r.Context()); err != nil {
		return nil, agreement{}, err
	}
	allowed := false
	if !h.protect("CheckOrigin", "a handshake from", h.addressText(r), func() { allowed = h.config.originAllowed(r, h.upgrader.origins) }, nil) {
		return nil, agreement{}, errHook
	}
	if !allowed {
		return nil, agreement{}, h.refuseOrigin(r)
	}
	agreed, err := h.negotiate(r.Header)
	if err != nil {
		return nil, agreed, err
	}
	id, err := h.idFor(r)
	if err != nil {
		return nil, agreed, err
	}
	c := &Client{
		ID: id, hub: h, shard: h.shardOf(id),
		codec: h.codecs[agreed.codec], deflates: agreed.deflate,
		shardIndex: -1, heapIndex: -1, hooks: newMembershipHooks(&h.config),
	}
	c.conn.client, c.conn.held = c, true
	c.openKeys.Store(h.keys)
	c.handling.Store(true) // no silence is counted until the readPump reads
	c.conn.form = c.formFor(nil)
	if h.config.DuplicateID == RefuseDuplicate && h.ids.put(c, false) != nil {
		return nil, agreed, refuse(RefusedDuplicateID, http.StatusConflict, "client ID is in use")
	}
	return c, agreed, nil
}

// waitForRun waits for Run, at most HandshakeTimeout, because a server may accept
// connections a moment before Run is called.
func (h *Hub) waitForRun(ctx context.Context) error {
	select {
	case <-h.started:
		return nil
	default:
	}
	timer, warning := time.NewTimer(h.config.HandshakeTimeout), time.NewTimer(runWarning)
	defer timer.Stop()
	defer warning.Stop()
	for {
		select {
		case <-h.started:
			return nil
		case <-h.stop:
			return refuse(RefusedClosed, http.StatusServiceUnavailable, "hub closed")
		case <-timer.C:
			return refuse(RefusedNotRunning, http.StatusServiceUnavailable, "hub is not running")
		case <-ctx.Done():
			return refuse(RefusedNotRunning, http.StatusServiceUnavailable, "request ended")
		case <-warning.C:
			if h.runMissed.CompareAndSwap(false, true) {
				h.logger.Warningf("websocket: a handshake has waited for Hub.Run for %v: call it in another goroutine, as in \"go hub.Run(ctx)\"", runWarning)
			}
		}
	}
}

// runWarning is how long a handshake waits for Run before the hub logs a warning.
const runWarning = time.Second

// upgrade writes the response with status 101. It hijacks the connection before it
// calls gorilla: a hijack from inside gorilla needs the deepest stack, for which
// net/http's goroutine would have to copy its stack into a larger one. checkHandshake
// has already refused the requests that gorilla would refuse.
func (h *Hub) upgrade(w http.ResponseWriter, r *http.Request, c *Client, agreed agreement) error {
	set := w.Header()
	nc, rw, err := http.NewResponseController(w).Hijack() // finds the server's writer behind those of middleware
	if err != nil {
		err = refuseWriter(w, err)
		h.writeRefusal(w, r, err)
		return err
	}
	c.conn.Conn = nc
	c.conn.socket = transport.New(nc, &c.conn.tcp)
	if wrapper, ok := c.conn.socket.(net.Conn); ok {
		c.conn.Conn = wrapper
	}
	var header http.Header
	if agreed.named {
		header = h.upgrader.protocolHeaders[agreed.codec]
	}
	var in *reader
	defer func() {
		if in == nil {
			_ = c.conn.Conn.Close() // gorilla may have closed it
		}
	}()
	if rw.Reader.Buffered() > 0 { // RFC 6455 section 4.1: a client waits for the response
		err := refuse(RefusedMalformed, http.StatusBadRequest, "data was sent before the handshake was complete")
		h.refuseHijacked(nc, r, err)
		return err
	}
	if in, err = h.upgrader.newReader(&c.conn, w, withAgreement(r, agreed), rw.Writer, responseHeader(set, header)); err != nil {
		return err
	}
	in.begin(&c.conn)
	c.conn.upgraded.Store(true)
	c.connectedAt = h.clock()
	c.conn.lastRead.Store(c.connectedAt)
	c.keepRequest(r)
	return nil
}

// refuseWriter returns the refusal for a writer whose connection cannot be hijacked.
func refuseWriter(w http.ResponseWriter, err error) error {
	if !errors.Is(err, http.ErrNotSupported) {
		return refuse(RefusedWriter, http.StatusInternalServerError, "the connection cannot be taken over from %T: %v", w, err)
	}
	for range 100 { // a chain of wrappers may be a loop
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok || wrapper.Unwrap() == nil {
			break
		}
		w = wrapper.Unwrap()
	}
	return refuse(RefusedWriter, http.StatusInternalServerError, "the connection cannot be taken over: "+
		"%T has no method Hijack or Unwrap; it is the writer of middleware such as http.TimeoutHandler, which this route must not use", w)
}

// withAgreement returns r with the agreed extensions in place of those that the client
// offers, so that gorilla agrees to the same ones.
func withAgreement(r *http.Request, agreed agreement) *http.Request {
	if !agreed.deflate && len(r.Header["Sec-Websocket-Extensions"]) == 0 {
		return r
	}
	changed := new(http.Request)
	*changed = *r
	changed.Header = maps.Clone(r.Header)
	delete(changed.Header, "Sec-Websocket-Extensions")
	if agreed.deflate {
		changed.Header.Set("Sec-Websocket-Extensions", "permessage-deflate")
	}
	return changed
}

// hijacked makes gorilla use conn, which leads to the server's connection.
type hijacked struct {
	http.ResponseWriter
	conn *source
	rw   *bufio.ReadWriter
}

// Hijack implements http.Hijacker.
func (j *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) { return j.conn, j.rw, nil }

// connect registers the client and runs onConnect. Messages for the client are held
// until onConnect has returned.
func (h *Hub) connect(c *Client, fc Context) {
	h.connected.Add(1)
	if h.config.DuplicateID == ReplaceDuplicate {
		if old := h.ids.put(c, true); old != nil {
			old.replace()
		}
	}
	if !h.events.register(c) {
		h.ids.free(c) // put may have come after the end of the connection
	}
	if c.replaced.Load() {
		c.replace() // a newer client took the ID over before c was registered
	}
	defer func() {
		c.frameworkCtx.Store(nil)
		c.kept.values.recycled.Store(true) // the router recycles its contexts when the handler has returned
		h.events.unhold(c)
	}()
	if fc != nil {
		c.frameworkCtx.Store(&fc)
	}
	if h.onConnect != nil {
		h.runCallback(c, callingConnect, func() { h.onConnect(c) })
	}
}

// replace closes c after a newer client has taken over its ID.
func (c *Client) replace() {
	c.replaced.Store(true)
	_ = c.Close(CloseReplaced, "connected again elsewhere") // an unregistered client is closed by its own connect
}
