package reuseport

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	healthStart  = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	healthSource = netip.MustParseAddrPort("192.0.0.70:4001")
)

// host returns address n of network 240.net.0.0/16 (reserved, RFC 1112).
func host(network, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{240, byte(network), byte(n >> 8), byte(n)})
}

// A healthStory tells a pathHealth what happens, at a clock of its own.
type healthStory struct {
	pathHealth
	now time.Time
}

func newHealthStory() *healthStory { return &healthStory{now: healthStart} }

func (s *healthStory) wait(d time.Duration) { s.now = s.now.Add(d) }

func (s *healthStory) ask(raddr netip.Addr) advice {
	return s.advise(healthSource, raddr, time.Second, s.now)
}

func (s *healthStory) answered(raddr netip.Addr) bool {
	return s.handshaken(healthSource, raddr, s.now)
}

// silent is a dial whose hedge starts and wins.
func (s *healthStory) silent(raddr netip.Addr) (blocked bool) {
	if s.mayHedge(healthSource, raddr, s.now) != hedgeNow {
		return false
	}
	return s.hedgeWon(healthSource, raddr, s.now)
}

// block makes n networks answer hedges and reports whether the last one blocked.
func (s *healthStory) block(networks int) (blocked bool) {
	for n := range networks {
		blocked = s.silent(host(n, 1))
	}
	return blocked
}

func (s *healthStory) state() PathState {
	for _, p := range s.list(s.now) {
		return p.State
	}
	return PathUnproven
}

func TestPathHealthAdvice(t *testing.T) {
	stranger := host(200, 9)
	hedged := func(d time.Duration) advice { return advice{useHedged, d} }
	rows := []struct {
		why   string
		tell  func(*healthStory)
		raddr netip.Addr
		want  advice
	}{
		{"nothing known", func(*healthStory) {}, stranger, hedged(time.Second)},
		{"a private target says nothing of the path", func(*healthStory) {}, netip.MustParseAddr("10.1.2.3"), advice{use: useShared}},
		{"nor does a carrier's NAT", func(*healthStory) {}, netip.MustParseAddr("100.64.0.1"), advice{use: useShared}},
		{"nor loopback", func(*healthStory) {}, netip.MustParseAddr("::1"), advice{use: useShared}},
		{"proven", func(s *healthStory) { s.answered(host(1, 1)) }, stranger, advice{use: useShared}},
		{"proven by a private host: not at all", func(s *healthStory) { s.answered(netip.MustParseAddr("192.168.0.1")) }, stranger, hedged(time.Second)},
		{"proof gets old", func(s *healthStory) { s.answered(host(1, 1)); s.wait(provenFor) }, stranger, hedged(time.Second)},
		{"the host that was silent", func(s *healthStory) { s.silent(stranger) }, stranger, advice{use: useEphemeral}},
		{"its neighbour", func(s *healthStory) { s.silent(host(200, 8)) }, stranger, hedged(time.Second / 2)},
		{"the silent host rests 30 s", func(s *healthStory) { s.silent(stranger); s.wait(probeEvery) }, stranger, hedged(time.Second / 8)},
		{"one dial probes it", func(s *healthStory) { s.silent(stranger); s.wait(probeEvery); s.ask(stranger) }, stranger, advice{use: useEphemeral}},
		{"it stays silent on a proven path", func(s *healthStory) { s.silent(stranger); s.answered(host(1, 1)) }, stranger, advice{use: useEphemeral}},
		{"until it answers", func(s *healthStory) { s.silent(stranger); s.answered(stranger) }, stranger, advice{use: useShared}},
		{"two networks", func(s *healthStory) { s.block(2) }, stranger, hedged(time.Second / 4)},
		{"three networks", func(s *healthStory) { s.block(3) }, stranger, hedged(time.Second / 8)},
		{"no head start below 1/8", func(s *healthStory) { s.block(20) }, stranger, hedged(time.Second / 8)},
		{"blocked", func(s *healthStory) { s.block(blockNetworks) }, stranger, advice{use: useEphemeral}},
		{"blocked, a probe is due", func(s *healthStory) { s.block(blockNetworks); s.wait(probeEvery) }, stranger, hedged(time.Second / 8)},
		{"one dial probes", func(s *healthStory) { s.block(blockNetworks); s.wait(probeEvery); s.ask(stranger) }, stranger, advice{use: useEphemeral}},
		{"the probe was answered", func(s *healthStory) { s.block(blockNetworks); s.answered(host(1, 1)) }, stranger, advice{use: useShared}},
		{"no token, no probe", func(s *healthStory) {
			s.block(blockNetworks)
			s.wait(probeEvery)
			s.tokens().owe(hedgeBurst, s.now)
		}, stranger, advice{use: useEphemeral}},
		{"forgotten", func(s *healthStory) { s.block(blockNetworks); s.wait(forgetAfter) }, stranger, hedged(time.Second)},
	}
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			s := newHealthStory()
			row.tell(s)
			if got := s.ask(row.raddr); got != row.want {
				t.Errorf("advice %+v, want %+v", got, row.want)
			}
		})
	}
}

