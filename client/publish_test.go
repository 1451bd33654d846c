package client_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

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
	answer := func(m websocket.Message, known string) {
		asked := hub.reply(known)
		require.Equal(t, "hub:published", asked.Type)
		require.JSONEq(t, fmt.Sprintf(`{"channel":"ch","key":%q,"since":%s}`, m.Key, position), string(asked.Data))
	}
	const notPublished = `{"published":false,"complete":true}`
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

	// Now it is. The client repeats the publication, which the hub does not have, until it has a reply.
	result = s.publishing(ctx, `3`)
	m = hub.read()
	for range 2 {
		next(`{"features":["history"],"user":"zoë"}`)
		answer(m, notPublished)
		again := hub.read()
		require.Equal(t, m.Key, again.Key)
		require.Equal(t, `3`, string(again.Data))
		m = again
	}
	hub.write(websocket.Message{Type: "ack", ID: m.ID, Channel: "ch", Data: []byte(position)})
	require.NoError(t, receive(t, result))

	// The application has its own key.
	result = s.publishing(ctx, `4`, client.Key("mine"))
	m = hub.read()
	require.Equal(t, "mine", m.Key)
	next(`{"features":["history"],"user":"zoë"}`)
	answer(m, notPublished)
	require.Equal(t, "mine", hub.reply(position).Key)
	require.NoError(t, receive(t, result))

	// The hub has it already, or does not know.
	for known, want := range map[string]error{
		`{"published":true,"complete":true}`:   nil,
		`{"published":false,"complete":false}`: client.ErrOutcomeUnknown,
		`3`:                                    client.ErrOutcomeUnknown,
	} {
		result = s.publishing(ctx, `5`)
		m = hub.read()
		next(`{"features":["history"],"user":"zoë"}`)
		answer(m, known)
		require.ErrorIs(t, receive(t, result), want)
	}

	// A refusal says nothing about the first attempt, and neither does the end of ctx.
	result = s.publishing(ctx, `6`)
	m = hub.read()
	next(`{"features":["history"],"user":"zoë"}`)
	answer(m, notPublished)
	hub.write(websocket.Message{Type: "error", ID: hub.read().ID, Data: []byte(`{"code":"forbidden"}`)})
	err := receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorAs(t, err, new(*client.Error))
	short, cancel := context.WithCancel(ctx)
	result = s.publishing(short, `7`)
	m = hub.read()
	next(`{"features":["history"],"user":"zoë"}`)
	answer(m, notPublished)
	hub.read()
	cancel()
	err = receive(t, result)
	require.ErrorIs(t, err, client.ErrOutcomeUnknown)
	require.ErrorIs(t, err, context.Canceled)

	// The hub would not know the key, because the scope of keys is another.
	for _, told := range []string{`{"features":["history"],"user":"other"}`, `{"user":"other"}`} {
		result = s.publishing(ctx, `8`)
		hub.read()
		next(told)
		require.ErrorIs(t, receive(t, result), client.ErrOutcomeUnknown)
	}
	require.ErrorIs(t, s.Publish(ctx, "news", nil, client.Key("\xff")), websocket.ErrMalformed)
	result = s.publishing(ctx, `9`, client.Key(""))
	require.Empty(t, hub.reply(`null`).Key, "the hub has no histories")
	require.NoError(t, receive(t, result))
	ended := make(chan error, 1)
	go func() { ended <- s.Broadcast(ctx, nil, client.Key("x")) }() // ends with the reply
	require.Empty(t, hub.reply(`null`).Key)
	require.NoError(t, receive(t, ended))
}

// A member learns from the reply to joining, and from each message, how far the history is.
func TestPublishIsRepeatedBehindTheLatestPosition(t *testing.T) {
	t.Parallel()
	s := withScript(t, historyFeature)
	ctx := testContext(t)
	hub := s.connect()
	result := make(chan error, 1)
	got, handler := newHandler()
	go func() { result <- errOf(s.Subscribe(ctx, "ch", handler)) }() // ends with the reply
	hub.reply(`{"epoch":"a","complete":true}`)
	require.NoError(t, receive(t, result))
	hub.write(websocket.Message{Type: "message", Channel: "ch", Offset: 7})
	receive(t, got)
	published := s.publishing(ctx, `1`)
	hub.read()
	_ = hub.NetConn().Close()
	hub = s.connect()
	hub.reply(`{"epoch":"b","offset":9,"complete":false}`)
	asked := hub.reply(`{"published":false,"complete":false}`)
	require.Contains(t, string(asked.Data), `{"epoch":"a","offset":7}`)
	require.ErrorIs(t, receive(t, published), client.ErrOutcomeUnknown)
}

// A program that only publishes loses the connection before the reply. It publishes again
// only if the hub certainly does not have the publication.
func TestLostReplyToPublication(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		meanwhile func(s *server, p *pipeListener)
		err       error
	}{
		"nothing happens":       {func(*server, *pipeListener) {}, nil},
		"the history forgets":   {func(s *server, _ *pipeListener) { s.numbers("news", 3, 5) }, client.ErrOutcomeUnknown},
		"the hub is restarted":  {restart, client.ErrOutcomeUnknown},
		"others publish little": {func(s *server, _ *pipeListener) { s.numbers("news", 3, 3) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Messages: 2}), func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
				rec.waitState(t, client.Connected)
				member, err := client.Dial(t.Context(), "ws://hub", client.Options{NetDial: p.dial, OnGap: func(websocket.Gap) {}})
				require.NoError(t, err)
				defer func() {
					_ = member.Close()
					<-member.Done()
				}()
				got, handler := newHandler()
				require.NoError(t, errOf(member.Subscribe(t.Context(), "news", handler)))
				var broken atomic.Bool
				p.wrap = func(nc net.Conn) net.Conn { return &breakingNetwork{nc, &broken} }
				c.Reconnect()
				rec.waitState(t, client.Connected)
				require.NoError(t, c.Publish(t.Context(), "news", []byte(`1`)))
				broken.Store(true)
				result := make(chan error, 1)
				go func() { result <- c.Publish(t.Context(), "news", []byte(`2`)) }() // ends with the next connection
				for _, want := range []string{"1", "2"} {
					require.Equal(t, want, string(receive(t, got).Data))
				}
				tt.meanwhile(s, p)
				require.ErrorIs(t, receive(t, result), tt.err)
				time.Sleep(time.Minute)
				for len(got) > 0 {
					require.NotEqual(t, "2", string((<-got).Data), "published twice")
				}
			})
		})
	}
}

func restart(s *server, p *pipeListener) {
	s.stop()
	s.serveIn(p)
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
