package histogram_test

import (
	"math"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/reusetransport/reuseport/internal/histogram"
)

// TestBounds: a duration counts from the first bound that it does not exceed.
func TestBounds(t *testing.T) {
	bounds := histogram.Bounds()
	if first, last := bounds[0], bounds[len(bounds)-1]; first != 125*time.Microsecond || last != 131072*time.Millisecond {
		t.Errorf("bounds from %v to %v", first, last)
	}
	for i, bound := range bounds {
		wantFrom(t, bound-1, i)
		wantFrom(t, bound, i)
		wantFrom(t, bound+1, i+1)
	}
	wantFrom(t, -time.Second, 0)
	wantFrom(t, 0, 0)
	wantFrom(t, math.MaxInt64, len(bounds))
	wantFrom(t, math.MinInt64, 0)
}

// wantFrom wants d to count in the buckets from first on.
func wantFrom(t *testing.T, d time.Duration, first int) {
	t.Helper()
	var h histogram.Histogram
	h.Add(d)
	c := h.Counts()
	for i, n := range c.UpTo {
		if counted := n == 1; counted != (i >= first) || n > 1 {
			t.Errorf("%v: bucket %d has %d; it should count from %d on", d, i, n, first)
		}
	}
	if c.All != 1 || c.Seconds != max(0, d).Seconds() {
		t.Errorf("%v: %d durations of %v s", d, c.All, c.Seconds)
	}
}

// TestFirstAddAtOnce: of the first durations, which several goroutines add, none is lost.
func TestFirstAddAtOnce(t *testing.T) {
	for range 2000 {
		var h histogram.Histogram
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 4 {
			wg.Go(func() { <-start; h.Add(time.Second) })
		}
		close(start)
		wg.Wait()
		if c := h.Counts(); c.All != 4 {
			t.Fatalf("%d durations, want 4", c.All)
		}
	}
}

// TestAddAtOnce: of durations that several goroutines add, none is lost.
func TestAddAtOnce(t *testing.T) {
	const each = 1000
	var h histogram.Histogram
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range each {
				h.Add(time.Second)
				h.Counts()
			}
		})
	}
	wg.Wait()
	if c := h.Counts(); c.All != 8*each || c.Seconds != 8*each {
		t.Errorf("%d durations of %v s, want %d of %d", c.All, c.Seconds, 8*each, 8*each)
	}
}

// TestSize: a Histogram takes one word, and Add allocates once.
func TestSize(t *testing.T) {
	var h histogram.Histogram
	if size := unsafe.Sizeof(h); size != unsafe.Sizeof(uintptr(0)) {
		t.Errorf("it takes %d bytes", size)
	}
	if n := testing.AllocsPerRun(1000, func() { h.Add(time.Second) }); n != 0 {
		t.Errorf("Add allocates %v times", n)
	}
}

func BenchmarkAdd(b *testing.B) {
	var h histogram.Histogram
	for b.Loop() {
		h.Add(time.Millisecond)
	}
}
