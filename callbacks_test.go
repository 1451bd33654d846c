package websocket_test

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"runtime"
	"strings"
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

// hooks are the places where the hub calls the application.
var hooks = []string{"onConnect", "onMessage", "onDisconnect", "Authorize", "OnDrop"}

// victimHub is a hub with one hook that does something for client "victim"
// alone; "bystander" sees whether that costs others anything.
type victimHub struct {
	*fakeHub
	t         *testing.T
	lives     *lives
	logs      *logCapture
	hook      string
	victim    *fakePeer
	client    *websocket.Client
	bystander *fakePeer
	drops     atomic.Int64 // calls of OnDrop
}

// startVictim runs a hub in which hook calls do, once and for the victim.
func startVictim(t *testing.T, p path, hook string, gate chan struct{}, do func(h *websocket.Hub, c *websocket.Client)) *victimHub {
	t.Helper()
	v := &victimHub{t: t, lives: newLives(), logs: &logCapture{}, hook: hook}
	var once sync.Map
	var hub *websocket.Hub
	at := func(name string, c *websocket.Client) {
		if _, done := once.LoadOrStore(name+c.ID, true); !done && name == hook && c.ID == "victim" {
			do(hub, c)
		}
	}
	config := websocket.DefaultConfig
	config.ClientID = byID
	config.SlowConsumer = websocket.DropNewest
	config.ClientBacklog = 10_000
	config.Authorize = func(c *websocket.Client, r websocket.AuthorizeRequest) error { at("Authorize", c); return nil }
	config.OnDrop = func(c *websocket.Client, _ websocket.Gap) { v.drops.Add(1); at("OnDrop", c) }
	hub = websocket.NewHub(v.logs, config)
	hub.SetCallbacks(func(c *websocket.Client) {
		v.lives.connect(c)
		_ = c.Subscribe("news")
		at("onConnect", c)
	}, func(c *websocket.Client) {
		v.lives.disconnect(c)
		at("onDisconnect", c)
	}, func(c *websocket.Client, m *websocket.Message) {
		v.lives.message(c, m)
		at("onMessage", c)
	})
	v.fakeHub = &fakeHub{Hub: hub, t: t, path: p, ran: make(chan error, 1)}
	go func() { v.ran <- hub.Run(context.Background()) }() // ends with the hub
	t.Cleanup(func() {
		if t.Failed() {
			if gate != nil {
				select {
				case <-gate:
				default:
					close(gate)
				}
			}
			_ = hub.Shutdown(context.Background())
		}
	})
	v.bystander = v.connect(1<<16, withID("bystander"))
	return v
}

