package reuseport

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestPunchPaceNext(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	rows := []struct {
		why   string
		dials int           // made so far, each refused after
		each  time.Duration // this time
		want  time.Duration
	}{
		{"the first redial is at once", 1, ms(20), 0},
		{"the tenth as well", 10, ms(20), 0},
		{"then a pause that differs on both sides", 11, ms(20), ms(50)},
		{"twenty in the first second, then none before it ends", 20, ms(20), ms(1000 - 400 + 50)},
		{"refused in no time: the same limit", 20, 0, ms(1050)},
		{"slower than five a second: no limit but the pause", 30, ms(300), ms(50)},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			p, now := punchPace{}, healthStart
			for range row.dials {
				p.dialed(now)
				now = now.Add(row.each)
				p.ended(now)
			}
			if got, more := p.next(now, 0.5); got != row.want || !more {
				t.Errorf("wait %v, %v; want %v, true", got, more, row.want)
			}
		})
	}
}

func TestPunchPaceCountsRepeats(t *testing.T) {
	p := punchPace{}
	if got := p.patience(); got != 99500*time.Millisecond {
		t.Errorf("patience %v, want less than a hundred seconds", got)
	}
	p.dialed(healthStart)
	if got := p.ended(healthStart.Add(5500 * time.Millisecond)); got != 5 {
		t.Errorf("%d repeats in 5.5 s, want 5", got)
	}
	now := healthStart.Add(5500 * time.Millisecond)
	for n := range punchPerSecond - 1 {
		if wait, _ := p.next(now, 0); wait != 0 {
			t.Errorf("redial %d waits %v", n, wait)
		}
		p.dialed(now)
	}
	wait, _ := p.next(now, 0)
	if want := 500*time.Millisecond + punchPause(0); wait != want {
		t.Errorf("the repeat 0.5 s ago must count: wait %v, want %v", wait, want)
	}
}

// TestPunchPaceLimits plays punches whose dials all fail, at random times, and
// counts on the wire of an imagined kernel that repeats each SYN every second.
func TestPunchPaceLimits(t *testing.T) {
	for seed := range uint64(300) {
		checkPace(t, rand.New(rand.NewPCG(seed, 1)), 1<<(seed%12))
	}
}

func FuzzPunchPace(f *testing.F) {
	f.Add(uint64(1), 20)
	f.Add(uint64(2), 3000)
	f.Fuzz(func(t *testing.T, seed uint64, fails int) {
		checkPace(t, rand.New(rand.NewPCG(seed, 2)), 1+fails&0x3fff)
	})
}

// checkPace plays a punch whose dials fail within at most fails milliseconds.
func checkPace(t *testing.T, rnd *rand.Rand, fails int) {
	t.Helper()
	p, now := punchPace{}, healthStart
	for dials := 0; ; dials++ {
		patience := p.patience()
		p.dialed(now)
		now = now.Add(min(patience, time.Duration(rnd.IntN(fails*1000))*time.Microsecond))
		p.ended(now)
		wait, more := p.next(now, rnd.Float64())
		if !more {
			break
		}
		if wait < 0 || wait > 2*time.Second {
			t.Fatalf("wait %v", wait)
		}
		now = now.Add(wait)
	}
	checkRates(t, p.syns)
}

func checkRates(t *testing.T, syns []time.Time) {
	t.Helper()
	if len(syns) != punchSYNs {
		t.Fatalf("%d SYNs in a punch, want %d", len(syns), punchSYNs)
	}
	afterFirst := syns[0].Add(time.Second)
	first := 0
	for i, at := range syns {
		if at.Before(afterFirst) {
			first++
			continue
		}
		if i >= punchPerSecond && !syns[i-punchPerSecond].Before(afterFirst) && at.Sub(syns[i-punchPerSecond]) < time.Second {
			t.Fatalf("SYN %d is the sixth within a second", i)
		}
	}
	if first > punchFirstSecond {
		t.Fatalf("%d SYNs in the first second", first)
	}
}

func TestTokenBucket(t *testing.T) {
	b, now := tokenBucket{burst: 3, every: time.Second}, healthStart
	take := func(want bool) {
		t.Helper()
		if b.has(now) != want || b.take(now) != want {
			t.Errorf("token at %v: want %v", now.Sub(healthStart), want)
		}
	}
	for _, want := range []bool{true, true, true, false} {
		take(want)
	}
	b.giveBack()
	take(true)
	take(false)
	now = now.Add(time.Second)
	take(true)
	take(false)
	b.owe(2, now)
	now = now.Add(2 * time.Second)
	take(false)
	now = now.Add(time.Hour)
	for _, want := range []bool{true, true, true, false} {
		take(want)
	}
}
