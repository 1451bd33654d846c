package websocket

import (
	"math"
	"sync/atomic"
	"time"
)

// HistogramBuckets is the number of buckets of a Histogram. HistogramOffset is the power
// that belongs to the first: see Histogram.Buckets.
const (
	HistogramBuckets = 107
	HistogramOffset  = -80
)

// Histogram counts durations in buckets whose bounds grow by a factor of 2^(1/4). They are
// those of native histograms with schema 2 (Prometheus) and of exponential histograms with
// scale 2 (OpenTelemetry).
type Histogram struct {
	// Count is the number of durations.
	Count uint64 `json:"count"`
	// Sum is the sum of the durations, in nanoseconds.
	Sum time.Duration `json:"sum"`
	// Buckets[i] counts the durations up to 2^((i+HistogramOffset)/4) seconds that are
	// longer than the bound of the bucket before: the bounds begin with about a microsecond
	// and end with 76 seconds. The last bucket also counts all longer durations.
	Buckets [HistogramBuckets]uint64 `json:"-"`
}

// UpperBound returns the longest duration that bucket i counts, in seconds, and +Inf for
// the last bucket.
func (Histogram) UpperBound(i int) float64 {
	if i >= HistogramBuckets-1 {
		return math.Inf(1)
	}
	return math.Exp2(float64(i+HistogramOffset) / 4)
}

// histogram is a Histogram that any goroutine may add to.
type histogram struct {
	sum     atomic.Int64 // nanoseconds
	buckets [HistogramBuckets]atomic.Uint64
}

// observe counts a duration.
func (h *histogram) observe(d int64) {
	h.buckets[bucketOf(d)].Add(1)
	h.sum.Add(max(d, 0))
}

// since counts the duration from a time of the hub's clock until now.
func (h *histogram) since(began int64, hub *Hub) { h.observe(hub.clock() - began) }

// quarters are the bounds within an octave, as fractions of the next power of two.
var quarters = [3]float64{math.Exp2(-0.75), math.Exp2(-0.5), math.Exp2(-0.25)}

// bucketOf returns the bucket of a duration in nanoseconds.
func bucketOf(d int64) int {
	fraction, exponent := math.Frexp(float64(d) / float64(time.Second))
	i := 4*(exponent-1) - HistogramOffset
	if fraction > 0.5 {
		i++
	}
	for _, bound := range quarters {
		if fraction > bound {
			i++
		}
	}
	if d <= 0 {
		i = 0
	}
	return min(max(i, 0), HistogramBuckets-1)
}

// addTo adds what h has counted to sum.
func (h *histogram) addTo(sum *Histogram) {
	for i := range h.buckets {
		n := h.buckets[i].Load()
		sum.Buckets[i] += n
		sum.Count += n
	}
	sum.Sum += time.Duration(h.sum.Load())
}
