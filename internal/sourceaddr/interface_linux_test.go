package sourceaddr

import (
	"net"
	"net/netip"
	"testing"
)

// TestSameInterface: what package net, by netlink, knows of this host's addresses.
func TestSameInterface(t *testing.T) {
	list, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	on := map[netip.Addr]string{}
	for _, i := range list {
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			addr := netip.MustParsePrefix(a.String()).Addr()
			if other, twice := on[addr]; twice && other != i.Name {
				continue // a link-local address on several interfaces
			}
			on[addr] = i.Name
		}
	}
	if len(on) == 0 {
		t.Fatal("this host has no address")
	}
	for a, onA := range on {
		for b, onB := range on {
			if a.Is4() == b.Is4() && SameInterface(a, b) != (onA == onB) {
				t.Errorf("%v on %s and %v on %s: same %v", a, onA, b, onB, SameInterface(a, b))
			}
		}
	}
	stranger := netip.MustParseAddr("192.0.2.1")
	if SameInterface(stranger, stranger) || SameInterface(stranger, netip.MustParseAddr("127.0.0.1")) {
		t.Error("an address that the host does not have is on an interface")
	}
}
