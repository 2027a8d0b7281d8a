package pathhealth

import (
	"net/netip"
	"testing"
	"time"
)

var (
	start    = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	listener = netip.MustParseAddrPort("192.0.0.70:4001")
)

// host returns address n of network 240.net.0.0/16 (reserved, RFC 1112).
func host(network, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{240, byte(network), byte(n >> 8), byte(n)})
}

// far returns a target beyond the border.
func far(network, n int) Target { return Target{listener, host(network, n), Global} }

// neighbour is a target on the link.
var neighbour = Target{listener, netip.MustParseAddr("192.0.0.80"), Near}

// roomy is the timing of a dial that may be handed over, tight that of one that may not.
var (
	roomy = Timing{HedgeDelay: time.Second, Left: 5 * time.Second, BoundedFor: 2 * time.Second}
	tight = Timing{HedgeDelay: time.Second, Left: 2500 * time.Millisecond, BoundedFor: 2 * time.Second}
)

// A story tells a paths what happens, at a clock of its own.
type story struct {
	*paths
	now time.Time
}

func newStory() *story { return &story{newPaths(), start} }

func (s *story) wait(d time.Duration) { s.now = s.now.Add(d) }

func (s *story) ask(to Target) Plan { return s.beginDial(to, roomy, s.now) }

func (s *story) answered(to Target) bool { return s.recordHandshake(to, s.now) }

// silent is a dial whose hedge starts early and wins by a strong proof.
func (s *story) silent(to Target) (blocked bool) {
	if s.beginHedge(to, s.now) == HedgeNow {
		s.giveBack()
	}
	return s.recordHedgeWin(to, true, s.now)
}

// weak is such a dial after a short head start.
func (s *story) weak(to Target) (blocked bool) { return s.recordHedgeWin(to, false, s.now) }

// block makes n networks answer hedges and reports whether the last one blocked.
func (s *story) block(networks int) (blocked bool) {
	for n := range networks {
		blocked = s.silent(far(n, 1))
	}
	return blocked
}

func (s *story) spend() { s.hedges.Owe(hedgeBurst, s.now) }

func (s *story) state() State {
	for _, p := range s.list(s.now) {
		return p.State
	}
	return Unproven
}

