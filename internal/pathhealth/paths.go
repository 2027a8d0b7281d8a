// Package pathhealth remembers what the paths from listening ports have shown, and says
// how a dial should leave: from the listening port with a hedge behind it, or from an
// ephemeral port.
//
// paths decides: it is pure, and its caller tells it the time and what happened.
// [Health] adds the lock and the clock.
//
// # The model
//
// Evidence is kept about three things. About a path: a source address and port, and how far
// its targets are, since a neighbour says nothing about a border. About a host, and about its
// network: from a source address, whatever the port. A handshake from the listening port
// proves the path and clears its host and network. A hedge that was answered makes its host
// silent, its network suspect, and is a vote against a path that is not proven. A dial that
// ran out of time with no hedge makes its host and network suspect. Silence of both ports
// clears a suspicion and says nothing else: the peer is dead.
package pathhealth

import (
	"net/netip"
	"time"

	"github.com/reusetransport/reuseport/internal/tokenbucket"
)

// The limits are constants and not options: each one is part of a promise that the
// documentation of Transport.HedgeDelay makes.
const (
	// provenFor is how long one handshake from the listening port vouches for its
	// path. During that time nothing blocks the path, and a hedge starts early only
	// towards suspects.
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

	// forgetAfter is how long what was learnt is kept without news.
	forgetAfter = 10 * time.Minute

	// maxPaths and maxPlaces bound the memory: the oldest entry makes room.
	maxPaths  = 32
	maxPlaces = 512

	// hedgeBurst and hedgeEvery are the budget of early hedges of a whole Transport. A
	// hedge that wins gives its token back: the budget bounds SYNs to hosts that do not
	// answer.
	hedgeBurst = 32
	hedgeEvery = 5 * time.Second

	// minRefusals is how many dials in a row a path must have seen refused, with no
	// handshake, before a refused dial is tried from an ephemeral port. It is tried then,
	// and each time that number has doubled.
	minRefusals = 2
)

// A Target is what a dial is aimed at, and where it leaves from.
type Target struct {
	Source   netip.AddrPort
	Host     netip.Addr
	Distance Distance
}

// A Plan says how a dial leaves.
type Plan struct {
	Way       Way
	HeadStart time.Duration // of the listening port, before a hedge may start
	HandOver  time.Duration // see Timing.handOver; zero is none
	Why       Reason        // for FromNewPort
}

// Way is the port that a dial leaves from.
type Way int

const (
	Hedged      Way = iota // the listening port, with a hedge behind it
	FromNewPort            // an ephemeral port
)

// A Reason says why a dial does not leave from the listening port.
type Reason int

const (
	NoReason    Reason = iota
	HostSilent         // the host answered an ephemeral port and not this one
	HostSuspect        // the last dial of the host ran out of time, and the budget is spent
	PathBlocked        // hosts of many networks did not answer this port
)

// String returns a sentence without its end.
func (r Reason) String() string {
	switch r {
	case HostSilent:
		return "the host answers other ports alone"
	case HostSuspect:
		return "the last dial of the host ran out of time"
	case PathBlocked:
		return "hosts in many networks answer other ports alone"
	}
	return "no reason"
}

// A HedgeAnswer is the answer to a dial whose head start is over.
type HedgeAnswer int

const (
	HedgeNow   HedgeAnswer = iota
	HedgeLater             // the budget is spent: ask again
	HedgeNever             // the path is proven
)

// State is what a path from a listening port has shown.
type State int

const (
	Unproven State = iota // nothing is known
	Proven                // a handshake completed within provenFor
	Blocked               // blockNetworks networks answered hedges, with no handshake between
)

// A Path is one source address and port with one kind of targets, and what dials have shown.
type Path struct {
	Source        netip.AddrPort
	Distance      Distance
	State         State
	LastHandshake time.Time // zero if none is remembered
	SilentHosts   int       // hosts that answered an ephemeral port and not this one
	Votes         int       // networks that answered a hedge since the last handshake
	Rejects       bool      // dials were refused here and answered from an ephemeral port
	NextProbe     time.Time // of a blocked path
}

// paths remembers, for each path, host and network, what dials have shown.
type paths struct {
	byPath  memory[pathKey, path]
	byPlace memory[placeKey, place] // hosts and networks that something speaks against
	hedges  tokenbucket.Bucket
}

func newPaths() *paths {
	return &paths{
		byPath:  newMemory[pathKey, path](maxPaths),
		byPlace: newMemory[placeKey, place](maxPlaces),
		hedges:  tokenbucket.New(hedgeBurst, hedgeEvery),
	}
}

// beginDial decides how a dial leaves. If the dial becomes the probe that is due, that probe
// is used up.
func (ps *paths) beginDial(to Target, in Timing, now time.Time) Plan {
	p, host := ps.byPath.recall(to.path(), now), ps.byPlace.recall(to.host(), now)
	switch {
	case p != nil && p.blocked:
		return ps.beginProbe(&p.nextProbe, PathBlocked, in, now)
	case host != nil && host.silent:
		return ps.beginProbe(&host.nextProbe, HostSilent, in, now)
	case host != nil && in.handOver() == 0 && !ps.hedges.Has(now):
		return Plan{Way: FromNewPort, Why: HostSuspect}
	case host != nil || ps.byPlace.recall(to.network(), now) != nil:
		return in.plan(headStartShift)
	case p != nil:
		return in.plan(len(p.votes))
	}
	return in.plan(0)
}

