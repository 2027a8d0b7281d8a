package reuseport

import (
	"net/netip"
	"slices"
	"testing"
)

// on returns the address of a listener.
func on(s string) listenAddr { return listenAddr{AddrPort: netip.MustParseAddrPort(s)} }

// dualOn returns the address of a dual-stack listener.
func dualOn(port uint16) listenAddr {
	return listenAddr{AddrPort: netip.AddrPortFrom(netip.IPv6Unspecified(), port), dual: true}
}

func addrs(ss ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range ss {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

// TestSelectAddrs says for each row why the local addresses are these, in this order.
func TestSelectAddrs(t *testing.T) {
	for _, row := range []struct {
		why       string
		listeners []listenAddr
		raddr     string
		source    string // "" = nobody asked
		pick      uint32
		want      []netip.AddrPort
	}{
		{"nobody listens", nil, "192.0.2.9:80", "", 0, nil},
		{"a wildcard serves every target", []listenAddr{on("0.0.0.0:4001")}, "192.0.2.9:80", "", 0, addrs("0.0.0.0:4001")},
		{"a peer on the same port is no self-connection", []listenAddr{on("0.0.0.0:4001")}, "192.0.2.9:4001", "", 0, addrs("0.0.0.0:4001")},
		{"families do not mix", []listenAddr{on("0.0.0.0:4001")}, "[2001:db8::9]:80", "", 0, nil},
		{"families do not mix", []listenAddr{on("[::]:4001")}, "192.0.2.9:80", "", 0, nil},
		{"dual-stack serves IPv4, by an IPv4 bind", []listenAddr{dualOn(4001)}, "192.0.2.9:80", "", 0, addrs("0.0.0.0:4001")},
		{"dual-stack serves IPv6", []listenAddr{dualOn(4001)}, "[2001:db8::9]:80", "", 0, addrs("[::]:4001")},
		{"two wildcards: the first by pick", []listenAddr{on("0.0.0.0:1"), on("0.0.0.0:2")}, "192.0.2.9:80", "", 0, addrs("0.0.0.0:1", "0.0.0.0:2")},
		{"two wildcards: the rest follow", []listenAddr{on("0.0.0.0:1"), on("0.0.0.0:2")}, "192.0.2.9:80", "", 1, addrs("0.0.0.0:2", "0.0.0.0:1")},
		{"one port twice is one candidate", []listenAddr{on("0.0.0.0:1"), dualOn(1)}, "192.0.2.9:80", "", 0, addrs("0.0.0.0:1")},
		{"a loopback target leaves from loopback first", []listenAddr{on("0.0.0.0:1"), on("127.0.0.1:2")}, "127.0.0.1:80", "", 0, addrs("127.0.0.1:2", "0.0.0.0:1")},
		{"a loopback listener's exact address, or the kernel takes 127.0.0.1", []listenAddr{on("127.0.0.2:1")}, "127.0.0.3:80", "", 0, addrs("127.0.0.2:1")},
		{"loopback cannot reach beyond the host", []listenAddr{on("127.0.0.1:1")}, "192.0.2.9:80", "", 0, nil},
		{"a specific listener is no source for loopback", []listenAddr{on("192.0.2.1:1")}, "127.0.0.1:80", "", 0, nil},
		{"one specific listener, nobody asked: no guess", []listenAddr{on("192.0.2.1:1")}, "192.0.2.9:80", "", 0, nil},
		{"one specific listener, not on the kernel's source", []listenAddr{on("192.0.2.1:1")}, "192.0.2.9:80", "192.0.2.7", 0, nil},
		{"a wildcard on the same port changes nothing", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:1")}, "192.0.2.9:80", "", 0, addrs("0.0.0.0:1")},
		{"two ports, nobody asked: no guess", []listenAddr{on("192.0.2.1:1"), on("198.51.100.1:2")}, "192.0.2.9:80", "", 0, nil},
		{"the listener on the kernel's source", []listenAddr{on("192.0.2.1:1"), on("198.51.100.1:2")}, "192.0.2.9:80", "198.51.100.1", 0, addrs("198.51.100.1:2")},
		{"on one source the oldest stays first", []listenAddr{on("192.0.2.1:1"), on("192.0.2.1:2")}, "192.0.2.9:80", "192.0.2.1", 1, addrs("192.0.2.1:1", "192.0.2.1:2")},
		{"the source beats the wildcard", []listenAddr{on("0.0.0.0:9"), on("192.0.2.1:1")}, "192.0.2.9:80", "192.0.2.1", 0, addrs("192.0.2.1:1", "0.0.0.0:9")},
		{"no listener on the source: the wildcard", []listenAddr{on("0.0.0.0:9"), on("192.0.2.1:1")}, "192.0.2.9:80", "203.0.113.1", 0, addrs("0.0.0.0:9")},
		{"the kernel knew no source", []listenAddr{on("0.0.0.0:9"), on("192.0.2.1:1")}, "192.0.2.9:80", "0.0.0.0", 0, addrs("0.0.0.0:9")},
		{"own listener on 127.0.0.1", []listenAddr{on("127.0.0.1:1")}, "127.0.0.1:1", "", 0, nil},
		{"own wildcard listener by 127.0.0.1", []listenAddr{on("0.0.0.0:1")}, "127.0.0.1:1", "", 0, nil},
		{"own wildcard listener by ::1", []listenAddr{dualOn(1)}, "[::1]:1", "", 0, nil},
		{"127.0.0.2 is dialed from 127.0.0.1", []listenAddr{on("0.0.0.0:1")}, "127.0.0.2:1", "", 0, addrs("0.0.0.0:1")},
		{"own specific listener", []listenAddr{on("192.0.2.1:1")}, "192.0.2.1:1", "", 0, nil},
		{"own specific listener, source known", []listenAddr{on("192.0.2.1:1")}, "192.0.2.1:1", "192.0.2.1", 0, nil},
		{"one listener dials the other", []listenAddr{on("127.0.0.1:1"), on("127.0.0.1:2")}, "127.0.0.1:2", "", 0, addrs("127.0.0.1:1")},
		{"the zone is part of a link-local source", []listenAddr{on("[fe80::1%a]:1"), on("[fe80::1%b]:2")}, "[fe80::9%b]:80", "fe80::1%b", 0, addrs("[fe80::1%b]:2")},
	} {
		var source netip.Addr
		if row.source != "" {
			source = netip.MustParseAddr(row.source)
		}
		if got := selectAddrs(nil, row.listeners, netip.MustParseAddrPort(row.raddr), source, row.pick); !slices.Equal(got, row.want) {
			t.Errorf("%s: %v -> %s (source %q, pick %d) = %v, want %v", row.why, row.listeners, row.raddr, row.source, row.pick, got, row.want)
		}
	}
}

// TestStandIns: where no listener is on the kernel's source, those on its interface may be dialed
// from, and where nothing else is left all others behind them, oldest first.
func TestStandIns(t *testing.T) {
	near := func(addr netip.Addr) bool { return netip.MustParsePrefix("192.0.2.0/24").Contains(addr) }
	listeners := []listenAddr{on("198.51.100.1:1"), on("192.0.2.1:2"), on("0.0.0.0:3"), on("127.0.0.1:4"), on("192.0.2.2:5"), on("[2001:db8::1]:6")}
	for any, want := range map[bool][]netip.AddrPort{
		false: addrs("192.0.2.1:2", "192.0.2.2:5"),
		true:  addrs("192.0.2.1:2", "192.0.2.2:5", "198.51.100.1:1"),
	} {
		if got := appendStandIns(nil, listeners, netip.MustParseAddrPort("203.0.113.9:80"), near, any); !slices.Equal(got, want) {
			t.Errorf("any %v: %v, want %v", any, got, want)
		}
	}
	if got := appendStandIns(nil, listeners, netip.MustParseAddrPort("192.0.2.1:2"), near, false); !slices.Equal(got, addrs("192.0.2.2:5")) {
		t.Errorf("to a listener of our own: %v", got)
	}
}

// TestManyListeners: of a thousand listeners a dial looks at a few and tries no more, each listener
// first for some pick. Specific ones are all looked at.
func TestManyListeners(t *testing.T) {
	listeners := []listenAddr{on("192.0.2.1:7")}
	for port := range uint16(1000) {
		l := listenAddr{AddrPort: netip.AddrPortFrom(netip.IPv4Unspecified(), port+1000)}
		if port%2 == 0 {
			l = listenAddr{AddrPort: netip.AddrPortFrom(netip.IPv6Unspecified(), port+1000), dual: true}
		}
		listeners = append(listeners, l)
	}
	sorted := sortAddrs(listeners)
	raddr := netip.MustParseAddrPort("192.0.2.9:80")
	first := make(map[uint16]bool)
	for pick := range uint32(1000 * (maxCandidates + 1)) {
		few := sorted.few(raddr, pick)
		got := selectAddrs(nil, few, raddr, netip.MustParseAddr("192.0.2.1"), pick)
		if len(few) > maxCandidates+2 || len(got) != maxCandidates+1 || got[0].Port() != 7 {
			t.Fatalf("pick %d: of %d %v", pick, len(few), got)
		}
		first[got[1].Port()] = true
	}
	if len(first) != 1000 {
		t.Errorf("%d of 1000 listeners come first", len(first))
	}
	if few := sorted.few(netip.MustParseAddrPort("[2001:db8::1]:80"), 7); slices.ContainsFunc(few[1:], func(l listenAddr) bool { return !l.dual }) {
		t.Errorf("for IPv6: %v", few)
	}
}

// TestNeedsSource: the kernel is asked for the source where the choice depends on it, and only
// there.
func TestNeedsSource(t *testing.T) {
	for _, row := range []struct {
		why       string
		listeners []listenAddr
		raddr     string
		exact     bool
		want      bool
	}{
		{"no listener", nil, "192.0.2.9:80", true, false},
		{"wildcards alone", []listenAddr{on("0.0.0.0:1"), on("0.0.0.0:2")}, "192.0.2.9:80", true, false},
		{"specific ones on one port", []listenAddr{on("192.0.2.1:1"), on("198.51.100.1:1")}, "192.0.2.9:80", false, true},
		{"the same, by RequireReuse", []listenAddr{on("192.0.2.1:1")}, "192.0.2.9:80", true, true},
		{"specific and wildcard on one port, by RequireReuse", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:1")}, "192.0.2.9:80", true, true},
		{"specific ones on two ports", []listenAddr{on("192.0.2.1:1"), on("198.51.100.1:2")}, "192.0.2.9:80", false, true},
		{"specific and wildcard on two ports", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:2")}, "192.0.2.9:80", false, true},
		{"specific and wildcard on one port", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:1")}, "192.0.2.9:80", false, false},
		{"the other family does not count", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:1"), on("[2001:db8::1]:2")}, "192.0.2.9:80", false, false},
		{"loopback listeners do not count beyond the host", []listenAddr{on("192.0.2.1:1"), on("0.0.0.0:1"), on("127.0.0.1:2")}, "192.0.2.9:80", false, false},
		{"a loopback target", []listenAddr{on("192.0.2.1:1"), on("198.51.100.1:2")}, "127.0.0.1:80", true, false},
	} {
		if got := needsSource(row.listeners, netip.MustParseAddrPort(row.raddr), row.exact); got != row.want {
			t.Errorf("%s: needsSource(%v, %s, %t) = %t", row.why, row.listeners, row.raddr, row.exact, got)
		}
	}
}

// TestOverlaps: addresses overlap where the kernel sees a bind conflict.
func TestOverlaps(t *testing.T) {
	for _, row := range []struct {
		a, b listenAddr
		want bool
	}{
		{on("0.0.0.0:1"), on("192.0.2.1:1"), true},
		{on("192.0.2.1:1"), on("0.0.0.0:1"), true},
		{on("192.0.2.1:1"), on("192.0.2.2:1"), false},
		{on("0.0.0.0:1"), on("192.0.2.1:2"), false},
		{on("0.0.0.0:1"), on("[::]:1"), false},
		{on("0.0.0.0:1"), dualOn(1), true},
		{dualOn(1), on("[::1]:1"), true},
		{dualOn(1), on("127.0.0.1:1"), true},
	} {
		if got := row.a.overlaps(row.b); got != row.want {
			t.Errorf("%v overlaps %v = %t", row.a, row.b, got)
		}
	}
}

// FuzzSelectAddrs checks selections of any listeners, target and source.
func FuzzSelectAddrs(f *testing.F) {
	f.Add([]byte{0, 0, 3, 1}, []byte{4, 2}, byte(3), uint32(0))
	f.Add([]byte{5, 0, 5, 4, 1, 1, 3, 3, 8, 2, 9, 1}, []byte{3, 1}, byte(255), uint32(7))
	f.Fuzz(func(t *testing.T, listen, target []byte, src byte, pick uint32) {
		if len(target) < 2 {
			return
		}
		raddr := dialable(fuzzAddr(target))
		var listeners []listenAddr
		for ; len(listen) >= 2 && len(listeners) < 64; listen = listen[2:] {
			l := listenAddr{AddrPort: fuzzAddr(listen)}
			l.dual = l.Addr() == netip.IPv6Unspecified() && listen[1]&4 != 0
			listeners = append(listeners, l)
		}
		var source netip.Addr
		if int(src) < len(fuzzIPs) {
			source = netip.MustParseAddr(fuzzIPs[src])
		}
		checkSelection(t, listeners, raddr, source, selectAddrs(nil, listeners, raddr, source, pick))
	})
}

// checkSelection checks what must hold of every selection.
func checkSelection(t *testing.T, listeners []listenAddr, raddr netip.AddrPort, source netip.Addr, got []netip.AddrPort) {
	last := specific
	for i, laddr := range got {
		if laddr.Addr().Is4() != raddr.Addr().Is4() {
			t.Fatalf("%v -> %v: family of %v", listeners, raddr, laddr)
		}
		if dialsItself(laddr, raddr) {
			t.Fatalf("%v -> %v: %v dials itself", listeners, raddr, laddr)
		}
		if slices.Contains(got[:i], laddr) {
			t.Fatalf("%v -> %v: %v twice", listeners, raddr, laddr)
		}
		if !fromListener(listeners, laddr) {
			t.Fatalf("%v -> %v: %v is no listener's", listeners, raddr, laddr)
		}
		c := listenAddr{AddrPort: laddr}.class()
		if c < last {
			t.Fatalf("%v -> %v: %v out of order in %v", listeners, raddr, laddr, got)
		}
		if c == loopback && !raddr.Addr().IsLoopback() || c == specific && laddr.Addr() != source {
			t.Fatalf("%v -> %v: %v cannot be the source (%v)", listeners, raddr, laddr, source)
		}
		last = c
	}
}

// fromListener reports whether laddr is a listener's address, or the wildcard of a wildcard
// listener's port.
func fromListener(listeners []listenAddr, laddr netip.AddrPort) bool {
	return slices.ContainsFunc(listeners, func(l listenAddr) bool {
		return l.AddrPort == laddr || l.class() == unspecified && laddr.Addr().IsUnspecified() && l.Port() == laddr.Port()
	})
}

// fuzzIPs has an address of every sort that the choice tells apart.
var fuzzIPs = [...]string{
	"0.0.0.0", "127.0.0.1", "127.0.0.2", "192.0.2.1", "198.51.100.1",
	"::", "::1", "2001:db8::1", "fe80::1%a", "fe80::1%b",
}

// fuzzAddr reads an address from two bytes, on one of four ports.
func fuzzAddr(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(fuzzIPs[int(b[0])%len(fuzzIPs)]), uint16(b[1]%4)+1)
}
