package client_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestAllMethods runs every method with every codec, security and transport.
func TestAllMethods(t *testing.T) {
	t.Parallel()
	securities := map[string]*websocket.SecurityConfig{
		"plain":             nil,
		"encrypted":         {AESKey: aesKey},
		"signed":            {HMACKey: hmacKey},
		"sign-then-encrypt": websocket.NewSecurityConfig(aesKey, hmacKey),
		"encrypt-then-sign": {AESKey: aesKey, HMACKey: hmacKey},
	}
	for _, transport := range []string{"tcp", "tls"} {
		for name, security := range securities {
			for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
				t.Run(fmt.Sprintf("transport=%s/security=%s/codec=%s", transport, name, codec), func(t *testing.T) {
					t.Parallel()
					o := client.Options{Codec: codec, Security: security, EnableCompression: true}
					s := newServer(t, func(s *server) {
						s.config.Security = security
						s.config.Authorize = forbidden
						s.onMsg = echo
						if transport == "tls" {
							cert, pool := certificate()
							s.config.TLS = &websocket.TLSConfig{TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}}
							o.TLS = &tls.Config{RootCAs: pool}
						}
					})
					callAllMethods(t, s, o)
				})
			}
		}
	}
}

func forbidden(_ *websocket.Client, r websocket.AuthorizeRequest) error {
	if r.Target == "forbidden" {
		return &websocket.RequestError{Message: "not for you"}
	}
	return nil
}

// echo sends messages of type echo back to their sender.
func echo(c *websocket.Client, m *websocket.Message) {
	if m.Type == "echo" {
		_ = c.Send(&websocket.Message{Type: "echoed", Channel: m.Channel, Data: m.Data, ID: m.ID})
	}
}

func callAllMethods(t *testing.T, s *server, o client.Options) {
	ctx := testContext(t)
	a, recA := dial(t, s.url(), o)
	b, recB := dial(t, s.url(), o)
	require.Equal(t, client.Connected, a.State())

	news, onNews := newHandler()
	room, onRoom := newHandler()
	require.NoError(t, errOf(a.Subscribe(ctx, "news", onNews)))
	require.NoError(t, errOf(a.JoinRoom(ctx, "lobby ü", onRoom)))

	large := []byte(`"` + strings.Repeat("compressible ", 1000) + `"`)
	binary := []byte{0, 0xff, '"', 0x80}
	for _, data := range [][]byte{[]byte(`{"n":1}`), large, binary, nil} {
		require.NoError(t, b.Publish(ctx, "news", data))
		m := receive(t, news)
		require.Equal(t, "message", m.Type)
		require.Equal(t, "news", m.Channel)
		require.Equal(t, data, m.Data)
		require.NotEmpty(t, m.ClientID)
		require.NotZero(t, m.Timestamp)

		require.NoError(t, b.PublishRoom(ctx, "lobby ü", data))
		m = receive(t, room)
		require.Equal(t, "room_message", m.Type)
		require.Equal(t, "lobby ü", m.Channel)
		require.Equal(t, data, m.Data)
	}

	require.NoError(t, a.Publish(ctx, "news", []byte(`2`)), "publishers that subscribe get their own messages")
	require.Equal(t, []byte(`2`), receive(t, news).Data)

	require.NoError(t, b.Broadcast(ctx, []byte(`"all"`)))
	require.Equal(t, "broadcast", receive(t, recA.messages).Type)
	require.Equal(t, []byte(`"all"`), receive(t, recB.messages).Data)

	require.NoError(t, a.Send(ctx, &websocket.Message{Type: "echo", Channel: "x", Data: []byte(`3`), ID: "mine"}))
	m := receive(t, recA.messages)
	require.Equal(t, "echoed", m.Type)
	require.Equal(t, "mine", m.ID)

	var refusal *client.Error
	for name, err := range map[string]error{
		"subscribe": errOf(a.Subscribe(ctx, "forbidden", onNews)),
		"publish":   a.Publish(ctx, "forbidden", nil),
		"join":      errOf(a.JoinRoom(ctx, "forbidden", onRoom)),
		"room":      a.PublishRoom(ctx, "forbidden", nil),
	} {
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, client.Error{Code: client.CodeForbidden, Message: "not for you", Target: "forbidden"}, *refusal, name)
	}
	require.ErrorAs(t, a.Publish(ctx, strings.Repeat("x", 300), nil), &refusal)
	require.Equal(t, client.CodeBadRequest, refusal.Code)
	require.ErrorIs(t, a.Publish(ctx, "", nil), websocket.ErrInvalidName)
	require.ErrorIs(t, errOf(a.JoinRoom(ctx, "\xff", nil)), websocket.ErrInvalidName)
	require.ErrorIs(t, a.Publish(ctx, "news", make([]byte, 512<<10)), websocket.ErrMessageTooLarge)
	require.ErrorIs(t, a.Send(ctx, &websocket.Message{Type: "subscribe"}), client.ErrReserved)
	require.ErrorIs(t, a.Send(ctx, nil), websocket.ErrNilMessage)

	require.NoError(t, a.Send(ctx, &websocket.Message{Type: "publish", Channel: "forbidden"}))
	require.ErrorAs(t, receive(t, recA.errors), &refusal, "OnError reports refusals of messages sent with Send")
	require.Equal(t, client.CodeForbidden, refusal.Code)

	require.NoError(t, a.Unsubscribe(ctx, "news"))
	require.NoError(t, a.LeaveRoom(ctx, "lobby ü"))
	require.NoError(t, b.Publish(ctx, "news", nil))
	require.NoError(t, b.PublishRoom(ctx, "lobby ü", nil))
	require.NoError(t, a.Unsubscribe(ctx, "never joined"))
	require.Empty(t, news)
	require.Empty(t, room)

	require.NoError(t, a.Close())
	require.ErrorIs(t, a.Err(), client.ErrClosed)
	require.ErrorIs(t, a.Publish(ctx, "news", nil), client.ErrClosed)
	require.Equal(t, client.StateChange{State: client.Closed}, recA.waitState(t, client.Closed))
	receive(t, a.Done())
	require.Empty(t, recA.errors)
	require.Empty(t, recA.gaps)
}

