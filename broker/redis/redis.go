// Package redis carries publications between hubs over the Pub/Sub of Redis or
// Valkey: one server, Sentinel, or a Cluster, there with sharded Pub/Sub (Redis
// 7, Valkey).
//
//	config.Broker = redis.New(redis.Options{
//		Connect: &goredis.UniversalOptions{Addrs: []string{"127.0.0.1:6379"}},
//	})
//
// The connections are the broker's own. A publication costs the server one
// command and one message out for each node that has members; a node receives
// its own publications, too, where it has members, and ignores them.
//
// Publications and subscriptions go to masters only, and the broker checks that
// they meet: it is up once something that it has published to itself has arrived.
// A failover, a slot that moves to another server of a Cluster, or a server that
// publications no longer go to, is an outage until it is subscribed anew.
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
	// Connect says where the servers are and how to reach them, as for
	// redis.NewUniversalClient: one address, several or IsClusterMode for a
	// Cluster, MasterName for Sentinel. It is copied. The broker turns off retries,
	// which would repeat publications, routing to replicas, which would lose them,
	// and what moves connections to other servers, and context timeouts on.
	Connect *redis.UniversalOptions
	// Prefix begins every channel's name, so that several applications can share
	// an engine; nodes with the same prefix belong together. It must not contain
	// braces. Defaults to "hub:".
	Prefix string
	// Buckets is how many hash slots the channels are spread over in a Cluster.
	// A node has a connection for each of them that it has members in. All nodes
	// must agree. Defaults to 16.
	Buckets int
	// MaxDelay bounds the time between attempts to reconnect, which begins at a
	// tenth of a second and doubles, each time shortened at random by up to
	// half. Defaults to 5 s.
	MaxDelay time.Duration
	// PingInterval is the silence after which a connection is tested; after a
	// second one it counts as broken. In the same intervals each connection with
	// subscriptions gets a short message that the broker publishes to itself, to
	// see that publications arrive there. Defaults to 2 s.
	PingInterval time.Duration
}

const (
	defaultPrefix  = "hub:"
	defaultBuckets = 16
	defaultDelay   = 5 * time.Second
	defaultPing    = 2 * time.Second
	defaultDial    = 5 * time.Second
	firstDelay     = 100 * time.Millisecond
	confirmTimeout = 5 * time.Second
	subscribeBatch = 512 // channels in one command
)

// Broker is a websocket.Broker over Redis.
type Broker struct {
	options  Options
	client   redis.UniversalClient
	cluster  *redis.ClusterClient // the same, or nil
	conns    conns
	handler  websocket.BrokerHandler
	sessions []*session // one, or one for each bucket
	ctx      context.Context
	cancel   context.CancelFunc
	once     sync.Once
	loops    sync.WaitGroup
	up       atomic.Bool

	mu   sync.Mutex // held while the handler is told
	told health
}

var _ websocket.Broker = (*Broker)(nil)

type health uint8

const (
	unknown health = iota // or not asked for anything
	isUp
	isDown
)

