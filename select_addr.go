package reuseport

import (
	"net/netip"
	"slices"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// This file decides from which local addresses a dial is tried. It is pure: no
// I/O, no clock, no randomness of its own. TestSelectAddrs gives the reason for each
// row of its table, and FuzzSelectAddrs checks what must hold for every input.

// listenAddr is the address of one of our listeners.
type listenAddr struct {
	netip.AddrPort
	dual bool // a [::] socket that serves IPv4 as well (IPV6_V6ONLY off)
}

// class is the kind of a listener's address.
type class int

const (
	specific class = iota
	loopback
	unspecified
)

func (l listenAddr) class() class {
	switch {
	case l.Addr().IsUnspecified():
		return unspecified
	case l.Addr().IsLoopback():
		return loopback
	default:
		return specific
	}
}

// serves reports whether a dial to addr can leave from this listener's port at all:
// the family must match, and a loopback source reaches only loopback targets
// (connect gives EINVAL otherwise, TestLoopbackListenerForGlobalTarget in lab).
func (l listenAddr) serves(addr netip.Addr) bool {
	if l.Addr().Is4() != addr.Is4() && !l.dual {
		return false
	}
	return l.class() != loopback || addr.IsLoopback()
}

// covers reports whether a socket bound to local listens on this address too.
func (l listenAddr) covers(local netip.AddrPort) bool {
	if l.Port() != local.Port() {
		return false
	}
	if l.class() != unspecified {
		return l.Addr() == local.Addr()
	}
	return l.dual || l.Addr().Is4() == local.Addr().Is4()
}

// isOn reports whether a listener is the one that the user means by laddr. A dual-stack one may be
// named by either of its wildcards.
func (l listenAddr) isOn(laddr netip.AddrPort) bool {
	return l.AddrPort == laddr || l.dual && laddr == netaddr.Wildcard(laddr.Addr(), l.Port())
}

// overlaps reports whether the kernel sees a bind conflict between the two.
func (l listenAddr) overlaps(m listenAddr) bool {
	return l.covers(m.AddrPort) || m.covers(l.AddrPort)
}

// needsSource reports whether the choice of local addresses needs the source address
// that the kernel would choose towards raddr. It does if a specific listener could
// serve the dial and the candidates have more than one port. With exact a specific
// listener is enough: from the wildcard instead, the dial might leave from an address
// that nobody listens on.
func needsSource(listeners []listenAddr, raddr netip.AddrPort, exact bool) bool {
	if raddr.Addr().IsLoopback() {
		return false // the kernel's source is a loopback address, no specific one
	}
	specific, one := specificPort(listeners, raddr)
	return specific && (exact || one == 0)
}

// specificPort reports whether a specific listener could serve raddr. If one could, and all
// listeners that could serve raddr have the same port, it returns that port, else 0.
func specificPort(listeners []listenAddr, raddr netip.AddrPort) (found bool, one uint16) {
	mixed := false
	for _, l := range listeners {
		if !l.serves(raddr.Addr()) {
			continue
		}
		found = found || l.class() == specific
		mixed = mixed || one != 0 && one != l.Port()
		one = l.Port()
	}
	if !found || mixed {
		return found, 0
	}
	return true, one
}

// selectAddrs appends to dst the local addresses to dial raddr from, best first:
// specific listeners on source, oldest first; for a loopback target the loopback
// listeners; unspecified listeners. Within the last two classes pick chooses the
// first and the rest follow, which spreads 4-tuples. A listener is never used to
// dial itself.
//
// source is the address that the kernel would choose, or the zero Addr if nobody
// asked. In that case, and if needsSource is false, the wildcard on the one port
// stands in for the specific listeners, and the kernel chooses the address. An
// unspecified source means that the kernel was asked and knew none.
func selectAddrs(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, source netip.Addr, pick uint32) []netip.AddrPort {
	dst = appendSpecific(dst, listeners, raddr, source)
	dst = appendRotated(dst, listeners, raddr, loopback, pick)
	return appendRotated(dst, listeners, raddr, unspecified, pick)
}

func appendSpecific(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, source netip.Addr) []netip.AddrPort {
	if source.IsValid() {
		for _, l := range listeners {
			if l.class() == specific && l.Addr() == source && l.serves(raddr.Addr()) {
				dst = appendAddr(dst, l.AddrPort, raddr)
			}
		}
		return dst
	}
	_, one := specificPort(listeners, raddr)
	if one == 0 || raddr.Addr().IsLoopback() || isListener(listeners, raddr) {
		return dst
	}
	return appendAddr(dst, netaddr.Wildcard(raddr.Addr(), one), raddr)
}

// isListener reports whether raddr is exactly one of our specific listeners: the
// kernel would choose that very address as the source.
func isListener(listeners []listenAddr, raddr netip.AddrPort) bool {
	return slices.ContainsFunc(listeners, func(l listenAddr) bool { return l.AddrPort == raddr })
}

// appendRotated appends the listeners of one class, starting with the one that pick
// selects. A wildcard is that of raddr's family.
func appendRotated(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, c class, pick uint32) []netip.AddrPort {
	from := len(dst)
	for _, l := range listeners {
		if l.class() != c || !l.serves(raddr.Addr()) {
			continue
		}
		laddr := l.AddrPort
		if c == unspecified {
			laddr = netaddr.Wildcard(raddr.Addr(), l.Port())
		}
		dst = appendAddr(dst, laddr, raddr)
	}
	rotate(dst[from:], pick)
	return dst
}

// appendAddr appends laddr unless it is there already or would dial itself.
func appendAddr(dst []netip.AddrPort, laddr, raddr netip.AddrPort) []netip.AddrPort {
	if dialsItself(laddr, raddr) || slices.Contains(dst, laddr) {
		return dst
	}
	return append(dst, laddr)
}

// dialsItself reports whether a socket bound to laddr and connected to raddr would
// be connected to itself. For a wildcard it knows only the address from which the
// kernel dials loopback; isSelfConnected finds the other cases after connect.
func dialsItself(laddr, raddr netip.AddrPort) bool {
	if laddr.Port() != raddr.Port() {
		return false
	}
	if laddr.Addr().IsUnspecified() {
		return raddr.Addr() == netaddr.Loopback(raddr.Addr())
	}
	return laddr.Addr() == raddr.Addr()
}

// rotate turns s left so that its element pick mod len(s) comes first.
func rotate(s []netip.AddrPort, pick uint32) {
	if len(s) < 2 {
		return
	}
	n := int(pick % uint32(len(s)))
	slices.Reverse(s[:n])
	slices.Reverse(s[n:])
	slices.Reverse(s)
}
