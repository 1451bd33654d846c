package client_test

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestInvalidOptions(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		url  string
		o    client.Options
		want string
	}{
		{"codec", "", client.Options{Codec: "xml"}, "Codec"},
		{"negative", "", client.Options{WriteTimeout: -1}, "WriteTimeout"},
		{"backoff", "", client.Options{BackoffMin: 2, BackoffMax: 1}, "BackoffMin"},
		{"busy loop", "", client.Options{BackoffMin: 1, BackoffMax: 30}, "BackoffMax"},
		{"sizes", "", client.Options{MaxSendSize: 2, OutboundLimit: 1}, "MaxSendSize"},
		{"header", "", client.Options{Header: http.Header{"sec-websocket-protocol": {"x"}}}, "Header"},
		{"keys", "", client.Options{Security: &websocket.SecurityConfig{AESKey: []byte("short")}}, "websocket: invalid key: Options.Security.AESKey is 5 bytes"},
		{"HMAC key", "", client.Options{Security: &websocket.SecurityConfig{HMACKey: []byte{}}}, "websocket: invalid key: Options.Security.HMACKey is empty"},
		{"no keys", "", client.Options{Security: &websocket.SecurityConfig{}}, "websocket: invalid key: Options.Security has neither"},
		{"handler", "", client.Options{Handlers: map[string]client.RequestHandler{"x": nil}}, "Handlers"},
		{"scheme", "http://x", client.Options{}, "scheme"},
		{"host", "ws:///x", client.Options{}, "host"},
		{"user", "ws://a:b@x", client.Options{}, "user"},
		{"url", "ws://%zz", client.Options{}, "URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.url == "" {
				tt.url = "ws://127.0.0.1:1"
			}
			_, err := client.Dial(testContext(t), tt.url, tt.o)
			require.ErrorContains(t, err, tt.want)
			require.Equal(t, 1, strings.Count(err.Error(), "websocket: "), "%v", err)
		})
	}
}

// The longest durations mean never. No timer overflows and becomes a busy loop.
func TestLongestDurations(t *testing.T) {
	t.Parallel()
	const never = math.MaxInt64
	o := client.Options{
		BackoffMin: never, BackoffMax: never, BackoffReset: never, HandshakeTimeout: never, RestoreTimeout: never,
		WriteTimeout: never, Heartbeat: never, CloseTimeout: never, RetryDial: true,
	}
	synctest.Test(t, func(t *testing.T) {
		attempts := 0
		o := o
		o.NetDial = func(context.Context, string, string) (net.Conn, error) {
			attempts++
			return nil, errors.New("away")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		_, err := client.Dial(ctx, "ws://hub", o)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1, attempts)
	})
	inBubble(t, o, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		time.Sleep(24 * time.Hour)
		require.NoError(t, c.Publish(t.Context(), "x", nil))
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}
