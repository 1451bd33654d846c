package websocket_test

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// handshake asks for an upgrade with nothing but net/http.
func (b *bundle) handshake(t testing.TB, query string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server.URL+"?"+query, nil)
	require.NoError(t, err)
	r.Header = http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for key, values := range header {
		if values == nil {
			delete(r.Header, key)
		} else {
			r.Header[key] = values
		}
	}
	if method := r.Header.Get("Test-Method"); method != "" {
		r.Method = method
	}
	answer, err := b.server.Client().Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = answer.Body.Close() }) // closed before, in some tests
	return answer
}

func bodyOf(t testing.TB, answer *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	return string(body)
}

func TestNegotiation(t *testing.T) {
	t.Parallel()
	all := subprotocols
	tests := []struct {
		name   string
		spoken []string
		offers []string // header lines
		status int
		echoed string
		codec  string
	}{
		{"the client's preference", all, []string{"protobuf, json"}, 101, "protobuf", "protobuf"},
		{"the other way round", all, []string{"json, protobuf"}, 101, "json", "json"},
		{"over several lines", all, []string{"msgpack", "json,protobuf"}, 101, "msgpack", "msgpack"},
		{"first that is spoken", all, []string{"graphql-ws,  flatbuffers , json"}, 101, "flatbuffers", "flatbuffers"},
		{"first that is allowed", []string{"json", "msgpack"}, []string{"protobuf, msgpack, json"}, 101, "msgpack", "msgpack"},
		{"none", all, nil, 101, "", "json"},
		{"none, json is not first", []string{"protobuf", "json"}, nil, 101, "", "json"},
		{"none, no json", []string{"protobuf"}, nil, 101, "", "protobuf"},
		{"credentials first", all, []string{"bearer.c2VjcmV0, protobuf"}, 101, "protobuf", "protobuf"},
		{"credentials last", all, []string{"protobuf", "bearer.c2VjcmV0"}, 101, "protobuf", "protobuf"},
		{"credentials only", all, []string{"bearer.c2VjcmV0"}, 101, "", "json"},
		{"unknown", all, []string{"graphql-ws"}, 400, "", ""},
		{"unknown with credentials", all, []string{"bearer.c2VjcmV0, graphql-ws"}, 400, "", ""},
		{"names are exact", all, []string{"JSON"}, 400, "", ""},
		{"not allowed", []string{"json"}, []string{"protobuf"}, 400, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Subprotocols = tt.spoken
			b := setup(t, config, options{})
			header := http.Header{}
			if tt.offers != nil {
				header["Sec-Websocket-Protocol"] = tt.offers
			}
			answer := b.handshake(t, "", header)
			require.Equal(t, tt.status, answer.StatusCode)
			require.Equal(t, tt.echoed, strings.Join(answer.Header["Sec-Websocket-Protocol"], "|"))
			if tt.status == 101 {
				require.Equal(t, tt.codec, b.connected.take(t).Codec().Name())
				return
			}
			require.Contains(t, bodyOf(t, answer), strings.Join(tt.spoken, ", "))
			require.Empty(t, answer.Header.Get("Retry-After"))
			require.Zero(t, b.connected.len())
		})
	}
}

