//go:build linux

package main

import (
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// Sample is the result of one round of one peer.
type Sample struct {
	Value  float64  `json:"value"`           // in the unit of its scenario; the median, if of times
	P90    float64  `json:"p90,omitempty"`   // of times
	Ops    int      `json:"ops"`             // operations in the round
	Allocs float64  `json:"allocs"`          // per operation
	Bytes  float64  `json:"bytes"`           // allocated, per operation
	Share  *float64 `json:"share,omitempty"` // of the operations for which the scenario's claim held
}

// Limit bounds a round by operations and by time, whichever comes first.
type Limit struct {
	Ops  int
	Time time.Duration
}

// leastOps is the least number of operations in a round, so that its median means
// something.
const leastOps = 16

// measure calls op until the limit and sums up. op times itself, so that what it does
// before and after does not count; its allocations count in any case.
//
// The garbage collector is off, since a median would show it only for the rounds it
// happens to strike. Go code runs on one processor at a time, and not on the sink's:
// with more, it is chance whether a dial waits spinning or asleep, and that doubles
// its time.
func measure(lim Limit, op func() (time.Duration, error)) (Sample, error) {
	times := make([]time.Duration, 0, lim.Ops)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer leaveLast()()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for end := time.Now().Add(lim.Time); len(times) < lim.Ops; {
		d, err := op()
		if err != nil {
			return Sample{}, err
		}
		times = append(times, d)
		if len(times) >= leastOps && time.Now().After(end) {
			break
		}
	}
	runtime.ReadMemStats(&after)
	s := timed(times)
	s.Allocs = float64(after.Mallocs-before.Mallocs) / float64(len(times))
	s.Bytes = float64(after.TotalAlloc-before.TotalAlloc) / float64(len(times))
	return s, nil
}

// timed sums up the durations of a round. It sorts them.
func timed(times []time.Duration) Sample {
	slices.Sort(times)
	return Sample{
		Value: float64(times[len(times)/2]),
		P90:   float64(times[len(times)*9/10]),
		Ops:   len(times),
	}
}

// timeOf times one call.
func timeOf(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}

// spread is a median with its quartiles.
type spread struct {
	Low  float64 `json:"low"`
	Mid  float64 `json:"mid"`
	High float64 `json:"high"`
}

// spreadOf returns the quartiles of values, which it sorts, or zero if there are
// none.
func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	slices.Sort(values)
	at := func(q float64) float64 {
		pos := q * float64(len(values)-1)
		i := int(pos)
		if i+1 == len(values) {
			return values[i]
		}
		return values[i] + (pos-float64(i))*(values[i+1]-values[i])
	}
	return spread{at(0.25), at(0.5), at(0.75)}
}
