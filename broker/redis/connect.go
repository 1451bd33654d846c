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

// sessionKey leads from the context of a session's connection to the session.
type sessionKey struct{}

func sessionOf(ctx context.Context) *session {
	s, _ := ctx.Value(sessionKey{}).(*session)
	return s
}

var (
	errReplica = errors.New("redis: the server is a replica")
	errOnce    = errors.New("redis: the connection has failed")
)

// prepare makes the broker's options of those of the application.
func (b *Broker) prepare() *redis.UniversalOptions {
	connect := redis.UniversalOptions{}
	if b.options.Connect != nil {
		connect = *b.options.Connect
	}
	connect.MaxRetries = -1
	connect.DialerRetries = 1
	connect.ContextTimeoutEnabled = true
	// Publications and subscriptions have to meet at one server.
	connect.ReadOnly, connect.RouteByLatency, connect.RouteRandomly = false, false, false
	// A connection that moves to another server by itself loses without a word
	// what was published meanwhile.
	connect.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	sentinel, onConnect := connect.MasterName != "", connect.OnConnect
	connect.OnConnect = func(ctx context.Context, cn *redis.Conn) error {
		// What is published at a replica stays there, and what is published elsewhere
		// reaches it only while the link to its master holds. A Cluster sends
		// publications to masters by itself.
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
		// go-redis would replace a session's broken connection without a word of what
		// was lost.
		if s := sessionOf(ctx); s != nil && !s.beginning() {
			return nil, errOnce
		}
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return b.conns.keep(conn), nil
	}
	return &connect
}

// noReplica asks the server what it is.
func noReplica(ctx context.Context, cn *redis.Conn, protocol int) error {
	if protocol == 0 {
		protocol = 3
	}
	hello, err := cn.Hello(ctx, protocol, "", "", "").Result()
	var refused redis.Error
	switch {
	case errors.As(err, &refused):
		return nil // it does not say
	case err == nil && hello["role"] == "replica":
		return errReplica
	default:
		return err
	}
}

// dialer returns the application's way of dialing, or one that ends with its
// context also in a TLS handshake.
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

// conns are the connections that are open, so that Close can end what waits for a
// server on one of them.
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

// checkedConn is one whose socket go-redis can look at, as it does before it uses
// a connection again.
type checkedConn struct {
	*conn
	syscall.Conn
}

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
		_ = c.Conn.Close() // TLS has an error for a server that has gone, which nobody needs
	}
	return nil
}

// end closes the connection without the goodbye of TLS, which may wait.
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

// close ends all, and what is kept later at once.
func (c *conns) close() {
	c.mu.Lock()
	c.closed = true
	open := slices.Collect(maps.Keys(c.open))
	c.mu.Unlock()
	for _, kept := range open {
		kept.end()
	}
}
