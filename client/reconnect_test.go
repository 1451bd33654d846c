package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestHubRestart(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			ctx := soon(t)
			c, td := dial(t, s.url(), client.Options{Codec: codec})
			require.Zero(t, td.until(t, client.Connected).MissedSince)
			news, onNews := into()
			room, onRoom := into()
			require.NoError(t, c.Subscribe(ctx, "news", onNews))
			require.NoError(t, c.JoinRoom(ctx, "room", onRoom))
			require.NoError(t, c.Subscribe(ctx, "left", onNews))
			require.NoError(t, c.Unsubscribe(ctx, "left"))
			require.NoError(t, c.Publish(ctx, "news", nil))
			last := next(t, news).Timestamp

			for range 3 {
				before := time.Now()
				s.stop()
				down := td.until(t, client.Disconnected)
				var why *websocket.CloseError
				require.ErrorAs(t, down.Err, &why)
				require.Equal(t, websocket.CloseGoingAway, why.Code)
				require.True(t, why.ByPeer)
				require.True(t, down.WillRetry)
				require.LessOrEqual(t, down.RetryIn, 50*time.Millisecond)

				published := make(chan error, 1)
				go func() { published <- c.Publish(ctx, "news", []byte(`"waited"`)) }() // ends when there is a hub again
				s.start()
				up := td.until(t, client.Connected)
				require.GreaterOrEqual(t, up.MissedSince.UnixNano(), last)
				require.True(t, up.MissedSince.Before(time.Now()))
				require.NoError(t, next(t, published))
				m := next(t, news)
				require.Equal(t, []byte(`"waited"`), m.Data)
				require.NoError(t, c.PublishRoom(ctx, "room", []byte(`1`)))
				require.Equal(t, []byte(`1`), next(t, room).Data)
				require.Equal(t, map[string]int{"news": 1}, maps.Collect(s.hub.Channels()))
				require.Equal(t, map[string]int{"room": 1}, maps.Collect(s.hub.Rooms()))

				gaps := map[string]websocket.Gap{}
				for range 2 {
					g := next(t, td.gaps)
					gaps[g.Channel+g.RoomID] = g
				}
				require.Equal(t, client.ReasonReconnect, gaps["room"].Reason)
				require.Equal(t, last, gaps["news"].First)
				require.GreaterOrEqual(t, gaps["news"].Last, before.UnixNano())
				require.LessOrEqual(t, gaps["news"].Last, m.Timestamp)
				last = m.Timestamp
			}
			require.Empty(t, td.errors)
			require.Empty(t, td.gaps)
		})
	}
}

func TestSubscriptionsThatCannotBeRestoredAreReported(t *testing.T) {
	t.Parallel()
	var refused atomic.Bool
	s := newServer(t, func(s *server) {
		s.config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
			if refused.Load() && r.Target == "gone" {
				return &websocket.RequestError{Message: "no more"}
			}
			return nil
		}
	})
	ctx := soon(t)
	c, td := dial(t, s.url(), client.Options{})
	td.until(t, client.Connected)
	kept, onKept := into()
	require.NoError(t, c.Subscribe(ctx, "gone", nil))
	require.NoError(t, c.JoinRoom(ctx, "gone", nil))
	require.NoError(t, c.Subscribe(ctx, "kept", onKept))
	refused.Store(true)
	require.NoError(t, s.only().Close(websocket.CloseServiceRestart, "move"))
	td.until(t, client.Connected)
	require.NoError(t, c.Publish(ctx, "kept", nil))
	next(t, kept)
	lost := map[string]*client.RestoreError{}
	for range 2 {
		var e *client.RestoreError
		require.ErrorAs(t, next(t, td.errors), &e)
		require.ErrorContains(t, e, "no more")
		lost[e.Channel+"/"+e.RoomID] = e
	}
	require.Contains(t, lost, "gone/")
	require.Contains(t, lost, "/gone")
	refused.Store(false)
	require.NoError(t, s.only().Close(websocket.CloseServiceRestart, "move"))
	td.until(t, client.Connected)
	s.only()
	require.Equal(t, map[string]int{"kept": 1}, maps.Collect(s.hub.Channels()))
}

// TestCloseCodes has the hub close with every code of the table.
func TestCloseCodes(t *testing.T) {
	t.Parallel()
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3003, 3008, 4409, 4000} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			c, td := dial(t, s.url(), client.Options{})
			td.until(t, client.Connected)
			require.NoError(t, s.only().Close(code, "because"))
			down := td.until(t, client.Disconnected)
			require.Equal(t, &websocket.CloseError{Code: code, Reason: "because", ByPeer: true}, down.Err)
			require.Equal(t, client.Reconnectable(code), down.WillRetry)
			if down.WillRetry {
				td.until(t, client.Connected)
				return
			}
			require.Equal(t, client.StateChange{State: client.Closed, Err: down.Err}, td.until(t, client.Closed))
			next(t, c.Done())
			require.Equal(t, down.Err, c.Err())
			err := c.Subscribe(soon(t), "ch", nil)
			require.ErrorIs(t, err, client.ErrClosed)
			require.ErrorIs(t, err, down.Err)
			require.NoError(t, c.Close())
		})
	}
}

func TestReconnectOption(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	_, td := dial(t, s.url(), client.Options{Reconnect: func(e *websocket.CloseError) bool { return e.Code == 4000 }})
	td.until(t, client.Connected)
	require.NoError(t, s.only().Close(4000, ""))
	require.True(t, td.until(t, client.Disconnected).WillRetry)
	td.until(t, client.Connected)
	require.NoError(t, s.only().Close(1001, ""))
	require.False(t, td.until(t, client.Disconnected).WillRetry)
	td.until(t, client.Closed)
}

