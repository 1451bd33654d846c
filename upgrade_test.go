package websocket_test

import (
	"errors"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestHandshakeRefusals(t *testing.T) {
	t.Parallel()
	refuseID := func(*http.Request) (string, error) { return "", errors.New("unknown user\nERROR forged line") }
	fixed := func(id string) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return id, nil }
	}
	tests := []struct {
		name   string
		config func(*websocket.Config)
		header http.Header
		status int
	}{
		{"plain GET", nil, http.Header{"Connection": nil, "Upgrade": nil}, 426},
		{"other upgrade", nil, http.Header{"Upgrade": {"h2c"}}, 426},
		{"POST", nil, http.Header{"Test-Method": {"POST"}}, 405},
		{"old version", nil, http.Header{"Sec-Websocket-Version": {"8"}}, 400},
		{"body", nil, http.Header{"Test-Body": {"5 bytes"}}, 400},
		{"chunked body", nil, http.Header{"Test-Body": {"chunked"}}, 400},
		{"no key", nil, http.Header{"Sec-Websocket-Key": nil}, 400},
		{"unknown subprotocol", nil, http.Header{"Sec-Websocket-Protocol": {"soap"}}, 400},
		{"not authenticated", func(c *websocket.Config) { c.ClientID = refuseID }, nil, 401},
		{"empty ID with an error", func(c *websocket.Config) {
			c.ClientID = func(*http.Request) (string, error) { return "", errors.New("no session") }
		}, nil, 401},
		{"ID of spaces and a line", func(c *websocket.Config) { c.ClientID = fixed(" \n") }, nil, 401},
		{"long ID", func(c *websocket.Config) { c.ClientID = fixed(strings.Repeat("x", 256)) }, nil, 401},
		{"ID is not UTF-8", func(c *websocket.Config) { c.ClientID = fixed("\xff") }, nil, 401},
		{"cross origin", nil, http.Header{"Origin": {"https://evil.example"}}, 403},
		{"origin null", nil, http.Header{"Origin": {"null"}}, 403},
		{"malformed origin", nil, http.Header{"Origin": {"%%%"}}, 403},
		{"CheckOrigin", func(c *websocket.Config) { c.CheckOrigin = func(*http.Request) bool { return false } }, nil, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			if tt.config != nil {
				tt.config(&config)
			}
			b := setup(t, config, options{})
			response := b.handshake(t, "", tt.header)
			require.Equal(t, tt.status, response.StatusCode)
			require.NotEmpty(t, bodyOf(t, response))
			require.Equal(t, "13", response.Header.Get("Sec-Websocket-Version"))
			require.Equal(t, tt.status == 426, response.Header.Get("Upgrade") == "websocket")
			require.Zero(t, b.connected.len())
			require.Zero(t, b.hub.Stats().TotalConnections)
			if tt.status == 401 {
				require.Len(t, b.logs.matching("info", "refused"), 1)
			}
		})
	}
}

func TestHandshakeIsRefusedUnlessHubRuns(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.HandshakeTimeout = 50 * time.Millisecond
	b := setup(t, config, options{notRun: true})
	for _, when := range []string{"before Run", "after Shutdown"} {
		response := b.handshake(t, "", nil)
		require.Equal(t, http.StatusServiceUnavailable, response.StatusCode, when)
		require.NotEmpty(t, response.Header.Get("Retry-After"), when)
		require.NoError(t, b.hub.Shutdown(t.Context()))
	}
	require.Zero(t, b.connected.len())
}

// A handshake hook runs before there is a client. After its panic the hub must not
// count the handshake any longer, or Shutdown would wait for it.
func TestPanicInHandshakeHookEndsHandshake(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*websocket.Config){
		"ClientID":    func(c *websocket.Config) { c.ClientID = func(*http.Request) (string, error) { panic("boom") } },
		"CheckOrigin": func(c *websocket.Config) { c.CheckOrigin = func(*http.Request) bool { panic("boom") } },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.DrainTimeout, config.CallbackTimeout = 100*time.Millisecond, 100*time.Millisecond
			change(&config)
			b := setup(t, config, options{logsError: true})
			_, err := b.tryDial(dialing{})
			require.Error(t, err)
			require.NoError(t, b.hub.Shutdown(t.Context()), "the handshake is still counted")
		})
	}
}

