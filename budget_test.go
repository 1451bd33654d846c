package websocket_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// heapInUse returns the bytes of live objects on the heap.
func heapInUse() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second one empties the pools
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// inOwnProcess runs a test again in a process of its own, in which no memory of other tests
// is freed while it measures the heap. It reports whether this is that process.
func inOwnProcess(t *testing.T) bool {
	t.Helper()
	if os.Getenv("OWN_PROCESS") != "" {
		return true
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", fmt.Sprint("-test.short=", testing.Short()), "-test.timeout=5m")
	child.Env = append(os.Environ(), "OWN_PROCESS=1")
	out, err := child.CombinedOutput()
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	return false
}

// hostile is a kind of client that makes the hub hold memory.
type hostile struct {
	name    string
	headers []string
	config  func(c *websocket.Config)
	act     func(p *rawPeer, c *websocket.Client)
	all     func(h *fakeHub) // called when all clients are connected, if not nil
	each    int64            // bytes that each client must count at least
}

func longText(n int) string { return strings.Repeat("x", n) }

func hostileKinds() []hostile {
	unfinished := frameOf(fin|textOp, longText(64<<10))
	unfinished = unfinished[:len(unfinished)-1]
	return []hostile{
		{name: "headers", headers: []string{"Cookie: a=" + longText(7<<10), "X-Large: " + longText(7<<10)}, each: 14 << 10},
		{name: "many headers", headers: manyHeaders(90), each: 1 << 10},
		{name: "unfinished message", act: func(p *rawPeer, _ *websocket.Client) { p.write(unfinished) }, each: 63 << 10},
		{name: "unfinished fragments", act: func(p *rawPeer, _ *websocket.Client) {
			p.write(frameOf(textOp, longText(20<<10)) + frameOf(contOp, longText(20<<10)))
		}, each: 40 << 10},
		{
			name: "message in a blocked callback",
			act: func(p *rawPeer, _ *websocket.Client) {
				p.write(textFrame(`{"type":"block","data":"` + longText(50<<10) + `"}`))
			},
			each: 100 << 10,
		},
		{
			name: "compressed message in a blocked callback", headers: []string{"Sec-WebSocket-Extensions: permessage-deflate"},
			act: func(p *rawPeer, _ *websocket.Client) {
				p.write(frameOf(fin|rsv1|textOp, deflated(`{"type":"block","data":"`+longText(50<<10)+`"}`, 9)))
			},
			each: 100 << 10,
		},
		{name: "names", act: func(_ *rawPeer, c *websocket.Client) {
			for i := range 50 {
				_ = c.Subscribe(fmt.Sprintf("%s %d %s", c.ID, i, longText(200)))
			}
		}, each: 50 * 350},
		{name: "memberships", act: func(_ *rawPeer, c *websocket.Client) {
			for i := range 100 {
				_ = c.JoinRoom(fmt.Sprint(i))
			}
		}, each: 100 * 100},
		{name: "backlog", act: func(_ *rawPeer, c *websocket.Client) {
			for range 10 {
				_ = c.Send(&websocket.Message{Data: []byte(`"` + longText(10<<10) + `"`)})
			}
		}, each: 160 << 10},
		{name: "backlog of one publication", act: func(_ *rawPeer, c *websocket.Client) {
			_ = c.Send(&websocket.Message{Data: []byte(`"` + longText(1<<10) + `"`)})
		}, each: 64 << 10},
		{name: "copies of one publication", all: func(h *fakeHub) {
			require.NoError(h.t, h.Broadcast([]byte(`"`+longText(150<<10)+`"`)))
		}, config: func(c *websocket.Config) { c.EnableCompression = false }, each: 150 << 10},
		{
			name: "sealed copies", act: func(_ *rawPeer, c *websocket.Client) {
				_ = c.SetEncryptionKey([]byte(longText(32)))
			}, all: func(h *fakeHub) {
				require.NoError(h.t, h.Broadcast([]byte(`"`+longText(150<<10)+`"`)))
			}, each: 150 << 10,
		},
		{
			name: "gaps", config: func(c *websocket.Config) {
				c.ClientBacklog, c.SlowConsumer = 1500, websocket.DropNewest
				c.MaxMessageSize = 900
			},
			act: func(_ *rawPeer, c *websocket.Client) {
				for i := range 200 {
					_ = c.Send(&websocket.Message{Data: []byte("1"), Channel: fmt.Sprint(i)})
				}
			},
		},
	}
}

func manyHeaders(n int) []string {
	headers := make([]string, n)
	for i := range headers {
		headers[i] = fmt.Sprintf("X-Header-%d: %d", i, i)
	}
	return headers
}

// TestHostileClientsAreCounted keeps clients of each kind and compares what the hub counts
// with the growth of the heap.
func TestHostileClientsAreCounted(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	n := 1000
	if testing.Short() || raceEnabled() {
		n = 50
	}
	for _, kind := range hostileKinds() {
		t.Run(kind.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate := make(chan struct{}) // the test closes, the callback receives
				config := websocket.DefaultConfig
				config.DrainTimeout = time.Second
				config.OnMessage = func(_ *websocket.Client, m *websocket.Message) {
					if m.Type == "block" {
						<-gate
					}
				}
				if kind.config != nil {
					kind.config(&config)
				}
				hub := runFake(t, paths[0], withQueryID(config))
				// connect connects n clients and returns the growth of heap and HeldBytes.
				connect := func(label string, headers []string, act func(p *rawPeer, c *websocket.Client), all func(h *fakeHub)) (heap, held int64) {
					heap, held = heapInUse(), hub.Stats().HeldBytes
					for i := range n {
						id := fmt.Sprintf("%s-%d", label, i)
						server, client := testnet.Pair(256)
						served := hub.accept(server)
						p := rawOver(t, client, strings.Replace(handshakeOf(headers...), "GET /", "GET /?id="+id, 1)).requireOpen()
						<-served
						client.SetWindow(128)
						server.SetWindow(64)
						if c, ok := hub.Client(id); ok && act != nil {
							act(p, c)
						}
					}
					if all != nil {
						all(hub)
					}
					synctest.Wait()
					return heapInUse() - heap, hub.Stats().HeldBytes - held
				}
				ordinary, ordinaryHeld := connect("ordinary", nil, nil, nil)
				heap, held := connect("hostile", kind.headers, kind.act, kind.all)
				heap, held = heap-ordinary, held-ordinaryHeld
				t.Logf("%d clients: heap %d, counted %d, factor %.2f; ordinary client: heap %d, counted %d", n, heap/int64(n), held/int64(n), float64(heap)/float64(held), ordinary/int64(n), ordinaryHeld/int64(n))
				require.GreaterOrEqual(t, held, int64(n)*kind.each)
				if !raceEnabled() {
					require.Less(t, heap, 2*held+1<<20, "the hub holds more than it counts")
					require.Greater(t, 2*heap+1<<20, held, "the hub counts more than it holds")
				}
				close(gate)
				hub.stop()
				synctest.Wait()
				require.Zero(t, hub.Stats().HeldBytes)
			})
		})
	}
}

