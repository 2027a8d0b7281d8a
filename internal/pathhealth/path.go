package pathhealth

import (
	"net/netip"
	"time"
)

// pathKey identifies a path.
type pathKey struct {
	source   netip.AddrPort
	distance Distance
}

// path is what is known of one source address and port, and one kind of targets.
type path struct {
	handshake time.Time // the newest handshake from the listening port

	// All below is since the last handshake.
	votes     map[netip.Prefix]struct{} // networks that answered a hedge while the path was unproven
	refusals  int                       // dials refused while the path was unproven
	rejects   bool
	blocked   bool
	nextProbe time.Time // of a blocked path
}

func (to Target) path() pathKey { return pathKey{to.Source, to.Distance} }

// isOf reports whether a path is that of a dial, or may be: a wildcard stands for every source.
func (k pathKey) isOf(to Target) bool {
	source := to.Source.Addr()
	return k.distance == to.Distance && k.source.Port() == to.Source.Port() && k.source.Addr().Is4() == source.Is4() &&
		(k.source.Addr() == source || source.IsUnspecified() || k.source.Addr().IsUnspecified())
}

func (p *path) state(now time.Time) State {
	switch {
	case p.blocked:
		return Blocked
	case p.proven(now):
		return Proven
	}
	return Unproven
}

// isFaulty reports whether anything speaks against the path.
func (p *path) isFaulty() bool { return p.blocked || p.rejects || len(p.votes) > 0 }

// proven reports whether the last handshake still vouches for the path.
func (p *path) proven(now time.Time) bool {
	return !p.handshake.IsZero() && now.Sub(p.handshake) < provenFor
}

// vote counts a network against the path.
func (p *path) vote(network netip.Prefix) {
	if p.votes == nil {
		p.votes = make(map[netip.Prefix]struct{})
	}
	p.votes[network] = struct{}{}
}

// networkOf returns the network that has one vote: /16 of IPv4 or /32 of IPv6, the sizes that
// registries hand out to one operator.
func networkOf(addr netip.Addr) netip.Prefix {
	return prefixOf(addr, 16, 32)
}

// prefixOf returns the prefix of an address that has so many bits in its family.
func prefixOf(addr netip.Addr, bits4, bits6 int) netip.Prefix {
	bits := bits6
	if addr.Is4() {
		bits = bits4
	}
	return netip.PrefixFrom(addr.WithZone(""), bits).Masked()
}