func TestExtensionNegotiation(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	const agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	tests := []struct {
		offers []string
		want   string
	}{
		{nil, ""},
		{[]string{"permessage-deflate"}, agreed},
		{[]string{"permessage-deflate; client_max_window_bits"}, agreed},
		{[]string{"permessage-deflate; client_max_window_bits=10"}, agreed},
		{[]string{"permessage-deflate; server_no_context_takeover; client_no_context_takeover"}, agreed},
		{[]string{"permessage-deflate; server_max_window_bits=10"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits"}, ""},
		{[]string{"permessage-deflate; client_max_window_bits=7"}, ""},
		{[]string{"permessage-deflate; client_no_context_takeover=1"}, ""},
		{[]string{"permessage-deflate; client_no_context_takeover; client_no_context_takeover"}, ""},
		{[]string{"permessage-deflate; mystery"}, ""},
		{[]string{"permessage-deflate; server_max_window_bits=10, permessage-deflate"}, agreed},
		{[]string{"permessage-deflate; server_max_window_bits=10", "permessage-deflate"}, agreed},
		{[]string{"x-webkit-deflate-frame"}, ""},
	}
	for _, tt := range tests {
		header := http.Header{}
		if tt.offers != nil {
			header["Sec-Websocket-Extensions"] = tt.offers
		}
		answer := b.handshake(t, "", header)
		require.Equal(t, 101, answer.StatusCode)
		require.Equal(t, tt.want, answer.Header.Get("Sec-Websocket-Extensions"), "%q", tt.offers)
		require.NoError(t, answer.Body.Close())
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	refuseID := func(*http.Request) (string, error) { return "", errors.New("who are you\nERROR forged line") }
	fixed := func(id string) func(*http.Request) (string, error) {
		return func(*http.Request) (string, error) { return id, nil }
	}
	tests := []struct {
		name   string
		config func(*websocket.Config)
		header http.Header
		status int
	}{
		{"plain GET", nil, http.Header{"Connection": nil, "Upgrade": nil}, 426},
		{"other upgrade", nil, http.Header{"Upgrade": {"h2c"}}, 426},
		{"POST", nil, http.Header{"Test-Method": {"POST"}}, 405},
		{"old version", nil, http.Header{"Sec-Websocket-Version": {"8"}}, 400},
		{"no key", nil, http.Header{"Sec-Websocket-Key": nil}, 400},
		{"unknown subprotocol", nil, http.Header{"Sec-Websocket-Protocol": {"soap"}}, 400},
		{"not authenticated", func(c *websocket.Config) { c.ClientID = refuseID }, nil, 401},
		{"empty ID", func(c *websocket.Config) { c.ClientID = fixed("") }, nil, 401},
		{"long ID", func(c *websocket.Config) { c.ClientID = fixed(strings.Repeat("x", 256)) }, nil, 401},
		{"ID is not UTF-8", func(c *websocket.Config) { c.ClientID = fixed("\xff") }, nil, 401},
		{"cross origin", nil, http.Header{"Origin": {"https://evil.example"}}, 403},
		{"origin null", nil, http.Header{"Origin": {"null"}}, 403},
		{"origin without sense", nil, http.Header{"Origin": {"%%%"}}, 403},
		{"CheckOrigin", func(c *websocket.Config) { c.CheckOrigin = func(*http.Request) bool { return false } }, nil, 403},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			if tt.config != nil {
				tt.config(&config)
			}
			b := setup(t, config, options{})
			answer := b.handshake(t, "", tt.header)
			require.Equal(t, tt.status, answer.StatusCode)
			require.NotEmpty(t, bodyOf(t, answer))
			require.Equal(t, "13", answer.Header.Get("Sec-Websocket-Version"))
			require.Equal(t, tt.status == 426, answer.Header.Get("Upgrade") == "websocket")
			require.Zero(t, b.connected.len())
			require.Zero(t, b.hub.Stats().TotalConnections)
			if tt.status == 401 {
				require.Len(t, b.logs.matching("info", "refused"), 1)
			}
		})
	}
}

func TestOriginsAllowed(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	require.Equal(t, 101, b.handshake(t, "", http.Header{"Origin": {b.server.URL}}).StatusCode)
	require.Equal(t, 101, b.handshake(t, "", nil).StatusCode)

	config := websocket.DefaultConfig
	config.CheckOrigin = func(r *http.Request) bool { return r.Header.Get("Origin") == "https://friend.example" }
	b = setup(t, config, options{})
	require.Equal(t, 101, b.handshake(t, "", http.Header{"Origin": {"https://friend.example"}}).StatusCode)
	require.Equal(t, 403, b.handshake(t, "", http.Header{"Origin": {b.server.URL}}).StatusCode)
}

// named makes ?id= the client's ID.
func named(config websocket.Config) websocket.Config {
	config.ClientID = func(r *http.Request) (string, error) { return r.URL.Query().Get("id"), nil }
	return config
}

func TestRefuseDuplicate(t *testing.T) {
	t.Parallel()
	b := setup(t, named(websocket.DefaultConfig), options{})
	p, first := b.connect(t, dialing{query: "id=alice"})
	answer := b.handshake(t, "id=alice", nil)
	require.Equal(t, http.StatusConflict, answer.StatusCode)
	require.Equal(t, 101, b.handshake(t, "id=bob", nil).StatusCode)
	require.Equal(t, "bob", b.connected.take(t).ID)

	require.NoError(t, p.Conn.Close())
	require.Same(t, first, b.disconnected.take(t))
	_, second := b.connect(t, dialing{query: "id=alice"}) // free by the time of onDisconnect
	require.NotSame(t, first, second)
	require.ErrorIs(t, first.Send(&websocket.Message{}), websocket.ErrClientClosed)
}

func TestReplaceDuplicate(t *testing.T) {
	t.Parallel()
	config := named(websocket.DefaultConfig)
	config.DuplicateID = websocket.ReplaceDuplicate
	b := setup(t, config, options{})
	old, first := b.connect(t, dialing{query: "id=alice"})
	old.subscribe(t, "news")
	fresh, second := b.connect(t, dialing{query: "id=alice", codec: "msgpack"})
	fresh.do(t, wire{Type: "broadcast"})

	require.NotEmpty(t, old.requireReplaced(t))
	require.NoError(t, old.Conn.Close())
	require.Same(t, first, b.disconnected.take(t))
	require.Equal(t, websocket.CloseReplaced, closeErrorOf(first).Code)
	require.False(t, closeErrorOf(first).ByPeer)

	got, ok := b.hub.Client("alice") // the loser's end took nothing of the winner's
	require.True(t, ok)
	require.Same(t, second, got)
	require.NoError(t, b.hub.SendToClient("alice", &websocket.Message{Data: []byte("for you")}))
	require.Equal(t, "for you", string(fresh.read(t).Data))
	require.Equal(t, 1, b.hub.Stats().ActiveConnections)
	require.Empty(t, channelsOf(b.hub), "memberships go with the connection")
	require.ErrorIs(t, first.Subscribe("news"), websocket.ErrClientClosed)
}

// requireReplaced reads past what was sent before the end.
func (p *peer) requireReplaced(t testing.TB) string {
	t.Helper()
	for {
		if _, err := p.tryRead(); err != nil {
			var closed *gorilla.CloseError
			require.ErrorAs(t, err, &closed)
			require.Equal(t, websocket.CloseReplaced, closed.Code)
			return closed.Text
		}
	}
}

// TestReplaceRace has many connections with one ID at once: one is left, and it
// works.
func TestReplaceRace(t *testing.T) {
	t.Parallel()
	const n = 40
	config := named(websocket.DefaultConfig)
	config.DuplicateID = websocket.ReplaceDuplicate
	b := setup(t, config, options{})
	dialed := make(chan *peer, n)
	for range n {
		go func() { // ends when it has connected
			p, err := b.tryDial(dialing{query: "id=alice"})
			if err != nil {
				p = nil
			}
			dialed <- p
		}()
	}
	ends := make(chan error, n)
	for range n {
		p := await(t, dialed)
		require.NotNil(t, p)
		t.Cleanup(func() { _ = p.Conn.Close() })
		go func() { // ends with the peer's connection
			for {
				m, err := p.tryRead()
				if err != nil {
					ends <- err
					return
				}
				if m.Type == "only one" {
					ends <- nil
					return
				}
			}
		}()
	}
	for range n {
		b.connected.take(t)
	}
	for range n - 1 {
		require.True(t, gorilla.IsCloseError(await(t, ends), websocket.CloseReplaced))
	}
	require.NoError(t, b.hub.SendToClient("alice", &websocket.Message{Type: "only one"}))
	require.NoError(t, await(t, ends))
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.HandshakeTimeout = 50 * time.Millisecond
	b := setup(t, config, options{notRun: true})
	for _, when := range []string{"before Run", "after Shutdown"} {
		answer := b.handshake(t, "", nil)
		require.Equal(t, http.StatusServiceUnavailable, answer.StatusCode, when)
		require.NotEmpty(t, answer.Header.Get("Retry-After"), when)
		require.NoError(t, b.hub.Shutdown(t.Context()))
	}
	require.Zero(t, b.connected.len())
}

// TestHandshakeWaitsForRun also shows what may be called before Run.
func TestHandshakeWaitsForRun(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{notRun: true})
	require.NoError(t, b.hub.Broadcast([]byte("to nobody")))
	require.NoError(t, b.hub.PublishToChannelRaw("news", []byte("to nobody")))
	require.ErrorIs(t, b.hub.SendToClient("x", &websocket.Message{}), websocket.ErrClientNotFound)
	_, err := b.hub.RoomMembers(t.Context(), "r")
	require.ErrorIs(t, err, websocket.ErrHubNotRunning)
	require.Zero(t, b.hub.Stats().ActiveConnections)

	dialed := make(chan error, 1)
	go func() { // ends with the handshake
		p, err := b.tryDial(dialing{})
		if err == nil {
			err = p.Conn.Close()
		}
		dialed <- err
	}()
	ran := make(chan error, 1)
	go func() { ran <- b.hub.Run(context.Background()) }() // ends with Shutdown
	require.NoError(t, await(t, dialed))
	b.disconnected.take(t)
	require.NoError(t, b.hub.Shutdown(t.Context()))
	require.NoError(t, await(t, ran))
}

func TestRunAndShutdown(t *testing.T) {
	t.Parallel()
	t.Run("second Run", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, _ := b.connect(t, dialing{}) // Run has begun
		require.ErrorIs(t, b.hub.Run(t.Context()), websocket.ErrHubRunning)
		p.do(t, wire{Type: "broadcast"})
		require.NoError(t, p.Conn.Close())
		require.NoError(t, b.hub.Shutdown(t.Context()))
		require.ErrorIs(t, b.hub.Run(t.Context()), websocket.ErrHubClosed)
		require.NoError(t, b.hub.Shutdown(t.Context()), "a second Shutdown")
	})
	t.Run("Shutdown before Run", func(t *testing.T) {
		t.Parallel()
		hub := websocket.NewHub(&logCapture{}, websocket.DefaultConfig)
		require.NoError(t, hub.Shutdown(t.Context()))
		require.ErrorIs(t, hub.Run(t.Context()), websocket.ErrHubClosed)
		requireHubClosed(t, hub)
	})
	t.Run("end of Run's context", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{notRun: true})
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() { ran <- b.hub.Run(ctx) }() // ends with ctx
		p, c := b.connect(t, dialing{codec: "protobuf"})
		for i := range 100 {
			require.NoError(t, c.Send(&websocket.Message{Type: fmt.Sprint(i)}))
		}
		cancel()
		for i := range 100 {
			require.Equal(t, fmt.Sprint(i), p.read(t).Type) // queued before, so delivered
		}
		require.NotEmpty(t, p.requireClosed(t, websocket.CloseGoingAway))
		require.NoError(t, p.Conn.Close())
		require.NoError(t, await(t, ran))
		require.Equal(t, websocket.CloseGoingAway, closeErrorOf(c).Code)
		requireHubClosed(t, b.hub)
		requireClientEnded(t, c)
	})
	t.Run("Shutdown's context ends", func(t *testing.T) {
		t.Parallel()
		entered, release := make(chan struct{}), make(chan struct{})
		b := setup(t, websocket.DefaultConfig, options{onConnect: func(*websocket.Client) { close(entered); <-release }})
		b.dial(t, dialing{})
		<-entered
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		require.ErrorIs(t, b.hub.Shutdown(ctx), context.Canceled)
		close(release)
	})
	t.Run("a callback does not end", func(t *testing.T) {
		t.Parallel()
		config := websocket.DefaultConfig
		config.DrainTimeout, config.CallbackTimeout = 20*time.Millisecond, 20*time.Millisecond
		release := make(chan struct{})
		b := setup(t, named(config), options{runError: true, onMessage: func(*websocket.Client, *websocket.Message) { <-release }})
		p, _ := b.connect(t, dialing{query: "id=alice"})
		p.send(t, wire{Type: "own"})
		b.messages.take(t)
		err := b.hub.Shutdown(t.Context())
		var timeout *websocket.CallbackTimeoutError
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, []string{`onMessage of client "alice"`}, timeout.Callbacks)
		require.Contains(t, err.Error(), "alice")
		require.Equal(t, err, await(t, b.ran), "Run returns the same")
		close(release)
		b.disconnected.take(t)
	})
	t.Run("hub is closed in onDisconnect", func(t *testing.T) {
		t.Parallel()
		var seen error
		var b *bundle
		b = setup(t, websocket.DefaultConfig, options{onDisconnect: func(c *websocket.Client) {
			seen = b.hub.Broadcast(nil)
		}})
		p, _ := b.connect(t, dialing{})
		shut := make(chan error, 1)
		go func() { shut <- b.hub.Shutdown(context.Background()) }() // ends with the hub
		p.requireClosed(t, websocket.CloseGoingAway)
		require.NoError(t, p.Conn.Close())
		require.NoError(t, await(t, shut))
		require.ErrorIs(t, seen, websocket.ErrHubClosed)
	})
}