// TestMapsShrink connects and subscribes many, and compares the heap after they have left.
// It is not parallel because it measures the heap.
func TestMapsShrink(t *testing.T) {
	if !inOwnProcess(t) {
		return
	}
	const n = 100_000
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxSubscriptions = -1
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		hub.raw(handshakeOf()).requireOpen()
		c := onlyClient(t, hub)
		require.NoError(t, c.Subscribe("stays"))
		synctest.Wait()
		before, held := heapInUse(), hub.Stats().HeldBytes
		for i := range n {
			require.NoError(t, c.Subscribe(fmt.Sprint(i)))
		}
		for i := range n {
			require.NoError(t, c.Unsubscribe(fmt.Sprint(i)))
		}
		synctest.Wait()
		after := heapInUse()
		t.Logf("%d bytes stay", after-before)
		require.Equal(t, held, hub.Stats().HeldBytes)
		require.Less(t, after-before, int64(2<<20)) // queues keep less than 1 MiB; the maps alone would keep 10 MiB
		require.Equal(t, map[string]int{"stays": 1}, channelsOf(hub.Hub))
	})
}

// fillBacklog sends messages of 1,000 bytes to c, which does not read, until it has about
// size bytes queued.
func fillBacklog(t *testing.T, c *websocket.Client, size int) {
	t.Helper()
	for i := range size / 1000 {
		if i == 2 {
			synctest.Wait() // the following messages are queued without being encoded
		}
		require.NoError(t, c.Send(&websocket.Message{Data: []byte(`"` + longText(1000-130-9) + `"`)}))
	}
}

