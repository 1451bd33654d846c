package client_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// keeping gives all channels and rooms of a server a history.
func keeping(o websocket.HistoryOptions) func(*server) {
	return func(s *server) {
		s.config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
			return websocket.TopicOptions{History: o}
		}
	}
}

// numbers publishes numbers as the hub.
func (s *server) numbers(channel string, from, to int) {
	for n := from; n <= to; n++ {
		require.NoError(s.t, s.hub.PublishToChannelRaw(channel, fmt.Append(nil, n)))
	}
}

// requireNumbers receives numbers that were published, and nothing else.
func requireNumbers(t *testing.T, got <-chan *websocket.Message, from, to int) {
	t.Helper()
	for n := from; n <= to; n++ {
		require.Equal(t, fmt.Sprint(n), string(receive(t, got).Data))
	}
	synctest.Wait()
	require.Empty(t, got)
}

// lose ends a client's connection.
func (s *server) lose(c *client.Client) {
	peer, ok := s.hub.Client(c.ID())
	require.True(s.t, ok)
	require.NoError(s.t, peer.Close(websocket.CloseServiceRestart, "move"))
}

// keep makes another client a member of the channel, so that the hub does not forget its
// history.
func (s *server) keep(p *pipeListener, channel string) (end func()) {
	c, err := client.Dial(s.t.Context(), "ws://hub", client.Options{NetDial: p.dial, OnGap: func(websocket.Gap) {}})
	require.NoError(s.t, err)
	require.NoError(s.t, errOf(c.Subscribe(s.t.Context(), channel, nil)))
	return func() {
		_ = c.Close()
		<-c.Done()
	}
}

func TestResume(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, keeping(websocket.HistoryOptions{Messages: 3}), func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			got, handler := newHandler()
			sub, err := c.Subscribe(t.Context(), "news", handler)
			require.NoError(t, err)
			require.True(t, sub.Resumed().Complete)
			epoch := sub.Position().Epoch
			require.NotEmpty(t, epoch)
			inRoom, onRoom := newHandler()
			require.NoError(t, errOf(c.JoinRoom(t.Context(), "news", onRoom)))
			require.NoError(t, s.hub.PublishToRoom("news", &websocket.Message{Data: []byte(`1`)}))
			requireNumbers(t, inRoom, 1, 1)
			s.numbers("news", 1, 2)
			requireNumbers(t, got, 1, 2)

			// Nothing is missing.
			s.lose(c)
			s.numbers("news", 3, 5)
			require.NoError(t, s.hub.PublishToRoom("news", &websocket.Message{Data: []byte(`2`)}))
			rec.waitState(t, client.Connected)
			requireNumbers(t, got, 3, 5)
			requireNumbers(t, inRoom, 2, 2)
			require.Equal(t, websocket.Resumed{Position: websocket.Position{Epoch: epoch, Offset: 5}, Replayed: 3, Complete: true}, sub.Resumed())
			require.Equal(t, websocket.Position{Epoch: epoch, Offset: 5}, sub.Position())
			require.Empty(t, rec.gaps)

			// The history has only the latest three of five.
			s.lose(c)
			s.numbers("news", 6, 10)
			rec.waitState(t, client.Connected)
			requireNumbers(t, got, 8, 10)
			require.Equal(t, "expired", sub.Resumed().Reason)
			g := receive(t, rec.gaps)
			require.Equal(t, "news", g.Channel)
			require.Equal(t, "history", g.Reason)
			require.EqualValues(t, 2, g.Count)
			require.Empty(t, rec.gaps)
			require.Empty(t, rec.errors)
		})
	}
}

