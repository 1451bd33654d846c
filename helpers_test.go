package websocket_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	flatbuffers "github.com/google/flatbuffers/go"
	gorilla "github.com/gorilla/websocket"
	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/proto"
	"github.com/maoxiaoyue/hypgo-websocket/proto/fbs"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"
	protobuf "google.golang.org/protobuf/proto"
)

// patience is the longest time that a test waits for an event before it fails. No
// test waits for it to pass.
const patience = 30 * time.Second

// subprotocols are the names of the codecs that peers speak.
var subprotocols = []string{"json", "protobuf", "flatbuffers", "msgpack"}

// options configure the callbacks and the server of a test.
type options struct {
	onConnect    func(*websocket.Client)
	onDisconnect func(*websocket.Client)
	onMessage    func(*websocket.Client, *websocket.Message)

	handler   func(*websocket.Hub) http.Handler // defaults to the hub's own
	tls       bool
	notRun    bool // setup does not call Run
	runError  bool // the test checks the results of Shutdown and Run
	logsError bool // the test expects errors in the log
}

// bundle is a hub behind a real server.
type bundle struct {
	hub    *websocket.Hub
	server *httptest.Server
	url    string // ws:// or wss://
	logs   *logCapture
	ran    chan error // the result of the Run that setup started

	connected    *inbox[*websocket.Client]
	disconnected *inbox[*websocket.Client]
	messages     *inbox[received]
}

// received is one call of onMessage, with a copy of the message.
type received struct {
	client  *websocket.Client
	message *websocket.Message
}

// setup starts a hub and its server, and returns when both run. When the test ends, the hub is shut down and
// Run must return nil.
func setup(t testing.TB, config websocket.Config, o options) *bundle {
	t.Helper()
	b := &bundle{
		logs:         &logCapture{},
		ran:          make(chan error, 1),
		connected:    newInbox[*websocket.Client](),
		disconnected: newInbox[*websocket.Client](),
		messages:     newInbox[received](),
	}
	b.hub = websocket.NewHub(b.logs, config)
	b.hub.SetCallbacks(
		func(c *websocket.Client) {
			defer b.connected.put(c)
			if o.onConnect != nil {
				o.onConnect(c)
			}
		},
		func(c *websocket.Client) {
			if o.onDisconnect != nil {
				o.onDisconnect(c)
			}
			b.disconnected.put(c)
		},
		func(c *websocket.Client, m *websocket.Message) {
			b.messages.put(received{c, m.Clone()})
			if o.onMessage != nil {
				o.onMessage(c, m)
			}
		},
	)
	handler := b.hub.Handler()
	if o.handler != nil {
		handler = o.handler(b.hub)
	}
	b.server = httptest.NewUnstartedServer(handler)
	b.server.Config.ErrorLog = b.logs.std()
	if o.tls {
		b.server.StartTLS()
	} else {
		b.server.Start()
	}
	b.url = "ws" + strings.TrimPrefix(b.server.URL, "http")
	if !o.notRun {
		go func() { b.ran <- b.hub.Run(context.Background()) }() // ends with the hub
		await(t, b.hub.Started())
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		err := b.hub.Shutdown(ctx)
		b.server.Close()
		if !o.runError {
			require.NoError(t, err, "Shutdown")
			if !o.notRun {
				require.NoError(t, await(t, b.ran), "Run")
			}
		}
		if !o.logsError {
			require.Empty(t, b.logs.matching("error", ""), "errors were logged")
		}
	})
	return b
}

// named returns config with a ClientID that takes the ID from the query.
func withQueryID(config websocket.Config) websocket.Config {
	config.ClientID = func(r *http.Request) (string, error) { return r.URL.Query().Get("id"), nil }
	return config
}

// requireNoDrops fails the test if the hub dropped a message.
func (b *bundle) requireNoDrops(t testing.TB) {
	t.Helper()
	require.Zero(t, b.hub.Stats().Dropped)
}

