package reuseport

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/reusetransport/reuseport/internal/pathhealth"
)

// Stats is what a Transport has counted since it was made. The counters only grow. They
// are read one by one, so a sum may be off by a dial in flight.
type Stats struct {
	DialsReused uint64 // connections that left from a listening port
	DialsNew    uint64 // connections that left from another port, for any cause
	DialsFailed uint64 // dials that returned an error

	// NewByCause splits DialsNew by why the dial did not leave from a listening
	// port: policy, no listener that fits, or a listening port that failed.
	NewByCause map[Cause]uint64

	Hedges    uint64 // hedges started, see Transport.HedgeDelay
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

	ClosesPending    int    // closed connections with data or the FIN unacknowledged
	ClosesAborted    uint64 // closes left to the system before everything was acknowledged: FlushTimeout or room ended
	ClosesReset      uint64 // closes that the peer or the network ended before everything was acknowledged
	BytesUndelivered uint64 // bytes not acknowledged when closes of both kinds ended, where the system tells
}

// counters are what Stats reads.
type counters struct {
	reused atomic.Uint64
	failed atomic.Uint64
	newBy  [causes]atomic.Uint64 // dials that did not reuse a listening port, by cause

	hedges, hedgeWins                 atomic.Uint64
	punched, punchesFailed, punchSYNs atomic.Uint64

	accepted, acceptSkipped, acceptDelayed atomic.Uint64
}

// count counts a connection that was dialed.
func (c *counters) count(conn *Conn) {
	if conn.reused {
		c.reused.Add(1)
		return
	}
	c.newBy[conn.cause].Add(1)
}

// PathState is what a path from a listening port has shown.
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

// pathsOf translates what pathhealth knows into the public words.
func pathsOf(known []pathhealth.Path) []Path {
	states := map[pathhealth.State]PathState{
		pathhealth.Unproven: PathUnproven, pathhealth.Proven: PathProven, pathhealth.Blocked: PathBlocked,
	}
	var all []Path
	for _, p := range known {
		all = append(all, Path{p.Source, states[p.State], p.LastHandshake, p.SilentHosts})
	}
	return all
}
