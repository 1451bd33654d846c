package websocket_test

import (
	"bytes"
	"net"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestSilentPeerIsPingedThenClosed(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig)
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			start := time.Now()
			var pings []time.Duration
			peer.SetPingHandler(func(string) error {
				pings = append(pings, time.Since(start))
				if len(pings) < 3 {
					return peer.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second))
				}
				return nil // the peer is silent from now on
			})
			code, reason := closeCode(t, peer)
			require.Equal(t, websocket.CloseTimeout, code)
			require.Contains(t, reason, "no sign of life for 1m")
			require.Equal(t, []time.Duration{54 * time.Second, 108 * time.Second, 162 * time.Second}, pings)
			require.Equal(t, (108+60)*time.Second, time.Since(start))
			_ = peer.Close()
		})
	})
}

// A PingPeriod that is much shorter than PongWait is kept as exactly.
func TestShortPingPeriod(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.PingPeriod = 5 * time.Second
			hub := runFake(t, p, config)
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			start := time.Now()
			var pings []time.Duration
			peer.SetPingHandler(func(string) error {
				pings = append(pings, time.Since(start))
				switch len(pings) {
				case 3:
					time.Sleep(50 * time.Second) // late, but within PongWait
				case 5:
					return nil // the peer is silent from now on
				}
				return peer.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second))
			})
			code, _ := closeCode(t, peer)
			require.Equal(t, websocket.CloseTimeout, code)
			require.Equal(t, []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 70 * time.Second, 75 * time.Second}, pings)
			require.Equal(t, (70+60)*time.Second, time.Since(start))
			_ = peer.Close()
		})
	})
}

// lateWriter is a connection whose writes return a second after the peer has the bytes, as
// for a goroutine that the system has not run meanwhile.
type lateWriter struct{ net.Conn }

func (w lateWriter) Write(b []byte) (int, error) {
	defer time.Sleep(time.Second)
	return w.Conn.Write(b)
}

// A pong may arrive before the write of its ping has returned.
func TestPongBeforePingIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[1], websocket.DefaultConfig)
		defer hub.stop()
		server, client := testnet.Pair(1 << 16)
		served := hub.acceptOn(lateWriter{server.Plain()})
		ws, _, err := dialOver(client, nil)
		require.NoError(t, err)
		<-served
		pings := 0
		ws.SetPingHandler(func(string) error {
			if pings++; pings == 10 {
				time.Sleep(2 * time.Second) // the write of the ping has returned
				return ws.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "enough"), time.Now().Add(time.Second))
			}
			return ws.WriteControl(gorilla.PongMessage, nil, time.Now().Add(time.Second))
		})
		code, _ := closeCode(t, &fakePeer{ws, server, client})
		require.Equal(t, 1000, code)
		_ = ws.Close()
	})
}

func TestActivePeerIsNotPinged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		peer.SetPingHandler(func(string) error { t.Error("ping to a peer that was not silent"); return nil })
		go func() {
			for range 20 {
				time.Sleep(50 * time.Second)
				_ = peer.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`))
			}
			_ = peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, "bye"), time.Time{})
		}()
		code, _ := closeCode(t, peer)
		require.Equal(t, 1000, code)
		_ = peer.Close()
	})
}

func TestStalledReaderIsCutAfterWriteWait(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan *websocket.CloseError, 1)
			hub := runFake(t, p, websocket.DefaultConfig, func(h *websocket.Hub) {
				h.SetCallbacks(nil, func(c *websocket.Client) { ended <- closeErrorOf(c) }, nil)
			})
			defer hub.stop()
			peer := hub.connect(1000, nil)
			start := time.Now()
			require.NoError(t, hub.Broadcast(bytes.Repeat([]byte("1"), 5000)))
			ce := <-ended
			require.Equal(t, websocket.CloseAbnormalClosure, ce.Code)
			require.Contains(t, ce.Reason, "WriteWait")
			cut := time.Since(start)
			require.GreaterOrEqual(t, cut, 10*time.Second)
			require.LessOrEqual(t, cut, 11*time.Second, "the writePump checks for progress every second")
			require.EqualValues(t, 1, hub.Stats().Dropped.Disconnected)
			_ = peer.Close()
		})
	})
}
