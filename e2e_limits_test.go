package websocket_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// ask sends a control message as JSON and returns the hub's reply.
func (p *rawPeer) ask(m wire) jsonWire {
	p.t.Helper()
	m.ID = "ask"
	b, err := encodeJSON(m)
	require.NoError(p.t, err)
	p.write(textFrame(string(b)))
	for {
		f, err := p.next()
		require.NoError(p.t, err)
		require.Equal(p.t, byte(fin|textOp), f.first, "%q", f.payload)
		var reply jsonWire
		require.NoError(p.t, json.Unmarshal(f.payload, &reply))
		if reply.ID == m.ID {
			return reply
		}
	}
}

func (p *rawPeer) requireAck(m wire) {
	p.t.Helper()
	reply := p.ask(m)
	require.Equal(p.t, "ack", reply.Type, "%s", reply.Data)
}

func (p *rawPeer) requireRefused(m wire, code string) {
	p.t.Helper()
	reply := p.ask(m)
	require.Equal(p.t, "error", reply.Type)
	got, message, err := jsonProblem(reply.Data)
	require.NoError(p.t, err)
	require.Equal(p.t, code, got, message)
	require.NotEmpty(p.t, message)
}

// leave closes the connection with a closing handshake.
func (p *rawPeer) leave() {
	p.t.Helper()
	p.write(closeFrame(1000, ""))
	p.requireEnd(1000)
	_ = p.nc.Close()
}

func subscribeTo(channel string) wire { return wire{Type: "subscribe", Data: jsonChannel(channel)} }
func joining(room string) wire        { return wire{Type: "join_room", Data: jsonRoom(room)} }

func TestMaxMessageSize(t *testing.T) {
	t.Parallel()
	const limit = 1000
	full, over := strings.Repeat("x", limit), strings.Repeat("x", limit+1)
	noise := make([]byte, 64<<10)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(noise) // never fails
	zipped := func(s string, level int) string { return frameOf(fin|rsv1|binaryOp, deflated(s, level)) }
	tests := []struct {
		name   string
		limit  int64
		stream string
		want   int    // size of the message that the hub processes; 0 if it closes with 1009
		reason string // of 1009
	}{
		{"exact", limit, frameOf(fin|binaryOp, full), limit, ""},
		{"over", limit, frameOf(fin|binaryOp, over), 0, `of 1001 bytes is larger than 1000 bytes$`},
		{"exact in fragments", limit, fragments(binaryOp, chopped(full, 99)...), limit, ""},
		{"over in fragments", limit, fragments(binaryOp, chopped(over, 99)...), 0, `of 1001 bytes is larger than 1000 bytes$`},
		{"over by one in the last fragment", limit, fragments(binaryOp, full, "x"), 0, `of 1001 bytes is larger than 1000 bytes$`},
		{"header alone", limit, headerOf(fin|binaryOp, 0x80, 1<<40, 0) + "mask", 0, `of 1099511627776 bytes is larger than 1256 bytes on the wire$`},
		{"header of a fragment alone", limit, frameOf(binaryOp, "x") + headerOf(contOp, 0x80, 1<<62, 0) + "mask", 0, `of at least 4611686018427387905 bytes is larger than 1256 bytes on the wire$`},
		{"fragments that add up beyond 63 bits", limit, frameOf(binaryOp, "x") + headerOf(contOp, 0x80, 1<<63-1, 0) + "mask", 0, `of at least 9223372036854775808 bytes is larger than 1256 bytes on the wire$`},
		{"exact after inflating", limit, zipped(full, 9), limit, ""},
		{"over after inflating", limit, zipped(over, 9), 0, `^message is larger than 1000 bytes$`},
		{"over after inflating fragments", limit, fragments(binaryOp|rsv1, chopped(deflated(over, 9), 3)...), 0, `^message is larger than 1000 bytes$`},
		{"far over after inflating", limit, zipped(strings.Repeat("x", 1<<20), 9), 0, `^message is larger than (1000|1256) bytes`},
		{"noise that deflate makes longer", 64 << 10, zipped(string(noise), flate.BestSpeed), 64 << 10, ""},
		{"noise in stored blocks", 64 << 10, zipped(string(noise), flate.NoCompression), 64 << 10, ""},
		{"noise in Huffman blocks", 64 << 10, zipped(string(noise), flate.HuffmanOnly), 64 << 10, ""},
		{"default exact", 0, frameOf(fin|binaryOp, strings.Repeat("x", 512<<10)), 512 << 10, ""},
		{"default over", 0, frameOf(fin|binaryOp, strings.Repeat("x", 512<<10+1)), 0, `of 524289 bytes is larger than 524288 bytes$`},
		{"very large", 1 << 62, frameOf(fin|binaryOp, string(noise)), 64 << 10, ""},
		{"largest", 1<<63 - 1, frameOf(fin|binaryOp, string(noise)), 64 << 10, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := rawConfig()
				config.MaxMessageSize, config.ClientBacklog = tt.limit, 0
				hub := runEcho(t, paths[0], config)
				defer hub.stop()
				other := hub.bystander()
				peer := hub.raw(handshakeOf(protocolHeader(rawBinary.name), underTest, "Sec-WebSocket-Extensions: permessage-deflate")).requireOpen()
				peer.write(frameOf(fin|binaryOp, "first"))
				peer.require(fin|binaryOp, "first")
				peer.write(tt.stream)
				want := []int{5}
				if tt.want > 0 {
					f, err := peer.next()
					require.NoError(t, err)
					require.Len(t, f.payload, tt.want, "%q", f.payload[:min(len(f.payload), 100)])
					peer.leave()
					want = append(want, tt.want)
				} else {
					require.Regexp(t, tt.reason, peer.requireEnd(1009))
				}
				<-hub.ended
				var got []int
				for _, m := range hub.seen.items {
					got = append(got, len(m))
				}
				require.Equal(t, want, got)
				other.requireUndisturbed()
				_ = peer.nc.Close()
			})
		})
	}
}

