package websocket_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// debugGet returns the response of the DebugHandler.
func debugGet(t testing.TB, h *websocket.Hub, method, query string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, "/debug/hub?"+query, nil)
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	h.DebugHandler().ServeHTTP(w, r)
	return w
}

func TestDebugHandlerResponses(t *testing.T) {
	t.Parallel()
	hub := websocket.NewHub(quietLogger{}, websocket.DefaultConfig) // not running yet
	accept := func(s string) http.Header { return http.Header{"Accept": {s}} }
	const page, data = "text/html; charset=utf-8", "application/json"
	for _, tt := range []struct {
		method, query string
		header        http.Header
		status        int
		typ           string
	}{
		{"GET", "", nil, 200, page},
		{"HEAD", "", nil, 200, page},
		{"GET", "", accept("text/html,application/xhtml+xml,*/*;q=0.8"), 200, page},
		{"GET", "", accept("text/html, application/json"), 200, page},
		{"GET", "", accept("application/json"), 200, data},
		{"GET", "format=json", accept("text/html"), 200, data},
		{"GET", "format=html", accept("application/json"), 200, page},
		{"GET", "client=a", nil, 404, page},
		{"HEAD", "client=", nil, 404, page},
		{"GET", "client=a&format=json", nil, 404, data},
		{"GET", "search=" + strings.Repeat("%ff", 10_000), nil, 200, page},
		{"GET", "%zz;", nil, 200, page},
		{"POST", "", nil, 405, "text/plain; charset=utf-8"},
		{"DELETE", "client=a", nil, 405, "text/plain; charset=utf-8"},
		{"OPTIONS", "", nil, 405, "text/plain; charset=utf-8"},
	} {
		w := debugGet(t, hub, tt.method, tt.query, tt.header)
		name := tt.method + " " + tt.query[:min(len(tt.query), 80)]
		require.Equal(t, tt.status, w.Code, name)
		header := w.Result().Header
		require.Equal(t, tt.typ, header.Get("Content-Type"), name)
		require.Equal(t, "no-store", header.Get("Cache-Control"))
		require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
		require.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
		require.Equal(t, "same-origin", header.Get("Cross-Origin-Resource-Policy"))
		policy := header.Get("Content-Security-Policy")
		require.True(t, strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-"), policy)
		require.NotContains(t, policy, "unsafe")
		require.Equal(t, tt.method == "HEAD", w.Body.Len() == 0, name)
		require.Less(t, w.Body.Len(), 20_000, name)
		if tt.status == 405 {
			require.Equal(t, "GET, HEAD", header.Get("Allow"))
		}
		if tt.typ == data {
			require.True(t, json.Valid(w.Body.Bytes()))
		}
	}
}

// Strings of clients cannot become markup, and secrets of a handshake, keys and payloads are
// on no page.
func TestDebugHandlerShowsNoSecrets(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			const id, hostile = `"'><script>alert(1)</script>&`, "<img src=x onerror=alert(2)>\u202e"
			config := websocket.DefaultConfig
			config.ClientID = func(*http.Request) (string, error) { return id, nil }
			config.Security = &websocket.SecurityConfig{AESKey: []byte("AESKEYAESKEYAESKEYAESKEYAESKEY32"), HMACKey: []byte("HMACKEY")}
			config.MaxMessageSize, config.ClientBacklog, config.SlowConsumer = 1000, 4000, websocket.DropNewest
			hub := runFake(t, p, config)
			defer hub.stop()
			peer := hub.connect(1, http.Header{"Authorization": {"Bearer SECRET1"}, "Cookie": {"session=SECRET2"}, "X-Other": {"SECRET3"}})
			defer peer.Close()
			c := onlyClient(t, hub)
			c.SetUser(hostile + "\n")
			c.SetMetadata("SECRET4", "SECRET5")
			require.NoError(t, c.SetHMACKey([]byte("SECRET6")))
			require.NoError(t, c.Subscribe(hostile))
			require.NoError(t, c.JoinRoom(hostile))
			for range 50 {
				require.NoError(t, hub.PublishToChannelRaw(hostile, []byte(`"SECRET7"`)))
			}
			synctest.Wait()
			for _, query := range []string{"", "client=" + url.QueryEscape(id), "search=" + url.QueryEscape(id), "client=" + url.QueryEscape(hostile)} {
				for _, format := range []string{"&format=json", ""} {
					w := debugGet(t, hub.Hub, "GET", query+format, nil)
					body := w.Body.String()
					require.NotContains(t, body, "SECRET")
					require.NotContains(t, body, "AESKEY")
					require.NotContains(t, body, "HMACKEY")
					require.NotContains(t, body, "<script")
					require.NotContains(t, body, "<img")
					if format == "" {
						require.NotContains(t, body, "\u202e")
						require.Contains(t, body, "&lt;")
					}
				}
			}
			body := debugGet(t, hub.Hub, "GET", "", nil).Body.String()
			require.Contains(t, body, `<a href="?client=%22%27%3E%3Cscript%3Ealert%281%29%3C%2Fscript%3E%26">`)
			require.Contains(t, body, `<bdi>&lt;img src=x onerror=alert(2)&gt;\u{202e}\u{a}</bdi>`)
			detail := debugGet(t, hub.Hub, "GET", "client="+url.QueryEscape(id), nil)
			require.Equal(t, 200, detail.Code)
			require.Contains(t, detail.Body.String(), "slow_consumer")
		})
	})
}