// stalled connects a client that does not read.
func (f *fakeHub) stalled(headers ...string) (*rawPeer, *websocket.Client) {
	f.t.Helper()
	before := map[*websocket.Client]bool{}
	for c := range f.Clients() {
		before[c] = true
	}
	server, client := testnet.Pair(300)
	served := f.accept(server)
	p := rawOver(f.t, client, handshakeOf(headers...)).requireOpen()
	<-served
	for c := range f.Clients() {
		if !before[c] {
			return p, c
		}
	}
	require.FailNow(f.t, "no new client")
	return nil, nil
}

// TestLargestHoldersGoFirst has five clients whose backlogs are just below their bound, and
// one with little. When the budget is exceeded, only some of the five must pay.
func TestLargestHoldersGoFirst(t *testing.T) {
	t.Parallel()
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropOldest, websocket.DropNewest} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.MemoryBudget = 5300 << 10
					config.ClientBacklog = 2 << 20
					config.SlowConsumer = policy
					config.WriteWait = time.Hour
					hub := runFake(t, p, config)
					defer hub.stop()
					innocent, c := hub.stalled()
					defer innocent.nc.Close()
					fillBacklog(t, c, 65_000)
					for i := range 5 {
						p, c := hub.stalled()
						defer p.nc.Close()
						fillBacklog(t, c, 830_000+i*10_000)
					}
					synctest.Wait()
					require.Zero(t, hub.Stats().Evicted)
					held := hub.Stats().HeldBytes
					require.Less(t, held, config.MemoryBudget)

					require.NoError(t, c.Send(&websocket.Message{Data: []byte(`"` + longText(int(config.MemoryBudget-held)) + `"`)}))
					time.Sleep(time.Second)
					st := hub.Stats()
					require.Less(t, st.HeldBytes, config.MemoryBudget)
					require.Positive(t, st.Dropped.SlowConsumer)
					if policy == websocket.EvictSlow {
						require.Positive(t, st.Evicted)
						require.LessOrEqual(t, st.Evicted, uint64(2))
					} else {
						require.Zero(t, st.Evicted)
						require.Less(t, st.Dropped.SlowConsumer, uint64(1000))
					}
					for range 66 { // the innocent client gets everything
						f, err := innocent.next()
						require.NoError(t, err)
						require.Equal(t, byte(fin|textOp), f.first)
						require.NotContains(t, string(f.payload), `"gap"`)
					}
				})
			})
		})
	}
}

// TestHoldersOfOtherThingsAreClosed exceeds the budget with memberships and with
// unfinished messages. Both are closed with 1013 under every policy.
func TestHoldersOfOtherThingsAreClosed(t *testing.T) {
	t.Parallel()
	for name, act := range map[string]func(p *rawPeer, c *websocket.Client, i int){
		"memberships": func(_ *rawPeer, c *websocket.Client, i int) {
			for j := range 100 {
				_ = c.Subscribe(fmt.Sprintf("%d %d %s", i, j, longText(200)))
			}
		},
		"unfinished message": func(p *rawPeer, _ *websocket.Client, _ int) {
			p.write(headerOf(fin|textOp, 0x80, 60<<10, 0) + "mask" + longText(50<<10))
		},
	} {
		for _, policy := range []websocket.SlowConsumerPolicy{websocket.EvictSlow, websocket.DropNewest} {
			t.Run(fmt.Sprintf("%s %v", name, policy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.MemoryBudget, config.MaxMessageSize = 1<<20, 64<<10
					config.SlowConsumer = policy
					hub := runFake(t, paths[0], config)
					defer hub.stop()
					innocent := hub.raw(handshakeOf()).requireOpen()
					innocent.requireAck(subscribeTo("x"))
					known := map[*websocket.Client]bool{onlyClient(t, hub): true}
					var peers []*rawPeer
					for i := range 40 {
						server, client := testnet.Pair(1 << 20)
						served := hub.accept(server)
						p := rawOver(t, client, handshakeOf())
						<-served
						if p.status != http.StatusSwitchingProtocols {
							require.Equal(t, http.StatusServiceUnavailable, p.status)
							_ = p.nc.Close()
							continue
						}
						peers = append(peers, p)
						for c := range hub.Clients() {
							if !known[c] {
								known[c] = true
								act(p, c, i)
							}
						}
						synctest.Wait()
					}
					require.Greater(t, len(peers), 5)
					time.Sleep(10 * time.Second) // evicted clients do not answer the Close frame
					require.Less(t, hub.Stats().HeldBytes, config.MemoryBudget)
					require.Positive(t, hub.Stats().Evicted)
					innocent.requireAck(subscribeTo("y"))
					innocent.leave()
					codes := map[int]int{}
					for _, p := range peers {
						_ = p.nc.SetReadDeadline(time.Now().Add(time.Second))
						if f, err := p.next(); err == nil {
							code, _ := closeOf(t, f)
							codes[code]++
						}
						_ = p.nc.Close()
					}
					require.Positive(t, codes[1013])
				})
			})
		}
	}
}

