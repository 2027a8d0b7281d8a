package reuseport

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/flush"
	"github.com/reusetransport/reuseport/internal/histogram"
	"github.com/reusetransport/reuseport/internal/pathhealth"
)

// Stats is what a Transport has counted since it was made. All numbers but
// Listeners and ClosesPending only grow. They are read one by one, so a sum may be off by a dial in flight.
type Stats struct {
	DialsReused uint64 // connections that left from a listening port
	DialsNew    uint64 // connections that left from another port, for any cause
	DialsFailed uint64 // dials that returned an error

	// NewByCause splits DialsNew by why the dial did not leave from a listening
	// port: policy, no listener that fits, or a listening port that failed.
	NewByCause map[Cause]uint64

	// DialLatency says how long dials took. Punches are not in it, although DialsReused
	// counts a punch whose own SYN connected.
	DialLatency DialLatency

	Hedges    uint64 // hedges started within the budget, see Transport.HedgeDelay
	HandOvers uint64 // hedges started in place of the listening port's last SYNs
	HedgeWins uint64 // hedges that became the result of their dial

	Punched       uint64 // connections that Punch returned
	PunchesFailed uint64 // punches that returned an error
	PunchSYNs     uint64 // SYNs of all punches, with every repeat that the kernel may have sent

	// Paths lists what dials from listening ports have shown, by source.
	Paths []Path

	Listeners     int    // open listeners, each handle counted
	Accepted      uint64 // connections that Accept returned
	AcceptSkipped uint64 // connections that died in the queue before Accept got them
	AcceptDelayed uint64 // times that Accept waited for descriptors or buffers

	ClosesPending    int    // closed connections that Close looks after, with data or the FIN unacknowledged
	ClosesAborted    uint64 // closes left to the system before everything was acknowledged: FlushTimeout or room ended
	ClosesReset      uint64 // closes that the peer or the network ended before everything was acknowledged
	BytesUndelivered uint64 // bytes not acknowledged when closes of both kinds ended, where the system tells

	// CloseLatency says how long closes took to deliver. A close that the system completes
	// from the start (see Conn.Close and Conn.File) is not in it, nor is an Abort.
	CloseLatency CloseLatency
}

// DialLatency is the time from the call of a dial to its return, with the look-up of a name and
// every address tried, by what it returned.
type DialLatency struct {
	Reused Latency // a connection from a listening port
	New    Latency // a connection from another port
	Failed Latency // an error
}

// CloseLatency is the time from Conn.Close until the close was over, by how it ended.
type CloseLatency struct {
	// Delivered: the peer has acknowledged everything. On Linux the time is right to the
	// tick of the kernel's clock (1 to 10 ms). Elsewhere it may be up to twice as long, since
	// closes are inspected at intervals; where the system does not tell what is acknowledged,
	// it lasts until the peer has closed too.
	Delivered Latency
	Left      Latency // until ClosesAborted counted it
	Reset     Latency // until ClosesReset counted it
}

// Latency is a histogram of how long something took.
type Latency struct {
	Count   uint64   // how often it was measured
	Seconds float64  // the sum
	Buckets []Bucket // from the shortest bound to the longest, the same for all
}

// A Bucket counts what took no longer than its bound, so the next one counts it too.
type Bucket struct {
	UpTo  float64 // in seconds: 125 us in the first bucket, twice as long in each further one
	Count uint64
}

// dialLatency returns the DialLatency of Stats.
func (c *counters) dialLatency() DialLatency {
	return DialLatency{latencyOf(&c.dialsReused), latencyOf(&c.dialsNew), latencyOf(&c.dialsFailed)}
}

// closeLatencyOf translates what flush knows into the public words.
func closeLatencyOf(f *flush.Latencies) CloseLatency {
	return CloseLatency{latencyOf(&f.Delivered), latencyOf(&f.Left), latencyOf(&f.Reset)}
}

// latencyOf translates a histogram into the public words.
func latencyOf(h *histogram.Histogram) Latency {
	counts, bounds := h.Counts(), histogram.Bounds()
	l := Latency{Count: counts.All, Seconds: counts.Seconds, Buckets: make([]Bucket, len(bounds))}
	for i, bound := range bounds {
		l.Buckets[i] = Bucket{bound.Seconds(), counts.UpTo[i]}
	}
	return l
}

