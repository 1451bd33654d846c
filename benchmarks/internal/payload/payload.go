// Package payload makes and parses the payload that every system carries: a JSON
// object of a fixed size with a sequence number and the time of publication. Find
// locates it inside any envelope by its first bytes.
package payload

import "bytes"

// Overhead is the smallest size of a payload, in bytes.
const Overhead = len(head) + seqLen + len(mid) + atLen + len(pad) + len(tail)

const (
	head = `{"seq":"`
	mid  = `","at":"`
	pad  = `","pad":"`
	tail = `"}`

	seqLen = 8
	atLen  = 16
	seqAt  = len(head)
	timeAt = seqAt + seqLen + len(mid)
)

// filler deflates to about a quarter, like the JSON of ordinary services.
const filler = `user=alice action=update item=4711 state=ready price=19.99 currency=EUR region=north ` +
	`user=bob action=create item=815 state=pending price=7.25 currency=USD region=south ` +
	`user=carol action=delete item=1234 state=closed price=102.10 currency=EUR region=west ` +
	`user=dave action=update item=99 state=ready price=0.49 currency=GBP region=east `

var head8 = []byte(head)

// Append appends a payload of size bytes to dst, or of Overhead bytes if size is
// smaller. at is the time of publication in Unix nanoseconds.
func Append(dst []byte, seq uint32, at int64, size int) []byte {
	dst = append(dst, head...)
	dst = appendHex(dst, uint64(seq), seqLen)
	dst = append(dst, mid...)
	dst = appendHex(dst, uint64(at), atLen)
	dst = append(dst, pad...)
	for n := size - Overhead; n > 0; {
		part := filler[:min(n, len(filler))]
		dst = append(dst, part...)
		n -= len(part)
	}
	return append(dst, tail...)
}

// Find returns the offset of the first payload in b, or -1. It tries the offset
// hint first.
func Find(b []byte, hint int) int {
	if hint >= 0 && hint+len(head) <= len(b) && string(b[hint:hint+len(head)]) == head {
		return hint
	}
	return bytes.Index(b, head8)
}

// Seq returns the sequence number of the payload at the start of p. It returns
// false if p does not begin with a whole payload of size bytes.
func Seq(p []byte, size int) (uint32, bool) {
	if size < Overhead || len(p) < size || p[size-1] != '}' || p[size-2] != '"' {
		return 0, false
	}
	v, ok := parseHex(p[seqAt : seqAt+seqLen])
	return uint32(v), ok
}

// At returns a payload's time of publication in Unix nanoseconds. Call it only
// after Seq has returned true for p.
func At(p []byte) int64 {
	v, _ := parseHex(p[timeAt : timeAt+atLen])
	return int64(v)
}

const digits = "0123456789abcdef"

func appendHex(dst []byte, v uint64, n int) []byte {
	for i := n - 1; i >= 0; i-- {
		dst = append(dst, digits[v>>(4*i)&15])
	}
	return dst
}

var hexValue = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range digits {
		t[digits[i]] = byte(i)
	}
	return t
}()

func parseHex(b []byte) (v uint64, ok bool) {
	var bad byte
	for _, c := range b {
		d := hexValue[c]
		bad |= d
		v = v<<4 | uint64(d&15)
	}
	return v, bad&0xf0 == 0
}
