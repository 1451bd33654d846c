package websocket_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// A handler's result becomes the data of the ack, and its error an error reply.
func TestHandle(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{logsError: true})
	results := map[string]any{
		"nothing": nil,
		"bytes":   []byte(`"as it is"`),
		"raw":     json.RawMessage(`{"a":1}`),
		"value":   map[string]int{"b": 2},
		"refused": &websocket.RequestError{Code: "sold_out", Message: "no seats"},
		"no code": fmt.Errorf("wrapped: %w", &websocket.RequestError{Message: "not today"}),
		"not you": websocket.ErrForbidden,
		"failed":  errors.New("the database is away"),
		"no JSON": make(chan int),
		"large":   []byte(`"` + strings.Repeat("x", 2<<20) + `"`),
		"panics":  func() { panic("boom") },
	}
	b.hub.Handle("ask", func(ctx context.Context, c *websocket.Client, m *websocket.Message) (any, error) {
		require.Equal(t, c.Context(), ctx)
		require.Equal(t, c.ID, m.ClientID)
		var name string
		if err := json.Unmarshal(m.Data, &name); err != nil {
			return nil, err
		}
		switch v := results[name].(type) {
		case error:
			return "ignored", v
		case func():
			v()
		}
		m.ID, m.Type = "changed", "changed"
		return results[name], nil
	})
	for _, codec := range subprotocols {
		p, _ := b.connect(t, dialing{codec: codec})
		for name, want := range map[string]string{"nothing": "", "bytes": `"as it is"`, "raw": `{"a":1}`, "value": `{"b":2}`} {
			p.send(t, wire{Type: "ask", ID: name, Data: mustJSON(name)})
			m := p.read(t)
			require.NotZero(t, m.Timestamp)
			require.Equal(t, wire{Type: "ack", ID: name, Timestamp: m.Timestamp, Data: m.Data}, m)
			require.Equal(t, want, string(m.Data), "%s: %s", codec, name)
		}
		for _, tt := range []struct{ name, code, text string }{
			{"refused", "sold_out", "no seats"},
			{"no code", "forbidden", "not today"},
			{"not you", "forbidden", "websocket: not allowed"},
			{"failed", "internal", "internal error"},
			{"no JSON", "internal", "internal error"},
			{"panics", "internal", "internal error"},
		} {
			p.send(t, wire{Type: "ask", ID: tt.name, Data: mustJSON(tt.name)})
			require.Equal(t, tt.text, p.requireError(t, tt.name, "", tt.code), codec)
		}
		p.send(t, wire{Type: "ask", ID: "large", Data: mustJSON("large")})
		require.Contains(t, p.requireError(t, "large", "", "too_large"), "2097")

		p.send(t, wire{Type: "ask", Data: mustJSON("value")}) // no ID, no answer
		p.send(t, wire{Type: "other", ID: "1"})               // no handler
		require.Equal(t, "other", b.messages.take(t).message.Type)
		require.Empty(t, p.do(t, wire{Type: "subscribe", Data: p.codec.channel("news")}))
		require.Equal(t, "subscribe", b.messages.take(t).message.Type)
		require.Zero(t, b.messages.len(), "handled messages do not reach OnMessage")
	}
	require.NotEmpty(t, b.logs.matching("error", "the database is away"))
	require.NotEmpty(t, b.logs.matching("error", "boom"))
}

func TestHandlePanics(t *testing.T) {
	t.Parallel()
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	handler := func(context.Context, *websocket.Client, *websocket.Message) (any, error) { return nil, nil }
	hub.Handle("ask", handler)
	for _, typ := range []string{"ask", "", "subscribe", "message", "ack", "hub:hello", "hub:mine"} {
		require.Panics(t, func() { hub.Handle(typ, handler) }, typ)
		require.Panics(t, func() { hub.HandleConcurrent(typ, handler) }, typ)
	}
	require.Panics(t, func() { hub.Handle("nil", nil) })
}

// inHandlerHub runs f in a bubble, with a hub that has the handler "wait". The handler
// records its client's ID in begun, and returns when it receives from next or its ctx ends.
func inHandlerHub(t *testing.T, concurrent bool, config websocket.Config, f func(hub *fakeHub, begun *inbox[string], next chan string)) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			begun, next := newInbox[string](), make(chan string)
			hub := runFake(t, p, config)
			register := hub.Handle
			if concurrent {
				register = hub.HandleConcurrent
			}
			register("wait", func(ctx context.Context, c *websocket.Client, m *websocket.Message) (any, error) {
				begun.put(string(m.Data))
				select {
				case result := <-next:
					return map[string]string{string(m.Data): result}, nil
				case <-ctx.Done():
					return nil, ctx.Err()
				}
			})
			f(hub, begun, next)
			hub.stop()
		})
	})
}

func writeText(t testing.TB, p *fakePeer, format string, args ...any) {
	t.Helper()
	require.NoError(t, p.WriteMessage(gorilla.TextMessage, fmt.Appendf(nil, format, args...)))
}

