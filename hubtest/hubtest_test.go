package hubtest_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
)

// probe is a test that may fail.
type probe struct {
	mu       sync.Mutex
	failures []string
	logs     []string
	cleanups []func()
}

// errFatal is the value with which Fatalf panics.
var errFatal = errors.New("fatal")

func (p *probe) Helper()          {}
func (p *probe) Cleanup(f func()) { p.cleanups = append(p.cleanups, f) }

func (p *probe) Logf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.logs = append(p.logs, fmt.Sprintf(format, args...))
}

func (p *probe) Errorf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failures = append(p.failures, fmt.Sprintf(format, args...))
}

func (p *probe) Fatalf(format string, args ...any) {
	p.Errorf(format, args...)
	panic(errFatal)
}

// failures runs f like a test, with its cleanup, and returns the texts of its failures.
func failures(f func(t hubtest.TB)) string {
	p := &probe{}
	stop := func(f func()) {
		defer func() {
			r := recover()
			if err, _ := r.(error); r != nil && !errors.Is(err, errFatal) {
				panic(r)
			}
		}()
		f()
	}
	stop(func() { f(p) })
	for _, f := range slices.Backward(p.cleanups) {
		stop(f)
	}
	return strings.Join(p.failures, "\n")
}

// inBubble runs f in a bubble.
func inBubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

func data(s string) websocket.Message { return websocket.Message{Data: []byte(s)} }

var codecs = []websocket.Codec{nil, websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}}

// keepAll is a config whose channels and rooms have a history.
func keepAll() websocket.Config {
	config := websocket.DefaultConfig
	config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
		return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 100}}
	}
	return config
}

// exchange sends messages between peers of all codecs.
func exchange(t hubtest.TB, h *hubtest.Hub, o hubtest.Options) {
	t.Helper()
	var peers []*hubtest.Peer
	for i, codec := range codecs {
		o.Codec, o.ID = codec, fmt.Sprint("peer-", i)
		p := h.Connect(o)
		p.Subscribe("news")
		p.JoinRoom("lobby")
		peers = append(peers, p)
	}
	for i, p := range peers {
		p.Publish("news", fmt.Sprint(i))
		p.PublishRoom("lobby", fmt.Sprint(10+i))
		_, err := p.Do(websocket.Message{Type: "subscribe", Channel: ""})
		var refusal *client.Error
		if !errors.As(err, &refusal) || refusal.Code != client.CodeBadRequest {
			t.Errorf("Do returned %v", err)
		}
	}
	for i, p := range peers {
		for j := range peers {
			from := fmt.Sprint("peer-", j)
			p.Expect(
				websocket.Message{Type: "message", Channel: "news", Data: fmt.Append(nil, j), ClientID: from},
				websocket.Message{Type: "room_message", Channel: "lobby", Data: fmt.Append(nil, 10+j), ClientID: from},
			)
		}
		p.ExpectNothing()
		p.Close(1000, "")
		if got := fmt.Sprint("peer-", i); p.Server().ID != got {
			t.Errorf("ID %q, want %q", p.Server().ID, got)
		}
	}
}

func TestPeersOfAllCodecs(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for _, o := range []hubtest.Options{{}, {EnableCompression: true}, {Window: 100}} {
			exchange(t, hubtest.Start(t, websocket.DefaultConfig), o)
		}
		config := websocket.DefaultConfig
		config.Security = websocket.NewSecurityConfig(make([]byte, 32), []byte("secret"))
		h := hubtest.Start(t, config)
		exchange(t, h, hubtest.Options{})
		require.NoError(t, h.Dial(client.Options{}).Publish(t.Context(), "news", nil))
	})
}

// The package works without a bubble too.
func TestInRealTime(t *testing.T) {
	t.Parallel()
	hubtest.NoLeak(t)
	h := hubtest.Start(t, websocket.DefaultConfig)
	exchange(t, h, hubtest.Options{})
	c := h.Dial(client.Options{})
	_, err := c.Subscribe(t.Context(), "news", nil)
	require.NoError(t, err)
	require.NoError(t, h.PublishToChannelRaw("news", []byte("1")))
	c.Expect(websocket.Message{Channel: "news", Data: []byte("1")})
}

