package websocket

import (
	"net/http"
	"slices"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// offer is what was agreed with the client.
type agreement struct {
	codec   int  // in the hub's list
	named   bool // it is the client's choice, to be echoed
	deflate bool
}

// negotiate picks the first codec of the client's list that the hub speaks, and
// permessage-deflate if it is offered in a way that we honour.
func (h *Hub) negotiate(header http.Header) (agreement, error) {
	o := agreement{deflate: h.config.Compression.Enabled && wsproto.DeflateOffered(header["Sec-Websocket-Extensions"])}
	none := true
	for _, name := range wsproto.ListOf(header["Sec-Websocket-Protocol"]) {
		if strings.HasPrefix(name, bearerPrefix) {
			continue
		}
		none = false
		if i := h.codecNamed(name); i >= 0 {
			o.codec, o.named = i, true
			return o, nil
		}
	}
	if !none {
		return o, refuse(http.StatusBadRequest, "no common subprotocol; spoken are: %s", strings.Join(h.config.Subprotocols, ", "))
	}
	o.codec = h.codecNamed(h.config.Subprotocols[0])
	if i := h.codecNamed("json"); i >= 0 {
		o.codec = i
	}
	return o, nil
}

// codecNamed returns the index of a codec that clients may ask for, or -1.
func (h *Hub) codecNamed(name string) int {
	if !slices.Contains(h.config.Subprotocols, name) {
		return -1
	}
	return slices.IndexFunc(h.codecs, func(c Codec) bool { return c.Name() == name })
}