// Handlers of one client run one at a time, those of Concurrent up to the limit.
func TestHandlersInOrderAndConcurrent(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.MaxRequests = 2
	inHandlerHub(t, false, config, func(hub *fakeHub, begun *inbox[string], next chan string) {
		p := hub.connect(1<<20, nil)
		defer p.Close()
		for i := range 3 {
			writeText(t, p, `{"type":"wait","id":"%d","data":%d}`, i, i)
		}
		for i := range 3 {
			synctest.Wait()
			require.Equal(t, fmt.Sprint(i), begun.take(t))
			require.Zero(t, begun.len())
			next <- "done"
			m := readJSON(t, p)
			require.Equal(t, fmt.Sprint(i), m["id"])
			require.Equal(t, map[string]any{fmt.Sprint(i): "done"}, m["data"])
		}
	})
	inHandlerHub(t, true, config, func(hub *fakeHub, begun *inbox[string], next chan string) {
		p := hub.connect(1<<20, nil)
		defer p.Close()
		for i := range 3 {
			writeText(t, p, `{"type":"wait","id":"%d","data":%d}`, i, i)
		}
		m := readJSON(t, p)
		require.Equal(t, "2", m["id"], "the third request exceeds MaxRequests")
		require.Equal(t, "limit", m["data"].(map[string]any)["code"])
		synctest.Wait()
		require.Equal(t, 2, begun.len())
		for range 2 {
			next <- "done"
			require.Equal(t, "ack", readJSON(t, p)["type"])
		}
		writeText(t, p, `{"type":"wait","id":"again","data":1}`)
		next <- "done"
		require.Equal(t, "again", readJSON(t, p)["id"])
	})
}

// When a client leaves, the context of its handlers ends, and OnDisconnect runs after
// them. Concurrent requests that wait count as memory that the client holds.
func TestHandlersEndBeforeOnDisconnect(t *testing.T) {
	t.Parallel()
	var order inbox[string]
	order.ready = make(chan struct{}, 1)
	config := websocket.DefaultConfig
	config.OnDisconnect = func(*websocket.Client) { order.put("disconnected") }
	inHandlerHub(t, true, config, func(hub *fakeHub, begun *inbox[string], next chan string) {
		release := make(chan struct{})
		hub.HandleConcurrent("slow", func(ctx context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
			<-ctx.Done()
			<-release
			order.put("handled")
			return "nobody gets this", nil
		})
		p := hub.connect(1<<20, nil)
		synctest.Wait()
		held := hub.Stats().HeldBytes
		writeText(t, p, `{"type":"slow","id":"1","data":"%s"}`, strings.Repeat("x", 10_000))
		synctest.Wait()
		require.Greater(t, hub.Stats().HeldBytes, held+10_000)
		require.NoError(t, p.Close())
		synctest.Wait()
		require.Zero(t, order.len(), "OnDisconnect waits")
		close(release)
		require.Equal(t, "handled", order.take(t))
		require.Equal(t, "disconnected", order.take(t))
		require.Zero(t, hub.Stats().HeldBytes)
	})
}

// A handler that ends its goroutine gets its request answered, or the client closed.
func TestHandlerGoexit(t *testing.T) {
	t.Parallel()
	inHandlerHub(t, true, websocket.DefaultConfig, func(hub *fakeHub, _ *inbox[string], _ chan string) {
		exit := func(context.Context, *websocket.Client, *websocket.Message) (any, error) {
			runtime.Goexit()
			return nil, nil
		}
		hub.HandleConcurrent("exit", exit)
		hub.Handle("exit in order", exit)
		p := hub.connect(1<<20, nil)
		defer p.Close()
		writeText(t, p, `{"type":"exit","id":"1"}`)
		m := readJSON(t, p)
		require.Equal(t, "1 internal", fmt.Sprint(m["id"], " ", m["data"].(map[string]any)["code"]))
		writeText(t, p, `{"type":"exit in order","id":"2"}`)
		code, _ := closeCode(t, p)
		require.Equal(t, websocket.CloseInternalError, code)
	})
}

// Shutdown ends the context of a handler and waits for it.
func TestShutdownEndsHandlers(t *testing.T) {
	t.Parallel()
	for _, concurrent := range []bool{false, true} {
		inHandlerHub(t, concurrent, websocket.DefaultConfig, func(hub *fakeHub, begun *inbox[string], _ chan string) {
			p := hub.connect(1<<20, nil)
			writeText(t, p, `{"type":"wait","id":"1"}`)
			begun.take(t)
			go keepAlive(p) // ends with the connection
		})
	}
}

// The connection of a client with a waiting handler is noticed to have ended.
func TestHandlersSeeTheEndOfTheConnection(t *testing.T) {
	t.Parallel()
	for _, concurrent := range []bool{false, true} {
		b := setup(t, websocket.DefaultConfig, options{logsError: true})
		register := b.hub.Handle
		if concurrent {
			register = b.hub.HandleConcurrent
		}
		ended := newInbox[error]()
		register("wait", func(ctx context.Context, _ *websocket.Client, _ *websocket.Message) (any, error) {
			<-ctx.Done()
			ended.put(ctx.Err())
			return nil, ctx.Err()
		})
		p, _ := b.connect(t, dialing{header: http.Header{}})
		p.send(t, wire{Type: "wait", ID: "1"})
		require.NoError(t, p.Conn.Close())
		require.ErrorIs(t, ended.take(t), context.Canceled)
		b.disconnected.take(t)
	}
}