// TestInflatingIsBounded is not parallel because it measures the allocations of the
// process.
func TestInflatingIsBounded(t *testing.T) {
	block := deflated(strings.Repeat("0", 1<<20), 9)
	bomb := frameOf(fin|rsv1|textOp, strings.Repeat(block+"\x00\x00\xff\xff", 47)+block)
	require.Less(t, len(bomb), 64<<10)
	config := websocket.DefaultConfig
	config.MaxMessageSize = 64 << 10 // more than the compressed bomb
	b := setup(t, config, options{})
	peer := b.rawTCP(t, handshakeOf("Sec-WebSocket-Extensions: permessage-deflate")).requireOpen()
	require.NotEmpty(t, peer.header.Get("Sec-WebSocket-Extensions"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	peer.write(bomb)
	require.Contains(t, peer.requireEnd(1009), "larger than 65536 bytes")
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(2<<20))
	require.Zero(t, b.messages.len())
}

func TestMaxSubscriptions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxSubscriptions = 3
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer, other := hub.raw(handshakeOf()).requireOpen(), hub.raw(handshakeOf()).requireOpen()
		peer.requireAck(subscribeTo("a"))
		peer.requireAck(subscribeTo("b"))
		peer.requireAck(joining("a"))
		peer.requireRefused(subscribeTo("c"), "limit")
		peer.requireRefused(joining("b"), "limit")
		peer.requireAck(subscribeTo("a")) // already subscribed
		peer.requireAck(joining("a"))
		other.requireAck(subscribeTo("c")) // the limit is per client
		peer.requireAck(wire{Type: "unsubscribe", Data: jsonChannel("not subscribed")})
		peer.requireRefused(subscribeTo("c"), "limit")
		peer.requireAck(wire{Type: "leave_room", Data: jsonRoom("a")})
		peer.requireAck(subscribeTo("c"))
		peer.requireRefused(subscribeTo("d"), "limit")
		require.Equal(t, map[string]int{"a": 1, "b": 1, "c": 2}, channelsOf(hub.Hub))
		require.Empty(t, roomsOf(hub.Hub))
		for c := range hub.Clients() {
			require.NoError(t, c.Subscribe("b"))
			require.NoError(t, c.Subscribe("c"))
			_ = c.JoinRoom("x") // the third topic of one client; fails for the other
			require.ErrorIs(t, c.JoinRoom("y"), websocket.ErrTooManySubscriptions)
			require.ErrorIs(t, c.Subscribe("y"), websocket.ErrTooManySubscriptions)
			require.NoError(t, c.Unsubscribe("b"))
			require.NoError(t, c.Subscribe("y"))
		}
		peer.leave()
		other.leave()
	})
	for _, tt := range []struct{ limit, most int }{{0, 1000}, {-1, 5000}} {
		t.Run(fmt.Sprint(tt.limit), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.MaxSubscriptions = tt.limit
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				peer := hub.raw(handshakeOf()).requireOpen()
				for c := range hub.Clients() {
					for i := range tt.most {
						require.NoError(t, c.Subscribe(fmt.Sprint(i)))
					}
					err := c.JoinRoom("one more")
					require.Equal(t, tt.limit == 0, errors.Is(err, websocket.ErrTooManySubscriptions))
				}
				peer.leave()
			})
		})
	}
}

