// Package client is the Go client of a hub. It reconnects by itself, restores its
// channels and rooms, and reports messages that were missed or may have been.
//
//	c, err := client.Dial(ctx, "wss://example.com/ws", client.Options{Codec: "protobuf"})
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//	news, err := c.Subscribe(ctx, "news", func(m *websocket.Message) { fmt.Println(string(m.Data)) })
//	if err != nil {
//		return err
//	}
//	defer news.Unsubscribe(ctx)
//
// Guarantees:
//
//  1. When a call other than Send returns nil, the hub has acknowledged it: a
//     subscription is active, a publication has its place in the hub's order. When
//     a call returns an error, it had no effect, unless the error is
//     ErrOutcomeUnknown or the documentation of Subscription.Unsubscribe says otherwise.
//  2. Handlers and callbacks run on one goroutine, one at a time, in the order in
//     which the hub sent the messages. They may call every method. Replies to calls
//     do not wait for them.
//  3. Every message of a channel or room reaches each of its handlers at most once.
//     OnGap reports the messages that do not reach them between the first Subscribe and
//     the last Unsubscribe, before the next message of that channel or room: messages that the hub
//     dropped, messages that the client dropped because handlers were too slow, and
//     messages that may have been published while there was no connection. If the channel
//     or room has a history, the client gets from it the messages that were published while
//     there was no connection, and OnGap reports only messages that are lost.
//  4. When a connection breaks, or closes with a code for which Reconnectable
//     returns true, the client reconnects after a random delay that grows with
//     every failure. It restores its channels and rooms before OnState reports
//     Connected.
//  5. A connection that is dead without notice is detected within twice
//     Options.Heartbeat, 30 s by default, also while the client sends. The client stays
//     below the rates that the hub tells it.
//  6. A publication to a channel or room that is known to have a history is published
//     at most once, also if the connection is lost before the reply: see Publish.
//  7. Queued messages are limited in bytes: see Options.OutboundLimit and
//     Options.InboundLimit.
//  8. After Close nothing is sent and queued messages are not handled any more.
//     When Done is closed, all goroutines of the client have ended.
//
// Guarantee 3 has one exception. A channel and a room of the same name, both without a
// history: a message of the room with an application's own type does not name its kind.
// If the client is in both, the handlers of the channel get it.
package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/maoxiaoyue/hypgo-websocket"
	"github.com/maoxiaoyue/hypgo-websocket/internal/seal"
)

// Client is a client of one hub, made by Dial. All methods may be called
// concurrently, and from handlers and callbacks.
type Client struct {
	url       string
	options   Options
	codec     websocket.Codec
	control   controlData
	frameType int
	keys      *seal.Pipeline // nil without Options.Security
	inbox     *inbox

	idPrefix string
	lastID   atomic.Uint64

	toldMaxSize atomic.Int64 // MaxMessageSize of the hub's latest hello; not positive if there is none

	ctx                context.Context // canceled by Close
	cancel             context.CancelFunc
	firstConnectedOnce sync.Once
	firstConnected     chan struct{}         // closed by run when the client is Connected for the first time
	stopped            chan struct{}         // closed by run: there is no connection and there will be none
	done               chan struct{}         // closed by dispatch: all callbacks have returned
	reconnect          chan struct{}         // capacity 1; Reconnect sends, run receives; never closed
	undelivered        *item                 // a message with handlers that have not run yet; owned by dispatch
	lastFailure        atomic.Pointer[error] // of run's latest failed attempt

	mu          sync.Mutex // guards the fields below; conn.mu may be locked while it is held
	state       State
	err         error         // cause of Closed; nil if Close was called
	conn        *conn         // nil while there is no connection
	connChanged chan struct{} // closed by run when conn is set (and replaced) and when the client has stopped
	topics      map[topicKey]*topic
	positions   map[topicKey]websocket.Position // of topics in which a Key is unique, by the latest reply; at most maxPositions
	excluded    map[string]int                  // by the key of a publication that is not for this client: the calls that wait for its reply
	replayed    []string                        // keys of excluded that no call waits for, oldest first; at most maxReplayed
	lastSeen    int64                           // Timestamp of the latest message from the hub
	hello       hello                           // the hub's latest; zero before
	abandon     context.CancelFunc              // ends the attempt to connect that is under way; nil without one
	closeErr    error                           // returned by Close: its connection did not close cleanly
	handlers    map[string]RequestHandler       // of Options.Handlers and Handle
}