// requireHubClosed calls everything of a hub that has stopped.
func requireHubClosed(t *testing.T, hub *websocket.Hub) {
	t.Helper()
	m, ctx := &websocket.Message{}, t.Context()
	_, membersErr := hub.RoomMembers(ctx, "r")
	for name, err := range map[string]error{
		"PublishToChannel":    hub.PublishToChannel("c", m),
		"PublishToChannelRaw": hub.PublishToChannelRaw("c", nil),
		"PublishToRoom":       hub.PublishToRoom("r", m),
		"Broadcast":           hub.Broadcast(nil),
		"BroadcastMessage":    hub.BroadcastMessage(m),
		"SendToClient":        hub.SendToClient("x", m),
		"RoomMembers":         membersErr,
		"Run":                 hub.Run(ctx),
	} {
		require.ErrorIs(t, err, websocket.ErrHubClosed, name)
	}
	require.Zero(t, hub.Stats().ActiveConnections)
	for range hub.Clients() {
		require.Fail(t, "a client is left")
	}
}

// requireClientEnded calls everything of a client whose connection is over.
func requireClientEnded(t *testing.T, c *websocket.Client) {
	t.Helper()
	m, key := &websocket.Message{}, make([]byte, 32)
	for name, err := range map[string]error{
		"Send":             c.Send(m),
		"Subscribe":        c.Subscribe("c"),
		"Unsubscribe":      c.Unsubscribe("c"),
		"JoinRoom":         c.JoinRoom("r"),
		"LeaveRoom":        c.LeaveRoom("r"),
		"Close":            c.Close(1000, ""),
		"SetEncryptionKey": c.SetEncryptionKey(key),
		"SetHMACKey":       c.SetHMACKey(key),
	} {
		if !errors.Is(err, websocket.ErrHubClosed) {
			require.ErrorIs(t, err, websocket.ErrClientClosed, name)
		}
	}
	require.Error(t, c.CloseError())
	require.NotNil(t, c.Codec())
	require.NotNil(t, c.Request())
	require.Error(t, c.Context().Err())
	require.Nil(t, c.FrameworkContext())
	require.Error(t, c.Request().Context().Err())
	c.SetMetadata("k", 1)
	v, ok := c.GetMetadata("k")
	require.True(t, ok)
	require.Equal(t, 1, v)
}

// TestSetCallbacksAfterConnection must panic rather than race.
func TestSetCallbacksAfterConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	b.hub.SetCallbacks(func(c *websocket.Client) { b.connected.put(c) }, nil, nil) // may be called again before
	p, _ := b.connect(t, dialing{})
	require.Panics(t, func() { b.hub.SetCallbacks(nil, nil, nil) })
	p.do(t, wire{Type: "broadcast"})
}

// TestRefusedHandshakesAreNoConnection asks for the endpoint's health before the
// callbacks are set.
func TestRefusedHandshakesAreNoConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	answer := b.handshake(t, "", http.Header{"Connection": nil, "Upgrade": nil})
	require.Equal(t, http.StatusUpgradeRequired, answer.StatusCode)
	require.NotPanics(t, func() { b.hub.SetCallbacks(nil, nil, nil) })
}

func TestClientVerbs(t *testing.T) {
	t.Parallel()
	b := setup(t, named(websocket.DefaultConfig), options{})
	p, c := b.connect(t, dialing{codec: "flatbuffers", query: "id=alice"})
	other, _ := b.connect(t, dialing{query: "id=bob"})
	text := func(s string) *websocket.Message { return &websocket.Message{Data: []byte(s)} }

	require.NoError(t, c.Subscribe("news"))
	require.NoError(t, c.Subscribe("news"), "twice is no error")
	require.NoError(t, b.hub.PublishToChannel("news", text("1")))
	require.NoError(t, c.Unsubscribe("news"))
	require.NoError(t, c.Unsubscribe("news"))
	require.NoError(t, b.hub.PublishToChannel("news", text("not for her")))
	require.NoError(t, c.JoinRoom("r"))
	require.NoError(t, c.JoinRoom("r"))
	require.Equal(t, map[string]int{"r": 1}, roomsOf(b.hub))
	require.Empty(t, channelsOf(b.hub))
	require.NoError(t, b.hub.PublishToRoom("r", text("2")))
	require.NoError(t, b.hub.PublishToChannel("r", text("a channel is no room")))
	members, err := b.hub.RoomMembers(t.Context(), "r")
	require.NoError(t, err)
	require.Equal(t, []string{"alice"}, members)
	require.NoError(t, c.LeaveRoom("r"))
	require.NoError(t, c.LeaveRoom("r"))
	require.NoError(t, b.hub.PublishToRoom("r", text("not for her")))
	members, err = b.hub.RoomMembers(t.Context(), "r")
	require.NoError(t, err)
	require.Empty(t, members)
	require.NoError(t, c.Send(text("3")))
	require.NoError(t, b.hub.SendToClient("alice", text("4")))
	require.NoError(t, c.SendContext(t.Context(), text("5")))
	for i := 1; i <= 5; i++ {
		require.Equal(t, fmt.Sprint(i), string(p.read(t).Data))
	}
	other.do(t, wire{Type: "broadcast"}) // nothing of that was for him

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

// TestMembers has rooms whose members are on all shards.
func TestMembers(t *testing.T) {
	t.Parallel()
	const n = 20
	b := setup(t, named(websocket.DefaultConfig), options{})
	var all []string
	for i := range n {
		id := fmt.Sprintf("client-%02d", i)
		_, c := b.connect(t, dialing{query: "id=" + id})
		require.NoError(t, c.JoinRoom("all"))
		all = append(all, id)
	}
	members, err := b.hub.RoomMembers(t.Context(), "all")
	require.NoError(t, err)
	slices.Sort(members)
	require.Equal(t, all, members)
	require.Equal(t, map[string]int{"all": n}, roomsOf(b.hub))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = b.hub.RoomMembers(ctx, "all")
	require.ErrorIs(t, err, context.Canceled)
}

func TestNames(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	_, c := b.connect(t, dialing{})
	m := &websocket.Message{}
	for _, name := range []string{"", strings.Repeat("x", 256), "\xff"} {
		_, membersErr := b.hub.RoomMembers(t.Context(), name)
		for what, err := range map[string]error{
			"Subscribe": c.Subscribe(name), "Unsubscribe": c.Unsubscribe(name),
			"JoinRoom": c.JoinRoom(name), "LeaveRoom": c.LeaveRoom(name),
			"PublishToChannel": b.hub.PublishToChannel(name, m), "PublishToRoom": b.hub.PublishToRoom(name, m),
			"PublishToChannelRaw": b.hub.PublishToChannelRaw(name, nil), "RoomMembers": membersErr,
		} {
			require.ErrorIs(t, err, websocket.ErrInvalidName, "%s %.10q", what, name)
		}
	}
	require.NoError(t, c.Subscribe(strings.Repeat("x", 255)))
	require.NoError(t, c.Subscribe("頻道 🌍"))
}

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, named(websocket.DefaultConfig), options{})
	_, c := b.connect(t, dialing{query: "id=alice"})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	verbs := map[string]func(ctx context.Context, m *websocket.Message) error{
		"PublishToChannel": func(ctx context.Context, m *websocket.Message) error {
			return b.hub.PublishToChannelContext(ctx, "c", m)
		},
		"PublishToRoom":    func(ctx context.Context, m *websocket.Message) error { return b.hub.PublishToRoomContext(ctx, "r", m) },
		"BroadcastMessage": b.hub.BroadcastMessageContext,
		"SendToClient": func(ctx context.Context, m *websocket.Message) error {
			return b.hub.SendToClientContext(ctx, "alice", m)
		},
		"Send": c.SendContext,
	}
	huge := &websocket.Message{Data: make([]byte, 2<<20)}
	for name, verb := range verbs {
		require.ErrorIs(t, verb(t.Context(), nil), websocket.ErrNilMessage, name)
		require.ErrorIs(t, verb(t.Context(), huge), websocket.ErrMessageTooLarge, name)
		require.ErrorIs(t, verb(ended, &websocket.Message{}), context.Canceled, name)
	}
	require.ErrorIs(t, b.hub.PublishToChannelRaw("c", huge.Data), websocket.ErrMessageTooLarge)
	require.ErrorIs(t, b.hub.Broadcast(huge.Data), websocket.ErrMessageTooLarge)
	require.ErrorIs(t, b.hub.BroadcastContext(ended, nil), context.Canceled)
	require.ErrorIs(t, b.hub.PublishToChannelRawContext(ended, "c", nil), context.Canceled)
	require.ErrorIs(t, b.hub.SendToClient("nobody", &websocket.Message{}), websocket.ErrClientNotFound)
	require.ErrorIs(t, b.hub.SendToClient("nobody", nil), websocket.ErrClientNotFound)
}

