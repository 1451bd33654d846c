package flate_test

import (
	"bytes"
	stdflate "compress/flate"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/maoxiaoyue/hypgo-websocket/internal/flate"
	"github.com/stretchr/testify/require"
)

// inflateTail turns a message into a complete stream.
const inflateTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

func payloads() [][]byte {
	noise := make([]byte, 70_000)
	rng := rand.NewChaCha8([32]byte{7})
	_, _ = rng.Read(noise) // never fails
	return [][]byte{nil, []byte("x"), []byte("Hello"), bytes.Repeat([]byte("0123456789abcdef"), 10_000), noise}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, level := range []int{stdflate.HuffmanOnly, stdflate.DefaultCompression, stdflate.NoCompression, stdflate.BestSpeed, stdflate.BestCompression} {
		d := flate.NewDeflater(level)
		for _, payload := range payloads() {
			for range 2 { // the second one uses the pool
				out, err := d.Append([]byte("before"), payload)
				require.NoError(t, err)
				compressed, ok := bytes.CutPrefix(out, []byte("before"))
				require.True(t, ok)
				require.False(t, bytes.HasSuffix(compressed, []byte("\x00\x00\xff\xff")))
				got, err := flate.AppendInflated(nil, compressed, int64(len(payload)))
				require.NoError(t, err)
				require.True(t, bytes.Equal(payload, got))
			}
		}
	}
}

func TestAppendInvalidLevel(t *testing.T) {
	t.Parallel()
	_, err := flate.NewDeflater(10).Append(nil, []byte("x"))
	require.Error(t, err)
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	d := flate.NewDeflater(stdflate.BestSpeed)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() { // ends by itself
			payload := bytes.Repeat([]byte{byte(i)}, 1000*i)
			for range 20 {
				compressed, err := d.Append(nil, payload)
				if err != nil {
					t.Error(err)
				}
				got, err := flate.AppendInflated(nil, compressed, 1<<20)
				if err != nil || !bytes.Equal(got, payload) {
					t.Error("round trip", err)
				}
			}
		})
	}
	wg.Wait()
}

// TestAppendInflated decompresses the examples of RFC 7692 section 7.2.3 and corrupt
// input.
func TestAppendInflated(t *testing.T) {
	t.Parallel()
	const hello, finalHello = "\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf3\x48\xcd\xc9\xc9\x07\x00"
	for _, tt := range []struct {
		name, src, want string
		corrupt         bool
	}{
		{"7.2.3.1", hello, "Hello", false},
		{"7.2.3.3", "\x00\x05\x00\xfa\xffHello\x00", "Hello", false},
		{"7.2.3.4", finalHello + "\x00", "Hello", false},
		{"7.2.3.5", "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello", false},
		{"7.2.3.6", "\x00", "", false},
		{"two final blocks", finalHello + finalHello + "\x00", "HelloHello", false},
		{"final block that refers to the one before", finalHello + "\xf2\x00\x11\x00\x00", "HelloHello", false},
		{"refers to the message before", "\xf2\x00\x11\x00\x00", "", true},
		{"reserved block type", "\x06", "", true},
		{"noise", "\xff\xff\xff\xff\xff\xff", "", true},
		{"cut off", hello[:3], "", true},
		{"stored length and its complement differ", "\x00\x05\x00\x00\x00Hello\x00", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := flate.AppendInflated(nil, []byte(tt.src), 1000)
			if tt.corrupt {
				require.Error(t, err)
				require.NotErrorIs(t, err, flate.ErrTooBig)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, string(got))
		})
	}
}

func TestAppendInflatedLimit(t *testing.T) {
	t.Parallel()
	bomb, err := flate.NewDeflater(stdflate.BestCompression).Append(nil, make([]byte, 10<<20))
	require.NoError(t, err)
	got, err := flate.AppendInflated(make([]byte, 0, 512), bomb, 1000)
	require.ErrorIs(t, err, flate.ErrTooBig)
	require.Greater(t, len(got), 1000)
	require.Less(t, len(got), 4000, "it stops soon after the limit")

	final := strings.Repeat("\xf3\x48\xcd\xc9\xc9\x07\x00", 300) // 1500 bytes in final blocks
	_, err = flate.AppendInflated(nil, []byte(final+"\x00"), 1000)
	require.ErrorIs(t, err, flate.ErrTooBig)
}

