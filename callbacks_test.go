package websocket_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
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

// hooks are the callbacks that the hub runs for a connected client.
var hooks = []string{"onConnect", "onMessage", "onDisconnect", "Authorize", "OnDrop"}

// victimHub is a hub with one hook that misbehaves for the client "victim". The
// client "bystander" must not notice it.
type victimHub struct {
	*fakeHub
	t         *testing.T
	lives     *callbackLog
	logs      *logCapture
	hook      string
	victim    *fakePeer
	client    *websocket.Client
	bystander *fakePeer
	drops     atomic.Int64 // calls of OnDrop
}

// startVictim runs a hub in which hook calls do, once, for the victim. If the test
// fails, gate is closed so that the hub can end.
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
	config.MaxMessageSize, config.ClientBacklog = 1000, 10_000
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

// provoke connects the victim and makes the hub call the hook.
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

// overflow sends more than fits the victim's backlog.
func (v *victimHub) overflow() {
	v.t.Helper()
	v.victim.server.SetWindow(1)
	for i := range 20 {
		if err := v.SendToClient("victim", &websocket.Message{Data: numbered(i, 1000)}); err != nil {
			break // OnDrop has closed the client or the hub
		}
	}
	synctest.Wait()
}

// requireBystander sends the bystander a message, which must arrive at once.
func (v *victimHub) requireBystander() {
	v.t.Helper()
	start := time.Now()
	require.NoError(v.t, v.SendToClient("bystander", &websocket.Message{Type: "ping"}))
	require.Equal(v.t, "ping", readJSON(v.t, v.bystander)["type"])
	require.Equal(v.t, start, time.Now())
}

// nilMap returns a nil map, so that a write to it panics.
func nilMap() map[int]int { return nil }

// nilError returns a nil error, so that a panic with it has no value.
func nilError() error { return nil }

// A callback that panics or ends its goroutine closes its client with code 1011. Other
// clients are not affected.
func TestFailingCallbackClosesOnlyItsClient(t *testing.T) {
	failures := []struct {
		name string
		fail func(h *websocket.Hub, c *websocket.Client)
		log  string
	}{
		{"panic", func(*websocket.Hub, *websocket.Client) { panic("oh no") }, "oh no"},
		{"panic with an error", func(*websocket.Hub, *websocket.Client) { panic(errors.New("oh no")) }, "oh no"},
		{"nil map", func(*websocket.Hub, *websocket.Client) { m := nilMap(); m[0] = 1 }, "nil map"},
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
							codes = append(codes, 4001) // both are correct: the connection may see either first
						}
						require.Contains(t, codes, r.code, "%v", r.err)
						require.Len(t, v.logs.matching("error", hook+` of client "victim"`), 1)
						require.Len(t, v.logs.matching("error", tt.log), 1)
						require.Len(t, v.logs.matching("error", "callbacks_test.go"), 1, "the log has the stack")
						require.Equal(t, 1, v.Stats().ActiveConnections)
						_ = v.bystander.Close()
						v.requireAllEnded(v.lives, 2, websocket.ErrClientClosed)
						v.stop()
					})
				})
			}
		}
	})
}

// After OnDrop has panicked or ended its goroutine, the hub still reports later drops.
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
				require.Greater(t, v.drops.Load(), seen, "OnDrop is not called any more")
				_ = v.bystander.Close()
				v.stop()
			})
		})
	}
}

// A callback may block for longer than every time limit of the hub. It delays only its
// own client, which stays connected.
func TestSlowCallbackDelaysOnlyItsClient(t *testing.T) {
	const long = 3 * time.Minute
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					start := time.Now()
					v := startVictim(t, p, hook, nil, func(*websocket.Hub, *websocket.Client) { time.Sleep(long) })
					go keepAlive(v.bystander)
					v.provoke()
					if hook == "OnDrop" {
						v.victim.server.SetWindow(1 << 16)
						go keepAlive(v.victim)
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
					v.requireAllEnded(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// A callback that never returns is named in the error of Shutdown and Run.
func TestStuckCallbackIsNamed(t *testing.T) {
	onBothPaths(t, func(t *testing.T, p path) {
		for _, hook := range hooks {
			t.Run(hook, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					gate := make(chan struct{})
					v := startVictim(t, p, hook, gate, func(*websocket.Hub, *websocket.Client) { <-gate })
					go keepAlive(v.bystander)
					v.provoke()
					if hook == "OnDrop" {
						v.victim.server.SetWindow(1 << 16)
						go keepAlive(v.victim)
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
					v.requireAllEnded(v.lives, 2, websocket.ErrHubClosed)
				})
			})
		}
	})
}

// OnDrop runs for a client while its onMessage is stuck. The error names onMessage.
func TestStuckCallbackIsNamedAfterOnDropRan(t *testing.T) {
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
		v.requireAllEnded(v.lives, 2, websocket.ErrHubClosed)
	})
}