// TestWrongKeysEndTheClient covers both sides that can find out.
func TestWrongKeysEndTheClient(t *testing.T) {
	t.Parallel()
	t.Run("hub", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(s *server) { s.config.Security = websocket.NewSecurityConfig(aesKey, nil) })
		c, td := dial(t, s.url(), client.Options{Security: websocket.NewSecurityConfig(make([]byte, 32), nil)})
		err := c.Publish(soon(t), "ch", nil)
		require.ErrorIs(t, err, client.ErrOutcomeUnknown)
		closed := td.until(t, client.Closed)
		require.Equal(t, websocket.ClosePolicyViolation, closed.Err.(*websocket.CloseError).Code)
		require.True(t, closed.Err.(*websocket.CloseError).ByPeer)
	})
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(s *server) { s.config.Security = websocket.NewSecurityConfig(aesKey, nil) })
		_, td := dial(t, s.url(), client.Options{Security: websocket.NewSecurityConfig(make([]byte, 32), nil)})
		require.NoError(t, s.hub.Broadcast([]byte(`1`)))
		closed := td.until(t, client.Closed)
		require.Equal(t, &websocket.CloseError{
			Code: websocket.ClosePolicyViolation, Reason: "message does not open: " + websocket.ErrDecrypt.Error(),
		}, closed.Err)
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
	t.Run("plain hub", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nil)
		_, td := dial(t, s.url(), client.Options{Security: websocket.NewSecurityConfig(aesKey, nil)})
		require.NoError(t, s.hub.Broadcast([]byte(`1`)))
		closed := td.until(t, client.Closed)
		require.Equal(t, websocket.CloseUnsupportedData, closed.Err.(*websocket.CloseError).Code)
	})
}

// script serves handshakes with answers of the test's own. A nil answer upgrades
// and hands the connection over.
type script struct {
	*httptest.Server
	requests chan *http.Request
	conns    chan *gorilla.Conn
}

func newScript(t *testing.T, answer func(n int, w http.ResponseWriter, r *http.Request) bool) *script {
	s := &script{requests: make(chan *http.Request, buffered), conns: make(chan *gorilla.Conn, buffered)}
	var n atomic.Int64
	upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}, EnableCompression: true}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests <- r.Clone(context.Background())
		if answer != nil && answer(int(n.Add(1)), w, r) {
			return
		}
		if ws, err := upgrader.Upgrade(w, r, nil); err == nil && hailed(ws) {
			s.conns <- ws
		}
	}))
	t.Cleanup(func() {
		s.Close()
		for len(s.conns) > 0 {
			_ = (<-s.conns).Close()
		}
	})
	return s
}

// hailed answers the ping that a connection begins with.
func hailed(ws *gorilla.Conn) bool {
	var ping [6]byte
	if _, err := io.ReadFull(ws.NetConn(), ping[:]); err != nil || ping[0] != 0x89 {
		_ = ws.Close()
		return false
	}
	_, err := ws.NetConn().Write([]byte{0x8a, 0})
	return err == nil
}

func (s *script) url() string { return "ws" + strings.TrimPrefix(s.URL, "http") }

func TestRefusedHandshakes(t *testing.T) {
	t.Parallel()
	tests := []struct {
		status int
		retry  bool
	}{
		{301, true}, {400, false}, {401, false}, {403, false}, {404, false}, {408, true}, {409, false}, {426, false},
		{429, true}, {500, true}, {502, true}, {503, true},
	}
	for _, tt := range tests {
		t.Run(strconv.Itoa(tt.status), func(t *testing.T) {
			t.Parallel()
			s := newScript(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n <= 2 {
					http.Error(w, "not now", tt.status)
				}
				return n <= 2
			})
			_, err := client.Dial(soon(t), s.url(), client.Options{})
			var refused *client.DialError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, tt.status, refused.StatusCode)
			require.Contains(t, refused.Body, "not now")
			require.Len(t, s.requests, 1, "one attempt without RetryDial")

			td := newTold()
			c, err := client.Dial(soon(t), s.url(), td.options(client.Options{RetryDial: true}))
			if !tt.retry {
				require.ErrorAs(t, err, &refused)
				require.Len(t, s.requests, 2)
				td.until(t, client.Closed)
				return
			}
			require.NoError(t, err)
			require.Len(t, s.requests, 3)
			require.True(t, td.until(t, client.Disconnected).WillRetry)
			_ = (next(t, s.conns)).Close()
			_ = c.Close()
			next(t, c.Done())
		})
	}
}

func TestRealHubsRefusals(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.config.Subprotocols = []string{"json", "msgpack"}
		s.config.ClientID = func(r *http.Request) (string, error) {
			if id := r.Header.Get("X-Id"); id != "" {
				return id, nil
			}
			return "", errors.New("who?")
		}
	})
	status := func(o client.Options) int {
		t.Helper()
		_, err := client.Dial(soon(t), s.url(), o)
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		return refused.StatusCode
	}
	header := http.Header{"X-Id": {"me"}}
	require.Equal(t, http.StatusUnauthorized, status(client.Options{}))
	require.Equal(t, http.StatusBadRequest, status(client.Options{Header: header, Codec: "protobuf"}))
	require.Equal(t, http.StatusForbidden, status(client.Options{Header: http.Header{"Origin": {"http://elsewhere"}}}))
	dial(t, s.url(), client.Options{Header: header})
	require.Equal(t, http.StatusConflict, status(client.Options{Header: header}))
	require.NoError(t, s.hub.Shutdown(soon(t)))
}

