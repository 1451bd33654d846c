package websocket_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestSlowReaderGetsEverythingInOrder(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, window := range []int{1, 2, 7, 100, 4096} {
			synctest.Test(t, func(t *testing.T) {
				hub := runFake(t, p, websocket.DefaultConfig, subscribeAll("news"))
				defer hub.stop()
				peer := hub.connect(4096, nil)
				peer.server.SetWindow(window)
				const n = 50
				go func() {
					for i := range n {
						_ = hub.PublishToChannelRaw("news", []byte(fmt.Sprintf(`{"i":%d,"x":"%s"}`, i, strings.Repeat("y", i*3))))
					}
				}()
				for i := range n {
					m := readJSON(t, peer)
					require.EqualValues(t, i, m["data"].(map[string]any)["i"])
				}
				require.EqualValues(t, n, waitSent(hub))
				_ = peer.Close()
			})
		}
	})
}

// waitSent waits until the hub is idle and returns the number of messages sent.
func waitSent(h *fakeHub) uint64 {
	synctest.Wait()
	return h.Stats().MessagesSent
}

// exiting is a codec that ends its goroutine for some messages and for gap notices.
type exiting struct{ websocket.JSONCodec }

func (exiting) Name() string { return "exiting" }
func (exiting) Index() int   { return 10 }

func (c exiting) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	if strings.Contains(string(m.Data), "exit") {
		runtime.Goexit()
	}
	return c.JSONCodec.AppendMarshal(dst, m)
}

func (exiting) EncodeError(string, string) []byte { return nil }

func (exiting) EncodeGap(websocket.Gap) []byte {
	runtime.Goexit()
	return nil
}

// TestCodecEndsWritePump has a codec end the goroutine of a writePump. Its client ends,
// every message is accounted for, and other clients get theirs.
func TestCodecEndsWritePump(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		window int
		send   func(t *testing.T, c *websocket.Client)
	}{
		{"message", 1 << 10, func(t *testing.T, c *websocket.Client) {
			for _, data := range []string{`"before"`, `"exit"`, `"after"`} {
				require.NoError(t, c.Send(&websocket.Message{Data: []byte(data)}))
			}
		}},
		{"gap notice", 100, func(t *testing.T, c *websocket.Client) {
			for range 60 { // more than the backlog
				require.NoError(t, c.Send(&websocket.Message{Data: []byte(`"` + longText(200) + `"`)}))
				synctest.Wait()
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.Codecs = []websocket.Codec{exiting{}, websocket.JSONCodec{}}
				config.Subprotocols = nil
				config.MaxMessageSize, config.ClientBacklog = 300, 2<<10
				config.SlowConsumer = websocket.DropNewest
				hub := runFake(t, paths[1], config)
				defer hub.stop()
				peer := hub.connect(1<<10, codecHeader("exiting"))
				c := onlyClient(t, hub)
				peer.server.SetWindow(tt.window)
				other := hub.connect(1<<10, codecHeader("json"))
				tt.send(t, c)
				go keepAlive(peer) // ends with the connection
				synctest.Wait()
				var cause *websocket.CloseError
				require.ErrorAs(t, c.CloseError(), &cause)
				require.Equal(t, 1006, cause.Code)
				require.ErrorContains(t, cause.Err, "a codec ended the goroutine")
				require.NoError(t, hub.Broadcast([]byte(`"for the other"`)))
				require.Equal(t, "for the other", readJSON(t, other)["data"])
				synctest.Wait()
				st := hub.Stats()
				require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total())
				require.Zero(t, hub.HeldByMessages())
				require.Equal(t, 1, st.ActiveConnections)
				_ = other.Close()
			})
		})
	}
}
