package websocket_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// TestEndsOfConnectionsAreLogged ends connections in every way and checks the line, its
// level and the count.
func TestEndsOfConnectionsAreLogged(t *testing.T) {
	t.Parallel()
	closeWith := func(code int) func(t *testing.T, hub *fakeHub, peer *fakePeer, c *websocket.Client) {
		return func(t *testing.T, _ *fakeHub, _ *fakePeer, c *websocket.Client) {
			require.NoError(t, c.Close(code, "enough\n"))
		}
	}
	peerCloses := func(code int) func(t *testing.T, hub *fakeHub, peer *fakePeer, c *websocket.Client) {
		return func(t *testing.T, _ *fakeHub, peer *fakePeer, _ *websocket.Client) {
			require.NoError(t, peer.WriteMessage(gorilla.CloseMessage, gorilla.FormatCloseMessage(code, "enough\n")))
		}
	}
	for _, tt := range []struct {
		name, level, line string
		count             websocket.CloseCount
		end               func(t *testing.T, hub *fakeHub, peer *fakePeer, c *websocket.Client)
	}{
		{"close", "info", `code=1000 reason="enough\n" by=hub client="c" address="127.0.0.1" age=1m`, websocket.CloseCount{Code: 1000, ByHub: 1}, closeWith(1000)},
		{"own code", "info", `code=4000 `, websocket.CloseCount{Code: 0, ByHub: 1}, closeWith(4000)},
		{"peer closes", "debug", `code=1000 reason="enough\n" by=peer client="c" address="127.0.0.1" age=1m`, websocket.CloseCount{Code: 1000, ByPeer: 1}, peerCloses(1000)},
		{"peer leaves", "debug", `code=1001 `, websocket.CloseCount{Code: 1001, ByPeer: 1}, peerCloses(1001)},
		{"peer complains", "info", `code=1007 `, websocket.CloseCount{Code: 1007, ByPeer: 1}, peerCloses(1007)},
		{"peer cuts", "debug", `code=1006 reason="unexpected EOF" by=peer `, websocket.CloseCount{Code: 1006, ByPeer: 1}, func(t *testing.T, _ *fakeHub, peer *fakePeer, _ *websocket.Client) {
			require.NoError(t, peer.Conn.Close())
		}},
		{"shutdown", "info", `code=1001 reason="server is shutting down" by=hub `, websocket.CloseCount{Code: 1001, ByHub: 1}, func(_ *testing.T, hub *fakeHub, peer *fakePeer, _ *websocket.Client) {
			go func() { _ = hub.Shutdown(context.Background()) }() // ends with the hub
			_, _, _ = peer.ReadMessage()
		}},
		{"protocol error", "info", `code=1002 `, websocket.CloseCount{Code: 1002, ByHub: 1}, func(t *testing.T, _ *fakeHub, peer *fakePeer, _ *websocket.Client) {
			_, err := peer.NetConn().Write([]byte{0xf1, 0x80, 0, 0, 0, 0})
			require.NoError(t, err)
		}},
		{"slow", "warning", `code=1013 reason="slow consumer: backlog limit reached" by=hub client="c" address="127.0.0.1" age=1m`, websocket.CloseCount{Code: 1013, ByHub: 1}, func(t *testing.T, hub *fakeHub, _ *fakePeer, _ *websocket.Client) {
			for range 20 {
				require.NoError(t, hub.Broadcast(make([]byte, 900)))
				synctest.Wait()
			}
		}},
		{"stuck", "warning", `code=1006 reason="websocket: connection accepted nothing for WriteWait" by=hub `, websocket.CloseCount{Code: 1006, ByHub: 1}, func(t *testing.T, hub *fakeHub, _ *fakePeer, _ *websocket.Client) {
			require.NoError(t, hub.Broadcast(make([]byte, 900)))
		}},
		{"panic", "warning", `code=1011 reason="internal error" by=hub `, websocket.CloseCount{Code: 1011, ByHub: 1}, func(t *testing.T, _ *fakeHub, peer *fakePeer, _ *websocket.Client) {
			require.NoError(t, peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"panic"}`)))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxMessageSize, config.ClientBacklog, config.SlowConsumer = 1000, 3000, websocket.EvictSlow
				config.PongWait, config.PingPeriod = time.Hour, 50*time.Minute
				client := make(chan *websocket.Client, 1)
				config.OnConnect = func(c *websocket.Client) { client <- c }
				config.OnMessage = func(*websocket.Client, *websocket.Message) { panic("boom") }
				config.ClientID = func(*http.Request) (string, error) { return "c", nil }
				logs := &logCapture{}
				hub := runFakeWithLogger(t, paths[0], logs, config)
				defer hub.stop()
				peer := hub.connect(500, nil)
				defer peer.Close()
				time.Sleep(time.Minute)
				tt.end(t, hub, peer, <-client)
				time.Sleep(10 * time.Minute)
				lines := logs.matching("", "connection closed: ")
				require.Len(t, lines, 1)
				require.Contains(t, lines[0], tt.level+": websocket: connection closed: "+tt.line)
				require.NotContains(t, lines[0], "\n")
				require.Equal(t, hub.Stats().Dropped.Total(), droppedIn(t, lines[0]))
				var counted []websocket.CloseCount
				for _, n := range hub.Stats().Closes {
					if n.ByHub+n.ByPeer > 0 {
						counted = append(counted, n)
					}
				}
				require.Equal(t, []websocket.CloseCount{tt.count}, counted)
			})
		})
	}
}

// droppedIn returns the number of dropped messages in a line.
func droppedIn(t *testing.T, line string) (n uint64) {
	t.Helper()
	_, after, _ := strings.Cut(line, " dropped=")
	_, err := fmt.Sscan(after, &n)
	require.NoError(t, err, line)
	return n
}

// structuredLog is a StructuredLogger that keeps lines as JSON.
type structuredLog struct {
	quietLogger
	*slog.Logger
	lines *lockedBuffer
}

func newStructuredLog() structuredLog {
	lines := &lockedBuffer{}
	return structuredLog{Logger: slog.New(&contextHandler{slog.NewJSONHandler(lines, nil)}), lines: lines}
}

// LogAttrs also checks that no value is left for handlers to resolve, which some do not.
func (l structuredLog) LogAttrs(ctx context.Context, level slog.Level, message string, attrs ...slog.Attr) {
	for _, a := range attrs {
		if a.Value.Kind() == slog.KindLogValuer {
			attrs = append(attrs, slog.String("unresolved", a.Key))
		}
	}
	l.Logger.LogAttrs(ctx, level, message, attrs...)
}

// lockedBuffer is a buffer that any goroutine may write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

// traceKey is the key of a value in the context of requests.
type traceKey struct{}

// contextHandler adds a value of the context to each line.
type contextHandler struct{ slog.Handler }

func (h *contextHandler) Handle(ctx context.Context, r slog.Record) error {
	if trace, ok := ctx.Value(traceKey{}).(string); ok {
		r.AddAttrs(slog.String("trace", trace))
	}
	return h.Handler.Handle(ctx, r)
}

// take returns the lines and forgets them.
func (l structuredLog) take(t *testing.T) (lines []map[string]any) {
	t.Helper()
	l.lines.mu.Lock()
	defer l.lines.mu.Unlock()
	for line := range strings.Lines(l.lines.b.String()) {
		fields := map[string]any{}
		require.NoError(t, json.Unmarshal([]byte(line), &fields), line)
		delete(fields, "time")
		lines = append(lines, fields)
	}
	l.lines.b.Reset()
	return lines
}

// TestStructuredLogger checks the attributes of lines, also of those with hostile texts.
func TestStructuredLogger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		logs := newStructuredLog()
		config := websocket.DefaultConfig
		config.ClientID = func(r *http.Request) (string, error) { return r.Header.Get("Id"), nil }
		hub := runFakeWithLogger(t, paths[0], logs, config)
		refuse := func() {
			r := handshake(t, context.WithValue(t.Context(), traceKey{}, "4bf92f"))
			r.Header.Set("Origin", "https://evil.example\nERROR \xff"+strings.Repeat("\u00e9", 1<<12))
			r.RemoteAddr = "192.0.2.1:1"
			hub.Handler().ServeHTTP(newRecorder(), r)
		}
		refuse()
		lines := logs.take(t)
		require.Len(t, lines, 1)
		origin := lines[0]["origin"].(string)
		require.True(t, strings.HasPrefix(origin, "https://evil.example\nERROR \uFFFD\u00e9\u00e9"), origin)
		require.True(t, strings.HasSuffix(origin, "\u00e9..."), origin)
		require.LessOrEqual(t, len(origin), 207)
		delete(lines[0], "origin")
		delete(lines[0], "error")
		require.Equal(t, map[string]any{
			"level": "WARN", "msg": "websocket: handshake refused", "status": 403.0, "reason": "origin", "address": "192.0.2.1", "host": "hub.test", "trace": "4bf92f",
		}, lines[0])
		for range 10 {
			refuse()
		}
		logs.take(t)
		time.Sleep(time.Minute)
		refuse()
		require.EqualValues(t, 6, logs.take(t)[0]["left_out"])

		peer := hub.connect(1000, http.Header{"Id": {"anna \"x\""}})
		synctest.Wait()
		hub.stop()
		_ = peer.Close()
		lines = logs.take(t)
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "age")
		delete(lines[0], "age")
		require.Equal(t, map[string]any{
			"level": "INFO", "msg": "websocket: connection closed", "code": 1001.0, "reason": "server is shutting down", "by": "hub",
			"client": "anna \"x\"", "address": "127.0.0.1", "dropped": 0.0,
		}, lines[0])
	})
}

// SlogLogger passes fields on as attributes.
func TestSlogLoggerIsStructured(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l, ok := websocket.SlogLogger(slog.New(slog.NewTextHandler(&b, nil))).(websocket.StructuredLogger)
	require.True(t, ok)
	l.LogAttrs(t.Context(), slog.LevelWarn, "something", slog.Int("n", 1))
	require.Contains(t, b.String(), "level=WARN msg=something n=1")
}

// stuckLogger blocks when a connection ends.
type stuckLogger struct {
	quietLogger
	release chan struct{} // closed by the test
}

func (l stuckLogger) Infof(string, ...any) { <-l.release }

// TestStuckLogger lets a Logger block for the line about one client. Messages to others and
// their handshakes must not wait for it.
func TestStuckLogger(t *testing.T) {
	t.Parallel()
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				logger := stuckLogger{release: make(chan struct{})}
				var clients []*websocket.Client
				config := websocket.DefaultConfig
				config.Shards = 1
				config.OnConnect = func(c *websocket.Client) {
					clients = append(clients, c)
					_ = c.Subscribe("news")
				}
				hub := runFakeWithLogger(t, p, logger, config)
				peer, other := hub.connect(10_000, nil), hub.connect(10_000, nil)
				require.NoError(t, clients[0].Close(1000, ""))
				_, _, err := peer.ReadMessage()
				require.True(t, gorilla.IsCloseError(err, 1000), err)
				time.Sleep(time.Minute / 2)
				third := hub.connect(10_000, nil)
				require.NoError(t, hub.PublishToChannelRaw("news", []byte("1")))
				for _, peer := range []*fakePeer{other, third} {
					require.EqualValues(t, 1, readJSON(t, peer)["data"])
				}
				require.EqualValues(t, 1, hub.Stats().Closes[0].ByHub)
				close(logger.release)
				hub.stop()
				_, _ = other.Close(), third.Close()
			})
		})
	}
}
