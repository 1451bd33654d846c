package websocket

import (
	"bytes"
	"compress/flate"
	"io"
	"math/bits"
	"sync"
)

// Buffers are pooled by capacity in powers of two. Only the last holder of a
// buffer gives it back, and nothing pooled holds a channel or a timer.
const (
	minBufferBits = 8  // 256 B
	maxBufferBits = 20 // 1 MiB; larger buffers are left to the collector
)

var bufferPools [maxBufferBits + 1]sync.Pool

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

// putBuffer gives b back. A buffer that grew since getBuffer goes to the class
// that its capacity now fills.
func putBuffer(b *buffer) {
	class := bits.Len(uint(cap(b.b))) - 1
	if class < minBufferBits || class > maxBufferBits {
		return
	}
	b.b = b.b[:0]
	bufferPools[class].Put(b)
}

// deflater compresses single messages without context takeover, so that one
// result fits every client (RFC 7692 section 7.2.1).
type deflater struct {
	w   *flate.Writer
	out sliceWriter
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// deflaterPool keeps compressors of one level; each holds some 600 KiB of
// window and tables.
type deflaterPool struct {
	level int
	pool  sync.Pool
}

// deflateTail ends every flushed block and is left out on the wire
// (RFC 7692 section 7.2.1).
var deflateTail = []byte{0, 0, 0xff, 0xff}

// appendDeflated appends the compressed form of src to dst.
func (p *deflaterPool) appendDeflated(dst, src []byte) ([]byte, error) {
	d, ok := p.pool.Get().(*deflater)
	if !ok {
		w, err := flate.NewWriter(nil, p.level)
		if err != nil {
			return nil, err
		}
		d = &deflater{w: w}
	}
	d.out.b = dst
	d.w.Reset(&d.out)
	_, err := d.w.Write(src)
	if err == nil {
		err = d.w.Flush()
	}
	out := bytes.TrimSuffix(d.out.b, deflateTail)
	d.out.b = nil
	p.pool.Put(d)
	return out, err
}

// inflater decompresses single messages.
type inflater struct {
	r   io.ReadCloser // a flate.Resetter too
	src bytes.Reader
}

type inflaterPool struct{ pool sync.Pool }

var inflaters inflaterPool

// inflateTail is deflateTail and a final empty block, which ends the stream.
const inflateTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// appendInflated appends the decompressed form of src to dst, which is empty. It
// overwrites what follows src in its slice. Past limit bytes it stops with
// errTooBig.
//
// A peer may end a block with the bit that says "final" and go on with another
// (RFC 7692 section 7.2.3.4), so the end of a stream is not the end of a message.
func (p *inflaterPool) appendInflated(dst, src []byte, limit int64) ([]byte, error) {
	in, ok := p.pool.Get().(*inflater)
	if !ok {
		in = &inflater{}
		in.r = flate.NewReader(&in.src)
	}
	defer func() {
		in.src.Reset(nil)
		p.pool.Put(in)
	}()
	in.src.Reset(append(src, inflateTail...))
	for {
		if err := in.r.(flate.Resetter).Reset(&in.src, dst[max(0, len(dst)-flateWindow):]); err != nil {
			return dst, err
		}
		var err error
		if dst, err = readAll(dst, in.r, limit); err != nil || in.src.Len() <= len(inflateTail) {
			return dst, err
		}
	}
}

const flateWindow = 32 << 10
