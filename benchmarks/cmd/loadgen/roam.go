package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	hubclient "github.com/maoxiaoyue/hypgo-websocket/client"
)

// roamChannel is the channel of the roaming clients: target 0, which has the history.
const roamChannel = "t0"

// roamers are clients that follow a cluster whose nodes restart.
type roamers struct {
	balancer balancer
	members  []*roamer
	stop     chan struct{} // closed by end
	stopped  sync.WaitGroup

	mu        sync.Mutex // guards the fields below
	published uint64
	result    api.Roamed
}

// roamer is one of the clients.
type roamer struct {
	client    *hubclient.Client
	connected bool // it was Connected before; used by OnState only
	seen      map[uint64]int
}

// maxRoamErrors is the number of errors that are kept.
const maxRoamErrors = 10

func (r *roamers) fail(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.result.Errors) < maxRoamErrors {
		r.result.Errors = append(r.result.Errors, fmt.Sprintf(format, args...))
	}
}

// roam connects the clients and begins to publish.
func roam(ctx context.Context, o api.Roam) (*roamers, error) {
	if o.Rate <= 0 || o.Check <= 0 || o.Clients < 1 {
		return nil, errors.New("roam needs clients, a rate and a time between checks")
	}
	r := &roamers{stop: make(chan struct{})}
	r.balancer.set(o.Nodes)
	r.balancer.check(ctx)
	r.stopped.Go(func() { r.balancer.run(o.Check, r.stop) }) // ends with stop
	var publisher *hubclient.Client
	for range o.Clients + 1 {
		m := &roamer{seen: map[uint64]int{}}
		c, err := hubclient.Dial(ctx, "ws://cluster/ws?target=0&client=0", hubclient.Options{
			NetDial: r.balancer.dial,
			OnState: func(s hubclient.StateChange) { r.state(m, s) },
			OnGap:   func(g websocket.Gap) { r.fail("gap: %+v", g) },
			OnError: func(err error) { r.fail("error: %v", err) },
		})
		if err != nil {
			return nil, err
		}
		if publisher == nil {
			publisher = c
			continue
		}
		if _, err := c.Subscribe(ctx, roamChannel, func(msg *websocket.Message) { r.take(m, msg) }); err != nil {
			return nil, err
		}
		m.client = c
		r.members = append(r.members, m)
	}
	r.stopped.Go(func() { r.publish(publisher, o.Rate) }) // ends with stop
	r.stopped.Go(r.watchStalls)                           // ends with stop
	return r, nil
}

func (r *roamers) state(m *roamer, s hubclient.StateChange) {
	if s.State != hubclient.Connected {
		return
	}
	if m.connected {
		r.mu.Lock()
		r.result.Reconnects = append(r.result.Reconnects, time.Now().UnixNano())
		r.mu.Unlock()
	}
	m.connected = true
}

func (r *roamers) take(m *roamer, msg *websocket.Message) {
	n, err := strconv.ParseUint(string(msg.Data), 10, 64)
	if err != nil {
		r.fail("message: %v", err)
	}
	r.mu.Lock()
	m.seen[n]++
	r.mu.Unlock()
}

// publish publishes numbers from 1 on until stop. Every call must succeed.
func (r *roamers) publish(c *hubclient.Client, rate float64) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer tick.Stop()
	for n := uint64(1); ; n++ {
		select {
		case <-r.stop:
			_ = c.Close()
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		if err := c.Publish(ctx, roamChannel, strconv.AppendUint(nil, n, 10)); err != nil {
			r.fail("publish %d: %v", n, err)
		}
		cancel()
		r.mu.Lock()
		r.published = n
		r.mu.Unlock()
	}
}

// watchStalls measures how late timers are, because the machine is busy.
func (r *roamers) watchStalls() {
	const tick = 10 * time.Millisecond
	for timer := time.NewTimer(tick); ; {
		due := time.Now().Add(tick)
		timer.Reset(tick)
		select {
		case <-r.stop:
			return
		case <-timer.C:
		}
		r.mu.Lock()
		r.result.Stall = max(r.result.Stall, time.Since(due))
		r.mu.Unlock()
	}
}

// end stops publishing, waits until nothing arrives any more, and returns what was seen.
func (r *roamers) end() api.Roamed {
	close(r.stop)
	r.stopped.Wait()
	for last := -1; ; {
		time.Sleep(time.Second)
		total := 0
		r.mu.Lock()
		for _, m := range r.members {
			total += len(m.seen)
		}
		r.mu.Unlock()
		if total == last {
			break
		}
		last = total
	}
	for _, m := range r.members {
		_ = m.client.Close() // a client that is not closed cleanly has got its messages
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	res := r.result
	res.Published = r.published
	for _, m := range r.members {
		for n := uint64(1); n <= r.published; n++ {
			switch times := m.seen[n]; {
			case times == 0:
				res.Missed++
			case times > 1:
				res.Repeated += uint64(times - 1)
			}
		}
	}
	return res
}

// balancer sends connections to the nodes that are ready, in turn. It asks them at
// intervals, as balancers do.
type balancer struct {
	turn atomic.Uint64

	mu    sync.Mutex // guards the fields below
	nodes []string
	ready []string
}

func (b *balancer) set(nodes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.nodes = nodes
}

// run asks the nodes until stop is closed.
func (b *balancer) run(every time.Duration, stop <-chan struct{}) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			b.check(context.Background())
		}
	}
}

func (b *balancer) check(ctx context.Context) {
	b.mu.Lock()
	nodes := b.nodes
	b.mu.Unlock()
	var ready []string
	for _, addr := range nodes {
		if isReady(ctx, addr) {
			ready = append(ready, addr)
		}
	}
	b.mu.Lock()
	b.ready = ready
	b.mu.Unlock()
}

func isReady(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/ready", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	_ = response.Body.Close()
	return response.StatusCode == http.StatusOK
}

func (b *balancer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	b.mu.Lock()
	ready := b.ready
	b.mu.Unlock()
	if len(ready) == 0 {
		return nil, errors.New("no node is ready")
	}
	var d net.Dialer
	return d.DialContext(ctx, network, ready[b.turn.Add(1)%uint64(len(ready))])
}
