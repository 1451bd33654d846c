package client_test

import (
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// cutProxy connects clients with a hub over TCP, and cuts each connection after a random
// number of bytes in one direction or in the other.
type cutProxy struct {
	listener   net.Listener
	hub        atomic.Value // its address, a string
	calm       atomic.Bool  // new connections are not cut
	goroutines sync.WaitGroup

	mu    sync.Mutex // guards the fields below
	rng   *rand.Rand
	conns map[net.Conn]bool
}

func newCutProxy(t *testing.T, seed uint64) *cutProxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &cutProxy{listener: l, rng: rand.New(rand.NewPCG(seed, 3)), conns: map[net.Conn]bool{}}
	p.goroutines.Go(func() { // ends with stop
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			p.goroutines.Go(func() { p.forward(conn) }) // ends with conn
		}
	})
	return p
}

// stop cuts all connections and waits for the goroutines.
func (p *cutProxy) stop() {
	_ = p.listener.Close()
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close()
	}
	p.conns = nil
	p.mu.Unlock()
	p.goroutines.Wait()
}

// dial is a NetDial that connects to the proxy.
func (p *cutProxy) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", p.listener.Addr().String())
}

// add returns false if the proxy has stopped.
func (p *cutProxy) add(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		if p.conns != nil {
			p.conns[conn] = true
		}
	}
	return p.conns != nil
}

// remove closes connections.
func (p *cutProxy) remove(reset bool, conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
		if reset {
			_ = conn.(*net.TCPConn).SetLinger(0)
		}
		_ = conn.Close()
	}
}

// limits returns the numbers of bytes that pass from the client and from the hub.
func (p *cutProxy) limits() (fromClient, fromHub int64, reset bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	limit := func() int64 {
		if p.calm.Load() || p.rng.IntN(3) == 0 {
			return 1 << 40
		}
		return 1 + p.rng.Int64N(1<<(8+p.rng.IntN(9)))
	}
	return limit(), limit(), p.rng.IntN(2) == 0
}

func (p *cutProxy) forward(client net.Conn) {
	hub, err := net.Dial("tcp", p.hub.Load().(string))
	if err != nil {
		_ = client.Close()
		return
	}
	fromClient, fromHub, reset := p.limits()
	if !p.add(client, hub) {
		p.remove(reset, client, hub)
		return
	}
	var both sync.WaitGroup
	pass := func(to, from net.Conn, n int64) {
		_, _ = io.CopyN(to, from, n)
		p.remove(reset, client, hub)
	}
	both.Go(func() { pass(hub, client, fromClient) })
	both.Go(func() { pass(client, hub, fromHub) })
	both.Wait()
}