// briefly is how long to wait for a script, which does not answer a Close.
const briefly = 50 * time.Millisecond

// TestConflictAfterALostConnection is the hub that still believes in the old
// connection: the ID will be free soon.
func TestConflictAfterALostConnection(t *testing.T) {
	t.Parallel()
	s := newScript(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 2 || n == 3 {
			http.Error(w, "in use", http.StatusConflict)
			return true
		}
		return false
	})
	_, td := dial(t, s.url(), client.Options{CloseTimeout: briefly})
	td.until(t, client.Connected)
	require.NoError(t, next(t, s.conns).NetConn().Close())
	td.until(t, client.Connected)
	require.Len(t, s.requests, 4)
}

func TestTokens(t *testing.T) {
	t.Parallel()
	t.Run("header", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, nil)
		dial(t, s.url(), client.Options{CloseTimeout: briefly, TokenSource: client.StaticToken("sécret")})
		r := next(t, s.requests)
		require.Equal(t, "Bearer sécret", r.Header.Get("Authorization"))
		require.Equal(t, "json", r.Header.Get("Sec-Websocket-Protocol"))
	})
	t.Run("subprotocol", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, nil)
		dial(t, s.url(), client.Options{CloseTimeout: briefly, TokenSource: client.StaticToken("sécret?>"), TokenAsSubprotocol: true})
		r := next(t, s.requests)
		require.Empty(t, r.Header.Get("Authorization"))
		want := "json, bearer." + base64.RawURLEncoding.EncodeToString([]byte("sécret?>"))
		require.Equal(t, want, r.Header.Get("Sec-Websocket-Protocol"))
	})
	t.Run("real hub takes both", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(s *server) {
			s.config.ClientID = func(r *http.Request) (string, error) {
				token, _ := websocket.BearerToken(r)
				return token, nil
			}
		})
		for _, token := range []string{"über", "?>/"} {
			o := client.Options{Codec: "msgpack", TokenSource: client.StaticToken(token), TokenAsSubprotocol: token == "?>/"}
			dial(t, s.url(), o)
			_, ok := s.hub.Client(token)
			require.True(t, ok)
		}
	})

	onlyNew := func(_ int, w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer new" {
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	t.Run("renewed after 401", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, onlyNew)
		dial(t, s.url(), client.Options{CloseTimeout: briefly, TokenSource: func(_ context.Context, renew bool) (string, error) {
			if renew {
				return "new", nil
			}
			return "old", nil
		}})
		require.Len(t, s.requests, 2)
	})
	t.Run("refused again", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, onlyNew)
		_, err := client.Dial(soon(t), s.url(), client.Options{RetryDial: true, TokenSource: func(context.Context, bool) (string, error) {
			return "old", nil
		}})
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		require.Len(t, s.requests, 2)
	})
	t.Run("no other token", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, onlyNew)
		_, err := client.Dial(soon(t), s.url(), client.Options{RetryDial: true, TokenSource: client.StaticToken("old")})
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		require.ErrorIs(t, err, client.ErrNoToken)
		require.Len(t, s.requests, 1)
	})
	t.Run("source fails for a while", func(t *testing.T) {
		t.Parallel()
		s := newScript(t, nil)
		calls := 0
		_, td := dial(t, s.url(), client.Options{CloseTimeout: briefly, RetryDial: true, TokenSource: func(context.Context, bool) (string, error) {
			if calls++; calls < 3 {
				return "", errors.New("try later")
			}
			return "t", nil
		}})
		require.ErrorContains(t, td.until(t, client.Disconnected).Err, "try later")
		require.Len(t, s.requests, 1)
	})
	t.Run("renewed after 3000", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nil)
		renewals := make(chan bool, buffered)
		_, td := dial(t, s.url(), client.Options{TokenSource: func(_ context.Context, renew bool) (string, error) {
			renewals <- renew
			return "t", nil
		}})
		td.until(t, client.Connected)
		require.NoError(t, s.only().Close(websocket.CloseUnauthorized, "expired"))
		td.until(t, client.Connected)
		require.NoError(t, s.only().Close(websocket.CloseServiceRestart, ""))
		td.until(t, client.Connected)
		require.False(t, next(t, renewals))
		require.True(t, next(t, renewals))
		require.False(t, next(t, renewals))
	})
}

// TestWhatTheHubMustNotSend has a peer that breaks each rule.
func TestWhatTheHubMustNotSend(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		send func(*gorilla.Conn) error
		code int
	}{
		{"binary frame to json", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.BinaryMessage, []byte(`{}`)) }, 1003},
		{"not UTF-8", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.TextMessage, []byte{'"', 0xff, '"'}) }, 1007},
		{"no envelope", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.TextMessage, []byte(`[`)) }, 1007},
		{"unreadable gap", func(ws *gorilla.Conn) error {
			return ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"gap","data":{"count":-1}}`))
		}, 1007},
		{"too big", func(ws *gorilla.Conn) error {
			ws.EnableWriteCompression(false)
			return ws.WriteMessage(gorilla.TextMessage, make([]byte, 5000))
		}, 1009},
		{"too big when inflated", func(ws *gorilla.Conn) error {
			return ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x","data":"`+strings.Repeat("a", 5000)+`"}`))
		}, 1009},
		{"reserved bits", func(ws *gorilla.Conn) error {
			_, err := ws.NetConn().Write([]byte{0xf1, 0})
			return err
		}, 1002},
		{"does not inflate", func(ws *gorilla.Conn) error {
			_, err := ws.NetConn().Write([]byte{0xc1, 3, 0xff, 0xff, 0xff})
			return err
		}, 1007},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScript(t, nil)
			_, td := dial(t, s.url(), client.Options{MaxReceiveSize: 4096, EnableCompression: true})
			ws := next(t, s.conns)
			defer func() { _ = ws.Close() }()
			require.NoError(t, tt.send(ws))
			var said *gorilla.CloseError
			_, _, err := ws.ReadMessage()
			if errors.As(err, &said) && said.Code != gorilla.CloseAbnormalClosure {
				require.Equal(t, tt.code, said.Code)
			}
			closed := td.until(t, client.Closed)
			require.Equal(t, tt.code, closed.Err.(*websocket.CloseError).Code, closed.Err)
			require.False(t, closed.Err.(*websocket.CloseError).ByPeer)
			require.Len(t, s.requests, 1)
		})
	}
}

