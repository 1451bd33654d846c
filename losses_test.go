package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

const (
	maxNotices = 4096 // gap notices that the hub keeps for one client
	maxWrite   = 512  // gap notices in one write to the client, in addition
)

// TestLossesInManyChannelsAreBounded drops messages of more channels than the hub keeps
// notices for, for a client that accepts nothing. The notices must cover all drops, and
// afterwards the whole backlog must be available again.
func TestLossesInManyChannelsAreBounded(t *testing.T) {
	const channels, rounds = 5000, 2
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(fmt.Sprintf("policy=%d", policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.SlowConsumer = policy
					config.MaxMessageSize, config.ClientBacklog = 1000, 10_000
					config.MaxSubscriptions = -1
					config.ClientID = byID
					reported := uint64(0)
					config.OnDrop = func(_ *websocket.Client, lost websocket.Gap) { reported += lost.Count }
					hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
						h.SetCallbacks(func(c *websocket.Client) {
							for i := range channels {
								_ = c.Subscribe(fmt.Sprint("channel ", i))
							}
						}, nil, nil)
					})
					peer := hub.connect(1<<16, withID("stalled"))
					defer peer.Close()
					peer.server.SetWindow(300)
					require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Second))) // in fake time: a missing message fails the test
					for n := range rounds {
						for i := range channels {
							m := &websocket.Message{Data: fmt.Append(nil, n), Timestamp: int64(1 + n*channels + i)}
							require.NoError(t, hub.PublishToChannel(fmt.Sprint("channel ", i), m))
						}
					}
					synctest.Wait()

					seen, lost, notices, merged := 0, uint64(0), 0, uint64(0)
					perChannel := map[string]uint64{}
					for uint64(seen)+lost < rounds*channels {
						m := readJSON(t, peer)
						if m["type"] == "message" {
							perChannel[m["channel"].(string)]++
							seen++
							continue
						}
						require.Equal(t, "gap", m["type"])
						data := m["data"].(map[string]any)
						count := uint64(data["count"].(float64))
						require.Equal(t, "slow_consumer", data["reason"])
						require.LessOrEqual(t, data["first"], data["last"])
						require.Nil(t, data["room_id"])
						if channel, ok := data["channel"].(string); ok {
							require.Nil(t, data["all"])
							perChannel[channel] += count
						} else {
							require.Equal(t, true, data["all"])
							require.Zero(t, merged, "more than one notice for any channel")
							merged = count
						}
						lost += count
						notices++
					}
					require.EqualValues(t, rounds*channels, uint64(seen)+lost, "received and announced")
					require.GreaterOrEqual(t, notices, maxNotices)
					require.LessOrEqual(t, notices, maxNotices+maxWrite)
					require.GreaterOrEqual(t, merged, uint64(channels-maxNotices-maxWrite))
					for channel, n := range perChannel {
						require.LessOrEqual(t, n, uint64(rounds), channel)
					}
					synctest.Wait()
					st := requireSums(t, hub.Hub)
					require.EqualValues(t, rounds*channels, st.MessagesAddressed)
					require.EqualValues(t, seen, st.MessagesSent)
					require.Equal(t, lost, st.Announced)
					require.Equal(t, lost, st.Dropped.SlowConsumer)
					require.Equal(t, lost, reported)

					peer.server.SetWindow(0)
					whole := &websocket.Message{Type: "w", Data: []byte(`"` + strings.Repeat("x", 10_000-131) + `"`)} // costs the whole backlog
					require.NoError(t, hub.SendToClient("stalled", whole))
					synctest.Wait()
					peer.server.SetWindow(1 << 16)
					require.Equal(t, "w", readJSON(t, peer)["type"], "delivered notices still count against the backlog")
					hub.stop()
				})
			})
		})
	}
}

// pickyCodec is JSONCodec, but cannot encode messages of type "bad".
type pickyCodec struct{ websocket.JSONCodec }

func (c pickyCodec) Marshal(m *websocket.Message) ([]byte, error) { return c.AppendMarshal(nil, m) }