// TestBeginDial: what is known decides how a dial leaves.
func TestBeginDial(t *testing.T) {
	stranger := far(200, 9)
	hedged := func(d time.Duration) Plan { return Plan{HeadStart: d, HandOver: roomy.BoundedFor} }
	fromNewPort := func(why Reason) Plan { return Plan{Way: FromNewPort, Why: why} }
	const eighth = time.Second / 8
	for _, row := range []struct {
		why  string
		tell func(*story)
		to   Target
		want Plan
	}{
		{"nothing known", func(*story) {}, stranger, hedged(time.Second)},
		{"proven", func(s *story) { s.answered(far(1, 1)) }, stranger, hedged(time.Second)},
		{"the host that was silent", func(s *story) { s.silent(stranger) }, stranger, fromNewPort(HostSilent)},
		{"from another port of ours too", func(s *story) { s.silent(stranger) },
			Target{netip.AddrPortFrom(listener.Addr(), 4002), stranger.Host, Global}, fromNewPort(HostSilent)},
		{"not from another address", func(s *story) { s.silent(stranger) },
			Target{netip.MustParseAddrPort("192.0.0.71:4001"), stranger.Host, Global}, hedged(time.Second)},
		{"one lost SYN is no silence", func(s *story) { s.weak(stranger) }, stranger, hedged(eighth)},
		{"two in a row are", func(s *story) { s.weak(stranger); s.weak(stranger) }, stranger, fromNewPort(HostSilent)},
		{"a handshake between", func(s *story) { s.weak(stranger); s.answered(stranger); s.weak(stranger) }, stranger, hedged(eighth)},
		{"its neighbour", func(s *story) { s.silent(far(200, 8)) }, stranger, hedged(eighth)},
		{"another network", func(s *story) { s.silent(far(201, 8)) }, stranger, hedged(time.Second / 2)},
		{"its neighbour, proven", func(s *story) { s.answered(far(1, 1)); s.silent(far(200, 8)) }, stranger, hedged(eighth)},
		{"another network, proven", func(s *story) { s.answered(far(1, 1)); s.silent(far(201, 8)) }, stranger, hedged(time.Second)},
		{"the silent host rests 30 s", func(s *story) { s.silent(stranger); s.wait(probeEvery) }, stranger, hedged(eighth)},
		{"one dial probes it", func(s *story) { s.silent(stranger); s.wait(probeEvery); s.ask(stranger) }, stranger, fromNewPort(HostSilent)},
		{"a probe whose hedge wins early leaves it silent", func(s *story) {
			s.silent(stranger)
			s.wait(probeEvery)
			s.weak(stranger)
		}, stranger, fromNewPort(HostSilent)},
		{"it stays silent on a proven path", func(s *story) { s.silent(stranger); s.answered(far(1, 1)) }, stranger, fromNewPort(HostSilent)},
		{"until it answers", func(s *story) { s.silent(stranger); s.answered(stranger) }, stranger, hedged(time.Second)},
		{"two networks", func(s *story) { s.block(2) }, stranger, hedged(time.Second / 4)},
		{"three networks", func(s *story) { s.block(3) }, stranger, hedged(eighth)},
		{"no head start below 1/8", func(s *story) { s.block(20) }, stranger, hedged(eighth)},
		{"near hosts say nothing of far ones", func(s *story) { s.silent(neighbour) }, stranger, hedged(time.Second)},
		{"it ran out of time", func(s *story) { s.answered(far(1, 1)); s.recordTimeout(stranger, s.now) }, stranger, hedged(eighth)},
		{"its neighbour did", func(s *story) { s.answered(far(1, 1)); s.recordTimeout(far(200, 8), s.now) }, stranger, hedged(eighth)},
		{"and then both ports were silent", func(s *story) {
			s.recordTimeout(stranger, s.now)
			s.recordSilence(stranger, s.now)
		}, stranger, hedged(time.Second)},
		{"a failed probe clears nothing", func(s *story) { s.silent(stranger); s.recordSilence(stranger, s.now) }, stranger, fromNewPort(HostSilent)},
		{"blocked", func(s *story) { s.block(blockNetworks) }, stranger, fromNewPort(PathBlocked)},
		{"blocked for far hosts alone", func(s *story) { s.block(blockNetworks) }, neighbour, hedged(time.Second)},
		{"blocked, a probe is due", func(s *story) { s.block(blockNetworks); s.wait(probeEvery) }, stranger, hedged(eighth)},
		{"one dial probes", func(s *story) { s.block(blockNetworks); s.wait(probeEvery); s.ask(stranger) }, stranger, fromNewPort(PathBlocked)},
		{"a neighbour's handshake ends no block", func(s *story) { s.block(blockNetworks); s.answered(neighbour) }, stranger, fromNewPort(PathBlocked)},
		{"the probe was answered", func(s *story) { s.block(blockNetworks); s.answered(far(1, 1)) }, stranger, hedged(time.Second)},
		{"no token, no probe", func(s *story) { s.block(blockNetworks); s.wait(probeEvery); s.spend() }, stranger, fromNewPort(PathBlocked)},
		{"forgotten", func(s *story) { s.block(blockNetworks); s.wait(forgetAfter) }, stranger, hedged(time.Second)},
		{"a suspicion is forgotten", func(s *story) { s.weak(stranger); s.wait(forgetAfter) }, stranger, hedged(time.Second)},
	} {
		t.Run(row.why, func(t *testing.T) {
			s := newStory()
			row.tell(s)
			if got := s.ask(row.to); got != row.want {
				t.Errorf("plan %+v, want %+v", got, row.want)
			}
		})
	}
}

