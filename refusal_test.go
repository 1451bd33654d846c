package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// TestHandshakeErrorChoosesResponse lets ClientID choose the response of a refusal.
func TestHandshakeErrorChoosesResponse(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		err    error
		status int
		body   string
		header map[string]string // "" means that the field is missing
	}{
		{"forbidden", &websocket.HandshakeError{Status: 403, Message: "not for you"}, 403, "not for you", map[string]string{"Retry-After": ""}},
		{
			"too many",
			&websocket.HandshakeError{Status: 429, Header: http.Header{"retry-after": {"30"}, "X-Limit": {"5"}}, Message: "slow down"},
			429, "slow down",
			map[string]string{"Retry-After": "30", "X-Limit": "5", "Sec-Websocket-Version": "13"},
		},
		{"unavailable", &websocket.HandshakeError{Status: 503}, 503, "Service Unavailable", map[string]string{"Retry-After": "1"}},
		{"unavailable for long", &websocket.HandshakeError{Status: 503, Header: http.Header{"Retry-After": {"60"}}}, 503, "Service Unavailable", map[string]string{"Retry-After": "60"}},
		{"default", &websocket.HandshakeError{Header: http.Header{"Www-Authenticate": {"Bearer"}}}, 401, "Unauthorized", map[string]string{"Www-Authenticate": "Bearer"}},
		{"wrapped", fmt.Errorf("secret: %w", &websocket.HandshakeError{Status: 403}), 403, "Forbidden", nil},
		{"other error", errors.New("secret"), 401, "websocket: not authenticated", nil},
		{"nil pointer", (*websocket.HandshakeError)(nil), 401, "websocket: not authenticated", nil},
		{"success", &websocket.HandshakeError{Status: 200, Message: "secret"}, 500, "websocket: internal error", nil},
		{"no status", &websocket.HandshakeError{Status: 1000}, 500, "websocket: internal error", nil},
		{
			"fields that break the response",
			&websocket.HandshakeError{Status: 403, Header: http.Header{
				"Content-Length": {"9999"}, "Transfer-Encoding": {"chunked"}, "Connection": {"Upgrade"}, "Sec-Websocket-Version": {"8"},
				"X-A": {"1\r\nX-Injected: 2"}, "X-B: 3\r\nX-Injected": {"4"},
			}},
			403, "Forbidden",
			map[string]string{"X-Injected": "", "Connection": "", "Sec-Websocket-Version": "13", "X-A": "1  X-Injected: 2"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.ClientID = func(*http.Request) (string, error) { return "", tt.err }
			refusals := newInbox[websocket.Refusal]()
			config.OnRefuse = refusals.put
			b := setup(t, config, options{})
			response := b.handshake(t, "", nil)
			require.Equal(t, tt.status, response.StatusCode)
			require.Equal(t, tt.body, strings.TrimSpace(bodyOf(t, response)))
			for name, want := range tt.header {
				require.Equal(t, want, response.Header.Get(name), name)
			}
			r := refusals.take(t)
			require.Equal(t, websocket.RefusedClientID, r.Reason)
			require.Equal(t, tt.status, r.Status)
			require.ErrorIs(t, r.Err, tt.err)
			require.Equal(t, "/", r.Request.URL.Path)
			require.Len(t, b.logs.matching("info", "refused"), 1)
		})
	}
}

