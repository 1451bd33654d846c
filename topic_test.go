package websocket_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestRoomMembersOnAllShards(t *testing.T) {
	t.Parallel()
	const n = 20
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
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

// A verb that changes a membership changes nothing if its context has ended.
func TestMembershipVerbsObeyContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		defer peer.Close()
		c := onlyClient(t, hub)
		require.NoError(t, c.Subscribe("in"))
		require.NoError(t, c.JoinRoom("in"))
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		require.ErrorIs(t, c.SubscribeContext(ctx, "x"), context.Canceled)
		require.ErrorIs(t, c.JoinRoomContext(ctx, "x"), context.Canceled)
		require.ErrorIs(t, c.UnsubscribeContext(ctx, "in"), context.Canceled)
		require.ErrorIs(t, c.LeaveRoomContext(ctx, "in"), context.Canceled)
		require.Equal(t, []string{"in"}, c.Channels())
		require.Equal(t, []string{"in"}, c.Rooms())
	})
}

// mayPublish calls AllowMembers for the channel and the room of joinNewsAndLobby.
func mayPublish(c *websocket.Client) [2]error {
	return [2]error{
		websocket.AllowMembers(c, websocket.AuthorizeRequest{Action: websocket.ActionPublish, Target: "news"}),
		websocket.AllowMembers(c, websocket.AuthorizeRequest{Action: websocket.ActionPublishRoom, Target: "lobby"}),
	}
}

var forbidden = [2]error{websocket.ErrForbidden, websocket.ErrForbidden}

// A client whose connection has ended is no member any more, from onDisconnect on,
// although other members remain in the topic.
func TestMembershipEndsWithConnection(t *testing.T) {
	ends := []struct {
		name string
		end  func(c *websocket.Client, p *fakePeer)
	}{
		{"reset", func(_ *websocket.Client, p *fakePeer) { p.client.Reset() }},
		{"closed", func(c *websocket.Client, p *fakePeer) { _ = c.Close(0, ""); _ = p.Close() }},
	}
	for _, tt := range ends {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := websocket.DefaultConfig
				config.Shards = 1
				config.ClientID = byID
				ended := make(chan [2]error, 2) // onDisconnect sends, the test receives
				hub := startFake(t, paths[0], config, nil, func(h *websocket.Hub) {
					h.SetCallbacks(joinNewsAndLobby, func(c *websocket.Client) {
						ended <- mayPublish(c)
					}, nil)
				})
				stays, peer := hub.connect(1<<16, withID("stays")), hub.connect(1<<16, withID("leaves"))
				defer stays.Close()
				defer peer.Close()
				c, ok := hub.Client("leaves")
				require.True(t, ok)
				require.Equal(t, [2]error{}, mayPublish(c))
				time.Sleep(time.Second)
				tt.end(c, peer)
				require.Equal(t, forbidden, <-ended, "in onDisconnect")
				synctest.Wait()
				require.Equal(t, forbidden, mayPublish(c))
				other, ok := hub.Client("stays")
				require.True(t, ok)
				require.Equal(t, [2]error{}, mayPublish(other))
				hub.stop()
				require.Equal(t, forbidden, mayPublish(other))
			})
		})
	}
}

// Other goroutines call AllowMembers while the client's connection ends.
func TestAllowMembersDuringDisconnect(t *testing.T) {
	const clients, callers = 50, 3
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		config.Shards = 1
		config.ClientID = byID
		hub := startFake(t, paths[0], config, nil, func(h *websocket.Hub) {
			h.SetCallbacks(joinNewsAndLobby, func(*websocket.Client) {
				_ = h.PublishToChannelRaw("news", nil) // makes the hub goroutine remove the memberships now
			}, nil)
		})
		stays := hub.connect(1<<16, withID("stays"))
		defer stays.Close()
		for i := range clients {
			peer := hub.connect(1<<16, withID(fmt.Sprint(i)))
			c, ok := hub.Client(fmt.Sprint(i))
			require.True(t, ok)
			var calling sync.WaitGroup
			for range callers {
				calling.Go(func() { // ends soon after the client
					for left, calls := 200, 0; left > 0 && calls < 100_000; calls++ {
						switch results := mayPublish(c); results {
						case [2]error{}, [2]error{nil, websocket.ErrForbidden}: // the connection ended between the two calls
						case forbidden:
							left--
						default:
							t.Error(results)
						}
					}
				})
			}
			peer.client.Reset()
			calling.Wait()
			synctest.Wait()
			require.Equal(t, forbidden, mayPublish(c))
			_ = peer.Close()
		}
		hub.stop()
	})
}

// Channels and Rooms return a client's topics until onDisconnect has returned, and
// nothing afterwards.
func TestClientTopicsEndAfterOnDisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		var channels, rooms []string
		config.OnDisconnect = func(c *websocket.Client) { channels, rooms = c.Channels(), c.Rooms() }
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		peer := hub.connect(1<<16, nil)
		c := onlyClient(t, hub)
		require.Empty(t, c.Channels())
		require.NoError(t, c.Subscribe("b"))
		require.NoError(t, c.Subscribe("a"))
		require.NoError(t, c.JoinRoom("r"))
		require.ElementsMatch(t, []string{"a", "b"}, c.Channels())
		require.Equal(t, []string{"r"}, c.Rooms())
		require.NoError(t, peer.Close())
		synctest.Wait()
		require.ElementsMatch(t, []string{"a", "b"}, channels)
		require.Equal(t, []string{"r"}, rooms)
		require.Empty(t, c.Channels())
		require.Empty(t, c.Rooms())
	})
}
