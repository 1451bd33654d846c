package websocket

import (
	"math/bits"
	"sync"
)

// Buffers are pooled by capacity, in powers of two. Only the last holder of a buffer
// may put it back.
const (
	minBufferBits = 8  // 256 B
	maxBufferBits = 20 // 1 MiB; larger buffers are not pooled
)

var bufferPools [maxBufferBits + 1]sync.Pool

// buffer is a pooled slice.
type buffer struct{ b []byte }

// getBuffer returns an empty buffer with room for at least size bytes.
func getBuffer(size int) *buffer {
	class := max(bits.Len(uint(max(size, 1)-1)), minBufferBits)
	if class > maxBufferBits {
		return &buffer{b: make([]byte, 0, size)}
	}
	if x := bufferPools[class].Get(); x != nil {
		return x.(*buffer)
	}
	return &buffer{b: make([]byte, 0, 1<<class)}
}

// putBuffer puts b back into a pool. The caller must not use b afterwards. A buffer
// that has grown since getBuffer goes to the pool for its new capacity.
func putBuffer(b *buffer) {
	class := bits.Len(uint(cap(b.b))) - 1
	if class < minBufferBits || class > maxBufferBits {
		return
	}
	b.b = b.b[:0]
	bufferPools[class].Put(b)
}