// channelsOf and roomsOf return the number of members of each topic, by name.
func channelsOf(h *websocket.Hub) map[string]int { return maps.Collect(h.Channels()) }

func roomsOf(h *websocket.Hub) map[string]int { return maps.Collect(h.Rooms()) }

// closeErrorOf returns the CloseError of c, or nil if its connection is open.
func closeErrorOf(c *websocket.Client) *websocket.CloseError {
	var e *websocket.CloseError
	errors.As(c.CloseError(), &e)
	return e
}

// inbox is an unbounded queue from callbacks to the test.
type inbox[T any] struct {
	mu    sync.Mutex
	items []T
	ready chan struct{} // capacity 1; put sends, take receives; never closed
}

func newInbox[T any]() *inbox[T] { return &inbox[T]{ready: make(chan struct{}, 1)} }

func (i *inbox[T]) put(x T) {
	i.mu.Lock()
	i.items = append(i.items, x)
	i.mu.Unlock()
	i.signal()
}

func (i *inbox[T]) signal() {
	select {
	case i.ready <- struct{}{}:
	default: // signalled already
	}
}

// take waits for the next item.
func (i *inbox[T]) take(t testing.TB) T {
	t.Helper()
	timeout := time.After(patience)
	for {
		i.mu.Lock()
		if len(i.items) > 0 {
			x := i.items[0]
			i.items = i.items[1:]
			if len(i.items) > 0 {
				i.signal()
			}
			i.mu.Unlock()
			return x
		}
		i.mu.Unlock()
		select {
		case <-i.ready:
		case <-timeout:
			require.FailNow(t, "nothing arrived in time", "%T", *new(T))
		}
	}
}

func (i *inbox[T]) len() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.items)
}

// await receives one value from c.
func await[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case x := <-c:
		return x
	case <-time.After(patience):
		require.FailNow(t, "nothing arrived in time", "%T", *new(T))
		panic("not reached")
	}
}

// logCapture records the lines that the hub logs.
type logCapture struct {
	mu    sync.Mutex
	lines []string // level: text
}

func (l *logCapture) add(level, format string, args []any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, level+": "+fmt.Sprintf(format, args...))
}

func (l *logCapture) Debugf(format string, args ...any)   { l.add("debug", format, args) }
func (l *logCapture) Infof(format string, args ...any)    { l.add("info", format, args) }
func (l *logCapture) Warningf(format string, args ...any) { l.add("warning", format, args) }
func (l *logCapture) Errorf(format string, args ...any)   { l.add("error", format, args) }

// std returns a logger for http.Server.ErrorLog.
func (l *logCapture) std() *log.Logger { return log.New(stdWriter{l}, "", 0) }

type stdWriter struct{ l *logCapture }

func (w stdWriter) Write(b []byte) (int, error) {
	w.l.add("net/http", "%s", []any{b})
	return len(b), nil
}

// matching returns the lines of a level that contain text. The level "" matches
// all lines.
func (l *logCapture) matching(level, text string) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for _, line := range l.lines {
		if strings.HasPrefix(line, level) && strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}

// wire is a message as a peer encodes and decodes it.
type wire struct {
	Type, Channel string
	Data          []byte
	Timestamp     int64
	ClientID, ID  string
	Room          bool
	ExceptSelf    bool
	Trace         string
	Base64        bool // JSON: Data was encoded as base64
}

// wireCodec is an implementation of a serialization that is independent of the
// package.
type wireCodec struct {
	binary  bool
	encode  func(m wire) ([]byte, error)
	decode  func(b []byte) (wire, error)
	channel func(name string) []byte // data of subscribe
	room    func(id string) []byte   // data of join_room
	problem func(b []byte) (code, message string, err error)
}

