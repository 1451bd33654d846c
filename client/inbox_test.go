package client_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestSlowHandlerGap(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	const limit = 10_000
	c, rec := dial(t, s.url(), client.Options{InboundLimit: limit})
	other, _ := dial(t, s.url(), client.Options{})

	release := make(chan struct{})
	entered := make(chan struct{}, bufferSize)
	var seen []string // used only on the goroutine of the callbacks
	done := make(chan struct{})
	require.NoError(t, errOf(c.Subscribe(ctx, "slow", func(m *websocket.Message) {
		seen = append(seen, string(m.Data))
		entered <- struct{}{}
		if string(m.Data) == `"end"` {
			close(done)
			return
		}
		<-release
	})))
	const sent = 1000
	for i := range sent {
		require.NoError(t, other.Publish(ctx, "slow", fmt.Append(nil, i)))
	}
	receive(t, entered)
	require.NoError(t, c.Publish(ctx, "slow", []byte(`"mine"`)), "replies do not wait for handlers")
	close(release)
	var gap websocket.Gap
	for gap = receive(t, rec.gaps); ; { // until the handler is fast enough to get "end"
		require.NoError(t, c.Publish(ctx, "slow", []byte(`"end"`)))
		select {
		case <-done:
		case more := <-rec.gaps:
			gap.Count += more.Count
			continue
		case <-time.After(timeout):
			require.FailNow(t, "handler did not get the end message")
		}
		break
	}
	require.Equal(t, "slow", gap.Channel)
	require.Equal(t, client.ReasonSlowHandler, gap.Reason)
	require.NotZero(t, gap.First)
	require.LessOrEqual(t, gap.First, gap.Last)
	require.Less(t, len(seen), limit/100, "the queue is bounded")
	require.Equal(t, client.Connected, c.State())
	missedOrSeen := int(gap.Count) + len(seen)
	require.GreaterOrEqual(t, missedOrSeen, sent+2)
	for i, data := range seen[:10] {
		require.Equal(t, fmt.Sprint(i), data, "in order")
	}
}

func TestGapWithoutOnGapIsReportedToOnError(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	errs := make(chan error, bufferSize)
	c, err := client.Dial(ctx, s.url(), client.Options{InboundLimit: 1, OnError: func(err error) { errs <- err }})
	require.NoError(t, err)
	defer func() { _ = c.Close(); receive(t, c.Done()) }()
	require.NoError(t, errOf(c.Subscribe(ctx, "ch", func(*websocket.Message) {})))
	require.NoError(t, c.Publish(ctx, "ch", nil))
	require.ErrorIs(t, receive(t, errs), client.ErrMissed)
	require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: "gap", Data: []byte(`{"all":true,"count":7}`)}))
	err = receive(t, errs)
	require.ErrorIs(t, err, client.ErrMissed)
	require.ErrorContains(t, err, "7 of any channel or room")
}

// A gap of an unknown number is an error only together with one that is certain.
func TestUncertainGapWithoutOnGap(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	release := make(chan struct{}) // closed below
	errs := make(chan error, bufferSize)
	c, err := client.Dial(testContext(t), s.url(), client.Options{
		OnError:   func(err error) { errs <- err },
		OnMessage: func(*websocket.Message) { <-release },
	})
	require.NoError(t, err)
	defer func() { _ = c.Close(); receive(t, c.Done()) }()
	send := func(typ, data string) {
		require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: typ, Data: []byte(data)}))
	}
	send("first", "")
	send("gap", `{"channel":"x","count":0,"reason":"history"}`)
	send("gap", `{"channel":"x","count":2,"reason":"history"}`)
	send("gap", `{"channel":"y","count":0,"reason":"history"}`)
	send("gap", `{"channel":"z","count":3,"reason":"history"}`)
	require.NoError(t, c.Publish(testContext(t), "ch", nil), "the reply arrives after all gaps")
	close(release)
	require.ErrorContains(t, receive(t, errs), `an unknown number of channel "x"`)
	require.ErrorContains(t, receive(t, errs), `3 of channel "z"`)
}

// TestSlowHandlerGapOfTopicsNotJoined fills the inbox and publishes to a channel that
// the hub subscribed the client to. The gap does not name the channel, because only
// joined topics have gaps of their own when the inbox is full.
func TestSlowHandlerGapOfTopicsNotJoined(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.onConn = func(c *websocket.Client) { _ = c.Subscribe("given") }
	})
	_, rec := dial(t, s.url(), client.Options{InboundLimit: 1})
	require.NoError(t, s.hub.PublishToChannel("given", &websocket.Message{Timestamp: 5}))
	require.Equal(t, websocket.Gap{All: true, Count: 1, First: 5, Last: 5, Reason: client.ReasonSlowHandler}, receive(t, rec.gaps))
	require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: "direct", Timestamp: 6}))
	require.Equal(t, websocket.Gap{Count: 1, First: 6, Last: 6, Reason: client.ReasonSlowHandler}, receive(t, rec.gaps))
}

