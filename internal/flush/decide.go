package flush

import "time"

// This file decides when a closed connection may go. It does no I/O and reads no clock.

const (
	// totalStalls times the stall time is how long a close may take that makes progress
	// all the time: five minutes by default.
	totalStalls = 60

	// peerGrace is how long, at most, a connection whose data has all been acknowledged
	// stays for the peer's own end, counted from the last byte that the peer sent. A
	// segment of the peer that was lost once comes again within it (RFC 6298: after
	// 200 ms to 1 s).
	peerGrace = time.Second

	// maxPending bounds the closed connections of one Flusher that are not yet delivered.
	maxPending = 4096

	// maxDiscard bounds what is read and discarded of one connection after Close.
	maxDiscard = 256 << 20

	// A closed connection is inspected after firstWait, then at intervals that double up
	// to longWait, and again after shortWait when the peer sent something. A dial that
	// needs the 4-tuple does not wait for that; it inspects by itself.
	shortWait = time.Millisecond
	firstWait = 8 * time.Millisecond
	longWait  = 64 * time.Millisecond
)

// status is what one inspection of a closed connection has shown.
type status struct {
	unacked  int  // bytes and FIN that the peer has not acknowledged, or unknown
	received int  // bytes discarded
	finished bool // the peer has sent its FIN
	broken   bool // the peer has reset the connection, or the network is gone
}

// unknown is the count of unacknowledged bytes on systems that do not tell it.
const unknown = -1

// outstanding returns how many bytes the peer has not acknowledged.
func (s status) outstanding(finUnacked int) int { return max(0, s.unacked-finUnacked) }

// holdsData reports whether data is outstanding, or may be where the system does not tell.
// A peer that resets after it has read our end loses nothing.
func (s status) holdsData(finUnacked int) bool {
	return s.unacked == unknown || s.outstanding(finUnacked) > 0
}

// verdict is what to do with a closed connection.
type verdict int

const (
	keep    verdict = iota // inspect it again later
	release                // all is delivered: free the 4-tuple
	entrust                // the system cannot tell more: leave it to the kernel's own close
	abort                  // give up, with data that did not make it
	lost                   // the peer gave up, with data that did not make it
)

// progress is the course of one close.
type progress struct {
	stall time.Duration // the longest time without progress

	started time.Time
	moved   time.Time     // last time that the peer acknowledged something
	heard   time.Time     // last time that the peer sent something
	unacked int           // as of the last inspection
	wait    time.Duration // from the last inspection to the next
}

func newProgress(now time.Time, stall time.Duration) progress {
	return progress{stall: stall, started: now, moved: now, heard: now, unacked: unknown}
}

// next takes in what an inspection has shown and returns what to do.
func (p *progress) next(now time.Time, s status) verdict {
	p.wait = min(max(2*p.wait, firstWait), longWait)
	if s.received > 0 {
		p.heard, p.wait = now, shortWait
	}
	if s.unacked < p.unacked || p.unacked == unknown {
		p.moved = now
	}
	p.unacked = s.unacked
	switch {
	case s.unacked == 0:
		return p.whenDelivered(now, s)
	case s.unacked == unknown:
		return p.whenUnknown(now, s)
	case s.broken:
		return lost
	case now.Sub(p.moved) >= p.stall || p.expired(now):
		return abort
	}
	return keep
}

// whenDelivered decides when nothing is outstanding. The peer may still be sending, and a
// reset would cut it: that matters when both sides close at once. A peer that closes when
// it sees our end is not reset at all.
func (p *progress) whenDelivered(now time.Time, s status) verdict {
	quiet := now.Sub(p.heard) >= min(peerGrace, p.stall)
	if s.finished || s.broken || quiet || p.expired(now) {
		return release
	}
	return keep
}

// whenUnknown decides where the system does not tell what is outstanding. It takes the
// peer's end for the end of all; the kernel's close then sends what may be left.
func (p *progress) whenUnknown(now time.Time, s status) verdict {
	if s.broken {
		return lost
	}
	if s.finished || now.Sub(p.heard) >= p.stall || p.expired(now) {
		return entrust
	}
	return keep
}

func (p *progress) expired(now time.Time) bool {
	return now.Sub(p.started)/totalStalls >= p.stall // the product overflows after 5 years
}

// whenEvicted decides about a connection that cannot be kept.
func (s status) whenEvicted() verdict {
	switch {
	case s.unacked == 0:
		return release
	case s.broken:
		return lost
	}
	return abort
}
