package client_test

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestRetryByHTTPStatus(t *testing.T) {
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
			s := newScriptedServer(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
				if n <= 2 {
					http.Error(w, "not now", tt.status)
				}
				return n <= 2
			})
			_, err := client.Dial(testContext(t), s.url(), client.Options{})
			var refused *client.DialError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, tt.status, refused.StatusCode)
			require.Contains(t, refused.Body, "not now")
			require.Len(t, s.requests, 1, "one attempt without RetryDial")

			rec := newRecorder()
			c, err := client.Dial(testContext(t), s.url(), rec.options(client.Options{RetryDial: true}))
			if !tt.retry {
				require.ErrorAs(t, err, &refused)
				require.Len(t, s.requests, 2)
				rec.waitState(t, client.Closed)
				return
			}
			require.NoError(t, err)
			require.Len(t, s.requests, 3)
			require.True(t, rec.waitState(t, client.Disconnected).WillRetry)
			_ = (receive(t, s.conns)).Close()
			_ = c.Close()
			receive(t, c.Done())
		})
	}
}

func TestHandshakesRefusedByHub(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.config.Subprotocols = []string{"json", "msgpack"}
		s.config.ClientID = func(r *http.Request) (string, error) {
			if id := r.Header.Get("X-Id"); id != "" {
				return id, nil
			}
			return "", errors.New("no ID")
		}
	})
	status := func(o client.Options) int {
		t.Helper()
		_, err := client.Dial(testContext(t), s.url(), o)
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
	require.NoError(t, s.hub.Shutdown(testContext(t)))
}

func TestTokens(t *testing.T) {
	t.Parallel()
	t.Run("header", func(t *testing.T) {
		t.Parallel()
		s := newScriptedServer(t, nil)
		dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout, TokenSource: client.StaticToken("sécret")})
		r := receive(t, s.requests)
		require.Equal(t, "Bearer sécret", r.Header.Get("Authorization"))
		require.Equal(t, "json", r.Header.Get("Sec-Websocket-Protocol"))
	})
	t.Run("subprotocol", func(t *testing.T) {
		t.Parallel()
		s := newScriptedServer(t, nil)
		dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout, TokenSource: client.StaticToken("sécret?>"), TokenAsSubprotocol: true})
		r := receive(t, s.requests)
		require.Empty(t, r.Header.Get("Authorization"))
		want := "json, bearer." + base64.RawURLEncoding.EncodeToString([]byte("sécret?>"))
		require.Equal(t, want, r.Header.Get("Sec-Websocket-Protocol"))
	})
	t.Run("empty", func(t *testing.T) {
		t.Parallel()
		for _, asSubprotocol := range []bool{false, true} {
			s := newScriptedServer(t, nil)
			dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout, TokenSource: client.StaticToken(""), TokenAsSubprotocol: asSubprotocol})
			r := receive(t, s.requests)
			require.NotContains(t, r.Header, "Authorization")
			require.Equal(t, "json", r.Header.Get("Sec-Websocket-Protocol"))
		}
	})
	t.Run("hub accepts both", func(t *testing.T) {
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
		s := newScriptedServer(t, onlyNew)
		dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout, TokenSource: func(_ context.Context, renew bool) (string, error) {
			if renew {
				return "new", nil
			}
			return "old", nil
		}})
		require.Len(t, s.requests, 2)
	})
	t.Run("refused again", func(t *testing.T) {
		t.Parallel()
		s := newScriptedServer(t, onlyNew)
		_, err := client.Dial(testContext(t), s.url(), client.Options{RetryDial: true, TokenSource: func(context.Context, bool) (string, error) {
			return "old", nil
		}})
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		require.Len(t, s.requests, 2)
	})
	t.Run("no other token", func(t *testing.T) {
		t.Parallel()
		s := newScriptedServer(t, onlyNew)
		_, err := client.Dial(testContext(t), s.url(), client.Options{RetryDial: true, TokenSource: client.StaticToken("old")})
		var refused *client.DialError
		require.ErrorAs(t, err, &refused)
		require.ErrorIs(t, err, client.ErrNoToken)
		require.Len(t, s.requests, 1)
	})
	t.Run("source fails temporarily", func(t *testing.T) {
		t.Parallel()
		s := newScriptedServer(t, nil)
		calls := 0
		_, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout, RetryDial: true, TokenSource: func(context.Context, bool) (string, error) {
			if calls++; calls < 3 {
				return "", errors.New("try later")
			}
			return "t", nil
		}})
		require.ErrorContains(t, rec.waitState(t, client.Disconnected).Err, "try later")
		require.Len(t, s.requests, 1)
	})
	t.Run("renewed after 3000", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nil)
		renewals := make(chan bool, bufferSize)
		_, rec := dial(t, s.url(), client.Options{TokenSource: func(_ context.Context, renew bool) (string, error) {
			renewals <- renew
			return "t", nil
		}})
		rec.waitState(t, client.Connected)
		require.NoError(t, s.onlyClient().Close(websocket.CloseUnauthorized, "expired"))
		rec.waitState(t, client.Connected)
		require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, ""))
		rec.waitState(t, client.Connected)
		require.False(t, receive(t, renewals))
		require.True(t, receive(t, renewals))
		require.False(t, receive(t, renewals))
	})
}

func TestHubChoosesDifferentCodec(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil) // supports only json and selects no other subprotocol
	_, err := client.Dial(testContext(t), s.url(), client.Options{Codec: "msgpack", RetryDial: true})
	require.ErrorIs(t, err, client.ErrCodec)
	require.Len(t, s.requests, 1)
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipeListener(t)
		var times []time.Time
		p.serveHandler(func(w http.ResponseWriter, _ *http.Request) {
			times = append(times, time.Now())
			after := []string{"7", time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat), "1000000", "soon"}
			w.Header().Set("Retry-After", after[min(len(times), 4)-1])
			w.WriteHeader(http.StatusServiceUnavailable)
		})
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
	})
}
