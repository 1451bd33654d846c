package client_test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

func TestHello(t *testing.T) {
	t.Parallel()
	var ids int
	s := newServer(t, func(s *server) {
		s.config.MaxNameLength, s.config.MaxMessageSize, s.config.ByteRate = 100, 1000, -1
		s.config.ClientID = func(*http.Request) (string, error) { ids++; return fmt.Sprintf("zoë %d", ids), nil }
		s.onConn = func(c *websocket.Client) { c.SetUser("user of " + c.ID) }
	})
	ctx := testContext(t)
	for i, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		c, rec := dial(t, s.url(), client.Options{Codec: codec, Security: nil})
		rec.waitState(t, client.Connected)
		for n := 2*i + 1; n <= 2*i+2; n++ {
			require.NoError(t, c.Publish(ctx, "x", nil)) // its reply comes after that to hub:hello
			require.Equal(t, fmt.Sprintf("zoë %d", n), c.ID())
			require.Equal(t, "user of "+c.ID(), c.User())
			limits, ok := c.Limits()
			require.True(t, ok)
			require.Equal(t, client.Limits{MessageRate: 1000, MaxMessageSize: 1000, MaxNameLength: 100, MaxSubscriptions: 1000}, limits)
			var tooLarge *websocket.MessageTooLargeError
			require.ErrorAs(t, c.Publish(ctx, "x", make([]byte, 1000)), &tooLarge, "MaxSendSize follows the hub's limit")
			require.Equal(t, int64(1000), tooLarge.Limit)
			if n%2 == 1 {
				c.Reconnect()
				rec.waitState(t, client.Connected)
			}
		}
		require.NoError(t, c.Close())
	}
	for _, typ := range []string{"hub:hello", "hub:ping"} {
		c, _ := dial(t, s.url(), client.Options{})
		require.ErrorIs(t, c.Send(ctx, &websocket.Message{Type: typ, ID: "1"}), client.ErrReserved)
	}
}

// TestHelloToOlderHub connects to a hub that does not reply to hub:hello. The client waits
// for a second pong and does without.
func TestHelloToOlderHub(t *testing.T) {
	t.Parallel()
	upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}}
	var frames []byte
	s := newScriptedServer(t, func(_ int, w http.ResponseWriter, r *http.Request) bool {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return true
		}
		for range 3 { // hello and two pings
			first, _, err := readFrame(ws.NetConn())
			if err != nil {
				return true
			}
			frames = append(frames, first)
			if first == 0x89 {
				_, _ = ws.NetConn().Write([]byte{0x8a, 0})
			}
		}
		_, _ = io.Copy(io.Discard, ws.NetConn())
		_ = ws.Close()
		return true
	})
	c, _ := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	require.Equal(t, []byte{0x81, 0x89, 0x89}, frames)
	require.Empty(t, c.ID())
	require.Empty(t, c.User())
	_, ok := c.Limits()
	require.False(t, ok)
	require.ErrorIs(t, c.Send(testContext(t), &websocket.Message{Type: "x", Data: make([]byte, 512<<10)}), websocket.ErrMessageTooLarge)
}

// TestPacingFollowsHub sends as fast as the client allows to hubs with other rates than
// the default.
func TestPacingFollowsHub(t *testing.T) {
	t.Parallel()
	const all = 3000
	for _, tt := range []struct {
		name        string
		rate        int64
		options     client.Options
		least, most time.Duration
	}{
		{"slow hub", 100, client.Options{}, 32 * time.Second, 34 * time.Second},
		{"fast hub", 1500, client.Options{}, 1 * time.Second, 3 * time.Second},
		{"no limit", -1, client.Options{}, 0, time.Second},
		{"own limit", -1, client.Options{MessageRate: 50}, 58 * time.Second, 60 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			configure := func(s *server) { s.config.MessageRate, s.config.FloodTimeout = tt.rate, 5*time.Second }
			inBubble(t, tt.options, configure, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, _ *recorder) {
				require.NoError(t, c.Publish(t.Context(), "x", nil))
				began := time.Now()
				for range all {
					require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "t"}))
				}
				require.NoError(t, c.Publish(t.Context(), "x", nil))
				took := time.Since(began)
				require.True(t, tt.least <= took && took <= tt.most, took)
				require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
			})
		})
	}
}
