package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, _ *recorder) {
			s.hub.Handle("echo", func(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
				return m.Data, nil
			})
			s.hub.Handle("refuse", func(context.Context, *websocket.Client, *websocket.Message) (any, error) {
				return nil, &websocket.RequestError{Code: "sold_out", Message: "come back tomorrow"}
			})
			for _, data := range [][]byte{[]byte(`{"n":1}`), {0xff, 0}, nil} {
				m, err := c.Request(t.Context(), "echo", data)
				require.NoError(t, err)
				require.Equal(t, data, m.Data)
			}
			_, err := c.Request(t.Context(), "refuse", nil)
			require.Equal(t, &client.Error{Code: "sold_out", Message: "come back tomorrow"}, err)
			short, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = c.Request(short, "unheard", nil)
			require.ErrorIs(t, err, client.ErrOutcomeUnknown)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			for _, typ := range []string{"", "publish", "join_room", "ack", "broadcast", "hub:x"} {
				require.ErrorIs(t, errOf(c.Request(t.Context(), typ, nil)), client.ErrReserved, typ)
			}
		})
	}
}

// A request is sent again only if the hub cannot have received it.
func TestRequestOverLostConnection(t *testing.T) {
	t.Parallel()
	s := withScript(t, historyFeature)
	hub := s.connect()
	result := make(chan error, 1)
	go func() { result <- errOf(s.Request(testContext(t), "ask", []byte(`1`))) }() // ends with the connection
	require.Equal(t, "ask", hub.read().Type)
	_ = hub.NetConn().Close()
	require.ErrorIs(t, receive(t, result), client.ErrOutcomeUnknown)
}

// TestHandle has the hub ask the client.
func TestHandle(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			failure := errors.New("the disk is full")
			results := map[string]func(*websocket.Message) (any, error){
				"echo":    func(m *websocket.Message) (any, error) { return m.Data, nil },
				"raw":     func(*websocket.Message) (any, error) { return json.RawMessage(`{"a": 1}`), nil },
				"value":   func(*websocket.Message) (any, error) { return map[string]int{"a": 1}, nil },
				"nothing": func(*websocket.Message) (any, error) { return nil, nil },
				"refused": func(*websocket.Message) (any, error) {
					return nil, &websocket.RequestError{Code: "busy", Message: "later"}
				},
				"not mine":  func(*websocket.Message) (any, error) { return nil, &websocket.RequestError{Message: "go away"} },
				"forbidden": func(*websocket.Message) (any, error) { return nil, websocket.ErrForbidden },
				"failed":    func(*websocket.Message) (any, error) { return nil, failure },
				"no JSON":   func(*websocket.Message) (any, error) { return make(chan int), nil },
				"large":     func(*websocket.Message) (any, error) { return make([]byte, 600<<10), nil },
				"panics":    func(m *websocket.Message) (any, error) { m.ID, m.Type = "", ""; panic("boom") },
				"ends":      func(*websocket.Message) (any, error) { runtime.Goexit(); return nil, nil },
			}
			for typ, f := range results {
				c.Handle(typ, func(ctx context.Context, m *websocket.Message) (any, error) {
					require.NoError(t, ctx.Err())
					require.Equal(t, typ, m.Type)
					return f(m)
				})
			}
			peer := s.onlyClient()
			for typ, want := range map[string]string{"echo": `"x"`, "raw": `{"a": 1}`, "value": `{"a":1}`, "nothing": ""} {
				answer, err := peer.SendRequest(t.Context(), &websocket.Message{Type: typ, Data: []byte(`"x"`)})
				require.NoError(t, err)
				require.Equal(t, want, string(answer.Data), typ)
			}
			require.Empty(t, rec.errors)
			for typ, want := range map[string]string{
				"refused": "busy", "not mine": client.CodeForbidden, "forbidden": client.CodeForbidden, "failed": client.CodeInternal,
				"no JSON": client.CodeInternal, "large": client.CodeTooLarge, "panics": client.CodeInternal, "ends": client.CodeInternal,
				"unknown": client.CodeUnsupported,
			} {
				_, err := peer.SendRequest(t.Context(), &websocket.Message{Type: typ})
				var refusal *websocket.RequestError
				require.ErrorAs(t, err, &refusal, typ)
				require.Equal(t, want, refusal.Code, typ)
				require.NotContains(t, refusal.Message, failure.Error())
			}
			texts := ""
			for range 4 {
				texts += receive(t, rec.errors).Error()
			}
			require.Contains(t, texts, failure.Error())
			require.Empty(t, rec.errors)
			require.Empty(t, rec.messages)
			require.Equal(t, client.Connected, c.State())

			nothing := func(context.Context, *websocket.Message) (any, error) { return nil, nil }
			require.Panics(t, func() { c.Handle("echo", nothing) }, "twice")
			require.Panics(t, func() { c.Handle("subscribe", nothing) }, "reserved")
			require.Panics(t, func() { c.Handle("x", nil) })
		})
	}
}