// TestBudgetWithoutHolders exceeds the budget with messages that no client holds. New
// clients are refused, and nobody is evicted.
func TestBudgetWithoutHolders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MemoryBudget, config.MaxMessageSize = 100<<10, 16<<10
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		var peers []*rawPeer
		for {
			server, client := testnet.Pair(1 << 10)
			served := hub.accept(server)
			p := rawOver(t, client, handshakeOf("Cookie: "+longText(1<<10)))
			<-served
			if p.status != http.StatusSwitchingProtocols {
				p.requireBusy("memory budget")
				break
			}
			peers = append(peers, p)
		}
		require.Greater(t, len(peers), 10)
		time.Sleep(time.Second)
		require.Zero(t, hub.Stats().Evicted)
		for _, p := range peers {
			p.requireAck(subscribeTo("x"))
			p.leave()
		}
		synctest.Wait()
		require.Zero(t, hub.Stats().HeldBytes)
	})
}

// TestReclaimDuringHandshake exceeds the budget while the response to a handshake is
// written. The client has reserved its ID then, but is no client yet.
func TestReclaimDuringHandshake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxMessageSize, config.MemoryBudget = 1<<10, 20<<10
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		server, client := testnet.Pair(1 << 10)
		server.SetWindow(0)
		served := hub.accept(server)
		_, err := client.Write([]byte(handshakeOf()))
		require.NoError(t, err)
		synctest.Wait()
		hub.ChargeAll(22 << 10)
		hub.Reclaim()
		hub.ChargeAll(-22 << 10)
		server.SetWindow(1 << 10)
		p := rawOver(t, client, "").requireOpen()
		<-served
		p.requireAck(subscribeTo("x"))
		p.leave()
	})
}

// dripFeed reads a few bytes every second until the connection ends.
func dripFeed(p *rawPeer) {
	b := make([]byte, 10)
	for {
		time.Sleep(time.Second)
		if _, err := p.nc.Read(b); err != nil {
			return
		}
	}
}

// TestReclaimCountsClosingClients closes clients with large backlogs, which read too slowly
// to end soon, and then exceeds the budget. No other client pays for their bytes.
func TestReclaimCountsClosingClients(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		size  int           // of the messages that exceed the budget
		after time.Duration // the closing clients have ended, in the first case 4 s later
	}{
		{"a little", 900 << 10, 2 * time.Second},
		{"by more than a quarter", 2000 << 10, 200 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MemoryBudget, config.ClientBacklog = 5<<20, 2<<20
				config.EnableCompression = false
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				var readers sync.WaitGroup
				defer readers.Wait()
				var innocents []*websocket.Client
				for range 10 {
					p, c := hub.stalled("X-Pad: " + longText(5<<10))
					defer p.nc.Close()
					innocents = append(innocents, c)
				}
				for range 3 {
					p, c := hub.stalled()
					defer p.nc.Close()
					readers.Go(func() { dripFeed(p) })
					fillBacklog(t, c, 1_500_000)
					require.NoError(t, c.Close(4000, "enough"))
					synctest.Wait()
				}
				held := hub.Stats().HeldBytes
				require.Less(t, held, config.MemoryBudget)
				p, c := hub.stalled()
				defer p.nc.Close()
				readers.Go(func() { dripFeed(p) })
				for range tt.size / (100 << 10) {
					require.NoError(t, c.Send(&websocket.Message{Data: []byte(`"` + longText(100<<10-130-9) + `"`)}))
				}
				if tt.after > time.Second {
					time.Sleep(4 * time.Second)
					require.Greater(t, hub.Stats().HeldBytes, config.MemoryBudget)
				} else {
					require.Greater(t, held+int64(tt.size), config.MemoryBudget*5/4)
				}
				time.Sleep(tt.after)
				st := hub.Stats()
				require.Less(t, st.HeldBytes, config.MemoryBudget/2)
				require.Zero(t, st.Evicted)
				require.Equal(t, 11, st.ActiveConnections)
				for _, c := range append(innocents, c) {
					require.NoError(t, c.CloseError())
				}
			})
		})
	}
}

