package websocket_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/brokertest"
)

// payload is the Data of a message that a matrix delivers.
type payload struct {
	name   string
	data   []byte
	base64 bool // JSON peers get it as base64
}

// payloads returns the payloads that are sent from every codec to every codec. Each
// fits into 64 KiB with its envelope, its seal and base64.
func payloads() []payload {
	noise := make([]byte, 45<<10)
	_, _ = rand.Read(noise) // never fails
	return []payload{
		{name: "JSON", data: []byte(`{"headline":"Breaking News!","n":[1,2.50,-3e7,null,true],"html":"<b>&</b>"}`)},
		{name: "empty"},
		{name: "UTF-8", data: []byte(`"你好, wörld 🌍"`)},
		{name: "large JSON", data: []byte(`"` + strings.Repeat("0123456789abcdef", 4<<10-32) + `"`)},
		{name: "plain text", data: []byte("not JSON: 你好"), base64: true},
		{name: "binary", data: []byte{0, 0xff, 0xfe, 0x80, '"', '\n', 0xc3, 0x28}, base64: true},
		{name: "large binary", data: noise, base64: true},
	}
}

// route is one of the ways to send a message to other clients.
type route struct {
	name string
	ask  wire // sent by the publisher, without data
	want wire // received by all peers, without data, timestamp and sender
}

const (
	matrixChannel = "news 📰"
	matrixRoom    = "room_101"
	relayChannel  = "direct topic" // the Channel field of messages to single clients
)

var routes = []route{
	{"channel", wire{Type: "publish", Channel: matrixChannel}, wire{Type: "message", Channel: matrixChannel}},
	{"room", wire{Type: "publish_room", Channel: matrixRoom}, wire{Type: "room_message", Channel: matrixRoom}},
	{"broadcast", wire{Type: "broadcast"}, wire{Type: "broadcast"}},
	{"direct", wire{Type: "relay", Channel: relayChannel}, wire{Type: "relayed", Channel: relayChannel}},
}

// relay returns an onMessage that sends each message of type "relay" to every client,
// alternately with Hub.SendToClient and Client.Send.
func relay(hub func() *websocket.Hub) func(*websocket.Client, *websocket.Message) {
	return func(_ *websocket.Client, m *websocket.Message) {
		if m.Type != "relay" {
			return
		}
		out := *m
		out.Type, out.ID = "relayed", ""
		byID := true
		for c := range hub().Clients() {
			var err error
			if byID {
				err = hub().SendToClient(c.ID, &out)
			} else {
				err = c.Send(&out)
			}
			byID = !byID
			if err != nil {
				panic(err)
			}
		}
	}
}

// security is one set of keys for a matrix.
type security struct {
	name      string
	hub       wireKeys                    // Config.Security
	keys      func(codec string) wireKeys // of the peer with this codec
	ownAES    bool                        // onConnect sets the client's AES key
	ownHMAC   bool                        // onConnect sets the client's HMAC key
	plaintext bool                        // nothing is encrypted
}

func securities() []security {
	same := func(k wireKeys) func(string) wireKeys { return func(string) wireKeys { return k } }
	first, second, aesOnly, hmacOnly := randomKeys(), randomKeys(), randomKeys(), randomKeys()
	second.signThenEncrypt = false
	aesOnly.hmac, hmacOnly.aes = nil, nil

	perClient := func(base wireKeys, ownAES, ownHMAC bool) func(string) wireKeys {
		keys := map[string]wireKeys{}
		for _, codec := range subprotocols {
			k, own := base, randomKeys()
			if ownAES {
				k.aes = own.aes
			}
			if ownHMAC {
				k.hmac = own.hmac
			}
			if base.none() {
				k.signThenEncrypt = true
			}
			keys[codec] = k
		}
		return func(codec string) wireKeys { return keys[codec] }
	}
	return []security{
		{name: "none", keys: same(wireKeys{}), plaintext: true},
		{name: "sign then encrypt", hub: first, keys: same(first)},
		{name: "encrypt then sign", hub: second, keys: same(second)},
		{name: "encrypt", hub: aesOnly, keys: same(aesOnly)},
		{name: "sign", hub: hmacOnly, keys: same(hmacOnly), plaintext: true},
		{name: "own keys, hub has none", keys: perClient(wireKeys{}, true, true), ownAES: true, ownHMAC: true},
		{name: "own keys over the hub's", hub: second, keys: perClient(second, true, true), ownAES: true, ownHMAC: true},
		{name: "own AES key, HMAC of the hub", hub: first, keys: perClient(first, true, false), ownAES: true},
		{name: "own HMAC key, hub has none", keys: perClient(wireKeys{}, false, true), ownHMAC: true, plaintext: true},
	}
}

