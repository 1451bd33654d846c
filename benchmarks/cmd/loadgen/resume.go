package main

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

// place is a client's position in the history of its target.
type place struct {
	epoch  atomic.Pointer[string] // nil until the first reply
	offset atomic.Uint64
	waits  atomic.Bool // for the reply to a subscribe request
}

// The starts of a reply to a subscribe request.
var (
	envelopeReply   = []byte(`{"type":"ack","channel":"t`)
	centrifugeReply = []byte(`{"id":2,"subscribe":{`)
	centrifugeError = []byte(`{"id":2,"error":{`)
)

// follow keeps the position up to date with a message that the client has read.
func (c *client) follow(msg []byte) {
	p := c.place
	if p.waits.Load() {
		c.readReply(msg)
	}
	if offset, ok := highestOffset(msg, c.opt.Size); ok {
		p.offset.Store(offset)
	}
}

// readReply looks for the reply in msg, which may have messages in front of it.
func (c *client) readReply(msg []byte) {
	start, recovered := envelopeReply, []byte(`"complete":true`)
	if c.opt.Dialect == api.DialectCentrifuge {
		start, recovered = centrifugeReply, []byte(`"recovered":true`)
		if bytes.Contains(msg, centrifugeError) {
			c.fleet.fail(fmt.Errorf("client %d cannot subscribe: %.200q", c.id, msg))
		}
	}
	at := bytes.Index(msg, start)
	if at < 0 {
		return
	}
	reply, _, _ := bytes.Cut(msg[at:], []byte("\n"))
	p := c.place
	if epoch, ok := member(reply, `"epoch":"`, '"'); ok {
		if p.epoch.Load() == nil {
			s := string(epoch)
			p.epoch.Store(&s)
		}
		if bytes.Contains(reply, recovered) {
			c.fleet.complete.Add(1)
		}
	}
	p.waits.Store(false)
	c.fleet.last.Store(time.Now().UnixNano())
	c.fleet.replies.Add(1)
}

// highestOffset returns the highest offset in a message. A payload without an envelope
// has its sequence number.
func highestOffset(msg []byte, size int) (highest uint64, found bool) {
	if payload.Find(msg, 0) == 0 {
		seq, ok := payload.Seq(msg, size)
		return uint64(seq), ok
	}
	for {
		_, rest, ok := bytes.Cut(msg, []byte(`"offset":`))
		if !ok {
			return highest, found
		}
		var offset uint64
		for len(rest) > 0 && rest[0] >= '0' && rest[0] <= '9' {
			offset = offset*10 + uint64(rest[0]-'0')
			rest = rest[1:]
		}
		highest, found, msg = max(highest, offset), true, rest
	}
}

// member returns the bytes between key and end.
func member(msg []byte, key string, end byte) ([]byte, bool) {
	_, rest, ok := bytes.Cut(msg, []byte(key))
	n := bytes.IndexByte(rest, end)
	return rest[:max(n, 0)], ok && n >= 0
}

// subscribeRequest returns the request of a client, with its position if it has one.
func (c *client) subscribeRequest() []byte {
	epoch := c.place.epoch.Load()
	offset := c.place.offset.Load()
	if c.opt.Dialect == api.DialectCentrifuge {
		b := fmt.Appendf(nil, `{"id":2,"subscribe":{"channel":"t%d"`, c.target)
		if epoch != nil {
			b = fmt.Appendf(b, `,"recover":true,"epoch":%q,"offset":%d`, *epoch, offset)
		}
		return append(b, "}}"...)
	}
	b := fmt.Appendf(nil, `{"type":"subscribe","id":"2","data":{"channel":"t%d"`, c.target)
	if epoch != nil {
		b = fmt.Appendf(b, `,"since":{"epoch":%q,"offset":%d}`, *epoch, offset)
	}
	return append(b, "}}"...)
}

// subscribe makes all clients subscribe at once and waits for what follows.
func (f *fleet) subscribe(s api.Subscribe) (res api.Subscribed, err error) {
	clients := f.all()
	if len(clients) == 0 || clients[0].place == nil {
		return res, errors.New("there are no clients that subscribe by themselves")
	}
	f.reset(false)
	start := time.Now()
	for _, c := range clients {
		c.place.waits.Store(true)
		if err := c.send(wire.Text, c.subscribeRequest()); err != nil {
			return res, fmt.Errorf("client %d: %w", c.id, err)
		}
	}
	f.wait(s.Expect, s.Stall)
	for end := time.Now().Add(s.Stall); f.replies.Load() < uint64(len(clients)) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	return api.Subscribed{
		Replies: f.replies.Load(), Complete: f.complete.Load(), Received: f.received.Load(),
		Wall: time.Duration(max(f.last.Load()-start.UnixNano(), 1)),
	}, nil
}

func (f *fleet) all() []*client {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.clients
}

// disconnect ends all connections without a Close frame, as a lost network does, and
// waits until the readers have seen it.
func (f *fleet) disconnect() error {
	clients := f.all()
	f.reset(false)
	for _, c := range clients {
		c.out.Lock()
		err := c.cut()
		c.out.Unlock()
		if err != nil {
			return fmt.Errorf("client %d: %w", c.id, err)
		}
	}
	for end := time.Now().Add(10 * time.Second); f.disconnects.Load() < uint64(len(clients)); {
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d connections ended", f.disconnects.Load(), len(clients))
		}
		time.Sleep(time.Millisecond)
	}
	f.reset(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = nil // the readers report that the connections have ended
	return nil
}

// reconnect connects all clients again. Call it only after disconnect.
func (f *fleet) reconnect(dial func(*client) error) error {
	clients := f.all()
	for _, c := range clients {
		c.ended, c.carry, c.asm, c.conn = false, nil, wire.Assembler{}, nil
		if c.others != nil {
			c.others = newOthers(c)
		}
	}
	return f.dialAll(clients, dial)
}