var wireCodecs = map[string]wireCodec{
	"json":        {false, encodeJSON, decodeJSON, jsonChannel, jsonRoom, jsonProblem},
	"protobuf":    {true, encodeProto, decodeProto, protoChannel, protoRoom, protoProblem},
	"flatbuffers": {true, encodeFlat, decodeFlat, jsonChannel, jsonRoom, jsonProblem},
	"msgpack":     {true, encodeMsgpack, decodeMsgpack, jsonChannel, jsonRoom, jsonProblem},
}

type jsonWire struct {
	Type      string          `json:"type"`
	Channel   string          `json:"channel,omitempty"`
	Data      json.RawMessage `json:"data"`
	Encoding  string          `json:"encoding,omitempty"`
	Timestamp int64           `json:"timestamp"`
	ClientID  string          `json:"client_id,omitempty"`
	ID        string          `json:"id,omitempty"`

	Room       bool   `json:"room,omitempty"`
	ExceptSelf bool   `json:"except_self,omitempty"`
	Trace      string `json:"trace,omitempty"`
}

func encodeJSON(m wire) ([]byte, error) {
	j := jsonWire{Type: m.Type, Channel: m.Channel, Timestamp: m.Timestamp, ClientID: m.ClientID, ID: m.ID, Room: m.Room, ExceptSelf: m.ExceptSelf, Trace: m.Trace}
	switch {
	case len(m.Data) == 0:
		j.Data = json.RawMessage("null")
	case json.Valid(m.Data):
		j.Data = m.Data
	default:
		j.Encoding = "base64"
		j.Data, _ = json.Marshal(m.Data) // bytes cannot fail
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // payloads are compared byte for byte
	err := e.Encode(j)
	return b.Bytes(), err
}

func decodeJSON(b []byte) (wire, error) {
	var j jsonWire
	if err := json.Unmarshal(b, &j); err != nil {
		return wire{}, err
	}
	m := wire{Type: j.Type, Channel: j.Channel, Data: j.Data, Timestamp: j.Timestamp, ClientID: j.ClientID, ID: j.ID, Room: j.Room, ExceptSelf: j.ExceptSelf, Trace: j.Trace}
	switch {
	case j.Encoding == "base64":
		m.Base64 = true
		var text string
		if err := json.Unmarshal(j.Data, &text); err != nil {
			return wire{}, err
		}
		var err error
		m.Data, err = base64.StdEncoding.Strict().DecodeString(text)
		return m, err
	case j.Encoding != "":
		return wire{}, fmt.Errorf("encoding %q", j.Encoding)
	case string(j.Data) == "null":
		m.Data = nil
	}
	return m, nil
}

func jsonChannel(name string) []byte { return mustJSON(map[string]string{"channel": name}) }
func jsonRoom(id string) []byte      { return mustJSON(map[string]string{"room_id": id}) }

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func jsonProblem(b []byte) (code, message string, err error) {
	var p struct{ Code, Message string }
	err = json.Unmarshal(b, &p)
	return p.Code, p.Message, err
}

func encodeProto(m wire) ([]byte, error) {
	return protobuf.Marshal(&proto.WsMessage{
		Type: m.Type, Channel: m.Channel, Data: m.Data, Timestamp: m.Timestamp, ClientId: m.ClientID, Id: m.ID, Room: m.Room, ExceptSelf: m.ExceptSelf, Trace: m.Trace,
	})
}

func decodeProto(b []byte) (wire, error) {
	var p proto.WsMessage
	if err := protobuf.Unmarshal(b, &p); err != nil {
		return wire{}, err
	}
	if unknown := p.ProtoReflect().GetUnknown(); len(unknown) > 0 {
		return wire{}, fmt.Errorf("unknown fields %x", unknown)
	}
	return wire{Type: p.Type, Channel: p.Channel, Data: p.Data, Timestamp: p.Timestamp, ClientID: p.ClientId, ID: p.Id, Room: p.Room, ExceptSelf: p.ExceptSelf, Trace: p.Trace}, nil
}

func protoChannel(name string) []byte { return mustProto(&proto.ChannelRequest{Channel: name}) }
func protoRoom(id string) []byte      { return mustProto(&proto.RoomRequest{RoomId: id}) }

func mustProto(m protobuf.Message) []byte {
	b, err := protobuf.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func protoProblem(b []byte) (code, message string, err error) {
	var p proto.ErrorReply
	err = protobuf.Unmarshal(b, &p)
	return p.Code, p.Message, err
}

func encodeFlat(m wire) ([]byte, error) {
	b := flatbuffers.NewBuilder(0)
	text := func(s string) flatbuffers.UOffsetT {
		if s == "" {
			return 0
		}
		return b.CreateString(s)
	}
	typ, channel, clientID, id, trace := text(m.Type), text(m.Channel), text(m.ClientID), text(m.ID), text(m.Trace)
	var data flatbuffers.UOffsetT
	if len(m.Data) > 0 {
		data = b.CreateByteVector(m.Data)
	}
	fbs.WsMessageStart(b)
	fbs.WsMessageAddType(b, typ)
	fbs.WsMessageAddChannel(b, channel)
	fbs.WsMessageAddData(b, data)
	fbs.WsMessageAddTimestamp(b, m.Timestamp)
	fbs.WsMessageAddClientId(b, clientID)
	fbs.WsMessageAddId(b, id)
	fbs.WsMessageAddRoom(b, m.Room)
	fbs.WsMessageAddExceptSelf(b, m.ExceptSelf)
	fbs.WsMessageAddTrace(b, trace)
	b.Finish(fbs.WsMessageEnd(b))
	return b.FinishedBytes(), nil
}

func decodeFlat(b []byte) (m wire, err error) {
	defer func() { // generated accessors do not check bounds
		if r := recover(); r != nil {
			err = fmt.Errorf("flatbuffers: %v", r)
		}
	}()
	f := fbs.GetRootAsWsMessage(b, 0)
	return wire{
		Type: string(f.Type()), Channel: string(f.Channel()), Data: slices.Clone(f.DataBytes()),
		Timestamp: f.Timestamp(), ClientID: string(f.ClientId()), ID: string(f.Id()), Room: f.Room(), ExceptSelf: f.ExceptSelf(), Trace: string(f.Trace()),
	}, nil
}

type msgpackWire struct {
	Type      string `msgpack:"type"`
	Channel   string `msgpack:"channel"`
	Data      []byte `msgpack:"data"`
	Timestamp int64  `msgpack:"timestamp"`
	ClientID  string `msgpack:"client_id"`
	ID        string `msgpack:"id,omitempty"`

	Room       bool   `msgpack:"room,omitempty"`
	ExceptSelf bool   `msgpack:"except_self,omitempty"`
	Trace      string `msgpack:"trace,omitempty"`
}

func encodeMsgpack(m wire) ([]byte, error) {
	return msgpack.Marshal(msgpackWire{m.Type, m.Channel, m.Data, m.Timestamp, m.ClientID, m.ID, m.Room, m.ExceptSelf, m.Trace})
}

func decodeMsgpack(b []byte) (wire, error) {
	var p msgpackWire
	if err := msgpack.Unmarshal(b, &p); err != nil {
		return wire{}, err
	}
	return wire{Type: p.Type, Channel: p.Channel, Data: p.Data, Timestamp: p.Timestamp, ClientID: p.ClientID, ID: p.ID, Room: p.Room, ExceptSelf: p.ExceptSelf, Trace: p.Trace}, nil
}

// wireKeys are a peer's keys and the order of its pipeline, implemented with the
// standard library alone.
type wireKeys struct {
	aes, hmac       []byte
	signThenEncrypt bool
}

func (k wireKeys) none() bool { return k.aes == nil && k.hmac == nil }

func (k wireKeys) config() *websocket.SecurityConfig {
	if k.none() {
		return nil
	}
	return &websocket.SecurityConfig{AESKey: k.aes, HMACKey: k.hmac, SignThenEncrypt: k.signThenEncrypt}
}

func (k wireKeys) gcm() cipher.AEAD {
	block, err := aes.NewCipher(k.aes)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (k wireKeys) encrypt(b []byte) []byte {
	if k.aes == nil {
		return b
	}
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce) // never fails
	return k.gcm().Seal(nonce, nonce, b, nil)
}

func (k wireKeys) decrypt(b []byte) ([]byte, error) {
	if k.aes == nil {
		return b, nil
	}
	if len(b) < 12 {
		return nil, errors.New("no nonce")
	}
	return k.gcm().Open(nil, b[:12], b[12:], nil)
}

func (k wireKeys) mac(b []byte) []byte {
	mac := hmac.New(sha256.New, k.hmac)
	mac.Write(b)
	return mac.Sum(nil)
}

func (k wireKeys) sign(b []byte) []byte {
	if k.hmac == nil {
		return b
	}
	return append(k.mac(b), b...)
}

func (k wireKeys) verify(b []byte) ([]byte, error) {
	if k.hmac == nil {
		return b, nil
	}
	if len(b) < sha256.Size || !hmac.Equal(b[:sha256.Size], k.mac(b[sha256.Size:])) {
		return nil, errors.New("signature does not match")
	}
	return b[sha256.Size:], nil
}

func (k wireKeys) seal(b []byte) []byte {
	if k.signThenEncrypt {
		return k.encrypt(k.sign(b))
	}
	return k.sign(k.encrypt(b))
}

func (k wireKeys) open(b []byte) ([]byte, error) {
	first, second := k.verify, k.decrypt
	if k.signThenEncrypt {
		first, second = k.decrypt, k.verify
	}
	b, err := first(b)
	if err != nil {
		return nil, err
	}
	return second(b)
}

// randomKeys returns both keys, in the order sign, then encrypt.
func randomKeys() wireKeys {
	k := wireKeys{aes: make([]byte, 32), hmac: make([]byte, 32), signThenEncrypt: true}
	_, _ = rand.Read(k.aes) // never fails
	_, _ = rand.Read(k.hmac)
	return k
}

// peer is a client on a real connection. It shares no encoder with the package.
type peer struct {
	*gorilla.Conn
	codec    wireCodec
	keys     wireKeys
	tap      *tap
	response *http.Response
}

// dialing describes how a peer connects.
type dialing struct {
	codec    string // subprotocol to offer; empty offers none and speaks JSON
	keys     wireKeys
	query    string
	header   http.Header
	compress bool
}

// dial connects a peer. Its connection is closed when the test ends.
func (b *bundle) dial(t testing.TB, d dialing) *peer {
	t.Helper()
	p, err := b.tryDial(d)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Conn.Close() }) // some tests have closed it already
	return p
}

