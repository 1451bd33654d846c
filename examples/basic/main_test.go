package main

import (
	"context"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
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
