// Package redis is a websocket.HistoryBroker over the Pub/Sub and the streams of Redis or
// Valkey: a single server, Sentinel, or a Cluster. In a Cluster it uses sharded Pub/Sub.
// This and histories need Redis 7 or Valkey.
//
//	config.Broker = redis.New(redis.Options{
//		Connect: &goredis.UniversalOptions{Addrs: []string{"127.0.0.1:6379"}},
//	})
//
// A Broker has connections of its own. A publication costs the server one command,
// and one message out for each node that has members. A node with members also
// receives its own publications and ignores them.
//
// The Broker publishes and subscribes at masters only. It publishes probes, short
// messages to itself, and counts as up only after a probe has arrived: this shows that
// publications reach its subscriptions. A failover, the move of a slot to another
// server of a Cluster, and a server that publications no longer go to are outages,
// until the Broker has subscribed again.
//
// # Histories
//
// A topic with history has a stream. One call of a script appends the records of a batch to
// the streams of their topics and publishes them, one message for each topic. All keys
// expire: at most an eighth later than the Age of the history, or Options.HistoryTTL.
//
// How many acknowledged records a crash can lose depends on the server: with
// "appendfsync always" none, with "everysec" those of one second, and in a failover those
// that the replica had not got yet. The hub notices a loss and tells the members. No offset
// is given twice: the script notices a restart or a failover by the server's replication ID
// and leaves offsets out.
//
// A server that evicts keys (maxmemory-policy) ends histories, which the hub tells the
// members too. With "noeviction" Append fails when the memory is full.
package redis

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/redis/go-redis/v9"
)

// Options configure a Broker.
type Options struct {
	// Connect holds the addresses of the servers and the options of go-redis, as
	// for redis.NewUniversalClient: one address for a single server, several
	// addresses or IsClusterMode for a Cluster, MasterName for Sentinel. It is
	// copied. The Broker turns off retries, because they would repeat
	// publications; routing to replicas, because it would lose them; and
	// maintenance notifications, because they move connections to other servers.
	// It turns on context timeouts.
	Connect *redis.UniversalOptions
	// Prefix begins the name of every channel and key at the server, so that several
	// applications can share an engine: nodes with the same prefix form a cluster.
	// It must end with a colon, and have no other colon and no braces: no name then
	// belongs to two prefixes. Defaults to "hub:".
	Prefix string
	// Buckets is the number of hash slots that the channels are spread over in a
	// Cluster. A node has one connection for each bucket in which it has members.
	// All nodes must use the same value. Defaults to 16.
	Buckets int
	// HistoryTTL is how long the engine keeps the history of a topic whose
	// HistoryOptions have no Age: every key that the Broker makes expires. Defaults
	// to 24 h.
	HistoryTTL time.Duration
	// MaxDelay is the maximum delay between attempts to reconnect. The delay
	// begins at 100 ms and doubles; each is shortened at random by up to half.
	// Defaults to 5 s.
	MaxDelay time.Duration
	// PingInterval is the silence after which a connection gets a ping; if the
	// silence lasts as long again, the connection counts as broken. At the same
	// interval the Broker publishes a probe for each connection with
	// subscriptions. Defaults to 2 s.
	PingInterval time.Duration
}

const (
	defaultPrefix  = "hub:"
	defaultBuckets = 16
	defaultTTL     = 24 * time.Hour
	defaultDelay   = 5 * time.Second
	defaultPing    = 2 * time.Second
	defaultDial    = 5 * time.Second
	firstDelay     = 100 * time.Millisecond
	confirmTimeout = 5 * time.Second
	subscribeBatch = 512 // channels in one command
)

// Broker is a websocket.Broker over Redis. It is used by one hub and cannot be opened
// again after Close.
type Broker struct {
	options  Options
	client   redis.UniversalClient
	cluster  *redis.ClusterClient // client, if it is one of a Cluster, or nil
	conns    conns
	handler  websocket.BrokerHandler
	sessions []*session // one per bucket in a Cluster, otherwise one
	ctx      context.Context
	cancel   context.CancelFunc
	once     sync.Once
	loops    sync.WaitGroup
	up       atomic.Bool

	mu       sync.Mutex // held during calls of Up and Down, which keeps them in order
	reported health
}

