// Package pathhealth remembers what the paths from listening ports have shown, and says
// how a dial should leave: from the listening port alone, with a hedge behind it, or from
// an ephemeral port.
//
// paths decides: it is pure, and its caller tells it the time and what happened.
// [Health] adds the lock and the clock.
package pathhealth

import (
	"net/netip"
	"time"

	"github.com/reusetransport/reuseport/internal/netaddr"
	"github.com/reusetransport/reuseport/internal/tokenbucket"
)

// The limits are constants and not options: each one is part of a promise that the
// documentation of Transport.HedgeDelay makes.
const (
	// provenFor is how long one handshake from the listening port vouches for its
	// path. During that time nothing blocks the path, and no dial is hedged but to
	// silent hosts.
	provenFor = 5 * time.Minute

	// blockNetworks is the number of distinct networks that have to have answered a
	// hedge, and not the listening port, before the port is no longer used. It is
	// above twenty so that twenty hostile hosts, each in a network of its own, cannot
	// reach it. Even so high a number costs little on a path that really drops the
	// port, because the head start shrinks.
	blockNetworks = 24

	// headStartShift bounds the shrinking of the head start. It halves after each
	// network that answered a hedge, down to 1/8 of HedgeDelay. The head start has to
	// outlast the jitter of a path, not its round trip, because the listening port's
	// SYN stays ahead of the hedge's by all of it.
	headStartShift = 3

	// probeEvery is how long the listening port rests, on a blocked path or towards a
	// host that answered a hedge, before one dial tries it again. It bounds the time
	// until a healed path is used again.
	probeEvery = 30 * time.Second

	// forgetAfter is how long what was learnt about a path is kept without news.
	forgetAfter = 10 * time.Minute

	// maxPaths and maxSilentHosts bound the memory: the oldest entry makes room.
	maxPaths       = 32
	maxSilentHosts = 128

	// hedgeBurst and hedgeEvery are the budget of hedges of a whole Transport. A hedge
	// that wins gives its token back: the budget bounds SYNs to hosts that do not
	// answer.
	hedgeBurst = 32
	hedgeEvery = 5 * time.Second
)

// A Plan says how a dial leaves. HeadStart is how long a hedge waits, for Hedged alone.
type Plan struct {
	Way       Way
	HeadStart time.Duration
}

// Way is the port that a dial leaves from.
type Way int

const (
	FromListener Way = iota // the listening port alone
	Hedged                  // the listening port, with a hedge behind it
	FromNewPort             // an ephemeral port
)

// A HedgeAnswer is the answer to a dial whose head start is over.
type HedgeAnswer int

const (
	HedgeNow   HedgeAnswer = iota
	HedgeLater             // the budget is spent: ask again
	HedgeNever             // the path was proven meanwhile
)

// State is what a path from a listening port has shown.
type State int

const (
	Unproven State = iota // nothing is known
	Proven                // a handshake completed within provenFor
	Blocked               // blockNetworks networks answered hedges, with no handshake between
)

// A Path is one source address and port, and what dials from it have shown.
type Path struct {
	Source        netip.AddrPort
	State         State
	LastHandshake time.Time // zero if none is remembered
	SilentHosts   int       // hosts that answered an ephemeral port and not this one
}

// paths remembers, for each source address and port, whether handshakes from it
// complete.
type paths struct {
	bySource map[netip.AddrPort]*path
	hedges   tokenbucket.Bucket
}

// path is what is known of one source address and port.
type path struct {
	learnt    time.Time    // the newest evidence: a handshake or a hedge that won
	handshake time.Time    // the newest handshake from the listening port
	silent    []silentHost // hosts that answered a hedge and not the listening port
	blocked   bool
	nextProbe time.Time // of a blocked path
}

// A silentHost is a host that answered a hedge, at the time seen, and not the listening
// port's SYN before it.
type silentHost struct {
	addr      netip.Addr
	seen      time.Time
	nextProbe time.Time
}

func newPaths() *paths {
	return &paths{bySource: make(map[netip.AddrPort]*path), hedges: tokenbucket.New(hedgeBurst, hedgeEvery)}
}

// beginDial decides how a dial of raddr leaves from the listening port source. If the
// dial becomes the probe that is due, that probe is used up. hedgeDelay is
// Transport.HedgeDelay.
func (ps *paths) beginDial(source netip.AddrPort, raddr netip.Addr, hedgeDelay time.Duration, now time.Time) Plan {
	if !netaddr.IsGlobal(raddr) {
		return Plan{Way: FromListener}
	}
	p := ps.recall(source, now)
	if p == nil {
		return Plan{Hedged, hedgeDelay}
	}
	host := p.silentHost(raddr)
	switch {
	case p.blocked:
		return ps.beginProbe(&p.nextProbe, hedgeDelay, now)
	case host != nil:
		return ps.beginProbe(&host.nextProbe, hedgeDelay, now)
	case p.proven(now):
		return Plan{Way: FromListener}
	}
	return Plan{Hedged, headStart(hedgeDelay, len(p.votes()))}
}

