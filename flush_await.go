package reuseport

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// UndeliveredError says what pending closes did not deliver when Shutdown returned.
// It unwraps to the error of the context, if that ended the wait.
type UndeliveredError struct {
	Conns int   // connections with data that the peer has not acknowledged
	Bytes int64 // bytes of theirs; where the system does not tell, they are not in it

	err error
}

func (e *UndeliveredError) Error() string {
	s := fmt.Sprintf("reuseport: %d connections closed with %d bytes undelivered", e.Conns, e.Bytes)
	if e.err != nil {
		s += ": " + e.err.Error()
	}
	return s
}

// Unwrap returns context.Canceled, context.DeadlineExceeded, or nil.
func (e *UndeliveredError) Unwrap() error { return e.err }

// await waits until all is delivered or ctx ends, and returns an *UndeliveredError if
// something did not make it.
func (f *flusher) await(ctx context.Context) error {
	before, _ := f.cut() // without looks: what a sweep under way cuts from now on counts
	err := f.awaitIdle(ctx)
	after := f.undelivered(err != nil)
	e := &UndeliveredError{Conns: after.Conns - before.Conns, Bytes: after.Bytes - before.Bytes, err: err}
	if e.Conns == 0 {
		return nil // what may be pending waits for the peers' ends only
	}
	return e
}

// awaitIdle waits until nothing is pending or, for peers that have all and neither end
// nor fall silent, until all is delivered and peerGrace has passed.
func (f *flusher) awaitIdle(ctx context.Context) error {
	patience := time.NewTimer(peerGrace + 2*lastLook) // the silent have gone by then
	defer patience.Stop()
	for {
		idle := f.idling()
		if idle == nil {
			return nil
		}
		select {
		case <-idle:
		case <-patience.C:
			if f.allDelivered() {
				return nil
			}
			patience.Reset(lastLook)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// idling returns what is closed when nothing is pending, or nil if nothing is.
func (f *flusher) idling() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.idle
}

// allDelivered says whether the last looks found nothing outstanding.
func (f *flusher) allDelivered() bool {
	f.looks.Lock()
	defer f.looks.Unlock()
	_, all := f.cut()
	return !slices.ContainsFunc(all, func(c *closing) bool { return c.look.unacked != 0 })
}

// undelivered sums up what was cut so far, and on demand what is pending.
func (f *flusher) undelivered(pending bool) UndeliveredError {
	f.looks.Lock()
	defer f.looks.Unlock()
	e, all := f.cut()
	if !pending {
		return e
	}
	for _, c := range all {
		if f.peek(c); c.look.holdsData() {
			e.Conns++
			e.Bytes += int64(c.look.outstanding())
		}
	}
	return e
}

// cut returns what was cut so far, and what is pending.
func (f *flusher) cut() (UndeliveredError, []*closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	return UndeliveredError{Conns: int(f.counts.cut), Bytes: int64(f.counts.bytes)}, slices.Clone(f.pending)
}