// Dial connects to the ws:// or wss:// URL of a hub and returns when the client is
// Connected. By default it returns the error of the first failed attempt; see
// Options.RetryDial. Errors: *DialError, *websocket.CloseError, an error of the
// TokenSource, ctx's error, and errors that name an invalid option or URL.
//
// The end of ctx stops Dial, but not the client that it has returned. NetDial and
// TokenSource get ctx's values for the lifetime of the client.
func Dial(ctx context.Context, url string, options Options) (*Client, error) {
	options = options.withDefaults()
	if err := options.validate(); err != nil {
		return nil, err
	}
	if err := checkURL(url); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &Client{
		url:            url,
		options:        options,
		codec:          options.codec(),
		control:        controlData{protobuf: options.Codec == websocket.ProtobufCodec{}.Name()},
		inbox:          newInbox(options.InboundLimit),
		idPrefix:       rand.Text()[:8] + "-",
		firstConnected: make(chan struct{}),
		stopped:        make(chan struct{}),
		done:           make(chan struct{}),
		reconnect:      make(chan struct{}, 1),
		connChanged:    make(chan struct{}),
		topics:         make(map[topicKey]*topic),
		positions:      make(map[topicKey]websocket.Position),
		excluded:       make(map[string]int),
		handlers:       options.Handlers,
	}
	c.frameType = c.codec.WebSocketMessageType()
	if s := options.Security; s != nil {
		c.frameType = websocket.BinaryMessage // sealed bytes are not text
		keys, err := seal.New(s.AESKey, s.HMACKey, s.SignThenEncrypt)
		if err != nil {
			return nil, err
		}
		c.keys = keys
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go c.dispatch() // ends after it has reported Closed, and closes done
	go c.run()      // ends after Close or when the client does not reconnect, and closes stopped
	select {
	case <-c.firstConnected:
		return c, nil
	case <-c.stopped:
		return nil, c.Err()
	case <-ctx.Done():
		_ = c.Close() // its error would be about queued messages, and there are none
		if failure := c.lastFailure.Load(); failure != nil {
			return nil, fmt.Errorf("%w: %w", ctx.Err(), *failure)
		}
		return nil, ctx.Err()
	}
}

// Close sends the queued messages and a Close frame with code 1000, and waits for
// the hub's Close frame, for at most Options.CloseTimeout. Calls that wait return
// ErrClosed, or ErrOutcomeUnknown if their message was sent. Received messages that
// wait for a handler are discarded. OnState reports Closed.
//
// Close does not wait for a running callback, so a callback may call it, and the
// caller may hold locks that a callback needs. Wait for Done to know that the last
// callback has returned.
//
// An error means that queued messages may not have reached the hub. Further calls
// of Close wait in the same way and return the same error.
func (c *Client) Close() error {
	c.cancel()
	<-c.stopped
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeErr
}

// Done returns a channel that is closed when the client has ended and its last
// callback has returned.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns nil until the client has ended. Afterwards it returns ErrClosed if
// Close ended it, and otherwise the cause: a *websocket.CloseError, a *DialError or
// an error of the TokenSource.
func (c *Client) Err() error {
	select {
	case <-c.stopped:
	default:
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		return ErrClosed
	}
	return c.err
}

// State returns the current state. OnState may report it later.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *Client) setState(s StateChange) {
	c.mu.Lock()
	c.state = s.State
	c.mu.Unlock()
	if c.options.OnState != nil {
		c.inbox.putState(s)
	}
}

// setClosed is the last step of run. cause is nil after Close.
func (c *Client) setClosed(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state, c.err = Closed, cause
	c.inbox.close(cause == nil, StateChange{State: Closed, Err: cause}) // before Close can return
	close(c.connChanged)
	close(c.stopped)
	c.cancel()
}

// closing reports whether Close was called or the client has ended.
func (c *Client) closing() bool { return c.ctx.Err() != nil }

// closedError returns the error of calls made after the client has ended. c.mu is
// locked.
func (c *Client) closedError() error {
	if c.err == nil {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// newID returns an ID for a request. Its prefix distinguishes it from IDs that the
// application chooses.
func (c *Client) newID() string {
	return c.idPrefix + fmt.Sprint(c.lastID.Add(1))
}

// isOwnID reports whether newID returned id.
func (c *Client) isOwnID(id string) bool {
	return len(id) > len(c.idPrefix) && id[:len(c.idPrefix)] == c.idPrefix
}

// encode returns m as the payload of a frame, sealed if there are keys.
func (c *Client) encode(m *websocket.Message) ([]byte, error) {
	if !utf8.ValidString(m.Key) { // an encoder would change it, perhaps to that of another publication
		return nil, fmt.Errorf("%w: the key is not UTF-8", websocket.ErrMalformed)
	}
	b, err := c.codec.Marshal(m)
	if err != nil {
		return nil, err
	}
	if c.keys != nil {
		b = c.keys.AppendSeal(nil, b)
	}
	if limit, by := c.maxSendSize(); int64(len(b)) > limit {
		return nil, &websocket.MessageTooLargeError{Size: int64(len(b)), Limit: limit, LimitedBy: by}
	}
	return b, nil
}
