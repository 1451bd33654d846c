package websocket_test

import (
	"encoding/binary"
	"encoding/hex"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
	"github.com/stretchr/testify/require"
)

// publisher is a Broker that publishes without a hub, as docs/cluster.md describes.
type publisher struct {
	t *testing.T
	websocket.Broker
	sequence uint64
}

func newPublisher(t *testing.T, engine *brokertest.Memory) *publisher {
	p := &publisher{t: t, Broker: engine.Broker()}
	require.NoError(t, p.Open(ignoring{}))
	return p
}

type ignoring struct{}

func (ignoring) Record(websocket.BrokerRecord) {}
func (ignoring) Receive([]byte)                {}
func (ignoring) Up()                           {}
func (ignoring) Down(error)                    {}
func (ignoring) Lost(...string)                {}

// publish publishes data to the channel news in a payload with that version and kind.
func (p *publisher) publish(version, kind byte, data string) {
	p.t.Helper()
	p.sequence++
	payload := binary.BigEndian.AppendUint64([]byte{version}, 0x1234)
	payload = binary.BigEndian.AppendUint64(payload, p.sequence)
	payload = append(payload, kind, 1, 0) // to a channel, which the envelope names
	envelope, err := websocket.ProtobufCodec{}.Marshal(&websocket.Message{Type: "message", Channel: "news", Data: []byte(data), Timestamp: 1})
	require.NoError(p.t, err)
	require.NoError(p.t, p.Publish(p.t.Context(), []websocket.BrokerMessage{{Topic: "c.news", Payload: append(payload, envelope...)}}))
}

// documentedPayload returns the example of docs/cluster.md.
func documentedPayload(t *testing.T) []byte {
	document, err := os.ReadFile("docs/cluster.md")
	require.NoError(t, err)
	_, example, found := strings.Cut(string(document), "\n\n    01 ")
	require.True(t, found)
	example, _, _ = strings.Cut("01"+example, "\n\n")
	payload, err := hex.DecodeString(strings.Join(strings.Fields(example), ""))
	require.NoError(t, err)
	return payload
}

// TestPublishingWithoutHub has a program publish that is not a node.
func TestPublishingWithoutHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 1, joinNewsAndLobby)
		defer stopAll(hubs)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		from := newPublisher(t, engine)
		defer from.Close()
		from.publish(1, 1, `"hi"`)
		require.Equal(t, []string{"message news hi"}, types(t, p, 1))
		require.NoError(t, from.Publish(t.Context(), []websocket.BrokerMessage{{Topic: "c.news", Payload: documentedPayload(t)}}))
		require.Equal(t, []string{"message news hi"}, types(t, p, 1))
		require.Equal(t, []string{"node0"}, hubs[0].Cluster().Nodes())
		time.Sleep(20 * time.Second)
		_, err := hubs[0].Cluster().ChannelCount(t.Context(), "news")
		require.NoError(t, err, "a publisher is not asked")
		require.NoError(t, hubs[0].Broadcast([]byte(`"end"`)))
		require.Equal(t, []string{"broadcast  end"}, types(t, p, 1), "its silence is no loss")
	})
}

// TestLaterVersionsMakeGaps has payloads arrive whose version or kind the node does not know.
func TestLaterVersionsMakeGaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := brokertest.NewMemory(0)
		hubs := nodes(t, engine, 1, joinNewsAndLobby)
		defer stopAll(hubs)
		p := hubs[0].connect(1<<16, idHeader("p"))
		defer p.Close()
		ready(t, hubs...)
		from := newPublisher(t, engine)
		defer from.Close()
		told := func() (got []string) {
			time.Sleep(5 * time.Second)
			require.NoError(t, hubs[0].Broadcast([]byte(`"end"`)))
			for m := readJSON(t, p); m["data"] != "end"; m = readJSON(t, p) {
				got = append(got, gapOn(t, m))
			}
			return got
		}
		all := []string{"channel news", "clients", "room lobby"}
		from.publish(2, 1, `1`)
		require.ElementsMatch(t, all, told(), "version")
		from.publish(1, 127, `1`)
		require.ElementsMatch(t, all, told(), "kind")
		for range 500 {
			from.publish(2, 1, `1`)
			synctest.Wait()
		}
		require.ElementsMatch(t, append(all, all...), told(), "many")
		require.EqualValues(t, 502, hubs[0].Stats().Broker.Unknown)
		from.publish(1, 200, `1`) // a kind that carries no publication
		from.publish(77, 1, `1`)  // no payload of a node
		require.Empty(t, told())
		require.EqualValues(t, 1, hubs[0].Stats().Broker.Malformed)
		from.publish(1, 1, `"hi"`)
		require.Equal(t, []string{"message news hi"}, types(t, p, 1))
	})
}
