package websocket_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestEvictionSaysWhy(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.MaxMessageSize, config.ClientBacklog = 1000, 10_000
			hub := runFake(t, p, config, subscribeAll("news"))
			defer hub.stop()
			peer := hub.connect(500, nil)
			const n = 100
			for i := range n {
				require.NoError(t, hub.PublishToChannelRaw("news", []byte(fmt.Sprint(i))))
			}
			synctest.Wait()
			st := hub.Stats()
			require.EqualValues(t, 1, st.Evicted)
			code, reason := closeCode(t, peer)
			require.Equal(t, websocket.CloseTryAgainLater, code)
			require.Contains(t, reason, "slow consumer")
			_ = peer.Close()
			synctest.Wait()
			st = hub.Stats()
			require.LessOrEqual(t, st.MessagesAddressed, uint64(n), "an evicted client is no member any more")
			require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.SlowConsumer+st.Dropped.Disconnected)
			require.Positive(t, st.Dropped.SlowConsumer)
			require.Zero(t, st.ActiveConnections)
			require.Zero(t, st.HeldBytes)
		})
	})
}

func TestDropsAreAnnouncedInPlace(t *testing.T) {
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		onBothPaths(t, func(t *testing.T, p path) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxMessageSize, config.ClientBacklog = 1000, 4_000
				config.SlowConsumer = policy
				var reported uint64
				config.OnDrop = func(_ *websocket.Client, lost websocket.Gap) { reported += lost.Count }
				hub := runFake(t, p, config, subscribeAll("news"))
				peer := hub.connect(300, nil)
				const n = 200
				next := 0
				publish := func(k int) {
					for range k {
						require.NoError(t, hub.PublishToChannelRaw("news", []byte(fmt.Sprint(next))))
						next++
					}
				}
				publish(n / 2)
				synctest.Wait()
				seen, lost := 0, 0
				for seen+lost < n {
					if seen+lost > 10 && next < n {
						publish(n - next)
						synctest.Wait()
					}
					m := readJSON(t, peer)
					if m["type"] == "gap" {
						lost += int(m["data"].(map[string]any)["count"].(float64))
						require.Equal(t, "news", m["data"].(map[string]any)["channel"])
						continue
					}
					require.EqualValues(t, seen+lost, m["data"], "a message is missing without a gap notice")
					seen++
				}
				require.NotZero(t, lost)
				_ = peer.Close()
				synctest.Wait()
				st := hub.Stats()
				require.EqualValues(t, lost, st.Dropped.SlowConsumer)
				require.EqualValues(t, lost, st.Announced)
				require.Zero(t, st.HeldBytes)
				hub.stop()
				require.EqualValues(t, lost, reported)
			})
		})
	}
}

// TestLargeMessagesDoNotEvictReader publishes four messages of 600 kB and small ones at
// once to a client that reads 10 MB a second. With the default ClientBacklog of 1 MiB the
// client must get all of them.
func TestLargeMessagesDoNotEvictReader(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.SlowConsumer = policy
				config.EnableCompression = false
				hub := runFake(t, p, config, subscribeAll("news"))
				defer hub.stop()
				peer := hub.connect(100_000, nil)
				var want []string
				for i := range 2 {
					for range 4 {
						want = append(want, strings.Repeat(fmt.Sprint(i), 600_000))
					}
					for k := range 50 {
						want = append(want, fmt.Sprint("small ", k))
					}
				}
				go func() { // ends when all are published
					for i, text := range want {
						if i > 0 && i%54 == 0 {
							time.Sleep(time.Second) // the client reads 2.4 MB meanwhile
						}
						_ = hub.PublishToChannelRaw("news", []byte(`"`+text+`"`))
					}
				}()
				pace := func() { time.Sleep(10 * time.Millisecond) } // per window of 100 kB
				for i, text := range want {
					_, r, err := peer.NextReader()
					require.NoError(t, err, "message %d", i)
					var got []byte
					for b := make([]byte, 100_000); !errors.Is(err, io.EOF); {
						var n int
						n, err = r.Read(b)
						got = append(got, b[:n]...)
						if len(got)/100_000 > (len(got)-n)/100_000 {
							pace()
						}
					}
					require.Contains(t, string(got), `"data":"`+text+`"`, "message %d", i)
				}
				_ = peer.Close()
				synctest.Wait()
				st := hub.Stats()
				require.Zero(t, st.Evicted)
				require.Zero(t, st.Dropped.SlowConsumer)
				require.Zero(t, st.HeldBytes)
			})
		}
	})
}

// TestLargeMessagesAreBounded queues messages of half of ClientBacklog. A connection that
// has just begun to queue may have four times ClientBacklog queued, and one that has
// accepted nothing for long only ClientBacklog.
func TestLargeMessagesAreBounded(t *testing.T) {
	t.Parallel()
	const bound = 100_000
	onBothPaths(t, func(t *testing.T, p path) {
		for _, stalled := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxMessageSize, config.ClientBacklog = 1000, bound
				config.SlowConsumer = websocket.DropNewest
				config.EnableCompression = false
				config.WriteWait = time.Minute
				hub := runFake(t, p, config, subscribeAll("news"))
				defer hub.stop()
				peer := hub.connect(1000, nil)
				publish := func() {
					require.NoError(t, hub.PublishToChannelRaw("news", []byte(`"`+strings.Repeat("x", bound/2-300)+`"`)))
					synctest.Wait()
				}
				publish()
				publish()
				kept := 8
				if stalled {
					time.Sleep(4 * time.Second)
					kept = 2
				}
				if !p.plain {
					kept++ // the rest of the first one is not in the queue
				}
				for range 20 {
					publish()
				}
				lost := int(hub.Stats().Dropped.SlowConsumer)
				require.Equal(t, 22-kept, lost)
				require.LessOrEqual(t, hub.Stats().HeldBytes, int64(2*5*bound)) // with the encoded form
				for range kept {
					require.Len(t, readJSON(t, peer)["data"], bound/2-300)
				}
				gap := readJSON(t, peer)
				require.Equal(t, "gap", gap["type"])
				require.EqualValues(t, lost, gap["data"].(map[string]any)["count"])
				_ = peer.Close()
				synctest.Wait()
				require.Zero(t, hub.Stats().HeldBytes)
			})
		}
	})
}