// The hub's keys may differ for a client.
func TestOwnKeys(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		keys := websocket.NewSecurityConfig([]byte(strings.Repeat("k", 32)), []byte("own"))
		config := websocket.DefaultConfig
		config.OnConnect = func(c *websocket.Client) {
			_ = c.SetEncryptionKey(keys.AESKey)
			_ = c.SetHMACKey(keys.HMACKey)
		}
		h := hubtest.Start(t, config)
		h.Connect(hubtest.Options{Security: keys}).Sync()
		h.Dial(client.Options{Security: keys})
		p := h.Connect(hubtest.Options{})
		p.Send(websocket.Message{Type: "hub:ping"})
		require.NotEmpty(t, p.ExpectClosed(websocket.CloseUnsupportedData))
	})
}

// The application makes and runs its hub, behind middleware.
func TestServe(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		hub := websocket.NewHub(websocket.SlogLogger(slog.New(slog.DiscardHandler)), websocket.DefaultConfig)
		ran := make(chan error, 1)
		go func() { ran <- hub.Run(t.Context()) }()
		mux := http.NewServeMux()
		mux.Handle("GET /ws", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("token") != "t" {
				http.Error(w, "who are you?", http.StatusUnauthorized)
				return
			}
			hub.Handler().ServeHTTP(w, r)
		}))
		h := hubtest.Serve(t, hub, mux)
		h.Path = "/ws?token=t"
		p := h.Connect(hubtest.Options{RemoteAddr: "203.0.113.7:4711", Header: http.Header{"X-Test": {"yes"}}})
		require.Equal(t, "203.0.113.7:4711", p.Server().Request().RemoteAddr)
		require.Equal(t, "yes", p.Server().Request().Header.Get("X-Test"))
		h.Dial(client.Options{})
		response := h.Refused(hubtest.Options{Path: "/ws"})
		require.Equal(t, http.StatusUnauthorized, response.StatusCode)
		body, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.Equal(t, "who are you?\n", string(body))
		h.Stop()
		require.NoError(t, <-ran)
		require.Contains(t, failures(func(t hubtest.TB) { hubtest.Serve(t, hub, nil).Connect(hubtest.Options{}) }), "503 Service Unavailable: websocket: hub closed")
	})
}

func TestSlowReader(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, websocket.DefaultConfig)
		p := h.Connect(hubtest.Options{Window: 1000})
		p.Subscribe("news")
		p.SetReadRate(1000)
		began := time.Now()
		for range 10 {
			require.NoError(t, h.PublishToChannelRaw("news", []byte(strings.Repeat("1", 1000))))
		}
		for range 10 {
			p.Next()
		}
		took := time.Since(began)
		require.InDelta(t, 10.8, took.Seconds(), 0.5, "10 messages of about 1,080 bytes")
		p.SetReadRate(0)
		require.NoError(t, h.PublishToChannelRaw("news", []byte("1")))
		time.Sleep(10 * time.Second)
		p.Recorder.ExpectNothing()
		p.SetReadRate(-1)
		p.Expect(data("1"))
		events := p.Events()
		require.Equal(t, time.Now(), events[len(events)-1].At)

		p.SetReadRate(1000)
		p.Reconnect() // the rate stays
		began = time.Now()
		require.NoError(t, h.SendToClient(p.Server().ID, &websocket.Message{Data: []byte(strings.Repeat("1", 1000))}))
		p.Next()
		require.InDelta(t, 1.1, time.Since(began).Seconds(), 0.1)
	})
}

// The example of the package documentation.
func TestSlowClientIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.SlowConsumer = websocket.DropOldest
		config.ClientBacklog, config.MaxMessageSize = 4000, 1000
		h := hubtest.Start(t, config)
		ann := h.Connect(hubtest.Options{ID: "ann", Window: 1000})
		ann.Subscribe("prices")
		ann.SetReadRate(0) // a phone in a tunnel
		var published []string
		for n := range 1000 {
			published = append(published, fmt.Sprint(n))
			if err := h.PublishToChannelRaw("prices", fmt.Append(nil, n)); err != nil {
				t.Fatal(err)
			}
		}
		ann.SetReadRate(-1)
		ann.Sync()
		ann.Complete(hubtest.Channel("prices"), published)
		require.NotEmpty(t, ann.Gaps())
	})
}