// TestLargestMessage publishes around ClientBacklog: what is accepted arrives,
// also where every message waits for a writePump.
func TestLargestMessage(t *testing.T) {
	t.Parallel()
	const bound = 2000
	for _, tls := range []bool{false, true} {
		t.Run(fmt.Sprint("TLS=", tls), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.ClientBacklog = bound
			b := setup(t, config, options{tls: tls})
			for _, verb := range []func(*websocket.Client, []byte) error{
				func(c *websocket.Client, data []byte) error { return c.Send(&websocket.Message{Data: data}) },
				func(c *websocket.Client, data []byte) error { return b.hub.PublishToChannelRaw("c", data) },
				func(c *websocket.Client, data []byte) error {
					return b.hub.PublishToRoom("r", &websocket.Message{Data: data})
				},
				func(c *websocket.Client, data []byte) error { return b.hub.Broadcast(data) },
			} {
				accepted, refused := 0, 0
				for size := bound - 145; size <= bound-125; size++ {
					p, c := b.connect(t, dialing{codec: "msgpack"}) // with nothing on its way
					require.NoError(t, c.Subscribe("c"))
					require.NoError(t, c.JoinRoom("r"))
					if err := verb(c, make([]byte, size)); err != nil {
						require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
						refused++
					} else {
						accepted++
						m, err := p.tryRead()
						require.NoError(t, err, "%d bytes were accepted", size)
						require.Len(t, m.Data, size)
					}
					require.NoError(t, p.Conn.Close())
					b.disconnected.take(t)
				}
				require.Positive(t, accepted)
				require.Positive(t, refused)
			}
			require.Zero(t, b.hub.Stats().Evicted)
		})
	}
}

func TestClosing(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		code   int
		reason string
		want   websocket.CloseError
	}{
		{"zero means normal", 0, "", websocket.CloseError{Code: 1000}},
		{"with a reason", 1012, "back in a moment", websocket.CloseError{Code: 1012, Reason: "back in a moment"}},
		{"of the application", 4001, "", websocket.CloseError{Code: 4001}},
		{"long reason", 1000, strings.Repeat("é", 100), websocket.CloseError{Code: 1000, Reason: strings.Repeat("é", 61)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{})
			p, c := b.connect(t, dialing{codec: "protobuf"})
			for i := range 50 {
				require.NoError(t, c.Send(&websocket.Message{Type: fmt.Sprint(i)}))
			}
			require.NoError(t, c.Close(tt.code, tt.reason))
			_ = c.Send(&websocket.Message{Type: "after the end"}) // accepted or not: it is not delivered
			for i := range 50 {
				require.Equal(t, fmt.Sprint(i), p.read(t).Type)
			}
			require.Equal(t, tt.want.Reason, p.requireClosed(t, tt.want.Code))
			require.Same(t, c, b.disconnected.take(t)) // gorilla has answered
			require.Equal(t, &tt.want, closeErrorOf(c))
			requireClientEnded(t, c)
		})
	}
	t.Run("codes that may not be sent", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		for _, code := range []int{-1, 1, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65536 + 1000} {
			require.ErrorIs(t, c.Close(code, ""), websocket.ErrInvalidCloseCode, code)
		}
		p.do(t, wire{Type: "broadcast"})
	})
	t.Run("by the peer", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		p.closeCleanly(t)
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, &websocket.CloseError{Code: 1000, Reason: "bye", ByPeer: true}, closeErrorOf(c))
		require.Contains(t, closeErrorOf(c).Error(), "peer")
	})
	t.Run("by the peer without a code", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		require.NoError(t, p.WriteControl(gorilla.CloseMessage, nil, time.Now().Add(patience)))
		p.requireClosed(t, gorilla.CloseNoStatusReceived)
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, &websocket.CloseError{Code: websocket.CloseNoStatusReceived, ByPeer: true}, closeErrorOf(c))
	})
	t.Run("broken off", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{})
		p, c := b.connect(t, dialing{})
		require.NoError(t, p.Conn.Close())
		require.Same(t, c, b.disconnected.take(t))
		require.Equal(t, websocket.CloseAbnormalClosure, closeErrorOf(c).Code)
		requireClientEnded(t, c)
		require.ErrorIs(t, b.hub.SendToClient(c.ID, &websocket.Message{}), websocket.ErrClientNotFound)
		_, ok := b.hub.Client(c.ID)
		require.False(t, ok)
	})
	t.Run("in onConnect", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{onConnect: func(c *websocket.Client) {
			_ = c.Send(&websocket.Message{Type: "sorry"})
			_ = c.Close(websocket.CloseForbidden, "not you")
		}})
		p, c := b.connect(t, dialing{})
		require.Equal(t, "sorry", p.read(t).Type)
		require.Equal(t, "not you", p.requireClosed(t, websocket.CloseForbidden))
		require.Same(t, c, b.disconnected.take(t))
	})
	t.Run("with unread input", func(t *testing.T) {
		t.Parallel()
		b := setup(t, websocket.DefaultConfig, options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			_ = c.Close(4000, "enough")
		}})
		p, _ := b.connect(t, dialing{})
		for range 200 { // what is not read resets the connection, and the code is lost
			p.send(t, wire{Type: "flood", Data: []byte(`"` + strings.Repeat("x", 1000) + `"`)})
		}
		require.Equal(t, "enough", p.requireClosed(t, 4000))
	})
}