// The callbacks of two clients and OnDrop never return. The error names all three.
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
		_ = peers[2].Close() // the message is dropped
		err := hub.Shutdown(context.Background())
		var stuck *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &stuck)
		close(gate)
		for _, p := range peers {
			_ = p.Close()
		}
		hub.requireAllEnded(l, 3, websocket.ErrHubClosed)
		require.Len(t, stuck.Callbacks, 3, "%v", err)
		require.Contains(t, stuck.Callbacks, `onMessage of client "alice"`)
		require.Contains(t, stuck.Callbacks, `onMessage of client "bob"`)
	})
}

// Every callback may call every method of the hub and the client.
func TestCallbacksMayCallEveryMethod(t *testing.T) {
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
					go keepAlive(v.bystander)
					v.provoke()
					if hook == "onDisconnect" {
						require.Len(t, failed, 9, "the methods of the client: %v", failed)
						for name, err := range failed {
							require.ErrorIs(t, err, websocket.ErrClientClosed, name)
						}
					} else {
						require.Empty(t, failed)
					}
					_ = v.victim.Close()
					_ = v.bystander.Close()
					v.requireAllEnded(v.lives, 2, websocket.ErrClientClosed)
					v.stop()
				})
			})
		}
	})
}

// SetCallbacks replaces all three callbacks of Config, also with nil.
func TestCallbacksInConfig(t *testing.T) {
	for _, replaced := range []bool{false, true} {
		t.Run(fmt.Sprint("replaced ", replaced), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var calls []string
				config := websocket.DefaultConfig
				config.OnConnect = func(*websocket.Client) { calls = append(calls, "connect") }
				config.OnDisconnect = func(*websocket.Client) { calls = append(calls, "disconnect") }
				config.OnMessage = func(_ *websocket.Client, m *websocket.Message) { calls = append(calls, m.Type) }
				want := []string{"connect", "hello", "disconnect"}
				hub := runFake(t, paths[0], config, func(h *websocket.Hub) {
					if replaced {
						h.SetCallbacks(nil, func(*websocket.Client) { calls = append(calls, "replaced") }, nil)
						want = []string{"replaced"}
					}
				})
				defer hub.stop()
				peer := hub.connect(1<<16, nil)
				require.NoError(t, peer.WriteMessage(websocket.TextMessage, []byte(`{"type":"hello"}`)))
				require.NoError(t, peer.Close())
				synctest.Wait()
				require.Equal(t, want, calls)
			})
		})
	}
}

func TestSetCallbacksPanicsAfterFirstConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	b.hub.SetCallbacks(func(c *websocket.Client) { b.connected.put(c) }, nil, nil) // allowed before the first connection
	p, _ := b.connect(t, dialing{})
	require.Panics(t, func() { b.hub.SetCallbacks(nil, nil, nil) })
	p.do(t, wire{Type: "broadcast"})
}

// A refused handshake is no connection: a health check of the endpoint may come before
// SetCallbacks.
func TestSetCallbacksIsAllowedAfterRefusedHandshake(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	response := b.handshake(t, "", http.Header{"Connection": nil, "Upgrade": nil})
	require.Equal(t, http.StatusUpgradeRequired, response.StatusCode)
	require.NotPanics(t, func() { b.hub.SetCallbacks(nil, nil, nil) })
}