func (c pickyCodec) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	if m.Type == "bad" {
		return dst, errors.New("bad")
	}
	return c.JSONCodec.AppendMarshal(dst, m)
}

// TestLossesBeyondTheBoundKeepTheirReasons drops messages for two reasons while a client
// has the maximum number of notices, before and after some notices are sent. Drops that
// are merged over all channels must be announced separately for each reason.
func TestLossesBeyondTheBoundKeepTheirReasons(t *testing.T) {
	const channels = 5000
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.Codecs = []websocket.Codec{pickyCodec{}}
			config.Subprotocols = nil
			config.SlowConsumer = websocket.DropNewest
			config.MaxMessageSize, config.ClientBacklog = 1000, 10_000
			config.MaxSubscriptions = -1
			hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) {
					for i := range channels {
						_ = c.Subscribe(fmt.Sprint("channel ", i))
					}
				}, nil, nil)
			})
			peer := hub.connect(1<<16, nil)
			defer peer.Close()
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Second))) // in fake time: a missing message fails the test
			published := int64(0)
			publish := func(i int, typ string, size int) {
				published++
				m := &websocket.Message{Type: typ, Data: numbered(0, size), Timestamp: published}
				require.NoError(t, hub.PublishToChannel(fmt.Sprint("channel ", i), m))
			}
			flood := func() {
				for i := range channels {
					publish(i, "message", 8000)
				}
				synctest.Wait()
			}

			peer.server.SetWindow(300)
			publish(0, "message", 2000)
			synctest.Wait()
			publish(0, "bad", 0) // in the backlog, not encoded yet
			publish(1, "bad", 0)
			flood()
			peer.server.SetWindow(4000) // the current write completes, the next one stalls
			synctest.Wait()
			flood()
			peer.server.SetWindow(1 << 20)

			notices := map[string]int{} // notices for any channel, by reason
			lost := map[string]uint64{} // drops, by reason
			seen := uint64(0)
			for seen+lost["slow_consumer"]+lost["codec"] < uint64(published) {
				m := readJSON(t, peer)
				if m["type"] != "gap" {
					seen++
					continue
				}
				data := m["data"].(map[string]any)
				reason := data["reason"].(string)
				lost[reason] += uint64(data["count"].(float64))
				if data["channel"] != nil {
					require.Nil(t, data["all"])
					continue
				}
				require.Equal(t, true, data["all"])
				notices[reason]++
				if reason == "codec" { // announced one by one, as the writePump encodes them
					require.EqualValues(t, 1, data["count"])
					require.EqualValues(t, 1+notices[reason], data["first"])
					require.Equal(t, data["first"], data["last"])
				}
			}
			require.Equal(t, map[string]int{"slow_consumer": 1, "codec": 2}, notices)
			synctest.Wait()
			st := requireSums(t, hub.Hub)
			require.Equal(t, seen, st.MessagesSent)
			require.EqualValues(t, 2, st.Dropped.Codec)
			require.Equal(t, lost["codec"], st.Dropped.Codec)
			require.Equal(t, lost["slow_consumer"], st.Dropped.SlowConsumer)
			require.Equal(t, lost["codec"]+lost["slow_consumer"], st.Announced)
			hub.stop()
		})
	})
}

// dropCall is one call of OnDrop. It returns after the test has sent to end.
type dropCall struct {
	client *websocket.Client
	lost   websocket.Gap
	end    chan<- bool // the test sends, the hook receives: whether to call runtime.Goexit
}

// dropHub is a hub whose clients accept one byte, so that almost every message is
// dropped.
type dropHub struct {
	*fakeHub
	channels  []string
	peers     []*fakePeer
	published int64
	calls     chan dropCall // the hook sends, the test receives
	reported  map[string]uint64
	latest    map[string]int64 // Last, by client and channel
}

