package nodewire

import (
	"sync"
	"time"
)

// WindowSize is how many sequence numbers a Window remembers.
const WindowSize = 4096

// Window finds repeated sequence numbers among the latest WindowSize numbers of
// one sender. The zero value is ready for use.
type Window struct {
	top  uint64 // the largest number so far
	bits [WindowSize / 64]uint64
}

// Add records a sequence number and reports whether it is new. A number older
// than the window counts as new, because the window cannot know.
func (w *Window) Add(sequence uint64) bool {
	switch {
	case w.top == 0 || sequence >= w.top+WindowSize:
		clear(w.bits[:])
		w.top = sequence
	case sequence > w.top:
		for w.top < sequence {
			w.top++
			w.bits[w.top%WindowSize/64] &^= 1 << (w.top % 64)
		}
	case sequence+WindowSize <= w.top:
		return true
	}
	word, bit := &w.bits[sequence%WindowSize/64], uint64(1)<<(sequence%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}

// Peers is the table of the other nodes known to be alive. A node enters it with
// the first payload that arrives from it. The zero value is an empty table. All
// methods may be called concurrently.
type Peers struct {
	mu    sync.Mutex
	known map[uint64]*peer
}

type peer struct {
	name   string
	seen   time.Time // when the latest payload arrived
	era    uint64    // the largest so far
	window Window
}

// eraShift is the number of bits of a sequence number below its era. A sender begins a
// new era after each failure to publish.
const eraShift = 40

// NextEra returns the last number before those of the era after that of sequence.
func NextEra(sequence uint64) uint64 { return (sequence>>eraShift + 1) << eraShift }

// Arrival is what Peers.Observe tells about a payload.
type Arrival uint8

// The values of Arrival.
const (
	Fresh    Arrival = iota
	Repeated         // it has arrived before
	Late             // it belongs to an earlier era than others of its sender
)

// Observe records that a payload of a node has arrived.
func (p *Peers) Observe(id, sequence uint64) Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	other := p.known[id]
	if other == nil {
		other = &peer{name: NodeName(id)}
		if p.known == nil {
			p.known = make(map[uint64]*peer)
		}
		p.known[id] = other
	}
	other.seen = time.Now()
	era := sequence >> eraShift
	if era < other.era {
		return Late
	}
	other.era = era
	if !other.window.Add(sequence) {
		return Repeated
	}
	return Fresh
}

// SetName records the name of a known node. It ignores an empty name.
func (p *Peers) SetName(id uint64, name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other := p.known[id]; other != nil && name != "" {
		other.name = name
	}
}

// Remove forgets a node.
func (p *Peers) Remove(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
}

// Refresh restarts the time of silence of every node. It is called when an outage
// of the engine has ended, in which no node could be heard.
func (p *Peers) Refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.known {
		other.seen = time.Now()
	}
}

// Expire forgets the nodes from which nothing has arrived for longer than silence.
func (p *Peers) Expire(silence time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, other := range p.known {
		if time.Since(other.seen) > silence {
			delete(p.known, id)
		}
	}
}

// Count returns the number of known nodes.
func (p *Peers) Count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.known)
}

// Names returns the names of the known nodes by ID. The caller owns the map.
func (p *Peers) Names() map[uint64]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make(map[uint64]string, len(p.known))
	for id, other := range p.known {
		names[id] = other.name
	}
	return names
}
