// Package nats is a websocket.Broker over a NATS server or cluster. It uses core
// NATS: without Options.History nothing is stored, and JetStream is not needed.
//
//	config.Broker = nats.New(nats.Options{URL: "nats://127.0.0.1:4222"})
//
// A Broker has one connection, to one of the servers in URL. It finds other servers
// of the cluster through that one. It does not receive its own publications, so a
// publication costs the server one message in, and one message out for each other
// node that has members. A node has one subscription for each channel and room with
// members, and for each client.
//
// # History
//
// With Options.History the Broker is a websocket.HistoryBroker. One JetStream stream keeps
// the histories of all topics, and publishes each record again to the subscribed nodes, the
// appending one included. Package embedded runs such a server inside the process.
//
// What a server has confirmed can still be lost:
//
//   - One server with files: nothing when its process ends in any way. When the machine
//     fails, up to the server's sync_interval, 2 minutes by default; nothing with
//     "sync_interval: always".
//   - Several replicas with files: nothing unless most machines fail at the same time. Then
//     it is as with one server.
//   - In memory: everything when the only server, or most replicas, end.
//
// No offset is given twice after that. Offsets jump by at least 2^20 when the only server has
// restarted. A Broker that knows of records which are gone, and one that finds a used
// stream empty, gives all topics another epoch. It cannot notice that several servers with
// files have lost the latest records if no Broker that is still running has seen them, or
// if later records have taken their place before it connects.
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

// Options configure a Broker. The zero value is ready for use.
type Options struct {
	// URL is one server, or several separated by commas. Defaults to
	// nats.DefaultURL.
	URL string
	// Prefix begins every subject, so that several applications can share an
	// engine: nodes with the same prefix form a cluster. It is one token, or
	// several separated by dots. Defaults to "hub".
	Prefix string
	// Connect holds options of nats.go, such as credentials and TLS. The Broker
	// overrides the options for reconnecting, echo and buffering. It calls the
	// handlers given here in addition to its own.
	Connect []nats.Option
	// Settle is how long the servers of a cluster may take to pass subscriptions
	// to each other. NATS does not confirm this, so the Broker waits for this time
	// after its own server has confirmed a subscription. It does not wait if the
	// server is not part of a cluster. Defaults to 100 ms.
	Settle time.Duration
	// Pending is the maximum number of received messages that wait for the hub, besides
	// as many that are being handed to it. Messages beyond it are dropped, and members get
	// a gap. Defaults to 8,192.
	Pending int
	// MaxDelay is the maximum delay between attempts to reconnect. The delay
	// begins at 100 ms and doubles; each is shortened at random by up to half.
	// Defaults to 5 s.
	MaxDelay time.Duration
	// History makes the Broker keep the histories of topics, in a JetStream stream. Without
	// it, the methods of websocket.HistoryBroker fail with errors.ErrUnsupported.
	// &History{} has the defaults.
	History *History
}

const (
	defaultPrefix  = "hub"
	defaultPending = 8192
	defaultSettle  = 100 * time.Millisecond
	defaultDelay   = 5 * time.Second
	firstDelay     = 100 * time.Millisecond
	writeTimeout   = 2 * time.Second // of a write to the server
	pingInterval   = 3 * time.Second // two pings without a pong end a connection
	confirmTimeout = 5 * time.Second
)

// Broker is a websocket.Broker over NATS. It is used by one hub and cannot be opened
// again after Close.
type Broker struct {
	options  Options
	handler  websocket.BrokerHandler
	origins  origins
	incoming chan *nats.Msg // nats.go sends, collectLoop receives; never closed
	slow     chan struct{}  // capacity 1; nats.go's handlers send when incoming was full, collectLoop receives; never closed
	inbox    inbox
	limit    atomic.Int64  // the server's max_payload; 0 before the first connection
	up       atomic.Bool   // the handler was told Up, or is about to be
	wake     chan struct{} // capacity 1; nats.go's handlers send, watch receives; never closed
	stop     chan struct{} // closed by Close
	once     sync.Once
	loops    sync.WaitGroup

	mu     sync.Mutex
	conn   *nats.Conn
	topics map[string]*nats.Subscription // requested topics; nil values before there is a conn
	breaks int                           // number of failures of the connection
	reason error                         // of the latest failure

	// dropped has the subscriptions of which nats.go has dropped messages because incoming was
	// full, and how many.
	dropped map[*nats.Subscription]int

	// The following fields are for Options.History.
	opening chan struct{}           // capacity 1; openStream sends when it begins and receives when it ends; never closed
	history atomic.Pointer[history] // nil while the connection is broken
	epoch   string                  // the latest known; guarded by mu
	highest atomic.Uint64           // the latest known sequence of the epoch
	recheck atomic.Bool             // watch shall call openStream
	life    context.Context         // ends when the connection breaks; then there is another one; guarded by mu
	endLife context.CancelFunc      // guarded by mu
	append  appender
}

