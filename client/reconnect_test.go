package client_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"testing"
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
			ctx := testContext(t)
			c, rec := dial(t, s.url(), client.Options{Codec: codec})
			require.Zero(t, rec.waitState(t, client.Connected).MissedSince)
			news, onNews := newHandler()
			room, onRoom := newHandler()
			require.NoError(t, errOf(c.Subscribe(ctx, "news", onNews)))
			require.NoError(t, errOf(c.JoinRoom(ctx, "room", onRoom)))
			require.NoError(t, errOf(c.Subscribe(ctx, "left", onNews)))
			require.NoError(t, c.Unsubscribe(ctx, "left"))
			require.NoError(t, c.Publish(ctx, "news", nil))
			last := receive(t, news).Timestamp

			for range 3 {
				before := time.Now()
				s.stop()
				down := rec.waitState(t, client.Disconnected)
				why := closeErrorOf(t, down.Err)
				require.Equal(t, websocket.CloseGoingAway, why.Code)
				require.True(t, why.ByPeer)
				require.True(t, down.WillRetry)
				require.LessOrEqual(t, down.RetryIn, 50*time.Millisecond)

				published := make(chan error, 1)
				go func() { published <- c.Publish(ctx, "news", []byte(`"delayed"`)) }() // ends when the hub has restarted
				s.start()
				up := rec.waitState(t, client.Connected)
				require.GreaterOrEqual(t, up.MissedSince.UnixNano(), last)
				require.True(t, up.MissedSince.Before(time.Now()))
				require.NoError(t, receive(t, published))
				m := receive(t, news)
				require.Equal(t, []byte(`"delayed"`), m.Data)
				require.NoError(t, c.PublishRoom(ctx, "room", []byte(`1`)))
				require.Equal(t, []byte(`1`), receive(t, room).Data)
				require.Equal(t, map[string]int{"news": 1}, maps.Collect(s.hub.Channels()))
				require.Equal(t, map[string]int{"room": 1}, maps.Collect(s.hub.Rooms()))

				gaps := map[string]websocket.Gap{}
				for range 2 {
					g := receive(t, rec.gaps)
					gaps[g.Channel+g.RoomID] = g
				}
				require.Equal(t, client.ReasonReconnect, gaps["room"].Reason)
				require.Equal(t, last, gaps["news"].First)
				require.GreaterOrEqual(t, gaps["news"].Last, before.UnixNano())
				require.LessOrEqual(t, gaps["news"].Last, m.Timestamp)
				last = m.Timestamp
			}
			require.Empty(t, rec.errors)
			require.Empty(t, rec.gaps)
		})
	}
}

// TestReconnectByCloseCode closes with every code of Reconnectable's table.
func TestReconnectByCloseCode(t *testing.T) {
	t.Parallel()
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 3000, 3003, 3008, 4409, 4000} {
		t.Run(strconv.Itoa(code), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			c, rec := dial(t, s.url(), client.Options{})
			rec.waitState(t, client.Connected)
			require.NoError(t, s.onlyClient().Close(code, "because"))
			down := rec.waitState(t, client.Disconnected)
			require.Equal(t, &websocket.CloseError{Code: code, Reason: "because", ByPeer: true}, down.Err)
			require.Equal(t, client.Reconnectable(code), down.WillRetry)
			if down.WillRetry {
				rec.waitState(t, client.Connected)
				return
			}
			require.Equal(t, client.StateChange{State: client.Closed, Err: down.Err}, rec.waitState(t, client.Closed))
			receive(t, c.Done())
			require.Equal(t, down.Err, c.Err())
			err := errOf(c.Subscribe(testContext(t), "ch", nil))
			require.ErrorIs(t, err, client.ErrClosed)
			require.ErrorIs(t, err, down.Err)
			require.NoError(t, c.Close())
		})
	}
}

