package hubtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	gorilla "github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
	wsproto "github.com/maoxiaoyue/hypgo-websocket/proto"
)

// Options describe a Peer. The zero value is ready for use.
type Options struct {
	// ID is the client's ID. It needs a hub of Start whose config has no ClientID hook. For a
	// hook of the application, set the Header or Path that it reads. Defaults to "client-1",
	// "client-2" and so on.
	ID string
	// Codec is the codec that the peer offers and speaks. Defaults to nil: it offers none and
	// speaks JSON.
	Codec websocket.Codec
	// Path is the requested path, with the query if there is one, such as "/ws?room=1".
	// Defaults to Hub.Path.
	Path string
	// Header is added to the request of the handshake. Defaults to no headers.
	Header http.Header
	// Security has the keys that seal and open all messages. Defaults to the keys of Start's
	// config.
	Security *websocket.SecurityConfig
	// EnableCompression offers permessage-deflate. Defaults to false.
	EnableCompression bool
	// Window is the number of bytes that the connection holds in each direction, as the buffers
	// of two kernels do. Defaults to 64 KiB.
	Window int
	// RemoteAddr is the address that the hub sees, such as "203.0.113.7:4711". Defaults to
	// 192.0.2.1 with another port for each peer.
	RemoteAddr string
}

// Peer is a client that speaks the wire format. It reads all that arrives, at the rate of its
// Link, and answers pings. It does nothing else by itself.
type Peer struct {
	*Link
	*Recorder

	hub     *Hub
	options Options
	codec   websocket.Codec
	keys    *seal.Pipeline // nil if messages are not sealed
	ws      *gorilla.Conn
	server  *websocket.Client
	done    chan struct{} // closed by the reader of ws when it has ended
	ended   *websocket.CloseError

	writing sync.Mutex // held to write a message

	mu      sync.Mutex // guards the fields below
	lastID  int
	replies map[string]reply // by ID, of calls of do
	lost    chan struct{}    // capacity 1; read sends when a reply may have been dropped; nil at first
}

// reply is where a reply goes.
type reply struct {
	c       chan *websocket.Message // capacity 1; read sends, do receives; never closed
	repeats bool                    // there may be several
}

// Connect connects a peer, and returns when OnConnect has returned. It fails the test if the
// handshake is refused.
func (h *Hub) Connect(o Options) *Peer {
	h.t.Helper()
	p := h.newPeer(o)
	if response, err := p.connect(); err != nil {
		h.t.Fatalf("hubtest: the handshake is refused: %v", refusalText(response, err))
	}
	h.atEnd(func() {
		_ = p.ws.Close()
		<-p.done
	})
	return p
}

// Refused does a handshake and returns the response, whose Body can be read. It fails the test
// if the handshake is not refused.
func (h *Hub) Refused(o Options) *http.Response {
	h.t.Helper()
	p := h.newPeer(o)
	response, err := p.connect()
	switch {
	case err == nil:
		_ = p.ws.Close()
		<-p.done
		h.t.Fatalf("hubtest: the handshake is not refused")
	case response == nil:
		h.t.Fatalf("hubtest: the handshake has no response: %v", err)
	}
	return response
}

func refusalText(response *http.Response, err error) string {
	if response == nil || response.StatusCode == http.StatusSwitchingProtocols {
		return err.Error()
	}
	var body [512]byte
	n, _ := response.Body.Read(body[:]) // gorilla has read it already
	return fmt.Sprintf("%s: %s", response.Status, strings.TrimSpace(string(body[:n])))
}

func (h *Hub) newPeer(o Options) *Peer {
	h.t.Helper()
	p := &Peer{Link: h.newLink(o), Recorder: NewRecorder(h.t, o.ID), hub: h, options: o, codec: o.Codec, replies: make(map[string]reply)}
	if p.codec == nil {
		p.codec = websocket.JSONCodec{}
	}
	if o.Path == "" {
		p.options.Path = h.Path
	}
	security := o.Security
	if security == nil {
		security = h.security
	}
	if security != nil && (security.AESKey != nil || security.HMACKey != nil) {
		keys, err := seal.New(security.AESKey, security.HMACKey, security.SignThenEncrypt)
		if err != nil {
			h.t.Fatalf("hubtest: Options.Security: %v", err)
		}
		p.keys = keys
	}
	return p
}

