package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// run starts a cluster and returns it with the front's address.
func run(t *testing.T) (*cluster, string) {
	t.Helper()
	c, err := newCluster(slog.New(slog.NewTextHandler(io.Discard, nil)), 3)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.serve(ctx, listener) }() // returns after stop
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-ended)
	})
	for _, n := range c.running() {
		require.NoError(t, n.hub.BrokerReady(within(t)))
	}
	require.Eventually(t, func() bool {
		for _, n := range c.running() {
			if len(n.hub.Cluster().Nodes()) != 3 {
				return false
			}
		}
		return true
	}, 10*time.Second, 10*time.Millisecond)
	return c, listener.Addr().String()
}

// within returns a context with a timeout of 20 seconds.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// tab is a client like the page's, with the messages that it has received.
type tab struct {
	*client.Client
	said  chan string
	lists chan presence
	ids   chan string
}

func open(t *testing.T, front, name, codec string) *tab {
	t.Helper()
	b := &tab{said: make(chan string, 1000), lists: make(chan presence, 1000), ids: make(chan string, 1000)}
	c, err := client.Dial(within(t), "ws://"+front+"/ws?name="+name, client.Options{
		Codec: codec, BackoffMin: 10 * time.Millisecond, BackoffMax: 200 * time.Millisecond, MessageRate: 15,
		OnGap: func(websocket.Gap) {},
		OnMessage: func(m *websocket.Message) {
			var me person
			if m.Type == "welcome" && json.Unmarshal(m.Data, &me) == nil {
				b.ids <- me.ID
			}
		},
	})
	require.NoError(t, err)
	b.Client = c
	t.Cleanup(func() { _ = c.Close() })
	_, err = c.JoinRoom(within(t), "lobby", func(m *websocket.Message) {
		if m.Type == "presence" {
			var list presence
			if err := json.Unmarshal(m.Data, &list); err != nil {
				t.Errorf("presence: %v", err)
			}
			b.lists <- list
			return
		}
		var said struct{ Text string }
		if err := json.Unmarshal(m.Data, &said); err != nil {
			t.Errorf("message: %v", err)
		}
		b.said <- personOf(m.ClientID).Name + ": " + said.Text
	})
	require.NoError(t, err)
	return b
}

// next returns the next value of a channel.
func next[T any](t *testing.T, from chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-time.After(20 * time.Second):
		require.FailNow(t, "no message arrived")
	}
	return v
}

// members waits for a member list with exactly these names.
func (b *tab) members(t *testing.T, names ...string) {
	t.Helper()
	for {
		var got []string
		for _, p := range next(t, b.lists).Members {
			got = append(got, p.Name)
		}
		if slices.Equal(got, names) {
			return
		}
	}
}

func (b *tab) say(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, b.PublishRoom(within(t), "lobby", encode(map[string]any{"text": text, "nonce": 1})))
}

func TestClientsMoveToOtherNodes(t *testing.T) {
	c, front := run(t)
	names, codecs := []string{"Ann", "Bob", "Cy"}, []string{"json", "protobuf", "msgpack"}
	var tabs []*tab
	for i, name := range names {
		tabs = append(tabs, open(t, front, name, codecs[i]))
	}
	for _, b := range tabs {
		b.members(t, names...)
	}
	homes := map[string]bool{}
	for _, b := range tabs {
		home, err := c.running()[0].hub.Cluster().FindClient(within(t), next(t, b.ids))
		require.NoError(t, err)
		homes[home] = true
	}
	require.Len(t, homes, 3, "the front spreads connections over the nodes")

	tabs[0].say(t, "hello")
	for _, b := range tabs {
		require.Equal(t, "Ann: hello", next(t, b.said))
	}

	for i := range 3 { // stops one node after the other
		require.NoError(t, c.stop(i))
		require.Eventually(t, func() bool { return c.members("lobby") == len(tabs) }, 20*time.Second, 10*time.Millisecond, "all tabs are connected to other nodes")
		for _, n := range c.running() {
			require.NoError(t, n.hub.BrokerReady(within(t)))
		}
		for _, b := range tabs {
			b.say(t, fmt.Sprint("after stop ", i+1))
		}
		for _, b := range tabs {
			missing := map[string]bool{}
			for _, name := range names {
				missing[fmt.Sprint(name, ": after stop ", i+1)] = true
			}
			for len(missing) > 0 {
				delete(missing, next(t, b.said))
			}
		}
		require.NoError(t, c.start(i))
		require.ErrorContains(t, c.start(i), "is running")
	}
}

// members counts a room's members on all nodes.
func (c *cluster) members(room string) (n int) {
	for _, node := range c.running() {
		n += maps.Collect(node.hub.Rooms())[room]
	}
	return n
}

func TestPageKeysAndHealthFromAnyNode(t *testing.T) {
	c, front := run(t)
	for _, path := range []string{"/", "/chat.js", "/hub.js", "/chat.css", "/health"} {
		for range 3 {
			r, err := http.Get("http://" + front + path)
			require.NoError(t, err)
			_, _ = io.Copy(io.Discard, r.Body)
			_ = r.Body.Close()
			require.Equal(t, http.StatusOK, r.StatusCode, path)
		}
	}
	r, err := http.Post("http://"+front+"/api/key", "", nil)
	require.NoError(t, err)
	var issued struct {
		Ticket string
		sealKeys
	}
	require.NoError(t, json.NewDecoder(r.Body).Decode(&issued))
	_ = r.Body.Close()
	for _, n := range c.running() {
		keys, err := n.open(issued.Ticket)
		require.NoError(t, err)
		require.Equal(t, issued.sealKeys, keys)
	}
	_, err = c.running()[0].open("x" + issued.Ticket)
	require.ErrorIs(t, err, errTicket)
	sealed, err := client.Dial(within(t), "ws://"+front+"/ws?name=Dee", client.Options{
		TokenSource: func(context.Context, bool) (string, error) { return issued.Ticket, nil },
		Security:    websocket.NewSecurityConfig(issued.AES, issued.HMAC),
	})
	require.NoError(t, err)
	require.NoError(t, sealed.Close())
	for i := range 3 {
		require.NoError(t, c.stop(i))
	}
	r, err = http.Get("http://" + front + "/")
	require.NoError(t, err)
	_ = r.Body.Close()
	require.Equal(t, http.StatusServiceUnavailable, r.StatusCode)
}

func TestCommands(t *testing.T) {
	c, _ := run(t)
	c.runCommands(strings.NewReader("nodes\nstop 9\nstop 3\nstop 3\nnonsense 1\nnodes\n"))
	require.Len(t, c.running(), 2)
	c.runCommands(strings.NewReader("start 3\n"))
	require.Len(t, c.running(), 3)
}
