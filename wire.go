package websocket

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"
)

// What nodes send each other begins with a head: version, sender, the sender's
// sequence number, kind and target. The body behind it is, for a publication,
// the protobuf envelope.

type wireKind uint8

const (
	kindNone        wireKind = iota
	kindPublication          // to the target; channels and rooms are named in the envelope
	kindLost                 // publications to the target may be lost
	kindLostAll              // any publication of the sender's may be lost
	kindHello                // helloAsks or helloTells, and the sender's name
	kindBye
	kindQuestion
	kindAnswer
	wireKinds
)

const (
	helloAsks  = '?'
	helloTells = '.'
)

const (
	wireVersion = 1
	fixedHead   = 1 + 8 + 8 + 1 + 1
	maxHead     = fixedHead + binary.MaxVarintLen64 // and the target's name
)

type wireHead struct {
	node     uint64
	sequence uint64
	kind     wireKind
	to       target
}

func (h *wireHead) append(b []byte) []byte {
	b = append(b, wireVersion)
	b = binary.BigEndian.AppendUint64(b, h.node)
	b = binary.BigEndian.AppendUint64(b, h.sequence)
	b = append(b, byte(h.kind), byte(h.to.to))
	b = binary.AppendUvarint(b, uint64(len(h.to.name)))
	return append(b, h.to.name...)
}

func parseHead(b []byte) (h wireHead, body []byte, err error) {
	switch {
	case len(b) <= fixedHead:
		return h, nil, fmt.Errorf("%w: %d bytes from another node", ErrMalformed, len(b))
	case b[0] != wireVersion:
		return h, nil, fmt.Errorf("%w: version %d from another node, want %d", ErrMalformed, b[0], wireVersion)
	}
	h.node = binary.BigEndian.Uint64(b[1:])
	h.sequence = binary.BigEndian.Uint64(b[9:])
	h.kind, h.to.to = wireKind(b[17]), audience(b[18])
	length, n := binary.Uvarint(b[fixedHead:])
	body = b[fixedHead+max(n, 0):]
	if n <= 0 || length > uint64(len(body)) || h.kind == kindNone || h.kind >= wireKinds || h.to.to > toRoom {
		return h, nil, fmt.Errorf("%w: bad head from another node", ErrMalformed)
	}
	h.to.name = string(body[:length])
	return h, body[length:], nil
}

// window remembers which of the latest numbers have been seen. What is older
// counts as fresh: it cannot be told.
type window struct {
	top  uint64
	bits [windowSize / 64]uint64
}

const windowSize = 4096

func (w *window) fresh(sequence uint64) bool {
	switch {
	case w.top == 0 || sequence >= w.top+windowSize:
		clear(w.bits[:])
		w.top = sequence
	case sequence > w.top:
		for w.top < sequence {
			w.top++
			w.bits[w.top%windowSize/64] &^= 1 << (w.top % 64)
		}
	case sequence+windowSize <= w.top:
		return true
	}
	word, bit := &w.bits[sequence%windowSize/64], uint64(1)<<(sequence%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// peerTable knows the other nodes by what arrives from them.
type peerTable struct {
	mu    sync.Mutex
	known map[uint64]*peer
}

type peer struct {
	name string
	seen time.Time
	window
}

// saw notes a sign of life. It reports whether the message is no repetition.
func (p *peerTable) saw(id, sequence uint64) (fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	other := p.known[id]
	if other == nil {
		other = &peer{name: nodeHex(id)}
		p.known[id] = other
	}
	other.seen = time.Now()
	return other.fresh(sequence)
}

func (p *peerTable) hello(id uint64, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.known[id]; other != nil && name != "" {
		other.name = name
	}
}

func (p *peerTable) bye(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
}

// refresh gives everybody time to be heard of again.
func (p *peerTable) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.known {
		other.seen = time.Now()
	}
}

// expire forgets nodes that have been silent, unless nobody can be heard.
func (p *peerTable) expire(silence time.Duration, hears bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, other := range p.known {
		if hears && time.Since(other.seen) > silence {
			delete(p.known, id)
		}
	}
}

func (p *peerTable) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}

// names returns the nodes by ID.
func (p *peerTable) names() map[uint64]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make(map[uint64]string, len(p.known))
	for id, other := range p.known {
		names[id] = other.name
	}
	return names
}