// matrix is a hub with one peer for each codec.
type matrix struct {
	*bundle
	peers   map[string]*peer
	clients map[string]*websocket.Client
}

// secret is part of payloads. It must not appear on an encrypted connection.
const secret = "0123456789abcdef0123456789abcdef"

func newMatrix(t *testing.T, s security, config websocket.Config, o options, compress bool) *matrix {
	config.Security = s.hub.config()
	m := &matrix{peers: map[string]*peer{}, clients: map[string]*websocket.Client{}}
	o.onMessage = relay(func() *websocket.Hub { return m.hub })
	o.onConnect = func(c *websocket.Client) {
		keys := s.keys(c.Request().URL.Query().Get("codec"))
		// The hub must hold these messages and seal them with the new keys.
		_ = c.Send(&websocket.Message{Type: "first", Data: []byte(`"` + secret + `"`)})
		if s.ownAES {
			_ = c.SetEncryptionKey(keys.aes)
		}
		_ = c.Send(&websocket.Message{Type: "second", Data: []byte(`"` + secret + `"`)})
		if s.ownHMAC {
			_ = c.SetHMACKey(keys.hmac)
		}
		_ = c.Send(&websocket.Message{Type: "third", Data: []byte(`"` + secret + `"`)})
	}
	m.bundle = setup(t, config, o)
	for _, codec := range subprotocols {
		p, c := m.connect(t, dialing{codec: codec, keys: s.keys(codec), query: "codec=" + codec, compress: compress})
		require.Equal(t, codec, c.Codec().Name())
		require.Equal(t, codec, p.Subprotocol())
		m.peers[codec], m.clients[codec] = p, c
		for _, typ := range []string{"first", "second", "third"} {
			got := p.read(t)
			require.Equal(t, typ, got.Type)
			require.JSONEq(t, `"`+secret+`"`, string(got.Data))
		}
		p.subscribe(t, matrixChannel)
		p.joinRoom(t, matrixRoom)
	}
	return m
}

// deliver sends one message and checks the copy that each peer gets.
func (m *matrix) deliver(t *testing.T, from string, r route, p payload) {
	t.Helper()
	publisher := m.peers[from]
	ask := r.ask
	ask.Data, ask.Timestamp, ask.ClientID = p.data, 42, "mallory"
	if r.ask.Type != "relay" {
		ask.ID = "ask"
	}
	before := time.Now().UnixNano()
	publisher.send(t, ask)
	for _, to := range subprotocols {
		got := m.peers[to].read(t)
		label := fmt.Sprintf("%s of %s from %s to %s", r.name, p.name, from, to)
		require.GreaterOrEqual(t, got.Timestamp, before, label)
		require.LessOrEqual(t, got.Timestamp, time.Now().UnixNano(), label)
		require.True(t, bytes.Equal(p.data, got.Data), "%s: data: %.80q", label, got.Data)
		want := r.want
		want.ClientID = m.clients[from].ID
		want.Timestamp, want.Data = got.Timestamp, got.Data
		want.Base64 = to == "json" && p.base64
		require.Equal(t, want, got, label)
	}
	if ask.ID == "" {
		return
	}
	ack := publisher.read(t) // follows the publisher's own copy
	require.GreaterOrEqual(t, ack.Timestamp, before)
	require.Equal(t, wire{Type: "ack", ID: "ask", Channel: r.ask.Channel, Timestamp: ack.Timestamp}, withoutEmpty(ack))
}

// withoutEmpty replaces empty data by nil, for comparisons.
func withoutEmpty(m wire) wire {
	if len(m.Data) == 0 {
		m.Data = nil
	}
	return m
}

// run sends all payloads on all routes from the given codecs, and then checks that
// no plaintext was on the wire.
func (m *matrix) run(t *testing.T, s security, from []string, routes []route, payloads []payload) {
	t.Helper()
	for _, from := range from {
		for _, r := range routes {
			for _, p := range payloads {
				m.deliver(t, from, r, p)
			}
		}
	}
	m.requireNoDrops(t)
	if s.plaintext {
		return
	}
	for codec, p := range m.peers {
		for _, text := range []string{secret, "Breaking", matrixRoom, "mallory"} {
			require.NotContains(t, string(p.tap.bytes()), text, "plaintext on the wire to %s", codec)
		}
	}
}