func newDropHub(t *testing.T, clients int) *dropHub {
	t.Helper()
	d := &dropHub{channels: []string{"a", "b", "c"}, calls: make(chan dropCall), reported: map[string]uint64{}, latest: map[string]int64{}}
	over := make(chan struct{}) // closed by the cleanup; ends blocked hooks
	config := websocket.DefaultConfig
	config.SlowConsumer = websocket.DropNewest
	config.MaxMessageSize, config.ClientBacklog = 1000, 2000
	config.ClientID = byID
	config.OnDrop = func(c *websocket.Client, lost websocket.Gap) {
		end := make(chan bool, 1)
		select {
		case d.calls <- dropCall{c, lost, end}:
			if <-end {
				runtime.Goexit()
			}
		case <-over:
		}
	}
	d.fakeHub = startFake(t, paths[0], config, nil, func(h *websocket.Hub) {
		h.SetCallbacks(func(c *websocket.Client) {
			for _, channel := range d.channels {
				_ = c.Subscribe(channel)
			}
		}, nil, nil)
	})
	t.Cleanup(func() {
		close(over)
		for _, p := range d.peers {
			_ = p.Close()
		}
	})
	for i := range clients {
		d.peers = append(d.peers, d.connect(1<<16, withID(fmt.Sprint("client ", i))))
		d.peers[i].server.SetWindow(1)
	}
	return d
}

// publish publishes n messages to each channel. The Timestamps of all messages are
// consecutive.
func (d *dropHub) publish(n int) {
	d.t.Helper()
	for range n {
		for _, channel := range d.channels {
			d.published++
			require.NoError(d.t, d.PublishToChannel(channel, &websocket.Message{Data: numbered(0, 400), Timestamp: d.published}))
		}
	}
	synctest.Wait()
}

// next returns a blocked call of OnDrop, if there is one.
func (d *dropHub) next() (dropCall, bool) {
	synctest.Wait()
	select {
	case c := <-d.calls:
		return c, true
	default:
		return dropCall{}, false
	}
}

// take checks a report and lets the call return. For a client and channel, a report must
// begin after the last drop of the previous report.
func (d *dropHub) take(c dropCall, end bool) {
	d.t.Helper()
	defer func() { c.end <- end }()
	d.reported[c.lost.Reason] += c.lost.Count
	if c.lost.Reason != "slow_consumer" {
		return
	}
	every := int64(len(d.channels))
	require.EqualValues(d.t, (c.lost.Last-c.lost.First)/every+1, c.lost.Count, "%+v", c.lost)
	key := c.client.ID + " " + c.lost.Channel
	if latest := d.latest[key]; latest != 0 {
		require.Equal(d.t, latest+every, c.lost.First, "%s", key)
	}
	d.latest[key] = c.lost.Last
}

// requireReported checks that every drop has been reported exactly once.
func (d *dropHub) requireReported() {
	d.t.Helper()
	dropped := d.Stats().Dropped
	require.Equal(d.t, dropped.SlowConsumer, d.reported["slow_consumer"])
	require.Equal(d.t, dropped.Disconnected, d.reported["disconnected"])
	require.Equal(d.t, dropped.Codec, d.reported["codec"])
}

// TestReportsSurviveHooksThatEnd has OnDrop call runtime.Goexit while reports of other
// clients are pending and more messages are dropped.
func TestReportsSurviveHooksThatEnd(t *testing.T) {
	const clients = 6
	synctest.Test(t, func(t *testing.T) {
		d := newDropHub(t, clients)
		d.publish(5)
		ended := 0
		for call := 0; ; call++ {
			c, ok := d.next()
			if !ok {
				break
			}
			if call < 40 {
				d.publish(1) // to clients with and without pending reports
			}
			end := call%4 == 3 && ended < clients-1 // the hub then closes that client
			if end {
				ended++
			}
			d.take(c, end)
		}
		require.Equal(t, clients-1, ended)
		d.requireReported()

		d.publish(1)
		done := make(chan struct{})      // closed below
		collected := make(chan struct{}) // closed by the collector, received below
		go func() {                      // ends with done
			defer close(collected)
			for {
				select {
				case c := <-d.calls:
					d.take(c, true)
				case <-done:
					return
				}
			}
		}()
		d.stop()
		close(done)
		<-collected
		d.requireReported()
	})
}

