package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/api"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/tally"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/usage"
	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

const (
	maxClients = 100_000
	perAddress = 20_000   // clients of one local address, which has about 28,000 free ports
	dialers    = 64       // handshakes under way at once
	maxMessage = 16 << 20 // far more than any row sends
)

// fleet is all clients of the load generator, with the totals of their counts.
type fleet struct {
	reader connReader

	mu      sync.Mutex // guards opt, clients and err
	opt     api.Connect
	clients []*client
	err     error // the first

	received    atomic.Uint64
	skipped     atomic.Uint64
	disorder    atomic.Uint64
	bad         atomic.Uint64
	disconnects atomic.Uint64
	replies     atomic.Uint64 // to subscribe requests
	complete    atomic.Uint64 // of them, those that promise all messages since the position
	notices     atomic.Uint64 // messages about members
	most        atomic.Uint64 // the largest number of them that one client got
	changes     atomic.Uint64 // joins and leaves in them
	gaps        atomic.Uint64 // messages that announce a gap
	lastLate    atomic.Int64  // time of the last arrival of a late message, Unix nanoseconds
	last        atomic.Int64  // time of the last arrival, Unix nanoseconds
	latency     atomic.Bool
	hist        tally.Histogram

	goal    atomic.Uint64 // number of arrivals at which reached is signalled; 0 is none
	reached chan struct{} // readers send without blocking, the method wait receives; never closed
}

// connReader reads connections and passes their bytes to fleet.feed.
type connReader interface {
	// add takes over a connection after its handshake. early are the bytes
	// that were received behind the handshake response.
	add(c *client, conn net.Conn, early []byte) error
}

func newFleet() (*fleet, error) {
	f := &fleet{reached: make(chan struct{}, 1)}
	e, err := newConnReader(f)
	f.reader = e
	return f, err
}

// client is one connection. Its reader owns all fields before out.
type client struct {
	fleet   *fleet
	id      int
	target  int
	opt     *api.Connect
	fd      int    // epoll only
	carry   []byte // the start of a frame that is not complete yet
	asm     wire.Assembler
	seq     tally.Sequence
	hint    int // offset of the payload in the last message
	decoder *decoder
	ended   bool
	place   *place  // nil unless the client subscribes by itself
	others  *others // nil unless the client counts messages about members

	out  sync.Mutex // serializes writes
	conn net.Conn   // nil with epoll
	sent uint32     // messages sent by echo, which owns it, since the start of the process
}

// fail remembers the first error.
func (f *fleet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// connect adds clients and returns the number of new ones.
func (f *fleet) connect(opt api.Connect) (int, error) {
	if opt.Clients < 1 || opt.Clients > maxClients || opt.Targets < 1 || opt.Size < payload.Overhead {
		return 0, fmt.Errorf("cannot connect %d clients to %d targets with %d bytes", opt.Clients, opt.Targets, opt.Size)
	}
	f.mu.Lock()
	f.opt = opt
	first := len(f.clients)
	for i := range opt.Clients {
		c := &client{fleet: f, id: first + i, target: i % opt.Targets, opt: &f.opt}
		if opt.Subscribe {
			c.place = new(place)
		}
		if opt.Presence {
			c.others = newOthers(c)
		}
		f.clients = append(f.clients, c)
	}
	fresh := f.clients[first:]
	f.mu.Unlock()
	return len(fresh), f.dialAll(fresh, f.dial)
}

// dialAll calls dial for all clients and returns one of the errors.
func (f *fleet) dialAll(clients []*client, dial func(*client) error) (err error) {
	next := make(chan *client) // connect sends and closes, the dialers receive
	errs := make(chan error, dialers)
	for range dialers {
		go func() {
			var first error
			for c := range next {
				if first == nil {
					first = dial(c)
				}
			}
			errs <- first
		}()
	}
	for _, c := range clients {
		next <- c
	}
	close(next)
	for range dialers {
		if e := <-errs; e != nil {
			err = e
		}
	}
	return err
}

func (f *fleet) dial(c *client) error {
	stalled := c.id < c.opt.Stalled
	d := net.Dialer{Timeout: 10 * time.Second}
	if c.id >= perAddress { // 127.0.0.2 and so on; only Linux has them without configuration
		d.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+c.id/perAddress))}
	}
	if stalled {
		d.Control = smallBuffer
	}
	conn, early, err := handshake(d, c.opt, c.id, c.target)
	if err != nil {
		return err
	}
	if stalled {
		c.conn = conn // kept open, never read
		return nil
	}
	return f.reader.add(c, conn, early)
}

