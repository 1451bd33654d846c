package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/examples/chat/web"
	"github.com/maoxiaoyue/hypgo-websocket/js"
)

// handler serves the page, the JavaScript client, keys and the hub.
func (c *chat) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", c.hub.Handler())
	mux.Handle("GET /hub.js", js.Handler())
	// Only the page's own scripts may ask for keys.
	mux.Handle("POST /api/key", http.NewCrossOriginProtection().Handler(http.HandlerFunc(c.issueKey)))
	mux.Handle("GET /", guarded(http.FileServerFS(web.Files)))
	return mux
}

// guarded lets the page load nothing but its own files.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// clientID refuses (401) a tab that shows a ticket that is not good. All others
// get a random ID: names are for people and prove nothing.
func (c *chat) clientID(r *http.Request) (string, error) {
	id := rand.Text()
	if ticket, ok := websocket.BearerToken(r); ok && !c.keys.redeem(ticket, id) {
		return "", errTicket
	}
	return id, nil
}

// sealKeys are one connection's own. They travel as safely as the page itself:
// over https, or not at all beyond this machine.
type sealKeys struct {
	AES  []byte `json:"aes"`
	HMAC []byte `json:"hmac"`
}

func (c *chat) issueKey(w http.ResponseWriter, _ *http.Request) {
	ticket, keys, ok := c.keys.issue()
	if !ok {
		http.Error(w, "too many keys wait for their connection", http.StatusServiceUnavailable)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	// A client that has gone meanwhile is none that needs a key.
	_ = json.NewEncoder(w).Encode(struct {
		Ticket string `json:"ticket"`
		sealKeys
	}{ticket, keys})
}

const (
	ticketLife  = time.Minute
	mostTickets = 10_000
)

// keyring holds keys from when a page fetches them until its connection shows the
// ticket, which is good for one connection. The zero value is empty.
type keyring struct {
	mu     sync.Mutex
	issued map[string]issuedKeys
}

type issuedKeys struct {
	sealKeys
	expires time.Time
}

func (k *keyring) issue() (string, sealKeys, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if len(k.issued) >= mostTickets {
		for ticket, keys := range k.issued {
			if now.After(keys.expires) {
				delete(k.issued, ticket)
			}
		}
		if len(k.issued) >= mostTickets {
			return "", sealKeys{}, false
		}
	}
	if k.issued == nil {
		k.issued = make(map[string]issuedKeys)
	}
	keys := sealKeys{AES: make([]byte, 32), HMAC: make([]byte, 32)}
	_, _ = rand.Read(keys.AES) // never fails
	_, _ = rand.Read(keys.HMAC)
	ticket := rand.Text()
	k.issued[ticket] = issuedKeys{keys, now.Add(ticketLife)}
	return ticket, keys, true
}

// redeem turns a ticket, once, into the keys that take returns for a client's ID.
func (k *keyring) redeem(ticket, id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, ok := k.issued[ticket]
	delete(k.issued, ticket)
	if !ok || !time.Now().Before(keys.expires) {
		return false
	}
	k.issued[id] = keys
	return true
}

// take returns a client's keys, once.
func (k *keyring) take(id string) (sealKeys, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, ok := k.issued[id]
	delete(k.issued, id)
	return keys.sealKeys, ok && time.Now().Before(keys.expires)
}
