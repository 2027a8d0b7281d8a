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

// A story tells a paths what happens, at a clock of its own.
type story struct {
	*paths
	now time.Time
}

func newStory() *story { return &story{newPaths(), start} }

func (s *story) wait(d time.Duration) { s.now = s.now.Add(d) }

func (s *story) ask(raddr netip.Addr) Plan {
	return s.beginDial(listener, raddr, time.Second, s.now)
}

func (s *story) answered(raddr netip.Addr) bool {
	return s.recordHandshake(listener, raddr, s.now)
}

// silent is a dial whose hedge starts and wins.
func (s *story) silent(raddr netip.Addr) (blocked bool) {
	if s.beginHedge(listener, raddr, s.now) != HedgeNow {
		return false
	}
	return s.recordHedgeWin(listener, raddr, s.now)
}

// block makes n networks answer hedges and reports whether the last one blocked.
func (s *story) block(networks int) (blocked bool) {
	for n := range networks {
		blocked = s.silent(host(n, 1))
	}
	return blocked
}

func (s *story) state() State {
	for _, p := range s.list(s.now) {
		return p.State
	}
	return Unproven
}

func TestBeginDial(t *testing.T) {
	stranger := host(200, 9)
	hedged := func(d time.Duration) Plan { return Plan{Hedged, d} }
	rows := []struct {
		why   string
		tell  func(*story)
		raddr netip.Addr
		want  Plan
	}{
		{"nothing known", func(*story) {}, stranger, hedged(time.Second)},
		{"a private target says nothing of the path", func(*story) {}, netip.MustParseAddr("10.1.2.3"), Plan{Way: FromListener}},
		{"nor does a carrier's NAT", func(*story) {}, netip.MustParseAddr("100.64.0.1"), Plan{Way: FromListener}},
		{"nor loopback", func(*story) {}, netip.MustParseAddr("::1"), Plan{Way: FromListener}},
		{"proven", func(s *story) { s.answered(host(1, 1)) }, stranger, Plan{Way: FromListener}},
		{"proven by a private host: not at all", func(s *story) { s.answered(netip.MustParseAddr("192.168.0.1")) }, stranger, hedged(time.Second)},
		{"proof gets old", func(s *story) { s.answered(host(1, 1)); s.wait(provenFor) }, stranger, hedged(time.Second)},
		{"the host that was silent", func(s *story) { s.silent(stranger) }, stranger, Plan{Way: FromNewPort}},
		{"its neighbour", func(s *story) { s.silent(host(200, 8)) }, stranger, hedged(time.Second / 2)},
		{"the silent host rests 30 s", func(s *story) { s.silent(stranger); s.wait(probeEvery) }, stranger, hedged(time.Second / 8)},
		{"one dial probes it", func(s *story) { s.silent(stranger); s.wait(probeEvery); s.ask(stranger) }, stranger, Plan{Way: FromNewPort}},
		{"it stays silent on a proven path", func(s *story) { s.silent(stranger); s.answered(host(1, 1)) }, stranger, Plan{Way: FromNewPort}},
		{"until it answers", func(s *story) { s.silent(stranger); s.answered(stranger) }, stranger, Plan{Way: FromListener}},
		{"two networks", func(s *story) { s.block(2) }, stranger, hedged(time.Second / 4)},
		{"three networks", func(s *story) { s.block(3) }, stranger, hedged(time.Second / 8)},
		{"no head start below 1/8", func(s *story) { s.block(20) }, stranger, hedged(time.Second / 8)},
		{"blocked", func(s *story) { s.block(blockNetworks) }, stranger, Plan{Way: FromNewPort}},
		{"blocked, a probe is due", func(s *story) { s.block(blockNetworks); s.wait(probeEvery) }, stranger, hedged(time.Second / 8)},
		{"one dial probes", func(s *story) { s.block(blockNetworks); s.wait(probeEvery); s.ask(stranger) }, stranger, Plan{Way: FromNewPort}},
		{"the probe was answered", func(s *story) { s.block(blockNetworks); s.answered(host(1, 1)) }, stranger, Plan{Way: FromListener}},
		{"no token, no probe", func(s *story) {
			s.block(blockNetworks)
			s.wait(probeEvery)
			s.hedges.Owe(hedgeBurst, s.now)
		}, stranger, Plan{Way: FromNewPort}},
		{"forgotten", func(s *story) { s.block(blockNetworks); s.wait(forgetAfter) }, stranger, hedged(time.Second)},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			s := newStory()
			row.tell(s)
			if got := s.ask(row.raddr); got != row.want {
				t.Errorf("plan %+v, want %+v", got, row.want)
			}
		})
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
		{"many hosts of one network", func(s *story) {
			for n := range 10 * blockNetworks {
				s.silent(host(1, n))
			}
		}, Unproven},
		{"one host again and again", func(s *story) {
			for range 10 * blockNetworks {
				s.silent(host(1, 1))
			}
		}, Unproven},
		{"a block stays while probes keep failing", func(s *story) {
			s.block(blockNetworks)
			for range 100 {
				s.wait(probeEvery)
				s.silent(host(1, 1))
			}
		}, Blocked},
		{"a block ends with a handshake", func(s *story) { s.block(blockNetworks); s.answered(host(3, 3)) }, Proven},
	})
}

