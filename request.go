package websocket

import (
	"context"
	"encoding/binary"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// maxHeaderFields is the maximum number of header fields of a handshake. A browser sends
// about 20.
const maxHeaderFields = 100

// fieldOverhead is the number of bytes that a header field has on the wire besides its
// name and value.
const fieldOverhead = len(": \r\n")

// checkHeaderSize refuses a handshake whose request line and header are too large. The
// server of net/http allows 1 MiB, of which the hub would keep what Client.Request returns.
func (h *Hub) checkHeaderSize(r *http.Request) error {
	size, fields := len(r.RequestURI)+len(r.Host), 0
	for name, values := range r.Header {
		fields += len(values)
		for _, v := range values {
			size += len(name) + len(v) + fieldOverhead
		}
	}
	switch {
	case size > h.config.MaxHeaderBytes:
		return refuse(RefusedLimit, http.StatusRequestHeaderFieldsTooLarge, "request header is larger than %d bytes", h.config.MaxHeaderBytes)
	case fields > maxHeaderFields:
		return refuse(RefusedLimit, http.StatusRequestHeaderFieldsTooLarge, "request header has more than %d fields", maxHeaderFields)
	}
	return nil
}

// handshakeFields are the fields that only the handshake needs (RFC 6455 section 4.1) and
// that keepRequest leaves out. Sec-WebSocket-Protocol stays, because it may have a token.
var handshakeFields = map[string]bool{
	"Connection": true, "Upgrade": true,
	"Sec-Websocket-Key": true, "Sec-Websocket-Version": true, "Sec-Websocket-Extensions": true,
}

// keptRequest is a handshake's request in a compact form, and the client's context.
type keptRequest struct {
	base   *http.Request // without Header, and without URL if that follows from RequestURI
	header string        // see packHeader
	values keptContext
	ctx    atomic.Pointer[clientContext] // made when it is asked for
	ended  atomic.Bool                   // endRequest has been called
	recent atomic.Pointer[http.Request]  // the result of Client.Request in a callback; dropped when the connection hibernates
}

// clientContext is the context of Client.Context.
type clientContext struct {
	context.Context
	cancel context.CancelFunc
}

// keepRequest keeps the handshake's request for Client.Request, without its body. It counts
// against the memory budget until endRequest is called.
func (c *Client) keepRequest(r *http.Request) {
	kept := &c.kept
	kept.values.values = r.Context()
	base := r.WithContext(&kept.values)
	base.Body = http.NoBody
	base.GetBody = nil
	base.Response = nil
	base.MultipartForm = nil
	base.Trailer = nil
	base.Header = nil
	if hasPlainURL(r) {
		base.URL = nil
	}
	kept.base, kept.header = base, packHeader(r.Header)
	size := kept.size()
	c.requestCharge.Store(uint32(size))
	c.charge(size) // last, because reclaim may end a client that holds much
}

// size returns the charge for the request.
func (k *keptRequest) size() int64 {
	return int64(requestCost + 2*len(k.base.RequestURI) + len(k.base.Host) + len(k.header)) // an URL that is kept repeats the request's
}

// hasPlainURL reports whether the URL of r follows from its RequestURI, and nothing in it is
// escaped. Middleware may have changed it.
func hasPlainURL(r *http.Request) bool {
	u := r.URL
	path, query, found := strings.Cut(r.RequestURI, "?")
	return strings.HasPrefix(path, "/") && !strings.Contains(path, "%") &&
		*u == url.URL{Path: path, RawQuery: query, ForceQuery: found && query == ""}
}

// request returns the request with its header and URL.
func (k *keptRequest) request() *http.Request {
	r := k.base.WithContext(k.context())
	r.Header = unpackHeader(k.header)
	if r.URL == nil {
		r.URL, _ = url.ParseRequestURI(r.RequestURI) // never fails, see hasPlainURL
	}
	return r
}

// context returns the context that endRequest cancels.
func (k *keptRequest) context() context.Context {
	if ctx := k.ctx.Load(); ctx != nil {
		if k.ended.Load() {
			ctx.cancel() // endRequest may be about to
		}
		return ctx
	}
	ctx := &clientContext{}
	ctx.Context, ctx.cancel = context.WithCancel(&k.values)
	if !k.ctx.CompareAndSwap(nil, ctx) {
		ctx.cancel()
		return k.ctx.Load()
	}
	if k.ended.Load() { // endRequest may have come before the swap
		ctx.cancel()
	}
	return ctx
}

// cacheRequest keeps r for later calls of Request, until the connection hibernates or ends.
// It counts against the memory budget.
func (c *Client) cacheRequest(r *http.Request) {
	if c.kept.recent.CompareAndSwap(nil, r) {
		c.charge(cachedSize(r))
		if c.kept.ended.Load() {
			c.dropRequest()
		}
	}
}

// dropRequest drops the request that cacheRequest keeps.
func (c *Client) dropRequest() {
	if r := c.kept.recent.Swap(nil); r != nil {
		c.charge(-cachedSize(r))
	}
}

// cachedSize returns the charge of cacheRequest. The texts are those of the compact form.
func cachedSize(r *http.Request) int64 {
	values := 0
	for _, vs := range r.Header {
		values += len(vs)
	}
	return int64(requestCost + fieldCost*values)
}

// endRequest ends the client's context. Client.Close and the connection both call it.
func (c *Client) endRequest() {
	c.kept.ended.Store(true)
	if ctx := c.kept.ctx.Load(); ctx != nil {
		ctx.cancel()
	}
	c.dropRequest()
	c.charge(-int64(c.requestCharge.Swap(0)))
}

// packHeader returns header without handshakeFields in one string: for each value the name
// and the value, each behind its length.
func packHeader(header http.Header) string {
	size := 0
	for name, values := range header {
		if handshakeFields[name] {
			continue
		}
		for _, v := range values {
			size += len(name) + len(v) + 2*binary.MaxVarintLen16
		}
	}
	if size == 0 {
		return ""
	}
	buf := getBuffer(size)
	defer putBuffer(buf)
	for name, values := range header {
		if handshakeFields[name] {
			continue
		}
		for _, v := range values {
			for _, s := range [...]string{name, v} {
				buf.b = binary.AppendUvarint(buf.b, uint64(len(s)))
				buf.b = append(buf.b, s...)
			}
		}
	}
	return string(buf.b)
}

// unpackHeader returns the header that packHeader has packed.
func unpackHeader(packed string) http.Header {
	header := http.Header{}
	next := func() string {
		size, n := uvarint(packed)
		s := packed[n : n+size]
		packed = packed[n+size:]
		return s
	}
	for packed != "" {
		name := next()
		header[name] = append(header[name], next())
	}
	return header
}

// uvarint is binary.Uvarint for a string that has one.
func uvarint(s string) (value, n int) {
	for shift := 0; ; shift += 7 {
		b := s[n]
		value |= int(b&0x7f) << shift
		n++
		if b < 0x80 {
			return value, n
		}
	}
}