func TestReconnectOption(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	_, rec := dial(t, s.url(), client.Options{Reconnect: func(e *websocket.CloseError) bool { return e.Code == 4000 }})
	rec.waitState(t, client.Connected)
	require.NoError(t, s.onlyClient().Close(4000, ""))
	require.True(t, rec.waitState(t, client.Disconnected).WillRetry)
	rec.waitState(t, client.Connected)
	require.NoError(t, s.onlyClient().Close(1001, ""))
	require.False(t, rec.waitState(t, client.Disconnected).WillRetry)
	rec.waitState(t, client.Closed)
}

// TestConflictAfterLostConnection responds with 409, as a hub does that has not noticed
// the end of the old connection. The client retries, because its ID will be free soon.
func TestConflictAfterLostConnection(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, func(n int, w http.ResponseWriter, _ *http.Request) bool {
		if n == 2 || n == 3 {
			http.Error(w, "in use", http.StatusConflict)
			return true
		}
		return false
	})
	_, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	rec.waitState(t, client.Connected)
	require.NoError(t, receive(t, s.conns).NetConn().Close())
	rec.waitState(t, client.Connected)
	require.Len(t, s.requests, 4)
}

// TestLostMessagesAreReported publishes while the hub closes the connection again and
// again. Messages must arrive in order and at most once, and a gap must be reported
// where some are missing.
func TestLostMessagesAreReported(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	last, gap, missing := -1, false, 0 // used only on the goroutine of the callbacks
	faults := make(chan string, bufferSize)
	done := make(chan int, 1)
	const all = 20_000
	c, err := client.Dial(testContext(t), s.url(), client.Options{
		Codec: "msgpack", BackoffMin: time.Microsecond, BackoffMax: time.Millisecond, InboundLimit: 1 << 16,
		OnGap: func(g websocket.Gap) { gap = gap || g.Channel == "ch" },
	})
	require.NoError(t, err)
	defer func() { _ = c.Close(); receive(t, c.Done()) }()
	require.NoError(t, errOf(c.Subscribe(testContext(t), "ch", func(m *websocket.Message) {
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
			default: // already sent
			}
		}
	})))
	for n := 0; ; n++ {
		require.NoError(t, s.hub.PublishToChannel("ch", &websocket.Message{Data: strconv.AppendInt(nil, int64(n), 10)}))
		if n < all && n%500 == 499 {
			for sc := range s.hub.Clients() {
				_ = sc.Close(websocket.CloseServiceRestart, "")
			}
			for c.Publish(testContext(t), "other", nil) != nil { // wait for the next connection
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

func TestBackoff(t *testing.T) {
	t.Parallel()
	const shortest, longest = time.Second, 10 * time.Second
	o := client.Options{BackoffMin: shortest, BackoffMax: longest}
	var sum time.Duration
	const runs = 50
	for range runs {
		inBubble(t, o, nil, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			s.stop()
			for failures := range 8 {
				down := rec.waitState(t, client.Disconnected)
				require.True(t, down.WillRetry)
				require.GreaterOrEqual(t, down.RetryIn, time.Duration(0))
				require.LessOrEqual(t, down.RetryIn, min(longest, shortest<<failures))
				began := time.Now()
				rec.waitState(t, client.Connecting)
				require.Equal(t, down.RetryIn, time.Since(began))
				if failures == 7 {
					sum += down.RetryIn
				}
			}
		})
	}
	require.InDelta(t, float64(longest)/2, float64(sum)/runs, float64(longest)/5, "uniform")
}

// TestBackoffGrowsUntilConnectionLasts closes every connection immediately. The delay
// grows until a connection lasts for BackoffReset.
func TestBackoffGrowsUntilConnectionLasts(t *testing.T) {
	t.Parallel()
	o := client.Options{BackoffMin: time.Second, BackoffMax: time.Hour, BackoffReset: time.Minute}
	inBubble(t, o, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		began := time.Now()
		for range 12 {
			rec.waitState(t, client.Connected)
			require.NoError(t, s.onlyClient().Close(websocket.CloseInternalError, ""))
			rec.waitState(t, client.Disconnected)
		}
		require.Greater(t, time.Since(began), time.Minute)
		rec.waitState(t, client.Connected)
		time.Sleep(time.Minute)
		require.NoError(t, s.onlyClient().Close(websocket.CloseInternalError, ""))
		require.LessOrEqual(t, rec.waitState(t, client.Disconnected).RetryIn, time.Second)
	})
}

func TestRestoreTimeout(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{RestoreTimeout: 2 * time.Second})
	ws := receive(t, s.conns)
	defer func() { _ = ws.Close() }()
	result := make(chan error, 1)
	go func() { result <- errOf(c.Subscribe(testContext(t), "ch", nil)) }() // ends with the ack
	_, b, err := ws.ReadMessage()
	require.NoError(t, err)
	var m websocket.Message
	require.NoError(t, websocket.JSONCodec{}.Unmarshal(b, &m))
	require.NoError(t, ws.WriteMessage(gorilla.TextMessage, fmt.Appendf(nil, `{"type":"ack","id":%q,"timestamp":1}`, m.ID)))
	require.NoError(t, receive(t, result))
	rec.waitState(t, client.Connected)
	require.NoError(t, ws.NetConn().Close())
	rec.waitState(t, client.Disconnected)
	down := rec.waitState(t, client.Disconnected)
	require.ErrorContains(t, down.Err, "onConnect and restoring took longer than 2s")
	require.True(t, down.WillRetry)
}

