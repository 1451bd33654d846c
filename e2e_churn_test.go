package websocket_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// TestChurn connects and disconnects clients as fast as possible. Meanwhile it
// publishes, broadcasts, and sends to clients that may have disconnected. It is not
// parallel because it counts goroutines.
func TestChurn(t *testing.T) {
	const (
		cycles  = 3000
		workers = 8
	)
	before := len(otherGoroutines())
	lives := newLives()
	config := websocket.DefaultConfig
	config.ReadBufferSize = 256
	b := setup(t, config, options{
		onConnect:    lives.connect,
		onDisconnect: lives.disconnect,
		onMessage:    lives.message,
	})

	stop := make(chan struct{}) // closed when all clients have ended
	var publishers sync.WaitGroup
	var published atomic.Int64
	publish := func(f func(i int) error) {
		publishers.Go(func() { // ends with stop
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(i); err != nil && !errors.Is(err, websocket.ErrClientNotFound) && !errors.Is(err, websocket.ErrClientClosed) {
					t.Errorf("publishing: %v", err)
					return
				}
				published.Add(1)
				if i%8 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	pause := time.NewTicker(time.Millisecond / 2) // leaves processor time for the clients
	defer pause.Stop()
	data := []byte(`{"headline":"Breaking News!"}`)
	publish(func(i int) error {
		<-pause.C
		switch i % 4 {
		case 0:
			return b.hub.PublishToChannelRaw("news", data)
		case 1:
			return b.hub.Broadcast(data)
		case 2:
			return b.hub.PublishToRoom(fmt.Sprint("room_", i%10), &websocket.Message{Data: data})
		default:
			b.hub.Stats()
			return b.hub.SendToClient(lives.randomID(), &websocket.Message{Data: data})
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	publish(func(i int) error { // uses clients after their connection has ended
		<-tick.C
		c := lives.random()
		if c == nil {
			return nil
		}
		switch i % 4 {
		case 0:
			return c.Send(&websocket.Message{Data: data})
		case 1:
			return c.Subscribe("late")
		case 2:
			return c.JoinRoom("late")
		default:
			return c.Unsubscribe("news")
		}
	})

	var remaining atomic.Int64
	remaining.Store(cycles)
	var failed atomic.Value
	var clients sync.WaitGroup
	for w := range workers {
		clients.Go(func() { // ends when no cycles remain
			for remaining.Add(-1) >= 0 {
				if err := connectOnce(b.url, w); err != nil {
					failed.Store(err)
					return
				}
			}
		})
	}
	clients.Wait()
	close(stop)
	publishers.Wait()
	if err := failed.Load(); err != nil {
		require.NoError(t, err.(error))
	}

	for range cycles {
		b.disconnected.take(t)
	}
	lives.requireComplete(t, cycles)
	require.Positive(t, published.Load())
	st := b.hub.Stats()
	require.EqualValues(t, cycles, st.TotalConnections)
	require.Zero(t, st.ActiveConnections)
	require.Zero(t, st.TotalChannels)
	require.Zero(t, st.TotalRooms)
	require.Empty(t, channelsOf(b.hub))
	require.Empty(t, roomsOf(b.hub))
	for range b.hub.Clients() {
		require.Fail(t, "a client is still registered")
	}
	for _, c := range lives.all() {
		require.ErrorIs(t, c.Subscribe("news"), websocket.ErrClientClosed)
		require.Error(t, c.CloseError())
	}
	// Only the goroutines of the hub and of the server may remain.
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	own := runtime.GOMAXPROCS(0) + 5
	for deadline := time.Now().Add(patience); len(otherGoroutines()) > before+own; <-poll.C {
		require.True(t, time.Now().Before(deadline), "%d goroutines remain", len(otherGoroutines())-before)
	}
}

// connectOnce connects a client, sends some messages and disconnects in one of
// several ways.
func connectOnce(url string, worker int) error {
	// The way to end the connection: abort after the handshake (0), reset (1) or
	// abort (2) without reading replies, close before reading them (3), close (4)
	// or abort (5) after the last reply.
	how := rand.IntN(6)
	codec := subprotocols[rand.IntN(len(subprotocols))]
	dialer := gorilla.Dialer{Subprotocols: []string{codec}, HandshakeTimeout: patience, EnableCompression: how%2 == 0}
	ws, _, err := dialer.Dial(url, nil)
	if err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	defer func() { _ = ws.Close() }()
	if how == 0 {
		return nil
	}
	c := wireCodecs[codec]
	opcode := gorilla.TextMessage
	if c.binary {
		opcode = gorilla.BinaryMessage
	}
	for _, m := range []wire{
		{Type: "subscribe", Data: c.channel("news")},
		{Type: "subscribe", Data: c.channel(fmt.Sprint("of worker ", worker))},
		{Type: "join_room", Data: c.room(fmt.Sprint("room_", worker))},
		{Type: "publish", Channel: "news", Data: []byte(`"hello"`)},
		{Type: "broadcast", ID: "last"},
	} {
		b, err := c.encode(m)
		if err != nil {
			return err
		}
		if err := ws.WriteMessage(opcode, b); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if how == 1 {
		if tcp, ok := ws.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // Close then resets the connection
		}
		return nil
	}
	if how == 2 {
		return nil
	}
	if err := ws.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sendClose := func() error {
		return ws.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, ""), time.Now().Add(patience))
	}
	if how == 3 {
		if err := sendClose(); err != nil {
			return fmt.Errorf("send Close frame: %w", err)
		}
	}
	for {
		_, b, err := ws.ReadMessage()
		if err != nil {
			if how == 3 && gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
				return nil
			}
			return fmt.Errorf("read: %w", err)
		}
		m, err := c.decode(b)
		if err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		if m.Type == "ack" && m.ID == "last" && how != 3 {
			if how == 4 {
				return sendClose() // without waiting for the answer
			}
			return nil
		}
	}
}

// lives records the callbacks of each client and checks their order.
type callbackLog struct {
	mu      sync.Mutex
	clients map[*websocket.Client]*callbackCounts
	order   []*websocket.Client // by onConnect
	faults  []string
}

type callbackCounts struct{ connects, messages, disconnects int }

func newLives() *callbackLog { return &callbackLog{clients: map[*websocket.Client]*callbackCounts{}} }

func (l *callbackLog) connect(c *websocket.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients[c] != nil {
		l.faults = append(l.faults, "onConnect ran twice, or a Client was reused")
		return
	}
	l.clients[c] = &callbackCounts{connects: 1}
	l.order = append(l.order, c)
}

func (l *callbackLog) message(c *websocket.Client, m *websocket.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch s := l.clients[c]; {
	case s == nil:
		l.faults = append(l.faults, "onMessage ran before onConnect")
	case s.disconnects > 0:
		l.faults = append(l.faults, "onMessage ran after onDisconnect")
	case m.ClientID != c.ID:
		l.faults = append(l.faults, "onMessage got another client's message")
	default:
		s.messages++
	}
}

func (l *callbackLog) disconnect(c *websocket.Client) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.clients[c]; s != nil {
		s.disconnects++
	} else {
		l.faults = append(l.faults, "onDisconnect ran before onConnect")
	}
}

// random returns a client that has connected, or nil if there is none.
func (l *callbackLog) random() *websocket.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.order) == 0 {
		return nil
	}
	// Usually a recent client, which is about to disconnect.
	if recent := len(l.order) - 16; recent > 0 && rand.IntN(4) > 0 {
		return l.order[recent+rand.IntN(16)]
	}
	return l.order[rand.IntN(len(l.order))]
}

func (l *callbackLog) randomID() string {
	if c := l.random(); c != nil {
		return c.ID
	}
	return "unknown"
}

func (l *callbackLog) all() []*websocket.Client {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order
}

// requireComplete checks that the callbacks of n clients ran once and in order.
func (l *callbackLog) requireComplete(t *testing.T, n int) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	require.Empty(t, l.faults)
	require.Len(t, l.clients, n)
	for _, s := range l.clients {
		require.Equal(t, 1, s.connects)
		require.Equal(t, 1, s.disconnects)
	}
}