// TestTightDial: a suspect host gets an ephemeral port at once if the budget is spent and the dial
// is too short to be handed over.
func TestTightDial(t *testing.T) {
	s := newStory()
	stranger := far(200, 9)
	s.recordTimeout(stranger, s.now)
	if got, want := s.beginDial(stranger, tight, s.now), (Plan{HeadStart: time.Second / 8}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	s.spend()
	if got, want := s.beginDial(stranger, tight, s.now), (Plan{Way: FromNewPort, Why: HostSuspect}); got != want {
		t.Errorf("without a token: %+v, want %+v", got, want)
	}
	if got := s.ask(stranger); got.Way != Hedged || got.HandOver == 0 {
		t.Errorf("a dial with time enough: %+v, want a hand-over", got)
	}
}

func TestTiming(t *testing.T) {
	const s = time.Second
	for _, row := range []struct {
		why  string
		in   Timing
		want Plan
	}{
		{"no deadline", Timing{1250 * time.Millisecond, 1<<63 - 1, 2 * s}, Plan{HeadStart: 1250 * time.Millisecond, HandOver: 2 * s}},
		{"time enough", Timing{s, 3 * s, 2 * s}, Plan{HeadStart: s, HandOver: 2 * s}},
		{"too late for a hand-over", Timing{s, 3*s - 1, 2 * s}, Plan{HeadStart: s}},
		{"a deadline as short as HedgeDelay", Timing{s, s, 2 * s}, Plan{HeadStart: 2 * s / 5}},
		{"a late hedge", Timing{3 * s, 10 * s, 2 * s}, Plan{HeadStart: 3 * s}},
		{"SYNs cannot be bounded", Timing{s, 10 * s, 0}, Plan{HeadStart: s}},
		{"no time at all", Timing{s, -s, 2 * s}, Plan{HeadStart: -2 * s / 5}},
	} {
		if got := row.in.Fresh(); got != row.want {
			t.Errorf("%s: %+v, want %+v", row.why, got, row.want)
		}
	}
}

// stateRow is a story and the state that the path is in at its end.
type stateRow struct {
	why  string
	tell func(*story)
	want State
}

func checkStates(t *testing.T, rows []stateRow) {
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			s := newStory()
			row.tell(s)
			if got := s.state(); got != row.want {
				t.Errorf("path is %v, want %v", got, row.want)
			}
		})
	}
}

func TestPathsBlocks(t *testing.T) {
	checkStates(t, []stateRow{
		{"one network short", func(s *story) { s.block(blockNetworks - 1) }, Unproven},
		{"enough networks", func(s *story) { s.block(blockNetworks) }, Blocked},
		{"weak wins count", func(s *story) {
			for n := range blockNetworks {
				s.weak(far(n, 1))
			}
		}, Blocked},
		{"many hosts of one network", func(s *story) {
			for n := range 10 * blockNetworks {
				s.silent(far(1, n))
			}
		}, Unproven},
		{"one host again and again", func(s *story) {
			for range 10 * blockNetworks {
				s.silent(far(1, 1))
			}
		}, Unproven},
		{"a block stays while probes keep failing", func(s *story) {
			s.block(blockNetworks)
			for range 100 {
				s.wait(probeEvery)
				s.silent(far(1, 1))
			}
		}, Blocked},
		{"a block ends with a handshake", func(s *story) { s.block(blockNetworks); s.answered(far(3, 3)) }, Proven},
		{"a handshake between", func(s *story) {
			s.block(blockNetworks - 1)
			s.answered(far(200, 1))
			s.silent(far(201, 1))
		}, Proven},
		{"a veto while the handshake is young", func(s *story) {
			s.answered(far(200, 1))
			s.block(2 * blockNetworks)
		}, Proven},
		{"hosts that were silent under the veto do not count after it", func(s *story) {
			s.answered(far(200, 1))
			s.block(blockNetworks)
			s.wait(provenFor)
			s.silent(far(201, 1))
		}, Unproven},
		{"a veto ends", func(s *story) {
			s.answered(far(200, 1))
			s.wait(provenFor)
			s.block(blockNetworks)
		}, Blocked},
		{"refusals are no evidence", func(s *story) {
			for n := range 100 {
				s.recordRefusal(far(n, 1), s.now)
			}
		}, Unproven},
	})
}