func TestPanicInCallbacks(t *testing.T) {
	t.Parallel()
	isBad := func(c *websocket.Client) bool { return c.ID == "bad" }
	tests := []struct {
		name string
		o    options
	}{
		{"onConnect", options{onConnect: func(c *websocket.Client) {
			if isBad(c) {
				panic("boom")
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if isBad(c) {
				m := nilMap()
				m[1] = 1
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if isBad(c) {
				panic(nilError()) // becomes a runtime.PanicNilError
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if isBad(c) {
				runtime.Goexit() // as FailNow does
			}
		}}},
		{"onDisconnect", options{onDisconnect: func(c *websocket.Client) {
			if isBad(c) {
				panic("boom")
			}
		}}},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, tt.name), func(t *testing.T) {
			t.Parallel()
			tt.o.logsError = true
			b := setup(t, withQueryID(websocket.DefaultConfig), tt.o)
			good, _ := b.connect(t, dialing{query: "id=good"})
			good.subscribe(t, "news")
			p, c := b.connect(t, dialing{query: "id=bad"})
			if tt.name == "onDisconnect" {
				p.closeCleanly(t)
			} else {
				if tt.name == "onMessage" {
					p.send(t, wire{Type: "subscribe", Data: jsonChannel("news")})
				}
				p.requireClosed(t, websocket.CloseInternalError)
				require.Same(t, c, b.disconnected.take(t))
				require.Equal(t, websocket.CloseInternalError, closeErrorOf(c).Code)
			}
			good.do(t, wire{Type: "publish", Channel: "news"})
			var logged []string
			require.Eventually(t, func() bool {
				logged = b.logs.matching("error", tt.name+` of client "bad" panicked`)
				return len(logged) > 0
			}, patience, time.Millisecond)
			require.Len(t, logged, 1)
			require.Contains(t, logged[0], "callbacks_test.go", "the log has the stack")
			requireClientEnded(t, c)
		})
	}
}

// The callbacks of many clients call the hub, their own client and the other clients at
// the same time.
func TestConcurrentCallbacksMayCallEachOther(t *testing.T) {
	t.Parallel()
	var b *bundle
	var connects, messages, disconnects atomic.Int64
	anything := func(c *websocket.Client) {
		m := &websocket.Message{Type: "noise"}
		_ = c.Subscribe("c")
		_ = c.JoinRoom("r")
		_ = c.Send(m)
		_ = b.hub.SendToClient(c.ID, m)
		_ = b.hub.PublishToChannel("c", m)
		_ = b.hub.PublishToRoom("r", m)
		_ = b.hub.Broadcast(nil)
		_ = c.Unsubscribe("c")
		_ = c.LeaveRoom("r")
		b.hub.Stats()
		_, _ = b.hub.RoomMembers(c.Request().Context(), "r")
		for other := range b.hub.Clients() {
			_ = other.Send(m)
		}
		_, _ = b.hub.Client(c.ID)
		c.SetMetadata("k", c.Codec().Name())
		_ = c.CloseError()
		_ = b.hub.Run(context.Background()) // returns ErrHubRunning
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		_ = b.hub.SendToClientContext(ended, c.ID, m)
	}
	ready := make(chan struct{})
	o := options{
		onConnect:    func(c *websocket.Client) { <-ready; anything(c); connects.Add(1) },
		onDisconnect: func(c *websocket.Client) { anything(c); disconnects.Add(1) },
		onMessage: func(c *websocket.Client, m *websocket.Message) {
			anything(c)
			messages.Add(1)
			if m.Type == "leave" {
				_ = c.Close(4000, "left")
			}
		},
	}
	b = setup(t, websocket.DefaultConfig, o)
	close(ready)
	const n = 20
	ends := make(chan error, n)
	for i := range n {
		go func() { // ends when the hub closes the connection
			p, err := b.tryDial(dialing{codec: subprotocols[i%4]})
			if err != nil {
				ends <- err
				return
			}
			defer func() { _ = p.Conn.Close() }()
			for _, typ := range []string{"own", "broadcast", "leave"} {
				opcode := gorilla.TextMessage
				if p.codec.binary {
					opcode = gorilla.BinaryMessage
				}
				data, _ := p.codec.encode(wire{Type: typ})
				if err := p.WriteMessage(opcode, data); err != nil {
					ends <- err
					return
				}
			}
			for err == nil {
				_, err = p.tryRead()
			}
			ends <- err
		}()
	}
	for range n {
		require.True(t, gorilla.IsCloseError(await(t, ends), 4000))
		b.disconnected.take(t)
	}
	require.EqualValues(t, n, connects.Load())
	require.EqualValues(t, 3*n, messages.Load())
	require.EqualValues(t, n, disconnects.Load())
}
