package websocket_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

// changeLog records the calls of OnJoin, OnLeave and OnDisconnect.
type changeLog struct {
	mu    sync.Mutex
	calls []string
}

func (l *changeLog) add(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, fmt.Sprintf(format, args...))
}

func (l *changeLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := l.calls
	l.calls = nil
	return calls
}

func (l *changeLog) config() websocket.Config {
	config := websocket.DefaultConfig
	config.OnJoin = func(c *websocket.Client, t websocket.Topic) { l.add("join %s %s", t.Kind, t.Name) }
	config.OnLeave = func(c *websocket.Client, t websocket.Topic) { l.add("leave %s %s", t.Kind, t.Name) }
	config.OnDisconnect = func(c *websocket.Client) { l.add("disconnect") }
	return config
}

func TestTopicHooksReportChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l changeLog
		hub := runFake(t, paths[0], l.config())
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		c := onlyClient(t, hub)
		require.NoError(t, c.Subscribe("news"))
		require.NoError(t, c.Subscribe("news"), "no change")
		require.NoError(t, c.JoinRoom("lobby"))
		require.NoError(t, c.Unsubscribe("news"))
		require.NoError(t, c.Unsubscribe("news"), "no change")
		require.NoError(t, c.JoinRoom("news"))
		require.Error(t, c.JoinRoom(""), "no change")
		require.Equal(t, []string{"join channel news", "join room lobby", "leave channel news", "join room news"}, l.take())
		require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"own"}}`)))
		require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"leave_room","data":{"room_id":"lobby"}}`)))
		synctest.Wait()
		require.Equal(t, []string{"join channel own", "leave room lobby"}, l.take())
		require.NoError(t, peer.Close())
		synctest.Wait()
		calls := l.take()
		require.Equal(t, "disconnect", calls[len(calls)-1])
		slices.Sort(calls)
		require.Equal(t, []string{"disconnect", "leave channel own", "leave room news"}, calls)
	})
}

// A snapshot that OnJoin sends arrives before all messages that are published to the
// topic afterwards.
func TestOnJoinSendsSnapshotFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		var hub *fakeHub
		config.OnJoin = func(c *websocket.Client, topic websocket.Topic) {
			require.NoError(t, c.Send(&websocket.Message{Type: "snapshot", Channel: topic.Name}))
			require.NoError(t, hub.PublishToChannelRaw(topic.Name, []byte("1")))
		}
		hub = runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		defer peer.Close()
		require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"news"},"id":"1"}`)))
		for _, want := range []string{"ack", "snapshot", "message"} {
			require.Equal(t, want, readJSON(t, peer)["type"])
		}
	})
}

// A hook may change memberships itself: those calls follow when it has returned. A hook
// that ends its goroutine closes the client, as after a panic.
func TestTopicHooksMayChangeMembershipsAndFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l changeLog
		config := l.config()
		config.OnJoin = func(c *websocket.Client, topic websocket.Topic) {
			l.add("join %s", topic.Name)
			switch topic.Name {
			case "first":
				_ = c.Subscribe("second")
				l.add("first done")
			case "exit":
				runtime.Goexit()
			case "panic":
				panic("boom")
			}
		}
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		c := onlyClient(t, hub)
		require.NoError(t, c.Subscribe("first"))
		require.Equal(t, []string{"join first", "first done", "join second"}, l.take())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = c.Subscribe("exit")
		}()
		<-ended
		synctest.Wait()
		require.Equal(t, "join exit", l.take()[0])
		_, _, err := peer.ReadMessage()
		var closed *gorilla.CloseError
		require.ErrorAs(t, err, &closed)
		require.Equal(t, websocket.CloseInternalError, closed.Code, "as after a panic")
	})
}

// Many goroutines change memberships while the connection ends. For each topic, calls of
// OnJoin and OnLeave alternate, the last call is OnLeave, and onDisconnect follows all
// of them.
func TestTopicHooksAlternate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		in := map[websocket.Topic]bool{}
		var faults []string
		disconnected := false
		note := func(topic websocket.Topic, joined bool) {
			mu.Lock()
			defer mu.Unlock()
			if in[topic] == joined || disconnected {
				faults = append(faults, fmt.Sprint(topic, joined, disconnected))
			}
			in[topic] = joined
		}
		config := websocket.DefaultConfig
		config.OnJoin = func(c *websocket.Client, topic websocket.Topic) { note(topic, true) }
		config.OnLeave = func(c *websocket.Client, topic websocket.Topic) { note(topic, false) }
		config.OnDisconnect = func(c *websocket.Client) { mu.Lock(); disconnected = true; mu.Unlock() }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		c := onlyClient(t, hub)
		var running sync.WaitGroup
		for i := range 4 {
			running.Go(func() {
				name := fmt.Sprint("t", i/2)
				for c.Subscribe(name) == nil && c.Unsubscribe(name) == nil {
					time.Sleep(time.Millisecond)
				}
			})
		}
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, peer.Close())
		running.Wait()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		require.Empty(t, faults)
		for topic, member := range in {
			require.False(t, member, topic)
		}
		require.True(t, disconnected)
	})
}

// OnLeave of a client that leaves while one of its callbacks runs is called when the
// callback has returned, before OnDisconnect.
func TestOnLeaveFollowsRunningCallback(t *testing.T) {
	ends := map[string]func(c *websocket.Client, peer *fakePeer){
		"peer":   func(_ *websocket.Client, peer *fakePeer) { _ = peer.client.Close() },
		"Close":  func(c *websocket.Client, _ *fakePeer) { _ = c.Close(0, "") },
		"expiry": func(c *websocket.Client, _ *fakePeer) { _ = c.SetExpiry(time.Now()) },
		"write error": func(c *websocket.Client, peer *fakePeer) {
			peer.server.Faults().Fail(context.DeadlineExceeded)
			_ = c.Send(&websocket.Message{})
		},
	}
	for name, end := range ends {
		for _, callback := range []string{"OnConnect", "OnMessage", "Authorize"} {
			if name == "write error" && callback == "OnConnect" {
				continue // nothing is written before it returns
			}
			t.Run(name+" in "+callback, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var l changeLog
					var client atomic.Pointer[websocket.Client]
					config := l.config()
					at := func(called string, c *websocket.Client) {
						if called == callback {
							client.Store(c)
							l.add("begin")
							time.Sleep(5 * time.Second)
							l.add("end")
						}
					}
					config.OnConnect = func(c *websocket.Client) { _ = c.Subscribe("a"); at("OnConnect", c) }
					config.OnMessage = func(c *websocket.Client, _ *websocket.Message) { at("OnMessage", c) }
					config.Authorize = func(c *websocket.Client, _ websocket.AuthorizeRequest) error { at("Authorize", c); return nil }
					hub := runFake(t, paths[0], config)
					server, far := testnet.Pair(1 << 16)
					served := hub.accept(server)
					ws, _, err := dialOver(far, nil)
					require.NoError(t, err)
					peer := &fakePeer{ws, server, far}
					require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"b"}}`)))
					time.Sleep(time.Second)
					end(client.Load(), peer)
					time.Sleep(time.Minute)
					<-served
					calls := l.take()
					from := slices.Index(calls, "begin")
					require.Equal(t, []string{"begin", "end", "leave channel a", "disconnect"}, calls[from:])
					_ = peer.client.Close()
					hub.stop()
				})
			})
		}
	}
}