func TestPathsSaysTurnsOnce(t *testing.T) {
	s := newStory()
	if s.block(blockNetworks - 1) {
		t.Error("blocked too early")
	}
	if !s.silent(far(100, 1)) {
		t.Error("the deciding hedge did not say that it blocks")
	}
	if s.silent(far(101, 1)) {
		t.Error("a blocked path was blocked again")
	}
	if !s.answered(far(102, 1)) {
		t.Error("the handshake did not say that it ends the block")
	}
	if s.answered(far(102, 1)) {
		t.Error("a path recovered twice")
	}
}

// TestBeginHedge: early hedges have a budget, and on a proven path a cause.
func TestBeginHedge(t *testing.T) {
	s := newStory()
	want := func(why string, to Target, want HedgeAnswer) {
		t.Helper()
		if got := s.beginHedge(to, s.now); got != want {
			t.Errorf("%s: %v, want %v", why, got, want)
		}
	}
	for n := range hedgeBurst {
		want("within the budget", far(n, 1), HedgeNow)
	}
	want("beyond the budget", far(100, 1), HedgeLater)
	s.giveBack()
	want("after a win", far(100, 1), HedgeNow)
	s.wait(hedgeEvery)
	want("five seconds later", far(100, 1), HedgeNow)
	s.wait(hedgeEvery)
	s.answered(neighbour)
	want("a neighbour proves nothing", far(100, 1), HedgeNow)
	s.wait(hedgeEvery)
	s.answered(far(100, 1))
	want("a proven path", far(100, 1), HedgeNever)
	want("near hosts are another path", neighbour, HedgeNever)
	s.silent(far(101, 1))
	want("a silent host on a proven path", far(101, 1), HedgeNow)
	s.wait(hedgeEvery)
	want("its network", far(101, 2), HedgeNow)
	want("another network", far(102, 1), HedgeNever)
}

// TestRefusals: the second refusal in a row is worth a try, then the fourth, the eighth; all of
// them once a try has shown that the path rejects the port; none on a proven path.
func TestRefusals(t *testing.T) {
	s := newStory()
	tries := func(n int) (tried []int) {
		for i := range n {
			if s.recordRefusal(far(i, 1), s.now) {
				tried = append(tried, i+1)
				s.giveBack()
			}
		}
		return tried
	}
	if got := tries(20); len(got) != 4 || got[0] != 2 || got[1] != 4 || got[2] != 8 || got[3] != 16 {
		t.Errorf("refusals tried again: %v", got)
	}
	s.answered(far(1, 1))
	if got := tries(20); len(got) != 0 {
		t.Errorf("on a proven path: %v", got)
	}
	s.wait(provenFor)
	if got := tries(1); len(got) != 0 {
		t.Errorf("the count did not begin anew: %v", got)
	}
	s.recordRetryWin(far(50, 1), s.now)
	if got := tries(5); len(got) != 5 {
		t.Errorf("on a path that rejects: %v", got)
	}
	if p := s.list(s.now); len(p) != 1 || !p[0].Rejects || p[0].SilentHosts != 1 {
		t.Errorf("paths %+v", p)
	}
	s.hedges.Owe(2*hedgeBurst, s.now)
	if s.recordRefusal(far(60, 1), s.now) {
		t.Error("without a token")
	}
}

