package flush

import (
	"testing"
	"time"
)

// A sight is what an inspection of a closed connection shows, and how long after Close.
type sight struct {
	at     time.Duration
	status status
}

const stall = 5 * time.Second

func TestDecide(t *testing.T) {
	outstanding := status{unacked: 5}
	for why, row := range map[string]struct {
		sights []sight
		want   verdict // of the last inspection; the others keep
	}{
		"delivered, and the peer has closed": {
			[]sight{{0, outstanding}, {50, status{finished: true}}}, done},
		"delivered, and the peer still sends": {
			[]sight{{0, outstanding}, {50, status{sinceSent: 50 * time.Millisecond}}, {4999, status{received: 1}}}, keep},
		"delivered, and the peer had time to read": {
			[]sight{{0, outstanding}, {50, status{sinceSent: 50 * time.Millisecond}}, {5000, status{}}}, done},
		"delivered, and bytes left last in the middle of the close": {
			[]sight{{0, outstanding}, {8000, status{sinceSent: 2 * time.Second}}, {10999, status{}}, {11000, status{}}}, done},
		"delivered, and bytes left last long ago": {
			[]sight{{0, status{sinceSent: time.Hour}}, {999, status{received: 1}}, {1000, status{received: 1}}}, done},
		"delivered, and only we can free the 4-tuple": {
			[]sight{{50, status{holdsTuple: true}}, {10000, status{}}, {60049, status{}}, {60050, status{}}}, done},
		"delivered, only we can free the 4-tuple, and the peer sends on": {
			[]sight{{50, status{holdsTuple: true}}, {4000, status{received: 1}}, {6000, status{received: 1}}}, done},
		"delivered, and the peer has sent more than is discarded": {
			[]sight{{0, outstanding}, {50, status{flooded: true}}}, done},
		"delivered before the peer reset": {
			[]sight{{0, outstanding}, {50, status{broken: true}}}, done},
		"the peer has ended and still reads": {
			[]sight{{0, outstanding}, {4000, status{unacked: 5, finished: true}}}, keep},
		"the peer's TCP answers, and takes nothing": {
			[]sight{{0, outstanding}, {59999, outstanding}, {60000, outstanding}}, left},
		"the peer takes a byte now and then": {
			[]sight{{0, outstanding}, {50000, status{unacked: 4}}, {100000, status{unacked: 3}}, {159999, status{unacked: 3}}}, keep},
		"the peer's TCP is silent": {
			[]sight{{0, outstanding}, {4999, status{unacked: 5, silent: stall - 1}}, {5000, status{unacked: 5, silent: stall}}}, left},
		"the peer resets": {
			[]sight{{0, outstanding}, {50, status{unacked: 5, broken: true}}}, lost},
		"the system cannot tell, the peer has not ended": {
			[]sight{{0, status{unacked: unknown}}, {4999, status{unacked: unknown, silent: stall - 1}}}, keep},
		"the system cannot tell, the peer has ended": {
			[]sight{{0, status{unacked: unknown, finished: true}}}, done},
		"the system cannot tell, nothing for five seconds": {
			[]sight{{0, status{unacked: unknown}}, {5000, status{unacked: unknown, silent: stall}}}, left},
		"the system cannot tell, the peer resets": {
			[]sight{{0, status{unacked: unknown, broken: true}}}, lost},
	} {
		start := time.Now()
		p := newProgress(start, stall)
		for i, s := range row.sights {
			want := keep
			if i == len(row.sights)-1 {
				want = row.want
			}
			if got := p.next(start.Add(s.at*time.Millisecond), s.status); got != want {
				t.Errorf("%s: after %d ms verdict %d, want %d", why, s.at, got, want)
			}
		}
	}
}

// TestDecideWaits: the interval doubles up to longWait, and falls back for a peer that sends
// in bulk alone, so that many peers that send single bytes cost no more than silent ones.
func TestDecideWaits(t *testing.T) {
	now := time.Now()
	p := newProgress(now, stall)
	want := firstWait
	for _, received := range []int{0, 0, 1, bulk - 1, 0, 0, 0, 0, 0} {
		if p.next(now, status{unacked: 5, received: received}); p.wait != want {
			t.Errorf("wait %v, want %v", p.wait, want)
		}
		want = min(2*want, longWait)
	}
	if p.next(now, status{unacked: 5, received: bulk}); p.wait != shortWait {
		t.Errorf("wait %v after bulk, want %v", p.wait, shortWait)
	}
}

func TestDecideEvicted(t *testing.T) {
	for s, want := range map[status]verdict{
		{}: done, {broken: true}: done, {unacked: 1}: left, {unacked: unknown}: left, {unacked: 1, broken: true}: lost,
	} {
		if got := s.whenEvicted(); got != want {
			t.Errorf("%+v: verdict %d, want %d", s, got, want)
		}
	}
}

// TestDecidePatience: a patience of more than a minute waits for acknowledgements alone, and a
// short one is the time to read too.
func TestDecidePatience(t *testing.T) {
	for patience, want := range map[time.Duration][2]time.Duration{ // until it is left; until it is done
		time.Hour:              {time.Hour, time.Minute},
		stall:                  {time.Minute, stall},
		100 * time.Millisecond: {time.Minute, 100 * time.Millisecond},
	} {
		for i, s := range []status{{unacked: 5}, {}} {
			start := time.Now()
			p := newProgress(start, patience)
			p.next(start, s)
			if v := p.next(start.Add(want[i]-1), s); v != keep {
				t.Errorf("patience %v, %+v: verdict %d before %v", patience, s, v, want[i])
			}
			if v := p.next(start.Add(want[i]), s); v == keep {
				t.Errorf("patience %v, %+v: kept after %v", patience, s, want[i])
			}
		}
	}
}

// FuzzDecide feeds any course of inspections: a close ends in time, counts as delivered only
// when everything is acknowledged, and the interval stays within its bounds.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{5, 0, 5, 1, 4, 0, 0, 4})
	f.Add([]byte{255, 8, 255, 4})
	f.Fuzz(func(t *testing.T, course []byte) {
		start := time.Now()
		p := newProgress(start, time.Second)
		var delivered time.Time
		for i := 0; i+1 < len(course); i += 2 {
			what := course[i+1]
			s := status{unacked: max(int(int8(course[i])), unknown), received: int(what&3) << 11, finished: what&4 != 0, broken: what&8 != 0}
			s.silent = time.Duration(what>>4) * 100 * time.Millisecond
			s.sinceSent, s.holdsTuple = s.silent, what&16 != 0
			now := start.Add(time.Duration(i) * time.Second)
			if s.unacked == 0 && delivered.IsZero() {
				delivered = now
			}
			v := p.next(now, s)
			switch {
			case v == done && s.unacked > 0, v == done && s.unacked == unknown && !s.finished:
				t.Fatalf("done with %+v", s)
			case (v == left || v == lost) && s.unacked == 0:
				t.Fatalf("verdict %d with %+v", v, s)
			case v == keep && (s.broken || s.unacked != 0 && s.silent >= p.patience):
				t.Fatalf("kept with %+v", s)
			case v == keep && s.unacked == 0 && now.Sub(delivered) >= maxKept:
				t.Fatalf("kept %v after delivery", now.Sub(delivered))
			case p.wait < shortWait || p.wait > longWait:
				t.Fatalf("next inspection after %v", p.wait)
			case v != keep:
				return
			}
		}
	})
}
