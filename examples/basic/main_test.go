package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func TestPublishReachesSubscriber(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	hub := websocket.NewHub(nil, websocket.DefaultConfig)
	setCallbacks(hub)
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }() // returns after cancel
	server := httptest.NewServer(routes(hub))
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		server.Close()
	})

	dialer := websocket.Dialer{}
	conn, _, err := dialer.Dial("ws"+strings.TrimPrefix(server.URL, "http")+"/ws", nil)
	require.NoError(t, err)
	defer conn.Close()
	send := func(text string) {
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(text)))
	}
	var got struct {
		Type, Channel, ID string
		Data              struct{ Headline string }
	}

	send(`{"type":"subscribe","data":{"channel":"news"},"id":"1"}`)
	require.NoError(t, conn.ReadJSON(&got))
	require.Equal(t, "ack", got.Type)
	require.Equal(t, "1", got.ID)

	send(`{"type":"publish","channel":"news","data":{"headline":"Hello"}}`)
	require.NoError(t, conn.ReadJSON(&got))
	require.Equal(t, "message", got.Type)
	require.Equal(t, "news", got.Channel)
	require.Equal(t, "Hello", got.Data.Headline)
}
