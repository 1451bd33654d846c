package websocket

import (
	"cmp"
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// debugState is what DebugHandler shows of a hub.
type debugState struct {
	Time    time.Time     `json:"time"`
	Health  Health        `json:"health"`
	Stats   Stats         `json:"stats"`
	Slow    []debugClient `json:"slow_clients"`
	Matches []debugClient `json:"matches,omitempty"`
	// Channels and Rooms are the largest ones.
	Channels []debugTopic `json:"channels"`
	Rooms    []debugTopic `json:"rooms"`

	search string
}

type debugClient struct {
	ID      string      `json:"id"`
	User    string      `json:"user,omitempty"`
	Backlog BacklogInfo `json:"backlog"`
}

type debugTopic struct {
	Name    string `json:"name"`
	Members int    `json:"members"`
}

// debugRows is the number of clients and topics in each list of DebugHandler.
const debugRows = 50

// maxSearch is the maximum length of a search in bytes. Client IDs are not longer.
const maxSearch = maxClientID

// DebugHandler returns a handler with a page for operators, which needs no JavaScript: the
// hub's statistics and health, the 50 clients with the largest backlogs, the 50 largest
// channels and rooms, a search by client ID, and what Inspect says about one client. With
// ?format=json, or if the request accepts JSON and no HTML, it responds with the same in JSON.
// ?search= lists up to 50 clients whose ID contains a text, and ?client= describes one; it
// responds with 404 if that is not connected to this hub.
//
// Mount it only behind authentication, or on an address that only operators reach: it shows
// client IDs, users, addresses and the names of topics. It shows no keys, payloads, header
// fields or URLs, and it changes nothing. It allows GET and HEAD. It may be mounted at any
// path and used at any time, also before Run and after shutdown. One request at a time looks
// at all clients and topics, without holding up publishing.
func (h *Hub) DebugHandler() http.Handler {
	var scan sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Cache-Control", "no-store")
		header.Set("Content-Security-Policy", debugPolicy())
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		header.Set("Referrer-Policy", "no-referrer") // addresses of the page have client IDs
		header.Set("Vary", "Accept")
		header.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			header.Set("Allow", "GET, HEAD")
			http.Error(w, "the method is not GET or HEAD", http.StatusMethodNotAllowed)
			return
		}
		query, status := r.URL.Query(), http.StatusOK
		var value any
		var page func() []byte
		if query.Has("client") {
			id := query.Get("client")
			info, err := h.Inspect(id)
			value, page = info, func() []byte { return clientPage(&info) }
			if err != nil {
				status = http.StatusNotFound
				value, page = map[string]string{"error": err.Error()}, func() []byte { return missingPage(id) }
			}
		} else {
			scan.Lock()
			state := h.debugState(r.Context(), query.Get("search"))
			scan.Unlock()
			value, page = state, func() []byte { return hubPage(state) }
		}
		var body []byte
		if wantsJSON(r, query.Get("format")) {
			header.Set("Content-Type", "application/json")
			body, _ = json.MarshalIndent(value, "", "  ") // its types always have an encoding
		} else {
			header.Set("Content-Type", "text/html; charset=utf-8")
			body = page()
		}
		w.WriteHeader(status)
		if r.Method == http.MethodGet {
			_, _ = w.Write(body) // nobody is there to tell of an error
		}
	})
}

// debugPolicy allows nothing but the page's own style and form.
var debugPolicy = sync.OnceValue(func() string {
	sum := sha256.Sum256([]byte(debugStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
})

// wantsJSON reports whether a request asks for JSON.
func wantsJSON(r *http.Request, format string) bool {
	if format != "" {
		return format == "json"
	}
	accept := strings.Join(r.Header.Values("Accept"), ",")
	return strings.Contains(accept, "application/json") && !strings.Contains(accept, "text/html")
}

// debugState looks at all clients and topics. It stops when ctx is done.
func (h *Hub) debugState(ctx context.Context, search string) *debugState {
	if len(search) > maxSearch {
		search = search[:maxSearch]
	}
	state := &debugState{Time: time.Now().Round(0), Health: h.Health(), Stats: h.Stats(), search: search}
	slow := largest[debugClient]{size: func(c debugClient) int64 { return c.Backlog.Bytes }}
	for c := range h.Clients() {
		if ctx.Err() != nil {
			return state
		}
		matches := search != "" && len(state.Matches) < debugRows && strings.Contains(c.ID, search)
		if c.conn.progressAt.Load() == 0 && !matches {
			continue // nothing is queued
		}
		c.conn.mu.Lock()
		backlog := c.conn.backlogInfo()
		c.conn.mu.Unlock()
		client := debugClient{c.ID, c.User(), backlog}
		if matches {
			state.Matches = append(state.Matches, client)
		}
		if backlog.Bytes > 0 {
			slow.add(client)
		}
	}
	state.Slow = slow.sorted()
	state.Channels = h.largestTopics(ctx, ChannelTopic)
	state.Rooms = h.largestTopics(ctx, RoomTopic)
	return state
}

func (h *Hub) largestTopics(ctx context.Context, kind TopicKind) []debugTopic {
	top := largest[debugTopic]{size: func(t debugTopic) int64 { return int64(t.Members) }}
	for name, members := range h.events.eachTopic(kind) {
		if ctx.Err() != nil {
			break
		}
		top.add(debugTopic{name, members})
	}
	return top.sorted()
}

// largest keeps the debugRows largest elements, in a heap whose first element is the
// smallest.
type largest[T any] struct {
	size func(T) int64
	all  []T
}

func (l *largest[T]) add(element T) {
	switch {
	case len(l.all) < debugRows:
		heap.Push(l, element)
	case l.size(element) > l.size(l.all[0]):
		l.all[0] = element
		heap.Fix(l, 0)
	}
}

// sorted returns the elements, the largest first. It is not nil, which JSON has another word for.
func (l *largest[T]) sorted() []T {
	slices.SortFunc(l.all, func(a, b T) int { return cmp.Compare(l.size(b), l.size(a)) })
	return append([]T{}, l.all...)
}

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (l *largest[T]) Len() int           { return len(l.all) }
func (l *largest[T]) Less(i, j int) bool { return l.size(l.all[i]) < l.size(l.all[j]) }
func (l *largest[T]) Swap(i, j int)      { l.all[i], l.all[j] = l.all[j], l.all[i] }
func (l *largest[T]) Push(x any)         { l.all = append(l.all, x.(T)) }
func (l *largest[T]) Pop() any           { panic("websocket: not reached") }
