package websocket_test

import (
	"net/http"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestSameOriginIsAllowedUnlessCheckOriginIsSet(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	require.Equal(t, 101, b.handshake(t, "", http.Header{"Origin": {b.server.URL}}).StatusCode)
	require.Equal(t, 101, b.handshake(t, "", nil).StatusCode)

	config := websocket.DefaultConfig
	config.CheckOrigin = func(r *http.Request) bool { return r.Header.Get("Origin") == "https://friend.example" }
	b = setup(t, config, options{})
	require.Equal(t, 101, b.handshake(t, "", http.Header{"Origin": {"https://friend.example"}}).StatusCode)
	require.Equal(t, 403, b.handshake(t, "", http.Header{"Origin": {b.server.URL}}).StatusCode)
}