// After a restart of the hub the epoch is another. The client is told so once.
func TestResumeInAnotherEpoch(t *testing.T) {
	t.Parallel()
	for _, published := range []int{0, 2} {
		inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Messages: 3}), func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			got, handler := newHandler()
			sub, err := c.Subscribe(t.Context(), "news", handler)
			require.NoError(t, err)
			s.numbers("news", 1, 5)
			requireNumbers(t, got, 1, 5)
			before := sub.Position()
			s.stop()
			s.serveIn(p)
			defer s.keep(p, "news")()
			s.numbers("news", 1, published)
			rec.waitState(t, client.Connected)
			requireNumbers(t, got, 1, published)
			require.Equal(t, "epoch", sub.Resumed().Reason)
			require.NotEqual(t, before.Epoch, sub.Resumed().Epoch)
			g := receive(t, rec.gaps)
			require.Equal(t, "history", g.Reason)
			require.Zero(t, g.Count)

			s.lose(c)
			rec.waitState(t, client.Connected)
			require.True(t, sub.Resumed().Complete)
			s.numbers("news", published+1, published+1)
			requireNumbers(t, got, published+1, published+1)
			require.Equal(t, sub.Resumed().Epoch, sub.Position().Epoch)
			require.EqualValues(t, published+1, sub.Position().Offset)
			require.Empty(t, rec.gaps)
		})
	}
}

// A quiet channel whose history has expired reports the loss once.
func TestExpiredHistoryIsReportedOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Age: time.Minute}), func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		got, handler := newHandler()
		sub, err := c.Subscribe(t.Context(), "news", handler)
		require.NoError(t, err)
		defer s.keep(p, "news")()
		away := make(chan struct{})
		p.held = away
		s.lose(c)
		s.numbers("news", 1, 1)
		time.Sleep(30 * time.Second)
		s.numbers("news", 2, 2)
		time.Sleep(59 * time.Second) // 1 has expired
		close(away)
		rec.waitState(t, client.Connected)
		requireNumbers(t, got, 2, 2)
		require.EqualValues(t, 1, receive(t, rec.gaps).Count)
		for range 3 {
			s.lose(c)
			rec.waitState(t, client.Connected)
			time.Sleep(time.Hour)
		}
		require.True(t, sub.Resumed().Complete)
		require.Empty(t, rec.gaps)
	})
}

// A reconnect gap begins before it ends, although the clock of another node was ahead.
func TestGapBehindFastClock(t *testing.T) {
	t.Parallel()
	s := withScript(t, `{}`)
	ctx := testContext(t)
	hub := s.connect()
	result := make(chan error, 1)
	got, handler := newHandler()
	go func() { result <- errOf(s.Subscribe(ctx, "ch", handler)) }() // ends with the reply
	hub.reply(`null`)
	require.NoError(t, receive(t, result))
	hub.write(websocket.Message{Type: "message", Channel: "ch", Timestamp: 9000})
	receive(t, got)
	_ = hub.NetConn().Close()
	hub = s.connect()
	hub.write(websocket.Message{Type: "ack", ID: hub.read().ID, Timestamp: 5000})
	gap := receive(t, s.rec.gaps)
	require.EqualValues(t, 5000, gap.Last)
	require.LessOrEqual(t, gap.First, gap.Last)
}

// A program that stores its position behind a loss is not told the loss again.
func TestPositionBehindGap(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Messages: 3}), func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		got, handler := newHandler()
		sub, err := c.Subscribe(t.Context(), "news", handler)
		require.NoError(t, err)
		s.numbers("news", 1, 5)
		requireNumbers(t, got, 1, 5)
		before := sub.Position()
		restart(s, p)
		rec.waitState(t, client.Connected)
		receive(t, rec.gaps)
		synctest.Wait()
		require.NotEqual(t, before.Epoch, sub.Position().Epoch)
		require.NoError(t, sub.Unsubscribe(t.Context()))
		sub, err = c.Subscribe(t.Context(), "news", handler, client.Since(sub.Position()))
		require.NoError(t, err)
		require.True(t, sub.Resumed().Complete)
		s.numbers("news", 6, 6)
		requireNumbers(t, got, 6, 6)
		require.Empty(t, rec.gaps)
	})
}