func TestHubThatChoosesAnotherCodec(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil) // knows json alone, and echoes nothing else
	_, err := client.Dial(soon(t), s.url(), client.Options{Codec: "msgpack", RetryDial: true})
	require.ErrorIs(t, err, client.ErrCodec)
	require.Len(t, s.requests, 1)
}

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	c, td := dial(t, s.url(), client.Options{})
	ws := next(t, s.conns)
	result := make(chan error, 1)
	go func() { result <- c.Publish(soon(t), "ch", nil) }() // ends when the connection is lost
	_, _, err := ws.ReadMessage()
	require.NoError(t, err)
	require.NoError(t, ws.NetConn().Close())
	err = next(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	var why *websocket.CloseError
	require.ErrorAs(t, err, &why)
	require.Equal(t, websocket.CloseAbnormalClosure, why.Code)

	td.until(t, client.Disconnected)
	ws = next(t, s.conns)
	ctx, cancel := context.WithCancel(soon(t))
	go func() { result <- c.Publish(ctx, "ch", nil) }() // ends with ctx
	_, _, err = ws.ReadMessage()
	require.NoError(t, err)
	cancel()
	err = next(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.Canceled)

	go func() { result <- c.Publish(soon(t), "ch", nil) }() // ends with the client
	_, _, err = ws.ReadMessage()
	require.NoError(t, err)
	go func() { _, _, _ = ws.ReadMessage() }() // ends with the Close frame, which it answers
	require.NoError(t, c.Close())
	err = next(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, client.ErrClosed)
	require.NoError(t, ws.Close())
}

// peer speaks JSON for a hub, by hand.
type peer struct {
	t *testing.T
	*gorilla.Conn
}

func (p peer) read() (m websocket.Message) {
	p.t.Helper()
	_, b, err := p.ReadMessage()
	require.NoError(p.t, err)
	require.NoError(p.t, websocket.JSONCodec{}.Unmarshal(b, &m))
	return m
}

func (p peer) write(m websocket.Message) {
	p.t.Helper()
	b, err := websocket.JSONCodec{}.Marshal(&m)
	require.NoError(p.t, err)
	require.NoError(p.t, p.WriteMessage(gorilla.TextMessage, b))
}

// TestCallsThatOutliveTheirConnection are asked again where that does no harm.
func TestCallsThatOutliveTheirConnection(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	c, td := dial(t, s.url(), client.Options{CloseTimeout: briefly})
	result := make(chan error, 1)
	hub := peer{t, next(t, s.conns)}

	go func() { result <- c.Subscribe(soon(t), "ch", nil) }() // ends with the ack
	require.Equal(t, "subscribe", hub.read().Type)
	require.NoError(t, hub.NetConn().Close())
	hub = peer{t, next(t, s.conns)}
	m := hub.read()
	require.Equal(t, "subscribe", m.Type)
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Timestamp: 1})
	require.NoError(t, next(t, result))
	require.Empty(t, td.gaps, "nothing could be missed before")

	// A hub that is closing answers "unavailable": the next one is asked.
	require.NoError(t, hub.NetConn().Close())
	hub = peer{t, next(t, s.conns)}
	m = hub.read()
	hub.write(websocket.Message{Type: "error", ID: m.ID, Data: []byte(`{"code":"unavailable"}`)})
	require.NoError(t, hub.NetConn().Close())
	hub = peer{t, next(t, s.conns)}
	m = hub.read()
	require.Equal(t, "subscribe", m.Type)

	// An Unsubscribe meets the restoring, is refused, and holds where there is no
	// connection.
	go func() { result <- c.Unsubscribe(soon(t), "ch") }() // ends with the answer
	unsubscribe := hub.read()
	require.Equal(t, "unsubscribe", unsubscribe.Type)
	ctx, cancel := context.WithCancel(soon(t))
	cancel()
	require.ErrorIs(t, c.Subscribe(ctx, "ch", nil), context.Canceled, "one call about a channel at a time")
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Timestamp: 2})
	require.Equal(t, websocket.Gap{Channel: "ch", First: 1, Last: 2, Reason: client.ReasonReconnect}, next(t, td.gaps))
	hub.write(websocket.Message{Type: "error", ID: unsubscribe.ID, Data: []byte(`{"code":"forbidden"}`)})
	require.ErrorAs(t, next(t, result), new(*client.Error))
	s.Listener.Close()
	require.NoError(t, hub.NetConn().Close())
	for c.State() != client.Disconnected {
		td.until(t, client.Disconnected)
	}
	require.NoError(t, c.Unsubscribe(soon(t), "ch"))
}

