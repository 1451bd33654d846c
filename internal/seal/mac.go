package seal

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"slices"
	"sync"
	"sync/atomic"
)

// mac is an HMAC-SHA256 state without data: each method may be called once, and
// then again after reset. One goroutine uses it at a time.
type mac struct {
	hash hash.Hash
	buf  [macSize]byte // match computes into it, to avoid an allocation
}

// reset restores the keyed state, which crypto/hmac keeps.
func (m *mac) reset() { m.hash.Reset() }

// sum appends the HMAC of data to dst.
func (m *mac) sum(dst, data []byte) []byte {
	m.hash.Write(data)
	return m.hash.Sum(dst)
}

// match compares in constant time.
func (m *mac) match(sum, data []byte) bool {
	return hmac.Equal(m.sum(m.buf[:0], data), sum)
}

// verify returns the data of a signed message, which is a part of signed.
func (m *mac) verify(signed []byte) ([]byte, error) {
	if len(signed) < macSize || !m.match(signed[:macSize], signed[macSize:]) {
		return nil, ErrSignature
	}
	return signed[macSize:], nil
}

// macPool keeps HMAC states of one key, because making one costs three times as
// much as signing a short message. The single state serves a key that few
// goroutines use: a sync.Pool is emptied by every second garbage collection, and
// with thousands of clients that have their own keys, that happens before a
// client's next message. The sync.Pool serves a key that many goroutines use at
// once.
type macPool struct {
	single atomic.Pointer[mac]
	pool   sync.Pool // of *mac
}

func newMACPool(key []byte) *macPool {
	key = slices.Clone(key)
	return &macPool{pool: sync.Pool{New: func() any {
		return &mac{hash: hmac.New(sha256.New, key)}
	}}}
}

// take returns a mac that belongs to the caller until recycle.
func (p *macPool) take() *mac {
	if m := p.single.Load(); m != nil && p.single.CompareAndSwap(m, nil) {
		return m
	}
	return p.pool.Get().(*mac)
}

func (p *macPool) recycle(m *mac) {
	m.reset()
	if !p.single.CompareAndSwap(nil, m) {
		p.pool.Put(m)
	}
}
