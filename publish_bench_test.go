package websocket_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// benchHub runs a hub with clients on connections that cost nothing, so that
// what is measured is the library without the kernel.
type benchHub struct {
	*websocket.Hub
	b testing.TB
}

func newBenchHub(b testing.TB, config websocket.Config, onConnect func(*websocket.Client)) *benchHub {
	h := &benchHub{websocket.NewHub(quietLogger{}, config), b}
	h.SetCallbacks(onConnect, nil, nil)
	ran := make(chan error, 1)
	go func() { ran <- h.Run(context.Background()) }()
	b.Cleanup(func() {
		require.NoError(b, h.Shutdown(context.Background()))
		require.NoError(b, <-ran)
	})
	return h
}

type discardWriter struct {
	http.ResponseWriter
	nc net.Conn
}

func (w discardWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.nc, bufio.NewReadWriter(bufio.NewReaderSize(w.nc, 16), bufio.NewWriterSize(w.nc, 16)), nil
}

func (h *benchHub) connect(codec string) { h.connectOn(codec, testnet.NewDiscardConn()) }

func (h *benchHub) connectOn(codec string, nc net.Conn) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {codec},
	}
	h.Handler().ServeHTTP(discardWriter{httptest.NewRecorder(), nc}, r)
}

// settle waits until everything is delivered.
func (h *benchHub) settle() {
	for h.Unsent() != 0 {
		time.Sleep(100 * time.Microsecond)
	}
}

var codecNames = []string{"json", "protobuf", "flatbuffers", "msgpack"}

// delivery is a point in the space that BenchmarkDelivery looks at.
type delivery struct {
	members    int // of each channel
	clients    int // each in as many channels as another
	publishers int
	payload    int // bytes
	codecs     int
}

// BenchmarkDelivery varies one thing at a time. ns/delivery is the library's
// share, of the publishers too.
func BenchmarkDelivery(b *testing.B) {
	usual := delivery{members: 1000, clients: 1000, publishers: 1, payload: 128, codecs: 1}
	for _, n := range []int{1, 10, 100, 1000, 10_000, 100_000} {
		d := usual
		d.members, d.clients = n, n
		b.Run(fmt.Sprintf("members=%d", n), d.run)
	}
	for _, n := range []int{1, 10, 100, 1000, 10_000, 100_000} {
		d := usual
		d.members, d.clients = 10, min(10*n, 1000)
		b.Run(fmt.Sprintf("channels=%d/members=10", n), func(b *testing.B) { d.runOn(b, n) })
	}
	for _, n := range []int{1, 4, 16, 64} {
		d := usual
		d.publishers = n
		b.Run(fmt.Sprintf("publishers=%d", n), d.run)
	}
	for _, n := range []int{16, 128, 1024, 8192, 65_536} {
		d := usual
		d.payload = n
		b.Run(fmt.Sprintf("payload=%d", n), d.run)
	}
	for n := 1; n <= len(codecNames); n++ {
		d := usual
		d.codecs = n
		b.Run(fmt.Sprintf("codecs=%d", n), d.run)
	}
}

func (d delivery) run(b *testing.B) { d.runOn(b, 1) }

func (d delivery) runOn(b *testing.B, channels int) {
	names := make([]string, channels)
	for i := range names {
		names[i] = "c" + strconv.Itoa(i)
	}
	config := websocket.DefaultConfig
	config.MaxSubscriptions, config.MaxClients = -1, -1
	nth := 0
	h := newBenchHub(b, config, func(c *websocket.Client) {
		// Places are dealt out in order, members of them for each channel.
		for place := nth; place < channels*d.members; place += d.clients {
			_ = c.Subscribe(names[place/d.members])
		}
	})
	for nth = range d.clients {
		h.connect(codecNames[nth%d.codecs])
	}
	data := jsonPayload(d.payload)
	_ = h.PublishToChannelRaw(names[0], data)
	h.settle() // behind all that joined
	b.ReportAllocs()
	b.ResetTimer()
	var publishers sync.WaitGroup
	var next atomic.Int64
	for range d.publishers {
		publishers.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				_ = h.PublishToChannelRaw(names[i*7919%int64(channels)], data)
			}
		})
	}
	publishers.Wait()
	h.settle()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*d.members), "ns/delivery")
}