// TestNothingIsLostWithoutAWord publishes while the connection comes and goes.
// Messages come in order and once, and where some are missing a gap was told.
func TestNothingIsLostWithoutAWord(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	last, gap, missing := -1, false, 0 // used on the one goroutine
	faults := make(chan string, buffered)
	done := make(chan int, 1)
	const all = 20_000
	c, err := client.Dial(soon(t), s.url(), client.Options{
		Codec: "msgpack", BackoffMin: time.Microsecond, BackoffMax: time.Millisecond, InboundLimit: 1 << 16,
		OnGap: func(g websocket.Gap) { gap = gap || g.Channel == "ch" },
	})
	require.NoError(t, err)
	defer func() { _ = c.Close(); next(t, c.Done()) }()
	require.NoError(t, c.Subscribe(soon(t), "ch", func(m *websocket.Message) {
		n, _ := strconv.Atoi(string(m.Data))
		switch {
		case n <= last:
			faults <- fmt.Sprintf("%d after %d", n, last)
		case n > last+1 && !gap:
			faults <- fmt.Sprintf("%d to %d missing without a gap", last+1, n-1)
		}
		missing += n - last - 1
		last, gap = n, false
		if n >= all {
			select {
			case done <- missing:
			default: // has been told
			}
		}
	}))
	for n := 0; ; n++ {
		require.NoError(t, s.hub.PublishToChannel("ch", &websocket.Message{Data: strconv.AppendInt(nil, int64(n), 10)}))
		if n < all && n%500 == 499 {
			for sc := range s.hub.Clients() {
				_ = sc.Close(websocket.CloseServiceRestart, "")
			}
			for c.Publish(soon(t), "other", nil) != nil { // until it is connected again
			}
		}
		if n < all {
			continue
		}
		select {
		case missing := <-done:
			require.Empty(t, faults)
			t.Logf("%d missing and announced", missing)
			return
		case <-time.After(time.Millisecond):
		}
	}
}

// TestSubscribeThatIsGivenUp has no effect, although the hub may have done it.
func TestSubscribeThatIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	c, td := dial(t, s.url(), client.Options{CloseTimeout: briefly})
	hub := peer{t, next(t, s.conns)}
	defer func() { _ = hub.Close() }()
	ctx, cancel := context.WithCancel(soon(t))
	result := make(chan error, 1)
	got, handler := into()
	go func() { result <- c.Subscribe(ctx, "ch", handler) }() // ends with ctx
	subscribe := hub.read()
	require.Equal(t, "subscribe", subscribe.Type)
	require.JSONEq(t, `{"channel":"ch"}`, string(subscribe.Data))
	cancel()
	err := next(t, result)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, client.ErrOutcomeUnknown)
	unsubscribe := hub.read()
	require.Equal(t, "unsubscribe", unsubscribe.Type)
	hub.write(websocket.Message{Type: "ack", ID: subscribe.ID, Channel: "ch"})
	hub.write(websocket.Message{Type: "message", Channel: "ch"})
	hub.write(websocket.Message{Type: "ack", ID: unsubscribe.ID, Channel: "ch"})
	hub.write(websocket.Message{Type: "ack", ID: "the application's own"})
	require.Equal(t, "the application's own", next(t, td.messages).ID)
	require.Empty(t, got)

	// It may be tried again, and an Unsubscribe that is given up holds too.
	go func() { result <- c.Subscribe(soon(t), "ch", handler) }() // ends with the ack
	hub.write(websocket.Message{Type: "ack", ID: hub.read().ID, Channel: "ch", Timestamp: 5})
	require.NoError(t, next(t, result))
	ctx, cancel = context.WithCancel(soon(t))
	go func() { result <- c.Unsubscribe(ctx, "ch") }() // ends with ctx
	require.Equal(t, "unsubscribe", hub.read().Type)
	cancel()
	require.ErrorIs(t, next(t, result), context.Canceled)
	hub.write(websocket.Message{Type: "message", Channel: "ch"})
	hub.write(websocket.Message{Type: "end"})
	require.Equal(t, "end", next(t, td.messages).Type)
	require.Empty(t, got)
	require.NoError(t, hub.NetConn().Close())
	hub = peer{t, next(t, s.conns)}
	require.NoError(t, c.Send(soon(t), &websocket.Message{Type: "first"}))
	require.Equal(t, "first", hub.read().Type, "nothing is restored")
}

func TestGapsFromTheHub(t *testing.T) {
	t.Parallel()
	for _, codec := range []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}} {
		t.Run(codec.Name(), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			c, td := dial(t, s.url(), client.Options{Codec: codec.Name()})
			order := make(chan string, buffered)
			require.NoError(t, c.JoinRoom(soon(t), "r", func(*websocket.Message) { order <- "message" }))
			data := []byte(`{"room_id":"r","count":3,"first":1700000000000000001,"last":1700000000000000002,"reason":"slow_consumer"}`)
			want := websocket.Gap{RoomID: "r", Count: 3, First: 1700000000000000001, Last: 1700000000000000002, Reason: "slow_consumer"}
			if encoder, ok := codec.(websocket.ControlEncoder); ok {
				data = encoder.EncodeGap(want)
			}
			require.NoError(t, s.only().Send(&websocket.Message{Type: "gap", Data: data}))
			require.NoError(t, c.PublishRoom(soon(t), "r", nil))
			next(t, order)
			require.Len(t, td.gaps, 1, "told before the message")
			require.Equal(t, want, <-td.gaps)

			data = []byte(`{"all":true,"count":3,"first":1,"last":2,"reason":"slow_consumer"}`)
			want = websocket.Gap{All: true, Count: 3, First: 1, Last: 2, Reason: "slow_consumer"}
			if encoder, ok := codec.(websocket.ControlEncoder); ok {
				data = encoder.EncodeGap(want)
			}
			require.NoError(t, s.only().Send(&websocket.Message{Type: "gap", Data: data}))
			require.Equal(t, want, next(t, td.gaps))
		})
	}
}

