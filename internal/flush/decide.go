package flush

import "time"

// This file decides when a closed connection may be left to the system. It does no I/O and
// reads no clock.

const (
	// minReading is how long a peer may go on sending after the last acknowledgement, or
	// the user's patience if that is shorter. It is time to notice our FIN.
	minReading = time.Second

	// maxKept bounds how long a connection is kept that has delivered everything, and how
	// long one is kept of which the peer acknowledges no byte.
	maxKept = time.Minute

	// maxDiscard bounds what is read and discarded of one connection after Close. It is
	// twice what fits into a peer's send buffer by Linux's defaults (net.ipv4.tcp_wmem),
	// which is what the peer may have under way when it learns of our FIN. One that sends
	// more has not stopped for our FIN.
	maxDiscard = 8 << 20

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
	silent   time.Duration // since the peer's TCP last answered, while something is unacknowledged
	finished bool          // the peer has sent its FIN
	flooded  bool          // maxDiscard bytes were discarded
	broken   bool          // the peer has reset the connection, or the network is gone

	// The first inspection that finds everything acknowledged tells these.
	sinceSent  time.Duration // since bytes last left
	holdsTuple bool          // after the system's close no dial gets the 4-tuple
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
	done                // the peer has everything, and the system can do the rest
	left                // our patience or room ended before that; the system goes on
	lost                // the peer or the network ended the connection before that
)

// progress is the course of one close.
type progress struct {
	patience   time.Duration // with a peer whose TCP is silent, and with one that has read nothing yet
	moved      time.Time     // when bytes were last acknowledged, or the close began
	unacked    int           // of the last inspection
	delivered  time.Time     // when an inspection first found nothing outstanding; zero before
	reading    time.Time     // until when the peer is given time to read; set with delivered
	holdsTuple bool          // set with delivered
	wait       time.Duration // from the last inspection to the next
}

func newProgress(now time.Time, patience time.Duration) progress {
	return progress{patience: patience, moved: now, unacked: unknown}
}

// next takes in what an inspection has shown and returns what to do.
func (p *progress) next(now time.Time, s status) verdict {
	p.take(now, s)
	switch {
	case s.broken:
		return p.whenBroken(s)
	case s.unacked == 0:
		return p.whenDelivered(now, s)
	case s.unacked == unknown && s.finished:
		return done // all that can be known: the peer has closed too
	case s.silent >= p.patience, now.Sub(p.moved) >= max(p.patience, maxKept):
		return left
	}
	return keep
}

// take takes in what an inspection has shown.
func (p *progress) take(now time.Time, s status) {
	p.wait = min(max(2*p.wait, firstWait), longWait)
	if s.received >= bulk {
		p.wait = shortWait
	}
	if s.unacked != p.unacked {
		p.moved, p.unacked = now, s.unacked
	}
	if s.unacked == 0 && p.delivered.IsZero() {
		p.delivered, p.holdsTuple = now, s.holdsTuple
		p.reading = now.Add(readingTime(p.patience, s.sinceSent))
	}
}

// readingTime returns for how long a peer that has everything is kept from a reset, which could
// cost it what it has not read: until patience has passed since bytes last left, and for
// minReading at least.
func readingTime(patience, sinceSent time.Duration) time.Duration {
	patience = min(patience, maxKept)
	return max(patience-sinceSent, min(patience, minReading))
}

func (p *progress) whenBroken(s status) verdict {
	if s.unacked == 0 {
		return done
	}
	return lost
}

// whenDelivered keeps the connection until its peer has ended too or has had its time to read.
// What the peer sends after that is answered with a reset, as after package net's close. A
// 4-tuple that only we can free is kept longer, as long as its peer is silent.
func (p *progress) whenDelivered(now time.Time, s status) verdict {
	switch {
	case s.finished || s.flooded:
		return done
	case now.Before(p.reading):
		return keep
	case p.holdsTuple && s.received == 0 && now.Sub(p.delivered) < maxKept:
		return keep
	}
	return done
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
