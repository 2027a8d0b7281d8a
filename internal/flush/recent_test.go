package flush

import (
	"context"
	"net/netip"
	"testing"
	"time"
)

// stranger is a 4-tuple of no close.
var stranger = tuple{netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2")}

func tupleOn(port uint16) tuple {
	addr := netip.MustParseAddr("127.0.0.1")
	return tuple{netip.AddrPortFrom(addr, port), netip.AddrPortFrom(addr, 9)}
}

// TestRecentExpires: a close is remembered for its time and no longer, counted from the last time
// that it was noted.
func TestRecentExpires(t *testing.T) {
	var r recent
	start := time.Now()
	if r.has(tupleOn(1), start) {
		t.Error("remembered before it was noted")
	}
	r.note(tupleOn(1), start, settledWait)
	r.note(tupleOn(2), start, redialWait)
	r.note(tupleOn(2), start.Add(settledWait/2), redialWait)
	for after, want := range map[time.Duration][2]bool{
		0: {true, true}, settledWait - 1: {true, true}, settledWait: {false, true}, redialWait: {false, true},
		redialWait + settledWait/2 - 1: {false, true}, redialWait + settledWait/2: {false, false},
	} {
		now := start.Add(after)
		if got := [2]bool{r.has(tupleOn(1), now), r.has(tupleOn(2), now)}; got != want {
			t.Errorf("after %v: remembered %v, want %v", after, got, want)
		}
	}
}

// TestNoteEnd: where waiting does not help, because the connection is gone or in TIME_WAIT, the
// close is soon forgotten.
func TestNoteEnd(t *testing.T) {
	c := &Closing{Laddr: stranger.laddr, Raddr: stranger.raddr}
	for s, want := range map[status]time.Duration{
		{}: redialWait, {unacked: 5}: redialWait, {unacked: 5, finished: true}: redialWait,
		{finished: true}: settledWait, {broken: true}: settledWait, {unacked: 5, broken: true}: settledWait,
	} {
		var f Flusher
		before := time.Now()
		f.noteEnd(c, s)
		if got := f.recent.until[stranger]; got.Before(before.Add(want)) || got.After(time.Now().Add(want)) {
			t.Errorf("%+v: remembered for %v, want %v", s, got.Sub(before), want)
		}
	}
}

// TestRecentDropsExpired: noting a close drops those that have expired or were forgotten.
func TestRecentDropsExpired(t *testing.T) {
	var r recent
	start := time.Now()
	for port := range uint16(10) {
		r.note(tupleOn(port), start, redialWait)
	}
	r.forget(tupleOn(0))
	r.note(tupleOn(20), start.Add(redialWait-1), redialWait)
	if len(r.until) != 10 || len(r.order) != 10 {
		t.Errorf("%d remembered, %d in order, want 10 of each", len(r.until), len(r.order))
	}
	r.note(tupleOn(21), start.Add(redialWait), redialWait)
	if len(r.until) != 2 || len(r.order) != 2 || r.count.Load() != 2 {
		t.Errorf("%d remembered, %d in order, count %d; want 2 of each", len(r.until), len(r.order), r.count.Load())
	}
	r.note(tupleOn(22), start.Add(2*redialWait), redialWait)
	if len(r.until) != 1 || len(r.order) != 1 || r.count.Load() != 1 {
		t.Errorf("%d remembered, %d in order, count %d; want 1 of each", len(r.until), len(r.order), r.count.Load())
	}
}

// TestRecentBound: of more closes than maxRecent the oldest is dropped.
func TestRecentBound(t *testing.T) {
	var r recent
	now := time.Now()
	for port := range uint16(maxRecent) {
		r.note(tupleOn(port), now, redialWait)
	}
	if !r.has(tupleOn(0), now) {
		t.Error("the oldest is dropped too early")
	}
	r.note(tupleOn(maxRecent), now, redialWait)
	if r.has(tupleOn(0), now) || !r.has(tupleOn(1), now) || !r.has(tupleOn(maxRecent), now) {
		t.Error("not the oldest alone is dropped")
	}
	if len(r.until) != maxRecent || len(r.order) != maxRecent || r.count.Load() != maxRecent {
		t.Errorf("%d remembered, %d in order, count %d; want %d of each", len(r.until), len(r.order), r.count.Load(), maxRecent)
	}
}

// TestRecentForgets: what was forgotten is not found, and does not count.
func TestRecentForgets(t *testing.T) {
	var f Flusher
	one, two := tupleOn(1), tupleOn(2)
	f.Forget(one.laddr, one.raddr) // nothing is remembered
	f.Note(one.laddr, one.raddr)
	f.Note(two.laddr, two.raddr)
	f.Forget(one.laddr, one.raddr)
	if f.recent.has(one, time.Now()) || !f.recent.has(two, time.Now()) || f.recent.count.Load() != 1 {
		t.Errorf("one %v, two %v, count %d", f.recent.has(one, time.Now()), f.recent.has(two, time.Now()), f.recent.count.Load())
	}
}

// TestMayHoldRecent: MayHold goes by the local port and the whole remote address.
func TestMayHoldRecent(t *testing.T) {
	var f Flusher
	noted := tupleOn(1)
	if f.MayHold(1, noted.raddr) {
		t.Error("held before it was noted")
	}
	f.Note(noted.laddr, noted.raddr)
	if !f.MayHold(1, noted.raddr) {
		t.Error("not held")
	}
	if f.MayHold(2, noted.raddr) || f.MayHold(1, tupleOn(8).laddr) {
		t.Error("a close of another port, or of another peer, is taken for it")
	}
	f.Forget(noted.laddr, noted.raddr)
	if f.MayHold(1, noted.raddr) {
		t.Error("held although forgotten")
	}
}

// TestSleep: sleep waits its time, or until the context ends.
func TestSleep(t *testing.T) {
	start := time.Now()
	if !sleep(t.Context(), 5*time.Millisecond) || time.Since(start) < 5*time.Millisecond {
		t.Errorf("slept %v", time.Since(start))
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if sleep(ended, time.Minute) {
		t.Error("slept although the context has ended")
	}
}