// TestGapsOfAnyPlaceStayApart has gaps wait that are merged only where both may be
// of any place, with no message between them.
func TestGapsOfAnyPlaceStayApart(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	release := make(chan struct{}) // closed below
	told := make(chan any, buffered)
	o := newTold().options(client.Options{})
	o.OnGap = func(g websocket.Gap) { told <- g }
	o.OnMessage = func(m *websocket.Message) {
		<-release
		told <- m.Type
	}
	c, err := client.Dial(soon(t), s.url(), o)
	require.NoError(t, err)
	defer func() { _ = c.Close(); next(t, c.Done()) }()
	send := func(typ, data string) {
		require.NoError(t, s.only().Send(&websocket.Message{Type: typ, Data: []byte(data)}))
	}
	send("first", "")
	send("gap", `{"all":true,"count":1,"first":3,"last":4,"reason":"slow_consumer"}`)
	send("gap", `{"count":8,"first":1,"last":9,"reason":"slow_consumer"}`)
	send("gap", `{"all":true,"count":2,"first":5,"last":6,"reason":"slow_consumer"}`)
	send("second", "")
	send("gap", `{"all":true,"count":4,"first":7,"last":8,"reason":"slow_consumer"}`)
	require.NoError(t, c.Publish(soon(t), "ch", nil), "an answer comes behind all that")
	close(release)
	for _, want := range []any{
		"first",
		websocket.Gap{All: true, Count: 3, First: 3, Last: 6, Reason: "slow_consumer"},
		websocket.Gap{Count: 8, First: 1, Last: 9, Reason: "slow_consumer"},
		"second",
		websocket.Gap{All: true, Count: 4, First: 7, Last: 8, Reason: "slow_consumer"},
	} {
		require.Equal(t, want, next(t, told))
	}
}

// TestCloseDuringEverything closes while calls, handlers and reconnects are
// under way. Whatever happens, everything ends.
func TestCloseDuringEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for i := range 20 {
		c, _ := dial(t, s.url(), client.Options{})
		ctx, cancel := context.WithCancel(soon(t))
		var calls sync.WaitGroup
		for n := range 4 {
			calls.Go(func() { // ends when the client is closed
				channel := fmt.Sprint(n % 2)
				for c.Err() == nil {
					_ = c.Subscribe(ctx, channel, func(*websocket.Message) { _ = c.Publish(ctx, "x", nil) })
					_ = c.Publish(ctx, channel, []byte(`1`))
					_ = c.Send(ctx, &websocket.Message{Type: "t"})
					_ = c.Unsubscribe(ctx, channel)
				}
			})
		}
		if i%2 == 0 {
			for client := range s.hub.Clients() {
				_ = client.Close(websocket.CloseServiceRestart, "")
			}
		}
		_ = c.Publish(ctx, "y", nil)
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() { _ = c.Close() }) // ends with the client
		}
		closers.Wait()
		calls.Wait()
		cancel()
		next(t, c.Done())
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { // ends with ctx
		_, err := client.Dial(ctx, "ws://"+l.Addr().String(), client.Options{RetryDial: true})
		result <- err
	}()
	conn, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	cancel()
	require.ErrorIs(t, next(t, result), context.Canceled)
	_, err = client.Dial(ctx, "ws://"+l.Addr().String(), client.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

// pipes is a listener whose connections are made by dial, for synctest bubbles.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wrap   func(net.Conn) net.Conn // the client's end
}