// TestRefusalsByWildcard: a dial from a wildcard is counted without its source, and a handshake
// from any source ends the count.
func TestRefusalsByWildcard(t *testing.T) {
	s := newStory()
	wildcard := Target{netip.MustParseAddrPort("0.0.0.0:4001"), host(1, 1), Global}
	s.recordRefusal(wildcard, s.now)
	s.answered(far(2, 1))
	if s.recordRefusal(wildcard, s.now) {
		t.Error("tried again, although the path of one source is proven")
	}
	s.wait(provenFor)
	if s.recordRefusal(wildcard, s.now) {
		t.Error("the handshake did not end the count")
	}
	if !s.recordRefusal(wildcard, s.now) {
		t.Error("the second refusal was not tried again")
	}
	s.recordRetryWin(far(1, 1), s.now)
	if other := (Target{wildcard.Source, host(3, 1), Near}); s.recordRefusal(other, s.now) {
		t.Error("near hosts are another path")
	}
	if !s.recordRefusal(wildcard, s.now) {
		t.Error("the path of the source that rejects is not that of the wildcard")
	}
}

func TestNetworks(t *testing.T) {
	target := func(addr string) Target { return Target{listener, netip.MustParseAddr(addr), Global} }
	for _, row := range []struct {
		a, b       string
		vote, site bool // whether they are one
	}{
		{"203.0.1.1", "203.0.254.9", true, false},
		{"203.0.1.1", "203.0.1.9", true, true},
		{"203.0.1.1", "203.1.1.1", false, false},
		{"2001:db8:1::1", "2001:db8:ffff::2", true, false},
		{"2001:db8:1::1", "2001:db8:1:2::2", true, true},
		{"2001:db8::1", "2001:db9::1", false, false},
	} {
		a, b := target(row.a), target(row.b)
		if same := networkOf(a.Host) == networkOf(b.Host); same != row.vote {
			t.Errorf("%s and %s share a vote: %v", row.a, row.b, same)
		}
		if same := a.network() == b.network(); same != row.site {
			t.Errorf("%s and %s are one site: %v", row.a, row.b, same)
		}
	}
}

// TestPathsBound: of more sources than maxPaths the one with the oldest evidence is forgotten.
func TestPathsBound(t *testing.T) {
	s := newStory()
	to := func(n int) Target {
		return Target{netip.AddrPortFrom(listener.Addr(), uint16(1+n)), host(1, 1), Global}
	}
	for n := range maxPaths {
		s.answered(to(n))
		s.wait(time.Second)
	}
	s.answered(to(0))
	if len(s.byPath.entries) != maxPaths || s.byPath.entries[to(0).path()] == nil {
		t.Errorf("%d paths, want %d", len(s.byPath.entries), maxPaths)
	}
	s.answered(to(maxPaths))
	if len(s.byPath.entries) != maxPaths || s.byPath.entries[to(0).path()] == nil || s.byPath.entries[to(maxPaths).path()] == nil {
		t.Errorf("%d paths, or the newest is missing", len(s.byPath.entries))
	}
	if s.byPath.entries[to(1).path()] != nil {
		t.Error("the oldest is remembered")
	}
}

// TestPlacesBound: the oldest host or network makes room.
func TestPlacesBound(t *testing.T) {
	s := newStory()
	for n := range maxPlaces {
		s.silent(far(n>>8, n&255<<8|1)) // a network each
		s.wait(time.Millisecond)
	}
	if len(s.byPlace.entries) != maxPlaces {
		t.Errorf("%d places, want %d", len(s.byPlace.entries), maxPlaces)
	}
	last := far((maxPlaces-1)>>8, (maxPlaces-1)&255<<8|1)
	if s.byPlace.recall(last.host(), s.now) == nil || s.byPlace.recall(far(0, 1).host(), s.now) != nil {
		t.Error("not the oldest went")
	}
}

func TestDistance(t *testing.T) {
	for addr, want := range map[string]Distance{
		"203.0.113.1": Global, "2001:db8::1": Global, "10.0.0.1": Private, "100.64.0.1": Private,
		"fd00::1": Private, "192.168.1.1": Private, "fe80::1": Near, "169.254.0.1": Near,
	} {
		if got := DistanceOf(netip.MustParseAddr(addr), false); got != want {
			t.Errorf("%s is %v, want %v", addr, got, want)
		}
		if got := DistanceOf(netip.MustParseAddr(addr), true); got != Near {
			t.Errorf("%s on a link is %v", addr, got)
		}
	}
}