// stateRow is a story and the state that the path is in at its end.
type stateRow struct {
	why  string
	tell func(*healthStory)
	want PathState
}

func checkStates(t *testing.T, rows []stateRow) {
	for _, row := range rows {
		t.Run(row.why, func(t *testing.T) {
			s := newHealthStory()
			row.tell(s)
			if got := s.state(); got != row.want {
				t.Errorf("path is %v, want %v", got, row.want)
			}
		})
	}
}

func TestPathHealthBlocks(t *testing.T) {
	checkStates(t, []stateRow{
		{"one network short", func(s *healthStory) { s.block(blockNetworks - 1) }, PathUnproven},
		{"enough networks", func(s *healthStory) { s.block(blockNetworks) }, PathBlocked},
		{"many hosts of one network", func(s *healthStory) {
			for n := range 10 * blockNetworks {
				s.silent(host(1, n))
			}
		}, PathUnproven},
		{"one host again and again", func(s *healthStory) {
			for range 10 * blockNetworks {
				s.silent(host(1, 1))
			}
		}, PathUnproven},
		{"a block stays while probes keep failing", func(s *healthStory) {
			s.block(blockNetworks)
			for range 100 {
				s.wait(probeEvery)
				s.silent(host(1, 1))
			}
		}, PathBlocked},
		{"a block ends with a handshake", func(s *healthStory) { s.block(blockNetworks); s.answered(host(3, 3)) }, PathProven},
	})
}

// TestPathHealthVetoes: a handshake vouches for its path for five minutes.
func TestPathHealthVetoes(t *testing.T) {
	checkStates(t, []stateRow{
		{"a handshake between", func(s *healthStory) {
			s.block(blockNetworks - 1)
			s.answered(host(200, 1))
			s.hedgeWon(healthSource, host(201, 1), s.now)
		}, PathProven},
		{"a veto while the handshake is young", func(s *healthStory) {
			s.answered(host(200, 1))
			for n := range 2 * blockNetworks {
				s.hedgeWon(healthSource, host(n, 1), s.now)
			}
		}, PathProven},
		{"hosts that were silent under the veto do not count after it", func(s *healthStory) {
			s.answered(host(200, 1))
			s.block(blockNetworks)
			for n := range blockNetworks {
				s.hedgeWon(healthSource, host(n, 1), s.now)
			}
			s.wait(provenFor)
			s.silent(host(201, 1))
		}, PathUnproven},
		{"a veto ends", func(s *healthStory) {
			s.answered(host(200, 1))
			s.wait(provenFor)
			s.block(blockNetworks)
		}, PathBlocked},
	})
}

