package client_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestMain fails on goroutines that tests leave behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && !quiet() {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

// quiet waits for goroutines that are on their way to their end.
func quiet() bool {
	deadline := time.After(5 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for runtime.NumGoroutine() > 1 {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

const patience = 10 * time.Second // for what happens at once unless it is broken

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// next receives what should come soon.
func next[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// server is a hub that can be restarted on the same address.
type server struct {
	t       *testing.T
	config  websocket.Config
	handler func(http.Handler) http.Handler
	onConn  func(*websocket.Client)
	onMsg   func(*websocket.Client, *websocket.Message)
	addr    string

	hub  *websocket.Hub
	ends sync.WaitGroup
}

func newServer(t *testing.T, configure func(*server)) *server {
	s := &server{t: t, config: websocket.DefaultConfig, addr: "127.0.0.1:0"}
	if configure != nil {
		configure(s)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *server) start() {
	l, err := net.Listen("tcp", s.addr)
	require.NoError(s.t, err)
	s.addr = l.Addr().String()
	s.serve(l)
}

func (s *server) serve(l net.Listener) {
	hub := websocket.NewHub(silent{}, s.config)
	hub.SetCallbacks(s.onConn, nil, s.onMsg)
	handler := hub.Handler()
	if s.handler != nil {
		handler = s.handler(handler)
	}
	s.hub = hub
	s.ends.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	s.ends.Go(func() { _ = hub.Serve(l, handler) })         // ends with stop
}

func (s *server) stop() {
	_ = s.hub.Shutdown(context.Background())
	s.ends.Wait()
}

func (s *server) url() string {
	if s.config.TLS != nil {
		return "wss://" + s.addr + "/ws"
	}
	return "ws://" + s.addr + "/ws"
}

// only returns the one client of the hub, once the ones before are gone.
func (s *server) only() *websocket.Client {
	for range 10_000 {
		if clients := slices.Collect(s.hub.Clients()); len(clients) == 1 {
			return clients[0]
		}
		<-time.After(time.Millisecond)
	}
	require.FailNow(s.t, "not one client")
	return nil
}

type silent struct{}

func (silent) Debugf(string, ...any)   {}
func (silent) Infof(string, ...any)    {}
func (silent) Warningf(string, ...any) {}
func (silent) Errorf(string, ...any)   {}

// told is what a client's callbacks were told.
type told struct {
	states   chan client.StateChange
	gaps     chan websocket.Gap
	errors   chan error
	messages chan *websocket.Message

	patience time.Duration
}

const buffered = 4096

func newTold() *told {
	return &told{
		states:   make(chan client.StateChange, buffered),
		gaps:     make(chan websocket.Gap, buffered),
		errors:   make(chan error, buffered),
		messages: make(chan *websocket.Message, buffered),
		patience: patience,
	}
}

// options tells the callbacks to tell td.
func (td *told) options(o client.Options) client.Options {
	o.OnState = func(s client.StateChange) { td.states <- s }
	o.OnGap = func(g websocket.Gap) { td.gaps <- g }
	o.OnError = func(err error) { td.errors <- err }
	o.OnMessage = func(m *websocket.Message) { td.messages <- m }
	if o.BackoffMin == 0 {
		o.BackoffMin = time.Millisecond
		o.BackoffMax = 50 * time.Millisecond
	}
	return o
}

// until waits for a state and returns its change.
func (td *told) until(t *testing.T, state client.State) client.StateChange {
	t.Helper()
	for {
		select {
		case s := <-td.states:
			if s.State == state {
				return s
			}
		case <-time.After(td.patience):
			require.FailNow(t, "never told", state)
		}
	}
}

func dial(t *testing.T, url string, o client.Options) (*client.Client, *told) {
	t.Helper()
	td := newTold()
	c, err := client.Dial(soon(t), url, td.options(o))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.Close()
		next(t, c.Done())
	})
	return c, td
}

// into returns a handler that sends what it gets.
func into() (chan *websocket.Message, client.Handler) {
	got := make(chan *websocket.Message, buffered)
	return got, func(m *websocket.Message) { got <- m }
}

var (
	aesKey  = bytes.Repeat([]byte{7}, 32)
	hmacKey = []byte("signing key of the tests")
)

// certificate makes a certificate for 127.0.0.1 and what trusts it.
var certificate = sync.OnceValues(func() (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "test"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
})

// TestEverything runs every method with every codec, security and transport.
func TestEverything(t *testing.T) {
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
					everything(t, s, o)
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

// echo sends the application's own messages back.
func echo(c *websocket.Client, m *websocket.Message) {
	if m.Type == "echo" {
		_ = c.Send(&websocket.Message{Type: "echoed", Channel: m.Channel, Data: m.Data, ID: m.ID})
	}
}

func everything(t *testing.T, s *server, o client.Options) {
	ctx := soon(t)
	a, toldA := dial(t, s.url(), o)
	b, toldB := dial(t, s.url(), o)
	require.Equal(t, client.Connected, a.State())

	news, onNews := into()
	room, onRoom := into()
	require.NoError(t, a.Subscribe(ctx, "news", onNews))
	require.NoError(t, a.JoinRoom(ctx, "lobby ü", onRoom))

	large := []byte(`"` + strings.Repeat("compressible ", 1000) + `"`)
	binary := []byte{0, 0xff, '"', 0x80}
	for _, data := range [][]byte{[]byte(`{"n":1}`), large, binary, nil} {
		require.NoError(t, b.Publish(ctx, "news", data))
		m := next(t, news)
		require.Equal(t, "message", m.Type)
		require.Equal(t, "news", m.Channel)
		require.Equal(t, data, m.Data)
		require.NotEmpty(t, m.ClientID)
		require.NotZero(t, m.Timestamp)

		require.NoError(t, b.PublishRoom(ctx, "lobby ü", data))
		m = next(t, room)
		require.Equal(t, "room_message", m.Type)
		require.Equal(t, "lobby ü", m.Channel)
		require.Equal(t, data, m.Data)
	}

	require.NoError(t, a.Publish(ctx, "news", []byte(`2`)), "publishers get their own")
	require.Equal(t, []byte(`2`), next(t, news).Data)

	require.NoError(t, b.Broadcast(ctx, []byte(`"all"`)))
	require.Equal(t, "broadcast", next(t, toldA.messages).Type)
	require.Equal(t, []byte(`"all"`), next(t, toldB.messages).Data)

	require.NoError(t, a.Send(ctx, &websocket.Message{Type: "echo", Channel: "x", Data: []byte(`3`), ID: "mine"}))
	m := next(t, toldA.messages)
	require.Equal(t, "echoed", m.Type)
	require.Equal(t, "mine", m.ID)

	var refusal *client.Error
	for name, err := range map[string]error{
		"subscribe": a.Subscribe(ctx, "forbidden", onNews),
		"publish":   a.Publish(ctx, "forbidden", nil),
		"join":      a.JoinRoom(ctx, "forbidden", onRoom),
		"room":      a.PublishRoom(ctx, "forbidden", nil),
	} {
		require.ErrorAs(t, err, &refusal, name)
		require.Equal(t, client.Error{Code: client.CodeForbidden, Message: "not for you", Target: "forbidden"}, *refusal, name)
	}
	require.ErrorAs(t, a.Publish(ctx, strings.Repeat("x", 300), nil), &refusal)
	require.Equal(t, client.CodeBadRequest, refusal.Code)
	require.ErrorIs(t, a.Publish(ctx, "", nil), websocket.ErrInvalidName)
	require.ErrorIs(t, a.JoinRoom(ctx, "\xff", nil), websocket.ErrInvalidName)
	require.ErrorIs(t, a.Publish(ctx, "news", make([]byte, 64<<10)), websocket.ErrMessageTooLarge)
	require.ErrorIs(t, a.Send(ctx, &websocket.Message{Type: "subscribe"}), client.ErrReserved)
	require.ErrorIs(t, a.Send(ctx, nil), websocket.ErrNilMessage)

	require.NoError(t, a.Send(ctx, &websocket.Message{Type: "publish", Channel: "forbidden"}))
	require.ErrorAs(t, next(t, toldA.errors), &refusal, "refusals that nobody waits for are reported")
	require.Equal(t, client.CodeForbidden, refusal.Code)

	require.NoError(t, a.Unsubscribe(ctx, "news"))
	require.NoError(t, a.LeaveRoom(ctx, "lobby ü"))
	require.NoError(t, b.Publish(ctx, "news", nil))
	require.NoError(t, b.PublishRoom(ctx, "lobby ü", nil))
	require.NoError(t, a.Unsubscribe(ctx, "never was in"))
	require.Empty(t, news)
	require.Empty(t, room)

	require.NoError(t, a.Close())
	require.ErrorIs(t, a.Err(), client.ErrClosed)
	require.ErrorIs(t, a.Publish(ctx, "news", nil), client.ErrClosed)
	require.Equal(t, client.StateChange{State: client.Closed}, toldA.until(t, client.Closed))
	next(t, a.Done())
	require.Empty(t, toldA.errors)
	require.Empty(t, toldA.gaps)
}

func TestClosingTellsTheHubAndSendsWhatWasQueued(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	received := make(chan struct{}, buffered)
	s := &server{t: t, config: websocket.DefaultConfig, addr: "127.0.0.1:0"}
	l, err := net.Listen("tcp", s.addr)
	require.NoError(t, err)
	hub := websocket.NewHub(silent{}, s.config)
	hub.SetCallbacks(nil,
		func(c *websocket.Client) { ended <- c.CloseError() },
		func(*websocket.Client, *websocket.Message) { received <- struct{}{} })
	s.hub, s.addr = hub, l.Addr().String()
	s.ends.Go(func() { _ = hub.Run(context.Background()) }) // ends with stop
	s.ends.Go(func() { _ = hub.Serve(l, nil) })             // ends with stop
	t.Cleanup(s.stop)

	c, _ := dial(t, s.url(), client.Options{})
	for range 100 {
		require.NoError(t, c.Send(soon(t), &websocket.Message{Type: "last words"}))
	}
	require.NoError(t, c.Close())
	var why *websocket.CloseError
	require.ErrorAs(t, next(t, ended), &why)
	require.Equal(t, websocket.CloseNormalClosure, why.Code)
	require.True(t, why.ByPeer)
	require.Len(t, received, 100)
}

func TestHandlersMayCallEverything(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c, _ := dial(t, s.url(), client.Options{})
	ctx := soon(t)
	results := make(chan error, buffered)
	second, onSecond := into()
	require.NoError(t, c.Subscribe(ctx, "first", func(*websocket.Message) {
		results <- c.Subscribe(ctx, "second", onSecond)
		results <- c.Publish(ctx, "second", []byte(`1`))
		results <- c.JoinRoom(ctx, "room", nil)
		results <- c.PublishRoom(ctx, "room", nil)
		results <- c.LeaveRoom(ctx, "room")
		results <- c.Unsubscribe(ctx, "first") // its own
		results <- c.Send(ctx, &websocket.Message{Type: "x"})
	}))
	require.NoError(t, c.Publish(ctx, "first", nil))
	for range 7 {
		require.NoError(t, next(t, results))
	}
	require.Equal(t, []byte(`1`), next(t, second).Data)

	require.NoError(t, c.Subscribe(ctx, "last", func(*websocket.Message) { results <- c.Close() }))
	require.NoError(t, c.Publish(ctx, "last", nil))
	require.NoError(t, next(t, results))
	next(t, c.Done())
}

func TestPanicsAreReportedAndTheClientGoesOn(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c, td := dial(t, s.url(), client.Options{})
	ctx := soon(t)
	got := make(chan struct{}, 1)
	calls := 0
	require.NoError(t, c.Subscribe(ctx, "ch", func(*websocket.Message) {
		switch calls++; calls {
		case 1:
			panic("first")
		case 2:
			runtime.Goexit()
		default:
			got <- struct{}{}
		}
	}))
	for range 3 {
		require.NoError(t, c.Publish(ctx, "ch", nil))
	}
	var panicked *client.PanicError
	require.ErrorAs(t, next(t, td.errors), &panicked)
	require.Equal(t, "first", panicked.Value)
	require.Contains(t, string(panicked.Stack), "TestPanicsAreReported")
	require.ErrorAs(t, next(t, td.errors), &panicked)
	require.Nil(t, panicked.Value)
	next(t, got)
}

func TestSlowHandlersMissMessagesAndAreToldSo(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := soon(t)
	const limit = 10_000
	c, td := dial(t, s.url(), client.Options{InboundLimit: limit})
	other, _ := dial(t, s.url(), client.Options{})

	release := make(chan struct{})
	entered := make(chan struct{}, buffered)
	var seen []string // both told on the one goroutine
	done := make(chan struct{})
	require.NoError(t, c.Subscribe(ctx, "slow", func(m *websocket.Message) {
		seen = append(seen, string(m.Data))
		entered <- struct{}{}
		if string(m.Data) == `"end"` {
			close(done)
			return
		}
		<-release
	}))
	const sent = 1000
	for i := range sent {
		require.NoError(t, other.Publish(ctx, "slow", fmt.Append(nil, i)))
	}
	next(t, entered)
	require.NoError(t, c.Publish(ctx, "slow", []byte(`"mine"`)), "answers do not wait for handlers")
	close(release)
	var gap websocket.Gap
	for gap = next(t, td.gaps); ; { // the handlers have caught up when the end gets through
		require.NoError(t, c.Publish(ctx, "slow", []byte(`"end"`)))
		select {
		case <-done:
		case more := <-td.gaps:
			gap.Count += more.Count
			continue
		case <-time.After(patience):
			require.FailNow(t, "handlers do not catch up")
		}
		break
	}
	require.Equal(t, "slow", gap.Channel)
	require.Equal(t, client.ReasonSlowHandler, gap.Reason)
	require.NotZero(t, gap.First)
	require.LessOrEqual(t, gap.First, gap.Last)
	require.Less(t, len(seen), limit/100, "what waited was bounded")
	require.Equal(t, client.Connected, c.State())
	missedOrSeen := int(gap.Count) + len(seen)
	require.GreaterOrEqual(t, missedOrSeen, sent+2)
	for i, data := range seen[:10] {
		require.Equal(t, fmt.Sprint(i), data, "in order")
	}
}

func TestGapsOfSlowHandlersGoToOnErrorWithoutOnGap(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := soon(t)
	errs := make(chan error, buffered)
	c, err := client.Dial(ctx, s.url(), client.Options{InboundLimit: 1, OnError: func(err error) { errs <- err }})
	require.NoError(t, err)
	defer func() { _ = c.Close(); next(t, c.Done()) }()
	require.NoError(t, c.Subscribe(ctx, "ch", func(*websocket.Message) {}))
	require.NoError(t, c.Publish(ctx, "ch", nil))
	require.ErrorIs(t, next(t, errs), client.ErrMissed)
	require.NoError(t, s.only().Send(&websocket.Message{Type: "gap", Data: []byte(`{"all":true,"count":7}`)}))
	err = next(t, errs)
	require.ErrorIs(t, err, client.ErrMissed)
	require.ErrorContains(t, err, "7 of any channel or room")
}

// TestGapsOfPlacesNotTheClientsOwn has a full inbox miss what the hub put the
// client in: gaps do not name it, and so may be of any place.
func TestGapsOfPlacesNotTheClientsOwn(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.onConn = func(c *websocket.Client) { _ = c.Subscribe("given") }
	})
	_, td := dial(t, s.url(), client.Options{InboundLimit: 1})
	require.NoError(t, s.hub.PublishToChannel("given", &websocket.Message{Timestamp: 5}))
	require.Equal(t, websocket.Gap{All: true, Count: 1, First: 5, Last: 5, Reason: client.ReasonSlowHandler}, next(t, td.gaps))
	require.NoError(t, s.only().Send(&websocket.Message{Type: "direct", Timestamp: 6}))
	require.Equal(t, websocket.Gap{Count: 1, First: 6, Last: 6, Reason: client.ReasonSlowHandler}, next(t, td.gaps))
}

func TestHubsOwnSubscriptionsAndDirectMessages(t *testing.T) {
	t.Parallel()
	s := newServer(t, func(s *server) {
		s.onConn = func(c *websocket.Client) {
			_ = c.Subscribe("given")
			_ = c.JoinRoom("given")
		}
	})
	c, td := dial(t, s.url(), client.Options{})
	require.NoError(t, s.hub.PublishToChannel("given", &websocket.Message{Data: []byte(`1`)}))
	require.Equal(t, "message", next(t, td.messages).Type)
	require.NoError(t, s.hub.PublishToRoom("given", &websocket.Message{Data: []byte(`1`)}))
	require.Equal(t, "room_message", next(t, td.messages).Type)
	require.NoError(t, s.only().Send(&websocket.Message{Type: "direct"}))
	require.Equal(t, "direct", next(t, td.messages).Type)

	own, onOwn := into()
	require.NoError(t, c.JoinRoom(soon(t), "r", onOwn))
	require.NoError(t, s.hub.PublishToRoom("r", &websocket.Message{Type: "move"}))
	require.Equal(t, "move", next(t, own).Type, "a type of the publisher's own finds the room")
	require.NoError(t, c.Subscribe(soon(t), "nobody handles", nil))
	require.NoError(t, s.hub.PublishToChannel("nobody handles", &websocket.Message{}))
	require.Equal(t, "nobody handles", next(t, td.messages).Channel)
}

func TestSubscribingAgainReplacesTheHandler(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	c, _ := dial(t, s.url(), client.Options{})
	first, onFirst := into()
	second, onSecond := into()
	require.NoError(t, c.Subscribe(soon(t), "ch", onFirst))
	require.NoError(t, c.Subscribe(soon(t), "ch", onSecond))
	require.NoError(t, c.Publish(soon(t), "ch", nil))
	next(t, second)
	require.Empty(t, first)
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		url  string
		o    client.Options
		want string
	}{
		{"codec", "", client.Options{Codec: "xml"}, "Codec"},
		{"negative", "", client.Options{ReadTimeout: -1}, "ReadTimeout"},
		{"backoff", "", client.Options{BackoffMin: 2, BackoffMax: 1}, "BackoffMin"},
		{"ping", "", client.Options{PingPeriod: time.Hour}, "PingPeriod"},
		{"sizes", "", client.Options{MaxSendSize: 2, OutboundLimit: 1}, "MaxSendSize"},
		{"header", "", client.Options{Header: http.Header{"sec-websocket-protocol": {"x"}}}, "Header"},
		{"keys", "", client.Options{Security: &websocket.SecurityConfig{AESKey: []byte("short")}}, "AESKey"},
		{"no keys", "", client.Options{Security: &websocket.SecurityConfig{}}, "Security"},
		{"scheme", "http://x", client.Options{}, "scheme"},
		{"host", "ws:///x", client.Options{}, "host"},
		{"user", "ws://a:b@x", client.Options{}, "user"},
		{"url", "ws://%zz", client.Options{}, "URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.url == "" {
				tt.url = "ws://127.0.0.1:1"
			}
			_, err := client.Dial(soon(t), tt.url, tt.o)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestReconnectable(t *testing.T) {
	t.Parallel()
	yes := map[int]bool{1001: true, 1005: true, 1006: true, 1011: true, 1012: true, 1013: true, 3008: true}
	for code := 999; code <= 5000; code++ {
		require.Equal(t, yes[code], client.Reconnectable(code), code)
	}
}
