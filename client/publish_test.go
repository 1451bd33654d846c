package client_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// publishing runs a publish call of a scripted client.
func (s *scripted) publishing(ctx context.Context, data string, options ...client.PublishOption) <-chan error {
	result := make(chan error, 1)
	go func() { result <- s.Publish(ctx, "ch", []byte(data), options...) }() // ends with the reply
	return result
}

// TestPublishIsRepeated loses the connection between a publication and its reply.
func TestPublishIsRepeated(t *testing.T) {
	t.Parallel()
	s := withScript(t, `{"features":["history"],"user":"zoë"}`)
	ctx := testContext(t)
	hub := s.connect()
	next := func(told string) {
		s.server.told.Store(&told)
		_ = hub.NetConn().Close()
		hub = s.connect()
	}
	const position = `{"epoch":"e","offset":1}`
	keys := map[string]bool{}

	// The channel is not known to have a history.
	result := s.publishing(ctx, `1`)
	first := hub.read()
	require.GreaterOrEqual(t, len(first.Key), 22)
	keys[first.Key] = true
	next(`{"features":["history"],"user":"zoë"}`)
	require.ErrorIs(t, receive(t, result), client.ErrOutcomeUnknown)
	result = s.publishing(ctx, `2`)
	m := hub.reply(position)
	require.NoError(t, receive(t, result))
	require.False(t, keys[m.Key], "each publication has its own key")

	// Now it is. The client repeats the publication until it has a reply.
	result = s.publishing(ctx, `3`)
	m = hub.read()
	for range 2 {
		next(`{"features":["history"],"user":"zoë"}`)
		again := hub.read()
		require.Equal(t, m.Key, again.Key)
		require.Equal(t, `3`, string(again.Data))
		m = again
	}
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Channel: "ch", Data: []byte(position)})
	require.NoError(t, receive(t, result))

	// The application has its own key.
	result = s.publishing(ctx, `4`, client.Key("mine"))
	require.Equal(t, "mine", hub.read().Key)
	next(`{"features":["history"],"user":"zoë"}`)
	require.Equal(t, "mine", hub.reply(position).Key)
	require.NoError(t, receive(t, result))

	// A refusal says nothing about the first attempt, and neither does the end of ctx.
	result = s.publishing(ctx, `5`)
	hub.read()
	next(`{"features":["history"],"user":"zoë"}`)
	hub.write(websocket.Message{Type: "error", ID: hub.read().ID, Data: []byte(`{"code":"forbidden"}`)})
	err := receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorAs(t, err, new(*client.Error))
	short, cancel := context.WithCancel(ctx)
	result = s.publishing(short, `6`)
	hub.read()
	next(`{"features":["history"],"user":"zoë"}`)
	hub.read()
	cancel()
	err = receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.Canceled)

	// The hub would not know the key, because the scope of keys is another.
	for _, told := range []string{`{"features":["history"],"user":"other"}`, `{"user":"other"}`} {
		result = s.publishing(ctx, `7`)
		hub.read()
		next(told)
		require.ErrorIs(t, receive(t, result), client.ErrOutcomeUnknown)
	}
	result = s.publishing(ctx, `8`, client.Key(""))
	require.Empty(t, hub.reply(`null`).Key, "the hub has no histories")
	require.NoError(t, receive(t, result))
	ended := make(chan error, 1)
	go func() { ended <- s.Broadcast(ctx, nil, client.Key("x")) }() // ends with the reply
	require.Empty(t, hub.reply(`null`).Key)
	require.NoError(t, receive(t, ended))
}

// A member learns from the reply to joining that a channel has a history, and that it has
// begun anew, so that the hub does not know earlier keys.
func TestPublishIsNotRepeatedInAnotherEpoch(t *testing.T) {
	t.Parallel()
	s := withScript(t, historyFeature)
	ctx := testContext(t)
	hub := s.connect()
	result := make(chan error, 1)
	go func() { result <- errOf(s.Subscribe(ctx, "ch", nil)) }() // ends with the reply
	hub.reply(`{"epoch":"a","complete":true}`)
	require.NoError(t, receive(t, result))
	for _, tt := range []struct {
		epoch string
		want  error
	}{{"a", nil}, {"b", client.ErrOutcomeUnknown}} {
		published := s.publishing(ctx, `1`)
		hub.read()
		_ = hub.NetConn().Close()
		hub = s.connect()
		hub.reply(fmt.Sprintf(`{"epoch":%q,"complete":true}`, tt.epoch))
		if tt.want == nil {
			hub.reply(`{"epoch":"a","offset":1}`)
		}
		require.ErrorIs(t, receive(t, published), tt.want)
	}
}

// A publication except to the client itself does not come back to it, neither after a lost
// connection nor as a loss.
func TestExceptSelfOverLostConnection(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Messages: 3}), func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		defer s.keep(p, "news")()
		got, handler := newHandler()
		require.NoError(t, errOf(c.Subscribe(t.Context(), "news", handler)))
		for range 10 {
			require.NoError(t, c.Publish(t.Context(), "news", []byte(`"own"`), client.ExceptSelf()))
		}
		s.lose(c)
		s.numbers("news", 1, 2)
		rec.waitState(t, client.Connected)
		requireNumbers(t, got, 1, 2)
		require.Empty(t, rec.gaps)

		// The connection is lost before the reply.
		var broken atomic.Bool
		p.wrap = func(nc net.Conn) net.Conn { return &breakingNetwork{nc, &broken} }
		c.Reconnect()
		rec.waitState(t, client.Connected)
		broken.Store(true)
		require.NoError(t, c.Publish(t.Context(), "news", []byte(`"own"`), client.ExceptSelf()))
		s.numbers("news", 3, 3)
		requireNumbers(t, got, 3, 3)
		page, err := s.hub.History(t.Context(), websocket.ChannelTopic, "news", websocket.HistoryQuery{})
		require.NoError(t, err)
		require.EqualValues(t, 14, page.Offset, "published once")
		require.Empty(t, rec.gaps)
	})
}

// breakingNetwork loses the next bytes that it receives, and then the connection, if broken is
// set.
type breakingNetwork struct {
	net.Conn
	broken *atomic.Bool
}

func (n *breakingNetwork) Read(b []byte) (int, error) {
	read, err := n.Conn.Read(b)
	if n.broken.CompareAndSwap(true, false) {
		_ = n.Close()
		return 0, net.ErrClosed
	}
	return read, err
}