// TestPathsVetoes: a handshake vouches for its path for five minutes.
func TestPathsVetoes(t *testing.T) {
	checkStates(t, []stateRow{
		{"a handshake between", func(s *story) {
			s.block(blockNetworks - 1)
			s.answered(host(200, 1))
			s.recordHedgeWin(listener, host(201, 1), s.now)
		}, Proven},
		{"a veto while the handshake is young", func(s *story) {
			s.answered(host(200, 1))
			for n := range 2 * blockNetworks {
				s.recordHedgeWin(listener, host(n, 1), s.now)
			}
		}, Proven},
		{"hosts that were silent under the veto do not count after it", func(s *story) {
			s.answered(host(200, 1))
			s.block(blockNetworks)
			for n := range blockNetworks {
				s.recordHedgeWin(listener, host(n, 1), s.now)
			}
			s.wait(provenFor)
			s.silent(host(201, 1))
		}, Unproven},
		{"a veto ends", func(s *story) {
			s.answered(host(200, 1))
			s.wait(provenFor)
			s.block(blockNetworks)
		}, Blocked},
	})
}

func TestPathsSaysTurnsOnce(t *testing.T) {
	s := newStory()
	if s.block(blockNetworks - 1) {
		t.Error("blocked too early")
	}
	if !s.silent(host(100, 1)) {
		t.Error("the deciding hedge did not say that it blocks")
	}
	if s.silent(host(101, 1)) {
		t.Error("a blocked path was blocked again")
	}
	if !s.answered(host(102, 1)) {
		t.Error("the handshake did not say that it ends the block")
	}
	if s.answered(host(102, 1)) {
		t.Error("a path recovered twice")
	}
}

func TestPathsHedgeAnswers(t *testing.T) {
	s := newStory()
	for n := range hedgeBurst {
		if got := s.beginHedge(listener, host(n, 1), s.now); got != HedgeNow {
			t.Fatalf("hedge %d: %v, want HedgeNow", n, got)
		}
	}
	raddr := host(100, 1)
	if got := s.beginHedge(listener, raddr, s.now); got != HedgeLater {
		t.Errorf("beyond the budget: %v, want HedgeLater", got)
	}
	s.recordHedgeWin(listener, host(0, 1), s.now)
	if got := s.beginHedge(listener, raddr, s.now); got != HedgeNow {
		t.Errorf("after a win gave its token back: %v, want HedgeNow", got)
	}
	s.wait(hedgeEvery)
	if got := s.beginHedge(listener, raddr, s.now); got != HedgeNow {
		t.Errorf("after %v: %v, want HedgeNow", hedgeEvery, got)
	}
	s.answered(raddr)
	s.wait(hedgeEvery)
	if got := s.beginHedge(listener, raddr, s.now); got != HedgeNever {
		t.Errorf("on a path proven meanwhile: %v, want HedgeNever", got)
	}
	if got := s.beginHedge(listener, netip.MustParseAddr("10.0.0.1"), s.now); got != HedgeNever {
		t.Errorf("private target: %v, want HedgeNever", got)
	}
}

