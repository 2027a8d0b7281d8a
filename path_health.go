package reuseport

import (
	"fmt"
	"net/netip"
	"time"
)

// What a dial from a shared port may expect of its path. The limits are
// constants and not options: each one is part of a promise that the
// documentation of Transport.HedgeDelay makes.
const (
	// provenFor is how long one handshake from the shared port vouches for its
	// path. Until it ends no dial is hedged and nothing blocks the path.
	provenFor = 5 * time.Minute

	// blockNetworks is the number of distinct networks that have to have
	// answered a hedge, and not the shared port, before the port is no longer
	// used. It is above twenty so that twenty hostile hosts, each in a network
	// of its own, cannot reach it. What a path that really drops the port pays
	// for so high a number is small, because the head start shrinks.
	blockNetworks = 24

	// headStartShift bounds the shrinking of the head start: after each network
	// that answered a hedge it halves, to 1/8 of HedgeDelay and no further. It
	// has to outlast the jitter of a path, not its round trip: the shared port's
	// handshake runs ahead of the hedge's by all of the head start.
	headStartShift = 3

	// probeEvery is how long the shared port rests, on a blocked path or towards
	// a host that answered a hedge, before one dial tries it again. It bounds
	// the time until a healed path is used again.
	probeEvery = 30 * time.Second

	// forgetAfter is the age at which what was learnt is dropped.
	forgetAfter = 10 * time.Minute

	// maxPaths and maxSilentHosts bound the memory: the oldest entry makes room.
	maxPaths       = 32
	maxSilentHosts = 128

	// hedgeBurst and hedgeEvery are the budget of hedges of a whole Transport. A
	// hedge that wins gives its token back: what the budget bounds is SYNs to
	// hosts that do not answer.
	hedgeBurst = 32
	hedgeEvery = 5 * time.Second
)

// pathHealth remembers, for each source address and port, whether handshakes
// from it complete. The family is the address's own.
//
// It decides and does nothing: no clock, no I/O, no lock. Its caller tells it
// the time and what happened. The zero value is ready.
type pathHealth struct {
	paths  map[netip.AddrPort]*path
	budget tokenBucket
}

type path struct {
	learnt    time.Time    // the newest evidence of either kind
	handshake time.Time    // the newest handshake from the shared port
	silent    []silentHost // hosts that answered a hedge and not the shared port
	blocked   bool
	nextProbe time.Time // of a blocked path
}

// A silentHost answered a hedge at seen, after its path left the shared port's
// SYN unanswered.
type silentHost struct {
	addr      netip.Addr
	seen      time.Time
	nextProbe time.Time
}

// An advice is how to dial: from an ephemeral port, from the shared port alone,
// or from the shared port with a hedge when headStart is over.
type advice struct {
	use       advisedPort
	headStart time.Duration
}

type advisedPort int

const (
	useShared advisedPort = iota
	useHedged
	useEphemeral
)

// PathState is what a path from a shared port has shown.
type PathState int

const (
	// PathUnproven: nothing is known. Dials from the port are hedged.
	PathUnproven PathState = iota
	// PathProven: a handshake from the port completed within 5 minutes. Dials
	// are not hedged.
	PathProven
	// PathBlocked: hosts in 24 networks answered an ephemeral port and not this
	// one, with no handshake from this one between. Dials leave from an
	// ephemeral port, but for one in 30 seconds.
	PathBlocked
)

// String returns "unproven", "proven" or "blocked".
func (s PathState) String() string {
	switch s {
	case PathUnproven:
		return "unproven"
	case PathProven:
		return "proven"
	case PathBlocked:
		return "blocked"
	}
	return fmt.Sprintf("PathState(%d)", int(s))
}

// A Path is one source address and port, and what dials from it have shown.
type Path struct {
	Source        netip.AddrPort
	State         PathState
	LastHandshake time.Time // from this port with a global address, to the second; zero if none is remembered
	SilentHosts   int       // hosts that answered an ephemeral port and not this one
}