func TestMatrix(t *testing.T) {
	t.Parallel()
	for _, s := range securities() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := newMatrix(t, s, websocket.DefaultConfig, options{}, false)
			m.run(t, s, subprotocols, routes, payloads())
		})
	}
}

// TestMatrixOneShard runs the matrix with a single hub goroutine.
func TestMatrixOneShard(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Shards = 1
	s := securities()[0]
	newMatrix(t, s, config, options{}, false).run(t, s, subprotocols, routes, payloads())
}

func TestMatrixTLS(t *testing.T) {
	t.Parallel()
	all := securities()
	for _, s := range []security{all[0], all[1], all[5]} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := newMatrix(t, s, websocket.DefaultConfig, options{tls: true}, true)
			require.True(t, strings.HasPrefix(m.url, "wss://"))
			m.run(t, security{plaintext: true}, []string{"json", "msgpack"}, routes, payloads())
		})
	}
}

// TestMatrixDeflate checks RSV1 of every frame (RFC 7692 section 6): plain frames are
// compressed if they shrink, sealed frames never.
func TestMatrixDeflate(t *testing.T) {
	t.Parallel()
	all := securities()
	for _, s := range []security{all[0], all[1], all[5]} {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := newMatrix(t, s, websocket.DefaultConfig, options{}, true)
			m.run(t, s, subprotocols, routes, payloads())
			for _, codec := range subprotocols {
				p := m.peers[codec]
				require.Contains(t, p.response.Header.Get("Sec-Websocket-Extensions"), "permessage-deflate")
				deflated, noise := 0, 0
				for _, f := range p.tap.frames(t) {
					switch {
					case f.deflated():
						deflated++
					case len(f.payload) > 40<<10:
						noise++
					}
				}
				if !p.keys.none() {
					require.Zero(t, deflated, "a sealed frame is deflated")
					continue
				}
				// Four publishers times four routes: the large JSON is compressed. Random
				// bytes are compressed as base64 only, because they do not shrink.
				want := map[bool][2]int{true: {32, 0}, false: {16, 16}}[codec == "json"]
				require.Equal(t, want, [2]int{deflated, noise}, codec)
			}
		})
	}
}

func TestCompressionSettings(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		config   func(*websocket.Config)
		offer    bool
		deflates bool
	}{
		{"default", func(*websocket.Config) {}, true, true},
		{"not offered", func(*websocket.Config) {}, false, false},
		{"EnableCompression false", func(c *websocket.Config) { c.EnableCompression = false }, true, false},
		{"Compression overrides EnableCompression, off", func(c *websocket.Config) { c.Compression = &websocket.CompressionConfig{} }, true, false},
		{"Compression overrides EnableCompression, on", func(c *websocket.Config) {
			c.EnableCompression = false
			c.Compression = &websocket.CompressionConfig{Enabled: true, Level: 9}
		}, true, true},
		{"below MinSize", func(c *websocket.Config) {
			c.Compression = &websocket.CompressionConfig{Enabled: true, MinSize: 1 << 20}
		}, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			config := websocket.DefaultConfig
			tt.config(&config)
			b := setup(t, config, options{})
			p, c := b.connect(t, dialing{compress: tt.offer})
			data := []byte(`"` + strings.Repeat("a", 5000) + `"`)
			require.NoError(t, c.Send(&websocket.Message{Data: data}))
			require.Equal(t, data, p.read(t).Data)
			require.Equal(t, tt.deflates, p.tap.frames(t)[0].deflated())
			p.send(t, wire{Type: "own", Data: data})
			require.Equal(t, data, b.messages.take(t).message.Data)
		})
	}
}

// TestEncodedSizes sends payloads around the sizes where frame headers and 16-bit
// offsets change.
func TestEncodedSizes(t *testing.T) {
	t.Parallel()
	s := securities()[0]
	m := newMatrix(t, s, websocket.DefaultConfig, options{}, false)
	var sizes []int
	for _, limit := range []int{125, 65535, 131071} {
		for size := limit - 130; size <= limit+3; size += 3 {
			sizes = append(sizes, max(size, 0))
		}
	}
	for _, size := range sizes {
		data := bytes.Repeat([]byte{'7'}, size) // a JSON number
		require.NoError(t, m.hub.PublishToChannel(matrixChannel, &websocket.Message{Data: data, ClientID: "me"}))
		for _, codec := range subprotocols {
			got := m.peers[codec].read(t)
			require.Equal(t, "message", got.Type)
			require.Equal(t, matrixChannel, got.Channel)
			require.Equal(t, "me", got.ClientID)
			require.True(t, bytes.Equal(data, got.Data), "%s: %d bytes arrived as %d", codec, size, len(got.Data))
		}
	}
}

