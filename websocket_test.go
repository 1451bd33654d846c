package websocket_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// The caller may change its Message and Data as soon as a verb returns.
func TestCallerMayReuseMessageAfterCall(t *testing.T) {
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

// onMessage may change its Message, release it and keep its Data.
func TestCallbackMayChangeMessageAndKeepData(t *testing.T) {
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
