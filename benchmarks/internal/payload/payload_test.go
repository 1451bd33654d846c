package payload_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/payload"
)

func TestAppend(t *testing.T) {
	t.Parallel()
	for _, size := range []int{payload.Overhead, 128, 1024, 4096} {
		b := payload.Append(nil, 0xdeadbeef, 1700000000123456789, size)
		require.Len(t, b, size)
		require.True(t, json.Valid(b))
		seq, ok := payload.Seq(b, size)
		require.True(t, ok)
		require.Equal(t, uint32(0xdeadbeef), seq)
		require.Equal(t, int64(1700000000123456789), payload.At(b))
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	p := string(payload.Append(nil, 1, 2, 128))
	require.Equal(t, 0, payload.Find([]byte(p), 0))
	require.Equal(t, 8, payload.Find([]byte(`{"data":`+p+`}`), 8))
	require.Equal(t, 8, payload.Find([]byte(`{"data":`+p+`}`), 3), "a wrong hint")
	require.Equal(t, 8, payload.Find([]byte(`{"data":`+p+`}`), 1000), "a hint past the end")
	require.Equal(t, -1, payload.Find([]byte(`{"data":1}`), 0))
}

func TestSeqRejects(t *testing.T) {
	t.Parallel()
	p := payload.Append(nil, 1, 2, 128)
	tests := map[string][]byte{
		"cut short":    p[:127],
		"wrong end":    append(append([]byte(nil), p[:127]...), 'x'),
		"not a number": append([]byte(`{"seq":"0000000g`), p[16:]...),
		"empty":        nil,
	}
	for name, b := range tests {
		_, ok := payload.Seq(b, 128)
		require.False(t, ok, name)
	}
}