func TestHubGapsArePassedOn(t *testing.T) {
	t.Parallel()
	for _, codec := range []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}} {
		t.Run(codec.Name(), func(t *testing.T) {
			t.Parallel()
			s := newServer(t, nil)
			c, rec := dial(t, s.url(), client.Options{Codec: codec.Name()})
			order := make(chan string, bufferSize)
			require.NoError(t, errOf(c.JoinRoom(testContext(t), "r", func(*websocket.Message) { order <- "message" })))
			data := []byte(`{"room_id":"r","count":3,"first":1700000000000000001,"last":1700000000000000002,"reason":"slow_consumer"}`)
			want := websocket.Gap{RoomID: "r", Count: 3, First: 1700000000000000001, Last: 1700000000000000002, Reason: "slow_consumer"}
			if encoder, ok := codec.(websocket.ControlEncoder); ok {
				data = encoder.EncodeGap(want)
			}
			require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: "gap", Data: data}))
			require.NoError(t, c.PublishRoom(testContext(t), "r", nil))
			receive(t, order)
			require.Len(t, rec.gaps, 1, "reported before the message")
			require.Equal(t, want, <-rec.gaps)

			data = []byte(`{"all":true,"count":3,"first":1,"last":2,"reason":"slow_consumer"}`)
			want = websocket.Gap{All: true, Count: 3, First: 1, Last: 2, Reason: "slow_consumer"}
			if encoder, ok := codec.(websocket.ControlEncoder); ok {
				data = encoder.EncodeGap(want)
			}
			require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: "gap", Data: data}))
			require.Equal(t, want, receive(t, rec.gaps))
		})
	}
}

// TestGapsAreMergedPerTopic queues gaps behind a blocked callback. Two are merged only
// if both have All set and no message was queued between them.
func TestGapsAreMergedPerTopic(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	release := make(chan struct{}) // closed below
	got := make(chan any, bufferSize)
	o := newRecorder().options(client.Options{})
	o.OnGap = func(g websocket.Gap) { got <- g }
	o.OnMessage = func(m *websocket.Message) {
		<-release
		got <- m.Type
	}
	c, err := client.Dial(testContext(t), s.url(), o)
	require.NoError(t, err)
	defer func() { _ = c.Close(); receive(t, c.Done()) }()
	send := func(typ, data string) {
		require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: typ, Data: []byte(data)}))
	}
	send("first", "")
	send("gap", `{"all":true,"count":1,"first":3,"last":4,"reason":"slow_consumer"}`)
	send("gap", `{"count":8,"first":1,"last":9,"reason":"slow_consumer"}`)
	send("gap", `{"all":true,"count":2,"first":5,"last":6,"reason":"slow_consumer"}`)
	send("gap", `{"channel":"x","count":2,"reason":"history"}`)
	send("gap", `{"channel":"x","count":0,"reason":"history"}`)
	send("gap", `{"channel":"x","count":1,"reason":"history"}`)
	send("second", "")
	send("gap", `{"all":true,"count":4,"first":7,"last":8,"reason":"slow_consumer"}`)
	require.NoError(t, c.Publish(testContext(t), "ch", nil), "the reply arrives after all gaps")
	close(release)
	for _, want := range []any{
		"first",
		websocket.Gap{All: true, Count: 3, First: 3, Last: 6, Reason: "slow_consumer"},
		websocket.Gap{Count: 8, First: 1, Last: 9, Reason: "slow_consumer"},
		websocket.Gap{Channel: "x", Reason: "history"}, // an unknown number remains unknown
		"second",
		websocket.Gap{All: true, Count: 4, First: 7, Last: 8, Reason: "slow_consumer"},
	} {
		require.Equal(t, want, receive(t, got))
	}
}

// TestSlowOnStateKeepsLatestStates reconnects often while OnState is blocked. Only the
// latest changes of state are kept.
func TestSlowOnStateKeepsLatestStates(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	release, entered := make(chan struct{}), make(chan struct{})
	var states []client.State // used only on the goroutine of the callbacks
	c, err := client.Dial(testContext(t), s.url(), client.Options{
		BackoffMin: time.Millisecond, BackoffMax: time.Millisecond,
		OnState: func(change client.StateChange) {
			if len(states) == 0 {
				close(entered)
				<-release
			}
			states = append(states, change.State)
		},
	})
	require.NoError(t, err)
	receive(t, entered)
	for range 50 {
		require.NoError(t, c.Publish(testContext(t), "ch", nil))
		require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, ""))
		for ended := false; !ended; ended = c.Publish(testContext(t), "ch", nil) == nil {
		}
	}
	close(release)
	require.NoError(t, c.Publish(testContext(t), "ch", nil))
	require.NoError(t, c.Close())
	receive(t, c.Done())
	require.LessOrEqual(t, len(states), 40, "of more than 150")
	require.Equal(t, client.Closed, states[len(states)-1])
}
