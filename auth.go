package websocket

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/maoxiaoyue/hypgo-websocket/internal/wsproto"
)

// BearerToken returns the token of a handshake, and whether there is one. It reads an
// Authorization header of type Bearer (RFC 6750). Browsers cannot set headers in
// handshakes, so it otherwise reads an offered subprotocol "bearer.<token>", with the
// token in unpadded base64url.
//
// Middleware and Config.ClientID use it. The hub does not check the token, and never
// selects the subprotocol that contains it. BearerToken may be called from any
// goroutine.
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

// idFor returns the ID of a new client, or the refusal of its handshake.
func (h *Hub) idFor(r *http.Request) (string, error) {
	if h.config.ClientID == nil {
		return randomID(), nil
	}
	var id string
	var err error
	if !h.protect("ClientID", "a handshake from", h.addressText(r), func() { id, err = h.config.ClientID(r) }, nil) {
		return "", errHook
	}
	if err == nil && id == "" {
		return randomID(), nil
	}
	if err == nil {
		if problem := nameProblem(id, maxClientID); problem != "" {
			err = errors.New("websocket: Config.ClientID returned an invalid ID: " + problem)
		}
	}
	if err != nil {
		return "", refusalOf(err)
	}
	return id, nil
}

// randomID returns 128 random bits in hexadecimal.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ClientChosenID is a hook for Config.ClientID that lets clients choose their IDs, as HypGo
// does. It returns the header X-Client-ID of the handshake or, if that is empty, the
// parameter client_id of its URL. Clients that send neither get random IDs.
//
// It trusts the clients: an ID proves nothing, because anyone may send it. With
// ReplaceDuplicate, anyone who knows the ID of a client can close that client and receive
// the messages for its ID. With RefuseDuplicate, anyone can occupy an ID, and a client
// that reconnects gets status 409 until the hub has noticed the end of its earlier
// connection. Use an ID from authentication where that matters. ClientChosenID may be
// called from any goroutine.
func ClientChosenID(r *http.Request) (string, error) {
	if id := r.Header.Get("X-Client-ID"); id != "" {
		return id, nil
	}
	return r.URL.Query().Get("client_id"), nil
}

// maxClientID is the maximum length of a client ID in bytes.
const maxClientID = 255

// bearerPrefix begins an offered subprotocol that contains a token. The hub never
// selects such a subprotocol, so the token does not appear in the response.
const bearerPrefix = "bearer."
