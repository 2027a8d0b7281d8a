package reuseport

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// redialWait is how long a dial waits for a close of ours that holds its 4-tuple:
// a round trip, a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// free frees a 4-tuple that a pending close holds, as soon as all is delivered: a
// dial need not wait for the peer's end. It returns false if it is not one of
// ours, or not delivered within redialWait. One that ended since the dial began is
// not found any more: whatever ended within redialWait may have been it, and one
// more bind and connect sends nothing if it was not.
func (f *flusher) free(ctx context.Context, laddr, raddr netip.AddrPort) bool {
	end := time.Now().Add(redialWait)
	for wait := soonLook; ; wait = min(2*wait, lastLook/4) {
		if !f.tryFree(laddr, raddr) {
			return f.endedLately()
		}
		if time.Now().After(end) {
			return false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// tryFree looks at the pending closes of a 4-tuple now, and ends those of which all is
// delivered. There may be several: one whose peer has reset it holds the 4-tuple no
// more and is still to be looked at. It returns true if one is left.
func (f *flusher) tryFree(laddr, raddr netip.AddrPort) (held bool) {
	f.looks.Lock()
	defer f.looks.Unlock()
	for _, c := range f.holders(laddr, raddr) {
		if f.step(c, time.Now()) {
			continue
		}
		if c.look.unacked != 0 {
			held = true
			continue
		}
		f.end(c, release)
	}
	return held
}

// holders returns the pending closes of a 4-tuple.
func (f *flusher) holders(laddr, raddr netip.AddrPort) (all []*closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	for _, c := range f.pending {
		if c.laddr == laddr && c.raddr == raddr {
			all = append(all, c)
		}
	}
	return all
}

// mayHold says whether it is worth while to look up what local address a dial from
// port would have, and to ask free.
func (f *flusher) mayHold(port uint16, raddr netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.ended) < redialWait ||
		slices.ContainsFunc(f.pending, func(c *closing) bool { return c.raddr == raddr && c.laddr.Port() == port })
}

// endedLately says whether a pending close ended within redialWait.
func (f *flusher) endedLately() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.ended) < redialWait
}
