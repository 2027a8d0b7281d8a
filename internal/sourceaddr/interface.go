package sourceaddr

import "net/netip"

// A link is where an address of the host is: an interface, and the length of its prefix there.
type link struct {
	name string
	bits int
}

// SameInterface reports whether two addresses of the host are on one network interface. It
// reports false where that cannot be found out. It uses no netlink.
func SameInterface(a, b netip.Addr) bool {
	all, err := interfaces(a.Is4())
	if err != nil {
		return false
	}
	on, ok := all[a.WithZone("")]
	return ok && on.name == all[b.WithZone("")].name
}
