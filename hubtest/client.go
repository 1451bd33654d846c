package hubtest

import (
	"context"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/client"
)

// Client is a client of package client that is connected in memory. Its Recorder gets the
// messages of subscriptions without a handler of their own and all others that have none, the
// gaps, and the beginnings and ends of connections. Handlers may call Record.
type Client struct {
	*client.Client
	*Link
	*Recorder
}

// Dial connects a client of package client, and returns when it is connected. It fails the
// test if that fails. It sets NetDial, and Security as Options.Security of a Peer. The
// callbacks OnState, OnMessage and OnGap of o are called too. Errors that OnError would get go
// to the log of the test if o has no OnError.
//
// For a first connection that may fail, call client.Dial with NetDial of a Link.
func (h *Hub) Dial(o client.Options) *Client {
	h.t.Helper()
	c := &Client{Link: h.NewLink(), Recorder: NewRecorder(h.t, "client")}
	onState, onMessage, onGap := o.OnState, o.OnMessage, o.OnGap
	o.NetDial = c.Link.Dial
	o.OnState = func(s client.StateChange) {
		switch s.State {
		case client.Connected:
			c.add(Event{Began: true})
		case client.Disconnected:
			c.RecordEnd(s.Err)
		case client.Closed:
			c.add(Event{Ended: closeError(s.Err), isLast: true})
		}
		if onState != nil {
			onState(s)
		}
	}
	o.OnMessage = func(m *websocket.Message) {
		c.Record(m)
		if onMessage != nil {
			onMessage(m)
		}
	}
	o.OnGap = func(g websocket.Gap) {
		c.RecordGap(g)
		if onGap != nil {
			onGap(g)
		}
	}
	if o.OnError == nil {
		o.OnError = func(err error) { h.t.Logf("hubtest: client: %v", err) }
	}
	if o.Security == nil {
		o.Security = h.security
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var err error
	if c.Client, err = client.Dial(ctx, "ws://hub.test"+h.Path, o); err != nil {
		h.t.Fatalf("hubtest: the client does not connect: %v", err)
	}
	if id := c.ID(); id != "" {
		c.name = id
	}
	h.atEnd(func() {
		h.t.Helper()
		_ = c.Close() // its connection has been cut
		if !within(c.Done()) {
			h.t.Errorf("hubtest: %s: a callback of the client has not returned within %v", c.name, patience)
		}
	})
	return c
}