// TestReclaimWithBlockedCallback has a client leave whose callback does not return and
// holds most of the budget. Its bytes do not count as free for ever.
func TestReclaimWithBlockedCallback(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{}) // closed by the test, the callback receives
		config := websocket.DefaultConfig
		config.MaxMessageSize, config.MemoryBudget = 300<<10, 1300<<10
		config.WriteWait = time.Hour
		config.OnMessage = func(*websocket.Client, *websocket.Message) { <-gate }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		defer close(gate)
		blocked := hub.raw(handshakeOf()).requireOpen()
		blocked.write(textFrame(`{"data":"` + longText(280<<10) + `"}`))
		synctest.Wait()
		require.NoError(t, onlyClient(t, hub).Close(4000, ""))
		_ = blocked.nc.Close()
		p, c := hub.stalled()
		defer p.nc.Close()
		fillBacklog(t, c, 880_000)
		time.Sleep(8 * time.Second)
		require.Greater(t, hub.Stats().HeldBytes, config.MemoryBudget)
		require.NoError(t, c.CloseError())
		time.Sleep(8 * time.Second)
		require.Less(t, hub.Stats().HeldBytes, config.MemoryBudget)
		require.Error(t, c.CloseError())
	})
}

// TestReclaimDropsSmallBacklogs exceeds the budget with clients whose backlogs are smaller
// than the buffers of their writePumps. If the policy allows drops, none is evicted.
func TestReclaimDropsSmallBacklogs(t *testing.T) {
	t.Parallel()
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxMessageSize = 8 << 10
				config.MemoryBudget, config.ClientBacklog = 2<<20, 64<<10
				config.SlowConsumer = policy
				config.WriteWait = time.Hour
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				for range 17 {
					p, c := hub.stalled()
					defer p.nc.Close()
					fillBacklog(t, c, 60_000)
					synctest.Wait() // over the budget newcomers are refused until memory is reclaimed
				}
				time.Sleep(time.Second)
				st := hub.Stats()
				require.Less(t, st.HeldBytes, config.MemoryBudget)
				require.Zero(t, st.Evicted)
				require.Positive(t, st.Dropped.SlowConsumer)
			})
		})
	}
}

