package main

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"

	gorilla "github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	messages "github.com/maoxiaoyue/hypgo-websocket/proto"
)

var codecs = []websocket.Codec{websocket.JSONCodec{}, websocket.ProtobufCodec{}, websocket.FlatBuffersCodec{}, websocket.MsgpackCodec{}}

// temper is how a client behaves.
type temper int

const (
	steady temper = iota // reads what comes, for long
	hasty                // the same, for a moment
	slow                 // reads with pauses
	mute                 // never reads
)

// client is one connection of a peer that follows the protocol. One goroutine
// does all of it: the race detector allows 8,128.
type client struct {
	*gorilla.Conn
	site   *site
	books  *books
	codec  websocket.Codec
	temper temper
	rng    *rand.Rand
	topics map[string]*following
	said   int64            // messages published on the talk channel
	heard  map[string]int64 // the next number of each sender on it
	ops    int
	blind  bool // a gap may have hidden answers
	fate   *fate

	anywhere int64 // announced as lost of any topic, and not missed yet
}

// following is what a client knows about a topic.
type following struct {
	topic   *topic
	state   followState
	low     int64 // when joining: the number of the first message, at least
	high    int64 // and at most
	next    int64 // expected, or -1 before the first message
	skipped int64 // announced as lost before the first message
	op      string
}

type followState int

const (
	off followState = iota
	joining
	on
	leaving
)

// talk is where clients publish themselves.
const talk = "talk"

// dial connects. With a fate, that is how the hub knows whose it is.
func dial(s *site, rng *rand.Rand, codec websocket.Codec, small bool, f *fate) (*gorilla.Conn, error) {
	var header http.Header
	if f != nil {
		header = http.Header{tagHeader: {f.tag}}
	}
	dialer := gorilla.Dialer{
		HandshakeTimeout:  time.Minute,
		Subprotocols:      []string{codec.Name()},
		EnableCompression: rng.IntN(3) == 0,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // made a moment ago, for this process
		NetDial: func(network, addr string) (net.Conn, error) {
			c, err := net.DialTimeout(network, addr, time.Minute)
			if tcp, ok := c.(*net.TCPConn); ok && small {
				_ = tcp.SetReadBuffer(4 << 10) // the default would do too
			}
			if f != nil && err == nil {
				c = &tracedConn{c, f}
			}
			return c, err
		},
	}
	url := "ws://" + s.plain
	if rng.IntN(4) == 0 {
		url = "wss://" + s.secure
	}
	ws, response, err := dialer.Dial(url, header)
	if err != nil && response != nil {
		err = fmt.Errorf("%w: %s", err, response.Status)
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", errNoConnection, err)
	}
	return ws, err
}

var errNoConnection = errors.New("no connection")

// live is a client's life from connect to disconnect. It ends after limit or
// soon after stop is closed.
func live(s *site, t temper, rng *rand.Rand, limit time.Duration, stop <-chan struct{}) error {
	codec := codecs[rng.IntN(len(codecs))]
	f := s.books.newFate()
	ws, err := dial(s, rng, codec, t == slow || t == mute, f)
	if err != nil {
		s.books.fates.Delete(f.tag)
		return err
	}
	s.books.connections.Add(1)
	c := &client{
		Conn: ws, site: s, books: s.books, codec: codec, temper: t, rng: rng,
		topics: map[string]*following{}, heard: map[string]int64{}, fate: f,
	}
	defer func() { _ = ws.Close() }() // an end that the peer may have begun
	for _, i := range rng.Perm(len(s.topics))[:2] {
		f := &following{topic: s.topics[i]}
		c.topics[key(f.topic.room, f.topic.name)] = f
		if err := c.join(f); err != nil {
			return nil
		}
	}
	if rng.IntN(8) == 0 {
		if err := c.send(&websocket.Message{Type: "subscribe", Data: c.name(false, talk)}); err != nil {
			return nil
		}
	}
	if t == mute {
		select {
		case <-time.After(limit):
		case <-stop:
		}
		return nil
	}
	until := time.Now().Add(limit)
	for n := 0; ; n++ {
		if t == slow && n%8 == 7 {
			select {
			case <-time.After(time.Duration(rng.IntN(2000)) * time.Millisecond):
			case <-stop:
			}
		}
		_ = ws.SetReadDeadline(earlier(until, stop)) // shows in reading
		_, b, err := ws.ReadMessage()
		if err != nil {
			return c.ended(err, until)
		}
		end, err := c.take(b)
		if err != nil {
			s.books.fault("%s %s: %v", s.name, codec.Name(), err)
			return nil
		}
		if end {
			c.checkWhole()
			if err = c.sayGoodbye(); cutOff(err) {
				c.books.cutOff(c, err)
				return nil
			}
			return err
		}
		if n%50 == 49 {
			c.doSomething()
		}
	}
}

