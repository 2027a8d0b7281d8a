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
	if remembers(&r, tupleOn(1), start) {
		t.Error("remembered before it was noted")
	}
	r.note(tupleOn(1), start, settledWait)
	r.note(tupleOn(2), start, redialWait)
	r.note(tupleOn(2), start.Add(settledWait/2), redialWait)
	for after, want := range map[time.Duration][2]bool{
		0: {true, true}, settledWait - time.Millisecond: {true, true}, settledWait: {false, true}, redialWait: {false, true},
		redialWait + settledWait/2 - time.Millisecond: {false, true}, redialWait + settledWait/2: {false, false},
	} {
		now := start.Add(after)
		if got := [2]bool{remembers(&r, tupleOn(1), now), remembers(&r, tupleOn(2), now)}; got != want {
			t.Errorf("after %v: remembered %v, want %v", after, got, want)
		}
	}
}

// TestNoteEnd: where waiting does not help, because the connection is gone or in TIME_WAIT, the
// close is soon forgotten.
func TestNoteEnd(t *testing.T) {
	for s, want := range map[status]time.Duration{
		{}: redialWait, {unacked: 5}: redialWait, {unacked: 5, finished: true}: redialWait,
		{finished: true}: settledWait, {broken: true}: settledWait, {unacked: 5, broken: true}: settledWait,
	} {
		if got := s.redialWait(); got != want {
			t.Errorf("%+v: remembered for %v, want %v", s, got, want)
		}
	}
	var f Flusher
	f.noteEnd(&Closing{Laddr: stranger.laddr, Raddr: stranger.raddr}, status{broken: true})
	if now := time.Now(); !remembers(&f.recent, stranger, now) || remembers(&f.recent, stranger, now.Add(redialWait/2)) {
		t.Error("not remembered for a moment")
	}
}

func remembers(r *recent, t tuple, now time.Time) bool { return r.has(t.laddr.Port(), t.raddr, now) }

// TestRecentMany: of a thousand closes a second nearly all are remembered, and of any number
// some. Other 4-tuples are not taken for them.
func TestRecentMany(t *testing.T) {
	var r recent
	now := time.Now()
	for port := range uint16(1000) {
		r.note(tupleOn(port), now, redialWait)
	}
	known := 0
	for port := range uint16(60000) {
		if remembers(&r, tupleOn(port), now) {
			known++
		}
		if port == 999 && known < 800 {
			t.Errorf("%d of 1000 remembered", known)
		}
	}
	if known > 1000+10 {
		t.Errorf("%d of 1000 remembered", known)
	}
	for port := range uint16(60000) {
		r.note(tupleOn(port), now, redialWait)
	}
	if !remembers(&r, tupleOn(59999), now) {
		t.Error("the last is not remembered")
	}
}

// TestRecentForgets: what was forgotten is not found, and what was not is.
func TestRecentForgets(t *testing.T) {
	var f Flusher
	one, two := tupleOn(1), tupleOn(2)
	f.Forget(one.laddr, one.raddr) // nothing is remembered
	f.Note(one.laddr, one.raddr)
	f.Note(two.laddr, two.raddr)
	f.Forget(one.laddr, one.raddr)
	if now := time.Now(); remembers(&f.recent, one, now) || !remembers(&f.recent, two, now) {
		t.Errorf("one %v, two %v", remembers(&f.recent, one, now), remembers(&f.recent, two, now))
	}
}

// TestNoteAllocatesNothing: a server notes each close.
func TestNoteAllocatesNothing(t *testing.T) {
	var f Flusher
	f.Note(stranger.laddr, stranger.raddr) // makes the table
	if n := testing.AllocsPerRun(100, func() { f.Note(stranger.laddr, stranger.raddr); f.Forget(stranger.laddr, stranger.raddr) }); n != 0 {
		t.Errorf("%v allocations", n)
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