// TestSubscribeOptions joins at other places than the present.
func TestSubscribeOptions(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, keeping(websocket.HistoryOptions{Messages: 10}), func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		s.numbers("news", 1, 20)
		ctx := t.Context()
		var at websocket.Position
		positions := make(chan uint64, bufferSize)
		got, handler := newHandler()
		var sub *client.Subscription
		ready := make(chan struct{})
		sub, err := c.Subscribe(ctx, "news", func(m *websocket.Message) {
			<-ready
			positions <- sub.Position().Offset
			handler(m)
		}, client.Last(2))
		require.NoError(t, err)
		require.Equal(t, 2, sub.Resumed().Replayed)
		close(ready)
		requireNumbers(t, got, 19, 20)
		require.EqualValues(t, 19, <-positions, "during the call the position includes the message")
		require.EqualValues(t, 20, <-positions)
		at = sub.Position()

		// Others join the same channel at other places, and disturb no one.
		more, onMore := newHandler()
		_, err = c.Subscribe(ctx, "news", onMore, client.Since(websocket.Position{Epoch: at.Epoch, Offset: 14}))
		require.NoError(t, err)
		requireNumbers(t, more, 15, 20)
		require.Empty(t, rec.gaps)
		all, onAll := newHandler()
		from, err := c.Subscribe(ctx, "news", onAll, client.Last(1), client.Since(websocket.Position{}), client.SubscribeOption{})
		require.NoError(t, err)
		requireNumbers(t, all, 11, 20)
		require.Equal(t, "expired", from.Resumed().Reason)
		require.EqualValues(t, 10, receive(t, rec.gaps).Count)
		live, onLive := newHandler()
		require.NoError(t, errOf(c.Subscribe(ctx, "news", onLive)))
		s.numbers("news", 21, 22)
		for _, each := range []chan *websocket.Message{got, more, all, live} {
			requireNumbers(t, each, 21, 22)
		}

		// A program comes back with the position that it has stored.
		at = sub.Position()
		require.NoError(t, c.Unsubscribe(ctx, "news"))
		s.numbers("news", 23, 25)
		again, err := c.Subscribe(ctx, "news", handler, client.Since(at))
		require.NoError(t, err)
		require.True(t, again.Resumed().Complete)
		requireNumbers(t, got, 23, 25)
		// And one of a hub that has forgotten it.
		_, err = c.JoinRoom(ctx, "news", handler, client.Since(at))
		require.NoError(t, err)
		require.Equal(t, "history", receive(t, rec.gaps).Reason)
		require.Empty(t, rec.gaps)
	})
}

// A hub without history, new or old, gets no since, and gaps are as before.
func TestResumeWithoutHistory(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		rec.waitState(t, client.Connected)
		got, handler := newHandler()
		sub, err := c.Subscribe(t.Context(), "news", handler)
		require.NoError(t, err)
		require.Equal(t, websocket.Resumed{Complete: true}, sub.Resumed())
		s.numbers("news", 1, 1)
		requireNumbers(t, got, 1, 1)
		require.Zero(t, sub.Position())
		s.lose(c)
		rec.waitState(t, client.Connected)
		require.Equal(t, client.ReasonReconnect, receive(t, rec.gaps).Reason)
		require.Equal(t, websocket.Resumed{Reason: "none"}, sub.Resumed())
		require.NoError(t, errOf(c.Subscribe(t.Context(), "other", handler, client.Since(websocket.Position{Epoch: "e", Offset: 1}))))
		require.Equal(t, "history", receive(t, rec.gaps).Reason)
		require.Empty(t, rec.gaps)
	})
}

// scripted is a client whose hub is the test. connect returns the next connection.
type scripted struct {
	t      *testing.T
	server *scriptedServer
	*client.Client
	rec *recorder
}

// withScript dials a scriptedServer that tells features.
func withScript(t *testing.T, features string) *scripted {
	s := newScriptedServer(t, nil)
	s.told.Store(&features)
	c, rec := dial(t, s.url(), client.Options{CloseTimeout: shortCloseTimeout})
	return &scripted{t, s, c, rec}
}

func (s *scripted) connect() jsonPeer {
	s.t.Helper()
	hub := jsonPeer{s.t, receive(s.t, s.server.conns)}
	s.t.Cleanup(func() { _ = hub.Close() })
	return hub
}

