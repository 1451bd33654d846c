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

// A violation that was found before a callback began closes the client when the callback
// has returned. Bytes that arrive during the callback do not hide it.
func TestViolationBeforeCallback(t *testing.T) {
	message := frameOf(fin|textOp, `{"type":"x"}`)
	for name, tt := range map[string]struct{ broken, rest, reason string }{
		"Close of a byte": {"\x88\x81", "maskx", "Close frame with half a status code"},
		"reserved bit":    {"\xa1\x81", "maskx" + closeFrame(1000, "bye"), "reserved bit RSV2 or RSV3 is set"},
		"not masked":      {"\x81\x01", "x" + closeFrame(1000, "bye"), "frame is not masked"},
		"reserved opcode": {"\x83\x80", "mask" + closeFrame(1000, "bye"), "reserved opcode 0x3"},
	} {
		t.Run(name, func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					early, late := duringCallback(t, p, message+tt.broken, tt.rest)
					require.Nil(t, early)
					require.Equal(t, &websocket.CloseError{Code: 1002, Reason: tt.reason}, late)
				})
			})
		})
	}
}

// OnJoin of a control message may run as long as OnMessage: its client's Context ends when
// the peer has gone.
func TestPeerEndsDuringOnJoin(t *testing.T) {
	for _, data := range []string{`{"type":"subscribe","data":{"channel":"a"}}`, `{"type":"join_room","data":{"room_id":"a"}}`} {
		onBothPaths(t, func(t *testing.T, p path) {
			synctest.Test(t, func(t *testing.T) {
				var ended time.Time
				config := websocket.DefaultConfig
				config.OnJoin = func(c *websocket.Client, _ websocket.Topic) {
					ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
					defer cancel()
					<-ctx.Done()
					ended = time.Now()
				}
				hub := runFake(t, p, config)
				peer := hub.connect(1<<16, nil)
				_, err := peer.client.Write([]byte(frameOf(fin|textOp, data)))
				require.NoError(t, err)
				time.Sleep(5 * time.Second)
				start := time.Now()
				_ = peer.client.Close()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				require.LessOrEqual(t, ended.Sub(start), time.Second)
				hub.stop()
				requireSums(t, hub.Hub)
			})
		})
	}
}

// The memory for reading ahead counts against the budget: the input that waits, and the
// goroutine that reads, which stays until the client sends something.
func TestReadingAheadIsCounted(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			const atMost = 3 << 10 // for a goroutine and what it reads into
			gate := make(chan struct{})
			config := websocket.DefaultConfig
			config.OnConnect = func(*websocket.Client) { time.Sleep(2 * time.Second) }
			config.OnMessage = func(_ *websocket.Client, m *websocket.Message) {
				if m.Type == "wait" {
					<-gate
				}
			}
			hub := runFake(t, p, config)
			peer := hub.connect(1<<16, nil)
			write := func(message string) {
				t.Helper()
				require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(message)))
				time.Sleep(2 * time.Second)
				synctest.Wait()
			}
			idle := hub.Stats().HeldBytes
			write(`{"type":"x"}`)
			base := hub.Stats().HeldBytes
			require.Greater(t, idle, base, "the goroutine is not counted")
			require.LessOrEqual(t, idle-base, int64(atMost))

			write(`{"type":"wait"}`)
			require.Greater(t, hub.Stats().HeldBytes, base)
			write(`{"type":"x","data":"` + longText(8<<10) + `"}`)
			held := hub.Stats().HeldBytes - base
			require.GreaterOrEqual(t, held, int64(4<<10), "the input that waits is not counted")
			require.LessOrEqual(t, held, int64(4<<10+atMost))
			gate <- struct{}{}
			write(`{"type":"x"}`)
			require.Equal(t, base, hub.Stats().HeldBytes)

			write(`{"type":"wait"}`)
			write(`{"type":"x","data":"` + longText(8<<10) + `"}`)
			require.NoError(t, onlyClient(t, hub).Close(0, "")) // the input is not read any more
			close(gate)
			_ = peer.client.Close()
			time.Sleep(time.Minute)
			require.Zero(t, hub.Stats().HeldBytes)
			hub.stop()
		})
	})
}
