package pathhealth

import (
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// These tests play Health at a clock of its own (testing/synctest).

// TestHealthFresh: on a healthy path a handshake that follows another within a second is not
// recorded; one a second later is, and one on a faulty path always.
func TestHealthFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		last := func() time.Time { return h.Paths()[0].LastHandshake }
		h.RecordHandshake(far(1, 1))
		first := last()
		time.Sleep(freshFor - 1)
		h.RecordHandshake(far(2, 1))
		if last() != first {
			t.Error("a second handshake within freshFor was recorded")
		}
		if h.RecordHandshake(far(2, 1)) {
			t.Error("a handshake on a healthy path ended a block")
		}
		time.Sleep(time.Nanosecond)
		h.RecordHandshake(far(2, 1))
		if got := last().Sub(first); got != freshFor {
			t.Errorf("the handshake after freshFor was recorded for %v", got)
		}
		h.RecordHedgeWin(far(3, 1), Win{Strong: true})
		time.Sleep(time.Nanosecond)
		h.RecordHandshake(far(3, 1))
		if p := h.Paths()[0]; p.SilentHosts != 0 || last().Sub(first) != freshFor+1 {
			t.Errorf("on a path with a silent host: %+v", p)
		}
		time.Sleep(time.Nanosecond)
		h.RecordHandshake(far(4, 1))
		if last().Sub(first) != freshFor+1 {
			t.Error("a second handshake within freshFor was recorded on a path that is healthy again")
		}
	})
}

// TestHealthFreshPerSource: what is fresh for one source is not for another.
func TestHealthFreshPerSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		began := time.Now()
		h.RecordHandshake(far(1, 1))
		const others = 8
		for n := range others {
			h.RecordHandshake(Target{netip.AddrPortFrom(listener.Addr(), listener.Port()+1+uint16(n)), host(1, 1), Global})
		}
		time.Sleep(freshFor / 2)
		h.RecordHandshake(far(1, 1)) // fresh still
		paths := h.Paths()
		if len(paths) != 1+others || paths[0].Source != listener || !paths[0].LastHandshake.Equal(began) {
			t.Errorf("paths %+v; want %d, of which the first was not recorded again", paths, 1+others)
		}
		if !slices.IsSortedFunc(paths, func(a, b Path) int { return a.Source.Compare(b.Source) }) {
			t.Errorf("paths %+v; want them by source", paths)
		}
		time.Sleep(freshFor / 2)
		h.RecordHandshake(far(1, 1))
		if n := len(*h.fresh.Load()); n != 1 {
			t.Errorf("%d sources are fresh, want 1", n)
		}
	})
}

// TestHealthTellsTurns: RecordHedgeWin and RecordHandshake report the turns of a path, and
// NeedsSource follows.
func TestHealthTellsTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		if h.NeedsSource() {
			t.Error("nothing is known")
		}
		for n := range blockNetworks {
			if h.BeginHedge(far(n, 1)) != HedgeNow {
				t.Fatalf("hedge %d may not start", n)
			}
			if blocked := h.RecordHedgeWin(far(n, 1), Win{Early: true, Strong: true}); blocked != (n == blockNetworks-1) {
				t.Errorf("win %d: blocked %v", n, blocked)
			}
			if !h.NeedsSource() {
				t.Error("a silent host is known")
			}
		}
		if p := h.BeginDial(far(99, 1), roomy); p.Way != FromNewPort {
			t.Errorf("on a blocked path: %+v", p)
		}
		if !h.RecordHandshake(far(0, 1)) {
			t.Error("the block did not end")
		}
	})
}

// TestHealthForgets: ten minutes after the last evidence dials need their source no longer.
func TestHealthForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h Health
		h.RecordHedgeWin(far(1, 1), Win{Strong: true})
		time.Sleep(forgetAfter - 1)
		h.RecordHandshake(far(2, 1))
		if !h.NeedsSource() {
			t.Error("a silent host is known")
		}
		time.Sleep(time.Nanosecond)
		h.RecordHandshake(far(2, 1))
		if h.NeedsSource() {
			t.Error("what is forgotten speaks against a host")
		}
	})
}

// TestHealthConcurrently lets the race detector look at all methods.
func TestHealthConcurrently(t *testing.T) {
	var h Health
	var all sync.WaitGroup
	for n := range 8 {
		all.Go(func() {
			for i := range 200 {
				h.RecordHandshake(far(n, i))
				h.BeginDial(far(n, i), roomy)
				if h.BeginHedge(far(n, i)) == HedgeNow {
					h.RecordHedgeWin(far(n, i), Win{Early: true})
					h.RecordTimeout(far(n, i))
					h.RecordSilence(far(n, i))
					h.RecordRefusal(far(n, i))
					h.RecordRetryWin(far(n, i))
				}
				h.NeedsSource()
			}
		})
	}
	all.Wait()
	if len(h.Paths()) != 1 {
		t.Errorf("%d paths", len(h.Paths()))
	}
}