// reply reads a request and acknowledges it with this data.
func (p jsonPeer) reply(data string) websocket.Message {
	p.t.Helper()
	m := p.read()
	p.write(websocket.Message{Type: "ack", ID: m.ID, Channel: m.Channel, Data: []byte(data), Timestamp: 1})
	return m
}

const historyFeature = `{"features":["history"]}`

// TestResumeRequests checks the positions that a client sends, and the messages that it drops.
func TestResumeRequests(t *testing.T) {
	t.Parallel()
	s := withScript(t, historyFeature)
	hub := s.connect()
	got, handler := newHandler()
	result := make(chan error, 1)
	go func() { result <- errOf(s.Subscribe(testContext(t), "ch", handler, client.Last(3))) }() // ends with the reply
	require.JSONEq(t, `{"channel":"ch","last":3}`, string(hub.reply(`{"epoch":"a","offset":9,"replayed":1,"complete":true}`).Data))
	require.NoError(t, receive(t, result))

	number := func(offset uint64) {
		hub.write(websocket.Message{Type: "message", Channel: "ch", Offset: offset, Data: fmt.Append(nil, offset)})
	}
	lose := func(since string, ack string) {
		t.Helper()
		_ = hub.NetConn().Close()
		hub = s.connect()
		require.JSONEq(t, `{"channel":"ch","since":`+since+`}`, string(hub.reply(ack).Data))
	}
	gap := func(count int) {
		hub.write(websocket.Message{Type: "gap", Channel: "ch", Data: fmt.Appendf(nil, `{"channel":"ch","count":%d,"reason":"history"}`, count)})
		require.EqualValues(t, count, receive(t, s.rec.gaps).Count)
	}
	// The latest three were on their way, some of them published by this client itself.
	lose(`{"epoch":"a","offset":6}`, `{"epoch":"a","offset":9,"replayed":3,"complete":true}`)
	for _, offset := range []uint64{6, 7, 9, 9, 8, 10} {
		number(offset)
	}
	for _, want := range []string{"7", "9", "10"} {
		require.Equal(t, want, string(receive(t, got).Data))
	}

	// A resume whose gap has not arrived is repeated.
	lose(`{"epoch":"a","offset":10}`, `{"epoch":"b","offset":5,"replayed":0,"complete":false,"reason":"epoch"}`)
	lose(`{"epoch":"a","offset":10}`, `{"epoch":"b","offset":5,"replayed":0,"complete":false,"reason":"epoch"}`)
	gap(0)
	lose(`{"epoch":"b","offset":5}`, `{"epoch":"b","offset":9,"replayed":2,"complete":false,"reason":"expired"}`)
	gap(2)
	number(8)
	require.Equal(t, "8", string(receive(t, got).Data))
	// The hub has lost the latest messages.
	lose(`{"epoch":"b","offset":8}`, `{"epoch":"b","offset":3,"replayed":1,"complete":false,"reason":"epoch"}`)
	gap(0)
	number(3)
	require.Equal(t, "3", string(receive(t, got).Data))
	// A gap of everything ends a resume too.
	lose(`{"epoch":"b","offset":3}`, `{"epoch":"c","offset":7,"complete":false,"reason":"epoch"}`)
	hub.write(websocket.Message{Type: "gap", Data: []byte(`{"all":true,"count":1,"reason":"slow_consumer"}`)})
	require.True(t, receive(t, s.rec.gaps).All)
	lose(`{"epoch":"c","offset":7}`, `null`)
	require.Equal(t, client.ReasonReconnect, receive(t, s.rec.gaps).Reason, "an older hub does not tell")
	_ = hub.NetConn().Close()
	hub = s.connect()
	require.JSONEq(t, `{"channel":"ch"}`, string(hub.reply(`{"epoch":"d","offset":2,"replayed":0,"complete":true}`).Data))
	require.Equal(t, client.ReasonReconnect, receive(t, s.rec.gaps).Reason)
	lose(`{"epoch":"d","offset":2}`, `{"epoch":"d","offset":2,"replayed":0,"complete":true}`)
	number(3)
	require.Equal(t, "3", string(receive(t, got).Data))
	require.Empty(t, got)
	require.Empty(t, s.rec.gaps)
}

