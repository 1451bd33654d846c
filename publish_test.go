package websocket_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestPublishErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, withQueryID(websocket.DefaultConfig), options{})
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

// Messages of about ClientBacklog bytes are either rejected or delivered, also with
// TLS, where every write needs a writePump.
func TestMessageThatFitsBacklogIsDelivered(t *testing.T) {
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
					p, c := b.connect(t, dialing{codec: "msgpack"}) // its backlog is empty
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
