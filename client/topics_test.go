package client_test

import (
	"context"
	"maps"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestRefusedRestoreIsReported(t *testing.T) {
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
	ctx := testContext(t)
	c, rec := dial(t, s.url(), client.Options{})
	rec.waitState(t, client.Connected)
	kept, onKept := newHandler()
	require.NoError(t, errOf(c.Subscribe(ctx, "gone", nil)))
	require.NoError(t, errOf(c.JoinRoom(ctx, "gone", nil)))
	require.NoError(t, errOf(c.Subscribe(ctx, "kept", onKept)))
	refused.Store(true)
	require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, "move"))
	rec.waitState(t, client.Connected)
	require.NoError(t, c.Publish(ctx, "kept", nil))
	receive(t, kept)
	lost := map[string]*client.RestoreError{}
	for range 2 {
		var e *client.RestoreError
		require.ErrorAs(t, receive(t, rec.errors), &e)
		require.ErrorContains(t, e, "no more")
		lost[e.Channel+"/"+e.RoomID] = e
	}
	require.Contains(t, lost, "gone/")
	require.Contains(t, lost, "/gone")
	refused.Store(false)
	require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, "move"))
	rec.waitState(t, client.Connected)
	s.onlyClient()
	require.Equal(t, map[string]int{"kept": 1}, maps.Collect(s.hub.Channels()))
}

// TestCanceledSubscribe cancels a Subscribe after the hub has received it. The client
// unsubscribes and discards the messages that arrive before the reply.
func TestCanceledSubscribe(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	hub := jsonPeer{t, receive(t, s.conns)}
	defer func() { _ = hub.Close() }()
	ctx, cancel := context.WithCancel(testContext(t))
	result := make(chan error, 1)
	got, handler := newHandler()
	go func() { result <- errOf(c.Subscribe(ctx, "ch", handler)) }() // ends with ctx
	subscribe := hub.read()
	require.Equal(t, "subscribe", subscribe.Type)
	require.JSONEq(t, `{"channel":"ch"}`, string(subscribe.Data))
	cancel()
	err := receive(t, result)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, client.ErrOutcomeUnknown)
	unsubscribe := hub.read()
	require.Equal(t, "unsubscribe", unsubscribe.Type)
	hub.write(websocket.Message{Type: "ack", ID: subscribe.ID, Channel: "ch"})
	hub.write(websocket.Message{Type: "message", Channel: "ch"})
	hub.write(websocket.Message{Type: "ack", ID: unsubscribe.ID, Channel: "ch"})
	hub.write(websocket.Message{Type: "ack", ID: "the application's own"})
	require.Equal(t, "the application's own", receive(t, rec.messages).ID)
	require.Empty(t, got)

	// Subscribing again works. A canceled Unsubscribe ends the subscription.
	go func() { result <- errOf(c.Subscribe(testContext(t), "ch", handler)) }() // ends with the ack
	hub.write(websocket.Message{Type: "ack", ID: hub.read().ID, Channel: "ch", Timestamp: 5})
	require.NoError(t, receive(t, result))
	ctx, cancel = context.WithCancel(testContext(t))
	go func() { result <- c.Unsubscribe(ctx, "ch") }() // ends with ctx
	require.Equal(t, "unsubscribe", hub.read().Type)
	cancel()
	require.ErrorIs(t, receive(t, result), context.Canceled)
	hub.write(websocket.Message{Type: "message", Channel: "ch"})
	hub.write(websocket.Message{Type: "end"})
	require.Equal(t, "end", receive(t, rec.messages).Type)
	require.Empty(t, got)
	require.NoError(t, hub.NetConn().Close())
	hub = jsonPeer{t, receive(t, s.conns)}
	require.NoError(t, c.Send(testContext(t), &websocket.Message{Type: "first"}))
	require.Equal(t, "first", hub.read().Type, "nothing is restored")
}

// TestCanceledSubscribeKeepsOthers cancels a further Subscribe under way. The client stays
// in the channel for its other subscription.
func TestCanceledSubscribeKeepsOthers(t *testing.T) {
	t.Parallel()
	s := newScriptedServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	hub := jsonPeer{t, receive(t, s.conns)}
	defer func() { _ = hub.Close() }()
	result := make(chan error, 1)
	got, handler := newHandler()
	go func() { result <- errOf(c.Subscribe(testContext(t), "ch", handler)) }() // ends with the ack
	hub.write(websocket.Message{Type: "ack", ID: hub.read().ID, Channel: "ch"})
	require.NoError(t, receive(t, result))
	ctx, cancel := context.WithCancel(testContext(t))
	canceled, onCanceled := newHandler()
	go func() { result <- errOf(c.Subscribe(ctx, "ch", onCanceled)) }() // ends with ctx
	subscribe := hub.read()
	cancel()
	require.ErrorIs(t, receive(t, result), context.Canceled)
	require.NoError(t, c.Send(testContext(t), &websocket.Message{Type: "next"}))
	require.Equal(t, "next", hub.read().Type, "nothing is unsubscribed")
	hub.write(websocket.Message{Type: "ack", ID: subscribe.ID, Channel: "ch"})
	hub.write(websocket.Message{Type: "message", Channel: "ch"})
	receive(t, got)
	hub.write(websocket.Message{Type: "end"})
	require.Equal(t, "end", receive(t, rec.messages).Type)
	require.Empty(t, canceled)
}
