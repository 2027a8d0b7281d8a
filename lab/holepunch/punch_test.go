package holepunch_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
	"github.com/reusetransport/reuseport/lab/holepunch"
)

// tries is the number of punches of each scene. With fewer than 100, nine in ten must
// connect; with 100 or more, the goals in the tables must be met.
var tries = flag.Int("tries", 10, "punches for each scene; 100 for the figures of docs/punch.md")

func TestMain(m *testing.M) {
	roles := holepunch.Roles()
	lab.Main(m, roles)
}

// atOnce is how many tries run at one time in one network: enough to be quick, and
// few enough that two cores do not add delays of their own.
const atOnce = 5

// measure makes count tries and returns their results.
func measure(t *testing.T, s holepunch.Scene, count, atOnce int, try func(i int) holepunch.Try) []holepunch.Result {
	t.Helper()
	n := lab.Start(t, s.Topology())
	if err := holepunch.Open(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	results := make([]holepunch.Result, count)
	errs := make([]error, count)
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i := range count {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			tr := try(i)
			tr.Port = uint16(4001 + i)
			results[i], errs[i] = s.Run(t.Context(), n, tr)
		})
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("try %d: %v", i, err)
		}
	}
	return results
}

// tally counts the connected tries and logs the slowest of them.
func tally(t *testing.T, results []holepunch.Result) (connected int) {
	t.Helper()
	var slowest time.Duration
	var syns, adopted uint64
	for i, r := range results {
		syns += r.A.SYNs + r.B.SYNs
		if !r.Connected() {
			if i-connected > 2 {
				continue // three are enough
			}
			t.Logf("try %d, %v and %v late: a %q, b %q", i, r.LateA, r.LateB, r.A.Err, r.B.Err)
			continue
		}
		connected++
		checkEnds(t, r)
		if r.A.Accepted || r.B.Accepted {
			adopted++
		}
		slowest = max(slowest, r.A.Took, r.B.Took)
	}
	t.Logf("%d of %d connected (%d at a listener), slowest %v, %.1f SYNs a side",
		connected, len(results), adopted, slowest.Round(time.Millisecond), float64(syns)/float64(2*len(results)))
	return connected
}

// checkEnds checks that both sides hold one connection, from their listening ports.
func checkEnds(t *testing.T, r holepunch.Result) {
	t.Helper()
	if r.A.Hello != fmt.Sprintf("b %d", r.Port) || r.B.Hello != fmt.Sprintf("a %d", r.Port) {
		t.Errorf("port %d: a heard %q, b heard %q", r.Port, r.A.Hello, r.B.Hello)
	}
	if r.A.Accepted && r.B.Accepted || !(r.A.Reused || r.A.Accepted) || !(r.B.Reused || r.B.Accepted) {
		t.Errorf("port %d: a %+v, b %+v", r.Port, r.A, r.B)
	}
}

// demand returns how many of count tries must connect, given the goal for a hundred.
func demand(count, goal int) int {
	if count < 100 {
		return count * 9 / 10
	}
	return count * goal / 100
}

// together starts both sides at the same time; apart starts one of them up to d
// later, a and b in turn.
func together(int) holepunch.Try { return holepunch.Try{From: holepunch.Listening} }

func apart(d time.Duration) func(i int) holepunch.Try {
	return func(i int) holepunch.Try {
		late := rand.N(d)
		if i%2 == 0 {
			return holepunch.Try{From: holepunch.Listening, LateA: late}
		}
		return holepunch.Try{From: holepunch.Listening, LateB: late}
	}
}

// TestPunch measures what docs/punch.md reports.
func TestPunch(t *testing.T) {
	const ms = time.Millisecond
	preserving := holepunch.NATed(lab.PortPreserving, lab.Drop)
	shifting := holepunch.NATed(lab.PortShifting, lab.Drop)
	resetting := holepunch.NATed(lab.PortPreserving, lab.Reset)
	open := holepunch.Border{NAT: &lab.NAT{Mapping: lab.PortShifting, Filtering: lab.FilterNone}}
	fwDrop, fwReset := holepunch.Firewalled(lab.Drop), holepunch.Firewalled(lab.Reset)
	for _, tt := range []struct {
		name  string
		scene holepunch.Scene
		try   func(i int) holepunch.Try
		goal  int // of 100
	}{
		{"NATs drop, 20 ms", holepunch.Scene{RTT: 20 * ms, A: preserving, B: preserving}, together, 99},
		{"NATs drop, 100 ms", holepunch.Scene{RTT: 100 * ms, A: preserving, B: preserving}, together, 99},
		{"NATs drop, 20 ms, 120 ms apart", holepunch.Scene{RTT: 20 * ms, A: preserving, B: preserving}, apart(120 * ms), 99},
		{"NATs reset, 20 ms, 120 ms apart", holepunch.Scene{RTT: 20 * ms, A: resetting, B: resetting}, apart(120 * ms), 95},
		{"NATs reset, 100 ms, 120 ms apart", holepunch.Scene{RTT: 100 * ms, A: resetting, B: resetting}, apart(120 * ms), 95},
		{"one NAT resets, one drops, 20 ms, 120 ms apart", holepunch.Scene{RTT: 20 * ms, A: resetting, B: preserving}, apart(120 * ms), 95},
		{"NATs shift ports, 20 ms", holepunch.Scene{RTT: 20 * ms, A: shifting, B: shifting}, together, 99},
		{"NATs shift ports, 100 ms", holepunch.Scene{RTT: 100 * ms, A: shifting, B: shifting}, together, 99},
		{"endpoint-independent filtering, 20 ms, 120 ms apart", holepunch.Scene{RTT: 20 * ms, A: open, B: open}, apart(120 * ms), 99},
		{"IPv6 firewalls drop, 20 ms", holepunch.Scene{RTT: 20 * ms, A: fwDrop, B: fwDrop, IPv6: true}, together, 99},
		{"IPv6 firewalls reset, 20 ms, 120 ms apart", holepunch.Scene{RTT: 20 * ms, A: fwReset, B: fwReset, IPv6: true}, apart(120 * ms), 95},
	} {
		t.Run(tt.name, func(t *testing.T) {
			results := measure(t, tt.scene, *tries, atOnce, tt.try)
			if got, want := tally(t, results), demand(*tries, tt.goal); got < want {
				t.Errorf("%d of %d connected, want %d", got, *tries, want)
			}
		})
	}
}