// BenchmarkRooms publishes to many rooms of two.
func BenchmarkRooms(b *testing.B) {
	for _, sealed := range []string{"no", "hub", "client"} {
		b.Run("rooms=1000/sealed="+sealed, func(b *testing.B) {
			n := 0
			config := websocket.DefaultConfig
			if sealed == "hub" {
				config.Security = websocket.NewSecurityConfig(make([]byte, 32), []byte("k"))
			}
			h := newBenchHub(b, config, func(c *websocket.Client) {
				if sealed == "client" {
					_ = c.SetEncryptionKey(bytes.Repeat([]byte{byte(n)}, 32))
					_ = c.SetHMACKey([]byte{1, byte(n)})
				}
				_ = c.JoinRoom(fmt.Sprint(n / 2))
				n++
			})
			for range 2000 {
				h.connect("json")
			}
			names := make([]string, 1000)
			for i := range names {
				names[i] = fmt.Sprint(i)
			}
			m := &websocket.Message{Data: jsonPayload(128)}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				_ = h.PublishToRoom(names[i%1000], m)
				i += 7
			}
			h.settle()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2), "ns/delivery")
		})
	}
}

func jsonPayload(n int) []byte {
	return append(append([]byte(`"`), bytes.Repeat([]byte("x"), n-2)...), '"')
}

// BenchmarkConnect is the library's share of a connection's life: handshake,
// subscription and end.
func BenchmarkConnect(b *testing.B) {
	h := newBenchHub(b, websocket.DefaultConfig, func(c *websocket.Client) { _ = c.Subscribe("c") })
	b.ReportAllocs()
	for b.Loop() {
		nc := testnet.NewDiscardConn()
		h.connectOn("json", nc)
		_ = nc.Close()
	}
}

// BenchmarkEcho is the library's share of one client's message published to its
// room of two, by onMessage as an application does it, or by a control message.
func BenchmarkEcho(b *testing.B) {
	for _, way := range []string{"onMessage", "control"} {
		b.Run("by="+way, func(b *testing.B) {
			config := websocket.DefaultConfig
			config.MessageRate, config.ByteRate = -1, -1
			h := &benchHub{websocket.NewHub(quietLogger{}, config), b}
			var onMessage func(*websocket.Client, *websocket.Message)
			kind := `publish_room","channel":"r`
			if way == "onMessage" {
				kind = "move"
				onMessage = func(_ *websocket.Client, m *websocket.Message) { _ = h.PublishToRoom("r", m) }
			}
			h.SetCallbacks(func(c *websocket.Client) { _ = c.JoinRoom("r") }, nil, onMessage)
			ran := make(chan error, 1)
			go func() { ran <- h.Run(context.Background()) }()
			h.connect("json")
			frame := maskedText(`{"type":"` + kind + `","data":` + string(jsonPayload(128)) + `}`)
			nc := testnet.NewFeedConn(frame)
			nc.Feed(b.N)
			b.ReportAllocs()
			b.ResetTimer()
			h.connectOn("json", nc)
			<-nc.Fed
			h.settle()
			b.StopTimer()
			require.NoError(b, h.Shutdown(context.Background()))
			require.NoError(b, <-ran)
		})
	}
}

// maskedText is a text frame of 126 bytes or more as a client sends it, masked
// with zeros.
func maskedText(s string) []byte {
	return append([]byte{0x81, 0x80 | 126, byte(len(s) >> 8), byte(len(s)), 0, 0, 0, 0}, s...)
}

// BenchmarkPublishCall is what publishing costs its caller, whatever the number
// of members: the hub catches up outside the measured time.
func BenchmarkPublishCall(b *testing.B) {
	for _, members := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("members=%d", members), func(b *testing.B) {
			h := newBenchHub(b, websocket.DefaultConfig, func(c *websocket.Client) { _ = c.Subscribe("c") })
			for range members {
				h.connect("json")
			}
			data := jsonPayload(128)
			b.ReportAllocs()
			b.ResetTimer()
			for i := range b.N {
				if i%1000 == 0 {
					b.StopTimer()
					h.settle()
					b.StartTimer()
				}
				_ = h.PublishToChannelRaw("c", data)
			}
		})
	}
}