func TestNameLimits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxNameLength = 10
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.raw(handshakeOf()).requireOpen()
		asks := func(name string) []wire {
			return []wire{
				subscribeTo(name), {Type: "publish", Channel: name, Data: []byte("1")}, {Type: "unsubscribe", Data: jsonChannel(name)},
				joining(name), {Type: "publish_room", Channel: name, Data: []byte("1")}, {Type: "leave_room", Data: jsonRoom(name)},
			}
		}
		calls := func(name string) (errs []error) {
			for c := range hub.Clients() {
				errs = append(errs, c.Subscribe(name), c.Unsubscribe(name), c.JoinRoom(name), c.LeaveRoom(name))
			}
			_, err := hub.RoomMembers(context.Background(), name)
			return append(errs, err, hub.PublishToChannelRaw(name, nil), hub.PublishToRoom(name, &websocket.Message{}))
		}
		for _, name := range []string{"x", "0123456789", "a b", "日本語", " ", `"quoted"`, "..", "*", "\u00a0", "\u2028"} {
			for _, m := range asks(name) {
				peer.requireAck(m)
			}
			for i, err := range calls(name) {
				require.NoError(t, err, "%q %d", name, i)
			}
		}
		for _, name := range []string{"", "01234567890", "日本語文", "a\nb", "\x00", "a\x7f", "\r", "\t", "\x1b[2J", "\u0085", "\u009f"} {
			for _, m := range asks(name) {
				peer.requireRefused(m, "bad_request")
			}
			for i, err := range calls(name) {
				require.ErrorIs(t, err, websocket.ErrInvalidName, "%q %d", name, i)
			}
		}
		for i, err := range calls("\xff") {
			require.ErrorIs(t, err, websocket.ErrInvalidName, i)
		}
		for _, data := range []string{``, `null`, `1`, `[]`, `{}`, `"x"`, `{"channel":1}`, `{"channel":null}`, `{"channel":["x"]}`, `{"room":"x"}`} {
			for _, m := range asks("x") {
				if m.Channel == "" {
					m.Data = []byte(data)
					peer.requireRefused(m, "bad_request")
				}
			}
		}
		peer.requireAck(wire{Type: "broadcast", Data: []byte("1")}) // needs no name
		require.Empty(t, channelsOf(hub.Hub))
		require.Empty(t, roomsOf(hub.Hub))
		peer.leave()
	})
}

// requireBusy checks that the hub refused the handshake with Retry-After.
func (p *rawPeer) requireBusy(reason string) {
	p.t.Helper()
	require.Equal(p.t, http.StatusServiceUnavailable, p.status)
	require.Equal(p.t, "1", p.header.Get("Retry-After"))
	require.Contains(p.t, p.body, reason)
	_ = p.nc.Close()
}

func TestMaxClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.MaxClients = 2
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		first, second := hub.raw(handshakeOf()).requireOpen(), hub.raw(handshakeOf()).requireOpen()
		for range 3 {
			hub.raw(handshakeOf()).requireBusy("full")
		}
		first.requireAck(subscribeTo("x"))
		first.leave()
		synctest.Wait()
		hub.raw(requestOf("GET / HTTP/1.1", "Host: hub.test")) // not a handshake
		synctest.Wait()
		third := hub.raw(handshakeOf()).requireOpen()
		hub.raw(handshakeOf()).requireBusy("full")
		second.leave()
		third.leave()
	})
}

func TestMaxHandshakes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		inside := make(chan struct{}) // the hook sends, the test receives
		gate := make(chan struct{})   // the test closes, the hook receives
		config := websocket.DefaultConfig
		config.MaxHandshakes = 2
		config.ClientID = func(r *http.Request) (string, error) {
			if r.URL.Path == "/slow" {
				inside <- struct{}{}
				<-gate
			}
			return r.URL.Path + r.URL.RawQuery, nil
		}
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		at := func(path string) string { return strings.Replace(handshakeOf(), "GET /", "GET "+path, 1) }
		slow := make(chan *rawPeer) // the goroutines below send, the test receives
		for i := range 2 {
			go func() { slow <- hub.raw(at(fmt.Sprintf("/slow?%d", i))) }()
			<-inside
		}
		hub.raw(at("/a")).requireBusy("too many handshakes")
		close(gate)
		for range 2 {
			(<-slow).requireOpen().leave()
		}
		hub.raw(at("/a")).requireOpen().leave()
	})
}

