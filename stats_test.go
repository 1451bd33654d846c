package websocket_test

import (
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

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
	st = b.hub.Stats() // the connection has ended, so the counters are final
	require.EqualValues(t, 12, st.MessagesSent)
	require.Equal(t, sent, st.BytesSent)
	require.Zero(t, st.ActiveConnections)
	require.Zero(t, st.TotalChannels)
	require.Error(t, c.CloseError())
}