var _ websocket.Broker = (*Broker)(nil)

type health uint8

const (
	unknown health = iota // connecting, or without topics
	isUp
	isDown
)

// New returns a Broker. It connects when its hub runs.
func New(options Options) *Broker {
	if options.Prefix == "" {
		options.Prefix = defaultPrefix
	}
	if options.Buckets <= 0 {
		options.Buckets = defaultBuckets
	}
	if options.HistoryTTL <= 0 {
		options.HistoryTTL = defaultTTL
	}
	if options.MaxDelay <= 0 {
		options.MaxDelay = defaultDelay
	}
	if options.PingInterval <= 0 {
		options.PingInterval = defaultPing
	}
	b := &Broker{options: options}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b
}

// Open implements websocket.Broker. It returns an error for an invalid Prefix.
func (b *Broker) Open(h websocket.BrokerHandler) error {
	name, ended := strings.CutSuffix(b.options.Prefix, ":")
	if !ended || strings.ContainsAny(name, ":{}") {
		return fmt.Errorf("redis: prefix %q: it must end with a colon, and have no other colon and no braces", b.options.Prefix)
	}
	b.handler = h
	b.client = redis.NewUniversalClient(b.prepare())
	b.cluster, _ = b.client.(*redis.ClusterClient)
	count := 1
	if b.cluster != nil {
		count = b.options.Buckets
	}
	for i := range count {
		s := &session{
			broker: b, always: i == 0,
			topics: make(map[string]*topic), leaving: make(map[string]int),
			wake: make(chan struct{}, 1), change: make(chan struct{}),
		}
		s.ctx = context.WithValue(b.ctx, sessionKey{}, s)
		if s.prefix = b.options.Prefix; b.cluster != nil {
			s.prefix += fmt.Sprintf("{%d}", i)
		}
		s.anchor = s.prefix + fmt.Sprintf(" %016x", rand.Uint64()) // no topic begins with a space
		b.sessions = append(b.sessions, s)
	}
	for _, s := range b.sessions {
		b.loops.Go(s.run) // ends with Close
	}
	return nil
}

// bucket returns the index of the session that a topic belongs to.
func (b *Broker) bucket(topic string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic))
	return int(h.Sum32() % uint32(len(b.sessions)))
}

// channel returns the channel of a topic at the server. In a Cluster all channels of
// a bucket are in one hash slot, so that one connection serves them.
func (b *Broker) channel(topic string, bucket int) string { return b.sessions[bucket].prefix + topic }

// delay returns the delay after a failed attempt, counted from 0.
func (b *Broker) delay(attempt int) time.Duration {
	d := b.options.MaxDelay
	if attempt < 16 {
		d = min(firstDelay<<attempt, d)
	}
	return d/2 + rand.N(d/2+1)
}

// sleep sleeps for d. It reports false after Close.
func (b *Broker) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.ctx.Done():
		return false
	}
}

// report calls the handler's Down if a session is down, and Up if all sessions with
// topics are up.
func (b *Broker) report() {
	b.mu.Lock()
	defer b.mu.Unlock()
	down, connecting, up := 0, 0, 0
	var reason error
	for _, s := range b.sessions {
		switch state, needed, err := s.standing(); {
		case state == isDown:
			down++
			reason = err
		case state == isUp:
			up++
		case needed:
			connecting++
		}
	}
	switch {
	case b.ctx.Err() != nil:
	case down > 0 && b.reported != isDown:
		b.up.Store(false)
		b.reported = isDown
		b.handler.Down(reason)
	case down == 0 && connecting == 0 && up > 0 && b.reported != isUp:
		b.up.Store(true)
		b.reported = isUp
		b.handler.Up()
	}
}

// Publish implements websocket.Broker. It returns after the server has responded to
// the whole batch.
func (b *Broker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	pipe := b.client.Pipeline()
	for _, m := range batch {
		bucket := b.bucket(m.Topic)
		if b.cluster != nil {
			pipe.SPublish(ctx, b.channel(m.Topic, bucket), escape(m.Payload))
		} else {
			pipe.Publish(ctx, b.channel(m.Topic, bucket), escape(m.Payload))
		}
	}
	_, err := pipe.Exec(ctx)
	if err != nil && b.cluster != nil {
		b.cluster.ReloadState(ctx) // a slot may have moved to another master
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return unavailable(err)
	}
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", websocket.ErrBrokerUnavailable, err)
}