// All callbacks of one client run one after the other if the application starts no
// goroutines, however and whenever the connection ends.
func TestCallbacksOfOneClientDoNotOverlap(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 100 {
		onBothPaths(t, func(t *testing.T, p path) {
			pick := rng.IntN(4)
			length, until := rng.IntN(1500), rng.IntN(3000)
			synctest.Test(t, func(t *testing.T) {
				var running atomic.Int32
				call := func() {
					if running.Add(1) > 1 {
						t.Errorf("two callbacks at once: end %d, callbacks of %d ms, end after %d ms", pick, length, until)
					}
					time.Sleep(time.Duration(length) * time.Millisecond)
					running.Add(-1)
				}
				config := websocket.DefaultConfig
				config.OnConnect = func(c *websocket.Client) { call(); _ = c.Subscribe("a"); _ = c.JoinRoom("a") }
				config.OnMessage = func(*websocket.Client, *websocket.Message) { call() }
				config.Authorize = func(*websocket.Client, websocket.AuthorizeRequest) error { call(); return nil }
				config.OnJoin = func(*websocket.Client, websocket.Topic) { call() }
				config.OnLeave = func(*websocket.Client, websocket.Topic) { call() }
				config.OnDisconnect = func(*websocket.Client) { call() }
				hub := runFake(t, p, config)
				peer := hub.connect(1<<16, nil)
				c := onlyClient(t, hub)
				for _, data := range []string{`{"type":"x"}`, `{"type":"subscribe","data":{"channel":"b"}}`, `{"type":"x"}`, `{"type":"x"}`} {
					require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(data)))
				}
				time.Sleep(time.Duration(until) * time.Millisecond)
				switch pick {
				case 0:
					_ = peer.client.Close()
				case 1:
					_ = peer.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{})
				case 2:
					_ = c.Close(0, "")
				case 3:
					_ = c.SetExpiry(time.Now())
				}
				time.Sleep(time.Minute)
				_ = peer.client.Close()
				hub.stop()
			})
		})
	}
}
