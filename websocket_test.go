package websocket_test

import (
	"bytes"
	"fmt"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
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

// onMessage may keep the Data of its Message, and release the Message.
func TestCallbackMayReleaseMessageAndKeepData(t *testing.T) {
	t.Parallel()
	var kept [][]byte
	b := setup(t, websocket.DefaultConfig, options{onMessage: func(c *websocket.Client, m *websocket.Message) {
		kept = append(kept, m.Data)
		_ = c.Send(m) // fails only if the client has gone
		m.Release()
	}})
	p, _ := b.connect(t, dialing{codec: "msgpack"})
	for i := range 500 {
		p.send(t, wire{Type: "keep", Data: []byte(fmt.Sprint(i))})
		require.Equal(t, fmt.Sprint(i), string(p.read(t).Data))
	}
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	for i, data := range kept {
		require.Equal(t, fmt.Sprint(i), string(data), "a kept Data was reused")
	}
}

// A copy of a Message from AcquireMessage does not belong to the pool. Releasing it
// must not make two callers of AcquireMessage share it.
func TestReleasingCopyDoesNotPoolIt(t *testing.T) {
	var copied websocket.Message
	acquired := websocket.AcquireMessage()
	copied = *acquired
	for range 100 {
		copied.Release()
		copied = *acquired
		require.NotSame(t, &copied, websocket.AcquireMessage())
	}
	acquired.Release()
}
