package websocket_test

import (
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
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