// TestMemoryBudget exceeds the budget with messages that no client holds: the codec keeps
// the hub goroutine from delivering them. (A writePump would take them off the log.)
func TestMemoryBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{}) // the test closes, the codec receives
		config := websocket.DefaultConfig
		config.MaxMessageSize, config.MemoryBudget = 4000, 20_000
		config.Shards = 1
		config.Subprotocols = nil
		config.Codecs = []websocket.Codec{websocket.JSONCodec{}, lines{name: "lines", index: 10, opcode: websocket.BinaryMessage, fails: func(m *websocket.Message) bool {
			if len(m.Data) > 1000 {
				<-gate
			}
			return false
		}}}
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.raw(handshakeOf(protocolHeader("lines"))).requireOpen()
		payload := bytes.Repeat([]byte("1"), 5000)
		const n = 10
		for range n {
			require.NoError(t, hub.Broadcast(payload))
		}
		// No synctest.Wait: reclaim may wait for the lock of the client whose codec is stuck.
		require.Greater(t, hub.Stats().HeldBytes, config.MemoryBudget)
		hub.raw(handshakeOf()).requireBusy("memory budget")
		close(gate)
		for range n {
			f, err := peer.next()
			require.NoError(t, err)
			require.Contains(t, string(f.payload), string(payload))
		}
		synctest.Wait()
		require.Zero(t, hub.HeldByMessages())
		require.Zero(t, hub.Stats().Evicted)
		hub.raw(handshakeOf()).requireOpen().leave()
		peer.leave()
	})
}

func TestBurstsAreDelayedAndProcessed(t *testing.T) {
	t.Parallel()
	small, large := strings.Repeat("x", 10), strings.Repeat("x", 600)
	tests := []struct {
		name            string
		messages, bytes int64
		n               int
		payload         string
		atLeast, atMost time.Duration
		withPings       bool
	}{
		{name: "within the burst", messages: 10, n: 20, payload: large, atMost: 0},
		{name: "messages", messages: 10, n: 60, payload: large, atLeast: 3900 * time.Millisecond, atMost: 4100 * time.Millisecond},
		{name: "small messages", messages: 100, n: 600, payload: small, atLeast: 3400 * time.Millisecond, atMost: 4100 * time.Millisecond},
		{name: "pings count", messages: 10, n: 30, payload: large, withPings: true, atLeast: 3700 * time.Millisecond, atMost: 4100 * time.Millisecond},
		{name: "bytes", messages: -1, bytes: 1000, n: 9, payload: large, atLeast: 2600 * time.Millisecond, atMost: 3600 * time.Millisecond},
		{name: "one message above the rate", messages: -1, bytes: 1000, n: 1, payload: strings.Repeat("x", 7000), atLeast: 4 * time.Second, atMost: 5100 * time.Millisecond},
		{name: "no limits", messages: -1, bytes: -1, n: 20_000, payload: small, atMost: 0},
		{name: "default", n: 4000, payload: small, atLeast: 1900 * time.Millisecond, atMost: 2100 * time.Millisecond},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := rawConfig()
				config.MessageRate, config.ByteRate = tt.messages, tt.bytes
				hub := runEcho(t, paths[0], config)
				defer hub.stop()
				server, client := testnet.Pair(1 << 20)
				served := hub.accept(server)
				peer := rawOver(t, client, handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
				<-served
				client.SetWindow(8 << 10)
				time.Sleep(50 * time.Second) // idle time must not allow a larger burst
				start := time.Now()
				frame := textFrame(tt.payload)
				if tt.withPings {
					frame = pingFrame("p") + frame
				}
				written := make(chan struct{}) // closed by the writer, received below
				go func() {                    // ends when the hub has read all
					defer close(written)
					peer.write(strings.Repeat(frame, tt.n))
				}()
				for echoes := 0; echoes < tt.n; {
					f, err := peer.next()
					require.NoError(t, err)
					if f.first&0x0f == textOp {
						require.Equal(t, tt.payload, string(f.payload))
						echoes++
					} else {
						require.EqualValues(t, fin|pongOp, f.first, "%q", f.payload)
					}
				}
				<-written
				took := time.Since(start)
				require.GreaterOrEqual(t, took, tt.atLeast)
				require.LessOrEqual(t, took, tt.atMost)
				require.Len(t, hub.seen.items, tt.n)
				peer.leave()
			})
		})
	}
}

