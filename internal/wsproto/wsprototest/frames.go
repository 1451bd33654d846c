// Package wsprototest writes the frames of a client and judges streams of them, for
// tests. It does not use package wsproto.
package wsprototest

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
)

// First bytes of frames (RFC 6455 section 5.2).
const (
	fin      = 0x80
	rsv1     = 0x40
	contOp   = 0x0
	textOp   = 0x1
	binaryOp = 0x2
	closeOp  = 0x8
	pingOp   = 0x9
	pongOp   = 0xa
)

// Frame returns a masked frame with its length in the shortest form.
func Frame(first byte, payload string) string {
	return Header(first, 0x80, uint64(len(payload)), 0) + Masked(payload)
}

// Header returns a frame's header without the masking key. form is the number of
// bytes of its length: 1, 3 or 9, or 0 for the shortest form.
func Header(first, maskBit byte, length uint64, form int) string {
	b := []byte{first}
	switch {
	case form == 9 || form == 0 && length > 0xffff:
		b = binary.BigEndian.AppendUint64(append(b, 127|maskBit), length)
	case form == 3 || form == 0 && length > 125:
		b = binary.BigEndian.AppendUint16(append(b, 126|maskBit), uint16(length))
	default:
		b = append(b, byte(length)|maskBit)
	}
	return string(b)
}

// Masked returns a masking key and the payload masked with it.
func Masked(payload string) string {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b := append(key[:], payload...)
	for i := range len(payload) {
		b[4+i] ^= key[i%4]
	}
	return string(b)
}

// CloseFrame returns a masked Close frame. It may break RFC 6455.
func CloseFrame(code int, reason string) string {
	return Frame(fin|closeOp, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

func textFrame(payload string) string { return Frame(fin|textOp, payload) }
func pingFrame(payload string) string { return Frame(fin|pingOp, payload) }
func pongFrame(payload string) string { return Frame(fin|pongOp, payload) }

// Fragments returns a message with one frame for each piece. first is the first
// frame's first byte without FIN.
func Fragments(first byte, pieces ...string) string {
	var b strings.Builder
	for i, piece := range pieces {
		head := first
		if i > 0 {
			head = contOp
		}
		if i == len(pieces)-1 {
			head |= fin
		}
		b.WriteString(Frame(head, piece))
	}
	return b.String()
}

// Chopped cuts s into pieces of n bytes.
func Chopped(s string, n int) (pieces []string) {
	for ; len(s) > n; s = s[n:] {
		pieces = append(pieces, s[:n])
	}
	return append(pieces, s)
}

// Deflated returns s compressed as RFC 7692 section 7.2.1 says. It panics if the
// level is invalid.
func Deflated(s string, level int) string {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, level)
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(w, s) // a bytes.Buffer takes everything
	_ = w.Flush()
	return strings.TrimSuffix(b.String(), "\x00\x00\xff\xff")
}

// Mixed returns n messages as streams of frames, their texts, and whether each of
// them is compressed with deflate, which about every other one is. Some are
// fragmented, some of those with a ping inside.
func Mixed(n int, deflate func(string) string) (streams, texts []string, compressed []bool) {
	rng := rand.New(rand.NewPCG(7, 7))
	for i := range n {
		text := fmt.Sprint(i, strings.Repeat(" and on", rng.IntN(20)))
		payload, first := text, byte(textOp)
		zip := rng.IntN(2) == 0
		if zip {
			payload, first = deflate(text), textOp|rsv1
		}
		var stream string
		switch half := len(payload) / 2; rng.IntN(4) {
		case 0:
			stream = Frame(first, payload[:half]) + pingFrame("p") + Frame(fin|contOp, payload[half:])
		case 1:
			stream = Frame(first, payload[:half]) + Frame(contOp, "") + Frame(fin|contOp, payload[half:])
		default:
			stream = Frame(fin|first, payload)
		}
		streams, texts, compressed = append(streams, stream), append(texts, text), append(compressed, zip)
	}
	return streams, texts, compressed
}
