package client_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestPanicsAreReported(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c, rec := dial(t, s.url(), client.Options{})
	ctx := testContext(t)
	got := make(chan struct{}, 1)
	calls := 0
	require.NoError(t, errOf(c.Subscribe(ctx, "ch", func(*websocket.Message) {
		switch calls++; calls {
		case 1:
			panic("first")
		case 2:
			runtime.Goexit()
		default:
			got <- struct{}{}
		}
	})))
	for range 3 {
		require.NoError(t, c.Publish(ctx, "ch", nil))
	}
	var panicked *client.PanicError
	require.ErrorAs(t, receive(t, rec.errors), &panicked)
	require.Equal(t, "first", panicked.Value)
	require.Contains(t, string(panicked.Stack), "TestPanicsAreReported")
	require.ErrorAs(t, receive(t, rec.errors), &panicked)
	require.Nil(t, panicked.Value)
	receive(t, got)
}

func TestMessagesWithoutHandlerGoToOnMessage(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.onConn = func(c *websocket.Client) {
			_ = c.Subscribe("given")
			_ = c.JoinRoom("given")
		}
	})
	c, rec := dial(t, s.url(), client.Options{})
	require.NoError(t, s.hub.PublishToChannel("given", &websocket.Message{Data: []byte(`1`)}))
	require.Equal(t, "message", receive(t, rec.messages).Type)
	require.NoError(t, s.hub.PublishToRoom("given", &websocket.Message{Data: []byte(`1`)}))
	require.Equal(t, "room_message", receive(t, rec.messages).Type)
	require.NoError(t, s.onlyClient().Send(&websocket.Message{Type: "direct"}))
	require.Equal(t, "direct", receive(t, rec.messages).Type)

	own, onOwn := newHandler()
	require.NoError(t, errOf(c.JoinRoom(testContext(t), "r", onOwn)))
	require.NoError(t, s.hub.PublishToRoom("r", &websocket.Message{Type: "move"}))
	require.Equal(t, "move", receive(t, own).Type, "a type of the publisher's own finds the room")
	require.NoError(t, errOf(c.Subscribe(testContext(t), "nobody handles", nil)))
	require.NoError(t, s.hub.PublishToChannel("nobody handles", &websocket.Message{}))
	require.Equal(t, "nobody handles", receive(t, rec.messages).Channel)
}