// A message with an application's own type belongs to the channel or to the room of that
// name. Its offset does not count in the wrong one.
func TestOffsetsOfChannelAndRoomOfOneName(t *testing.T) {
	t.Parallel()
	for _, keeps := range [][2]bool{{true, true}, {true, false}, {false, true}} {
		inBubble(t, client.Options{}, func(s *server) {
			s.config.TopicOptions = func(kind websocket.TopicKind, _ string) websocket.TopicOptions {
				if keeps[kind] {
					return websocket.TopicOptions{History: websocket.HistoryOptions{Messages: 10}}
				}
				return websocket.TopicOptions{}
			}
		}, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			got, handler := newHandler()
			inRoom, onRoom := newHandler()
			require.NoError(t, errOf(c.Subscribe(t.Context(), "x", handler)))
			require.NoError(t, errOf(c.JoinRoom(t.Context(), "x", onRoom)))
			for range 3 {
				require.NoError(t, s.hub.PublishToRoom("x", &websocket.Message{Type: "own"}))
			}
			s.numbers("x", 1, 2)
			require.NoError(t, s.hub.PublishToRoom("x", &websocket.Message{Data: []byte(`4`)}))
			for range 3 {
				require.Equal(t, "own", receive(t, inRoom).Type)
			}
			requireNumbers(t, got, 1, 2)
			requireNumbers(t, inRoom, 4, 4)
		})
	}
}

// A client comes back to a channel and a room of one name. It gets what it has missed of both,
// once, and is told of no gap.
func TestResumeOfChannelAndRoomOfOneName(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, keeping(websocket.HistoryOptions{Messages: 100}), func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			publish := func(from, to int) {
				for n := from; n <= to; n++ {
					require.NoError(t, s.hub.PublishToRoom("x", &websocket.Message{Type: "own", Data: fmt.Append(nil, n)}))
					if n%2 == 0 { // so the offsets differ
						require.NoError(t, s.hub.PublishToChannel("x", &websocket.Message{Type: "own", Data: fmt.Append(nil, n/2)}))
					}
				}
			}
			publish(1, 2)
			got, handler := newHandler()
			inRoom, onRoom := newHandler()
			channel, err := c.Subscribe(t.Context(), "x", handler, client.Last(10))
			require.NoError(t, err)
			room, err := c.JoinRoom(t.Context(), "x", onRoom, client.Last(10))
			require.NoError(t, err)
			for n := 2; n < 8; n += 2 {
				publish(n+1, n+1)
				synctest.Wait()
				s.lose(c)
				publish(n+2, n+2)
				rec.waitState(t, client.Connected)
			}
			requireNumbers(t, got, 1, 4)
			requireNumbers(t, inRoom, 1, 8)
			require.EqualValues(t, 4, channel.Position().Offset)
			require.EqualValues(t, 8, room.Position().Offset)
			require.Empty(t, rec.gaps)
			require.Empty(t, rec.errors)
			page, err := room.History(t.Context(), websocket.HistoryQuery{Limit: 1})
			require.NoError(t, err)
			require.True(t, page.Messages[0].Room)
		})
	}
}

