package pathhealth

import (
	"net/netip"
	"time"
)

// placeKey identifies a host, by its whole address, or a network.
type placeKey struct {
	source netip.Addr
	to     netip.Prefix
	zone   string
}

// A place is a host or a network that something speaks against. That it is known at all makes
// the next dial a hedged one with the shortest head start, proven path or not.
type place struct {
	distance  Distance
	weak      bool      // of a host: the last hedge won before the listening port had time for an answer
	silent    bool      // of a host: it answers an ephemeral port, and not the listening one
	nextProbe time.Time // of a silent host
}

func (to Target) host() placeKey {
	return placeKey{to.Source.Addr(), prefixOf(to.Host, 32, 128), to.Host.Zone()}
}

// network is the site of a host: /24 of IPv4 or /48 of IPv6 (RFC 6177).
func (to Target) network() placeKey {
	return placeKey{to.Source.Addr(), prefixOf(to.Host, 24, 48), to.Host.Zone()}
}

// mark returns the entry of a host or a network for new evidence against it.
func (ps *paths) mark(key placeKey, to Target, now time.Time) *place {
	at := ps.byPlace.learn(key, now)
	at.distance = to.Distance
	return at
}

// clear forgets what speaks against a host and its network.
func (ps *paths) clear(to Target) {
	ps.byPlace.forget(to.host())
	ps.byPlace.forget(to.network())
}

// silentHosts counts the silent hosts of a path, which those from its other ports are too.
func (ps *paths) silentHosts(key pathKey, now time.Time) (n int) {
	for k := range ps.byPlace.entries {
		at := ps.byPlace.recall(k, now)
		if at != nil && at.silent && k.source == key.source.Addr() && at.distance == key.distance {
			n++
		}
	}
	return n
}