// New returns a Broker that connects when its hub runs.
func New(options Options) *Broker {
	if options.Prefix == "" {
		options.Prefix = defaultPrefix
	}
	if options.Buckets <= 0 {
		options.Buckets = defaultBuckets
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

// Open implements websocket.Broker. It returns an error for options that cannot
// work.
func (b *Broker) Open(h websocket.BrokerHandler) error {
	if strings.ContainsAny(b.options.Prefix, "{}") {
		return fmt.Errorf("redis: prefix %q contains braces", b.options.Prefix)
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
		s.anchor = b.channel(fmt.Sprintf(" %016x", rand.Uint64()), i) // no topic begins so
		b.sessions = append(b.sessions, s)
	}
	for _, s := range b.sessions {
		b.loops.Add(1)
		go func() { // ends with Close
			defer b.loops.Done()
			s.run()
		}()
	}
	return nil
}

// bucket returns the session that a topic belongs to.
func (b *Broker) bucket(topic string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(topic))
	return int(h.Sum32() % uint32(len(b.sessions)))
}

// channel is a topic's name at the server. In a Cluster all channels of a bucket
// are in one hash slot, so that one connection serves them.
func (b *Broker) channel(topic string, bucket int) string {
	if b.cluster == nil {
		return b.options.Prefix + topic
	}
	return fmt.Sprintf("%s{%d}%s", b.options.Prefix, bucket, topic)
}

func (b *Broker) delay(attempt int) time.Duration {
	d := b.options.MaxDelay
	if attempt < 16 {
		d = min(firstDelay<<attempt, d)
	}
	return d/2 + rand.N(d/2+1)
}

// sleep reports false after Close.
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

// report tells the handler how the sessions stand together.
func (b *Broker) report() {
	b.mu.Lock()
	defer b.mu.Unlock()
	down, connecting, up := 0, 0, 0
	var reason error
	for _, s := range b.sessions {
		switch state, wanted, err := s.standing(); {
		case state == isDown:
			down++
			reason = err
		case state == isUp:
			up++
		case wanted:
			connecting++
		}
	}
	switch {
	case b.ctx.Err() != nil:
	case down > 0 && b.told != isDown:
		b.up.Store(false)
		b.told = isDown
		b.handler.Down(reason)
	case down == 0 && connecting == 0 && up > 0 && b.told != isUp:
		b.up.Store(true)
		b.told = isUp
		b.handler.Up()
	}
}

// Publish implements websocket.Broker. It waits until the server has answered
// for the batch.
func (b *Broker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	pipe := b.client.Pipeline()
	for _, m := range batch {
		bucket := b.bucket(m.Topic)
		if b.cluster != nil {
			pipe.SPublish(ctx, b.channel(m.Topic, bucket), m.Payload)
		} else {
			pipe.Publish(ctx, b.channel(m.Topic, bucket), m.Payload)
		}
	}
	_, err := pipe.Exec(ctx)
	if err != nil && b.cluster != nil {
		b.cluster.ReloadState(ctx) // the slot may have another master
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

// each calls f for the topics of every session.
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
		err = b.each(topics, func(s *session, channels []string) error { return s.confirmed(ctx, channels) })
	}
	return err
}

// Unsubscribe implements websocket.Broker.
func (b *Broker) Unsubscribe(ctx context.Context, topics []string) error {
	return b.each(topics, func(s *session, channels []string) error { return s.remove(ctx, channels) })
}

// MaxPayload implements websocket.Broker. Redis has no limit of its own below
// proto-max-bulk-len, 512 MiB.
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

// session is one connection with subscriptions, again and again.
type session struct {
	broker *Broker
	ctx    context.Context // the broker's, and sessionKey leads to the session
	always bool            // also without topics: it shows whether the server is there
	anchor string          // a channel of the session's own, in the bucket's slot
	wake   chan struct{}   // capacity 1; add sends, run receives; never closed

	sending sync.Mutex // keeps commands in the order of topics' changes

	probed int  // the latest probe; probe's, and run's while that does not run
	echoed int  // the latest probe that has arrived; run's
	heard  bool // one has arrived on this connection; run's

	mu       sync.Mutex
	topics   map[string]*topic
	pubsub   *redis.PubSub // while a connection is there
	begins   bool          // the connection is being made
	broken   error         // why the connection is being ended
	state    health
	reason   error          // of isDown
	anchored bool           // the server has confirmed anchor
	leaving  map[string]int // answers to unsubscribe commands that are to come
	waiting  int            // channels that are not confirmed
	change   chan struct{}  // closed at the next change
}

// topic is one channel that is wanted.
type topic struct{ inForce bool }

var (
	errSilent  = errors.New("redis: the server does not answer")
	errRevoked = errors.New("redis: the server has ended a subscription")
	errClosed  = errors.New("redis: broker closed")
)

func (s *session) changed() {
	close(s.change)
	s.change = make(chan struct{})
}

func (s *session) standing() (state health, wanted bool, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.wanted(), s.reason
}

// wanted reports whether there is something to connect for. The session is
// locked.
func (s *session) wanted() bool { return s.always || len(s.topics) > 0 }

// rest reports whether there is nothing to connect for.
func (s *session) rest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted() {
		return false
	}
	s.state = unknown
	return true
}