// connect does a handshake and starts the reader.
func (p *Peer) connect() (*http.Response, error) {
	p.t.Helper()
	dialer := gorilla.Dialer{NetDialContext: p.Dial, HandshakeTimeout: patience, EnableCompression: p.options.EnableCompression}
	subprotocol := ""
	if p.options.Codec != nil {
		subprotocol = p.codec.Name()
		dialer.Subprotocols = []string{subprotocol}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ws, response, err := dialer.DialContext(ctx, "ws://hub.test"+p.options.Path, p.options.Header)
	if err != nil {
		return response, err
	}
	if got := ws.Subprotocol(); got != subprotocol {
		p.t.Errorf("hubtest: the response to the handshake has the subprotocol %q instead of %q", got, subprotocol)
	}
	a := p.arrival()
	p.name = a.id
	p.ws, p.done, p.ended = ws, make(chan struct{}), nil
	p.add(Event{Began: true})
	go p.read(ws, p.done) // ends with the connection
	if !within(a.served) {
		p.fail("OnConnect has not returned within %v", patience)
	}
	p.server = p.hub.connected(a)
	return response, nil
}

// within waits until done is closed, at most patience, and reports whether it was closed.
func within(done <-chan struct{}) bool {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Server returns the hub's side of the current connection, also after its end. It is nil if
// the connection had ended before Connect or Reconnect returned.
func (p *Peer) Server() *websocket.Client { return p.server }

// read records what arrives until the connection ends.
func (p *Peer) read(ws *gorilla.Conn, done chan struct{}) {
	defer close(done)
	for {
		opcode, b, err := ws.ReadMessage()
		if err != nil {
			var closed *gorilla.CloseError
			if errors.As(err, &closed) && closed.Code != gorilla.CloseAbnormalClosure {
				err = &websocket.CloseError{Code: closed.Code, Reason: closed.Text, ByPeer: true}
			}
			_ = ws.Close()
			p.ended = closeError(err)
			p.add(Event{Ended: p.ended, isLast: true})
			return
		}
		m, err := p.decode(opcode, b)
		if err != nil {
			p.t.Errorf("hubtest: %s: a frame of the hub cannot be read: %v: %s", p.name, err, text(b))
			continue
		}
		e := Event{Message: m}
		if m.Type == "gap" {
			if e.Gap, err = p.decodeGap(m.Data); err != nil {
				p.t.Errorf("hubtest: %s: the data of a gap cannot be read: %v: %s", p.name, err, text(m.Data))
			}
		}
		p.mu.Lock()
		to, awaited := p.replies[m.ID]
		e.isReply = awaited && (m.Type == "ack" || m.Type == "error")
		if e.isReply && !to.repeats {
			delete(p.replies, m.ID)
		}
		lost := p.lost
		p.mu.Unlock()
		p.add(e)
		if e.Gap != nil && e.Gap.Channel == "" && e.Gap.RoomID == "" {
			signal(lost, struct{}{})
		}
		if e.isReply {
			signal(to.c, m)
		}
	}
}

// signal sends a value, unless the channel has one already or is nil.
func signal[T any](c chan<- T, value T) {
	select {
	case c <- value:
	default:
	}
}

func (p *Peer) decode(opcode int, b []byte) (*websocket.Message, error) {
	want := p.frameType()
	if opcode != want {
		return nil, fmt.Errorf("its type is %d instead of %d", opcode, want)
	}
	if p.keys != nil {
		var err error
		if b, err = p.keys.Open(b); err != nil {
			return nil, err
		}
	}
	m := &websocket.Message{}
	return m, p.codec.Unmarshal(b, m)
}

func (p *Peer) frameType() int {
	if p.keys != nil {
		return websocket.BinaryMessage
	}
	return p.codec.WebSocketMessageType()
}

func (p *Peer) isProtobuf() bool { return p.codec.Name() == websocket.ProtobufCodec{}.Name() }

func (p *Peer) decodeGap(data []byte) (*websocket.Gap, error) {
	if p.isProtobuf() {
		var g wsproto.GapNotice
		err := proto.Unmarshal(data, &g)
		return &websocket.Gap{Channel: g.Channel, RoomID: g.RoomId, All: g.All, Count: g.Count, First: g.First, Last: g.Last, Reason: g.Reason}, err
	}
	var g struct {
		Channel string `json:"channel"`
		RoomID  string `json:"room_id"`
		All     bool   `json:"all"`
		Count   uint64 `json:"count"`
		First   int64  `json:"first"`
		Last    int64  `json:"last"`
		Reason  string `json:"reason"`
	}
	err := json.Unmarshal(data, &g)
	gap := websocket.Gap(g)
	return &gap, err
}

func (p *Peer) decodeError(m *websocket.Message) error {
	e := &client.Error{Target: m.Channel}
	if p.isProtobuf() {
		var r wsproto.ErrorReply
		if err := proto.Unmarshal(m.Data, &r); err != nil {
			return err
		}
		e.Code, e.Message = r.Code, r.Message
		return e
	}
	var r struct{ Code, Message string }
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return err
	}
	e.Code, e.Message = r.Code, r.Message
	return e
}

// requestData returns the data of a request about a topic.
func (p *Peer) requestData(topic websocket.Topic, since *websocket.Position) []byte {
	room := topic.Kind == websocket.RoomTopic
	var b []byte
	if !p.isProtobuf() {
		request := map[string]any{"channel": topic.Name}
		if room {
			request = map[string]any{"room_id": topic.Name}
		}
		if since != nil {
			request["since"] = since
		}
		b, _ = json.Marshal(request) // strings and a position cannot fail
		return b
	}
	var from *wsproto.Position
	if since != nil {
		from = &wsproto.Position{Epoch: since.Epoch, Offset: since.Offset}
	}
	var request proto.Message = &wsproto.ChannelRequest{Channel: topic.Name, Since: from}
	if room {
		request = &wsproto.RoomRequest{RoomId: topic.Name, Since: from}
	}
	b, _ = proto.Marshal(request) // fails only for a name that is not UTF-8, which the hub then refuses
	return b
}

// Send sends a message. In a "subscribe", "unsubscribe", "join_room" or "leave_room" without
// Data, Channel names the channel or room, and Send encodes the request. It fails the test if
// the connection does not take the message.
func (p *Peer) Send(m websocket.Message) {
	p.t.Helper()
	p.SendFrame(p.encode(m))
}

// encode returns the type and the payload of the frame of a message.
func (p *Peer) encode(m websocket.Message) (frameType int, payload []byte) {
	p.t.Helper()
	if len(m.Data) == 0 && m.Channel != "" {
		switch m.Type {
		case "subscribe", "unsubscribe":
			m.Data, m.Channel = p.requestData(Channel(m.Channel), nil), ""
		case "join_room", "leave_room":
			m.Data, m.Channel = p.requestData(Room(m.Channel), nil), ""
		}
	}
	b, err := p.codec.Marshal(&m)
	if err != nil {
		p.fail("cannot encode a message: %v", err)
	}
	if p.keys != nil {
		b = p.keys.AppendSeal(nil, b)
	}
	return p.frameType(), b
}

// SendFrame sends a frame with any payload, also one that is no message. The type is
// websocket.TextMessage or websocket.BinaryMessage. It fails the test if the connection does
// not take the frame.
func (p *Peer) SendFrame(frameType int, payload []byte) {
	p.t.Helper()
	if err := p.write(frameType, payload); err != nil {
		p.fail("cannot send: %v", err)
	}
}

func (p *Peer) write(frameType int, payload []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_ = p.ws.SetWriteDeadline(time.Now().Add(patience)) // always nil
	return p.ws.WriteMessage(frameType, payload)
}

// Do is like Send, and waits for the reply. It returns the ack, or the error reply as a
// *client.Error. If the connection ends before the reply, it returns a *websocket.CloseError.
// Messages that arrive before the reply are left for Next and Expect. If m has no ID, Do
// chooses one.
func (p *Peer) Do(m websocket.Message) (*websocket.Message, error) {
	p.t.Helper()
	return p.do(m, false)
}

// do is Do. With repeat it asks again when the hub may have dropped the reply.
func (p *Peer) do(m websocket.Message, repeat bool) (*websocket.Message, error) {
	p.t.Helper()
	to, lost := reply{make(chan *websocket.Message, 1), repeat}, make(chan struct{}, 1)
	p.mu.Lock()
	if m.ID == "" {
		p.lastID++
		m.ID = fmt.Sprint("request-", p.lastID)
	}
	p.replies[m.ID] = to
	if repeat {
		p.lost = lost
	}
	p.mu.Unlock()
	frameType, payload := p.encode(m)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if err := p.write(frameType, payload); err != nil && !within(p.done) {
			p.fail("cannot send: %v", err)
		}
		select {
		case got := <-to.c:
			return p.result(got)
		case <-lost:
			continue
		case <-p.done:
		case <-timer.C:
			p.fail("no reply to %q within %v", m.Type, patience)
		}
		select {
		case got := <-to.c:
			return p.result(got)
		default:
			return nil, p.ended
		}
	}
}