// TestFloodsCloseWith1008 exceeds a rate without a pause, with a FloodTimeout.
func TestFloodsCloseWith1008(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name            string
		messages, bytes int64
		frame           string
	}{
		{"messages", 10, -1, textFrame(strings.Repeat("x", 200))},
		{"large messages", 10, -1, textFrame(strings.Repeat("x", 2000))},
		{"messages at the default rate", 0, -1, textFrame("x")},
		{"bytes", -1, 10_000, textFrame(strings.Repeat("x", 2000))},
		{"pings", 100, -1, pingFrame("")},
		{"pongs", 100, -1, pongFrame("pong")},
		{"fragments", 100, -1, frameOf(textOp, "x") + strings.Repeat(frameOf(contOp, "y"), 50) + frameOf(fin, "z")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := rawConfig()
				config.MessageRate, config.ByteRate = tt.messages, tt.bytes
				config.FloodTimeout = 10 * time.Second
				config.PongWait = time.Hour
				config.PingPeriod = 0
				hub := runEcho(t, paths[0], config)
				defer hub.stop()
				other := hub.bystander()
				server, client := testnet.Pair(1 << 14)
				served := hub.accept(server)
				peer := rawOver(t, client, handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
				<-served
				time.Sleep(50 * time.Second)
				start := time.Now()
				flooded := make(chan error, 1) // the flooder sends, the test receives
				go func() {                    // ends when the hub closes, at most after a minute
					chunk := []byte(strings.Repeat(tt.frame, 20))
					for time.Since(start) < time.Minute {
						if _, err := client.Write(chunk); err != nil {
							flooded <- err
							return
						}
						time.Sleep(time.Millisecond) // lets the bubble's clock advance
					}
					client.Reset()
					flooded <- nil
				}()
				var frames []rawFrame
				var err error
				for err == nil {
					var f rawFrame
					if f, err = peer.next(); err == nil {
						frames = append(frames, f)
					}
				}
				require.Error(t, <-flooded, "the hub accepted a minute of flooding")
				require.NotEmpty(t, frames)
				code, reason := closeOf(t, frames[len(frames)-1])
				require.Equal(t, 1008, code)
				require.Contains(t, reason, "rate")
				require.Equal(t, &websocket.CloseError{Code: 1008, Reason: reason}, <-hub.ended)
				require.Greater(t, time.Since(start), 10*time.Second)
				require.Less(t, time.Since(start), 20*time.Second)
				other.requireUndisturbed()
				_ = peer.nc.Close()
			})
		})
	}
}

// TestSteadyClientsAreNotClosed sends for ten minutes just below the rate, steadily
// or in bursts.
func TestSteadyClientsAreNotClosed(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		n     int // messages at a time
		every time.Duration
	}{
		{"steady", 1, 110 * time.Millisecond},
		{"bursts", 40, 5 * time.Second},
		{"rare bursts", 100, 30 * time.Second}, // eight seconds of delay each
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := rawConfig()
				config.MessageRate = 10
				config.FloodTimeout = 10 * time.Second
				hub := runEcho(t, paths[0], config)
				defer hub.stop()
				peer := hub.raw(handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
				go func() { // ends after ten minutes
					for range 10 * time.Minute / tt.every {
						peer.write(strings.Repeat(textFrame(strings.Repeat("x", 100)), tt.n))
						time.Sleep(tt.every)
					}
				}()
				for range tt.n * int(10*time.Minute/tt.every) {
					f, err := peer.next()
					require.NoError(t, err)
					require.Equal(t, byte(fin|textOp), f.first, "%q", f.payload)
				}
				synctest.Wait()
				time.Sleep(tt.every)
				peer.leave()
			})
		})
	}
}

