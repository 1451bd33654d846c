package nodewire

import (
	"maps"
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

// Peers is the table of the other nodes known to be alive, which have sent a hello, and of
// publishers without a hub, which have not. The zero value is an empty table. All
// methods may be called concurrently.
//
// A node that falls silent is remembered as gone for some time: it may have died, or it
// may be cut off and come back.
type Peers struct {
	mu    sync.Mutex
	known map[uint64]*peer
	gone  map[uint64]*peer // at most maxGone
}

// maxGone is the largest number of silent nodes that are remembered.
const maxGone = 1024

type peer struct {
	name   string
	hello  bool      // it is a node; otherwise only a publisher
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
	New              // it is the first one of its sender
	Returned         // it is the first one of its sender since that was gone
	Repeated         // it has arrived before
	Late             // it belongs to an earlier era than others of its sender
)

// Observe records that a payload of a node has arrived.
func (p *Peers) Observe(id, sequence uint64) Arrival {
	p.mu.Lock()
	defer p.mu.Unlock()
	arrival, era := Fresh, sequence>>eraShift
	other := p.known[id]
	if other == nil {
		arrival = Returned
		if other = p.gone[id]; other == nil {
			arrival, other = New, &peer{name: NodeName(id)}
		}
	}
	if era < other.era {
		return Late
	}
	if arrival != Fresh {
		if p.known == nil {
			p.known = make(map[uint64]*peer)
		}
		p.known[id] = other
		delete(p.gone, id)
	}
	other.seen = time.Now()
	other.era = era
	if !other.window.Add(sequence) {
		return Repeated
	}
	return arrival
}

// Expect records a node that another one knows, although nothing has arrived from it.
func (p *Peers) Expect(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[id] == nil && p.gone[id] == nil {
		if p.known == nil {
			p.known = make(map[uint64]*peer)
		}
		p.known[id] = &peer{name: NodeName(id), hello: true, seen: time.Now()}
	}
}

// SetName records a hello of a node and the name in it, which may be empty. A node that is
// gone and had that name has been started again, and is forgotten. SetName reports
// whether a live node with another ID has the name.
func (p *Peers) SetName(id uint64, name string) (taken bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	other := p.known[id]
	if other == nil {
		return false
	}
	other.hello = true
	if name == "" {
		return false
	}
	maps.DeleteFunc(p.gone, func(_ uint64, g *peer) bool { return g.name == name })
	if other.name == name {
		return false // it was reported before
	}
	for _, third := range p.known {
		taken = taken || third.name == name
	}
	other.name = name
	return taken
}

// Remove forgets a node.
func (p *Peers) Remove(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
	delete(p.gone, id)
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

// Expire makes the nodes gone from which nothing has arrived for longer than silence, and
// returns their IDs. It forgets those that have been gone for longer than keep.
func (p *Peers) Expire(silence, keep time.Duration) (gone []uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, other := range p.known {
		if time.Since(other.seen) > silence {
			delete(p.known, id)
			if !other.hello {
				continue
			}
			gone = append(gone, id)
			if p.gone == nil {
				p.gone = make(map[uint64]*peer)
			}
			if len(p.gone) < maxGone {
				p.gone[id] = other
			}
		}
	}
	maps.DeleteFunc(p.gone, func(_ uint64, g *peer) bool { return time.Since(g.seen) > silence+keep })
	return gone
}

// Gone returns the names of the nodes that are gone.
func (p *Peers) Gone() (names []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.gone {
		names = append(names, g.name)
	}
	return names
}

// Count returns the number of known nodes.
func (p *Peers) Count() (count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.known {
		if other.hello {
			count++
		}
	}
	return count
}

// Names returns the names of the known nodes by ID. The caller owns the map.
func (p *Peers) Names() map[uint64]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	names := make(map[uint64]string, len(p.known))
	for id, other := range p.known {
		if other.hello {
			names[id] = other.name
		}
	}
	return names
}
