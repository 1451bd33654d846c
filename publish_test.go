package websocket_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
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
			config.MaxMessageSize, config.ClientBacklog = bound-512, bound
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

// TestLargestMessageIsPublished sends messages of exactly MaxMessageSize with a long
// client ID. The hub must publish them, whatever MaxMessageSize is.
func TestLargestMessageIsPublished(t *testing.T) {
	t.Parallel()
	for size, codecs := range map[int][]string{0: {"json", "msgpack"}, 8 << 20: {"msgpack"}} {
		onBothPaths(t, func(t *testing.T, p path) {
			for _, codec := range codecs {
				synctest.Test(t, func(t *testing.T) {
					config := websocket.DefaultConfig
					config.MaxMessageSize = int64(size)
					config.ReadBufferSize = 64 << 10
					config.EnableCompression = false
					config.ClientID = queryID
					hub := runFake(t, p, config, subscribeAll("news"))
					defer hub.stop()
					header := codecHeader(codec)
					header.Set("X-Id", strings.Repeat("i", 255))
					peer := hub.connect(1<<20, header)
					m := wire{Type: "publish", Channel: "news"}
					b, err := wireCodecs[codec].encode(m)
					require.NoError(t, err)
					largest := int(websocket.Defaults().MaxMessageSize)
					if size > 0 {
						largest = size
					}
					for len(b) != largest {
						if n := len(m.Data) + largest - len(b); codec == "json" {
							m.Data = mustJSON(strings.Repeat("x", n-2))
						} else {
							m.Data = make([]byte, n)
						}
						b, err = wireCodecs[codec].encode(m)
						require.NoError(t, err)
					}
					kind := gorilla.TextMessage
					if wireCodecs[codec].binary {
						kind = gorilla.BinaryMessage
					}
					go func() { _ = peer.WriteMessage(kind, b) }() // ends when the hub has read it
					_, b, err = peer.ReadMessage()
					require.NoError(t, err)
					got, err := wireCodecs[codec].decode(b)
					require.NoError(t, err)
					require.Equal(t, "message", got.Type, "%.300q", got.Data)
					require.Len(t, got.Data, len(m.Data))
					_ = peer.Close()
				})
			}
		})
	}
}

func TestTooLargeNamesLimit(t *testing.T) {
	t.Parallel()
	tests := []struct {
		config websocket.Config
		want   websocket.MessageTooLargeError
	}{
		{websocket.Config{MaxMessageSize: 1000, ClientBacklog: 2000}, websocket.MessageTooLargeError{Limit: 2000, LimitedBy: "Config.ClientBacklog"}},
		{websocket.Config{MaxMessageSize: 1000, LogSize: 2000}, websocket.MessageTooLargeError{Limit: 2000, LimitedBy: "Config.LogSize"}},
		{websocket.Config{Broker: brokertest.NewMemory(2000).Broker()}, websocket.MessageTooLargeError{Limit: 2000, LimitedBy: "Broker.MaxPayload"}},
	}
	for _, tt := range tests {
		hub := websocket.NewHub(quietLogger{}, tt.config)
		err := hub.PublishToChannelRaw("c", make([]byte, 3000))
		require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
		var got *websocket.MessageTooLargeError
		require.ErrorAs(t, err, &got)
		require.Equal(t, tt.want.Limit, got.Limit)
		require.Equal(t, tt.want.LimitedBy, got.LimitedBy)
		require.GreaterOrEqual(t, got.Size, int64(3000+128))
		require.Less(t, got.Size, int64(3000+128+100))
		require.EqualError(t, err, fmt.Sprintf("websocket: message too large: %d bytes, but %s allows 2000", got.Size, got.LimitedBy))
	}
}

// An application that passes a client's message on does not send it as one of the hub's.
func TestReservedTypesAreNotPublished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := websocket.DefaultConfig
		hub := runFake(t, paths[0], config)
		defer hub.stop()
		p := hub.connect(1<<16, nil)
		defer p.Close()
		require.NoError(t, onlyClient(t, hub).Subscribe("news"))
		require.NoError(t, hub.PublishToChannel("news", &websocket.Message{Type: "hub:goaway", Data: []byte(`{"delay":0}`)}))
		require.Equal(t, "message", readJSON(t, p)["type"])
	})
}