// earlier returns when reading should end: at the end of the client's life, but
// some time after stop, when everything has to be over.
func earlier(until time.Time, stop <-chan struct{}) time.Time {
	select {
	case <-stop:
		return time.Now().Add(time.Minute)
	default:
		return until
	}
}

// ended tells expected ends from others.
func (c *client) ended(err error, until time.Time) error {
	var ce *gorilla.CloseError
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout() && !time.Now().Before(until):
		return nil // just gone
	case errors.As(err, &ce) && ce.Code == websocket.CloseTryAgainLater:
		c.books.evicted.Add(1)
		return nil
	case errors.As(err, &ce) && ce.Code == websocket.CloseTimeout:
		return nil
	case cutOff(err):
		c.books.cutOff(c, err)
		return nil
	}
	return fmt.Errorf("%s %s: reading: %w", c.site.name, c.codec.Name(), err)
}

// cutOff reports whether a connection ended without a Close frame. TLS has its own
// error for that, and writing notices it, too.
func cutOff(err error) bool {
	var ce *gorilla.CloseError
	return errors.As(err, &ce) && ce.Code == websocket.CloseAbnormalClosure || errors.Is(err, io.ErrUnexpectedEOF) || wasReset(err)
}

func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// sayGoodbye closes as the protocol asks for and waits for the answer.
func (c *client) sayGoodbye() error {
	bye := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "")
	if err := c.WriteControl(gorilla.CloseMessage, bye, time.Now().Add(time.Minute)); err != nil {
		return fmt.Errorf("goodbye: %w", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // shows in reading
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
				return nil
			}
			return fmt.Errorf("goodbye was answered with: %w", err)
		}
	}
}

// doSomething publishes, or changes a membership.
func (c *client) doSomething() {
	if c.rng.IntN(2) == 0 {
		data := fmt.Appendf(nil, `{"n":%d,"x":""}`, c.said)
		if c.send(&websocket.Message{Type: "publish", Channel: talk, Data: data}) == nil {
			c.said++
			c.books.talked.Add(1)
		}
		return
	}
	for _, f := range c.topics {
		switch f.state {
		case on:
			f.state, f.op = leaving, c.newOp()
			request := "unsubscribe"
			if f.topic.room {
				request = "leave_room"
			}
			_ = c.send(&websocket.Message{Type: request, ID: f.op, Data: c.name(f.topic.room, f.topic.name)}) // shows in reading
			return
		case off:
			_ = c.join(f) // shows in reading
			return
		}
	}
}

func (c *client) join(f *following) error {
	*f = following{topic: f.topic, state: joining, low: f.topic.next.Load(), next: -1, op: c.newOp()}
	request := "subscribe"
	if f.topic.room {
		request = "join_room"
	}
	return c.send(&websocket.Message{Type: request, ID: f.op, Data: c.name(f.topic.room, f.topic.name)})
}

func (c *client) newOp() string {
	c.ops++
	return strconv.Itoa(c.ops)
}

// name is the payload of a control message.
func (c *client) name(room bool, name string) []byte {
	if c.codec.Name() == "protobuf" {
		var m proto.Message = &messages.ChannelRequest{Channel: name}
		if room {
			m = &messages.RoomRequest{RoomId: name}
		}
		b, _ := proto.Marshal(m) // cannot fail
		return b
	}
	if room {
		return fmt.Appendf(nil, `{"room_id":%q}`, name)
	}
	return fmt.Appendf(nil, `{"channel":%q}`, name)
}

func (c *client) send(m *websocket.Message) error {
	b, err := c.codec.Marshal(m)
	if err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Now().Add(time.Minute)) // shows in writing
	return c.WriteMessage(c.codec.WebSocketMessageType(), b)
}

func key(room bool, name string) string {
	if room {
		return "r:" + name
	}
	return "c:" + name
}

