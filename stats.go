package reuseport

import "sync/atomic"

// Stats is what a Transport has counted since it was made. The counters only
// grow; they are read one by one, so that a sum may be off by a dial in flight.
type Stats struct {
	DialsReused uint64 // connections that left from a listening port
	DialsNew    uint64 // connections that left from another port, for any cause
	DialsFailed uint64 // dials that returned an error

	// NewByCause splits DialsNew: by policy, for want of a listener, and the
	// dials that fell back because a listening port was tried and failed.
	NewByCause map[Cause]uint64

	Hedges    uint64 // hedges started, see Transport.HedgeDelay
	HedgeWins uint64 // hedges that became the result of their dial

	Punched       uint64 // connections that Punch returned
	PunchesFailed uint64 // punches that returned an error
	PunchSYNs     uint64 // SYNs of all punches, with all repeats that the kernel may have sent

	// Paths lists what dials from listening ports have shown, by source.
	Paths []Path

	Listeners     int    // open listeners, each handle counted
	Accepted      uint64 // connections that Accept returned
	AcceptSkipped uint64 // connections that died in the queue before Accept got them
	AcceptDelayed uint64 // times that Accept waited for descriptors or buffers

	ClosesPending    int    // closed connections with data or the FIN on its way, or waiting for the peer's
	ClosesAborted    uint64 // closes cut by FlushTimeout or by the bound on pending ones
	ClosesReset      uint64 // closes that the peer or the network cut before all was acknowledged
	BytesUndelivered uint64 // of both: bytes not acknowledged, where the system tells
}

// counters are the sources of Stats.
type counters struct {
	reused atomic.Uint64
	failed atomic.Uint64
	fresh  [causes]atomic.Uint64

	hedges, hedgeWins                 atomic.Uint64
	punched, punchesFailed, punchSYNs atomic.Uint64

	accepted, acceptSkipped, acceptDelayed atomic.Uint64
}

// count books the end of a dial.
func (c *counters) count(conn *Conn) {
	if conn.reused {
		c.reused.Add(1)
		return
	}
	c.fresh[conn.cause].Add(1)
}

// Stats returns the counters of t. The result is the caller's.
func (t *Transport) Stats() Stats {
	s := Stats{
		DialsReused: t.counters.reused.Load(),
		DialsFailed: t.counters.failed.Load(),
		NewByCause:  make(map[Cause]uint64),

		Hedges:    t.counters.hedges.Load(),
		HedgeWins: t.counters.hedgeWins.Load(),
		Paths:     t.health.list(),

		Punched:       t.counters.punched.Load(),
		PunchesFailed: t.counters.punchesFailed.Load(),
		PunchSYNs:     t.counters.punchSYNs.Load(),

		Listeners:     int(t.registry.open.Load()),
		Accepted:      t.counters.accepted.Load(),
		AcceptSkipped: t.counters.acceptSkipped.Load(),
		AcceptDelayed: t.counters.acceptDelayed.Load(),
	}
	t.flushes.stats(&s)
	for c := range causes {
		if n := t.counters.fresh[c].Load(); n > 0 {
			s.NewByCause[c] = n
			s.DialsNew += n
		}
	}
	return s
}

// stats fills in what it knows.
func (f *flusher) stats(s *Stats) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.pending {
		if !c.over {
			s.ClosesPending++
		}
	}
	s.ClosesAborted, s.ClosesReset, s.BytesUndelivered = f.counts.aborted, f.counts.reset, f.counts.bytes
}
