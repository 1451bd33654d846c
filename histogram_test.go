package websocket_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	websocket "github.com/maoxiaoyue/hypgo-websocket"
)

func TestHistogramBuckets(t *testing.T) {
	t.Parallel()
	var h websocket.Histogram
	check := func(d time.Duration) {
		i := websocket.BucketOf(d)
		require.LessOrEqual(t, d.Seconds(), h.UpperBound(i), "%v in bucket %d", d, i)
		if i > 0 {
			require.Greater(t, d.Seconds(), h.UpperBound(i-1), "%v in bucket %d", d, i)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, time.Microsecond, time.Second, time.Second + 1, 2 * time.Second, 76 * time.Second, 77 * time.Second, math.MaxInt64} {
		check(d)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for range 100_000 {
		check(time.Duration(r.Int64N(1 << (1 + r.IntN(62)))))
	}
	require.Equal(t, -websocket.HistogramOffset, websocket.BucketOf(time.Second))
	require.Equal(t, 0, websocket.BucketOf(0))
	require.Equal(t, websocket.HistogramBuckets-1, websocket.BucketOf(math.MaxInt64))
	require.InDelta(t, 76.1, h.UpperBound(websocket.HistogramBuckets-2), 0.1)
}