// each calls f with the channels of topics, once per session concerned.
func (b *Broker) each(topics []string, f func(s *session, channels []string) error) error {
	byBucket := make(map[int][]string)
	for _, topic := range topics {
		bucket := b.bucket(topic)
		byBucket[bucket] = append(byBucket[bucket], b.channel(topic, bucket))
	}
	var failed error
	for bucket, channels := range byBucket {
		if err := f(b.sessions[bucket], channels); err != nil {
			failed = err
		}
	}
	return failed
}

// Subscribe implements websocket.Broker.
func (b *Broker) Subscribe(ctx context.Context, topics []string) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := b.each(topics, func(s *session, channels []string) error { return s.add(ctx, channels) })
	if err == nil {
		err = b.each(topics, func(s *session, channels []string) error { return s.waitConfirmed(ctx, channels) })
	}
	if err != nil {
		_ = b.each(topics, func(s *session, channels []string) error { return s.require(channels) })
	}
	return err
}

// Unsubscribe implements websocket.Broker.
func (b *Broker) Unsubscribe(ctx context.Context, topics []string) error {
	return b.each(topics, func(s *session, channels []string) error { return s.remove(ctx, channels) })
}

// MaxPayload implements websocket.Broker. It returns 0: the only limit of Redis is
// proto-max-bulk-len, 512 MiB by default.
func (b *Broker) MaxPayload() int { return 0 }

// Close implements websocket.Broker.
func (b *Broker) Close() error {
	var err error
	b.once.Do(func() {
		b.up.Store(false)
		b.cancel()
		b.conns.close()
		for _, s := range b.sessions {
			s.abort(errClosed)
		}
		if b.client != nil {
			err = b.client.Close()
		}
	})
	b.loops.Wait()
	return err
}

// session keeps one connection with subscriptions and reconnects it after failures.
type session struct {
	broker *Broker
	ctx    context.Context // the broker's, with the session as value of sessionKey
	always bool            // connect even without topics, to see if the server is reachable
	prefix string          // part of a channel that precedes the topic
	anchor string          // the session's channel for probes, in the bucket's slot
	wake   chan struct{}   // capacity 1; add sends, run receives; never closed

	sending sync.Mutex // sends commands in the order in which topics changes; locked before mu

	probed int  // number of the latest probe published; owned by the goroutine of startProbes, or run if it does not run
	echoed int  // number of the latest probe that has arrived; owned by run
	heard  bool // a probe has arrived on this connection; owned by run

	mu       sync.Mutex
	topics   map[string]*topic // requested, by channel
	pubsub   *redis.PubSub     // nil without a connection
	dialing  bool              // begin may dial
	broken   error             // first error of this connection
	state    health
	reason   error          // of isDown
	anchored bool           // the server has confirmed anchor
	leaving  map[string]int // outstanding confirmations of unsubscribe commands, by channel
	waiting  int            // number of channels not confirmed yet, including anchor
	awaited  int            // those of them whose call of Subscribe waits; the session can be up before
	change   chan struct{}  // closed at the next change
}

// topic is a requested channel.
type topic struct{ confirmed, awaited bool }

// setAwaited sets whether a call of Subscribe waits for a topic, which may be nil. The
// session is locked.
func (s *session) setAwaited(t *topic, awaited bool) {
	if t == nil || t.awaited == awaited {
		return
	}
	t.awaited = awaited
	if awaited {
		s.awaited++
	} else {
		s.awaited--
	}
}

var (
	errSilent  = errors.New("redis: the server does not respond")
	errRevoked = errors.New("redis: the server has ended a subscription")
	errClosed  = errors.New("redis: broker closed")
)

// signalChange ends the waiting of all calls of waitConfirmed. The session is locked.
func (s *session) signalChange() {
	close(s.change)
	s.change = make(chan struct{})
}

// standing returns the state for report.
func (s *session) standing() (state health, needed bool, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.needed(), s.reason
}

// needed reports whether the session needs a connection. The session is locked.
func (s *session) needed() bool { return s.always || len(s.topics) > 0 }

