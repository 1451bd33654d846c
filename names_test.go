package websocket_test

import (
	"strings"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

func TestInvalidNamesAreRejected(t *testing.T) {
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