// advise decides how to dial raddr from the shared port source. It is told
// HedgeDelay.
func (h *pathHealth) advise(source netip.AddrPort, raddr netip.Addr, hedgeDelay time.Duration, now time.Time) advice {
	if !isGlobal(raddr) {
		return advice{use: useShared}
	}
	p := h.recall(source, now)
	if p == nil {
		return advice{useHedged, hedgeDelay}
	}
	host := p.silentHost(raddr)
	switch {
	case p.blocked:
		return h.probe(&p.nextProbe, hedgeDelay, now)
	case host != nil:
		return h.probe(&host.nextProbe, hedgeDelay, now)
	case p.proven(now):
		return advice{use: useShared}
	}
	return advice{useHedged, headStart(hedgeDelay, len(p.votes()))}
}

// probe lets one dial in probeEvery try the shared port. Without a token it has
// to wait: a probe that cannot be hedged could cost a dial its whole time.
func (h *pathHealth) probe(next *time.Time, hedgeDelay time.Duration, now time.Time) advice {
	if now.Before(*next) || !h.tokens().has(now) {
		return advice{use: useEphemeral}
	}
	*next = now.Add(probeEvery)
	return advice{useHedged, headStart(hedgeDelay, headStartShift)}
}

// headStart is what the shared port gets ahead of the hedge after votes
// networks answered hedges.
func headStart(hedgeDelay time.Duration, votes int) time.Duration {
	return hedgeDelay >> min(votes, headStartShift)
}

// A hedgeAnswer is what a dial is told whose head start is over.
type hedgeAnswer int

const (
	hedgeNow   hedgeAnswer = iota
	hedgeLater             // the budget is spent: ask again
	hedgeNever             // the path was proven meanwhile
)

// mayHedge decides whether the hedge of a dial starts now, and takes its token.
func (h *pathHealth) mayHedge(source netip.AddrPort, raddr netip.Addr, now time.Time) hedgeAnswer {
	if !isGlobal(raddr) {
		return hedgeNever
	}
	p := h.recall(source, now)
	if p != nil && p.proven(now) && p.silentHost(raddr) == nil {
		return hedgeNever
	}
	if !h.tokens().take(now) {
		return hedgeLater
	}
	return hedgeNow
}

// handshaken records a handshake from the shared port source with raddr. It
// reports whether that ends a block.
func (h *pathHealth) handshaken(source netip.AddrPort, raddr netip.Addr, now time.Time) (recovered bool) {
	if !isGlobal(raddr) {
		return false
	}
	p := h.learn(source, now)
	recovered = p.blocked
	p.blocked = false
	p.handshake = now
	p.dropSilent(raddr)
	return recovered
}

// hedgeWon records that raddr answered a hedge while the SYN from the shared
// port source was unanswered, and gives the hedge's token back. It reports
// whether that blocks the path.
func (h *pathHealth) hedgeWon(source netip.AddrPort, raddr netip.Addr, now time.Time) (blocked bool) {
	if !isGlobal(raddr) {
		return false
	}
	h.tokens().giveBack()
	p := h.learn(source, now)
	p.addSilent(raddr, now)
	if p.blocked || p.proven(now) || len(p.votes()) < blockNetworks {
		return false
	}
	p.blocked = true
	p.nextProbe = now.Add(probeEvery)
	return true
}

// watched tells whether some path of port and family (that of addr) is blocked
// or has silent hosts: only then does a dial have to know its source address
// before it starts.
func (h *pathHealth) watched(port uint16, addr netip.Addr) bool {
	for source, p := range h.paths {
		if source.Port() == port && source.Addr().Is4() == addr.Is4() && p.faulty() {
			return true
		}
	}
	return false
}

// faulty tells whether any path at all is watched.
func (h *pathHealth) faulty() bool {
	for _, p := range h.paths {
		if p.faulty() {
			return true
		}
	}
	return false
}

// list returns what is known at now, in no order.
func (h *pathHealth) list(now time.Time) []Path {
	var paths []Path
	for source := range h.paths {
		if p := h.recall(source, now); p != nil {
			paths = append(paths, Path{source, p.state(now), p.handshake, len(p.silent)})
		}
	}
	return paths
}

