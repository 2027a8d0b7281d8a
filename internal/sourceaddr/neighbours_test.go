//go:build !plan9 && !js && !wasip1

package sourceaddr

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestNeighbours: what package net, by netlink, knows of this host's addresses and prefixes.
func TestNeighbours(t *testing.T) {
	list, err := net.InterfaceAddrs()
	if err != nil || len(list) == 0 {
		t.Fatal(list, err)
	}
	var n Neighbours
	for _, a := range list {
		prefix := netip.MustParsePrefix(a.String())
		if addr := prefix.Addr().Unmap(); !n.Contains(addr) {
			t.Errorf("%v is not on a link", addr)
		}
		if next := prefix.Addr().Next(); prefix.Contains(next) && !n.Contains(next) {
			t.Errorf("%v is not on the link of %v", next, prefix)
		}
	}
	for _, stranger := range []string{"240.0.0.1", "2001:db8:ffff::1"} {
		if n.Contains(netip.MustParseAddr(stranger)) {
			t.Errorf("%s is on a link", stranger)
		}
	}
}

// TestNeighboursAsksAgain: what was found is believed for a second.
func TestNeighboursAsksAgain(t *testing.T) {
	var n Neighbours
	stranger := netip.MustParseAddr("240.0.0.1")
	n.Contains(stranger)
	found := n.v4.Load()
	found.nets[netip.MustParsePrefix("240.0.0.0/8")] = struct{}{}
	found.bits = append(found.bits, 8)
	if !n.Contains(stranger) {
		t.Error("what was found just now is not believed")
	}
	found.at = time.Now().Add(-prefixesAge)
	if n.Contains(stranger) {
		t.Error("what was found a second ago is believed")
	}
}