// TestServerPublications checks the type, sender and timestamp of messages that the
// application publishes.
func TestServerPublications(t *testing.T) {
	t.Parallel()
	s := securities()[0]
	m := newMatrix(t, s, websocket.DefaultConfig, options{}, false)
	data := []byte(`{"n":1}`)
	full := &websocket.Message{Type: "custom", Channel: "elsewhere", Data: data, Timestamp: 42, ClientID: "robot", ID: "7"}
	plain := &websocket.Message{Data: data}
	sendAll := func(msg *websocket.Message) error {
		for _, c := range m.clients {
			if err := m.hub.SendToClient(c.ID, msg); err != nil {
				return err
			}
		}
		return nil
	}
	tests := []struct {
		name string
		do   func() error
		want wire // Timestamp 0 stands for the current time
	}{
		{"PublishToChannel", func() error { return m.hub.PublishToChannel(matrixChannel, plain) }, wire{Type: "message", Channel: matrixChannel}},
		{"PublishToChannel, all set", func() error { return m.hub.PublishToChannel(matrixChannel, full) },
			wire{Type: "custom", Channel: matrixChannel, Timestamp: 42, ClientID: "robot", ID: "7"}},
		{"PublishToChannelRaw", func() error { return m.hub.PublishToChannelRaw(matrixChannel, data) }, wire{Type: "message", Channel: matrixChannel}},
		{"PublishToRoom", func() error { return m.hub.PublishToRoom(matrixRoom, plain) }, wire{Type: "room_message", Channel: matrixRoom}},
		{"PublishToRoom, all set", func() error { return m.hub.PublishToRoom(matrixRoom, full) },
			wire{Type: "custom", Channel: matrixRoom, Timestamp: 42, ClientID: "robot", ID: "7"}},
		{"Broadcast", func() error { return m.hub.Broadcast(data) }, wire{Type: "broadcast"}},
		{"BroadcastMessage", func() error { return m.hub.BroadcastMessage(plain) }, wire{Type: "broadcast"}},
		{"BroadcastMessage, all set", func() error { return m.hub.BroadcastMessage(full) },
			wire{Type: "custom", Channel: "elsewhere", Timestamp: 42, ClientID: "robot", ID: "7"}},
		{"SendToClient", func() error { return sendAll(plain) }, wire{Type: "message"}},
		{"SendToClient, all set", func() error { return sendAll(full) },
			wire{Type: "custom", Channel: "elsewhere", Timestamp: 42, ClientID: "robot", ID: "7"}},
	}
	for _, tt := range tests {
		before := time.Now().UnixNano()
		require.NoError(t, tt.do(), tt.name)
		for _, codec := range subprotocols {
			got := m.peers[codec].read(t)
			want := tt.want
			want.Data = data
			if want.Timestamp == 0 {
				require.GreaterOrEqual(t, got.Timestamp, before, tt.name)
				require.LessOrEqual(t, got.Timestamp, time.Now().UnixNano(), tt.name)
				want.Timestamp = got.Timestamp
			}
			require.Equal(t, want, got, "%s to %s", tt.name, codec)
		}
	}
}

// TestAllMembersGetTheSameOrder has several publishers, clients and goroutines of the
// server. All members of the channel must get the messages in the same order.
func TestAllMembersGetTheSameOrder(t *testing.T) {
	t.Parallel()
	const each = 200
	s := securities()[5]
	m := newMatrix(t, s, websocket.DefaultConfig, options{}, false)
	publishers := 2
	fromServer := make(chan error, publishers) // the goroutines below send once each
	for i := range publishers {
		go func() { // ends after the last publication
			var err error
			for n := 0; n < each && err == nil; n++ {
				err = m.hub.PublishToChannelRaw(matrixChannel, fmt.Appendf(nil, "[%d,%d]", i, n))
			}
			fromServer <- err
		}()
	}
	for n := range each {
		for i, codec := range subprotocols {
			m.peers[codec].send(t, wire{Type: "publish", Channel: matrixChannel, Data: fmt.Appendf(nil, "[%d,%d]", publishers+i, n)})
		}
	}
	for range publishers {
		require.NoError(t, await(t, fromServer))
	}
	var first []string
	for _, codec := range subprotocols {
		var seen []string
		next := map[string]int{}
		for range each * (publishers + len(subprotocols)) {
			data := string(m.peers[codec].read(t).Data)
			seen = append(seen, data)
			var i, n int
			_, err := fmt.Sscanf(data, "[%d,%d]", &i, &n)
			require.NoError(t, err)
			require.Equal(t, next[fmt.Sprint(i)], n, "of publisher %d", i)
			next[fmt.Sprint(i)]++
		}
		if first == nil {
			first = seen
		}
		require.Equal(t, first, seen, "%s got a different order", codec)
	}
}

