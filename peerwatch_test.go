package websocket_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// duringCallback writes first, which starts a callback that runs until the client's
// Context is done, at most 10 seconds. It writes second when the hub has begun to watch the
// peer, and returns CloseError a second later and at the end.
func duringCallback(t *testing.T, p path, first, second string) (early, late *websocket.CloseError) {
	t.Helper()
	config := websocket.DefaultConfig
	config.OnMessage = func(c *websocket.Client, _ *websocket.Message) {
		ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
		defer cancel()
		<-ctx.Done()
	}
	hub := runFake(t, p, config)
	peer := hub.connect(1<<16, nil)
	c := onlyClient(t, hub)
	_, err := peer.client.Write([]byte(first))
	require.NoError(t, err)
	time.Sleep(time.Second)
	_, err = peer.client.Write([]byte(second))
	require.NoError(t, err)
	time.Sleep(time.Second)
	if c.CloseError() != nil {
		early = closeErrorOf(c)
	}
	time.Sleep(20 * time.Second)
	require.Error(t, c.CloseError())
	late = closeErrorOf(c)
	_ = peer.client.Close()
	hub.stop()
	requireSums(t, hub.Hub)
	return early, late
}

// A Close frame ends the client while a callback runs, whatever bytes follow it.
func TestBytesBehindCloseFrameDuringCallback(t *testing.T) {
	text := frameOf(fin|textOp, "text behind the Close frame")
	message := frameOf(fin|textOp, `{"type":"x"}`)
	for name, tt := range map[string]struct {
		stream string
		want   websocket.CloseError
	}{
		"empty, one byte":       {frameOf(fin|closeOp, "") + frameOf(fin|textOp, "x"), websocket.CloseError{Code: 1005, ByPeer: true}},
		"empty, text":           {frameOf(fin|closeOp, "") + text, websocket.CloseError{Code: 1005, ByPeer: true}},
		"reason, text":          {closeFrame(1000, "bye") + text, websocket.CloseError{Code: 1000, Reason: "bye", ByPeer: true}},
		"reason, partial frame": {closeFrame(1000, "bye") + text[:10], websocket.CloseError{Code: 1000, Reason: "bye", ByPeer: true}},
		"reason, broken rule":   {closeFrame(1000, "bye") + "\xff\xff", websocket.CloseError{Code: 1000, Reason: "bye", ByPeer: true}},
	} {
		t.Run(name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					early, late := duringCallback(t, p, message, tt.stream)
					require.Equal(t, &tt.want, early)
					require.Equal(t, &tt.want, late)
				})
			})
		})
	}
}
