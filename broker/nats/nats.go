// Package nats carries publications between hubs over a NATS server or cluster,
// with core NATS: nothing is stored, JetStream is not needed.
//
//	config.Broker = nats.New(nats.Options{URL: "nats://127.0.0.1:4222"})
//
// Of several servers in URL one is used at a time, and others of its cluster are
// found through it. The connection is the broker's own. It does not receive what
// it publishes, so a publication costs the server one message in and one message
// out for each other node that has members. Every channel and room with members,
// and every client, is one subscription of the node's.
package nats

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/nats-io/nats.go"
)

// Options configure a Broker. The zero value connects to nats.DefaultURL.
type Options struct {
	// URL is one server or several with commas between. Defaults to
	// nats.DefaultURL.
	URL string
	// Prefix begins every subject, so that several applications can share an
	// engine; nodes with the same prefix belong together. It is one or more
	// tokens with dots between. Defaults to "hub".
	Prefix string
	// Connect holds options of nats.go, such as credentials and TLS. The broker
	// sets those for reconnecting, echo and buffering itself; handlers given here
	// are called too.
	Connect []nats.Option
	// Settle is how long the servers of a cluster may take to tell each other of
	// subscriptions. NATS gives no word of that, so the broker waits for so long
	// after its own server has confirmed them; it does not where there is one
	// server. Defaults to 100 ms.
	Settle time.Duration
	// Pending bounds the messages that wait for the hub; what comes while it is
	// reached is lost, and members are told. Defaults to 8,192.
	Pending int
	// MaxDelay bounds the time between attempts to reconnect, which begins at a
	// tenth of a second and doubles, each time shortened at random by up to
	// half. Defaults to 5 s.
	MaxDelay time.Duration
}

const (
	defaultPrefix  = "hub"
	defaultPending = 8192
	defaultSettle  = 100 * time.Millisecond
	defaultDelay   = 5 * time.Second
	firstDelay     = 100 * time.Millisecond
	writeTimeout   = 2 * time.Second // of a socket that takes nothing
	pingInterval   = 3 * time.Second // two unanswered end a connection
	confirmTimeout = 5 * time.Second
)

// Broker is a websocket.Broker over NATS.
type Broker struct {
	options  Options
	handler  websocket.BrokerHandler
	origins  origins
	arriving chan *nats.Msg // nats.go sends, receiveLoop receives; never closed
	lost     atomic.Bool    // something was not handed over
	limit    atomic.Int64
	up       atomic.Bool
	wake     chan struct{} // capacity 1; nats.go's handlers send, watch receives; never closed
	stop     chan struct{} // closed by Close
	once     sync.Once
	loops    sync.WaitGroup

	mu     sync.Mutex
	conn   *nats.Conn
	topics map[string]*nats.Subscription // nil before there is a conn
	breaks int                           // times that the connection failed
	reason error
}

var _ websocket.Broker = (*Broker)(nil)