// TestRepliesInEveryCodec sends every control message in every codec, with and without an ID.
func TestRepliesInEveryCodec(t *testing.T) {
	t.Parallel()
	for _, codec := range subprotocols {
		t.Run(codec, func(t *testing.T) {
			t.Parallel()
			b := setup(t, websocket.DefaultConfig, options{})
			p, c := b.connect(t, dialing{codec: codec})
			asks := []struct {
				ask    wire
				target string
				before int // own copies that precede the ack
			}{
				{wire{Type: "subscribe", Data: p.codec.channel("a")}, "a", 0},
				{wire{Type: "subscribe", Data: p.codec.channel("a")}, "a", 0},
				{wire{Type: "publish", Channel: "a"}, "a", 1},
				{wire{Type: "publish", Channel: "empty"}, "empty", 0},
				{wire{Type: "unsubscribe", Data: p.codec.channel("a")}, "a", 0},
				{wire{Type: "unsubscribe", Data: p.codec.channel("a")}, "a", 0},
				{wire{Type: "publish", Channel: "a"}, "a", 0},
				{wire{Type: "join_room", Data: p.codec.room("r")}, "r", 0},
				{wire{Type: "publish_room", Channel: "r"}, "r", 1},
				{wire{Type: "leave_room", Data: p.codec.room("r")}, "r", 0},
				{wire{Type: "publish_room", Channel: "r"}, "r", 0},
				{wire{Type: "broadcast"}, "", 1},
			}
			for i, a := range asks {
				a.ask.ID = fmt.Sprint("id ", i)
				p.send(t, a.ask)
				for range a.before {
					require.Empty(t, p.read(t).ID)
				}
				got := withoutEmpty(p.read(t))
				require.Equal(t, wire{Type: "ack", ID: a.ask.ID, Channel: a.target, Timestamp: got.Timestamp}, got)
			}
			for i, a := range asks { // no ack without an ID
				a.ask.ID = ""
				p.send(t, a.ask)
				for range a.before {
					require.NotEqual(t, "ack", p.read(t).Type, i)
				}
			}
			require.Len(t, b.messagesOf(t, c, 2*len(asks)), 2*len(asks))

			long := strings.Repeat("x", 256)
			for _, invalid := range []struct {
				ask    wire
				target string
			}{
				{wire{Type: "subscribe"}, ""},
				{wire{Type: "subscribe", Data: p.codec.channel("")}, ""},
				{wire{Type: "subscribe", Data: p.codec.channel(long)}, long},
				{wire{Type: "subscribe", Data: []byte{0xff, 0xfe}}, ""},
				{wire{Type: "unsubscribe", Data: p.codec.channel("")}, ""},
				{wire{Type: "join_room"}, ""},
				{wire{Type: "join_room", Data: p.codec.room(long)}, long},
				{wire{Type: "leave_room", Data: p.codec.room("")}, ""},
				{wire{Type: "publish"}, ""},
				{wire{Type: "publish", Channel: long}, long},
				{wire{Type: "publish_room"}, ""},
			} {
				for _, id := range []string{"", "id"} { // errors are sent even without an ID
					invalid.ask.ID = id
					p.send(t, invalid.ask)
					require.NotEmpty(t, p.requireError(t, id, invalid.target, "bad_request"))
				}
			}
			p.do(t, wire{Type: "broadcast"}) // the connection still works
		})
	}
}

// messagesOf waits for n messages, which must all be from c.
func (b *bundle) messagesOf(t testing.TB, c *websocket.Client, n int) []*websocket.Message {
	t.Helper()
	var messages []*websocket.Message
	for range n {
		r := b.messages.take(t)
		require.Same(t, c, r.client)
		messages = append(messages, r.message)
	}
	return messages
}