func newPipes() *pipes {
	return &pipes{conns: make(chan net.Conn), closed: make(chan struct{}), wrap: func(c net.Conn) net.Conn { return c }}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return p.wrap(ours), nil
	case <-p.closed:
		return nil, errors.New("refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bubble runs a hub and a client in fake time.
func bubble(t *testing.T, o client.Options, configure func(*server), test func(*testing.T, *server, *pipes, *client.Client, *told)) {
	synctest.Test(t, func(t *testing.T) {
		s := &server{t: t, config: websocket.DefaultConfig, addr: "hub"}
		if configure != nil {
			configure(s)
		}
		p := newPipes()
		s.serve(p)
		td := newTold()
		td.patience = 1000 * time.Hour
		o := td.options(o)
		o.NetDial = func(ctx context.Context, network, addr string) (net.Conn, error) { return p.dial(ctx, network, addr) }
		c, err := client.Dial(t.Context(), "ws://hub/", o)
		require.NoError(t, err)
		defer func() {
			_ = c.Close()
			<-c.Done()
			s.stop()
		}()
		test(t, s, p, c, td)
	})
}

// valve is a connection that stops forwarding in both directions, as a network
// does that is gone without a word.
type valve struct {
	net.Conn
	shut chan struct{} // closed by the test
}

func (v *valve) Read(b []byte) (int, error) {
	for {
		n, err := v.Conn.Read(b)
		select {
		case <-v.shut:
			if err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func (v *valve) Write(b []byte) (int, error) {
	select {
	case <-v.shut:
		return len(b), nil
	default:
		return v.Conn.Write(b)
	}
}

func TestHalfOpenConnections(t *testing.T) {
	t.Parallel()
	patient := func(s *server) { s.config.PongWait = time.Hour } // the hub notices nothing
	bubble(t, client.Options{}, patient, func(t *testing.T, s *server, p *pipes, c *client.Client, td *told) {
		var valves []*valve
		td.until(t, client.Connected)
		p.wrap = func(nc net.Conn) net.Conn {
			v := &valve{Conn: nc, shut: make(chan struct{})}
			valves = append(valves, v)
			return v
		}
		require.NoError(t, s.only().Close(websocket.CloseServiceRestart, ""))
		td.until(t, client.Connected)
		require.NoError(t, c.Subscribe(t.Context(), "ch", nil))
		began := time.Now()
		close(valves[0].shut)
		result := make(chan error, 1)
		go func() { result <- c.Publish(t.Context(), "ch", nil) }() // ends when the silence is noticed
		err := <-result
		require.ErrorIs(t, err, client.ErrOutcomeUnknown)
		require.Equal(t, 75*time.Second, time.Since(began))
		down := td.until(t, client.Disconnected)
		require.Equal(t, websocket.CloseTimeout, down.Err.(*websocket.CloseError).Code)
		require.True(t, down.WillRetry)
		td.until(t, client.Connected)
		require.NoError(t, c.Publish(t.Context(), "ch", nil))
		require.Len(t, valves, 2)
	})
}

// TestHubsPingsKeepTheConnection has nobody say anything for a day.
func TestHubsPingsKeepTheConnection(t *testing.T) {
	t.Parallel()
	bubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipes, c *client.Client, td *told) {
		time.Sleep(24 * time.Hour)
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

// TestTalkingToASilentHub is a client that only sends: the hub, which hears it,
// never pings it.
func TestTalkingToASilentHub(t *testing.T) {
	t.Parallel()
	bubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipes, c *client.Client, td *told) {
		for range 1000 {
			require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "t"}))
			time.Sleep(time.Second)
		}
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

// TestAHubThatDoesNotPing is alive as long as it answers pings.
func TestAHubThatDoesNotPing(t *testing.T) {
	t.Parallel()
	configure := func(s *server) { s.config.PongWait, s.config.PingPeriod = 100*time.Hour, 99*time.Hour }
	bubble(t, client.Options{}, configure, func(t *testing.T, s *server, _ *pipes, c *client.Client, td *told) {
		time.Sleep(24 * time.Hour)
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

// TestFloods sends as fast as it may. The hub ends those who know no limit.
func TestFloods(t *testing.T) {
	t.Parallel()
	const all = 30_000
	flood := func(o client.Options, test func(*server, *client.Client, *told, time.Duration)) {
		bubble(t, o, nil, func(t *testing.T, s *server, _ *pipes, c *client.Client, td *told) {
			began := time.Now()
			for range all {
				if err := c.Send(t.Context(), &websocket.Message{Type: "t", Data: make([]byte, 100)}); err != nil {
					break
				}
			}
			_ = c.Publish(t.Context(), "ch", nil)
			test(s, c, td, time.Since(began))
		})
	}
	flood(client.Options{}, func(s *server, c *client.Client, _ *told, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(all+1), s.hub.Stats().MessagesReceived)
		require.InDelta(t, all/900, took.Seconds(), 2)
	})
	flood(client.Options{ByteRate: 50_000, MessageRate: -1}, func(s *server, c *client.Client, _ *told, took time.Duration) {
		require.Equal(t, client.Connected, c.State())
		require.Greater(t, took, 100*all/50_000*time.Second)
	})
	flood(client.Options{ByteRate: -1, MessageRate: -1}, func(_ *server, _ *client.Client, td *told, _ time.Duration) {
		require.Equal(t, websocket.ClosePolicyViolation, td.until(t, client.Closed).Err.(*websocket.CloseError).Code)
	})
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	const shortest, longest = time.Second, 10 * time.Second
	o := client.Options{BackoffMin: shortest, BackoffMax: longest}
	var sum time.Duration
	const runs = 50
	for range runs {
		bubble(t, o, nil, func(t *testing.T, s *server, p *pipes, c *client.Client, td *told) {
			td.until(t, client.Connected)
			s.stop()
			for failures := range 8 {
				down := td.until(t, client.Disconnected)
				require.True(t, down.WillRetry)
				require.GreaterOrEqual(t, down.RetryIn, time.Duration(0))
				require.LessOrEqual(t, down.RetryIn, min(longest, shortest<<failures))
				began := time.Now()
				td.until(t, client.Connecting)
				require.Equal(t, down.RetryIn, time.Since(began))
				if failures == 7 {
					sum += down.RetryIn
				}
			}
		})
	}
	require.InDelta(t, float64(longest)/2, float64(sum)/runs, float64(longest)/5, "uniform")
}

// TestBackoffGrowsUntilAConnectionLasts is the hub that lets everybody in and
// throws them out again.
func TestBackoffGrowsUntilAConnectionLasts(t *testing.T) {
	t.Parallel()
	o := client.Options{BackoffMin: time.Second, BackoffMax: time.Hour, BackoffReset: time.Minute}
	bubble(t, o, nil, func(t *testing.T, s *server, _ *pipes, c *client.Client, td *told) {
		began := time.Now()
		for range 12 {
			td.until(t, client.Connected)
			require.NoError(t, s.only().Close(websocket.CloseInternalError, ""))
			td.until(t, client.Disconnected)
		}
		require.Greater(t, time.Since(began), time.Minute)
		td.until(t, client.Connected)
		time.Sleep(time.Minute)
		require.NoError(t, s.only().Close(websocket.CloseInternalError, ""))
		require.LessOrEqual(t, td.until(t, client.Disconnected).RetryIn, time.Second)
	})
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		var times []time.Time
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			times = append(times, time.Now())
			after := []string{"7", time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), "1000000", "soon"}
			w.Header().Set("Retry-After", after[min(len(times), 4)-1])
			w.WriteHeader(http.StatusServiceUnavailable)
		})}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(p) }() // ends with Close
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		_, err := client.Dial(ctx, "ws://hub", client.Options{
			RetryDial: true, NetDial: p.dial, BackoffMin: time.Nanosecond, BackoffMax: 30 * time.Second,
		})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
		require.Greater(t, len(times), 4)
		const slack = float64(time.Second)
		require.InDelta(t, float64(7*time.Second), float64(times[1].Sub(times[0])), slack)
		require.InDelta(t, float64(20*time.Second), float64(times[2].Sub(times[1])), slack)
		require.InDelta(t, float64(30*time.Second), float64(times[3].Sub(times[2])), slack)
		_ = server.Close()
		<-served
	})
}

