package netaddr_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

func TestFrom(t *testing.T) {
	for _, row := range []struct {
		addr net.Addr
		want string
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}, "127.0.0.1:7"}, // 16 bytes: IPv4-mapped
		{&net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 7}, "127.0.0.1:7"},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 7}, "[::1]:7"},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "lo", Port: 7}, "[fe80::1%lo]:7"},
	} {
		if got := netaddr.From(row.addr); got != netip.MustParseAddrPort(row.want) {
			t.Errorf("From(%v) = %v, want %v", row.addr, got, row.want)
		}
	}
	for _, addr := range []net.Addr{nil, (*net.TCPAddr)(nil), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}} {
		if got := netaddr.From(addr); got.IsValid() {
			t.Errorf("From(%#v) = %v, want the zero value", addr, got)
		}
	}
}

func TestFamily(t *testing.T) {
	for _, row := range []struct{ addr, network, wildcard, loopback string }{
		{"192.0.2.1", "tcp4", "0.0.0.0:80", "127.0.0.1"},
		{"2001:db8::1", "tcp6", "[::]:80", "::1"},
	} {
		addr := netip.MustParseAddr(row.addr)
		if got := netaddr.Network(addr); got != row.network {
			t.Errorf("Network(%v) = %v", addr, got)
		}
		if got := netaddr.Wildcard(addr, 80); got.String() != row.wildcard {
			t.Errorf("Wildcard(%v) = %v", addr, got)
		}
		if got := netaddr.Loopback(addr); got.String() != row.loopback {
			t.Errorf("Loopback(%v) = %v", addr, got)
		}
	}
}

func TestIsGlobal(t *testing.T) {
	for addr, want := range map[string]bool{
		"192.0.0.64": true, "203.0.113.1": true, "2001:db8::1": true, "100.63.255.255": true, "100.128.0.0": true,
		"127.0.0.1": false, "::1": false, "0.0.0.0": false, "::": false, "10.1.2.3": false, "172.16.0.1": false,
		"192.168.1.1": false, "169.254.1.1": false, "fe80::1": false, "fd00::1": false, "224.0.0.1": false,
		"ff02::1": false, "100.64.0.0": false, "100.127.255.255": false,
	} {
		if got := netaddr.IsGlobal(netip.MustParseAddr(addr)); got != want {
			t.Errorf("IsGlobal(%v) = %v", addr, got)
		}
	}
}
