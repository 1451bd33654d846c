package client

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// run makes one connection after another until Close is called or a connection or
// attempt fails without a retry.
func (c *Client) run() {
	var (
		h        history
		failures int
	)
	for {
		c.setState(StateChange{State: Connecting})
		o := c.attempt(&h)
		requested := c.takeReconnect()
		if h.lasted >= c.options.BackoffReset {
			failures = 0
		}
		if c.closing() {
			c.setClosed(nil)
			return
		}
		if !o.retry && !requested {
			c.setState(StateChange{State: Disconnected, Err: o.err})
			c.setClosed(o.err)
			return
		}
		delay := backoff(failures, c.options.BackoffMin, c.options.BackoffMax)
		delay += min(o.retryAfter, c.options.BackoffMax, math.MaxInt64-delay)
		failures++
		if requested || o.moved && h.lasted >= c.options.BackoffMin { // otherwise a hub could make the client reconnect in a loop
			delay, failures = 0, 0
		}
		c.setState(StateChange{State: Disconnected, Err: o.err, WillRetry: true, RetryIn: delay})
		if !c.sleep(delay) {
			c.setClosed(nil)
			return
		}
	}
}

// Reconnect ends the connection and makes a new one at once, without a delay and
// for every close code. An attempt to connect that is under way starts anew, and a
// delay before the next one ends. Channels and rooms are restored as after every loss.
// It is for programs that know better than the heartbeat: for example that the network
// has changed, or that the user's rights have. Reconnect does not wait, and does nothing
// after the client has ended.
func (c *Client) Reconnect() {
	c.mu.Lock()
	cn, abandon := c.conn, c.abandon
	select {
	case c.reconnect <- struct{}{}: // attach receives it if the attempt under way succeeds all the same
	default: // run has not received the previous request yet
	}
	c.mu.Unlock()
	if cn != nil {
		cn.closeNow(&websocket.CloseError{Code: websocket.CloseGoingAway, Reason: "reconnect"})
	} else if abandon != nil {
		abandon()
	}
}

// takeReconnect reports whether Reconnect was called for the latest attempt or connection.
func (c *Client) takeReconnect() bool {
	select {
	case <-c.reconnect:
		return true
	default:
		return false
	}
}

// setAbandon sets the function with which Reconnect ends the attempt under way.
func (c *Client) setAbandon(f context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abandon = f
}

// history is the part of earlier attempts that later ones depend on. Only run's
// goroutine uses it.
type history struct {
	renewToken bool          // the hub refused the latest token
	connected  bool          // a connection has been Connected
	lostAt     time.Time     // end of the latest connection
	lasted     time.Duration // duration of the latest attempt's connection, 0 if it was never Connected
}

// outcome is the result of an attempt.
type outcome struct {
	err        error // why there is no connection any more
	retry      bool
	retryAfter time.Duration // the hub's Retry-After
	moved      bool          // the hub has asked for another connection now
}

// attempt connects, serves the connection and returns when it has ended.
func (c *Client) attempt(h *history) outcome {
	h.lasted = 0
	ctx, abandon := context.WithCancel(c.ctx)
	defer abandon()
	c.setAbandon(abandon)
	cn, err := c.connect(ctx, h)
	c.setAbandon(nil)
	if err != nil {
		c.lastFailure.Store(&err)
		o := outcome{err: err, retry: c.retriesHandshake(err, h) && (h.connected || c.options.RetryDial)}
		var refused *DialError
		if errors.As(err, &refused) {
			o.retryAfter = refused.RetryAfter
		}
		return o
	}
	began := time.Now()
	cause, restored := c.serve(cn)
	h.lostAt = time.Now()
	if restored {
		h.connected = true
		h.lasted = h.lostAt.Sub(began)
	} else {
		failure := error(cause)
		c.lastFailure.Store(&failure)
	}
	h.renewToken = cause.Code == websocket.CloseUnauthorized
	return outcome{err: cause, retry: c.reconnects(cause) && (h.connected || c.options.RetryDial), moved: cn.moved()}
}

// reconnects reports whether a connection that ended with cause is followed by
// another one.
func (c *Client) reconnects(cause *websocket.CloseError) bool {
	switch {
	case c.options.Reconnect != nil:
		return c.options.Reconnect(cause)
	case cause.Code == websocket.CloseUnauthorized:
		return c.options.TokenSource != nil
	default:
		return Reconnectable(cause.Code)
	}
}

// retriesHandshake reports whether a connection that could not be established is
// tried again.
func (c *Client) retriesHandshake(err error, h *history) bool {
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
		// Our client ID is in use. The hub may not have noticed yet that our previous
		// connection is dead.
		return h.connected && time.Since(h.lostAt) < conflictTimeout
	default:
		return status < 400 || status >= 500
	}
}

// conflictTimeout is the time after the end of a connection in which its ID may still be
// in use: twice the default PongWait of a hub.
const conflictTimeout = 2 * time.Minute

// backoff returns the delay before the next attempt after a number of earlier
// failures. Full jitter prevents that all clients of a restarted hub reconnect at
// the same time.
func backoff(failures int, shortest, longest time.Duration) time.Duration {
	ceiling := longest
	if failures < 62 && shortest <= longest>>failures {
		ceiling = shortest << failures
	}
	return rand.N(ceiling)
}

// sleep returns false if Close was called before d has passed, and true at once if
// Reconnect was.
func (c *Client) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.reconnect:
		return true
	case <-c.ctx.Done():
		return false
	}
}

// serve runs a connection until it has ended, and returns the cause. restored
// reports whether the client was Connected.
func (c *Client) serve(cn *conn) (cause *websocket.CloseError, restored bool) {
	ready, missedSince := c.attach(cn)
	cn.start()
	timer := time.NewTimer(c.options.RestoreTimeout)
	defer timer.Stop()
	select {
	case <-ready:
		restored = true
		c.setState(StateChange{State: Connected, MissedSince: missedSince})
		c.firstConnectedOnce.Do(func() { close(c.firstConnected) })
	case <-cn.readDone:
	case <-c.ctx.Done():
	case <-timer.C:
		cn.abort(closeErrorf(websocket.CloseAbnormalClosure, "onConnect and restoring took longer than %v", c.options.RestoreTimeout))
	}
	select {
	case <-cn.readDone:
	case <-c.ctx.Done():
		cn.close(&websocket.CloseError{Code: websocket.CloseNormalClosure}, c.options.CloseTimeout)
	}
	cause = cn.wait()
	c.detach(cn, cause)
	return cause, restored
}
