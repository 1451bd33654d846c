package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

const ticketLife = time.Minute

var errTicket = errors.New("unknown or expired ticket")

// sealKeys are the keys of one connection. The page fetches them over the connection
// that also loads the page, so serve it over https, or on this machine only.
type sealKeys struct {
	AES  []byte `json:"aes"`
	HMAC []byte `json:"hmac"`
}

// ticket contains the keys. The page receives it encrypted with the secret of all
// nodes, because it may fetch the ticket from one node and connect to another. A
// ticket can be used any number of times until it expires.
type ticket struct {
	sealKeys
	Expires time.Time `json:"expires"`
}

// issueKey responds with new keys and with the ticket for them. Pages of other nodes may
// fetch them, because their own node may have ended.
func (n *node) issueKey(w http.ResponseWriter, r *http.Request) {
	if !n.checkOrigin(r) {
		http.Error(w, "not a page of this cluster", http.StatusForbidden)
		return
	}
	keys := sealKeys{AES: make([]byte, 32), HMAC: make([]byte, 32)}
	_, _ = rand.Read(keys.AES) // never fails
	_, _ = rand.Read(keys.HMAC)
	sealed, err := websocket.Encrypt(encode(ticket{keys, time.Now().Add(ticketLife)}), n.secret)
	if err != nil {
		http.Error(w, "no keys", http.StatusInternalServerError)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" {
		header.Set("Access-Control-Allow-Origin", origin)
	}
	// An error means that the client has disconnected; its ticket expires.
	_ = json.NewEncoder(w).Encode(struct {
		Ticket string `json:"ticket"`
		sealKeys
	}{base64.RawURLEncoding.EncodeToString(sealed), keys})
}

// open returns the keys in a ticket of any node.
func (n *node) open(text string) (sealKeys, error) {
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return sealKeys{}, errTicket
	}
	plain, err := websocket.Decrypt(sealed, n.secret)
	if err != nil {
		return sealKeys{}, errTicket
	}
	var t ticket
	if err := json.Unmarshal(plain, &t); err != nil || time.Now().After(t.Expires) {
		return sealKeys{}, errTicket
	}
	return t.sealKeys, nil
}
