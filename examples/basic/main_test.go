package main

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

// TestMain runs the program in the child process of TestProgramFails.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_PROGRAM") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A program that cannot serve says why, and does not print an address to connect to.
func TestProgramFails(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	for want, args := range map[string][]string{
		"listen tcp":               {"-addr", taken.Addr().String()},
		`unexpected argument ":0"`: {"-addr", "localhost:0", ":0"},
	} {
		program := exec.CommandContext(t.Context(), os.Args[0], args...)
		program.Env = append(os.Environ(), "RUN_PROGRAM=1")
		out, err := program.CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), want)
		require.NotContains(t, string(out), "connect")
	}
}

func TestPublishReachesSubscriber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := websocket.NewHub(nil, websocket.DefaultConfig)
		setCallbacks(hub)
		ended := make(chan error, 1)
		go func() { ended <- hub.Run(context.Background()) }() // returns after Stop
		h := hubtest.Serve(t, hub, routes(hub))
		h.Path = "/ws"
		p := h.Connect(hubtest.Options{})
		p.Subscribe("news")
		p.Publish("news", `{"headline":"Hello"}`)
		p.Expect(websocket.Message{Type: "message", Channel: "news", Data: []byte(`{"headline":"Hello"}`)})
		for _, path := range []string{"/live", "/ready"} {
			w := httptest.NewRecorder()
			routes(hub).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			require.Equal(t, http.StatusOK, w.Code, path)
		}
		h.Stop()
		require.NoError(t, <-ended)
	})
}
