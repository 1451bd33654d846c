package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

// others is what a client knows about the members of its target.
type others struct {
	notices uint64 // messages; the client's reader owns it

	mu      sync.Mutex      // guards the contents of members
	members map[string]bool // their IDs; nil unless the client keeps them
}

func (o *others) known() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.members)
}

// newOthers returns the state of a new connection. Client 0 keeps the members, if its
// dialect is the library's.
func newOthers(c *client) *others {
	if c.id == 0 && c.opt.Dialect == api.DialectEnvelope {
		return &others{members: map[string]bool{}}
	}
	return &others{}
}

// The starts of messages about members.
var (
	joinStart    = []byte(`{"type":"join"`)
	leaveStart   = []byte(`{"type":"leave"`)
	diffStart    = []byte(`{"type":"presence_diff"`)
	membersStart = []byte(`{"type":"ack","channel":"t0","data":{"members":`)
	memberID     = []byte(`"client_id":`)
	joinPush     = []byte(`"join":{"info":`)
	leavePush    = []byte(`"leave":{"info":`)
)

// notice counts the messages about members in msg.
func (c *client) notice(msg []byte, now int64) {
	var notices, changes int
	switch {
	case c.opt.Dialect == api.DialectCentrifuge:
		notices = bytes.Count(msg, joinPush) + bytes.Count(msg, leavePush)
		changes = notices
	case bytes.HasPrefix(msg, diffStart), bytes.HasPrefix(msg, joinStart), bytes.HasPrefix(msg, leaveStart):
		notices, changes = 1, bytes.Count(msg, memberID)
	}
	o, f := c.others, c.fleet
	if o.members != nil && (notices > 0 || bytes.HasPrefix(msg, membersStart)) {
		if err := o.apply(msg); err != nil {
			f.fail(err)
		}
	}
	if notices == 0 {
		return
	}
	o.notices += uint64(notices)
	f.notices.Add(uint64(notices))
	f.changes.Add(uint64(changes))
	f.last.Store(now)
	for most := f.most.Load(); o.notices > most && !f.most.CompareAndSwap(most, o.notices); {
		most = f.most.Load()
	}
}

// apply keeps the members up to date with a message of the library.
func (o *others) apply(msg []byte) error {
	type member struct {
		ID string `json:"client_id"`
	}
	var m struct {
		Type string `json:"type"`
		ID   string `json:"client_id"`
		Data struct {
			Members, Joins, Leaves []member
		} `json:"data"`
	}
	if err := json.Unmarshal(msg, &m); err != nil {
		return fmt.Errorf("message about members: %w", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch m.Type {
	case "join":
		o.members[m.ID] = true
	case "leave":
		delete(o.members, m.ID)
	}
	for _, left := range m.Data.Leaves {
		delete(o.members, left.ID)
	}
	for _, joined := range append(m.Data.Members, m.Data.Joins...) {
		o.members[joined.ID] = true
	}
	return nil
}

// wave makes all clients connect again and subscribe at once. Call it after disconnect.
func (f *fleet) wave(w api.Wave) (res api.WaveResult, err error) {
	start := time.Now()
	err = f.reconnect(func(c *client) error {
		c.place.waits.Store(true)
		if err := f.dial(c); err != nil {
			return err
		}
		if err := c.send(wire.Text, c.subscribeRequest()); err != nil || c.id != 0 || !c.opt.Presence || c.opt.Dialect != api.DialectEnvelope {
			return err
		}
		return c.send(wire.Text, []byte(`{"type":"hub:presence","id":"3","data":{"channel":"t0"}}`))
	})
	if err != nil {
		return res, err
	}
	clients := f.all()
	end := start.Add(w.Limit)
	for now := time.Now(); now.Before(end); now = time.Now() {
		quiet := now.Sub(time.Unix(0, max(f.last.Load(), start.UnixNano()))) > w.Quiet
		if quiet && f.replies.Load() == uint64(len(clients)) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	res = api.WaveResult{
		Replies: f.replies.Load(), Notices: f.notices.Load(), Most: f.most.Load(), Changes: f.changes.Load(), Known: -1,
		Wall: time.Duration(max(f.last.Load()-start.UnixNano(), 1)),
	}
	if o := clients[0].others; o != nil && o.members != nil {
		res.Known = o.known()
	}
	return res, nil
}
