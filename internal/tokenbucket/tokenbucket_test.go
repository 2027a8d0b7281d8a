package tokenbucket_test

import (
	"testing"
	"time"

	"github.com/reusetransport/reuseport/internal/tokenbucket"
)

func TestBucket(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b, now := tokenbucket.New(3, time.Second), start
	take := func(want bool) {
		t.Helper()
		if b.Has(now) != want || b.Take(now) != want {
			t.Errorf("token at %v: want %v", now.Sub(start), want)
		}
	}
	for _, want := range []bool{true, true, true, false} {
		take(want)
	}
	b.GiveBack()
	take(true)
	take(false)
	now = now.Add(time.Second)
	take(true)
	take(false)
	b.Owe(2, now)
	now = now.Add(2 * time.Second)
	take(false)
	b.Owe(-1, now)
	take(true)
	take(false)
	now = now.Add(time.Hour)
	for _, want := range []bool{true, true, true, false} {
		take(want)
	}
}