func (p *Peer) result(m *websocket.Message) (*websocket.Message, error) {
	if m.Type == "error" {
		return nil, p.decodeError(m)
	}
	return m, nil
}

// must is Do for requests that must succeed.
func (p *Peer) must(m websocket.Message) *websocket.Message {
	p.t.Helper()
	ack, err := p.Do(m)
	if err != nil {
		p.fail("%s: %v", m.Type, err)
	}
	return ack
}

// Subscribe subscribes to a channel and waits for the ack. With a position, which may be that
// of an earlier connection, the hub first sends the publications after it. The result is the
// zero Resumed if the channel has no history. It fails the test if the hub refuses. A test of
// refusals calls Do:
//
//	_, err := p.Do(websocket.Message{Type: "subscribe", Channel: "secret"})
func (p *Peer) Subscribe(channel string, since ...websocket.Position) websocket.Resumed {
	p.t.Helper()
	return p.join("subscribe", Channel(channel), since)
}

// JoinRoom is like Subscribe, for a room.
func (p *Peer) JoinRoom(id string, since ...websocket.Position) websocket.Resumed {
	p.t.Helper()
	return p.join("join_room", Room(id), since)
}

func (p *Peer) join(typ string, topic websocket.Topic, since []websocket.Position) (resumed websocket.Resumed) {
	p.t.Helper()
	var from *websocket.Position
	if len(since) > 0 {
		from = &since[0]
	}
	ack := p.must(websocket.Message{Type: typ, Data: p.requestData(topic, from)})
	if len(ack.Data) > 0 {
		if err := json.Unmarshal(ack.Data, &resumed); err != nil {
			p.fail("the data of the ack cannot be read: %v: %s", err, text(ack.Data))
		}
	}
	return resumed
}