// New returns a Broker that connects when its hub runs.
func New(options Options) *Broker {
	if options.URL == "" {
		options.URL = nats.DefaultURL
	}
	if options.Prefix == "" {
		options.Prefix = defaultPrefix
	}
	if options.Pending <= 0 {
		options.Pending = defaultPending
	}
	if options.Settle <= 0 {
		options.Settle = defaultSettle
	}
	if options.MaxDelay <= 0 {
		options.MaxDelay = defaultDelay
	}
	return &Broker{
		options: options, topics: make(map[string]*nats.Subscription), origins: newOrigins(),
		arriving: make(chan *nats.Msg, options.Pending),
		wake:     make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// Open implements websocket.Broker. It returns an error for options that cannot
// work.
func (b *Broker) Open(h websocket.BrokerHandler) error {
	b.handler = h
	config := nats.GetDefaultOptions()
	for server := range strings.SplitSeq(b.options.URL, ",") {
		config.Servers = append(config.Servers, strings.TrimSpace(server))
	}
	config.PingInterval, config.MaxPingsOut = pingInterval, 2
	for _, option := range b.options.Connect {
		if err := option(&config); err != nil {
			return fmt.Errorf("nats: %w", err)
		}
	}
	config.NoEcho = true
	config.AllowReconnect, config.MaxReconnect = true, -1
	config.RetryOnFailedConnect = true
	config.IgnoreAuthErrorAbort = true
	config.ReconnectBufSize = -1 // what cannot be sent is lost at once
	config.FlusherTimeout = writeTimeout
	config.CustomReconnectDelayCB = b.delay
	b.addHandlers(&config)

	b.loops.Add(2)
	go b.receiveLoop() // ends with Close
	go func() {        // ends with Close
		defer b.loops.Done()
		if b.connect(config) {
			b.watch()
		}
	}()
	return nil
}

func (b *Broker) delay(attempt int) time.Duration {
	d := b.options.MaxDelay
	if attempt < 16 {
		d = min(firstDelay<<attempt, d)
	}
	return d/2 + rand.N(d/2+1)
}

// addHandlers learns of the connection's fate, and passes it on to handlers of
// the application's.
func (b *Broker) addHandlers(config *nats.Options) {
	disconnected, failed, async := config.DisconnectedErrCB, config.ReconnectErrCB, config.AsyncErrorCB
	connected, reconnected := config.ConnectedCB, config.ReconnectedCB
	config.DisconnectedErrCB = func(c *nats.Conn, err error) {
		b.broke(err)
		if disconnected != nil {
			disconnected(c, err)
		}
	}
	config.ReconnectErrCB = func(c *nats.Conn, err error) {
		if !b.up.Load() {
			b.broke(err)
		}
		if failed != nil {
			failed(c, err)
		}
	}
	config.AsyncErrorCB = func(c *nats.Conn, s *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			b.lost.Store(true)
		}
		if async != nil {
			async(c, s, err)
		}
	}
	config.ConnectedCB = func(c *nats.Conn) {
		b.look()
		if connected != nil {
			connected(c)
		}
	}
	config.ReconnectedCB = func(c *nats.Conn) {
		b.look()
		if reconnected != nil {
			reconnected(c)
		}
	}
}

var errDisconnected = errors.New("nats: disconnected")

func (b *Broker) broke(err error) {
	if err == nil {
		err = errDisconnected
	}
	b.mu.Lock()
	b.up.Store(false)
	b.breaks++
	b.reason = err
	b.mu.Unlock()
	b.look()
}

func (b *Broker) look() {
	select {
	case b.wake <- struct{}{}:
	default: // it will look
	}
}

// connect makes the connection, which goes on trying by itself, and subscribes
// to what is wanted already. It reports false after Close.
func (b *Broker) connect(config nats.Options) bool {
	for attempt := 1; ; attempt++ {
		conn, err := config.Connect()
		if err == nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			select {
			case <-b.stop:
				conn.Close()
				return false
			default:
			}
			b.conn = conn
			for topic := range b.topics {
				b.subscribe(topic)
			}
			b.look()
			return true
		}
		if attempt == 1 {
			b.handler.Down(err)
		}
		if !b.sleep(b.delay(attempt)) {
			return false
		}
	}
}

// sleep reports false after Close.
func (b *Broker) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-b.stop:
		return false
	}
}

// watch tells the handler how the connection stands.
func (b *Broker) watch() {
	up, told, seen := false, false, 0
	for {
		select {
		case <-b.wake:
		case <-b.stop:
			return
		}
		b.mu.Lock()
		breaks, reason := b.breaks, b.reason
		b.mu.Unlock()
		if breaks != seen {
			seen = breaks
			if up || !told {
				up, told = false, true
				b.handler.Down(reason)
			}
		}
		if up || !b.conn.IsConnected() {
			continue
		}
		if err := b.inForce(context.Background()); err != nil {
			if b.conn.IsConnected() {
				b.broke(err)
				if !b.sleep(b.delay(0)) {
					return
				}
			}
			continue
		}
		b.limit.Store(b.conn.MaxPayload())
		b.mu.Lock()
		whole := b.breaks == seen
		b.up.Store(whole)
		b.mu.Unlock()
		if whole {
			up, told = true, true
			b.handler.Up()
		}
	}
}

