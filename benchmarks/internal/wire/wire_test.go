package wire_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/wire"
)

const limit = 1 << 20

var key = [4]byte{1, 2, 3, 4}

func TestParseRoundTrip(t *testing.T) {
	t.Parallel()
	for _, size := range []int{0, 1, 7, 8, 125, 126, 127, 65535, 65536, 70000} {
		want := bytes.Repeat([]byte("abcdefg"), size/7+1)[:size]
		for _, masked := range []bool{false, true} {
			b := wire.AppendServer(nil, 0x80|wire.Binary, want)
			if masked {
				b = wire.AppendClient(nil, wire.Binary, want, key)
			}
			f, n, err := wire.Parse(append(b, "next"...), masked, limit)
			require.NoError(t, err)
			require.Equal(t, len(b), n)
			require.Equal(t, byte(wire.Binary), f.Op)
			require.True(t, f.Fin)
			require.True(t, bytes.Equal(want, f.Payload), "size %d masked %t", size, masked)
		}
	}
}

func TestParseWaitsForTheRest(t *testing.T) {
	t.Parallel()
	for _, size := range []int{5, 300, 66000} {
		for _, masked := range []bool{false, true} {
			b := wire.AppendServer(nil, 0x80|wire.Text, make([]byte, size))
			if masked {
				b = wire.AppendClient(nil, wire.Text, make([]byte, size), key)
			}
			for cut := range min(len(b), 20) {
				_, n, err := wire.Parse(b[:cut], masked, limit)
				require.NoError(t, err)
				require.Zero(t, n)
			}
			_, n, err := wire.Parse(b[:len(b)-1], masked, limit)
			require.NoError(t, err)
			require.Zero(t, n)
		}
	}
}

func TestParseRejects(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		in     []byte
		masked bool
	}{
		{"reserved bit", []byte{0xa1, 0}, false},
		{"unexpected mask", []byte{0x81, 0x80, 0, 0, 0, 0}, false},
		{"missing mask", []byte{0x81, 0}, true},
		{"data opcode 3", []byte{0x83, 0}, false},
		{"control opcode 11", []byte{0x8b, 0}, false},
		{"fragmented ping", []byte{0x09, 0}, false},
		{"deflated ping", []byte{0xc9, 0}, false},
		{"long ping", []byte{0x89, 126, 0, 126}, false},
		{"over the limit", []byte{0x82, 127, 0, 0, 0, 0, 0, 16, 0, 1}, false},
		{"length with the top bit", []byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, _, err := wire.Parse(tt.in, tt.masked, limit)
			require.ErrorIs(t, err, wire.ErrFrame)
		})
	}
}

func TestAssembler(t *testing.T) {
	t.Parallel()
	var a wire.Assembler
	add := func(f wire.Frame) (byte, bool, string, bool, error) {
		op, rsv1, msg, done, err := a.Add(f, 10)
		return op, rsv1, string(msg), done, err
	}
	_, _, _, done, err := add(wire.Frame{Op: wire.Text, RSV1: true, Payload: []byte("ab")})
	require.NoError(t, err)
	require.False(t, done)
	_, _, _, done, err = add(wire.Frame{Op: wire.Continuation, Payload: []byte("cd")})
	require.NoError(t, err)
	require.False(t, done)
	op, rsv1, msg, done, err := add(wire.Frame{Op: wire.Continuation, Fin: true, Payload: []byte("e")})
	require.NoError(t, err)
	require.True(t, done)
	require.True(t, rsv1)
	require.Equal(t, byte(wire.Text), op)
	require.Equal(t, "abcde", msg)

	_, _, _, _, err = add(wire.Frame{Op: wire.Continuation, Fin: true})
	require.ErrorIs(t, err, wire.ErrFrame)
	_, _, _, _, err = add(wire.Frame{Op: wire.Binary, Payload: []byte("123456")})
	require.NoError(t, err)
	_, _, _, _, err = add(wire.Frame{Op: wire.Binary, Fin: true})
	require.ErrorIs(t, err, wire.ErrFrame)
	_, _, _, _, err = add(wire.Frame{Op: wire.Continuation, Fin: true, Payload: []byte("78901")})
	require.ErrorIs(t, err, wire.ErrFrame)
}

func FuzzParse(f *testing.F) {
	f.Add(wire.AppendServer(nil, 0x80|wire.Text, []byte("hello")), false)
	f.Add(wire.AppendServer(nil, 0x80|wire.Binary, make([]byte, 300)), false)
	f.Add(wire.AppendClient(nil, wire.Text, []byte("hello"), key), true)
	f.Fuzz(func(t *testing.T, b []byte, masked bool) {
		fr, n, err := wire.Parse(bytes.Clone(b), masked, limit)
		if err != nil || n == 0 {
			return
		}
		if n > len(b) || len(fr.Payload) > n {
			t.Fatalf("%d bytes of %d, payload %d", n, len(b), len(fr.Payload))
		}
		// A truncated frame is never parsed as a whole one.
		if _, k, err := wire.Parse(bytes.Clone(b[:n-1]), masked, limit); err == nil && k != 0 {
			t.Fatalf("%d bytes of a frame of %d", k, n)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	frame := wire.AppendServer(nil, 0x80|wire.Text, make([]byte, 128))
	b.ReportAllocs()
	for b.Loop() {
		if _, n, err := wire.Parse(frame, false, limit); n == 0 || err != nil {
			b.Fatal(n, err)
		}
	}
}
