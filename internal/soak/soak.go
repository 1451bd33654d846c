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
	// endTolerance is the number of bytes by which the heap may have grown after
	// all hubs have ended. The runtime, crypto and net/http keep some memory until
	// the process exits.
	endTolerance = 4 << 20
	// idleTolerance is the number of bytes by which the heap of an idle hub may
	// have grown: each shard keeps up to 8 MiB of buffers for joined writes.
	idleTolerance = shards * 8 << 20
	shards        = 2
)

// runSoak runs clients of all behaviors against three hubs and returns the faults.
func runSoak(o options) []string {
	before := measure(math.MaxInt)
	res := &results{}
	var faults []string
	func() {
		servers, err := newHubServers(o, res)
		if err != nil {
			faults = append(faults, err.Error())
			return
		}
		idle := measure(math.MaxInt)
		runClients(o, res, servers)
		again := measure(idle.goroutines + len(servers))
		res.report(servers)
		for _, s := range servers {
			faults = append(faults, s.checkTotals()...)
			if err := s.stop(); err != nil {
				res.fault("%s: stopping: %v", s.name, err)
			}
			if held := s.hub.Stats().HeldBytes; held != 0 {
				res.fault("%s: the hub holds %d bytes after Shutdown", s.name, held)
			}
		}
		res.checkUnclosed()
		fmt.Println("hubs idle:    ", idle)
		fmt.Println("idle again:   ", again)
		idle.goroutines += len(servers) // each hub has one more since a connection has hibernated
		faults = append(faults, again.compare("idle again", idle, int64(len(servers))*idleTolerance)...)
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

// newHubServers returns a hub for each policy on slow clients.
func newHubServers(o options, res *results) ([]*hubServer, error) {
	config := websocket.DefaultConfig
	config.Shards = shards
	config.MaxMessageSize, config.ClientBacklog = 32<<10, 48<<10
	config.HandshakeTimeout = 30 * time.Second // the machine may be overloaded
	config.PongWait, config.PingPeriod = 30*time.Second, 25*time.Second
	config.MaxSubscriptions = 100
	var servers []*hubServer
	for _, policy := range []struct {
		name   string
		policy websocket.SlowConsumerPolicy
	}{{"evict", websocket.EvictSlow}, {"oldest", websocket.DropOldest}, {"newest", websocket.DropNewest}} {
		config.SlowConsumer = policy.policy
		s, err := newHubServer(policy.name, config, topicsEach(o), res)
		if err != nil {
			return nil, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

// topicsEach returns the number of topics of each hub, so that a topic has about 30
// members.
func topicsEach(o options) int { return max(4, o.clients*2/3/30) }

// runClients runs clients and publishers for o.duration. It returns when all clients
// have disconnected.
func runClients(o options, res *results, servers []*hubServer) {
	stop := make(chan struct{}) // closed below
	var clients, publishers sync.WaitGroup
	for i := range o.clients {
		rng := rand.New(rand.NewPCG(o.seed, uint64(i)))
		clients.Go(func() { clientLoop(o, res, servers[i%len(servers)], rng, stop) }) // ends soon after stop
	}
	stopPublishing := make(chan struct{}) // closed below
	for _, s := range servers {
		for i, t := range s.topics {
			rng := rand.New(rand.NewPCG(o.seed, 1<<32+uint64(i)))
			publishers.Go(func() { publish(o, res, s, t, rng, stopPublishing) }) // ends with stopPublishing
		}
	}
	publishers.Go(func() { callHub(res, servers, stopPublishing) }) // ends with stopPublishing
	time.Sleep(o.duration)
	close(stopPublishing)
	publishers.Wait()
	close(stop)
	for _, s := range servers {
		s.drain(time.Minute)
	}
	disconnected := make(chan struct{}) // closed by the goroutine below, received in the loop
	go func() { clients.Wait(); close(disconnected) }()
	for ended := false; !ended; { // repeated for clients that connect after the first broadcast
		for _, s := range servers {
			if err := s.hub.BroadcastMessage(&websocket.Message{Type: "end"}); err != nil {
				res.fault("%s: broadcasting the last message: %v", s.name, err)
			}
		}
		select {
		case <-disconnected:
			ended = true
		case <-time.After(time.Second):
		}
	}
	for _, s := range servers {
		s.drain(time.Minute)
	}
}

// clientLoop runs one client after the other. About one in seven is hostile.
func clientLoop(o options, res *results, s *hubServer, rng *rand.Rand, stop <-chan struct{}) {
	pause := time.Duration(rng.Int64N(int64(o.duration/20 + 1))) // spreads the first connections
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
			err = runAttack(s, rng)
		case n < 16:
			err = runClient(s, brief, rng, time.Duration(rng.IntN(3000))*time.Millisecond, stop)
		case n < 20:
			err = runClient(s, readsSlowly, rng, o.duration/20+time.Duration(rng.Int64N(int64(o.duration/5))), stop)
		case n < 22:
			err = runClient(s, neverReads, rng, 5*time.Second+time.Duration(rng.IntN(20))*time.Second, stop)
		default:
			err = runClient(s, steady, rng, o.duration/20+time.Duration(rng.Int64N(int64(o.duration/2))), stop)
		}
		switch {
		case errors.Is(err, errNoConnection):
			res.failedHandshakes.Add(1)
		case err != nil:
			res.fault("%s: %v", s.name, err)
		}
	}
}

// publish is the only publisher of t. One time in 50 it publishes a burst that is
// too fast for a slow client.
func publish(o options, res *results, s *hubServer, t *topic, rng *rand.Rand, stopPublishing <-chan struct{}) {
	// There are three hubs, about 25 members in a topic, and bursts triple the rate.
	pause := time.Second * time.Duration(len(s.topics)*3*25*3) / time.Duration(o.rate)
	padding := bytes.Repeat([]byte("x"), 4096)
	for {
		select {
		case <-stopPublishing:
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
			publishTo := s.hub.PublishToChannel
			if t.room {
				publishTo = s.hub.PublishToRoom
			}
			if err := publishTo(t.name, m); err != nil {
				res.fault("%s: publishing: %v", s.name, err)
				return
			}
			t.next.Store(n + 1)
			res.published.Add(1)
		}
	}
}

// callHub calls the hub's methods while clients come and go: it reads state, sends
// to single clients and broadcasts.
func callHub(res *results, servers []*hubServer, stopPublishing <-chan struct{}) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-stopPublishing:
			return
		case <-tick.C:
		}
		s := servers[n%len(servers)]
		for c := range s.hub.Clients() {
			_ = c.Send(&websocket.Message{Type: "broadcast"}) // the client may have disconnected
			break
		}
		if n%100 == 0 {
			if err := s.hub.Broadcast([]byte("1")); err != nil {
				res.fault("%s: broadcast: %v", s.name, err)
			}
			s.hub.Stats()
		}
	}
}

