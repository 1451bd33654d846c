package nats

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// origins keeps the publications of each Broker in order when its connection moves to
// another server of a cluster. Messages published over the former connection may
// still be under way between servers and arrive after messages published over the
// new one. Each message carries its origin in the reply subject: the Broker and its
// number of reconnects. A message with a lower number than an earlier message of the
// same Broker is out of order and is dropped.
type origins struct {
	prefix string            // of this Broker's origin
	latest map[string]uint64 // highest number of reconnects by Broker; owned by receiveLoop
}

const (
	originMark = "_HUB."
	maxOrigins = 4096 // Brokers in latest; it is cleared when it is full
)

func newOrigins() origins {
	return origins{prefix: fmt.Sprintf("%s%016x.", originMark, rand.Uint64()), latest: make(map[string]uint64)}
}

// own returns the origin of messages of this Broker.
func (o *origins) own(reconnects uint64) string {
	return o.prefix + strconv.FormatUint(reconnects, 10)
}

// inOrder records the origin of a message and reports whether the message is in
// order.
func (o *origins) inOrder(origin string) bool {
	_, origin, _ = strings.Cut(origin, originMark) // a gateway may add a prefix
	dot := strings.LastIndexByte(origin, '.')
	number, err := strconv.ParseUint(origin[dot+1:], 10, 64)
	if err != nil {
		return true // the publisher is not a Broker
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
