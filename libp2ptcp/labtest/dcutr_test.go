package labtest

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/reusetransport/reuseport/lab"
)

var tries = flag.Int("tries", 5, "DCUtR tries of each kind and transport; 20 for the figures of the README")

// result is one try.
type result struct {
	started bool // both hosts knew a public address and offered DCUtR
	a, b    outcome
}

// good reports whether both hosts say that a punch gave them a direct connection
// between the listening ports.
func (r result) good() bool {
	return r.a.Direct && r.b.Direct && r.a.Ours && r.b.Ours && r.a.Punched > 0 && r.b.Punched > 0
}

func (r result) String() string {
	switch {
	case !r.started:
		return "not even tried: no public address"
	case r.good():
		return fmt.Sprintf("punched, %d ms", r.b.After.Milliseconds())
	default:
		return fmt.Sprintf("FAILED\n    a: %+v\n    b: %+v", r.a, r.b)
	}
}

// try makes b call a through the relay, with new hosts and ports.
func (s *scene) try(transport string, limit time.Duration) (r result) {
	s.t.Helper()
	s.port++
	in := setup{Transport: transport, Port: s.port, Relay: &s.relay}
	a := ask[peer.AddrInfo](s, "a", "open", in)
	b := ask[peer.AddrInfo](s, "b", "open", in)
	start := startLimit
	if transport == newPort {
		start = 4 * time.Second // there is nothing to wait for
	}
	atA := ask[bool](s, "a", "ready", wait{Port: s.port, Limit: start})
	atB := ask[bool](s, "b", "ready", wait{Port: s.port, Limit: start})
	r.started = atA && atB
	if r.started {
		r.b = ask[outcome](s, "b", "call", wait{Port: s.port, Peer: a.ID, Limit: limit})
		r.a = ask[outcome](s, "a", "direct", wait{Port: s.port, Peer: b.ID, Limit: time.Second})
	}
	ask[struct{}](s, "b", "shut", wait{Port: s.port})
	ask[struct{}](s, "a", "shut", wait{Port: s.port})
	return r
}

// tally counts successful tries.
type tally struct {
	good  int
	times []time.Duration
}

func (c *tally) add(r result) {
	if r.good() {
		c.good++
		c.times = append(c.times, r.b.After)
	}
}

func (c *tally) String() string {
	if len(c.times) == 0 {
		return fmt.Sprintf("%d", c.good)
	}
	slices.Sort(c.times)
	return fmt.Sprintf("%d, direct after %d ms (median), %d ms (slowest)", c.good,
		c.times[len(c.times)/2].Milliseconds(), c.times[len(c.times)-1].Milliseconds())
}

// TestDCUtR punches through kernel NATs, alternating between our transport and
// go-libp2p's, and demands four of five from ours.
func TestDCUtR(t *testing.T) {
	short, long := lab.Wire{Delay: 10 * time.Millisecond}, lab.Wire{Delay: 50 * time.Millisecond}
	for name, tt := range map[string]struct {
		wire lab.Wire
		nat  lab.NAT
	}{
		"20 ms, dropping":                 {short, lab.NAT{}},
		"100 ms, dropping":                {long, lab.NAT{}},
		"20 ms, not preserving ports":     {short, lab.NAT{Mapping: lab.PortShifting}},
		"20 ms + 40 ms jitter, resetting": {lab.Wire{Delay: 10 * time.Millisecond, Jitter: 40 * time.Millisecond}, lab.NAT{Unsolicited: lab.Reset}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, tt.wire, tt.nat)
			var mine, theirs tally
			for i := range *tries {
				r, q := s.try(ours, callLimit), s.try(stock, callLimit)
				mine.add(r)
				theirs.add(q)
				t.Logf("try %d: ours %v; stock %v", i, r, q)
			}
			t.Logf("of %d, ours %v; stock %v", *tries, &mine, &theirs)
			if mine.good*5 < *tries*4 {
				t.Errorf("%d of %d tries gave a direct connection", mine.good, *tries)
			}
		})
	}
}

// TestDCUtRControls does the same where it cannot work. A try counts because ready
// has connected to the relay and reserved a slot.
func TestDCUtRControls(t *testing.T) {
	wire := lab.Wire{Delay: 10 * time.Millisecond}
	t.Run("new port", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, wire, lab.NAT{})
		for range (*tries + 1) / 2 {
			if r := s.try(newPort, callLimit); r.started {
				t.Errorf("without reuse a public address is known: %+v, %+v", r.a, r.b)
			}
		}
	})
	t.Run("address and port dependent mapping", func(t *testing.T) {
		t.Parallel()
		s := newScene(t, wire, lab.NAT{Mapping: lab.AddressAndPortDependent})
		for range (*tries + 4) / 5 { // each lasts for all the attempts that go-libp2p makes
			r := s.try(ours, callLimit)
			if !r.started || r.b.Failed == 0 {
				t.Errorf("no attempt was made: %+v, %+v", r.a, r.b)
			}
			if r.a.Direct || r.b.Direct {
				t.Errorf("a direct connection: %+v, %+v", r.a, r.b)
			}
		}
	})
}
