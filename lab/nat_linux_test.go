package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/reusetransport/reuseport/lab"
)

// natLab returns a host behind a border, and two hosts outside that it can reach.
func natLab(t *testing.T, border lab.Host) *lab.Network {
	t.Helper()
	border.On = lab.On{"lan": "10.1.0.1/24 fd01::1/64", "wire": "192.0.0.65/24 fd00::65/64"}
	n := lab.Start(t, lab.Topology{
		Wires: lab.Wires{"wire": {}},
		Hosts: lab.Hosts{
			"a":      {On: lab.On{"lan": "10.1.0.2/24 fd01::2/64"}, Via: "10.1.0.1 fd01::1", Role: "plain"},
			"border": border,
			"r":      {On: lab.On{"wire": "192.0.0.80/24 fd00::80/64"}, Via: "192.0.0.65 fd00::65", Role: "plain"},
			"s":      {On: lab.On{"wire": "192.0.0.81/24 fd00::81/64"}, Via: "192.0.0.65 fd00::65", Role: "plain"},
		},
	})
	for host, addrs := range map[string][]string{
		"a": {":4001"}, "r": {":7001", ":7002"}, "s": {":7001"},
	} {
		for _, addr := range addrs {
			listen(t, n, host, addr)
		}
	}
	return n
}

// mappings dials each destination from one port and returns the addresses that they
// saw.
func mappings(t *testing.T, n *lab.Network, from string, to ...string) []netip.AddrPort {
	t.Helper()
	var seen []netip.AddrPort
	for _, addr := range to {
		s, err := observe(t, n, "a", from, addr)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, s)
	}
	return seen
}

func TestNATMapping(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		mapping lab.Mapping
		check   func(seen []netip.AddrPort) error
	}{
		{"port preserving", lab.PortPreserving, allOn(4001, 4001)},
		{"port shifting", lab.PortShifting, allOn(20000, 29999)},
		{"address and port dependent", lab.AddressAndPortDependent, allDistinct},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			n := natLab(t, lab.Host{NAT: &lab.NAT{Outside: "wire", Mapping: tt.mapping}})
			for name, pick := range families() {
				seen := mappings(t, n, pick("0.0.0.0:4001", "[::]:4001"),
					pick("192.0.0.80:7001", "[fd00::80]:7001"),
					pick("192.0.0.80:7002", "[fd00::80]:7002"),
					pick("192.0.0.81:7001", "[fd00::81]:7001"))
				if err := tt.check(seen); err != nil {
					t.Errorf("%s: %v: %v", name, seen, err)
				}
				if want := netip.MustParseAddr(pick("192.0.0.65", "fd00::65")); seen[0].Addr() != want {
					t.Errorf("%s: translated to %v, want %v", name, seen[0].Addr(), want)
				}
			}
		})
	}
}

// allOn demands endpoint-independent mapping, to a port from first to last.
func allOn(first, last uint16) func([]netip.AddrPort) error {
	return func(seen []netip.AddrPort) error {
		for _, s := range seen {
			if s != seen[0] || s.Port() < first || s.Port() > last {
				return fmt.Errorf("want one mapping, on a port from %d to %d", first, last)
			}
		}
		return nil
	}
}

func allDistinct(seen []netip.AddrPort) error {
	known := map[netip.AddrPort]bool{}
	for _, s := range seen {
		known[s] = true
	}
	if len(known) != len(seen) {
		return errors.New("want a mapping for each destination")
	}
	return nil
}

func TestNATFiltering(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		nat   lab.NAT
		wants error // of an unsolicited dial; nil = it gets in
	}{
		{"address and port dependent, drops", lab.NAT{}, os.ErrDeadlineExceeded},
		{"address and port dependent, resets", lab.NAT{Unsolicited: lab.Reset}, syscall.ECONNREFUSED},
		{"endpoint independent, preserving", lab.NAT{Filtering: lab.FilterNone}, nil},
		{"endpoint independent, shifting", lab.NAT{Filtering: lab.FilterNone, Mapping: lab.PortShifting}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.nat.Outside = "wire"
			n := natLab(t, lab.Host{NAT: &tt.nat})
			for _, pick := range families() {
				mapped := mappings(t, n, pick("0.0.0.0:4001", "[::]:4001"), pick("192.0.0.80:7001", "[fd00::80]:7001"))[0]
				for _, from := range []string{"r", "s"} { // same address from another port, another address
					wantDial(t, n, from, "", mapped.String(), tt.wants)
				}
			}
		})
	}
}

// A firewall closes an untranslated port to all. A dial from inside works, which
// shows that it is the firewall and not a missing route.
func TestFirewall(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		unsolicited lab.Unsolicited
		wants       error
	}{
		"drops":  {lab.Drop, os.ErrDeadlineExceeded},
		"resets": {lab.Reset, syscall.ECONNREFUSED},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := natLab(t, lab.Host{Firewall: &lab.Firewall{Outside: "wire", Unsolicited: tt.unsolicited}})
			for name, pick := range families() {
				inside := pick("10.1.0.2:4001", "[fd01::2]:4001")
				wantDial(t, n, "r", "", inside, tt.wants)
				seen, err := observe(t, n, "a", inside, pick("192.0.0.80:7001", "[fd00::80]:7001"))
				if err != nil || seen.String() != inside {
					t.Errorf("%s: from inside: seen as %v, %v, want %v", name, seen, err, inside)
				}
			}
		})
	}
}