// gate is a codec whose Marshal waits, which holds a hub goroutine up.
type gate struct {
	websocket.JSONCodec
	enter, leave chan struct{}
}

func (*gate) Name() string { return "gate" }
func (*gate) Index() int   { return 99 }

func (g *gate) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	g.enter <- struct{}{}
	<-g.leave
	return g.JSONCodec.AppendMarshal(dst, m)
}

// TestCloseWhileHubIsBusy says goodbye before the hub goroutine has come to the
// end of onConnect: the peer gets the hub's Close all the same.
func TestCloseWhileHubIsBusy(t *testing.T) {
	t.Parallel()
	g := &gate{enter: make(chan struct{}), leave: make(chan struct{})}
	config := websocket.DefaultConfig
	config.Shards = 1
	config.Codecs = []websocket.Codec{websocket.JSONCodec{}, g}
	config.Subprotocols = nil
	b := setup(t, config, options{})
	slow := b.handshake(t, "", http.Header{"Sec-Websocket-Protocol": {"gate"}})
	require.Equal(t, 101, slow.StatusCode)
	require.NoError(t, b.connected.take(t).Send(&websocket.Message{}))
	await(t, g.enter)

	p, c := b.connect(t, dialing{})
	bye := gorilla.FormatCloseMessage(4321, "")
	before := b.hub.Stats().BytesReceived
	require.NoError(t, p.WriteControl(gorilla.CloseMessage, bye, time.Now().Add(patience)))
	require.Eventually(t, func() bool { return b.hub.Stats().BytesReceived > before }, patience, time.Millisecond)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	<-tick.C // time for the hub to do the wrong thing
	close(g.leave)
	p.requireClosed(t, 4321)
	for b.disconnected.take(t) != c {
		runtime.Gosched()
	}
	require.Equal(t, &websocket.CloseError{Code: 4321, ByPeer: true}, closeErrorOf(c))
}

func TestPanicInCallbacks(t *testing.T) {
	t.Parallel()
	bad := func(c *websocket.Client) bool { return c.ID == "bad" }
	tests := []struct {
		name string
		o    options
	}{
		{"onConnect", options{onConnect: func(c *websocket.Client) {
			if bad(c) {
				panic("boom")
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if bad(c) {
				m := emptyMap()
				m[1] = 1
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if bad(c) {
				panic(error(nil)) // becomes a runtime.PanicNilError
			}
		}}},
		{"onMessage", options{onMessage: func(c *websocket.Client, _ *websocket.Message) {
			if bad(c) {
				runtime.Goexit() // as FailNow does
			}
		}}},
		{"onDisconnect", options{onDisconnect: func(c *websocket.Client) {
			if bad(c) {
				panic("boom")
			}
		}}},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, tt.name), func(t *testing.T) {
			t.Parallel()
			tt.o.logsError = true
			b := setup(t, named(websocket.DefaultConfig), tt.o)
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
			require.Contains(t, logged[0], "websocket_test.go", "the stack")
			requireClientEnded(t, c)
		})
	}
}

// TestPanicInHooks has hooks that run before there is a client. The hub must not
// count that handshake for ever.
func TestPanicInHooks(t *testing.T) {
	t.Parallel()
	tests := map[string]func(*websocket.Config){
		"ClientID":    func(c *websocket.Config) { c.ClientID = func(*http.Request) (string, error) { panic("boom") } },
		"CheckOrigin": func(c *websocket.Config) { c.CheckOrigin = func(*http.Request) bool { panic("boom") } },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.DrainTimeout, config.CallbackTimeout = 100*time.Millisecond, 100*time.Millisecond
			change(&config)
			b := setup(t, config, options{logsError: true})
			_, err := b.tryDial(dialing{})
			require.Error(t, err)
			require.NoError(t, b.hub.Shutdown(t.Context()), "a handshake is still counted")
		})
	}
}

// TestCallbacksCallAnything does so in each of them, on the client itself and on
// others.
func TestCallbacksCallAnything(t *testing.T) {
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
		_ = b.hub.Run(context.Background()) // is refused
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
				_ = c.Close(4000, "as you wish")
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

// TestCallerReusesAtOnce overwrites everything right behind each call.
func TestCallerReusesAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{codec: "protobuf"})
	other, _ := b.connect(t, dialing{codec: "msgpack"})
	p.subscribe(t, "c")
	p.joinRoom(t, "r")
	const rounds = 200
	data := make([]byte, 64)
	m := &websocket.Message{}
	for i := range rounds {
		for _, verb := range []func() error{
			func() error { return b.hub.PublishToChannel("c", m) },
			func() error { return b.hub.PublishToChannelRaw("c", data) },
			func() error { return b.hub.PublishToRoom("r", m) },
			func() error { return b.hub.Broadcast(data) },
			func() error { return c.Send(m) },
			func() error { return b.hub.SendToClient(c.ID, m) },
		} {
			for j := range data {
				data[j] = byte(i)
			}
			*m = websocket.Message{Data: data, ClientID: fmt.Sprint(i)}
			require.NoError(t, verb())
			for j := range data {
				data[j] = 0xee
			}
			*m = websocket.Message{Type: "overwritten", Channel: "overwritten", Data: []byte("overwritten"), ClientID: "overwritten"}
			m.Release()
		}
	}
	for i := range rounds {
		for range 6 {
			got := p.read(t)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, len(data)), got.Data)
			require.NotEqual(t, "overwritten", got.Type)
			require.NotEqual(t, "overwritten", got.Channel)
		}
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, len(data)), other.read(t).Data, "broadcast")
	}
}

// TestCallbackChangesMessage: a callback may do with its Message what it likes.
func TestCallbackChangesMessage(t *testing.T) {
	t.Parallel()
	var kept [][]byte
	b := setup(t, websocket.DefaultConfig, options{onMessage: func(_ *websocket.Client, m *websocket.Message) {
		kept = append(kept, m.Data)
		*m = websocket.Message{Type: "unsubscribe", Channel: "elsewhere", Data: []byte("changed")}
		m.Release()
	}})
	p, _ := b.connect(t, dialing{codec: "msgpack"})
	p.subscribe(t, "c")
	for i := range 500 {
		p.send(t, wire{Type: "publish", Channel: "c", Data: []byte(fmt.Sprint(i))})
		got := p.read(t)
		require.Equal(t, "message", got.Type)
		require.Equal(t, "c", got.Channel)
		require.Equal(t, fmt.Sprint(i), string(got.Data))
	}
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	for i, data := range kept[1:] {
		require.Equal(t, fmt.Sprint(i), string(data), "a kept Data was reused")
	}
}

// lines is a codec of an application's own: length-prefixed fields.
type lines struct {
	name   string
	index  int
	opcode int
	fails  func(m *websocket.Message) bool
	panics func(m *websocket.Message) bool
}

func (l lines) Name() string              { return l.name }
func (l lines) Index() int                { return l.index }
func (l lines) WebSocketMessageType() int { return l.opcode }

func (l lines) Marshal(m *websocket.Message) ([]byte, error) {
	if l.fails != nil && l.fails(m) {
		return nil, errors.New("cannot be said in lines")
	}
	if l.panics != nil && l.panics(m) {
		panic("lost count of lines")
	}
	var b []byte
	for _, field := range [][]byte{[]byte(m.Type), []byte(m.Channel), m.Data, []byte(m.ClientID), []byte(m.ID)} {
		b = fmt.Appendf(b, "%d\n%s", len(field), field)
	}
	return b, nil
}

func (l lines) Unmarshal(data []byte, m *websocket.Message) error {
	if bytes.HasPrefix(data, []byte("panic")) {
		panic("lost count of lines")
	}
	fields := make([]string, 5)
	for i := range fields {
		length, rest, _ := bytes.Cut(data, []byte("\n"))
		n, err := strconv.Atoi(string(length))
		if err != nil || n < 0 || n > len(rest) {
			return errors.New("no lines")
		}
		fields[i], data = string(rest[:n]), rest[n:]
	}
	*m = websocket.Message{Type: fields[0], Channel: fields[1], Data: []byte(fields[2]), ClientID: fields[3], ID: fields[4]}
	return nil
}

