// Package netaddr has the functions on addresses that more than one package needs. It is
// pure: no I/O and no state.
package netaddr

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// From returns a TCP address of package net as a netip.AddrPort, an IPv4-mapped one as
// IPv4. It returns the zero value for any other kind of address.
func From(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok || tcp == nil {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// Network returns the TCP network of an address, "tcp4" or "tcp6".
func Network(addr netip.Addr) string {
	if addr.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

// Wildcard returns the unspecified address of addr's family with a port.
func Wildcard(addr netip.Addr, port uint16) netip.AddrPort {
	if addr.Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
}

// Loopback returns the loopback address of addr's family.
func Loopback(addr netip.Addr) netip.Addr {
	if addr.Is4() {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// IsGlobal reports whether a handshake with addr crosses the border of the network, where
// a port may be filtered. It reports false for loopback, link-local, private (RFC 1918, RFC
// 4193) and multicast addresses, and for those behind a carrier's NAT (RFC 6598).
func IsGlobal(addr netip.Addr) bool {
	carrierNAT := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !carrierNAT.Contains(addr)
}

// Hash returns a hash of a local port and a peer.
func Hash(port uint16, raddr netip.AddrPort) uint64 {
	ip := raddr.Addr().As16()
	h := mix(binary.LittleEndian.Uint64(ip[:8]))
	h = mix(h ^ binary.LittleEndian.Uint64(ip[8:]))
	return mix(h ^ uint64(port)<<16 ^ uint64(raddr.Port()))
}

// mix is the finalizer of SplitMix64: each bit of x changes about half of the result's.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
