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

// churnTolerance is how much heap an idle hub may have gained by the cycles:
// maps that have grown, and free lists. 100,000 clients of which 100 bytes each
// stayed would exceed it.
const churnTolerance = 8 << 20

// runChurn connects, subscribes and disconnects as fast as it goes, while
// somebody publishes to those who are there.
func runChurn(o options) []string {
	before := measure(math.MaxInt)
	b := &books{}
	var faults []string
	func() {
		config := websocket.DefaultConfig
		config.Shards = shards
		s, err := newSite("churn", config, 8, b)
		if err != nil {
			faults = append(faults, err.Error())
			return
		}
		cycles(o, b, s, min(1000, o.churn)) // pools and the poller are in use from here on
		s.empty(b)
		idle := measure(math.MaxInt)
		start := time.Now()
		cycles(o, b, s, o.churn)
		took := time.Since(start)
		s.empty(b)
		again := measure(idle.goroutines)
		b.checked.Store(1) // nobody stays to the end
		b.report([]*site{s})
		fmt.Printf("cycles         %d in %v, %.0f a second\n", o.churn, took.Round(time.Millisecond), float64(o.churn)/took.Seconds())
		faults = append(faults, s.balance()...)
		if err := s.stop(); err != nil {
			b.fault("stopping: %v", err)
		}
		fmt.Println("hub idle:     ", idle)
		fmt.Println("idle again:   ", again)
		faults = append(faults, again.compare("idle again", idle, churnTolerance)...)
	}()
	end := measure(before.goroutines)
	fmt.Println("at the start: ", before)
	fmt.Println("at the end:   ", end)
	faults = append(faults, end.compare("at the end", before, endTolerance)...)
	if c, d := b.connects.Load(), b.disconnects.Load(); c != d || c != b.connections.Load() {
		b.fault("%d connections, %d onConnect, %d onDisconnect", b.connections.Load(), c, d)
	}
	return append(b.faults, faults...)
}

// empty waits until all clients have gone.
func (s *site) empty(b *books) {
	for deadline := time.Now().Add(time.Minute); s.hub.Stats().ActiveConnections > 0 || b.connects.Load() != b.disconnects.Load(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.fault("%d clients are left", s.hub.Stats().ActiveConnections)
			return
		}
	}
	s.settle(time.Minute)
}

func cycles(o options, b *books, s *site, n int) {
	quiet := make(chan struct{}) // closed below
	var publishers, clients sync.WaitGroup
	for i, t := range s.topics {
		publishers.Go(func() { // ends with quiet
			publish(options{rate: 6000, clients: 300}, b, s, t, rand.New(rand.NewPCG(o.seed, uint64(1<<32+i))), quiet)
		})
	}
	var left atomic.Int64
	left.Store(int64(n))
	for i := range o.workers {
		rng := rand.New(rand.NewPCG(o.seed, uint64(n)<<16+uint64(i)))
		clients.Go(func() { // ends when no cycles are left
			for left.Add(-1) >= 0 {
				if err := cycle(s, rng); err != nil {
					b.fault("cycle: %v", err)
					if errors.Is(err, errNoConnection) {
						return
					}
				}
			}
		})
	}
	clients.Wait()
	close(quiet)
	publishers.Wait()
}

// cycle is one life: connect, subscribe, and one of several ends.
func cycle(s *site, rng *rand.Rand) error {
	codec := codecs[rng.IntN(len(codecs))]
	ws, err := dial(s, rng, codec, false, nil)
	if err != nil {
		return err
	}
	defer func() { _ = ws.Close() }() // closed by the peer, in some lives
	s.books.connections.Add(1)
	c := &client{
		Conn: ws, site: s, books: s.books, codec: codec, temper: hasty, rng: rng,
		topics: map[string]*following{}, heard: map[string]int64{},
	}
	if rng.IntN(8) == 0 {
		return nil // gone before anything
	}
	f := &following{topic: s.topics[rng.IntN(len(s.topics))]}
	c.topics[key(f.topic.room, f.topic.name)] = f
	if err := c.join(f); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	switch rng.IntN(8) {
	case 0:
		return nil // with the answer under way
	case 1:
		if tcp, ok := ws.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset instead of an end
		}
		return nil
	}
	_ = ws.SetReadDeadline(time.Now().Add(time.Minute)) // shows in reading
	for f.state == joining {
		_, b, err := ws.ReadMessage()
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if _, err := c.take(b); err != nil {
			return err
		}
	}
	if rng.IntN(2) == 0 {
		return nil
	}
	return c.sayGoodbye()
}