// take checks a message. It reports whether it is the last.
func (c *client) take(b []byte) (end bool, err error) {
	var m websocket.Message
	if err := c.codec.Unmarshal(b, &m); err != nil {
		return false, err
	}
	if m.Type == "gap" {
		return false, c.takeGap(m.Data)
	}
	c.books.delivered.Add(1)
	switch m.Type {
	case "ack":
		c.takeAck(m.ID)
		return false, nil
	case "end":
		return true, nil
	case "error":
		return false, fmt.Errorf("refused: %s", m.Data)
	case "broadcast":
		return false, nil
	case "message", "room_message":
	default:
		return false, fmt.Errorf("unexpected type %q", m.Type)
	}
	n, err := number(m.Data)
	if err != nil {
		return false, err
	}
	if m.Channel == talk {
		if next := c.heard[m.ClientID]; n < next {
			return false, fmt.Errorf("talk of %s: number %d after %d", m.ClientID, n, next-1)
		}
		c.heard[m.ClientID] = n + 1
		return false, nil
	}
	return false, c.takeNumber(c.topics[key(m.Type == "room_message", m.Channel)], n, m.Channel)
}

// number reads the n of {"n":1,...}.
func number(data []byte) (int64, error) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"n":`))
	digits, _, found := bytes.Cut(rest, []byte(","))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if !ok || !found || err != nil {
		return 0, fmt.Errorf("payload %.40q", data)
	}
	return n, nil
}

func (c *client) takeAck(op string) {
	for _, f := range c.topics {
		if f.op != op {
			continue
		}
		switch f.state {
		case joining:
			f.state, f.high = on, f.topic.next.Load()+1
		case leaving:
			f.state = off
		}
	}
}

func (c *client) takeNumber(f *following, n int64, name string) error {
	if f == nil {
		return fmt.Errorf("%s: not subscribed, got number %d", name, n)
	}
	switch f.state {
	case joining:
		if !c.blind {
			return fmt.Errorf("%s: number %d came before the answer", name, n)
		}
		f.state, f.high = on, f.topic.next.Load()+1
	case off:
		if !c.blind {
			return fmt.Errorf("%s: number %d came after leaving", name, n)
		}
		return nil
	}
	if f.next < 0 {
		if first := n - f.skipped; first < f.low || !c.explains(first-f.high) {
			return fmt.Errorf("%s: the first message is %d, of which %d are announced as lost, want %d to %d", name, n, f.skipped, f.low, f.high)
		}
	} else if n < f.next || !c.explains(n-f.next) {
		return fmt.Errorf("%s: got number %d, want %d: nothing may be missing unannounced", name, n, f.next)
	}
	f.next = n + 1
	return nil
}

// explains reports whether so many messages can be among those that were announced
// as lost of any topic, and takes them as missed.
func (c *client) explains(missing int64) bool {
	if missing > c.anywhere {
		return false
	}
	c.anywhere -= max(missing, 0)
	return true
}

// takeGap counts what is announced as lost.
func (c *client) takeGap(data []byte) error {
	var g struct {
		Channel string `json:"channel"`
		RoomID  string `json:"room_id"`
		All     bool   `json:"all"`
		Count   int64  `json:"count"`
	}
	if c.codec.Name() == "protobuf" {
		var notice messages.GapNotice
		if err := proto.Unmarshal(data, &notice); err != nil {
			return err
		}
		g.Channel, g.RoomID, g.All, g.Count = notice.Channel, notice.RoomId, notice.All, int64(notice.Count)
	} else if err := json.Unmarshal(data, &g); err != nil {
		return err
	}
	c.books.gaps.Add(1)
	c.books.announced.Add(g.Count)
	name, room := g.Channel, false
	if g.RoomID != "" {
		name, room = g.RoomID, true
	}
	switch {
	case g.Count <= 0:
		return fmt.Errorf("gap of %d messages", g.Count)
	case g.All && name != "":
		return fmt.Errorf("gap for %q and all others", name)
	case g.All:
		c.anywhere += g.Count
		c.blind = true
		return nil
	case name == "":
		c.blind = true // answers to requests are among these
		return nil
	case name == talk:
		return nil
	}
	f := c.topics[key(room, name)]
	switch {
	case f == nil:
		return fmt.Errorf("gap for %q, which was never joined", name)
	case f.next >= 0:
		f.next += g.Count
	default:
		f.skipped += g.Count
	}
	return nil
}

// checkWhole holds the client to the end: it has, or was told that it lost, all
// that was published while it was a member.
func (c *client) checkWhole() {
	for _, f := range c.topics {
		if f.state != on || f.next < 0 {
			continue
		}
		if published := f.topic.next.Load(); f.next > published || !c.explains(published-f.next) {
			c.books.fault("%s %s: %s ended with %d of %d", c.site.name, c.codec.Name(), f.topic.name, f.next, published)
			continue
		}
		c.books.checked.Add(1)
	}
}