// tryDial is dial without the checks. If the handshake is refused, the peer holds
// only the response.
func (b *bundle) tryDial(d dialing) (*peer, error) {
	name := d.codec
	if name == "" {
		name = "json"
	}
	p := &peer{codec: wireCodecs[name], keys: d.keys}
	dialer := gorilla.Dialer{
		HandshakeTimeout:  patience,
		EnableCompression: d.compress,
		NetDialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			p.tap = &tap{Conn: c}
			return p.tap, err
		},
	}
	if d.codec != "" {
		dialer.Subprotocols = []string{d.codec}
	}
	if transport, ok := b.server.Client().Transport.(*http.Transport); ok && transport.TLSClientConfig != nil {
		dialer.TLSClientConfig = transport.TLSClientConfig.Clone()
		dialer.TLSClientConfig.NextProtos = nil
	}
	url := b.url
	if d.query != "" {
		url += "?" + d.query
	}
	var err error
	p.Conn, p.response, err = dialer.Dial(url, d.header)
	return p, err
}

// connect dials and waits until onConnect has returned.
func (b *bundle) connect(t testing.TB, d dialing) (*peer, *websocket.Client) {
	t.Helper()
	p := b.dial(t, d)
	return p, b.connected.take(t)
}

// handshake sends an upgrade request with net/http and returns the response. A nil
// value in header removes a header; "Test-Method" sets the method, and "Test-Body" adds
// a body, which may be "chunked".
func (b *bundle) handshake(t testing.TB, query string, header http.Header) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.server.URL+"?"+query, nil)
	require.NoError(t, err)
	r.Header = http.Header{
		"Connection":            {"Upgrade"},
		"Upgrade":               {"websocket"},
		"Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key":     {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	for key, values := range header {
		if values == nil {
			delete(r.Header, key)
		} else {
			r.Header[key] = values
		}
	}
	if method := r.Header.Get("Test-Method"); method != "" {
		r.Method = method
	}
	if body := r.Header.Get("Test-Body"); body != "" {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		if body == "chunked" {
			r.ContentLength = -1
		}
	}
	response, err := b.server.Client().Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = response.Body.Close() }) // some tests have closed it already
	return response
}