// receiveLoop hands over what arrives. It is where a slow hub shows.
func (b *Broker) receiveLoop() {
	defer b.loops.Done()
	for {
		select {
		case <-b.stop:
			return
		case m := <-b.arriving:
			if b.origins.inOrder(m.Reply) {
				b.handler.Receive(m.Data)
			} else {
				b.lost.Store(true)
			}
		}
		if len(b.arriving) == 0 && b.lost.Swap(false) {
			b.handler.Lost()
		}
	}
}

// subject makes a topic fit for NATS, which gives a meaning to dots, asterisks
// and more.
func (b *Broker) subject(topic string) string {
	return b.options.Prefix + "." + base64.RawURLEncoding.EncodeToString([]byte(topic))
}

// Publish implements websocket.Broker. It waits until the server has confirmed
// the batch.
func (b *Broker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var tooLarge error
	for _, m := range batch {
		switch err := b.conn.PublishRequest(b.subject(m.Topic), b.origins.mine(b.conn.Stats().Reconnects), m.Payload); {
		case errors.Is(err, nats.ErrMaxPayload):
			tooLarge = fmt.Errorf("nats: %d bytes: %w", len(m.Payload), websocket.ErrMessageTooLarge)
		case err != nil:
			return unavailable(err)
		}
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	return tooLarge
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", websocket.ErrBrokerUnavailable, err)
}

// flush waits until the server has handled all that was sent before.
func (b *Broker) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := b.conn.FlushWithContext(ctx)
	if err != nil && ctx.Err() == nil {
		return unavailable(err)
	}
	return err
}

// inForce waits until the subscriptions that were sent before are in force.
func (b *Broker) inForce(ctx context.Context) error {
	if err := b.flush(ctx); err != nil || b.conn.ConnectedClusterName() == "" {
		return err
	}
	timer := time.NewTimer(b.options.Settle)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	case <-b.stop:
	}
	return nil
}

// subscribe adds one topic to the connection. The broker is locked.
func (b *Broker) subscribe(topic string) error {
	s, err := b.conn.ChanSubscribe(b.subject(topic), b.arriving)
	b.topics[topic] = s
	return err
}

// Subscribe implements websocket.Broker.
func (b *Broker) Subscribe(ctx context.Context, topics []string) error {
	var failed error
	b.mu.Lock()
	for _, topic := range topics {
		if s := b.topics[topic]; s != nil {
			continue
		}
		b.topics[topic] = nil
		if b.conn != nil {
			if err := b.subscribe(topic); err != nil {
				failed = unavailable(err)
			}
		}
	}
	b.mu.Unlock()
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	if failed != nil {
		return failed
	}
	return b.inForce(ctx)
}

// Unsubscribe implements websocket.Broker.
func (b *Broker) Unsubscribe(_ context.Context, topics []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed error
	for _, topic := range topics {
		if s := b.topics[topic]; s != nil {
			if err := s.Unsubscribe(); err != nil {
				failed = err
			}
		}
		delete(b.topics, topic)
	}
	return failed
}

// MaxPayload implements websocket.Broker. It is the server's max_payload, known
// once there was a connection.
func (b *Broker) MaxPayload() int { return int(b.limit.Load()) }

// Close implements websocket.Broker.
func (b *Broker) Close() error {
	b.once.Do(func() {
		b.up.Store(false)
		close(b.stop)
		b.mu.Lock()
		conn := b.conn
		b.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
	})
	b.loops.Wait()
	return nil
}