// The example of docs/testing.md.
func TestAnnComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := hubtest.Start(t, keepAll())
		ann := h.Connect(hubtest.Options{ID: "ann"})
		at := ann.Subscribe("chat:1").Position
		ann.Vanish() // a phone loses its network; nobody is told
		require.NoError(t, h.PublishToChannelRaw("chat:1", []byte(`"are you there?"`)))
		time.Sleep(5 * time.Minute)
		ann.Reconnect()
		ann.Subscribe("chat:1", at)
		ann.Expect(websocket.Message{Channel: "chat:1", Data: []byte(`"are you there?"`)})
		ann.ExpectNothing()
	})
}

func TestSlowReaderIsEvicted(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.ClientBacklog, config.MaxMessageSize = 4000, 1000
		h := hubtest.Start(t, config)
		p := h.Connect(hubtest.Options{Window: 1000})
		p.Subscribe("news")
		p.SetReadRate(0)
		for range 40 {
			require.NoError(t, h.PublishToChannelRaw("news", []byte(strings.Repeat("1", 900))))
		}
		synctest.Wait()
		p.SetReadRate(-1)
		p.ExpectClosed(websocket.CloseTryAgainLater)
	})
}

// After Vanish neither side notices the other.
func TestVanish(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		h := hubtest.Start(t, config)
		p := h.Connect(hubtest.Options{})
		old := p.Server()
		p.Subscribe("news")
		p.Vanish()
		require.NoError(t, h.PublishToChannelRaw("news", []byte("1")))
		time.Sleep(config.PingPeriod / 2)
		p.Recorder.ExpectNothing()
		require.NoError(t, old.CloseError())
		p.Cut() // there is no current connection
		p.Reconnect()
		time.Sleep(config.PingPeriod / 4)
		require.NoError(t, old.CloseError())
		p.Sync()
		time.Sleep(2 * config.PongWait)
		require.Equal(t, websocket.CloseTimeout, websocket.CloseStatus(old.CloseError()))
		require.NoError(t, p.Server().CloseError())
		require.NotSame(t, old, p.Server())
	})
}

// A connection is cut in the middle of frames, in both directions.
func TestCut(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, keepAll())
		p := h.Connect(hubtest.Options{Window: 1000})
		at := p.Subscribe("news").Position
		var published []string
		for i := range 20 {
			p.CutAfter(100 * (i + 1))
			for range 3 + i {
				n := fmt.Sprintf("%d", len(published))
				published = append(published, n)
				require.NoError(t, h.PublishToChannelRaw("news", []byte(n)))
			}
			p.ExpectClosed(websocket.CloseAbnormalClosure)
			p.Reconnect()
			if all := p.Messages(hubtest.Channel("news")); len(all) > 0 {
				at.Offset = all[len(all)-1].Offset
			}
			p.Subscribe("news", at)
			p.Sync()
			p.Complete(hubtest.Channel("news"), published)
		}
		require.Len(t, p.Messages(hubtest.Channel("news")), len(published))

		server := p.Server()
		p.CutAfterSending(20)
		received := h.Stats().MessagesReceived
		p.Send(websocket.Message{Type: "publish", Channel: "news", Data: []byte(strings.Repeat("1", 100))})
		p.ExpectClosed(websocket.CloseAbnormalClosure)
		<-server.Context().Done()
		require.Equal(t, received, h.Stats().MessagesReceived)
		p.Reconnect()
		_, err := p.Do(websocket.Message{Type: "hub:ping"})
		require.NoError(t, err)
		p.Cut()
		_, err = p.Do(websocket.Message{Type: "hub:ping", ID: "mine"})
		require.Equal(t, websocket.CloseAbnormalClosure, websocket.CloseStatus(err))
	})
}

