package websocket_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// The hub keeps the valid part of a trace context, in messages of clients and of the server.
func TestTraceContextOfMessages(t *testing.T) {
	t.Parallel()
	const parent = vectorTrace
	long := " a=" + strings.Repeat("x", 254)
	tests := map[string]string{
		"":                            "",
		parent:                        parent,
		parent + " a=b,c=d e":         parent + " a=b,c=d e",
		"01" + parent[2:]:             "01" + parent[2:],
		parent + long:                 parent + long,
		parent + long + "x":           parent,
		parent + " ":                  parent,
		parent + " a=\n":              parent,
		parent + " a=é":               parent,
		parent + "\x00":               "",
		parent + "-00":                "",
		parent[:54]:                   "",
		"ff" + parent[2:]:             "",
		strings.ToUpper(parent):       "",
		"g" + parent[1:]:              "",
		parent[:2] + "_" + parent[3:]: "",
		parent[:3] + strings.Repeat("0", 32) + parent[35:]:  "",
		parent[:36] + strings.Repeat("0", 16) + parent[52:]: "",
		" " + parent:                "",
		strings.Repeat("x", 70_000): "",
	}
	seen := make(chan string, 1)
	b := setup(t, websocket.DefaultConfig, options{})
	b.hub.Handle("traced", func(_ context.Context, _ *websocket.Client, m *websocket.Message) (any, error) {
		seen <- m.Trace
		return nil, nil
	})
	for _, name := range subprotocols {
		p, c := b.connect(t, dialing{codec: name})
		p.subscribe(t, "news")
		for trace, want := range tests {
			require.Empty(t, p.do(t, wire{Type: "traced", Trace: trace}))
			require.Equal(t, want, <-seen, "%s: %.80q", name, trace)
			got := p.do(t, wire{Type: "publish", Channel: "news", Data: []byte(`1`), Trace: trace})
			require.Equal(t, want, got[0].Trace, "%s: %.80q", name, trace)
			require.NoError(t, c.Send(&websocket.Message{Trace: trace}))
			require.Equal(t, want, p.read(t).Trace, "%s: %.80q", name, trace)
		}
		p.closeCleanly(t)
	}
}

// A trace context reaches the members on other nodes, and those that come back later.
func TestTraceContextReachesOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 2, joinNewsAndLobby)
		defer stopAll(hubs)
		a, b := hubs[0].connect(1<<16, idHeader("a")), hubs[1].connect(1<<16, idHeader("b"))
		ready(t, hubs...)
		synctest.Wait()
		for _, typ := range []string{`"publish","channel":"news"`, `"publish_room","channel":"lobby"`, `"broadcast"`} {
			request := `{"type":` + typ + `,"data":1,"trace":"` + vectorTrace + `"}`
			require.NoError(t, a.WriteMessage(gorilla.TextMessage, []byte(request)))
			for _, p := range []*fakePeer{a, b} {
				require.Equal(t, vectorTrace, readJSON(t, p)["trace"])
			}
		}
		require.NoError(t, hubs[0].SendToClient("b", &websocket.Message{Trace: vectorTrace}))
		require.Equal(t, vectorTrace, readJSON(t, b)["trace"])
		require.NoError(t, hubs[0].PublishToChannelRaw("news", []byte(`1`)))
		require.NotContains(t, readJSON(t, b), "trace")
		_ = a.Close()
		_ = b.Close()
	})
}