// run keeps a connection while there are topics.
func (s *session) run() {
	for attempt := 0; s.broker.ctx.Err() == nil; attempt++ {
		if s.rest() {
			s.broker.report()
			select {
			case <-s.wake:
			case <-s.broker.ctx.Done():
			}
			continue
		}
		begun := time.Now()
		pubsub, err := s.begin()
		unprobe := func() {}
		if err == nil {
			unprobe = s.probe(pubsub)
			err = s.serve(pubsub)
		}
		s.end(err)
		unprobe() // may take a moment, so Down has been told
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

// end notes that the connection is gone.
func (s *session) end(reason error) {
	s.abort(reason)
	s.mu.Lock()
	s.state, s.reason = isDown, s.broken
	s.pubsub = nil
	clear(s.leaving)
	for _, t := range s.topics {
		t.inForce = false
	}
	s.changed()
	s.mu.Unlock()
	s.broker.report()
}

// abort makes serve return, for the first reason given.
func (s *session) abort(reason error) {
	s.mu.Lock()
	if s.broken == nil {
		s.broken = reason
	}
	pubsub := s.pubsub
	s.mu.Unlock() // the dialer that pubsub may wait for looks at the session
	if pubsub != nil {
		_ = pubsub.Close()
	}
}

func (s *session) beginning() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.begins
}

// begin makes a connection and asks for all topics.
func (s *session) begin() (*redis.PubSub, error) {
	b := s.broker
	s.mu.Lock()
	s.broken = nil
	s.mu.Unlock()
	var pubsub *redis.PubSub
	if b.cluster != nil {
		// Whom it has to ask for the master may be a replica, unlike that: the context
		// is not the session's.
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
	s.pubsub, s.begins = pubsub, true
	closed := b.ctx.Err() != nil
	s.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	err := s.command(pubsub, channels, true)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begins = false
	if err != nil && s.broken == nil {
		s.broken = err // whatever others find out afterwards
	}
	return pubsub, err
}

// command subscribes or unsubscribes. sending is held.
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

// serve receives from one connection until it fails.
func (s *session) serve(pubsub *redis.PubSub) error {
	asked := false // something has to come
	for {
		if !asked {
			asked = s.settle()
		}
		received, err := pubsub.ReceiveTimeout(s.ctx, s.broker.options.PingInterval)
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout():
			if asked {
				return errSilent
			}
			asked = true
			if err := pubsub.Ping(s.ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		asked = false
		switch m := received.(type) {
		case *redis.Message:
			if m.Channel == s.anchor {
				s.hear(m.Payload)
				continue
			}
			s.broker.handler.Receive([]byte(m.Payload))
			if s.broker.ctx.Err() != nil {
				return errClosed
			}
		case *redis.Subscription:
			err = s.note(m)
		case *redis.Pong:
			err = s.pong(m.Payload)
		}
		if err != nil {
			return err
		}
	}
}

// settle counts the session as up once all topics are confirmed and a probe has
// arrived. It reports whether confirmations are missing.
func (s *session) settle() (missing bool) {
	s.mu.Lock()
	missing = s.waiting > 0
	first := !missing && s.heard && s.state != isUp
	if first {
		s.state = isUp
		s.changed()
	}
	s.mu.Unlock()
	if first {
		s.broker.report()
	}
	return missing
}

// note takes the server's word on a subscription.
func (s *session) note(m *redis.Subscription) error {
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
		if t != nil && !t.inForce && left == 0 {
			t.inForce = true
			s.waiting--
			s.changed()
		}
	case left > 1:
		s.leaving[m.Channel]--
	case left == 1:
		delete(s.leaving, m.Channel)
	case t != nil: // nobody asked for it: the slot has moved
		return errRevoked
	}
	return nil
}

// add wants channels, and asks for them if there is a connection.
func (s *session) add(ctx context.Context, channels []string) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	var fresh []string
	for _, channel := range channels {
		if s.topics[channel] == nil {
			s.topics[channel] = new(topic)
			s.waiting++
			fresh = append(fresh, channel)
		}
	}
	pubsub, state := s.pubsub, s.state
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default: // it will look
	}
	switch {
	case s.broker.ctx.Err() != nil || state == isDown:
		return websocket.ErrBrokerUnavailable
	case ctx.Err() != nil:
		return ctx.Err()
	case pubsub == nil || len(fresh) == 0:
		return nil
	}
	if err := s.command(pubsub, fresh, true); err != nil {
		s.abort(err)
		return unavailable(err)
	}
	return nil
}

// confirmed waits until the server has confirmed channels.
func (s *session) confirmed(ctx context.Context, channels []string) error {
	for {
		s.mu.Lock()
		missing := 0
		for _, channel := range channels {
			if t := s.topics[channel]; t != nil && !t.inForce {
				missing++
			}
		}
		change, state := s.change, s.state
		s.mu.Unlock()
		switch {
		case missing == 0:
			return nil
		case state == isDown:
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

// remove does not want channels any more.
func (s *session) remove(ctx context.Context, channels []string) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	var there []string
	for _, channel := range channels {
		if t := s.topics[channel]; t != nil {
			if !t.inForce {
				s.waiting--
			}
			delete(s.topics, channel)
			there = append(there, channel)
		}
	}
	pubsub := s.pubsub
	if pubsub != nil {
		for _, channel := range there {
			s.leaving[channel]++
		}
	}
	s.mu.Unlock()
	if pubsub == nil || len(there) == 0 {
		return ctx.Err()
	}
	if err := s.command(pubsub, there, false); err != nil {
		s.abort(err)
		return unavailable(err)
	}
	return nil
}