// A client of package client comes back after faults of each kind and misses nothing.
func TestClientComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, keepAll())
		var states []client.State
		c := h.Dial(client.Options{OnState: func(s client.StateChange) { states = append(states, s.State) }})
		_, err := c.JoinRoom(t.Context(), "lobby", nil)
		require.NoError(t, err)
		var published []string
		publish := func() {
			for range 3 {
				n := fmt.Sprintf("%q", fmt.Sprint("n", len(published)))
				published = append(published, n)
				require.NoError(t, h.PublishToRoom("lobby", &websocket.Message{Data: []byte(n)}))
			}
		}
		for _, fault := range []func(){
			c.Cut, func() { c.CutAfter(50) }, c.Vanish, c.Down, func() { c.Refuse(503); c.Cut() },
			func() { c.SetReadRate(0); time.Sleep(3 * time.Minute); c.SetReadRate(-1) },
		} {
			publish()
			fault()
			publish()
			time.Sleep(3 * time.Minute)
			publish()
			c.Up()
			c.Refuse(0)
			time.Sleep(time.Minute)
			synctest.Wait()
			c.Complete(hubtest.Room("lobby"), published)
			require.Len(t, c.Messages(hubtest.Room("lobby")), len(published))
		}
		require.Empty(t, c.Gaps())
		require.Greater(t, len(states), 12)
		c.Until(func(e hubtest.Event) bool { return e.Message != nil && string(e.Message.Data) == published[10] })
		c.Expect(data(published[11]))
	})
}

// OnMessage and OnGap of the options are called too.
func TestClientCallbacks(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, websocket.DefaultConfig)
		messages, gaps := 0, 0
		c := h.Dial(client.Options{
			OnMessage: func(*websocket.Message) { messages++ },
			OnGap:     func(websocket.Gap) { gaps++ },
		})
		_, err := c.Subscribe(t.Context(), "news", nil)
		require.NoError(t, err)
		require.NoError(t, h.PublishToChannelRaw("news", []byte("1")))
		c.Next()
		c.Cut()
		c.Until(func(e hubtest.Event) bool { return e.Began })
		require.NoError(t, h.PublishToChannelRaw("news", []byte("2")))
		c.Next()
		synctest.Wait()
		require.Equal(t, 2, messages)
		require.Equal(t, 1, gaps)
		require.Len(t, c.Gaps(), 1)
		require.NoError(t, c.Close())
		<-c.Done()
		events := c.Events()
		require.Equal(t, "end of the connection: websocket: closed by this side: 1000", events[len(events)-1].String())
		c.Complete(hubtest.Channel("news"), []string{"1", "lost meanwhile", "2"})
	})
}

func TestCluster(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		nodes := hubtest.Cluster(t, engine, 3, websocket.DefaultConfig)
		var peers []*hubtest.Peer
		for i, h := range nodes {
			p := h.Connect(hubtest.Options{})
			require.Equal(t, fmt.Sprintf("node-%d-client-1", i), p.Server().ID)
			p.Subscribe("news")
			peers = append(peers, p)
		}
		for _, h := range nodes {
			require.NoError(t, h.BrokerReady(t.Context()))
		}
		peers[0].Publish("news", "1")
		for _, p := range peers {
			p.Expect(data("1"))
		}
		engine.Stop()
		synctest.Wait()
		peers[0].Publish("news", "2")
		engine.Start()
		time.Sleep(time.Minute)
		peers[0].Publish("news", "3")
		synctest.Wait()
		for i, p := range peers {
			if i == 0 {
				p.Expect(data("2"))
			}
			p.Complete(hubtest.Channel("news"), []string{"1", "2", "3"})
		}
		gap := peers[0].Until(func(e hubtest.Event) bool { return e.Gap != nil && e.Gap.Channel == "news" })
		require.Equal(t, "broker", gap.Gap.Reason)
	})
}

// Stop does not wait for clients that do not react.
func TestStopAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, websocket.DefaultConfig)
		p, slow := h.Connect(hubtest.Options{}), h.Connect(hubtest.Options{})
		p.Vanish()
		slow.SetReadRate(0)
		h.Dial(client.Options{}).Vanish()
		began := time.Now()
		h.Stop()
		require.Equal(t, began, time.Now())
		require.ErrorContains(t, h.Run(t.Context()), "closed")
	})
}