// TestReportsOfClientsThatHaveGone has OnDrop call runtime.Goexit in every call after all
// clients have disconnected, when no further drop can wake the reports.
func TestReportsOfClientsThatHaveGone(t *testing.T) {
	const clients = 4
	synctest.Test(t, func(t *testing.T) {
		d := newDropHub(t, clients)
		d.publish(5)
		first, ok := d.next()
		require.True(t, ok)
		d.publish(5)
		for _, p := range d.peers {
			p.client.Reset()
		}
		synctest.Wait()
		require.Zero(t, d.Stats().ActiveConnections)
		d.take(first, true)
		calls := 1
		for c, ok := d.next(); ok; c, ok = d.next() {
			d.take(c, true)
			calls++
		}
		d.requireReported()
		require.Greater(t, calls, clients*len(d.channels))
		d.stop()
	})
}

// TestReportsAreBounded has OnDrop block while messages of many channels are dropped for
// one client, and while many clients disconnect after drops.
func TestReportsAreBounded(t *testing.T) {
	const (
		maxNamed, maxReports = 8192, 16384
		channels             = maxNamed + 100
		batches, batch       = 90, 50 // clients with drops for two reasons each
	)
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		var reports []websocket.Gap // the hook's goroutines append, the test reads while the hook is idle
		config := websocket.DefaultConfig
		config.SlowConsumer = websocket.DropNewest
		config.MaxMessageSize, config.ClientBacklog = 1000, 2000
		config.MaxSubscriptions = -1
		config.ClientID = byID
		config.OnDrop = func(_ *websocket.Client, lost websocket.Gap) {
			<-gate
			if reports = append(reports, lost); len(reports)%1000 == 1 {
				runtime.Goexit()
			}
		}
		logs := &logCapture{}
		hub := &fakeHub{Hub: websocket.NewHub(logs, config), t: t, path: paths[0], ran: make(chan error, 1)}
		hub.SetCallbacks(func(c *websocket.Client) {
			if c.ID == "many" {
				for i := range channels {
					_ = c.Subscribe(fmt.Sprint("channel ", i))
				}
			}
		}, nil, nil)
		go func() { hub.ran <- hub.Run(context.Background()) }() // ends with the hub
		t.Cleanup(func() {
			open()
			_ = hub.Shutdown(context.Background())
		})
		requireReported := func() (st websocket.Stats) {
			st = requireSums(t, hub.Hub)
			reported := uint64(0)
			for _, g := range reports {
				reported += g.Count
			}
			require.Equal(t, st.Dropped.Total(), reported+st.Unreported)
			return st
		}
		stall := func(id string) *fakePeer {
			p := hub.connect(1<<16, withID(id))
			p.server.SetWindow(1)
			for range 20 { // more than four times ClientBacklog
				require.NoError(t, hub.SendToClient(id, &websocket.Message{Data: numbered(0, 400)}))
			}
			return p
		}

		many := stall("many")
		synctest.Wait() // the hook blocks in its first call
		for range 2 {
			for i := range channels {
				require.NoError(t, hub.PublishToChannel(fmt.Sprint("channel ", i), &websocket.Message{Data: numbered(0, 400)}))
			}
		}
		synctest.Wait()
		require.Zero(t, hub.Stats().Unreported)
		many.client.Reset()
		for b := range batches {
			var peers []*fakePeer
			for i := range batch {
				peers = append(peers, stall(fmt.Sprint(b, " ", i)))
			}
			synctest.Wait()
			for _, p := range peers {
				p.client.Reset()
			}
			synctest.Wait()
		}
		require.Zero(t, hub.Stats().ActiveConnections)
		require.Positive(t, hub.Stats().Unreported)
		require.Empty(t, logs.matching("warning", ""))
		open()
		synctest.Wait()

		unreported := requireReported().Unreported
		require.Len(t, reports, 1+maxReports)
		named := 0
		for _, g := range reports {
			if !g.All {
				named++
				continue
			}
			require.Empty(t, g.Channel)
			require.Positive(t, g.First)
			require.LessOrEqual(t, g.First, g.Last)
		}
		require.Equal(t, 1+maxNamed, named)
		require.Len(t, logs.matching("warning", fmt.Sprintf(" %d messages", unreported)), 1)
		require.Len(t, logs.matching("warning", "OnDrop"), 1)

		many = stall("many")
		synctest.Wait()
		require.False(t, reports[len(reports)-1].All, "reports name channels again")
		many.client.Reset()
		synctest.Wait()
		require.Equal(t, unreported, requireReported().Unreported)
		hub.stop()
	})
}

