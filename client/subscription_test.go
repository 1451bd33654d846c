package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// TestSubscriptionsShareATopic gives a channel and a room two handlers each. Every handler
// gets every message once, and the last Unsubscribe leaves.
func TestSubscriptionsShareATopic(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	c, rec := dial(t, s.url(), client.Options{})
	type join func(context.Context, string, client.Handler, ...client.SubscribeOption) (*client.Subscription, error)
	type publish func(context.Context, string, []byte, ...client.PublishOption) error
	for _, tt := range []struct {
		kind    websocket.TopicKind
		join    join
		publish publish
		members func() map[string]int
	}{
		{websocket.ChannelTopic, c.Subscribe, c.Publish, func() map[string]int { return maps.Collect(s.hub.Channels()) }},
		{websocket.RoomTopic, c.JoinRoom, c.PublishRoom, func() map[string]int { return maps.Collect(s.hub.Rooms()) }},
	} {
		got := make(chan string, bufferSize)
		handler := func(name string) client.Handler {
			return func(m *websocket.Message) {
				got <- name + string(m.Data)
				m.Data[0] = 'x' // each handler owns its message
			}
		}
		first, err := tt.join(ctx, "x", handler("a"))
		require.NoError(t, err)
		second, err := tt.join(ctx, "x", handler("b"))
		require.NoError(t, err)
		_, err = tt.join(ctx, "x", nil)
		require.NoError(t, err)
		unheard, err := tt.join(ctx, "x", nil)
		require.NoError(t, err)
		require.Equal(t, "x", second.Name())
		require.Equal(t, tt.kind, second.Kind())

		require.NoError(t, tt.publish(ctx, "x", []byte(`1`)))
		require.Equal(t, "a1", receive(t, got))
		require.Equal(t, "b1", receive(t, got))
		require.Equal(t, []byte(`1`), receive(t, rec.messages).Data, "OnMessage gets it once for all without a handler")

		require.NoError(t, first.Unsubscribe(ctx))
		receive(t, first.Done())
		require.NoError(t, first.Err())
		require.NoError(t, first.Unsubscribe(ctx), "again")
		require.NoError(t, unheard.Unsubscribe(ctx))
		require.NoError(t, tt.publish(ctx, "x", []byte(`2`)))
		require.Equal(t, "b2", receive(t, got))
		require.Equal(t, []byte(`2`), receive(t, rec.messages).Data)
		require.Equal(t, map[string]int{"x": 1}, tt.members(), "only the last one leaves")

		if tt.kind == websocket.RoomTopic {
			require.NoError(t, c.LeaveRoom(ctx, "x"))
		} else {
			require.NoError(t, c.Unsubscribe(ctx, "x"))
		}
		receive(t, second.Done())
		require.NoError(t, second.Err())
		require.Empty(t, tt.members())
		require.NoError(t, tt.publish(ctx, "x", nil))

		again, err := tt.join(ctx, "x", handler("c"))
		require.NoError(t, err)
		require.NoError(t, again.Unsubscribe(ctx))
		require.Empty(t, tt.members(), "the last one leaves")
		require.Empty(t, got)
		require.Empty(t, rec.messages)
	}
}

// A handler that is added later does not get the messages from before, even if they still
// wait for other handlers.
func TestLaterHandlerGetsLaterMessages(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	c, _ := dial(t, s.url(), client.Options{})
	first, second := make(chan string, bufferSize), make(chan string, bufferSize)
	entered, release := make(chan struct{}, 1), make(chan struct{})
	_, err := c.Subscribe(ctx, "x", func(m *websocket.Message) {
		if string(m.Data) == "0" {
			entered <- struct{}{}
			<-release
		}
		first <- string(m.Data)
	})
	require.NoError(t, err)
	require.NoError(t, c.Publish(ctx, "x", []byte(`0`)))
	receive(t, entered)
	require.NoError(t, c.Publish(ctx, "x", []byte(`1`)))
	later, err := c.Subscribe(ctx, "x", func(m *websocket.Message) { second <- string(m.Data) })
	require.NoError(t, err)
	require.NoError(t, c.Publish(ctx, "x", []byte(`2`)))
	ended, err := c.Subscribe(ctx, "x", func(*websocket.Message) { second <- "ended" })
	require.NoError(t, err)
	require.NoError(t, c.Publish(ctx, "x", []byte(`3`)))
	require.NoError(t, ended.Unsubscribe(ctx))
	close(release)
	for _, want := range []string{"0", "1", "2", "3"} {
		require.Equal(t, want, receive(t, first))
	}
	require.Equal(t, "2", receive(t, second), "published after Subscribe has returned")
	require.Equal(t, "3", receive(t, second))
	require.NoError(t, later.Unsubscribe(ctx))
	require.Empty(t, second, "no call begins after Unsubscribe")
}

