package flush

import (
	"context"
	"net/netip"
	"slices"
	"time"
)

// redialWait is how long a dial waits for a close of ours that holds its 4-tuple: a round
// trip, a delayed acknowledgement, and a segment that has to be sent again.
const redialWait = time.Second

// AwaitRelease waits until no pending close holds the 4-tuple, and ends a close that does
// as soon as all of it is delivered: a dial need not wait for the peer's own end. It
// reports false if the 4-tuple was none of ours, or is not delivered within redialWait or
// before ctx ends.
//
// A close that has just ended is no longer listed, so any that ended within redialWait
// counts. A wrong guess costs one bind and sends nothing.
func (f *Flusher) AwaitRelease(ctx context.Context, laddr, raddr netip.AddrPort) bool {
	deadline := time.Now().Add(redialWait)
	for wait := shortWait; ; wait = min(2*wait, longWait/4) {
		if !f.TryRelease(laddr, raddr) {
			return f.hadEndLately()
		}
		if time.Now().After(deadline) {
			return false
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return false
		}
	}
}

// TryRelease inspects the pending closes of a 4-tuple now, and ends those of which all is
// delivered. There may be several: a close whose peer has reset it no longer holds the
// 4-tuple and has yet to be inspected. It reports whether one still holds it.
func (f *Flusher) TryRelease(laddr, raddr netip.AddrPort) (held bool) {
	f.inspecting.Lock()
	defer f.inspecting.Unlock()
	for _, c := range f.holders(laddr, raddr) {
		if f.step(c, time.Now()) {
			continue
		}
		if c.status.unacked != 0 {
			held = true
			continue
		}
		f.end(c, release)
	}
	return held
}

// MayHold is a cheap check before AwaitRelease and TryRelease, which need the local
// address of the dial: it reports whether a pending close has this port and raddr, or any
// has ended lately.
func (f *Flusher) MayHold(port uint16, raddr netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.lastEnd) < redialWait ||
		slices.ContainsFunc(f.pending, func(c *Closing) bool { return c.Raddr == raddr && c.Laddr.Port() == port })
}

// holders returns the pending closes of a 4-tuple.
func (f *Flusher) holders(laddr, raddr netip.AddrPort) (all []*Closing) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget()
	for _, c := range f.pending {
		if c.Laddr == laddr && c.Raddr == raddr {
			all = append(all, c)
		}
	}
	return all
}

// hadEndLately reports whether a pending close ended within redialWait.
func (f *Flusher) hadEndLately() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.lastEnd) < redialWait
}
