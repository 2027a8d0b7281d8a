package promstats

import (
	"reflect"
	"testing"

	"github.com/reusetransport/reuseport"
)

// distinct returns Stats in which each number is another one, from 1001 on. A field that
// reuseport gets later is filled too.
func distinct() (s reuseport.Stats, numbers []float64) {
	latency := reuseport.Latency{Buckets: []reuseport.Bucket{{UpTo: 1}, {UpTo: 2}}}
	s.DialLatency = reuseport.DialLatency{Reused: latency, New: latency, Failed: latency}
	s.CloseLatency = reuseport.CloseLatency{Delivered: latency, Left: latency, Reset: latency}
	s = clone(s)
	s.NewByCause = map[reuseport.Cause]uint64{reuseport.ByPolicy: 501, reuseport.HedgeWon: 502}
	s.Paths = []reuseport.Path{{State: reuseport.PathProven}}
	eachNumber(reflect.ValueOf(&s).Elem(), func(v reflect.Value) {
		n := float64(1001 + len(numbers))
		numbers = append(numbers, n)
		v.Set(reflect.ValueOf(n).Convert(v.Type()))
	})
	return s, append(numbers, 501, 502)
}

// clone gives each histogram buckets of its own.
func clone(s reuseport.Stats) reuseport.Stats { return plus(s, reuseport.Stats{}) }

// eachNumber calls f with the numbers in v, but for the bounds of buckets and what is in Paths.
func eachNumber(v reflect.Value, f func(reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "UpTo" && name != "Paths" {
				eachNumber(v.Field(i), f)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachNumber(v.Index(i), f)
		}
	case reflect.Map: // NewByCause
	default:
		f(v)
	}
}

// TestPlus adds up every field, and changes no summand.
func TestPlus(t *testing.T) {
	s, numbers := distinct()
	for _, sum := range []reuseport.Stats{plus(s, reuseport.Stats{}), plus(reuseport.Stats{}, s)} {
		if !reflect.DeepEqual(sum, s) {
			t.Errorf("with nothing: %+v, want %+v", sum, s)
		}
	}
	twice := plus(s, s)
	i := 0
	eachNumber(reflect.ValueOf(twice), func(v reflect.Value) {
		if got := v.Convert(reflect.TypeFor[float64]()).Float(); got != 2*numbers[i] {
			t.Errorf("number %d is %v, want %v", i, got, 2*numbers[i])
		}
		i++
	})
	if n := twice.NewByCause; len(n) != 2 || n[reuseport.ByPolicy] != 2*501 || n[reuseport.HedgeWon] != 2*502 || len(twice.Paths) != 2 {
		t.Errorf("%v and %v", n, twice.Paths)
	}
	if again, _ := distinct(); !reflect.DeepEqual(s, again) {
		t.Errorf("plus has changed a summand: %+v", s)
	}
	if i < 30 {
		t.Errorf("%d numbers", i)
	}
}

// TestCounters: what stays of a Transport that was removed is what only grows.
func TestCounters(t *testing.T) {
	s, _ := distinct()
	kept := counters(s)
	if kept.Listeners != 0 || kept.ClosesPending != 0 || kept.Paths != nil {
		t.Errorf("%+v", kept)
	}
	kept.Listeners, kept.ClosesPending, kept.Paths = s.Listeners, s.ClosesPending, s.Paths
	if !reflect.DeepEqual(kept, s) {
		t.Errorf("%+v, want %+v", kept, s)
	}
}
