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
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// benchHub is a running hub whose connections discard all writes, so that a benchmark
// measures the library without the kernel.
type benchHub struct {
	*websocket.Hub
	b testing.TB
}

func newBenchHub(b testing.TB, config websocket.Config, onConnect func(*websocket.Client)) *benchHub {
	h := &benchHub{websocket.NewHub(quietLogger{}, config), b}
	h.SetCallbacks(onConnect, nil, nil)
	ran := make(chan error, 1)
	go func() { ran <- h.Run(context.Background()) }() // ends with Shutdown
	<-h.Started()
	b.Cleanup(func() {
		require.NoError(b, h.Shutdown(context.Background()))
		require.NoError(b, <-ran)
	})
	return h
}

// discardWriter is a ResponseWriter whose Hijack returns nc.
type discardWriter struct {
	http.ResponseWriter
	nc net.Conn
}

func (w discardWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.nc, bufio.NewReadWriter(bufio.NewReaderSize(w.nc, 16), bufio.NewWriterSize(w.nc, 16)), nil
}

// connect adds a client that speaks the codec.
func (h *benchHub) connect(codec string) { h.connectOn(codec, testnet.NewDiscardConn()) }

func (h *benchHub) connectOn(codec string, nc net.Conn) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}, "Sec-Websocket-Protocol": {codec},
	}
	h.Handler().ServeHTTP(discardWriter{httptest.NewRecorder(), nc}, r)
}

// waitUntilSent waits until every message is written. It assumes that none is dropped.
func (h *benchHub) waitUntilSent() {
	for h.Unsent() != 0 {
		time.Sleep(100 * time.Microsecond)
	}
}

var codecNames = []string{"json", "protobuf", "flatbuffers", "msgpack"}

// delivery is one set of parameters of BenchmarkDelivery.
type delivery struct {
	members    int // of each channel
	clients    int // all subscribed to equally many channels
	publishers int
	payload    int // bytes
	codecs     int
}

// BenchmarkDelivery varies one parameter at a time. ns/delivery is the time for one
// message and member. It includes the publishers' time.
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
		// Number the memberships of all channels in sequence. Client nth gets every
		// d.clients-th of them.
		for i := nth; i < channels*d.members; i += d.clients {
			_ = c.Subscribe(names[i/d.members])
		}
	})
	for nth = range d.clients {
		h.connect(codecNames[nth%d.codecs])
	}
	data := jsonPayload(d.payload)
	_ = h.PublishToChannelRaw(names[0], data)
	h.waitUntilSent() // all subscriptions are processed
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
	h.waitUntilSent()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*d.members), "ns/delivery")
}

// BenchmarkRooms publishes to 1,000 rooms of two clients.
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
			h.waitUntilSent()
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2), "ns/delivery")
		})
	}
}

func jsonPayload(n int) []byte {
	return append(append([]byte(`"`), bytes.Repeat([]byte("x"), n-2)...), '"')
}

// BenchmarkConnect measures the handshake, one subscription and the end of a
// connection.
func BenchmarkConnect(b *testing.B) {
	h := newBenchHub(b, websocket.DefaultConfig, func(c *websocket.Client) { _ = c.Subscribe("c") })
	b.ReportAllocs()
	for b.Loop() {
		nc := testnet.NewDiscardConn()
		h.connectOn("json", nc)
		_ = nc.Close()
	}
}

// BenchmarkEcho measures one client's message that is published to the client's room
// of two, by onMessage or as a control message.
func BenchmarkEcho(b *testing.B) {
	for _, by := range []string{"onMessage", "control"} {
		b.Run("by="+by, func(b *testing.B) {
			config := websocket.DefaultConfig
			config.MessageRate, config.ByteRate = -1, -1
			h := &benchHub{websocket.NewHub(quietLogger{}, config), b}
			var onMessage func(*websocket.Client, *websocket.Message)
			kind := `publish_room","channel":"r`
			if by == "onMessage" {
				kind = "move"
				onMessage = func(_ *websocket.Client, m *websocket.Message) { _ = h.PublishToRoom("r", m) }
			}
			h.SetCallbacks(func(c *websocket.Client) { _ = c.JoinRoom("r") }, nil, onMessage)
			ran := make(chan error, 1)
			go func() { ran <- h.Run(context.Background()) }() // ends with Shutdown
			h.connect("json")
			frame := maskedText(`{"type":"` + kind + `","data":` + string(jsonPayload(128)) + `}`)
			nc := testnet.NewFeedConn(frame)
			nc.Feed(b.N)
			b.ReportAllocs()
			b.ResetTimer()
			h.connectOn("json", nc)
			<-nc.Fed
			h.waitUntilSent()
			b.StopTimer()
			require.NoError(b, h.Shutdown(context.Background()))
			require.NoError(b, <-ran)
		})
	}
}

// maskedText returns a client's text frame with a zero masking key. s must have 126
// to 65,535 bytes.
func maskedText(s string) []byte {
	return append([]byte{0x81, 0x80 | 126, byte(len(s) >> 8), byte(len(s)), 0, 0, 0, 0}, s...)
}

// BenchmarkPublishCall measures the publishing call alone. The hub delivers outside of
// the measured time.
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
					h.waitUntilSent()
					b.StartTimer()
				}
				_ = h.PublishToChannelRaw("c", data)
			}
		})
	}
}

// BenchmarkFairness counts the writes to a busy channel of 10,000 members between a
// publication to a room of two and its delivery. Each write takes 5 µs, like a write to
// a socket.
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
	done, stopped := make(chan struct{}), make(chan struct{}) // closed below, and by the goroutine
	go func() {                                               // ends with done
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
	time.Sleep(200 * time.Millisecond) // from here on the channel is always busy
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
	h.waitUntilSent()
}