// provoke connects the victim and makes the hook run.
func (v *victimHub) provoke() {
	v.t.Helper()
	server, client := testnet.Pair(1 << 16)
	ws, _, err := v.dial(server, client, withID("victim"))
	require.NoError(v.t, err)
	v.victim = &fakePeer{ws, server, client}
	synctest.Wait()
	v.client = v.lives.all()[1]
	switch v.hook {
	case "onMessage":
		require.NoError(v.t, ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`)))
	case "Authorize":
		require.NoError(v.t, ws.WriteMessage(gorilla.TextMessage, []byte(`{"type":"subscribe","data":{"channel":"more"}}`)))
	case "onDisconnect":
		require.NoError(v.t, ws.WriteControl(gorilla.CloseMessage, gorilla.FormatCloseMessage(1000, ""), time.Time{}))
	case "OnDrop":
		v.overflow()
	}
	synctest.Wait()
}

// overflow has the victim lose messages.
func (v *victimHub) overflow() {
	v.t.Helper()
	v.victim.server.SetWindow(1)
	for i := range 20 {
		if err := v.SendToClient("victim", &websocket.Message{Data: numbered(i, 1000)}); err != nil {
			break // OnDrop has ended it, or the hub
		}
	}
	synctest.Wait()
}

// requireBystander sends the bystander a message, which must come at once.
func (v *victimHub) requireBystander() {
	v.t.Helper()
	start := time.Now()
	require.NoError(v.t, v.SendToClient("bystander", &websocket.Message{Type: "ping"}))
	require.Equal(v.t, "ping", readJSON(v.t, v.bystander)["type"])
	require.Equal(v.t, start, time.Now())
}

// TestFailingCallbacks has each callback panic, end its goroutine, or panic with
// nil. It costs that client its connection, and nobody else anything.
func TestFailingCallbacks(t *testing.T) {
	failures := []struct {
		name string
		fail func(h *websocket.Hub, c *websocket.Client)
		log  string
	}{
		{"panic", func(*websocket.Hub, *websocket.Client) { panic("oh no") }, "oh no"},
		{"panic with an error", func(*websocket.Hub, *websocket.Client) { panic(errors.New("oh no")) }, "oh no"},
		{"nil map", func(*websocket.Hub, *websocket.Client) { m := emptyMap(); m[0] = 1 }, "nil map"},
		{"Goexit", func(*websocket.Hub, *websocket.Client) { runtime.Goexit() }, "panicked"},
		{"SetCallbacks", func(h *websocket.Hub, _ *websocket.Client) { h.SetCallbacks(nil, nil, nil) }, "SetCallbacks after the first connection"},
		{"panic after Close", func(_ *websocket.Hub, c *websocket.Client) { _ = c.Close(4001, ""); panic("oh no") }, "oh no"},
	}
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			for _, tt := range failures {
				t.Run(hook+"/"+tt.name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						v := startVictim(t, p, hook, nil, tt.fail)
						v.provoke()
						v.requireBystander()
						v.victim.server.SetWindow(1 << 16)
						r := readToEnd(v.victim)
						synctest.Wait()
						codes := []int{websocket.CloseInternalError}
						if hook == "onDisconnect" {
							codes = []int{1000}
						} else if tt.name == "panic after Close" {
							codes = append(codes, 4001) // whichever the connection saw first
						}
						require.Contains(t, codes, r.code, "%v", r.err)
						require.Len(t, v.logs.matching("error", hook+` of client "victim"`), 1)
						require.Len(t, v.logs.matching("error", tt.log), 1)
						require.Len(t, v.logs.matching("error", "callbacks_test.go"), 1, "with its stack")
						require.Equal(t, 1, v.Stats().ActiveConnections)
						_ = v.bystander.Close()
						v.requireSettled(v.lives, 2, websocket.ErrClientClosed)
						v.stop()
					})
				})
			}
		}
	})
}

// TestOnDropIsCalledAgainAfterItFailed goes on telling the application of drops
// whatever it did when it was told before.
func TestOnDropIsCalledAgainAfterItFailed(t *testing.T) {
	tests := []struct {
		name string
		fail func(*websocket.Hub, *websocket.Client)
	}{
		{"panic", func(*websocket.Hub, *websocket.Client) { panic("oh no") }},
		{"Goexit", func(*websocket.Hub, *websocket.Client) { runtime.Goexit() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := startVictim(t, paths[0], "OnDrop", nil, tt.fail)
				v.provoke()
				require.Positive(t, v.drops.Load())
				v.victim.server.SetWindow(1 << 16)
				readToEnd(v.victim)
				synctest.Wait()
				seen := v.drops.Load()
				v.bystander.server.SetWindow(1)
				for i := range 20 {
					require.NoError(t, v.SendToClient("bystander", &websocket.Message{Data: numbered(i, 1000)}))
				}
				synctest.Wait()
				require.Greater(t, v.drops.Load(), seen, "no report any more")
				_ = v.bystander.Close()
				v.stop()
			})
		})
	}
}

// TestCallbacksThatTakeTheirTime block longer than every time limit of the hub's.
func TestCallbacksThatTakeTheirTime(t *testing.T) {
	const long = 3 * time.Minute
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					v := startVictim(t, p, hook, nil, func(*websocket.Hub, *websocket.Client) { time.Sleep(long) })
					go answerPings(v.bystander)
					v.provoke()
					if hook == "OnDrop" {
						v.victim.server.SetWindow(1 << 16)
						go answerPings(v.victim)
						synctest.Wait()
						seen := v.Stats().MessagesSent
						require.NoError(t, v.SendToClient("victim", &websocket.Message{}))
						synctest.Wait()
						require.Equal(t, seen+1, v.Stats().MessagesSent)
					}
					for range 5 {
						time.Sleep(30 * time.Second)
						require.NoError(t, v.SendToClient("bystander", &websocket.Message{Type: "x"}))
						synctest.Wait()
						require.Equal(t, time.Duration(0), time.Since(start)%(30*time.Second))
					}
					time.Sleep(time.Until(start.Add(long + time.Second)))
					if hook != "onDisconnect" && hook != "OnDrop" {
						require.NoError(t, v.client.CloseError(), "%v", v.client.CloseError())
						require.NoError(t, v.client.Send(&websocket.Message{Type: "hello"}))
						require.NoError(t, v.victim.WriteMessage(gorilla.TextMessage, []byte(`{"type":"publish","channel":"news"}`)))
						require.Equal(t, "hello", readJSON(t, v.victim)["type"])
						require.Equal(t, "message", readJSON(t, v.victim)["type"])
					}
					_ = v.victim.Close()
					_ = v.bystander.Close()
					v.requireSettled(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// answerPings reads until the connection ends.
func answerPings(p *fakePeer) {
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			_ = p.Close()
			return
		}
	}
}

// TestCallbacksThatNeverReturn are named in the error that Run then returns.
func TestCallbacksThatNeverReturn(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gate := make(chan struct{})
					v := startVictim(t, p, hook, gate, func(*websocket.Hub, *websocket.Client) { <-gate })
					go answerPings(v.bystander)
					v.provoke()
					if hook == "OnDrop" {
						v.victim.server.SetWindow(1 << 16)
						go answerPings(v.victim)
						synctest.Wait()
					}
					start := time.Now()
					err := v.Shutdown(context.Background())
					require.Equal(t, err, <-v.ran)
					var stuck *websocket.CallbackTimeoutError
					require.ErrorAs(t, err, &stuck)
					require.Len(t, stuck.Callbacks, 1)
					require.Contains(t, stuck.Callbacks[0], hook)
					if hook == "OnDrop" {
						require.Equal(t, 30*time.Second, time.Since(start))
					} else {
						require.Contains(t, stuck.Callbacks[0], `"victim"`)
						require.Equal(t, 35*time.Second, time.Since(start), "DrainTimeout and CallbackTimeout")
					}
					requireHubStopped(t, v.Hub)
					close(gate)
					_ = v.victim.Close()
					v.requireSettled(v.lives, 2, websocket.ErrHubClosed)
				})
			})
		}
	})
}

// TestStuckCallbackIsNamedRightWhileOnDropRuns has OnDrop run for a client in
// the middle of another callback of that client.
func TestStuckCallbackIsNamedRightWhileOnDropRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(chan struct{})
		v := startVictim(t, paths[0], "onMessage", gate, func(*websocket.Hub, *websocket.Client) { <-gate })
		v.provoke()
		v.overflow()
		require.Positive(t, v.drops.Load())
		err := v.Shutdown(context.Background())
		var stuck *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &stuck)
		require.Equal(t, []string{`onMessage of client "victim"`}, stuck.Callbacks)
		close(gate)
		_ = v.victim.Close()
		_ = v.bystander.Close()
		v.requireSettled(v.lives, 2, websocket.ErrHubClosed)
	})
}

// TestAllStuckCallbacksAreNamed has a client's callback and OnDrop never return.
func TestAllStuckCallbacksAreNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, l := make(chan struct{}), newLives()
		config := websocket.DefaultConfig
		config.ClientID = byID
		config.OnDrop = func(*websocket.Client, websocket.Gap) { <-gate }
		hub := startFake(t, paths[0], config, gate, func(h *websocket.Hub) {
			h.SetCallbacks(l.connect, l.disconnect, func(c *websocket.Client, m *websocket.Message) { l.message(c, m); <-gate })
		})
		peers := []*fakePeer{hub.connect(1<<16, withID("alice")), hub.connect(1<<16, withID("bob")), hub.connect(300, withID("carol"))}
		for _, p := range peers[:2] {
			require.NoError(t, p.WriteMessage(gorilla.TextMessage, []byte(`{"type":"x"}`)))
		}
		require.NoError(t, hub.SendToClient("carol", &websocket.Message{Data: numbered(0, 1000)}))
		synctest.Wait()
		_ = peers[2].Close() // carol loses it
		err := hub.Shutdown(context.Background())
		var stuck *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &stuck)
		close(gate)
		for _, p := range peers {
			_ = p.Close()
		}
		hub.requireSettled(l, 3, websocket.ErrHubClosed)
		require.Len(t, stuck.Callbacks, 3, "%v", err)
		require.Contains(t, stuck.Callbacks, `onMessage of client "alice"`)
		require.Contains(t, stuck.Callbacks, `onMessage of client "bob"`)
	})
}

// TestStuckHooksOfTheHandshake block in the hooks that run before there is a
// client. Run ends, and says what it did not wait for.
func TestStuckHooksOfTheHandshake(t *testing.T) {
	tests := []struct {
		name string
		set  func(c *websocket.Config, block func())
	}{
		{"ClientID", func(c *websocket.Config, block func()) {
			c.ClientID = func(*http.Request) (string, error) { block(); return "late", nil }
		}},
		{"CheckOrigin", func(c *websocket.Config, block func()) {
			c.CheckOrigin = func(*http.Request) bool { block(); return true }
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, l := make(chan struct{}), newLives()
				config := websocket.DefaultConfig
				tt.set(&config, func() { <-gate })
				hub := startFake(t, paths[0], config, gate, func(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) })
				server, client := testnet.Pair(1 << 16)
				served := hub.serveOn(server)
				_, err := client.Write([]byte(handshakeRequest))
				require.NoError(t, err)
				synctest.Wait()
				start := time.Now()
				err = hub.Shutdown(context.Background())
				require.Equal(t, 35*time.Second, time.Since(start))
				var stuck *websocket.CallbackTimeoutError
				require.ErrorAs(t, err, &stuck)
				close(gate)
				<-served
				_ = client.Close()
				synctest.Wait()
				l.requireComplete(t, len(l.all()))
				require.NotEmpty(t, stuck.Callbacks, "%v", stuck)
			})
		})
	}
}

// TestFailingHooksOfTheHandshake costs only that handshake.
func TestFailingHooksOfTheHandshake(t *testing.T) {
	for _, name := range []string{"ClientID", "CheckOrigin"} {
		for how, fail := range map[string]func(){"panic": func() { panic("oh no") }, "Goexit": runtime.Goexit} {
			t.Run(name+"/"+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					l := newLives()
					config := websocket.DefaultConfig
					config.MaxHandshakes, config.MaxClients = 2, 2
					failing := true
					hook := func() {
						if failing {
							fail()
						}
					}
					if name == "ClientID" {
						config.ClientID = func(*http.Request) (string, error) { hook(); return "alice", nil }
					} else {
						config.CheckOrigin = func(*http.Request) bool { hook(); return true }
					}
					hub := startFake(t, paths[0], config, nil, func(h *websocket.Hub) { h.SetCallbacks(l.connect, l.disconnect, l.message) })
					for range 3 {
						server, client := testnet.Pair(1 << 16)
						served := hub.serveOn(server)
						_, err := client.Write([]byte(handshakeRequest))
						require.NoError(t, err)
						<-served
						_ = client.Close()
					}
					failing = false
					server, client := testnet.Pair(1 << 16)
					ws, response, err := hub.dial(server, client, nil)
					require.NoError(t, err, "a handshake after failed ones: %+v", response)
					_ = ws.Close()
					hub.requireSettled(l, 1, websocket.ErrClientClosed)
					hub.stop()
				})
			})
		}
	}
}

// callEverything calls every method of a hub and a client that does not end
// either, and returns the errors of those that failed.
func callEverything(h *websocket.Hub, c *websocket.Client) map[string]error {
	ctx := context.Background()
	m := &websocket.Message{Type: "app", Data: []byte(`1`)}
	calls := map[string]func() error{
		"PublishToChannel":           func() error { return h.PublishToChannel("news", m) },
		"PublishToChannelContext":    func() error { return h.PublishToChannelContext(ctx, "news", m) },
		"PublishToChannelRaw":        func() error { return h.PublishToChannelRaw("news", []byte("1")) },
		"PublishToChannelRawContext": func() error { return h.PublishToChannelRawContext(ctx, "news", []byte("1")) },
		"PublishToRoom":              func() error { return h.PublishToRoom("room", m) },
		"PublishToRoomContext":       func() error { return h.PublishToRoomContext(ctx, "room", m) },
		"Broadcast":                  func() error { return h.Broadcast([]byte("1")) },
		"BroadcastContext":           func() error { return h.BroadcastContext(ctx, []byte("1")) },
		"BroadcastMessage":           func() error { return h.BroadcastMessage(m) },
		"BroadcastMessageContext":    func() error { return h.BroadcastMessageContext(ctx, m) },
		"SendToClient":               func() error { return h.SendToClient("bystander", m) },
		"SendToClientContext":        func() error { return h.SendToClientContext(ctx, "bystander", m) },
		"RoomMembers":                func() error { _, err := h.RoomMembers(ctx, "room"); return err },
	}
	if c != nil {
		for name, call := range map[string]func() error{
			"Subscribe":        func() error { return c.Subscribe("more") },
			"Unsubscribe":      func() error { return c.Unsubscribe("more") },
			"JoinRoom":         func() error { return c.JoinRoom("room") },
			"LeaveRoom":        func() error { return c.LeaveRoom("room") },
			"Send":             func() error { return c.Send(m) },
			"SendContext":      func() error { return c.SendContext(ctx, m) },
			"SetEncryptionKey": func() error { return c.SetEncryptionKey(nil) },
			"SetHMACKey":       func() error { return c.SetHMACKey(nil) },
			"SetExpiry":        func() error { return c.SetExpiry(time.Time{}) },
		} {
			calls[name] = call
		}
		c.SetMetadata("k", 1)
		c.GetMetadata("k")
		c.Codec()
		c.Request()
		c.Context()
		c.CloseError()
	}
	failed := map[string]error{}
	for name, call := range calls {
		if err := call(); err != nil {
			failed[name] = err
		}
	}
	h.Stats()
	h.Client("bystander")
	for c := range h.Clients() {
		_ = c.ID
	}
	_ = h.Handler()
	return failed
}

// TestCallbacksMayCallAnything calls every method from every callback, while
// messages wait for the client and with a log that holds little.
func TestCallbacksMayCallAnything(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var failed map[string]error
					v := startVictim(t, p, hook, nil, func(h *websocket.Hub, c *websocket.Client) {
						for range 20 {
							failed = callEverything(h, c)
						}
						require.ErrorIs(t, h.Run(context.Background()), websocket.ErrHubRunning)
						require.Panics(t, func() { h.SetCallbacks(nil, nil, nil) })
					})
					go answerPings(v.bystander)
					v.provoke()
					if hook == "onDisconnect" {
						require.Len(t, failed, 9, "those of the client: %v", failed)
						for name, err := range failed {
							require.ErrorIs(t, err, websocket.ErrClientClosed, name)
						}
					} else {
						require.Empty(t, failed)
					}
					_ = v.victim.Close()
					_ = v.bystander.Close()
					v.requireSettled(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// TestSendAfterCloseInACallback gets what was sent before Close and nothing after.
func TestSendAfterCloseInACallback(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range []string{"onConnect", "onMessage", "Authorize"} {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					v := startVictim(t, p, hook, nil, func(_ *websocket.Hub, c *websocket.Client) {
						_ = c.Send(&websocket.Message{Type: "message", Data: numbered(0, 1)})
						_ = c.Close(4001, "bye")
						_ = c.Send(&websocket.Message{Type: "message", Data: numbered(1, 1)})
						_ = c.Close(4002, "bye again")
					})
					v.provoke()
					r := readToEnd(v.victim)
					require.Equal(t, []int{0}, r.numbers)
					require.Equal(t, 4001, r.code)
					_ = v.bystander.Close()
					v.requireSettled(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// TestShutdownFromACallback waits for itself, so it lasts until the hub gives
// the callback up, or until the caller's context ends; begun without waiting it
// is like any other.
func TestShutdownFromACallback(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook+"/waiting for ever", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got := make(chan error, 1)
					v := startVictim(t, p, hook, nil, func(h *websocket.Hub, _ *websocket.Client) {
						got <- h.Shutdown(context.Background())
					})
					go answerPings(v.bystander)
					v.provoke()
					v.victim.server.SetWindow(1 << 16)
					go answerPings(v.victim)
					err := <-v.ran
					var stuck *websocket.CallbackTimeoutError
					require.ErrorAs(t, err, &stuck)
					require.Len(t, stuck.Callbacks, 1)
					require.Contains(t, stuck.Callbacks[0], hook)
					require.Equal(t, err, <-got)
					v.requireSettled(v.lives, 2, websocket.ErrHubClosed)
				})
			})
			t.Run(hook+"/for a second", func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					got := make(chan error, 1)
					v := startVictim(t, p, hook, nil, func(h *websocket.Hub, _ *websocket.Client) {
						ctx, cancel := context.WithTimeout(context.Background(), time.Second)
						defer cancel()
						got <- h.Shutdown(ctx)
					})
					go answerPings(v.bystander)
					v.provoke()
					v.victim.server.SetWindow(1 << 16)
					go answerPings(v.victim)
					require.NoError(t, <-v.ran)
					require.ErrorIs(t, <-got, context.DeadlineExceeded)
					v.requireSettled(v.lives, 2, websocket.ErrHubClosed)
				})
			})
		}
	})
}

// requireHubStopped tries every method of a hub that has stopped, none of which
// may wait.
func requireHubStopped(t *testing.T, h *websocket.Hub) {
	t.Helper()
	start := time.Now()
	failed := callEverything(h, nil)
	require.Len(t, failed, 13)
	for name, err := range failed {
		require.ErrorIs(t, err, websocket.ErrHubClosed, name)
	}
	require.ErrorIs(t, h.Run(context.Background()), websocket.ErrHubClosed)
	_, found := h.Client("nobody")
	require.False(t, found)
	w := newRecorder()
	h.Handler().ServeHTTP(w, handshake(t, context.Background()))
	require.Equal(t, http.StatusServiceUnavailable, w.status)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, start, time.Now())
}

// recorder is a http.ResponseWriter that cannot be hijacked.
type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func newRecorder() *recorder { return &recorder{header: http.Header{}} }

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

func handshake(t *testing.T, ctx context.Context) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://hub.test/", nil)
	require.NoError(t, err)
	for k, v := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
	} {
		r.Header.Set(k, v)
	}
	return r
}

func TestStoppedHub(t *testing.T) {
	stops := []struct {
		name string
		stop func(t *testing.T, h *websocket.Hub)
	}{
		{"Shutdown before Run", func(t *testing.T, h *websocket.Hub) {
			require.NoError(t, h.Shutdown(context.Background()))
		}},
		{"Shutdown", func(t *testing.T, h *websocket.Hub) {
			ran := make(chan error, 1)
			go func() { ran <- h.Run(context.Background()) }()
			synctest.Wait()
			require.NoError(t, h.Shutdown(context.Background()))
			require.NoError(t, <-ran)
		}},
		{"end of Run's context", func(t *testing.T, h *websocket.Hub) {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			require.NoError(t, h.Run(ctx))
		}},
		{"two Shutdowns and the end of Run's context", func(t *testing.T, h *websocket.Hub) {
			ctx, cancel := context.WithCancel(context.Background())
			results := make(chan error, 3)
			go func() { results <- h.Run(ctx) }()
			synctest.Wait()
			go func() { results <- h.Shutdown(context.Background()) }()
			go func() { results <- h.Shutdown(context.Background()) }()
			cancel()
			for range 3 {
				require.NoError(t, <-results)
			}
			require.NoError(t, h.Shutdown(context.Background()), "and once more")
		}},
	}
	for _, tt := range stops {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
				tt.stop(t, h)
				requireHubStopped(t, h)
				requireSums(t, h)
			})
		})
	}
}

// TestTwoShutdownsWait has each wait for the end, and one give up before.
func TestTwoShutdownsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := startFake(t, paths[0], websocket.DefaultConfig, nil, subscribeAll("news"))
		peer := hub.connect(300, nil)
		require.NoError(t, hub.PublishToChannelRaw("news", numbered(0, 2000)))
		start := time.Now()
		results := make(chan error, 2)
		for range 2 {
			go func() { results <- hub.Shutdown(context.Background()) }()
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		require.ErrorIs(t, hub.Shutdown(ctx), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.ErrorIs(t, hub.Broadcast(nil), websocket.ErrHubClosed)
		require.NoError(t, <-results)
		require.NoError(t, <-results)
		require.NoError(t, <-hub.ran)
		require.Equal(t, 5*time.Second, time.Since(start))
		_ = peer.Close()
	})
}

func TestHubBeforeRun(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		t.Run("verbs", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.Config{LogSize: 1000})
				for range 100 { // nobody is there, so nothing fills the log
					for name, err := range callEverything(h, nil) {
						switch name {
						case "RoomMembers":
							require.ErrorIs(t, err, websocket.ErrHubNotRunning)
						case "SendToClient", "SendToClientContext":
							require.ErrorIs(t, err, websocket.ErrClientNotFound)
						default:
							require.NoError(t, err, name)
						}
					}
				}
				requireSums(t, h)
			})
		})
		t.Run("handshake waits", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := &fakeHub{Hub: websocket.NewHub(quietLogger{}, websocket.DefaultConfig), t: t, path: p, ran: make(chan error, 1)}
				hub.SetCallbacks(l.connect, l.disconnect, l.message)
				go func() {
					time.Sleep(9 * time.Second)
					hub.ran <- hub.Run(context.Background())
				}()
				start := time.Now()
				peer := hub.connect(1<<16, nil)
				require.Equal(t, 9*time.Second, time.Since(start))
				_ = peer.Close()
				hub.requireSettled(l, 1, websocket.ErrClientClosed)
				hub.stop()
			})
		})
		t.Run("handshake waits in vain", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLives()
				hub := &fakeHub{Hub: websocket.NewHub(quietLogger{}, websocket.DefaultConfig), t: t, path: p, ran: make(chan error, 1)}
				hub.SetCallbacks(l.connect, l.disconnect, l.message)
				start := time.Now()
				server, client := testnet.Pair(1 << 16)
				_, response, err := hub.dial(server, client, nil)
				require.Error(t, err)
				require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
				require.Equal(t, "1", response.Header.Get("Retry-After"))
				require.Equal(t, 10*time.Second, time.Since(start))
				_ = client.Close()

				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				w := newRecorder()
				hub.Handler().ServeHTTP(w, handshake(t, ctx))
				require.Equal(t, http.StatusServiceUnavailable, w.status, "the request ended")
				require.Equal(t, 11*time.Second, time.Since(start))
				require.NoError(t, hub.Shutdown(context.Background()))
				hub.requireSettled(l, 0, websocket.ErrHubClosed)
			})
		})
		t.Run("handshake waits and Shutdown comes", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := websocket.NewHub(quietLogger{}, websocket.DefaultConfig)
				start := time.Now()
				time.AfterFunc(time.Second, func() { _ = h.Shutdown(context.Background()) })
				w := newRecorder()
				h.Handler().ServeHTTP(w, handshake(t, context.Background()))
				require.Equal(t, http.StatusServiceUnavailable, w.status)
				require.Equal(t, time.Second, time.Since(start))
			})
		})
	})
}

// TestPublishersWaitForRoom has publishers wait for a log that is full because
// the hub goroutine is in a codec. Room, a context and shutdown end that.
func TestPublishersWaitForRoom(t *testing.T) {
	ends := []struct {
		name string
		end  func(h *fakeHub, gate *gateCodec, cancel func())
		err  error
	}{
		{"room", func(_ *fakeHub, gate *gateCodec, _ func()) { close(gate.open) }, nil},
		{"context", func(_ *fakeHub, _ *gateCodec, cancel func()) { cancel() }, context.Canceled},
		{"shutdown", func(h *fakeHub, _ *gateCodec, _ func()) { go func() { _ = h.Shutdown(context.Background()) }() }, websocket.ErrHubClosed},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				gate, l := newGateCodec(), newLives()
				config := gate.config()
				config.LogSize = 10_000
				hub := startFake(t, paths[0], config, gate.open, func(h *websocket.Hub) {
					h.SetCallbacks(func(c *websocket.Client) {
						l.connect(c)
						if c.ID != "gatekeeper" {
							_ = c.Subscribe("news")
						}
					}, l.disconnect, l.message)
				})
				keeper := hub.connect(1<<16, withID("gatekeeper"))
				peer := hub.connect(1<<16, withID("reader"))
				gate.shut(t, hub)
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				const n = 40
				published := 0
				var last error
				done := make(chan struct{})
				go func() { // ends when the log takes all, or ends the waiting
					defer close(done)
					for ; published < n && last == nil; published++ {
						last = hub.PublishToChannelContext(ctx, "news", &websocket.Message{Data: numbered(published, 1000)})
					}
				}()
				synctest.Wait()
				others := make(chan error, 2) // callers that wait behind it, in other ways
				c := l.all()[1]
				for _, call := range []func() error{
					func() error { return c.SendContext(ctx, &websocket.Message{Data: numbered(1000, 3000)}) },
					func() error { return hub.BroadcastContext(ctx, numbered(1001, 3000)) },
				} {
					go func() { others <- call() }()
				}
				synctest.Wait()
				time.Sleep(time.Hour / 2 / 60) // nothing of it times out
				require.Less(t, published, n)
				require.Empty(t, others)
				tt.end(hub, gate, cancel)
				<-done
				require.ErrorIs(t, last, tt.err)
				for range 2 {
					require.ErrorIs(t, <-others, tt.err)
				}
				if tt.name != "room" {
					require.Less(t, published, n)
					close(gate.open)
				} else {
					require.Equal(t, n, published)
				}
				_ = keeper.Close()
				go answerPings(peer)
				synctest.Wait()
				_ = c.Close(1000, "")
				synctest.Wait()
				want := websocket.ErrClientClosed
				if tt.name == "shutdown" {
					require.NoError(t, <-hub.ran)
					want = websocket.ErrHubClosed
				}
				hub.requireSettled(l, 2, want)
				if tt.name != "shutdown" {
					hub.stop()
				}
			})
		})
	}
}

// TestRequestContext outlives the handler and ends with the connection.
func TestRequestContext(t *testing.T) {
	type key struct{}
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			l := newLives()
			var atDisconnect error
			hub := startFake(t, p, websocket.DefaultConfig, nil, func(h *websocket.Hub) {
				h.SetCallbacks(l.connect, func(c *websocket.Client) {
					atDisconnect = c.Request().Context().Err()
					l.disconnect(c)
				}, l.message)
			})
			handler, cancel := context.WithCancel(context.WithValue(context.Background(), key{}, "session"))
			server, client := testnet.Pair(1 << 16)
			r := handshake(t, handler)
			w := &fakeWriter{nc: server, br: bufio.NewReader(server), header: http.Header{}}
			hub.Handler().ServeHTTP(w, r)
			cancel() // as net/http does when the handler has returned
			c := l.all()[0]
			ctx := c.Request().Context()
			time.Sleep(time.Second)
			require.NoError(t, ctx.Err())
			require.Equal(t, "session", ctx.Value(key{}))
			require.Equal(t, "hub.test", c.Request().Host)
			ended := make(chan time.Time, 1)
			context.AfterFunc(ctx, func() { ended <- time.Now() })
			time.Sleep(time.Second)
			_ = client.Close()
			require.Equal(t, time.Now(), <-ended)
			require.ErrorIs(t, ctx.Err(), context.Canceled)
			require.Equal(t, "session", ctx.Value(key{}))
			require.NoError(t, atDisconnect, "onDisconnect may still use it")
			hub.requireSettled(l, 1, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}
