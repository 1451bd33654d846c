package main

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

const (
	// endTolerance is heap that may stay when everything has ended: what the
	// runtime, crypto and net/http keep for the life of a process.
	endTolerance = 4 << 20
	// idleTolerance is what one hub that is idle again may hold beyond that: its
	// shards' free lists, of which joined writes are up to 8 MiB for each shard.
	idleTolerance = shards * 8 << 20
	shards        = 2
)

func runSoak(o options) []string {
	before := measure(math.MaxInt)
	b := &books{}
	var faults []string
	func() {
		sites, err := newSites(o, b)
		if err != nil {
			faults = append(faults, err.Error())
			return
		}
		idle := measure(math.MaxInt)
		crowd(o, b, sites)
		again := measure(idle.goroutines)
		b.report(sites)
		for _, s := range sites {
			faults = append(faults, s.balance()...)
			if err := s.stop(); err != nil {
				b.fault("%s: stopping: %v", s.name, err)
			}
			if held := s.hub.Stats().HeldBytes; held != 0 {
				b.fault("%s: %d bytes held after the end", s.name, held)
			}
		}
		b.judge()
		fmt.Println("hubs idle:    ", idle)
		fmt.Println("idle again:   ", again)
		faults = append(faults, again.compare("idle again", idle, int64(len(sites))*idleTolerance)...)
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

// newSites returns one hub for each policy.
func newSites(o options, b *books) ([]*site, error) {
	config := websocket.DefaultConfig
	config.Shards = shards
	config.ClientBacklog = 48 << 10
	config.HandshakeTimeout = 30 * time.Second // the machine may be overloaded
	config.PongWait, config.PingPeriod = 30*time.Second, 25*time.Second
	config.MaxSubscriptions = 100
	var sites []*site
	for _, policy := range []struct {
		name   string
		policy websocket.SlowConsumerPolicy
	}{{"evict", websocket.EvictSlow}, {"oldest", websocket.DropOldest}, {"newest", websocket.DropNewest}} {
		config.SlowConsumer = policy.policy
		s, err := newSite(policy.name, config, topicsEach(o), b)
		if err != nil {
			return nil, err
		}
		sites = append(sites, s)
	}
	return sites, nil
}

// topicsEach makes for some 30 members in each topic.
func topicsEach(o options) int { return max(4, o.clients*2/3/30) }

// crowd runs clients and publishers until the time is over and all have gone.
func crowd(o options, b *books, sites []*site) {
	stop := make(chan struct{}) // closed below
	var clients, publishers sync.WaitGroup
	for i := range o.clients {
		rng := rand.New(rand.NewPCG(o.seed, uint64(i)))
		clients.Go(func() { inhabit(o, b, sites[i%len(sites)], rng, stop) }) // ends some time after stop
	}
	quiet := make(chan struct{}) // closed below
	for _, s := range sites {
		for i, t := range s.topics {
			rng := rand.New(rand.NewPCG(o.seed, uint64(1<<32+i)))
			publishers.Go(func() { publish(o, b, s, t, rng, quiet) }) // ends with quiet
		}
	}
	publishers.Go(func() { watch(b, sites, quiet) }) // ends with quiet
	time.Sleep(o.duration)
	close(quiet)
	publishers.Wait()
	close(stop)
	for _, s := range sites {
		s.settle(time.Minute)
	}
	gone := make(chan struct{}) // closed by the waiter, received below
	go func() { clients.Wait(); close(gone) }()
	for ended := false; !ended; { // again for those who are connecting just now
		for _, s := range sites {
			if err := s.hub.BroadcastMessage(&websocket.Message{Type: "end"}); err != nil {
				b.fault("%s: the last broadcast: %v", s.name, err)
			}
		}
		select {
		case <-gone:
			ended = true
		case <-time.After(time.Second):
		}
	}
	for _, s := range sites {
		s.settle(time.Minute)
	}
}

// inhabit lives one life after the other. One in twenty is hostile.
func inhabit(o options, b *books, s *site, rng *rand.Rand, stop <-chan struct{}) {
	pause := time.Duration(rng.Int64N(int64(o.duration/20 + 1))) // not all at once
	for {
		select {
		case <-stop:
			return
		case <-time.After(pause):
		}
		pause = time.Duration(rng.IntN(100)) * time.Millisecond
		var err error
		switch n := rng.IntN(40); {
		case n < 6:
			err = assault(s, rng)
		case n < 16:
			err = live(s, hasty, rng, time.Duration(rng.IntN(3000))*time.Millisecond, stop)
		case n < 20:
			err = live(s, slow, rng, o.duration/20+time.Duration(rng.Int64N(int64(o.duration/5))), stop)
		case n < 22:
			err = live(s, mute, rng, 5*time.Second+time.Duration(rng.IntN(20))*time.Second, stop)
		default:
			err = live(s, steady, rng, o.duration/20+time.Duration(rng.Int64N(int64(o.duration/2))), stop)
		}
		switch {
		case errors.Is(err, errNoConnection):
			b.refused.Add(1)
		case err != nil:
			b.fault("%s: %v", s.name, err)
		}
	}
}

// publish is the only one who publishes to t. Now and then it does so faster
// than a slow client can take it.
func publish(o options, b *books, s *site, t *topic, rng *rand.Rand, quiet <-chan struct{}) {
	// There are three hubs, some 25 members in a topic, and bursts triple the rate.
	pause := time.Second * time.Duration(len(s.topics)*3*25*3) / time.Duration(o.rate)
	padding := bytes.Repeat([]byte("x"), 4096)
	for {
		select {
		case <-quiet:
			return
		case <-time.After(time.Duration(rng.Int64N(int64(2*pause) + 1))):
		}
		burst := 1
		if rng.IntN(50) == 0 {
			burst = 100
		}
		for range burst {
			n := t.next.Load()
			m := &websocket.Message{Data: fmt.Appendf(nil, `{"n":%d,"x":"%s"}`, n, padding[:rng.IntN(1<<rng.IntN(13))])}
			do := s.hub.PublishToChannel
			if t.room {
				do = s.hub.PublishToRoom
			}
			if err := do(t.name, m); err != nil {
				b.fault("%s: publishing: %v", s.name, err)
				return
			}
			t.next.Store(n + 1)
			b.published.Add(1)
		}
	}
}

// watch calls what reads the hub's state while everything moves, and sends to
// clients that may be about to go.
func watch(b *books, sites []*site, quiet <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-quiet:
			return
		case <-tick.C:
		}
		s := sites[n%len(sites)]
		for c := range s.hub.Clients() {
			_ = c.Send(&websocket.Message{Type: "broadcast"}) // gone, perhaps
			break
		}
		if n%100 == 0 {
			if err := s.hub.Broadcast([]byte("1")); err != nil {
				b.fault("%s: broadcast: %v", s.name, err)
			}
			s.hub.Stats()
		}
	}
}