// TestReconnect calls Reconnect in every state.
func TestReconnect(t *testing.T) {
	t.Parallel()
	o := client.Options{BackoffMin: 999 * time.Hour, BackoffMax: 999 * time.Hour, HandshakeTimeout: 99 * time.Hour}
	inBubble(t, o, nil, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		connections := uint64(1)
		requireConnected := func(state client.State) {
			t.Helper()
			connections++
			rec.waitState(t, state)
			rec.waitState(t, client.Connected)
			require.NoError(t, c.Publish(t.Context(), "x", nil))
			require.Equal(t, connections, s.hub.Stats().TotalConnections)
		}
		rec.waitState(t, client.Connected)
		require.NoError(t, errOf(c.Subscribe(t.Context(), "kept", nil)))
		for range 3 {
			c.Reconnect()
			down := rec.waitState(t, client.Disconnected)
			require.Equal(t, client.StateChange{State: client.Disconnected, Err: down.Err, WillRetry: true}, down)
			require.Equal(t, websocket.CloseGoingAway, closeErrorOf(t, down.Err).Code)
			requireConnected(client.Connecting)
			require.Equal(t, map[string]int{"kept": 1}, maps.Collect(s.hub.Channels()))
		}

		// During the delay before an attempt.
		require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, ""))
		rec.waitState(t, client.Disconnected)
		c.Reconnect()
		requireConnected(client.Connecting)

		// During an attempt that hangs.
		hang := true
		entered := make(chan struct{}, 1)
		p.wrap = func(nc net.Conn) net.Conn {
			if hang {
				hang = false
				entered <- struct{}{}
				return &deadNetwork{Conn: nc, dead: closedChannel}
			}
			return nc
		}
		c.Reconnect()
		<-entered
		began := time.Now()
		c.Reconnect()
		requireConnected(client.Disconnected)
		require.Zero(t, time.Since(began))

		// The request has been used up: later losses wait for the backoff.
		require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, ""))
		down := rec.waitState(t, client.Disconnected)
		require.NotZero(t, down.RetryIn)
		require.NoError(t, c.Close())
		c.Reconnect()
		<-c.Done()
		c.Reconnect()
		require.Equal(t, client.Closed, c.State())
		require.Equal(t, connections, s.hub.Stats().TotalConnections)
	})
}

var closedChannel = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
