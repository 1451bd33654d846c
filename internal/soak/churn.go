package main

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

// churnTolerance is the number of bytes by which the heap of an idle hub may have
// grown after all cycles, for larger maps and free lists. A leak of 100 bytes for
// each of 100,000 clients exceeds it.
const churnTolerance = 8 << 20

// runChurn connects, subscribes and disconnects as fast as possible, while
// publishers publish to the connected clients. It returns the faults.
func runChurn(o options) []string {
	before := measure(math.MaxInt)
	res := &results{}
	var faults []string
	func() {
		config := websocket.DefaultConfig
		config.Shards = shards
		s, err := newHubServer("churn", config, 8, res)
		if err != nil {
			faults = append(faults, err.Error())
			return
		}
		cycles(o, res, s, min(1000, o.churn)) // fills pools and starts the poller
		s.waitNoClients(res)
		idle := measure(math.MaxInt)
		start := time.Now()
		cycles(o, res, s, o.churn)
		took := time.Since(start)
		s.waitNoClients(res)
		again := measure(idle.goroutines + 1)
		res.complete.Store(1) // report requires one, but no client of this run stays to the end
		res.report([]*hubServer{s})
		fmt.Printf("cycles         %d in %v, %.0f a second\n", o.churn, took.Round(time.Millisecond), float64(o.churn)/took.Seconds())
		faults = append(faults, s.checkTotals()...)
		if err := s.stop(); err != nil {
			res.fault("stopping: %v", err)
		}
		fmt.Println("hub idle:     ", idle)
		fmt.Println("idle again:   ", again)
		idle.goroutines++ // since a connection has hibernated
		faults = append(faults, again.compare("idle again", idle, churnTolerance)...)
	}()
	end := measure(before.goroutines)
	fmt.Println("at the start: ", before)
	fmt.Println("at the end:   ", end)
	faults = append(faults, end.compare("at the end", before, endTolerance)...)
	if c, d := res.connects.Load(), res.disconnects.Load(); c != d || c != res.connections.Load() {
		res.fault("%d connections, %d onConnect, %d onDisconnect", res.connections.Load(), c, d)
	}
	return append(res.faults, faults...)
}

// waitNoClients waits until all clients have disconnected.
func (s *hubServer) waitNoClients(res *results) {
	for deadline := time.Now().Add(time.Minute); s.hub.Stats().ActiveConnections > 0 || res.connects.Load() != res.disconnects.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			res.fault("%d clients are still connected", s.hub.Stats().ActiveConnections)
			return
		}
	}
	s.drain(time.Minute)
}

// cycles runs n cycles in o.workers goroutines.
func cycles(o options, res *results, s *hubServer, n int) {
	stopPublishing := make(chan struct{}) // closed below
	var publishers, clients sync.WaitGroup
	for i, t := range s.topics {
		publishers.Go(func() { // ends with stopPublishing
			publish(options{rate: 6000, clients: 300}, res, s, t, rand.New(rand.NewPCG(o.seed, 1<<32+uint64(i))), stopPublishing)
		})
	}
	var left atomic.Int64
	left.Store(int64(n))
	for i := range o.workers {
		rng := rand.New(rand.NewPCG(o.seed, uint64(n)<<16+uint64(i)))
		clients.Go(func() { // ends when no cycles are left
			for left.Add(-1) >= 0 {
				if err := cycle(s, rng); err != nil {
					res.fault("cycle: %v", err)
					if errors.Is(err, errNoConnection) {
						return
					}
				}
			}
		})
	}
	clients.Wait()
	close(stopPublishing)
	publishers.Wait()
}

// cycle connects, subscribes, and ends the connection in one of several ways.
func cycle(s *hubServer, rng *rand.Rand) error {
	codec := codecs[rng.IntN(len(codecs))]
	ws, err := dial(s, rng, codec, false, nil)
	if err != nil {
		return err
	}
	defer func() { _ = ws.Close() }() // the hub may have closed it already
	s.results.connections.Add(1)
	c := &client{
		Conn: ws, server: s, results: s.results, codec: codec, behavior: brief, rng: rng,
		topics: map[string]*subscription{}, talkNext: map[string]int64{},
	}
	if rng.IntN(8) == 0 {
		return nil // close before subscribing
	}
	f := &subscription{topic: s.topics[rng.IntN(len(s.topics))]}
	c.topics[key(f.topic.room, f.topic.name)] = f
	if err := c.join(f); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	switch rng.IntN(8) {
	case 0:
		return nil // close before the reply
	case 1:
		if tcp, ok := ws.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // Close then sends a reset
		}
		return nil
	}
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute)) // ReadMessage reports a failure
	for f.state == joining {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if _, err := c.handle(b); err != nil {
			return err
		}
	}
	if rng.IntN(2) == 0 {
		return nil
	}
	return c.closeHandshake()
}
