package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// sessionKey is the key of the session in the context of a session's connection.
type sessionKey struct{}

// sessionOf returns nil for the context of a connection that publishes.
func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

var (
	errReplica  = errors.New("redis: the server is a replica")
	errNoRedial = errors.New("redis: the connection has failed")
)

// prepare returns the application's options with the changes that the Broker needs.
func (b *Broker) prepare() *redis.UniversalOptions {
	connect := redis.UniversalOptions{}
	if b.options.Connect != nil {
		connect = *b.options.Connect
	}
	connect.MaxRetries = -1
	connect.DialerRetries = 1
	connect.ContextTimeoutEnabled = true
	// A subscription at a replica would miss publications.
	connect.ReadOnly, connect.RouteByLatency, connect.RouteRandomly = false, false, false
	// A connection that moves to another server by itself loses the publications of
	// that time without a report.
	connect.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	sentinel, onConnect := connect.MasterName != "", connect.OnConnect
	connect.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
		// A publication at a replica stays there, and publications elsewhere reach the
		// replica only while the link to its master works. A Cluster client publishes
		// to masters only, so that publishing connections need no check.
		if sentinel || b.cluster != nil && sessionOf(ctx) != nil {
			if err := noReplica(ctx, cn, connect.Protocol); err != nil {
				return err
			}
		}
		if onConnect != nil {
			return onConnect(ctx, cn)
		}
		return nil
	}
	dial := dialer(&connect)
	connect.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		// go-redis would replace a session's broken connection without reporting the
		// loss.
		if s := sessionOf(ctx); s != nil && !s.mayDial() {
			return nil, errNoRedial
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return b.conns.keep(conn), nil
	}
	return &connect
}

// noReplica returns errReplica if the server is a replica.
func noReplica(ctx context.Context, cn *redis.Conn, protocol int) error {
	if protocol == 0 {
		protocol = 3
	}
	hello, err := cn.Hello(ctx, protocol, "", "", "").Result()
	var refused redis.Error
	switch {
	case errors.As(err, &refused):
		return nil // the server does not know HELLO or does not allow it
	case err == nil && hello["role"] == "replica":
		return errReplica
	default:
		return err
	}
}

// dialer returns the application's dialer, or one whose TLS handshake ends with the
// context.
func dialer(connect *redis.UniversalOptions) func(context.Context, string, string) (net.Conn, error) {
	if connect.Dialer != nil {
		return connect.Dialer
	}
	timeout := connect.DialTimeout
	if timeout <= 0 {
		timeout = defaultDial
	}
	plain := &net.Dialer{Timeout: timeout}
	if connect.TLSConfig == nil {
		return plain.DialContext
	}
	secure := &tls.Dialer{NetDialer: plain, Config: connect.TLSConfig}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		return secure.DialContext(ctx, network, addr)
	}
}

// conns is the set of open connections. Close ends them, so that no goroutine waits
// for a server.
type conns struct {
	mu     sync.Mutex
	open   map[*conn]struct{}
	closed bool
}

// conn is one of conns.
type conn struct {
	net.Conn
	of *conns
}

// checkedConn gives go-redis access to the socket, which it checks before it reuses
// a connection.
type checkedConn struct {
	*conn
	syscall.Conn
}

// keep adds a connection to the set and returns it in a wrapper that removes it when
// it is closed.
func (c *conns) keep(made net.Conn) net.Conn {
	kept := &conn{made, c}
	c.mu.Lock()
	if c.open == nil {
		c.open = make(map[*conn]struct{})
	}
	c.open[kept] = struct{}{}
	closed := c.closed
	c.mu.Unlock()
	if closed {
		kept.end()
	}
	if socket, ok := made.(syscall.Conn); ok {
		return checkedConn{kept, socket}
	}
	return kept
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	_, open := c.of.open[c]
	delete(c.of.open, c)
	c.of.mu.Unlock()
	if open {
		_ = c.Conn.Close() // the error of TLS for a server that has closed first is of no use
	}
	return nil
}

// end closes the connection without TLS's closing alert, which may block.
func (c *conn) end() {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	inner := c.Conn
	if secure, ok := inner.(interface{ NetConn() net.Conn }); ok {
		inner = secure.NetConn()
	}
	_ = inner.Close()
}

// close ends all connections. keep ends connections made later at once.
func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, kept := range open {
		kept.end()
	}
}
