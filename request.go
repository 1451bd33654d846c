package websocket

import (
	"context"
	"net/http"
	"strings"
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

// keepRequest stores a copy of the handshake's request for Client.Request. The copy has
// no body, and its context does not end with the server's handler but with the
// connection. It counts against the memory budget until endRequest is called.
func (c *Client) keepRequest(r *http.Request) {
	ctx, cancel := context.WithCancel(&keptContext{values: r.Context()})
	kept := r.WithContext(ctx)
	kept.Body = http.NoBody
	kept.GetBody = nil
	kept.Response = nil
	kept.MultipartForm = nil
	kept.Trailer = nil
	var size int64
	kept.Header, size = compactHeader(r.Header)
	size += int64(requestCost + 2*len(r.RequestURI) + len(r.Host)) // the URL repeats the request's
	c.request, c.cancelRequest = kept, cancel
	c.requestCharge.Store(uint32(size))
	c.charge(size) // last, because reclaim may end a client that holds much
}

// endRequest ends the context of the request. Client.Close and the connection both call it.
func (c *Client) endRequest() {
	c.cancelRequest()
	c.charge(-int64(c.requestCharge.Swap(0)))
}

// compactHeader returns a copy of header without handshakeFields, and its size. All values
// are parts of one string, and share no memory with header.
func compactHeader(header http.Header) (http.Header, int64) {
	fields, values, size := 0, 0, 0
	for name, vs := range header {
		if handshakeFields[name] {
			continue
		}
		fields++
		for _, v := range vs {
			values++
			size += len(v)
		}
	}
	var text strings.Builder
	text.Grow(size)
	compact := make(http.Header, fields)
	all := make([]string, 0, values)
	for name, vs := range header {
		if handshakeFields[name] {
			continue
		}
		from := len(all)
		for _, v := range vs {
			at := text.Len()
			text.WriteString(v)
			all = append(all, text.String()[at:])
		}
		compact[name] = all[from:len(all):len(all)]
		size += len(name)
	}
	return compact, int64(size + fieldCost*values)
}
