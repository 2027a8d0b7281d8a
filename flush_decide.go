package reuseport

import "time"

// This file decides when a connection that was closed may go. It does no I/O and
// reads no clock; flush.go acts.

const (
	// defaultFlushTimeout stands for a FlushTimeout of zero.
	defaultFlushTimeout = 5 * time.Second

	// flushTotal times FlushTimeout is how long a close may take that makes
	// progress all the time: five minutes by default.
	flushTotal = 60

	// peerGrace is how long, at most, a connection whose data has all been
	// acknowledged stays for the peer's own end, counted from the last byte that
	// the peer sent. A segment of the peer that was lost once comes again within
	// it (RFC 6298: after 200 ms to 1 s).
	peerGrace = time.Second

	// maxPendingCloses bounds the connections of one Transport that were closed and
	// are not yet delivered.
	maxPendingCloses = 4096

	// maxDiscard bounds what is read and discarded of one connection after Close.
	maxDiscard = 256 << 20

	// A connection that was closed is looked at after firstLook, then at intervals
	// that double up to lastLook, and again after soonLook when the peer sent. A dial
	// that needs the 4-tuple does not wait for that; it looks by itself.
	soonLook  = time.Millisecond
	firstLook = 8 * time.Millisecond
	lastLook  = 64 * time.Millisecond
)

// look is what one look at a connection that was closed has shown.
type look struct {
	unacked  int  // bytes and FIN that the peer has not acknowledged; unknownUnacked if the system cannot tell
	received int  // bytes discarded
	ended    bool // the peer has sent its FIN
	broken   bool // the peer has reset the connection, or the network is gone
}

// unknownUnacked is the count of systems that do not tell it.
const unknownUnacked = -1

// verdict is what to do with a connection that was closed.
type verdict int

const (
	keep    verdict = iota // look again later
	release                // all is delivered: free the 4-tuple
	entrust                // the system cannot tell more: leave it to the kernel's own close
	abort                  // cut, with data that did not make it
	lost                   // the peer cut it, with data that did not make it
)

// flushProgress is the course of one close.
type flushProgress struct {
	stall time.Duration // FlushTimeout: the longest time without progress

	started time.Time
	moved   time.Time     // last time that the peer acknowledged something
	heard   time.Time     // last time that the peer sent something
	unacked int           // as of the last look
	wait    time.Duration // from the last look to the next
}

func newProgress(now time.Time, stall time.Duration) flushProgress {
	return flushProgress{stall: stall, started: now, moved: now, heard: now, unacked: unknownUnacked}
}

// next takes in what a look has shown and says what to do.
func (p *flushProgress) next(now time.Time, l look) verdict {
	p.wait = min(max(2*p.wait, firstLook), lastLook)
	if l.received > 0 {
		p.heard, p.wait = now, soonLook
	}
	if l.unacked < p.unacked || p.unacked == unknownUnacked {
		p.moved = now
	}
	p.unacked = l.unacked
	switch {
	case l.unacked == 0:
		return p.delivered(now, l)
	case l.unacked == unknownUnacked:
		return p.blind(now, l)
	case l.broken:
		return lost
	case now.Sub(p.moved) >= p.stall || p.expired(now):
		return abort
	}
	return keep
}

// delivered decides when nothing is outstanding. The peer may still be sending,
// and a reset would cut it: that matters when both sides close at once. A peer
// that closes when it sees our end is not reset at all.
func (p *flushProgress) delivered(now time.Time, l look) verdict {
	quiet := now.Sub(p.heard) >= min(peerGrace, p.stall)
	if l.ended || l.broken || quiet || p.expired(now) {
		return release
	}
	return keep
}

// blind decides where the system does not tell what is outstanding. The peer's
// end is taken for the end of all; the kernel's close then sends what may be left.
func (p *flushProgress) blind(now time.Time, l look) verdict {
	if l.broken {
		return lost
	}
	if l.ended || now.Sub(p.heard) >= p.stall || p.expired(now) {
		return entrust
	}
	return keep
}

func (p *flushProgress) expired(now time.Time) bool {
	return now.Sub(p.started)/flushTotal >= p.stall // the product overflows after 5 years
}

// cut is the verdict on a connection that cannot be kept.
func (l look) cut() verdict {
	switch {
	case l.unacked == 0:
		return release
	case l.broken:
		return lost
	}
	return abort
}