// Requests wait for the messages before them. Those beyond the limit are refused.
func TestRequestsWait(t *testing.T) {
	t.Parallel()
	var order []string
	o := client.Options{InboundLimit: 2_000, Handlers: map[string]client.RequestHandler{
		"ask": func(_ context.Context, m *websocket.Message) (any, error) {
			order = append(order, string(m.Data))
			return nil, nil
		},
	}}
	var early error
	askAtOnce := func(s *server) {
		s.onConn = func(peer *websocket.Client) {
			go func() { // ends with the answer
				_, early = peer.SendRequest(context.Background(), &websocket.Message{Type: "ask", Data: []byte("early")})
			}()
		}
	}
	inBubble(t, o, askAtOnce, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		synctest.Wait()
		require.NoError(t, early, "a handler of the options is there from the beginning")
		release := make(chan struct{})
		require.NoError(t, errOf(c.Subscribe(t.Context(), "x", func(m *websocket.Message) {
			<-release
			order = append(order, string(m.Data))
		})))
		s.numbers("x", 1, 1)
		peer := s.onlyClient()
		answers := make(chan error, 30)
		for n := range 30 {
			go func() { // ends with the answer
				time.Sleep(time.Duration(n) * time.Millisecond)
				_, err := peer.SendRequest(context.Background(), &websocket.Message{Type: "ask", Data: fmt.Append(nil, n)})
				answers <- err
			}()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		refused := len(answers)
		require.Positive(t, refused)
		require.Less(t, refused, 30)
		close(release)
		synctest.Wait()
		for n := range 30 {
			err := <-answers
			var refusal *websocket.RequestError
			if n < refused {
				require.ErrorAs(t, err, &refusal)
				require.Equal(t, client.CodeLimit, refusal.Code)
			} else {
				require.NoError(t, err)
			}
		}
		require.Equal(t, []string{"early", "1", "0", "1", "2"}, order[:5])
		require.Len(t, order, 2+30-refused)
	})
}

// A handler's context ends with the connection. Requests of a connection that has ended
// are not handled.
func TestHandlerOfLostConnection(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		var calls []string
		c.Handle("ask", func(ctx context.Context, m *websocket.Message) (any, error) {
			calls = append(calls, string(m.Data))
			if string(m.Data) == "first" {
				<-ctx.Done()
			}
			return nil, nil
		})
		peer := s.onlyClient()
		answers := make(chan error, 2)
		for _, data := range []string{"first", "second"} {
			go func() { // ends with the connection
				_, err := peer.SendRequest(context.Background(), &websocket.Message{Type: "ask", Data: []byte(data)})
				answers <- err
			}()
			synctest.Wait()
		}
		s.lose(c)
		rec.waitState(t, client.Connected)
		for range 2 {
			require.ErrorIs(t, <-answers, websocket.ErrClientClosed)
		}
		_, err := s.onlyClient().SendRequest(t.Context(), &websocket.Message{Type: "ask", Data: []byte("third")})
		require.NoError(t, err)
		require.Equal(t, []string{"first", "third"}, calls)
	})
}
