package main

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/examples/chat/web"
	"github.com/maoxiaoyue/hypgo-websocket/js"
)

// handler returns a handler for the page, the JavaScript client, keys and the hub.
func (c *chat) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /ws", c.hub.Handler())
	mux.Handle("GET /live", c.hub.LiveHandler())
	mux.Handle("GET /ready", c.hub.ReadyHandler())
	mux.Handle("GET /hub.js", js.Handler())
	// Scripts of other sites cannot fetch keys.
	mux.Handle("POST /api/key", http.NewCrossOriginProtection().Handler(http.HandlerFunc(c.issueKey)))
	mux.Handle("GET /", guarded(http.FileServerFS(web.Files)))
	return mux
}

// guarded adds headers that allow the page to load only its own files.
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

// clientID refuses the handshake (401) of a tab with an invalid ticket. The ID of a tab
// is the hash of a secret that its page keeps, so the tab has the same ID when it connects
// again, and no other tab can have it. A name proves nothing.
func (c *chat) clientID(r *http.Request) (string, error) {
	if ticket, ok := websocket.BearerToken(r); ok && !c.keys.redeem(ticket) {
		return "", errTicket
	}
	secret := r.URL.Query().Get("tab")
	if secret == "" {
		return rand.Text(), nil
	}
	hash := sha256.Sum256([]byte(secret))
	return base64.RawURLEncoding.EncodeToString(hash[:16]), nil
}

// sealKeys are the keys of one connection. The page fetches them over the connection
// that also loads the page, so serve it over https, or on this machine only.
type sealKeys struct {
	AES  []byte `json:"aes"`
	HMAC []byte `json:"hmac"`
}

// issueKey responds with new keys and with the ticket for them.
func (c *chat) issueKey(w http.ResponseWriter, _ *http.Request) {
	ticket, keys, ok := c.keys.issue()
	if !ok {
		http.Error(w, "too many unused keys", http.StatusServiceUnavailable)
		return
	}
	header := w.Header()
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	// An error means that the client has disconnected; its ticket expires.
	_ = json.NewEncoder(w).Encode(struct {
		Ticket string `json:"ticket"`
		sealKeys
	}{ticket, keys})
}

const (
	ticketLife  = time.Minute
	mostTickets = 10_000
)

// keyring holds the keys that pages have fetched, until OnConnect takes them. A
// ticket is valid for one connection and for ticketLife. The zero value is empty.
type keyring struct {
	mu     sync.Mutex
	issued map[string]issuedKeys // by ticket
}

type issuedKeys struct {
	sealKeys
	expires  time.Time
	redeemed bool // a handshake has used the ticket
}

// issue returns new keys and their ticket. It returns false if too many keys are
// unused.
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
	k.issued[ticket] = issuedKeys{sealKeys: keys, expires: now.Add(ticketLife)}
	return ticket, keys, true
}

// redeem uses a ticket. It returns false if the ticket is unknown, used or expired.
func (k *keyring) redeem(ticket string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, ok := k.issued[ticket]
	if !ok || keys.redeemed || !time.Now().Before(keys.expires) {
		return false
	}
	keys.redeemed = true
	k.issued[ticket] = keys
	return true
}

// take removes and returns the keys of a ticket.
func (k *keyring) take(ticket string) (sealKeys, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	keys, ok := k.issued[ticket]
	delete(k.issued, ticket)
	return keys.sealKeys, ok && time.Now().Before(keys.expires)
}