func TestReadAll(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for _, r := range []func(string) io.Reader{
		func(s string) io.Reader { return strings.NewReader(s) },
		func(s string) io.Reader { return iotest.OneByteReader(strings.NewReader(s)) },
		func(s string) io.Reader { return iotest.DataErrReader(strings.NewReader(s)) },
	} {
		got, err := flate.ReadAll([]byte("be"), r("fore"), 6)
		require.NoError(t, err)
		require.Equal(t, "before", string(got))
		got, err = flate.ReadAll(nil, r("123456"), 5)
		require.ErrorIs(t, err, flate.ErrTooBig)
		require.Equal(t, "123456", string(got))
		got, err = flate.ReadAll(nil, io.MultiReader(r("123"), iotest.ErrReader(broken)), 5)
		require.ErrorIs(t, err, broken)
		require.Equal(t, "123", string(got))
	}
}

func FuzzRoundTrip(f *testing.F) {
	for i, payload := range payloads() {
		f.Add(payload, i-2)
	}
	f.Fuzz(func(t *testing.T, payload []byte, level int) {
		compressed, err := flate.NewDeflater(level).Append(nil, payload)
		if level < stdflate.HuffmanOnly || level > stdflate.BestCompression {
			require.Error(t, err)
			return
		}
		require.NoError(t, err)
		got, err := flate.AppendInflated(nil, compressed, int64(len(payload)))
		require.NoError(t, err)
		require.True(t, bytes.Equal(payload, got))
	})
}

// FuzzAppendInflated compares with compress/flate, which stops at the first final
// block.
func FuzzAppendInflated(f *testing.F) {
	d := flate.NewDeflater(stdflate.BestSpeed)
	for _, payload := range payloads() {
		compressed, err := d.Append(nil, payload)
		require.NoError(f, err)
		f.Add(compressed)
		f.Add(compressed[:len(compressed)/2])
	}
	for _, seed := range []string{"", "\x06", "\xf3\x48\xcd\xc9\xc9\x07\x00", "\xf3\x48\xcd\xc9\xc9\x07\x00\xf2\x00\x11\x00\x00", "\x02\x07\x00"} {
		f.Add([]byte(seed))
	}
	const limit = 10_000
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := flate.AppendInflated(nil, bytes.Clone(src), limit)
		require.Equal(t, errors.Is(err, flate.ErrTooBig), len(got) > limit)

		rest := bytes.NewReader(append(bytes.Clone(src), inflateTail...))
		want, wantErr := io.ReadAll(io.LimitReader(stdflate.NewReader(rest), limit))
		require.True(t, bytes.HasPrefix(got, want))
		switch {
		case wantErr != nil:
			require.Error(t, err)
		case len(want) < limit && rest.Len() <= len(inflateTail): // no block follows in src
			require.NoError(t, err)
			require.Len(t, got, len(want))
		}
	})
}

// BenchmarkPools compares each pool with allocating the state every time, to show that
// the pool is worth keeping.
func BenchmarkPools(b *testing.B) {
	text := bytes.Repeat([]byte(`{"headline":"Breaking News!"}`), 36)
	d := flate.NewDeflater(stdflate.BestSpeed)
	compressed, err := d.Append(nil, text)
	require.NoError(b, err)
	for _, bench := range []struct {
		name          string
		pooled, fresh func()
	}{
		{"deflater",
			func() { _, _ = d.Append(nil, text) },
			func() { _, _ = flate.NewDeflater(stdflate.BestSpeed).Append(nil, text) },
		},
		{"inflater",
			func() { _, _ = flate.AppendInflated(nil, bytes.Clone(compressed), 1<<20) },
			func() {
				src := bytes.NewReader(append(bytes.Clone(compressed), inflateTail...))
				_, _ = flate.ReadAll(nil, stdflate.NewReader(src), 1<<20)
			},
		},
	} {
		for way, f := range map[string]func(){"yes": bench.pooled, "no": bench.fresh} {
			b.Run("of="+bench.name+"/pool="+way, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					f()
				}
			})
		}
	}
}
