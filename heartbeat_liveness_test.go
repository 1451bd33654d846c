package websocket_test

import (
	"bytes"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// A peer that reads all the time is never aborted, although its kernel reports the
// socket as writable only after longer than WriteWait.
func TestSlowReaderIsNotAborted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, rate = 4 << 20, 50 << 10 // bytes, bytes per second
		hub := runFake(t, paths[0], websocket.DefaultConfig, subscribeAll("news"))
		defer hub.stop()
		peer := hub.connect(window, nil)
		peer.server.SetMinFree(window / 3)
		const messages, size = 450, 10_000
		for i := range messages {
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, size)))
		}
		synctest.Wait()
		read := 0
		b := make([]byte, rate/10)
		for read < messages*size {
			n, err := peer.client.Read(b)
			require.NoError(t, err, "after %d bytes", read)
			read += n
			time.Sleep(100 * time.Millisecond)
		}
		require.Zero(t, hub.Stats().Dropped)
		_ = peer.Close()
	})
}

// A pong stands behind the data that a slow peer has to read. The peer is not closed for
// silence as long as it reads.
func TestPongBehindData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const window, rate = 4 << 20, 50 << 10
		hub := runFake(t, paths[0], websocket.DefaultConfig, subscribeAll("news"))
		defer hub.stop()
		peer := hub.connect(window, nil)
		for i := range 350 {
			require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 10_000)))
		}
		b := make([]byte, rate/10)
		for range 1200 { // two minutes, in which it sends nothing
			_, err := peer.client.Read(b)
			if err != nil || peer.client.Pending() == 0 {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 1, hub.Stats().ActiveConnections)
		_ = peer.Close()
	})
}

// A peer whose kernel answers but whose program does not is closed within PongWait.
func TestSilentPeerThatReadsNothing(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig)
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			start := time.Now()
			for hub.Stats().ActiveConnections > 0 {
				time.Sleep(time.Second)
			}
			require.LessOrEqual(t, time.Since(start), websocket.DefaultConfig.PongWait+time.Second)
			_ = peer.Close()
		})
	})
}

// sleepyCodec is JSON whose Marshal takes 100 seconds, during which the hub goroutine
// does nothing else, as if the process were stopped.
type sleepyCodec struct{ websocket.JSONCodec }

func (sleepyCodec) Name() string { return "sleepy" }
func (sleepyCodec) Index() int   { return 9 }
func (sleepyCodec) Marshal(m *websocket.Message) ([]byte, error) {
	time.Sleep(100 * time.Second)
	return websocket.JSONCodec{}.Marshal(m)
}
func (c sleepyCodec) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	b, err := c.Marshal(m)
	return append(dst, b...), err
}

// A hub that stands still for longer than PongWait closes no client that was not pinged,
// and none that answers a ping that was sent before.
func TestPauseClosesNobody(t *testing.T) {
	for _, before := range []time.Duration{10 * time.Second, 55 * time.Second} { // of the pause; the first ping is due at 54 s
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.Shards = 1
			config.Codecs = []websocket.Codec{websocket.JSONCodec{}, sleepyCodec{}}
			config.Subprotocols = nil
			hub := runFake(t, paths[0], config)
			defer hub.stop()
			idle := hub.connect(1<<16, nil)
			answers := make(chan bool, 10) // pings that the peer got
			idle.SetPingHandler(func(payload string) error {
				answers <- true
				return idle.WriteControl(gorilla.PongMessage, []byte(payload), time.Time{})
			})
			go func() { // ends with the connection
				for {
					if _, _, err := idle.ReadMessage(); err != nil {
						return
					}
				}
			}()
			time.Sleep(before)
			sleepy := hub.connect(1<<16, codecHeader("sleepy"))
			require.NoError(t, hub.BroadcastMessage(&websocket.Message{Type: "x"}))
			time.Sleep(3 * time.Minute)
			require.GreaterOrEqual(t, len(answers), 1)
			for c := range hub.Clients() {
				require.NoError(t, c.CloseError())
			}
			require.GreaterOrEqual(t, hub.Stats().ActiveConnections, 1)
			_ = idle.Close()
			_ = sleepy.Close()
		})
	}
}

