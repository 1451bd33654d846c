package client

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/maoxiaoyue/hypgo-websocket"
)

// Message types that the hub itself replies to.
const (
	typeHello     = "hub:hello"
	typePing      = "hub:ping" // for clients that cannot send WebSocket pings
	typeHistory   = "hub:history"
	typePresence  = "hub:presence"
	typePublished = "hub:published"
	typeGoaway    = "hub:goaway" // from the hub: reconnect after a delay
)

// defaultHeartbeat is the heartbeat until the hub has told its own.
const defaultHeartbeat = 15 * time.Second

// Limits are the hub's limits for a client. 0 means no limit.
type Limits struct {
	// MessageRate is the number of messages per second above which the hub reads more
	// slowly. ByteRate is the same for bytes.
	MessageRate int64 `json:"message_rate"`
	ByteRate    int64 `json:"byte_rate"`
	// MaxMessageSize is the maximum size in bytes of an encoded and sealed message.
	MaxMessageSize int64 `json:"max_message_size"`
	// MaxNameLength is the maximum length in bytes of the name of a channel or room.
	MaxNameLength int `json:"max_name_length"`
	// MaxSubscriptions is the maximum number of channels and rooms together.
	MaxSubscriptions int `json:"max_subscriptions"`
}

// hello is the data of the hub's reply to hub:hello. It is JSON in every codec. Fields
// that an older or newer hub leaves out are zero.
type hello struct {
	ClientID  string   `json:"client_id"`
	User      string   `json:"user"`
	Limits    *Limits  `json:"limits"`
	Heartbeat int64    `json:"heartbeat"` // milliseconds
	Features  []string `json:"features"`
}

func (h *hello) has(feature string) bool { return slices.Contains(h.Features, feature) }

// hasFeature reports whether the hub's latest hello has named a feature.
func (c *Client) hasFeature(feature string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello.has(feature)
}

// Features of a hub: histories, and members of topics.
const (
	featureHistory  = "history"
	featurePresence = "presence"
)

// ID returns the ID that the hub uses for this client. The hub tells it at the
// beginning of every connection, and may use another one for each. ID returns "" if the
// hub has not told it: before the client is Connected for the first time, and if the hub
// is too old to tell it.
func (c *Client) ID() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello.ClientID
}

// User returns the name of the user that the hub's application has given this client,
// or "". Like ID it is told at the beginning of every connection.
func (c *Client) User() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hello.User
}

// Limits returns the hub's limits. Like ID they are told at the beginning of every
// connection. ok is false if the hub has not told them.
func (c *Client) Limits() (limits Limits, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hello.Limits == nil {
		return Limits{}, false
	}
	return *c.hello.Limits, true
}

// helloRequest returns the request with which a connection begins. onReply runs on the
// read loop, with c.mu locked, after the reply has been recorded.
func (c *Client) helloRequest(cn *conn, onReply func()) (*request, error) {
	m := &websocket.Message{Type: typeHello, ID: c.newID(), Data: helloData}
	frame, err := c.encode(m)
	if err != nil {
		return nil, err
	}
	return &request{id: m.ID, frame: frame, onReply: func(r reply) {
		c.mu.Lock()
		defer c.mu.Unlock()
		var told hello
		if r.refusal == nil && json.Unmarshal(r.message.Data, &told) == nil {
			c.hello = told
			if told.Limits != nil {
				c.toldMaxSize.Store(told.Limits.MaxMessageSize)
			}
			cn.configure(c.pacing())
		}
		onReply()
	}}, nil
}

// pacing is the part of a connection's behavior that depends on the hub's hello.
type pacing struct {
	messageRate, byteRate int64 // per second; negative means no limit
	heartbeat             time.Duration
}

// pacing returns the figures that follow from the options and the hub's latest hello. c.mu is
// locked.
func (c *Client) pacing() pacing {
	o := &c.options
	p := pacing{messageRate: o.MessageRate, byteRate: o.ByteRate, heartbeat: o.Heartbeat}
	told := c.hello.Limits
	if told == nil {
		told = &Limits{MessageRate: 1000, ByteRate: 4 << 20} // the defaults of a hub
	}
	if p.messageRate == 0 {
		p.messageRate = nineTenths(told.MessageRate)
	}
	if p.byteRate == 0 {
		p.byteRate = nineTenths(told.ByteRate)
	}
	if p.heartbeat == 0 {
		p.heartbeat = defaultHeartbeat
		if ms := c.hello.Heartbeat; ms > 0 {
			p.heartbeat = time.Duration(min(ms, maxDelay.Milliseconds())) * time.Millisecond
		}
	}
	return p
}

// maxDelay bounds the times that a hub can tell, so that no timer overflows.
const maxDelay = 24 * time.Hour

// nineTenths returns the rate that stays below a hub's rate, or -1 for no limit.
func nineTenths(rate int64) int64 {
	if rate <= 0 {
		return -1
	}
	return max(rate-rate/10, 1)
}

// maxSendSize returns the maximum size of an encoded message.
func (c *Client) maxSendSize() (limit int64, limitedBy string) {
	if n := c.options.MaxSendSize; n > 0 {
		return int64(n), "Options.MaxSendSize"
	}
	if n := c.toldMaxSize.Load(); n > 0 {
		return n, "the hub's MaxMessageSize"
	}
	return defaultMaxSendSize, "Options.MaxSendSize"
}
