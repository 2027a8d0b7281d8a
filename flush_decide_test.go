package reuseport

import (
	"testing"
	"time"
)

// A course is what looks at a closing connection show, by the time since Close.
type lookAt struct {
	at   time.Duration
	look look
}

const ms = time.Millisecond

func TestFlushDecide(t *testing.T) {
	for why, row := range map[string]struct {
		looks []lookAt
		want  verdict // of the last look; the others keep
	}{
		"delivered, and the peer has closed": {
			[]lookAt{{0, look{unacked: 5}}, {50 * ms, look{ended: true}}}, release},
		"delivered, and the peer may still send": {
			[]lookAt{{0, look{unacked: 5}}, {50 * ms, look{}}}, keep},
		"delivered, and the peer is quiet for a second": {
			[]lookAt{{0, look{unacked: 5}}, {50 * ms, look{received: 1}}, {1049 * ms, look{}}, {1050 * ms, look{}}}, release},
		"delivered before the peer reset": {
			[]lookAt{{0, look{unacked: 5}}, {50 * ms, look{broken: true}}}, release},
		"the peer has ended and still reads": {
			[]lookAt{{0, look{unacked: 5, ended: true}}, {4 * time.Second, look{unacked: 5, ended: true}}}, keep},
		"the peer reads nothing for five seconds": {
			[]lookAt{{0, look{unacked: 5}}, {4999 * ms, look{unacked: 5}}, {5000 * ms, look{unacked: 5}}}, abort},
		"that it sends is no progress": {
			[]lookAt{{0, look{unacked: 5}}, {4999 * ms, look{unacked: 5, received: 9}}, {5000 * ms, look{unacked: 5, received: 9}}}, abort},
		"progress starts the five seconds anew": {
			[]lookAt{{0, look{unacked: 5}}, {4 * time.Second, look{unacked: 4}}, {8 * time.Second, look{unacked: 4}}}, keep},
		"the peer resets": {
			[]lookAt{{0, look{unacked: 5}}, {50 * ms, look{unacked: 5, broken: true}}}, lost},
		"the system cannot tell, the peer has not ended": {
			[]lookAt{{0, look{unacked: unknownUnacked}}, {4999 * ms, look{unacked: unknownUnacked}}}, keep},
		"the system cannot tell, the peer has ended": {
			[]lookAt{{0, look{unacked: unknownUnacked, ended: true}}}, entrust},
		"the system cannot tell, nothing for five seconds": {
			[]lookAt{{0, look{unacked: unknownUnacked}}, {5 * time.Second, look{unacked: unknownUnacked}}}, entrust},
		"the system cannot tell, the peer resets": {
			[]lookAt{{0, look{unacked: unknownUnacked, broken: true}}}, lost},
	} {
		start := time.Now()
		p := newProgress(start, 5*time.Second)
		for i, l := range row.looks {
			want := keep
			if i == len(row.looks)-1 {
				want = row.want
			}
			if got := p.next(start.Add(l.at), l.look); got != want {
				t.Errorf("%s: after %v verdict %d, want %d", why, l.at, got, want)
			}
		}
	}
}

// TestFlushTotal: progress all the time ends a close after 60 times FlushTimeout.
func TestFlushTotal(t *testing.T) {
	start := time.Now()
	p := newProgress(start, time.Second)
	for i := range 59 {
		if v := p.next(start.Add(time.Duration(i)*time.Second), look{unacked: 1000 - i}); v != keep {
			t.Fatalf("after %d s verdict %d", i, v)
		}
	}
	if v := p.next(start.Add(time.Minute), look{unacked: 1}); v != abort {
		t.Errorf("verdict %d after a minute", v)
	}
}

// FuzzFlushDecide feeds any course of looks: a close ends in time, is released only
// when all is acknowledged, and the interval stays within its bounds.
func FuzzFlushDecide(f *testing.F) {
	f.Add([]byte{5, 0, 5, 1, 4, 0, 0, 4})
	f.Add([]byte{255, 8, 255, 4})
	f.Fuzz(func(t *testing.T, course []byte) {
		start := time.Now()
		p := newProgress(start, time.Second)
		for i := 0; i+1 < len(course); i += 2 {
			l := look{unacked: int(int8(course[i])), received: int(course[i+1] & 3), ended: course[i+1]&4 != 0, broken: course[i+1]&8 != 0}
			l.unacked = max(l.unacked, unknownUnacked)
			at := time.Duration(i) * 100 * ms
			v := p.next(start.Add(at), l)
			switch {
			case v == release && l.unacked != 0:
				t.Fatalf("released with %+v", l)
			case v == abort && l.unacked == 0:
				t.Fatalf("aborted with %+v", l)
			case v == keep && at >= time.Minute:
				t.Fatalf("kept after %v", at)
			case p.wait < soonLook || p.wait > lastLook:
				t.Fatalf("next look after %v", p.wait)
			case v != keep:
				return
			}
		}
	})
}
