package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPeak(t *testing.T) {
	t.Parallel()
	at := func(seconds ...float64) (times []int64) {
		for _, s := range seconds {
			times = append(times, int64(1e18+s*float64(time.Second)))
		}
		return times
	}
	require.Equal(t, 0, peak(nil, 1e18))
	require.Equal(t, 3, peak(at(-0.5, -0.1, -0.2, -0.3, 0, 0.99, 1, 1.5, 1.9, 2, 14.9), 1e18), "times before the beginning do not count")
	require.Equal(t, 1, peak(at(14.9, 15, 15.1, 1e6), 1e18), "later ones do not either")
}