// TestReclaimPlacesGaps drops the newest messages of two channels because a backlog is
// full, and then the oldest ones to free memory. Each gap notice stands where its messages
// would have stood.
func TestReclaimPlacesGaps(t *testing.T) {
	t.Parallel()
	for _, policy := range []websocket.SlowConsumerPolicy{websocket.DropOldest, websocket.DropNewest} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var reported []websocket.Gap
				config := websocket.DefaultConfig
				config.EnableCompression = false
				config.MaxMessageSize = 64 << 10
				config.MemoryBudget, config.ClientBacklog = 1500<<10, 1<<20
				config.SlowConsumer = policy
				config.WriteWait = time.Hour
				config.OnDrop = func(_ *websocket.Client, g websocket.Gap) { reported = append(reported, g) }
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				p, c := hub.stalled()
				require.NoError(t, c.Subscribe("0"))
				require.NoError(t, c.Subscribe("1"))
				const n = 1150
				for i := range n { // the backlog has room for about 1,050
					m := &websocket.Message{Data: []byte(`"` + longText(870) + `"`), Timestamp: int64(i + 1)}
					require.NoError(t, hub.PublishToChannel(fmt.Sprint(i%2), m))
					if i%100 == 2 {
						time.Sleep(time.Millisecond)
					}
				}
				synctest.Wait()
				full := hub.Stats().Dropped.SlowConsumer
				require.Positive(t, full)
				other, d := hub.stalled()
				fillBacklog(t, d, 700_000)
				time.Sleep(time.Second)
				dropped := hub.Stats().Dropped.SlowConsumer
				require.Greater(t, dropped, full)
				require.Zero(t, hub.Stats().Evicted)

				accounted := 0
				notices := 0
				latest := map[string]int64{}
				for accounted < n {
					f, err := p.next()
					require.NoError(t, err)
					var m struct {
						Type, Channel string
						Timestamp     int64
						Data          json.RawMessage
					}
					require.NoError(t, json.Unmarshal(f.payload, &m))
					if m.Type != "gap" {
						require.Greater(t, m.Timestamp, latest[m.Channel])
						latest[m.Channel] = m.Timestamp
						accounted++
						continue
					}
					var g struct{ Count, First, Last int64 }
					require.NoError(t, json.Unmarshal(m.Data, &g))
					require.Greater(t, g.First, latest[m.Channel], "the notice %s comes after later messages", f.payload)
					require.Equal(t, (g.Last-g.First)/2+1, g.Count, "%s", f.payload)
					latest[m.Channel] = g.Last
					accounted += int(g.Count)
					notices++
				}
				require.Equal(t, n, accounted)
				require.LessOrEqual(t, notices, 10)
				synctest.Wait()
				for _, g := range reported {
					require.LessOrEqual(t, g.First, g.Last)
				}
				_, _ = p.nc.Close(), other.nc.Close()
			})
		})
	}
}

func TestHeaderLimits(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		limit   int
		headers []string
		refused bool
	}{
		{"ordinary", 0, nil, false},
		{"15 KiB", 0, []string{"Cookie: " + longText(15<<10)}, false},
		{"17 KiB", 0, []string{"Cookie: " + longText(17<<10)}, true},
		{"17 KiB in parts", 0, []string{"A: " + longText(8<<10), "B: " + longText(9<<10)}, true},
		{"90 fields", 0, manyHeaders(90), false},
		{"101 fields", 0, manyHeaders(101), true},
		{"101 fields of one name", 0, strings.Split(strings.Repeat("A: b\n", 100)+"A: b", "\n"), true},
		{"higher limit", 64 << 10, []string{"Cookie: " + longText(60<<10)}, false},
		{"lower limit", 1 << 10, []string{"Cookie: " + longText(1<<10)}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxHeaderBytes = tt.limit
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				p := hub.raw(handshakeOf(tt.headers...))
				if tt.refused {
					require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, p.status)
					require.Contains(t, p.body, "request header")
					_ = p.nc.Close()
					synctest.Wait() // the hub may not run yet
					return
				}
				p.requireOpen().leave()
			})
		})
	}
}

// TestServerLimitsHeaders sends an endless header to the hub's own server.
func TestServerLimitsHeaders(t *testing.T) {
	t.Parallel()
	hub := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
	ran := make(chan error, 1)
	go func() { ran <- hub.Run(t.Context()) }() // ends with Shutdown
	await(t, hub.Started())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	served := make(chan error, 1)
	go func() { served <- hub.Serve(l, nil) }() // ends with Shutdown
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	p := rawOver(t, nc, "GET / HTTP/1.1\r\nHost: hub.test\r\nCookie: "+longText(32<<10))
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, p.status)
	_ = nc.Close()
	require.NoError(t, hub.Shutdown(t.Context()))
	require.NoError(t, await(t, ran))
	require.ErrorIs(t, await(t, served), http.ErrServerClosed)
}

