package websocket_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
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

// originAllowed reports whether a hub accepts the origin of a handshake.
func originAllowed(t *testing.T, hub *websocket.Hub, host string, secure bool, origins ...string) bool {
	t.Helper()
	r := handshake(t, t.Context())
	r.Host = host
	if origins != nil {
		r.Header["Origin"] = origins
	}
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	w := newRecorder()
	hub.Handler().ServeHTTP(w, r)
	if w.status != 403 {
		require.Equal(t, 500, w.status, w.body.String()) // the recorder cannot be hijacked
	}
	return w.status != 403
}

// runHub runs a hub until the test ends.
func runHub(t *testing.T, config websocket.Config) *websocket.Hub {
	t.Helper()
	hub := websocket.NewHub(quietLogger{}, config)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
	t.Cleanup(func() {
		require.NoError(t, hub.Shutdown(context.Background()))
		<-ran // ErrHubClosed if Run was later than Shutdown
	})
	return hub
}

// TestSameOrigin compares origins with the host of the request (RFC 6454 section 4).
func TestSameOrigin(t *testing.T) {
	t.Parallel()
	hub := runHub(t, websocket.DefaultConfig)
	tests := []struct {
		host, origin string
		secure       bool // the hub's server ends TLS
		allowed      bool
	}{
		{"example.com", "https://example.com", true, true},
		{"example.com:443", "https://example.com", true, true},
		{"example.com", "https://example.com:443", true, true},
		{"example.com", "http://example.com", false, true},
		{"example.com:80", "http://example.com", false, true},
		{"example.com", "http://example.com:80", false, true},
		{"example.com", "https://example.com", false, true}, // a proxy ends TLS
		{"example.com:443", "https://example.com", false, true},
		{"EXAMPLE.com:8443", "https://example.COM:8443", false, true},
		{"example.com.", "https://example.com", false, true},
		{"example.com", "https://example.com.:443", false, true},
		{"[::1]:3000", "http://[::1]:3000", false, true},
		{"[::1]", "http://[0:0:0:0:0:0:0:1]:80", false, true},
		{"[2001:DB8::1]:443", "https://[2001:db8::1]", true, true},
		{"127.0.0.1:8080", "http://127.0.0.1:8080", false, true},
		{"localhost", "capacitor://localhost", false, true},
		{"", "", false, true},

		{"example.com", "http://example.com", true, false}, // port 80 against 443
		{"example.com:443", "http://example.com", false, false},
		{"example.com:80", "https://example.com", false, false},
		{"example.com", "https://example.com:8443", false, false},
		{"example.com:8443", "https://example.com", true, false},
		{"example.com", "https://example.com.evil.example", false, false},
		{"example.com", "https://evil-example.com", false, false},
		{"example.com", "https://example.com@evil.example", false, false},
		{"example.com", "null", false, false},
		{"null", "null", false, false},
		{"", "null", false, false},
		{"", "file://", false, false},
		{"", "https://", false, false},
		{"example.com", "example.com", false, false},
		{"example.com", "%%%", false, false},
		{"[::1]:3000", "http://[::2]:3000", false, false},
		{"[::1]:3000", "http://[::1]:3001", false, false},
	}
	for _, tt := range tests {
		require.Equal(t, tt.allowed, originAllowed(t, hub, tt.host, tt.secure, tt.origin), "%+v", tt)
	}
	require.True(t, originAllowed(t, hub, "example.com", false))
	require.False(t, originAllowed(t, hub, "example.com", false, "https://example.com", "https://evil.example"))
}

// TestOriginPatterns matches origins with patterns.
func TestOriginPatterns(t *testing.T) {
	t.Parallel()
	tests := []struct {
		pattern          string
		allowed, refused []string
	}{
		{
			"app.example.com",
			[]string{"https://app.example.com", "http://app.example.com", "https://APP.example.com:443", "https://app.example.com."},
			[]string{"https://app.example.com:8443", "https://xapp.example.com", "https://app.example.com.evil.example", "null"},
		},
		{"app.example.com:443", []string{"https://app.example.com"}, []string{"http://app.example.com"}},
		{"https://app.example.com:443", []string{"https://app.example.com"}, []string{"http://app.example.com"}},
		{"https://App.Example.com.", []string{"https://app.example.com"}, []string{"http://app.example.com"}},
		{"https://*.example.com", []string{"https://a.example.com", "https://a.b.example.com"}, []string{"https://example.com", "https://a.example.com:1"}},
		{"localhost:*", []string{"http://localhost:5173", "http://localhost"}, []string{"http://localhost.evil.example:1", "null"}},
		{"localhost:65535", []string{"http://localhost:65535"}, []string{"http://localhost:6553"}},
		{"localhost:[0-9][0-9]", []string{"http://localhost:81", "http://localhost"}, []string{"http://localhost:5173"}},
		{"http*://localhost", []string{"http://localhost", "https://localhost"}, []string{"app://localhost"}},
		{"http://[::1]:3000", []string{"http://[::1]:3000", "http://[0::1]:3000"}, []string{"http://1:3000", "http://[::1]", "https://[::1]:3000"}},
		{"[2001:DB8:0::1]", []string{"https://[2001:db8::1]", "http://[2001:db8::1]:80"}, []string{"http://[2001:db8::2]"}},
		{"chrome-extension://abcdefgh", []string{"chrome-extension://abcdefgh"}, []string{"https://abcdefgh"}},
		{"null", []string{"null"}, []string{"http://null", "file://", "https://example.com"}},
		{"*", []string{"https://example.com", "http://localhost:1"}, []string{"null", "file://"}},
	}
	for _, tt := range tests {
		t.Run(tt.pattern, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.AllowedOrigins = []string{"other.example", tt.pattern}
			hub := runHub(t, config)
			for _, origin := range tt.allowed {
				require.True(t, originAllowed(t, hub, "hub.test", false, origin), origin)
			}
			for _, origin := range tt.refused {
				require.False(t, originAllowed(t, hub, "hub.test", false, origin), origin)
			}
		})
	}
}

// TestUselessOriginPattern checks that a pattern that no origin can match is an error.
func TestUselessOriginPattern(t *testing.T) {
	t.Parallel()
	for _, pattern := range []string{
		"", " ", "https://app.example.com/", "app.example.com/", "https://app.example.com/path", "https://app.example.com/*",
		"https:// app.example.com", " app.example.com", "app.example.com ", "a.example, b.example", "a.example,b.example",
		"file://", "file:///", "://app.example.com", "https://", "https:app.example.com", "ht tp://a.example",
		"wss://app.example.com", "ws://localhost:3000", "user@app.example.com", "app.example.com#x", "münchen.example",
		"::1", "2001:db8::1", "http://::1:3000", "[::1", "http://[::1]3000", "http://[::1]:", "app.example.com:", "app.example.com:http",
		"http://localhost:99999", "localhost:65536", "localhost:0", "localhost:080", "[::1]:70000", "localhost:-1",
		"[", "a[", `a\`, "https://[a",
	} {
		config := websocket.Config{AllowedOrigins: []string{pattern}}
		err := config.Validate()
		require.ErrorContains(t, err, "websocket: Config.AllowedOrigins", pattern)
	}
	config := websocket.Config{AllowedOrigins: []string{"https://app.example.com/"}}
	require.EqualError(t, config.Validate(), `websocket: Config.AllowedOrigins has the pattern "https://app.example.com/", which matches no origin: an origin has no path and no slash at the end`)
}