func bodyOf(t testing.TB, response *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

// encoded returns the frame type and the payload of m.
func (p *peer) encoded(t testing.TB, m wire) (int, []byte) {
	t.Helper()
	b, err := p.codec.encode(m)
	require.NoError(t, err)
	if !p.keys.none() {
		return gorilla.BinaryMessage, p.keys.seal(b)
	}
	if p.codec.binary {
		return gorilla.BinaryMessage, b
	}
	return gorilla.TextMessage, b
}

func (p *peer) send(t testing.TB, m wire) {
	t.Helper()
	opcode, b := p.encoded(t, m)
	p.sendRaw(t, opcode, b)
}

func (p *peer) sendRaw(t testing.TB, opcode int, b []byte) {
	t.Helper()
	require.NoError(t, p.SetWriteDeadline(time.Now().Add(patience)))
	require.NoError(t, p.WriteMessage(opcode, b))
}

// read returns the next message. Its frame must have the codec's type.
func (p *peer) read(t testing.TB) wire {
	t.Helper()
	m, err := p.tryRead()
	require.NoError(t, err)
	return m
}

func (p *peer) tryRead() (wire, error) {
	if err := p.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return wire{}, err
	}
	opcode, b, err := p.ReadMessage()
	if err != nil {
		return wire{}, err
	}
	want := gorilla.TextMessage
	if p.codec.binary || !p.keys.none() {
		want = gorilla.BinaryMessage
	}
	if opcode != want {
		return wire{}, fmt.Errorf("frame of type %d, want %d", opcode, want)
	}
	if b, err = p.keys.open(b); err != nil {
		return wire{}, err
	}
	return p.codec.decode(b)
}