// A handler that panics or ends its goroutine keeps the message from no other.
func TestHandlersAreProtectedFromEachOther(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	c, rec := dial(t, s.url(), client.Options{})
	got := make(chan int, bufferSize)
	for i, f := range []func(){func() { panic("boom") }, runtime.Goexit, func() {}} {
		_, err := c.Subscribe(ctx, "x", func(*websocket.Message) {
			got <- i
			f()
		})
		require.NoError(t, err)
	}
	for range 3 {
		require.NoError(t, c.Publish(ctx, "x", nil))
		for i := range 3 {
			require.Equal(t, i, receive(t, got))
		}
		require.ErrorAs(t, receive(t, rec.errors), new(*client.PanicError))
		require.ErrorAs(t, receive(t, rec.errors), new(*client.PanicError))
	}
}

// TestSubscriptionsEnd covers the ends that the application did not ask for.
func TestSubscriptionsEnd(t *testing.T) {
	t.Parallel()
	var refuse atomic.Bool
	s := newServer(t, func(s *server) {
		s.config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
			if refuse.Load() && r.Target == "gone" {
				return &websocket.RequestError{Message: "no more"}
			}
			return nil
		}
	})
	ctx := testContext(t)
	c, rec := dial(t, s.url(), client.Options{})
	rec.waitState(t, client.Connected)
	var gone []*client.Subscription
	for range 2 {
		sub, err := c.Subscribe(ctx, "gone", nil)
		require.NoError(t, err)
		gone = append(gone, sub)
	}
	kept, err := c.JoinRoom(ctx, "gone too", nil)
	require.NoError(t, err)

	refuse.Store(true)
	_, err = c.Subscribe(ctx, "gone", nil)
	require.ErrorAs(t, err, new(*client.Error), "a further subscription is refused")
	require.NoError(t, gone[0].Err(), "and others go on")
	require.NoError(t, s.onlyClient().Close(websocket.CloseServiceRestart, "move"))
	for _, sub := range gone {
		receive(t, sub.Done())
		var e *client.RestoreError
		require.ErrorAs(t, sub.Err(), &e)
		require.Equal(t, "gone", e.Channel)
		require.NoError(t, sub.Unsubscribe(ctx))
	}
	require.ErrorAs(t, receive(t, rec.errors), new(*client.RestoreError))
	require.Empty(t, rec.errors, "one error for the channel")
	require.NoError(t, kept.Err())

	rec.waitState(t, client.Connected)
	require.NoError(t, s.onlyClient().Close(websocket.ClosePolicyViolation, "enough"))
	receive(t, kept.Done())
	require.ErrorIs(t, kept.Err(), client.ErrClosed)
	require.ErrorContains(t, kept.Err(), "enough")
	require.NoError(t, kept.Unsubscribe(ctx))
	for _, err := range []error{
		errOf(c.Subscribe(ctx, "x", nil)), c.Publish(ctx, "x", nil), c.Send(ctx, &websocket.Message{Type: "x"}),
	} {
		require.ErrorIs(t, err, client.ErrClosed)
		require.ErrorContains(t, err, "enough", "later calls name the cause")
	}
}

// While there is no connection, a subscription ends at once, also while another call about
// the channel waits for the hub.
func TestUnsubscribeWithoutConnection(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	c, rec := dial(t, s.url(), client.Options{})
	rec.waitState(t, client.Connected)
	old, err := c.Subscribe(ctx, "x", nil)
	require.NoError(t, err)
	other, err := c.Subscribe(ctx, "y", nil)
	require.NoError(t, err)
	s.stop()
	rec.waitState(t, client.Disconnected)
	joined := make(chan *client.Subscription, 1)
	go func() { // ends when the hub has restarted
		sub, err := c.Subscribe(ctx, "x", nil)
		if err != nil {
			t.Error(err)
		}
		joined <- sub
	}()
	short, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, errOf(c.Subscribe(short, "x", nil)), context.Canceled)
	require.NoError(t, old.Unsubscribe(ctx))
	receive(t, old.Done())
	require.NoError(t, other.Unsubscribe(ctx))
	s.start()
	sub := receive(t, joined)
	require.Equal(t, map[string]int{"x": 1}, maps.Collect(s.hub.Channels()))
	require.NoError(t, sub.Unsubscribe(ctx))
	require.Empty(t, maps.Collect(s.hub.Channels()))
}

