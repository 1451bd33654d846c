package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func TestHubBehindGin(t *testing.T) {
	hub, url := setup(t)
	dialer := websocket.Dialer{Subprotocols: []string{"protobuf"}}
	conn, _, err := dialer.Dial(url+"?user=ann", nil)
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "protobuf", conn.Subprotocol())

	receive := func() (m websocket.Message) {
		_, frame, err := conn.ReadMessage()
		require.NoError(t, err)
		require.NoError(t, websocket.ProtobufCodec{}.Unmarshal(frame, &m))
		return m
	}
	welcome := receive()
	require.Equal(t, "welcome", welcome.Type)
	require.Equal(t, `"Hello ann"`, string(welcome.Data))

	require.NoError(t, hub.PublishToChannelRaw("news", []byte("headline")))
	news := receive()
	require.Equal(t, "message", news.Type)
	require.Equal(t, "news", news.Channel)
	require.Equal(t, "headline", string(news.Data))
}

func TestMiddlewareRefusesHandshake(t *testing.T) {
	_, url := setup(t)
	dialer := websocket.Dialer{}
	_, response, err := dialer.Dial(url, nil)
	require.Error(t, err)
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "the URL needs a user, such as ?user=ann", string(body))
}

// Only the hub's route needs a user.
func TestOtherPathsAreNotFound(t *testing.T) {
	_, url := setup(t)
	response, err := http.Get("http" + strings.TrimSuffix(strings.TrimPrefix(url, "ws"), "ws"))
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusNotFound, response.StatusCode)
}

func setup(t *testing.T) (*websocket.Hub, string) {
	t.Helper()
	gin.SetMode(gin.TestMode)
	ctx, cancel := context.WithCancel(context.Background())
	hub := newHub()
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(ctx) }() // returns after cancel
	server := httptest.NewServer(newRouter(hub))
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		server.Close()
	})
	return hub, "ws" + strings.TrimPrefix(server.URL, "http") + "/ws"
}