// gatedCodec is pickyCodec, but blocks on the payload "gate" until gate is closed.
type gatedCodec struct {
	pickyCodec
	gate chan struct{} // closed by the test
}

func (c gatedCodec) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	if string(m.Data) == `"gate"` {
		<-c.gate
	}
	return c.pickyCodec.AppendMarshal(dst, m)
}

// TestNothingOvertakesACodecGap publishes messages that the codec cannot encode among
// others that are written together. Each gap must come at the position of its messages.
func TestNothingOvertakesACodecGap(t *testing.T) {
	tests := []struct {
		name    string
		clients int // number of clients, which share the encoded batch
		window  int // bytes that each connection buffers
	}{
		{"alone", 1, 1 << 16},
		{"shared", 3, 1 << 16},
		{"backlogged", 2, 150},
	}
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
		onBothPaths(t, func(t *testing.T, p path) {
			for _, tt := range tests {
				t.Run(fmt.Sprint(tt.name, " policy=", policy), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						codec := gatedCodec{gate: make(chan struct{})}
						config := websocket.DefaultConfig
						config.Shards = 1
						config.SlowConsumer = policy
						config.Codecs, config.Subprotocols = []websocket.Codec{codec}, nil
						hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
							h.SetCallbacks(func(c *websocket.Client) { _ = c.Subscribe("a"); _ = c.Subscribe("b") }, nil, nil)
						})
						var peers []*fakePeer
						for range tt.clients {
							peer := hub.connect(tt.window, nil)
							defer peer.Close()
							peers = append(peers, peer)
						}
						synctest.Wait()
						require.NoError(t, hub.PublishToChannelRaw("b", []byte(`"gate"`)))
						for _, m := range []string{"a 0", "a bad", "a 1", "b 0", "b bad", "a bad", "a bad", "a 2", "b bad", "b 1"} {
							channel, data, _ := strings.Cut(m, " ")
							message := &websocket.Message{Data: fmt.Appendf(nil, "%q", data)}
							if data == "bad" {
								message.Type = data
							}
							require.NoError(t, hub.PublishToChannel(channel, message))
						}
						close(codec.gate)
						for _, peer := range peers {
							got := map[string][]string{}
							for n := 0; n < 11; {
								m := readJSON(t, peer)
								channel := m["channel"].(string)
								if m["type"] == "gap" {
									data := m["data"].(map[string]any)
									require.Equal(t, "codec", data["reason"])
									n += int(data["count"].(float64))
									got[channel] = append(got[channel], fmt.Sprint("lost ", data["count"]))
								} else {
									n++
									got[channel] = append(got[channel], m["data"].(string))
								}
							}
							// A gap may cover one or several of the channel's consecutive drops.
							require.Equal(t, []string{"0", "lost 1", "1", "lost 2", "2"}, joinLosses(got["a"]))
							require.Equal(t, []string{"gate", "0", "lost 2", "1"}, joinLosses(got["b"]))
						}
						synctest.Wait()
						st := requireSums(t, hub.Hub)
						require.EqualValues(t, 5*tt.clients, st.Dropped.Codec)
						require.EqualValues(t, 5*tt.clients, st.Announced)
						hub.stop()
					})
				})
			}
		})
	}
}

// joinLosses adds up consecutive gaps.
func joinLosses(seen []string) (joined []string) {
	lost := 0
	for i, s := range seen {
		var n int
		if _, err := fmt.Sscanf(s, "lost %d", &n); err == nil {
			if lost += n; i+1 < len(seen) && strings.HasPrefix(seen[i+1], "lost ") {
				continue
			}
			s, lost = fmt.Sprint("lost ", lost), 0
		}
		joined = append(joined, s)
	}
	return joined
}
