package websocket_test

import (
	"net/http"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// Without Config.ClientID the hub chooses the ID. Headers and queries do not set it.
func TestPeerCannotChooseItsID(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	_, c := b.connect(t, dialing{query: "client_id=alice", header: http.Header{"X-Client-Id": {"alice"}}})
	require.Regexp(t, "^[0-9a-f]{32}$", c.ID)
}

// An empty ID without an error means a random one.
func TestEmptyIDIsRandom(t *testing.T) {
	t.Parallel()
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
	_, first := b.connect(t, dialing{})
	_, second := b.connect(t, dialing{query: "id="})
	_, named := b.connect(t, dialing{query: "id=ann"})
	require.Regexp(t, "^[0-9a-f]{32}$", first.ID)
	require.Regexp(t, "^[0-9a-f]{32}$", second.ID)
	require.NotEqual(t, first.ID, second.ID)
	require.Equal(t, "ann", named.ID)
}

// ClientChosenID takes the ID from the header, or else from the query. The hub gives a
// random ID if both are empty, and refuses one that is invalid.
func TestClientChosenID(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.ClientID = websocket.ClientChosenID
	b := setup(t, config, options{})
	header := func(id string) http.Header { return http.Header{"X-Client-Id": {id}} }
	tests := []struct {
		name   string
		query  string
		header http.Header
		want   string
	}{
		{"header", "", header("in-header"), "^in-header$"},
		{"query", "client_id=in-query", nil, "^in-query$"},
		{"both", "client_id=second", header("first"), "^first$"},
		{"empty header", "client_id=used", header(""), "^used$"},
		{"neither", "", nil, "^[0-9a-f]{32}$"},
		{"empty", "client_id=", nil, "^[0-9a-f]{32}$"},
	}
	for _, tt := range tests {
		_, c := b.connect(t, dialing{query: tt.query, header: tt.header})
		require.Regexp(t, tt.want, c.ID, tt.name)
	}
	p, err := b.tryDial(dialing{query: "client_id=a%0ab"})
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, p.response.StatusCode)
}

// With ReplaceDuplicate the newer of two clients with a chosen ID gets its messages, as in
// HypGo. The older one is closed.
func TestClientChosenIDReplaced(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.ClientID = websocket.ClientChosenID
	config.DuplicateID = websocket.ReplaceDuplicate
	b := setup(t, config, options{})
	older, _ := b.connect(t, dialing{query: "client_id=ann"})
	newer, _ := b.connect(t, dialing{query: "client_id=ann"})
	older.requireClosed(t, websocket.CloseReplaced)
	require.NoError(t, b.hub.SendToClient("ann", &websocket.Message{Data: []byte("1")}))
	require.Equal(t, "1", string(newer.read(t).Data))
}
