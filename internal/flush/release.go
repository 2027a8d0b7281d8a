package flush

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/reusetransport/reuseport/internal/sockopt"
)

// AwaitRelease waits until another try of a dial whose 4-tuple is taken makes sense. It ends
// a pending close that holds the 4-tuple as soon as everything is acknowledged: a dial need
// not wait for the peer's own end. Where the system completes the close, it waits a little
// longer with each try. It reports false if no close of ours held the 4-tuple lately, if the
// close is not over within redialWait, or if ctx ends.
func (f *Flusher) AwaitRelease(ctx context.Context, laddr, raddr netip.AddrPort, try int) bool {
	deadline := time.Now().Add(redialWait)
	for wait := shortWait; f.TryRelease(laddr, raddr); wait = min(2*wait, maxRetryWait) {
		if time.Now().After(deadline) || !sleep(ctx, wait) {
			return false
		}
	}
	if !f.recent.has(laddr.Port(), raddr, time.Now()) {
		return false
	}
	return try == 0 || sleep(ctx, min(shortWait<<min(try, 8), maxRetryWait))
}

// maxRetryWait bounds the time between two tries.
const maxRetryWait = 8 * time.Millisecond

// TryRelease inspects the pending closes of a 4-tuple now, and ends those that have delivered
// everything. There may be several: a close whose peer has reset it no longer holds the
// 4-tuple, but stays pending until it is inspected. It reports whether any is still pending.
func (f *Flusher) TryRelease(laddr, raddr netip.AddrPort) (held bool) {
	isHolder := func(c *Closing) bool { return c.Laddr == laddr && c.Raddr == raddr }
	f.mu.Lock()
	holders := f.claimSome(len(f.pending), isHolder)
	f.mu.Unlock()
	for _, c := range holders {
		f.release(c)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.pending, isHolder)
}

// release inspects a claimed connection and ends it if everything is acknowledged: with a
// reset, unless the peer has sent its own FIN and nothing is left but TIME_WAIT.
func (f *Flusher) release(c *Closing) {
	s := f.inspect(c, time.Now())
	if s.unacked != 0 || s.broken {
		f.mu.Lock()
		c.status = s
		f.mu.Unlock()
		f.step(c)
		return
	}
	if c.FreeTuple && !s.finished {
		_ = sockopt.SetLinger(c.FD, true) // if it fails, the dial finds the 4-tuple taken
	}
	f.end(c, s, done)
}

// MayHold is a cheap check before AwaitRelease and TryRelease, which need the local
// address of the dial: it reports whether a close with this port and raddr is pending, or
// was lately.
func (f *Flusher) MayHold(port uint16, raddr netip.AddrPort) bool {
	return f.recent.has(port, raddr, time.Now()) || f.isPending(port, raddr)
}

func (f *Flusher) isPending(port uint16, raddr netip.AddrPort) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.pending, func(c *Closing) bool { return c.Raddr == raddr && c.Laddr.Port() == port })
}