// do sends a control message with an ID and waits for the ack. It returns the
// messages that arrive before the ack.
func (p *peer) do(t testing.TB, m wire) (before []wire) {
	t.Helper()
	m.ID = "request " + m.Type
	p.send(t, m)
	for {
		reply := p.read(t)
		if reply.ID != m.ID {
			before = append(before, reply)
			continue
		}
		if reply.Type == "error" {
			_, message, err := p.codec.problem(reply.Data)
			require.NoError(t, err)
			require.FailNow(t, "error reply", "%s: %s", m.Type, message)
		}
		require.Equal(t, "ack", reply.Type)
		return before
	}
}

func (p *peer) subscribe(t testing.TB, channel string) {
	t.Helper()
	require.Empty(t, p.do(t, wire{Type: "subscribe", Data: p.codec.channel(channel)}))
}

func (p *peer) joinRoom(t testing.TB, id string) {
	t.Helper()
	require.Empty(t, p.do(t, wire{Type: "join_room", Data: p.codec.room(id)}))
}

// requireError reads an error reply and returns its text.
func (p *peer) requireError(t testing.TB, id, channel, code string) (message string) {
	t.Helper()
	m := p.read(t)
	require.Equal(t, "error", m.Type)
	require.Equal(t, id, m.ID)
	require.Equal(t, channel, m.Channel)
	got, message, err := p.codec.problem(m.Data)
	require.NoError(t, err)
	require.Equal(t, code, got, message)
	return message
}

