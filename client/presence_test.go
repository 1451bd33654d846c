package client_test

import (
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// idsOf returns the IDs of members, each with its user and info.
func idsOf(members []websocket.Member) string {
	ids := ""
	for _, m := range members {
		ids += fmt.Sprintf("%s(%s%s) ", m.ClientID, m.User, m.Info)
	}
	return ids
}

// TestPresence applies messages about the members of a room.
func TestPresence(t *testing.T) {
	t.Parallel()
	s := withScript(t, `{"features":["presence"]}`)
	hub := s.connect()
	changes := make(chan client.PresenceChange, bufferSize)
	got, handler := newHandler()
	type result struct {
		sub *client.Subscription
		err error
	}
	joining := func(options ...client.SubscribeOption) <-chan result {
		results := make(chan result, 1)
		go func() { // ends with the reply
			sub, err := s.JoinRoom(testContext(t), "r", handler, options...)
			results <- result{sub, err}
		}()
		return results
	}
	requireChange := func(joined, left, updated string) {
		t.Helper()
		change := receive(t, changes)
		require.Equal(t, []string{joined, left, updated}, []string{idsOf(change.Joined), idsOf(change.Left), idsOf(change.Updated)})
	}
	ask := func() websocket.Message {
		t.Helper()
		m := hub.read()
		require.Equal(t, "hub:presence", m.Type)
		require.JSONEq(t, `{"room_id":"r"}`, string(m.Data))
		return m
	}
	tell := func(typ, id, data string) {
		hub.write(websocket.Message{Type: typ, Channel: "r", ClientID: id, Data: []byte(data)})
	}
	gap := func(data string) {
		hub.write(websocket.Message{Type: "gap", Data: []byte(data)})
		receive(t, s.rec.gaps)
	}

	joined := joining(client.OnPresence(func(change client.PresenceChange) { changes <- change }))
	hub.reply(`null`)
	sub := receive(t, joined)
	require.NoError(t, sub.err)
	request := ask()
	require.Empty(t, sub.sub.Members())
	tell("join", "a", `{"room":true,"user":"ann","since":1000}`) // the reply has it too
	requireChange("a(ann) ", "", "")
	gap(`{"room_id":"r","count":1,"reason":"slow_consumer"}`) // the reply is newer
	hub.write(websocket.Message{Type: "ack", ID: request.ID, Data: []byte(
		`{"members":[{"client_id":"b","user":"bob","info":{"n":1},"since":2000,"node":"x"},{"client_id":"a","user":"ann","since":1000}],"count":2}`)})
	requireChange(`b(bob{"n":1}) `, "", "")
	members := sub.sub.Members()
	require.Equal(t, `a(ann) b(bob{"n":1}) `, idsOf(members))
	require.Equal(t, time.UnixMilli(2000), members[1].Since)
	require.Equal(t, "x", members[1].Node)

	// Single changes, and several at once. Those of a channel, of another room and of
	// members that are not known change nothing.
	tell("update", "b", `{"room":true,"user":"bob","info":2}`)
	requireChange("", "", "b(bob2) ")
	tell("leave", "b", `{"user":"bob","last":true}`)
	tell("leave", "unknown", `{"room":true}`)
	tell("update", "unknown", `{"room":true}`)
	tell("presence_diff", "", `{"room":true,"leaves":[{"client_id":"a"},{"client_id":"x"}],"joins":[{"client_id":"b","user":"bob","since":3000},{"client_id":"c","since":1}],"updates":[{"client_id":"c","info":3}]}`)
	requireChange("c(3) ", "a(ann) ", "b(bob) ")
	require.Equal(t, "b", receive(t, got).ClientID, "nobody follows the channel")

	// A second subscription begins with all members. Its handler gets none of these messages,
	// but those with an offset, which are the application's.
	later := joining(client.OnPresence(func(change client.PresenceChange) {
		changes <- change
		runtime.Goexit()
	}))
	hub.reply(`null`)
	second := receive(t, later)
	require.NoError(t, second.err)
	requireChange("c(3) b(bob) ", "", "")
	hub.write(websocket.Message{Type: "join", Channel: "r", ClientID: "z", Data: []byte(`{"room":true}`), Offset: 1, Room: true})
	for range 2 {
		require.Equal(t, "z", receive(t, got).ClientID)
	}
	require.ErrorAs(t, receive(t, s.rec.errors), new(*client.PanicError))

	// After a gap that may have had a change or a reply, the client asks again.
	gap(`{"room_id":"r","count":1,"reason":"slow_consumer"}`)
	lost := ask()
	gap(`{"channel":"r","count":1,"reason":"slow_consumer"}`)
	gap(`{"count":1,"reason":"slow_consumer"}`) // may have been the reply
	request = ask()
	hub.write(websocket.Message{Type: "ack", ID: lost.ID, Data: []byte(`{"members":[]}`)})
	hub.write(websocket.Message{Type: "ack", ID: request.ID, Data: []byte(`{"members":[{"client_id":"b","user":"bob","since":3000}]}`)})
	for range 2 {
		requireChange("", "c(3) ", "")
	}
	gap(`{"all":true,"count":1,"reason":"slow_consumer"}`)
	hub.write(websocket.Message{Type: "ack", ID: ask().ID, Data: []byte(`{"members":[{"client_id":"b","user":"bob","since":3000}]}`)})

	// The members are kept over a lost connection.
	_ = hub.NetConn().Close()
	require.Equal(t, `b(bob) `, idsOf(sub.sub.Members()))
	hub = s.connect()
	hub.reply(`null`)
	request = ask()
	require.Equal(t, `b(bob) `, idsOf(sub.sub.Members()))
	hub.write(websocket.Message{Type: "ack", ID: request.ID, Data: []byte(`{"members":[{"client_id":"d","since":1}]}`)})
	for range 2 {
		requireChange("d() ", "b(bob) ", "")
	}

	// The hub does not tell any more.
	_ = hub.NetConn().Close()
	hub = s.connect()
	hub.reply(`null`)
	hub.write(websocket.Message{Type: "error", ID: ask().ID, Data: []byte(`{"code":"bad_request"}`)})
	for range 2 {
		requireChange("", "d() ", "")
	}
	for {
		var refusal *client.Error
		if err := receive(t, s.rec.errors); errors.As(err, &refusal) {
			require.Equal(t, client.CodeBadRequest, refusal.Code)
			break
		}
	}

	// Without a subscription that follows, the messages are as all others.
	require.NoError(t, sub.sub.Unsubscribe(testContext(t)))
	require.NoError(t, second.sub.Err())
	require.Nil(t, sub.sub.Members())
	third := joining()
	hub.reply(`null`)
	require.NoError(t, receive(t, third).err)
	require.NoError(t, second.sub.Unsubscribe(testContext(t)))
	tell("join", "e", `{"room":true}`)
	require.Equal(t, "e", receive(t, got).ClientID)
	require.Empty(t, changes)
}

// A hub that does not know of presence is not asked.
func TestPresenceOfOlderHub(t *testing.T) {
	t.Parallel()
	inBubble(t, client.Options{}, nil, func(t *testing.T, s *server, _ *pipeListener, c *client.Client, rec *recorder) {
		sub, err := c.Subscribe(t.Context(), "x", nil, client.OnPresence(nil))
		require.NoError(t, err)
		var refusal *client.Error
		require.ErrorAs(t, receive(t, rec.errors), &refusal)
		require.Equal(t, client.CodeUnsupported, refusal.Code)
		require.Empty(t, sub.Members())
	})
}

// TestPresenceOfHub follows the members of a real hub over lost connections.
func TestPresenceOfHub(t *testing.T) {
	t.Parallel()
	for _, codec := range []string{"json", "protobuf", "flatbuffers", "msgpack"} {
		inBubble(t, client.Options{Codec: codec}, func(s *server) {
			s.config.TopicOptions = func(_ websocket.TopicKind, name string) websocket.TopicOptions {
				return websocket.TopicOptions{Presence: name != "private"}
			}
			s.onConn = func(c *websocket.Client) { c.SetUser("ann") }
		}, func(t *testing.T, s *server, p *pipeListener, c *client.Client, rec *recorder) {
			rec.waitState(t, client.Connected)
			ctx := t.Context()
			changes := make(chan client.PresenceChange, bufferSize)
			sub, err := c.Subscribe(ctx, "x", func(m *websocket.Message) { t.Errorf("%+v", m) }, client.OnPresence(func(change client.PresenceChange) { changes <- change }))
			require.NoError(t, err)
			ids := func(members []websocket.Member) (ids []string) {
				for _, m := range members {
					require.Equal(t, "ann", m.User)
					ids = append(ids, m.ClientID)
				}
				return ids
			}
			require.Equal(t, []string{c.ID()}, ids(receive(t, changes).Joined))
			others := make([]*client.Client, 20)
			for i := range others {
				others[i], err = client.Dial(ctx, "ws://hub", client.Options{NetDial: p.dial, OnGap: func(websocket.Gap) {}})
				require.NoError(t, err)
				defer func() {
					_ = others[i].Close()
					<-others[i].Done()
				}()
				require.NoError(t, errOf(others[i].Subscribe(ctx, "x", nil)))
			}
			settle := func() {
				t.Helper()
				time.Sleep(time.Second)
				synctest.Wait()
				want, err := s.hub.Presence(ctx, websocket.ChannelTopic, "x")
				require.NoError(t, err)
				require.Equal(t, want, sub.Members())
			}
			settle()
			require.Len(t, sub.Members(), 21)
			for i, other := range others {
				peer, ok := s.hub.Client(other.ID())
				require.True(t, ok)
				require.NoError(t, peer.SetInfo(i))
			}
			settle()
			for _, m := range sub.Members() {
				for i, other := range others {
					if m.ClientID == other.ID() {
						require.Equal(t, fmt.Sprint(i), string(m.Info))
					}
				}
			}
			old := c.ID()
			s.lose(c)
			for i := range 7 {
				require.NoError(t, others[i].Unsubscribe(ctx, "x"))
			}
			rec.waitState(t, client.Connected)
			for i := range 7 {
				require.NoError(t, others[7+i].Unsubscribe(ctx, "x"))
			}
			settle()
			require.Len(t, sub.Members(), 7)
			known := map[string]bool{old: true}
			for len(changes) > 0 {
				change := <-changes
				for _, id := range ids(change.Joined) {
					known[id] = true
				}
				for _, id := range ids(change.Updated) {
					require.True(t, known[id])
				}
				for _, id := range ids(change.Left) {
					require.True(t, known[id])
					delete(known, id)
				}
			}
			require.Len(t, known, 7)

			require.NoError(t, errOf(c.Subscribe(ctx, "private", nil, client.OnPresence(nil))))
			var refusal *client.Error
			require.ErrorAs(t, receive(t, rec.errors), &refusal)
			require.Equal(t, "private", refusal.Target)
		})
	}
}