func TestPathsWatches(t *testing.T) {
	s := newStory()
	ip4, ip6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	s.answered(host(1, 1))
	if s.needsSource(4001, ip4) {
		t.Error("a proven path needs no look-up")
	}
	s.recordHedgeWin(listener, host(2, 1), s.now)
	if !s.needsSource(4001, ip4) {
		t.Error("a silent host must be looked for")
	}
	if s.needsSource(4002, ip4) || s.needsSource(4001, ip6) {
		t.Error("another port or family is not concerned")
	}
}

func TestPathsNetworks(t *testing.T) {
	rows := []struct {
		a, b string
		same bool
	}{
		{"203.0.1.1", "203.0.254.9", true},
		{"203.0.1.1", "203.1.1.1", false},
		{"2001:db8:1::1", "2001:db8:ffff::2", true},
		{"2001:db8::1", "2001:db9::1", false},
	}
	for _, row := range rows {
		same := networkOf(netip.MustParseAddr(row.a)) == networkOf(netip.MustParseAddr(row.b))
		if same != row.same {
			t.Errorf("%s and %s share a vote: %v, want %v", row.a, row.b, same, row.same)
		}
	}
}

// TestPathsBound: of more sources than maxPaths the one with the oldest evidence is forgotten.
func TestPathsBound(t *testing.T) {
	s := newStory()
	source := func(n int) netip.AddrPort { return netip.AddrPortFrom(listener.Addr(), uint16(1+n)) }
	for n := range maxPaths {
		s.recordHandshake(source(n), host(1, 1), s.now)
		s.wait(time.Second)
	}
	s.recordHandshake(source(0), host(1, 1), s.now)
	if len(s.bySource) != maxPaths || s.bySource[source(0)] == nil {
		t.Errorf("%d paths, want %d", len(s.bySource), maxPaths)
	}
	s.recordHandshake(source(maxPaths), host(1, 1), s.now)
	if len(s.bySource) != maxPaths || s.bySource[source(0)] == nil || s.bySource[source(maxPaths)] == nil {
		t.Errorf("%d paths, or the newest is missing", len(s.bySource))
	}
	if s.bySource[source(1)] != nil {
		t.Error("the oldest is remembered")
	}
}

// TestPathsForgetsHosts: a silent host is remembered once, the oldest makes room for the 129th, and
// those that are ten minutes old go.
func TestPathsForgetsHosts(t *testing.T) {
	s := newStory()
	hosts := func() int { return len(s.bySource[listener].silent) }
	win := func(n int) { s.recordHedgeWin(listener, host(1, n), s.now) }
	for n := range maxSilentHosts {
		win(n)
	}
	win(0) // the newest now
	if n := hosts(); n != maxSilentHosts {
		t.Errorf("%d hosts, want %d", n, maxSilentHosts)
	}
	win(maxSilentHosts)
	p := s.bySource[listener]
	if hosts() != maxSilentHosts || p.silentHost(host(1, 1)) != nil || p.silentHost(host(1, 0)) == nil || p.silentHost(host(1, maxSilentHosts)) == nil {
		t.Errorf("%d hosts, or not the oldest went", hosts())
	}
	s.wait(forgetAfter - 1)
	win(1000)
	if n := hosts(); n != maxSilentHosts {
		t.Errorf("%d hosts just before they are too old, want %d", n, maxSilentHosts)
	}
	s.wait(1)
	win(1001)
	if n := hosts(); n != 2 {
		t.Errorf("%d hosts, want the 2 that are not too old", n)
	}
	s.wait(forgetAfter - 1)
	s.answered(host(2, 1)) // so that the path is not forgotten
	s.wait(1)
	win(1002)
	if n := hosts(); n != 1 {
		t.Errorf("%d hosts, want 1", n)
	}
}

// TestPathsHedgesSilentHost: a proven path is hedged towards a host that was silent on it.
func TestPathsHedgesSilentHost(t *testing.T) {
	s := newStory()
	s.silent(host(1, 1))
	s.answered(host(2, 1))
	if got := s.beginHedge(listener, host(1, 1), s.now); got != HedgeNow {
		t.Errorf("the silent host: %v, want HedgeNow", got)
	}
	if got := s.beginHedge(listener, host(1, 2), s.now); got != HedgeNever {
		t.Errorf("another host: %v, want HedgeNever", got)
	}
}

