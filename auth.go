package websocket

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// BearerToken returns the credentials that a handshake carries: an Authorization
// header of type Bearer, or, since browsers cannot set headers there, an entry
// "bearer.<token>" among the subprotocols offered, its token in unpadded
// base64url. It is for middleware and Config.ClientID; the hub itself neither
// checks such an entry nor ever echoes it.
func BearerToken(r *http.Request) (string, bool) {
	const scheme = "bearer "
	if a := r.Header.Get("Authorization"); len(a) > len(scheme) && strings.EqualFold(a[:len(scheme)], scheme) {
		return strings.TrimSpace(a[len(scheme):]), true
	}
	for _, name := range wsproto.ListOf(r.Header["Sec-Websocket-Protocol"]) {
		if encoded, ok := strings.CutPrefix(name, bearerPrefix); ok {
			token, err := base64.RawURLEncoding.DecodeString(encoded)
			return string(token), err == nil && len(token) > 0
		}
	}
	return "", false
}

func (h *Hub) idFor(r *http.Request) (string, error) {
	if h.config.ClientID == nil {
		var b [16]byte
		_, _ = rand.Read(b[:]) // never fails
		return hex.EncodeToString(b[:]), nil
	}
	var id string
	var err error
	if !h.protect("ClientID", "a handshake from", r.RemoteAddr, func() { id, err = h.config.ClientID(r) }, nil) {
		return "", errHook
	}
	if err == nil {
		err = checkName(id, maxClientID)
	}
	if err != nil {
		h.logger.Infof("websocket: handshake from %s refused: %v", r.RemoteAddr, err)
		return "", refuse(http.StatusUnauthorized, "not authenticated")
	}
	return id, nil
}

// maxClientID bounds client IDs, in bytes.
const maxClientID = 255

// bearerPrefix marks a subprotocol offer that carries credentials, which is the
// only way for browsers to send any with the handshake. It is never echoed.
const bearerPrefix = "bearer."