// smallBuffer limits how much the kernel buffers for a client that never reads.
func smallBuffer(_, _ string, raw syscall.RawConn) (err error) {
	e := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
	})
	if e != nil {
		return e
	}
	return err
}

// feed handles the whole frames at the start of b, which a client has read, and
// returns their length.
func (f *fleet) feed(c *client, b []byte) (used int, err error) {
	now := time.Now().UnixNano()
	var n uint64
	defer func() {
		if n > 0 {
			f.arrived(n, now)
		}
	}()
	for {
		fr, size, err := wire.Parse(b[used:], false, maxMessage)
		if err != nil || size == 0 {
			return used, err
		}
		used += size
		switch fr.Op {
		case wire.Ping:
			if err := c.send(wire.Pong, fr.Payload); err != nil {
				return used, err
			}
			continue
		case wire.Pong:
			continue
		case wire.Close:
			_ = c.send(wire.Close, fr.Payload[:min(len(fr.Payload), 2)]) // fails if the server has closed the connection
			return used, errClosed(fr.Payload)
		}
		op, rsv1, msg, done, err := c.asm.Add(fr, maxMessage)
		if err != nil {
			return used, err
		}
		if !done {
			continue
		}
		if op == wire.Binary && c.opt.Sealed != "" || rsv1 {
			if msg, err = c.decoder.decode(c, rsv1, msg); err != nil {
				f.bad.Add(1)
				return used, err
			}
		}
		n += c.scan(msg, now)
	}
}

// scan counts and checks the payloads in a message. There is one, except in
// dialects that put several messages into a frame.
func (c *client) scan(msg []byte, now int64) (n uint64) {
	f, size := c.fleet, c.opt.Size
	if c.opt.Dialect == api.DialectCentrifuge && pinged(msg) {
		_ = c.send(wire.Text, []byte("{}")) // the next read reports a failure
	}
	if c.place != nil {
		c.follow(msg)
	}
	if c.others != nil {
		c.notice(msg, now)
	}
	for hint := c.hint; len(msg) >= size; hint = 0 {
		at := payload.Find(msg, hint)
		if at < 0 {
			break
		}
		if n == 0 {
			c.hint = at
		}
		seq, ok := payload.Seq(msg[at:], size)
		if !ok {
			f.bad.Add(1)
			return n
		}
		skipped, disorder := c.seq.Observe(seq)
		if skipped > 0 {
			f.skipped.Add(uint64(skipped))
		}
		if disorder {
			f.disorder.Add(1)
		}
		if f.latency.Load() {
			age := now - payload.At(msg[at:])
			f.hist.Record(age)
			if age > int64(api.Late) {
				f.lastLate.Store(now)
			}
		}
		msg = msg[at+size:]
		n++
	}
	if n == 0 && c.gap(msg) {
		f.gaps.Add(1)
	}
	return n
}

// gap reports whether a message of this library announces a gap in the client's target. A gap
// without a name is not in a target.
func (c *client) gap(msg []byte) bool {
	if c.opt.Dialect != api.DialectEnvelope || !bytes.Contains(msg, []byte(`"type":"gap"`)) {
		return false
	}
	var m struct{ Channel string }
	return json.Unmarshal(msg, &m) != nil || m.Channel != ""
}

// pinged reports whether one of the lines of a frame is centrifuge's ping.
func pinged(msg []byte) bool {
	return string(msg) == "{}" || bytes.HasPrefix(msg, []byte("{}\n")) ||
		bytes.HasSuffix(msg, []byte("\n{}")) || bytes.Contains(msg, []byte("\n{}\n"))
}

// arrived counts n messages and wakes wait if its goal is reached.
func (f *fleet) arrived(n uint64, now int64) {
	f.last.Store(now)
	total := f.received.Add(n)
	if goal := f.goal.Load(); goal > 0 && total >= goal {
		select {
		case f.reached <- struct{}{}:
		default: // already signalled
		}
	}
}

// disconnected counts a connection that the server ended. Only the first call for
// a client counts.
func (f *fleet) disconnected(c *client, err error) {
	if c.ended {
		return
	}
	c.ended = true
	f.disconnects.Add(1)
	f.fail(fmt.Errorf("client %d: %w", c.id, err))
}