// FuzzPaths plays a story of dials of hosts that do what they like, and checks what must hold
// whatever happens. A dial of a host that answers ephemeral ports connects if it has time for a
// hand-over, and no two in a row fail if it has not. Two bytes are one event: who and how, and
// the time before it.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 2, 0, 0, 3})
	f.Add([]byte{2, 0, 0, 1, 16, 9, 3, 99, 255, 255, 7, 0, 7, 0, 7, 0})
	f.Fuzz(func(t *testing.T, events []byte) {
		f := &pathFuzz{story: newStory(), t: t, failed: make(map[netip.Addr]time.Time)}
		for ; len(events) >= 2; events = events[2:] {
			f.event(events[0], events[1])
			f.check()
		}
	})
}

type pathFuzz struct {
	*story
	t          *testing.T
	unanswered int                      // early hedges less those that won
	failed     map[netip.Addr]time.Time // when the last dial of a reachable host failed
}

// Behaviours of a host towards the listening port; all but dead answer an ephemeral one.
const (
	answers = iota
	drops
	rejects
	dead
)

func (f *pathFuzz) event(what, after byte) {
	f.wait(time.Duration(after) * time.Duration(after) * 20 * time.Millisecond)
	to := far(int(what>>2&7), int(what>>5))
	in := roomy
	if after&1 == 1 {
		in = tight
	}
	kind := int(what & 3)
	connected := f.dial(to, kind, in)
	reachable := kind == answers || kind == drops
	if connected || !reachable {
		delete(f.failed, to.Host)
		return
	}
	if in == roomy {
		f.t.Fatal("a reachable host was not reached in time enough")
	}
	if last, ok := f.failed[to.Host]; ok && f.now.Sub(last) < forgetAfter {
		f.t.Fatal("a reachable host was not reached twice in a row")
	}
	f.failed[to.Host] = f.now
}

// dial does what package reuseport does with the answers of paths.
func (f *pathFuzz) dial(to Target, how int, in Timing) (connected bool) {
	plan := f.beginDial(to, in, f.now)
	if plan.Way == FromNewPort {
		return how != dead
	}
	if plan.HeadStart > in.HedgeDelay || plan.HeadStart <= 0 || plan.HeadStart > in.Left/2 {
		f.t.Fatalf("head start %v of %+v", plan.HeadStart, in)
	}
	if how == answers {
		f.answered(to)
		return true
	}
	if how == rejects {
		return f.retry(to)
	}
	return f.hedge(to, plan, how)
}

func (f *pathFuzz) hedge(to Target, plan Plan, how int) (connected bool) {
	early := f.beginHedge(to, f.now) == HedgeNow
	switch {
	case !early && plan.HandOver == 0:
		f.recordTimeout(to, f.now)
		return false
	case how == dead:
		if early {
			f.unanswered++
		}
		f.recordSilence(to, f.now)
		return false
	}
	if early {
		f.giveBack()
	}
	f.recordHedgeWin(to, plan.HeadStart >= time.Second || !early, f.now)
	return true
}

func (f *pathFuzz) retry(to Target) (connected bool) {
	if !f.recordRefusal(to, f.now) {
		return false
	}
	f.recordRetryWin(to, f.now)
	return true
}

func (f *pathFuzz) check() {
	if limit := hedgeBurst + int(f.now.Sub(start)/hedgeEvery); f.unanswered > limit {
		f.t.Fatalf("%d unanswered hedges, the budget is %d", f.unanswered, limit)
	}
	if len(f.byPath.entries) > maxPaths || len(f.byPlace.entries) > maxPlaces {
		f.t.Fatalf("%d paths and %d places kept", len(f.byPath.entries), len(f.byPlace.entries))
	}
	for _, e := range f.byPath.entries {
		if e.what.blocked && len(e.what.votes) < blockNetworks {
			f.t.Fatalf("%d networks blocked a path", len(e.what.votes))
		}
	}
}
