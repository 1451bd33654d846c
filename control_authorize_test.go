package websocket_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/stretchr/testify/require"
)

// authorizeCall is one call of the hook.
type authorizeCall struct {
	action websocket.Action
	target string
}

// controlRequest is a control message and the request that the hook must receive for it.
type controlRequest struct {
	action websocket.Action
	target string
	make   func(p *peer) wire
}

// controlRequests returns one request for each action.
func controlRequests(channel, room string) []controlRequest {
	return []controlRequest{
		{websocket.ActionSubscribe, channel, func(p *peer) wire { return wire{Data: p.codec.channel(channel)} }},
		{websocket.ActionPublish, channel, func(*peer) wire { return wire{Channel: channel} }},
		{websocket.ActionJoinRoom, room, func(p *peer) wire { return wire{Data: p.codec.room(room)} }},
		{websocket.ActionPublishRoom, room, func(*peer) wire { return wire{Channel: room} }},
		{websocket.ActionBroadcast, "", func(*peer) wire { return wire{} }},
		{websocket.ActionUnsubscribe, channel, func(p *peer) wire { return wire{Data: p.codec.channel(channel)} }},
		{websocket.ActionLeaveRoom, room, func(p *peer) wire { return wire{Data: p.codec.room(room)} }},
	}
}

// wire returns the control message. An empty id asks for no ack.
func (r controlRequest) wire(p *peer, id string) wire {
	m := r.make(p)
	m.Type, m.ID = string(r.action), id
	return m
}

// Authorize refuses one action. A refused action has no effect and gets an error reply,
// with or without an ID. All other actions take effect.
func TestAuthorizeRefusesOneAction(t *testing.T) {
	t.Parallel()
	for _, refused := range controlRequests("", "") {
		for _, codec := range subprotocols {
			t.Run(fmt.Sprint(refused.action, " ", codec), func(t *testing.T) {
				t.Parallel()
				var mu sync.Mutex
				var calls []authorizeCall
				var caller *websocket.Client
				config := websocket.DefaultConfig
				config.Authorize = func(c *websocket.Client, r websocket.AuthorizeRequest) error {
					mu.Lock()
					defer mu.Unlock()
					caller = c
					calls = append(calls, authorizeCall{r.Action, r.Target})
					if r.Action == refused.action {
						return &websocket.RequestError{Message: "not allowed: " + c.Codec().Name()}
					}
					return nil
				}
				b := setup(t, config, options{})
				p, c := b.connect(t, dialing{codec: codec})
				var want []authorizeCall
				effects := map[websocket.Action]bool{} // actions that took effect
				for _, a := range controlRequests("news 📰", "room_101") {
					for _, id := range []string{"7", ""} {
						want = append(want, authorizeCall{a.action, a.target})
						p.send(t, a.wire(p, id))
						if a.action == refused.action {
							require.Equal(t, "not allowed: "+codec, p.requireError(t, id, a.target, "forbidden"))
							continue
						}
						effects[a.action] = true
						publishes := a.action == websocket.ActionBroadcast ||
							a.action == websocket.ActionPublish && effects[websocket.ActionSubscribe] ||
							a.action == websocket.ActionPublishRoom && effects[websocket.ActionJoinRoom]
						if publishes {
							got := p.read(t)
							require.NotContains(t, []string{"ack", "error"}, got.Type)
							require.Equal(t, a.target, got.Channel)
						}
						if id != "" {
							got := p.read(t)
							require.Equal(t, "ack", got.Type)
							require.Equal(t, id, got.ID)
							require.Equal(t, a.target, got.Channel)
						}
					}
				}
				p.send(t, wire{Type: "own", ID: "8", Data: []byte("1")})      // not a control message
				p.send(t, wire{Type: "subscribe", Data: p.codec.channel("")}) // rejected before the hook
				p.requireError(t, "", "", "bad_request")

				mu.Lock()
				defer mu.Unlock()
				require.Equal(t, want, calls)
				require.Same(t, c, caller)
				require.Equal(t, refused.action == websocket.ActionUnsubscribe, channelsOf(b.hub)["news 📰"] == 1)
				require.Equal(t, refused.action == websocket.ActionLeaveRoom, roomsOf(b.hub)["room_101"] == 1)
				require.NoError(t, c.Subscribe("by the server"), "the hook is only for control messages")
				require.Equal(t, len(want)+2, b.messages.len(), "onMessage receives refused messages too")
			})
		}
	}
}

func TestAuthorizeMayCallHubAndClient(t *testing.T) {
	t.Parallel()
	var b *bundle
	ready := make(chan struct{})
	config := websocket.DefaultConfig
	config.Authorize = func(c *websocket.Client, r websocket.AuthorizeRequest) error {
		<-ready
		_ = b.hub.Broadcast([]byte(`"from the hook"`))
		_, _ = b.hub.RoomMembers(c.Request().Context(), "r")
		return c.JoinRoom("checked " + r.Target)
	}
	b = setup(t, config, options{})
	close(ready)
	p, _ := b.connect(t, dialing{})
	p.send(t, wire{Type: "subscribe", Data: jsonChannel("news"), ID: "1"})
	require.Equal(t, `"from the hook"`, string(p.read(t).Data))
	require.Equal(t, "ack", p.read(t).Type)
	require.Equal(t, map[string]int{"checked news": 1}, roomsOf(b.hub))
	require.Equal(t, map[string]int{"news": 1}, channelsOf(b.hub))
}

