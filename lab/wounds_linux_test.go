package lab_test

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/reusetransport/reuseport/lab"
)

// errWound marks a fault that a probe found. Any other error is a fault of the test.
var errWound = errors.New("wound")

// TestWounds probes known faults of go-libp2p's p2p/net/reuseport v0.51, in that
// package and in ours. The probe must find the fault there and not here. If a later
// go-libp2p mends one, its row fails.
func TestWounds(t *testing.T) {
	t.Parallel()
	for name, probe := range map[string]func(t *testing.T, role string) error{
		"a refused dial sends two SYNs":                probeRefusedTwice,
		"a dial connects to itself":                    probeSelfConnection,
		"link-local is undialable beside loopback":     probeLinkLocal,
		"two transports share a port unnoticed":        probeSilentSharing,
		"the source look-up slows down with each link": probeManyLinks,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := probe(t, "libp2p"); !errors.Is(err, errWound) {
				t.Errorf("go-libp2p: %v, want the fault", err)
			}
			if err := probe(t, "ours"); err != nil {
				t.Errorf("here: %v", err)
			}
		})
	}
}

// probeRefusedTwice counts the SYNs of a dial to a closed port.
func probeRefusedTwice(t *testing.T, role string) error {
	n := lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": {}},
		Hosts: lab.Hosts{
			"h": {On: lab.On{"wire": "192.0.0.80/24 fd00::80/64"}, Role: role},
			"r": {On: lab.On{"wire": "192.0.0.81/24 fd00::81/64"}},
		},
	})
	listen(t, n, "h", "/ip4/0.0.0.0/tcp/4001")
	if _, err := dial(t, n, dialTo{Addr: "/ip4/192.0.0.81/tcp/9"}); !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("dialing a closed port: %v, want ECONNREFUSED", err)
	}
	if syns := packets(t, n).SYNs(); len(syns) != 1 {
		return fmt.Errorf("%w: %d SYNs: %v", errWound, len(syns), syns)
	}
	return nil
}

// probeSelfConnection dials the only address that a transport listens on.
func probeSelfConnection(t *testing.T, role string) error {
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{"h": {Role: role}}})
	const own = "/ip4/127.0.0.1/tcp/4001"
	listen(t, n, "h", own)
	d, err := dial(t, n, dialTo{Addr: own})
	if d.Local.Port() == 4001 {
		return fmt.Errorf("%w: from %v", errWound, d.Local)
	}
	return err
}

func probeLinkLocal(t *testing.T, role string) error {
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": {On: lab.On{"east": "fe80::1/64"}, Role: role},
		"e": {On: lab.On{"east": "fe80::2/64"}, Role: "plain"},
	}})
	listen(t, n, "e", ":7001")
	listen(t, n, "h", "/ip6/::1/tcp/4001")
	if _, err := dial(t, n, dialTo{Addr: "/ip6zone/east/ip6/fe80::2/tcp/7001"}); err != nil {
		return fmt.Errorf("%w: %w", errWound, err)
	}
	return nil
}

func probeSilentSharing(t *testing.T, role string) error {
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{"h": {Role: role}}})
	listen(t, n, "h", "/ip4/127.0.0.1/tcp/4001")
	err := n.Call(t.Context(), "h", "second", "/ip4/127.0.0.1/tcp/4001", nil)
	if err == nil {
		return fmt.Errorf("%w: both listen", errWound)
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the second one: %v, want EADDRINUSE", err)
	}
	return nil
}

// probeManyLinks compares dials from a host with 202 links with dials from one with
// two. It compares the fast ones, since the slow ones show what else the machine
// does.
func probeManyLinks(t *testing.T, role string) error {
	few, many := fastDial(t, role, 0), fastDial(t, role, 200)
	t.Logf("%s: %v with 2 links, %v with 202", role, few, many)
	if many > 4*few {
		return fmt.Errorf("%w: %v with 2 links, %v with 202", errWound, few, many)
	}
	return nil
}

// fastDial returns the tenth percentile of the dials from a host that has to look up
// its source and has stubs further links that lead nowhere.
func fastDial(t *testing.T, role string, stubs int) time.Duration {
	t.Helper()
	h := lab.Host{On: lab.On{"east": "10.1.0.1/24", "west": "10.2.0.1/24"}, Role: role}
	for i := range stubs {
		h.On[fmt.Sprintf("stub%d", i)] = fmt.Sprintf("10.100.%d.1/24", i)
	}
	n := lab.Start(t, lab.Topology{Hosts: lab.Hosts{
		"h": h,
		"e": {On: lab.On{"east": "10.1.0.2/24"}, Role: "plain"},
		"w": {On: lab.On{"west": "10.2.0.2/24"}},
	}})
	listen(t, n, "e", ":7001")
	listen(t, n, "h", "/ip4/10.1.0.1/tcp/4001")
	listen(t, n, "h", "/ip4/10.2.0.1/tcp/4002")
	took, err := lab.Call[[]time.Duration](t.Context(), n, "h", "dialMany", manyTo{Addr: eastV4, Count: 100})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(took)
	return took[len(took)/10]
}