func TestPathHealthSaysTurnsOnce(t *testing.T) {
	s := newHealthStory()
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

func TestPathHealthHedgeAnswers(t *testing.T) {
	s := newHealthStory()
	for n := range hedgeBurst {
		if got := s.mayHedge(healthSource, host(n, 1), s.now); got != hedgeNow {
			t.Fatalf("hedge %d: %v, want hedgeNow", n, got)
		}
	}
	raddr := host(100, 1)
	if got := s.mayHedge(healthSource, raddr, s.now); got != hedgeLater {
		t.Errorf("beyond the budget: %v, want hedgeLater", got)
	}
	s.hedgeWon(healthSource, host(0, 1), s.now)
	if got := s.mayHedge(healthSource, raddr, s.now); got != hedgeNow {
		t.Errorf("after a win gave its token back: %v, want hedgeNow", got)
	}
	s.wait(hedgeEvery)
	if got := s.mayHedge(healthSource, raddr, s.now); got != hedgeNow {
		t.Errorf("after %v: %v, want hedgeNow", hedgeEvery, got)
	}
	s.answered(raddr)
	s.wait(hedgeEvery)
	if got := s.mayHedge(healthSource, raddr, s.now); got != hedgeNever {
		t.Errorf("on a path proven meanwhile: %v, want hedgeNever", got)
	}
	if got := s.mayHedge(healthSource, netip.MustParseAddr("10.0.0.1"), s.now); got != hedgeNever {
		t.Errorf("private target: %v, want hedgeNever", got)
	}
}

func TestPathHealthWatches(t *testing.T) {
	s := newHealthStory()
	ip4, ip6 := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	s.answered(host(1, 1))
	if s.watched(4001, ip4) {
		t.Error("a proven path needs no look-up")
	}
	s.hedgeWon(healthSource, host(2, 1), s.now)
	if !s.watched(4001, ip4) {
		t.Error("a silent host must be looked for")
	}
	if s.watched(4002, ip4) || s.watched(4001, ip6) {
		t.Error("another port or family is not concerned")
	}
}

func TestPathHealthNetworks(t *testing.T) {
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

func TestPathStateString(t *testing.T) {
	got := fmt.Sprint(PathUnproven, PathProven, PathBlocked, PathState(7))
	if got != "unproven proven blocked PathState(7)" {
		t.Error(got)
	}
}

// FuzzPathHealth plays a story of dials and checks what must hold whatever
// happens. Three bytes are one event: what, whose, and how long it took.
func FuzzPathHealth(f *testing.F) {
	f.Add([]byte{1, 1, 0, 1, 2, 0, 0, 3, 200})
	f.Add([]byte{2, 0, 0, 1, 16, 9, 3, 99, 255})
	var block []byte
	for n := range byte(blockNetworks) {
		block = append(block, 2, n, 0)
	}
	f.Add(append(block, 0, 31, 0, 0, 31, 200, 2, 31, 0, 3, 30, 0))
	f.Fuzz(func(t *testing.T, story []byte) {
		f := &healthFuzz{healthStory: newHealthStory(), t: t, winners: make(map[netip.AddrPort]map[netip.Prefix]bool)}
		for ; len(story) >= 3; story = story[3:] {
			f.event(story[0], story[1], story[2])
			f.check()
		}
	})
}

type healthFuzz struct {
	*healthStory
	t          *testing.T
	unanswered int // hedges started less those that won
	source     netip.AddrPort
	winners    map[netip.AddrPort]map[netip.Prefix]bool // since the last handshake
}

func (f *healthFuzz) event(what, who, after byte) {
	f.wait(time.Duration(after) * time.Duration(after) * 20 * time.Millisecond)
	f.source = netip.AddrPortFrom(host(0, 0), uint16(what>>2))
	raddr := host(int(who&31), int(who>>5)<<3+int(after&7))
	switch what & 3 {
	case 0:
		f.checkAdvice(raddr)
	case 1, 2:
		f.hedge(raddr, what&3 == 2)
	case 3:
		f.handshaken(f.source, raddr, f.now)
		delete(f.winners, f.source)
		if p := f.paths[f.source]; p.blocked || !p.proven(f.now) {
			f.t.Fatal("a handshake did not prove the path")
		}
	}
}

func (f *healthFuzz) checkAdvice(raddr netip.Addr) {
	got := f.advise(f.source, raddr, time.Second, f.now)
	if got.use == useHedged && (got.headStart < time.Second/8 || got.headStart > time.Second) {
		f.t.Fatalf("head start %v", got.headStart)
	}
	p := f.paths[f.source]
	if got.use == useEphemeral && (p == nil || !p.blocked && p.silentHost(raddr) == nil) {
		f.t.Fatal("an ephemeral port without cause")
	}
}

func (f *healthFuzz) hedge(raddr netip.Addr, wins bool) {
	if f.mayHedge(f.source, raddr, f.now) != hedgeNow {
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
func (f *healthFuzz) win(raddr netip.Addr) {
	if f.winners[f.source] == nil {
		f.winners[f.source] = make(map[netip.Prefix]bool)
	}
	f.winners[f.source][networkOf(raddr)] = true
	if f.hedgeWon(f.source, raddr, f.now) && len(f.winners[f.source]) < blockNetworks {
		f.t.Fatalf("%d networks blocked a path", len(f.winners[f.source]))
	}
}

func (f *healthFuzz) check() {
	if limit := hedgeBurst + int(f.now.Sub(healthStart)/hedgeEvery); f.unanswered > limit {
		f.t.Fatalf("%d unanswered hedges, the budget is %d", f.unanswered, limit)
	}
	if len(f.paths) > maxPaths {
		f.t.Fatalf("%d paths kept", len(f.paths))
	}
	for source, p := range f.paths {
		if len(p.silent) > maxSilentHosts {
			f.t.Fatalf("%v: %d silent hosts kept", source, len(p.silent))
		}
	}
}
