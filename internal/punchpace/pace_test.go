package punchpace

import (
	"math/rand/v2"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestPaceNext(t *testing.T) {
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
			p, now := Pace{}, start
			for range row.dials {
				p.Dialed(now)
				now = now.Add(row.each)
				p.Failed(now)
			}
			if got, more := p.Next(now, 0.5); got != row.want || !more {
				t.Errorf("wait %v, %v; want %v, true", got, more, row.want)
			}
		})
	}
}

// TestPaceSecondSecond: SYNs of the first second do not count in later ones.
func TestPaceSecondSecond(t *testing.T) {
	var p Pace
	p.Dialed(start)
	now := start.Add(990 * time.Millisecond)
	for range perSecond + 5 {
		p.Dialed(now)
	}
	if wait, more := p.Next(start.Add(time.Second), 0); wait != Pause(0) || !more {
		t.Errorf("wait %v, %v; want %v, true", wait, more, Pause(0))
	}
}

func TestPaceCountsRepeats(t *testing.T) {
	p := Pace{}
	if got := p.Patience(); got != 99500*time.Millisecond {
		t.Errorf("patience %v, want less than a hundred seconds", got)
	}
	p.Dialed(start)
	if got := p.Failed(start.Add(5500 * time.Millisecond)); got != 5 {
		t.Errorf("%d repeats in 5.5 s, want 5", got)
	}
	now := start.Add(5500 * time.Millisecond)
	for n := range perSecond - 1 {
		if wait, _ := p.Next(now, 0); wait != 0 {
			t.Errorf("redial %d waits %v", n, wait)
		}
		p.Dialed(now)
	}
	wait, _ := p.Next(now, 0)
	if want := 500*time.Millisecond + Pause(0); wait != want {
		t.Errorf("the repeat 0.5 s ago must count: wait %v, want %v", wait, want)
	}
}

// TestPaceLimits plays punches whose dials all fail, at random times, and
// counts on the wire of an imagined kernel that repeats each SYN every second.
func TestPaceLimits(t *testing.T) {
	for seed := range uint64(300) {
		checkPace(t, rand.New(rand.NewPCG(seed, 1)), 1<<(seed%12))
	}
}

func FuzzPace(f *testing.F) {
	f.Add(uint64(1), 20)
	f.Add(uint64(2), 3000)
	f.Fuzz(func(t *testing.T, seed uint64, fails int) {
		checkPace(t, rand.New(rand.NewPCG(seed, 2)), 1+fails&0x3fff)
	})
}

// checkPace plays a punch whose dials fail within at most fails milliseconds.
func checkPace(t *testing.T, rnd *rand.Rand, fails int) {
	t.Helper()
	p, now := Pace{}, start
	for dials := 0; ; dials++ {
		patience := p.Patience()
		p.Dialed(now)
		now = now.Add(min(patience, time.Duration(rnd.IntN(fails*1000))*time.Microsecond))
		p.Failed(now)
		wait, more := p.Next(now, rnd.Float64())
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
	if len(syns) != total {
		t.Fatalf("%d SYNs in a punch, want %d", len(syns), total)
	}
	afterFirst := syns[0].Add(time.Second)
	first := 0
	for i, at := range syns {
		if at.Before(afterFirst) {
			first++
			continue
		}
		if i >= perSecond && !syns[i-perSecond].Before(afterFirst) && at.Sub(syns[i-perSecond]) < time.Second {
			t.Fatalf("SYN %d is the sixth within a second", i)
		}
	}
	if first > firstSecond {
		t.Fatalf("%d SYNs in the first second", first)
	}
}
