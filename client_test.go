package websocket_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/hubtest"
	"github.com/maoxiaoyue/hypgo-websocket/internal/testnet"
	"github.com/stretchr/testify/require"
)

func TestClientVerbs(t *testing.T) {
	t.Parallel()
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
	p, c := b.connect(t, dialing{codec: "flatbuffers", query: "id=alice"})
	other, _ := b.connect(t, dialing{query: "id=bob"})
	text := func(s string) *websocket.Message { return &websocket.Message{Data: []byte(s)} }

	require.NoError(t, c.Subscribe("news"))
	require.NoError(t, c.Subscribe("news"), "a second Subscribe is no error")
	require.NoError(t, b.hub.PublishToChannel("news", text("1")))
	require.NoError(t, c.Unsubscribe("news"))
	require.NoError(t, c.Unsubscribe("news"))
	require.NoError(t, b.hub.PublishToChannel("news", text("after leaving")))
	require.NoError(t, c.JoinRoom("r"))
	require.NoError(t, c.JoinRoom("r"))
	require.Equal(t, map[string]int{"r": 1}, roomsOf(b.hub))
	require.Empty(t, channelsOf(b.hub))
	require.NoError(t, b.hub.PublishToRoom("r", text("2")))
	require.NoError(t, b.hub.PublishToChannel("r", text("to a channel with the name of a room")))
	members, err := b.hub.RoomMembers(t.Context(), "r")
	require.NoError(t, err)
	require.Equal(t, []string{"alice"}, members)
	require.NoError(t, c.LeaveRoom("r"))
	require.NoError(t, c.LeaveRoom("r"))
	require.NoError(t, b.hub.PublishToRoom("r", text("after leaving")))
	members, err = b.hub.RoomMembers(t.Context(), "r")
	require.NoError(t, err)
	require.Empty(t, members)
	require.NoError(t, c.Send(text("3")))
	require.NoError(t, b.hub.SendToClient("alice", text("4")))
	require.NoError(t, c.SendContext(t.Context(), text("5")))
	for i := 1; i <= 5; i++ {
		require.Equal(t, fmt.Sprint(i), string(p.read(t).Data))
	}
	other.do(t, wire{Type: "broadcast"}) // the other client received none of these messages

	_, ok := c.GetMetadata("k")
	require.False(t, ok)
	c.SetMetadata("k", "v")
	v, ok := c.GetMetadata("k")
	require.True(t, ok)
	require.Equal(t, "v", v)

	got, ok := b.hub.Client("alice")
	require.True(t, ok)
	require.Same(t, c, got)
	_, ok = b.hub.Client("nobody")
	require.False(t, ok)
	var ids []string
	for c := range b.hub.Clients() {
		ids = append(ids, c.ID)
		require.NoError(t, c.Send(text("in the loop")))
	}
	slices.Sort(ids)
	require.Equal(t, []string{"alice", "bob"}, ids)
	for range b.hub.Clients() {
		break
	}
	require.NoError(t, c.CloseError())
}

func TestInvalidKeyClosesClient(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		set  func(c *websocket.Client) error
	}{
		{"short AES key", func(c *websocket.Client) error { return c.SetEncryptionKey(make([]byte, 16)) }},
		{"empty AES key", func(c *websocket.Client) error { return c.SetEncryptionKey([]byte{}) }},
		{"empty HMAC key", func(c *websocket.Client) error { return c.SetHMACKey([]byte{}) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			set := make(chan error, 1)
			b := setup(t, websocket.DefaultConfig, options{onConnect: func(c *websocket.Client) {
				set <- tt.set(c)
				_ = c.Send(&websocket.Message{Data: []byte("a secret")})
			}})
			p, c := b.connect(t, dialing{})
			require.ErrorIs(t, await(t, set), websocket.ErrInvalidKey)
			p.requireClosed(t, websocket.ClosePolicyViolation)
			require.Same(t, c, b.disconnected.take(t))
			require.NotContains(t, string(p.tap.bytes()), "a secret")
		})
	}
}

// The caller may overwrite keys after NewHub, SetEncryptionKey and SetHMACKey.
func TestKeysAreCopied(t *testing.T) {
	t.Parallel()
	keys := randomKeys()
	config := websocket.DefaultConfig
	config.Security = websocket.NewSecurityConfig(bytes.Clone(keys.aes), bytes.Clone(keys.hmac))
	own := randomKeys()
	b := setup(t, config, options{onConnect: func(c *websocket.Client) {
		if c.Request().URL.RawQuery == "own" {
			k := bytes.Clone(own.aes)
			_ = c.SetEncryptionKey(k)
			clear(k)
			k = bytes.Clone(own.hmac)
			_ = c.SetHMACKey(k)
			clear(k)
		}
	}})
	clear(config.Security.AESKey)
	clear(config.Security.HMACKey)
	p, _ := b.connect(t, dialing{keys: keys})
	p.do(t, wire{Type: "broadcast"})
	q, _ := b.connect(t, dialing{keys: own, query: "own"})
	q.do(t, wire{Type: "broadcast"})
}

