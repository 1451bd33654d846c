package websocket

import (
	"net/http"
	"slices"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// agreement is the result of a handshake's negotiation.
type agreement struct {
	codec   int  // index in Hub.codecs
	named   bool // the client offered the codec, so the response must name it
	deflate bool // permessage-deflate
}

// negotiate chooses the first codec of the client's list that the hub supports (RFC
// 6455 section 4.2.2). A client that offers no codec gets JSON, or the first of
// Config.Subprotocols if JSON is not among them. A client that offers only unknown
// codecs is refused. permessage-deflate (RFC 7692) is agreed if compression is enabled
// and one of the client's offers can be accepted.
func (h *Hub) negotiate(header http.Header) (agreement, error) {
	agreed := agreement{deflate: h.config.Compression.Enabled && wsproto.DeflateOffered(header["Sec-Websocket-Extensions"])}
	offered := false
	for _, name := range wsproto.ListOf(header["Sec-Websocket-Protocol"]) {
		if strings.HasPrefix(name, bearerPrefix) {
			continue
		}
		offered = true
		if i := h.codecNamed(name); i >= 0 {
			agreed.codec, agreed.named = i, true
			return agreed, nil
		}
	}
	if offered {
		return agreed, refuse(RefusedCodec, http.StatusBadRequest, "no common subprotocol; the hub supports: %s", strings.Join(h.config.Subprotocols, ", "))
	}
	agreed.codec = h.codecNamed(h.config.Subprotocols[0])
	if i := h.codecNamed("json"); i >= 0 {
		agreed.codec = i
	}
	return agreed, nil
}

// codecNamed returns the index of a codec that Config.Subprotocols names, or -1.
func (h *Hub) codecNamed(name string) int {
	if !slices.Contains(h.config.Subprotocols, name) {
		return -1
	}
	return slices.IndexFunc(h.codecs, func(c *guardedCodec) bool { return c.Name() == name })
}