// TestRequestIsCompact checks which header fields Client.Request keeps.
func TestRequestIsCompact(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		defer hub.stop()
		p := hub.raw(handshakeOf("Cookie: a=b", "X-Two: 1", "X-Two: 2", "Sec-WebSocket-Protocol: json", "Origin: http://hub.test",
			"Sec-WebSocket-Extensions: permessage-deflate")).requireOpen()
		r := onlyClient(t, hub).Request()
		require.Equal(t, http.Header{
			"Cookie": {"a=b"}, "X-Two": {"1", "2"}, "Sec-Websocket-Protocol": {"json"}, "Origin": {"http://hub.test"},
		}, r.Header)
		require.Equal(t, "hub.test", r.Host)
		p.leave()
	})
}

// TestInflatedBytesArePaced sends messages of which each has few bytes on the wire and
// 64 KiB after decompression.
func TestInflatedBytesArePaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size, n, rate = 60 << 10, 20, 240 << 10
		config := websocket.DefaultConfig
		config.ByteRate = rate
		seen := make(chan struct{}, n) // the callback sends, the test receives
		config.OnMessage = func(*websocket.Client, *websocket.Message) { seen <- struct{}{} }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		p := hub.raw(handshakeOf("Sec-WebSocket-Extensions: permessage-deflate")).requireOpen()
		start := time.Now()
		p.write(strings.Repeat(frameOf(fin|rsv1|textOp, deflated(`{"type":"x","data":"`+longText(size)+`"}`, 9)), n))
		for range n {
			<-seen
		}
		// Two seconds of the rate at once, and up to a read of 512 bytes beyond that.
		require.GreaterOrEqual(t, time.Since(start), (n*size/rate-2)*time.Second-time.Second-time.Second/2)
		p.leave()
	})
}

func TestMessageTimeout(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		timeout time.Duration
		rate    int64
		head    string        // written first
		part    string        // written every interval
		every   time.Duration //
		n       int
		closed  time.Duration // 0 if the message is accepted
	}{
		{name: "a byte every 20 s", head: headerOf(fin|textOp, 0x80, 60<<10, 0) + "mask", part: "x", every: 20 * time.Second, n: 20, closed: time.Minute},
		{name: "nothing", head: headerOf(fin|textOp, 0x80, 60<<10, 0) + "mask" + "x", every: time.Hour, n: 1, closed: time.Minute},
		{name: "shorter", timeout: 5 * time.Second, head: headerOf(fin|textOp, 0x80, 60<<10, 0) + "mask", part: "x", every: time.Second, n: 100, closed: 5 * time.Second},
		{name: "fragments between pongs", head: frameOf(textOp, longText(1000)), part: pongFrame(""), every: 20 * time.Second, n: 20, closed: time.Minute},
		{name: "a slow upload", head: headerOf(fin|textOp, 0x80, 100*600, 0) + "\x00\x00\x00\x00", part: longText(600), every: time.Second, n: 100},
		{name: "too slow an upload", head: headerOf(fin|textOp, 0x80, 400*150, 0) + "\x00\x00\x00\x00", part: longText(150), every: time.Second, n: 400, closed: 70 * time.Second},
		{name: "no limit", timeout: -1, head: headerOf(fin|textOp, 0x80, 200, 0) + "\x00\x00\x00\x00", part: "x", every: 20 * time.Second, n: 200},
		{name: "delayed by the hub", timeout: 2 * time.Second, rate: 1000, head: textFrame(longText(8000)), every: time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					config := rawConfig()
					config.PongWait, config.PingPeriod = 10*time.Hour, 9*time.Hour
					config.MessageTimeout = tt.timeout
					config.ByteRate = tt.rate
					hub := runEcho(t, p, config)
					defer hub.stop()
					server, client := testnet.Pair(1 << 20)
					served := hub.accept(server)
					peer := rawOver(t, client, handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
					<-served
					start := time.Now()
					written := make(chan struct{}) // closed by the writer, received below
					go func() {                    // ends when all is written
						defer close(written)
						peer.write(tt.head)
						for range tt.n {
							time.Sleep(tt.every)
							peer.write(tt.part)
						}
					}()
					defer func() { <-written }()
					f, err := peer.next()
					require.NoError(t, err)
					took := time.Since(start)
					if tt.closed == 0 {
						require.Equal(t, byte(fin|textOp), f.first, "%q", f.payload)
						peer.leave()
						return
					}
					code, reason := closeOf(t, f)
					require.Equal(t, 1008, code)
					require.Contains(t, reason, "message takes longer")
					require.InDelta(t, tt.closed, took, float64(time.Second))
					_ = peer.nc.Close()
					<-hub.ended
				})
			})
		})
	}
}

