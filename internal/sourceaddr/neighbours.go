package sourceaddr

import (
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// Neighbours knows which addresses are on the links of this host: its own, and those within the
// prefixes of its interfaces. The zero value is ready. All methods are safe for concurrent use.
type Neighbours struct{ v4, v6 atomic.Pointer[prefixes] }

// prefixes is what was found at one time.
type prefixes struct {
	at   time.Time
	nets map[netip.Prefix]struct{}
	bits []int // the lengths of the prefixes, each once
}

// prefixesAge is how long what was found is believed. To find it takes tens of microseconds.
const prefixesAge = time.Second

// Contains reports whether addr is on a link of this host. It reports false where that cannot
// be found out. A link-local address is a neighbour's by definition, and not asked for here.
func (n *Neighbours) Contains(addr netip.Addr) bool {
	place := &n.v6
	if addr.Is4() {
		place = &n.v4
	}
	p := place.Load()
	if p == nil || time.Since(p.at) >= prefixesAge {
		p = findPrefixes(addr.Is4())
		place.Store(p)
	}
	return p.contains(addr.WithZone(""))
}

// contains looks addr up once for each length of prefix, so that the number of addresses does
// not matter.
func (p *prefixes) contains(addr netip.Addr) bool {
	for _, bits := range p.bits {
		if prefix, err := addr.Prefix(bits); err == nil {
			if _, ok := p.nets[prefix]; ok {
				return true
			}
		}
	}
	return false
}

// findPrefixes asks the system for the prefixes of a family. It finds none if that fails.
func findPrefixes(ipv4 bool) *prefixes {
	p := &prefixes{at: time.Now(), nets: make(map[netip.Prefix]struct{})}
	all, _ := interfaces(ipv4) // with an error nothing is known of neighbours
	for addr, on := range all {
		prefix, err := addr.Prefix(on.bits)
		if err != nil || addr.Is4() != ipv4 || on.bits == 0 {
			continue
		}
		p.nets[prefix] = struct{}{}
		if !slices.Contains(p.bits, on.bits) {
			p.bits = append(p.bits, on.bits)
		}
	}
	return p
}
