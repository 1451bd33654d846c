package tally_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/maoxiaoyue/hypgo-websocket/benchmarks/internal/tally"
)

func TestSequence(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name     string
		in       []uint32
		skipped  uint32
		disorder int
	}{
		{"in order", []uint32{1, 2, 3}, 0, 0},
		{"first one missing", []uint32{2, 3}, 1, 0},
		{"three missing", []uint32{1, 5, 6}, 3, 0},
		{"twice", []uint32{1, 2, 2, 3}, 0, 1},
		{"swapped", []uint32{1, 3, 2, 4}, 1, 1},
		{"from the start again", []uint32{1, 2, 1, 2}, 0, 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s tally.Sequence
			var skipped uint32
			disorder := 0
			for _, n := range tt.in {
				k, d := s.Observe(n)
				skipped += k
				if d {
					disorder++
				}
			}
			require.Equal(t, tt.skipped, skipped)
			require.Equal(t, tt.disorder, disorder)
		})
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	for _, top := range []int64{1, 31, 32, 1000, 1e6, 1e9, 1e12} {
		var h tally.Histogram
		var v []int64
		for range 5000 {
			n := rng.Int64N(top + 1)
			h.Record(n)
			v = append(v, n)
		}
		slices.Sort(v)
		require.Equal(t, uint64(len(v)), h.Count())
		require.Equal(t, v[len(v)-1], h.Max())
		for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
			exact := v[max(int(math.Ceil(q*float64(len(v))))-1, 0)]
			got := h.Quantile(q)
			require.GreaterOrEqual(t, got, exact, "q %g of %d", q, top)
			require.LessOrEqual(t, got, exact+exact/32+1, "q %g of %d", q, top)
		}
	}
}

func TestHistogramEdges(t *testing.T) {
	t.Parallel()
	var h tally.Histogram
	require.Zero(t, h.Quantile(0.5))
	h.Record(-5) // the clocks of two processors may differ
	require.Zero(t, h.Quantile(1))
	h.Record(math.MaxInt64)
	require.Equal(t, int64(math.MaxInt64), h.Quantile(1))
	h.Reset()
	require.Zero(t, h.Count())
	require.Zero(t, h.Max())
}

func TestSummarize(t *testing.T) {
	t.Parallel()
	require.Equal(t, tally.Spread{}, tally.Summarize(nil))
	require.Equal(t, tally.Spread{Median: 2, Min: 1, Max: 9}, tally.Summarize([]float64{9, 1, 2}))
	require.Equal(t, tally.Spread{Median: 2.5, Min: 1, Max: 4}, tally.Summarize([]float64{4, 1, 2, 3}))
}