// TestPingFloodGetsFewPongs counts pongs. The hub answers only the last of the pings
// in one read. While the client accepts no pong, the hub keeps only the latest one.
func TestPingFloodGetsFewPongs(t *testing.T) {
	t.Parallel()
	const n = 3000
	var flood strings.Builder
	for i := range n {
		flood.WriteString(pingFrame(fmt.Sprintf("%06d", i)))
	}
	last := fmt.Sprintf("%06d", n-1)
	onBothPaths(t, func(t *testing.T, p path) {
		for _, window := range []int{1 << 20, 1, 20, 100} {
			t.Run(fmt.Sprintf("window=%d", window), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					config := rawConfig()
					config.MessageRate = -1
					hub := runEcho(t, p, config)
					defer hub.stop()
					server, client := testnet.Pair(1 << 20)
					served := hub.accept(server)
					peer := rawOver(t, client, handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
					<-served
					time.Sleep(time.Second)
					server.SetWindow(window)
					client.SetWindow(8 << 10)
					peer.write(flood.String())
					synctest.Wait()
					require.LessOrEqual(t, hub.HeldByMessages(), int64(256<<10)) // at most the writePump's buffer
					pongs := []string{}
					for len(pongs) == 0 || pongs[len(pongs)-1] != last {
						f, err := peer.next()
						require.NoError(t, err)
						require.Equal(t, byte(fin|pongOp), f.first)
						require.True(t, len(pongs) == 0 || pongs[len(pongs)-1] < string(f.payload), "pongs out of order")
						pongs = append(pongs, string(f.payload))
					}
					if window < 1<<20 {
						require.LessOrEqual(t, len(pongs), window/8+3)
					} else {
						require.LessOrEqual(t, len(pongs), n/30) // 42 pings fit into a read of 512 bytes
					}
					peer.leave()
				})
			})
		}
	})
}

func TestAllowedOrigins(t *testing.T) {
	t.Parallel()
	tests := []struct {
		origin   string
		patterns []string
		allowed  bool
	}{
		{"", nil, true},
		{"http://hub.test", nil, true},
		{"https://hub.test", nil, true},
		{"https://HUB.test", nil, true},
		{"https://evil.test", nil, false},
		{"https://hub.test.evil.test", nil, false},
		{"https://evilhub.test", nil, false},
		{"https://hub.test:8443", nil, false},
		{"https://user@hub.test", nil, true},
		{"https://hub.test@evil.test", nil, false},
		{"null", nil, false},
		{"hub.test", nil, false},
		{"//evil.test", nil, false},
		{"http://[::1", nil, false},
		{"%zz", nil, false},
		{"https://app.example.com", []string{"app.example.com"}, true},
		{"https://APP.example.com", []string{"app.Example.com"}, true},
		{"https://app.example.com:8443", []string{"app.example.com"}, false},
		{"https://app.example.com:8443", []string{"app.example.com:8443"}, true},
		{"https://app.example.com:8443", []string{"app.example.com:*"}, true},
		{"https://app.example.com", []string{"*.example.com"}, true},
		{"https://a.b.example.com", []string{"*.example.com"}, true},
		{"https://example.com", []string{"*.example.com"}, false},
		{"https://evilexample.com", []string{"*.example.com"}, false},
		{"https://app.example.com.evil.test", []string{"*.example.com"}, false},
		{"https://app.example.com", []string{"https://app.example.com"}, true},
		{"http://app.example.com", []string{"https://app.example.com"}, false},
		{"https://x.example.com", []string{"https://*.example.com"}, true},
		{"http://x.example.com", []string{"https://*.example.com"}, false},
		{"https://two.test", []string{"one.test", "two.test"}, true},
		{"https://any.test", []string{"*"}, true},
		{"chrome-extension://abcdef", []string{"chrome-extension://abcdef"}, true},
		{"http://localhost:3000", []string{"localhost:[0-9][0-9][0-9][0-9]"}, true},
		{"http://localhost:30000", []string{"localhost:[0-9][0-9][0-9][0-9]"}, false},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s with %v", tt.origin, tt.patterns), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.AllowedOrigins = tt.patterns
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				request := handshakeOf()
				if tt.origin != "" {
					request = handshakeOf("Origin: " + tt.origin)
				}
				peer := hub.raw(request)
				if tt.allowed {
					peer.requireOpen().leave()
					return
				}
				require.Equal(t, http.StatusForbidden, peer.status)
				require.Contains(t, peer.body, "origin")
				_ = peer.nc.Close()
			})
		})
	}
	t.Run("CheckOrigin overrides AllowedOrigins", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.AllowedOrigins = []string{"*"}
			config.CheckOrigin = func(r *http.Request) bool { return r.Header.Get("Origin") == "https://only.test" }
			hub := runFake(t, paths[0], config)
			defer hub.stop()
			hub.raw(handshakeOf("Origin: https://only.test")).requireOpen().leave()
			for _, request := range []string{handshakeOf(), handshakeOf("Origin: https://hub.test")} {
				peer := hub.raw(request)
				require.Equal(t, http.StatusForbidden, peer.status)
				_ = peer.nc.Close()
			}
		})
	})
}

