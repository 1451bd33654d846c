package seal_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/seal"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	k, err := seal.New(seal.AESKey, seal.HMACKey)
	require.NoError(t, err)
	for _, data := range []string{"", "x", "hello, sealed world"} {
		b := k.Seal([]byte("before"), []byte(data))
		require.Len(t, b, 6+12+32+len(data)+16)
		got, err := k.Open(b[6:])
		require.NoError(t, err)
		require.Equal(t, data, string(got))
	}
}

func TestOpenRejects(t *testing.T) {
	t.Parallel()
	mine, err := seal.New(seal.AESKey, seal.HMACKey)
	require.NoError(t, err)
	other, err := seal.New(seal.ClientKey(1), seal.HMACKey)
	require.NoError(t, err)
	mac, err := seal.New(seal.AESKey, []byte("another"))
	require.NoError(t, err)
	b := mine.Seal(nil, []byte("data"))
	flipped := append([]byte(nil), b...)
	flipped[20] ^= 1
	tests := map[string][]byte{
		"empty": nil, "short": b[:11], "cut": b[:len(b)-1], "flipped": flipped,
		"other key": other.Seal(nil, []byte("data")), "other signature": mac.Seal(nil, []byte("data")),
	}
	for name, in := range tests {
		_, err := mine.Open(in)
		require.ErrorIs(t, err, seal.ErrOpen, name)
	}
}
