package hubtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
)

// Link is the network between the hub and one client, over all of its connections. Its
// methods inject faults. They may be called from any goroutine.
type Link struct {
	hub    *Hub
	id     string // of all clients; "" means a number for each
	remote net.Addr
	window int

	mu     sync.Mutex // guards the fields below
	conn   *testnet.Conn
	gone   []*testnet.Conn // after Vanish
	rate   int
	isDown bool
	status int // refuses handshakes; 0 for none
	last   *arrival
}

// defaultWindow is the number of bytes that a connection holds in each direction.
const defaultWindow = 64 << 10

// NewLink returns a link for a client that this package does not make, such as one of
// package client, of gorilla's Dialer or an http.Transport, through its function for dialing:
//
//	c, err := client.Dial(ctx, "ws://hub/", client.Options{NetDial: h.NewLink().Dial})
func (h *Hub) NewLink() *Link { return h.newLink(Options{}) }

func (h *Hub) newLink(o Options) *Link {
	l := &Link{hub: h, id: o.ID, window: o.Window, rate: -1}
	if l.window == 0 {
		l.window = defaultWindow
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links = append(h.links, l)
	n := len(h.links)
	l.remote = address(o.RemoteAddr)
	if o.RemoteAddr == "" {
		l.remote = address(fmt.Sprint("192.0.2.1:", 1024+n%60_000)) // an address for documentation (RFC 5737)
	}
	return l
}

// address is a net.Addr as the hub sees it.
type address string

// Network implements net.Addr.
func (address) Network() string { return "tcp" }

// String implements net.Addr.
func (a address) String() string { return string(a) }

var (
	errLinkDown = errors.New("hubtest: network is unreachable: the link is down")
	errNoHub    = errors.New("hubtest: connection refused: the hub has been stopped")
)

// Dial opens a connection to the hub. It ignores the network and the address. The connection
// counts as the link's current one from then on. Dial fails while the link is down, and after
// Hub.Stop.
func (l *Link) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.isDown {
		l.mu.Unlock()
		return nil, errLinkDown
	}
	server, client := testnet.Pair(l.window)
	server.SetRemoteAddr(l.remote)
	client.SetReadRate(l.rate)
	l.conn = client
	a := &arrival{link: l, id: l.id, served: make(chan struct{})}
	l.last = a
	l.mu.Unlock()
	if a.id == "" {
		a.id = l.hub.nextID()
	}
	if !l.hub.serve(server, a) {
		return nil, errNoHub
	}
	return client, nil
}

// arrival returns that of the latest connection.
func (l *Link) arrival() *arrival {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// current reports whether there is a connection that has not vanished.
func (l *Link) current() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn != nil
}

// SetReadRate limits how many bytes per second the client reads, on this connection and later
// ones. 0 means nothing at all; then the client answers no pings either, and does not notice
// the end of the connection. A negative rate means no limit, the default. Unread bytes fill the window
// of the connection first, and then the hub's backlog.
func (l *Link) SetReadRate(bytesPerSecond int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rate = bytesPerSecond
	if l.conn != nil {
		l.conn.SetReadRate(bytesPerSecond)
	}
}

// Cut resets the current connection. Bytes under way are lost.
func (l *Link) Cut() { l.with((*testnet.Conn).Reset) }

// CutAfter resets the current connection as soon as the client has read n more bytes, so
// perhaps in the middle of a frame.
func (l *Link) CutAfter(n int) { l.with(func(c *testnet.Conn) { c.ResetAfterRead(n) }) }

// CutAfterSending resets the current connection as soon as the hub has read n more bytes from
// the client, so perhaps in the middle of a frame.
func (l *Link) CutAfterSending(n int) { l.with(func(c *testnet.Conn) { c.ResetAfterWrite(n) }) }

// Vanish makes the current connection half-open, like a cable that is pulled out or a phone
// that leaves its network: nothing arrives on either side any more, also not the end of the
// connection. A new connection works.
func (l *Link) Vanish() {
	l.with(func(c *testnet.Conn) {
		c.Silence()
		l.gone, l.conn = append(l.gone, c), nil
	})
}

// with calls f with the current connection, if there is one. The link is locked.
func (l *Link) with(f func(*testnet.Conn)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		f(l.conn)
	}
}

// Down cuts the current connection, and makes Dial fail until Up is called.
func (l *Link) Down() {
	l.Cut()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isDown = true
}

// Up ends Down.
func (l *Link) Up() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isDown = false
}

// Refuse makes a proxy on the link respond to handshakes with a status, such as 503, in place
// of the hub. 0 ends that. The connection that is open stays so.
func (l *Link) Refuse(status int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status = status
}

func (l *Link) refusal() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.status
}

// cutAll resets all connections for good. Dial fails already, because the hub is stopped.
func (l *Link) cutAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range append(l.gone, l.conn) {
		if c != nil {
			c.Reset()
		}
	}
}

// nextID returns the ID of a client that has none.
func (h *Hub) nextID() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ids++
	return fmt.Sprint(h.idPrefix, "client-", h.ids)
}
