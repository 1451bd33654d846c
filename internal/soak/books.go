package main

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// books count what happens and keep what must not.
type books struct {
	published   atomic.Int64 // by publishers
	talked      atomic.Int64 // by clients
	delivered   atomic.Int64 // read by clients, gap notices apart
	gaps        atomic.Int64 // gap notices read
	announced   atomic.Int64 // messages that these told of
	reported    atomic.Int64 // messages that OnDrop told of
	connections atomic.Int64 // as clients see it
	refused     atomic.Int64
	hostile     atomic.Int64
	evicted     atomic.Int64 // close code 1013, as clients see it
	starved     atomic.Int64 // took nothing for WriteWait, as the hub sees it
	checked     atomic.Int64 // topics that a client had whole at the end

	connects    atomic.Int64 // callbacks
	messages    atomic.Int64
	disconnects atomic.Int64

	born  atomic.Int64
	fates sync.Map // *fate by tag, from before the handshake until onConnect

	mu     sync.Mutex
	faults []string
	cuts   []cut
}

func (b *books) fault(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

// life is where a client is between its callbacks.
type life struct {
	state atomic.Int32 // 1 after onConnect, 2 after onDisconnect
	busy  atomic.Bool
	fate  *fate // nil for hostile peers
}

func (b *books) connect(c *websocket.Client) {
	b.connects.Add(1)
	if _, again := c.GetMetadata("life"); again {
		b.fault("client %s: connected twice", c.ID)
	}
	l := &life{}
	if f, ok := b.fates.LoadAndDelete(c.Request().Header.Get(tagHeader)); ok {
		l.fate = f.(*fate)
	}
	l.state.Store(1)
	c.SetMetadata("life", l)
}

func (b *books) message(c *websocket.Client, m *websocket.Message) {
	b.messages.Add(1)
	l := lifeOf(c)
	if l == nil || l.state.Load() != 1 || l.busy.Swap(true) {
		b.fault("client %s: a message before connect, after disconnect or during another", c.ID)
		return
	}
	if m.ClientID != c.ID {
		b.fault("client %s: a message of client %q", c.ID, m.ClientID)
	}
	l.busy.Store(false)
}

func (b *books) disconnect(c *websocket.Client) {
	b.disconnects.Add(1)
	l := lifeOf(c)
	if l == nil || l.state.Swap(2) != 1 || l.busy.Load() {
		b.fault("client %s: disconnected before connect, twice or during a message", c.ID)
	}
	if err := c.Subscribe("late"); !errors.Is(err, websocket.ErrClientClosed) && !errors.Is(err, websocket.ErrHubClosed) {
		b.fault("client %s: subscribe in onDisconnect: %v", c.ID, err)
	}
	var ce *websocket.CloseError
	switch {
	case !errors.As(c.CloseError(), &ce):
		b.fault("client %s: no CloseError in onDisconnect", c.ID)
	case starved(ce):
		b.starved.Add(1)
	}
	if l != nil && l.fate != nil {
		l.fate.end(ce)
	}
}

// drop is OnDrop.
func (b *books) drop(c *websocket.Client, lost websocket.Gap) {
	b.reported.Add(int64(lost.Count))
	if l := lifeOf(c); l != nil && l.fate != nil {
		l.fate.drop(lost)
	}
}

// starved reports whether the client took nothing for WriteWait.
func starved(ce *websocket.CloseError) bool {
	return ce.Err != nil && strings.Contains(ce.Err.Error(), "WriteWait")
}

func lifeOf(c *websocket.Client) *life {
	v, _ := c.GetMetadata("life")
	l, _ := v.(*life)
	return l
}

func (b *books) served(err error) {
	if !errors.Is(err, http.ErrServerClosed) {
		b.fault("server: %v", err)
	}
}

// Errorf and its like implement websocket.Logger: no callback panics here, so
// every error is a fault.
func (b *books) Errorf(format string, args ...any) { b.fault("logged: "+format, args...) }
func (b *books) Debugf(string, ...any)             {}
func (b *books) Infof(string, ...any)              {}
func (b *books) Warningf(string, ...any)           {}

func (b *books) std() *log.Logger { return log.New(serverLog{b}, "", 0) }

type serverLog struct{ b *books }

func (w serverLog) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "panic") {
		w.b.fault("net/http: %s", line)
	}
	return len(line), nil
}
