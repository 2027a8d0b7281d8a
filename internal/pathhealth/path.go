package pathhealth

import (
	"net/netip"
	"slices"
	"time"
)

func (p *path) state(now time.Time) State {
	switch {
	case p.blocked:
		return Blocked
	case p.proven(now):
		return Proven
	}
	return Unproven
}

// faulty reports whether the path is blocked or has silent hosts.
func (p *path) faulty() bool { return p.blocked || len(p.silent) > 0 }

func (p *path) proven(now time.Time) bool { return now.Before(p.provenUntil()) }

// provenUntil returns until when the last handshake vouches for the path. The zero time
// plus provenFor is long past: a path without a handshake is not proven.
func (p *path) provenUntil() time.Time { return p.handshake.Add(provenFor) }

// votes returns the networks that count towards a block: those with a host that answered a
// hedge while no handshake vouched for the path.
func (p *path) votes() map[netip.Prefix]struct{} {
	networks := make(map[netip.Prefix]struct{})
	for _, host := range p.silent {
		if !host.seen.Before(p.provenUntil()) {
			networks[networkOf(host.addr)] = struct{}{}
		}
	}
	return networks
}

func (p *path) silentHost(addr netip.Addr) *silentHost {
	i := slices.IndexFunc(p.silent, func(h silentHost) bool { return h.addr == addr })
	if i < 0 {
		return nil
	}
	return &p.silent[i]
}

// addSilent puts addr last. The slice is in the order in which hosts were seen, so the first
// is forgotten first.
func (p *path) addSilent(addr netip.Addr, now time.Time) {
	p.dropSilent(addr)
	for len(p.silent) > 0 && (len(p.silent) >= maxSilentHosts || now.Sub(p.silent[0].seen) >= forgetAfter) {
		p.dropSilent(p.silent[0].addr)
	}
	p.silent = append(p.silent, silentHost{addr: addr, seen: now, nextProbe: now.Add(probeEvery)})
}

func (p *path) dropSilent(addr netip.Addr) {
	p.silent = slices.DeleteFunc(p.silent, func(h silentHost) bool { return h.addr == addr })
}

// networkOf returns addr's network, which has one vote: /16 of IPv4 or /32 of IPv6, the sizes
// that registries hand out to one operator.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is4() {
		bits = 16
	}
	return netip.PrefixFrom(addr.WithZone(""), bits).Masked()
}
