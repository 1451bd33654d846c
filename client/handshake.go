package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	gorilla "github.com/gorilla/websocket"
)

// connect performs the handshake. If the hub responds with 401, connect asks the
// TokenSource for a new token and tries once more.
func (c *Client) connect(ctx context.Context, h *history) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.HandshakeTimeout)
	defer cancel()
	cn, err := c.handshake(ctx, h.renewToken)
	var refused *DialError
	if c.options.TokenSource != nil && !h.renewToken && errors.As(err, &refused) && refused.StatusCode == http.StatusUnauthorized {
		h.renewToken = true
		cn, err = c.handshake(ctx, true)
		if errors.Is(err, ErrNoToken) {
			err = fmt.Errorf("%w; %w", refused, err)
		}
	}
	if err == nil {
		h.renewToken = false
	}
	return cn, err
}

func (c *Client) handshake(ctx context.Context, renewToken bool) (*conn, error) {
	o := &c.options
	header, offers := o.Header.Clone(), []string{o.Codec}
	if o.TokenSource != nil {
		token, err := o.TokenSource(ctx, renewToken)
		switch {
		case err != nil:
			return nil, fmt.Errorf("websocket: TokenSource: %w", err)
		case token == "": // the handshake has none
		case o.TokenAsSubprotocol:
			offers = append(offers, bearerOffer(token))
		default:
			header.Set("Authorization", "Bearer "+token)
		}
	}
	var socket *watchedConn
	stopWatching := func() bool { return true }
	dialer := gorilla.Dialer{
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := o.NetDial(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			socket = newWatchedConn(nc)
			// Once it has the socket, gorilla observes ctx's deadline but not its cancellation.
			stopWatching = context.AfterFunc(ctx, socket.abort)
			return socket, nil
		},
		Proxy:             o.Proxy,
		TLSClientConfig:   o.TLS,
		Subprotocols:      offers,
		EnableCompression: o.EnableCompression && o.Security == nil,
	}
	ws, response, err := dialer.DialContext(ctx, c.url, header)
	if !stopWatching() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if socket != nil {
			socket.abort()
		}
		return nil, dialError(response, err)
	}
	// A hub that selects no subprotocol uses JSON.
	if chosen := ws.Subprotocol(); chosen != o.Codec && (chosen != "" || o.Codec != "json") {
		socket.abort()
		return nil, &DialError{Err: fmt.Errorf("%w: %q, want %q", ErrCodec, chosen, o.Codec)}
	}
	return newConn(c, ws, socket), nil
}

func dialError(response *http.Response, err error) error {
	e := &DialError{Err: err}
	if response != nil && response.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(response.Body) // gorilla has buffered the first 1 KiB
		e.StatusCode, e.Body = response.StatusCode, string(body)
		e.RetryAfter = retryAfter(response.Header.Get("Retry-After"))
	}
	return e
}

// retryAfter parses the header's two forms, seconds and a date (RFC 9110 section
// 10.2.3). It returns 0 for anything else.
func retryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(time.Until(at), 0)
	}
	return 0
}
