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

// sealKeys are a connection's own. They travel as safely as the page itself:
// over https, or not at all beyond this machine.
type sealKeys struct {
	AES  []byte `json:"aes"`
	HMAC []byte `json:"hmac"`
}

// ticket holds the keys themselves, encrypted, because the page may fetch it from
// one node and show it to another. It is good until it expires.
type ticket struct {
	sealKeys
	Expires time.Time `json:"expires"`
}

func (n *node) issueKey(w http.ResponseWriter, _ *http.Request) {
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
	// A client that has gone meanwhile is none that needs a key.
	_ = json.NewEncoder(w).Encode(struct {
		Ticket string `json:"ticket"`
		sealKeys
	}{base64.RawURLEncoding.EncodeToString(sealed), keys})
}

// open reads a ticket of any node.
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
