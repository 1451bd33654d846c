package websocket_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
	"github.com/stretchr/testify/require"
)

// newsSince returns the data of a subscribe that resumes "news".
func newsSince(epoch any, offset int) string {
	return fmt.Sprintf(`{"channel":"news","since":{"epoch":%q,"offset":%d}}`, epoch, offset)
}

// requireComplete resumes at an offset and reads what has been missed until the end.
func requireComplete(t *testing.T, p *fakePeer, epoch any, since, end int) {
	t.Helper()
	ack := request(t, p, "subscribe", newsSince(epoch, since))
	require.Equal(t, map[string]any{"epoch": epoch, "offset": float64(end), "replayed": float64(end - since), "complete": true}, ack)
	requireNumbers(t, p, since+1, end)
}

// A client that has received nothing but the ack of its subscription resumes from there.
// Resuming repeatedly from one place gives the same each time.
func TestResumeFromNothingAndRepeatedly(t *testing.T) {
	t.Parallel()
	inHistoryHub(t, keep(websocket.HistoryOptions{Messages: 100}), func(t *testing.T, hub *fakeHub) {
		publishNumbers(t, hub, "news", 1, 3)
		p := hub.connect(1<<16, nil)
		ack := request(t, p, "subscribe", `{"channel":"news"}`)
		require.EqualValues(t, 3, ack["offset"])
		require.NoError(t, p.Close())
		publishNumbers(t, hub, "news", 4, 9)
		for range 3 {
			p := hub.connect(1<<16, nil)
			requireComplete(t, p, ack["epoch"], 3, 9)
			require.NoError(t, p.Close())
		}
		p = hub.connect(1<<16, nil)
		for range 3 { // also on one connection
			requireComplete(t, p, ack["epoch"], 3, 9)
		}
		require.NoError(t, p.Close())
	})
}

// Two connections of one user have positions of their own.
func TestResumeOfTwoConnectionsOfOneUser(t *testing.T) {
	t.Parallel()
	config := keep(websocket.HistoryOptions{Messages: 100})
	config.OnConnect = func(c *websocket.Client) { c.SetUser("ann") }
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		first, second := hub.connect(1<<16, nil), hub.connect(1<<16, nil)
		epoch := request(t, first, "subscribe", `{"channel":"news"}`)["epoch"]
		publishNumbers(t, hub, "news", 1, 2)
		request(t, second, "subscribe", `{"channel":"news"}`)
		publishNumbers(t, hub, "news", 3, 4)
		requireNumbers(t, first, 1, 4)
		requireNumbers(t, second, 3, 4)
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
		publishNumbers(t, hub, "news", 5, 6)
		first, second = hub.connect(1<<16, nil), hub.connect(1<<16, nil)
		requireComplete(t, second, epoch, 2, 6)
		requireComplete(t, first, epoch, 4, 6)
		publishNumbers(t, hub, "news", 7, 7)
		requireNumbers(t, first, 7, 7)
		requireNumbers(t, second, 7, 7)
		require.NoError(t, first.Close())
		require.NoError(t, second.Close())
	})
}

// A client that comes back while its old connection is still open, because its end has
// not been noticed, resumes at once. With ReplaceDuplicate it takes its ID over.
func TestResumeBesideAHalfOpenConnection(t *testing.T) {
	t.Parallel()
	for _, takeover := range []bool{false, true} {
		config := keep(websocket.HistoryOptions{Messages: 10_000})
		config.ClientBacklog, config.MaxMessageSize = 4_000, 1_000
		var header = withID("client")
		if takeover {
			config.ClientID, config.DuplicateID = byID, websocket.ReplaceDuplicate
		}
		inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
			old := hub.connect(1<<10, header) // reads nothing after the ack
			epoch := request(t, old, "subscribe", `{"channel":"news"}`)["epoch"]
			publishNumbers(t, hub, "news", 1, 500)
			synctest.Wait()
			p := hub.connect(1<<16, header)
			requireComplete(t, p, epoch, 0, 500)
			publishNumbers(t, hub, "news", 501, 505)
			requireNumbers(t, p, 501, 505)
			if takeover {
				synctest.Wait()
				require.Equal(t, 1, hub.Stats().ActiveConnections)
			}
			time.Sleep(2 * time.Minute) // the hub gives up the old connection
			st := hub.Stats()
			require.Equal(t, st.MessagesAddressed, st.MessagesSent+st.Dropped.Total(), "%+v", st)
			require.NoError(t, old.Close())
			_ = p.Close() // it has not answered pings meanwhile
		})
	}
}

