// Package tally counts lost and disordered messages of a subscriber, and collects
// latencies.
package tally

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
)

// Sequence checks the sequence numbers that one subscriber receives. They count
// up from 1. Only one goroutine may use it.
type Sequence struct {
	last uint32
}

// Observe checks the next number. skipped is the number of missing numbers before
// it. disorder is true if it is not above the highest one: late or repeated.
func (s *Sequence) Observe(seq uint32) (skipped uint32, disorder bool) {
	if seq <= s.last {
		return 0, true
	}
	skipped = seq - s.last - 1
	s.last = seq
	return skipped, false
}

// Histogram counts durations in nanoseconds. A bucket is at most 1/32 as wide as
// the durations in it. It is safe for concurrent use.
type Histogram struct {
	counts [64 * subBuckets]atomic.Uint64
	max    atomic.Int64
}

const (
	subBits    = 5
	subBuckets = 1 << subBits
)

func bucket(ns int64) int {
	if ns < subBuckets {
		return int(max(ns, 0))
	}
	shift := bits.Len64(uint64(ns)) - 1 - subBits
	return (shift+1)*subBuckets + int(uint64(ns)>>shift) - subBuckets
}

// upper returns the largest value that falls into bucket i.
func upper(i int) int64 {
	if i < subBuckets {
		return int64(i)
	}
	shift := i/subBuckets - 1
	return int64(uint64(i%subBuckets+subBuckets+1)<<shift) - 1
}

// Record counts one duration.
func (h *Histogram) Record(ns int64) {
	h.counts[bucket(ns)].Add(1)
	for {
		m := h.max.Load()
		if ns <= m || h.max.CompareAndSwap(m, ns) {
			return
		}
	}
}

// Count returns how many durations were recorded.
func (h *Histogram) Count() (n uint64) {
	for i := range h.counts {
		n += h.counts[i].Load()
	}
	return n
}

// Max returns the longest duration.
func (h *Histogram) Max() int64 { return h.max.Load() }

// Quantile returns the duration that a fraction q of all recorded ones does not
// exceed, rounded up by at most 1/32. It returns 0 if nothing was recorded.
func (h *Histogram) Quantile(q float64) int64 {
	total := h.Count()
	if total == 0 {
		return 0
	}
	rank := min(max(uint64(math.Ceil(q*float64(total))), 1), total)
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return min(upper(i), h.Max())
		}
	}
	return h.Max()
}

// Reset deletes all recorded durations.
func (h *Histogram) Reset() {
	for i := range h.counts {
		h.counts[i].Store(0)
	}
	h.max.Store(0)
}

// Spread is a median with the smallest and largest value.
type Spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// Summarize returns the spread of values. It is zero if there are none.
func Summarize(values []float64) Spread {
	if len(values) == 0 {
		return Spread{}
	}
	v := slices.Sorted(slices.Values(values))
	mid := v[len(v)/2]
	if len(v)%2 == 0 {
		mid = (v[len(v)/2-1] + mid) / 2
	}
	return Spread{Median: mid, Min: v[0], Max: v[len(v)-1]}
}