func (h *pathHealth) tokens() *tokenBucket {
	h.budget.burst, h.budget.every = hedgeBurst, hedgeEvery
	return &h.budget
}

// recall returns what is known of source, nil if nothing is or it is too old.
func (h *pathHealth) recall(source netip.AddrPort, now time.Time) *path {
	p := h.paths[source]
	if p == nil {
		return nil
	}
	if now.Sub(p.learnt) >= forgetAfter {
		delete(h.paths, source)
		return nil
	}
	return p
}

// learn returns the entry of source for new evidence.
func (h *pathHealth) learn(source netip.AddrPort, now time.Time) *path {
	p := h.recall(source, now)
	if p == nil {
		p = h.enter(source)
	}
	p.learnt = now
	return p
}

func (h *pathHealth) enter(source netip.AddrPort) *path {
	if h.paths == nil {
		h.paths = make(map[netip.AddrPort]*path)
	}
	if len(h.paths) >= maxPaths {
		delete(h.paths, h.oldest())
	}
	p := &path{}
	h.paths[source] = p
	return p
}

func (h *pathHealth) oldest() (oldest netip.AddrPort) {
	var learnt time.Time
	for source, p := range h.paths {
		if !oldest.IsValid() || p.learnt.Before(learnt) {
			oldest, learnt = source, p.learnt
		}
	}
	return oldest
}

func (p *path) state(now time.Time) PathState {
	switch {
	case p.blocked:
		return PathBlocked
	case p.proven(now):
		return PathProven
	}
	return PathUnproven
}

// faulty tells whether hosts are remembered that answered an ephemeral port and not
// this one.
func (p *path) faulty() bool { return p.blocked || len(p.silent) > 0 }

func (p *path) proven(now time.Time) bool { return now.Before(p.vetoEnds()) }

// vetoEnds is until when the last handshake vouches for the path. The zero time
// plus provenFor is long past: a path without a handshake has no veto.
func (p *path) vetoEnds() time.Time { return p.handshake.Add(provenFor) }

// votes returns the networks that speak for a block: those whose hosts answered
// a hedge when no handshake vouched for the path.
func (p *path) votes() map[netip.Prefix]struct{} {
	networks := make(map[netip.Prefix]struct{})
	for _, host := range p.silent {
		if !host.seen.Before(p.vetoEnds()) {
			networks[networkOf(host.addr)] = struct{}{}
		}
	}
	return networks
}

func (p *path) silentHost(addr netip.Addr) *silentHost {
	for i := range p.silent {
		if p.silent[i].addr == addr {
			return &p.silent[i]
		}
	}
	return nil
}

// addSilent puts addr last; the slice is in the order of what was seen, so that
// the first is the one to forget.
func (p *path) addSilent(addr netip.Addr, now time.Time) {
	p.dropSilent(addr)
	for len(p.silent) > 0 && (len(p.silent) >= maxSilentHosts || now.Sub(p.silent[0].seen) >= forgetAfter) {
		p.dropSilent(p.silent[0].addr)
	}
	p.silent = append(p.silent, silentHost{addr: addr, seen: now, nextProbe: now.Add(probeEvery)})
}

func (p *path) dropSilent(addr netip.Addr) {
	for i := range p.silent {
		if p.silent[i].addr == addr {
			p.silent = append(p.silent[:i], p.silent[i+1:]...)
			return
		}
	}
}

// networkOf returns the network that has one vote: /16 of IPv4, /32 of IPv6,
// the sizes that registries hand out to one operator.
func networkOf(addr netip.Addr) netip.Prefix {
	bits := 32
	if addr.Is4() {
		bits = 16
	}
	return netip.PrefixFrom(addr.WithZone(""), bits).Masked()
}

// isGlobal tells whether a handshake with addr crosses the path that a network
// may filter: not loopback, link-local, private (RFC 1918, RFC 4193), multicast
// or shared with a carrier's NAT (RFC 6598).
func isGlobal(addr netip.Addr) bool {
	carrierNAT := netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64}), 10)
	return addr.IsGlobalUnicast() && !addr.IsPrivate() && !carrierNAT.Contains(addr)
}