// TestPublicationAboveBrokersLimitIsRejected has a broker that takes less than
// MaxMessageSize. The hub must warn of it, and the error must name the limit.
func TestPublicationAboveBrokersLimitIsRejected(t *testing.T) {
	t.Parallel()
	config := websocket.DefaultConfig
	config.Broker = brokertest.NewMemory(2000).Broker()
	b := setup(t, config, options{})
	require.NoError(t, b.hub.BrokerReady(t.Context()))
	p, _ := b.connect(t, dialing{codec: "msgpack"})
	p.send(t, wire{Type: "publish", Channel: "a", ID: "1", Data: make([]byte, 2000)})
	require.Regexp(t, `^websocket: message too large: 2\d\d\d bytes, but Broker\.MaxPayload allows 2000$`, p.requireError(t, "1", "a", "too_large"))
	require.NotEmpty(t, b.logs.matching("warning", "at most 2000 bytes, which is too small for Config.MaxMessageSize 524288"))
}

// TestKeysFromOnConnectApplyToFirstMessage sends messages while onConnect runs. The
// hub must process them after onConnect, with the keys that it has set.
func TestKeysFromOnConnectApplyToFirstMessage(t *testing.T) {
	t.Parallel()
	keys := randomKeys()
	enter := make(chan struct{}) // closed by onConnect
	leave := make(chan struct{}) // closed by the test
	b := setup(t, websocket.DefaultConfig, options{onConnect: func(c *websocket.Client) {
		close(enter)
		<-leave
		if err := c.SetEncryptionKey(keys.aes); err != nil {
			panic(err)
		}
		if err := c.SetHMACKey(keys.hmac); err != nil {
			panic(err)
		}
	}})
	p := b.dial(t, dialing{codec: "protobuf", keys: keys}) // the hub sends the 101 response before onConnect
	await(t, enter)
	p.send(t, wire{Type: "own", Data: []byte("first")})
	p.send(t, wire{Type: "broadcast", Data: []byte("second")})
	require.Zero(t, b.messages.len(), "onMessage ran before onConnect returned")
	require.Empty(t, p.tap.frames(t), "the hub wrote a frame before onConnect returned")
	close(leave)
	require.Equal(t, "first", string(b.messages.take(t).message.Data))
	require.Equal(t, "second", string(p.read(t).Data))
}

// TestKeyChangeAppliesToLaterMessages changes keys in onMessage. Messages sent before
// the change are sealed with the old keys, later ones with the new keys.
func TestKeyChangeAppliesToLaterMessages(t *testing.T) {
	t.Parallel()
	hubKeys, ownKeys := randomKeys(), randomKeys()
	config := websocket.DefaultConfig
	config.Security = hubKeys.config()
	b := setup(t, config, options{onMessage: func(c *websocket.Client, m *websocket.Message) {
		_ = c.Send(&websocket.Message{Type: "before"})
		switch m.Type {
		case "own":
			_ = c.SetEncryptionKey(ownKeys.aes)
			_ = c.SetHMACKey(ownKeys.hmac)
		case "back":
			_ = c.SetEncryptionKey(nil)
			_ = c.SetHMACKey(nil)
		}
		_ = c.Send(&websocket.Message{Type: "after"})
	}})
	p, _ := b.connect(t, dialing{keys: hubKeys})
	for _, step := range []struct {
		ask  string
		then wireKeys
	}{{"own", ownKeys}, {"none", ownKeys}, {"back", hubKeys}, {"none", hubKeys}} {
		p.send(t, wire{Type: step.ask})
		require.Equal(t, "before", p.read(t).Type)
		p.keys = step.then
		require.Equal(t, "after", p.read(t).Type)
	}
}

// TestUpgradeThroughUnwrap upgrades a connection whose ResponseWriter has no Hijack,
// only Unwrap.
func TestUpgradeThroughUnwrap(t *testing.T) {
	t.Parallel()
	b := setup(t, websocket.DefaultConfig, options{handler: func(h *websocket.Hub) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.Handler().ServeHTTP(unwrapper{w}, r)
		})
	}})
	p, c := b.connect(t, dialing{})
	require.NoError(t, c.Send(&websocket.Message{Type: "hi"}))
	require.Equal(t, "hi", p.read(t).Type)
}

// unwrapper is a ResponseWriter as middleware wraps it.
type unwrapper struct{ inner http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.inner.Header() }
func (u unwrapper) Write(b []byte) (int, error) { return u.inner.Write(b) }
func (u unwrapper) WriteHeader(status int)      { u.inner.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.inner }