// settle waits until nothing waits in the hub any more.
func (s *site) settle(limit time.Duration) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if st := s.hub.Stats(); st.MessagesAddressed == st.MessagesSent+st.Dropped.Total() && st.HeldBytes == 0 {
			return
		}
	}
	s.books.fault("%s: something still waits after %v", s.name, limit)
}

// balance checks the sums of a hub without clients.
func (s *site) balance() (faults []string) {
	st := s.hub.Stats()
	check := func(ok bool, what string) {
		if !ok {
			faults = append(faults, fmt.Sprintf("%s: %s: %+v", s.name, what, st))
		}
	}
	check(st.ActiveConnections == 0, "clients are left")
	check(st.TotalChannels == 0 && st.TotalRooms == 0, "channels or rooms are left")
	check(st.MessagesAddressed == st.MessagesSent+st.Dropped.Total(), "addressed is not sent and dropped")
	check(st.Announced <= st.Dropped.Total(), "more is announced than dropped")
	check(st.HeldBytes == 0, "bytes are held")
	return faults
}

func (b *books) report(sites []*site) {
	var sum websocket.Stats
	for _, s := range sites {
		st := s.hub.Stats()
		sum.TotalConnections += st.TotalConnections
		sum.MessagesAddressed += st.MessagesAddressed
		sum.MessagesSent += st.MessagesSent
		sum.MessagesReceived += st.MessagesReceived
		sum.BytesSent += st.BytesSent
		sum.Evicted += st.Evicted
		sum.Announced += st.Announced
		sum.Dropped.SlowConsumer += st.Dropped.SlowConsumer
		sum.Dropped.Disconnected += st.Dropped.Disconnected
		sum.Dropped.Codec += st.Dropped.Codec
	}
	delivered, announced := uint64(b.delivered.Load()), uint64(b.announced.Load())
	fmt.Printf(`published      %d by publishers, %d by clients
addressed      %d
sent           %d, %.1f MiB
delivered      %d read by clients
dropped        %d: %+v
announced      %d lost in %d gap notices read, %d announced by the hubs; OnDrop told of %d
connections    %d, of them %d hostile peers; %d handshakes failed; evicted %d, cut after WriteWait %d
received       %d messages
callbacks      %d onConnect, %d onMessage, %d onDisconnect
whole          %d channels and rooms at the end
`, b.published.Load(), b.talked.Load(), sum.MessagesAddressed, sum.MessagesSent, float64(sum.BytesSent)/(1<<20), delivered,
		sum.Dropped.Total(), sum.Dropped, announced, b.gaps.Load(), sum.Announced, b.reported.Load(),
		sum.TotalConnections, b.hostile.Load(), b.refused.Load(), sum.Evicted, b.starved.Load(), sum.MessagesReceived,
		b.connects.Load(), b.messages.Load(), b.disconnects.Load(), b.checked.Load())
	if delivered > sum.MessagesSent {
		b.fault("%d messages were read, but %d sent", delivered, sum.MessagesSent)
	}
	if announced > sum.Announced {
		b.fault("%d messages were read about as lost, but %d announced", announced, sum.Announced)
	}
	if refused := b.refused.Load(); refused*50 > b.connections.Load() { // a few are the machine's, which is overloaded
		b.fault("%d handshakes failed", refused)
	}
	if b.checked.Load() == 0 {
		b.fault("no client was there to the end")
	}
	if uint64(b.reported.Load()) > sum.Dropped.Total() {
		b.fault("OnDrop told of %d messages, but %d were dropped", b.reported.Load(), sum.Dropped.Total())
	}
}