// requireClosed reads the hub's Close frame, which must be the next frame, and
// returns its reason.
func (p *peer) requireClosed(t testing.TB, code int) (reason string) {
	t.Helper()
	m, err := p.tryRead()
	require.Error(t, err, "%+v", m)
	var closed *gorilla.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, code, closed.Code, closed.Text)
	return closed.Text
}

// closeCleanly sends a Close frame and waits for the hub's.
func (p *peer) closeCleanly(t testing.TB) {
	t.Helper()
	closeFrame := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "bye")
	require.NoError(t, p.WriteControl(gorilla.CloseMessage, closeFrame, time.Now().Add(patience)))
	for {
		if _, err := p.tryRead(); err != nil {
			var closed *gorilla.CloseError
			require.ErrorAs(t, err, &closed)
			require.Equal(t, gorilla.CloseNormalClosure, closed.Code)
			break
		}
	}
	require.NoError(t, p.Conn.Close())
}

// tap records all bytes that arrive.
type tap struct {
	net.Conn
	mu  sync.Mutex
	got []byte
}

func (c *tap) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got = append(c.got, b[:n]...)
	return n, err
}

func (c *tap) bytes() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.got)
}

// rawFrame is a frame as it was on the wire, without its length.
type rawFrame struct {
	first   byte // FIN, RSV1 to 3, opcode
	payload []byte
}

func (f rawFrame) deflated() bool { return f.first&0x40 != 0 }

// frames parses the bytes after the handshake response. Server frames must not be
// masked (RFC 6455 section 5.1).
func (c *tap) frames(t testing.TB) []rawFrame {
	t.Helper()
	_, b, ok := strings.Cut(string(c.bytes()), "\r\n\r\n")
	require.True(t, ok, "no handshake response")
	var frames []rawFrame
	for len(b) >= 2 {
		require.Zero(t, b[1]&0x80, "masked")
		n, header := uint64(b[1]), 2
		switch n {
		case 126:
			n, header = uint64(binary.BigEndian.Uint16([]byte(b[2:]))), 4
		case 127:
			n, header = binary.BigEndian.Uint64([]byte(b[2:])), 10
		}
		if uint64(len(b)-header) < n {
			break
		}
		frames = append(frames, rawFrame{b[0], []byte(b[header : header+int(n)])})
		b = b[header+int(n):]
	}
	return frames
}

// callEverything calls every method of h and c that does not end them, and returns
// the errors by the name of the method. c may be nil.
func callEverything(h *websocket.Hub, c *websocket.Client) map[string]error {
	ctx := context.Background()
	m := &websocket.Message{Type: "app", Data: []byte(`1`)}
	calls := map[string]func() error{
		"PublishToChannel":           func() error { return h.PublishToChannel("news", m) },
		"PublishToChannelContext":    func() error { return h.PublishToChannelContext(ctx, "news", m) },
		"PublishToChannelRaw":        func() error { return h.PublishToChannelRaw("news", []byte("1")) },
		"PublishToChannelRawContext": func() error { return h.PublishToChannelRawContext(ctx, "news", []byte("1")) },
		"PublishToRoom":              func() error { return h.PublishToRoom("room", m) },
		"PublishToRoomContext":       func() error { return h.PublishToRoomContext(ctx, "room", m) },
		"Broadcast":                  func() error { return h.Broadcast([]byte("1")) },
		"BroadcastContext":           func() error { return h.BroadcastContext(ctx, []byte("1")) },
		"BroadcastMessage":           func() error { return h.BroadcastMessage(m) },
		"BroadcastMessageContext":    func() error { return h.BroadcastMessageContext(ctx, m) },
		"SendToClient":               func() error { return h.SendToClient("bystander", m) },
		"SendToClientContext":        func() error { return h.SendToClientContext(ctx, "bystander", m) },
		"RoomMembers":                func() error { _, err := h.RoomMembers(ctx, "room"); return err },
	}
	if c != nil {
		maps.Copy(calls, map[string]func() error{
			"Subscribe":        func() error { return c.Subscribe("more") },
			"Unsubscribe":      func() error { return c.Unsubscribe("more") },
			"JoinRoom":         func() error { return c.JoinRoom("room") },
			"LeaveRoom":        func() error { return c.LeaveRoom("room") },
			"Send":             func() error { return c.Send(m) },
			"SendContext":      func() error { return c.SendContext(ctx, m) },
			"SetEncryptionKey": func() error { return c.SetEncryptionKey(nil) },
			"SetHMACKey":       func() error { return c.SetHMACKey(nil) },
			"SetExpiry":        func() error { return c.SetExpiry(time.Time{}) },
		})
		c.SetMetadata("k", 1)
		c.GetMetadata("k")
		c.Codec()
		c.Request()
		c.Context()
		_ = c.CloseError()
	}
	failed := map[string]error{}
	for name, call := range calls {
		if err := call(); err != nil {
			failed[name] = err
		}
	}
	h.Stats()
	h.Client("bystander")
	for c := range h.Clients() {
		_ = c.ID
	}
	_ = h.Handler()
	return failed
}