// beginProbe lets one dial in probeEvery try the listening port. There is no probe without a
// token for its hedge: without a hedge it could cost the dial all its time.
func (ps *paths) beginProbe(next *time.Time, why Reason, in Timing, now time.Time) Plan {
	if now.Before(*next) || !ps.hedges.Has(now) {
		return Plan{Way: FromNewPort, Why: why}
	}
	*next = now.Add(probeEvery)
	return in.plan(headStartShift)
}

// beginHedge decides whether the hedge of a dial starts early, now, and takes its token.
func (ps *paths) beginHedge(to Target, now time.Time) HedgeAnswer {
	if p := ps.byPath.recall(to.path(), now); p != nil && p.proven(now) && !ps.isSuspect(to, now) {
		return HedgeNever
	}
	if !ps.hedges.Take(now) {
		return HedgeLater
	}
	return HedgeNow
}

// isSuspect reports whether something speaks against the host or its network.
func (ps *paths) isSuspect(to Target, now time.Time) bool {
	return ps.byPlace.recall(to.host(), now) != nil || ps.byPlace.recall(to.network(), now) != nil
}

// recordHandshake records a handshake from the listening port. It reports whether that ends
// a block.
func (ps *paths) recordHandshake(to Target, now time.Time) (recovered bool) {
	p := ps.byPath.learn(to.path(), now)
	recovered = p.blocked
	*p = path{handshake: now}
	for key, e := range ps.byPath.entries {
		if key.isOf(to) {
			e.what.refusals = 0
		}
	}
	ps.clear(to)
	return recovered
}

// recordHedgeWin records that the host answered a hedge while the SYNs from the listening
// port were unanswered, or refused. strong says that they had time enough for an answer. A
// weak win may be one lost SYN, so it takes two in a row to make the host silent. One that is
// silent stays so: the hedge of its probe starts early. It reports whether the win blocks the path.
func (ps *paths) recordHedgeWin(to Target, strong bool, now time.Time) (blocked bool) {
	host := ps.mark(to.host(), to, now)
	host.silent = host.silent || strong || host.weak
	host.weak = !host.silent
	host.nextProbe = now.Add(probeEvery)
	ps.mark(to.network(), to, now)
	p := ps.byPath.learn(to.path(), now)
	if p.blocked || p.proven(now) {
		return false
	}
	p.vote(networkOf(to.Host))
	if len(p.votes) < blockNetworks {
		return false
	}
	p.blocked = true
	p.nextProbe = now.Add(probeEvery)
	return true
}

// giveBack returns the token of a hedge that was answered.
func (ps *paths) giveBack() { ps.hedges.GiveBack() }

// recordTimeout records that a dial from the listening port ran out of time, with no hedge.
func (ps *paths) recordTimeout(to Target, now time.Time) {
	ps.mark(to.host(), to, now)
	ps.mark(to.network(), to, now)
}

// recordSilence records that neither the listening port nor a hedge was answered. A host that
// is silent stays so: its probe has failed.
func (ps *paths) recordSilence(to Target, now time.Time) {
	if host := ps.byPlace.recall(to.host(), now); host == nil || !host.silent {
		ps.clear(to)
	}
}

// recordRefusal records that a dial from the listening port was refused. It reports whether
// the dial is worth a try from an ephemeral port, for which it takes a token. The source may be
// a wildcard: to ask for it would cost each refused dial a question.
func (ps *paths) recordRefusal(to Target, now time.Time) (retry bool) {
	rejects := false
	for key := range ps.byPath.entries {
		p := ps.byPath.recall(key, now)
		if p == nil || !key.isOf(to) {
			continue
		}
		if p.proven(now) {
			return false
		}
		rejects = rejects || p.rejects
	}
	p := ps.byPath.learn(to.path(), now)
	p.refusals++
	isDue := p.refusals >= minRefusals && p.refusals&(p.refusals-1) == 0
	return (rejects || isDue) && ps.hedges.Take(now)
}

// recordRetryWin records that the host refused the listening port and answered an ephemeral
// one. It reports whether that blocks the path.
func (ps *paths) recordRetryWin(to Target, now time.Time) (blocked bool) {
	ps.giveBack()
	ps.byPath.learn(to.path(), now).rejects = true
	return ps.recordHedgeWin(to, true, now)
}

// isFaulty reports whether anything at all speaks against a path, a host or a network. Only
// then does a dial have to know its source address before it starts.
func (ps *paths) isFaulty(now time.Time) bool {
	for key := range ps.byPlace.entries {
		if ps.byPlace.recall(key, now) != nil {
			return true
		}
	}
	for key := range ps.byPath.entries {
		if p := ps.byPath.recall(key, now); p != nil && p.isFaulty() {
			return true
		}
	}
	return false
}

// list returns what is known at now, in no order. A path of which only refusals are known has
// shown nothing.
func (ps *paths) list(now time.Time) []Path {
	var all []Path
	for key := range ps.byPath.entries {
		p := ps.byPath.recall(key, now)
		if p == nil || p.handshake.IsZero() && !p.isFaulty() {
			continue
		}
		all = append(all, Path{
			Source: key.source, Distance: key.distance, State: p.state(now), LastHandshake: p.handshake,
			SilentHosts: ps.silentHosts(key, now), Votes: len(p.votes), Rejects: p.rejects, NextProbe: p.nextProbe,
		})
	}
	return all
}