// panicking is a codec whose methods panic for one name.
type panicking struct{ linesWithDecoder }

func (panicking) DecodeChannel(data []byte) string {
	if string(data) == "panic" {
		panic("broken codec")
	}
	return string(data)
}

func (c panicking) DecodeRoomID(data []byte) string { return c.DecodeChannel(data) }

func (panicking) EncodeError(string, string) []byte { panic("broken codec") }
func (panicking) EncodeGap(websocket.Gap) []byte    { panic("broken codec") }

// panickingError panics when it is formatted.
type panickingError struct{}

func (*panickingError) Error() string { panic("broken error") }
func (*panickingError) Is(error) bool { panic("broken error") }

// panickingLogger is a Logger that always panics.
type panickingLogger struct{}

func (panickingLogger) Debugf(string, ...any)   { panic("broken logger") }
func (panickingLogger) Infof(string, ...any)    { panic("broken logger") }
func (panickingLogger) Warningf(string, ...any) { panic("broken logger") }
func (panickingLogger) Errorf(string, ...any)   { panic("broken logger") }

// TestPanicsEndNothingElse has the application's codec, Logger and errors panic for what a
// client sends. The client's connection stays, or is closed as documented, and others are
// not affected.
func TestPanicsEndNothingElse(t *testing.T) {
	t.Parallel()
	for name, logger := range map[string]websocket.Logger{"quiet": quietLogger{}, "panicking": panickingLogger{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				codec := panicking{linesWithDecoder{lines{name: "lines", index: 10, opcode: websocket.BinaryMessage}}}
				config := websocket.DefaultConfig
				config.Subprotocols = nil
				config.Codecs = []websocket.Codec{codec, websocket.JSONCodec{}}
				config.ClientBacklog, config.MaxMessageSize = 600, 80
				config.SlowConsumer = websocket.DropNewest
				config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
					if r.Target == "forbidden" {
						return &panickingError{}
					}
					return nil
				}
				hub := &fakeHub{Hub: websocket.NewHub(logger, config), t: t, path: paths[0], ran: make(chan error, 1)}
				go func() { hub.ran <- hub.Run(t.Context()) }() // ends with the hub
				defer hub.stop()
				other := hub.raw(handshakeOf(protocolHeader("json"))).requireOpen()
				p, c := hub.stalled(protocolHeader("lines"))
				require.Equal(t, codec, c.Codec())
				send := func(m websocket.Message) wire {
					b, err := codec.Marshal(&m)
					require.NoError(t, err)
					p.write(frameOf(fin|binaryOp, string(b)))
					f, err := p.next()
					require.NoError(t, err)
					require.Equal(t, byte(fin|binaryOp), f.first, "%q", f.payload)
					reply, err := lineWire(codec.lines, true).decode(f.payload)
					require.NoError(t, err)
					return reply
				}
				for _, kind := range []string{"subscribe", "unsubscribe", "join_room", "leave_room"} {
					require.Equal(t, "ack", send(websocket.Message{Type: kind, Data: []byte("x"), ID: "1"}).Type)
					reply := send(websocket.Message{Type: kind, Data: []byte("panic"), ID: "2"})
					require.Equal(t, wire{Type: "error", ID: "2", Data: []byte{}}, reply)
				}
				for range 10 { // more than the backlog
					require.NoError(t, c.Send(&websocket.Message{Data: []byte(longText(200))}))
				}
				synctest.Wait()
				require.Positive(t, hub.Stats().Dropped.SlowConsumer)
				for {
					f, err := p.next()
					require.NoError(t, err)
					m, err := lineWire(codec.lines, true).decode(f.payload)
					require.NoError(t, err)
					if m.Type == "gap" {
						require.Empty(t, m.Data)
						break
					}
				}
				b, err := codec.Marshal(&websocket.Message{Type: "subscribe", Data: []byte("forbidden")})
				require.NoError(t, err)
				p.write(frameOf(fin|binaryOp, string(b)))
				p.requireEnd(1011)
				_ = p.nc.Close()
				other.requireAck(subscribeTo("x"))
				other.leave()
			})
		})
	}
}
