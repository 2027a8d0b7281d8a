package held_test

import (
	"net/netip"
	"testing"

	"github.com/reusetransport/reuseport/internal/held"
)

// TestTable: the latest descriptor of a port and a peer is found, and no other port's or peer's.
func TestTable(t *testing.T) {
	var table held.Table
	peer := netip.MustParseAddrPort("192.0.2.1:80")
	if fd, ok := table.Find(4001, peer); ok {
		t.Errorf("an empty table has %d", fd)
	}
	for _, fd := range []uintptr{0, 7, 1<<32 - 2} {
		table.At(4001, peer).Note(fd)
		if got, ok := table.Find(4001, peer); !ok || got != fd {
			t.Errorf("noted %d, found %d, %t", fd, got, ok)
		}
	}
	table.At(4001, peer).Note(1<<32 - 1)
	if fd, _ := table.Find(4001, peer); fd != 1<<32-2 {
		t.Errorf("a descriptor that does not fit is found as %d", fd)
	}
	for port, other := range map[uint16]string{4002: "192.0.2.1:80", 4001: "192.0.2.1:81", 4003: "192.0.2.2:80"} {
		if fd, ok := table.Find(port, netip.MustParseAddrPort(other)); ok {
			t.Errorf("%d to %s: found %d", port, other, fd)
		}
	}
}

// TestTableKeepsMost: of a thousand connections most are remembered, and none with the descriptor
// of another.
func TestTableKeepsMost(t *testing.T) {
	var table held.Table
	peer := func(i int) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 4001)
	}
	const n = 1000
	for i := range n {
		table.At(4001, peer(i)).Note(uintptr(i))
	}
	found := 0
	for i := range n {
		fd, ok := table.Find(4001, peer(i))
		if ok && fd != uintptr(i) {
			t.Errorf("peer %d: descriptor %d", i, fd)
		}
		if ok {
			found++
		}
	}
	if found < n*3/4 {
		t.Errorf("%d of %d are remembered", found, n)
	}
}