// endsAtPing is a connection that writes of the hub find full at first. It accepts one
// large write when grow is called, and from then on whole writes until one has a ping.
// After that it accepts nothing and the peer makes no progress.
type endsAtPing struct {
	*testnet.Conn
	full   atomic.Bool // TryWrite accepts nothing
	grow   chan struct{}
	pinged atomic.Int64 // bytes written when the ping had been accepted
	ended  chan struct{}
}

func (c *endsAtPing) TryWrite(b []byte, brief bool) (int, error) {
	if c.full.Load() {
		return 0, nil
	}
	return c.Conn.TryWrite(b, brief)
}

func (c *endsAtPing) WriteAll(b []byte, progress *atomic.Int64, clock func() int64) (int, error) {
	select {
	case <-c.grow:
	case <-c.ended:
		return 0, net.ErrClosed
	}
	if c.pinged.Load() > 0 {
		<-c.ended
		return 0, net.ErrClosed
	}
	n, err := c.Conn.WriteAll(b, progress, clock)
	if bytes.Contains(b, []byte{0x89, 0}) {
		time.Sleep(time.Microsecond) // the writePump notes the ping's time later than the progress
		c.pinged.Store(c.Faults().Written.Load())
	}
	return n, err
}

func (c *endsAtPing) Abort() { close(c.ended); c.Conn.Abort() }

// A peer that stops after a ping is closed within PongWait and its connection ended
// within WriteWait, however these times and PingPeriod are ordered.
func TestPeerThatStopsAfterPingIsClosed(t *testing.T) {
	for _, times := range []struct{ writeWait, pongWait, pingPeriod time.Duration }{
		{time.Second, 550 * time.Millisecond, 450 * time.Millisecond},
		{10 * time.Second, 5 * time.Second, 4 * time.Second},
		{10 * time.Second, 6 * time.Second, 5*time.Second - 1},
		{10 * time.Second, 9 * time.Second, 4 * time.Second},
		{10 * time.Second, 20 * time.Second, 4 * time.Second},
		{10 * time.Second, 4*time.Second + 1, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			var left, ended time.Time
			config := websocket.DefaultConfig
			config.EnableCompression = false
			config.WriteWait, config.PongWait, config.PingPeriod = times.writeWait, times.pongWait, times.pingPeriod
			config.OnConnect = func(c *websocket.Client) {
				_ = c.Subscribe("news")
				go func() { <-c.Context().Done(); left = time.Now() }() // ends with the client
			}
			config.OnDisconnect = func(*websocket.Client) { ended = time.Now() }
			hub := runFake(t, paths[0], config)
			server, client := testnet.Pair(1 << 20)
			c := &endsAtPing{Conn: server, grow: make(chan struct{}), ended: make(chan struct{})}
			served := hub.acceptOn(c)
			_, _, err := dialOver(client, nil)
			require.NoError(t, err)
			<-served
			c.full.Store(true)
			for i := range 100 { // three writes
				require.NoError(t, hub.PublishToChannelRaw("news", numbered(i, 2000)))
			}
			time.Sleep(times.pingPeriod + 10*time.Millisecond) // a ping is queued behind the first write
			start := time.Now()
			close(c.grow)
			synctest.Wait()
			time.Sleep(2 * time.Microsecond)
			require.Positive(t, c.pinged.Load())
			time.Sleep(times.writeWait + times.pongWait)
			synctest.Wait()
			require.False(t, left.IsZero(), "not closed: %+v", times)
			require.LessOrEqual(t, left.Sub(start), min(times.writeWait, times.pongWait)+time.Millisecond)
			require.False(t, ended.IsZero(), "not ended: %+v", times)
			require.LessOrEqual(t, ended.Sub(start), times.writeWait+time.Millisecond)
			hub.stop()
			requireSums(t, hub.Hub)
		})
	}
}
