package websocket_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// A client answers with ack or error. Answers do not reach OnMessage.
func TestSendRequest(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	keys := randomKeys()
	for _, codec := range subprotocols {
		p, c := b.connect(t, dialing{codec: codec})
		if codec == "protobuf" {
			require.NoError(t, c.SetEncryptionKey(keys.aes))
			require.NoError(t, c.SetHMACKey(keys.hmac))
			p.keys = keys
		}
		ask := func(reply wire) (*websocket.Message, error) {
			done := make(chan struct{})
			var answer *websocket.Message
			var err error
			go func() { // ends with the request
				defer close(done)
				answer, err = c.SendRequest(t.Context(), &websocket.Message{Type: "seats", ID: "ignored", Data: []byte(`{"row":1}`)})
			}()
			request := p.read(t)
			require.Equal(t, "seats", request.Type)
			require.Equal(t, `{"row":1}`, string(request.Data))
			require.Regexp(t, `^hub:\d+$`, request.ID)
			reply.ID = request.ID
			p.send(t, wire{Type: "ack", ID: "hub:other"}) // no request waits for it
			p.send(t, reply)
			p.send(t, reply) // the second is discarded
			await(t, done)
			return answer, err
		}
		answer, err := ask(wire{Type: "ack", Data: []byte(`{"seats":[1,2]}`)})
		require.NoError(t, err)
		require.Equal(t, `{"seats":[1,2]}`, string(answer.Data))
		require.Equal(t, c.ID, answer.ClientID)
		_, err = ask(wire{Type: "error", Data: []byte(`{"code":"unsupported","message":"no handler"}`)})
		var refused *websocket.RequestError
		require.ErrorAs(t, err, &refused)
		require.Equal(t, websocket.RequestError{Code: "unsupported", Message: "no handler"}, *refused)
		for _, data := range []string{`"text"`, `{}`, `{"code":""}`, `{"code":1}`, ""} {
			_, err = ask(wire{Type: "error", Data: []byte(data)})
			require.ErrorIs(t, err, websocket.ErrMalformed, "%s %s", codec, data)
		}
		p.send(t, wire{Type: "ack", ID: "mine"})
		require.Equal(t, "mine", b.messages.take(t).message.ID, "only IDs of the hub's make an answer")
		require.Zero(t, b.messages.len())
	}
}

func TestSendRequestErrors(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	p, c := b.connect(t, dialing{})
	_, err := c.SendRequest(t.Context(), nil)
	require.ErrorIs(t, err, websocket.ErrNilMessage)
	for _, typ := range []string{"", "message", "hub:x", "ack"} {
		_, err = c.SendRequest(t.Context(), &websocket.Message{Type: typ})
		require.ErrorContains(t, err, "a request needs a type")
	}
	_, err = c.SendRequest(t.Context(), &websocket.Message{Type: "ask", Data: make([]byte, 2<<20)})
	require.ErrorIs(t, err, websocket.ErrMessageTooLarge)
	require.NoError(t, p.Conn.Close())
	b.disconnected.take(t)
	_, err = c.SendRequest(t.Context(), &websocket.Message{Type: "ask"})
	require.ErrorIs(t, err, websocket.ErrClientClosed)
}

// A request ends with its context, after 30 seconds without a deadline, and with the
// client. Late answers are discarded. At most MaxRequests wait.
func TestSendRequestEnds(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := websocket.DefaultConfig
			config.MaxRequests = 2
			hub := runFake(t, p, config)
			peer := hub.connect(1<<20, nil)
			c := onlyClient(t, hub)
			results := make(chan error)
			request := func(ctx context.Context) {
				go func() { // ends with the request
					_, err := c.SendRequest(ctx, &websocket.Message{Type: "ask"})
					results <- err
				}()
				synctest.Wait()
			}
			start := time.Now()
			request(t.Context())
			id := readJSON(t, peer)["id"]
			require.ErrorIs(t, <-results, context.DeadlineExceeded)
			require.Equal(t, 30*time.Second, time.Since(start))
			writeText(t, peer, `{"type":"ack","id":%q}`, id) // too late

			ctx, cancel := context.WithCancel(t.Context())
			request(ctx)
			second := readJSON(t, peer)["id"]
			require.NotEqual(t, id, second)
			cancel()
			require.ErrorIs(t, <-results, context.Canceled)

			request(t.Context())
			request(t.Context())
			_, err := c.SendRequest(t.Context(), &websocket.Message{Type: "ask"})
			require.ErrorIs(t, err, websocket.ErrTooManyRequests)
			writeText(t, peer, `{"type":"ack","id":%q}`, readJSON(t, peer)["id"])
			require.NoError(t, <-results)
			require.NoError(t, peer.Close())
			require.ErrorIs(t, <-results, websocket.ErrClientClosed)
			hub.stop()
		})
	})
}

// A handler that asks its own client back must be concurrent.
func TestHandlerAsksBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hub := runFake(t, paths[0], websocket.DefaultConfig)
		hub.HandleConcurrent("order", func(ctx context.Context, c *websocket.Client, _ *websocket.Message) (any, error) {
			answer, err := c.SendRequest(ctx, &websocket.Message{Type: "confirm"})
			if err != nil {
				return nil, err
			}
			return answer.Data, nil
		})
		peer := hub.connect(1<<20, nil)
		defer peer.Close()
		writeText(t, peer, `{"type":"order","id":"1"}`)
		question := readJSON(t, peer)
		require.Equal(t, "confirm", question["type"])
		writeText(t, peer, `{"type":"ack","id":%q,"data":"yes"}`, question["id"])
		answer := readJSON(t, peer)
		require.Equal(t, "ack 1 yes", fmt.Sprint(answer["type"], " ", answer["id"], " ", answer["data"]))
		hub.stop()
	})
}

// An application that passes a client's message on does not make it a request of the hub:
// clients answer only IDs that SendRequest has chosen.
func TestRequestsCannotBeForged(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{})
	for _, codec := range subprotocols {
		p, c := b.connect(t, dialing{codec: codec})
		p.subscribe(t, "news")
		p.joinRoom(t, "lobby")
		forged := &websocket.Message{Type: "confirm", ID: "hub:1"}
		for _, send := range []func() error{
			func() error { return c.Send(forged) },
			func() error { return b.hub.SendToClient(c.ID, forged) },
			func() error { return b.hub.PublishToChannel("news", forged) },
			func() error { return b.hub.PublishToRoom("lobby", forged) },
			func() error { return b.hub.BroadcastMessage(forged) },
		} {
			require.NoError(t, send())
			m := p.read(t)
			require.Equal(t, "confirm", m.Type)
			require.Empty(t, m.ID, codec)
		}
		require.NoError(t, c.Send(&websocket.Message{Type: "mine", ID: "7"}))
		require.Equal(t, "7", p.read(t).ID)
		p.closeCleanly(t)
	}
}
