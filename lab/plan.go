package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// maxName is the length of the longest interface name that the kernel accepts
// (IFNAMSIZ - 1).
const maxName = 15

// cable is a veth pair from a host to another host, to a wire, or (a stub) to
// nowhere.
type cable struct {
	name string // of the link or wire, and of the interface at each host
	a, b string // hosts; b is empty for a wire and for a stub
	wire bool
}

// plan checks a topology and returns its cables, in an order that depends only on the
// description.
func plan(t Topology) ([]cable, error) {
	for name, w := range t.Wires {
		if err := checkWire(w); err != nil {
			return nil, fmt.Errorf("%w: wire %s: %w", ErrTopology, name, err)
		}
	}
	for name, h := range t.Hosts {
		if err := checkHost(h); err != nil {
			return nil, fmt.Errorf("%w: host %s: %w", ErrTopology, name, err)
		}
	}
	return cables(t)
}

func cables(t Topology) ([]cable, error) {
	var laid []cable
	for name, hosts := range ends(t) {
		if _, ok := t.Wires[name]; ok {
			for _, h := range hosts {
				laid = append(laid, cable{name: name, a: h, wire: true})
			}
			continue
		}
		if len(hosts) > 2 {
			return nil, fmt.Errorf("%w: link %s has %d ends, %s: make it a wire", ErrTopology, name, len(hosts), hosts)
		}
		laid = append(laid, cable{name: name, a: hosts[0], b: strings.Join(hosts[1:], "")})
	}
	slices.SortFunc(laid, func(x, y cable) int { return strings.Compare(x.name+" "+x.a, y.name+" "+y.a) })
	return laid, nil
}

// ends returns the hosts on each link and wire, sorted.
func ends(t Topology) map[string][]string {
	on := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(t.Hosts)) {
		for link := range t.Hosts[name].On {
			on[link] = append(on[link], name)
		}
	}
	return on
}

func checkWire(w Wire) error {
	if w.Loss < 0 || w.Loss > 1 {
		return fmt.Errorf("loss %v is not within 0 to 1", w.Loss)
	}
	_, err := parseMatches(w.Drop)
	return err
}

func checkHost(h Host) error {
	for name, addrs := range h.On {
		if name == "" || len(name) > maxName || strings.ContainsAny(name, " /%:") || name == "lo" {
			return fmt.Errorf("%q cannot be an interface name (1 to %d letters)", name, maxName)
		}
		if _, err := parsePrefixes(addrs); err != nil {
			return fmt.Errorf("on %s: %w", name, err)
		}
	}
	if _, err := parseAddrs(h.Via); err != nil {
		return fmt.Errorf("via: %w", err)
	}
	return checkBorder(h)
}

// checkBorder checks the NAT or firewall of a host.
func checkBorder(h Host) error {
	if h.NAT != nil && h.Firewall != nil {
		return fmt.Errorf("has both a NAT and a firewall, but a NAT filters by itself")
	}
	b, ok := borderOf(h)
	if !ok {
		return nil
	}
	if _, ok := h.On[b.outside]; !ok {
		return fmt.Errorf("its outside %q is none of its links", b.outside)
	}
	if b.unsolicited < Drop || b.unsolicited > Reset {
		return fmt.Errorf("no unsolicited behaviour %d", b.unsolicited)
	}
	return checkNAT(b.nat)
}

func checkNAT(n *NAT) error {
	switch {
	case n == nil:
		return nil
	case n.Mapping < PortPreserving || n.Mapping > AddressAndPortDependent:
		return fmt.Errorf("no mapping behaviour %d", n.Mapping)
	case n.Filtering < FilterAddressAndPort || n.Filtering > FilterNone:
		return fmt.Errorf("no filtering behaviour %d", n.Filtering)
	}
	return nil
}

// border holds what NAT and Firewall have in common.
type border struct {
	outside     string
	addrs       []netip.Prefix // of the outside interface
	unsolicited Unsolicited
	nat         *NAT // nil = firewall
}

func borderOf(h Host) (border, bool) {
	b := border{nat: h.NAT}
	switch {
	case h.NAT != nil:
		b.outside, b.unsolicited = h.NAT.Outside, h.NAT.Unsolicited
	case h.Firewall != nil:
		b.outside, b.unsolicited = h.Firewall.Outside, h.Firewall.Unsolicited
	default:
		return border{}, false
	}
	b.addrs, _ = parsePrefixes(h.On[b.outside]) // checked by checkHost
	return b, true
}

func (h Host) forwards() bool { return h.Forward || h.NAT != nil || h.Firewall != nil }

// parsePrefixes parses addresses with prefix lengths, separated by spaces.
func parsePrefixes(s string) ([]netip.Prefix, error) {
	return parseEach(s, netip.ParsePrefix)
}

// parseAddrs parses addresses separated by spaces.
func parseAddrs(s string) ([]netip.Addr, error) {
	return parseEach(s, netip.ParseAddr)
}

func parseEach[T any](s string, parse func(string) (T, error)) ([]T, error) {
	var all []T
	for _, f := range strings.Fields(s) {
		v, err := parse(f)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// parsePrefixOrAddr accepts both "10.0.0.0/8" and "10.1.2.3".
func parsePrefixOrAddr(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}