func TestBearerToken(t *testing.T) {
	t.Parallel()
	encoded := func(token string) string { return "bearer." + base64.RawURLEncoding.EncodeToString([]byte(token)) }
	tests := []struct {
		name    string
		headers []string
		token   string
		ok      bool
		echoed  string // the subprotocol in the response
		status  int    // of a refused handshake; 0 means 101
	}{
		{name: "none"},
		{name: "header", headers: []string{"Authorization: Bearer a.b-c"}, token: "a.b-c", ok: true},
		{name: "header in different case", headers: []string{"authorization: bEARER  t "}, token: "t", ok: true},
		{name: "other scheme", headers: []string{"Authorization: Basic dTpw"}},
		{name: "scheme alone", headers: []string{"Authorization: Bearer"}},
		{name: "scheme without blank", headers: []string{"Authorization: Bearertoken"}},
		{name: "subprotocol", headers: []string{protocolHeader(encoded("secret, with ünïcode") + ", json")}, token: "secret, with ünïcode", ok: true, echoed: "json"},
		{name: "subprotocol last", headers: []string{protocolHeader("msgpack"), protocolHeader(encoded("t"))}, token: "t", ok: true, echoed: "msgpack"},
		{name: "subprotocol alone", headers: []string{protocolHeader(encoded("t"))}, token: "t", ok: true},
		{name: "padded", headers: []string{protocolHeader("bearer.dA==, json")}, echoed: "json"},
		{name: "no base64url", headers: []string{protocolHeader("bearer.a+b, json")}, echoed: "json"},
		{name: "empty", headers: []string{protocolHeader("bearer., json")}, echoed: "json"},
		{name: "header first", headers: []string{"Authorization: Bearer one", protocolHeader(encoded("two") + ", json")}, token: "one", ok: true, echoed: "json"},
		{name: "is not a codec", headers: []string{protocolHeader(encoded("t") + ", unknown")}, status: 400},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var token string
				var ok bool
				config := websocket.DefaultConfig
				config.ClientID = func(r *http.Request) (string, error) {
					token, ok = websocket.BearerToken(r)
					return "someone", nil
				}
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				peer := hub.raw(handshakeOf(tt.headers...))
				if tt.status != 0 {
					require.Equal(t, tt.status, peer.status)
					require.Contains(t, peer.body, "json, protobuf")
					_ = peer.nc.Close()
					return
				}
				peer.requireOpen()
				require.Equal(t, tt.ok, ok)
				if ok {
					require.Equal(t, tt.token, token)
				}
				require.Equal(t, tt.echoed, peer.header.Get("Sec-WebSocket-Protocol"))
				peer.leave()
			})
		})
	}
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.ClientID = func(*http.Request) (string, error) { return "", errors.New("internal reason") }
			hub := runFake(t, paths[0], config)
			defer hub.stop()
			peer := hub.raw(handshakeOf())
			require.Equal(t, http.StatusUnauthorized, peer.status)
			require.NotContains(t, peer.body, "internal reason")
			_ = peer.nc.Close()
		})
	})
}

func TestExpiryClosesWithUnauthorized(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		set  func(c *websocket.Client)
		at   time.Duration // time of the Close frame; negative if there is none within an hour
	}{
		{"once", func(c *websocket.Client) { _ = c.SetExpiry(time.Now().Add(30 * time.Second)) }, 30 * time.Second},
		{"after pings", func(c *websocket.Client) { _ = c.SetExpiry(time.Now().Add(500 * time.Second)) }, 500 * time.Second},
		{"now", func(c *websocket.Client) { _ = c.SetExpiry(time.Now()) }, 0},
		{"in the past", func(c *websocket.Client) { _ = c.SetExpiry(time.Now().Add(-24 * time.Hour)) }, 0},
		{"renewed", func(c *websocket.Client) {
			_ = c.SetExpiry(time.Now().Add(30 * time.Second))
			time.Sleep(20 * time.Second)
			_ = c.SetExpiry(time.Now().Add(30 * time.Second))
		}, 50 * time.Second},
		{"shortened", func(c *websocket.Client) {
			_ = c.SetExpiry(time.Now().Add(30 * time.Minute))
			time.Sleep(time.Second)
			_ = c.SetExpiry(time.Now().Add(time.Second))
		}, 2 * time.Second},
		{"removed", func(c *websocket.Client) {
			_ = c.SetExpiry(time.Now().Add(30 * time.Second))
			time.Sleep(29 * time.Second)
			_ = c.SetExpiry(time.Time{})
		}, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			onBothPaths(t, func(t *testing.T, p path) {
				synctest.Test(t, func(t *testing.T) {
					hub := runEcho(t, p, rawConfig())
					defer hub.stop()
					peer := hub.raw(handshakeOf(protocolHeader(rawText.name), underTest)).requireOpen()
					time.Sleep(time.Second)
					start := time.Now()
					for c := range hub.Clients() {
						go tt.set(c) // ends after at most 29 seconds
					}
					for {
						f, err := peer.next()
						require.NoError(t, err)
						if f.first&0x0f != pingOp {
							code, reason := closeOf(t, f)
							require.Equal(t, websocket.CloseUnauthorized, code)
							require.Contains(t, reason, "expired")
							require.Equal(t, tt.at, time.Since(start))
							break
						}
						if time.Since(start) > time.Hour {
							require.Negative(t, tt.at)
							break
						}
						peer.write(pongFrame(string(f.payload)))
					}
					_ = peer.nc.Close()
				})
			})
		})
	}
}

