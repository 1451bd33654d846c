package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

func TestHubBehindGin(t *testing.T) {
	h := start(t)
	p := h.Connect(hubtest.Options{Codec: websocket.ProtobufCodec{}, Path: "/ws?user=ann"})
	p.Expect(websocket.Message{Type: "welcome", Data: []byte(`"Hello ann"`)})
	require.NoError(t, h.PublishToChannelRaw("news", []byte("headline")))
	p.Expect(websocket.Message{Type: "message", Channel: "news", Data: []byte("headline")})
}

func TestMiddlewareRefusesHandshake(t *testing.T) {
	response := start(t).Refused(hubtest.Options{Path: "/ws"})
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "the URL needs a user, such as ?user=ann", string(body))
}

// Only the hub's route needs a user.
func TestOtherPaths(t *testing.T) {
	h := start(t)
	for !h.Health().Running { // a moment
		runtime.Gosched()
	}
	for path, status := range map[string]int{"/": http.StatusNotFound, "/live": http.StatusOK, "/ready": http.StatusOK} {
		w := httptest.NewRecorder()
		newRouter(h.Hub).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, status, w.Code, path)
	}
}

// start runs the hub behind the router until the test ends.
func start(t *testing.T) *hubtest.Hub {
	t.Helper()
	gin.SetMode(gin.TestMode)
	hub := newHub()
	ended := make(chan error, 1)
	go func() { ended <- hub.Run(context.Background()) }() // returns after Stop
	h := hubtest.Serve(t, hub, newRouter(hub))
	t.Cleanup(func() {
		h.Stop()
		require.NoError(t, <-ended)
	})
	return h
}