// counters are what Stats reads.
type counters struct {
	reused atomic.Uint64
	failed atomic.Uint64
	newBy  [causes]atomic.Uint64 // dials that did not reuse a listening port, by cause

	hedges, handOvers, hedgeWins      atomic.Uint64
	punched, punchesFailed, punchSYNs atomic.Uint64

	accepted, acceptSkipped, acceptDelayed atomic.Uint64

	dialsReused, dialsNew, dialsFailed histogram.Histogram // how long dials took
}

// count counts a connection that was dialed.
func (c *counters) count(conn *Conn) {
	if conn.reused {
		c.reused.Add(1)
		return
	}
	c.newBy[conn.cause].Add(1)
}

// dialed counts a dial that connected, and records how long it took since it began.
func (c *counters) dialed(began time.Time, conn *Conn) {
	c.count(conn)
	took := time.Since(began)
	if conn.reused {
		c.dialsReused.Add(took)
	} else {
		c.dialsNew.Add(took)
	}
}

// PathState is what a path from a listening port has shown.
type PathState int

const (
	// PathUnproven: nothing is known. Dials from the port are hedged.
	PathUnproven PathState = iota
	// PathProven: a handshake from the port completed within 5 minutes. A hedge waits
	// until the port has sent its last SYN, unless host or network are suspect.
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

// Distance is how far the targets of a path are. A handshake with a neighbour says nothing about
// hosts beyond a border.
type Distance int

const (
	// DistanceNear: the host itself, and what is on its links by the prefixes of its interfaces.
	DistanceNear Distance = iota
	// DistancePrivate: private addresses behind routers (RFC 1918, RFC 4193, RFC 6598).
	DistancePrivate
	// DistanceGlobal: all others.
	DistanceGlobal
)

// String returns "near", "private" or "global".
func (d Distance) String() string {
	switch d {
	case DistanceNear:
		return "near"
	case DistancePrivate:
		return "private"
	case DistanceGlobal:
		return "global"
	}
	return fmt.Sprintf("Distance(%d)", int(d))
}

// A Path is one source address and port with one kind of targets, and what dials have shown.
type Path struct {
	Source        netip.AddrPort
	Distance      Distance
	State         PathState
	LastHandshake time.Time // from this port with such a target, to the second; zero if none is remembered
	SilentHosts   int       // hosts that answered an ephemeral port and no listening port of this address
	Votes         int       // networks that did so since the last handshake, while the path was unproven; 24 block it
	Rejects       bool      // dials were refused from this port and connected from another
	NextProbe     time.Time // when a dial next tries a blocked path; zero if it is not blocked
}

// String returns one line that says what is believed and why.
func (p Path) String() string {
	s := fmt.Sprintf("%v to %v hosts: %v", p.Source, p.Distance, p.State)
	switch {
	case p.State == PathBlocked:
		s += fmt.Sprintf(" by %d networks, next probe %s", p.Votes, p.NextProbe.Format(time.TimeOnly))
	case p.Votes > 0:
		s += fmt.Sprintf(", %d of 24 networks did not answer", p.Votes)
	}
	if !p.LastHandshake.IsZero() {
		s += ", last handshake " + p.LastHandshake.Format(time.TimeOnly)
	}
	if p.SilentHosts > 0 {
		s += fmt.Sprintf(", %d silent hosts", p.SilentHosts)
	}
	if p.Rejects {
		s += ", refused here and not elsewhere"
	}
	return s
}

// pathsOf translates what pathhealth knows into the public words.
func pathsOf(known []pathhealth.Path) []Path {
	states := map[pathhealth.State]PathState{
		pathhealth.Unproven: PathUnproven, pathhealth.Proven: PathProven, pathhealth.Blocked: PathBlocked,
	}
	var all []Path
	for _, p := range known {
		all = append(all, Path{
			p.Source, distanceOf(p.Distance), states[p.State], p.LastHandshake, p.SilentHosts, p.Votes, p.Rejects, p.NextProbe,
		})
	}
	return all
}

func distanceOf(d pathhealth.Distance) Distance {
	switch d {
	case pathhealth.Near:
		return DistanceNear
	case pathhealth.Private:
		return DistancePrivate
	}
	return DistanceGlobal
}