// TestOnRefuse has a handshake for every reason.
func TestOnRefuse(t *testing.T) {
	t.Parallel()
	upgrade := func(change func(*http.Request)) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request {
			r := handshake(t, t.Context())
			if change != nil {
				change(r)
			}
			return r
		}
	}
	header := func(name, value string) func(*testing.T) *http.Request {
		return upgrade(func(r *http.Request) { r.Header.Set(name, value) })
	}
	tests := []struct {
		reason  websocket.RefusalReason
		status  int
		level   string
		config  func(*websocket.Config)
		request func(*testing.T) *http.Request
	}{
		{websocket.RefusedNotWebSocket, 426, "info", nil, header("Upgrade", "h2c")},
		{websocket.RefusedMalformed, 400, "info", nil, header("Sec-Websocket-Version", "8")},
		{websocket.RefusedMalformed, 405, "info", nil, upgrade(func(r *http.Request) { r.Method = "POST" })},
		{websocket.RefusedMalformed, 400, "info", nil, upgrade(func(r *http.Request) { r.ContentLength = 5 })},
		{websocket.RefusedMalformed, 400, "info", nil, upgrade(func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} })},
		{websocket.RefusedCodec, 400, "info", nil, header("Sec-Websocket-Protocol", "soap")},
		{websocket.RefusedOrigin, 403, "warning", nil, header("Origin", "https://evil.example")},
		{websocket.RefusedClientID, 401, "info", func(c *websocket.Config) {
			c.ClientID = func(*http.Request) (string, error) { return "a\nb", nil }
		}, upgrade(nil)},
		{websocket.RefusedHook, 500, "info", func(c *websocket.Config) { c.CheckOrigin = func(*http.Request) bool { panic("boom") } }, upgrade(nil)},
		{websocket.RefusedWriter, 500, "warning", nil, upgrade(nil)},
		{websocket.RefusedNotRunning, 503, "warning", nil, upgrade(func(r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			cancel()
			*r = *r.WithContext(ctx)
		})},
		{websocket.RefusedClosed, 503, "info", nil, upgrade(nil)},
		{websocket.RefusedDraining, 503, "info", nil, upgrade(nil)},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.reason, tt.status), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			if tt.config != nil {
				tt.config(&config)
			}
			w := newRecorder()
			var refusals []websocket.Refusal
			config.OnRefuse = func(r websocket.Refusal) {
				require.Zero(t, w.status, "the response is already written")
				refusals = append(refusals, r)
			}
			logs := &logCapture{}
			hub := websocket.NewHub(logs, config)
			if tt.reason != websocket.RefusedNotRunning {
				ran := make(chan error, 1)
				go func() { ran <- hub.Run(context.Background()) }() // ends with the hub
				defer func() {
					require.NoError(t, hub.Shutdown(context.Background()))
					<-ran // ErrHubClosed if Run was later than Shutdown
				}()
			}
			switch tt.reason {
			case websocket.RefusedClosed:
				require.NoError(t, hub.Shutdown(t.Context()))
			case websocket.RefusedDraining:
				<-hub.Started()
				_, err := hub.Drain(t.Context(), websocket.DrainOptions{})
				require.NoError(t, err)
			}
			r := tt.request(t)
			r.RemoteAddr = "192.0.2.1\nforged" // RealIP middleware sets it from a header
			hub.Handler().ServeHTTP(w, r)
			require.Equal(t, tt.status, w.status)
			require.Len(t, refusals, 1)
			require.Equal(t, tt.status, refusals[0].Status)
			require.Equal(t, tt.reason, refusals[0].Reason)
			require.Error(t, refusals[0].Err)
			require.Same(t, r, refusals[0].Request)
			for reason, n := range hub.Stats().Refused.All() {
				require.Equal(t, reason == tt.reason, n == 1, "%s: %d", reason, n)
			}
			require.EqualValues(t, 1, hub.Stats().Refused.Total())
			lines := logs.matching(tt.level, fmt.Sprintf("handshake refused: status=%d reason=%s ", tt.status, tt.reason))
			require.Len(t, lines, 1, "%q", logs.matching("", ""))
			require.NotContains(t, lines[0], "\n")
			require.Contains(t, lines[0], `address="192.0.2.1\nforged"`)
		})
	}
}

// TestOnRefuseReportsLimits fills a hub.
func TestOnRefuseReportsLimits(t *testing.T) {
	t.Parallel()
	config := withQueryID(websocket.DefaultConfig)
	config.MaxClients = 2
	refusals := newInbox[websocket.Refusal]()
	config.OnRefuse = refusals.put
	b := setup(t, config, options{})
	b.connect(t, dialing{query: "id=a"})
	require.Equal(t, 409, b.handshake(t, "id=a", nil).StatusCode)
	require.Equal(t, websocket.RefusedDuplicateID, refusals.take(t).Reason)
	b.connect(t, dialing{query: "id=b"})
	require.Equal(t, 503, b.handshake(t, "id=c", nil).StatusCode)
	require.Equal(t, websocket.RefusedLimit, refusals.take(t).Reason)
}