// linesWithDecoder has control data that is nothing but the name.
type linesWithDecoder struct{ lines }

func (linesWithDecoder) DecodeChannel(data []byte) string { return string(data) }
func (linesWithDecoder) DecodeRoomID(data []byte) string  { return string(data) }

func (linesWithDecoder) EncodeError(code, message string) []byte {
	return []byte(code + "\n" + message)
}
func (linesWithDecoder) EncodeGap(gap websocket.Gap) []byte { return []byte(gap.Reason) }

// lineWire lets a peer speak lines.
func lineWire(l lines, own bool) wireCodec {
	c := wireCodec{
		binary: l.opcode == websocket.BinaryMessage, channel: jsonChannel, room: jsonRoom, problem: jsonProblem,
		encode: func(m wire) ([]byte, error) {
			return lines{}.Marshal(&websocket.Message{Type: m.Type, Channel: m.Channel, Data: m.Data, ClientID: m.ClientID, ID: m.ID})
		},
		decode: func(b []byte) (wire, error) {
			var m websocket.Message
			err := lines{}.Unmarshal(b, &m)
			return wire{Type: m.Type, Channel: m.Channel, Data: m.Data, ClientID: m.ClientID, ID: m.ID}, err
		},
	}
	if own {
		name := func(s string) []byte { return []byte(s) }
		c.channel, c.room = name, name
		c.problem = func(b []byte) (code, message string, err error) {
			code, message, _ = strings.Cut(string(b), "\n")
			return code, message, nil
		}
	}
	return c
}

func TestCustomCodecs(t *testing.T) {
	t.Parallel()
	plain := lines{name: "lines", index: 4, opcode: websocket.BinaryMessage}
	text := lines{name: "x-lines.text", index: -7, opcode: websocket.TextMessage}
	own := linesWithDecoder{lines{name: "own", index: 1 << 30, opcode: websocket.BinaryMessage}}
	keys := randomKeys()
	for _, s := range []wireKeys{{}, keys} {
		t.Run(fmt.Sprint("sealed=", !s.none()), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Codecs = []websocket.Codec{plain, websocket.JSONCodec{}, text, own, websocket.MsgpackCodec{}}
			config.Subprotocols = nil // all of Codecs
			config.Security = s.config()
			b := setup(t, config, options{})
			peers := map[string]*peer{}
			for name, codec := range map[string]wireCodec{
				"lines": lineWire(plain, false), "x-lines.text": lineWire(text, false), "own": lineWire(own.lines, true),
				"json": wireCodecs["json"], "msgpack": wireCodecs["msgpack"],
			} {
				p, c := b.connect(t, dialing{codec: name, keys: s, compress: true})
				require.Equal(t, name, c.Codec().Name())
				p.codec = codec
				p.subscribe(t, "news")
				p.joinRoom(t, "room")
				peers[name] = p
			}
			for from, publisher := range peers {
				for _, ask := range []wire{
					{Type: "publish", Channel: "news", Data: []byte(`{"a":1}`)},
					{Type: "publish_room", Channel: "room", Data: bytes.Repeat([]byte(`1`), 1000)},
					{Type: "broadcast", Data: []byte("not JSON")},
				} {
					publisher.send(t, ask)
					for to, p := range peers {
						got := p.read(t)
						require.Equal(t, ask.Channel, got.Channel, "%s to %s", from, to)
						require.Equal(t, ask.Data, got.Data, "%s to %s", from, to)
					}
				}
				publisher.send(t, wire{Type: "subscribe", ID: "bad", Data: publisher.codec.channel("")})
				require.NotEmpty(t, publisher.requireError(t, "bad", "", "bad_request"))
			}
			b.requireNoDrops(t)
			require.Equal(t, map[string]int{"news": 5}, channelsOf(b.hub))
		})
	}
}

// TestCodecThatFails drops what cannot be encoded, with a name and a log line, and
// delivers the rest.
func TestCodecThatFails(t *testing.T) {
	t.Parallel()
	secretly := func(m *websocket.Message) bool { return strings.HasPrefix(string(m.Data), "bad") }
	tests := map[string]lines{
		"fails":  {name: "lines", index: 9, opcode: websocket.BinaryMessage, fails: secretly},
		"panics": {name: "lines", index: 9, opcode: websocket.BinaryMessage, panics: secretly},
	}
	for name, codec := range tests {
		for _, keys := range []wireKeys{{}, randomKeys()} {
			for _, tls := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s sealed=%v TLS=%v", name, !keys.none(), tls), func(t *testing.T) {
					t.Parallel()
					config := websocket.DefaultConfig
					config.Codecs = []websocket.Codec{codec, websocket.MsgpackCodec{}}
					config.Subprotocols = nil
					config.Security = keys.config()
					b := setup(t, config, options{logsError: true, tls: tls})
					p, _ := b.connect(t, dialing{codec: "lines", keys: keys})
					p.codec = lineWire(codec, false)
					other, _ := b.connect(t, dialing{codec: "msgpack", keys: keys})
					p.subscribe(t, "c")
					other.subscribe(t, "c")
					const n = 50
					for i := range n {
						for _, data := range []string{"good", "bad"} {
							require.NoError(t, b.hub.PublishToChannelRaw("c", []byte(fmt.Sprint(data, i))))
						}
					}
					for i := range n {
						require.Equal(t, fmt.Sprint("good", i), string(other.read(t).Data))
						require.Equal(t, fmt.Sprint("bad", i), string(other.read(t).Data))
						got := p.read(t)
						for got.Type == "gap" {
							got = p.read(t)
						}
						require.Equal(t, fmt.Sprint("good", i), string(got.Data))
					}
					require.NotEmpty(t, b.logs.matching("error", "lines"))
					before := p.do(t, wire{Type: "subscribe", Data: p.codec.channel("d")}) // as good as before
					for _, m := range before {
						require.Equal(t, "gap", m.Type)
					}
					require.EqualValues(t, n, b.hub.Stats().Dropped.Codec)
				})
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	keys := randomKeys()
	big := func(n int) []byte { return []byte(`{"type":"own","data":"` + strings.Repeat("x", n-24) + `"}`) }
	require.Len(t, big(limit), limit)
	tests := []struct {
		name   string
		codec  string
		keys   wireKeys
		opcode int
		data   []byte
		code   int // 0: it is fine
	}{
		{"JSON in a binary frame", "json", wireKeys{}, gorilla.BinaryMessage, []byte(`{"type":"own"}`), 1003},
		{"protobuf in a text frame", "protobuf", wireKeys{}, gorilla.TextMessage, []byte("\n\x03own"), 1003},
		{"msgpack in a text frame", "msgpack", wireKeys{}, gorilla.TextMessage, []byte("\x80"), 1003},
		{"FlatBuffers in a text frame", "flatbuffers", wireKeys{}, gorilla.TextMessage, []byte("x"), 1003},
		{"sealed in a text frame", "json", keys, gorilla.TextMessage, keys.seal([]byte(`{"type":"own"}`)), 1003},
		{"text that is not UTF-8", "json", wireKeys{}, gorilla.TextMessage, []byte("{\"type\":\"\xff\"}"), 1007},
		{"no JSON", "json", wireKeys{}, gorilla.TextMessage, []byte(`{"type"`), 1007},
		{"empty", "json", wireKeys{}, gorilla.TextMessage, nil, 1007},
		{"no object", "json", wireKeys{}, gorilla.TextMessage, []byte(`[]`), 1007},
		{"bad base64", "json", wireKeys{}, gorilla.TextMessage, []byte(`{"data":"*","encoding":"base64"}`), 1007},
		{"bad protobuf", "protobuf", wireKeys{}, gorilla.BinaryMessage, []byte{0x0a, 0x7f, 'x'}, 1007},
		{"the FlatBuffer that kills", "flatbuffers", wireKeys{}, gorilla.BinaryMessage, []byte{0xff, 0xff, 0xff, 0x7f}, 1007},
		{"bad msgpack", "msgpack", wireKeys{}, gorilla.BinaryMessage, []byte{0xc1}, 1007},
		{"sealed, but no JSON", "json", keys, gorilla.BinaryMessage, keys.seal([]byte(`{"type"`)), 1007},
		{"sealed, not UTF-8", "json", keys, gorilla.BinaryMessage, keys.seal([]byte("{\"type\":\"\xff\"}")), 1007},
		{"not sealed", "json", keys, gorilla.BinaryMessage, []byte(`{"type":"own"}`), 1008},
		{"empty for sealed", "msgpack", keys, gorilla.BinaryMessage, nil, 1008},
		{"sealed with others' keys", "protobuf", keys, gorilla.BinaryMessage, randomKeys().seal([]byte("\n\x03own")), 1008},
		{"sealed in the other order", "msgpack", keys, gorilla.BinaryMessage,
			wireKeys{aes: keys.aes, hmac: keys.hmac}.seal([]byte("\x80")), 1008},
		{"as large as allowed", "json", wireKeys{}, gorilla.TextMessage, big(limit), 0},
		{"one byte more", "json", wireKeys{}, gorilla.TextMessage, big(limit + 1), 1009},
		{"far more", "json", wireKeys{}, gorilla.TextMessage, big(2 * limit), 1009},
		{"zero values", "protobuf", wireKeys{}, gorilla.BinaryMessage, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Security = tt.keys.config()
			b := setup(t, config, options{})
			bystander, _ := b.connect(t, dialing{keys: tt.keys})
			p, c := b.connect(t, dialing{codec: tt.codec, keys: tt.keys})
			p.sendRaw(t, tt.opcode, tt.data)
			if tt.code == 0 {
				require.Same(t, c, b.messages.take(t).client)
				return
			}
			for range 5 { // what follows is discarded
				if p.WriteMessage(tt.opcode, tt.data) != nil {
					break
				}
			}
			require.NotEmpty(t, p.requireClosed(t, tt.code))
			require.NoError(t, p.Conn.Close())
			require.Same(t, c, b.disconnected.take(t))
			require.Equal(t, tt.code, closeErrorOf(c).Code)
			require.False(t, closeErrorOf(c).ByPeer)
			require.Zero(t, b.messages.len(), "onMessage was called")
			require.Zero(t, b.hub.Stats().MessagesReceived)
			if tt.code == 1008 {
				require.Len(t, b.logs.matching("warning", ""), 1)
			}
			bystander.do(t, wire{Type: "broadcast"})
		})
	}
}