// TestSubscriptionsAreCounted subscribes and unsubscribes at random from several
// goroutines while connections are lost, requests are refused and calls are canceled.
// Afterwards the hub's memberships are those of the subscriptions that are left, and each
// of these gets every message once.
func TestSubscriptionsAreCounted(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d", seed)
		}
	}()
	var unfair atomic.Bool
	unfair.Store(true)
	var requests atomic.Uint64
	configure := func(s *server) {
		s.config.MessageRate = -1
		s.config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
			if n := requests.Add(1); unfair.Load() && n%11 == 0 && r.Action == websocket.ActionSubscribe {
				return websocket.ErrForbidden
			}
			return nil
		}
	}
	inBubble(t, client.Options{}, configure, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		channels := []string{"a", "b"}
		type handle struct {
			sub *client.Subscription
			got chan string
		}
		var mu sync.Mutex
		left := map[*client.Subscription]handle{}
		p.wrap = func(nc net.Conn) net.Conn { return &slowNetwork{nc, 3 * time.Millisecond} } // so that calls are canceled under way
		c.Reconnect()
		var workers sync.WaitGroup
		for w := range 6 {
			workers.Go(func() { // ends after its rounds
				r := rand.New(rand.NewPCG(seed, uint64(w)))
				var own []handle
				for range 100 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(20))*time.Millisecond)
					if r.IntN(2) == 0 || len(own) == 0 {
						got := make(chan string, bufferSize)
						sub, err := c.Subscribe(ctx, channels[r.IntN(len(channels))], func(m *websocket.Message) { got <- string(m.Data) })
						if err == nil {
							own = append(own, handle{sub, got})
						}
					} else {
						i := r.IntN(len(own))
						if own[i].sub.Unsubscribe(ctx) == nil {
							own = slices.Delete(own, i, i+1)
						}
					}
					cancel()
					time.Sleep(time.Duration(r.IntN(10)) * time.Millisecond)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, h := range own {
					left[h.sub] = h
				}
			})
		}
		stop := make(chan struct{})
		var closer sync.WaitGroup
		closer.Go(func() { // ends with stop
			r := rand.New(rand.NewPCG(seed, 100))
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Duration(r.IntN(60)) * time.Millisecond):
				}
				if r.IntN(2) == 0 {
					c.Reconnect()
					continue
				}
				for peer := range s.hub.Clients() {
					_ = peer.Close(websocket.CloseServiceRestart, "")
				}
			}
		})
		workers.Wait()
		close(stop)
		closer.Wait()
		unfair.Store(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, client.Connected, c.State())
		want := map[string]int{}
		for sub := range left {
			select {
			case <-sub.Done(): // a refused restore, or a canceled Unsubscribe
				delete(left, sub)
			default:
				want[sub.Name()] = 1
			}
		}
		require.Equal(t, want, maps.Collect(s.hub.Channels()))
		for i := range 3 {
			for _, channel := range channels {
				require.NoError(t, c.Publish(t.Context(), channel, fmt.Appendf(nil, `"%s%d"`, channel, i)))
			}
		}
		synctest.Wait()
		for sub, h := range left {
			for i := range 3 {
				require.Equal(t, fmt.Sprintf(`"%s%d"`, sub.Name(), i), <-h.got)
			}
			require.Empty(t, h.got)
		}
		for sub := range left {
			require.NoError(t, sub.Unsubscribe(t.Context()))
		}
		require.Empty(t, maps.Collect(s.hub.Channels()))
		for len(rec.errors) > 0 {
			if err := <-rec.errors; !errors.As(err, new(*client.RestoreError)) {
				require.NoError(t, err)
			}
		}
	})
}

func TestPublishTrace(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 vendor=a"
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		c, rec := dial(t, s.url(), client.Options{Codec: codec})
		require.NoError(t, errOf(c.Subscribe(ctx, "x", nil)))
		require.NoError(t, c.Publish(ctx, "x", nil, client.Trace(trace)))
		require.Equal(t, trace, receive(t, rec.messages).Trace)
		require.NoError(t, c.Publish(ctx, "x", nil, client.Trace("of another form")))
		require.Empty(t, receive(t, rec.messages).Trace)
		require.NoError(t, c.Close())
	}
}

func TestPublishExceptSelf(t *testing.T) {
	t.Parallel()
	s := newServer(t, nil)
	ctx := testContext(t)
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		a, recA := dial(t, s.url(), client.Options{Codec: codec})
		b, recB := dial(t, s.url(), client.Options{Codec: codec})
		for _, c := range []*client.Client{a, b} {
			require.NoError(t, errOf(c.Subscribe(ctx, "x", nil)))
			require.NoError(t, errOf(c.JoinRoom(ctx, "x", nil)))
		}
		for _, publish := range []func(...client.PublishOption) error{
			func(o ...client.PublishOption) error { return a.Publish(ctx, "x", nil, o...) },
			func(o ...client.PublishOption) error { return a.PublishRoom(ctx, "x", nil, o...) },
			func(o ...client.PublishOption) error { return a.Broadcast(ctx, nil, o...) },
		} {
			require.NoError(t, publish(client.ExceptSelf(), client.PublishOption{}))
			receive(t, recB.messages)
		}
		require.NoError(t, a.Publish(ctx, "x", []byte(`"end"`)))
		require.Equal(t, []byte(`"end"`), receive(t, recA.messages).Data)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
	}
}
