package flush

import "time"

// This file decides when a closed connection may be left to the system. It does no I/O and
// reads no clock.

const (
	// keepDelivered is how long a connection that has delivered everything is kept for
	// its peer's own end: as long as Linux keeps such a connection after package net's
	// close (net.ipv4.tcp_fin_timeout).
	keepDelivered = time.Minute

	// maxDiscard bounds what is read and discarded of one connection after Close.
	maxDiscard = 256 << 20

	// bulk is how much a peer has to send between two inspections to be inspected again
	// at once. A peer's window holds many times that much.
	bulk = 4 << 10

	// A closed connection is inspected after firstWait, then at intervals that double up
	// to longWait, and again after shortWait when the peer sent in bulk. A dial that needs
	// the 4-tuple does not wait for that; it inspects by itself.
	shortWait = time.Millisecond
	firstWait = 8 * time.Millisecond
	longWait  = 2 * time.Second
)

// status is what one inspection of a closed connection has shown.
type status struct {
	unacked  int           // bytes and FIN that the peer has not acknowledged, or unknown
	received int           // bytes discarded
	silent   time.Duration // since the peer's TCP last answered
	finished bool          // the peer has sent its FIN
	flooded  bool          // maxDiscard bytes were discarded
	broken   bool          // the peer has reset the connection, or the network is gone
}

// unknown is the count of unacknowledged bytes on systems that do not tell it.
const unknown = -1

// outstanding returns how many bytes the peer has not acknowledged, without the FIN.
func (s status) outstanding(finUnacked int) int { return max(0, s.unacked-finUnacked) }

// holdsData reports whether data is outstanding, or may be where the system does not tell.
// A peer that resets after it has read our end loses nothing.
func (s status) holdsData(finUnacked int) bool {
	return s.unacked == unknown || s.outstanding(finUnacked) > 0
}

// verdict is what to do with a closed connection.
type verdict int

const (
	keep verdict = iota // inspect it again later
	done                // the peer has everything; the system can do the rest
	left                // our patience or room ended before that; the system goes on
	lost                // the peer or the network ended the connection before that
)

// progress is the course of one close.
type progress struct {
	stall     time.Duration // how long the peer's TCP may be silent with data outstanding
	delivered time.Time     // when an inspection first found nothing outstanding; zero before
	wait      time.Duration // from the last inspection to the next
}

// next takes in what an inspection has shown and returns what to do.
func (p *progress) next(now time.Time, s status) verdict {
	p.wait = min(max(2*p.wait, firstWait), longWait)
	if s.received >= bulk {
		p.wait = shortWait
	}
	if s.unacked == 0 && p.delivered.IsZero() {
		p.delivered = now
	}
	switch {
	case s.broken:
		return p.whenBroken(s)
	case s.unacked == 0:
		return p.whenDelivered(now, s)
	case s.unacked == unknown && s.finished:
		return done // all that can be known: the peer has closed too
	case s.silent >= p.stall:
		return left
	}
	return keep
}

func (p *progress) whenBroken(s status) verdict {
	if s.unacked == 0 {
		return done
	}
	return lost
}

// whenDelivered keeps the connection until its peer has ended too, or for keepDelivered.
// Otherwise what the peer still sends would be answered with a reset, and a dial could not
// free the 4-tuple.
func (p *progress) whenDelivered(now time.Time, s status) verdict {
	if s.finished || s.flooded || now.Sub(p.delivered) >= keepDelivered {
		return done
	}
	return keep
}

// whenEvicted returns the verdict on a connection for which there is no room.
func (s status) whenEvicted() verdict {
	switch {
	case s.unacked == 0:
		return done
	case s.broken:
		return lost
	}
	return left
}