// TestTextIsUTF8 has a codec that would take any bytes (RFC 6455 section 8.1).
func TestTextIsUTF8(t *testing.T) {
	t.Parallel()
	codec := lines{name: "text", index: 4, opcode: websocket.TextMessage}
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{codec}
	config.Subprotocols = nil
	b := setup(t, config, options{})
	p, _ := b.connect(t, dialing{codec: "text"})
	p.codec = lineWire(codec, false)
	p.send(t, wire{Type: "own", Data: []byte("é")})
	require.Equal(t, "é", string(b.messages.take(t).message.Data))
	p.send(t, wire{Type: "own", Data: []byte("\xe9")})
	p.requireClosed(t, websocket.CloseInvalidPayloadData)
	require.Zero(t, b.messages.len())
}

// TestCodecThatPanicsOnInput closes that one client.
func TestCodecThatPanicsOnInput(t *testing.T) {
	t.Parallel()
	codec := lines{name: "text", index: 4, opcode: websocket.TextMessage}
	config := websocket.DefaultConfig
	config.Codecs = []websocket.Codec{codec, websocket.JSONCodec{}}
	config.Subprotocols = nil
	b := setup(t, config, options{logsError: true})
	bystander, _ := b.connect(t, dialing{})
	p, c := b.connect(t, dialing{codec: "text"})
	p.sendRaw(t, gorilla.TextMessage, []byte("panic"))
	p.requireClosed(t, websocket.CloseInvalidPayloadData)
	require.Same(t, c, b.disconnected.take(t))
	bystander.do(t, wire{Type: "broadcast"})
}

// TestInflating sends some 48 KiB that would become 48 MiB.
func TestInflating(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	require.NoError(t, err)
	_, err = w.Write([]byte(`{"type":"own","data":"`))
	require.NoError(t, err)
	zeros := bytes.Repeat([]byte{'0'}, 1<<20)
	for range 48 {
		_, err = w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Flush())
	payload := bytes.TrimSuffix(bomb.Bytes(), []byte{0, 0, 0xff, 0xff})
	require.Less(t, len(payload), 64<<10, "passes the limit on the wire")

	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{compress: true})
	require.NotEmpty(t, p.answer.Header.Get("Sec-Websocket-Extensions"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	frame := binary.BigEndian.AppendUint16([]byte{0x80 | 0x40 | 1, 0x80 | 126}, uint16(len(payload)))
	frame = append(frame, 0, 0, 0, 0) // mask
	_, err = p.NetConn().Write(append(frame, payload...))
	require.NoError(t, err)
	p.requireClosed(t, websocket.CloseMessageTooBig)
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<30), "other tests allocate too, but not that much")
	require.NoError(t, p.Conn.Close())
	require.Same(t, c, b.disconnected.take(t))
	require.Equal(t, websocket.CloseMessageTooBig, closeErrorOf(c).Code)
	require.Zero(t, b.messages.len())
}

// TestProtocolErrors are frames that RFC 6455 forbids, in raw bytes.
func TestProtocolErrors(t *testing.T) {
	t.Parallel()
	const masked = 0x80
	tests := []struct {
		name  string
		bytes []byte
	}{
		{"not masked", []byte{0x81, 2, '{', '}'}},
		{"reserved bit", []byte{0x81 | 0x20, masked | 2, 0, 0, 0, 0, '{', '}'}},
		{"deflated without agreement", []byte{0x81 | 0x40, masked | 2, 0, 0, 0, 0, '{', '}'}},
		{"unknown opcode", []byte{0x83, masked, 0, 0, 0, 0}},
		{"continuation of nothing", []byte{0x80, masked, 0, 0, 0, 0}},
		{"new message inside a message", []byte{0x01, masked, 0, 0, 0, 0, 0x81, masked, 0, 0, 0, 0}},
		{"ping in fragments", []byte{0x09, masked, 0, 0, 0, 0}},
		{"long ping", append([]byte{0x89, masked | 126, 0, 126, 0, 0, 0, 0}, make([]byte, 126)...)},
		{"close code that may not be sent", []byte{0x88, masked | 2, 0, 0, 0, 0, 1005 >> 8, 1005 & 0xff}},
		{"half a close code", []byte{0x88, masked | 1, 0, 0, 0, 0, 3}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{})
			p, c := b.connect(t, dialing{})
			_, err := p.NetConn().Write(tt.bytes)
			require.NoError(t, err)
			p.requireClosed(t, websocket.CloseProtocolError)
			require.NoError(t, p.Conn.Close())
			require.Same(t, c, b.disconnected.take(t))
			require.Equal(t, websocket.CloseProtocolError, closeErrorOf(c).Code)
		})
	}
}

