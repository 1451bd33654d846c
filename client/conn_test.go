package client_test

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestWrongKeysEndClient covers both sides that can detect wrong keys.
func TestWrongKeysEndClient(t *testing.T) {
	t.Parallel()
	t.Run("hub", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, func(s *server) { s.config.Security = websocket.NewSecurityConfig(aesKey, nil) })
		_, err := client.Dial(testContext(t), s.url(), client.Options{Security: websocket.NewSecurityConfig(make([]byte, 32), nil)})
		require.Equal(t, websocket.ClosePolicyViolation, closeErrorOf(t, err).Code)
		require.True(t, closeErrorOf(t, err).ByPeer)
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
	t.Run("client", func(t *testing.T) {
		t.Parallel()
		upgrader := gorilla.Upgrader{Subprotocols: []string{"json"}}
		s := newScriptedServer(t, func(_ int, w http.ResponseWriter, r *http.Request) bool {
			ws, err := upgrader.Upgrade(w, r, nil)
			if err == nil {
				_ = ws.WriteMessage(gorilla.BinaryMessage, make([]byte, 100))
				_, _, _ = ws.ReadMessage() // the hello
				_, _, _ = ws.ReadMessage() // the Close frame
				_ = ws.Close()
			}
			return true
		})
		_, err := client.Dial(testContext(t), s.url(), client.Options{Security: websocket.NewSecurityConfig(aesKey, nil)})
		require.Equal(t, &websocket.CloseError{
			Code: websocket.ClosePolicyViolation, Reason: "message does not open: " + websocket.ErrDecrypt.Error(),
		}, closeErrorOf(t, err))
		require.Len(t, s.requests, 1)
	})
	t.Run("plain hub", func(t *testing.T) {
		t.Parallel()
		s := newServer(t, nil)
		_, err := client.Dial(testContext(t), s.url(), client.Options{Security: websocket.NewSecurityConfig(aesKey, nil)})
		require.Equal(t, websocket.CloseUnsupportedData, closeErrorOf(t, err).Code)
	})
}

// TestInvalidMessagesFromHub sends messages that break each rule for messages.
func TestInvalidMessagesFromHub(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		send func(*gorilla.Conn) error
		code int
	}{
		{"binary frame to json", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.BinaryMessage, []byte(`{}`)) }, 1003},
		{"not UTF-8", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.TextMessage, []byte{'"', 0xff, '"'}) }, 1007},
		{"no envelope", func(ws *gorilla.Conn) error { return ws.WriteMessage(gorilla.TextMessage, []byte(`[`)) }, 1007},
		{"unreadable gap", func(ws *gorilla.Conn) error {
			return ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"gap","data":{"count":-1}}`))
		}, 1007},
		{"too big", func(ws *gorilla.Conn) error {
			ws.EnableWriteCompression(false)
			return ws.WriteMessage(gorilla.TextMessage, make([]byte, 5000))
		}, 1009},
		{"too big when inflated", func(ws *gorilla.Conn) error {
			return ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x","data":"`+strings.Repeat("a", 5000)+`"}`))
		}, 1009},
		{"reserved bits", func(ws *gorilla.Conn) error {
			_, err := ws.NetConn().Write([]byte{0xf1, 0})
			return err
		}, 1002},
		{"does not inflate", func(ws *gorilla.Conn) error {
			_, err := ws.NetConn().Write([]byte{0xc1, 3, 0xff, 0xff, 0xff})
			return err
		}, 1007},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newScriptedServer(t, nil)
			_, rec := dial(t, s.url(), client.Options{MaxReceiveSize: 4096, EnableCompression: true})
			ws := receive(t, s.conns)
			defer func() { _ = ws.Close() }()
			require.NoError(t, tt.send(ws))
			var said *gorilla.CloseError
			_, _, err := ws.ReadMessage()
			if errors.As(err, &said) && said.Code != gorilla.CloseAbnormalClosure {
				require.Equal(t, tt.code, said.Code)
			}
			closed := rec.waitState(t, client.Closed)
			require.Equal(t, tt.code, closeErrorOf(t, closed.Err).Code, closed.Err)
			require.False(t, closeErrorOf(t, closed.Err).ByPeer)
			require.Len(t, s.requests, 1)
		})
	}
}

// deadNetwork is a connection that stops forwarding in both directions when dead is
// closed. Neither side is notified.
type deadNetwork struct {
	net.Conn
	dead chan struct{} // closed by the test
}

func (d *deadNetwork) Read(b []byte) (int, error) {
	for {
		n, err := d.Conn.Read(b)
		select {
		case <-d.dead:
			if err != nil {
				return 0, err
			}
		default:
			return n, err
		}
	}
}

func (d *deadNetwork) Write(b []byte) (int, error) {
	select {
	case <-d.dead:
		return len(b), nil
	default:
		return d.Conn.Write(b)
	}
}

func TestHeartbeatEndsHalfOpenConnection(t *testing.T) {
	t.Parallel()
	patient := func(s *server) { s.config.PongWait = time.Hour } // the hub does not notice the dead network
	inBubble(t, client.Options{}, patient, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		var networks []*deadNetwork
		rec.waitState(t, client.Connected)
		p.wrap = func(nc net.Conn) net.Conn {
			v := &deadNetwork{Conn: nc, dead: make(chan struct{})}
			networks = append(networks, v)
			return v
		}
		require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, ""))
		rec.waitState(t, client.Connected)
		require.NoError(t, errOf(c.Subscribe(t.Context(), "ch", nil)))
		began := time.Now()
		close(networks[0].dead)
		result := make(chan error, 1)
		go func() { result <- c.Publish(t.Context(), "ch", nil) }() // ends after the heartbeat has given up
		err := <-result
		require.ErrorIs(t, err, client.ErrOutcomeUnknown)
		require.Equal(t, 30*time.Second, time.Since(began))
		down := rec.waitState(t, client.Disconnected)
		require.Equal(t, websocket.CloseTimeout, closeErrorOf(t, down.Err).Code)
		require.True(t, down.WillRetry)
		rec.waitState(t, client.Connected)
		require.NoError(t, c.Publish(t.Context(), "ch", nil))
		require.Len(t, networks, 2)
	})
}

// TestIdleConnectionStaysOpen sends no messages for a day. Pings keep the connection
// open.
func TestIdleConnectionStaysOpen(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		time.Sleep(24 * time.Hour)
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

// TestSendingClientPingsHub sends often enough that the hub does not ping the client.
// The client has to ping the hub.
func TestSendingClientPingsHub(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		for range 1000 {
			require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "t"}))
			time.Sleep(time.Second)
		}
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

// TestClientPingsHubWithoutPings connects to a hub that does not ping for days. Pongs
// for the client's pings keep the connection open.
func TestClientPingsHubWithoutPings(t *testing.T) {
	t.Parallel()
	configure := func(s *server) { s.config.PongWait, s.config.PingPeriod = 100*time.Hour, 99*time.Hour }
	inBubble(t, client.Options{}, configure, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		time.Sleep(24 * time.Hour)
		require.Equal(t, client.Connected, c.State())
		require.Equal(t, uint64(1), s.hub.Stats().TotalConnections)
	})
}

func TestWriteTimeout(t *testing.T) {
	t.Parallel()
	withSilentHub(t, client.Options{}, func(t *testing.T, c *client.Client, rec *recorder) {
		began := time.Now()
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "t"}))
		down := rec.waitState(t, client.Disconnected)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(t, down.Err).Code)
	})
}
