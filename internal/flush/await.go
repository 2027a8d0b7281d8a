package flush

import (
	"context"
	"slices"
	"time"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// Undelivered sums up closes that did not deliver.
type Undelivered struct {
	Conns int   // connections with data that the peer has not acknowledged
	Bytes int64 // bytes of theirs; where the system does not tell, they are not in it
}

// Await waits until everything is delivered or ctx ends. It returns what was given up
// meanwhile, and if ctx ended first what is still pending, with the error of ctx.
func (f *Flusher) Await(ctx context.Context) (Undelivered, error) {
	// Taken without inspecting: what a sweep under way gives up from now on counts.
	before, _ := f.tally()
	err := f.awaitIdle(ctx)
	after := f.undelivered(err != nil)
	return Undelivered{Conns: after.Conns - before.Conns, Bytes: after.Bytes - before.Bytes}, err
}

// awaitIdle waits until nothing is pending. Peers that have everything may neither end nor
// fall silent: it waits for those until all is delivered and peerGrace has passed.
func (f *Flusher) awaitIdle(ctx context.Context) error {
	patience := time.NewTimer(peerGrace + 2*longWait) // the silent have gone by then
	defer patience.Stop()
	for {
		idle := f.idleSignal()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-patience.C:
			if f.allDelivered() {
				return nil
			}
			patience.Reset(longWait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// idleSignal returns a channel that is closed when nothing is pending, or nil if nothing is.
func (f *Flusher) idleSignal() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.idle
}

// allDelivered reports whether the last inspections found nothing outstanding.
func (f *Flusher) allDelivered() bool {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	_, all := f.tally()
	return !slices.ContainsFunc(all, func(c *Closing) bool { return c.status.unacked != 0 })
}

// undelivered sums up what was given up so far, and on demand what is pending.
func (f *Flusher) undelivered(withPending bool) Undelivered {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	sum, all := f.tally()
	if !withPending {
		return sum
	}
	for _, c := range all {
		if f.refresh(c); c.status.holdsData(sockopt.FINUnacked) {
			sum.Conns++
			sum.Bytes += int64(c.status.outstanding(sockopt.FINUnacked))
		}
	}
	return sum
}

// tally returns the sum of what was given up so far, and what is pending.
func (f *Flusher) tally() (Undelivered, []*Closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	return Undelivered{Conns: int(f.counts.Undelivered), Bytes: int64(f.counts.Bytes)}, slices.Clone(f.pending)
}