// mute upgrades and then neither reads nor writes.
func mute(t *testing.T, o client.Options, test func(*testing.T, *client.Client, *told)) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		conns := make(chan *gorilla.Conn, buffered)
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}}
			if ws, err := upgrader.Upgrade(w, r, nil); err == nil && hailed(ws) {
				conns <- ws
			}
		})}
		served := make(chan struct{})
		go func() { defer close(served); _ = server.Serve(p) }() // ends with Close
		td := newTold()
		td.patience = 1000 * time.Hour
		o = td.options(o)
		o.NetDial = p.dial
		c, err := client.Dial(t.Context(), "ws://hub", o)
		require.NoError(t, err)
		defer func() {
			_ = c.Close()
			<-c.Done()
			_ = server.Close()
			for len(conns) > 0 {
				_ = (<-conns).Close()
			}
			<-served
		}()
		test(t, c, td)
	})
}

func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	mute(t, client.Options{CloseTimeout: 3 * time.Second}, func(t *testing.T, c *client.Client, td *told) {
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "stuck"}))
		began := time.Now()
		require.ErrorContains(t, c.Close(), "not closed cleanly")
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Error(t, c.Close(), "the same again")
	})
}

func TestOutboundIsBoundedAndWaits(t *testing.T) {
	t.Parallel()
	o := client.Options{MaxSendSize: 500, OutboundLimit: 1000, WriteTimeout: time.Hour}
	mute(t, o, func(t *testing.T, c *client.Client, td *told) {
		sent := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var err error
		for ; err == nil; sent++ {
			err = c.Send(ctx, &websocket.Message{Type: "t", Data: make([]byte, 200)})
			synctest.Wait()
		}
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Less(t, sent, 10)

		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = c.Publish(ctx, "ch", nil)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotErrorIs(t, err, client.ErrOutcomeUnknown, "it was never sent")
	})
}

func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	mute(t, client.Options{}, func(t *testing.T, c *client.Client, td *told) {
		began := time.Now()
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "t"}))
		down := td.until(t, client.Disconnected)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, websocket.CloseAbnormalClosure, down.Err.(*websocket.CloseError).Code)
	})
}

func TestRestoreTimeout(t *testing.T) {
	t.Parallel()
	s := newScript(t, nil)
	c, td := dial(t, s.url(), client.Options{RestoreTimeout: 50 * time.Millisecond})
	ws := next(t, s.conns)
	defer func() { _ = ws.Close() }()
	result := make(chan error, 1)
	go func() { result <- c.Subscribe(soon(t), "ch", nil) }() // ends with the ack
	_, b, err := ws.ReadMessage()
	require.NoError(t, err)
	var m websocket.Message
	require.NoError(t, websocket.JSONCodec{}.Unmarshal(b, &m))
	require.NoError(t, ws.WriteMessage(gorilla.TextMessage, fmt.Appendf(nil, `{"type":"ack","id":%q,"timestamp":1}`, m.ID)))
	require.NoError(t, next(t, result))
	td.until(t, client.Connected)
	require.NoError(t, ws.NetConn().Close())
	td.until(t, client.Disconnected)
	down := td.until(t, client.Disconnected)
	require.ErrorContains(t, down.Err, "not taken in and restored")
	require.True(t, down.WillRetry)
}

// TestStatesOfASlowCallback keeps only the latest.
func TestStatesOfASlowCallback(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	release, entered := make(chan struct{}), make(chan struct{})
	var states []client.State // told on the one goroutine
	c, err := client.Dial(soon(t), s.url(), client.Options{
		BackoffMin: time.Microsecond, BackoffMax: time.Microsecond,
		OnState: func(change client.StateChange) {
			if len(states) == 0 {
				close(entered)
				<-release
			}
			states = append(states, change.State)
		},
	})
	require.NoError(t, err)
	next(t, entered)
	for range 50 {
		require.NoError(t, c.Publish(soon(t), "ch", nil))
		require.NoError(t, s.only().Close(websocket.CloseServiceRestart, ""))
		for ended := false; !ended; ended = c.Publish(soon(t), "ch", nil) == nil {
		}
	}
	close(release)
	require.NoError(t, c.Publish(soon(t), "ch", nil))
	require.NoError(t, c.Close())
	next(t, c.Done())
	require.LessOrEqual(t, len(states), 40, "of more than 150")
	require.Equal(t, client.Closed, states[len(states)-1])
}