// fairnessHub has a channel of n members and a room of two, on one shard. told is
// called by the shard for every write.
func fairnessHub(t testing.TB, n int, told func(toRoom bool)) *benchHub {
	config := websocket.DefaultConfig
	config.Shards = 1
	room := false
	h := newBenchHub(t, config, func(c *websocket.Client) {
		if room {
			_ = c.JoinRoom("r")
		} else {
			_ = c.Subscribe("c")
		}
	})
	for i := range n + 2 {
		nc := testnet.NewDiscardConn()
		room = i >= n
		toRoom := room
		nc.OnWrite = func(int) { told(toRoom) }
		h.connectOn("json", nc)
	}
	return h
}

// TestFairness has a channel that never falls silent, since writing to its
// members makes new messages for them.
func TestFairness(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFairness)
}

func testFairness(t *testing.T) {
	const members = 2000
	var h *benchHub
	var writes, published, delivered int
	ready := make(chan struct{})
	h = fairnessHub(t, members, func(toRoom bool) {
		<-ready
		writes++
		switch {
		case toRoom:
			delivered = max(delivered, writes)
		case writes == 4*members:
			published = writes
			_ = h.PublishToRoom("r", &websocket.Message{})
		case writes%100 == 0 && writes < 8*members:
			_ = h.PublishToChannelRaw("c", []byte("1"))
		}
	})
	close(ready)
	require.NoError(t, h.PublishToChannelRaw("c", []byte("1")))
	h.settle()
	require.NotZero(t, delivered)
	require.Less(t, delivered-published, 400, "writes to others between publication and delivery")
}

// TestFloodReachesAllInParts publishes so much at once to so many that a client's
// turn comes only after more than its bound has been published. It is given what
// there is before, and is not taken for slow.
func TestFloodReachesAllInParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testFloodReachesAllInParts)
}

func testFloodReachesAllInParts(t *testing.T) {
	config := websocket.DefaultConfig
	config.Shards = 1
	h := newBenchHub(t, config, func(c *websocket.Client) { _ = c.Subscribe("c") })
	var last, atOnce, most int
	for i := range 1000 {
		nc := testnet.NewDiscardConn()
		nc.OnWrite = func(n int) {
			if i != last {
				last, atOnce = i, 0
			}
			atOnce += n
			most = max(most, atOnce)
		}
		h.connectOn("json", nc)
	}
	data := jsonPayload(4 << 10)
	for range 4000 {
		require.NoError(t, h.PublishToChannelRaw("c", data))
	}
	h.settle()
	require.Less(t, most, 1<<19, "bytes given to a client at once")
}

// BenchmarkFairness is how many writes to a channel of 10,000 that never falls
// silent come between the publication to a room of two and its delivery. A write
// takes the shard 5 µs, as one to a socket does.
func BenchmarkFairness(b *testing.B) {
	var writes atomic.Int64
	delivered := make(chan int64, 2)
	h := fairnessHub(b, 10_000, func(toRoom bool) {
		if toRoom {
			delivered <- writes.Load()
			return
		}
		writes.Add(1)
		for began := time.Now(); time.Since(began) < 5*time.Microsecond; {
		}
	})
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for data := jsonPayload(128); ; time.Sleep(time.Millisecond) {
			select {
			case <-done:
				return
			default:
				_ = h.PublishToChannelRaw("c", data)
			}
		}
	}()
	m := &websocket.Message{Data: jsonPayload(128)}
	time.Sleep(200 * time.Millisecond) // the channel is never done from here on
	b.ResetTimer()
	var sum, worst int64
	for range b.N {
		from := writes.Load()
		_ = h.PublishToRoom("r", m)
		<-delivered
		n := <-delivered - from
		sum, worst = sum+n, max(worst, n)
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	b.ReportMetric(float64(sum)/float64(b.N), "writes/room")
	b.ReportMetric(float64(worst), "max-writes/room")
	close(done)
	<-stopped
	h.settle()
}
