package pathhealth

import "time"

// Timing is how much time a dial has.
type Timing struct {
	HedgeDelay time.Duration // Transport.HedgeDelay
	Left       time.Duration // until its context ends; very long if it does not
	BoundedFor time.Duration // how long a connect lasts whose SYNs are bounded; zero if they cannot be
}

// handOverNeeds is how much time a hedge must have after the hand-over, so that a peer far away
// can answer.
const handOverNeeds = time.Second

// handOver returns when an ephemeral port takes over from the listening one, whatever else is
// known: when the listening port's connect, whose SYNs are bounded, gives up. The hedge's SYNs
// then leave instead of its further ones, so that all together are those of a plain dial. Zero
// is never: there is not time enough, or the user wants a later hedge.
func (in Timing) handOver() time.Duration {
	if in.BoundedFor == 0 || in.HedgeDelay > in.BoundedFor || in.Left < in.BoundedFor+handOverNeeds {
		return 0
	}
	return in.BoundedFor
}

// Fresh returns the plan of a dial against which nothing speaks.
func (in Timing) Fresh() Plan { return in.plan(0) }

// plan returns a hedged dial whose head start is halved so many times. A dial that has little
// time leaves three fifths of it to the hedge. With 3 s that is late enough for the repeat that
// TCP sends after 1 s (RFC 6298).
func (in Timing) plan(halvings int) Plan {
	headStart := in.HedgeDelay >> min(halvings, headStartShift)
	return Plan{HeadStart: min(headStart, in.Left/5*2), HandOver: in.handOver()}
}