// A client may come back with another codec and with keys: positions are the same.
func TestResumeAcrossCodecsAndSeals(t *testing.T) {
	t.Parallel()
	b := setup(t, keep(websocket.HistoryOptions{Messages: 100}), options{})
	position := websocket.Position{}
	next := 1
	publish := func() {
		require.NoError(t, b.hub.PublishToChannelRaw("news", fmt.Append(nil, next)))
		next++
	}
	publish()
	for i := range 8 {
		codec := subprotocols[i%len(subprotocols)]
		p, c := b.connect(t, dialing{codec: codec})
		if i%2 == 1 {
			keys := randomKeys()
			require.NoError(t, c.SetEncryptionKey(keys.aes))
			require.NoError(t, c.SetHMACKey(keys.hmac))
			p.keys = keys
		}
		data := mustJSON(map[string]any{"channel": "news", "since": position})
		if codec == "protobuf" {
			data = mustProto(&proto.ChannelRequest{Channel: "news", Since: &proto.Position{Epoch: position.Epoch, Offset: position.Offset}})
		}
		p.send(t, wire{Type: "subscribe", ID: "1", Data: data})
		ack := p.read(t)
		require.Equal(t, "ack", ack.Type, "%s", ack.Data)
		var resumed websocket.Resumed
		require.NoError(t, json.Unmarshal(ack.Data, &resumed))
		require.True(t, resumed.Complete)
		for n := int(position.Offset) + 1; n < next; n++ {
			require.Equal(t, fmt.Sprint(n), string(p.read(t).Data), codec)
		}
		publish()
		require.Equal(t, fmt.Sprint(next-1), string(p.read(t).Data), codec)
		position = websocket.Position{Epoch: resumed.Epoch, Offset: uint64(next - 1)}
		p.closeCleanly(t)
		b.disconnected.take(t)
		for range i {
			publish()
		}
	}
}

// After a restart the hub has no history. A client that comes back is told that it may have
// missed something, and then gets all that is kept.
func TestResumeAfterRestart(t *testing.T) {
	t.Parallel()
	onBothPaths(t, func(t *testing.T, p path) {
		synctest.Test(t, func(t *testing.T) {
			config := keep(websocket.HistoryOptions{Messages: 100})
			hub := runFake(t, p, config)
			peer := hub.connect(1<<16, nil)
			epoch := request(t, peer, "subscribe", `{"channel":"news"}`)["epoch"]
			publishNumbers(t, hub, "news", 1, 3)
			requireNumbers(t, peer, 1, 3)
			require.NoError(t, peer.Close())
			hub.stop()

			hub = runFake(t, p, config)
			publishNumbers(t, hub, "news", 1, 5)
			peer = hub.connect(1<<16, nil)
			ack := request(t, peer, "subscribe", newsSince(epoch, 3))
			require.Equal(t, "epoch", ack["reason"])
			require.NotEqual(t, epoch, ack["epoch"])
			require.EqualValues(t, 5, ack["replayed"])
			gap := readJSON(t, peer)
			require.Equal(t, "gap", gap["type"])
			data := gap["data"].(map[string]any)
			require.Equal(t, "history 0", fmt.Sprint(data["reason"], " ", data["count"]))
			requireNumbers(t, peer, 1, 5)
			require.NoError(t, peer.Close())
			hub.stop()
		})
	})
}

// stopping is a JSON codec that waits while it encodes a message of type "stop".
type stopping struct {
	websocket.JSONCodec
	goOn chan struct{} // closed by the test
}

func (c *stopping) AppendMarshal(dst []byte, m *websocket.Message) ([]byte, error) {
	if m.Type == "stop" {
		<-c.goOn
	}
	return c.JSONCodec.AppendMarshal(dst, m)
}

// A client that is fed from a history asks to join again, before more is published. The
// shard is late: it feeds the client while it has not routed the reply yet. The reply must
// not come behind publications that its position does not include.
func TestReplyBeforeLaterPublications(t *testing.T) {
	t.Parallel()
	codec := &stopping{}
	config := keepChannel("news", 100)
	config.Codecs, config.Subprotocols = []websocket.Codec{codec}, nil
	config.Shards = 1
	inHistoryHub(t, config, func(t *testing.T, hub *fakeHub) {
		codec.goOn = make(chan struct{})
		publishNumbers(t, hub, "news", 1, 4)
		p, other := hub.connect(1<<20, nil), hub.connect(8<<20, nil)
		request(t, other, "subscribe", `{"channel":"other"}`)
		require.NoError(t, hub.PublishToChannel("other", &websocket.Message{Type: "stop"}))
		synctest.Wait() // the shard encodes "stop"
		writeText(t, p, `{"type":"subscribe","id":"1","data":{"channel":"news","since":{"epoch":"","offset":0}}}`)
		synctest.Wait()
		for range 4 { // more than the shard routes at once
			require.NoError(t, hub.PublishToChannelRaw("other", bytes.Repeat([]byte("1"), 400<<10)))
		}
		writeText(t, p, `{"type":"subscribe","id":"2","data":{"channel":"news"}}`)
		synctest.Wait()
		publishNumbers(t, hub, "news", 5, 6)
		close(codec.goOn)
		require.Equal(t, "1", readJSON(t, p)["id"])
		requireNumbers(t, p, 1, 4)
		m := readJSON(t, p)
		require.Equal(t, "2", m["id"], "%v", m)
		require.EqualValues(t, 4, m["data"].(map[string]any)["offset"])
		requireNumbers(t, p, 5, 6)
		require.NoError(t, p.Close())
		require.NoError(t, other.Close())
	})
}