// The lists have the largest elements, the largest first.
func TestDebugHandlerLists(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.ClientID, config.MaxSubscriptions = byID, -1
		hub := runFake(t, path{}, config)
		defer hub.stop()
		var clients []*websocket.Client
		for i := range 60 {
			peer := hub.connect(1, withID(fmt.Sprintf("client-%02d", i)))
			defer peer.Close()
			c, ok := hub.Client(fmt.Sprintf("client-%02d", i))
			require.True(t, ok)
			clients = append(clients, c)
		}
		for i, c := range clients {
			for range i + 1 {
				require.NoError(t, c.Send(&websocket.Message{Data: []byte(`"1234567890"`)}))
			}
			for topic := range i + 1 {
				require.NoError(t, c.Subscribe(fmt.Sprint(topic)))
				require.NoError(t, c.JoinRoom(fmt.Sprint(topic)))
			}
		}
		synctest.Wait()
		type list []struct {
			ID, Name string
			Members  int
			Backlog  websocket.BacklogInfo
		}
		state := func(query string) (s struct {
			Health                   websocket.Health
			Stats                    websocket.Stats
			Slow                     list `json:"slow_clients"`
			Matches, Channels, Rooms list
		}) {
			require.NoError(t, json.Unmarshal(debugGet(t, hub.Hub, "GET", "format=json&"+query, nil).Body.Bytes(), &s))
			return s
		}
		s := state("")
		require.Equal(t, 60, s.Stats.ActiveConnections)
		require.True(t, s.Health.Running)
		require.Nil(t, s.Matches)
		require.Len(t, s.Slow, 50)
		require.Len(t, s.Channels, 50)
		require.Len(t, s.Rooms, 50)
		for i := range 50 {
			require.Equal(t, fmt.Sprintf("client-%02d", 59-i), s.Slow[i].ID)
			require.Positive(t, s.Slow[i].Backlog.Bytes)
			require.Equal(t, fmt.Sprint(i), s.Channels[i].Name)
			require.Equal(t, 60-i, s.Channels[i].Members)
			require.Equal(t, fmt.Sprint(i), s.Rooms[i].Name)
		}
		require.Len(t, state("search=client").Matches, 50)
		require.Len(t, state("search=ent-5").Matches, 10)
		require.Empty(t, state("search=CLIENT-5").Matches)
		body := debugGet(t, hub.Hub, "GET", "search=ent-59", nil).Body.String()
		require.Contains(t, body, `value="ent-59"`)
		require.Contains(t, body, "Clients found")
	})
}
