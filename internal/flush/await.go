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
	Bytes int64 // how much data, without connections where the system does not tell
}

// awaitPause bounds the time between two inspections while somebody waits.
const awaitPause = 64 * time.Millisecond

// Await waits until everything is acknowledged or ctx ends. It returns what was given up
// meanwhile. If ctx ends first it adds what is still outstanding, and returns the error of
// ctx.
func (f *Flusher) Await(ctx context.Context) (Undelivered, error) {
	before, _ := f.undelivered()
	err := f.awaitDelivery(ctx)
	after, outstanding := f.undelivered()
	if err != nil {
		after = after.plus(outstanding)
	}
	return Undelivered{Conns: after.Conns - before.Conns, Bytes: after.Bytes - before.Bytes}, err
}

func (f *Flusher) awaitDelivery(ctx context.Context) error {
	for wait := shortWait; f.inspectOutstanding(); wait = min(2*wait, awaitPause) {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// inspectOutstanding inspects all connections with anything outstanding, and reports whether
// any is left.
func (f *Flusher) inspectOutstanding() bool {
	began := time.Now()
	f.stepAll(func(c *Closing) bool { return c.status.unacked != 0 && c.inspected.Before(began) })
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.pending, func(c *Closing) bool { return c.status.unacked != 0 })
}

// undelivered returns the sum of what was given up so far, and of what is pending as of the
// last inspections, at one moment: a connection is in one of the two.
func (f *Flusher) undelivered() (givenUp, outstanding Undelivered) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.pending {
		if c.status.holdsData(sockopt.FINUnacked) {
			outstanding = outstanding.plus(Undelivered{1, int64(c.status.outstanding(sockopt.FINUnacked))})
		}
	}
	return Undelivered{Conns: int(f.counts.Undelivered), Bytes: int64(f.counts.Bytes)}, outstanding
}

func (u Undelivered) plus(v Undelivered) Undelivered {
	return Undelivered{u.Conns + v.Conns, u.Bytes + v.Bytes}
}