// TestPathsIgnorePrivate: what a private host answers is no evidence.
func TestPathsIgnorePrivate(t *testing.T) {
	s := newStory()
	private := netip.MustParseAddr("10.0.0.1")
	if s.answered(private) || s.recordHedgeWin(listener, private, s.now) || len(s.bySource) != 0 {
		t.Errorf("paths %v, or a turn", s.bySource)
	}
}

// FuzzPaths plays a story of dials and checks what must hold whatever
// happens. Three bytes are one event: what, whose, and how long it took.
func FuzzPaths(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 2, 0, 0, 3, 200})
	f.Add([]byte{2, 0, 0, 1, 16, 9, 3, 99, 255})
	var block []byte
	for n := range byte(blockNetworks) {
		block = append(block, 2, n, 0)
	}
	f.Add(append(block, 0, 31, 0, 0, 31, 200, 2, 31, 0, 3, 30, 0))
	f.Fuzz(func(t *testing.T, events []byte) {
		f := &pathFuzz{story: newStory(), t: t, winners: make(map[netip.AddrPort]map[netip.Prefix]bool)}
		for ; len(events) >= 3; events = events[3:] {
			f.event(events[0], events[1], events[2])
			f.check()
		}
	})
}

type pathFuzz struct {
	*story
	t          *testing.T
	unanswered int // hedges started less those that won
	source     netip.AddrPort
	winners    map[netip.AddrPort]map[netip.Prefix]bool // since the last handshake
}

func (f *pathFuzz) event(what, who, after byte) {
	f.wait(time.Duration(after) * time.Duration(after) * 20 * time.Millisecond)
	f.source = netip.AddrPortFrom(host(0, 0), uint16(what>>2))
	raddr := host(int(who&31), int(who>>5)<<3+int(after&7))
	switch what & 3 {
	case 0:
		f.checkPlan(raddr)
	case 1, 2:
		f.hedge(raddr, what&3 == 2)
	case 3:
		f.recordHandshake(f.source, raddr, f.now)
		delete(f.winners, f.source)
		if p := f.bySource[f.source]; p.blocked || !p.proven(f.now) {
			f.t.Fatal("a handshake did not prove the path")
		}
	}
}

func (f *pathFuzz) checkPlan(raddr netip.Addr) {
	got := f.beginDial(f.source, raddr, time.Second, f.now)
	if got.Way == Hedged && (got.HeadStart < time.Second/8 || got.HeadStart > time.Second) {
		f.t.Fatalf("head start %v", got.HeadStart)
	}
	p := f.bySource[f.source]
	if got.Way == FromNewPort && (p == nil || !p.blocked && p.silentHost(raddr) == nil) {
		f.t.Fatal("an ephemeral port without cause")
	}
}

func (f *pathFuzz) hedge(raddr netip.Addr, wins bool) {
	if f.beginHedge(f.source, raddr, f.now) != HedgeNow {
		return
	}
	f.unanswered++
	if wins {
		f.unanswered--
		f.win(raddr)
	}
}

// win checks who blocks: no fewer than blockNetworks networks since the last
// handshake.
func (f *pathFuzz) win(raddr netip.Addr) {
	if f.winners[f.source] == nil {
		f.winners[f.source] = make(map[netip.Prefix]bool)
	}
	f.winners[f.source][networkOf(raddr)] = true
	if f.recordHedgeWin(f.source, raddr, f.now) && len(f.winners[f.source]) < blockNetworks {
		f.t.Fatalf("%d networks blocked a path", len(f.winners[f.source]))
	}
}

func (f *pathFuzz) check() {
	if limit := hedgeBurst + int(f.now.Sub(start)/hedgeEvery); f.unanswered > limit {
		f.t.Fatalf("%d unanswered hedges, the budget is %d", f.unanswered, limit)
	}
	if len(f.bySource) > maxPaths {
		f.t.Fatalf("%d paths kept", len(f.bySource))
	}
	for source, p := range f.bySource {
		if len(p.silent) > maxSilentHosts {
			f.t.Fatalf("%v: %d silent hosts kept", source, len(p.silent))
		}
	}
}
