package pathhealth

import (
	"net/netip"

	"github.com/reusetransport/reuseport/internal/netaddr"
)

// Distance is how far a target is, which is what a handshake with it tells about.
type Distance int

const (
	Near    Distance = iota // this host, or a neighbour on one of its links
	Private                 // behind routers, with a private address (RFC 1918, 4193, 6598)
	Global                  // beyond the border
)

// DistanceOf returns how far addr is. isNear says that it is on a link of this host.
func DistanceOf(addr netip.Addr, isNear bool) Distance {
	switch {
	case isNear || addr.IsLinkLocalUnicast():
		return Near
	case netaddr.IsGlobal(addr):
		return Global
	}
	return Private
}
