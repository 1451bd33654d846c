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

// behavior is how a client behaves.
type behavior int

const (
	steady      behavior = iota // reads without pauses, for a long time
	brief                       // reads without pauses, for up to three seconds
	readsSlowly                 // reads with pauses
	neverReads
)

// client is one connection of a peer that follows the protocol. It has only one
// goroutine, because the race detector is limited to 8,128 of them.
type client struct {
	*gorilla.Conn
	server        *hubServer
	results       *results
	codec         websocket.Codec
	behavior      behavior
	rng           *rand.Rand
	topics        map[string]*subscription
	talkSent      int64            // messages published to the talk channel
	talkNext      map[string]int64 // lowest acceptable next number of each sender on it, by client ID
	ops           int
	missedReplies bool // replies may be among the dropped messages
	trace         *connTrace

	unattributed int64 // dropped messages of any topic that a gap announced and that no topic has missed yet
}

// subscription is a client's state for one topic. Messages of a topic are numbered.
type subscription struct {
	topic   *topic
	state   memberState
	low     int64 // the first message after joining has at least this number
	high    int64 // and at most this number
	next    int64 // expected next number, or -1 before the first message
	skipped int64 // messages before the first one that a gap announced as dropped
	op      string
}

type memberState int

const (
	notMember memberState = iota
	joining
	member
	leaving
)

// talk is the channel to which clients publish.
const talk = "talk"

