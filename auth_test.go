package websocket_test

import (
	"net/http"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// Without Config.ClientID the hub chooses the ID. Headers and queries do not set it.
func TestPeerCannotChooseItsID(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	_, c := b.connect(t, dialing{query: "client_id=alice", header: http.Header{"X-Client-Id": {"alice"}}})
	require.Regexp(t, "^[0-9a-f]{32}$", c.ID)
}