// A panic in Authorize closes its client. The request has no effect.
func TestAuthorizePanicClosesOnlyItsClient(t *testing.T) {
	t.Parallel()
	config := withQueryID(websocket.DefaultConfig)
	config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
		if strings.HasPrefix(r.Target, "bad") {
			panic("boom")
		}
		return nil
	}
	b := setup(t, config, options{logsError: true})
	good, _ := b.connect(t, dialing{query: "id=good"})
	good.subscribe(t, "elsewhere")
	p, c := b.connect(t, dialing{query: "id=bad"})
	p.send(t, wire{Type: "subscribe", Data: jsonChannel("bad one"), ID: "1"})
	p.requireClosed(t, websocket.CloseInternalError)
	require.Same(t, c, b.disconnected.take(t))
	require.Len(t, b.logs.matching("error", `Authorize of client "bad" panicked: boom`), 1)
	require.NotContains(t, channelsOf(b.hub), "bad one")
	require.Len(t, good.do(t, wire{Type: "publish", Channel: "elsewhere"}), 1)
}

func TestAllowSubscribeAndAllowMembers(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name string
		hook func(*websocket.Client, websocket.AuthorizeRequest) error
		// The actions that are allowed to a client outside and inside the topics.
		outside, inside []websocket.Action
	}{
		{
			"AllowSubscribe", websocket.AllowSubscribe,
			[]websocket.Action{websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom},
			[]websocket.Action{websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom},
		},
		{
			"AllowMembers", websocket.AllowMembers,
			[]websocket.Action{websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom},
			[]websocket.Action{
				websocket.ActionSubscribe, websocket.ActionUnsubscribe, websocket.ActionJoinRoom, websocket.ActionLeaveRoom,
				websocket.ActionPublish, websocket.ActionPublishRoom,
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Authorize = tt.hook
			b := setup(t, config, options{})
			_, c := b.connect(t, dialing{})
			other, member := b.connect(t, dialing{})
			require.NoError(t, member.Subscribe("name"))
			require.NoError(t, member.JoinRoom("name"))
			other.do(t, wire{Type: "subscribe", Data: jsonChannel("another")})
			for _, a := range controlRequests("name", "name") {
				check := func(c *websocket.Client, allowed []websocket.Action) {
					err := tt.hook(c, websocket.AuthorizeRequest{Action: a.action, Target: a.target})
					if slices.Contains(allowed, a.action) {
						require.NoError(t, err, a.action)
					} else {
						require.ErrorIs(t, err, websocket.ErrForbidden, a.action)
					}
				}
				check(c, tt.outside)
				check(member, tt.inside)
			}
			require.NoError(t, member.LeaveRoom("name")) // it is still in the channel with this name
			require.ErrorIs(t, tt.hook(member, websocket.AuthorizeRequest{Action: websocket.ActionPublishRoom, Target: "name"}), websocket.ErrForbidden)
		})
	}
}

// The client receives the text of a refusal. The text of any other error is only logged.
func TestAuthorizeErrorReply(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name       string
		err        error
		code, text string
	}{
		{"refusal", websocket.ErrForbidden, "forbidden", "websocket: not allowed"},
		{"refusal with a text", fmt.Errorf("members only: %w", websocket.ErrForbidden), "forbidden", "members only: websocket: not allowed"},
		{"refusal with a code", &websocket.RequestError{Code: "not_a_member", Message: "join first"}, "not_a_member", "join first"},
		{"refusal without a code", &websocket.RequestError{Message: "join first"}, "forbidden", "join first"},
		{"failure", errors.New("select * from secrets: connection refused"), "internal", "internal error"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			config.Authorize = func(_ *websocket.Client, r websocket.AuthorizeRequest) error {
				require.Equal(t, `{"channel":"news"}`, string(r.Message.Data))
				require.Equal(t, "1", r.Message.ID)
				return tt.err
			}
			b := setup(t, config, options{logsError: tt.code == "internal"})
			p, _ := b.connect(t, dialing{})
			p.send(t, wire{Type: "subscribe", Data: jsonChannel("news"), ID: "1"})
			m := p.read(t)
			require.Equal(t, "error", m.Type)
			require.JSONEq(t, fmt.Sprintf(`{"code":%q,"message":%q}`, tt.code, tt.text), string(m.Data))
			require.Empty(t, channelsOf(b.hub))
			if tt.code == "internal" {
				require.Len(t, b.logs.matching("error", `Authorize failed: action=subscribe target="news"`), 1)
			}
		})
	}
}