// dial connects. If f is not nil, the handshake carries its tag, so that the hub's
// callbacks find it.
func dial(s *hubServer, rng *rand.Rand, codec websocket.Codec, small bool, f *connTrace) (*gorilla.Conn, error) {
	var header http.Header
	if f != nil {
		header = http.Header{tagHeader: {f.tag}}
	}
	dialer := gorilla.Dialer{
		HandshakeTimeout:  time.Minute,
		Subprotocols:      []string{codec.Name()},
		EnableCompression: rng.IntN(3) == 0,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the certificate is made by this process
		NetDial: func(network, addr string) (net.Conn, error) {
			c, err := net.DialTimeout(network, addr, time.Minute)
			if tcp, ok := c.(*net.TCPConn); ok && small {
				_ = tcp.SetReadBuffer(4 << 10) // the test works with the default size too
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

// runClient connects a client, checks all messages that it receives, and
// disconnects it after limit or soon after stop is closed.
func runClient(s *hubServer, t behavior, rng *rand.Rand, limit time.Duration, stop <-chan struct{}) error {
	codec := codecs[rng.IntN(len(codecs))]
	trace := s.results.newTrace()
	ws, err := dial(s, rng, codec, t == readsSlowly || t == neverReads, trace)
	if err != nil {
		s.results.traces.Delete(trace.tag)
		return err
	}
	s.results.connections.Add(1)
	c := &client{
		Conn: ws, server: s, results: s.results, codec: codec, behavior: t, rng: rng,
		topics: map[string]*subscription{}, talkNext: map[string]int64{}, trace: trace,
	}
	defer func() { _ = ws.Close() }() // the hub may have closed it already
	for _, i := range rng.Perm(len(s.topics))[:2] {
		f := &subscription{topic: s.topics[i]}
		c.topics[key(f.topic.room, f.topic.name)] = f
		if err := c.join(f); err != nil {
			return nil
		}
	}
	if rng.IntN(8) == 0 {
		if err := c.send(&websocket.Message{Type: "subscribe", Data: c.requestData(false, talk)}); err != nil {
			return nil
		}
	}
	if t == neverReads {
		select {
		case <-time.After(limit):
		case <-stop:
		}
		return nil
	}
	until := time.Now().Add(limit)
	for n := 0; ; n++ {
		if t == readsSlowly && n%8 == 7 {
			select {
			case <-time.After(time.Duration(rng.IntN(2000)) * time.Millisecond):
			case <-stop:
			}
		}
		_ = ws.SetReadDeadline(readDeadline(until, stop)) // ReadMessage reports a failure
		_, b, err := ws.ReadMessage()
		if err != nil {
			return c.checkEnd(err, until)
		}
		end, err := c.handle(b)
		if err != nil {
			s.results.fault("%s %s: %v", s.name, codec.Name(), err)
			return nil
		}
		if end {
			c.checkComplete()
			if err = c.closeHandshake(); endedWithoutClose(err) {
				c.results.recordUnclosed(c, err)
				return nil
			}
			return err
		}
		if n%50 == 49 {
			c.randomOperation()
		}
	}
}

// readDeadline returns until. After stop is closed it returns a minute from now,
// which is time enough to receive the last message.
func readDeadline(until time.Time, stop <-chan struct{}) time.Time {
	select {
	case <-stop:
		return time.Now().Add(time.Minute)
	default:
		return until
	}
}

// checkEnd returns nil if err is an expected end of the connection.
func (c *client) checkEnd(err error, until time.Time) error {
	var ce *gorilla.CloseError
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout() && !time.Now().Before(until):
		return nil // the client's time is over; it closes without a Close frame
	case errors.As(err, &ce) && ce.Code == websocket.CloseTryAgainLater:
		c.results.evicted.Add(1)
		return nil
	case errors.As(err, &ce) && ce.Code == websocket.CloseTimeout:
		return nil
	case endedWithoutClose(err):
		c.results.recordUnclosed(c, err)
		return nil
	}
	return fmt.Errorf("%s %s: reading: %w", c.server.name, c.codec.Name(), err)
}

// endedWithoutClose reports whether a connection ended without a Close frame. TLS
// has an error of its own for that, and writing returns it too.
func endedWithoutClose(err error) bool {
	var ce *gorilla.CloseError
	return errors.As(err, &ce) && ce.Code == websocket.CloseAbnormalClosure || errors.Is(err, io.ErrUnexpectedEOF) || wasReset(err)
}

func wasReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// closeHandshake sends a Close frame and waits for the hub's Close frame.
func (c *client) closeHandshake() error {
	closeFrame := gorilla.FormatCloseMessage(gorilla.CloseNormalClosure, "")
	if err := c.WriteControl(gorilla.CloseMessage, closeFrame, time.Now().Add(time.Minute)); err != nil {
		return fmt.Errorf("sending the Close frame: %w", err)
	}
	_ = c.SetReadDeadline(time.Now().Add(time.Minute)) // ReadMessage reports a failure
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if gorilla.IsCloseError(err, gorilla.CloseNormalClosure) {
				return nil
			}
			return fmt.Errorf("after sending the Close frame: %w", err)
		}
	}
}

// randomOperation publishes a message, or changes a membership.
func (c *client) randomOperation() {
	if c.rng.IntN(2) == 0 {
		data := fmt.Appendf(nil, `{"n":%d,"x":""}`, c.talkSent)
		if c.send(&websocket.Message{Type: "publish", Channel: talk, Data: data}) == nil {
			c.talkSent++
			c.results.clientPublished.Add(1)
		}
		return
	}
	for _, f := range c.topics {
		switch f.state {
		case member:
			f.state, f.op = leaving, c.newOp()
			request := "unsubscribe"
			if f.topic.room {
				request = "leave_room"
			}
			_ = c.send(&websocket.Message{Type: request, ID: f.op, Data: c.requestData(f.topic.room, f.topic.name)}) // ReadMessage reports a failure
			return
		case notMember:
			_ = c.join(f) // ReadMessage reports a failure
			return
		}
	}
}

func (c *client) join(f *subscription) error {
	*f = subscription{topic: f.topic, state: joining, low: f.topic.next.Load(), next: -1, op: c.newOp()}
	request := "subscribe"
	if f.topic.room {
		request = "join_room"
	}
	return c.send(&websocket.Message{Type: request, ID: f.op, Data: c.requestData(f.topic.room, f.topic.name)})
}

func (c *client) newOp() string {
	c.ops++
	return strconv.Itoa(c.ops)
}

// requestData returns the data of a control message.
func (c *client) requestData(room bool, name string) []byte {
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
	_ = c.SetWriteDeadline(time.Now().Add(time.Minute)) // WriteMessage reports a failure
	return c.WriteMessage(c.codec.WebSocketMessageType(), b)
}

func key(room bool, name string) string {
	if room {
		return "r:" + name
	}
	return "c:" + name
}

// handle checks a message. It reports whether the message is the last one.
func (c *client) handle(b []byte) (end bool, err error) {
	var m websocket.Message
	if err := c.codec.Unmarshal(b, &m); err != nil {
		return false, err
	}
	if m.Type == "gap" {
		return false, c.handleGap(m.Data)
	}
	c.results.delivered.Add(1)
	switch m.Type {
	case "ack":
		c.handleAck(m.ID)
		return false, nil
	case "end":
		return true, nil
	case "error":
		return false, fmt.Errorf("a request was rejected: %s", m.Data)
	case "broadcast":
		return false, nil
	case "message", "room_message":
	default:
		return false, fmt.Errorf("unexpected message type %q", m.Type)
	}
	n, err := number(m.Data)
	if err != nil {
		return false, err
	}
	if m.Channel == talk {
		if next := c.talkNext[m.ClientID]; n < next {
			return false, fmt.Errorf("%s: client %s sent number %d after %d", talk, m.ClientID, n, next-1)
		}
		c.talkNext[m.ClientID] = n + 1
		return false, nil
	}
	return false, c.handleNumber(c.topics[key(m.Type == "room_message", m.Channel)], n, m.Channel)
}

// number returns n of a payload {"n":1,...}.
func number(data []byte) (int64, error) {
	rest, ok := bytes.CutPrefix(data, []byte(`{"n":`))
	digits, _, found := bytes.Cut(rest, []byte(","))
	n, err := strconv.ParseInt(string(digits), 10, 64)
	if !ok || !found || err != nil {
		return 0, fmt.Errorf("payload without a number: %.40q", data)
	}
	return n, nil
}

func (c *client) handleAck(op string) {
	for _, f := range c.topics {
		if f.op != op {
			continue
		}
		switch f.state {
		case joining:
			f.state, f.high = member, f.topic.next.Load()+1
		case leaving:
			f.state = notMember
		}
	}
}

func (c *client) handleNumber(f *subscription, n int64, name string) error {
	if f == nil {
		return fmt.Errorf("%s: received number %d without a subscription", name, n)
	}
	switch f.state {
	case joining:
		if !c.missedReplies {
			return fmt.Errorf("%s: received number %d before the reply to the join", name, n)
		}
		f.state, f.high = member, f.topic.next.Load()+1
	case notMember:
		if !c.missedReplies {
			return fmt.Errorf("%s: received number %d after the reply to the leave", name, n)
		}
		return nil
	}
	if f.next < 0 {
		if first := n - f.skipped; first < f.low || !c.attribute(first-f.high) {
			return fmt.Errorf("%s: the first message is number %d after %d announced as dropped; the first of all must be %d to %d", name, n, f.skipped, f.low, f.high)
		}
	} else if n < f.next || !c.attribute(n-f.next) {
		return fmt.Errorf("%s: received number %d, want %d: no gap announced the missing messages", name, n, f.next)
	}
	f.next = n + 1
	return nil
}

// attribute subtracts missing messages of one topic from unattributed. It reports
// false if there are not as many. A missing number of messages may be negative.
func (c *client) attribute(missing int64) bool {
	if missing > c.unattributed {
		return false
	}
	c.unattributed -= max(missing, 0)
	return true
}

// handleGap counts the messages that a gap notice announces as dropped.
func (c *client) handleGap(data []byte) error {
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
	c.results.gaps.Add(1)
	c.results.announced.Add(g.Count)
	name, room := g.Channel, false
	if g.RoomID != "" {
		name, room = g.RoomID, true
	}
	switch {
	case g.Count <= 0:
		return fmt.Errorf("gap with a count of %d", g.Count)
	case g.All && name != "":
		return fmt.Errorf("gap for %q that also has \"all\" set", name)
	case g.All:
		c.unattributed += g.Count
		c.missedReplies = true
		return nil
	case name == "":
		c.missedReplies = true // such a gap includes replies
		return nil
	case name == talk:
		return nil
	}
	f := c.topics[key(room, name)]
	switch {
	case f == nil:
		return fmt.Errorf("gap for %q, which the client never joined", name)
	case f.next >= 0:
		f.next += g.Count
	default:
		f.skipped += g.Count
	}
	return nil
}

// checkComplete checks, after the last message, that the client received all
// messages published while it was a member, or that gaps announced the others.
func (c *client) checkComplete() {
	for _, f := range c.topics {
		if f.state != member || f.next < 0 {
			continue
		}
		if published := f.topic.next.Load(); f.next > published || !c.attribute(published-f.next) {
			c.results.fault("%s %s: %s: the client has %d messages of %d", c.server.name, c.codec.Name(), f.topic.name, f.next, published)
			continue
		}
		c.results.complete.Add(1)
	}
}