// In a topic with Conflate offsets are missing. Members get the newest values, and
// publications are not repeated, because an old value would replace a newer one.
func TestConflate(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf"} {
		inBubble(t, client.Options{Codec: codec}, func(s *server) {
			s.config.TopicOptions = func(websocket.TopicKind, string) websocket.TopicOptions {
				return websocket.TopicOptions{Conflate: true}
			}
		}, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			set := func(key string, from, to int) {
				for n := from; n <= to; n++ {
					require.NoError(t, s.hub.PublishToChannel("prices", &websocket.Message{Key: key, Data: fmt.Append(nil, n)}))
				}
			}
			set("b", 1, 1)
			set("a", 2, 2)
			set("c", 3, 3)
			set("b", 3, 20)
			for _, last := range []int{3, 100} {
				got, handler := newHandler()
				sub, err := c.Subscribe(t.Context(), "prices", handler, client.Last(last))
				require.NoError(t, err)
				require.Equal(t, 3, sub.Resumed().Replayed)
				for _, want := range []string{"2", "3", "20"} {
					require.Equal(t, want, string(receive(t, got).Data))
				}
				require.NoError(t, sub.Unsubscribe(t.Context()))
			}

			var broken atomic.Bool
			p.wrap = func(nc net.Conn) net.Conn { return &breakingNetwork{nc, &broken} }
			c.Reconnect()
			rec.waitState(t, client.Connected)
			got, handler := newHandler()
			require.NoError(t, errOf(c.Subscribe(t.Context(), "prices", handler)))
			broken.Store(true)
			require.ErrorIs(t, c.Publish(t.Context(), "prices", []byte(`5`), client.Key("a")), client.ErrOutcomeUnknown)
			set("a", 6, 7)
			rec.waitState(t, client.Connected)
			requireNumbers(t, got, 7, 7)
			require.NoError(t, c.Publish(t.Context(), "prices", []byte(`8`), client.Key("a")))
			requireNumbers(t, got, 8, 8)
			broken.Store(true)
			require.ErrorIs(t, c.Publish(t.Context(), "prices", []byte(`9`), client.Key("a")), client.ErrOutcomeUnknown)
			require.Empty(t, rec.gaps)
		})
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, keeping(websocket.HistoryOptions{Messages: 100}), func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
			ctx := t.Context()
			s.numbers("news", 1, 19)
			require.NoError(t, s.hub.PublishToChannel("news", &websocket.Message{Type: "own", Data: []byte{0xff}, ClientID: "zoë"}))
			require.NoError(t, s.hub.PublishToRoom("news", &websocket.Message{Data: []byte(`"room"`)}))
			sub, err := c.Subscribe(ctx, "news", nil)
			require.NoError(t, err)
			room, err := c.JoinRoom(ctx, "news", nil)
			require.NoError(t, err)

			page, err := sub.History(ctx, websocket.HistoryQuery{Limit: 2})
			require.NoError(t, err)
			require.True(t, page.Complete)
			require.Equal(t, sub.Position(), page.Position)
			require.Len(t, page.Messages, 2)
			last := page.Messages[1]
			require.Equal(t, &websocket.Message{Type: "own", Channel: "news", Data: []byte{0xff}, ClientID: "zoë", Timestamp: last.Timestamp, Offset: 20}, last)
			page, err = sub.History(ctx, websocket.HistoryQuery{Before: page.Messages[0].Offset, Limit: 3})
			require.NoError(t, err)
			require.Len(t, page.Messages, 3)
			require.Equal(t, "16", string(page.Messages[0].Data))
			page, err = sub.History(ctx, websocket.HistoryQuery{Since: websocket.Position{Epoch: page.Epoch, Offset: 3}, Limit: 1})
			require.NoError(t, err)
			require.Equal(t, "4", string(page.Messages[0].Data))
			page, err = sub.History(ctx, websocket.HistoryQuery{Since: websocket.Position{Epoch: "other"}})
			require.NoError(t, err)
			require.Equal(t, "epoch", page.Reason)
			page, err = room.History(ctx, websocket.HistoryQuery{})
			require.NoError(t, err)
			require.Equal(t, `"room"`, string(page.Messages[0].Data))

			c.Reconnect()
			require.NoError(t, errOf(sub.History(ctx, websocket.HistoryQuery{})))
			short, cancel := context.WithCancel(ctx)
			cancel()
			require.ErrorIs(t, errOf(sub.History(short, websocket.HistoryQuery{})), context.Canceled)
			var refusal *client.Error
			require.ErrorAs(t, errOf(sub.History(ctx, websocket.HistoryQuery{Limit: -1})), &refusal)
			require.Equal(t, client.CodeBadRequest, refusal.Code)
			require.NoError(t, sub.Unsubscribe(ctx))
			require.ErrorAs(t, errOf(sub.History(ctx, websocket.HistoryQuery{})), &refusal)
			require.Equal(t, client.CodeForbidden, refusal.Code)
			require.ErrorIs(t, c.Send(ctx, &websocket.Message{Type: "hub:history"}), client.ErrReserved)
		})
	}
}