// A panic of OnRefuse changes nothing for the client.
func TestPanicInOnRefuse(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.OnRefuse = func(websocket.Refusal) { panic("boom") }
	b := setup(t, config, options{logsError: true})
	require.Equal(t, 400, b.handshake(t, "", http.Header{"Sec-Websocket-Key": nil}).StatusCode)
	require.Len(t, b.logs.matching("error", "OnRefuse"), 1)
}

// TestRefusalsAreLogged floods a hub with refused handshakes and checks the log.
// TestDataBehindHandshakeIsRefused sends a frame together with the handshake.
func TestDataBehindHandshakeIsRefused(t *testing.T) {
	t.Parallel()
	refused := make(chan websocket.Refusal, 1) // OnRefuse sends, the test receives
	config := websocket.DefaultConfig
	config.OnRefuse = func(r websocket.Refusal) { refused <- r }
	b := setup(t, config, options{})
	nc, err := net.Dial("tcp", b.server.Listener.Addr().String())
	require.NoError(t, err)
	defer nc.Close()
	_, err = nc.Write([]byte("GET / HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" +
		"\x81\x80\x00\x00\x00\x00"))
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(nc), nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusBadRequest, response.StatusCode)
	require.Contains(t, bodyOf(t, response), "before the handshake was complete")
	r := await(t, refused)
	require.Equal(t, websocket.RefusedMalformed, r.Reason)
	require.Equal(t, http.StatusBadRequest, r.Status)
}

func TestRefusalsAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs := &logCapture{}
		hub := websocket.NewHub(logs, websocket.DefaultConfig)
		ran := make(chan error, 1)
		go func() { ran <- hub.Run(t.Context()) }() // ends with the hub
		synctest.Wait()
		refuse := func(origin string) {
			r := handshake(t, t.Context())
			r.Header.Set("Origin", origin)
			r.RemoteAddr = "192.0.2.1:1"
			hub.Handler().ServeHTTP(newRecorder(), r)
		}
		refuse("https://evil.example\nERROR forged " + strings.Repeat("é", 1<<12))
		lines := logs.matching("", "")
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], `origin="https://evil.example\nERROR forged éé`)
		require.Contains(t, lines[0], `host="hub.test"`)
		require.Contains(t, lines[0], "AllowedOrigins")
		require.Less(t, len(lines[0]), 1000)
		for range 100 {
			refuse("https://evil.example")
		}
		require.Len(t, logs.matching("", ""), 5)
		time.Sleep(time.Minute)
		refuse("https://evil.example")
		lines = logs.matching("", "")
		require.Len(t, lines, 6)
		require.Contains(t, lines[5], "(96 similar lines were left out)")
		for range 10 {
			refuse("https://evil.example")
		}
		require.NoError(t, hub.Shutdown(t.Context()))
		require.NoError(t, <-ran)
		require.Len(t, logs.matching("", `log lines were left out: kind="refused: origin" left_out=6`), 1)
	})
}

// TestInvalidIDIsExplained checks that the log says what is wrong with an ID.
func TestInvalidIDIsExplained(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]string{strings.Repeat("x", 256): "256 bytes", "\xff": "UTF-8", "a\n": "control character"} {
		config := websocket.DefaultConfig
		config.ClientID = func(*http.Request) (string, error) { return id, nil }
		b := setup(t, config, options{})
		require.Equal(t, 401, b.handshake(t, "", nil).StatusCode)
		require.Len(t, b.logs.matching("info", "Config.ClientID returned an invalid ID: "), 1)
		require.Len(t, b.logs.matching("info", want), 1)
		require.Empty(t, b.logs.matching("", "channel name"))
	}
}
