package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"time"

	gorilla "github.com/gorilla/websocket"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// run is the life of a client: connection after connection, until Close or an
// end for good.
func (c *Client) run() {
	var (
		attempt  attempt
		failures int
	)
	for {
		c.setState(StateChange{State: Connecting})
		o := c.once(&attempt)
		if attempt.lasted >= c.options.BackoffReset {
			failures = 0
		}
		if c.closing() {
			c.finish(nil)
			return
		}
		if !o.retry {
			c.setState(StateChange{State: Disconnected, Err: o.why})
			c.finish(o.why)
			return
		}
		delay := backoff(failures, c.options.BackoffMin, c.options.BackoffMax) + min(o.after, c.options.BackoffMax)
		failures++
		c.setState(StateChange{State: Disconnected, Err: o.why, WillRetry: true, RetryIn: delay})
		if !c.sleep(delay) {
			c.finish(nil)
			return
		}
	}
}

// attempt is what run's attempts know of the ones before. Run owns it.
type attempt struct {
	renew     bool          // the last token was refused
	connected bool          // there was a connection before
	lostAt    time.Time     // when it ended
	lasted    time.Duration // how long the latest one lasted, 0 if it was not made
}

// outcome is how one attempt ended.
type outcome struct {
	why   error
	retry bool
	after time.Duration // what the hub's Retry-After said
}

// once makes one connection and lives through it.
func (c *Client) once(a *attempt) outcome {
	a.lasted = 0
	cn, err := c.connect(a)
	if err != nil {
		c.lastFailure.Store(&err)
		o := outcome{why: err, retry: c.retries(err, a) && (a.connected || c.options.RetryDial)}
		var refused *DialError
		if errors.As(err, &refused) {
			o.after = refused.RetryAfter
		}
		return o
	}
	began := time.Now()
	ended, restored := c.serve(cn)
	a.lostAt = time.Now()
	if restored {
		a.connected = true
		a.lasted = a.lostAt.Sub(began)
	} else {
		failure := error(ended)
		c.lastFailure.Store(&failure)
	}
	a.renew = ended.Code == websocket.CloseUnauthorized
	return outcome{why: ended, retry: c.reconnects(ended) && (a.connected || c.options.RetryDial)}
}

// reconnects decides about a connection that ended.
func (c *Client) reconnects(why *websocket.CloseError) bool {
	switch {
	case c.options.Reconnect != nil:
		return c.options.Reconnect(why)
	case why.Code == websocket.CloseUnauthorized:
		return c.options.TokenSource != nil
	default:
		return Reconnectable(why.Code)
	}
}

// retries decides about a connection that could not be made.
func (c *Client) retries(err error, a *attempt) bool {
	if errors.Is(err, ErrNoToken) || errors.Is(err, ErrCodec) {
		return false
	}
	var refused *DialError
	if !errors.As(err, &refused) {
		return true
	}
	switch status := refused.StatusCode; status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests:
		return true
	case http.StatusConflict:
		// The hub may not have noticed yet that our last connection is dead.
		return a.connected && time.Since(a.lostAt) < 2*c.options.ReadTimeout
	default:
		return status < 400 || status >= 500
	}
}

// backoff is the waiting after a number of failures in a row, with full jitter:
// a hub that restarts is not met by all of its clients at once.
func backoff(failures int, shortest, longest time.Duration) time.Duration {
	ceiling := longest
	if failures < 62 && shortest <= longest>>failures {
		ceiling = shortest << failures
	}
	return rand.N(ceiling + 1)
}

// sleep returns false if Close came first.
func (c *Client) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// connect shakes hands, a second time with a new token where the first was refused.
func (c *Client) connect(a *attempt) (*conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.options.HandshakeTimeout)
	defer cancel()
	cn, err := c.handshake(ctx, a.renew)
	var refused *DialError
	if c.options.TokenSource != nil && !a.renew && errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized {
		a.renew = true
		cn, err = c.handshake(ctx, true)
		if errors.Is(err, ErrNoToken) {
			err = fmt.Errorf("%w; %w", refused, err)
		}
	}
	if err == nil {
		a.renew = false
	}
	return cn, err
}

func (c *Client) handshake(ctx context.Context, renew bool) (*conn, error) {
	o := &c.options
	header, offers := o.Header.Clone(), []string{o.Codec}
	if o.TokenSource != nil {
		token, err := o.TokenSource(ctx, renew)
		switch {
		case err != nil:
			return nil, fmt.Errorf("websocket: TokenSource: %w", err)
		case o.TokenAsSubprotocol:
			offers = append(offers, bearerOffer(token))
		default:
			header.Set("Authorization", "Bearer "+token)
		}
	}
	var w *wire
	watching := func() bool { return true }
	dialer := gorilla.Dialer{
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := o.NetDial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			w = newWire(nc, o.ReadTimeout)
			watching = context.AfterFunc(ctx, w.cut) // gorilla minds only ctx's deadline from here on
			return w, nil
		},
		Proxy:             o.Proxy,
		TLSClientConfig:   o.TLS,
		Subprotocols:      offers,
		EnableCompression: o.EnableCompression && o.Security == nil,
	}
	ws, response, err := dialer.DialContext(ctx, c.url, header)
	if !watching() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if w != nil {
			w.cut()
		}
		return nil, dialError(response, err)
	}
	// A hub that echoes nothing speaks JSON.
	if chosen := ws.Subprotocol(); chosen != o.Codec && (chosen != "" || o.Codec != "json") {
		w.cut()
		return nil, &DialError{Err: fmt.Errorf("%w: %q, want %q", ErrCodec, chosen, o.Codec)}
	}
	return newConn(c, ws, w), nil
}

func dialError(response *http.Response, err error) error {
	e := &DialError{Err: err}
	if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(response.Body) // gorilla has read it already
		e.StatusCode, e.Body = response.StatusCode, string(body)
		e.RetryAfter = retryAfter(response.Header.Get("Retry-After"))
	}
	return e
}

// retryAfter reads both forms of the header (RFC 9110 section 10.2.3).
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}

// serve lives through one connection. restored says that it got as far as
// Connected.
func (c *Client) serve(cn *conn) (why *websocket.CloseError, restored bool) {
	ready, since := c.attach(cn)
	cn.start()
	timer := time.NewTimer(c.options.RestoreTimeout)
	defer timer.Stop()
	select {
	case <-ready:
		restored = true
		c.setState(StateChange{State: Connected, MissedSince: since})
		c.connectedOnce.Do(func() { close(c.connected) })
	case <-cn.read:
	case <-c.ctx.Done():
	case <-timer.C:
		cn.kill(&websocket.CloseError{
			Code:   websocket.CloseAbnormalClosure,
			Reason: fmt.Sprintf("not taken in and restored within %v", c.options.RestoreTimeout),
		})
	}
	select {
	case <-cn.read:
	case <-c.ctx.Done():
		cn.close(&websocket.CloseError{Code: websocket.CloseNormalClosure}, false, c.options.CloseTimeout)
	}
	why = cn.shut()
	c.detach(cn, why)
	return why, restored
}
