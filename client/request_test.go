package client_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestOutcomeUnknown(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{})
	ws := receive(t, s.conns)
	result := make(chan error, 1)
	go func() { result <- c.Publish(testContext(t), "ch", nil) }() // ends when the connection is lost
	_, _, err := ws.ReadMessage()
	require.NoError(t, err)
	require.NoError(t, ws.NetConn().Close())
	err = receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(t, err).Code)

	rec.waitState(t, client.Disconnected)
	ws = receive(t, s.conns)
	ctx, cancel := context.WithCancel(testContext(t))
	go func() { result <- c.Publish(ctx, "ch", nil) }() // ends with ctx
	_, _, err = ws.ReadMessage()
	require.NoError(t, err)
	cancel()
	err = receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.Canceled)

	go func() { result <- c.Publish(testContext(t), "ch", nil) }() // ends with the client
	_, _, err = ws.ReadMessage()
	require.NoError(t, err)
	go func() { _, _, _ = ws.ReadMessage() }() // replies to the Close frame and ends
	require.NoError(t, c.Close())
	err = receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, client.ErrClosed)
	require.NoError(t, ws.Close())
}

// TestCallsAreResentAfterReconnect loses connections during calls. Requests to join or
// leave are sent again, because repeating them does no harm.
func TestCallsAreResentAfterReconnect(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	result := make(chan error, 1)
	hub := jsonPeer{t, receive(t, s.conns)}

	go func() { result <- errOf(c.Subscribe(testContext(t), "ch", nil)) }() // ends with the ack
	require.Equal(t, "subscribe", hub.read().Type)
	require.NoError(t, hub.NetConn().Close())
	hub = jsonPeer{t, receive(t, s.conns)}
	m := hub.read()
	require.Equal(t, "subscribe", m.Type)
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Timestamp: 1})
	require.NoError(t, receive(t, result))
	require.Empty(t, rec.gaps, "no messages can be missed before the subscription")

	// A closing hub replies "unavailable". The client restores on its next connection.
	require.NoError(t, hub.NetConn().Close())
	hub = jsonPeer{t, receive(t, s.conns)}
	m = hub.read()
	hub.write(websocket.Message{Type: "error", ID: m.ID, Data: []byte(`{"code":"unavailable"}`)})
	require.NoError(t, hub.NetConn().Close())
	hub = jsonPeer{t, receive(t, s.conns)}
	m = hub.read()
	require.Equal(t, "subscribe", m.Type)

	// An Unsubscribe during the restore is refused. Without a connection, Unsubscribe
	// succeeds at once.
	go func() { result <- c.Unsubscribe(testContext(t), "ch") }() // ends with the reply
	unsubscribe := hub.read()
	require.Equal(t, "unsubscribe", unsubscribe.Type)
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	require.ErrorIs(t, errOf(c.Subscribe(ctx, "ch", nil)), context.Canceled, "one call about a channel at a time")
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Timestamp: 2})
	require.Equal(t, websocket.Gap{Channel: "ch", First: 1, Last: 2, Reason: client.ReasonReconnect}, receive(t, rec.gaps))
	hub.write(websocket.Message{Type: "error", ID: unsubscribe.ID, Data: []byte(`{"code":"forbidden"}`)})
	require.ErrorAs(t, receive(t, result), new(*client.Error))
	s.Listener.Close()
	require.NoError(t, hub.NetConn().Close())
	for c.State() != client.Disconnected {
		rec.waitState(t, client.Disconnected)
	}
	require.NoError(t, c.Unsubscribe(testContext(t), "ch"))
}

func TestOutboundLimit(t *testing.T) {
	t.Parallel()
	o := client.Options{MaxSendSize: 500, OutboundLimit: 1000, WriteTimeout: time.Hour}
	withSilentHub(t, o, func(t *testing.T, c *client.Client, rec *recorder) {
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