// TestReadyMadeAuthorizeHooks sends every control message under AllowSubscribe and
// AllowMembers.
func TestReadyMadeAuthorizeHooks(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		hook    func(*websocket.Client, websocket.AuthorizeRequest) error
		members bool // members may publish to their topics
	}{
		{"AllowSubscribe", websocket.AllowSubscribe, false},
		{"AllowMembers", websocket.AllowMembers, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.Authorize = tt.hook
				hub := runFake(t, paths[0], config)
				defer hub.stop()
				peer := hub.raw(handshakeOf()).requireOpen()
				publish := wire{Type: "publish", Channel: "x", Data: []byte("1")}
				publishRoom := wire{Type: "publish_room", Channel: "x", Data: []byte("1")}
				asMember := func(m wire) {
					t.Helper()
					if tt.members {
						peer.requireAck(m)
					} else {
						peer.requireRefused(m, "forbidden")
					}
				}
				peer.requireRefused(publish, "forbidden")
				peer.requireRefused(publishRoom, "forbidden")
				peer.requireRefused(wire{Type: "broadcast", Data: []byte("1")}, "forbidden")
				peer.requireAck(subscribeTo("x"))
				asMember(publish)
				peer.requireRefused(publishRoom, "forbidden")
				peer.requireAck(joining("x"))
				asMember(publishRoom)
				peer.requireRefused(wire{Type: "publish", Channel: "another", Data: []byte("1")}, "forbidden")
				peer.requireRefused(wire{Type: "broadcast", Data: []byte("1")}, "forbidden")
				peer.requireAck(wire{Type: "unsubscribe", Data: jsonChannel("x")})
				peer.requireRefused(publish, "forbidden")
				asMember(publishRoom)
				peer.requireAck(wire{Type: "leave_room", Data: jsonRoom("x")})
				peer.requireRefused(publishRoom, "forbidden")
				peer.leave()
			})
		})
	}
}

// TestUnknownActionsAreRefused calls the ready-made hooks with actions that do not
// exist.
func TestUnknownActionsAreRefused(t *testing.T) {
	t.Parallel()
	for _, action := range []websocket.Action{"", "SUBSCRIBE", "publish_everything"} {
		require.ErrorIs(t, websocket.AllowSubscribe(nil, websocket.AuthorizeRequest{Action: action, Target: "x"}), websocket.ErrForbidden)
		require.ErrorIs(t, websocket.AllowMembers(nil, websocket.AuthorizeRequest{Action: action, Target: "x"}), websocket.ErrForbidden)
	}
}

// TestFloodAfterCloseIsPaced has a peer violate the protocol and then send as fast as
// possible. The hub must discard this data no faster than ByteRate allows.
func TestFloodAfterCloseIsPaced(t *testing.T) {
	const rate = 10_000
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan struct{})
			config := websocket.DefaultConfig
			config.ByteRate = rate
			hub := startFake(t, p, config, nil, func(h *websocket.Hub) {
				h.SetCallbacks(nil, func(*websocket.Client) { close(ended) }, nil)
			})
			peer := hub.connect(1<<10, nil)
			defer peer.Close()
			go func() { // ends with the connection
				flood := make([]byte, 1<<10) // begins with an unmasked frame
				for err := error(nil); err == nil; {
					_, err = peer.NetConn().Write(flood)
				}
			}()
			<-ended
			received := hub.Stats().BytesReceived
			// Two seconds of ByteRate as a burst, one second until the end, and one read.
			require.LessOrEqual(t, received, uint64(3*rate+2<<10))
			require.Greater(t, received, uint64(2*rate))
			hub.stop()
		})
	})
}