var (
	_ websocket.Broker        = (*Broker)(nil)
	_ websocket.HistoryBroker = (*Broker)(nil)
)

// New returns a Broker. It connects when its hub runs.
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
	if options.History != nil {
		options.History = options.History.withDefaults(options.Prefix)
	}
	b := &Broker{
		options: options, append: newAppender(), opening: make(chan struct{}, 1), topics: make(map[string]*nats.Subscription), origins: newOrigins(),
		incoming: make(chan *nats.Msg, handoff), slow: make(chan struct{}, 1), inbox: newInbox(options.Pending),
		dropped: make(map[*nats.Subscription]int),
		wake:    make(chan struct{}, 1), stop: make(chan struct{}),
	}
	b.life, b.endLife = context.WithCancel(context.Background())
	return b
}

// Open implements websocket.Broker. It returns an error if an option in Connect
// fails.
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
	config.ReconnectBufSize = -1 // messages published while disconnected are lost
	config.FlusherTimeout = writeTimeout
	config.CustomReconnectDelayCB = b.delay
	b.addHandlers(&config)

	b.loops.Add(3)
	go b.collectLoop() // ends with Close
	go b.receiveLoop() // ends with Close
	go func() {        // ends with Close
		defer b.loops.Done()
		if b.connect(config) {
			b.watch()
		}
	}()
	return nil
}

// delay returns the delay after a failed attempt, counted from 0.
func (b *Broker) delay(attempt int) time.Duration {
	d := b.options.MaxDelay
	if attempt < 16 {
		d = min(firstDelay<<attempt, d)
	}
	return d/2 + rand.N(d/2+1)
}

// addHandlers sets handlers for changes of the connection. Each also calls the
// application's handler.
func (b *Broker) addHandlers(config *nats.Options) {
	disconnected, failed, async := config.DisconnectedErrCB, config.ReconnectErrCB, config.AsyncErrorCB
	connected, reconnected := config.ConnectedCB, config.ReconnectedCB
	config.DisconnectedErrCB = func(c *nats.Conn, err error) {
		b.failed(err)
		if disconnected != nil {
			disconnected(c, err)
		}
	}
	config.ReconnectErrCB = func(c *nats.Conn, err error) {
		if !b.up.Load() {
			b.failed(err)
		}
		if failed != nil {
			failed(c, err)
		}
	}
	config.AsyncErrorCB = func(c *nats.Conn, s *nats.Subscription, err error) {
		if errors.Is(err, nats.ErrSlowConsumer) {
			b.mu.Lock()
			if s != nil {
				if _, known := b.dropped[s]; !known {
					b.dropped[s] = 0
				}
			}
			b.mu.Unlock()
			signal(b.slow)
		}
		if async != nil {
			async(c, s, err)
		}
	}
	config.ConnectedCB = func(c *nats.Conn) {
		b.wakeWatch()
		if connected != nil {
			connected(c)
		}
	}
	config.ReconnectedCB = func(c *nats.Conn) {
		b.wakeWatch()
		if reconnected != nil {
			reconnected(c)
		}
	}
}

var errDisconnected = errors.New("nats: disconnected")

// failed records a failure of the connection for watch.
func (b *Broker) failed(err error) {
	if err == nil {
		err = errDisconnected
	}
	b.mu.Lock()
	b.up.Store(false)
	b.history.Store(nil)
	b.breaks++
	b.reason = err
	b.endLife()
	b.life, b.endLife = context.WithCancel(context.Background())
	b.mu.Unlock()
	b.wakeWatch()
}

func (b *Broker) wakeWatch() { signal(b.wake) }

// connect makes the connection and subscribes to the topics requested so far. The
// connection itself reconnects later. It reports false after Close.
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
				_ = b.subscribe(topic) // fails if the connection was closed, or for an invalid Prefix
			}
			if b.options.History != nil {
				_, _ = conn.ChanSubscribe(b.append.inbox+"*", b.append.answers) // as above
				_, _ = conn.ChanSubscribe(b.noticeSubject(), b.incoming)        // as above
			}
			b.wakeWatch()
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

// sleep sleeps for d. It reports false after Close.
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