// drain waits until the hub has sent or dropped every message.
func (s *hubServer) drain(limit time.Duration) {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if st := s.hub.Stats(); st.MessagesAddressed == st.MessagesSent+st.Dropped.Total() {
			return
		}
	}
	s.results.fault("%s: messages are still pending after %v", s.name, limit)
}

// checkTotals checks the statistics of a hub without clients.
func (s *hubServer) checkTotals() (faults []string) {
	st := s.hub.Stats()
	check := func(ok bool, what string) {
		if !ok {
			faults = append(faults, fmt.Sprintf("%s: %s: %+v", s.name, what, st))
		}
	}
	check(st.ActiveConnections == 0, "clients are still connected")
	check(st.TotalChannels == 0 && st.TotalRooms == 0, "there are still channels or rooms")
	check(st.MessagesAddressed == st.MessagesSent+st.Dropped.Total(), "MessagesAddressed is not the sum of MessagesSent and Dropped")
	check(st.Announced <= st.Dropped.Total(), "Announced is above Dropped")
	check(st.HeldBytes == 0, "HeldBytes is not zero")
	return faults
}

// report prints the totals, and records a fault for those that contradict each
// other.
func (res *results) report(servers []*hubServer) {
	var sum websocket.Stats
	for _, s := range servers {
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
	delivered, announced := uint64(res.delivered.Load()), uint64(res.announced.Load())
	fmt.Printf(`published      %d by publishers, %d by clients
addressed      %d
sent           %d, %.1f MiB
delivered      %d read by clients
dropped        %d: %+v
announced      %d dropped in %d gap notices read, %d announced by the hubs; OnDrop reported %d
connections    %d, of them %d hostile peers; %d handshakes failed; evicted %d, aborted after WriteWait %d
received       %d messages
callbacks      %d onConnect, %d onMessage, %d onDisconnect
complete       %d memberships checked to the last message
`, res.published.Load(), res.clientPublished.Load(), sum.MessagesAddressed, sum.MessagesSent, float64(sum.BytesSent)/(1<<20), delivered,
		sum.Dropped.Total(), sum.Dropped, announced, res.gaps.Load(), sum.Announced, res.dropReports.Load(),
		sum.TotalConnections, res.hostile.Load(), res.failedHandshakes.Load(), sum.Evicted, res.writeTimeouts.Load(), sum.MessagesReceived,
		res.connects.Load(), res.messages.Load(), res.disconnects.Load(), res.complete.Load())
	if delivered > sum.MessagesSent {
		res.fault("clients read %d messages, but the hubs sent %d", delivered, sum.MessagesSent)
	}
	if announced > sum.Announced {
		res.fault("clients read announcements of %d dropped messages, but the hubs announced %d", announced, sum.Announced)
	}
	if refused := res.failedHandshakes.Load(); refused*50 > res.connections.Load() { // up to 2 % are due to an overloaded machine
		res.fault("%d handshakes failed", refused)
	}
	if res.complete.Load() == 0 {
		res.fault("no client checked a membership to the last message")
	}
	if uint64(res.dropReports.Load()) > sum.Dropped.Total() {
		res.fault("OnDrop reported %d messages, but %d were dropped", res.dropReports.Load(), sum.Dropped.Total())
	}
}