// The test may shut the hub down itself.
func TestShutdownByTheTest(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, websocket.DefaultConfig)
		p := h.Connect(hubtest.Options{})
		require.NoError(t, h.SendToClient(p.Server().ID, &websocket.Message{Type: "last"}))
		require.NoError(t, h.Shutdown(t.Context()))
		p.Expect(websocket.Message{Type: "last"})
		require.Equal(t, "server is shutting down", p.ExpectClosed(websocket.CloseGoingAway))
		h.Stop()
		h.Stop()
		_, err := h.NewLink().Dial(t.Context(), "", "")
		require.ErrorContains(t, err, "connection refused")
	})
}

// Each misuse and each fault fails the test with a clear text.
func TestFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		test func(t hubtest.TB, h *hubtest.Hub, p *hubtest.Peer)
		want []string
	}{
		{"another message", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Publish("news", "1")
			p.Expect(websocket.Message{Type: "message", Channel: "news", Data: []byte("2")})
		}, []string{`ann: the next message has another Data`, `got:  message in "news": 1 from "ann"`, `want: message in "news": 2`, "0s  connected"}},
		{"no message", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { p.Next() }, []string{"ann: no message within 30s, but a message is expected"}},
		{"no message after the end", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Close(1000, "")
			p.Expect(websocket.Message{Type: "x"})
		}, []string{"the connection has ended, but x is expected"}},
		{"a message", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Publish("news", `"unexpected"`)
			p.ExpectNothing()
		}, []string{`no message is expected`, `got: message in "news": "unexpected"`}},
		{"no event", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Until(func(e hubtest.Event) bool { return e.Gap != nil })
		}, []string{"the expected event has not come within 30s"}},
		{"refused", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { p.Subscribe("") }, []string{"subscribe: websocket: refused by hub: bad_request"}},
		{"no reply", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { p.Vanish(); p.Sync() }, []string{`no reply to "hub:ping" within 30s`}},
		{"not closed", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { p.ExpectClosed(1000) }, []string{"has not ended within 30s, but code 1000"}},
		{"closed with another code", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			_ = p.Server().Close(4000, "enough")
			p.ExpectClosed(1000)
		}, []string{"ended with another code than 1000", "4000", "enough"}},
		{"handshake", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			h.Connect(hubtest.Options{ID: "ann"})
		}, []string{"the handshake is refused: 409 Conflict: websocket: client ID is in use"}},
		{"no refusal", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { h.Refused(hubtest.Options{}) }, []string{"the handshake is not refused"}},
		{"link is down", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) { p.Down(); p.Reconnect() }, []string{"the link is down"}},
		{"dial", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			h.Dial(client.Options{Codec: "morse"})
		}, []string{`the client does not connect: websocket: Options.Codec "morse" is unknown`}},
		{"panic in a callback", func(_ hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Send(websocket.Message{Type: "panic"})
			p.ExpectClosed(websocket.CloseInternalError)
		}, []string{"the hub logs an error: websocket: onMessage of client", "broken"}},
		{"panic that is allowed", func(t hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			h.AllowErrors()
			p.Send(websocket.Message{Type: "panic"})
			p.ExpectClosed(websocket.CloseInternalError)
		}, nil},
		{"callback that does not return", func(t hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.Send(websocket.Message{Type: "wait"})
			p.Server().Request() // the message is on its way
			synctest.Wait()
		}, []string{"the hub does not end cleanly", "onMessage of client"}},
		{"not a message", func(t hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			p.SendFrame(websocket.TextMessage, []byte("{"))
			p.ExpectClosed(websocket.CloseInvalidPayloadData)
		}, nil},
		{"another codec", func(t hubtest.TB, h *hubtest.Hub, p *hubtest.Peer) {
			q := h.Connect(hubtest.Options{Codec: misnamed{}})
			_ = q.Server().Send(&websocket.Message{Type: "x"})
			synctest.Wait()
		}, []string{"client-1: a frame of the hub cannot be read: its type is 2 instead of 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				release := make(chan struct{})
				got := failures(func(t hubtest.TB) {
					config := websocket.DefaultConfig
					config.OnMessage = func(_ *websocket.Client, m *websocket.Message) {
						switch m.Type {
						case "panic":
							panic("broken")
						case "wait":
							<-release
						}
					}
					h := hubtest.Start(t, config)
					p := h.Connect(hubtest.Options{ID: "ann"})
					p.Subscribe("news")
					tt.test(t, h, p)
				})
				close(release)
				if tt.want == nil {
					require.Empty(t, got)
				}
				for _, want := range tt.want {
					require.Contains(t, got, want)
				}
			})
		})
	}
}

