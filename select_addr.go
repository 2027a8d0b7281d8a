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
// the family must match, a loopback source reaches only loopback targets (connect gives
// EINVAL otherwise, TestLoopbackListenerForGlobalTarget in lab), and one with a zone only
// targets in that zone.
func (l listenAddr) serves(addr netip.Addr) bool {
	if l.Addr().Is4() != addr.Is4() && !l.dual {
		return false
	}
	if zone := l.Addr().Zone(); zone != "" && zone != addr.Zone() {
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
// that the kernel would choose towards raddr. It does if a specific listener could serve
// the dial: bound to the wildcard, the dial might leave from an address that nobody listens
// on. Without exact it does not if a wildcard listener has the one port of all candidates.
func needsSource(listeners []listenAddr, raddr netip.AddrPort, exact bool) bool {
	if raddr.Addr().IsLoopback() {
		return false // the kernel's source is a loopback address, no specific one
	}
	found, covered := specificPort(listeners, raddr)
	return found && (exact || !covered)
}

// specificPort reports whether a specific listener could serve raddr, and whether a wildcard
// listener covers it: all listeners that could serve raddr have the same port.
func specificPort(listeners []listenAddr, raddr netip.AddrPort) (found, covered bool) {
	var port uint16
	mixed := false
	for _, l := range listeners {
		if !l.serves(raddr.Addr()) {
			continue
		}
		found = found || l.class() == specific
		covered = covered || l.class() == unspecified
		mixed = mixed || port != 0 && port != l.Port()
		port = l.Port()
	}
	return found, covered && !mixed
}

// selectAddrs appends to dst the local addresses to dial raddr from, best first:
// specific listeners on source, oldest first; for a loopback target the loopback
// listeners; unspecified listeners. Within the last two classes pick chooses the
// first and the rest follow, which spreads 4-tuples. A listener is never used to
// dial itself.
//
// source is the address that the kernel would choose, or the zero Addr if nobody
// asked. An unspecified source means that the kernel was asked and knew none.
func selectAddrs(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, source netip.Addr, pick uint32) []netip.AddrPort {
	for _, l := range listeners {
		if l.class() == specific && l.Addr() == source && l.serves(raddr.Addr()) {
			dst = appendAddr(dst, l.AddrPort, raddr)
		}
	}
	dst = appendRotated(dst, listeners, raddr, loopback, pick)
	return appendRotated(dst, listeners, raddr, unspecified, pick)
}

// appendStandIns appends the specific listeners that a dial may leave from although the kernel
// would choose another source: those on source's interface, and with any all others behind
// them. The kernel routes by the address that is bound. A link-local target has no use for any
// other source than a link-local one.
func appendStandIns(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, isNear func(netip.Addr) bool, any bool) []netip.AddrPort {
	fits := func(l listenAddr) bool {
		return l.class() == specific && l.serves(raddr.Addr()) &&
			(l.Addr().IsLinkLocalUnicast() || !raddr.Addr().IsLinkLocalUnicast())
	}
	for _, near := range []bool{true, false} {
		if !near && !any {
			break
		}
		for _, l := range listeners {
			if fits(l) && isNear(l.Addr()) == near {
				dst = appendAddr(dst, l.AddrPort, raddr)
			}
		}
	}
	return dst
}

// maxCandidates bounds the listeners of one class that a dial tries. It keeps the cost of a dial
// independent of their number.
const maxCandidates = 16

// sortedAddrs has listeners by what a dial looks for. Its order within each slice is theirs.
type sortedAddrs struct {
	all          []listenAddr
	bound        []listenAddr // to an address: specific and loopback ones
	wild4, wild6 []listenAddr // unspecified ones that serve the family
}

func sortAddrs(listeners []listenAddr) sortedAddrs {
	s := sortedAddrs{all: listeners}
	for _, l := range listeners {
		if l.class() != unspecified {
			s.bound = append(s.bound, l)
			continue
		}
		if l.Addr().Is4() || l.dual {
			s.wild4 = append(s.wild4, l)
		}
		if l.Addr().Is6() {
			s.wild6 = append(s.wild6, l)
		}
	}
	return s
}

// few returns the listeners that a dial to raddr has to look at. Where there are many unspecified
// ones it is a window of them, which pick places, so that a dial costs the same however many
// there are (dial/listeners in bench).
func (s sortedAddrs) few(raddr netip.AddrPort, pick uint32) []listenAddr {
	wild := s.wild6
	if raddr.Addr().Is4() {
		wild = s.wild4
	}
	const window = maxCandidates + 1 // one may be the target
	if len(wild) <= window {
		return s.all
	}
	first := int(pick % uint32(len(wild)))
	some := append(make([]listenAddr, 0, len(s.bound)+window), s.bound...)
	for i := range window {
		some = append(some, wild[(first+i)%len(wild)])
	}
	return some
}

// appendRotated appends the listeners of one class, maxCandidates at most, starting with the one
// that pick selects. A wildcard is that of raddr's family.
func appendRotated(dst []netip.AddrPort, listeners []listenAddr, raddr netip.AddrPort, c class, pick uint32) []netip.AddrPort {
	n := 0
	for _, l := range listeners {
		if l.class() == c && l.serves(raddr.Addr()) {
			n++
		}
	}
	if n == 0 {
		return dst
	}
	first := int(pick % uint32(n))
	enough := len(dst) + maxCandidates
	for _, wrapped := range []bool{false, true} {
		i := 0
		for _, l := range listeners {
			if len(dst) == enough {
				return dst
			}
			if l.class() != c || !l.serves(raddr.Addr()) {
				continue
			}
			if i++; (i <= first) == wrapped {
				dst = appendAddr(dst, l.toward(raddr), raddr)
			}
		}
	}
	return dst
}

// toward returns the address to bind for a dial to raddr. A wildcard is that of raddr's family.
func (l listenAddr) toward(raddr netip.AddrPort) netip.AddrPort {
	if l.class() == unspecified {
		return netaddr.Wildcard(raddr.Addr(), l.Port())
	}
	return l.AddrPort
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