// Publish publishes to a channel and waits for the ack. It fails the test if the hub refuses.
func (p *Peer) Publish(channel, data string) {
	p.t.Helper()
	p.must(websocket.Message{Type: "publish", Channel: channel, Data: []byte(data)})
}

// PublishRoom is like Publish, for a room.
func (p *Peer) PublishRoom(id, data string) {
	p.t.Helper()
	p.must(websocket.Message{Type: "publish_room", Channel: id, Data: []byte(data)})
}

// Sync waits until everything that was published on the peer's node or sent to the peer before
// the call has arrived, or has been announced as lost. For publications of other nodes call
// synctest.Wait before. It sends a "hub:ping", whose reply has its place
// behind all that. The exception is a topic with a history that the peer has fallen behind in:
// its publications may follow later.
func (p *Peer) Sync() {
	p.t.Helper()
	if _, err := p.do(websocket.Message{Type: "hub:ping"}, true); err != nil {
		p.fail("the connection ends: %v", err)
	}
}

// ExpectNothing is like Recorder.ExpectNothing, and calls Sync before.
func (p *Peer) ExpectNothing() {
	p.t.Helper()
	p.Sync()
	p.Recorder.ExpectNothing()
}

// ExpectClosed waits for the end of the connection, and returns the reason of the hub's Close
// frame. It fails the test if the code is another, or if there was no Close frame and code is
// not websocket.CloseAbnormalClosure. Messages before the end are left for Next and Expect.
func (p *Peer) ExpectClosed(code int) (reason string) {
	p.t.Helper()
	if !within(p.done) {
		p.fail("the connection has not ended within %v, but code %d is expected", patience, code)
	}
	if p.ended.Code != code {
		p.fail("the connection has ended with another code than %d: %v", code, p.ended)
	}
	return p.ended.Reason
}

// Close sends a Close frame and waits for that of the hub. It fails the test if none comes. To
// end the connection without one, call Cut.
func (p *Peer) Close(code int, reason string) {
	p.t.Helper()
	frame := gorilla.FormatCloseMessage(code, reason)
	if err := p.ws.WriteControl(gorilla.CloseMessage, frame, time.Now().Add(patience)); err != nil {
		p.fail("cannot send a Close frame: %v", err)
	}
	p.ExpectClosed(code)
}

// Reconnect ends the current connection as by Cut, unless it has ended, and connects again
// with the same Options. After Vanish the hub still has the old connection. The new one is in
// no channel or room. The Recorder goes on.
func (p *Peer) Reconnect() {
	p.t.Helper()
	if p.current() {
		p.Cut()
		if p.server != nil {
			<-p.server.Context().Done()
		}
	}
	_ = p.ws.Close() // after Vanish the hub does not notice
	<-p.done
	if response, err := p.connect(); err != nil {
		p.fail("the handshake is refused: %s", refusalText(response, err))
	}
}
