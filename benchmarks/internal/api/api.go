// Package api defines the messages between the driver, the server and the load
// generator. The driver calls the other two with JSON over HTTP on their control
// addresses. The server asks the load generator for the number of arrivals in a
// small binary protocol, over the sync connection.
package api

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// Ready is the line of JSON that a child process prints when it is listening.
type Ready struct {
	Control  string            `json:"control"`
	WS       string            `json:"ws,omitempty"`
	Sync     string            `json:"sync,omitempty"`
	CertPEM  string            `json:"cert_pem,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
}

// Usage is the resources that a process has used since its start.
type Usage struct {
	At         int64  `json:"at"` // Unix nanoseconds
	User       int64  `json:"user_ns"`
	System     int64  `json:"system_ns"`
	Mallocs    uint64 `json:"mallocs"`
	TotalAlloc uint64 `json:"total_alloc"`
	InUse      uint64 `json:"in_use"` // heap and stacks in use, bytes
	RSS        uint64 `json:"rss"`
	Goroutines int    `json:"goroutines"`
	Members    int    `json:"members"` // servers only
}

// CPU returns user and system time in nanoseconds.
func (u Usage) CPU() int64 { return u.User + u.System }

// Engine is what the engine of a cluster has done since its start.
type Engine struct {
	CPU      int64  `json:"cpu_ns"`   // user and system time
	Commands uint64 `json:"commands"` // Redis: commands, with those of scripts; NATS: messages in
	In       uint64 `json:"in"`       // bytes
	Out      uint64 `json:"out"`      // bytes
}

// Scenario tells a server what to publish.
type Scenario struct {
	Target     int           `json:"target"`      // the first of the targets
	Targets    int           `json:"targets"`     // number of channels or rooms
	PerPublish int           `json:"per_publish"` // readers that each message reaches; 0 while all clients are away
	Size       int           `json:"size"`        // bytes of payload
	Latency    bool          `json:"latency"`     // whether to record latencies
	Sync       string        `json:"sync"`        // address for the sync connection
	Stall      time.Duration `json:"stall"`       // messages count as lost when none arrives for this long

	// Publishers is the number of goroutines that publish; 0 means 1. Each has targets of its
	// own, unless there is only one target: then its messages have no order.
	Publishers int `json:"publishers"`

	// Bursts of Burst messages as fast as possible. The server waits for each
	// burst's arrival, and stops after MinWall, after Repeat bursts, or at a loss.
	Burst   int           `json:"burst"`
	Repeat  int           `json:"repeat"`
	MinWall time.Duration `json:"min_wall"`

	// If Rate is set, single messages at that rate instead of bursts. The run
	// ends as late when the publisher is more than MaxLag behind its schedule.
	Rate     float64       `json:"rate"`
	Duration time.Duration `json:"duration"`
	MaxLag   time.Duration `json:"max_lag"`
}

// Outcome is the result of a Scenario.
type Outcome struct {
	Published uint64        `json:"published"`
	Expected  uint64        `json:"expected"`
	Received  uint64        `json:"received"`
	Errors    uint64        `json:"errors"`
	Late      bool          `json:"late"`
	Wall      time.Duration `json:"wall"` // first publication to last arrival
	Before    Usage         `json:"before"`
	After     Usage         `json:"after"`
}

// Protocol dialects of the load generator.
const (
	DialectRaw        = "raw"        // the payload is the message
	DialectEnvelope   = "envelope"   // JSON envelope with type and data
	DialectCentrifuge = "centrifuge" // JSON commands, several in a frame
)

// Whose keys sign and encrypt messages.
const (
	SealHub    = "hub"    // one pair of keys for all clients
	SealClient = "client" // an AES key of its own for each client
)

// Connect tells the load generator what to connect.
type Connect struct {
	Addr        string `json:"addr"`
	CertPEM     string `json:"cert_pem"` // the server's certificate; empty for no TLS
	Clients     int    `json:"clients"`
	Targets     int    `json:"targets"` // client i joins target i modulo Targets
	Stalled     int    `json:"stalled"` // number of clients that never read
	Size        int    `json:"size"`
	Dialect     string `json:"dialect"`
	Subprotocol string `json:"subprotocol"`
	Deflate     bool   `json:"deflate"`
	Sealed      string `json:"sealed"`
	Subscribe   bool   `json:"subscribe"` // clients subscribe by themselves, and keep their positions
	Presence    bool   `json:"presence"`  // clients count messages about members
}

// Wave makes all clients connect again and subscribe at once. It ends when all replies
// have arrived, and no message about members has for the time Quiet.
type Wave struct {
	Quiet time.Duration `json:"quiet"`
	Limit time.Duration `json:"limit"`
}

// WaveResult is the result of a Wave.
type WaveResult struct {
	Replies uint64        `json:"replies"`
	Notices uint64        `json:"notices"` // messages about members, to all clients
	Most    uint64        `json:"most"`    // to one client
	Changes uint64        `json:"changes"` // joins and leaves in them
	Known   int           `json:"known"`   // members that client 0 knows in the end; -1 if it does not keep them
	Wall    time.Duration `json:"wall"`    // to the last reply or message about members
}

// Subscribe makes all clients send a subscribe request, each with its position if it
// has one. It ends when all replies and Expect messages have arrived, or when none
// has arrived for the time Stall.
type Subscribe struct {
	Expect uint64        `json:"expect"`
	Stall  time.Duration `json:"stall"`
}

// Subscribed is the result of a Subscribe.
type Subscribed struct {
	Replies  uint64        `json:"replies"`
	Complete uint64        `json:"complete"` // replies that promise all messages since the position
	Received uint64        `json:"received"`
	Wall     time.Duration `json:"wall"`
}

// Echo makes the first client of every target send messages. Rate is the total
// rate of all clients, per second.
type Echo struct {
	Rate     float64       `json:"rate"`
	Duration time.Duration `json:"duration"`
	PerSend  int           `json:"per_send"` // deliveries of each message
	Stall    time.Duration `json:"stall"`
}

// EchoResult is the result of an Echo.
type EchoResult struct {
	Sent     uint64        `json:"sent"`
	Received uint64        `json:"received"`
	Wall     time.Duration `json:"wall"`
}

// Probe makes a load generator send HTTP GET requests, one after the other, with a
// pause of Interval between a response and the next request.
type Probe struct {
	URL      string        `json:"url"`
	Interval time.Duration `json:"interval"`
	Duration time.Duration `json:"duration"`
}

// ProbeResult is the result of a Probe. Latencies are in nanoseconds.
type ProbeResult struct {
	Requests uint64 `json:"requests"`
	P50      int64  `json:"p50"`
	P90      int64  `json:"p90"`
	P99      int64  `json:"p99"`
}

// Churn makes the load generator connect and close, Cycles times in total.
type Churn struct {
	Connect     Connect       `json:"connect"`
	Cycles      int           `json:"cycles"`
	Concurrency int           `json:"concurrency"`
	Limit       time.Duration `json:"limit"`
}

// ChurnResult is the result of a Churn.
type ChurnResult struct {
	Cycles int           `json:"cycles"`
	Errors int           `json:"errors"`
	Wall   time.Duration `json:"wall"`
	First  string        `json:"first_error,omitempty"`
}

// Late is the age at which a message counts as late when it arrives.
const Late = 200 * time.Millisecond

// Stats is the load generator's counts since the last reset. Latencies are in
// nanoseconds.
type Stats struct {
	Usage        Usage  `json:"usage"`
	Received     uint64 `json:"received"`
	Skipped      uint64 `json:"skipped"`      // sequence numbers that were skipped
	Disorder     uint64 `json:"disorder"`     // sequence numbers that came late or twice
	Bad          uint64 `json:"bad"`          // messages without a whole payload
	Disconnected uint64 `json:"disconnected"` // connections that the server ended
	P50          int64  `json:"p50"`
	P99          int64  `json:"p99"`
	Max          int64  `json:"max"`
	Gaps         uint64 `json:"gaps"`            // messages of this library that announce a gap in a target
	LastLate     int64  `json:"last_late"`       // time of the last arrival of a message that was late, Unix nanoseconds
	Error        string `json:"error,omitempty"` // the first one
}

// Operations on the sync connection. The server sends an operation and two
// numbers, a and b. The load generator replies with an Arrived.
const (
	SyncReset = 1 // reset the counters; a is 1 to record latencies
	SyncWait  = 2 // wait for a arrivals, or until none came for b nanoseconds
)

// Arrived is the reply on a sync connection.
type Arrived struct {
	Received     uint64
	Disconnected uint64
	Last         int64 // time of the last arrival, Unix nanoseconds
}

// Sync is the server's end of a sync connection.
type Sync struct{ c net.Conn }

// DialSync connects to the load generator.
func DialSync(addr string) (*Sync, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &Sync{c}, nil
}

// Close ends the connection.
func (s *Sync) Close() error { return s.c.Close() }

// Ask sends one operation and waits up to a minute for the reply.
func (s *Sync) Ask(op byte, a, b uint64) (Arrived, error) {
	var req [17]byte
	req[0] = op
	binary.BigEndian.PutUint64(req[1:], a)
	binary.BigEndian.PutUint64(req[9:], b)
	if err := s.c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return Arrived{}, err
	}
	if _, err := s.c.Write(req[:]); err != nil {
		return Arrived{}, err
	}
	var ans [24]byte
	if _, err := io.ReadFull(s.c, ans[:]); err != nil {
		return Arrived{}, fmt.Errorf("no reply from the load generator: %w", err)
	}
	return Arrived{
		Received:     binary.BigEndian.Uint64(ans[:]),
		Disconnected: binary.BigEndian.Uint64(ans[8:]),
		Last:         int64(binary.BigEndian.Uint64(ans[16:])),
	}, nil
}

// ServeSync calls handle for each operation on c and sends the reply, until c
// ends.
func ServeSync(c net.Conn, handle func(op byte, a, b uint64) Arrived) {
	defer func() { _ = c.Close() }()
	for {
		var req [17]byte
		if _, err := io.ReadFull(c, req[:]); err != nil {
			return
		}
		r := handle(req[0], binary.BigEndian.Uint64(req[1:]), binary.BigEndian.Uint64(req[9:]))
		var ans [24]byte
		binary.BigEndian.PutUint64(ans[:], r.Received)
		binary.BigEndian.PutUint64(ans[8:], r.Disconnected)
		binary.BigEndian.PutUint64(ans[16:], uint64(r.Last))
		if _, err := c.Write(ans[:]); err != nil {
			return
		}
	}
}

// Roam makes the load generator connect clients of package client to a cluster, through a
// balancer that asks the nodes for readiness. One more client publishes to a channel that
// all have subscribed to.
type Roam struct {
	Nodes   []string      `json:"nodes"` // addresses
	Clients int           `json:"clients"`
	Rate    float64       `json:"rate"`  // publications per second
	Check   time.Duration `json:"check"` // time between two questions of the balancer
}

// Roamed is what the clients of Roam have seen.
type Roamed struct {
	Reconnects []int64       `json:"reconnects"` // Unix nanoseconds
	Published  uint64        `json:"published"`
	Missed     uint64        `json:"missed"`   // publications, once for each client
	Repeated   uint64        `json:"repeated"` // the same
	Stall      time.Duration `json:"stall"`    // the longest: a timer was late by that
	Errors     []string      `json:"errors"`   // of calls, and gaps; the first few
}

// Drain makes a server drain and shut down.
type Drain struct {
	Window time.Duration `json:"window"`
	Delay  time.Duration `json:"delay"`
}

// Drained is the result of a Drain.
type Drained struct {
	Clients int           `json:"clients"`
	Left    int           `json:"left"` // by themselves
	Closed  int           `json:"closed"`
	Cut     int           `json:"cut"`
	Began   int64         `json:"began"` // Unix nanoseconds
	Took    time.Duration `json:"took"`
}