// send writes one frame.
func (c *client) send(op byte, p []byte) error {
	var key [4]byte
	rand.Read(key[:]) // never fails
	c.out.Lock()
	defer c.out.Unlock()
	return c.write(wire.AppendClient(make([]byte, 0, len(p)+14), op, p, key))
}

// publish sends a payload in the server's dialect.
func (c *client) publish(p []byte) error {
	var b []byte
	switch c.opt.Dialect {
	case api.DialectEnvelope:
		b = append(fmt.Appendf(b, `{"type":"publish_room","channel":"t%d","data":`, c.target), p...)
		b = append(b, '}')
	case api.DialectCentrifuge:
		b = append(append(append(b, `{"send":{"data":`...), p...), "}}"...)
	default:
		b = p
	}
	return c.send(wire.Text, b)
}

// reset sets the counters to zero. Each client keeps its last sequence number.
func (f *fleet) reset(latency bool) {
	f.goal.Store(0)
	for _, n := range []*atomic.Uint64{&f.received, &f.skipped, &f.disorder, &f.bad, &f.disconnects, &f.replies, &f.complete, &f.notices, &f.most, &f.changes, &f.gaps} {
		n.Store(0)
	}
	f.lastLate.Store(0)
	f.hist.Reset()
	f.latency.Store(latency)
}

// maxWait bounds every wait. It is below the timeout of api.Sync.Ask, a minute.
const maxWait = 50 * time.Second

// wait returns when goal messages have arrived, or when none has arrived for the
// time stall.
func (f *fleet) wait(goal uint64, stall time.Duration) {
	select {
	case <-f.reached: // the signal of an earlier goal
	default:
	}
	f.goal.Store(goal)
	defer f.goal.Store(0)
	start := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for f.received.Load() < goal {
		select {
		case <-f.reached:
		case now := <-tick.C:
			quiet := now.Sub(time.Unix(0, max(f.last.Load(), start.UnixNano())))
			if quiet > stall || now.Sub(start) > maxWait {
				return
			}
		}
	}
}

// handleSync carries out one operation of a sync connection.
func (f *fleet) handleSync(op byte, a, b uint64) api.Arrived {
	switch op {
	case api.SyncReset:
		f.reset(a == 1)
	case api.SyncWait:
		f.wait(a, time.Duration(b))
	}
	return api.Arrived{Received: f.received.Load(), Disconnected: f.disconnects.Load(), Last: f.last.Load()}
}

func (f *fleet) stats() api.Stats {
	s := api.Stats{
		Usage:        usage.CPU(),
		Received:     f.received.Load(),
		Skipped:      f.skipped.Load(),
		Disorder:     f.disorder.Load(),
		Bad:          f.bad.Load(),
		Disconnected: f.disconnects.Load(),
		P50:          f.hist.Quantile(0.5),
		P99:          f.hist.Quantile(0.99),
		Max:          f.hist.Max(),
		Gaps:         f.gaps.Load(),
		LastLate:     f.lastLate.Load(),
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		s.Error = f.err.Error()
	}
	return s
}

// echo makes the first clients of the targets send in turn, and waits for the
// deliveries.
func (f *fleet) echo(ctx context.Context, e api.Echo) (res api.EchoResult) {
	f.mu.Lock()
	clients := f.clients
	opt := f.opt
	f.mu.Unlock()
	senders := clients[:min(opt.Targets, len(clients))]
	f.reset(true)
	interval := time.Duration(float64(time.Second) / e.Rate)
	start := time.Now()
	due := start
	for end := start.Add(min(e.Duration, time.Minute)); due.Before(end) && ctx.Err() == nil; due = due.Add(interval) {
		if wait := time.Until(due); wait > 0 {
			time.Sleep(wait)
		}
		i := int(res.Sent % uint64(len(senders)))
		senders[i].sent++
		p := payload.Append(nil, senders[i].sent, time.Now().UnixNano(), opt.Size)
		if err := senders[i].publish(p); err != nil {
			f.fail(err)
			break
		}
		res.Sent++
	}
	f.wait(res.Sent*uint64(e.PerSend), e.Stall)
	res.Received = f.received.Load()
	res.Wall = time.Duration(max(f.last.Load()-start.UnixNano(), 1))
	return res
}
