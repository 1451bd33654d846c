package websocket_test

import (
	"fmt"
	"net/http"
	"sync"
	"testing"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestRefuseDuplicateKeepsOlderClient(t *testing.T) {
	t.Parallel()
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
	p, first := b.connect(t, dialing{query: "id=alice"})
	response := b.handshake(t, "id=alice", nil)
	require.Equal(t, http.StatusConflict, response.StatusCode)
	require.Equal(t, 101, b.handshake(t, "id=bob", nil).StatusCode)
	require.Equal(t, "bob", b.connected.take(t).ID)

	require.NoError(t, p.Conn.Close())
	require.Same(t, first, b.disconnected.take(t))
	_, second := b.connect(t, dialing{query: "id=alice"}) // the ID is free when onDisconnect runs
	require.NotSame(t, first, second)
	require.ErrorIs(t, first.Send(&websocket.Message{}), websocket.ErrClientClosed)
}

// An ID is free before the callbacks of its client have ended. A map from IDs to clients
// keeps the newer client if OnDisconnect compares the client.
func TestNewClientMayConnectBeforeOnDisconnect(t *testing.T) {
	t.Parallel()
	for _, policy := range []websocket.DuplicatePolicy{websocket.RefuseDuplicate, websocket.ReplaceDuplicate} {
		t.Run(fmt.Sprint(policy), func(t *testing.T) {
			t.Parallel()
			var online sync.Map // ID to *Client
			release := make(chan struct{})
			config := withQueryID(websocket.DefaultConfig)
			config.DuplicateID = policy
			b := setup(t, config, options{
				onConnect:    func(c *websocket.Client) { online.Store(c.ID, c) },
				onMessage:    func(*websocket.Client, *websocket.Message) { <-release },
				onDisconnect: func(c *websocket.Client) { online.CompareAndDelete(c.ID, c) },
			})
			p, first := b.connect(t, dialing{query: "id=alice"})
			p.send(t, wire{Type: "long work"})
			b.messages.take(t)
			if policy == websocket.RefuseDuplicate {
				require.NoError(t, p.Conn.Close())
				await(t, first.Context().Done())
			}
			_, second := b.connect(t, dialing{query: "id=alice"})
			require.Zero(t, b.disconnected.len())
			close(release)
			require.Same(t, first, b.disconnected.take(t))
			got, _ := online.Load("alice")
			require.Same(t, second, got)
			got, _ = b.hub.Client("alice")
			require.Same(t, second, got)
		})
	}
}

func TestReplaceDuplicateClosesOlderClient(t *testing.T) {
	t.Parallel()
	config := withQueryID(websocket.DefaultConfig)
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

	got, ok := b.hub.Client("alice") // the end of the first client leaves the second registered
	require.True(t, ok)
	require.Same(t, second, got)
	require.NoError(t, b.hub.SendToClient("alice", &websocket.Message{Data: []byte("for you")}))
	require.Equal(t, "for you", string(fresh.read(t).Data))
	require.Equal(t, 1, b.hub.Stats().ActiveConnections)
	require.Empty(t, channelsOf(b.hub), "memberships end with the connection")
	require.ErrorIs(t, first.Subscribe("news"), websocket.ErrClientClosed)
}

// requireReplaced skips messages until the Close frame and returns its reason.
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

// Many clients connect with one ID at the same time. One of them stays connected and
// receives messages.
func TestConcurrentReplacementsLeaveOneClient(t *testing.T) {
	t.Parallel()
	const n = 40
	config := withQueryID(websocket.DefaultConfig)
	config.DuplicateID = websocket.ReplaceDuplicate
	b := setup(t, config, options{})
	dialed := make(chan *peer, n)
	for range n {
		go func() { // ends after the handshake
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