func TestCloseSendsQueuedMessagesAndCloseFrame(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	received := make(chan struct{}, bufferSize)
	s := &server{t: t, config: websocket.DefaultConfig, addr: "127.0.0.1:0"}
	l, err := net.Listen("tcp", s.addr)
	require.NoError(t, err)
	hub := websocket.NewHub(noLogger{}, s.config)
	hub.SetCallbacks(nil,
		func(c *websocket.Client) { ended <- c.CloseError() },
		func(*websocket.Client, *websocket.Message) { received <- struct{}{} })
	s.hub, s.addr = hub, l.Addr().String()
	s.goroutines.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	s.goroutines.Go(func() { _ = hub.Serve(l, hub.Handler()) })   // ends with stop
	t.Cleanup(s.stop)

	c, _ := dial(t, s.url(), client.Options{})
	for range 100 {
		require.NoError(t, c.Send(testContext(t), &websocket.Message{Type: "queued"}))
	}
	require.NoError(t, c.Close())
	why := closeErrorOf(t, receive(t, ended))
	require.Equal(t, websocket.CloseNormalClosure, why.Code)
	require.True(t, why.ByPeer)
	require.Len(t, received, 100)
}

func TestHandlersMayCallAllMethods(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c, _ := dial(t, s.url(), client.Options{})
	ctx := testContext(t)
	results := make(chan error, bufferSize)
	second, onSecond := newHandler()
	require.NoError(t, errOf(c.Subscribe(ctx, "first", func(*websocket.Message) {
		results <- errOf(c.Subscribe(ctx, "second", onSecond))
		results <- c.Publish(ctx, "second", []byte(`1`))
		results <- errOf(c.JoinRoom(ctx, "room", nil))
		results <- c.PublishRoom(ctx, "room", nil)
		results <- c.LeaveRoom(ctx, "room")
		results <- c.Unsubscribe(ctx, "first") // a handler may end its own subscription
		results <- c.Send(ctx, &websocket.Message{Type: "x"})
	})))
	require.NoError(t, c.Publish(ctx, "first", nil))
	for range 7 {
		require.NoError(t, receive(t, results))
	}
	require.Equal(t, []byte(`1`), receive(t, second).Data)

	require.NoError(t, errOf(c.Subscribe(ctx, "last", func(*websocket.Message) { results <- c.Close() })))
	require.NoError(t, c.Publish(ctx, "last", nil))
	require.NoError(t, receive(t, results))
	receive(t, c.Done())
}

// TestCloseDuringCalls calls Close while calls, handlers and reconnects are running.
// All of them must end.
func TestCloseDuringCalls(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	for i := range 20 {
		c, _ := dial(t, s.url(), client.Options{})
		ctx, cancel := context.WithCancel(testContext(t))
		var calls sync.WaitGroup
		for n := range 4 {
			calls.Go(func() { // ends when the client is closed
				channel := fmt.Sprint(n % 2)
				for c.Err() == nil {
					_, _ = c.Subscribe(ctx, channel, func(*websocket.Message) { _ = c.Publish(ctx, "x", nil) })
					_ = c.Publish(ctx, channel, []byte(`1`))
					_ = c.Send(ctx, &websocket.Message{Type: "t"})
					_ = c.Unsubscribe(ctx, channel)
				}
			})
		}
		if i%2 == 0 {
			for client := range s.hub.Clients() {
				_ = client.Close(websocket.CloseServiceRestart, "")
			}
		}
		_ = c.Publish(ctx, "y", nil)
		var closers sync.WaitGroup
		for range 2 {
			closers.Go(func() { _ = c.Close() }) // ends with the client
		}
		closers.Wait()
		calls.Wait()
		cancel()
		receive(t, c.Done())
	}
}

func TestDialStopsWithItsContext(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections and never responds
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	go func() { // ends with ctx
		_, err := client.Dial(ctx, "ws://"+l.Addr().String(), client.Options{RetryDial: true})
		result <- err
	}()
	conn, err := l.Accept()
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	cancel()
	require.ErrorIs(t, receive(t, result), context.Canceled)
	_, err = client.Dial(ctx, "ws://"+l.Addr().String(), client.Options{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	withSilentHub(t, client.Options{CloseTimeout: 3 * time.Second}, func(t *testing.T, c *client.Client, rec *recorder) {
		require.NoError(t, c.Send(t.Context(), &websocket.Message{Type: "stuck"}))
		began := time.Now()
		require.ErrorContains(t, c.Close(), "not closed cleanly")
		require.Equal(t, 3*time.Second, time.Since(began))
		require.Error(t, c.Close(), "the same again")
	})
}