// misnamed offers MessagePack and speaks JSON.
type misnamed struct{ websocket.JSONCodec }

func (misnamed) Name() string { return "msgpack" }

// Connect waits for OnConnect.
func TestConnectWaitsForOnConnect(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		pause := time.Second
		config.OnConnect = func(*websocket.Client) { time.Sleep(pause) }
		began := time.Now()
		hubtest.Start(t, config).Connect(hubtest.Options{})
		require.Equal(t, time.Second, time.Since(began))
		pause = 40 * time.Second
		require.Contains(t, failures(func(t hubtest.TB) {
			hubtest.Start(t, config).Connect(hubtest.Options{})
		}), "client-1: OnConnect has not returned within 30s")
	})
}

// A connection of the test's own, with and without a request, and after Stop.
func TestServeConn(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hubtest.Start(t, websocket.DefaultConfig)
		ours, theirs := net.Pipe()
		served := h.ServeConn(theirs)
		_, err := io.WriteString(ours, "GET / HTTP/1.1\r\nHost: hub\r\n\r\n")
		require.NoError(t, err)
		response, err := io.ReadAll(ours)
		require.NoError(t, err)
		require.Contains(t, string(response), "426 Upgrade Required")
		<-served
		ours, theirs = net.Pipe()
		served = h.ServeConn(theirs)
		require.NoError(t, ours.Close())
		<-served
		h.Stop()
		ours, theirs = net.Pipe()
		<-h.ServeConn(theirs)
		_, err = ours.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// Only the reply to Do is kept from Expect.
func TestRepliesToSend(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		p := hubtest.Start(t, websocket.DefaultConfig).Connect(hubtest.Options{})
		ping := websocket.Message{Type: "hub:ping", ID: "mine"}
		_, err := p.Do(ping)
		require.NoError(t, err)
		p.ExpectNothing()
		p.Send(ping)
		p.Expect(websocket.Message{Type: "ack", ID: "mine"})
	})
}

// A handler must return the subprotocol that was offered.
func TestOtherSubprotocol(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		for _, codec := range []websocket.Codec{nil, websocket.ProtobufCodec{}} {
			require.Contains(t, failures(func(t hubtest.TB) {
				header := http.Header{}
				if codec == nil {
					header.Set("Sec-Websocket-Protocol", "protobuf")
				}
				hubtest.Serve(t, websocket.NewHub(nil, websocket.DefaultConfig), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if ws, err := (&gorilla.Upgrader{}).Upgrade(w, r, header); err == nil {
						_ = ws.Close()
					}
				})).Connect(hubtest.Options{Codec: codec})
			}), "the response to the handshake has the subprotocol")
		}
	})
}

func TestInvalidConfig(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.ClientBacklog = -1
	require.Contains(t, failures(func(t hubtest.TB) { hubtest.Start(t, config) }), "the config is not valid")
}

func TestNoLeak(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		release := make(chan struct{})
		got := failures(func(t hubtest.TB) {
			hubtest.NoLeak(t)
			go func() { go leaks(release) }()
		})
		require.Contains(t, got, "goroutines are left")
		require.Contains(t, got, "hubtest_test.leaks")
		close(release)
		require.Empty(t, failures(func(t hubtest.TB) {
			hubtest.NoLeak(t)
			go func() { time.Sleep(time.Second) }()
		}))
	})
}

func leaks(release chan struct{}) { <-release }
