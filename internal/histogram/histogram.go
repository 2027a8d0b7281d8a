// Package histogram counts durations by length.
package histogram

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

const (
	shortest = 125 * time.Microsecond
	bounds   = 21
)

// Bounds returns the upper bounds of the buckets: each is twice the one before, from 125 us
// to 131 s. A dial over a local network is near the first, and one that nothing answers ends
// near the last.
func Bounds() (all [bounds]time.Duration) {
	for i := range all {
		all[i] = shortest << i
	}
	return all
}

// A Histogram counts durations. The zero value is ready and takes one word until the first
// Add. All methods are safe for concurrent use.
type Histogram struct{ counts atomic.Pointer[counts] }

// counts are the buckets, with one more for what is longer than the last bound.
type counts struct {
	buckets [bounds + 1]atomic.Uint64
	seconds atomic.Uint64 // a float64
}

// Add counts d. Less than zero counts as zero.
func (h *Histogram) Add(d time.Duration) {
	c := h.counts.Load()
	if c == nil {
		h.counts.CompareAndSwap(nil, new(counts))
		c = h.counts.Load()
	}
	d = max(0, d)
	c.buckets[bucketOf(d)].Add(1)
	c.addSeconds(d.Seconds())
}

// bucketOf returns the first bucket whose bound is not below d.
func bucketOf(d time.Duration) int {
	return min(bits.Len64(uint64(max(0, d-1)/shortest)), bounds)
}

// addSeconds keeps a float64, because 10,000 dials that always wait would fill an int64 of
// nanoseconds in 11 days.
func (c *counts) addSeconds(s float64) {
	for {
		old := c.seconds.Load()
		if c.seconds.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+s)) {
			return
		}
	}
}

// Counts is what a Histogram has counted.
type Counts struct {
	UpTo    [bounds]uint64 // how many were no longer than each of Bounds
	All     uint64
	Seconds float64 // the sum
}

// Counts returns the counts. While others add, Seconds may be of a moment later than the rest.
func (h *Histogram) Counts() (all Counts) {
	c := h.counts.Load()
	if c == nil {
		return all
	}
	for i := range c.buckets {
		all.All += c.buckets[i].Load()
		if i < bounds {
			all.UpTo[i] = all.All
		}
	}
	all.Seconds = math.Float64frombits(c.seconds.Load())
	return all
}