// TestControls wants punches that cannot work to fail. A try counts only because both
// peers have learned their mappings from the rendezvous.
func TestControls(t *testing.T) {
	const count = 20
	preserving := holepunch.NATed(lab.PortPreserving, lab.Drop)
	dependent := holepunch.NATed(lab.AddressAndPortDependent, lab.Drop)
	for _, tt := range []struct {
		name  string
		scene holepunch.Scene
		from  holepunch.From
	}{
		{"ephemeral port", holepunch.Scene{RTT: 20 * time.Millisecond, A: preserving, B: preserving}, holepunch.Ephemeral},
		{"address-and-port-dependent mapping", holepunch.Scene{RTT: 20 * time.Millisecond, A: dependent, B: dependent}, holepunch.Listening},
	} {
		t.Run(tt.name, func(t *testing.T) {
			results := measure(t, tt.scene, count, count, func(int) holepunch.Try {
				return holepunch.Try{From: tt.from, Patience: 2500 * time.Millisecond}
			})
			if got := tally(t, results); got != 0 {
				t.Errorf("%d of %d connected, want none", got, count)
			}
			for _, r := range results {
				if r.SeenA.Addr().String() != "192.0.0.65" || r.SeenB.Addr().String() != "192.0.0.66" {
					t.Errorf("the rendezvous saw %v and %v, want the NATs' addresses", r.SeenA, r.SeenB)
				}
			}
		})
	}
}

// TestOnePublic wants a punch towards a peer without a NAT to be no worse than a
// plain dial, whether that peer punches too or only listens.
func TestOnePublic(t *testing.T) {
	s := holepunch.Scene{RTT: 20 * time.Millisecond, A: holepunch.NATed(lab.PortShifting, lab.Drop)}
	for _, from := range []holepunch.From{holepunch.Listening, holepunch.Plain} {
		t.Run(string(from), func(t *testing.T) {
			results := measure(t, s, *tries, atOnce, func(i int) holepunch.Try {
				return holepunch.Try{From: from, OnlyA: true}
			})
			if got := tally(t, results); got != *tries {
				t.Errorf("%d of %d connected", got, *tries)
			}
		})
	}
	t.Run("both punch", func(t *testing.T) {
		results := measure(t, s, *tries, atOnce, apart(60*time.Millisecond))
		if got := tally(t, results); got != *tries {
			t.Errorf("%d of %d connected", got, *tries)
		}
	})
}

// TestSYNsOnTheWire counts the SYNs that a border gets if it resets every one: no
// more than Punch promises, 20 in the first second and 5 in any second after.
func TestSYNsOnTheWire(t *testing.T) {
	s := holepunch.Scene{RTT: 20 * time.Millisecond, A: holepunch.NATed(lab.PortPreserving, lab.Drop), B: holepunch.NATed(lab.PortPreserving, lab.Reset)}
	n := lab.Start(t, s.Topology())
	if err := holepunch.Open(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	r, err := s.Run(t.Context(), n, holepunch.Try{Port: 4001, From: holepunch.Listening, OnlyA: true, Patience: 3500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	log, err := n.Log("wire")
	if err != nil {
		t.Fatal(err)
	}
	syns := log.Select(func(p lab.Packet) bool { return p.IsSYN() && p.From == "borderA" && p.To == "borderB" })
	if r.A.Connected || len(syns) < 20 || uint64(len(syns)) > r.A.SYNs {
		t.Fatalf("a %+v, %d SYNs on the wire, want 20 or more and no more than counted", r.A, len(syns))
	}
	const jitter = 50 * time.Millisecond // between the clock of Punch and that of the wire, on a busy machine
	first := 0
	for i, p := range syns {
		switch since := p.At.Sub(syns[0].At); {
		case since < time.Second:
			first++
		case i >= 5 && p.At.Sub(syns[i-5].At) < time.Second-jitter && syns[i-5].At.Sub(syns[0].At) >= time.Second+jitter:
			t.Errorf("SYN %d at %v is the sixth within a second", i, since)
		}
	}
	if first > 20 {
		t.Errorf("%d SYNs in the first second, want at most 20", first)
	}
	t.Logf("%d SYNs in 3.5 s, %d of them in the first second", len(syns), first)
}
