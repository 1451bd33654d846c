package main

import (
	"sync"
	"sync/atomic"
)

// roster is a table of the members of each target, for systems without channels
// or rooms of their own.
type roster[C comparable] struct {
	mu      sync.RWMutex
	targets map[int]*membership[C]
	n       atomic.Int64
}

type membership[C comparable] struct {
	list  []C
	index map[C]int
}

func newRoster[C comparable]() *roster[C] {
	return &roster[C]{targets: map[int]*membership[C]{}}
}

func (r *roster[C]) join(t int, c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.targets[t]
	if m == nil {
		m = &membership[C]{index: map[C]int{}}
		r.targets[t] = m
	}
	m.index[c] = len(m.list)
	m.list = append(m.list, c)
	r.n.Add(1)
}

// leave removes c from target t. It does nothing if c is not a member.
func (r *roster[C]) leave(t int, c C) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.targets[t]
	if m == nil {
		return
	}
	i, ok := m.index[c]
	if !ok {
		return
	}
	last := len(m.list) - 1
	m.list[i] = m.list[last]
	m.index[m.list[i]] = i
	clear(m.list[last:])
	m.list = m.list[:last]
	delete(m.index, c)
	if last == 0 {
		delete(r.targets, t)
	}
	r.n.Add(-1)
}

// each calls fn for every member of a target. It holds the read lock meanwhile.
func (r *roster[C]) each(t int, fn func(C)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if m := r.targets[t]; m != nil {
		for _, c := range m.list {
			fn(c)
		}
	}
}

func (r *roster[C]) members() int { return int(r.n.Load()) }