// requireHubClosed calls every method of a hub that has stopped and whose clients
// have ended.
func requireHubClosed(t *testing.T, h *websocket.Hub) {
	t.Helper()
	requireEveryCallRefused(t, h)
	require.Zero(t, h.Stats().ActiveConnections)
	for range h.Clients() {
		require.Fail(t, "a client is left")
	}
}

// requireHubStopped calls every method of a hub that has stopped. None of the calls
// may wait, so the test must run in a synctest bubble.
func requireHubStopped(t *testing.T, h *websocket.Hub) {
	t.Helper()
	start := time.Now()
	requireEveryCallRefused(t, h)
	require.Equal(t, start, time.Now())
}

func requireEveryCallRefused(t *testing.T, h *websocket.Hub) {
	t.Helper()
	failed := callEverything(h, nil)
	require.Len(t, failed, 13)
	for name, err := range failed {
		require.ErrorIs(t, err, websocket.ErrHubClosed, name)
	}
	require.ErrorIs(t, h.Run(context.Background()), websocket.ErrHubClosed)
	_, found := h.Client("nobody")
	require.False(t, found)
	w := newRecorder()
	h.Handler().ServeHTTP(w, handshake(t, context.Background()))
	require.Equal(t, http.StatusServiceUnavailable, w.status)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// requireClientEnded calls every method of a client whose connection has ended.
func requireClientEnded(t *testing.T, c *websocket.Client) {
	t.Helper()
	m, key := &websocket.Message{}, make([]byte, 32)
	for name, err := range map[string]error{
		"Send":             c.Send(m),
		"Subscribe":        c.Subscribe("c"),
		"Unsubscribe":      c.Unsubscribe("c"),
		"JoinRoom":         c.JoinRoom("r"),
		"LeaveRoom":        c.LeaveRoom("r"),
		"Close":            c.Close(1000, ""),
		"SetEncryptionKey": c.SetEncryptionKey(key),
		"SetHMACKey":       c.SetHMACKey(key),
	} {
		if !errors.Is(err, websocket.ErrHubClosed) {
			require.ErrorIs(t, err, websocket.ErrClientClosed, name)
		}
	}
	require.Error(t, c.CloseError())
	require.NotNil(t, c.Codec())
	require.NotNil(t, c.Request())
	require.Error(t, c.Context().Err())
	require.Nil(t, c.FrameworkContext())
	require.Error(t, c.Request().Context().Err())
	c.SetMetadata("k", 1)
	v, ok := c.GetMetadata("k")
	require.True(t, ok)
	require.Equal(t, 1, v)
}