// idle reports whether the session needs no connection, and resets its state if so.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.needed() {
		return false
	}
	s.state = unknown
	return true
}

// run keeps a connection while the session needs one.
func (s *session) run() {
	for attempt := 0; s.broker.ctx.Err() == nil; attempt++ {
		if s.idle() {
			s.broker.report()
			select {
			case <-s.wake:
			case <-s.broker.ctx.Done():
			}
			continue
		}
		begun := time.Now()
		pubsub, err := s.begin()
		stopProbes := func() {}
		if err == nil {
			stopProbes = s.startProbes(pubsub)
			err = s.serve(pubsub)
		}
		s.end(err)
		stopProbes() // after Down was reported, because it may block
		if time.Since(begun) > s.broker.options.MaxDelay {
			attempt = 0
		}
		if s.broker.cluster != nil {
			s.broker.cluster.ReloadState(s.broker.ctx)
		}
		if !s.broker.sleep(s.broker.delay(attempt)) {
			return
		}
	}
}

// end records that the connection has ended and reports the outage.
func (s *session) end(reason error) {
	s.abort(reason)
	s.mu.Lock()
	s.state, s.reason = isDown, s.broken
	s.pubsub = nil
	clear(s.leaving)
	for _, t := range s.topics {
		t.confirmed = false
		s.setAwaited(t, false)
	}
	s.signalChange()
	s.mu.Unlock()
	s.broker.report()
}

// abort closes the connection, which makes serve return. The first reason counts.
func (s *session) abort(reason error) {
	s.mu.Lock()
	if s.broken == nil {
		s.broken = reason
	}
	pubsub := s.pubsub
	s.mu.Unlock() // before Close: it may wait for the dialer, which locks the session
	if pubsub != nil {
		_ = pubsub.Close()
	}
}

// mayDial reports whether begin is making the connection.
func (s *session) mayDial() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialing
}

