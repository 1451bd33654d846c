package websocket_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
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