// A handshake hook that fails ends its own handshake and frees its places under
// MaxHandshakes and MaxClients.
func TestFailingHandshakeHooksFreeTheirPlaces(t *testing.T) {
	for _, name := range []string{"ClientID", "CheckOrigin"} {
		for how, fail := range map[string]func(){"panic": func() { panic("oh no") }, "Goexit": runtime.Goexit} {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					config := websocket.DefaultConfig
					config.MaxHandshakes, config.MaxClients = 2, 2
					failing := true
					hook := func() {
						if failing {
							fail()
						}
					}
					if name == "ClientID" {
						config.ClientID = func(*http.Request) (string, error) { hook(); return "alice", nil }
					} else {
						config.CheckOrigin = func(*http.Request) bool { hook(); return true }
					}
					hub := startFake(t, paths[0], config, nil, l.watch)
					for range 3 {
						server, client := testnet.Pair(1 << 16)
						served := hub.accept(server)
						_, err := client.Write([]byte(handshakeRequest))
						require.NoError(t, err)
						<-served
						_ = client.Close()
					}
					failing = false
					server, client := testnet.Pair(1 << 16)
					ws, response, err := hub.dial(server, client, nil)
					require.NoError(t, err, "handshake after failed handshakes: %+v", response)
					_ = ws.Close()
					hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
	}
}

// TestHeadersOfMiddleware sets headers before the hub. They must be in the 101 response,
// except for those that would break it.
func TestHeadersOfMiddleware(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{
		handler: func(h *websocket.Hub) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				maps.Copy(w.Header(), http.Header{
					"Set-Cookie":               {"session=1; Path=/", "theme=dark"},
					"X-Request-Id":             {"42"},
					"x-lower":                  {"kept"},
					"X-Empty":                  nil,
					"X-Value":                  {"1\r\nX-Injected: 2"},
					"X-Name: 3\r\nX-Injected":  {"4"},
					"":                         {"no name"},
					"Connection":               {"close, X-Hop"},
					"X-Hop":                    {"this connection only"},
					"Keep-Alive":               {"timeout=5"},
					"Upgrade":                  {"h2c"},
					"Transfer-Encoding":        {"chunked"},
					"Trailer":                  {"X"},
					"Te":                       {"trailers"},
					"Content-Length":           {"9"},
					"Content-Encoding":         {"gzip"},
					"content-type":             {"text/html"},
					"Sec-Websocket-Accept":     {"forged"},
					"sec-websocket-protocol":   {"soap"},
					"Sec-Websocket-Extensions": {"x"},
				})
				h.Handler().ServeHTTP(w, r)
			})
		},
	})
	p, _ := b.connect(t, dialing{codec: "msgpack"})
	response := http.Header{
		"Upgrade":                {"websocket"},
		"Connection":             {"Upgrade"},
		"Sec-Websocket-Accept":   p.response.Header["Sec-Websocket-Accept"],
		"Sec-Websocket-Protocol": {"msgpack"},
		"Set-Cookie":             {"session=1; Path=/", "theme=dark"},
		"X-Request-Id":           {"42"},
		"X-Lower":                {"kept"},
		"X-Value":                {"1  X-Injected: 2"},
	}
	require.Equal(t, response, p.response.Header)
	p.do(t, wire{Type: "broadcast"})

	// Refusals keep the headers, too.
	refused := b.handshake(t, "", http.Header{"Sec-Websocket-Protocol": {"soap"}})
	require.Equal(t, 400, refused.StatusCode)
	require.Equal(t, "42", refused.Header.Get("X-Request-Id"))
}

// TestWriterWithoutHijack wraps the handler in middleware whose writer cannot hand over
// the connection. The response and the log must name that writer.
func TestWriterWithoutHijack(t *testing.T) {
	t.Parallel()
	wrap := func(f func(http.ResponseWriter) http.ResponseWriter) func(http.Handler) http.Handler {
		return func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next.ServeHTTP(f(w), r) })
		}
	}
	for want, middleware := range map[string]func(http.Handler) http.Handler{
		"*http.timeoutWriter":         func(next http.Handler) http.Handler { return http.TimeoutHandler(next, patience, "") },
		"websocket_test.opaqueWriter": wrap(func(w http.ResponseWriter) http.ResponseWriter { return opaqueWriter{w} }),
		"websocket_test.opaqueWriter ": wrap(func(w http.ResponseWriter) http.ResponseWriter {
			return unwrapper{opaqueWriter{w}}
		}),
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{
				handler: func(h *websocket.Hub) http.Handler { return middleware(h.Handler()) },
			})
			response := b.handshake(t, "", nil)
			require.Equal(t, 500, response.StatusCode)
			require.Contains(t, bodyOf(t, response), strings.TrimSpace(want)+" has no method Hijack")
			require.Len(t, b.logs.matching("warning", "http.TimeoutHandler"), 1)
		})
	}
}

// opaqueWriter hides all other methods of a writer.
type opaqueWriter struct{ http.ResponseWriter }

// TestMissingRunIsLogged makes handshakes with a hub that nothing runs.
func TestMissingRunIsLogged(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := &logCapture{}
		hub := websocket.NewHub(logs, websocket.DefaultConfig)
		done := make(chan struct{}, 2) // the goroutines send, the test receives
		for range 2 {
			r := handshake(t, t.Context())
			go func() { // ends with the handshake
				hub.Handler().ServeHTTP(newRecorder(), r)
				done <- struct{}{}
			}()
		}
		time.Sleep(time.Second - 1)
		synctest.Wait()
		require.Empty(t, logs.matching("", ""))
		time.Sleep(time.Second)
		require.Len(t, logs.matching("", ""), 1)
		require.Len(t, logs.matching("warning", "go hub.Run(ctx)"), 1)
		require.NoError(t, hub.Shutdown(t.Context()))
		<-done
		<-done
		require.Len(t, logs.matching("warning", "go hub.Run(ctx)"), 1)
	})
}