// beginProbe lets one dial in probeEvery try the listening port. There is no probe without a
// token for its hedge: without a hedge it could cost the dial all its time.
func (ps *paths) beginProbe(next *time.Time, hedgeDelay time.Duration, now time.Time) Plan {
	if now.Before(*next) || !ps.hedges.Has(now) {
		return Plan{Way: FromNewPort}
	}
	*next = now.Add(probeEvery)
	return Plan{Hedged, headStart(hedgeDelay, headStartShift)}
}

// headStart returns how far the listening port's SYN runs ahead of the hedge. votes is the
// number of networks that answered hedges.
func headStart(hedgeDelay time.Duration, votes int) time.Duration {
	return hedgeDelay >> min(votes, headStartShift)
}

// beginHedge decides whether the hedge of a dial starts now, and takes its token.
func (ps *paths) beginHedge(source netip.AddrPort, raddr netip.Addr, now time.Time) HedgeAnswer {
	if !netaddr.IsGlobal(raddr) {
		return HedgeNever
	}
	p := ps.recall(source, now)
	if p != nil && p.proven(now) && p.silentHost(raddr) == nil {
		return HedgeNever
	}
	if !ps.hedges.Take(now) {
		return HedgeLater
	}
	return HedgeNow
}

// recordHandshake records a handshake from the listening port source with raddr. It
// reports whether that ends a block.
func (ps *paths) recordHandshake(source netip.AddrPort, raddr netip.Addr, now time.Time) (recovered bool) {
	if !netaddr.IsGlobal(raddr) {
		return false
	}
	p := ps.learn(source, now)
	recovered = p.blocked
	p.blocked = false
	p.handshake = now
	p.dropSilent(raddr)
	return recovered
}

// recordHedgeWin records that raddr answered a hedge while the SYN from the listening port
// source was unanswered, and gives the hedge's token back. It reports whether that blocks
// the path.
func (ps *paths) recordHedgeWin(source netip.AddrPort, raddr netip.Addr, now time.Time) (blocked bool) {
	if !netaddr.IsGlobal(raddr) {
		return false
	}
	ps.hedges.GiveBack()
	p := ps.learn(source, now)
	p.addSilent(raddr, now)
	if p.blocked || p.proven(now) || len(p.votes()) < blockNetworks {
		return false
	}
	p.blocked = true
	p.nextProbe = now.Add(probeEvery)
	return true
}

// needsSource reports whether some path from port, in addr's family, is blocked or has
// silent hosts. Only then does a dial have to know its source address before it starts.
func (ps *paths) needsSource(port uint16, addr netip.Addr) bool {
	for source, p := range ps.bySource {
		if source.Port() == port && source.Addr().Is4() == addr.Is4() && p.faulty() {
			return true
		}
	}
	return false
}

// faulty reports whether any path at all is blocked or has silent hosts.
func (ps *paths) faulty() bool {
	for _, p := range ps.bySource {
		if p.faulty() {
			return true
		}
	}
	return false
}

// list returns what is known at now, in no order.
func (ps *paths) list(now time.Time) []Path {
	var all []Path
	for source := range ps.bySource {
		if p := ps.recall(source, now); p != nil {
			all = append(all, Path{source, p.state(now), p.handshake, len(p.silent)})
		}
	}
	return all
}

// recall returns what is known of source. It returns nil if nothing is, and forgets what is
// too old.
func (ps *paths) recall(source netip.AddrPort, now time.Time) *path {
	p := ps.bySource[source]
	if p == nil {
		return nil
	}
	if now.Sub(p.learnt) >= forgetAfter {
		delete(ps.bySource, source)
		return nil
	}
	return p
}

// learn returns the entry of source for new evidence.
func (ps *paths) learn(source netip.AddrPort, now time.Time) *path {
	p := ps.recall(source, now)
	if p == nil {
		p = ps.enter(source)
	}
	p.learnt = now
	return p
}

// enter makes the entry of source, and takes the oldest one out if there is no room.
func (ps *paths) enter(source netip.AddrPort) *path {
	if len(ps.bySource) >= maxPaths {
		delete(ps.bySource, ps.oldest())
	}
	p := &path{}
	ps.bySource[source] = p
	return p
}

func (ps *paths) oldest() (oldest netip.AddrPort) {
	var learnt time.Time
	for source, p := range ps.bySource {
		if !oldest.IsValid() || p.learnt.Before(learnt) {
			oldest, learnt = source, p.learnt
		}
	}
	return oldest
}