// The context of Client.Request outlives the handler, whose own context net/http
// cancels, and ends with the connection.
func TestRequestContextEndsWithConnection(t *testing.T) {
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
			server, client := testnet.Pair(1 << 16)
			h := hubtest.Serve(t, hub.Hub, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				hub.Handler().ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "session")))
			}))
			served := h.ServeConn(server)
			_, _, err := dialOver(client, nil)
			require.NoError(t, err)
			<-served // net/http has ended the handler's context
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
			hub.requireAllEnded(l, 1, websocket.ErrClientClosed)
			require.ErrorIs(t, atDisconnect, context.Canceled, "the context ends before onDisconnect")
			hub.stop()
		})
	})
}

// TestRequestIsTheHandshakes compares Client.Request, which the hub keeps in a compact form, with
// the request that the handler got.
func TestRequestIsTheHandshakes(t *testing.T) {
	hidden := []string{"Connection", "Upgrade", "Sec-Websocket-Key", "Sec-Websocket-Version", "Sec-Websocket-Extensions"}
	handlers := map[string]func(http.Handler) http.Handler{
		"plain":    func(h http.Handler) http.Handler { return h },
		"stripped": func(h http.Handler) http.Handler { return http.StripPrefix("/a", h) },
		"changed": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				r.URL.Fragment, r.URL.User = "top", url.User("ann")
				r.Host, r.RemoteAddr = "other.test", "192.0.2.1:7"
				r.Header["X-Several"] = []string{"", "a\nb", strings.Repeat("long", 300)}
				r.SetPathValue("room", "lobby")
				_ = r.ParseForm()
				h.ServeHTTP(w, r)
			})
		},
		"pattern": func(h http.Handler) http.Handler {
			mux := http.NewServeMux()
			mux.Handle("GET /a/{room...}", h)
			return mux
		},
	}
	for name, wrap := range handlers {
		for _, target := range []string{"/a/", "/a/b?id=1&x=%20", "/a/b?", "/a/%2F%41/c", "/a//b", "/a/*?", "/a/é", "http://hub.test/a/b?c=d"} {
			if name == "pattern" && target == "/a//b" {
				continue // ServeMux redirects it
			}
			synctest.Test(t, func(t *testing.T) {
				hub := runFake(t, paths[0], websocket.DefaultConfig)
				var want *http.Request
				h := hubtest.Serve(t, hub.Hub, wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					want = r.Clone(r.Context())
					hub.Handler().ServeHTTP(w, r)
				})))
				server, client := testnet.Pair(1 << 16)
				served := h.ServeConn(server)
				peer := rawOver(t, client, strings.Replace(handshakeOf("X-One: 1", "Cookie: a=b", "Cookie: c=d"), "GET /", "GET "+target, 1)).requireOpen()
				<-served
				got := onlyClient(t, hub).Request()
				for _, field := range hidden {
					want.Header.Del(field)
				}
				require.Equal(t, want.Header, got.Header, "%s %s", name, target)
				require.Equal(t, want.URL, got.URL, "%s %s", name, target)
				require.Equal(t, want.Form, got.Form)
				require.Equal(t, []string{want.Method, want.Proto, want.Host, want.RemoteAddr, want.RequestURI, want.Pattern, want.PathValue("room")},
					[]string{got.Method, got.Proto, got.Host, got.RemoteAddr, got.RequestURI, got.Pattern, got.PathValue("room")})
				require.Equal(t, got.URL, onlyClient(t, hub).Request().URL)
				_ = peer.nc.Close()
				hub.stop()
			})
		}
	}
}

func TestKeysSetInOnConnectHoldForTheFirstFrame(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			hub := runFake(t, p, websocket.DefaultConfig, func(h *websocket.Hub) {
				h.SetCallbacks(func(c *websocket.Client) {
					_ = h.Broadcast([]byte("1"))
					time.Sleep(time.Second) // the hub goroutine routes the message
					_ = c.SetEncryptionKey(key)
					_ = h.Broadcast([]byte("2"))
				}, nil, nil)
			})
			defer hub.stop()
			peer := hub.connect(1<<16, nil)
			for i := 1; i <= 2; i++ {
				mt, b, err := peer.ReadMessage()
				require.NoError(t, err)
				require.Equal(t, gorilla.BinaryMessage, mt)
				plain, err := websocket.Decrypt(b, key)
				require.NoError(t, err)
				require.Contains(t, string(plain), fmt.Sprintf(`"data":%d`, i))
			}
			_ = peer.Close()
		})
	})
}

// A Client that is larger than this would take the allocator's next size class,
// which is 128 bytes larger.
func TestClientSize(t *testing.T) {
	if math.MaxInt == math.MaxInt32 {
		t.Skip("the figures are those of 64-bit platforms")
	}
	const sizeClass, header = 768, 8
	require.LessOrEqual(t, int(websocket.ClientSize), sizeClass-header)
}
