// Package api holds what the driver, the server and the load generator say to
// each other: JSON over HTTP on their control addresses, and a few bytes over
// the sync connection on which the server learns what has arrived.
package api

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

// Ready is the one line that a child process prints once it listens.
type Ready struct {
	Control  string            `json:"control"`
	WS       string            `json:"ws,omitempty"`
	Sync     string            `json:"sync,omitempty"`
	CertPEM  string            `json:"cert_pem,omitempty"`
	Versions map[string]string `json:"versions,omitempty"`
}

// Usage is what a process has used so far.
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

// Scenario is what a server is asked to publish.
type Scenario struct {
	Targets    int           `json:"targets"`     // channels or rooms
	PerPublish int           `json:"per_publish"` // readers that each message reaches
	Size       int           `json:"size"`        // bytes of payload
	Latency    bool          `json:"latency"`     // have latencies recorded
	Sync       string        `json:"sync"`
	Stall      time.Duration `json:"stall"` // nothing arrived for so long: the rest is lost

	// Bursts of Burst messages as fast as possible, each awaited, until
	// MinWall has passed, Repeat are done or something was lost.
	Burst   int           `json:"burst"`
	Repeat  int           `json:"repeat"`
	MinWall time.Duration `json:"min_wall"`

	// Or, where Rate is set, single messages at that rate. More than MaxLag
	// behind schedule ends the run as late.
	Rate     float64       `json:"rate"`
	Duration time.Duration `json:"duration"`
	MaxLag   time.Duration `json:"max_lag"`
}

// Outcome is what came of a Scenario.
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

// Sealing modes.
const (
	SealHub    = "hub"    // one pair of keys
	SealClient = "client" // an AES key for each client
)

// Connect tells the load generator what to connect.
type Connect struct {
	Addr        string `json:"addr"`
	CertPEM     string `json:"cert_pem"` // TLS where it is set
	Clients     int    `json:"clients"`
	Targets     int    `json:"targets"` // client i joins target i modulo Targets
	Stalled     int    `json:"stalled"` // of the clients, how many never read
	Size        int    `json:"size"`
	Dialect     string `json:"dialect"`
	Subprotocol string `json:"subprotocol"`
	Deflate     bool   `json:"deflate"`
	Sealed      string `json:"sealed"`
}

// Echo has the first client of every target send messages, at Rate over all.
type Echo struct {
	Rate     float64       `json:"rate"`
	Duration time.Duration `json:"duration"`
	PerSend  int           `json:"per_send"` // arrivals that each message causes
	Stall    time.Duration `json:"stall"`
}

// EchoResult is what came of an Echo.
type EchoResult struct {
	Sent     uint64        `json:"sent"`
	Received uint64        `json:"received"`
	Wall     time.Duration `json:"wall"`
}

// Churn has the load generator connect and close, Cycles times in all.
type Churn struct {
	Connect     Connect       `json:"connect"`
	Cycles      int           `json:"cycles"`
	Concurrency int           `json:"concurrency"`
	Limit       time.Duration `json:"limit"`
}

// ChurnResult is what came of a Churn.
type ChurnResult struct {
	Cycles int           `json:"cycles"`
	Errors int           `json:"errors"`
	Wall   time.Duration `json:"wall"`
	First  string        `json:"first_error,omitempty"`
}

// Stats is what the load generator has seen since the last reset.
type Stats struct {
	Usage    Usage  `json:"usage"`
	Received uint64 `json:"received"`
	Skipped  uint64 `json:"skipped"`  // numbers passed over
	Disorder uint64 `json:"disorder"` // numbers late or twice
	Bad      uint64 `json:"bad"`      // messages without a whole payload
	Cut      uint64 `json:"cut"`      // connections ended by the server
	P50      int64  `json:"p50"`
	P99      int64  `json:"p99"`
	Max      int64  `json:"max"`
	Error    string `json:"error,omitempty"` // the first one
}

// The sync connection: the server sends an operation and two numbers, the load
// generator answers with three.
const (
	SyncReset = 1 // a: 1 to record latencies
	SyncWait  = 2 // a: arrivals to wait for, b: stall in nanoseconds
)

// Arrived is the answer on a sync connection.
type Arrived struct {
	Received uint64
	Cut      uint64
	Last     int64 // time of the last arrival, Unix nanoseconds
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

// Ask sends one operation and waits for the answer, for a minute at most.
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
		return Arrived{}, fmt.Errorf("load generator does not answer: %w", err)
	}
	return Arrived{
		Received: binary.BigEndian.Uint64(ans[:]),
		Cut:      binary.BigEndian.Uint64(ans[8:]),
		Last:     int64(binary.BigEndian.Uint64(ans[16:])),
	}, nil
}

// ServeSync answers on one connection until it ends.
func ServeSync(c net.Conn, answer func(op byte, a, b uint64) Arrived) error {
	defer c.Close()
	for {
		var req [17]byte
		if _, err := io.ReadFull(c, req[:]); err != nil {
			return err
		}
		r := answer(req[0], binary.BigEndian.Uint64(req[1:]), binary.BigEndian.Uint64(req[9:]))
		var ans [24]byte
		binary.BigEndian.PutUint64(ans[:], r.Received)
		binary.BigEndian.PutUint64(ans[8:], r.Cut)
		binary.BigEndian.PutUint64(ans[16:], uint64(r.Last))
		if _, err := c.Write(ans[:]); err != nil {
			return err
		}
	}
}
