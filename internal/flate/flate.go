// Package flate compresses and decompresses single messages for permessage-deflate
// (RFC 7692) without context takeover: no message refers to one before it. All
// functions and methods may be called by several goroutines at once.
package flate

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"sync"
)

// ErrTooBig reports that data is larger than the given limit.
var ErrTooBig = errors.New("websocket: message too big")

// Deflater compresses messages at one level. It pools the compressors, each of which
// holds some 600 KiB of window and tables. One result fits every client, because the
// window is empty when a message begins (RFC 7692 section 7.1.1.1).
type Deflater struct {
	level int
	pool  sync.Pool // of *compressor
}

// NewDeflater returns a Deflater for a level of compress/flate. With an invalid level
// every Append returns an error.
func NewDeflater(level int) *Deflater { return &Deflater{level: level} }

type compressor struct {
	w   *flate.Writer
	out sliceWriter
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// deflateTail ends every flushed block and is not sent (RFC 7692 section 7.2.1).
var deflateTail = []byte{0, 0, 0xff, 0xff}

// Append appends the compressed form of src to dst.
func (d *Deflater) Append(dst, src []byte) ([]byte, error) {
	c, ok := d.pool.Get().(*compressor)
	if !ok {
		w, err := flate.NewWriter(nil, d.level)
		if err != nil {
			return nil, err
		}
		c = &compressor{w: w}
	}
	c.out.b = dst
	c.w.Reset(&c.out)
	_, err := c.w.Write(src)
	if err == nil {
		err = c.w.Flush()
	}
	out := bytes.TrimSuffix(c.out.b, deflateTail)
	c.out.b = nil
	d.pool.Put(c)
	return out, err
}

// decompressor reads src through r, which implements flate.Resetter.
type decompressor struct {
	r   io.ReadCloser
	src bytes.Reader
}

var decompressors sync.Pool // of *decompressor

// inflateTail is deflateTail and a final empty block, which ends the stream.
const inflateTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// windowSize is how far back a block may refer (RFC 1951 section 2).
const windowSize = 32 << 10

// AppendInflated appends the decompressed form of src to dst, which must be empty. It
// overwrites the bytes after src within src's capacity. It returns ErrTooBig, with
// more than limit bytes, if the message is larger than limit bytes, and the error of
// compress/flate if src is corrupt. Both errors come with the bytes so far.
//
// A peer may mark a block as final and go on with another one (RFC 7692 section
// 7.2.3.4), so the end of a stream is not the end of a message. Blocks after a final
// one may refer to the bytes before it.
func AppendInflated(dst, src []byte, limit int64) ([]byte, error) {
	d, ok := decompressors.Get().(*decompressor)
	if !ok {
		d = &decompressor{}
		d.r = flate.NewReader(&d.src)
	}
	defer func() {
		d.src.Reset(nil)
		decompressors.Put(d)
	}()
	d.src.Reset(append(src, inflateTail...))
	for {
		if err := d.r.(flate.Resetter).Reset(&d.src, dst[max(0, len(dst)-windowSize):]); err != nil {
			return dst, err
		}
		var err error
		if dst, err = ReadAll(dst, d.r, limit); err != nil || d.src.Len() <= len(inflateTail) {
			return dst, err
		}
	}
}

// ReadAll reads r to its end and appends the bytes to dst. It returns ErrTooBig as soon as the
// result is larger than limit bytes. An error of r, other than io.EOF, is returned as
// it is. Both come with the bytes so far.
func ReadAll(dst []byte, r io.Reader, limit int64) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case int64(len(dst)) > limit:
			return dst, ErrTooBig
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return dst, err
		}
	}
}
