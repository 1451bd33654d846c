package nats

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// origins keeps the order of what each Broker publishes when its connection moves
// to another server of a cluster: what it has published before may be under way
// still, and be overtaken. Every message says whence it comes, in the place of a
// reply's subject: the Broker and how often it has reconnected. What is older
// than something that has come from there before is out of order.
type origins struct {
	me     string
	latest map[string]uint64 // reconnects by Broker; receiveLoop's
}

const (
	originMark = "_HUB."
	maxOrigins = 4096 // Brokers that come and go
)

func newOrigins() origins {
	return origins{me: fmt.Sprintf("%s%016x.", originMark, rand.Uint64()), latest: make(map[string]uint64)}
}

// mine is what this Broker's messages carry.
func (o *origins) mine(reconnects uint64) string {
	return o.me + strconv.FormatUint(reconnects, 10)
}

// inOrder notes the origin of a message and reports whether nothing later has
// come from there.
func (o *origins) inOrder(origin string) bool {
	_, origin, _ = strings.Cut(origin, originMark) // a gateway may put its own before it
	dot := strings.LastIndexByte(origin, '.')
	number, err := strconv.ParseUint(origin[dot+1:], 10, 64)
	if err != nil {
		return true // of another kind of publisher
	}
	from := origin[:dot+1]
	latest, known := o.latest[from]
	if known && number <= latest {
		return number == latest
	}
	if len(o.latest) >= maxOrigins {
		clear(o.latest)
	}
	o.latest[from] = number
	return true
}
