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

// results counts events of all hubs and clients of a run, and collects faults:
// observations that contradict a promise of the package.
type results struct {
	published        atomic.Int64 // messages, by publishers
	clientPublished  atomic.Int64 // messages, by clients
	delivered        atomic.Int64 // messages read by clients, without gap notices
	gaps             atomic.Int64 // gap notices read
	announced        atomic.Int64 // dropped messages, as counted in the gap notices read
	dropReports      atomic.Int64 // dropped messages, as counted in calls of OnDrop
	connections      atomic.Int64 // completed handshakes, as counted by clients
	failedHandshakes atomic.Int64
	hostile          atomic.Int64 // hostile peers
	evicted          atomic.Int64 // clients that received close code 1013
	writeTimeouts    atomic.Int64 // clients that the hub aborted after WriteWait
	complete         atomic.Int64 // memberships that a client checked to the last message

	connects    atomic.Int64 // calls of onConnect
	messages    atomic.Int64 // calls of onMessage
	disconnects atomic.Int64 // calls of onDisconnect

	lastTag atomic.Int64
	traces  sync.Map // *connTrace by tag, from before the handshake until onConnect

	mu       sync.Mutex
	faults   []string
	unclosed []unclosedEnd
}

// fault records a fault.
func (res *results) fault(format string, args ...any) {
	res.mu.Lock()
	defer res.mu.Unlock()
	res.faults = append(res.faults, fmt.Sprintf(format, args...))
}

// clientState is attached to a client to check the order of its callbacks.
type clientState struct {
	phase atomic.Int32 // 1 after onConnect, 2 after onDisconnect
	busy  atomic.Bool  // onMessage is running
	trace *connTrace   // nil for hostile peers
}

func (res *results) connect(c *websocket.Client) {
	res.connects.Add(1)
	if _, again := c.GetMetadata("state"); again {
		res.fault("client %s: onConnect was called twice", c.ID)
	}
	state := &clientState{}
	if t, ok := res.traces.LoadAndDelete(c.Request().Header.Get(tagHeader)); ok {
		state.trace = t.(*connTrace)
	}
	state.phase.Store(1)
	c.SetMetadata("state", state)
}

func (res *results) message(c *websocket.Client, m *websocket.Message) {
	res.messages.Add(1)
	state := stateOf(c)
	if state == nil || state.phase.Load() != 1 || state.busy.Swap(true) {
		res.fault("client %s: onMessage before onConnect, after onDisconnect or during another onMessage", c.ID)
		return
	}
	if m.ClientID != c.ID {
		res.fault("client %s: received a message of client %q", c.ID, m.ClientID)
	}
	state.busy.Store(false)
}

func (res *results) disconnect(c *websocket.Client) {
	res.disconnects.Add(1)
	state := stateOf(c)
	if state == nil || state.phase.Swap(2) != 1 || state.busy.Load() {
		res.fault("client %s: onDisconnect before onConnect, twice or during onMessage", c.ID)
	}
	if err := c.Subscribe("late"); !errors.Is(err, websocket.ErrClientClosed) && !errors.Is(err, websocket.ErrHubClosed) {
		res.fault("client %s: Subscribe in onDisconnect returned: %v", c.ID, err)
	}
	var ce *websocket.CloseError
	switch {
	case !errors.As(c.CloseError(), &ce):
		res.fault("client %s: CloseError is nil in onDisconnect", c.ID)
	case writeTimedOut(ce):
		res.writeTimeouts.Add(1)
	}
	if state != nil && state.trace != nil {
		state.trace.end(ce)
	}
}

// drop is the OnDrop callback.
func (res *results) drop(c *websocket.Client, lost websocket.Gap) {
	res.dropReports.Add(int64(lost.Count))
	if state := stateOf(c); state != nil && state.trace != nil {
		state.trace.drop(lost)
	}
}

// writeTimedOut reports whether the hub aborted the client because its connection
// accepted no bytes for WriteWait.
func writeTimedOut(ce *websocket.CloseError) bool {
	return ce.Err != nil && strings.Contains(ce.Err.Error(), "WriteWait")
}

func stateOf(c *websocket.Client) *clientState {
	v, _ := c.GetMetadata("state")
	state, _ := v.(*clientState)
	return state
}

func (res *results) serveEnded(err error) {
	if !errors.Is(err, http.ErrServerClosed) {
		res.fault("server: %v", err)
	}
}

// Errorf, Debugf, Infof and Warningf implement websocket.Logger. Every logged error
// is a fault, because no callback of this program panics.
func (res *results) Errorf(format string, args ...any) { res.fault("logged: "+format, args...) }
func (res *results) Debugf(string, ...any)             {}
func (res *results) Infof(string, ...any)              {}
func (res *results) Warningf(string, ...any)           {}

// stdLogger returns a logger for http.Server. Only panics are faults.
func (res *results) stdLogger() *log.Logger { return log.New(serverLogWriter{res}, "", 0) }

type serverLogWriter struct{ res *results }

func (w serverLogWriter) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "panic") {
		w.res.fault("net/http: %s", line)
	}
	return len(line), nil
}
