package flush

import (
	"testing"
	"time"
)

// A sight is what an inspection of a closed connection shows, at a time since Close.
type sight struct {
	at     time.Duration
	status status
}

const ms = time.Millisecond

func TestDecide(t *testing.T) {
	for why, row := range map[string]struct {
		sights []sight
		want   verdict // of the last inspection; the others keep
	}{
		"delivered, and the peer has closed": {
			[]sight{{0, status{unacked: 5}}, {50 * ms, status{finished: true}}}, release},
		"delivered, and the peer may still send": {
			[]sight{{0, status{unacked: 5}}, {50 * ms, status{}}}, keep},
		"delivered, and the peer is quiet for a second": {
			[]sight{{0, status{unacked: 5}}, {50 * ms, status{received: 1}}, {1049 * ms, status{}}, {1050 * ms, status{}}}, release},
		"delivered before the peer reset": {
			[]sight{{0, status{unacked: 5}}, {50 * ms, status{broken: true}}}, release},
		"the peer has ended and still reads": {
			[]sight{{0, status{unacked: 5, finished: true}}, {4 * time.Second, status{unacked: 5, finished: true}}}, keep},
		"the peer reads nothing for five seconds": {
			[]sight{{0, status{unacked: 5}}, {4999 * ms, status{unacked: 5}}, {5000 * ms, status{unacked: 5}}}, abort},
		"that it sends is no progress": {
			[]sight{{0, status{unacked: 5}}, {4999 * ms, status{unacked: 5, received: 9}}, {5000 * ms, status{unacked: 5, received: 9}}}, abort},
		"progress starts the five seconds anew": {
			[]sight{{0, status{unacked: 5}}, {4 * time.Second, status{unacked: 4}}, {8 * time.Second, status{unacked: 4}}}, keep},
		"the peer resets": {
			[]sight{{0, status{unacked: 5}}, {50 * ms, status{unacked: 5, broken: true}}}, lost},
		"the system cannot tell, the peer has not ended": {
			[]sight{{0, status{unacked: unknown}}, {4999 * ms, status{unacked: unknown}}}, keep},
		"the system cannot tell, the peer has ended": {
			[]sight{{0, status{unacked: unknown, finished: true}}}, entrust},
		"the system cannot tell, nothing for five seconds": {
			[]sight{{0, status{unacked: unknown}}, {5 * time.Second, status{unacked: unknown}}}, entrust},
		"the system cannot tell, the peer resets": {
			[]sight{{0, status{unacked: unknown, broken: true}}}, lost},
	} {
		start := time.Now()
		p := newProgress(start, 5*time.Second)
		for i, l := range row.sights {
			want := keep
			if i == len(row.sights)-1 {
				want = row.want
			}
			if got := p.next(start.Add(l.at), l.status); got != want {
				t.Errorf("%s: after %v verdict %d, want %d", why, l.at, got, want)
			}
		}
	}
}

// TestDecideTotal: progress all the time ends a close after 60 times the stall time.
func TestDecideTotal(t *testing.T) {
	start := time.Now()
	p := newProgress(start, time.Second)
	for i := range 59 {
		if v := p.next(start.Add(time.Duration(i)*time.Second), status{unacked: 1000 - i}); v != keep {
			t.Fatalf("after %d s verdict %d", i, v)
		}
	}
	if v := p.next(start.Add(time.Minute), status{unacked: 1}); v != abort {
		t.Errorf("verdict %d after a minute", v)
	}
}

// FuzzDecide feeds any course of inspections: a close ends in time, is released only
// when all is acknowledged, and the interval stays within its bounds.
func FuzzDecide(f *testing.F) {
	f.Add([]byte{5, 0, 5, 1, 4, 0, 0, 4})
	f.Add([]byte{255, 8, 255, 4})
	f.Fuzz(func(t *testing.T, course []byte) {
		start := time.Now()
		p := newProgress(start, time.Second)
		for i := 0; i+1 < len(course); i += 2 {
			l := status{unacked: int(int8(course[i])), received: int(course[i+1] & 3), finished: course[i+1]&4 != 0, broken: course[i+1]&8 != 0}
			l.unacked = max(l.unacked, unknown)
			at := time.Duration(i) * 100 * ms
			v := p.next(start.Add(at), l)
			switch {
			case v == release && l.unacked != 0:
				t.Fatalf("released with %+v", l)
			case v == abort && l.unacked == 0:
				t.Fatalf("aborted with %+v", l)
			case v == keep && at >= time.Minute:
				t.Fatalf("kept after %v", at)
			case p.wait < shortWait || p.wait > longWait:
				t.Fatalf("next inspection after %v", p.wait)
			case v != keep:
				return
			}
		}
	})
}