// TestFragments sends a message in many frames with pings between them.
func TestFragments(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	for _, compress := range []bool{false, true} {
		p, _ := b.connect(t, dialing{codec: "json", compress: compress})
		pongs := make(chan string, 100)
		p.SetPongHandler(func(s string) error { pongs <- s; return nil })
		text := []byte(`{"type":"broadcast","data":"` + strings.Repeat("分", 10_000) + `"}`)
		w, err := p.NextWriter(gorilla.TextMessage)
		require.NoError(t, err)
		for i := 0; i < len(text); i += 7001 { // in the middle of characters
			_, err = w.Write(text[i:min(i+7001, len(text))])
			require.NoError(t, err)
			require.NoError(t, p.WriteControl(gorilla.PingMessage, []byte("ping"), time.Now().Add(patience)))
		}
		require.NoError(t, w.Close())
		require.Equal(t, `"`+strings.Repeat("分", 10_000)+`"`, string(p.read(t).Data))
		require.Equal(t, "ping", await(t, pongs))
		require.NoError(t, p.Conn.Close())
		b.disconnected.take(t)
	}
}

func TestKeysAreRefused(t *testing.T) {
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

// TestKeysAreCopied overwrites keys after they were set.
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

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	l := func(name string, index int) lines {
		return lines{name: name, index: index, opcode: websocket.BinaryMessage}
	}
	many := make([]websocket.Codec, 100)
	for i := range many {
		many[i] = l(fmt.Sprint("codec", i), i)
	}
	tests := []struct {
		field  string // empty: it is fine
		change func(c *websocket.Config)
	}{
		{"", func(*websocket.Config) {}},
		{"", func(c *websocket.Config) { *c = websocket.Config{} }},
		{"", func(c *websocket.Config) { c.Shards = 64 }},
		{"", func(c *websocket.Config) { c.PongWait, c.PingPeriod = time.Second, 0 }},
		{"", func(c *websocket.Config) { c.MaxMessageSize, c.LogSize = math.MaxInt64, math.MaxInt64 }},
		{"ReadBufferSize", func(c *websocket.Config) { c.ReadBufferSize = -1 }},
		{"WriteBufferSize", func(c *websocket.Config) { c.WriteBufferSize = -1 }},
		{"MaxMessageSize", func(c *websocket.Config) { c.MaxMessageSize = -1 }},
		{"WriteWait", func(c *websocket.Config) { c.WriteWait = -1 }},
		{"PongWait", func(c *websocket.Config) { c.PongWait = -1 }},
		{"PingPeriod", func(c *websocket.Config) { c.PingPeriod = -1 }},
		{"PingPeriod", func(c *websocket.Config) { c.PingPeriod = c.PongWait }},
		{"PingPeriod", func(c *websocket.Config) { c.PongWait = 30 * time.Second }},
		{"HandshakeTimeout", func(c *websocket.Config) { c.HandshakeTimeout = -1 }},
		{"Shards", func(c *websocket.Config) { c.Shards = -1 }},
		{"Shards", func(c *websocket.Config) { c.Shards = 65 }},
		{"LogSize", func(c *websocket.Config) { c.LogSize = -1 }},
		{"ClientBacklog", func(c *websocket.Config) { c.ClientBacklog = -1 }},
		{"DrainTimeout", func(c *websocket.Config) { c.DrainTimeout = -1 }},
		{"CallbackTimeout", func(c *websocket.Config) { c.CallbackTimeout = -1 }},
		{"", func(c *websocket.Config) { c.NodeName = strings.Repeat("é", 127) + "e" }},
		{"NodeName", func(c *websocket.Config) { c.NodeName = strings.Repeat("é", 128) }},
		{"NodeName", func(c *websocket.Config) { c.NodeName = "a\nb" }},
		{"DuplicateID", func(c *websocket.Config) { c.DuplicateID = 2 }},
		{"DuplicateID", func(c *websocket.Config) { c.DuplicateID = -1 }},
		{"Compression.Level", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{Level: 10} }},
		{"Compression.Level", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{Level: -3} }},
		{"Compression.MinSize", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{MinSize: -1} }},
		{"Subprotocols", func(c *websocket.Config) { c.Subprotocols = []string{"json", "soap"} }},
		{"Subprotocols", func(c *websocket.Config) { c.Codecs = []websocket.Codec{websocket.JSONCodec{}} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{nil} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a b", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a", 1), l("a", 2)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{l("a", 1), l("b", 1)} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = []websocket.Codec{lines{name: "a", opcode: 8}} }},
		{"Codecs", func(c *websocket.Config) { c.Codecs = many }},
		{"Security", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{} }},
		{"Security.AESKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: make([]byte, 16)} }},
		{"Security.AESKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: make([]byte, 31)} }},
		{"Security.AESKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{AESKey: []byte{}} }},
		{"Security.HMACKey", func(c *websocket.Config) { c.Security = &websocket.SecurityConfig{HMACKey: []byte{}} }},
	}
	for i, tt := range tests {
		t.Run(fmt.Sprint(i, tt.field), func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			tt.change(&config)
			err := config.Validate()
			if tt.field == "" {
				require.NoError(t, err)
				require.NotNil(t, websocket.NewHub(nil, config))
				return
			}
			require.ErrorContains(t, err, "websocket: ")
			require.ErrorContains(t, err, tt.field)
			if strings.HasPrefix(tt.field, "Security") {
				require.ErrorIs(t, err, websocket.ErrInvalidKey)
			}
			require.PanicsWithError(t, err.Error(), func() { websocket.NewHub(nil, config) })
		})
	}
}

// TestConfigIsCopied changes a Config after NewHub.
func TestConfigIsCopied(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Subprotocols = []string{"msgpack", "json"}
	config.Codecs = []websocket.Codec{websocket.JSONCodec{}, websocket.MsgpackCodec{}}
	config.Compression = &websocket.CompressionConfig{Enabled: true}
	b := setup(t, config, options{})
	config.Subprotocols[0], config.Subprotocols[1] = "protobuf", "soap"
	config.Codecs[0], config.Codecs[1] = nil, nil
	config.Compression.Enabled = false
	p, _ := b.connect(t, dialing{codec: "msgpack", compress: true})
	p.do(t, wire{Type: "broadcast"})
	require.NotEmpty(t, p.answer.Header.Get("Sec-Websocket-Extensions"))
}

// TestZeroConfig runs a hub with nothing configured.
func TestZeroConfig(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.Config{}, options{})
	p, c := b.connect(t, dialing{codec: "protobuf", compress: true})
	require.Empty(t, p.answer.Header.Get("Sec-Websocket-Extensions"), "EnableCompression is false")
	require.Regexp(t, "^[0-9a-f]{32}$", c.ID)
	p.do(t, wire{Type: "broadcast"})
}

// TestClientIDIsNotTheClients: headers and queries do not name a client.
func TestClientIDIsNotTheClients(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	_, c := b.connect(t, dialing{query: "client_id=alice", header: http.Header{"X-Client-Id": {"alice"}}})
	require.Regexp(t, "^[0-9a-f]{32}$", c.ID)
}

func TestStats(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{codec: "protobuf"})
	p.subscribe(t, "news")
	p.joinRoom(t, "room")
	for range 10 {
		p.send(t, wire{Type: "publish", Channel: "news"})
		p.read(t)
	}
	sent := uint64(0)
	for _, f := range p.tap.frames(t) {
		sent += uint64(len(f.payload)) + 2
	}
	st := b.hub.Stats()
	require.EqualValues(t, 1, st.TotalConnections)
	require.Equal(t, 1, st.ActiveConnections)
	require.Equal(t, 1, st.TotalChannels)
	require.Equal(t, 1, st.TotalRooms)
	require.Equal(t, map[string]int{"news": 1}, channelsOf(b.hub))
	require.Equal(t, map[string]int{"room": 1}, roomsOf(b.hub))
	require.EqualValues(t, 12, st.MessagesReceived)
	require.Greater(t, st.BytesReceived, uint64(12*6))
	require.Zero(t, st.Evicted)
	b.requireNoDrops(t)
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	st = b.hub.Stats() // the connection is over, so that all is counted
	require.EqualValues(t, 12, st.MessagesSent)
	require.Equal(t, sent, st.BytesSent)
	require.Zero(t, st.ActiveConnections)
	require.Zero(t, st.TotalChannels)
	require.Error(t, c.CloseError())
}
