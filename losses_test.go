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

// maxNotices is how many gap notices may wait for one client, and maxUnderWay how
// many more its next write takes.
const (
	maxNotices  = 4096
	maxUnderWay = 512
)

// TestLossesInManyChannelsAreBounded has a client that takes nothing lose messages
// of more channels than there may be notices. It is told of all of them all the
// same, and then has its whole backlog again.
func TestLossesInManyChannelsAreBounded(t *testing.T) {
	const channels, rounds = 5000, 2
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		onBothPaths(t, func(t *testing.T, p path) {
			t.Run(fmt.Sprintf("policy=%d", policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.SlowConsumer = policy
					config.ClientBacklog = 10_000
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
					require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Second))) // what is not there never comes
					for n := range rounds {
						for i := range channels {
							m := &websocket.Message{Data: fmt.Append(nil, n), Timestamp: int64(1 + n*channels + i)}
							require.NoError(t, hub.PublishToChannel(fmt.Sprint("channel ", i), m))
						}
					}
					synctest.Wait()

					seen, lost, notices, anywhere := 0, uint64(0), 0, uint64(0)
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
							require.Zero(t, anywhere, "one notice stands for what is beyond the bound")
							anywhere = count
						}
						lost += count
						notices++
					}
					require.EqualValues(t, rounds*channels, uint64(seen)+lost, "seen and announced")
					require.GreaterOrEqual(t, notices, maxNotices)
					require.LessOrEqual(t, notices, maxNotices+maxUnderWay)
					require.GreaterOrEqual(t, anywhere, uint64(channels-maxNotices-maxUnderWay))
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
					whole := &websocket.Message{Type: "w", Data: []byte(`"` + strings.Repeat("x", 10_000-131) + `"`)} // the backlog and no byte less
					require.NoError(t, hub.SendToClient("stalled", whole))
					synctest.Wait()
					peer.server.SetWindow(1 << 16)
					require.Equal(t, "w", readJSON(t, peer)["type"], "notices that were read still count against the bound")
					hub.stop()
				})
			})
		})
	}
}

// pickyCodec is JSON that refuses messages of type "bad".
type pickyCodec struct{ websocket.JSONCodec }

func (c pickyCodec) Marshal(m *websocket.Message) ([]byte, error) { return c.AppendMarshal(nil, m) }

func (c pickyCodec) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	if m.Type == "bad" {
		return dst, errors.New("bad")
	}
	return c.JSONCodec.AppendMarshal(dst, m)
}

// TestLossesBeyondTheBoundKeepTheirReasons has a client with as many notices as
// there may be lose messages for both reasons, before and after it was told of
// some. There is one notice for each reason that may be of any channel.
func TestLossesBeyondTheBoundKeepTheirReasons(t *testing.T) {
	const channels = 5000
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.Codecs = []websocket.Codec{pickyCodec{}}
			config.Subprotocols = nil
			config.SlowConsumer = websocket.DropNewest
			config.ClientBacklog = 10_000
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
			require.NoError(t, peer.SetReadDeadline(time.Now().Add(time.Second))) // what is not there never comes
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
			publish(0, "bad", 0) // it waits for its turn to be encoded
			publish(1, "bad", 0)
			flood()
			peer.server.SetWindow(4000) // what was to be written is, and the next write stalls
			synctest.Wait()
			flood()
			peer.server.SetWindow(1 << 20)

			notices := map[string]int{} // those of any channel, by reason
			lost := map[string]uint64{}
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
				if reason == "codec" { // told of one by one, as they are tried
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

// dropCall is one call of OnDrop, which the test answers.
type dropCall struct {
	client *websocket.Client
	lost   websocket.Gap
	end    chan<- bool // whether the hook ends its goroutine
}

// dropHub is a hub whose clients take nothing and lose almost everything.
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
	over := make(chan struct{}) // closed when the test ends, however
	config := websocket.DefaultConfig
	config.SlowConsumer = websocket.DropNewest
	config.ClientBacklog = 2000
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

// publish publishes n times to each channel. A publication's Timestamp is its
// number.
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

// next returns a call that waits to be answered, if there is one.
func (d *dropHub) next() (dropCall, bool) {
	synctest.Wait()
	select {
	case c := <-d.calls:
		return c, true
	default:
		return dropCall{}, false
	}
}

// take checks a report, which has to go on where the one before has ended, and
// answers the call.
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

// requireReported checks that every drop has been reported, once.
func (d *dropHub) requireReported() {
	d.t.Helper()
	dropped := d.Stats().Dropped
	require.Equal(d.t, dropped.SlowConsumer, d.reported["slow_consumer"])
	require.Equal(d.t, dropped.Disconnected, d.reported["disconnected"])
	require.Equal(d.t, dropped.Codec, d.reported["codec"])
}

// TestReportsSurviveHooksThatEnd has OnDrop end its goroutine while reports of
// others wait and more is dropped.
func TestReportsSurviveHooksThatEnd(t *testing.T) {
	const clients = 6
	synctest.Test(t, func(t *testing.T) {
		d := newDropHub(t, clients)
		d.publish(5)
		ended := 0
		for turn := 0; ; turn++ {
			c, ok := d.next()
			if !ok {
				break
			}
			if turn < 40 {
				d.publish(1) // for clients whose reports wait, and for others
			}
			end := turn%4 == 3 && ended < clients-1 // which costs that client its connection
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

// TestReportsOfClientsThatHaveGone has OnDrop end its goroutine in every call when
// nothing happens in the hub any more that could remind it of the others.
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

// TestReportsAreBounded has OnDrop block while a client loses messages of many
// channels, and many clients lose some and go.
func TestReportsAreBounded(t *testing.T) {
	const (
		maxNamed, maxReports = 8192, 16384
		channels             = maxNamed + 100
		batches, batch       = 90, 50 // of clients that lose messages for two reasons each
	)
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		var reports []websocket.Gap // the hook's goroutines, and then the test's
		config := websocket.DefaultConfig
		config.SlowConsumer = websocket.DropNewest
		config.ClientBacklog = 2000
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
			told := uint64(0)
			for _, g := range reports {
				told += g.Count
			}
			require.Equal(t, st.Dropped.Total(), told+st.Unreported)
			return st
		}
		stall := func(id string) *fakePeer {
			p := hub.connect(1<<16, withID(id))
			p.server.SetWindow(1)
			for range 6 {
				require.NoError(t, hub.SendToClient(id, &websocket.Message{Data: numbered(0, 400)}))
			}
			return p
		}

		many := stall("many")
		synctest.Wait() // the hook is called
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
		require.Empty(t, logs.matching("", ""))
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
		require.False(t, reports[len(reports)-1].All, "it has caught up")
		many.client.Reset()
		synctest.Wait()
		require.Equal(t, unreported, requireReported().Unreported)
		hub.stop()
	})
}

// gatedCodec encodes a payload that is "gate" when the gate is open.
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

// TestNothingOvertakesTheNoticeOfWhatCannotBeEncoded has messages that a codec
// refuses stand among others which are written together.
func TestNothingOvertakesTheNoticeOfWhatCannotBeEncoded(t *testing.T) {
	tests := []struct {
		name    string
		clients int // that share what is composed
		window  int // of their connections
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
							// Each stands where it was, whether the next one of the channel was added to it or not.
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

// joinLosses adds up notices that follow each other.
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