// watch calls the handler's Up and Down as the connection changes.
func (b *Broker) watch() {
	// reported is set once Up or Down was called; seen is the latest value of breaks.
	up, reported, seen := false, false, 0
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
			if up || !reported {
				up, reported = false, true
				b.handler.Down(reason)
			}
		}
		if up && b.recheck.Swap(false) {
			b.recheckStream()
		}
		if up || !b.conn.IsConnected() {
			continue
		}
		if err := b.prepare(); err != nil {
			if b.conn.IsConnected() {
				b.failed(err)
				if !b.sleep(b.delay(0)) {
					return
				}
			}
			continue
		}
		limit := b.conn.MaxPayload()
		if b.options.History != nil {
			limit -= headerSize
		}
		b.limit.Store(limit)
		b.mu.Lock()
		unbroken := b.breaks == seen
		b.up.Store(unbroken)
		b.mu.Unlock()
		if unbroken {
			up, reported = true, true
			b.handler.Up()
		}
	}
}

// prepare waits until the connection is ready for use.
func (b *Broker) prepare() error {
	if err := b.confirmSubscriptions(context.Background()); err != nil || b.options.History == nil {
		return err
	}
	ctx, cancel := b.live(context.Background())
	defer cancel()
	return b.openStream(ctx, "")
}

// subject returns the subject of a topic. Topics are encoded because dots, asterisks
// and other characters have a meaning in subjects.
func (b *Broker) subject(topic string) string {
	return b.options.Prefix + "." + base64.RawURLEncoding.EncodeToString([]byte(topic))
}

// Publish implements websocket.Broker. It returns after the server has confirmed the
// batch.
func (b *Broker) Publish(ctx context.Context, batch []websocket.BrokerMessage) error {
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	var tooLarge error
	for _, m := range batch {
		if err := b.tooLarge(m.Payload); err != nil {
			tooLarge = err
			continue
		}
		switch err := b.conn.PublishRequest(b.subject(m.Topic), b.origins.own(b.conn.Stats().Reconnects), m.Payload); {
		case errors.Is(err, nats.ErrMaxPayload):
			tooLarge = &websocket.MessageTooLargeError{Size: int64(len(m.Payload)), Limit: b.conn.MaxPayload(), LimitedBy: "Broker.MaxPayload"}
		case err != nil:
			return unavailable(err)
		}
	}
	if err := b.flush(ctx); err != nil {
		return err
	}
	return tooLarge
}

// tooLarge returns an error if a payload is longer than MaxPayload.
func (b *Broker) tooLarge(payload []byte) error {
	if limit := b.MaxPayload(); len(payload) > limit {
		return &websocket.MessageTooLargeError{Size: int64(len(payload)), Limit: int64(limit), LimitedBy: "Broker.MaxPayload"}
	}
	return nil
}

func unavailable(err error) error {
	return fmt.Errorf("%w: %w", websocket.ErrBrokerUnavailable, err)
}

// flush waits until the server has processed all earlier commands.
func (b *Broker) flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	err := b.conn.FlushWithContext(ctx)
	if err != nil && ctx.Err() == nil {
		return unavailable(err)
	}
	return err
}

// confirmSubscriptions waits until all earlier subscriptions are in force, on every
// server of a cluster.
func (b *Broker) confirmSubscriptions(ctx context.Context) error {
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

// subscribe subscribes the connection to one topic. The broker is locked.
func (b *Broker) subscribe(topic string) error {
	s, err := b.conn.ChanSubscribe(b.subject(topic), b.incoming)
	b.topics[topic] = s
	return err
}

// Subscribe implements websocket.Broker.
func (b *Broker) Subscribe(ctx context.Context, topics []string) error {
	var subscribeErr error
	b.mu.Lock()
	for _, topic := range topics {
		if s := b.topics[topic]; s != nil {
			continue
		}
		b.topics[topic] = nil
		if b.conn != nil {
			if err := b.subscribe(topic); err != nil {
				subscribeErr = unavailable(err)
			}
		}
	}
	b.mu.Unlock()
	if !b.up.Load() {
		return websocket.ErrBrokerUnavailable
	}
	if subscribeErr != nil {
		return subscribeErr
	}
	return b.confirmSubscriptions(ctx)
}

// Unsubscribe implements websocket.Broker.
func (b *Broker) Unsubscribe(_ context.Context, topics []string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	var failed error
	for _, topic := range topics {
		if s := b.topics[topic]; s != nil {
			delete(b.dropped, s)
			if err := s.Unsubscribe(); err != nil {
				failed = err
			}
		}
		delete(b.topics, topic)
	}
	return failed
}

// MaxPayload implements websocket.Broker. It returns the server's max_payload, or 0
// before the first connection. With Options.History it is 256 bytes less, for the headers.
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
		b.mu.Lock()
		b.endLife()
		b.mu.Unlock()
	})
	b.loops.Wait()
	return nil
}