// begin makes a connection and subscribes it to the anchor and all topics.
func (s *session) begin() (*redis.PubSub, error) {
	b := s.broker
	s.mu.Lock()
	s.broken = nil
	s.mu.Unlock()
	var pubsub *redis.PubSub
	if b.cluster != nil {
		// Not the session's context: the server asked for the master may be a replica,
		// which OnConnect refuses for connections of a session.
		server, err := b.cluster.MasterForKey(b.ctx, s.anchor)
		if err != nil {
			return nil, err
		}
		pubsub = server.SSubscribe(s.ctx)
	} else {
		pubsub = b.client.Subscribe(s.ctx)
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	channels := make([]string, 0, len(s.topics)+1)
	channels = append(channels, s.anchor)
	for channel := range s.topics {
		channels = append(channels, channel)
	}
	s.waiting, s.anchored = len(channels), false
	s.pubsub, s.dialing = pubsub, true
	closed := b.ctx.Err() != nil
	s.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	err := s.command(pubsub, channels, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dialing = false
	if err != nil && s.broken == nil {
		s.broken = err // before the goroutines of the connection can report a consequence
	}
	return pubsub, err
}

// command sends commands that subscribe (on) or unsubscribe. sending is locked.
func (s *session) command(pubsub *redis.PubSub, channels []string, on bool) error {
	f := pubsub.Subscribe
	switch {
	case s.broker.cluster != nil && on:
		f = pubsub.SSubscribe
	case s.broker.cluster != nil:
		f = pubsub.SUnsubscribe
	case !on:
		f = pubsub.Unsubscribe
	}
	for len(channels) > 0 {
		count := min(len(channels), subscribeBatch)
		if err := f(s.ctx, channels[:count]...); err != nil {
			return err
		}
		channels = channels[count:]
	}
	return nil
}

// serve receives from a connection until it fails. It returns the error.
func (s *session) serve(pubsub *redis.PubSub) error {
	expecting := false // the server has to send something within PingInterval
	for {
		if !expecting {
			expecting = s.updateState()
		}
		received, err := pubsub.ReceiveTimeout(s.ctx, s.broker.options.PingInterval)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			if expecting {
				return errSilent
			}
			expecting = true
			if err := pubsub.Ping(s.ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		expecting = false
		switch m := received.(type) {
		case *redis.Message:
			if m.Channel == s.anchor {
				s.receiveProbe(m.Payload)
				continue
			}
			s.receive(m.Channel, m.Payload)
			if s.broker.ctx.Err() != nil {
				return errClosed
			}
		case *redis.Subscription:
			err = s.receiveConfirmation(m)
		case *redis.Pong:
			err = s.receivePong(m.Payload)
		}
		if err != nil {
			return err
		}
	}
}

// updateState makes the session up if a probe has arrived and all topics are confirmed,
// except for those whose call of Subscribe waits: there may always be some. It reports
// whether confirmations are missing.
func (s *session) updateState() (missing bool) {
	s.mu.Lock()
	missing = s.waiting > 0
	first := s.waiting == s.awaited && s.heard && s.state != isUp
	if first {
		s.state = isUp
		s.signalChange()
	}
	s.mu.Unlock()
	if first {
		s.broker.report()
	}
	return missing
}

// receiveConfirmation handles the server's confirmation of a subscribe or unsubscribe
// command.
func (s *session) receiveConfirmation(m *redis.Subscription) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[m.Channel]
	left := s.leaving[m.Channel]
	on := m.Kind == "subscribe" || m.Kind == "ssubscribe"
	switch {
	case m.Channel == s.anchor && !on:
		return errRevoked
	case m.Channel == s.anchor && !s.anchored:
		s.anchored = true
		s.waiting--
	case on:
		if t != nil && !t.confirmed && left == 0 {
			t.confirmed = true
			s.waiting--
			s.setAwaited(t, false)
			s.signalChange()
		}
	case left > 1:
		s.leaving[m.Channel]--
	case left == 1:
		delete(s.leaving, m.Channel)
	case t != nil: // ended by the server: the slot has moved
		return errRevoked
	}
	return nil
}

// add requests channels, and subscribes to them if there is a connection.
func (s *session) add(ctx context.Context, channels []string) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	var fresh []string
	pubsub, state := s.pubsub, s.state
	for _, channel := range channels {
		if s.topics[channel] == nil {
			t := new(topic)
			s.topics[channel] = t
			s.waiting++
			s.setAwaited(t, pubsub != nil)
			fresh = append(fresh, channel)
		}
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // run is already due
	}
	// Each topic must be in a command of every connection, also if the caller does not wait:
	// begin sends one for those that were there before it.
	if pubsub != nil && len(fresh) > 0 {
		if err := s.command(pubsub, fresh, true); err != nil {
			s.abort(err)
			return unavailable(err)
		}
	}
	if s.broker.ctx.Err() != nil || state == isDown && pubsub == nil {
		return websocket.ErrBrokerUnavailable
	}
	return ctx.Err()
}

// require makes the session wait for channels before it is up.
func (s *session) require(channels []string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, channel := range channels {
		s.setAwaited(s.topics[channel], false)
	}
	return nil
}

// waitConfirmed waits until the server has confirmed the channels.
func (s *session) waitConfirmed(ctx context.Context, channels []string) error {
	for {
		s.mu.Lock()
		missing := 0
		for _, channel := range channels {
			if t := s.topics[channel]; t != nil && !t.confirmed {
				missing++
			}
		}
		change, down := s.change, s.state == isDown && s.pubsub == nil
		s.mu.Unlock()
		switch {
		case missing == 0:
			return nil
		case down:
			return websocket.ErrBrokerUnavailable
		}
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.broker.ctx.Done():
			return websocket.ErrBrokerUnavailable
		}
	}
}

// remove gives channels up, and unsubscribes from them if there is a connection.
func (s *session) remove(ctx context.Context, channels []string) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	var removed []string
	for _, channel := range channels {
		if t := s.topics[channel]; t != nil {
			if !t.confirmed {
				s.waiting--
				s.setAwaited(t, false)
			}
			delete(s.topics, channel)
			removed = append(removed, channel)
		}
	}
	pubsub := s.pubsub
	if pubsub != nil {
		for _, channel := range removed {
			s.leaving[channel]++
		}
	}
	s.mu.Unlock()
	if pubsub == nil || len(removed) == 0 {
		return ctx.Err()
	}
	if err := s.command(pubsub, removed, false); err != nil {
		s.abort(err)
		return unavailable(err)
	}
	return nil
}
